//! What can be done before a pod's first container is created: its interfaces, when the sandbox starts.
//!
//! Where the pod has a cgroup of its own, as kubelet makes them, its processes are let in at once, and creating a container then asks the
//! vRouter nothing; else it takes one short call per interface. Neither looks at the machine. Whatever goes wrong here is left to the
//! creation of the container, which tries again and says why it cannot be.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nri_plugin_api::is_device;
use nri_plugin_core::annotations::{self, INTERFACES, NETWORK, Request, Scope, SocketOwner};
use nri_plugin_core::paths::{PortId, SandboxId, Slot};
use nri_plugin_core::plan::PodRecord;

use super::instances::Sessions;
use super::state::FRESH;
use super::{Allocator, Refusal, State, ports_of};
use crate::describe::{self, Description};
use crate::vrouter::VRouterError;
use crate::{convert, sysfs};
use nri_plugin_proto::api::PodSandbox;

/// How long a pod keeps interfaces that no container of it has asked for, while images are fetched, say. Should its end
/// never be announced, they go then; a container that comes later gets new ones.
const PATIENCE: Duration = Duration::from_secs(600);

impl Allocator {
    /// Makes the interfaces that all containers of the pod will share. Does nothing for a pod that has none, or that has
    /// them already.
    ///
    /// # Errors
    /// [`Refusal`]; everything is as before.
    pub async fn prepare(&self, pod: &PodSandbox) -> Result<bool, Refusal> {
        if self.has_several() && !is_device(&pod.id) {
            // Which of them serves the pod is known with its CPUs: when its first container is created.
            return Ok(false);
        }
        let Some(mut request) = shared_request(pod)? else { return Ok(false) };
        super::create::tell_netns(pod, &mut request)?;
        let sandbox = SandboxId::new(&pod.id)?;
        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        if state.node.pod(&sandbox).is_some() {
            return Ok(false);
        }
        let mut sessions = self.sessions(state).await?;
        self.look(state, &mut sessions, FRESH).await?;
        let seen = state.networks_seen();
        let mut made = self.make_shared(state, pod, &sandbox, &request, &mut sessions).await;
        if let Err(refusal) = &made
            && state.may_be_outdated(refusal, seen)
        {
            made = self.make_shared(state, pod, &sandbox, &request, &mut sessions).await;
        }
        made?;
        if let Some(record) = state.node.pod(&sandbox) {
            self.announce(state, &mut sessions, record).await;
        }
        state.sandboxes.insert(sandbox.clone());
        state.prepared.insert(sandbox, Instant::now());
        Ok(true)
    }

    /// Plans and makes a pod's interfaces; on failure everything is as before.
    async fn make_shared(
        &self,
        state: &mut State,
        pod: &PodSandbox,
        sandbox: &SandboxId,
        request: &Request,
        sessions: &mut Sessions<'_>,
    ) -> Result<(), Refusal> {
        self.see_networks(state, request, sessions).await?;
        let mut request = request.clone();
        self.take_leases(pod, sandbox, &mut request, state.networks()).await?;
        let (namespace, name) = (&pod.namespace, &pod.name);
        let networks = state.networks.as_ref().map_or(&[][..], |(_, networks)| networks);
        let cgroup = convert::pod_cgroup(pod);
        state.node.prepare(sandbox, namespace, name, cgroup, &request, networks)?;
        if self.has_several() {
            // A device's, whose CPUs nobody knows yet: they follow it.
            state.node.choose_vrouter(sandbox, request.numa);
        }
        let Some(record) = state.node.pod(sandbox).cloned() else { return Ok(()) };
        let made = self.make(&record, sessions).await;
        if made.is_err() {
            state.node.release_pod(sandbox);
            self.undo(None, &record, sessions).await;
        }
        made
    }

    /// Record, directory and ports, in this order: whatever is made is found again after a crash.
    async fn make(&self, record: &PodRecord, sessions: &mut Sessions<'_>) -> Result<(), Refusal> {
        let serving = record.placement.as_ref().map_or("", |placement| placement.vrouter.as_str());
        let Some(session) = sessions.of(serving) else {
            return Err(VRouterError::away(self.vrouter_of(record)).into());
        };
        self.files.write_record(record)?;
        let interfaces = record.slots.get(&Slot::POD).map_or(&[][..], Vec::as_slice);
        let description = Description { interfaces, node: record.node, container: None };
        let text = describe::interfaces_json(description);
        let pod_listens = convert::pod_listens(interfaces);
        self.files.write_slot(&record.sandbox, Slot::POD, pod_listens, &text)?;
        for port in ports_of(&self.files, record, Slot::POD)? {
            // Nobody listens yet where the vRouter would connect to.
            if port.socket == SocketOwner::Vrouter {
                self.create_port(session, port, record).await?;
            }
        }
        Ok(())
    }

    /// Looks at the machine and the vRouter's workers, unless that was done within `recently`.
    pub(super) async fn look(
        &self,
        state: &mut State,
        sessions: &mut Sessions<'_>,
        recently: Duration,
    ) -> Result<(), Refusal> {
        if state.looked.is_some_and(|at| at.elapsed() < recently) {
            return Ok(());
        }
        self.ask(state, sessions).await?;
        state.node.set_topology(sysfs::topology(&self.settings.sysfs_root)?);
        state.looked = Some(Instant::now());
        Ok(())
    }

    /// Asks the vRouters for their networks and who has addresses there, unless that was done just now. Addresses of pods on record are
    /// left out: they are known here, and come back when the pod ends. Where an address plugin is asked for a lease, it is asked
    /// once, so nothing may be outdated.
    pub(super) async fn see_networks(
        &self,
        state: &mut State,
        request: &Request,
        sessions: &mut Sessions<'_>,
    ) -> Result<(), Refusal> {
        let rules = |network: &String| self.settings.networks.get(network);
        let mut networks = request.interfaces.iter().map(|interface| &interface.network);
        let leases = networks.any(|it| rules(it).is_some_and(|rules| rules.ipam.is_some()));
        if !leases && state.networks_seen().is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(());
        }
        let (networks, mut ports) = self.networks(state, sessions).await?;
        let on_record = |port: &vrouter_api::v1::Port| {
            let id = port.spec.as_ref().and_then(|spec| PortId::parse(&spec.id));
            id.is_some_and(|id| state.node.pod(&id.sandbox).is_some())
        };
        ports.retain(|port| !on_record(port));
        state.networks = Some((Instant::now(), convert::networks(&networks, &ports)?));
        Ok(())
    }
}

impl State {
    /// Pods whose prepared interfaces nobody has come for.
    pub(super) fn forsaken(&mut self) -> BTreeSet<SandboxId> {
        let node = &self.node;
        self.prepared.retain(|sandbox, _| {
            node.pod(sandbox).is_some_and(|record| record.containers.is_empty())
        });
        let late = self.prepared.iter().filter(|(_, at)| at.elapsed() > PATIENCE);
        late.map(|(sandbox, _)| sandbox.clone()).collect()
    }
}

/// What all containers of the pod ask for together. `None` where one may ask for something else: then only its creation
/// tells what is needed.
fn shared_request(pod: &PodSandbox) -> Result<Option<Request>, Refusal> {
    let of_one = |key: &String| {
        [NETWORK, INTERFACES]
            .iter()
            .any(|ours| key.strip_prefix(ours).is_some_and(|rest| rest.starts_with("/container.")))
    };
    if pod.annotations.keys().any(of_one) {
        return Ok(None);
    }
    // No container has an empty name.
    let request = annotations::parse(&pod.annotations, "", describe::decode_interfaces)?;
    Ok(request.filter(|request| request.scope == Scope::Pod))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn only_what_all_containers_share_is_prepared() {
        for (annotations, expected) in [
            (&[("network.ringway.dev", "red")][..], Ok(true)),
            (&[("network.ringway.dev/pod", "red")], Ok(true)),
            (&[("interfaces.ringway.dev", "[{\"network\":\"red\"}]")], Ok(true)),
            (&[("network.ringway.dev", "red"), ("cpus.ringway.dev/container.a", "2")], Ok(true)),
            (&[("network.ringway.dev/container.a", "red")], Ok(false)),
            (
                &[("network.ringway.dev", "red"), ("network.ringway.dev/container.a", "b")],
                Ok(false),
            ),
            (
                &[("network.ringway.dev", "red"), ("interfaces.ringway.dev/container.a", "")],
                Ok(false),
            ),
            (&[("cpus.ringway.dev", "2")], Ok(false)),
            (&[("network.ringway.dev", "RED")], Err(())),
        ] {
            let annotations =
                annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            let annotations: BTreeMap<_, _> = annotations.collect();
            let pod = PodSandbox { annotations, ..Default::default() };
            let got = shared_request(&pod).map(|request| request.is_some()).map_err(|_| ());
            assert_eq!(got, expected, "{:?}", pod.annotations);
        }
    }
}
