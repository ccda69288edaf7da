//! `make demo`: starts everything, shows it, writes the report, cleans up.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use integration::containerd::Version;
use integration::machine::{program, repository, unfit};
use integration::node::Node;
use integration::{demo, rundir, wait};

/// Shows two unprivileged DPDK pods talking through the vRouter.
#[derive(Debug, Parser)]
struct Arguments {
    /// Leave everything running and say how to look around.
    #[arg(long)]
    keep: bool,
    /// Only remove what an earlier run left or kept.
    #[arg(long)]
    clean: bool,
    /// Where the report is written.
    #[arg(long, default_value_os_t = repository().join("target/demo/report.json"))]
    report: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    wait::stop_on_signals()?;
    if arguments.clean {
        rundir::sweep_all()?;
        return Ok(true);
    }
    let version = Version::from_environment()?;
    if let Some(reason) = unfit(version) {
        anyhow::bail!("this machine cannot run the demo: {reason}");
    }
    // A report of an earlier run must not be taken for this one's.
    match std::fs::remove_file(&arguments.report) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let (mut node, report) = demo::run(&demo::setup(version))?;
    println!("\n{}", report.table());
    report.write(&arguments.report)?;
    println!("report: {}", arguments.report.display());
    if arguments.keep {
        node.keep();
        hints(&node)?;
    } else {
        drop(node);
        println!("cleaned up");
    }
    println!("{}", if report.ok { "ok" } else { "FAILED" });
    Ok(report.ok)
}

fn hints(node: &Node) -> Result<()> {
    let socket = node.vrouter()?.socket().display().to_string();
    let ringway = program("ringway")?.display().to_string();
    let containerd = node.containerd()?;
    println!(
        "\neverything is still running; look around with\n\
         \x20 {ringway} --socket {socket} ports\n\
         \x20 {ringway} --socket {socket} stats\n\
         \x20 {ringway} --socket {socket} drops\n\
         \x20 {} --address {} --namespace k8s.io containers list\n\
         \x20 crictl --runtime-endpoint unix://{} ps      (where crictl is installed)\n\
         \x20 less {}/*.log {}/logs/*/*/*.log\n\
         and remove it with\n\
         \x20 make clean-demo",
        containerd.version().program("ctr").display(),
        containerd.socket().display(),
        containerd.socket().display(),
        node.run().path().display(),
        node.run().path().display(),
    );
    Ok(())
}
