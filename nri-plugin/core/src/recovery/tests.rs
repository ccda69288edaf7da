//! What is found after a restart, and what is done about it.

mod properties;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Action, Observed, Port, Problem, plan};
use crate::annotations::SocketOwner;
use crate::paths::{SandboxId, Slot};
use crate::plan::{ContainerRecord, Cpus, Interface, PodRecord};

fn sandbox(id: &str) -> SandboxId {
    SandboxId::new(id).unwrap()
}

fn record(id: &str, host: u8) -> PodRecord {
    let interface = Interface {
        name: "net0".into(),
        network: "red".into(),
        ip: [10, 66, 0, host].into(),
        prefix_len: 24,
        gateway: [10, 66, 0, 1].into(),
        ipv6: None,
        mac: crate::net::Mac([2, 0, 0, 0, 0, host]),
        queues: 1,
        queue_size: 1024,
        mtu: 1500,
        socket: SocketOwner::Vrouter,
        lease: None,
        link: None,
    };
    let container = ContainerRecord {
        id: format!("{id}-c"),
        cgroup: format!("/pods/{id}"),
        slot: Slot::POD,
        cpus: Cpus::Shared("0".parse().unwrap()),
        nodes: "0".parse().unwrap(),
        mems: "0".parse().unwrap(),
        hugepages: 0,
    };
    PodRecord {
        sandbox: sandbox(id),
        namespace: "ns".into(),
        name: id.into(),
        node: None,
        containers: BTreeMap::from([("app".to_owned(), container)]),
        slots: BTreeMap::from([(Slot::POD, vec![interface])]),
        placement: None,
        cgroup: None,
    }
}

fn port(id: &str, host: u8) -> Port {
    Port {
        id: format!("{id}/0/net0"),
        network: "red".into(),
        mac: crate::net::Mac([2, 0, 0, 0, 0, host]),
        ip: [10, 66, 0, host].into(),
        ipv6: None,
        socket_path: PathBuf::from(format!("/run/ringway/pods/{id}/0/net0.sock")),
        socket: SocketOwner::Vrouter,
        queues: 1,
        peer_cgroups: BTreeSet::from([format!("/pods/{id}")]),
        link: None,
    }
}

fn shown(action: &Action) -> String {
    match action {
        Action::DeletePort { id } => format!("delete {id}"),
        Action::RemovePodDirectory { sandbox } => format!("remove {sandbox}"),
        Action::Adopt { record } => format!("adopt {}", record.sandbox),
        Action::CreatePort { port, namespace, pod } => {
            let peers: Vec<_> = port.peer_cgroups.iter().map(String::as_str).collect();
            format!("create {} {} [{}] {namespace}/{pod}", port.id, port.ip, peers.join(","))
        }
        Action::Report { sandbox, problem: Problem::NoRecord } => format!("no record {sandbox}"),
        Action::Report { sandbox, problem: Problem::Path(_) } => format!("path {sandbox}"),
    }
}

/// Directories, records, sandboxes and containers are given by pod name.
fn found(
    directories: &[&str],
    records: Vec<PodRecord>,
    pods: &[&str],
    ports: Option<Vec<Port>>,
) -> Observed {
    Observed {
        directories: directories.iter().map(|name| (*name).to_owned()).collect(),
        records,
        sandboxes: pods.iter().map(|id| sandbox(id)).collect(),
        containers: pods.iter().map(|id| format!("{id}-c")).collect(),
        ports,
    }
}

#[test]
fn tables() {
    let moved = Port { ip: [10, 66, 0, 9].into(), ..port("a", 2) };
    let moved6 = Port { ipv6: Some("fd00::9".parse().unwrap()), ..port("a", 2) };
    let other_peers = Port { peer_cgroups: BTreeSet::new(), ..port("a", 2) };
    let foreign = Port { id: "made-by-hand".into(), ..port("a", 77) };
    let surplus = Port { id: "a/3/net0".into(), ..port("a", 55) };
    let exited = {
        let mut observed = found(&["a"], vec![record("a", 2)], &["a"], Some(vec![port("a", 2)]));
        observed.containers.clear();
        observed
    };
    for (what, observed, expected) in [
        ("nothing", Observed::default(), &[][..]),
        (
            "as it was",
            found(&["a"], vec![record("a", 2)], &["a"], Some(vec![port("a", 2)])),
            &["adopt a"],
        ),
        (
            "the vRouter has restarted",
            found(&["a", "b"], vec![record("a", 2), record("b", 3)], &["a", "b"], Some(vec![])),
            &[
                "adopt a",
                "adopt b",
                "create a/0/net0 10.66.0.2 [/pods/a] ns/a",
                "create b/0/net0 10.66.0.3 [/pods/b] ns/b",
            ],
        ),
        (
            "a pod has gone meanwhile",
            found(
                &["a", "b"],
                vec![record("a", 2), record("b", 3)],
                &["b"],
                Some(vec![port("a", 2), port("b", 3)]),
            ),
            &["delete a/0/net0", "remove a", "adopt b"],
        ),
        (
            "only a port is left",
            found(&[], vec![], &[], Some(vec![port("a", 2)])),
            &["delete a/0/net0"],
        ),
        ("only a directory is left", found(&["a"], vec![], &[], Some(vec![])), &["remove a"]),
        (
            "no vRouter",
            found(&["a", "b"], vec![record("a", 2), record("b", 3)], &["a"], None),
            &["remove b", "adopt a"],
        ),
        (
            "the port has another address",
            found(&["a"], vec![record("a", 2)], &["a"], Some(vec![moved])),
            &["delete a/0/net0", "adopt a", "create a/0/net0 10.66.0.2 [/pods/a] ns/a"],
        ),
        (
            "the port has another IPv6 address",
            found(&["a"], vec![record("a", 2)], &["a"], Some(vec![moved6])),
            &["delete a/0/net0", "adopt a", "create a/0/net0 10.66.0.2 [/pods/a] ns/a"],
        ),
        (
            "the port has other peers",
            found(&["a"], vec![record("a", 2)], &["a"], Some(vec![other_peers])),
            &["adopt a", "create a/0/net0 10.66.0.2 [/pods/a] ns/a"],
        ),
        ("the pod's container is gone", exited, &["adopt a", "create a/0/net0 10.66.0.2 [] ns/a"]),
        (
            "a port its record does not know",
            found(&["a"], vec![record("a", 2)], &["a"], Some(vec![port("a", 2), surplus])),
            &["delete a/3/net0", "adopt a"],
        ),
        ("a port of an operator", found(&[], vec![], &[], Some(vec![foreign])), &[]),
        (
            "a directory that is not ours",
            found(&["lost+found", ".x"], vec![], &[], Some(vec![])),
            &[],
        ),
        (
            "a pod without record",
            found(&["a"], vec![], &["a"], Some(vec![port("a", 2)])),
            &["no record a"],
        ),
        (
            "a record twice",
            found(&["a"], vec![record("a", 2), record("a", 9)], &["a"], Some(vec![port("a", 2)])),
            &["adopt a"],
        ),
    ] {
        let actions: Vec<_> = plan(Path::new("/run/ringway"), observed).iter().map(shown).collect();
        assert_eq!(actions, expected, "{what}");
    }
}

#[test]
fn a_longer_run_directory_is_reported() {
    let long = PathBuf::from(format!("/{}", "r".repeat(120)));
    let observed = found(&["a"], vec![record("a", 2)], &["a"], Some(vec![]));
    let actions: Vec<_> = plan(&long, observed).iter().map(shown).collect();
    assert_eq!(actions, ["adopt a", "path a"]);
}

#[test]
fn doing_it_again_changes_nothing() {
    let observed =
        found(&["a", "b"], vec![record("a", 2), record("b", 3)], &["a"], Some(vec![port("b", 3)]));
    let run_dir = Path::new("/run/ringway");
    let mut after = observed.clone();
    for action in plan(run_dir, observed) {
        match action {
            Action::DeletePort { id } => after.ports.as_mut().unwrap().retain(|port| port.id != id),
            Action::CreatePort { port, .. } => after.ports.as_mut().unwrap().push(port),
            Action::RemovePodDirectory { sandbox } => {
                after.directories.remove(sandbox.as_str());
                after.records.retain(|record| record.sandbox != sandbox);
            }
            Action::Adopt { .. } => {}
            Action::Report { .. } => panic!("{action:?}"),
        }
    }
    let actions: Vec<_> = plan(run_dir, after).iter().map(shown).collect();
    assert_eq!(actions, ["adopt a"]);
}
