//! Another NRI plugin that sets CPUs, beside ours on one node.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration::containerd::Version;
use integration::leftovers::leftovers;
use integration::node::{Node, PluginStart, Setup};
use integration::pod::Pod;
use integration::process::Daemon;
use integration::{plugins, readback};

use integration::stage::Stage;

/// The other one, as the set-up built it.
const PROGRAM: &str = "pins";
/// What it goes by.
const KEY: &str = "cpus.pins.example";
const PATIENCE: Duration = Duration::from_secs(20);

/// Why there is no other plugin on this machine.
pub fn unmet() -> Option<String> {
    plugins::built(PROGRAM).err()
}

/// Starts it and waits until containerd has taken it in.
fn start(node: &Node, index: &str) -> Result<Daemon> {
    let mut command = Command::new(plugins::built(PROGRAM).map_err(anyhow::Error::msg)?);
    command.arg(node.containerd()?.nri_socket()).arg(index);
    let name = format!("{index}-pins");
    let mut pins = Daemon::start("pins", command, &node.run().path().join("pins.log"))?;
    pins.wait_for("containerd has taken it in", PATIENCE, || {
        let log = fs::read_to_string(node.run().path().join("containerd.log"))?;
        let taken = log.lines().any(|it| it.contains(&name) && it.contains(" connected"));
        Ok(taken.then_some(()))
    })?;
    Ok(pins)
}

fn pod(name: &str, cpus: &str) -> Pod {
    Pod::idle(name).annotate("network.ringway.dev", "red").annotate(KEY, cpus)
}

/// Where CPUs are followed, the other may come first or last: it sets them, and no pod fails.
pub fn both_serve_a_pod(stage: &mut Stage) -> Result<()> {
    let mut setup = Setup::new(Version::V2_1, PluginStart::External);
    setup.plugin_settings = "[cpus]\nmode = 'follow'\n";
    let node = stage.node(&setup)?;
    let before = leftovers(node)?;
    let all = fs::read_to_string("/sys/devices/system/cpu/online")?;
    for index in ["05", "90"] {
        let mut pins = start(node, index)?;
        for round in 0..5 {
            let running = node.start_pod(pod(&format!("both-{index}-{round}"), "0"))?;
            let pid = node.pid(&running)?;
            ensure!(readback::cpuset_cpus(pid)? == "0", "{}", readback::cpuset_cpus(pid)?);
            let mounts = readback::mounts(Some(pid))?;
            let mounted = mounts.iter().any(|mount| mount.target.ends_with("run/ringway"));
            ensure!(mounted, "nothing of ours is mounted");
            if index == "05" {
                // Ours comes later and sees what was chosen.
                let environment = readback::environment(pid)?;
                let known = environment.iter().any(|it| it.contains("--lcores=0@(0),1@(0)"));
                ensure!(known, "{environment:?}");
            }
            node.vrouter()?.port(&running.sandbox)?;
            // Both answer an update: theirs counts.
            node.containerd()?.cri.update_cpus(&running.container, all.trim())?;
            ensure!(readback::cpuset_cpus(pid)? == "0", "{}", readback::cpuset_cpus(pid)?);
            node.delete(&running)?;
        }
        // Ours alone, beside it.
        let free = node.start_pod(Pod::idle("free").annotate("network.ringway.dev", "red"))?;
        node.vrouter()?.port(&free.sandbox)?;
        node.delete(&free)?;
        pins.stop(PATIENCE)?;
    }
    ensure!(leftovers(node)? == before, "left: {:?}, before {before:?}", leftovers(node)?);
    Ok(())
}

/// Where ours sets CPUs too, the runtime refuses a pod that both set, names both, and nothing is left of it.
pub fn both_set_cpus(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let before = leftovers(node)?;
    let mut pins = start(node, "05")?;
    // Others than ours would choose: what is the same already is not set again.
    let all = fs::read_to_string("/sys/devices/system/cpu/online")?;
    let error = match node.start_pod(pod("contested", all.trim())) {
        Ok(running) => {
            node.delete(&running)?;
            bail!("two plugins set the CPUs of one container");
        }
        Err(error) => format!("{error:#}"),
    };
    println!("    {error}");
    for word in ["pins", "ringway", "both tried to set"] {
        ensure!(error.contains(word), "no {word:?} in: {error}");
    }
    let running = node.start_pod(Pod::idle("free").annotate("network.ringway.dev", "red"))?;
    node.pid(&running).context("a pod that only ours serves")?;
    node.delete(&running)?;
    pins.stop(PATIENCE)?;
    ensure!(leftovers(node)? == before, "left: {:?}, before {before:?}", leftovers(node)?);
    Ok(())
}
