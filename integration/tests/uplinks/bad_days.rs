//! What can go wrong with uplinks, and what is said of it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration::wait;
use vrouter_api::v1::{UplinkDriver, UplinkSpec};

use crate::rig::{self, Rig};
use integration::space::traffic;

const PATIENCE: Duration = Duration::from_secs(30);

fn spec(name: &str, device: &str) -> UplinkSpec {
    UplinkSpec {
        name: name.to_owned(),
        device: device.to_owned(),
        network: "fabric".to_owned(),
        ..UplinkSpec::default()
    }
}

/// Requests that can't be, interfaces that go and come back.
pub fn told_and_survived(rig: &Rig) -> Result<()> {
    refused(rig)?;
    host_interface_deleted(rig)?;
    frames_too_long(rig)?;
    unplugged(rig)
}

fn refused(rig: &Rig) -> Result<()> {
    rig.node.ip("link add br0 type bridge")?;
    rig.node.ip("link add b0 master br0 type veth peer name b1")?;
    for (spec, expected) in [
        (spec("up2", "eth7"), "there is no interface \"eth7\"; there are "),
        (spec("up2", "n0"), "device \"n0\" is in use by uplink \"up0\""),
        (spec("up2", "b0"), "is a port of \"br0\""),
        (spec("up0", "b1"), "uplink \"up0\" exists with other parameters"),
        (UplinkSpec { mtu: 1500, ..spec("up2", "b1") }, "carries packets of 1600 bytes"),
        (UplinkSpec { mtu: 4000, ..spec("up2", "b1") }, "set dpdk.buffer_bytes to 4200"),
        (UplinkSpec { network: "red".into(), ..spec("up2", "b1") }, "external = true"),
        (UplinkSpec { network: "blue".into(), ..spec("up2", "b1") }, "unknown network \"blue\""),
        (UplinkSpec { host_interface: "n1".into(), ..spec("up2", "b1") }, "\"n1\" exists already"),
        (spec("a-name-that-is-too-long", "b1"), "use 1 to 15 letters"),
        (
            UplinkSpec { driver: UplinkDriver::AfXdp.into(), ..spec("up2", "b1") },
            "set `af_xdp = true` in [dpdk]",
        ),
        (spec("up2", "0000:ff:1f.7"), "there is no PCI device 0000:ff:1f.7"),
    ] {
        match rig.vrouter.create_uplink(spec.clone()) {
            Ok(made) => bail!("was made: {made:?}"),
            Err(error) => {
                let text = format!("{error:#}");
                ensure!(text.contains(expected), "{spec:?}: {text}");
            }
        }
    }
    // Nothing is left of what was refused: the device can still be had, and is free again afterwards.
    for _ in 0..2 {
        rig.vrouter.create_uplink(spec("up2", "b1"))?;
        rig.vrouter.delete_uplink("up2")?;
    }
    rig.node.ip("link delete br0")?;
    Ok(())
}

/// The TAP is deleted by hand: it is made again, with its name and its address.
fn host_interface_deleted(rig: &Rig) -> Result<()> {
    let number = || rig.node.run("cat /sys/class/net/host0/ifindex");
    let (before, mac) = (number()?, rig.node.mac("host0")?);
    rig.node.ip("link delete host0")?;
    wait::until("the host interface is there again", PATIENCE, || {
        Ok(number().ok().filter(|now| *now != before))
    })?;
    wait::until("nothing is wrong with the uplink", PATIENCE, || {
        Ok(rig.vrouter.uplink("up0")?.reason.is_empty().then_some(()))
    })?;
    ensure!(rig.node.mac("host0")? == mac, "it has another address");
    rig.node.ip("addr add 192.0.2.1/24 dev host0")?;
    traffic::ping(&rig.node, "192.0.2.2", 56).context("through the new host interface")
}

/// Somebody lets the host interface send what no packet buffer holds: it is lost, not cut, and disturbs nothing else.
fn frames_too_long(rig: &Rig) -> Result<()> {
    let received = || -> Result<u64> {
        Ok(rig.uplink_stats("up0")?.host.context("no counters of the host interface")?.rx_bytes)
    };
    let before = received()?;
    rig.node.ip("link set host0 mtu 4000")?;
    ensure!(traffic::ping(&rig.node, "192.0.2.2", 3000).is_err(), "more than a buffer got through");
    let bytes = received()? - before;
    ensure!(bytes < 2000, "{bytes} bytes of frames that were too long");
    rig.node.ip("link set host0 mtu 1600")?;
    traffic::ping(&rig.node, "192.0.2.2", 1572).context("after frames that were too long")
}

/// The wire is pulled out of the machine and another is put in.
pub fn unplugged(rig: &Rig) -> Result<()> {
    rig.node.ip("link delete n1")?;
    let reason = rig.wait_link("up1", false)?;
    ensure!(reason.contains("interface \"n1\" is gone"), "{reason}");
    traffic::ping(&rig.pod, "10.99.0.1", 56).context("over the other wire")?;
    rig::wire(&rig.node, &rig.far, "n1", "e1")?;
    let reason = rig.wait_link("up1", true)?;
    ensure!(reason.is_empty(), "{reason}");
    // A wire that is new has a new address, which the uplink takes over.
    let uplink = rig.vrouter.uplink("up1")?;
    ensure!(uplink.mac == rig.node.mac("n1")?, "{uplink:?}");
    Ok(())
}
