//! Containers started through `ringway-runtime`, by everything that starts containers without CRI.
//!
//! The tests share the machine, so they run one after another; those with the same set-up share one node.
#![forbid(unsafe_code)]

mod bare;
mod ctr;
mod inside;
mod managers;
mod nerdctl;
mod recovery;

use std::process::ExitCode;

use anyhow::Result;
use integration::containerd::Version;
use integration::suite::{self, Case};
use integration::{machine, wrapper};

use integration::stage::Stage;

/// The line that most tests use.
const NODE: Version = Version::V2_1;

/// Program that the test needs beside the node's, if any; name, containerd, function.
type With = (Option<&'static str>, (&'static str, Version, fn(&mut Stage) -> Result<()>));

/// In this order: a new node is started only where the set-up changes.
const TESTS: [With; 26] = [
    (None, ("runc", NODE, bare::runc)),
    (Some("crun"), ("crun", NODE, bare::crun)),
    (None, ("other_verbs_are_the_runtimes", NODE, bare::other_verbs)),
    (None, ("refusals_are_one_line_in_the_log", NODE, bare::refusals)),
    (None, ("a_start_that_fails_leaves_nothing", NODE, bare::failed_start)),
    (None, ("what_it_costs", NODE, bare::cost)),
    (None, ("ctr_2_1", NODE, |stage| ctr::traffic(stage, Version::V2_1))),
    (None, ("labels", NODE, ctr::labels)),
    (None, ("inside", NODE, inside::every_way)),
    (None, ("pods_of_cri_are_left_alone", NODE, ctr::cri)),
    (Some("containerd-1.6"), ("ctr_1_6", NODE, ctr::old)),
    (Some("podman"), ("podman", NODE, managers::podman)),
    (Some("podman"), ("podman_with_cdi", NODE, managers::podman_with_cdi)),
    (Some("dockerd"), ("docker", NODE, managers::docker)),
    (Some("nerdctl"), ("nerdctl", NODE, nerdctl::annotations)),
    (Some("nerdctl"), ("nerdctl_by_labels", NODE, nerdctl::labels)),
    (Some("nerdctl"), ("nerdctl_starts_again", NODE, nerdctl::starts_again)),
    (Some("nerdctl"), ("nerdctl_with_cdi", NODE, nerdctl::device)),
    (Some("nerdctl"), ("nerdctl_with_plain_runc", NODE, nerdctl::plain_runc)),
    (Some("nerdctl"), ("nerdctl_first_steps", NODE, nerdctl::first_steps)),
    (None, ("plugin_restart", NODE, recovery::plugin_restart)),
    (None, ("vrouter_restart", NODE, recovery::vrouter_restart)),
    (None, ("run_without_delete", NODE, recovery::run_without_delete)),
    (None, ("everything_killed", NODE, recovery::everything_killed)),
    (None, ("node_down", NODE, recovery::node_down)),
    (None, ("ctr_1_7", Version::V1_7, |stage| ctr::traffic(stage, Version::V1_7))),
];

fn missing(program: Option<&str>) -> Option<String> {
    match program {
        None => None,
        Some("containerd-1.6") => ctr::old_program("containerd").err(),
        Some(program) => wrapper::manager(program).err(),
    }
}

fn main() -> ExitCode {
    let case = |(program, (name, version, test)): With| {
        let unfit = machine::unfit(version).or_else(|| missing(program));
        Case::new(name, unfit, move |stage: &mut Stage| stage.play(test))
    };
    suite::run(Stage::default(), TESTS.map(case).into(), Stage::clear)
}
