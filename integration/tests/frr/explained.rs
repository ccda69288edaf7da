//! `ringway explain` beside what happens: the same packets are sent, and the counters say where they went.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vrouter_api::v1::{PortStats, Stats};

use crate::rig::{Node, Rig};
use crate::traffic;

fn explain(node: &Node, arguments: &str) -> Result<Value> {
    let said = node.ringway(&format!("--json explain {arguments}"))?;
    let told: Value = serde_json::from_str(&said)?;
    told.get(0).cloned().context("no answer")
}

/// Counters that a dry run must not touch.
fn counted(node: &Node) -> Result<Vec<u64>> {
    let Stats { ports, uplinks, .. } = node.vrouter()?.stats()?;
    let of = |port: &PortStats| {
        let drops: u64 = port.drops.iter().map(|drop| drop.packets).sum();
        [port.rx_packets, port.tx_packets, drops]
    };
    let ports = ports.iter().flat_map(of);
    // Kernels look after their neighbours meanwhile: nothing is said of what is punted for that.
    let wires = uplinks.iter().filter_map(|it| it.port.as_ref()).map(|port| of(port)[2]);
    Ok(ports.chain(wires).collect())
}

fn punted(node: &Node, class: &str) -> Result<u64> {
    let stats = node.vrouter()?.stats()?.uplinks.into_iter().next().context("no uplink")?;
    let found = stats.punts.into_iter().find(|punt| punt.name == class);
    Ok(found.map_or(0, |punt| punt.value))
}

fn dropped(node: &Node, reason: &str) -> Result<u64> {
    let stats = node.vrouter()?.port_stats("pod/0/net0")?;
    Ok(stats.drops.iter().find(|it| it.reason == reason).map_or(0, |it| it.packets))
}

/// Into the tunnel and out of it, to the kernel, and nowhere.
pub fn beside_counters(rig: &mut Rig) -> Result<()> {
    let Rig { a, b, .. } = &*rig;
    traffic::ping(&a.space, "192.0.2.2", 56).context("from host to host")?;
    a.ringway("routes replace red 10.66.2.0/24 vxlan 192.0.2.2")?;
    b.ringway("routes replace red 10.66.1.0/24 vxlan 192.0.2.1")?;
    traffic::ping(&a.pod, "10.66.2.2", 56).context("from pod to pod")?;

    let told = explain(a, "--from shop/cart-a --to 10.66.2.2 --proto icmp")?;
    ensure!(told["verdict"] == "encapsulate" && told["path"] == "dpdk", "{told:#}");
    ensure!(told["to"]["name"] == "up0" && told["outer"]["kind"] == "vxlan", "{told:#}");
    ensure!(told["outer"]["number"] == 77 && told["outer"]["destination"] == "192.0.2.2");
    let [route, underlay] = [&told["lookups"][0], &told["lookups"][1]];
    ensure!(route["prefix"] == "10.66.2.0/24" && route["source"] == "api", "{told:#}");
    ensure!(underlay["prefix"] == "192.0.2.2/32" && underlay["source"] == "kernel", "{told:#}");
    ensure!(underlay["mac"] == b.space.mac("w0")?.as_str(), "{told:#}");
    // The wire takes 1600, the tunnel 50 of them, the network 1500: so it is.
    ensure!(told["mtu"] == 1500, "{told:#}");
    ensure!(told["larger"][0]["reason"] == "fragmentation_needed", "{told:#}");
    traffic::ping(&a.pod, "10.66.2.2", 1472).context("as large as may be")?;

    let before = punted(a, "local")?;
    let told = explain(a, "--uplink up0 --source 192.0.2.2 --to 192.0.2.1 --proto icmp")?;
    ensure!(told["verdict"] == "punt" && told["reason"] == "local", "{told:#}");
    ensure!(told["to"]["name"] == "host0", "{told:#}");
    ensure!(punted(a, "local")? == before, "the dry run was counted");
    traffic::ping(&b.space, "192.0.2.1", 56)?;
    ensure!(punted(a, "local")? >= before + 3, "pings of the host were not punted as local");

    let before = dropped(a, "no_route")?;
    let told = explain(a, "--from 10.66.1.2 --to 203.0.113.9")?;
    ensure!(told["verdict"] == "drop" && told["reason"] == "no_route", "{told:#}");
    ensure!(told["remedy"].as_str().is_some_and(|it| it.contains("ringway routes add red")));
    a.pod.inside(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        Ok(socket.send_to(b"x", "203.0.113.9:9")?)
    })?;
    let counted_once =
        integration::wait::until("the drop is counted", crate::rig::PATIENCE, || {
            Ok((dropped(a, "no_route")? == before + 1).then_some(()))
        });
    counted_once?;

    // Asking changes no counter, however often.
    a.vrouter()?.settled_stats(crate::rig::PATIENCE)?;
    let before = counted(a)?;
    for to in ["10.66.2.2", "10.66.1.77", "10.66.1.1", "203.0.113.9"] {
        explain(a, &format!("--from pod/0/net0 --to {to}"))?;
    }
    explain(a, "--host-interface up0 --source 192.0.2.1 --to 192.0.2.2")?;
    ensure!(counted(a)? == before, "asking was counted");
    for (arguments, part) in [
        ("explain --from nobody --to 10.1.1.1", "no port is called"),
        ("explain --uplink up9 --source 10.1.1.2 --to 10.1.1.1", "unknown uplink \"up9\""),
        ("explain --uplink up0 --to 10.1.1.1", "name the IPv4 address"),
    ] {
        let error = a.ringway(arguments).err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(error.contains(part), "{arguments}: {error}");
    }
    a.ringway("routes delete red 10.66.2.0/24")?;
    b.ringway("routes delete red 10.66.1.0/24")?;
    Ok(())
}
