//! Pods on a machine with two NUMA nodes and a vRouter on each: containerd, the plugin and both vRouters place a pod where it asks for, and
//! all that is the pod's is on that node, down to the NIC and the address that other hosts see. Pods on different nodes reach each other
//! through memory that the vRouters share. Runs in the machine of `make test-numa` only, whose NICs it binds to VFIO.
//!
//! What was found is written to `target/numa/report.json`: the demo's report, and for each pod where its parts are.
#![forbid(unsafe_code)]

mod bed;
mod cases;
mod seen;

use std::process::ExitCode;

use anyhow::{Context, Result};
use integration::containerd::Version;
use integration::machine;
use integration::qemu::numa;
use integration::suite::{self, Case};

use bed::Bed;

type Test = (&'static str, fn(&mut Bed) -> Result<()>);

const TESTS: [Test; 4] = [
    ("what_no_node_has_is_refused_or_spread", cases::refused_or_spread),
    ("pods_are_where_they_ask_to_be", cases::placed),
    ("pods_on_both_nodes_reach_each_other", cases::between),
    ("other_hosts_see_the_end_of_the_pods_node", cases::outside),
];

fn main() -> ExitCode {
    let outside = std::env::var_os(numa::VARIABLE)
        .is_none()
        .then(|| "runs in the machine of `make test-numa` only".to_owned());
    let unfit =
        outside.or_else(|| machine::unfit(Version::V2_1)).or_else(integration::space::unfit);
    let case = |(name, test): Test| {
        Case::new(name, unfit.clone(), move |bed: &mut Option<Bed>| {
            let bed = suite::started(bed, Bed::start)?;
            test(bed).with_context(|| bed.story())
        })
    };
    suite::run(None, TESTS.map(case).into(), |bed| {
        if let Some(bed) = bed.take()
            && let Err(error) = bed.conclude()
        {
            eprintln!("no report: {error:#}");
        }
    })
}
