//! `ringway-runtime`: an OCI runtime that gives containers which opted in to Ringway what the NRI plugin gives pods, and is
//! runc or crun for everything else.
//!
//! Decides nothing: what a command line means is for `runtime-shim-core`, what a container gets for `ringway-nri`. It always ends by
//! becoming the real runtime (exec, no child), so that signals, exit code and file descriptors are the runtime's own. Nobody
//! depends on it.
#![forbid(unsafe_code)]

mod bundle;
mod convert;
mod failure;
mod labels;
mod node;
mod privileges;
mod runtime;
mod settings;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use ringway_config::RuntimeConfig;
use runtime_shim_core::command_line::{self, CommandLine, Intent};
use runtime_shim_core::edit::{self, Edit};
use runtime_shim_core::wish::{self, Outside};

use crate::bundle::Bundle;
use crate::privileges::Lowered;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let own_name = arguments.next().unwrap_or_default();
    let arguments: Vec<OsString> = arguments.collect();
    let line = command_line::parse(&arguments);
    let error = match run(&own_name, &arguments, &line) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    failure::tell(&line, &error);
    ExitCode::FAILURE
}

/// Comes back with an error only.
fn run(
    own_name: &std::ffi::OsStr,
    arguments: &[OsString],
    line: &CommandLine,
) -> Result<std::convert::Infallible> {
    let settings = match settings::load() {
        Ok(settings) => settings,
        // Containers that run must be stopped and removed whatever is in the file.
        Err(_) if !matches!(line.intent, Intent::Start { .. }) => RuntimeConfig::default(),
        Err(error) => return Err(error.into()),
    };
    let runtime = runtime::name(own_name, &settings);
    match &line.intent {
        Intent::Start { id, bundle, config } => {
            let lowered = Lowered::new();
            let file = bundle::file(bundle.as_deref(), config.as_deref());
            serve(&settings, line, &runtime, id, &file)?;
            lowered.raise()?;
        }
        Intent::Delete { id } => {
            let lowered = Lowered::new();
            let root = state_directory(line, &runtime);
            // A node that is away finds out by itself when it is back; the deletion goes on in any case.
            node::release(&settings, &root, id);
            lowered.raise()?;
        }
        Intent::Other => {}
    }
    Ok(runtime::exec(&runtime, arguments)?)
}

/// Where the real runtime keeps its containers: with the id it says which container is meant.
fn state_directory(line: &CommandLine, runtime: &Path) -> String {
    let root = line.root.clone().unwrap_or_else(|| {
        let name = runtime.file_name().unwrap_or_default();
        PathBuf::from("/run").join(name)
    });
    std::path::absolute(&root).unwrap_or(root).to_string_lossy().into_owned()
}

/// Edits the configuration of a container that opted in.
fn serve(
    settings: &RuntimeConfig,
    line: &CommandLine,
    runtime: &Path,
    id: &str,
    file: &Path,
) -> Result<()> {
    let mut bundle = match Bundle::read(file) {
        Ok(bundle) => bundle,
        // The real runtime says what is wrong with it, as it always did.
        Err(error) if error.is_for_runtime() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let namespace = convert::namespace(file, id);
    let labels = if settings.labels && wish::may_have_labels(&bundle.config)? {
        labels::find(&bundle.config, id, namespace.as_deref())
    } else {
        None
    };
    let outside = Outside { id, systemd_cgroup: line.systemd_cgroup, labels: labels.as_ref() };
    let Some(wish) = wish::read(&bundle.config, outside)? else { return Ok(()) };
    let root = state_directory(line, runtime);
    let granted = node::create(settings, convert::request(&root, id, namespace, &wish))?;
    // None of its annotations was meant for this container.
    if granted.mounts.is_empty() {
        return Ok(());
    }
    for note in &granted.notes {
        eprintln!("ringway: {note}");
    }
    let mut edits = edit::plan(id, &wish, convert::adjustment(granted));
    if settings.allow_memory_policy {
        edits.push(Edit::AllowMemoryPolicy);
    }
    edit::apply(&mut bundle.config, edits)?;
    // Should this or anything behind it fail, the node takes everything back when this process ends.
    bundle.replace().context("cannot edit the container's configuration")
}
