//! `ringway-controller`: gives each node's tuner its parameters, and tells the scheduler where a pod fits.
//!
//! Wires the parts together: what is decided is decided by `node-tuner-cluster`. Keeps nothing: all state is in Kubernetes.
//! Nobody depends on it.
#![forbid(unsafe_code)]

mod args;
mod control;
mod extender;
mod leader;
mod mirror;
mod offline;
mod placement;
mod publish;
mod tls;

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser as _;
use node_tuner_kubernetes::client;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::args::{Arguments, Command};

// The lease is renewed, and the extender asked, while thousands of nodes are looked at.
#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
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
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
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
