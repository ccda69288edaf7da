//! Whatever happens in whatever order: exclusive CPUs have one owner, nothing leaks, no address is given twice.

use std::collections::BTreeSet;

use bolero::TypeGenerator;

use super::{allocate, node_with, red, request, sandbox};
use crate::annotations::{NumaPolicy, Request, Scope};
use crate::cpuset::{CpuSet, NodeId};
use crate::paths::SandboxId;
use crate::plan::{Cpus, Node, PodRecord};

const MACHINES: [&str; 6] = [
    "1-node-2-cpus",
    "2-nodes-smt-offline",
    "4-nodes",
    "8-nodes-smt",
    "memory-only-nodes",
    "sparse-memoryless",
];

#[derive(Clone, Copy, Debug, TypeGenerator)]
enum Step {
    Prepare { pod: u8 },
    Allocate { pod: u8, container: u8, cpus: u8, numa: u8, own: bool },
    ReleaseContainer { pod: u8, container: u8 },
    ReleasePod { pod: u8 },
}

#[derive(Clone, Debug, TypeGenerator)]
struct Story {
    machine: u8,
    reserved: u8,
    workers: u8,
    vrouter: Option<u8>,
    steps: Vec<Step>,
}

fn names(pod: u8, container: u8) -> (String, String) {
    (format!("p{}", pod % 8), format!("c{}", container % 3))
}

fn run(story: &Story) {
    let machine = MACHINES[usize::from(story.machine) % MACHINES.len()];
    // Bit n stands for CPU n.
    let bits = |mask: u8| {
        (0..8).filter(|bit| mask >> bit & 1 == 1).map(|bit| bit.to_string()).collect::<Vec<_>>()
    };
    let (reserved, workers) = (bits(story.reserved).join(","), bits(story.workers).join(","));
    let mut node =
        node_with(machine, &reserved, &workers, story.vrouter.map(|node| u32::from(node % 9)));
    let empty = node.clone();
    let mut prepared = BTreeSet::new();
    for step in &story.steps {
        match *step {
            Step::Allocate { pod, container, cpus, numa, own } => {
                let numa = match numa % 8 {
                    0 => NumaPolicy::Strict,
                    1 => NumaPolicy::Off,
                    2..=4 => NumaPolicy::Preferred,
                    other => NumaPolicy::Node(NodeId(u32::from(other - 5))),
                };
                let scope = if own { Scope::Container } else { Scope::Pod };
                let request = Request { scope, ..request(u32::from(cpus % 6), numa) };
                let (pod, container) = names(pod, container);
                if let Ok(allocation) = allocate(&mut node, &pod, &container, &request) {
                    let count = allocation.cpus.set().len();
                    assert!(count > 0 && !allocation.mems.is_empty());
                    if let Cpus::Exclusive(cpus) = &allocation.cpus {
                        assert_eq!(cpus.len(), usize::from(request_cpus(&request)));
                    }
                }
            }
            Step::Prepare { pod } => {
                let pod = sandbox(&names(pod, 0).0);
                let request = request(0, NumaPolicy::Preferred);
                let before = node.pod(&pod).cloned();
                node.prepare(&pod, "ns", "pod", None, &request, &red()).unwrap();
                assert!(node.has_interfaces(&pod, "c0", &request) || before.is_some());
                assert!(before.is_none() || before.as_ref() == node.pod(&pod));
                prepared.insert(pod);
            }
            Step::ReleaseContainer { pod, container } => {
                let (pod, container) = names(pod, container);
                node.release_container(&sandbox(&pod), &container);
                node.rebalance();
            }
            Step::ReleasePod { pod } => {
                node.release_pod(&sandbox(&names(pod, 0).0));
                node.rebalance();
            }
        }
        check(&node, &reserved.parse().unwrap(), &workers.parse().unwrap(), &prepared);
    }
    // Nothing leaks: when all is released, the machine is as it was.
    let pods: Vec<_> = node.pods().map(|pod| pod.sandbox.clone()).collect();
    pods.iter().for_each(|pod| assert!(node.release_pod(pod).is_some()));
    assert_eq!(node.pods, empty.pods);
    let all = |node: &mut Node| allocate(node, "last", "app", &request(1, NumaPolicy::Preferred));
    assert_eq!(all(&mut node), all(&mut empty.clone()));
}

fn request_cpus(request: &Request) -> u8 {
    match request.cpus {
        crate::annotations::CpusRequest::Exclusive(count) => u8::try_from(count.get()).unwrap(),
        _ => 0,
    }
}

fn check(node: &Node, reserved: &CpuSet, workers: &CpuSet, prepared: &BTreeSet<SandboxId>) {
    let mut exclusive = CpuSet::new();
    let mut addresses = BTreeSet::new();
    let mut macs = BTreeSet::new();
    for pod in node.pods() {
        let kept = prepared.contains(&pod.sandbox) || !pod.containers.is_empty();
        assert!(kept, "a pod without containers is forgotten");
        for container in pod.containers.values() {
            assert!(pod.slots.contains_key(&container.slot));
            let cpus = container.cpus.set();
            assert!(cpus.is_subset(node.topology().online()) && cpus.is_disjoint(reserved));
            if let Cpus::Exclusive(cpus) = &container.cpus {
                assert!(cpus.is_disjoint(&exclusive) && cpus.is_disjoint(workers), "{node:?}");
                exclusive.extend(cpus);
            }
        }
        for (_, interface) in pod.ports() {
            assert!(interface.ipv6.is_some() && macs.insert(interface.mac));
            interface.addresses().for_each(|ip| assert!(addresses.insert(ip), "{ip} twice"));
        }
    }
    let containers = || node.pods().flat_map(|pod: &PodRecord| pod.containers.values());
    for container in containers() {
        if let Cpus::Shared(cpus) = &container.cpus {
            assert!(!cpus.is_empty() && cpus.is_disjoint(&exclusive), "{node:?}");
        }
    }
}

#[test]
fn any_story_ends_well() {
    bolero::check!().with_type::<Story>().for_each(run);
}
