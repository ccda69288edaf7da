//! `ringway-tuner` on this very machine: what it has is changed, read back by other means, and given back as it was, byte
//! for byte, wherever the program is cut off.
#![forbid(unsafe_code)]

mod agent;
mod bed;
mod cut;
mod modes;
mod rings;
mod whole;

use std::process::ExitCode;

use anyhow::Result;
use integration::machine;
use integration::suite::{self, Case};

type Test = (&'static str, fn() -> Result<()>);

const TESTS: [Test; 8] = [
    ("applied_read_back_and_reverted", whole::applied_read_back_and_reverted),
    ("refused_with_nothing_done", whole::refused_with_nothing_done),
    ("captured_and_planned_elsewhere", whole::captured_and_planned_elsewhere),
    ("killed_at_every_byte_of_its_journal", cut::killed_at_every_byte_of_its_journal),
    ("drift_is_repaired_until_it_is_a_fight", agent::drift_is_repaired_until_it_is_a_fight),
    ("workers_follow_the_profile", agent::workers_follow_the_profile),
    (
        "workers_do_what_the_profile_says_when_idle",
        modes::workers_do_what_the_profile_says_when_idle,
    ),
    ("a_ring_follows_what_its_card_drops", rings::a_ring_follows_what_its_card_drops),
];

fn main() -> ExitCode {
    let unfit = machine::unfit_for_dpdk().or_else(bed::unfit);
    let case = |(name, test): Test| Case::new(name, unfit.clone(), move |()| test());
    suite::run((), TESTS.map(case).into(), |()| ())
}
