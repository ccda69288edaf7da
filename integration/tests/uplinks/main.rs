//! Uplinks between the real vRouter and the kernel's own network stack, each in network namespaces of the test's: what goes
//! out is taken by the kernel, tunnels and checksums included, and what the kernel sends arrives.
//!
//! One vRouter for all tests, in a namespace of its own; a router beside it that knows nothing of Ringway, connected by two
//! wires; and a pod whose application is a bridge between its port and a TAP, so that the kernel speaks for it, too.
#![forbid(unsafe_code)]

mod bad_days;
mod blue;
mod bond;
mod capture;
mod host;
mod mirrored;
mod offloads;
mod rig;
mod taken;
mod tap;
mod tunnel;
mod two_wires;
mod xdp;

use std::process::ExitCode;

use anyhow::{Context, Result};
use integration::machine;
use integration::suite::{self, Case};

use rig::Rig;

type Test = (&'static str, fn(&Rig) -> Result<()>);

const TESTS: [Test; 8] = [
    ("the_host_is_reached_through_its_interface", host::both_ways),
    ("a_tunnel_to_the_kernel", tunnel::both_ways),
    ("what_a_pod_leaves_to_a_packet_socket_is_done", offloads::by_the_vrouter),
    ("routes_come_from_the_kernel", mirrored::come_and_go),
    ("flows_use_both_wires_and_leave_one_that_is_lost", two_wires::spread_and_fail_over),
    ("bad_days_are_told_and_survived", bad_days::told_and_survived),
    ("an_interface_is_taken_and_given_back", taken::and_given_back),
    ("a_connection_outlives_the_vrouter", taken::killed),
];

const TAP: &str = "a_tap_tells_spreads_and_does_checksums";
const XDP: &str = "af_xdp_carries_and_leaves_nothing";
const BOND: &str = "a_bond_goes_on_with_the_link_that_is_left";

fn main() -> ExitCode {
    let unfit = machine::unfit_for_dpdk().or_else(integration::space::unfit);
    let case = |(name, test): Test| {
        Case::new(name, unfit.clone(), move |rig| {
            let rig = suite::started(rig, Rig::start)?;
            test(rig).with_context(|| rig.story())
        })
    };
    // On a node of its own, before the other is built.
    let tap =
        Case::new(TAP, unfit.clone().or_else(tap::unfit), |_: &mut Option<Rig>| tap::carries());
    let bond = Case::new(BOND, unfit.clone(), |_: &mut Option<Rig>| bond::fails_over());
    let xdp =
        Case::new(XDP, unfit.clone().or_else(xdp::unfit), |_: &mut Option<Rig>| xdp::carries());
    let cases = [tap, bond, xdp].into_iter().chain(TESTS.map(case));
    suite::run(None, cases.collect(), |rig| *rig = None)
}
