//! `ringway-nri`: answers containerd's NRI events for pods that opted in to Ringway, with what `nri-plugin-core` decides
//! and the vRouter serves.
//!
//! Wires the parts together; decides nothing about a pod itself, touches no packet, and is used by nobody.
#![forbid(unsafe_code)]

mod allocator;
mod cgroups;
mod convert;
mod describe;
mod files;
mod ipam;
mod links;
mod liveness;
mod logging;
mod node_api;
mod plugin;
mod record;
mod settings;
mod sysfs;
mod unserved;
mod vrouter;
mod watch;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use nri_plugin_proto::Identity;
use nri_plugin_proto::runner::{self, Launched};
use tokio::signal::unix::{SignalKind, signal};

use crate::plugin::Ringway;
use crate::settings::Arguments;

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringway-nri: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let terminated = terminated()?;
    match Launched::from_env(std::env::var_os)? {
        Some(launched) => {
            let plugin = Arc::new(Ringway::launched(arguments));
            let outcome = runner::serve_launched(plugin, launched, terminated).await;
            if let Err(error) = &outcome {
                tracing::error!(error = error as &dyn std::error::Error, "connection failed");
            }
            outcome?;
        }
        None => {
            let settings = arguments.settings()?;
            logging::to_stderr(&settings.log)?;
            let identity = Identity::new(&settings.plugin_name, &settings.plugin_index)?;
            let socket = settings.nri_socket.clone();
            let plugin = Arc::new(Ringway::external(settings).await?);
            runner::run_external(plugin, &socket, &identity, terminated).await;
        }
    }
    tracing::info!("ended; pods keep what they have");
    Ok(())
}

/// Completes when the service manager or a person wants us to end.
fn terminated() -> Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
