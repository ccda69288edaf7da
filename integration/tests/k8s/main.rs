//! Ringway on a real Kubernetes of one node: etcd, control plane, kubelet with static CPU and memory managers, containerd. And what the
//! runtime's own conformance tests say with and without it.
//!
//! The tests share the machine, so they run one after another, all but the last on one cluster. `make test-k8s` builds what they need.
#![forbid(unsafe_code)]

mod bed;
mod conformance;
mod cpus;
mod daemonset;
mod deployment;
mod refusals;
mod restarts;

use std::process::ExitCode;

use anyhow::Result;
use integration::suite::{self, Case};

use bed::Bed;

type Test = (&'static str, fn(&mut Bed) -> Result<()>);

const ON_THE_CLUSTER: [Test; 8] = [
    ("deployment_scales", deployment::scales),
    ("pods_talk", deployment::pods_talk),
    ("exclusive_cpus_are_kubelets", cpus::exclusive),
    ("refusals_are_described", refusals::are_described),
    ("pods_wait_for_the_vrouter", refusals::pods_wait_for_the_vrouter),
    ("kubelet_restarts", restarts::kubelet),
    ("containerd_restarts", restarts::containerd),
    ("daemonset", daemonset::serves_a_pod),
];

fn main() -> ExitCode {
    let unfit = bed::unfit();
    let mut cases: Vec<_> = ON_THE_CLUSTER
        .into_iter()
        .map(|(name, test)| Case::new(name, unfit.clone(), move |bed: &mut Bed| bed.play(test)))
        .collect();
    cases.push(Case::new("conformance", conformance::unfit(), |bed: &mut Bed| {
        bed.clear();
        conformance::same_with_and_without(&mut bed.stage)
    }));
    suite::run(Bed::default(), cases, Bed::clear)
}
