//! CPUs that kubelet's CPU manager sends after the fact.

use anyhow::{Context, Result, ensure};
use integration::containerd::Version;
use integration::node::{Node, PluginStart, Setup};
use integration::pod::Pod;
use integration::readback;

use integration::stage::Stage;

const ALL: &str = "/sys/devices/system/cpu/online";

fn pod(name: &str) -> Pod {
    Pod::idle(name).annotate("network.ringway.dev", "red")
}

fn cpus(node: &Node, pid: u32) -> Result<String> {
    let cpus = readback::cpuset_cpus(pid)?;
    println!("    process {pid} of {}: {cpus}", node.run().id());
    Ok(cpus)
}

pub fn ours_stay(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let running = node.start_pod(pod("pinned"))?;
    let pid = node.pid(&running)?;
    let before = cpus(node, pid)?;
    let all = std::fs::read_to_string(ALL)?;
    ensure!(before != all.trim(), "the vRouter's CPU was given away: {before}");
    node.containerd()?.cri.update_cpus(&running.container, all.trim())?;
    ensure!(cpus(node, pid)? == before, "kubelet's CPUs were taken over");
    node.delete(&running)
}

pub fn others_are_followed(stage: &mut Stage) -> Result<()> {
    let mut setup = Setup::new(Version::V2_1, PluginStart::External);
    setup.plugin_settings = "[cpus]\nmode = 'follow'\n";
    let node = stage.node(&setup)?;
    // The vRouter's own, which the plugin would never choose.
    let worker = node.vrouter()?.info()?.workers.first().context("no worker")?.cpu.to_string();
    let mut chosen = pod("chosen");
    chosen.cpuset.clone_from(&worker);
    let running = node.start_pod(chosen)?;
    let pid = node.pid(&running)?;
    ensure!(cpus(node, pid)? == worker, "the CPUs that kubelet chose were not left alone");
    let environment = readback::environment(pid)?;
    let lcores = format!("--lcores=0@({worker}),1@({worker})");
    ensure!(environment.iter().any(|it| it.contains(&lcores)), "{lcores}: {environment:?}");
    let free = node.start_pod(pod("free"))?;
    let other = (0..64_u32).map(|cpu| cpu.to_string()).find(|cpu| *cpu != worker).context("CPU")?;
    node.containerd()?.cri.update_cpus(&free.container, &other)?;
    ensure!(cpus(node, node.pid(&free)?)? == other, "an update of kubelet was not left alone");
    let log = std::fs::read_to_string(node.run().path().join("nri.log"))?;
    ensure!(
        log.lines()
            .any(|line| line.contains("others have chosen CPUs") && line.contains("demo/free")),
        "nothing is said about the new CPUs"
    );
    node.delete(&running)?;
    node.delete(&free)
}

/// Where the node says so, containers that have not opted in leave CPUs that a pod was given for itself, and come back.
pub fn others_make_way(stage: &mut Stage) -> Result<()> {
    let mut setup = Setup::new(Version::V2_1, PluginStart::External);
    setup.plugin_settings = "[cpus]\nmove_others = true\n";
    let node = stage.node(&setup)?;
    let before = node.start_pod(Pod::idle("before"))?;
    let all = cpus(node, node.pid(&before)?)?;
    let owner = node.start_pod(pod("owner").annotate("cpus.ringway.dev", "1"))?;
    let own = cpus(node, node.pid(&owner)?)?;
    let after = node.start_pod(Pod::idle("after"))?;
    let contains = |list: &str, cpu: &str| -> Result<bool> {
        let cpu: u32 = cpu.parse().with_context(|| format!("{cpu:?} is not one CPU"))?;
        for part in list.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if (first.parse::<u32>()?..=last.parse()?).contains(&cpu) {
                return Ok(true);
            }
        }
        Ok(false)
    };
    for other in [&before, &after] {
        let theirs = cpus(node, node.pid(other)?)?;
        ensure!(
            !contains(&theirs, &own)?,
            "{} is on {theirs}, {own} was given away",
            other.pod.name
        );
    }
    // kubelet's CPU manager says so again now and then; a restart of the plugin does not make it forget.
    node.containerd()?.cri.update_cpus(&before.container, &all)?;
    ensure!(!contains(&cpus(node, node.pid(&before)?)?, &own)?, "kubelet's update won");
    node.stop_plugin()?;
    node.start_plugin()?;
    node.delete(&owner)?;
    // The end of a pod has no answer to attach this to; the next event has.
    node.delete(&after)?;
    let theirs = cpus(node, node.pid(&before)?)?;
    ensure!(theirs == all, "{theirs} after the end of the owner, {all} before");
    node.delete(&before)
}
