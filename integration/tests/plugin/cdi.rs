//! Devices by CDI in pods of containerd: the file is all that containerd knows of Ringway.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration::containerd::Version;
use integration::device::Device;
use integration::leftovers::leftovers;
use integration::node::{Node, PluginStart, Setup};
use integration::pod::Pod;
use integration::{image, testpmd, wait};

use integration::stage::Stage;

/// What kubelet writes for a device of a device plugin, with any name behind it.
const ANNOTATION: &str = "cdi.k8s.io/ringway";

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
