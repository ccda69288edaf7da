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
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use integration::{machine, wait};
use libtest_mimic::{Arguments, Failed, Trial};

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
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if let Err(error) = wait::stop_on_signals() {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    let unfit = machine::unfit_for_dpdk();
    if let Some(reason) = &unfit
        && !arguments.list
    {
        println!("SKIP: {} tests cannot run on this machine: {reason}", TESTS.len());
    }
    let rig: Arc<Mutex<Option<Rig>>> = Arc::default();
    let trials = TESTS.into_iter().map(|(name, test)| {
        let rig = Arc::clone(&rig);
        let play = move || -> Result<()> {
            let mut rig = rig.lock().unwrap_or_else(PoisonError::into_inner);
            if rig.is_none() {
                *rig = Some(Rig::start()?);
            }
            test(rig.as_ref().context("no vRouter")?)
        };
        Trial::test(name, move || play().map_err(|error| Failed::from(format!("{error:#}"))))
            .with_ignored_flag(unfit.is_some())
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    // Before the process ends: a static would never be dropped.
    *rig.lock().unwrap_or_else(PoisonError::into_inner) = None;
    conclusion.exit_code()
}
