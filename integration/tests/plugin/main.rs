//! The plugin over the life of pods, of containerd and of itself: limits, CPUs of others, kills, restarts, many pods.
//!
//! The tests share the machine, so they run one after another; those with the same set-up share one node.
#![forbid(unsafe_code)]

mod arrival;
mod cdi;
mod containers;
mod cpus;
mod daemons;
mod doctor;
mod inside;
mod limits;
mod links;
mod neighbour;
mod storm;
mod wire;

use std::process::ExitCode;

use integration::containerd::Version;
use integration::node::{PluginStart, Setup};
use integration::stage::{Needs, Stage, Test};
use integration::suite::{self, Case};

/// In this order: a new node is started only where the set-up changes.
const TESTS: [Test; 35] = [
    ("several_containers", Needs::Node(Version::V2_1), containers::several),
    ("same_name_again", Needs::Node(Version::V2_1), containers::same_name_again),
    ("cpus_of_ours_stay", Needs::Node(Version::V2_1), cpus::ours_stay),
    ("second_plugin", Needs::Node(Version::V2_1), daemons::second_plugin),
    ("hanging_vrouter", Needs::Node(Version::V2_1), daemons::hanging_vrouter),
    ("vrouter_dies_in_between", Needs::Node(Version::V2_1), daemons::vrouter_dies_in_between),
    ("killed_plugin", Needs::Node(Version::V2_1), daemons::killed_plugin),
    ("plugin_comes_meanwhile", Needs::Node(Version::V2_1), arrival::among_pods_that_start),
    ("restarted_containerd", Needs::Node(Version::V2_1), daemons::restarted_containerd),
    ("interfaces_of_the_kernel", Needs::Node(Version::V2_1), links::of_the_kernel),
    ("doctor_well", Needs::Node(Version::V2_1), doctor::of_a_node_that_is_well),
    ("doctor_unwell", Needs::Node(Version::V2_1), doctor::of_a_node_that_is_not),
    ("doctor_not_connected", Needs::Node(Version::V2_1), doctor::of_a_plugin_that_is_not_connected),
    ("doctor_repairs_2_1", Needs::Node(Version::V2_1), |stage| {
        doctor::repairs(stage, Version::V2_1)
    }),
    ("two_plugins_set_cpus", Needs::Node(Version::V2_1), neighbour::both_set_cpus),
    ("storm", Needs::Node(Version::V2_1), storm::comes_and_goes),
    ("plugin_killed_in_a_storm", Needs::Node(Version::V2_1), storm::plugin_killed_meanwhile),
    ("inside_2_1", Needs::Node(Version::V2_1), |stage| {
        inside::of_a_confined_pod(stage, Version::V2_1)
    }),
    ("inside_own_users", Needs::Node(Version::V2_1), inside::of_a_pod_with_its_own_users),
    ("cdi_2_1", Needs::Node(Version::V2_1), |stage| cdi::in_pods(stage, Version::V2_1)),
    ("cdi_file_is_right", Needs::Node(Version::V2_1), cdi::file_is_right),
    ("wire_2_1", Needs::Node(Version::V2_1), |stage| wire::is_recorded(stage, Version::V2_1)),
    ("limits", Needs::Node(Version::V2_1), limits::refuse),
    ("address_plugin", Needs::Node(Version::V2_1), limits::address_plugin),
    ("cpus_of_others_are_followed", Needs::Node(Version::V2_1), cpus::others_are_followed),
    ("two_plugins_and_followed_cpus", Needs::Node(Version::V2_1), neighbour::both_serve_a_pod),
    ("balloons_are_followed", Needs::Node(Version::V2_1), neighbour::balloons_are_followed),
    ("other_containers_make_way", Needs::Node(Version::V2_1), cpus::others_make_way),
    ("doctor_no_hugepages", Needs::Node(Version::V1_7), doctor::of_a_node_without_hugepages),
    ("hanging_vrouter_1_7", Needs::Node(Version::V1_7), |stage| {
        stage.node(&Setup::new(Version::V1_7, PluginStart::External))?;
        daemons::vrouter_hangs(stage)
    }),
    ("doctor_repairs_1_7", Needs::Node(Version::V1_7), |stage| {
        doctor::repairs(stage, Version::V1_7)
    }),
    ("inside_1_7", Needs::Node(Version::V1_7), |stage| {
        inside::of_a_confined_pod(stage, Version::V1_7)
    }),
    ("cdi_1_7", Needs::Node(Version::V1_7), |stage| cdi::in_pods(stage, Version::V1_7)),
    ("wire_1_7", Needs::Node(Version::V1_7), |stage| wire::is_recorded(stage, Version::V1_7)),
    ("restarted_containerd_1_7", Needs::Node(Version::V1_7), |stage| {
        daemons::comes_again(stage, Version::V1_7)
    }),
];

/// Of 2.4 alone.
const OF_2_4: [Test; 3] = [
    ("several_containers_2_4", Needs::Node(Version::V2_4), |stage| {
        stage.node(&Setup::new(Version::V2_4, PluginStart::External))?;
        containers::several_on(stage.current()?)
    }),
    ("inside_2_4", Needs::Node(Version::V2_4), |stage| {
        inside::of_a_confined_pod(stage, Version::V2_4)
    }),
    ("cdi_2_4", Needs::Node(Version::V2_4), |stage| cdi::in_pods(stage, Version::V2_4)),
];

/// What is asked of every containerd that Go builds.
macro_rules! of_built {
    ($version:expr, $name:literal) => {{
        const OF: [Test; 6] = [
            (concat!("hanging_vrouter_", $name), Needs::Node($version), |stage| {
                stage.node(&Setup::new($version, PluginStart::External))?;
                daemons::vrouter_hangs(stage)
            }),
            (concat!("required_plugin_", $name), Needs::Node($version), |stage| {
                daemons::required_plugin(stage, $version)
            }),
            (concat!("second_plugin_", $name), Needs::Node($version), |stage| {
                daemons::second_refuses(stage.node(&Setup::new($version, PluginStart::External))?)
            }),
            (concat!("killed_plugin_", $name), Needs::Node($version), |stage| {
                daemons::plugin_dies(stage.node(&Setup::new($version, PluginStart::External))?)
            }),
            (concat!("wire_", $name), Needs::Node($version), |stage| {
                wire::is_recorded(stage, $version)
            }),
            (concat!("restarted_containerd_", $name), Needs::Node($version), |stage| {
                daemons::comes_again(stage, $version)
            }),
        ];
        OF
    }};
}

fn main() -> ExitCode {
    let case = |(name, needs, test): Test| {
        // What some need beside the node itself.
        let unmet = needs.unmet().or_else(|| match name {
            "two_plugins_set_cpus" | "two_plugins_and_followed_cpus" => neighbour::unmet(),
            "balloons_are_followed" => neighbour::no_balloons(),
            "cdi_file_is_right" => cdi::unmet(),
            "inside_own_users" => inside::unmet_for_own_users(),
            _ => None,
        });
        Case::new(name, unmet, move |stage: &mut Stage| stage.play(test))
    };
    let cases = TESTS
        .into_iter()
        .chain(of_built!(Version::V2_2, "2_2"))
        .chain(of_built!(Version::V2_3, "2_3"))
        .chain(of_built!(Version::V2_4, "2_4"))
        .chain(OF_2_4);
    suite::run(Stage::default(), cases.map(case).collect(), Stage::clear)
}
