//! A device that one vRouter has is refused to the other.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use integration::stage::Stage;
use vrouter_api::v1::{Network, NetworkMode, Tunnel, UplinkSpec};

use crate::node;

/// A wire in the machine's own network, there as long as this is.
struct Wire;

const NEAR: &str = "rwnuma0";

impl Wire {
    fn create() -> Result<Self> {
        let _ = ip(&["link", "delete", NEAR]);
        ip(&["link", "add", NEAR, "type", "veth", "peer", "name", "rwnuma1"])?;
        let wire = Self;
        ip(&["link", "set", NEAR, "up"])?;
        Ok(wire)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = ip(&["link", "delete", NEAR]);
    }
}

fn ip(words: &[&str]) -> Result<()> {
    let output = Command::new("/usr/sbin/ip").args(words).output()?;
    ensure!(output.status.success(), "ip {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Whoever comes second is told who has it; it is free when that one deletes its uplink, or is killed.
pub fn have_one_owner(stage: &mut Stage) -> Result<()> {
    let node = node(stage)?;
    let _wire = Wire::create()?;
    let network = Network { name: "outside".into(), external: true, ..Network::default() };
    let uplink = UplinkSpec {
        name: "up0".into(),
        device: NEAR.into(),
        network: "outside".into(),
        ..UplinkSpec::default()
    };
    for number in [0, 1] {
        node.instance(number)?.create_network(network.clone())?;
    }
    // Nor is a device of the kernel's bridge shared: each would take the other's entries away.
    let tunnel = Tunnel {
        vni: 7,
        underlay: "outside".into(),
        local: "192.0.2.1".into(),
        kernel_bridge_port: NEAR.into(),
        ..Tunnel::default()
    };
    let bridged = Network {
        name: "wide".into(),
        ipv4: "10.89.0.0/24".into(),
        mode: NetworkMode::Bridged.into(),
        tunnel: Some(tunnel),
        ..Network::default()
    };
    let asked = node.instance(0)?.create_network(bridged);
    let error = format!("{:#}", asked.err().context("it was given a bridge of the kernel's")?);
    ensure!(error.contains("tunnel.kernel_bridge_port \"rwnuma0\": is of one vRouter"), "{error}");
    node.instance(0)?.create_uplink(uplink.clone())?;
    let refused = |node: &integration::node::Node, holder: u32| -> Result<()> {
        let asked = node.instance(1 - holder)?.create_uplink(uplink.clone());
        let error = format!("{:#}", asked.err().unwrap_or_else(|| anyhow::anyhow!("it was given")));
        let pid = node.instance(holder)?.pid();
        let socket = format!("vrouter-{holder}/api.sock (process {pid})");
        ensure!(
            error.contains("is claimed by another vRouter") && error.contains(&socket),
            "{error}"
        );
        Ok(())
    };
    refused(node, 0)?;
    node.instance(0)?.delete_uplink("up0")?;
    node.instance(1)?.create_uplink(uplink.clone())?;
    refused(node, 1)?;
    node.crash_instance(1)?;
    node.instance(0)?.create_uplink(uplink.clone())?;
    node.start_instance(1)?;
    node.instance(1)?.create_network(network)?;
    refused(node, 0)?;
    for number in [0, 1] {
        node.instance(number)?.delete_uplink("up0")?;
    }
    Ok(())
}
