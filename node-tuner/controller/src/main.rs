//! `ringway-controller`: gives each node's tuner its parameters, and tells the scheduler where a pod fits.
//!
//! Wires the parts together; they are in the library of this crate.
#![forbid(unsafe_code)]

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser as _;
use node_tuner_controller::args::{Arguments, Command};
use node_tuner_controller::{control, extender, offline};
use node_tuner_kubernetes::client;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

// The lease is renewed while thousands of nodes are looked at, and a scheduler's question does not wait for reports being read.
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be done if stderr is closed too.
            let _ = writeln!(io::stderr(), "ringway-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    match &arguments.command {
        Command::Crds => return offline::crds(&mut io::stdout().lock()),
        Command::Profiles => return offline::profiles(&mut io::stdout().lock()),
        Command::Run(_) | Command::Extender(_) => {}
    }
    let filter = EnvFilter::try_new(&arguments.log).context("--log")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
    let client = client(arguments.kubeconfig.as_deref()).await?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let ended = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    match &arguments.command {
        Command::Run(run) => control::run(client, run, ended).await,
        Command::Extender(extender) => extender::run(client, extender, ended).await,
        Command::Crds | Command::Profiles => Ok(()),
    }
}
