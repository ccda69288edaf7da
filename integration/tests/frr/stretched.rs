//! A bridged network of both nodes: its pods find each other by ARP through VXLAN, as tshark reads it.

use anyhow::{Context, Result, ensure};
use integration::rundir::RunDir;
use integration::space::{Space, traffic};
use vrouter_api::v1::{Network, NetworkMode, PortKind, PortSpec, Tunnel};

use crate::rig::{Node, Rig, Which};
use crate::wire::{Capture, Dissected, dissect};

const PORT: &str = "lan/0/net0";

/// The pod's address on a node.
fn address(which: Which) -> &'static str {
    if which == Which::A { "10.68.0.11" } else { "10.68.0.12" }
}

fn mac(which: Which) -> &'static str {
    if which == Which::A { "02:00:00:00:88:01" } else { "02:00:00:00:88:02" }
}

/// Without a route to either pod, and without anybody who tells the nodes of them.
pub fn between_two_vrouters(rig: &mut Rig) -> Result<()> {
    let Rig { a, b, run, .. } = &*rig;
    traffic::ping(&a.space, "192.0.2.2", 56).context("from host to host")?;
    traffic::ping(&b.space, "192.0.2.1", 56).context("from host to host")?;
    let [pod_a, pod_b] = [pod(run, a, b)?, pod(run, b, a)?];
    // The question, which is for everybody, and three pings; the answers go the other way.
    let captures =
        [Capture::start(b, "udp dst port 4789", 4)?, Capture::start(a, "udp dst port 4789", 4)?];
    traffic::ping(&pod_a, address(Which::B), 56).context("from node to node")?;
    let [there, back] = captures.map(|capture| dissect(&capture.finish()?));
    check(
        &there?,
        ["192.0.2.1", "192.0.2.2"],
        [mac(Which::A), "ff:ff:ff:ff:ff:ff", mac(Which::B)],
    )?;
    check(&back?, ["192.0.2.2", "192.0.2.1"], [mac(Which::B), mac(Which::A), mac(Which::A)])?;
    traffic::ping(&pod_b, address(Which::A), 1472).context("the largest, back")?;
    traffic::tcp(&pod_a, &pod_b, "10.68.0.12:5001").context("TCP")?;
    for (node, pod) in [(a, &pod_a), (b, &pod_b)] {
        // Each node's own gateway answers.
        traffic::ping(pod, "10.68.0.1", 56).context("the gateway")?;
        ensure!(node.vrouter()?.network("lan")?.stations == 1, "{}", node.ringway("networks")?);
    }
    for node in [a, b] {
        node.vrouter()?.delete_port(PORT)?;
        node.vrouter()?.delete_network("lan")?;
    }
    Ok(())
}

/// Makes the network on a node, and a pod in it.
fn pod(run: &RunDir, node: &Node, other: &Node) -> Result<Space> {
    let which = node.which;
    node.vrouter()?.create_network(Network {
        name: "lan".to_owned(),
        ipv4: "10.68.0.0/24".to_owned(),
        mode: NetworkMode::Bridged.into(),
        tunnel: Some(Tunnel {
            vni: 88,
            underlay: "fabric".to_owned(),
            local: which.address().to_owned(),
            flood: vec![other.which.address().to_owned()],
            ..Tunnel::default()
        }),
        ..Network::default()
    })?;
    let space = Space::create(run, &format!("lan-{}", which.name()))?;
    // Of its own accord a kernel would look for IPv6 routers.
    space.set("ipv6/conf/default/disable_ipv6", "1")?;
    node.vrouter()?.create_port(PortSpec {
        id: PORT.to_owned(),
        network: "lan".to_owned(),
        mac: mac(which).to_owned(),
        ipv4: address(which).to_owned(),
        kind: PortKind::Kernel.into(),
        netns: format!("/run/netns/{}", space.name()),
        link: "eth0".to_owned(),
        ..PortSpec::default()
    })?;
    space.ip("link set eth0 up")?;
    space.ip(&format!("addr add {}/24 dev eth0", address(which)))?;
    Ok(space)
}

/// `macs`: who sends, who gets the first frame, and who gets the others.
fn check(frames: &[Dissected], nodes: [&str; 2], macs: [&str; 3]) -> Result<()> {
    ensure!(frames.len() == 4, "{frames:#?}");
    for (at, frame) in frames.iter().enumerate() {
        let names: Vec<_> = frame.protocols.iter().map(|(name, ..)| name.as_str()).collect();
        let inner: &[&str] = if at == 0 { &["arp"] } else { &["ip2", "icmp"] };
        let expected = [&["eth", "ip", "udp", "vxlan", "eth2"], inner].concat();
        ensure!(names.starts_with(&expected), "{names:?}");
        let mut next = 0;
        for (name, start, size) in frame.protocols.iter().take(expected.len()) {
            ensure!(*start == next, "{name} starts at {start}, not at {next}: {frame:#?}");
            next += size;
        }
        for (name, expected) in [
            ("ip.src", nodes[0]),
            ("ip.dst", nodes[1]),
            ("ip.flags.df", "1"),
            ("ip.checksum.status", "1"),
            ("udp.dstport", "4789"),
            ("udp.checksum", "0x0000"),
            ("vxlan.vni", "88"),
            ("eth2.src", macs[0]),
            ("eth2.dst", if at == 0 { macs[1] } else { macs[2] }),
        ] {
            let said = frame.fields.get(name).with_context(|| format!("no {name}: {frame:#?}"))?;
            // Versions of tshark differ in how they write a flag.
            let same = said == expected || said == "True" && expected == "1";
            ensure!(same, "{name} is {said}, not {expected}: {frame:#?}");
        }
    }
    Ok(())
}
