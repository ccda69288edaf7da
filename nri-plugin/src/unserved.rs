//! Containers that run without the interfaces they opted in to: created while the plugin was away, say. A mount cannot be
//! added later, so all that is left is to say so; the container has to be created again.

use std::path::Path;

use nri_plugin_core::annotations;
use nri_plugin_core::paths::{self, MOUNT_POINT, SandboxId};
use nri_plugin_core::plan::Node;
use nri_plugin_proto::api::{Container, ContainerState, PodSandbox};
use serde::Serialize;

/// Version of the text of [`status`].
const VERSION: u32 = 1;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unserved {
    /// Its pod's namespace.
    pub namespace: String,
    /// Its pod.
    pub pod: String,
    /// Its name.
    pub container: String,
    /// The runtime's ids.
    pub sandbox: String,
    /// The same of the container.
    pub id: String,
    /// What is missing, and the remedy.
    pub reason: &'static str,
}

/// What a person or `ringway doctor` reads.
#[derive(Serialize)]
struct Status<'a> {
    version: u32,
    /// The runtime that has taken the plugin in; null as long as none has.
    runtime: Option<&'a str>,
    /// Opted-in pods that hold something.
    pods: usize,
    unserved: &'a [Unserved],
}

/// Those among the containers of a runtime. `node` has adopted every pod that has a record.
pub fn find(
    run_dir: &Path,
    node: &Node,
    pods: &[PodSandbox],
    containers: &[Container],
) -> Vec<Unserved> {
    let of = |container: &Container| {
        let pod = pods.iter().find(|pod| pod.id == container.pod_sandbox_id)?;
        let runs = match container.state() {
            ContainerState::ContainerCreated
            | ContainerState::ContainerPaused
            | ContainerState::ContainerRunning => true,
            ContainerState::ContainerUnknown | ContainerState::ContainerStopped => false,
        };
        if !runs || !annotations::is_opted_in(&pod.annotations, &container.name) {
            return None;
        }
        let reason = missing(run_dir, node, pod, container)?;
        Some(Unserved {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            container: container.name.clone(),
            sandbox: pod.id.clone(),
            id: container.id.clone(),
            reason,
        })
    };
    containers.iter().filter_map(of).collect()
}

fn missing(
    run_dir: &Path,
    node: &Node,
    pod: &PodSandbox,
    container: &Container,
) -> Option<&'static str> {
    let sandbox = SandboxId::new(&pod.id).ok()?;
    let sources = paths::pod_directory(run_dir, &sandbox);
    let mounted = container.mounts.iter().any(|mount| {
        mount.destination.trim_end_matches('/') == MOUNT_POINT
            && Path::new(&mount.source).starts_with(&sources)
    });
    let known = node
        .pod(&sandbox)
        .is_some_and(|record| record.containers.values().any(|it| it.id == container.id));
    match (mounted, known) {
        (true, true) => None,
        (false, _) => Some(
            "it has no interfaces: it was created while ringway-nri was not connected; create the pod again",
        ),
        (true, false) => Some("its record is missing or unreadable; create the pod again"),
    }
}

/// The text of the status file.
pub fn status(runtime: Option<&str>, node: &Node, unserved: &[Unserved]) -> String {
    let status = Status { version: VERSION, runtime, pods: node.pods().count(), unserved };
    // Strings and numbers only: it cannot fail.
    let value = serde_json::to_value(&status).unwrap_or_default();
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use nri_plugin_core::plan::Defaults;
    use nri_plugin_core::policy::Policy;
    use nri_plugin_proto::api::Mount;

    use super::*;
    use crate::record::tests::sample;
    use crate::sysfs;

    #[test]
    fn who_runs_without_interfaces_is_told_from_who_does_not() {
        let defaults = Defaults { queue_size: 256, socket: annotations::SocketOwner::Pod };
        let topology = sysfs::topology(Path::new("/sys")).unwrap();
        let mut node = Node::new(topology, Default::default(), defaults, Policy::default());
        node.adopt(sample("abc")).unwrap();
        let pod = |id: &str, key: &str| PodSandbox {
            id: id.into(),
            name: format!("pod-{id}"),
            annotations: [(key.to_owned(), "red".to_owned())].into(),
            ..Default::default()
        };
        let pods = [
            pod("abc", "network.ringway.dev"),
            pod("def", "network.ringway.dev/container.app"),
            pod("plain", "cpus.ringway.dev"),
        ];
        let run_dir = Path::new("/run/r");
        let found = |pod: &str, name: &str, id: &str, source: &str, state| {
            let mount = Mount {
                destination: "/run/ringway".into(),
                source: source.into(),
                ..Default::default()
            };
            let mut container = Container {
                id: id.into(),
                pod_sandbox_id: pod.into(),
                name: name.into(),
                mounts: vec![Mount::default(), mount],
                ..Default::default()
            };
            container.set_state(state);
            let found = find(run_dir, &node, &pods, &[container]);
            found.first().map(|it| it.reason.split(':').next().unwrap_or_default().to_owned())
        };
        use ContainerState::{ContainerRunning as Running, ContainerStopped as Stopped};
        let none = Some("it has no interfaces".to_owned());
        assert_eq!(found("abc", "app", "c1", "/run/r/pods/abc/0", Running), None);
        assert_eq!(found("abc", "app", "c1", "/run/r/pods/abcd/0", Running), none);
        assert_eq!(found("abc", "app", "c1", "", Running), none);
        assert_eq!(found("abc", "app", "c1", "", Stopped), None);
        let unknown = found("abc", "app", "c9", "/run/r/pods/abc/0", Running).unwrap();
        assert!(unknown.contains("record"), "{unknown}");
        assert_eq!(found("def", "app", "c3", "", Running), none);
        assert_eq!(found("def", "helper", "c3", "", Running), None);
        assert_eq!(found("plain", "app", "c4", "", Running), None);
        assert_eq!(found("unknown", "app", "c4", "", Running), None);
    }

    #[test]
    fn the_status_is_json() {
        let topology = sysfs::topology(Path::new("/sys")).unwrap();
        let defaults = Defaults { queue_size: 256, socket: annotations::SocketOwner::Pod };
        let node = Node::new(topology, Default::default(), defaults, Policy::default());
        let one = Unserved {
            namespace: "demo".into(),
            pod: "a\"b".into(),
            container: "app".into(),
            sandbox: "abc".into(),
            id: "c1".into(),
            reason: "why",
        };
        let value = |runtime| -> serde_json::Value {
            serde_json::from_str(&status(runtime, &node, std::slice::from_ref(&one))).unwrap()
        };
        assert_eq!(value(Some("containerd v2"))["runtime"], "containerd v2");
        let value = value(None);
        assert!(value["runtime"].is_null());
        assert_eq!((value["version"].as_u64(), value["pods"].as_u64()), (Some(1), Some(0)));
        assert_eq!(value["unserved"][0]["pod"], "a\"b");
        assert_eq!(value["unserved"][0]["reason"], "why");
    }
}
