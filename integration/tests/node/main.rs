//! The daemons on a real node: containerd, pods with testpmd, and every error that users will meet.
//!
//! The tests share the machine, so they run one after another; those with the same set-up share one node.
#![forbid(unsafe_code)]

mod crictl;
mod errors;
mod idle;
mod pods;
mod restart;
mod settings;
mod users;

use std::process::ExitCode;

use integration::containerd::Version;
use integration::node::PluginStart;
use integration::stage::{Needs, Stage, Test};
use integration::suite::{self, Case};

/// In this order: a new node is started only where the set-up changes.
const TESTS: [Test; 24] = [
    ("settings_are_checked", Needs::Nothing, settings::are_checked),
    ("settings_run_dir_too_long", Needs::Nothing, settings::run_dir_too_long),
    ("unknown_network", Needs::Node(Version::V2_1), errors::unknown_network),
    ("malformed_annotation", Needs::Node(Version::V2_1), errors::malformed_annotation),
    ("more_cpus_than_there_are", Needs::Node(Version::V2_1), errors::more_cpus_than_there_are),
    (
        "more_hugepages_than_there_are",
        Needs::Node(Version::V2_1),
        errors::more_hugepages_than_there_are,
    ),
    ("interface_name_too_long", Needs::Node(Version::V2_1), errors::interface_name_too_long),
    ("another_pods_socket", Needs::Node(Version::V2_1), errors::another_pods_socket),
    ("what_a_pod_sees", Needs::Node(Version::V2_1), pods::what_a_pod_sees),
    ("command_line", Needs::Node(Version::V2_1), pods::command_line),
    ("user_of_the_image", Needs::Node(Version::V2_1), users::of_the_image),
    ("crictl", Needs::Program(Version::V2_1, "crictl"), crictl::runs_a_pod),
    ("idle_vrouter_sleeps", Needs::Node(Version::V2_1), idle::vrouter_sleeps),
    ("first_packet_after_sleep", Needs::Node(Version::V2_1), idle::first_packet_arrives),
    ("plugin_restart", Needs::Node(Version::V2_1), restart::plugin),
    ("vrouter_restart", Needs::Node(Version::V2_1), restart::vrouter),
    ("vrouter_not_running", Needs::Node(Version::V2_1), errors::vrouter_not_running),
    ("traffic_2_1", Needs::Node(Version::V2_1), |stage| {
        pods::traffic(stage, Version::V2_1, PluginStart::External)
    }),
    ("no_hugepages_reserved", Needs::Node(Version::V2_1), errors::no_hugepages_reserved),
    ("traffic_1_7", Needs::Node(Version::V1_7), |stage| {
        pods::traffic(stage, Version::V1_7, PluginStart::External)
    }),
    ("demo_1_7", Needs::Node(Version::V1_7), |stage| pods::demo(stage, Version::V1_7)),
    ("demo_2_1", Needs::Node(Version::V2_1), |stage| pods::demo(stage, Version::V2_1)),
    ("traffic_2_4", Needs::Node(Version::V2_4), |stage| {
        pods::traffic(stage, Version::V2_4, PluginStart::External)
    }),
    ("demo_2_4", Needs::Node(Version::V2_4), |stage| pods::demo(stage, Version::V2_4)),
];

fn main() -> ExitCode {
    let case = |(name, needs, test): Test| {
        Case::new(name, needs.unmet(), move |stage: &mut Stage| stage.play(test))
    };
    suite::run(Stage::default(), TESTS.map(case).into(), Stage::clear)
}
