//! `ringway doctor` on a node that is well, and on one that is broken in several ways: each is named, with a remedy.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration::containerd::Version;
use integration::demo::dpdk_pod;
use integration::machine::{Hugepages, program};
use integration::node::{Node, PluginStart, Setup};
use integration::{readback, traffic, wait};
use k8s_cri::v1::ContainerState;
use serde_json::Value;
use toml::Table;
use vrouter_api::v1::PortSpec;

use integration::stage::Stage;

/// Time for the plugin to mend what differs.
const MENDING: Duration = Duration::from_secs(20);

/// What the doctor of a node says.
struct Report {
    code: i32,
    findings: Vec<Value>,
}

impl Report {
    /// The finding with these words fails or warns, and says what to do.
    fn names(&self, check: &str, status: &str, words: &[&str]) -> Result<&Value> {
        let fits = |it: &&Value| {
            let what = it["what"].as_str().unwrap_or_default();
            it["check"] == check
                && it["status"] == status
                && words.iter().all(|word| what.contains(word))
        };
        let found = self.findings.iter().find(fits);
        let found = found.with_context(|| {
            format!("no {check} with status {status} and {words:?} in {:#?}", self.findings)
        })?;
        let remedy = found["remedy"].as_str().unwrap_or_default();
        println!("    {}\n      -> {remedy}", found["what"].as_str().unwrap_or_default());
        ensure!(status == "ok" || !remedy.is_empty(), "no remedy: {found:#}");
        Ok(found)
    }

    fn with(&self, status: &str) -> Vec<&Value> {
        self.findings.iter().filter(|it| it["status"] == status).collect()
    }

    /// Nothing is wrong, and the exit code says so.
    fn is_well(&self) -> Result<()> {
        ensure!(self.code == 0 && self.with("failure").is_empty(), "{:#?}", self.findings);
        Ok(())
    }

    /// Something is wrong, and the exit code says so.
    fn is_unwell(&self) -> Result<()> {
        ensure!(self.code == 1 && !self.with("failure").is_empty(), "{:#?}", self.findings);
        Ok(())
    }
}

fn doctor(node: &Node, config: &str) -> Result<Command> {
    let containerd = node.containerd()?.version().program("containerd");
    let directory = containerd.parent().context("no directory")?.to_owned();
    let mut path = vec![directory];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let mut command = Command::new(program("ringway")?);
    command.env("PATH", std::env::join_paths(path)?);
    command.arg("--socket").arg(node.run().path().join("vrouter.sock"));
    command.arg("doctor").arg("--run-dir").arg(node.run().path());
    command.arg("--containerd-config").arg(node.run().path().join(config));
    Ok(command)
}

fn look(node: &Node) -> Result<Report> {
    look_by(node, "containerd.toml")
}

fn look_by(node: &Node, config: &str) -> Result<Report> {
    let output = doctor(node, config)?.arg("--json").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let findings = serde_json::from_str(&text)
        .with_context(|| format!("no JSON: {text}{}", String::from_utf8_lossy(&output.stderr)))?;
    Ok(Report { code: output.status.code().context("the doctor was killed")?, findings })
}

/// A node with a pod whose application is connected.
pub fn of_a_node_that_is_well(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let pod = node.start_pod(dpdk_pod("well", "red"))?;
    node.vrouter()?.wait_up(&pod.sandbox, traffic::UP)?;
    let report = look(node)?;
    report.is_well()?;
    report.names("nri", "ok", &["ringway-nri runs"])?;
    report.names("containerd", "ok", &["containerd 2.1", "it runs"])?;
    report.names("vrouter", "ok", &["2 networks", "1 ports"])?;
    report.names("ports", "ok", &["all 1 ports are up"])?;
    report.names("leaks", "ok", &[])?;
    // For people the same.
    let output = doctor(node, "containerd.toml")?.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{text}");
    for finding in &report.findings {
        let what = finding["what"].as_str().unwrap_or_default();
        // How many hugepages are free may have changed.
        ensure!(finding["check"] == "hugepages" || text.contains(what), "no {what:?} in {text}");
    }
    node.delete(&pod)
}

/// What daemons and pods can leave or lack.
pub fn of_a_node_that_is_not(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let gone = |digit: &str| digit.repeat(64);
    // A port of a container that is gone, and the directory of a pod that has none.
    node.vrouter()?.create_port(PortSpec {
        id: format!("{}/0/net0", gone("e")),
        network: "red".to_owned(),
        ipv4: "10.66.0.200".to_owned(),
        mac: "02:00:00:00:00:99".to_owned(),
        socket_path: node.run().path().join("leak.sock").display().to_string(),
        peer_cgroups: vec!["/no/such/cgroup".to_owned()],
        ..PortSpec::default()
    })?;
    fs::create_dir(node.run().path().join("pods").join(gone("d")))?;
    let report = look(node)?;
    report.names("leaks", "warning", &["port", &gone("e")])?;
    report.names("leaks", "warning", &["pod", &gone("d")])?;
    // The remedy it names.
    node.stop_plugin()?;
    let report = look(node)?;
    report.is_unwell()?;
    report.names("nri", "failure", &["ringway-nri does not run"])?;
    // A container that is created meanwhile lacks what it asked for.
    let sandbox = node.start_sandbox(
        integration::pod::Pod::idle("lacks").annotate("network.ringway.dev", "red"),
    )?;
    node.add_container(&sandbox, "app", 0)?;
    node.start_plugin()?;
    wait::until("what leaked is gone", MENDING, || {
        let report = look(node)?;
        Ok(report
            .findings
            .iter()
            .any(|it| it["check"] == "leaks" && it["status"] == "ok")
            .then_some(()))
    })?;
    let report = look(node)?;
    report.is_unwell()?;
    report.names("nri", "failure", &["demo/lacks/app", "it has no interfaces"])?;
    node.delete(&sandbox)?;
    look(node)?.is_well()?;

    // A configuration with NRI off, as containerd would read it at its next start.
    let text = fs::read_to_string(node.run().path().join("containerd.toml"))?;
    let mut config: Table = text.parse()?;
    let plugins = config.get_mut("plugins").and_then(toml::Value::as_table_mut);
    let nri = plugins.and_then(|it| it.get_mut("io.containerd.nri.v1.nri")?.as_table_mut());
    nri.context("no section of NRI")?.insert("disable".to_owned(), true.into());
    fs::write(node.run().path().join("off.toml"), toml::to_string(&config)?)?;
    let report = look_by(node, "off.toml")?;
    report.is_unwell()?;
    report.names("nri", "failure", &["NRI is switched off"])?;

    // No vRouter.
    node.stop_vrouter()?;
    let outcome = look(node);
    node.start_vrouter()?;
    let report = outcome?;
    report.is_unwell()?;
    report.names("vrouter", "failure", &["cannot reach the vRouter"])?;
    Ok(())
}

/// What the doctor mends itself: a container that came up without its interfaces is ended, so that it comes back with them, and ports
/// that nobody has are deleted.
pub fn repairs(stage: &mut Stage, version: Version) -> Result<()> {
    let node = stage.node(&Setup::new(version, PluginStart::External))?;
    let gone = format!("{}/0/net0", "f".repeat(64));
    node.stop_plugin()?;
    let pod = integration::pod::Pod::idle("comes-back").annotate("network.ringway.dev", "red");
    let sandbox = node.start_sandbox(pod)?;
    let lacking = node.add_container(&sandbox, "app", 0)?;
    let pid = node.containerd()?.cri.status(&lacking)?.pid;
    // While the plugin is away nothing is gained by ending it. (What the plugin knew last is all there is to know it by.)
    node.start_plugin()?;
    node.vrouter()?.create_port(PortSpec {
        id: gone.clone(),
        network: "red".to_owned(),
        ipv4: "10.66.0.201".to_owned(),
        mac: "02:00:00:00:00:98".to_owned(),
        socket_path: node.run().path().join("leak.sock").display().to_string(),
        peer_cgroups: vec!["/no/such/cgroup".to_owned()],
        ..PortSpec::default()
    })?;
    node.stop_plugin()?;
    let mut command = doctor(node, "containerd.toml")?;
    command.args(["--repair", "--json"]);
    let text = String::from_utf8_lossy(&command.output()?.stdout).into_owned();
    ensure!(text.contains("would not serve it"), "{text}");
    ensure!(node.containerd()?.cri.status(&lacking)?.pid == pid, "it was ended for nothing");
    ensure!(
        !node.vrouter()?.ports()?.iter().any(|it| it.spec.as_ref().is_some_and(|it| it.id == gone)),
        "the port is left"
    );
    node.start_plugin()?;
    let text = String::from_utf8_lossy(&command.output()?.stdout).into_owned();
    println!("    {text}");
    ensure!(text.contains("demo/comes-back/app was ended"), "{text}");
    // CRI hears of it from the shim.
    wait::until("CRI knows that the container has ended", MENDING, || {
        let state = node.containerd()?.cri.status(&lacking)?.state;
        Ok((state == ContainerState::ContainerExited).then_some(()))
    })?;
    // As kubelet does then.
    let again = node.add_container(&sandbox, "app", 1)?;
    let pid = node.containerd()?.cri.status(&again)?.pid;
    let mounts = readback::mounts(Some(pid))?;
    ensure!(mounts.iter().any(|it| it.target.ends_with("run/ringway")), "no interface");
    node.containerd()?.cri.remove(&lacking)?;
    look(node)?.is_well()?;
    node.delete(&sandbox)
}

/// A plugin that runs and that containerd has not taken in: here one that looks for it in the wrong place.
pub fn of_a_plugin_that_is_not_connected(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    node.stop_plugin()?;
    let run = node.run().path();
    let mut command = Command::new(program("ringway-nri")?);
    command.arg("--config").arg(run.join("nri.toml"));
    command.arg("--nri-socket").arg(run.join("nowhere.sock"));
    let log = run.join("nri-lost.log");
    let mut lost = integration::process::Daemon::start("ringway-nri", command, &log)?;
    lost.wait_for("it tries", MENDING, || {
        Ok(fs::read_to_string(&log)?.contains("not registered").then_some(()))
    })?;
    let outcome = look(node);
    lost.stop(MENDING)?;
    node.start_plugin()?;
    let report = outcome?;
    report.is_unwell()?;
    report.names("nri", "failure", &["containerd has not taken it in"])?;
    look(node)?.is_well()
}

/// A node without hugepages, with the older containerd.
pub fn of_a_node_without_hugepages(stage: &mut Stage) -> Result<()> {
    let mut setup = Setup::new(Version::V1_7, PluginStart::External);
    setup.hugepages = Hugepages::None;
    let node = stage.node(&setup)?;
    let report = look(node)?;
    report.is_unwell()?;
    report.names("hugepages", "failure", &["no huge pages are reserved"])?;
    report.names("containerd", "ok", &["containerd 1.7", "it runs"])?;
    report.names("nri", "ok", &["ringway-nri runs"])?;
    let failures = report.with("failure");
    if failures.len() > 1 {
        bail!("more is wrong than hugepages: {failures:#?}");
    }
    Ok(())
}
