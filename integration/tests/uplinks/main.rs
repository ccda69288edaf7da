//! Uplinks between the real vRouter and the kernel's own network stack, each in network namespaces of the test's: what goes
//! out is taken by the kernel, tunnels and checksums included, and what the kernel sends arrives.
//!
//! One vRouter for all tests, in a namespace of its own; a router beside it that knows nothing of Ringway, connected by two
//! wires; and a pod whose application is a bridge between its port and a TAP, so that the kernel speaks for it, too.
#![forbid(unsafe_code)]

mod bad_days;
mod host;
mod mirrored;
mod rig;
mod space;
mod taken;
mod traffic;
mod tunnel;
mod two_wires;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use integration::{machine, wait};
use libtest_mimic::{Arguments, Failed, Trial};

use rig::Rig;

type Test = (&'static str, fn(&Rig) -> Result<()>);

const TESTS: [Test; 7] = [
    ("the_host_is_reached_through_its_interface", host::both_ways),
    ("a_tunnel_to_the_kernel", tunnel::both_ways),
    ("routes_come_from_the_kernel", mirrored::come_and_go),
    ("flows_use_both_wires_and_leave_one_that_is_lost", two_wires::spread_and_fail_over),
    ("bad_days_are_told_and_survived", bad_days::told_and_survived),
    ("an_interface_is_taken_and_given_back", taken::and_given_back),
    ("a_connection_outlives_the_vrouter", taken::killed),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if let Err(error) = wait::stop_on_signals() {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    let unfit = machine::unfit_for_dpdk().or_else(space::unfit);
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
            let rig = rig.as_ref().context("no vRouter")?;
            test(rig).with_context(|| rig.story())
        };
        Trial::test(name, move || play().map_err(|error| Failed::from(format!("{error:#}"))))
            .with_ignored_flag(unfit.is_some())
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    // Before the process ends: a static would never be dropped.
    *rig.lock().unwrap_or_else(PoisonError::into_inner) = None;
    conclusion.exit_code()
}
