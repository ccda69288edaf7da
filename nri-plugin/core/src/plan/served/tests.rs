//! Several vRouters on a machine of four nodes, with CPUs 0-3, 4-7, 8-11 and 12-15.

use super::*;
use crate::annotations::Request;
use crate::plan::tests::{allocate, node, red, request, sandbox};

/// vRouters on nodes 0 and 2, each with one worker.
fn two() -> Node {
    let mut node = node("4-nodes");
    for (name, home, worker) in [("zero", 0, "3"), ("two", 2, "11")] {
        let vrouter = Vrouter {
            workers: worker.parse().unwrap(),
            node: Some(NodeId(home)),
            ..Vrouter::default()
        };
        node.set_vrouter(name, vrouter);
    }
    // The one that tests begin with spans all nodes; with several there is none such.
    node.vrouters.remove("");
    node
}

fn shown(node: &Node, pod: &str) -> String {
    let placement = node.pod(&sandbox(pod)).unwrap().placement.clone().unwrap();
    let Placement { vrouter, cpus, memory, aligned, .. } = placement;
    format!("{vrouter} cpus {cpus} memory {memory} aligned {aligned}")
}

#[test]
fn a_pod_gets_the_vrouter_of_its_node() {
    let mut node = two();
    for (pod, numa, expected) in [
        ("a", NumaPolicy::Node(NodeId(2)), "two cpus 2 memory 2 aligned true"),
        ("b", NumaPolicy::Node(NodeId(0)), "zero cpus 0 memory 0 aligned true"),
        // Pods spread over the nodes that have one.
        ("c", NumaPolicy::Strict, "zero cpus 0 memory 0 aligned true"),
        ("d", NumaPolicy::Preferred, "two cpus 2 memory 2 aligned true"),
        // No vRouter there: the nearest.
        ("e", NumaPolicy::Node(NodeId(1)), "zero cpus 1 memory 1 aligned false"),
    ] {
        let allocation = allocate(&mut node, pod, "app", &request(1, numa)).unwrap();
        assert_eq!(shown(&node, pod), expected);
        assert_eq!(
            Some(&allocation.placement),
            node.pod(&sandbox(pod)).unwrap().placement.as_ref()
        );
    }
}

#[test]
fn strict_takes_only_nodes_with_a_vrouter_and_preferred_falls_back_and_says_so() {
    let mut node = two();
    // Three CPUs of each of the two nodes are to be had, one of them the vRouter's.
    for pod in ["a", "b"] {
        allocate(&mut node, pod, "app", &request(3, NumaPolicy::Strict)).unwrap();
    }
    let error = allocate(&mut node, "c", "app", &request(1, NumaPolicy::Strict)).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("no CPUs left: 1 exclusive wanted, NUMA node 0 has 0 free"), "{error}");
    let fallen = allocate(&mut node, "c", "app", &request(1, NumaPolicy::Preferred)).unwrap();
    assert!(matches!(fallen.alignment, Alignment::Remote { .. }), "{fallen:?}");
    let [note] = fallen.notes.as_slice() else { panic!("{:?}", fallen.notes) };
    let note = note.to_string();
    assert!(note.contains("CPUs on node 1") && note.contains("the vRouter on"), "{note}");
}

#[test]
fn a_pod_keeps_its_vrouter() {
    let mut node = two();
    allocate(&mut node, "a", "one", &request(2, NumaPolicy::Node(NodeId(2)))).unwrap();
    node.set_away("two", true);
    // Nothing new comes to one that is away, and what it has stays.
    allocate(&mut node, "b", "app", &request(1, NumaPolicy::Strict)).unwrap();
    assert_eq!(shown(&node, "b"), "zero cpus 0 memory 0 aligned true");
    allocate(&mut node, "a", "two", &request(1, NumaPolicy::Preferred)).unwrap();
    assert_eq!(shown(&node, "a"), "two cpus 2 memory 2 aligned true");
    // Its workers' CPUs are still its own.
    let error = allocate(&mut node, "c", "app", &request(2, NumaPolicy::Node(NodeId(2))));
    assert!(error.unwrap_err().to_string().contains("1 of the vRouter"));
}

#[test]
fn nics_count_too() {
    let mut node = two();
    let far = |node: &mut Node, nics: &str| {
        let vrouter =
            Vrouter { node: Some(NodeId(0)), nics: nics.parse().unwrap(), ..Vrouter::default() };
        node.set_vrouter("zero", vrouter);
    };
    for (pod, nics, expected) in [
        ("a", "1", Alignment::FarNic { nic: NodeId(1) }),
        ("b", "0-1", Alignment::Aligned),
        ("c", "0", Alignment::Aligned),
    ] {
        far(&mut node, nics);
        let want = request(0, NumaPolicy::Node(NodeId(0)));
        let found = allocate(&mut node, pod, "app", &want).unwrap();
        assert_eq!((found.alignment, found.placement.aligned), (expected, nics != "1"), "{nics}");
    }
}

#[test]
fn a_promised_node_brings_its_vrouter() {
    for (numa, promised, expected) in [
        (NumaPolicy::Strict, 2, "two cpus 2 memory 2 aligned true"),
        (NumaPolicy::Preferred, 2, "two cpus 2 memory 2 aligned true"),
        (NumaPolicy::Preferred, 1, "zero cpus 1 memory 1 aligned false"),
        // Nobody serves it there.
        (NumaPolicy::Strict, 1, "zero cpus 0 memory 0 aligned true"),
    ] {
        let mut node = two();
        let request = Request { promised: Some(NodeId(promised)), ..request(1, numa) };
        allocate(&mut node, "a", "app", &request).unwrap();
        assert_eq!(shown(&node, "a"), expected, "{numa:?} {promised}");
    }
}

#[test]
fn a_device_has_a_vrouter_before_it_has_cpus() {
    let mut node = two();
    allocate(&mut node, "a", "app", &request(1, NumaPolicy::Node(NodeId(0)))).unwrap();
    for (device, numa, expected) in [
        // The one with fewer pods.
        ("b", NumaPolicy::Preferred, "two cpus 2 memory 2 aligned true"),
        ("c", NumaPolicy::Node(NodeId(0)), "zero cpus 0 memory 0 aligned true"),
    ] {
        let name = sandbox(device);
        node.prepare(&name, "cdi", device, None, &request(0, numa), &red()).unwrap();
        node.choose_vrouter(&name, numa);
        let chosen = node.pod(&name).unwrap().placement.clone().unwrap();
        assert!(expected.starts_with(&chosen.vrouter) && chosen.cpus.is_empty(), "{chosen:?}");
        // Its container says nothing of nodes.
        allocate(&mut node, device, "device", &request(1, NumaPolicy::Preferred)).unwrap();
        assert_eq!(shown(&node, device), expected);
    }
}
