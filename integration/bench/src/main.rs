//! `ringway-bench`: measures the vRouter beside other vhost-user switches on this machine and reports ratios.
//!
//! It starts switches and the generator as programs and reads what they count; it knows no ring and no packet itself, and it
//! judges by what the generator received, never by what a switch says it forwarded. Nobody depends on it.
#![forbid(unsafe_code)]

mod apart;
mod args;
mod cells;
mod disturbance;
mod generator;
mod machine;
mod measure;
mod plot;
mod probe;
mod report;
mod run;
mod sample;
mod schedule;
mod stats;
mod switch;
mod table;
mod threads;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::args::{Arguments, Role};

fn main() -> ExitCode {
    match act(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything that was measured is as it must be.
fn act(arguments: &Arguments) -> Result<bool> {
    match &arguments.role {
        Some(Role::IdlePods(pods)) => integration::idle_pods::serve(&pods.sockets).map(|()| true),
        None if arguments.list => {
            print!("{}", table::list(&cells::select(&arguments.cells, &arguments.switches)?));
            Ok(true)
        }
        None => run::run(arguments),
    }
}
