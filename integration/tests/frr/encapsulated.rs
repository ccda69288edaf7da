//! MPLS over UDP (RFC 7510) and IP in IP (RFC 2003) between the nodes, as tshark reads it.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::rig::{Node, Rig};
use crate::wire::{Capture, Dissected, dissect};
use integration::space::traffic;

/// Label of both networks, as `docs/frr.md` has it.
const LABEL: &str = "7700";

/// What carries a packet, and what is seen of it.
struct Kind {
    name: &'static str,
    /// What a route has behind the other end's address.
    rest: &'static str,
    /// How `ringway explain` names its outer header.
    told: &'static str,
    /// Lets nothing else pass.
    filter: &'static str,
    /// Of IP: its protocol, and the bytes between its header and the packet inside.
    protocol: &'static str,
    shim: usize,
    protocols: &'static [&'static str],
}

const MPLS: Kind = Kind {
    name: "mpls",
    rest: " label 7700",
    told: "mpls label 7700, 192.0.2.1 > 192.0.2.2, udp ",
    filter: "udp dst port 6635",
    protocol: "17",
    shim: 8 + 4,
    protocols: &["eth", "ip", "udp", "mpls", "ip2", "icmp"],
};

const IPIP: Kind = Kind {
    name: "ipip",
    rest: "",
    told: "ipip, 192.0.2.1 > 192.0.2.2, ttl 64, 20 bytes more",
    filter: "ip proto 4",
    protocol: "4",
    shim: 0,
    protocols: &["eth", "ip", "ip2", "icmp"],
};

/// Every byte of every frame is where RFC 7510 wants it.
pub fn mpls(rig: &mut Rig) -> Result<()> {
    byte_for_byte(rig, &MPLS)
}

/// The same by RFC 2003.
pub fn ipip(rig: &mut Rig) -> Result<()> {
    byte_for_byte(rig, &IPIP)
}

/// Pings of one size.
const PINGS: u32 = 3;

fn byte_for_byte(rig: &mut Rig, kind: &Kind) -> Result<()> {
    let Kind { name, rest, .. } = kind;
    let Rig { a, b, .. } = &*rig;
    // The routers' neighbours are the kernel's to ask for.
    traffic::ping(&a.space, "192.0.2.2", 56).context("from host to host")?;
    a.ringway(&format!("routes replace red 10.66.2.0/24 {name} 192.0.2.2{rest}"))?;
    b.ringway(&format!("routes replace red 10.66.1.0/24 {name} 192.0.2.1{rest}"))?;
    let route = format!("10.66.2.0/24 {name} 192.0.2.2{rest}\n");
    ensure!(a.ringway("routes red")?.contains(&route));
    let tunnel = "vni 77, label 7700, ipip from 192.0.2.1 over fabric";
    ensure!(a.ringway("networks")?.contains(tunnel));
    let told = a.ringway("explain --from shop/cart-a --to 10.66.2.2 --proto icmp")?;
    ensure!(told.contains(kind.told), "{told}");
    ensure!(told.contains("mtu       1500 bytes"), "{told}");
    let [mac_a, mac_b] = [a.space.mac("w0")?, b.space.mac("w0")?];
    for bytes in [0_u16, 56, 1472] {
        // What a packet socket sends past the kernel's queues is not seen at that end of the wire.
        let captures = [(b, true), (a, false)]
            .map(|(node, there)| Ok((node, there, Capture::start(node, kind.filter, PINGS)?)));
        let captures = captures.into_iter().collect::<Result<Vec<_>>>()?;
        traffic::ping(&a.pod, "10.66.2.2", bytes.into())?;
        for (node, there, capture) in captures {
            let file = capture.finish()?;
            let frames = dissect(&file)?;
            ensure!(frames.len() == 3, "{} frames", frames.len());
            let macs = if there { [&mac_a, &mac_b] } else { [&mac_b, &mac_a] };
            let mut ports = BTreeSet::new();
            for frame in &frames {
                check(frame, kind, there, macs, bytes)?;
                ports.extend(frame.fields.get("udp.srcport"));
            }
            ensure!(ports.len() <= 1, "a flow has more than one source port: {ports:?}");
            opened(node, &file, kind)?;
        }
    }
    a.ringway("routes delete red 10.66.2.0/24")?;
    b.ringway("routes delete red 10.66.1.0/24")?;
    Ok(())
}

/// What comes in is explained by the same file.
fn opened(node: &Node, file: &Path, kind: &Kind) -> Result<()> {
    let told = node.ringway(&format!("explain --uplink up0 --pcap {} --json", file.display()))?;
    let told: serde_json::Value = serde_json::from_str(&told)?;
    let told = told.as_array().context("no array")?;
    ensure!(told.len() == 3, "{told:#?}");
    for one in told {
        ensure!(one["verdict"] == "decapsulate" && one["path"] == "dpdk", "{one:#}");
        let number = (kind.name == "mpls").then_some(7700);
        let outer = &one["outer"];
        ensure!(outer["kind"] == kind.name && outer["number"].as_i64() == number, "{one:#}");
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
fn check(
    frame: &Dissected,
    kind: &Kind,
    there: bool,
    macs: [&String; 2],
    bytes: u16,
) -> Result<()> {
    let inner = 20 + 8 + usize::from(bytes);
    let nodes = if there { ["192.0.2.1", "192.0.2.2"] } else { ["192.0.2.2", "192.0.2.1"] };
    let pods = if there { ["10.66.1.2", "10.66.2.2"] } else { ["10.66.2.2", "10.66.1.2"] };
    // No gap, no overlap, nothing behind: Ethernet, IPv4, what is between, and the inner packet without an Ethernet header.
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
    ensure!(names == kind.protocols, "{names:?}");
    ensure!(at == 14 + 20 + kind.shim + inner, "{at} bytes: {frame:#?}");
    let [outer_bytes, udp_bytes, inner_bytes] =
        [20 + kind.shim + inner, kind.shim + inner, inner].map(|bytes| bytes.to_string());
    let shim = [
        ("udp.dstport", "6635"),
        ("udp.length", udp_bytes.as_str()),
        // RFC 7510 section 3.1: zero where there are means against mixing up.
        ("udp.checksum", "0x0000"),
        ("mpls.label", LABEL),
        ("mpls.exp", "0"),
        ("mpls.bottom", "1"),
        ("mpls.ttl", "255"),
    ];
    let shim = shim.into_iter().filter(|_| kind.shim != 0);
    let all = [
        ("eth.src", macs[0].as_str()),
        ("eth.dst", macs[1].as_str()),
        ("ip.src", nodes[0]),
        ("ip.dst", nodes[1]),
        ("ip.version", "4"),
        ("ip.hdr_len", "20"),
        ("ip.dsfield", "0x00"),
        ("ip.len", &outer_bytes),
        ("ip.flags.df", "1"),
        ("ip.flags.mf", "0"),
        ("ip.ttl", "64"),
        ("ip.proto", kind.protocol),
        ("ip.checksum.status", "1"),
        ("ip2.src", pods[0]),
        ("ip2.dst", pods[1]),
        ("ip2.len", &inner_bytes),
        ("ip2.ttl", "63"),
        ("ip2.checksum.status", "1"),
        ("icmp.type", if there { "8" } else { "0" }),
        ("icmp.checksum.status", "1"),
    ];
    for (name, expected) in all.into_iter().chain(shim) {
        let said = field(frame, name)?;
        let same = said == expected || number(said).is_some_and(|it| Some(it) == number(expected));
        ensure!(same, "{name} is {said}, not {expected}: {frame:#?}");
    }
    if kind.shim != 0 {
        let port = number(field(frame, "udp.srcport")?).unwrap_or(0);
        ensure!((49_152..=65_535).contains(&port), "source port {port}");
    }
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
