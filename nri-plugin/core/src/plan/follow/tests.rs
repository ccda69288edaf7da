use super::*;
use crate::annotations::{CpusRequest, Request, Scope};
use crate::hugepages::{HugepageLimit, PageSize};
use crate::paths::Slot;
use crate::plan::tests::{network, request, with_policy};
use crate::plan::{Allocation, CpuQuota};
use crate::policy::Policy;

fn allocate(
    node: &mut Node,
    container: &str,
    request: &Request,
    cpus: &str,
    mems: &str,
) -> Result<Allocation, PlanError> {
    let set = |list: &str| if list.is_empty() { CpuSet::new() } else { list.parse().unwrap() };
    let nodes = |list: &str| if list.is_empty() { NodeSet::new() } else { list.parse().unwrap() };
    let ask = Ask {
        sandbox: &SandboxId::new("pod").unwrap(),
        namespace: "ns",
        pod: "pod",
        container,
        container_id: container,
        cgroup: "/pods/pod",
        request,
        cpu: CpuQuota { shares: 2048, quota: 200_000, period: 100_000 },
        chosen: Chosen { cpus: &set(cpus), mems: &nodes(mems) },
        hugepages: &[],
    };
    node.allocate(&ask, &[network("red", "10.66.0.0/24", "10.66.0.1")])
}

fn following(mode: CpuMode) -> Node {
    with_policy("4-nodes", Some(2), Policy { cpu_mode: mode, ..Policy::default() })
}

#[test]
fn cpus_of_others_are_taken_as_they_are() {
    let own = Request { cpus: CpusRequest::Default, ..request(0, NumaPolicy::Preferred) };
    for (cpus, mems, expected, notes) in [
        // kubelet gave as many as the container requests: each thread can have one.
        ("8-9", "2", "8-9 whole=true mems 2 Aligned", 0),
        ("8-10", "2", "8-10 whole=false mems 2 Aligned", 0),
        ("4-5", "1", "4-5 whole=true mems 1 Remote { vrouter: NodeId(2) }", 1),
        ("7-8", "", "7-8 whole=true mems 1-2 Spread", 1),
        ("", "", "0-15 whole=false mems 0-3 Spread", 1),
        // CPUs that are not there.
        ("99", "", "0-15 whole=false mems 0-3 Spread", 1),
    ] {
        let mut node = following(CpuMode::Follow);
        let allocation = allocate(&mut node, "app", &own, cpus, mems).unwrap();
        let Cpus::Followed { cpus, whole } = &allocation.cpus else { panic!("{allocation:?}") };
        let Allocation { mems, alignment, .. } = &allocation;
        assert_eq!(format!("{cpus} whole={whole} mems {mems} {alignment:?}"), expected);
        assert_eq!(allocation.notes.len(), notes, "{:?}", allocation.notes);
        for note in &allocation.notes {
            let note = note.to_string();
            assert!(
                note.contains("NUMA node") && note.contains('2') && !note.contains('\n'),
                "{note}"
            );
        }
        assert!(allocation.updates.is_empty());

        let mut node = following(CpuMode::Off);
        let off = allocate(&mut node, "app", &own, "4-5", "1").unwrap();
        assert!(off.notes.is_empty(), "{:?}", off.notes);
    }
}

#[test]
fn a_policy_that_the_choice_breaks_refuses() {
    for (numa, cpus, refused) in [
        (NumaPolicy::Strict, "8-9", false),
        (NumaPolicy::Strict, "7-8", true),
        (NumaPolicy::Strict, "4-5", true),
        (NumaPolicy::Strict, "", true),
        (NumaPolicy::Node(NodeId(1)), "4-5", false),
        (NumaPolicy::Node(NodeId(1)), "8-9", true),
        (NumaPolicy::Off, "7-8", false),
    ] {
        let mut node = following(CpuMode::Follow);
        let outcome = allocate(&mut node, "app", &request(0, numa), cpus, "");
        assert_eq!(outcome.is_err(), refused, "{numa:?} {cpus}");
        if let Err(error) = outcome {
            let error = error.to_string();
            assert!(error.contains("numa.ringway.dev") && error.contains("CPU manager"), "{error}");
            assert_eq!(node.pods().count(), 0);
        }
    }
}

#[test]
fn hugepages_are_looked_for_where_memory_may_come_from() {
    let request = Request {
        hugepages: vec![HugepageLimit { size: PageSize::MIB_2, limit: 1 << 50 }],
        ..request(0, NumaPolicy::Preferred)
    };
    let error = allocate(&mut following(CpuMode::Follow), "app", &request, "8", "").unwrap_err();
    assert!(error.to_string().contains("NUMA node 0-3"), "{error}");
    let error = allocate(&mut following(CpuMode::Follow), "app", &request, "8", "2").unwrap_err();
    assert!(error.to_string().contains("NUMA node 2"), "{error}");
}

#[test]
fn a_later_choice_is_noticed_once() {
    let mut node = following(CpuMode::Follow);
    let pod = SandboxId::new("pod").unwrap();
    let own = Request { scope: Scope::Pod, ..request(0, NumaPolicy::Preferred) };
    allocate(&mut node, "app", &own, "", "").unwrap();
    let set = |list: &str| list.parse::<CpuSet>().unwrap();
    let mut follow = |container: &str, cpus: &str, mems: &str| {
        let cpus = if cpus.is_empty() { CpuSet::new() } else { set(cpus) };
        let mems = if mems.is_empty() { NodeSet::new() } else { mems.parse().unwrap() };
        node.followed(&pod, container, Chosen { cpus: &cpus, mems: &mems })
    };
    assert_eq!(follow("app", "8-9", ""), Some((set("8-9"), Alignment::Aligned)));
    assert_eq!(follow("app", "8-9", ""), None);
    assert_eq!(follow("app", "8-10", "1-2"), Some((set("8-10"), Alignment::Spread)));
    assert_eq!(follow("app", "8-9", "2"), Some((set("8-9"), Alignment::Aligned)));
    // Present but unset, nonsense, and another's.
    assert_eq!(follow("app", "", ""), None);
    assert_eq!(follow("app", "99", ""), None);
    assert_eq!(follow("other", "1", ""), None);
    let record = &node.pod(&pod).unwrap().containers["app"];
    assert_eq!((record.cpus.set(), record.slot), (&set("8-9"), Slot::POD));
    assert!(node.rebalance().is_empty());
}
