//! Host interfaces on the real kernel: a network namespace is the node, a pair of veth its wire, a small process its
//! vRouter, and this binary their keeper.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers included"
)]

mod cases;
mod node;
mod router;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("keeper") => return router::keeper(),
        Some("vrouter") => return router::run(&arguments.collect::<Vec<_>>()),
        Some("repair") => return router::repair(&arguments.collect::<Vec<_>>()),
        _ => {}
    }
    let arguments = Arguments::from_args();
    let unfit = node::unfit();
    if let Some(reason) = unfit
        && !arguments.list
    {
        println!("SKIP: {} tests cannot run on this machine: {reason}", cases::TESTS.len());
    }
    let trials = cases::TESTS.iter().map(|(name, test)| {
        Trial::test(*name, || {
            test();
            Ok(())
        })
        .with_ignored_flag(unfit.is_some())
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
