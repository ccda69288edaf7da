//! IP in IP that the vRouter itself speaks (RFC 2003, RFC 4213, RFC 2473): network red over IPv4, network lime over IPv6, either
//! family inside. Against frames written here, and against Linux: its segment routing makes and takes the same packets where
//! there is one segment, and its devices do where it has them.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vrouter_api::v1::{DropCount, PortSpec, RouteKind};

use crate::devices;
use crate::packets::{ethernet, ipip, mark, with_hops, with_limit};
use crate::rig::Rig;
use crate::same::{Seen, cases, collect, compare, mac};
use integration::space::{Space, traffic};

/// A network with its tunnel.
struct Side {
    network: &'static str,
    /// This end of the tunnel, and the other.
    local: &'static str,
    remote: &'static str,
    /// Addresses of a pod that sends frames, and of what is behind the other end.
    pods: [&'static str; 2],
    behind: [&'static str; 2],
}

const RED: Side = Side {
    network: "red",
    local: "192.0.2.9",
    remote: "192.0.2.2",
    pods: ["10.66.0.4", "fd00:66::4"],
    behind: ["10.95.0.1", "2001:db8:95::1"],
};
const LIME: Side = Side {
    network: "lime",
    local: "2001:db8:1::9",
    remote: "2001:db8:1::2",
    pods: ["10.67.0.4", "fd00:67::4"],
    behind: ["10.96.0.1", "2001:db8:96::1"],
};

/// What Linux takes this for: over IPv4 a device for each family inside, over IPv6 one for both.
const DEVICES: [(&str, &Side); 3] = [
    ("ipip local LOCAL remote REMOTE", &RED),
    ("sit local LOCAL remote REMOTE", &RED),
    ("ip6tnl mode any local LOCAL remote REMOTE", &LIME),
];

/// Why Linux can't be met here by its devices, or nothing when it can.
pub fn unfit() -> Option<String> {
    let lacks = |(device, side): (&str, &Side)| devices::lacks(device, [side.local, side.remote]);
    DEVICES.into_iter().find_map(lacks)
}

/// Who the tunnels' ends are to each other: the node's kernel has asked for the router's address, and the router is told that
/// of the tunnels.
fn neighbours(rig: &Rig) -> Result<()> {
    let node = rig.node.mac("host0")?;
    for side in [RED, LIME] {
        traffic::ping(&rig.node, side.remote, 56).context("from host to host")?;
        rig.far.ip(&format!("neigh replace {} lladdr {node} dev e0 nud permanent", side.local))?;
    }
    Ok(())
}

fn address(text: &str) -> Result<IpAddr> {
    text.parse().with_context(|| format!("{text} is no address"))
}

/// Every byte of every packet, both ways.
pub fn frame_by_frame(rig: &mut Rig) -> Result<()> {
    neighbours(rig)?;
    for side in [RED, LIME] {
        by_frame(rig, &side).with_context(|| format!("network {}", side.network))?;
    }
    Ok(())
}

fn by_frame(rig: &Rig, side: &Side) -> Result<()> {
    let Side { network, pods, behind, .. } = *side;
    let (local, remote) = (address(side.local)?, address(side.remote)?);
    let is_over_six = local.is_ipv6();
    let prefixes = if is_over_six {
        ["10.96.0.0/24", "2001:db8:96::/64"]
    } else {
        ["10.95.0.0/24", "2001:db8:95::/64"]
    };
    for prefix in prefixes {
        rig.ringway(&format!("routes add {network} {prefix} ipip {remote}"))?;
        rig.wait_route(network, prefix, RouteKind::Ipip)?;
    }
    let said = rig.ringway("networks")?;
    ensure!(said.contains(&format!("ipip from {local} over fabric")), "{said}");
    let [ipv4, ipv6] = pods.map(str::to_owned);
    let number = if is_over_six { 5 } else { 4 };
    let (mut pod, pod_mac) =
        rig.frame_pod(network, number, PortSpec { ipv4, ipv6, ..PortSpec::default() })?;
    let mut far = rig.station(&rig.far, "e0")?;
    let gateway = mac(&rig.network(network)?.gateway_mac)?;
    let (node, e0) = (mac(&rig.node.mac("host0")?)?, mac(&rig.far.mac("e0")?)?);

    // Out: one hop less, and a header that is the same for all packets but for lengths, checksum and congestion.
    let mut expected = Seen::new();
    for six in [false, true] {
        let (here, there) = (address(pods[usize::from(six)])?, address(behind[usize::from(six)])?);
        for case in cases(six) {
            let packet = case.packet(here, there);
            pod.send(0, 1, &ethernet(gateway, pod_mac, &packet))?;
            if case.hops > 1 {
                let inner = with_hops(&packet, case.hops - 1);
                expected.insert(case.number, ipip(local, remote, 0, &inner));
            }
        }
    }
    let mut came = collect(&mut far, expected.len(), Some(node)).context("encapsulated")?;
    if is_over_six {
        // The flow label is a hash: that of packets of a flow is one.
        ensure!(came.values().all(|packet| packet[2..4] != [0, 0]), "no flow label: {came:02x?}");
        came.values_mut().for_each(|packet| packet[2..4].fill(0));
    }
    compare(&came, &expected, expected.len())?;
    explained(rig, side)?;

    // In.
    pod.received()?;
    let mut expected = Seen::new();
    for six in [false, true] {
        let (here, there) = (address(pods[usize::from(six)])?, address(behind[usize::from(six)])?);
        for case in cases(six) {
            let packet = case.packet(there, here);
            let outer = ipip(remote, local, 7, &packet);
            // Over IPv6 every other one with what Linux puts in front.
            let limit = is_over_six && case.number % 2 == 0;
            let outer = if limit { with_limit(&outer) } else { outer };
            far.send(0, 1, &ethernet(node, e0, &outer))?;
            if case.hops > 1 {
                expected.insert(case.number, with_hops(&packet, case.hops - 1));
            }
        }
    }
    let came = collect(&mut pod, expected.len(), None).context("taken out")?;
    compare(&came, &expected, expected.len())?;

    // Whoever no route leads to may not, and what is inside has to be what the header says.
    let before = drops(rig)?;
    let (here, there) = (address(pods[0])?, address(behind[0])?);
    let packet = cases(false).pop().context("no case")?.packet(there, here);
    let stranger: IpAddr =
        if is_over_six { address("2001:db8:1::77")? } else { address("192.0.2.77")? };
    far.send(0, 1, &ethernet(node, e0, &ipip(stranger, local, 7, &packet)))?;
    let mut wrong = ipip(remote, local, 7, &packet);
    let inner = wrong.len() - packet.len();
    wrong[inner] = 0x65;
    far.send(0, 1, &ethernet(node, e0, &wrong))?;
    integration::wait::until("two are dropped", crate::rig::UP, || {
        let now = drops(rig)?;
        let more = |reason: &str| count(&now, reason) - count(&before, reason);
        Ok((more("unknown_vtep") == 1 && more("malformed_ipip") == 1).then_some(()))
    })?;
    let marked = pod.received()?.keys().filter(|frame| mark(frame).is_some()).count();
    ensure!(marked == 0, "{marked} packets came that must not");
    for prefix in prefixes {
        rig.ringway(&format!("routes delete {network} {prefix}"))?;
    }
    Ok(())
}

fn drops(rig: &Rig) -> Result<Vec<DropCount>> {
    let uplinks = rig.vrouter.stats()?.uplinks;
    let up0 = uplinks.into_iter().find(|it| it.name == "up0").context("no uplink")?;
    Ok(up0.port.context("no counters")?.drops)
}

fn count(drops: &[DropCount], reason: &str) -> u64 {
    drops.iter().find(|drop| drop.reason == reason).map_or(0, |drop| drop.packets)
}

/// `ringway explain` names it.
fn explained(rig: &Rig, side: &Side) -> Result<()> {
    let Side { network, local, remote, behind, .. } = *side;
    let pod = if network == "red" { "red-4" } else { "lime-5" };
    for to in behind {
        let told = rig.ringway(&format!("--json explain --from {pod}/0/net0 --to {to}"))?;
        let told: Value = serde_json::from_str(&told)?;
        let told = told.get(0).context("no answer")?;
        ensure!(told["path"] == "dpdk" && told["verdict"] == "encapsulate", "{told:#}");
        let outer = &told["outer"];
        ensure!(outer["kind"] == "ipip" && outer["number"].is_null(), "{told:#}");
        ensure!(outer["source"] == local && outer["destination"] == remote, "{told:#}");
        ensure!(told["mtu"] == 1500, "{told:#}");
    }
    Ok(())
}

/// Linux with one segment and a reduced header (RFC 8986 section 5.2) puts either family into IPv6 and nothing else, and its
/// segments take it out of there. There is one for each family.
pub fn to_segments(rig: &mut Rig) -> Result<()> {
    neighbours(rig)?;
    let (mut app, lime) = rig.lime_pod()?;
    let before = drops(rig)?;
    rig.node.ip("-6 route add 2001:db8:c::/64 via 2001:db8:1::2 dev host0")?;
    // Who sends has to be somebody to whom a route leads.
    rig.far.ip("sr tunsrc set 2001:db8:c::6")?;
    for line in [
        "route add 10.67.0.0/24 encap seg6 mode encap.red segs 2001:db8:1::9 dev e0",
        "-6 route add fd00:67::/64 encap seg6 mode encap.red segs 2001:db8:1::9 dev e0",
        "-6 route add 2001:db8:c::4/128 encap seg6local action End.DX4 nh4 10.99.0.1 dev e0",
        "-6 route add 2001:db8:c::6/128 encap seg6local action End.DT6 table 254 dev e0",
    ] {
        rig.far.ip(line)?;
    }
    rig.ringway("routes add lime 10.99.0.0/24 ipip 2001:db8:c::4")?;
    rig.ringway("routes add lime 2001:db8:99::/64 ipip 2001:db8:c::6")?;
    rig.wait_route("fabric", "2001:db8:c::/64", RouteKind::Link)?;
    let sites = ["10.99.0.1", "2001:db8:99::1"];
    let done = both_ways(&lime, &rig.site, ["10.67.0.2", "fd00:67::2"], sites);
    ensure!(app.exited()?.is_none(), "the pod's application has ended");
    done?;
    only_what_may_be_lost(rig, &before)?;
    rig.vrouter.delete_port("lime/0/net0")?;
    for line in ["10.99.0.0/24", "2001:db8:99::/64"] {
        rig.ringway(&format!("routes delete lime {line}"))?;
    }
    for line in [
        "route delete 10.67.0.0/24",
        "-6 route delete fd00:67::/64",
        "-6 route delete 2001:db8:c::4/128",
        "-6 route delete 2001:db8:c::6/128",
    ] {
        rig.far.ip(line)?;
    }
    rig.node.ip("-6 route delete 2001:db8:c::/64").map(drop)
}

/// Small and large packets of both families, started from either side.
fn both_ways(pod: &Space, there: &Space, pods: [&str; 2], behind: [&str; 2]) -> Result<()> {
    for (near, far) in pods.into_iter().zip(behind) {
        traffic::ping(pod, far, 56).with_context(|| format!("from the pod to {far}"))?;
        traffic::ping(there, near, 56).with_context(|| format!("to the pod {near}"))?;
        // 1400 bytes and more, also of IPv6.
        traffic::ping(pod, far, 1400).context("large, from the pod")?;
        traffic::ping(there, near, 1400).context("large, to the pod")?;
        let socket = |address: &str| {
            if address.contains(':') {
                format!("[{address}]:5001")
            } else {
                format!("{address}:5001")
            }
        };
        traffic::tcp(pod, there, &socket(far)).context("TCP from the pod")?;
        traffic::tcp(there, pod, &socket(near)).context("TCP to the pod")?;
    }
    Ok(())
}

/// Pods may be slower than a burst of TCP, which then sends again; nothing else is lost.
fn only_what_may_be_lost(rig: &Rig, before: &[DropCount]) -> Result<()> {
    let now = drops(rig)?;
    let fine = |drop: &DropCount| {
        drop.reason == "receiver_ring_full" || drop.packets == count(before, &drop.reason)
    };
    ensure!(now.iter().all(fine), "{before:?} have become {now:?}");
    Ok(())
}

/// Linux' own devices.
pub fn to_devices(rig: &mut Rig) -> Result<()> {
    neighbours(rig)?;
    let (mut app, lime) = rig.lime_pod()?;
    let before = drops(rig)?;
    for (at, (device, side)) in DEVICES.iter().enumerate() {
        let device = device.replace("LOCAL", side.remote).replace("REMOTE", side.local);
        rig.far.ip(&format!("link add ii{at} type {device}"))?;
        rig.far.ip(&format!("link set ii{at} up"))?;
    }
    let routes = [(&RED, ["ii0", "ii1"]), (&LIME, ["ii2", "ii2"])];
    for (side, devices) in routes {
        let prefixes = if side.network == "red" {
            ["10.66.0.0/24", "fd00:66::/64"]
        } else {
            ["10.67.0.0/24", "fd00:67::/64"]
        };
        for ((behind, device), prefix) in side.behind.iter().zip(devices).zip(prefixes) {
            let (bits, nodad) = if behind.contains(':') { (128, " nodad") } else { (32, "") };
            rig.far.ip(&format!("addr add {behind}/{bits} dev lo{nodad}"))?;
            let six = if behind.contains(':') { "-6 " } else { "" };
            rig.far.ip(&format!("{six}route replace {prefix} dev {device} src {behind}"))?;
            rig.ringway(&format!(
                "routes add {} {behind}/{bits} ipip {}",
                side.network, side.remote
            ))?;
        }
    }
    both_ways(&rig.pod, &rig.far, ["10.66.0.2", "fd00:66::2"], RED.behind).context("over IPv4")?;
    both_ways(&lime, &rig.far, ["10.67.0.2", "fd00:67::2"], LIME.behind).context("over IPv6")?;
    ensure!(app.exited()?.is_none(), "the pod's application has ended");
    only_what_may_be_lost(rig, &before)?;
    for at in 0..DEVICES.len() {
        let counter = |name: &str| rig.far.counter(&format!("ii{at}"), name);
        let (received, errors) = (counter("rx_packets")?, counter("rx_errors")?);
        ensure!(received > 100 && errors == 0, "ii{at}: {received} packets, {errors} errors");
    }
    rig.vrouter.delete_port("lime/0/net0")?;
    for side in [RED, LIME] {
        for behind in side.behind {
            let bits = if behind.contains(':') { 128 } else { 32 };
            rig.ringway(&format!("routes delete {} {behind}/{bits}", side.network))?;
            rig.far.ip(&format!("addr delete {behind}/{bits} dev lo"))?;
        }
    }
    (0..DEVICES.len()).try_for_each(|at| rig.far.ip(&format!("link delete ii{at}")).map(drop))
}
