//! A bond of both NICs, whose wires end at one switch. The last of the tests: the rig is another one afterwards.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use integration::qemu::numa::NICS;
use integration::space::stream::Stream;
use integration::space::traffic;
use integration::wait;
use vrouter_api::v1::UplinkSpec;

use crate::cables::cable;
use crate::rig::{Rig, UP, far_tunnel, ways};

/// Datagrams that show that it goes on.
const SOME: usize = 20;

/// Packets go by the second NIC as soon as the first one's cable is pulled, and by the first again.
pub fn fails_over(rig: &Rig) -> Result<()> {
    for name in ["up0", "up1"] {
        rig.vrouter.delete_uplink(name)?;
    }
    let (mac, router) = (rig.far.mac("e0")?, rig.far.mac("vx0")?);
    for line in [
        "link delete vx0",
        "addr flush dev e0",
        "addr flush dev e1",
        "link add br0 type bridge",
        "link set e0 master br0",
        "link set e1 master br0",
        &format!("link set br0 address {mac} mtu 1600 up"),
        "addr add 192.0.2.2/24 dev br0",
    ] {
        rig.far.ip(line)?;
    }
    far_tunnel(&rig.far, "br0", &rig.vrouter.network("red")?.gateway_mac, Some(&router))?;
    let uplink = rig.vrouter.create_uplink(UplinkSpec {
        name: "up0".to_owned(),
        device: NICS[0].to_owned(),
        backups: vec![NICS[1].to_owned()],
        network: "fabric".to_owned(),
        host_interface: "host0".to_owned(),
        ..UplinkSpec::default()
    })?;
    // Of different nodes.
    ensure!(uplink.driver == "net_bonding" && uplink.numa_node == -1, "{uplink:?}");
    rig.node.ip("addr add 192.0.2.1/24 dev host0")?;
    rig.node.ip("link set host0 up")?;
    rig.vrouter.set_routes("fabric", ways(&mac))?;
    carried_by(rig, [true, true], 0)?;
    traffic::ping(&rig.pod, "10.99.0.1", 1472).context("over the bond")?;
    let stream = Stream::start(&rig.pod, &rig.far, "10.99.0.1:5009")?;
    let cut = cut_and_back(rig, &stream);
    stream.end()?;
    cut?;
    traffic::ping(&rig.far, "192.0.2.1", 1400).context("the node, over the bond")
}

fn cut_and_back(rig: &Rig, stream: &Stream) -> Result<()> {
    stream.wait_more(SOME).context("by the first")?;
    let since = Instant::now();
    cable(rig, 0, false)?;
    let reason = carried_by(rig, [false, true], 1)?;
    ensure!(reason == format!("{} carries: {} has no link", NICS[1], NICS[0]), "{reason}");
    stream.wait_more(SOME).context("by the second")?;
    println!("    without an answer for {:?} when the cable was pulled", stream.longest_gap(since));
    let since = Instant::now();
    cable(rig, 0, true)?;
    carried_by(rig, [true, true], 0)?;
    stream.wait_more(SOME).context("by the first again")?;
    println!("    without an answer for {:?} when it was back", stream.longest_gap(since));
    Ok(())
}

/// Waits until these NICs have a link and this one carries the packets; gives what people are told.
fn carried_by(rig: &Rig, links: [bool; 2], nic: usize) -> Result<String> {
    wait::until(&format!("links {links:?}, carried by {nic}"), UP, || {
        let uplink = rig.vrouter.uplink("up0")?;
        let is_so = uplink.members.iter().map(|member| member.link).eq(links)
            && uplink.members.get(nic).is_some_and(|member| member.active);
        Ok(is_so.then_some(uplink.reason))
    })
}
