//! The mirror against the running kernel, each test in a network namespace of its own. After every step, what the changes add up
//! to has to be what a mirror that starts only then says; a dump to make sure never comes to its help.
#![forbid(unsafe_code)]
#![allow(clippy::expect_used, reason = "a test fails by panicking, its helpers included")]

mod bed;
mod evpn;
mod full;
mod kernelport;
mod overrun;
mod routes;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;

type Test = fn() -> Result<()>;

const TESTS: [(&str, Test); 16] = [
    ("routes_come_and_go", routes::come_and_go),
    ("routes_of_one_prefix", routes::of_one_prefix),
    ("kinds", routes::kinds),
    ("several_ways", routes::several_ways),
    ("nexthop_objects", routes::nexthop_objects),
    ("neighbours_are_learned", routes::neighbours),
    ("link_goes_down", routes::link_goes_down),
    ("addresses_go", routes::addresses_go),
    ("tables_of_networks", routes::tables),
    ("encapsulations", evpn::encapsulations),
    ("evpn", evpn::evpn),
    ("overrun", overrun::floods),
    ("a_kernel_port_is_kept", kernelport::kept),
    ("what_a_killed_one_leaves_is_swept", kernelport::swept),
    ("an_interface_is_handed_over", kernelport::handed_over),
    ("full_table", full::table),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let unfit =
        (!nix::unistd::geteuid().is_root()).then_some("needs root to make network namespaces");
    if let (Some(reason), false) = (unfit, arguments.list) {
        TESTS.iter().for_each(|(name, _)| println!("SKIP {name}: {reason}"));
        println!("SKIP: {} tests cannot run on this machine", TESTS.len());
    }
    let trials = TESTS.map(|(name, test)| {
        let test =
            move || bed::in_namespace(test).map_err(|error| Failed::from(format!("{error:#}")));
        Trial::test(name, test).with_ignored_flag(unfit.is_some())
    });
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}
