//! The frame around a suite of live tests: one after the other, on a stage that they share and that is cleared before the
//! process ends.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};

use crate::wait;

type Play<S> = Box<dyn FnOnce(&mut S) -> Result<()> + Send>;

/// A test on a stage.
pub struct Case<S> {
    name: String,
    /// Why this machine can't run it.
    unfit: Option<String>,
    test: Play<S>,
}

impl<S> Case<S> {
    /// `unfit`: why this machine can't run it, if so; it is then told and counted as ignored.
    pub fn new(
        name: impl Into<String>,
        unfit: Option<String>,
        test: impl FnOnce(&mut S) -> Result<()> + Send + 'static,
    ) -> Self {
        Self { name: name.into(), unfit, test: Box::new(test) }
    }
}

/// Runs what the command line names, in order; `clear` comes last, and also after failures and a signal.
pub fn run<S: Send + 'static>(
    stage: S,
    cases: Vec<Case<S>>,
    clear: impl FnOnce(&mut S),
) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if let Err(error) = wait::stop_on_signals() {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    let skipped: Vec<_> =
        cases.iter().filter_map(|case| Some((&case.name, case.unfit.as_ref()?))).collect();
    if !arguments.list && !skipped.is_empty() {
        skipped.iter().for_each(|(name, reason)| println!("SKIP {name}: {reason}"));
        println!("SKIP: {} tests cannot run on this machine", skipped.len());
    }
    let stage = Arc::new(Mutex::new(stage));
    let trial = |case: Case<S>| {
        let stage = Arc::clone(&stage);
        let ignored = case.unfit.is_some();
        let play = move || {
            let mut stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
            let ended = (case.test)(&mut stage);
            // Others are told at the end, which there may be an hour away.
            if let (Err(error), true) = (&ended, wait::slowness() > 1) {
                println!("{error:#}");
            }
            ended.map_err(|error| Failed::from(format!("{error:#}")))
        };
        Trial::test(case.name, play).with_ignored_flag(ignored)
    };
    let conclusion = libtest_mimic::run(&arguments, cases.into_iter().map(trial).collect());
    // Before the process ends: a static would never be dropped.
    clear(&mut stage.lock().unwrap_or_else(PoisonError::into_inner));
    conclusion.exit_code()
}

/// What is on the stage; it is built for the first test that asks.
///
/// # Errors
/// Those of `start`.
pub fn started<S>(stage: &mut Option<S>, start: impl FnOnce() -> Result<S>) -> Result<&mut S> {
    if stage.is_none() {
        *stage = Some(start()?);
    }
    stage.as_mut().context("nothing was built")
}
