//! Pods whose applications know nothing of DPDK: what is in their network namespaces.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::containerd::Containerd;
use crate::node::{Node, RunningPod};
use crate::wait;

const PATIENCE: Duration = Duration::from_secs(60);

/// What gives pods a network of their own here; Ringway's interfaces come beside it and have nothing to do with it.
const CNI: &str = r#"{
  "cniVersion": "1.0.0", "name": "ringway-test",
  "plugins": [{"type": "ptp", "ipam": {"type": "host-local", "dataDir": "DATA", "subnet": "10.123.0.0/24"}}]
}"#;

/// Gives containerd a CNI plugin, without which pods have no network namespace of their own.
pub fn set_up_cni(node: &Node) -> Result<()> {
    let directory = Containerd::cni_directory(node.run());
    fs::create_dir_all(&directory)?;
    let data = node.run().path().join("cni-data").display().to_string();
    fs::write(directory.join("10-test.conflist"), CNI.replace("DATA", &data))?;
    let cri = &node.containerd()?.cri;
    wait::until("containerd has a CNI plugin", PATIENCE, || Ok(cri.network_ready()?.then_some(())))
}

/// A program in a pod's network namespace.
pub fn inside(node: &Node, pod: &RunningPod, line: &str) -> Result<Command> {
    let mut command = Command::new("/usr/bin/nsenter");
    command.arg(format!("--net=/proc/{}/ns/net", node.pid(pod)?)).args(line.split(' '));
    Ok(command)
}

/// Runs one to its end; what it says.
pub fn run(node: &Node, pod: &RunningPod, line: &str) -> Result<String> {
    let output = inside(node, pod, line)?.output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{line}: {said}{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(said)
}

/// `ip` there.
pub fn ip(node: &Node, pod: &RunningPod, line: &str) -> Result<String> {
    run(node, pod, &format!("/usr/sbin/ip {line}"))
}

/// Asks for answers of an address. Every answer must come.
pub fn ping(node: &Node, from: &RunningPod, to: &str, bytes: usize) -> Result<()> {
    let line = format!("/bin/busybox ping -c 3 -W 5 -s {bytes} {to}");
    let said = run(node, from, &line)?;
    ensure!(said.contains("3 packets received"), "{said}");
    Ok(())
}
