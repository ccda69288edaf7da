//! Uplinks that are NICs, through VFIO and an IOMMU, in a machine with two NUMA nodes: `make test-numa` boots it in QEMU and runs this suite
//! inside. NICs are bound and given back by `ringway uplink`, and traffic goes from a Linux router at the other end of the wire to a
//! pod and back. The machine pulls its own cables and NICs by QEMU's monitor.
#![forbid(unsafe_code)]

mod af_xdp;
mod binding;
mod cables;
mod monitor;
mod rig;
#[path = "../uplinks/space.rs"]
mod space;
#[path = "../uplinks/traffic.rs"]
mod traffic;

use std::process::ExitCode;

use anyhow::{Context, Result};
use integration::machine;
use integration::qemu::numa;
use integration::suite::{self, Case};

use rig::Rig;

type Test = (&'static str, fn(&Rig) -> Result<()>);

const TESTS: [Test; 6] = [
    ("wire_to_pod_and_back", cables::both_ways),
    ("a_sleeping_worker_is_woken_by_the_nic", cables::interrupts),
    ("a_cable_that_is_pulled_is_a_link_that_is_down", cables::pulled),
    ("an_open_nic_cannot_be_given_back", binding::open),
    ("a_nic_that_is_taken_out_is_a_link_that_is_down", cables::taken_out),
    ("af_xdp", af_xdp::on_veth),
];

fn main() -> ExitCode {
    let outside = std::env::var_os(numa::VARIABLE)
        .is_none()
        .then(|| "runs in the machine of `make test-numa` only".to_owned());
    let unfit = outside.or_else(machine::unfit_for_dpdk).or_else(space::unfit);
    let first = ("nics_are_bound_and_given_back", binding::there_and_back as fn() -> Result<()>);
    let mut cases = vec![Case::new(first.0, unfit.clone(), move |_: &mut Option<Rig>| first.1())];
    cases.extend(TESTS.map(|(name, test)| {
        Case::new(name, unfit.clone(), move |rig: &mut Option<Rig>| {
            let rig = suite::started(rig, Rig::start)?;
            test(rig).with_context(|| rig.story())
        })
    }));
    suite::run(None, cases, |rig| *rig = None)
}
