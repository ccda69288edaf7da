//! A bridged network that stretches to a host that is not ours: a plain Linux bridge with a VXLAN device, and somebody behind it.
//!
//! ```text
//!  kernel pod 10.68.0.2 ---- vRouter ---- up0 ---- e0: vx88 -- br88 -- b0 ---- veth ---- h0 10.68.0.99
//!  frames pod 10.68.0.3 ---/                                                             host
//! ```

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::frames::{FramePod, Got};
use integration::space::{Space, traffic};
use integration::wait;
use vrouter_api::v1::{Network, NetworkMode, PortKind, PortSpec, RouteKind, Tunnel};

use crate::packets::Mac;
use crate::rig::Rig;

const PATIENCE: Duration = Duration::from_secs(60);
const POD: &str = "lan-2/0/net0";
const FRAMES: &str = "lan-3/0/net0";
const BROADCAST: Mac = [0xff; 6];
/// Who speaks through the host's interface, and whom nobody has heard of.
const STATION: Mac = [2, 0, 0, 0, 0x99, 1];
const UNHEARD: Mac = [2, 0, 0, 0, 0x99, 2];
/// For experiments (IEEE 802, annex): no kernel sends or answers it.
const KIND: [u8; 2] = [0x88, 0xb5];

fn frame(to: Mac, from: Mac, number: u8) -> Vec<u8> {
    [&to[..], &from, &KIND, &[number; 50]].concat()
}

/// ARP, Neighbor Discovery, pings, TCP and other frames, in both directions.
pub fn over_a_linux_bridge(rig: &mut Rig) -> Result<()> {
    // The neighbour on the wire is the kernel's to ask for.
    traffic::ping(&rig.node, "192.0.2.2", 56).context("from host to host")?;
    rig.wait_route("fabric", "192.0.2.2/32", RouteKind::Link)?;
    rig.vrouter.create_network(Network {
        name: "lan".to_owned(),
        ipv4: "10.68.0.0/24".to_owned(),
        ipv6: "fd00:68::/64".to_owned(),
        mode: NetworkMode::Bridged.into(),
        tunnel: Some(Tunnel {
            vni: 88,
            underlay: "fabric".to_owned(),
            local: "192.0.2.1".to_owned(),
            flood: vec!["192.0.2.2".to_owned()],
            ..Tunnel::default()
        }),
        ..Network::default()
    })?;
    let host = linux_side(&rig.far, Space::create(&rig.run, "host")?)?;
    let pod = kernel_pod(rig)?;
    let reached = reach(&pod, &host);
    let crossed = reached.and_then(|()| frames(rig, &host));
    crossed.with_context(|| {
        let fdb = rig.far.run("/usr/sbin/bridge fdb show dev vx88").unwrap_or_default();
        let neighbours = pod.ip("neigh").unwrap_or_default();
        format!("far: {fdb}pod: {neighbours}")
    })?;
    for port in [POD, FRAMES] {
        rig.vrouter.delete_port(port)?;
    }
    rig.vrouter.delete_network("lan")?;
    rig.far.ip("link delete vx88")?;
    rig.far.ip("link delete br88").map(drop)
}

/// What an operator does on a host without Ringway.
fn linux_side(far: &Space, host: Space) -> Result<Space> {
    let other = host.name();
    for line in [
        "link add br88 type bridge".to_owned(),
        "link add vx88 mtu 1500 type vxlan id 88 local 192.0.2.2 dstport 4789 dev e0".to_owned(),
        format!("link add b0 type veth peer name h0 netns {other}"),
    ] {
        far.ip(&line)?;
    }
    for device in ["br88", "vx88", "b0"] {
        far.set(&format!("ipv6/conf/{device}/disable_ipv6"), "1")?;
        if device != "br88" {
            far.ip(&format!("link set {device} master br88"))?;
        }
        far.ip(&format!("link set {device} up"))?;
    }
    far.run("/usr/sbin/bridge fdb append 00:00:00:00:00:00 dev vx88 dst 192.0.2.1")?;
    addresses(&host, "h0", 99)?;
    Ok(host)
}

fn addresses(space: &Space, interface: &str, last: u8) -> Result<()> {
    space.ip(&format!("link set {interface} up"))?;
    space.ip(&format!("addr add 10.68.0.{last}/24 dev {interface}"))?;
    space.ip(&format!("addr add fd00:68::{last}/64 dev {interface} nodad")).map(drop)
}

fn kernel_pod(rig: &Rig) -> Result<Space> {
    let space = Space::create(&rig.run, "lan-pod")?;
    rig.vrouter.create_port(PortSpec {
        id: POD.to_owned(),
        network: "lan".to_owned(),
        mac: "02:00:00:00:77:02".to_owned(),
        ipv4: "10.68.0.2".to_owned(),
        ipv6: "fd00:68::2".to_owned(),
        kind: PortKind::Kernel.into(),
        netns: format!("/run/netns/{}", space.name()),
        link: "eth0".to_owned(),
        ..PortSpec::default()
    })?;
    addresses(&space, "eth0", 2)?;
    Ok(space)
}

/// Whoever begins has to ask who has the address, and the question has to cross.
fn reach(pod: &Space, host: &Space) -> Result<()> {
    for (here, from, to) in [("pod", (pod, "eth0"), (host, 99)), ("host", (host, "h0"), (pod, 2))] {
        let ((from, interface), (_, last)) = (from, to);
        for address in [format!("10.68.0.{last}"), format!("fd00:68::{last}")] {
            // 1,500 bytes of IP are the most.
            let largest = if address.contains(':') { 1452 } else { 1472 };
            for bytes in [56, largest] {
                from.ip(&format!("neigh flush dev {interface}"))?;
                traffic::ping(from, &address, bytes)
                    .with_context(|| format!("{bytes} bytes from the {here} to {address}"))?;
            }
        }
    }
    traffic::tcp(pod, host, "10.68.0.99:5001").context("TCP from the pod")?;
    traffic::tcp(host, pod, "10.68.0.2:5001").context("TCP to the pod")?;
    traffic::tcp(pod, host, "[fd00:68::99]:5001").context("TCP over IPv6 from the pod")
}

/// What is neither IP nor ARP, each as often as it was sent.
fn frames(rig: &Rig, host: &Space) -> Result<()> {
    let ipv4 = "10.68.0.3".to_owned();
    let (mut pod, mac) = rig.frame_pod("lan", 3, PortSpec { ipv4, ..PortSpec::default() })?;
    let mut station = rig.station(host, "h0")?;
    let counted = |name: &str| -> Result<u64> {
        let told: serde_json::Value = serde_json::from_str(&rig.ringway("stats --json")?)?;
        let workers = told["workers"].as_array().context("no workers")?;
        Ok(workers.iter().filter_map(|worker| worker[name].as_u64()).sum())
    };
    let before = counted("flooded_into_tunnels")?;
    let (to_all, to_unheard) = (frame(BROADCAST, mac, 1), frame(UNHEARD, mac, 2));
    pod.send(0, 3, &to_all)?;
    pod.send(0, 2, &to_unheard)?;
    expect(rig, &mut station, &[(&to_all, 3), (&to_unheard, 2)]).context("flooded from the pod")?;
    let copies = counted("flooded_into_tunnels")?.saturating_sub(before);
    ensure!(copies >= 5, "{copies} copies");

    let (hello, direct) = (frame(BROADCAST, STATION, 3), frame(mac, STATION, 4));
    station.send(0, 3, &hello)?;
    station.send(0, 4, &direct)?;
    expect(rig, &mut pod, &[(&hello, 3), (&direct, 4)]).context("from the host")?;
    // Now it is known where the station is.
    let back = frame(STATION, mac, 5);
    let before = counted("flooded")?;
    pod.send(0, 100, &back)?;
    expect(rig, &mut station, &[(&back, 100)]).context("to a station that was heard")?;
    ensure!(counted("flooded")? < before + 100, "a known station's frames are flooded");
    explained(rig, "known", &back, "is bridged into the tunnel to 192.0.2.2 as it is")?;
    explained(rig, "unheard", &to_unheard, "One each is bridged into the tunnel to 192.0.2.2.")?;

    // The same by address: a pod would ask for it.
    for (address, words) in [
        ("10.68.0.99", "is bridged into the tunnel to 192.0.2.2."),
        ("10.68.0.2", "the frame goes as it is to the port that has its MAC address"),
    ] {
        let told = rig.ringway(&format!("explain --from {FRAMES} --to {address}"))?;
        let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(told.contains(words), "{told}");
    }

    // Nobody there speaks for a pod here.
    let spoofed = frame(BROADCAST, mac, 6);
    station.send(0, 6, &spoofed)?;
    wait::until("six frames with a pod's address are dropped", PATIENCE, || {
        let told: serde_json::Value = serde_json::from_str(&rig.ringway("uplinks --json")?)?;
        Ok((told[0]["counters"]["drops"]["source_mac"] == 6).then_some(()))
    })?;
    expect(rig, &mut pod, &[]).context("spoofed by the host")?;
    let shown = rig.ringway("networks")?;
    ensure!(shown.contains("vni 88 from 192.0.2.1 over fabric, bridged to 192.0.2.2"), "{shown}");
    ensure!(rig.network("lan")?.stations >= 2, "{shown}");
    Ok(())
}

/// Waits until these have come, each so many times, and looks that no more of their kind do.
fn expect(rig: &Rig, app: &mut FramePod, wanted: &[(&Vec<u8>, u64)]) -> Result<()> {
    let wanted: Got = wanted.iter().map(|(frame, count)| ((*frame).clone(), *count)).collect();
    let mut got = Got::new();
    let mut hear = |got: &mut Got| -> Result<()> {
        for (frame, count) in app.received()? {
            if frame.get(12..14) == Some(&KIND) {
                *got.entry(frame).or_default() += count;
            }
        }
        Ok(())
    };
    let came = wait::until("frames of the test", PATIENCE, || {
        hear(&mut got)?;
        let all = wanted.iter().all(|(frame, count)| got.get(frame).is_some_and(|it| it >= count));
        Ok(all.then_some(()))
    });
    rig.vrouter.settled_stats(PATIENCE)?;
    hear(&mut got)?;
    ensure!(came.is_ok() && got == wanted, "{got:02x?}\ninstead of\n{wanted:02x?}");
    Ok(())
}

/// `ringway explain` of a frame from the pod.
fn explained(rig: &Rig, name: &str, frame: &[u8], words: &str) -> Result<()> {
    let bytes = u32::try_from(frame.len())?.to_ne_bytes();
    let head: [u32; 6] = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1];
    let head = head.map(u32::to_ne_bytes).concat();
    let file = rig.file(&format!("{name}.pcap"));
    fs::write(&file, [&head[..], &[0; 8], &bytes, &bytes, frame].concat())?;
    let told = rig.ringway(&format!("explain --from {FRAMES} --pcap {}", file.display()))?;
    let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(told.contains(words), "{told}");
    Ok(())
}
