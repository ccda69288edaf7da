//! What containers get, on the machines under `testdata/sysfs`.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use super::{
    AdoptError, Alignment, Allocation, Ask, Chosen, CpuQuota, Cpus, Defaults, Node, Note,
    PlanError, Vrouter, wanted_cpus,
};
use crate::annotations::{CpusRequest, InterfaceRequest, NumaPolicy, Request, Scope, SocketOwner};
use crate::cpuset::{CpuSet, NodeId, NodeSet};
use crate::hugepages::{HugepageLimit, PageSize};
use crate::net::{Network, Network6};
use crate::paths::{SandboxId, Slot};
use crate::policy::Policy;
use crate::topology::tests::machine;

mod life;
mod properties;

pub(crate) fn network(name: &str, prefix: &str, gateway: &str) -> Network {
    Network {
        name: name.into(),
        prefix: prefix.parse().unwrap(),
        gateway: gateway.parse().unwrap(),
        gateway_mac: None,
        mtu: 1500,
        used_addresses: BTreeSet::new(),
        used_macs: BTreeSet::new(),
        ipv6: None,
    }
}

pub(crate) fn node(name: &str) -> Node {
    node_with(name, "", "", None)
}

fn node_with(name: &str, reserved: &str, workers: &str, vrouter: Option<u32>) -> Node {
    let defaults = Defaults { queue_size: 1024, socket: SocketOwner::Vrouter };
    let mut node = Node::new(machine(name), reserved.parse().unwrap(), defaults, Policy::default());
    let workers = workers.parse().unwrap();
    node.set_vrouter("", Vrouter { workers, node: vrouter.map(NodeId), ..Vrouter::default() });
    node
}

pub(crate) fn with_policy(name: &str, vrouter: Option<u32>, policy: Policy) -> Node {
    let mut node = node_with(name, "", "", vrouter);
    node.policy = policy;
    node
}

pub(crate) fn red() -> [Network; 1] {
    let ipv6 = Some(Network6 {
        prefix: "fd00:66::/120".parse().unwrap(),
        gateway: "fd00:66::1".parse().unwrap(),
        used_addresses: BTreeSet::new(),
    });
    [Network { ipv6, ..network("red", "10.66.0.0/24", "10.66.0.1") }]
}

pub(crate) fn request(cpus: u32, numa: NumaPolicy) -> Request {
    Request {
        scope: Scope::Pod,
        interfaces: vec![InterfaceRequest {
            name: "net0".into(),
            network: "red".into(),
            ip: None,
            ipv6: None,
            mac: None,
            queues: 1,
            mtu: None,
            socket: None,
            leased: None,
            link: None,
        }],
        cpus: NonZeroU32::new(cpus).map_or(CpusRequest::Shared, CpusRequest::Exclusive),
        numa,
        hugepages: Vec::new(),
        promised: None,
    }
}

pub(crate) fn sandbox(id: &str) -> SandboxId {
    SandboxId::new(id).unwrap()
}

pub(crate) fn allocate(
    node: &mut Node,
    pod: &str,
    container: &str,
    request: &Request,
) -> Result<Allocation, PlanError> {
    allocate_with(node, pod, container, request, &[])
}

fn allocate_with(
    node: &mut Node,
    pod: &str,
    container: &str,
    request: &Request,
    hugepages: &[HugepageLimit],
) -> Result<Allocation, PlanError> {
    let before = node.clone();
    let id = format!("{pod}-{container}-id");
    let ask = Ask {
        sandbox: &sandbox(pod),
        namespace: "ns",
        pod,
        container,
        container_id: &id,
        cgroup: &format!("/pods/{id}"),
        request,
        cpu: CpuQuota::default(),
        chosen: Chosen { cpus: &CpuSet::new(), mems: &NodeSet::new() },
        hugepages,
    };
    let result = node.allocate(&ask, &red());
    if result.is_err() {
        assert_eq!(node.pods, before.pods, "a refusal changes nothing");
    }
    result
}

fn shown(allocation: &Allocation) -> String {
    let kind = match allocation.cpus {
        Cpus::Exclusive(_) => "own",
        Cpus::Shared(_) => "shared",
        Cpus::Followed { .. } => "followed",
    };
    format!("{kind} {} mems {} {:?}", allocation.cpus.set(), allocation.mems, allocation.alignment)
}

fn check_error(error: &PlanError, parts: &[&str]) {
    let error = error.to_string();
    assert!(!error.contains('\n'), "{error}");
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

/// Limits count what the pod holds already; a container that starts again does not count twice.
#[test]
fn limits_are_those_of_the_whole_pod() {
    let limits = Policy { cpus: 3, interfaces: 2, hugepages: Some(4 << 20), ..Policy::default() };
    let mut node = with_policy("4-nodes", None, limits);
    let wants = |cpus, pages: u64| Request {
        scope: Scope::Container,
        hugepages: vec![HugepageLimit { size: PageSize::MIB_2, limit: pages << 21 }],
        ..request(cpus, NumaPolicy::Preferred)
    };
    for _ in 0..3 {
        allocate(&mut node, "pod", "a", &wants(2, 1)).unwrap();
    }
    let error = allocate(&mut node, "pod", "b", &wants(2, 1)).unwrap_err();
    check_error(&error, &["4 exclusive CPUs", "allows 3", "limits.cpus"]);
    let error = allocate(&mut node, "pod", "b", &wants(1, 2)).unwrap_err();
    check_error(&error, &["6Mi", "allows 4Mi", "limits.hugepages"]);
    allocate(&mut node, "pod", "b", &wants(1, 1)).unwrap();
    let error = allocate(&mut node, "pod", "c", &wants(0, 0)).unwrap_err();
    check_error(&error, &["3 interfaces", "allows 2", "limits.interfaces"]);
    allocate(&mut node, "another", "c", &wants(3, 2)).unwrap();
}

#[test]
fn cpus_by_the_containers_own_request() {
    let quota = |shares, quota, period| CpuQuota { shares, quota, period };
    for (cpu, expected) in [
        (quota(2048, 200_000, 100_000), Some(2)),
        (quota(1024, 50_000, 50_000), Some(1)),
        (quota(1024, 100_000, 0), Some(1)),
        (quota(0, 0, 0), None),
        (quota(1024, 0, 100_000), None),
        (quota(1024, -1, 100_000), None),
        (quota(1024, 200_000, 100_000), None),
        (quota(1536, 150_000, 100_000), None),
        (quota(512, 50_000, 100_000), None),
        (quota(u64::MAX, i64::MAX, u64::MAX), None),
    ] {
        assert_eq!(wanted_cpus(CpusRequest::Default, cpu), expected, "{cpu:?}");
        assert_eq!(wanted_cpus(CpusRequest::Shared, cpu), None);
        assert_eq!(wanted_cpus(CpusRequest::Exclusive(NonZeroU32::MIN), cpu), Some(1));
    }
}

#[test]
fn one_container_on_an_empty_machine() {
    use NumaPolicy::{Node as On, Off, Preferred, Strict};
    let smt = "2-nodes-smt-offline";
    for (name, reserved, workers, vrouter, cpus, numa, expected) in [
        ("1-node-2-cpus", "", "1", Some(0), 0, Preferred, "shared 0 mems 0 Aligned"),
        ("1-node-2-cpus", "", "1", Some(0), 1, Preferred, "own 0 mems 0 Aligned"),
        ("1-node-2-cpus", "", "1", None, 0, Strict, "shared 0 mems 0 Aligned"),
        ("1-node-2-cpus", "", "1", None, 0, Off, "shared 0 mems 0 Aligned"),
        // Nobody but the worker is there to share with.
        ("1-cpu", "", "0", Some(0), 0, Preferred, "shared 0 mems 0 Aligned"),
        ("no-numa", "0", "3", None, 2, Strict, "own 1-2 mems 0 Aligned"),
        (smt, "0,8", "4", Some(1), 0, Preferred, "shared 5-7,12-14 mems 1 Aligned"),
        (smt, "0,8", "4", Some(1), 4, Strict, "own 5-6,13-14 mems 1 Aligned"),
        // Too many for the vRouter's node: the other one.
        (
            smt,
            "",
            "4-5,12",
            Some(1),
            5,
            Preferred,
            "own 0-1,3,8-9 mems 0 Remote { vrouter: NodeId(1) }",
        ),
        // Too many for either: both, the vRouter's first.
        (smt, "0,8", "4", Some(1), 8, Preferred, "own 1,5-7,9,12-14 mems 0-1 Spread"),
        (
            smt,
            "0,8",
            "4",
            Some(1),
            2,
            On(NodeId(0)),
            "own 1,9 mems 0 Remote { vrouter: NodeId(1) }",
        ),
        (smt, "", "", None, 0, Off, "shared 0-10,12-14 mems 0-1 Spread"),
        ("4-nodes", "", "", Some(2), 4, Preferred, "own 8-11 mems 2 Aligned"),
        ("4-nodes", "", "", Some(2), 6, Preferred, "own 8-13 mems 2-3 Spread"),
        (
            "8-nodes-smt",
            "",
            "20",
            Some(5),
            4,
            Preferred,
            "own 16-19 mems 4 Remote { vrouter: NodeId(5) }",
        ),
        ("8-nodes-smt", "", "20", Some(5), 2, Strict, "own 22-23 mems 5 Aligned"),
        // HBM and CXL have the pages, but no CPUs.
        ("memory-only-nodes", "", "2", Some(1), 2, Preferred, "own 3,7 mems 1 Aligned"),
        // A vRouter on a node without CPUs cannot be joined.
        (
            "memory-only-nodes",
            "",
            "",
            Some(2),
            2,
            Strict,
            "own 0,4 mems 0 Remote { vrouter: NodeId(2) }",
        ),
        // Node 0 has no memory, so it comes from node 8.
        ("sparse-memoryless", "", "", Some(0), 4, Preferred, "own 0-3 mems 8 Aligned"),
    ] {
        let mut node = node_with(name, reserved, workers, vrouter);
        let allocation = allocate(&mut node, "a", "app", &request(cpus, numa)).map(|a| shown(&a));
        assert_eq!(allocation.as_deref(), Ok(expected), "{name} {cpus} {numa:?}");
    }
}

#[test]
fn the_node_that_placement_promised_comes_first() {
    for numa in [NumaPolicy::Strict, NumaPolicy::Preferred, NumaPolicy::Off] {
        for (promised, first) in [(Some(NodeId(2)), 2), (None, 0), (Some(NodeId(77)), 0)] {
            let mut node = node_with("4-nodes", "", "", None);
            let request = Request { promised, ..request(2, numa) };
            let allocation = allocate(&mut node, "a", "app", &request).unwrap();
            let at: BTreeSet<_> = allocation.cpus.set().iter().map(|cpu| cpu.0 / 4).collect();
            let told = shown(&allocation);
            assert_eq!(at, BTreeSet::from([first]), "{numa:?} {promised:?}: {told}");
        }
    }
}

#[test]
fn what_cannot_be_given() {
    use NumaPolicy::{Node as On, Preferred, Strict};
    for (name, reserved, workers, vrouter, cpus, numa, parts) in [
        (
            "1-node-2-cpus",
            "",
            "1",
            Some(0),
            2,
            Preferred,
            &[
                "no CPUs left: 2 exclusive wanted",
                "node 0 has 1 free of 2 online (0 reserved, 1 of the vRouter, 0",
                "cpus.ringway.dev",
            ][..],
        ),
        (
            "1-cpu",
            "0",
            "",
            None,
            0,
            Preferred,
            &["no CPUs left", "1 reserved", "nothing is left to share", "nri.toml"],
        ),
        ("1-cpu", "", "0", None, 1, Preferred, &["1 exclusive wanted", "0 free of 1 online"]),
        ("4-nodes", "", "", Some(2), 5, Strict, &["5 exclusive wanted", "NUMA node 2 has 4 free"]),
        ("4-nodes", "", "", None, 17, Preferred, &["17 exclusive wanted"]),
        (
            "4-nodes",
            "",
            "",
            None,
            1,
            On(NodeId(4)),
            &["numa.ringway.dev", "NUMA node 4 has no online CPUs", "nodes with CPUs: 0-3"],
        ),
        (
            "memory-only-nodes",
            "",
            "",
            None,
            0,
            On(NodeId(3)),
            &["NUMA node 3 has no online CPUs", "0-1"],
        ),
        (
            "no-hugepages",
            "",
            "1",
            Some(0),
            0,
            Preferred,
            &["no hugepages are reserved on NUMA node 0", "vm.nr_hugepages"],
        ),
    ] {
        let mut node = node_with(name, reserved, workers, vrouter);
        let error = allocate(&mut node, "a", "app", &request(cpus, numa)).unwrap_err();
        check_error(&error, parts);
    }
}

#[test]
fn hugepages() {
    let limit = |size, mib: u64| HugepageLimit { size, limit: mib << 20 };
    let (m2, g1) = (PageSize::MIB_2, PageSize::GIB_1);
    let zero = [limit(m2, 0), limit(g1, 0)];
    let machine = "2-nodes-smt-offline";
    // Annotation, own limits, and then: node, limits to set, or the error.
    for (annotated, own, expected) in [
        (vec![], &[][..], Ok((0, vec![], vec![]))),
        (vec![limit(m2, 512)], &[], Ok((0, vec![limit(m2, 512)], vec![]))),
        // The annotation outweighs what kubelet says, for its size only.
        (vec![limit(m2, 512)], &zero, Ok((0, vec![limit(m2, 512)], vec![]))),
        // The container's own request stays as it is.
        (vec![], &[limit(m2, 2048), limit(g1, 0)], Ok((0, vec![], vec![]))),
        (vec![], &zero, Ok((0, vec![], vec![Note::HugepageLimitsZero]))),
        (vec![limit(m2, 0)], &[], Ok((0, vec![limit(m2, 0)], vec![]))),
        (vec![limit(g1, 2048)], &[], Ok((0, vec![limit(g1, 2048)], vec![]))),
        (
            vec![],
            &[limit(m2, 4096)],
            Err(&["4Gi of 2MB hugepages wanted", "has 2Gi in total", "hugepages-2048kB"][..]),
        ),
        (
            vec![limit(g1, 8192)],
            &[],
            Err(&["8Gi of 1GB hugepages wanted", "NUMA node 0 has 4Gi", "hugepages-1048576kB"]),
        ),
        (vec![limit(g1, 4096)], &[limit(m2, 4096)], Err(&["4Gi of 2MB"])),
    ] {
        let mut node = node_with(machine, "", "", Some(0));
        let request = Request { hugepages: annotated.clone(), ..request(0, NumaPolicy::Strict) };
        let found = allocate_with(&mut node, "a", "app", &request, own);
        match expected {
            Ok((home, limits, notes)) => {
                let found = found.unwrap();
                assert_eq!(
                    (found.node, found.hugepages, found.notes),
                    (Some(NodeId(home)), limits, notes),
                    "{own:?}"
                );
            }
            Err(parts) => check_error(&found.unwrap_err(), parts),
        }
    }
    // Preferred: a node whose pages are free comes before the vRouter's, one that has enough before one that has not.
    for (mib, home) in [(100, 1), (400, 0)] {
        let mut node = node_with(machine, "", "", Some(1));
        let request =
            Request { hugepages: vec![limit(m2, mib)], ..request(0, NumaPolicy::Preferred) };
        assert_eq!(
            allocate(&mut node, "a", "app", &request).unwrap().node,
            Some(NodeId(home)),
            "{mib}"
        );
    }
    // Saying that none are wanted is no reason to refuse.
    let request = Request { hugepages: vec![limit(m2, 0)], ..request(0, NumaPolicy::Preferred) };
    assert!(allocate(&mut node("no-hugepages"), "a", "app", &request).is_ok());
}

#[test]
fn pods_spread_over_nodes_when_the_vrouter_spans_all() {
    let mut node = node("4-nodes");
    let homes: Vec<_> = ["a", "b", "c", "d", "e"]
        .iter()
        .map(|pod| {
            allocate(&mut node, pod, "app", &request(1, NumaPolicy::Strict))
                .unwrap()
                .node
                .unwrap()
                .0
        })
        .collect();
    assert_eq!(homes, [0, 1, 2, 3, 0]);
}

#[test]
fn the_whole_answer() {
    let mut node = node_with("1-node-2-cpus", "", "1", Some(0));
    let allocation = allocate(&mut node, "a", "app", &request(1, NumaPolicy::Strict)).unwrap();
    assert_eq!(allocation.alignment, Alignment::Aligned);
    let mac = allocation.interfaces[0].mac;
    let vdev = format!(
        "--vdev=net_virtio_user0,path=/run/ringway/net0.sock,mac={mac},queues=1,queue_size=1024"
    );
    assert!(
        allocation.eal_args.ends_with(&format!("--lcores=0@(0),1@0 {vdev}")),
        "{}",
        allocation.eal_args
    );
    assert!(
        allocation.eal_args.split(' ').all(|word| word.starts_with("--")),
        "{}",
        allocation.eal_args
    );
    assert!(!allocation.eal_args.contains(['"', '\'', '\\', '$', '*']), "{}", allocation.eal_args);
}
