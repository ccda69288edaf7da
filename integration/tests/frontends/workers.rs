//! Workers that come and go while pods send.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::machine::program;
use integration::process::Daemon;
use integration::wait;
use vrouter_api::v1::WorkerMode;

use crate::bed::Bed;
use crate::exchange::{Exchange, USUAL};

/// How often the workers change at least while packets flow.
const ROUNDS: u32 = 10;

/// As an operator does it.
fn ringway(bed: &Bed, words: &[&str]) -> Result<String> {
    let mut command = Command::new(program("ringway")?);
    let output = command.arg("--socket").arg(bed.vrouter().socket()).args(words).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ringway {words:?}: {error}");
    Ok(String::from_utf8(output.stdout)?)
}

fn set_workers(bed: &Bed, cpus: &[u16]) -> Result<()> {
    let cpus: Vec<String> = cpus.iter().map(ToString::to_string).collect();
    ringway(bed, &["workers", "set", &cpus.join(",")]).map(|_| ())
}

/// Packets between two pods, one with split and one with packed rings, in which something is changed again and again.
const TRAFFIC: Exchange = Exchange {
    rings: ["packed=0,queue-size=256", "packed=1,queue-size=256"],
    seconds: 6,
    size: 256,
    ..USUAL
};

/// Sends as ordered while `change` changes things, so many at a time, and says within how many packets.
fn changed_meanwhile(
    bed: &mut Bed,
    order: &Exchange,
    change: impl Fn(&Bed) -> Result<u32>,
) -> Result<()> {
    let sent = |bed: &Bed| -> Result<u64> {
        Ok(bed.vrouter().stats()?.ports.iter().map(|port| port.rx_packets).sum())
    };
    let running = order.start(bed)?;
    let before = sent(bed)?;
    let mut changes = 0;
    for _ in 0..ROUNDS {
        changes += change(bed)?;
    }
    let moved = sent(bed)? - before;
    ensure!(moved > 0, "no packet was sent meanwhile");
    println!("    {changes} changes within {moved} packets");
    running.finish(bed)?;
    Ok(())
}

/// Two workers, the one, two, the other: queues change hands each time, and no flow may notice.
pub fn come_and_go(bed: &mut Bed) -> Result<()> {
    let (pods, usual) = (bed.pod_cpu, bed.worker_cpu);
    let order = Exchange {
        name: "workers",
        pairs: [4, 4],
        flows: 1024,
        // A worker on the pods' own CPU gets only what they leave of it.
        rate: 40_000,
        ..TRAFFIC
    };
    changed_meanwhile(bed, &order, |bed| {
        for cpus in [&[usual, pods][..], &[usual], &[pods, usual], &[pods], &[usual]] {
            set_workers(bed, cpus)?;
            let is = bed.vrouter().info()?.workers.len();
            ensure!(is == cpus.len(), "{is} workers on CPUs {cpus:?}");
        }
        Ok(5)
    })
}

/// The modes change in turns under traffic of many flows in bursts and pauses: nobody waits for a kick that does not come.
pub fn change_their_mode(bed: &mut Bed) -> Result<()> {
    // So few packets that a worker which may sleep does, again and again.
    let order = Exchange { name: "modes", pairs: [2, 2], flows: 256, rate: 2_000, ..TRAFFIC };
    changed_meanwhile(bed, &order, |bed| {
        let turns = ["poll", "sleep", "adaptive", "sleep", "poll", "adaptive"].repeat(2);
        for mode in &turns {
            let told = ringway(bed, &["workers", "mode", mode])?;
            ensure!(told.contains(mode), "{told}");
        }
        Ok(u32::try_from(turns.len())?)
    })?;
    ensure!(bed.vrouter().info()?.worker_mode() == WorkerMode::Adaptive);
    Ok(())
}

/// `ringway-tuner run` has workers poll while pods send, and no more when they have done.
pub fn modes_follow_the_load(bed: &mut Bed) -> Result<()> {
    let state = bed.log("tuner").with_extension("state");
    let profile = state.with_extension("toml");
    let rules = "version = 1\nname = \"test\"\n[agent]\ninterval_s = 1\n\
                 [agent.workers]\nmode = \"by-load\"\npoll_above_percent = 2\nsleep_below_percent = 0\n\
                 mode_after_s = 1\n";
    fs::write(&profile, rules)?;
    let mut command = Command::new(program("ringway-tuner")?);
    command.args(["run", "--profile"]).arg(&profile).arg("--state").arg(&state);
    command.arg("--vrouter").arg(bed.vrouter().socket());
    let log = state.with_extension("events");
    let mut agent = Daemon::start("ringway-tuner", command, &log)?;
    let order =
        Exchange { name: "load", pairs: [1, 1], flows: 16, seconds: 12, rate: 100_000, ..TRAFFIC };
    let running = order.start(bed)?;
    let limit = Duration::from_secs(60);
    let is = |bed: &Bed, mode: WorkerMode| {
        Ok((bed.vrouter().info()?.worker_mode() == mode).then_some(()))
    };
    agent.wait_for("workers poll under load", limit, || is(bed, WorkerMode::Poll))?;
    // Who polls for a second never sleeps in it, with and without packets.
    let looked = |bed: &Bed| -> Result<(WorkerMode, u64)> {
        let sleeps = bed.vrouter().stats()?.workers.iter().map(|worker| worker.sleeps).sum();
        Ok((bed.vrouter().info()?.worker_mode(), sleeps))
    };
    let slept = wait::until("workers poll for a second", limit, || {
        let (before, first) = looked(bed)?;
        wait::pause(Duration::from_secs(1))?;
        let (after, last) = looked(bed)?;
        Ok([before, after].iter().all(|mode| *mode == WorkerMode::Poll).then(|| last - first))
    })?;
    ensure!(slept == 0, "a worker that polls slept {slept} times");
    running.finish(bed)?;
    agent.wait_for("workers sleep again without it", limit, || is(bed, WorkerMode::Adaptive))?;
    let ended = agent.stop(limit)?;
    ensure!(ended.success(), "{ended}");
    let events = fs::read_to_string(&log)?;
    let told: Vec<&str> = events.lines().filter(|line| line.contains("worker-mode")).collect();
    ensure!(told.len() >= 2, "{events}");
    println!("    {}", told.join("\n    "));
    Ok(())
}
