//! `ringway-controller` and `ringway-tuner run --kubernetes` against a real etcd, API server and scheduler: what profiles come to, how
//! they reach nodes, and where pods go. The node of this machine is tuned for real; others are played by `ringway-agents`.
#![forbid(unsafe_code)]

mod api;
mod extender;
mod own_node;
mod placement;
mod refused;
mod repaired;
mod rollout;
mod scale;
mod this_node;
mod tls;
mod trouble;

use std::process::ExitCode;

use anyhow::Result;
use integration::machine;
use integration::suite::{self, Case};

use crate::api::Api;

type Test = (&'static str, fn(&mut Api) -> Result<()>);

const TESTS: [Test; 12] = [
    ("manifests_are_accepted_and_validated", rollout::manifests_are_accepted_and_validated),
    ("an_agent_reports_for_its_own_node_only", own_node::an_agent_reports_for_its_own_node_only),
    ("this_node_becomes_what_its_profile_says", this_node::this_node_becomes_what_its_profile_says),
    ("what_others_change_is_put_right", repaired::what_others_change_is_put_right),
    ("a_node_that_fails_stops_the_rollout", rollout::a_node_that_fails_stops_the_rollout),
    ("what_is_refused_is_tried_less_and_less", refused::what_is_refused_is_tried_less_and_less),
    (
        "a_server_that_throttles_is_asked_less_and_less",
        trouble::a_server_that_throttles_is_asked_less_and_less,
    ),
    ("a_server_without_its_store_is_waited_for", trouble::a_server_without_its_store_is_waited_for),
    ("another_leads_when_the_leader_is_killed", rollout::another_leads_when_the_leader_is_killed),
    (
        "pods_go_where_one_numa_node_has_all_of_it",
        placement::pods_go_where_one_numa_node_has_all_of_it,
    ),
    ("a_scheduler_asks_by_tls", tls::a_scheduler_asks_by_tls),
    ("a_thousand_agents", scale::a_thousand_agents),
];

fn main() -> ExitCode {
    let unfit = machine::unfit_for_dpdk().or_else(api::unfit);
    let case = |(name, test): Test| {
        Case::new(name, unfit.clone(), move |stage: &mut Option<Api>| {
            let api = suite::started(stage, Api::start)?;
            // Not after a test: one that fails leaves what it made.
            api.clear()?;
            test(api)
        })
    };
    suite::run(None, TESTS.map(case).into(), |stage| drop(stage.take()))
}
