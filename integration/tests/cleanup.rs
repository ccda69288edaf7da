//! Whatever happens to the demo half way, nothing of it is left on the machine, at the latest when the next run begins.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use integration::containerd::Version;
use integration::machine::unfit;
use integration::readback;
use integration::suite::{self, Case};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What a run may change on the machine.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    directories: Vec<String>,
    mounts: Vec<String>,
    cgroups: Vec<String>,
    processes: Vec<String>,
    hugepages: u64,
}

/// Looks at the machine; `rwtest-` marks what belongs to a run.
fn look() -> Result<Machine> {
    let names = |parent: &Path| -> Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(parent)? {
            let path = entry?.path().display().to_string();
            if path.contains("rwtest-") {
                found.push(path);
            }
        }
        Ok(found)
    };
    let mut directories = names(Path::new("/run"))?;
    directories.extend(names(Path::new("/var/lib"))?);
    let mut mounts = Vec::new();
    let mut cgroups = Vec::new();
    for mount in readback::mounts(None)? {
        if mount.kind.starts_with("cgroup") {
            cgroups.extend(names(&mount.target)?);
        }
        // Others may mount what they like meanwhile.
        let target = mount.target.display().to_string();
        if mount.kind.starts_with("cgroup") || target.contains("rwtest-") {
            mounts.push(target);
        }
    }
    mounts.sort();
    let processes = readback::processes()?
        .into_iter()
        .filter(|process| {
            process.cgroups.iter().any(|path| path.contains("rwtest-"))
                || process.command_line.iter().any(|argument| argument.contains("/rwtest-"))
        })
        .map(|process| format!("{} {:?}", process.pid, process.command_line))
        .collect();
    let hugepages = readback::number("/proc/sys/vm/nr_hugepages")?;
    Ok(Machine { directories, mounts, cgroups, processes, hugepages })
}

/// The demo, started and arrived at the line of its output that contains `mark`.
fn demo_at(mark: &str) -> Result<(Child, BufReader<std::process::ChildStdout>)> {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_ringway-demo"))
        .arg("--report")
        .arg(std::env::temp_dir().join(format!("ringway-cleanup-{}.json", std::process::id())))
        .stdout(Stdio::piped())
        .spawn()?;
    let mut output = BufReader::new(demo.stdout.take().context("no output")?);
    loop {
        let mut line = String::new();
        ensure!(
            output.read_line(&mut line)? > 0,
            "the demo ended before {mark:?}: {}",
            demo.wait()?
        );
        if line.contains(mark) {
            return Ok((demo, output));
        }
    }
}

fn signal(demo: &Child, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(i32::try_from(demo.id())?), signal)?)
}

/// Whoever stops the demo in the middle of the traffic gets the machine back.
fn interrupted() -> Result<()> {
    let before = look()?;
    let (mut demo, output) = demo_at("red-a sends to red-b")?;
    signal(&demo, Signal::SIGINT)?;
    // Its output is read on, or it would end on a closed pipe and not by itself.
    for line in output.lines() {
        line?;
    }
    let ended = demo.wait()?;
    ensure!(!ended.success(), "an interrupted demo says that all is well");
    let after = look()?;
    ensure!(before == after, "left by the interrupted demo: {after:?}\nbefore: {before:?}");
    Ok(())
}

/// SIGKILL leaves everything running; the next run takes it away.
fn killed() -> Result<()> {
    let before = look()?;
    let (mut demo, _output) = demo_at("creating four pods")?;
    demo.kill()?;
    demo.wait()?;
    ensure!(!look()?.directories.is_empty(), "the demo was not in the middle of anything");
    let clean = Command::new(env!("CARGO_BIN_EXE_ringway-demo")).arg("--clean").status()?;
    ensure!(clean.success(), "--clean ended with {clean}");
    let after = look()?;
    ensure!(before == after, "left after --clean: {after:?}\nbefore: {before:?}");
    Ok(())
}

fn main() -> ExitCode {
    type Test = fn() -> Result<()>;
    let tests: [(&str, Test); 2] = [("interrupted", interrupted), ("killed", killed)];
    let unfit = unfit(Version::V2_1);
    let cases = tests.map(|(name, test)| Case::new(name, unfit.clone(), move |()| test()));
    suite::run((), cases.into(), |()| ())
}
