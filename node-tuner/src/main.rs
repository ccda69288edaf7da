//! `ringway-tuner`: looks at a node, makes of it what a profile says, keeps it so, and takes it back.
//!
//! Wires the parts together: what is to be done is decided by `node-tuner-core`. Touches no packet and no pod, reboots
//! nothing, and edits no boot loader. Nobody depends on it.
#![forbid(unsafe_code)]

mod agent;
mod allocator;
mod args;
mod cluster;
mod ethtool;
mod machine;
mod node;
mod observe;
mod store;
mod text;
mod vrouters;

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory as _, Parser as _};
use node_tuner_core::plan::Refused;
use ringway_config::{ConfigError, NodeProfile, PROFILES};

use crate::args::{Arguments, Command};
use crate::node::Target;

/// A profile asks for what this node can't or shall not do.
const REFUSED: u8 = 3;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments, &mut io::stdout().lock()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be done if stderr is closed too.
            let _ = writeln!(io::stderr(), "ringway-tuner: {error:#}");
            if error.is::<Refused>() { ExitCode::from(REFUSED) } else { ExitCode::FAILURE }
        }
    }
}

/// Whoever reads has seen enough, as with `| head`.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

async fn run(arguments: Arguments, out: &mut impl io::Write) -> Result<()> {
    match arguments.command {
        Command::Profile { name } => return print_profile(name.as_deref(), out),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "ringway-tuner", out);
            return Ok(());
        }
        _ => {}
    }
    let mut target = Target::open(arguments.node)?;
    match arguments.command {
        Command::Report { json } => {
            let (node, journal) = (target.node(&[]).await?.1, store::read(target.state())?);
            write!(out, "{}", text::report(&node, &journal, json)?)?;
        }
        Command::Plan { profile, json, all } => {
            let profile = load(&profile.profile)?;
            let journal = store::read(target.state())?;
            let (_, plan) = target.plan(&profile, journal.unwritable()).await?;
            write!(out, "{}", text::plan(&plan, json, all)?)?;
        }
        Command::Apply { profile } => {
            let profile = load(&profile.profile)?;
            target.apply(&profile, out).await?;
        }
        Command::Revert => target.revert(out).await?,
        Command::Run { cluster, .. } if cluster.kubernetes => {
            cluster::run(&mut target, &cluster, out).await?;
        }
        Command::Run { profile, .. } => {
            agent::run(&mut target, load(&profile.profile)?, out).await?;
        }
        Command::Capture { directory } => {
            let (observed, _) = target.node(&[]).await?;
            observe::capture(&observed, &directory)?;
            writeln!(out, "written to {}", directory.display())?;
        }
        Command::Profile { .. } | Command::Completions { .. } => {}
    }
    Ok(())
}

/// The profile in that file, or the one that comes with Ringway by that name.
fn load(name: &str) -> Result<NodeProfile> {
    if let Some((_, text)) = PROFILES.iter().find(|(known, _)| *known == name) {
        return Ok(NodeProfile::from_toml(text, Path::new(name))?);
    }
    let file = Path::new(name);
    let text = std::fs::read_to_string(file)
        .map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source });
    let names: Vec<&str> = PROFILES.iter().map(|(name, _)| *name).collect();
    let text = text.with_context(|| {
        format!("no such profile; --profile takes a file or one of {}", names.join(", "))
    })?;
    Ok(NodeProfile::from_toml(&text, file)?)
}

fn print_profile(name: Option<&str>, out: &mut impl io::Write) -> Result<()> {
    match name {
        Some(name) => {
            let found = PROFILES.iter().find(|(known, _)| *known == name);
            let (_, text) = found.with_context(|| {
                format!("no profile {name:?} comes with Ringway; `ringway-tuner profile` lists those that do")
            })?;
            write!(out, "{text}")?;
        }
        None => {
            for (name, text) in PROFILES {
                let profile = NodeProfile::from_toml(text, Path::new(name))?;
                writeln!(out, "{name:<14} {}", profile.description)?;
            }
        }
    }
    Ok(())
}
