//! MPLS over UDP (RFC 7510) between the nodes, as tshark reads it.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::rig::{Node, Rig};
use crate::wire::{Capture, Dissected, dissect};
use integration::space::traffic;

/// Label of both networks, as `docs/frr.md` has it.
const LABEL: &str = "7700";
/// Pings of one size.
const PINGS: u32 = 3;

/// Every byte of every frame is where RFC 7510 wants it.
pub fn byte_for_byte(rig: &mut Rig) -> Result<()> {
    let Rig { a, b, .. } = &*rig;
    // The routers' neighbours are the kernel's to ask for.
    traffic::ping(&a.space, "192.0.2.2", 56).context("from host to host")?;
    a.ringway(&format!("routes replace red 10.66.2.0/24 mpls 192.0.2.2 label {LABEL}"))?;
    b.ringway(&format!("routes replace red 10.66.1.0/24 mpls 192.0.2.1 label {LABEL}"))?;
    ensure!(a.ringway("routes red")?.contains("10.66.2.0/24 mpls 192.0.2.2 label 7700\n"));
    ensure!(a.ringway("networks")?.contains("vni 77, label 7700 from 192.0.2.1 over fabric"));
    let told = a.ringway("explain --from shop/cart-a --to 10.66.2.2 --proto icmp")?;
    ensure!(told.contains("mpls label 7700, 192.0.2.1 > 192.0.2.2"), "{told}");
    ensure!(told.contains("mtu       1500 bytes"), "{told}");
    let [mac_a, mac_b] = [a.space.mac("w0")?, b.space.mac("w0")?];
    for bytes in [0_u16, 56, 1472] {
        // What a packet socket sends past the kernel's queues is not seen at that end of the wire.
        let captures = [(b, true), (a, false)].map(|(node, there)| {
            Ok((node, there, Capture::start(node, "udp dst port 6635", PINGS)?))
        });
        let captures = captures.into_iter().collect::<Result<Vec<_>>>()?;
        traffic::ping(&a.pod, "10.66.2.2", bytes.into())?;
        for (node, there, capture) in captures {
            let file = capture.finish()?;
            let frames = dissect(&file)?;
            ensure!(frames.len() == 3, "{} frames", frames.len());
            let macs = if there { [&mac_a, &mac_b] } else { [&mac_b, &mac_a] };
            let mut ports = BTreeSet::new();
            for frame in &frames {
                check(frame, there, macs, bytes)?;
                ports.insert(field(frame, "udp.srcport")?);
            }
            ensure!(ports.len() == 1, "a flow has more than one source port: {ports:?}");
            opened(node, &file)?;
        }
    }
    a.ringway("routes delete red 10.66.2.0/24")?;
    b.ringway("routes delete red 10.66.1.0/24")?;
    Ok(())
}

/// What comes in is explained by the same file.
fn opened(node: &Node, file: &Path) -> Result<()> {
    let told = node.ringway(&format!("explain --uplink up0 --pcap {} --json", file.display()))?;
    let told: serde_json::Value = serde_json::from_str(&told)?;
    let told = told.as_array().context("no array")?;
    ensure!(told.len() == 3, "{told:#?}");
    for one in told {
        ensure!(one["verdict"] == "decapsulate" && one["path"] == "dpdk", "{one:#}");
        ensure!(one["outer"]["kind"] == "mpls" && one["outer"]["number"] == 7700, "{one:#}");
        ensure!(one["to"]["name"] == "pod/0/net0", "{one:#}");
        let inside = &one["lookups"][1];
        ensure!(inside["asked"] == "inside" && inside["network"] == "red", "{one:#}");
    }
    Ok(())
}

fn field<'a>(frame: &'a Dissected, name: &str) -> Result<&'a str> {
    let found = frame.fields.get(name).with_context(|| format!("no {name} in {frame:#?}"))?;
    Ok(found)
}

/// `there`: from node a to node b. `bytes`: of a ping's payload.
fn check(frame: &Dissected, there: bool, macs: [&String; 2], bytes: u16) -> Result<()> {
    let inner = 20 + 8 + usize::from(bytes);
    let nodes = if there { ["192.0.2.1", "192.0.2.2"] } else { ["192.0.2.2", "192.0.2.1"] };
    let pods = if there { ["10.66.1.2", "10.66.2.2"] } else { ["10.66.2.2", "10.66.1.2"] };
    // No gap, no overlap, nothing behind: Ethernet, IPv4, UDP, the label, and the inner packet without an Ethernet header.
    let mut at = 0;
    let mut names = Vec::new();
    for (name, start, size) in &frame.protocols {
        // Parts of a message are listed behind it.
        if ["data"].contains(&name.as_str()) {
            continue;
        }
        ensure!(*start == at, "{name} starts at {start}, not at {at}: {frame:#?}");
        at += size;
        names.push(name.as_str());
    }
    ensure!(names == ["eth", "ip", "udp", "mpls", "ip2", "icmp"], "{names:?}");
    ensure!(at == 14 + 20 + 8 + 4 + inner, "{at} bytes: {frame:#?}");
    for (name, expected) in [
        ("eth.src", macs[0].as_str()),
        ("eth.dst", macs[1].as_str()),
        ("ip.src", nodes[0]),
        ("ip.dst", nodes[1]),
        ("ip.version", "4"),
        ("ip.hdr_len", "20"),
        ("ip.dsfield", "0x00"),
        ("ip.len", &(20 + 8 + 4 + inner).to_string()),
        ("ip.flags.df", "1"),
        ("ip.flags.mf", "0"),
        ("ip.ttl", "64"),
        ("ip.proto", "17"),
        ("ip.checksum.status", "1"),
        ("udp.dstport", "6635"),
        ("udp.length", &(8 + 4 + inner).to_string()),
        // RFC 7510 section 3.1: zero where there are means against mixing up.
        ("udp.checksum", "0x0000"),
        ("mpls.label", LABEL),
        ("mpls.exp", "0"),
        ("mpls.bottom", "1"),
        ("mpls.ttl", "255"),
        ("ip2.src", pods[0]),
        ("ip2.dst", pods[1]),
        ("ip2.len", &inner.to_string()),
        ("ip2.ttl", "63"),
        ("ip2.checksum.status", "1"),
        ("icmp.type", if there { "8" } else { "0" }),
        ("icmp.checksum.status", "1"),
    ] {
        let said = field(frame, name)?;
        let same = said == expected || number(said).is_some_and(|it| Some(it) == number(expected));
        ensure!(same, "{name} is {said}, not {expected}: {frame:#?}");
    }
    let port = number(field(frame, "udp.srcport")?).unwrap_or(0);
    ensure!((49_152..=65_535).contains(&port), "source port {port}");
    let bad =
        frame.fields.keys().find(|name| name.contains("malformed") || name.contains("expert"));
    ensure!(bad.is_none(), "{bad:?}: {frame:#?}");
    Ok(())
}

/// Versions of tshark differ in how they write numbers.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None if text == "True" => Some(1),
        None if text == "False" => Some(0),
        None => text.parse().ok(),
    }
}
