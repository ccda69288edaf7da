//! The node's one allocator: what pods hold, in memory, on disk and in the vRouter, and how it changes.
//!
//! One lock around everything. It is held over calls of the vRouter, which all have a deadline, and over small files in
//! `run_dir`; never over anything else.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use nri_plugin_core::annotations::{self, AnnotationError, Request, SocketOwner};
use nri_plugin_core::cgroup::{CgroupError, container_cgroup};
use nri_plugin_core::cpuset::{CpuSet, ListError};
use nri_plugin_core::hugepages::HugepageLimit;
use nri_plugin_core::paths::{PathError, PortId, SandboxId, Slot};
use nri_plugin_core::plan::{
    Alignment, Allocation, Ask, Chosen, ContainerRecord, Cpus, Node, PlanError, PodRecord,
    SharedUpdate,
};
use nri_plugin_core::recovery::{self, Action, Observed, Port};
use nri_plugin_proto::api::{Container, LinuxResources, PodSandbox};
use ringway_config::NriConfig;
use tokio::sync::{Mutex, MutexGuard, Notify};

use crate::convert::{self, WireError};
use crate::describe::{self, Description};
use crate::files::{Files, FilesError, Found};
use crate::ipam::{Ipam, IpamError};
use crate::links::{self, LinkError};
use crate::liveness;
use crate::sysfs::{self, SysfsError};
use crate::unserved::{self, Unserved};
use crate::vrouter::{Session, VRouter, VRouterError};

mod leases;
mod others;
mod prepare;
mod state;
mod wrapped;

use state::{Removed, State, forget_container};
pub use wrapped::WrappedError;

/// Why a container is not created. Each is one line for the author of the pod.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The pod is at fault.
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    /// The node has not got it.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The runtime's names are not ours.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The run directory is too deep.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The vRouter is at fault.
    #[error(transparent)]
    VRouter(#[from] VRouterError),
    /// The vRouter is at fault.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The machine is at fault.
    #[error(transparent)]
    Sysfs(#[from] SysfsError),
    /// The machine is at fault.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The network's address plugin is at fault.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// An interface of the kernel's can't be had.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// The plugin cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// See there.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// See there.
    #[error(transparent)]
    Sysfs(#[from] SysfsError),
    /// See there.
    #[error("configuration key cpus.reserved: {0}")]
    Reserved(#[from] ListError),
}

/// What a container was given.
#[derive(Debug)]
pub struct Granted {
    /// By the planner.
    pub allocation: Allocation,
    /// What to mount.
    pub slot_directory: PathBuf,
    /// Containers that have not opted in and have to make way, and where to.
    pub others: Vec<(String, CpuSet)>,
}

/// See the module.
#[derive(Debug)]
pub struct Allocator {
    settings: NriConfig,
    files: Files,
    vrouter: VRouter,
    ipam: Ipam,
    state: Mutex<State>,
    /// Tells the watcher that the vRouter's ports may differ from what pods hold.
    pub stale_ports: Notify,
    /// Tells the watcher that there may be leases that no pod holds.
    pub stale_leases: Notify,
}

impl Allocator {
    /// Takes the run directory, looks at the machine, and takes over every pod that is on record. Which of them are gone is
    /// for [`Allocator::synchronize`] to say; NRI 0.6 (containerd 1.7.24) never says it to a plugin that it starts itself.
    pub async fn start(settings: NriConfig) -> Result<Self, StartError> {
        let files = Files::open(&settings.run_dir).await?;
        let vrouter = VRouter {
            socket: settings.vrouter_socket.clone(),
            timeout: Duration::from_millis(settings.vrouter_timeout_ms.into()),
        };
        let found = files.read_all()?;
        let sandboxes = found.directories.iter().filter_map(|name| SandboxId::new(name).ok());
        let containers = found.records.iter().flat_map(|record| record.containers.values());
        let (sandboxes, containers) =
            (sandboxes.collect(), containers.map(|container| container.id.clone()).collect());
        let state = Mutex::new(State::restore(&settings, &files, found, sandboxes, containers)?);
        let ipam = Ipam::new(&settings);
        let (stale_ports, stale_leases) = (Notify::new(), Notify::new());
        Ok(Self { settings, files, vrouter, ipam, state, stale_ports, stale_leases })
    }

    /// The vRouter, for the watcher.
    pub fn vrouter(&self) -> &VRouter {
        &self.vrouter
    }

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

        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        let mut session = self.vrouter.session().await?;
        self.look(state, &mut session).await?;
        let networks = if state.node.has_interfaces(&sandbox, &container.name, &request) {
            Vec::new()
        } else {
            let networks = convert::networks(&session.networks().await?, &session.ports().await?)?;
            self.take_leases(pod, &sandbox, &mut request, &networks).await?;
            networks
        };

        let before = state.node.clone();
        let hugepages = convert::hugepage_limits(container);
        let (cpus, mems) = convert::chosen(container);
        let chosen = Chosen { cpus: &cpus, mems: &mems };
        let ask = ask(&sandbox, pod, container, &cgroup, &request, chosen, &hugepages);
        let allocation = state.node.allocate(&ask, &networks)?;
        match self.carry_out(&state.node, &sandbox, container, &allocation, &mut session).await {
            Ok(slot_directory) => {
                state.prepared.remove(&sandbox);
                state.sandboxes.insert(sandbox);
                state.containers.insert(container.id.clone());
                self.keep(&state.node, &allocation.updates);
                self.tell_wrapped(state, &allocation.updates);
                let others = self.move_others(state);
                Ok(Some(Granted { allocation, slot_directory, others }))
            }
            Err(refusal) => {
                state.looked = None;
                let failed = std::mem::replace(&mut state.node, before).release_pod(&sandbox);
                if let Some(failed) = failed {
                    self.undo(state.node.pod(&sandbox), &failed).await;
                }
                Err(refusal)
            }
        }
    }

    /// Makes on disk and in the vRouter what the planner granted. Returns the directory to mount.
    async fn carry_out(
        &self,
        node: &Node,
        sandbox: &SandboxId,
        container: &Container,
        allocation: &Allocation,
        session: &mut Session<'_>,
    ) -> Result<PathBuf, Refusal> {
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
        self.files.write_record(record)?;
        let pod_listens = convert::pod_listens(interfaces);
        let directory = self.files.write_slot(sandbox, *slot, pod_listens, &description)?;
        for port in ports {
            if alone && port.socket == SocketOwner::Pod {
                self.files.remove_stale_socket(&port.socket_path);
            }
            self.create_port(session, port, record).await?;
        }
        Ok(directory)
    }

    /// Makes a port. One that is an interface of the kernel's gets its addresses, too; if it was deleted in the pod, it is made anew.
    async fn create_port(
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
    async fn undo(&self, before: Option<&PodRecord>, failed: &PodRecord) {
        let kept: BTreeSet<PortId> =
            before.iter().flat_map(|record| record.ports()).map(|(id, _)| id).collect();
        let surplus = failed.ports().map(|(id, _)| id).filter(|id| !kept.contains(id)).collect();
        self.delete_ports(surplus).await;
        if !kept.is_empty() {
            // They may have been opened to the container that failed.
            self.stale_ports.notify_one();
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

    /// CPUs and memory nodes of one of our containers, and what has changed for others.
    pub async fn placement(
        &self,
        pod: &PodSandbox,
        container: &Container,
    ) -> (Option<ContainerRecord>, Vec<SharedUpdate>, Vec<(String, CpuSet)>) {
        let mut state = self.state.lock().await;
        let updates = self.rebalance(&mut state);
        let others = self.move_others(&mut state);
        let record = SandboxId::new(&pod.id).ok().and_then(|sandbox| {
            let containers = state.node.pod(&sandbox)?.containers.values();
            containers.into_iter().find(|record| record.id == container.id).cloned()
        });
        (record, updates, others)
    }

    /// Takes over CPUs that others have chosen anew for one of our containers, where those are followed; says how they lie.
    pub async fn follow(
        &self,
        pod: &PodSandbox,
        container: &Container,
        resources: &LinuxResources,
    ) -> Option<(CpuSet, Alignment)> {
        let (cpus, new) = convert::chosen_in(resources);
        // An update names only what it changes.
        let mems = if new.is_empty() { convert::chosen(container).1 } else { new };
        let chosen = Chosen { cpus: &cpus, mems: &mems };
        let sandbox = SandboxId::new(&pod.id).ok()?;
        let mut state = self.state.lock().await;
        let moved = state.node.followed(&sandbox, &container.id, chosen)?;
        if let Some(record) = state.node.pod(&sandbox)
            && let Err(error) = self.files.write_record(record)
        {
            tracing::warn!(%sandbox, %error, "cannot write a record");
        }
        Some(moved)
    }

    /// Containers on shared CPUs that have to be told their new ones.
    fn rebalance(&self, state: &mut MutexGuard<'_, State>) -> Vec<SharedUpdate> {
        let mut updates = std::mem::take(&mut state.untold);
        if state.vrouter_known {
            let new = state.node.rebalance();
            self.keep(&state.node, &new);
            self.tell_wrapped(state, &new);
            updates.extend(new);
        }
        // Where a container is told twice, the later counts.
        updates.reverse();
        updates
    }

    /// Takes back what one container had for itself: its CPUs, its right to connect, its own interfaces. The pod keeps
    /// what its containers share.
    pub async fn remove_container(&self, pod: &PodSandbox, container: &Container) {
        let Ok(sandbox) = SandboxId::new(&pod.id) else { return };
        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        state.containers.remove(&container.id);
        self.forget_unserved(state, |unserved| unserved.id == container.id);
        let Some(removed) = forget_container(&mut state.node, &sandbox, &container.id) else {
            return;
        };
        let Removed { record, slot } = match removed {
            Ok(removed) => removed,
            Err(error) => {
                tracing::error!(%error, "cannot keep a pod without one of its containers");
                return;
            }
        };
        tracing::info!(pod = %name(pod), container = container.name, "released");
        if record.containers.is_empty() && state.inherited.contains(&sandbox) {
            // Its end may never be announced. Until a kubelet's pod ends, one of its containers is always there.
            self.release_pod(state, &sandbox).await;
            return;
        }
        if let Err(error) = self.files.write_record(&record) {
            tracing::warn!(%sandbox, %error, "cannot write a record");
        }
        if record.slots.contains_key(&slot) {
            let narrower = ports_of(&self.files, &record, slot).unwrap_or_default();
            self.create_ports(narrower, &record).await;
        } else {
            // The slot was this container's own.
            self.stale_ports.notify_one();
            self.stale_leases.notify_one();
            if let Err(error) = self.files.remove_slot(&sandbox, slot) {
                tracing::warn!(%sandbox, %error, "cannot remove a directory");
            }
        }
    }

    /// Takes back everything a pod has. Doing it again does no harm.
    pub async fn release(&self, pod: &PodSandbox) {
        let Ok(sandbox) = SandboxId::new(&pod.id) else { return };
        let mut state = self.state.lock().await;
        self.release_pod(&mut state, &sandbox).await;
    }

    /// Takes back what pods have whose end nobody announced. To be called now and then: a pod is gone when it is found gone
    /// twice.
    pub async fn release_gone(&self) {
        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        let inherited = state.inherited.iter().filter_map(|sandbox| state.node.pod(sandbox));
        let gone: BTreeSet<_> = inherited
            .filter(|record| !nri_plugin_api::is_wrapped(record.sandbox.as_str()))
            .filter(|record| !liveness::is_alive(record))
            .map(|record| record.sandbox.clone())
            .chain(state.wrapped_gone())
            .collect();
        let before = std::mem::replace(&mut state.gone, gone.clone());
        let forsaken = state.forsaken();
        for sandbox in gone.intersection(&before).chain(&forsaken) {
            self.release_pod(state, sandbox).await;
        }
    }

    async fn release_pod(&self, state: &mut State, sandbox: &SandboxId) {
        state.sandboxes.remove(sandbox);
        state.inherited.remove(sandbox);
        state.prepared.remove(sandbox);
        self.stale_leases.notify_one();
        self.forget_unserved(state, |unserved| unserved.sandbox == sandbox.as_str());
        let Some(record) = state.node.release_pod(sandbox) else {
            // Nothing is known of it here; the vRouter may know more.
            self.stale_ports.notify_one();
            return;
        };
        // First the ports: the vRouter lets go of the sockets.
        self.delete_ports(record.ports().map(|(id, _)| id).collect()).await;
        match self.files.remove_pod(sandbox) {
            Ok(()) => {
                let PodRecord { namespace, name, .. } = &record;
                tracing::info!(pod = format!("{namespace}/{name}"), %sandbox, "released");
            }
            Err(error) => tracing::warn!(%sandbox, %error, "cannot remove what a pod had"),
        }
    }

    /// Takes over what the runtime says exists, and says which other containers have to make way. Does not call the vRouter: an absent one must not delay the runtime.
    pub async fn synchronize(
        &self,
        pods: &[PodSandbox],
        containers: &[Container],
    ) -> Result<Vec<(String, CpuSet)>, StartError> {
        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        let found = self.files.read_all()?;
        let mut sandboxes = pods.iter().filter_map(|pod| SandboxId::new(&pod.id).ok()).collect();
        let mut ids = containers.iter().map(|container| container.id.clone()).collect();
        wrapped::add_recorded(&found, &mut sandboxes, &mut ids);
        let callers = std::mem::take(&mut state.callers);
        *state = State::restore(&self.settings, &self.files, found, sandboxes, ids)?;
        state.callers = callers;
        state.unserved = unserved::find(self.files.run_dir(), &state.node, pods, containers);
        for Unserved { namespace, pod, container, id, reason, .. } in &state.unserved {
            tracing::error!(pod = format!("{namespace}/{pod}"), container, id, "{reason}");
        }
        self.write_status(state);
        self.adopt_others(state, containers);
        tracing::info!(
            pods = state.sandboxes.len(),
            containers = state.containers.len(),
            ours = state.node.pods().count(),
            unserved = state.unserved.len(),
            "synchronized"
        );
        self.stale_ports.notify_one();
        self.stale_leases.notify_one();
        Ok(self.move_others(state))
    }

    /// Makes the vRouter's ports what the pods hold.
    ///
    /// # Errors
    /// When the vRouter does not answer in time; what was done is done, and doing it again completes it.
    pub async fn reconcile_ports(&self) -> Result<(), VRouterError> {
        // Asked before the lock is taken: a vRouter that hangs must not keep pods waiting. A port that comes or goes in
        // between is created or deleted once more, which does no harm.
        let mut session = self.vrouter.session().await?;
        let info = session.info().await?;
        let ports = session.ports().await?.into_iter().filter_map(convert::own_port).collect();
        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        state.learn(&info);
        let observed = Observed {
            directories: BTreeSet::new(),
            records: state.node.pods().cloned().collect(),
            sandboxes: state.sandboxes.clone(),
            containers: state.containers.clone(),
            ports: Some(ports),
        };
        for action in recovery::plan(self.files.run_dir(), observed) {
            match action {
                Action::DeletePort { id } => {
                    tracing::info!(id, "deleting a port that no pod owns");
                    session.delete(&id).await?;
                }
                Action::CreatePort { port, namespace, pod } => {
                    let id = port.id.clone();
                    tracing::info!(id, "creating a port again");
                    let sandbox = PortId::parse(&id).map(|id| id.sandbox);
                    let record = sandbox.and_then(|sandbox| state.node.pod(&sandbox)).cloned();
                    let created = match &record {
                        Some(record) => self.create_port(&mut session, port, record).await,
                        None => {
                            let spec = convert::port_spec(port, &namespace, &pod);
                            session.create(spec).await.map_err(Refusal::from)
                        }
                    };
                    match created {
                        Err(Refusal::VRouter(error)) if !is_refusal(&error) => return Err(error),
                        // A network may be missing now, or a pod's namespace gone: the other pods shall not suffer.
                        Err(error) => tracing::error!(id, %error, "cannot serve a pod"),
                        Ok(()) => {}
                    }
                }
                Action::Report { sandbox, problem } => {
                    tracing::error!(%sandbox, %problem, "cannot serve a pod");
                }
                // These are about what this process holds itself.
                Action::Adopt { .. } | Action::RemovePodDirectory { .. } => {}
            }
        }
        Ok(())
    }

    /// Forgets containers that are gone, if they were among those that run without their interfaces.
    fn forget_unserved(&self, state: &mut State, gone: impl Fn(&Unserved) -> bool) {
        let before = state.unserved.len();
        state.unserved.retain(|unserved| !gone(unserved));
        if state.unserved.len() != before {
            self.write_status(state);
        }
    }

    fn write_status(&self, state: &State) {
        let text = unserved::status(&state.node, &state.unserved);
        if let Err(error) = self.files.write_status(&text) {
            tracing::warn!(%error, "cannot write the status");
        }
    }

    /// Writes down the containers whose shared CPUs have changed.
    fn keep(&self, node: &Node, updates: &[SharedUpdate]) {
        let changed: BTreeSet<_> = updates.iter().map(|update| &update.sandbox).collect();
        for record in changed.into_iter().filter_map(|sandbox| node.pod(sandbox)) {
            if let Err(error) = self.files.write_record(record) {
                tracing::warn!(sandbox = %record.sandbox, %error, "cannot write a record");
            }
        }
    }

    async fn create_ports(&self, ports: Vec<Port>, record: &PodRecord) {
        let create = async {
            let mut session = self.vrouter.session().await?;
            for port in ports {
                self.create_port(&mut session, port, record).await?;
            }
            Ok::<_, Refusal>(())
        };
        if let Err(error) = create.await {
            tracing::warn!(sandbox = %record.sandbox, %error, "cannot update ports now");
            self.stale_ports.notify_one();
        }
    }

    async fn delete_ports(&self, ids: Vec<PortId>) {
        if ids.is_empty() {
            return;
        }
        let delete = async {
            let mut session = self.vrouter.session().await?;
            for id in &ids {
                session.delete(&id.to_string()).await?;
            }
            Ok::<_, VRouterError>(())
        };
        if let Err(error) = delete.await {
            tracing::warn!(%error, "cannot delete ports now");
            self.stale_ports.notify_one();
        }
    }
}

fn ask<'a>(
    sandbox: &'a SandboxId,
    pod: &'a PodSandbox,
    container: &'a Container,
    cgroup: &'a str,
    request: &'a Request,
    chosen: Chosen<'a>,
    hugepages: &'a [HugepageLimit],
) -> Ask<'a> {
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

/// Whether the vRouter has answered, if only with a refusal.
fn is_refusal(error: &VRouterError) -> bool {
    matches!(error, VRouterError::Refused { .. })
}

/// Says where interfaces of the kernel's are to be.
fn tell_netns(pod: &PodSandbox, request: &mut Request) -> Result<(), LinkError> {
    for interface in &mut request.interfaces {
        if let Some(link) = &mut interface.link {
            let netns = convert::netns(pod);
            link.netns =
                netns.ok_or_else(|| LinkError::NoNetns(interface.name.clone()))?.to_owned();
        }
    }
    Ok(())
}

/// The vRouter's ports of one slot.
fn ports_of(files: &Files, record: &PodRecord, slot: Slot) -> Result<Vec<Port>, PathError> {
    record
        .ports()
        .filter(|(id, _)| id.slot == slot)
        .map(|(id, interface)| convert::wanted_port(files.run_dir(), record, &id, interface))
        .collect()
}

/// A pod's name for people.
pub fn name(pod: &PodSandbox) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

/// CPUs for people.
pub fn show(cpus: &Cpus) -> String {
    match cpus {
        Cpus::Exclusive(cpus) => format!("{cpus} exclusive"),
        Cpus::Shared(cpus) => format!("{cpus} shared"),
        Cpus::Followed { cpus, .. } => format!("{cpus} chosen by others"),
    }
}
