//! Checksums and segmentation that a pod leaves to its device, on their way out of an uplink: done by the uplink's device where
//! it can, by the vRouter where not, and right either way.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use integration::wait;

use crate::blue::{self, Blue, Under};
use crate::capture::Capture;
use crate::rig::Rig;
use crate::space::Space;

const PATIENCE: Duration = Duration::from_secs(30);
const PODS_PORT: u16 = 6000;
const FAR_PORT: u16 = 5010;
/// Payload of a large packet, and of each of its pieces.
const LARGE: usize = 20_000;
const PIECE: usize = 1300;
/// Where the inner frame starts in one of VXLAN over IPv4.
const OUTER: usize = 50;
const VXLAN: u16 = 4789;

/// Packets that left work to the uplink's device so far.
pub fn left_to_device(counters: &[vrouter_api::v1::Counter]) -> u64 {
    let found = counters.iter().find(|counter| counter.name == "tx_offloaded_packets");
    found.map_or(0, |counter| counter.value)
}

/// Over a packet socket, whose driver can do nothing, in a tunnel over either family.
pub fn by_the_vrouter(rig: &Rig) -> Result<()> {
    let (mac, own) = (rig.far.mac("e0")?, rig.vrouter.uplink("up0")?.mac);
    rig.far.ip("addr add 2001:db8:1::2/64 nodad dev e0")?;
    rig.far.ip(&format!("neigh add 2001:db8:1::1 lladdr {own} dev e0 nud permanent"))?;
    let left = || anyhow::Ok(left_to_device(&rig.uplink_stats("up0")?.device));
    let before = left()?;
    for (local, remote) in [("192.0.2.1", "192.0.2.2"), ("2001:db8:1::1", "2001:db8:1::2")] {
        let (network, uplink, interface, mac) = ("fabric", "up0", "e0", mac.as_str());
        let under = Under { network, uplink, local, remote, interface, mac };
        let directory = rig.file("");
        let mut blue = Blue::start(&rig.vrouter, &rig.far, &under, rig.cgroups(), &directory)?;
        arrive(&mut blue, &rig.far).with_context(|| format!("over {remote}"))?;
        blue.end(&rig.vrouter, &rig.far)?;
    }
    ensure!(left()? == before, "a packet socket was left {} packets", left()? - before);
    Ok(())
}

/// Each kind of packet in both families; returns how many could be left to a device that has checksums.
pub fn arrive(blue: &mut Blue, far: &Space) -> Result<u64> {
    for (pod, end) in [(blue::POD.0, blue::FAR.0), (blue::POD.1, blue::FAR.1)] {
        let ends = (pod.parse()?, end.parse()?);
        datagram(blue, far, ends).with_context(|| format!("UDP to {end}"))?;
        segments(blue, far, ends, 1000, 0).with_context(|| format!("TCP to {end}"))?;
        segments(blue, far, ends, LARGE, PIECE).with_context(|| format!("large TCP to {end}"))?;
    }
    // The pod's own driver refuses headers that are longer than the packet, and nothing else comes of it.
    let ends = (blue::POD.0.parse()?, blue::FAR.0.parse()?);
    let (frame, _) = frame(blue, ends, false, &[], 0)?;
    ensure!(blue.app.leave(0, "20,60,0,tcp4", &frame).is_err(), "a driver took it");
    datagram(blue, far, ends).context("after one that was refused")?;
    Ok(5)
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from((at * 7 + at / 256) % 256).unwrap_or(0)).collect()
}

/// A frame of the pod's, with a right checksum, and what is said of it to the device.
fn frame(
    blue: &Blue,
    (from, to): (IpAddr, IpAddr),
    is_udp: bool,
    payload: &[u8],
    piece: usize,
) -> Result<(Vec<u8>, String)> {
    let link = PacketBuilder::ethernet2(blue::MAC, blue.gateway);
    let ip = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), 64),
        _ => anyhow::bail!("two families"),
    };
    let mut frame = Vec::new();
    if is_udp {
        ip.udp(PODS_PORT, FAR_PORT).write(&mut frame, payload)?;
    } else {
        let sequence = u32::MAX - 5000;
        ip.tcp(PODS_PORT, FAR_PORT, sequence, 1000).ack(1).psh().write(&mut frame, payload)?;
    }
    let (ip_bytes, family) = if from.is_ipv4() { (20, 4) } else { (40, 6) };
    let (transport, header) = if is_udp { ("udp", 8) } else { ("tcp", 20) };
    Ok((frame, format!("{ip_bytes},{header},{piece},{transport}{family}")))
}

/// A datagram that the far end's kernel takes, which it does only with a right checksum.
fn datagram(blue: &mut Blue, far: &Space, ends: (IpAddr, IpAddr)) -> Result<()> {
    let address = SocketAddr::new(ends.1, FAR_PORT);
    let socket = far.inside(move || UdpSocket::bind(address).context("bind"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let payload = pattern(1001);
    let (mut frame, work) = frame(blue, ends, true, &payload, 0)?;
    spoil(&mut frame, ends.0, 6);
    blue.app.leave(0, &work, &frame)?;
    let mut got = vec![0; 2000];
    let (bytes, from) = socket.recv_from(&mut got).context("no datagram")?;
    ensure!(got.get(..bytes) == Some(&payload), "{bytes} other bytes");
    ensure!(from == SocketAddr::new(ends.0, PODS_PORT), "from {from}");
    socket.send_to(&payload, from)?;
    let app = &mut blue.app;
    wait::until("an answer", PATIENCE, || {
        let frames = app.received()?;
        let answer = |frame: &Vec<u8>| frame.ends_with(&payload) && is_right(frame) == Some(true);
        Ok(frames.keys().any(answer).then_some(()))
    })
}

/// Whether a datagram that the pod got has a right checksum.
fn is_right(frame: &[u8]) -> Option<bool> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(TransportSlice::Udp(udp)) = &packet.transport else { return None };
    let (header, payload) = (udp.to_header(), udp.payload());
    let right = match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => header.calc_checksum_ipv4(&ip.header().to_header(), payload).ok()?,
        NetSlice::Ipv6(ip) => header.calc_checksum_ipv6(&ip.header().to_header(), payload).ok()?,
        NetSlice::Arp(_) => return None,
    };
    Some(right == udp.checksum())
}

/// A TCP packet as it arrives at the far end: in one piece, or cut.
fn segments(
    blue: &mut Blue,
    far: &Space,
    ends: (IpAddr, IpAddr),
    bytes: usize,
    piece: usize,
) -> Result<()> {
    let payload = pattern(bytes);
    let (mut frame, work) = frame(blue, ends, false, &payload, piece)?;
    spoil(&mut frame, ends.0, 16);
    let capture = Capture::start(far)?;
    blue.app.leave(0, &work, &frame)?;
    let pieces = if piece == 0 { 1 } else { bytes.div_ceil(piece) };
    let mut got = capture.wait("all pieces", pieces, |frame| inner(frame, ends))?;
    ensure!(got.len() == pieces, "{} pieces", got.len());
    let first = u32::MAX - 5000;
    got.sort_by_key(|(sequence, ..)| sequence.wrapping_sub(first));
    for (at, (sequence, payload, fault)) in got.iter().enumerate() {
        ensure!(fault.is_none(), "piece {at}: {fault:?}");
        let expected = first.wrapping_add(u32::try_from(at * piece)?);
        ensure!(*sequence == expected, "piece {at} has sequence number {sequence}");
        ensure!(piece == 0 || payload.len() <= piece, "piece {at} has {} bytes", payload.len());
    }
    let together: Vec<u8> = got.into_iter().flat_map(|(_, payload, _)| payload).collect();
    ensure!(together == payload, "{} bytes came, or others", together.len());
    Ok(())
}

/// Takes the checksum of the transport header out: its driver puts in what the device needs.
fn spoil(frame: &mut [u8], address: IpAddr, field: usize) {
    let at = 14 + if address.is_ipv4() { 20 } else { 40 } + field;
    frame.get_mut(at..at + 2).unwrap_or_default().fill(0xee);
}

type Piece = (u32, Vec<u8>, Option<String>);

/// Sequence number and payload of the pod's packet in a frame of VXLAN, and what is wrong with it.
fn inner(frame: &[u8], ends: (IpAddr, IpAddr)) -> Option<Piece> {
    let outer = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(TransportSlice::Udp(udp)) = &outer.transport else { return None };
    if udp.destination_port() != VXLAN {
        return None;
    }
    let start = if matches!(outer.net, Some(NetSlice::Ipv6(_))) { OUTER + 20 } else { OUTER };
    let packet = SlicedPacket::from_ethernet(frame.get(start..)?).ok()?;
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { return None };
    if (tcp.source_port(), tcp.destination_port()) != (PODS_PORT, FAR_PORT) {
        return None;
    }
    let mut faults = Vec::new();
    let right = match (packet.net.as_ref()?, ends) {
        (NetSlice::Ipv4(ip), (IpAddr::V4(from), _)) => {
            let header = ip.header();
            if header.source_addr() != from {
                return None;
            }
            let sum = header.to_header().calc_header_checksum();
            if sum != header.header_checksum() {
                faults.push("checksum of the IPv4 header".to_owned());
            }
            if header.ttl() != 63 {
                faults.push(format!("time to live {}", header.ttl()));
            }
            tcp.calc_checksum_ipv4(header.source(), header.destination()).ok()?
        }
        (NetSlice::Ipv6(ip), (IpAddr::V6(from), _)) => {
            let header = ip.header();
            if header.source_addr() != from {
                return None;
            }
            if header.hop_limit() != 63 {
                faults.push(format!("hop limit {}", header.hop_limit()));
            }
            tcp.to_header().calc_checksum_ipv6(&header.to_header(), tcp.payload()).ok()?
        }
        _ => return None,
    };
    if right != tcp.checksum() {
        faults.push(format!("checksum {:04x} instead of {right:04x}", tcp.checksum()));
    }
    let fault = (!faults.is_empty()).then(|| faults.join(", "));
    Some((tcp.sequence_number(), tcp.payload().to_vec(), fault))
}
