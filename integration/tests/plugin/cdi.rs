//! Devices by CDI in pods of containerd: the file is all that containerd knows of Ringway.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration::containerd::Version;
use integration::device::Device;
use integration::leftovers::leftovers;
use integration::node::{Node, PluginStart, Setup};
use integration::pod::Pod;
use integration::{image, plugins, testpmd, wait};
use serde_json::Value;

use integration::stage::Stage;

/// What kubelet writes for a device of a device plugin, with any name behind it.
const ANNOTATION: &str = "cdi.k8s.io/ringway";

/// The CDI project's own schema and reader, as the set-up built them.
const CHECKER: &str = "cdi-check";

/// Bytes, enough for testpmd.
const HUGEPAGES: u64 = 128 << 20;

/// A pod that has not opted in, with the device; gives sandbox and container.
fn start(node: &Node, name: &str, device: &Device) -> Result<(String, String)> {
    let cri = &node.containerd()?.cri;
    let mut pod = Pod::idle(name);
    pod.image = image::TESTPMD;
    pod.command = testpmd::command(&testpmd::Role::Receive);
    // A device brings no hugepages: the pod asks kubelet for them.
    pod.hugepages_2mi = HUGEPAGES;
    let config = pod.sandbox(node.run().id(), &node.run().path().join("logs"), 0);
    let mut container = pod.container(0);
    container.annotations.insert(ANNOTATION.to_owned(), device.reference());
    let sandbox = cri.run_pod(&config, "")?;
    let started = cri.create(&sandbox, &config, &container).and_then(|container| {
        cri.start(&container)?;
        Ok(container)
    });
    match started {
        Ok(container) => Ok((sandbox, container)),
        Err(error) => {
            end(node, &sandbox)?;
            Err(error)
        }
    }
}

fn end(node: &Node, sandbox: &str) -> Result<()> {
    let cri = &node.containerd()?.cri;
    cri.stop_pod(sandbox)?;
    cri.remove_pod(sandbox)
}

pub fn in_pods(stage: &mut Stage, version: Version) -> Result<()> {
    let node = stage.node(&Setup::new(version, PluginStart::External))?;
    let before = leftovers(node)?;
    let device = Device::make(node, &node.run().path().join("cdi"), "pods")?;
    // containerd sees new files by itself, a moment later.
    let mut first = None;
    wait::until("containerd knows the device", Duration::from_secs(20), || {
        match start(node, "first", &device) {
            Ok(started) => first = Some(started),
            Err(error) if format!("{error:#}").contains("unresolvable") => {}
            Err(error) => return Err(error),
        }
        Ok(first.is_some().then_some(()))
    })?;
    let (sandbox, container) = first.context("no container")?;
    device.wait_up(node)?;
    let cri = node.containerd()?.cri.clone();
    let file = cri.exec(&container, &["cat", "/run/ringway/interfaces.json"], 10)?;
    ensure!(file.code == 0 && file.stdout.contains(&device.ipv4), "{file:?}");
    let written = cri.exec(&container, &["/bin/sh", "-c", "echo >/run/ringway/x"], 10)?;
    ensure!(written.code != 0 && written.stderr.contains("Read-only"), "{written:?}");

    let error = match start(node, "second", &device) {
        Ok(_) => bail!("two containers have one device"),
        Err(error) => format!("{error:#}"),
    };
    println!("    {error}");
    ensure!(error.contains("in use by the container"), "{error}");
    // A restart of the plugin makes it forget nothing, and take nothing back.
    node.stop_plugin()?;
    node.start_plugin()?;
    device.wait_up(node)?;
    println!("    {}", device.refuses_to_go(node)?.trim());
    end(node, &sandbox)?;
    device.wait_down(node)?;
    let (sandbox, _) = start(node, "third", &device)?;
    device.wait_up(node)?;
    end(node, &sandbox)?;
    device.delete(node)?;
    ensure!(leftovers(node)? == before, "left: {:?}, before {before:?}", leftovers(node)?);
    Ok(())
}

/// Why files cannot be checked on this machine.
pub fn unmet() -> Option<String> {
    plugins::built(CHECKER).err()
}

fn check(file: &Path, spec: &Value) -> Result<Output> {
    fs::write(file, spec.to_string())?;
    let program = plugins::built(CHECKER).map_err(anyhow::Error::msg)?;
    Ok(Command::new(program).arg(file).output()?)
}

/// What is wrong with the file of a device, and where: a path in it and what stands there instead.
const WRONG: [(&str, &str, Value); 6] = [
    ("schema", "/cdiVersion", Value::Bool(true)),
    ("schema", "/devices/0/name", Value::Null),
    ("schema", "/devices/0/containerEdits/mounts/0/hostPath", Value::Null),
    ("schema", "/devices/0/containerEdits/hooks/0/args", Value::Bool(true)),
    ("reader", "/kind", Value::String(String::new())),
    ("reader", "/devices/0/containerEdits/hooks/0/hookName", Value::String(String::new())),
];

/// The file of a device is right by the schema of CDI and for its reader, which find what is wrong in one that is not.
pub fn file_is_right(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let before = leftovers(node)?;
    let directory = node.run().path().join("cdi-checked");
    let device = Device::make(node, &directory, "checked")?;
    let right: Value = serde_json::from_str(&device.text()?)?;
    ensure!(right.pointer("/devices/0/containerEdits/mounts/0").is_some(), "{right:#}");
    let file = directory.join("copy.json");
    let said = check(&file, &right)?;
    ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    ensure!(String::from_utf8_lossy(&said.stdout).trim() == device.reference(), "{said:?}");
    for (judge, place, instead) in WRONG {
        let mut wrong = right.clone();
        *wrong.pointer_mut(place).with_context(|| format!("no {place} in {right:#}"))? = instead;
        let said = check(&file, &wrong)?;
        let text = String::from_utf8_lossy(&said.stderr);
        println!("    {}", text.trim().replace('\n', " "));
        ensure!(!said.status.success() && text.contains(judge), "{place}: {said:?}");
    }
    fs::remove_file(file)?;
    device.delete(node)?;
    ensure!(leftovers(node)? == before, "left: {:?}, before {before:?}", leftovers(node)?);
    Ok(())
}
