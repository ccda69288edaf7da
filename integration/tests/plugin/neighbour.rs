//! Another NRI plugin that sets CPUs, beside ours on one node: a small one, and nri-plugins' balloons.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration::containerd::Version;
use integration::instances::shown;
use integration::leftovers::leftovers;
use integration::node::{Node, PluginStart, Setup};
use integration::pod::Pod;
use integration::process::Daemon;
use integration::{plugins, readback};
use nix::mount::{MsFlags, mount};

use integration::stage::Stage;

/// The other one, as the set-up built it.
const PROGRAM: &str = "pins";
/// What it goes by.
const KEY: &str = "cpus.pins.example";
const PATIENCE: Duration = Duration::from_secs(20);

/// nri-plugins' own, which gives out CPUs by balloons.
const BALLOONS: &str = "balloons";
/// Pods of the tests share one balloon of one CPU; another CPU is kept for what is not theirs.
const BALLOONS_CONFIG: &str = "\
apiVersion: config.nri/v1alpha1
kind: BalloonsPolicy
metadata:
  name: default
spec:
  reservedResources:
    cpu: 750m
  pinCPU: true
  pinMemory: true
  balloonTypes:
  - name: narrow
    namespaces: [demo]
    minCPUs: 1
    maxCPUs: 1
    minBalloons: 1
    maxBalloons: 1
";

/// Why there is no other plugin on this machine.
pub fn unmet() -> Option<String> {
    plugins::built(PROGRAM).err()
}

/// Why balloons is not on this machine.
pub fn no_balloons() -> Option<String> {
    plugins::built(BALLOONS).err()
}

/// Starts it and waits until containerd has taken it in.
fn start(node: &Node, index: &str) -> Result<Daemon> {
    let mut command = Command::new(plugins::built(PROGRAM).map_err(anyhow::Error::msg)?);
    command.arg(node.containerd()?.nri_socket()).arg(index);
    taken_in(node, PROGRAM, index, command)
}

fn taken_in(node: &Node, name: &'static str, index: &str, command: Command) -> Result<Daemon> {
    let known = format!("{index}-{name}");
    let mut plugin = Daemon::start(name, command, &node.run().path().join(format!("{known}.log")))?;
    plugin.wait_for("containerd has taken it in", PATIENCE, || {
        let log = fs::read_to_string(node.run().path().join("containerd.log"))?;
        let taken = log.lines().any(|it| it.contains(&known) && it.contains(" connected"));
        Ok(taken.then_some(()))
    })?;
    Ok(plugin)
}

/// The same with balloons; it needs no Kubernetes where a file has its configuration.
fn start_balloons(node: &Node, index: &str) -> Result<Daemon> {
    let directory = node.run().path().join("balloons");
    if !directory.exists() {
        fs::create_dir(&directory)?;
        // Containers get a directory in there that has to follow the host's mounts; the node takes it away with its own.
        let none = None::<&str>;
        mount(Some(&directory), &directory, none, MsFlags::MS_BIND, none)?;
        mount(none, &directory, none, MsFlags::MS_SHARED, none)?;
    }
    let file = directory.join("policy.yaml");
    fs::write(&file, BALLOONS_CONFIG)?;
    let mut command = Command::new(plugins::built(BALLOONS).map_err(anyhow::Error::msg)?);
    command.arg("--config-file").arg(&file);
    command.arg("--nri-socket").arg(node.containerd()?.nri_socket());
    command.args(["--nri-plugin-name", BALLOONS, "--nri-plugin-index", index]);
    command.arg("--state-dir").arg(directory.join(index));
    command.arg("--pid-file").arg(directory.join("pid"));
    taken_in(node, BALLOONS, index, command)
}

fn pod(name: &str, cpus: &str) -> Pod {
    Pod::idle(name).annotate("network.ringway.dev", "red").annotate(KEY, cpus)
}

/// A node whose plugin follows what others choose.
fn following(stage: &mut Stage) -> Result<&mut Node> {
    let mut setup = Setup::new(Version::V2_1, PluginStart::External);
    setup.plugin_settings = "[cpus]\nmode = 'follow'\n";
    stage.node(&setup)
}

/// Where CPUs are followed, the other may come first or last: it sets them, and no pod fails.
pub fn both_serve_a_pod(stage: &mut Stage) -> Result<()> {
    let node = following(stage)?;
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

/// Next to balloons no pod fails, each has the balloon's CPU, and ours decides by it: the application's lcores, the memory's node, what
/// `ringway pods` says.
pub fn balloons_are_followed(stage: &mut Stage) -> Result<()> {
    let node = following(stage)?;
    let before = leftovers(node)?;
    let all = fs::read_to_string("/sys/devices/system/cpu/online")?;
    for index in ["05", "90"] {
        let mut balloons = start_balloons(node, index)?;
        let plain = node.start_pod(Pod::idle(&format!("plain-{index}")))?;
        let balloon = readback::cpuset_cpus(node.pid(&plain)?)?;
        ensure!(balloon.parse::<u32>().is_ok(), "the balloon is {balloon}, not one CPU");
        let mut pods = Vec::new();
        for number in 0..5 {
            let name = format!("both-{index}-{number}");
            let running =
                node.start_pod(Pod::idle(&name).annotate("network.ringway.dev", "red"))?;
            let pid = node.pid(&running)?;
            ensure!(readback::cpuset_cpus(pid)? == balloon, "{}", readback::cpuset_cpus(pid)?);
            node.vrouter()?.port(&running.sandbox)?;
            // Both answer an update: the balloon counts.
            node.containerd()?.cri.update_cpus(&running.container, all.trim())?;
            ensure!(readback::cpuset_cpus(pid)? == balloon, "{}", readback::cpuset_cpus(pid)?);
            let told = shown(node, &running)?;
            ensure!(told["aligned"] == true && told["cpu_nodes"] == "0", "{told}");
            if index == "05" {
                // Ours comes later and sees what was chosen.
                ensure!(told["containers"][0]["cpus"] == balloon.as_str(), "{told}");
                let lcores = format!("--lcores=0@({balloon}),1@({balloon})");
                let environment = readback::environment(pid)?;
                ensure!(environment.iter().any(|it| it.contains(&lcores)), "{environment:?}");
            }
            pods.push(running);
        }
        // It starts again while pods of both run: they are told to it, and stay as they are.
        balloons.stop(PATIENCE)?;
        balloons = start_balloons(node, index)?;
        for running in &pods {
            let cpus = readback::cpuset_cpus(node.pid(running)?)?;
            ensure!(cpus == balloon, "{cpus} after a restart, {balloon} before");
            node.vrouter()?.port(&running.sandbox)?;
        }
        for running in pods.iter().chain([&plain]) {
            node.delete(running)?;
        }
        balloons.stop(PATIENCE)?;
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
