//! `ringway`: shows and changes what one vRouter does, over its control API.
//!
//! Keeps no state and decides nothing: it asks, converts and prints. Nobody depends on it.
#![forbid(unsafe_code)]

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

mod args;
mod call;
mod doctor;
mod failure;
mod nics;
mod pcap;
mod routes;
mod run;
mod table;
mod text;
mod view;

use failure::Failure;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // Prints usage errors and ends with 2 by itself, `--help` with 0.
    let args = args::Args::parse();
    match run::run(&args, &mut io::stdout().lock()).await {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough, as with `| head`.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            // Nothing is left to be done if stderr is closed too.
            let _ = writeln!(io::stderr(), "ringway: {}", table::plain(&failure.to_string()));
            failure.exit_code()
        }
    }
}
