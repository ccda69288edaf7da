//! The plugin over the life of pods, of containerd and of itself: limits, CPUs of others, kills, restarts, many pods.
//!
//! The tests share the machine, so they run one after another; those with the same set-up share one node.
#![forbid(unsafe_code)]

mod containers;
mod cpus;
mod daemons;
mod limits;
mod links;
mod storm;
mod wire;

use std::process::ExitCode;

use integration::containerd::Version;
use integration::node::{PluginStart, Setup};
use integration::stage::{Needs, Stage, Test};
use integration::suite::{self, Case};

/// In this order: a new node is started only where the set-up changes.
const TESTS: [Test; 17] = [
    ("several_containers", Needs::Node(Version::V2_1), containers::several),
    ("same_name_again", Needs::Node(Version::V2_1), containers::same_name_again),
    ("cpus_of_ours_stay", Needs::Node(Version::V2_1), cpus::ours_stay),
    ("second_plugin", Needs::Node(Version::V2_1), daemons::second_plugin),
    ("hanging_vrouter", Needs::Node(Version::V2_1), daemons::hanging_vrouter),
    ("killed_plugin", Needs::Node(Version::V2_1), daemons::killed_plugin),
    ("restarted_containerd", Needs::Node(Version::V2_1), daemons::restarted_containerd),
    ("interfaces_of_the_kernel", Needs::Node(Version::V2_1), links::of_the_kernel),
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
    let case = |(name, needs, test): Test| {
        Case::new(name, needs.unmet(), move |stage: &mut Stage| stage.play(test))
    };
    suite::run(Stage::default(), TESTS.map(case).into(), Stage::clear)
}
