//! Two nodes with a vRouter each, one wire between them, and things that are not ours: FRR, which exchanges their pods by BGP over
//! the host interfaces, and tshark, which reads what is on the wire.
//!
//! The configurations are those of `docs/frr.md`.
#![forbid(unsafe_code)]

mod announced;
mod bad_days;
mod bgp;
mod daemons;
mod explained;
mod mpls;
mod rig;
#[path = "../uplinks/space.rs"]
#[expect(dead_code, reason = "others use what is not used here")]
mod space;
#[path = "../uplinks/traffic.rs"]
#[expect(dead_code, reason = "others use what is not used here")]
mod traffic;
mod wire;

use std::process::ExitCode;

use anyhow::{Context, Result};
use integration::machine;
use integration::suite::{self, Case};

use rig::Rig;

type Test = (&'static str, fn(&mut Rig) -> Result<()>, Needs);

/// What a test needs beside the vRouters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    Frr,
    Tshark,
}

const TESTS: [Test; 7] = [
    ("pods_are_announced_to_the_kernel", announced::come_and_go, Needs::Nothing),
    ("mpls_over_udp_as_tshark_reads_it", mpls::byte_for_byte, Needs::Tshark),
    ("explain_says_what_happens", explained::beside_counters, Needs::Nothing),
    ("what_can_not_be_is_told", bad_days::told, Needs::Nothing),
    ("bgp_exchanges_pods", bgp::pods_meet, Needs::Frr),
    ("a_router_is_killed_and_comes_back", bgp::killed, Needs::Frr),
    ("a_vrouter_is_killed_and_comes_back", announced::killed, Needs::Nothing),
];

fn main() -> ExitCode {
    let unfit = machine::unfit_for_dpdk().or_else(space::unfit);
    let case = |(name, test, needs): Test| {
        let lacks = match needs {
            Needs::Nothing => None,
            Needs::Frr => daemons::unfit(),
            Needs::Tshark => wire::unfit(),
        };
        Case::new(name, unfit.clone().or(lacks), move |rig| {
            let rig = suite::started(rig, Rig::start)?;
            test(rig).with_context(|| rig.story())
        })
    };
    suite::run(None, TESTS.map(case).into(), |rig| *rig = None)
}
