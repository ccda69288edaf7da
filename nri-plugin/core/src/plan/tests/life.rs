//! What stays with a pod from container to container, and what comes back.

use super::{
    AdoptError, Cpus, Node, NumaPolicy, Request, Scope, Slot, Vrouter, allocate, check_error, node,
    node_with, red, request, sandbox, shown,
};
use crate::cpuset::{CpuSet, NodeId};
use crate::plan::Ipv6;
use crate::topology::tests::machine;

#[test]
fn a_pod_keeps_its_node() {
    let mut node = node_with("4-nodes", "", "", Some(2));
    let first = allocate(&mut node, "a", "one", &request(3, NumaPolicy::Node(NodeId(1)))).unwrap();
    assert_eq!(shown(&first), "own 4-6 mems 1 Remote { vrouter: NodeId(2) }");
    let second = allocate(&mut node, "a", "two", &request(0, NumaPolicy::Preferred)).unwrap();
    assert_eq!(shown(&second), "shared 7 mems 1 Remote { vrouter: NodeId(2) }");
    assert_eq!(second.interfaces, first.interfaces);
    // A container that may run anywhere does not move the others.
    let off = allocate(&mut node, "a", "off", &request(0, NumaPolicy::Off)).unwrap();
    assert_eq!((off.node, off.mems.to_string().as_str()), (None, "0-3"));
    let again = allocate(&mut node, "a", "two", &request(0, NumaPolicy::Preferred)).unwrap();
    assert_eq!((again.node, again.cpus), (Some(NodeId(1)), second.cpus));
    node.release_container(&sandbox("a"), "off");
    // Another pod goes to the vRouter's.
    let other = allocate(&mut node, "b", "one", &request(1, NumaPolicy::Preferred)).unwrap();
    assert_eq!(shown(&other), "own 8 mems 2 Aligned");
    // Three more do not fit the pod's node: its neighbour helps out.
    node.release_container(&sandbox("a"), "two");
    let third = allocate(&mut node, "a", "three", &request(3, NumaPolicy::Preferred)).unwrap();
    assert_eq!(shown(&third), "own 0-1,7 mems 0-1 Spread");
    for numa in [NumaPolicy::Strict, NumaPolicy::Node(NodeId(3))] {
        let error = allocate(&mut node, "a", "four", &request(0, numa)).unwrap_err();
        check_error(&error, &["the pod's other containers are on node 1", "numa.ringway.dev"]);
    }
}

#[test]
fn exclusive_cpus_leave_the_shared_pool_and_come_back() {
    let mut node = node_with("4-nodes", "", "", Some(0));
    let shared = allocate(&mut node, "s", "app", &request(0, NumaPolicy::Preferred)).unwrap();
    assert_eq!(shared.cpus, Cpus::Shared("0-3".parse().unwrap()));
    let own = allocate(&mut node, "x", "app", &request(2, NumaPolicy::Strict)).unwrap();
    assert_eq!(own.cpus, Cpus::Exclusive("0-1".parse().unwrap()));
    let [update] = own.updates.as_slice() else { panic!("{:?}", own.updates) };
    assert_eq!(
        (update.container_id.as_str(), update.cpus.to_string().as_str()),
        ("s-app-id", "2-3")
    );
    // The last shared CPU is not given away.
    let error = allocate(&mut node, "y", "app", &request(2, NumaPolicy::Strict)).unwrap_err();
    check_error(
        &error,
        &[
            "2 exclusive wanted",
            "2 free",
            "2 exclusive to pods",
            "shared by running pods (first: ns/s)",
        ],
    );
    assert!(
        allocate(&mut node, "y", "app", &request(1, NumaPolicy::Strict)).unwrap().updates.len()
            == 1
    );
    // Without shared pods it is.
    node.release_pod(&sandbox("s"));
    assert!(allocate(&mut node, "z", "app", &request(1, NumaPolicy::Strict)).is_ok());
    let error = allocate(&mut node, "s", "app", &request(0, NumaPolicy::Strict)).unwrap_err();
    check_error(&error, &["no CPUs left", "4 exclusive to pods", "nothing is left to share"]);
    // What is released is shared again.
    node.release_pod(&sandbox("x"));
    allocate(&mut node, "s", "app", &request(0, NumaPolicy::Strict)).unwrap();
    node.release_pod(&sandbox("z"));
    let updates = node.rebalance();
    assert_eq!(updates.iter().map(|u| u.cpus.to_string()).collect::<Vec<_>>(), ["0-1,3"]);
    assert_eq!(node.rebalance(), []);
}

#[test]
fn a_restarted_container_finds_what_it_had() {
    let mut node = node_with("4-nodes", "", "", Some(0));
    allocate(&mut node, "a", "app", &request(1, NumaPolicy::Strict)).unwrap();
    let before = allocate(&mut node, "b", "app", &request(2, NumaPolicy::Strict)).unwrap();
    node.release_pod(&sandbox("a"));
    let after = allocate(&mut node, "b", "app", &request(2, NumaPolicy::Strict)).unwrap();
    assert_eq!(after, before);
    assert_eq!(node.pod(&sandbox("b")).unwrap().containers.len(), 1);
    // With another request it may move; nothing is counted twice.
    let all = allocate(&mut node, "b", "app", &request(4, NumaPolicy::Strict)).unwrap();
    assert_eq!(all.cpus.set().to_string(), "0-3");
}

#[test]
fn slots() {
    let mut node = node("4-nodes");
    let own = Request { scope: Scope::Container, ..request(0, NumaPolicy::Preferred) };
    let pod = request(0, NumaPolicy::Preferred);
    let slot = |node: &mut Node, name: &str, request: &Request| {
        let allocation = allocate(node, "a", name, request).unwrap();
        (allocation.slot.0, allocation.interfaces[0].ip.octets()[3])
    };
    assert_eq!(slot(&mut node, "one", &own), (1, 2));
    assert_eq!(slot(&mut node, "two", &own), (2, 3));
    assert_eq!(slot(&mut node, "three", &pod), (0, 4));
    assert_eq!(slot(&mut node, "four", &pod), (0, 4));
    assert_eq!(slot(&mut node, "one", &own), (1, 2));
    let record = node.pod(&sandbox("a")).unwrap();
    assert_eq!(
        record.peer_cgroups(Slot::POD).into_iter().collect::<Vec<_>>(),
        ["/pods/a-four-id", "/pods/a-three-id"]
    );
    assert_eq!(record.peer_cgroups(Slot(2)).into_iter().collect::<Vec<_>>(), ["/pods/a-two-id"]);
    let ports: Vec<_> = record.ports().map(|(id, _)| id.to_string()).collect();
    assert_eq!(ports, ["a/0/net0", "a/1/net0", "a/2/net0"]);
    // Ports go with the last container that uses them, the pod with its last container.
    let mut release = |name: &str| {
        let unused = node.release_container(&sandbox("a"), name);
        unused.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(release("three"), "");
    assert_eq!(release("four"), "a/0/net0");
    assert_eq!(release("one"), "a/1/net0");
    assert_eq!(release("one"), "");
    assert_eq!(release("two"), "a/2/net0");
    assert_eq!(node.pods().count(), 0);
    assert_eq!(node.release_pod(&sandbox("a")), None);
}

/// Where the pod has a cgroup of its own, all that is in it may use what the pod shares, and nothing changes with its containers.
#[test]
fn a_pods_own_cgroup_is_let_in_at_once() {
    let mut node = node("4-nodes");
    let pod = request(0, NumaPolicy::Preferred);
    let prepare = |node: &mut Node, name: &str, cgroup: &str| {
        node.prepare(&sandbox(name), "ns", name, Some(cgroup.into()), &pod, &red()).unwrap();
    };
    let peers = |node: &Node, name: &str, slot: Slot| {
        let record = node.pod(&sandbox(name)).unwrap();
        record.peer_cgroups(slot).into_iter().collect::<Vec<_>>().join(" ")
    };
    // Containers of these tests are in /pods/POD-CONTAINER-id.
    prepare(&mut node, "a", "/pods");
    assert_eq!(peers(&node, "a", Slot::POD), "/pods");
    allocate(&mut node, "a", "app", &pod).unwrap();
    assert_eq!(peers(&node, "a", Slot::POD), "/pods");
    // What is a container's own is not the pod's.
    let own = Request { scope: Scope::Container, ..pod.clone() };
    allocate(&mut node, "a", "own", &own).unwrap();
    assert_eq!(peers(&node, "a", Slot(1)), "/pods/a-own-id");
    // A runtime that puts a container elsewhere is believed.
    prepare(&mut node, "b", "/pods/b");
    allocate(&mut node, "b", "app", &pod).unwrap();
    assert_eq!(peers(&node, "b", Slot::POD), "/pods/b /pods/b-app-id");
}

#[test]
fn adopting_what_was_there_before() {
    let mut before = node_with("4-nodes", "", "", Some(0));
    allocate(&mut before, "a", "app", &request(2, NumaPolicy::Strict)).unwrap();
    allocate(&mut before, "b", "app", &request(0, NumaPolicy::Strict)).unwrap();
    let mut after = node_with("4-nodes", "", "", Some(0));
    for record in before.pods() {
        after.adopt(record.clone()).unwrap();
        after.adopt(record.clone()).unwrap();
    }
    assert_eq!(after.pods, before.pods);
    let next = allocate(&mut after, "c", "app", &request(1, NumaPolicy::Strict)).unwrap();
    assert_eq!((next.cpus.set().to_string().as_str(), next.interfaces[0].ip.octets()[3]), ("2", 4));

    let mut record = before.pod(&sandbox("a")).unwrap().clone();
    record.sandbox = sandbox("thief");
    let error = after.adopt(record.clone()).unwrap_err();
    assert!(
        matches!(&error, AdoptError::Cpus { taken, .. } if taken.to_string() == "0-1"),
        "{error}"
    );
    record.containers.clear();
    let error = after.adopt(record.clone()).unwrap_err();
    assert!(
        matches!(&error, AdoptError::Address { .. }) && error.to_string().contains("10.66.0.2"),
        "{error}"
    );
    // Another address of one family is not enough.
    let ipv6 = Ipv6 {
        address: "fd00::2".parse().unwrap(),
        prefix_len: 64,
        gateway: "fd00::1".parse().unwrap(),
    };
    let mut six = before.pod(&sandbox("b")).unwrap().clone();
    for interface in six.slots.values_mut().flatten() {
        interface.ipv6 = Some(ipv6);
    }
    after.adopt(six).unwrap();
    for interface in record.slots.values_mut().flatten() {
        (interface.ip, interface.ipv6) = ([10, 66, 0, 99].into(), Some(ipv6));
    }
    let error = after.adopt(record.clone()).unwrap_err().to_string();
    assert!(error.contains("its address fd00::2 in network red"), "{error}");
    record.slots.clear();
    assert_eq!(after.adopt(record), Ok(()));
}

#[test]
fn fresh_views_of_the_machine() {
    let mut node = node("no-hugepages");
    let want = request(0, NumaPolicy::Strict);
    assert!(allocate(&mut node, "a", "app", &want).is_err());
    node.set_topology(machine("1-node-2-cpus"));
    assert!(allocate(&mut node, "a", "app", &want).is_ok());
    let workers = CpuSet::from_iter([crate::cpuset::CpuId(0)]);
    node.set_vrouter("", Vrouter { workers, ..Vrouter::default() });
    assert_eq!(node.rebalance()[0].cpus.to_string(), "1");
}
