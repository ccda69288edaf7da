//! What networks can do, with DPDK pods that send and get single frames: IPv6, bridges, policers, tunnels.
//!
//! One vRouter for all tests, one network with pods of its own for each; they run one after another. Every frame is
//! accounted for: those a pod gets are compared byte by byte, those that are dropped are counted by reason.
#![forbid(unsafe_code)]

mod bridged;
mod frames;
mod ipv6;
mod policed;
mod rig;
mod routes;
mod tunnel6;

use std::process::ExitCode;

use anyhow::Result;
use integration::machine;
use integration::suite::{self, Case};

use rig::Rig;

type Test = (&'static str, fn(&Rig) -> Result<()>);

const TESTS: [Test; 7] = [
    ("ipv6_between_pods", ipv6::between_pods),
    ("a_bridge_delivers_and_floods", bridged::delivers_and_floods),
    ("floods_are_limited", bridged::floods_are_limited),
    ("a_policer_limits_all_queues_together", policed::all_queues_together),
    ("a_port_may_have_its_own_policer", policed::its_own),
    ("a_tunnel_over_ipv6", tunnel6::both_ways),
    ("many_routes_page_by_page", routes::page_by_page),
];

fn main() -> ExitCode {
    let unfit = machine::unfit_for_dpdk();
    let case = |(name, test): Test| {
        Case::new(name, unfit.clone(), move |rig| test(suite::started(rig, Rig::start)?))
    };
    suite::run(None, TESTS.map(case).into(), |rig| *rig = None)
}
