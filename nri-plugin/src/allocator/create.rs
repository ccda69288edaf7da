//! A container is created: planned, written down, made in the vRouter; or nothing of it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nri_plugin_core::annotations::{self, Request, SocketOwner};
use nri_plugin_core::cgroup::container_cgroup;
use nri_plugin_core::cpuset::CpuSet;
use nri_plugin_core::hugepages::HugepageLimit;
use nri_plugin_core::paths::{PortId, SandboxId};
use nri_plugin_core::plan::{Allocation, Ask, Chosen, Node, PodRecord};
use nri_plugin_core::recovery::Port;
use nri_plugin_proto::api::{Container, PodSandbox};

use super::instances::Sessions;
use super::state::{FRESH, SETTLED};
use super::{Allocator, Refusal, State, ports_of};
use crate::cgroups::check_hugepages;
use crate::convert;
use crate::describe::{self, Description};
use crate::links::{self, LinkError};
use crate::vrouter::{Session, VRouterError};

/// What a container was given.
#[derive(Debug)]
pub struct Granted {
    /// By the planner.
    pub allocation: Allocation,
    /// What to mount.
    pub slot_directory: PathBuf,
    /// Containers that have not opted in and have to make way, and where to.
    pub others: Vec<(String, CpuSet)>,
    /// Where the time went.
    pub took: Took,
}

/// Parts of the time that a creation took; the rest went into decisions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Took {
    /// Until others were done.
    pub waiting: Duration,
    /// For answers of the vRouter.
    pub vrouter: Duration,
    /// For files in the run directory.
    pub files: Duration,
}

/// A container that is about to be created, and what its annotations ask for.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    pod: &'a PodSandbox,
    container: &'a Container,
    sandbox: &'a SandboxId,
    cgroup: &'a str,
    request: &'a Request,
}

impl<'a> Wanted<'a> {
    /// As the planner is asked for it.
    fn ask(self, chosen: Chosen<'a>, hugepages: &'a [HugepageLimit]) -> Ask<'a> {
        let Self { pod, container, sandbox, cgroup, request } = self;
        Ask {
            sandbox,
            namespace: &pod.namespace,
            pod: &pod.name,
            container: &container.name,
            container_id: &container.id,
            cgroup,
            request,
            cpu: convert::cpu_quota(container),
            chosen,
            hugepages,
        }
    }
}

/// Says where interfaces of the kernel's are to be.
pub(super) fn tell_netns(pod: &PodSandbox, request: &mut Request) -> Result<(), LinkError> {
    for interface in &mut request.interfaces {
        if let Some(link) = &mut interface.link {
            let netns = convert::netns(pod);
            link.netns =
                netns.ok_or_else(|| LinkError::NoNetns(interface.name.clone()))?.to_owned();
        }
    }
    Ok(())
}

impl Allocator {
    /// Gives a container what its annotations ask for. `None` when it has not opted in; nothing was touched then.
    ///
    /// # Errors
    /// [`Refusal`]; everything is as before.
    pub async fn create(
        &self,
        pod: &PodSandbox,
        container: &Container,
    ) -> Result<Option<Granted>, Refusal> {
        let request =
            annotations::parse(&pod.annotations, &container.name, describe::decode_interfaces)?;
        let Some(mut request) = request else { return Ok(None) };
        tell_netns(pod, &mut request)?;
        let sandbox = SandboxId::new(&pod.id)?;
        let cgroup = container_cgroup(convert::cgroups_path(container))?;
        check_hugepages(&cgroup, &request.hugepages)?;

        let began = Instant::now();
        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        let waiting = began.elapsed();
        let mut sessions = self.sessions(state).await?;
        let known = state.node.has_interfaces(&sandbox, &container.name, &request);
        self.look(state, &mut sessions, if known { SETTLED } else { FRESH }).await?;
        let seen = state.networks_seen();
        let wanted =
            Wanted { pod, container, sandbox: &sandbox, cgroup: &cgroup, request: &request };
        let mut granted = self.grant(state, wanted, &mut sessions).await;
        let outdated = match &granted {
            Err(refusal) if !known => state.may_be_outdated(refusal, seen),
            Err(Refusal::Plan(_)) => state.looked.is_none_or(|at| at.elapsed() >= FRESH),
            _ => false,
        };
        if outdated {
            self.look(state, &mut sessions, FRESH).await?;
            granted = self.grant(state, wanted, &mut sessions).await;
        }
        let (allocation, slot_directory, files) = granted?;
        if let Some(record) = state.node.pod(&sandbox) {
            self.announce(state, &mut sessions, record).await;
        }
        state.prepared.remove(&sandbox);
        state.sandboxes.insert(sandbox);
        state.containers.insert(container.id.clone());
        self.keep(&state.node, &allocation.updates);
        self.tell_wrapped(state, &allocation.updates);
        let others = self.move_others(state);
        let took = Took { waiting, vrouter: sessions.used(), files };
        Ok(Some(Granted { allocation, slot_directory, others, took }))
    }

    /// Plans and makes what a container wants; says what was planned, which directory is to be mounted, and how long files took.
    async fn grant(
        &self,
        state: &mut State,
        wanted: Wanted<'_>,
        sessions: &mut Sessions<'_>,
    ) -> Result<(Allocation, PathBuf, Duration), Refusal> {
        let Wanted { pod, container, sandbox, request, .. } = wanted;
        let mut request = request.clone();
        if !state.node.has_interfaces(sandbox, &container.name, &request) {
            self.see_networks(state, &request, sessions).await?;
            self.take_leases(pod, sandbox, &mut request, state.networks()).await?;
        }
        let before = state.node.pod(sandbox).cloned();
        let hugepages = convert::hugepage_limits(container);
        let (cpus, mems) = convert::chosen(container);
        let chosen = Chosen { cpus: &cpus, mems: &mems };
        let ask = Wanted { request: &request, ..wanted }.ask(chosen, &hugepages);
        let allocation = state.grant(&ask)?;
        match self.carry_out(&state.node, sandbox, container, &allocation, sessions).await {
            Ok((directory, files)) => Ok((allocation, directory, files)),
            Err(refusal) => {
                state.looked = None;
                let failed = state.node.put_back(sandbox, before);
                // Those that made way for it come back. Nobody was told yet; told once more does no harm.
                let back = state.node.rebalance();
                self.keep(&state.node, &allocation.updates);
                state.untold.extend(allocation.updates.into_iter().chain(back));
                if let Some(failed) = failed {
                    self.undo(state.node.pod(sandbox), &failed, sessions).await;
                }
                Err(refusal)
            }
        }
    }

    /// Makes on disk and in the vRouter what the planner granted. Returns the directory to mount, and how long files took.
    async fn carry_out(
        &self,
        node: &Node,
        sandbox: &SandboxId,
        container: &Container,
        allocation: &Allocation,
        sessions: &mut Sessions<'_>,
    ) -> Result<(PathBuf, Duration), Refusal> {
        // One that the pod has already may be away.
        let Some(session) = sessions.of(&allocation.placement.vrouter) else {
            let vrouter = node.pod(sandbox).and_then(|record| self.vrouter_of(record));
            return Err(VRouterError::away(vrouter).into());
        };
        let Allocation { slot, interfaces, cpus, eal_args, .. } = allocation;
        let Some(record) = node.pod(sandbox) else {
            unreachable!("the planner keeps a record of what it has just granted")
        };
        let ports = ports_of(&self.files, record, *slot)?;
        let alone = record
            .containers
            .iter()
            .all(|(name, other)| *name == container.name || other.slot != *slot);
        let cpus = cpus.set().to_string();
        let description = describe::interfaces_json(Description {
            interfaces,
            node: record.node,
            container: alone.then_some((cpus.as_str(), eal_args.as_str())),
        });

        // The record first: whatever is made from here on is found again after a crash.
        let began = Instant::now();
        self.files.write_record(record)?;
        let pod_listens = convert::pod_listens(interfaces);
        let directory = self.files.write_slot(sandbox, *slot, pod_listens, &description)?;
        let took = began.elapsed();
        for port in ports {
            if alone && port.socket == SocketOwner::Pod {
                self.files.remove_stale_socket(&port.socket_path);
            }
            let spec = convert::port_spec(port.clone(), &record.namespace, &record.name);
            // Made with the sandbox, its containers let in: nothing is left to be asked for.
            if port.link.is_none() && session.has_made(&spec) {
                continue;
            }
            self.create_port(session, port, record).await?;
        }
        Ok((directory, took))
    }

    /// Makes a port. One that is an interface of the kernel's gets its addresses, too; if it was deleted in the pod, it is made anew.
    pub(super) async fn create_port(
        &self,
        session: &mut Session<'_>,
        port: Port,
        record: &PodRecord,
    ) -> Result<(), Refusal> {
        let id = port.id.clone();
        let spec = convert::port_spec(port, &record.namespace, &record.name);
        session.create(spec.clone()).await?;
        let interface = record.ports().find(|(port, _)| port.to_string() == id);
        let Some((_, interface)) = interface.filter(|(_, it)| it.link.is_some()) else {
            return Ok(());
        };
        if links::set_up(interface).await.is_ok() {
            return Ok(());
        }
        session.delete(&id).await?;
        session.create(spec).await?;
        Ok(links::set_up(interface).await?)
    }

    /// Takes back what `failed` has and `before` has not. What cannot be taken back now is found by the watcher.
    pub(super) async fn undo(
        &self,
        before: Option<&PodRecord>,
        failed: &PodRecord,
        sessions: &mut Sessions<'_>,
    ) {
        let kept: BTreeSet<PortId> =
            before.iter().flat_map(|record| record.ports()).map(|(id, _)| id).collect();
        let surplus = failed.ports().map(|(id, _)| id).filter(|id| !kept.contains(id)).collect();
        self.take_back_ports(surplus, failed, sessions).await;
        if !kept.is_empty() {
            // They may have been opened to the container that failed.
            self.stale();
        }
        let outcome = match before {
            None => self.files.remove_pod(&failed.sandbox),
            Some(before) => {
                let mut new = failed.slots.keys().filter(|slot| !before.slots.contains_key(slot));
                new.try_for_each(|slot| self.files.remove_slot(&failed.sandbox, *slot))
                    .and_then(|()| self.files.write_record(before))
            }
        };
        if let Err(error) = outcome {
            tracing::warn!(sandbox = %failed.sandbox, %error, "cannot take back a failed creation");
        }
    }
}
