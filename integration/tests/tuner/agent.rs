//! `ringway-tuner run`: what it does about changes, told by its events and read back.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::process::{Daemon, run};
use integration::vrouter::VRouter;
use integration::wait;
use serde_json::Value;

use crate::bed::{Bed, NIC, mask, text};

pub const PATIENCE: Duration = Duration::from_secs(60);
/// The kernel's `PM_QOS_CPU_LATENCY_DEFAULT_VALUE`: no limit.
const NO_LIMIT_US: i32 = 2_000_000_000;

pub struct Agent {
    pub process: Daemon,
}

impl Agent {
    pub fn start(bed: &Bed, words: &[&str]) -> Result<Self> {
        let log = bed.run.path().join("events");
        // Those of an agent before it are not its own.
        if log.exists() {
            fs::remove_file(&log)?;
        }
        let process = Daemon::start("ringway-tuner", bed.command(words)?, &log)?;
        Ok(Self { process })
    }

    fn events(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.process.log())?;
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// The first event of the kind behind the first `skip`, and how many there were up to it.
    pub fn wait(
        &mut self,
        what: &str,
        skip: usize,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<(Value, usize)> {
        let log = self.process.log().to_owned();
        self.process.wait_for(what, PATIENCE, || {
            let text = fs::read_to_string(&log)?;
            let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            for (at, line) in lines.enumerate().skip(skip) {
                let event: Value = serde_json::from_str(line)?;
                if wanted(&event) {
                    return Ok(Some((event, at + 1)));
                }
            }
            Ok(None)
        })
    }
}

pub fn is(event: &Value, kind: &str, key: &str, part: &str) -> bool {
    event["event"] == kind && event[key].as_str().is_some_and(|text| text.contains(part))
}

/// The limit on waking a CPU that holds now, µs.
fn latency() -> Result<i32> {
    let mut bytes = [0; 4];
    File::open("/dev/cpu_dma_latency")?.read_exact(&mut bytes)?;
    Ok(i32::from_ne_bytes(bytes))
}

pub fn drift_is_repaired_until_it_is_a_fight() -> Result<()> {
    let bed = Bed::new()?;
    let file = bed.profile(
        "[cpus]\nreserved_cores = 1\nsplit_cores = true\n[sysctls]\n\"vm.stat_interval\" = 7\n\
         [steering]\ninterfaces = [\"rwtest-*\"]\nrps = \"reserved\"\n[power]\nmax_latency_us = 20\n\
         [agent]\ninterval_s = 1\nrepairs = 1\nrepair_window_s = 3600",
    )?;
    let sysctl = "/proc/sys/vm/stat_interval";
    let latency_file = Path::new("/dev/cpu_dma_latency").exists();
    ensure!(!latency_file || latency()? == NO_LIMIT_US, "somebody else holds a limit");
    let mut agent = Agent::start(&bed, &["run", "--profile", file.to_str().context("path")?])?;
    let (_, seen) =
        agent.wait("the profile is applied", 0, |e| is(e, "changed", "what", "stat_interval"))?;
    ensure!(text(sysctl)? == "7");
    if latency_file {
        agent.wait("a limit is held", 0, |event| event["event"] == "latency-held")?;
        ensure!(latency()? == 20, "{}", latency()?);
    }
    // Nobody else may apply meanwhile.
    let output = bed.output(&["apply", "--profile", "balanced"])?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && told.contains("another ringway-tuner"), "{told}");

    fs::write(sysctl, "3")?;
    let (event, seen) =
        agent.wait("drift is repaired", seen, |e| is(e, "repaired", "what", "stat_interval"))?;
    ensure!(event["from"] == "3" && event["to"] == "7", "{event}");
    ensure!(text(sysctl)? == "7");
    fs::write(sysctl, "3")?;
    let (event, _) =
        agent.wait("it gives up", seen, |e| is(e, "gave-up", "what", "stat_interval"))?;
    ensure!(event["current"] == "3" && event["wanted"] == "7", "{event}");

    // A card is plugged in.
    let more = "rwtest-t2";
    let words = ["link", "add", more, "type", "veth", "peer", "name", "rwtest-t3"];
    run("ip", &words.map(std::ffi::OsStr::new))?;
    let seen = agent.wait("it is seen", 0, |event| is(event, "nic-added", "nic", more));
    let steered = agent.wait("it is steered", 0, |event| is(event, "changed", "what", more));
    let rps = mask(format!("/sys/class/net/{more}/queues/rx-0/rps_cpus"));
    run("ip", &["link", "delete", more].map(std::ffi::OsStr::new))?;
    seen?;
    steered?;
    ensure!(rps? == 1);
    agent.wait("it is missed", 0, |event| is(event, "nic-removed", "nic", more))?;
    ensure!(mask(format!("/sys/class/net/{NIC}/queues/rx-0/rps_cpus"))? == 1);
    ensure!(text(sysctl)? == "3", "it fights on");

    let ended = agent.process.stop(PATIENCE)?;
    ensure!(ended.success(), "{ended}");
    let last = agent.events()?.pop().context("no events")?;
    ensure!(last["event"] == "ended" && last["signal"] == "SIGTERM", "{last}");
    if latency_file {
        ensure!(latency()? == NO_LIMIT_US, "the limit outlives the agent");
    }
    bed.tuner(&["revert"])?;
    bed.is_as_before()
}

/// A vRouter with one worker, on CPU 0.
pub fn vrouter(bed: &Bed) -> Result<(VRouter, PathBuf)> {
    let socket = VRouter::socket_of(&bed.run);
    let config = bed.run.path().join("vrouter.toml");
    let directory = bed.run.path().display().to_string();
    let text = format!(
        "control_socket = \"{}\"\nrun_dir = \"{directory}\"\n[workers]\ncpus = [0]\n[dpdk]\nhugepages = false\n",
        socket.display()
    );
    fs::write(&config, text)?;
    let vrouter = VRouter::start_with(&config, &socket, &bed.run.path().join("vrouter.log"))?;
    Ok((vrouter, socket))
}

/// CPUs of the vRouter's workers.
fn workers(vrouter: &VRouter) -> Result<Vec<u32>> {
    let mut cpus: Vec<u32> = vrouter.info()?.workers.iter().map(|worker| worker.cpu).collect();
    cpus.sort_unstable();
    Ok(cpus)
}

pub fn workers_follow_the_profile() -> Result<()> {
    let bed = Bed::new()?;
    let (vrouter, socket) = vrouter(&bed)?;
    let told_socket = socket.to_str().context("path")?;
    let report: Value =
        serde_json::from_str(&bed.tuner(&["report", "--json", "--vrouter", told_socket])?)?;
    let seen = &report["node"]["services"]["vrouters"][0];
    ensure!(seen["mode"] == "dpdk" && seen["workers"] == serde_json::json!([0]), "{seen:#}");

    // CPU 0 is the system's: the worker has to leave it at once.
    let rules = "[agent]\ninterval_s = 1\n[agent.workers]\nadjust = true\n";
    let apart =
        format!("[cpus]\nreserved_cores = 1\nvrouter_cores = 1\nsplit_cores = true\n{rules}");
    let follow = |text: &str, why: &str| -> Result<Value> {
        let file = bed.profile(text)?;
        let words = ["run", "--profile", file.to_str().context("path")?, "--vrouter", told_socket];
        let mut agent = Agent::start(&bed, &words)?;
        let (event, _) = agent.wait(why, 0, |event| event["event"] == "workers")?;
        agent.process.stop(PATIENCE)?;
        Ok(event)
    };
    let event = follow(&apart, "the worker moves")?;
    ensure!(is(&event, "workers", "why", "which are not the vRouter's"), "{event}");
    ensure!(workers(&vrouter)? == [1], "{:?}", workers(&vrouter)?);
    // As many as the profile wants at least, on all CPUs it gives.
    let both = format!("[cpus]\nvrouter_cores = 2\nsplit_cores = true\n{rules}min = 2\n");
    let event = follow(&both, "a worker is added")?;
    ensure!(event["from"] == serde_json::json!([1]), "{event}");
    ensure!(workers(&vrouter)? == [0, 1], "{:?}", workers(&vrouter)?);
    wait::check_stop()?;
    drop(vrouter);
    bed.is_as_before()
}
