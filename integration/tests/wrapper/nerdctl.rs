//! nerdctl, on the node's containerd.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use integration::device::Device;
use integration::machine::repository;
use integration::node::Node;
use integration::stage::Stage;
use integration::wrapper::{
    command, expect, fail, held, held_of, manager, run, wait_nothing_left, wrapper,
};
use integration::{image, testpmd};

use crate::bare::{NOTICED, idle};
use crate::managers::Manager;

/// nerdctl up to its verb: everything it keeps is in the run's directories.
fn line(node: &Node) -> Result<Command> {
    let data = node.run().disk().join("nerdctl");
    let mut line = command(node, manager("nerdctl").map_err(anyhow::Error::msg)?)?;
    line.arg("--address").arg(node.containerd()?.socket());
    line.args(["--namespace", "k8s.io", "--cgroup-manager", "cgroupfs"]);
    line.arg("--data-root").arg(&data).arg("--cni-netconfpath").arg(data.join("cni"));
    line.arg("--cdi-spec-dirs").arg(node.run().path().join("cdi"));
    Ok(line)
}

fn id(node: &Node, name: &str) -> Result<String> {
    let id = run(line(node)?.args(["inspect", "--format", "{{.ID}}", name]))?;
    Ok(id.trim().to_owned())
}

/// Between `run` and the image, with a runtime or containerd's own.
fn options(node: &Node, runtime: Option<&str>) -> Vec<String> {
    let parent = format!("/{}/nerdctl", node.run().id());
    let mut options = ["--network", "none", "--cgroup-parent", &parent].map(str::to_owned).to_vec();
    if let Some(runtime) = runtime {
        options.extend(["--runtime".to_owned(), runtime.to_owned()]);
    }
    options
}

/// Calls `play` with containers of the wrapper that are told by this option.
fn with_wrapper(
    node: &Node,
    tell: &'static str,
    play: impl FnOnce(&Manager<'_>) -> Result<()>,
) -> Result<()> {
    let runtime = wrapper()?.display().to_string();
    let line = || line(node);
    let id_of = |name: &str| id(node, name);
    let options = options(node, Some(&runtime));
    play(&Manager { line: &line, options, tell, csv: false, id_of: &id_of })
}

pub fn annotations(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    with_wrapper(node, "--annotation", |manager| manager.every_step(node))
}

/// Labels are in containerd alone.
pub fn labels(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    with_wrapper(node, "--label", |manager| manager.every_step(node))
}

/// A container that is stopped, started and restarted is served each time, and releases what it had.
pub fn starts_again(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    with_wrapper(node, "--annotation", |manager| {
        let asks = [("network.ringway.dev", "red".to_owned())];
        run(&mut manager.start("again", &asks, &idle())?)?;
        let id = id(node, "again")?;
        let first = held_of(node, &id)?;
        run(line(node)?.args(["stop", "again"]))?;
        wait_nothing_left(node, NOTICED)?;
        for verb in ["start", "restart"] {
            run(line(node)?.args([verb, "again"]))?;
            let now = held_of(node, &id)?;
            ensure!(now.interfaces.len() == first.interfaces.len(), "{now:?}, at first {first:?}");
            node.vrouter()?.port(&now.sandbox)?;
            let file = ["exec", "again", "cat", "/run/ringway/interfaces.json"];
            let seen = run(line(node)?.args(file))?;
            expect(&seen, &[&now.interfaces[0].ipv4])?;
        }
        manager.remove("again")?;
        wait_nothing_left(node, NOTICED)
    })
}

/// A device by CDI, with the plain runtime; one container has it at a time.
pub fn device(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let device = Device::make(node, &node.run().path().join("cdi"), "nerdctl")?;
    let start = |name: &str| -> Result<Command> {
        let mut line = line(node)?;
        line.args(["run", "--detach", "--name", name, "--device", &device.reference()]);
        // The default profile refuses what EAL needs to place memory; only the wrapper changes that.
        line.args(options(node, None)).args(["--security-opt", "seccomp=unconfined"]);
        let words = testpmd::command(&testpmd::Role::Receive);
        let (program, rest) = words.split_first().context("no words")?;
        line.args(["--entrypoint", program, image::TESTPMD]).args(rest);
        Ok(line)
    };
    let remove = |name: &str| run(line(node)?.args(["rm", "--force", name])).map(drop);
    run(&mut start("first")?)?;
    device.wait_up(node)?;
    let text = fail(&mut start("second")?)?;
    println!("    {text}");
    expect(&text, &["in use by the container"])?;
    remove("second")?;
    remove("first")?;
    device.wait_down(node)?;
    device.delete(node)?;
    wait_nothing_left(node, NOTICED)
}

/// NRI reaches containers of CRI only: without the wrapper an annotation is one that nobody reads, and the documentation says so.
pub fn plain_runc(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let line = || line(node);
    let id_of = |name: &str| id(node, name);
    let options = options(node, None);
    let manager = Manager { line: &line, options, tell: "--annotation", csv: false, id_of: &id_of };
    run(&mut manager.start("unread", &[("network.ringway.dev", "red".to_owned())], &idle())?)?;
    ensure!(held(node)?.is_empty(), "{:?}", held(node)?);
    let ports = node.vrouter()?.ports()?;
    ensure!(ports.is_empty(), "{ports:?}");
    manager.remove("unread")
}

/// The first steps of the documentation, as they are written there. nerdctl finds this run's containerd in a configuration file.
pub fn first_steps(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let text = fs::read_to_string(repository().join("docs/nerdctl.md"))?;
    let (_, text) = text.split_once("```sh\n").context("no commands in docs/nerdctl.md")?;
    let (script, _) = text.split_once("\n```").context("they never end")?;
    let data = node.run().disk().join("nerdctl");
    let settings = node.run().path().join("nerdctl.toml");
    let lines = format!(
        "address = {:?}\nnamespace = \"k8s.io\"\ncgroup_manager = \"cgroupfs\"\n\
         data_root = {data:?}\ncni_netconfpath = {:?}\n",
        node.containerd()?.socket(),
        data.join("cni"),
    );
    fs::write(&settings, lines)?;
    // It waits for packets.
    let mut shell = command(node, "/usr/bin/timeout")?;
    shell.args(["180", "/bin/sh", "-e", "-u", "-c", script]);
    let path = shell.get_envs().find(|it| it.0 == "PATH").and_then(|it| it.1).unwrap_or_default();
    let built = wrapper()?;
    let built = built.parent().map(Path::to_owned);
    let path: Vec<_> = built.into_iter().chain(std::env::split_paths(path)).collect();
    shell.env("PATH", std::env::join_paths(path)?);
    shell.env("NERDCTL_TOML", &settings).env("IMAGE", image::TESTPMD);
    shell.env("RINGWAY_VROUTER_SOCKET", node.vrouter()?.socket());
    let said = run(&mut shell)?;
    println!("{said}");
    expect(&said, &["\"10.66.0.80/24\"", "RX-packets: ", "k8s.io/sends"])?;
    wait_nothing_left(node, NOTICED)?;
    remove_cgroups();
    Ok(())
}

/// Cgroups of containers that name no parent are in one of containerd's namespace; what is not empty is somebody else's.
fn remove_cgroups() {
    for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let _ = fs::remove_dir(hierarchy.path().join("k8s.io"));
    }
}
