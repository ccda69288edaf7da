//! The plugin over the life of pods, of containerd and of itself: limits, CPUs of others, kills, restarts, many pods.
//!
//! The tests share the machine, so they run one after another; those with the same set-up share one node.
#![forbid(unsafe_code)]

mod containers;
mod cpus;
mod daemons;
mod limits;
mod storm;
mod wire;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use integration::containerd::Version;
use integration::node::{PluginStart, Setup};
use integration::{machine, wait};
use libtest_mimic::{Arguments, Failed, Trial};

use integration::stage::{Needs, Stage, Test};

/// In this order: a new node is started only where the set-up changes.
const TESTS: [Test; 16] = [
    ("several_containers", Needs::Node(Version::V2_1), containers::several),
    ("same_name_again", Needs::Node(Version::V2_1), containers::same_name_again),
    ("cpus_of_ours_stay", Needs::Node(Version::V2_1), cpus::ours_stay),
    ("second_plugin", Needs::Node(Version::V2_1), daemons::second_plugin),
    ("hanging_vrouter", Needs::Node(Version::V2_1), daemons::hanging_vrouter),
    ("killed_plugin", Needs::Node(Version::V2_1), daemons::killed_plugin),
    ("restarted_containerd", Needs::Node(Version::V2_1), daemons::restarted_containerd),
    ("storm", Needs::Node(Version::V2_1), storm::comes_and_goes),
    ("wire_2_1", Needs::Node(Version::V2_1), |stage| wire::is_recorded(stage, Version::V2_1)),
    ("limits", Needs::Node(Version::V2_1), limits::refuse),
    ("address_plugin", Needs::Node(Version::V2_1), limits::address_plugin),
    ("cpus_of_others_are_followed", Needs::Node(Version::V2_1), cpus::others_are_followed),
    ("other_containers_make_way", Needs::Node(Version::V2_1), cpus::others_make_way),
    ("hanging_vrouter_1_7", Needs::Node(Version::V1_7), |stage| {
        stage.node(&Setup::new(Version::V1_7, PluginStart::External))?;
        daemons::vrouter_hangs(stage)
    }),
    ("wire_1_7", Needs::Node(Version::V1_7), |stage| wire::is_recorded(stage, Version::V1_7)),
    ("restarted_containerd_1_7", Needs::Node(Version::V1_7), daemons::restarted_containerd_1_7),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if let Err(error) = wait::stop_on_signals() {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    let stage = Arc::new(Mutex::new(Stage::default()));
    let trials = TESTS
        .into_iter()
        .map(|(name, needs, test)| {
            let unfit = match needs {
                Needs::Nothing => None,
                Needs::Node(version) => machine::unfit(version),
            };
            if let Some(reason) = &unfit
                && !arguments.list
            {
                println!("SKIP {name}: {reason}");
            }
            let stage = Arc::clone(&stage);
            Trial::test(name, move || {
                let mut stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
                stage.play(test).map_err(|error| Failed::from(format!("{error:#}")))
            })
            .with_ignored_flag(unfit.is_some())
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Before the process ends: a static would never be dropped.
    stage.lock().unwrap_or_else(PoisonError::into_inner).clear();
    conclusion.exit_code()
}
