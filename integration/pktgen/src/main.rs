//! `ringway-pktgen`: a pod's DPDK application that sends and checks packets as fast as its rings take them.
//!
//! It measures what a switch between its ports does: packets per second, loss, order, damage, latency; and it says
//! whether the switch or itself was the limit. It does not know what kind of switch that is, makes no pods and
//! compares no results. Nobody depends on it.
//!
//! # Fast settings
//!
//! Found with DPDK 22.11.11 against `testpmd` forwarding `io`, 64 byte frames, on a shared two-CPU virtual machine (2.0
//! GHz counter). Ticks are per packet sent or received, half of what one forwarded packet costs.
//!
//! - `--packed --vectorized --mrg-rxbuf=0` was the fastest: 93 to 97 ticks in the median of five interleaved rounds,
//!   all split settings 102 to 122, and within the noise of each other.
//! - Split rings: `--vectorized --mrg-rxbuf=0 --in-order=0` has the cheapest code where nothing waits for another
//!   CPU's cache (35 ticks in the best tenth of the rounds; `--mrg-rxbuf=0` alone 46 to 50, defaults 53 to 58).
//! - `--burst 64` helps nowhere for certain, and is refused where it makes the driver lose packets.
//! - `--tx-free-threshold` made no difference beyond the noise; 0 leaves it to the driver.
//! - Checking every 64th packet costs about 5 ticks per packet; a queue of 256 instead of 1024 saves about 10.
//!
//! The machine was busy and its CPUs 90 to 1,200 ns apart: compare these numbers with each other and nothing else.
#![forbid(unsafe_code)]

mod args;
mod books;
mod flow;
mod frame;
mod histogram;
mod latencies;
mod order;
mod pace;
mod pattern;
mod port;
mod presence;
mod report;
mod run;
mod sample;
mod tunnel;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::{SigSet, Signal};
use vrouter_dpdk::{Eal, EalConfig, LogLevel, Memory, pin_current_thread};

use crate::args::{Asked, Settings};
use crate::run::{Outcome, RunError};

/// The end of the process as seen by scripts.
#[derive(Clone, Copy)]
enum Exit {
    /// It could not start, or failed later.
    Failed = 1,
    /// The arguments are wrong.
    Arguments = 2,
    /// Packets arrived damaged, or packets arrived that are not ours.
    Damage = 3,
}

fn main() -> ExitCode {
    let settings = match args::parse(std::env::args_os()) {
        Ok(Asked::Run(settings)) => settings,
        Ok(Asked::Text(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("ringway-pktgen: {error}");
            return ExitCode::from(Exit::Arguments as u8);
        }
    };
    match run(&settings) {
        Ok(Outcome::Clean) => ExitCode::SUCCESS,
        Ok(Outcome::Damaged) => ExitCode::from(Exit::Damage as u8),
        Err(error) => {
            eprintln!("ringway-pktgen: {}", chain(&error));
            ExitCode::from(Exit::Failed as u8)
        }
    }
}

fn run(settings: &Settings) -> Result<Outcome, RunError> {
    let stop = watch_signals()?;
    let eal = Eal::init(&EalConfig {
        file_prefix: format!("pktgen-{}", std::process::id()),
        memory: Memory::Hugepages { mib: settings.memory_mib, numa_node: None },
        log_level: LogLevel::Warning,
        extra: port::eal_options(settings),
    })?;
    // After EAL, so that its service threads stay off this CPU where there is another.
    pin_current_thread(settings.cpu)
        .map_err(|source| RunError::Pin { cpu: settings.cpu, source })?;
    run::run(settings, &eal, &stop)
}

/// A flag that SIGINT and SIGTERM set. A second signal ends the process at once.
fn watch_signals() -> Result<Arc<AtomicBool>, RunError> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    // Before any other thread exists: all of them inherit it, and `wait` below is the only way in.
    signals.thread_block().map_err(RunError::Signals)?;
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    thread::spawn(move || {
        while signals.wait().is_ok() {
            // While DPDK waits for the other end of a socket nobody looks at the flag.
            if flag.swap(true, Ordering::Relaxed) || !run::STARTED.load(Ordering::Relaxed) {
                std::process::exit(Exit::Failed as i32);
            }
        }
    });
    Ok(stop)
}

/// An error and its sources, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}")).replace('\n', "; ")
}
