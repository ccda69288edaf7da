//! Several vRouters on one machine, with a real containerd and the plugin: each pod is served by one of them, pods of one network
//! reach each other through memory that the two share, and one that is killed comes back.
//!
//! The machine has one NUMA node as a rule, so both vRouters are told to use that; what depends on two nodes is tried in a
//! virtual machine. The tests share the node.
#![forbid(unsafe_code)]

mod between;
mod devices;
mod kernel;
mod lost;
mod placed;

use std::process::ExitCode;

use anyhow::Result;
use integration::containerd::Version;
use integration::node::{Node, PluginStart, Setup};
use integration::stage::{Needs, Stage, Test};
use integration::suite::{self, Case};

const TESTS: [Test; 5] = [
    ("pods_are_placed_and_told_where", Needs::Node(Version::V2_1), placed::and_told_where),
    ("pods_of_two_vrouters_reach_each_other", Needs::Node(Version::V2_1), between::both_ways),
    ("pods_without_dpdk_find_each_other", Needs::Node(Version::V2_1), kernel::pods_find_each_other),
    ("a_vrouter_is_lost_and_comes_back", Needs::Node(Version::V2_1), lost::and_back),
    ("a_device_has_one_vrouter", Needs::Node(Version::V2_1), devices::have_one_owner),
];

fn main() -> ExitCode {
    let case = |(name, needs, test): Test| {
        let unfit = needs.unmet().or_else(too_few_cpus);
        Case::new(name, unfit, move |stage: &mut Stage| stage.play(test))
    };
    suite::run(Stage::default(), TESTS.map(case).into(), Stage::clear)
}

/// Each of the two vRouters has a CPU of its own.
fn too_few_cpus() -> Option<String> {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cpus < 2).then(|| "it takes two CPUs".to_owned())
}

/// The vRouters, as the frame of the tests has them, and a bridged network.
const SETTINGS: &str = r#"
[[networks]]
name = "flat"
mode = "bridged"
ipv4 = "10.88.0.0/24"
ipv6 = "fd00:88::/64"
[[instances]]
number = 0
numa_node = 0
cpus = [0]
[[instances]]
number = 1
numa_node = 0
cpus = [1]
"#;

/// The node with two vRouters that all tests share.
pub fn node(stage: &mut Stage) -> Result<&mut Node> {
    let setup = Setup::new(Version::V2_1, PluginStart::External);
    stage.node(&Setup { instances: 2, instance_settings: SETTINGS.to_owned(), ..setup })
}
