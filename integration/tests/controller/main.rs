//! `ringway-controller` and `ringway-tuner run --kubernetes` against a real etcd, API server and scheduler: what profiles come to, how
//! they reach nodes, and where pods go. The node of this machine is tuned for real; others are played by `ringway-agents`.
#![forbid(unsafe_code)]

mod api;
mod placement;
mod rollout;
mod scale;
mod this_node;

use std::process::ExitCode;

use anyhow::Result;
use integration::machine;
use integration::suite::{self, Case};

use crate::api::Api;

type Test = (&'static str, fn(&mut Api) -> Result<()>);

const TESTS: [Test; 6] = [
    ("manifests_are_accepted_and_validated", rollout::manifests_are_accepted_and_validated),
    ("this_node_becomes_what_its_profile_says", this_node::this_node_becomes_what_its_profile_says),
    ("a_node_that_fails_stops_the_rollout", rollout::a_node_that_fails_stops_the_rollout),
    ("another_leads_when_the_leader_is_killed", rollout::another_leads_when_the_leader_is_killed),
    (
        "pods_go_where_one_numa_node_has_all_of_it",
        placement::pods_go_where_one_numa_node_has_all_of_it,
    ),
    ("a_thousand_agents", scale::a_thousand_agents),
];

fn main() -> ExitCode {
    let unfit = machine::unfit_for_dpdk().or_else(api::unfit);
    let case = |(name, test): Test| {
        Case::new(name, unfit.clone(), move |stage: &mut Option<Api>| {
            test(suite::started(stage, Api::start)?)
        })
    };
    suite::run(None, TESTS.map(case).into(), |stage| drop(stage.take()))
}
