//! What a vRouter's workers do when there is nothing to do: told by the agent, seen in the kernel's books on their threads.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::wait;
use vrouter_api::v1::WorkerMode;

use crate::agent::{Agent, PATIENCE, vrouter};
use crate::bed::Bed;

/// How often the worker has given up its CPU by itself so far.
fn rests(pid: u32) -> Result<u64> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        if status.starts_with("Name:\tworker-0\n") {
            let line = status.lines().find_map(|it| it.strip_prefix("voluntary_ctxt_switches:"));
            return Ok(line.context("no switches")?.trim().parse()?);
        }
    }
    anyhow::bail!("no worker")
}

pub fn workers_do_what_the_profile_says_when_idle() -> Result<()> {
    let bed = Bed::new()?;
    let (vrouter, socket) = vrouter(&bed)?;
    let told_socket = socket.to_str().context("path")?;
    let mode = || Ok::<_, anyhow::Error>(vrouter.info()?.worker_mode());
    ensure!(mode()? == WorkerMode::Adaptive);
    let follow = |rules: &str, to: &str| -> Result<()> {
        let file = bed.profile(&format!("[agent]\ninterval_s = 1\n[agent.workers]\n{rules}"))?;
        let words = ["run", "--profile", file.to_str().context("path")?, "--vrouter", told_socket];
        let mut agent = Agent::start(&bed, &words)?;
        let is = |event: &serde_json::Value| event["event"] == "worker-mode" && event["to"] == to;
        agent.wait(&format!("workers are told: {to}"), 0, is)?;
        let ended = agent.process.stop(PATIENCE)?;
        ensure!(ended.success(), "{ended}");
        Ok(())
    };
    // It sleeps in turns, a second at most.
    let sleeps = |what: &str| {
        let before = rests(vrouter.pid())?;
        wait::until(what, PATIENCE, || Ok((rests(vrouter.pid())? > before).then_some(())))
    };
    // From the second look on: it may have been on its way to sleep. However long it is given, it never does again.
    let polls = || {
        wait::pause(Duration::from_secs(2))?;
        let before = rests(vrouter.pid())?;
        wait::pause(Duration::from_secs(3))?;
        let after = rests(vrouter.pid())?;
        ensure!(before == after, "a worker that polls slept {} times", after - before);
        Ok(())
    };
    sleeps("an idle worker sleeps")?;
    follow("mode = \"poll\"", "poll")?;
    ensure!(mode()? == WorkerMode::Poll);
    polls()?;
    // A profile that allows neither; then after its load, of which there is none.
    follow("mode = \"by-load\"\npoll_above_percent = 100\nsleep_below_percent = 0", "adaptive")?;
    ensure!(mode()? == WorkerMode::Adaptive);
    sleeps("an adaptive worker sleeps again")?;
    follow("mode = \"by-load\"\nmode_after_s = 2", "sleep")?;
    ensure!(mode()? == WorkerMode::Sleep);
    sleeps("a worker that shall sleep does")?;
    wait::check_stop()?;
    drop(vrouter);
    bed.is_as_before()
}
