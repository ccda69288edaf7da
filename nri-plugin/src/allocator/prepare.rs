//! What can be done before a pod's first container is created: its interfaces, when the sandbox starts.
//!
//! Creating a container then takes one short call of the vRouter per interface, and no look at the machine. Whatever
//! goes wrong here is left to the creation of the container, which tries again and says why it cannot be.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nri_plugin_core::annotations::{INTERFACES, NETWORK, Request, Scope, SocketOwner};
use nri_plugin_core::paths::{SandboxId, Slot};
use nri_plugin_core::plan::PodRecord;

use super::{Allocator, Refusal, State, annotations, convert, describe, ports_of, sysfs};
use crate::describe::Description;
use crate::vrouter::Session;
use nri_plugin_proto::api::PodSandbox;

/// How long what was seen of the machine and of the vRouter's workers counts: pods that start together share one look.
const FRESH: Duration = Duration::from_secs(2);
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
        let Some(mut request) = shared_request(pod)? else { return Ok(false) };
        super::tell_netns(pod, &mut request)?;
        let sandbox = SandboxId::new(&pod.id)?;
        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        if state.node.pod(&sandbox).is_some() {
            return Ok(false);
        }
        let mut session = self.vrouter.session().await?;
        self.look(state, &mut session).await?;
        let networks = convert::networks(&session.networks().await?, &session.ports().await?)?;
        self.take_leases(pod, &sandbox, &mut request, &networks).await?;
        state.node.prepare(&sandbox, &pod.namespace, &pod.name, &request, &networks)?;
        let Some(record) = state.node.pod(&sandbox).cloned() else { return Ok(false) };
        match self.make(&record, &mut session).await {
            Ok(()) => {
                state.sandboxes.insert(sandbox.clone());
                state.prepared.insert(sandbox, Instant::now());
                Ok(true)
            }
            Err(refusal) => {
                state.node.release_pod(&sandbox);
                self.undo(None, &record).await;
                Err(refusal)
            }
        }
    }

    /// Record, directory and ports, in this order: whatever is made is found again after a crash.
    async fn make(&self, record: &PodRecord, session: &mut Session<'_>) -> Result<(), Refusal> {
        self.files.write_record(record)?;
        let interfaces = record.slots.get(&Slot::POD).map_or(&[][..], Vec::as_slice);
        let description = Description { interfaces, node: record.node, container: None };
        let text = describe::interfaces_json(description);
        let pod_listens = convert::pod_listens(interfaces);
        self.files.write_slot(&record.sandbox, Slot::POD, pod_listens, &text)?;
        for port in ports_of(&self.files, record, Slot::POD)? {
            // Nobody may use it yet, and nobody listens where the vRouter would connect to.
            if port.socket == SocketOwner::Vrouter {
                self.create_port(session, port, record).await?;
            }
        }
        Ok(())
    }

    /// Looks at the machine and the vRouter's workers, unless that was done just now.
    pub(super) async fn look(
        &self,
        state: &mut State,
        session: &mut Session<'_>,
    ) -> Result<(), Refusal> {
        if state.looked.is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(());
        }
        state.learn(&session.info().await?);
        state.node.set_topology(sysfs::topology(&self.settings.sysfs_root)?);
        state.looked = Some(Instant::now());
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
