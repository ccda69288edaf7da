//! Two nodes with a vRouter each, one wire between them, and things that are not ours: FRR, which exchanges their pods by BGP over
//! the host interfaces, and tshark, which reads what is on the wire.
//!
//! The configurations are those of `docs/frr.md`.
#![forbid(unsafe_code)]

mod announced;
mod bad_days;
mod bgp;
mod daemons;
mod encapsulated;
mod evpn;
mod explained;
mod rig;
mod stations;
mod stretched;
mod wire;

use std::process::ExitCode;

use anyhow::{Context, Result};
use integration::machine;
use integration::suite::{self, Case};

use evpn::Bed;
use rig::Rig;
use stations::Lan;

type Test = (&'static str, fn(&mut Rig) -> Result<()>, Needs);
type EvpnTest = (&'static str, fn(&mut Bed) -> Result<()>);
type LanTest = (&'static str, fn(&mut Lan) -> Result<()>);

/// One of them at a time: each takes most of the machine's hugepages.
#[derive(Default)]
struct Stage {
    rig: Option<Rig>,
    bed: Option<Bed>,
    lan: Option<Lan>,
}

/// What a test needs beside the vRouters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    Frr,
    Tshark,
}

const TESTS: [Test; 10] = [
    ("pods_are_announced_to_the_kernel", announced::come_and_go, Needs::Nothing),
    ("mpls_over_udp_as_tshark_reads_it", encapsulated::mpls, Needs::Tshark),
    ("ip_in_ip_as_tshark_reads_it", encapsulated::ipip, Needs::Tshark),
    ("bridged_frames_cross_as_tshark_reads_them", stretched::between_two_vrouters, Needs::Tshark),
    ("explain_says_what_happens", explained::beside_counters, Needs::Nothing),
    ("what_can_not_be_is_told", bad_days::told, Needs::Nothing),
    ("bgp_exchanges_pods", bgp::pods_meet, Needs::Frr),
    ("a_router_is_killed_and_comes_back", bgp::killed, Needs::Frr),
    ("zebra_is_killed_and_routes_stay", bgp::zebra_killed, Needs::Frr),
    ("a_vrouter_is_killed_and_comes_back", announced::killed, Needs::Nothing),
];

/// Beside a router that is not ours.
const EVPN_TESTS: [EvpnTest; 2] = [
    ("evpn_prefixes_of_type_5_are_reached", evpn::prefixes),
    ("evpn_hosts_of_type_2_are_reached", evpn::hosts),
];

/// Of a bridged network, beside two hosts that are not ours; each goes on where the one before has ended.
const LAN_TESTS: [LanTest; 3] = [
    ("evpn_bridged_pods_and_stations_meet", stations::meet),
    ("evpn_bridged_stations_move_and_go", stations::stations_go),
    ("evpn_bridged_pods_are_withdrawn", stations::pods_go),
];

fn main() -> ExitCode {
    let unfit = machine::unfit_for_dpdk().or_else(integration::space::unfit);
    let case = |(name, test, needs): Test| {
        let lacks = match needs {
            Needs::Nothing => None,
            Needs::Frr => daemons::unfit(),
            Needs::Tshark => wire::unfit(),
        };
        Case::new(name, unfit.clone().or(lacks), move |stage: &mut Stage| {
            (stage.bed, stage.lan) = (None, None);
            let rig = suite::started(&mut stage.rig, Rig::start)?;
            test(rig).with_context(|| rig.story())
        })
    };
    let evpn_case = |(name, test): EvpnTest| {
        let unfit = unfit.clone().or_else(daemons::unfit).or_else(wire::unfit);
        Case::new(name, unfit, move |stage: &mut Stage| {
            (stage.rig, stage.lan) = (None, None);
            let bed = suite::started(&mut stage.bed, Bed::start)?;
            test(bed).with_context(|| bed.story())
        })
    };
    let lan_case = |(name, test): LanTest| {
        let unfit = unfit.clone().or_else(daemons::unfit).or_else(wire::unfit);
        Case::new(name, unfit, move |stage: &mut Stage| {
            (stage.rig, stage.bed) = (None, None);
            let lan = suite::started(&mut stage.lan, Lan::start)?;
            test(lan).with_context(|| lan.story())
        })
    };
    let cases = TESTS.map(case).into_iter().chain(EVPN_TESTS.map(evpn_case));
    let cases = cases.chain(LAN_TESTS.map(lan_case));
    suite::run(Stage::default(), cases.collect(), |stage| *stage = Stage::default())
}
