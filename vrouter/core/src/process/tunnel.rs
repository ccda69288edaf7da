//! Into VXLAN tunnels and out of them (RFC 7348).
//!
//! Stages for what is right in the most common way, as in [`super::fast`], and a plain way for all else.

use super::{Place, STAGE_PACKETS, Targets, bits, slow};
use crate::hops::{HopIndex, Hops, NextHop, PortHop, TunnelHop};
use crate::icmp::{ipv4_of, ipv6_of};
use crate::tunnels::TunnelEnd;
use crate::{DropReason, Network, Packet, PortIndex, Verdict};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use vrouter_net::ethernet::{self, EtherType};
use vrouter_net::ipv4::{self, Protocol};
use vrouter_net::vxlan::{self, Inner, OUTER4_BYTES, TUNNEL_BYTES};
use vrouter_net::{ipv6, vxlan::Vni};

const LINK_BYTES: u32 = 14;
/// Up to the end of the inner IPv4 header.
const FAST_BYTES: u16 = 84;
const _: () = assert!(FAST_BYTES as usize == OUTER4_BYTES + 14 + ipv4::HEADER_BYTES);
/// Bytes of the outer header over IPv4.
const OUTER4_LEN: u8 = 50;
const _: () = assert!(OUTER4_LEN as usize == OUTER4_BYTES);
/// Bytes of the UDP and the VXLAN header.
const TUNNEL: u32 = 16;
const _: () = assert!(TUNNEL as usize == TUNNEL_BYTES);

/// Congestion bits of a router that was congested, and of a transport that chose the second code point.
const CE: u8 = 3;
const ECT1: u8 = 1;
const ECT0: u8 = 2;

/// Stage 4: IPv4 packets that go into a tunnel and need no more than that. Returns a bit for each that is done; the
/// others are not touched.
#[inline(never)]
pub(super) fn encapsulate(
    hops: &Hops,
    batch: &mut [Packet],
    found: &[u32; STAGE_PACKETS],
    left: u64,
    targets: &mut Targets,
) -> u64 {
    let mut done = 0;
    for i in bits(left) {
        let (Some(packet), NextHop::Vxlan(hop)) = (batch.get_mut(i), hops.get(HopIndex(found[i])))
        else {
            continue;
        };
        let [_, w1, w2, w3, _] = packet.words();
        if packet.frame_len.wrapping_sub(LINK_BYTES + 1) >= u32::from(hop.inner.mtu)
            || (w2 >> 48) & 0xff <= 1
        {
            continue;
        }
        // The second byte of the IPv4 header.
        let ecn = (w1 >> 56) as u8 & 3;
        let inner = Inner { frame_bytes: packet.frame_len, flow: flow(packet), ecn };
        let Some(bytes) = hop.write(&mut packet.outer, inner) else { continue };
        packet.outer_len = bytes;
        // As in `fast::forward`.
        let sum = (w3 & 0xffff) + 1;
        let sum = (sum + u64::from(sum >= 0xffff)) & 0xffff;
        let [to, from] = hop.inner.words();
        packet.set_words([
            to,
            from | (w1 & !u64::from(u32::MAX)),
            w2 - (1 << 48),
            (w3 & !0xffff) | sum,
        ]);
        packet.verdict = Verdict::Encapsulate(hop.inner.port);
        targets.add(hop.inner.port, true);
        done |= 1 << i;
    }
    done
}

/// Puts an outer header in front of a packet whose own headers are ready. What is to be cut gets one that is right but
/// for its lengths ([`vxlan::set_frame_bytes`]).
pub(super) fn wrap(packet: &mut Packet, hop: &TunnelHop, ecn: u8) -> Verdict {
    let frame_bytes = if packet.segment_bytes == 0 { packet.frame_len } else { 0 };
    let inner = Inner { frame_bytes, flow: flow(packet), ecn };
    match hop.write(&mut packet.outer, inner) {
        Some(bytes) => {
            packet.outer_len = bytes;
            Verdict::Encapsulate(hop.inner.port)
        }
        None => Verdict::Drop(DropReason::TooBig),
    }
}

/// The flow a packet belongs to.
#[inline]
fn flow(packet: &Packet) -> u16 {
    /// Where the ports end behind an IPv6 header.
    const PORTS_END: u16 = 58;
    match packet.header.first_chunk() {
        Some(head) if packet.header_len >= PORTS_END => vxlan::flow_hash(head),
        _ => short_flow(packet),
    }
}

/// What lies behind a short head is of an older packet.
#[cold]
fn short_flow(packet: &Packet) -> u16 {
    let mut head = [0; 64];
    for (to, from) in head.iter_mut().zip(packet.head()) {
        *to = *from;
    }
    vxlan::flow_hash(&head)
}

/// Stage 5: IPv4 packets inside IPv4 packets from the port's own address, to a port of the inner network. Returns a bit
/// for each that is done; the others are not touched.
#[inline(never)]
pub(super) fn decapsulate(
    at: &Place<'_>,
    batch: &mut [Packet],
    found: &mut [u32; STAGE_PACKETS],
    left: u64,
    targets: &mut Targets,
) -> u64 {
    let mut waiting = 0;
    for i in bits(left) {
        waiting |= u64::from(found[i] == HopIndex::GATEWAY.0) << i;
    }
    let mut done = 0;
    // Once for each network that packets are for, mostly one.
    while let Some(first) = batch.get(waiting.trailing_zeros() as usize) {
        let number = number(first);
        let way = Way::find(at, number);
        let mut group = 0;
        for i in bits(waiting) {
            let Some(packet) = batch.get(i) else { continue };
            if self::number(packet) != number {
                continue;
            }
            waiting &= !(1 << i);
            if let Some(destination) = way.as_ref().and_then(|way| way.common_case(packet)) {
                found[i] = destination;
                group |= 1 << i;
            }
        }
        let Some(way) = way else { continue };
        for i in bits(group) {
            found[i] = way.network.fib().lookup(found[i]).0;
        }
        let ports = way.network.hops().ports();
        for i in bits(group) {
            let (packet, hop) = (batch.get_mut(i), ports.get(found[i] as usize));
            let unwrapped = packet.zip(hop).and_then(|(packet, hop)| unwrap_to(packet, hop));
            if let Some(port) = unwrapped {
                targets.add(port, true);
                done |= 1 << i;
            } else {
                // As it was, for whoever is next.
                found[i] = HopIndex::GATEWAY.0;
            }
        }
    }
    done
}

/// The bytes where a VXLAN header has its network identifier, whatever the packet is.
#[inline]
fn number(packet: &Packet) -> u32 {
    let [a, b, c] = [packet.header[46], packet.header[47], packet.header[48]];
    u32::from_be_bytes([0, a, b, c])
}

/// What a packet must be that comes through one tunnel in the common way.
struct Way<'a> {
    network: &'a Network,
    /// Source and destination address, as they stand in a packet.
    addresses: u64,
    /// The network's gateway's MAC address, as the last six bytes of a word.
    mac: u64,
}

impl<'a> Way<'a> {
    fn find(at: &Place<'a>, number: u32) -> Option<Self> {
        let end = end_of(at.tunnels, Vni::new(number)?)?;
        let remote = at.port.policy.ipv4;
        let IpAddr::V4(local) = end.local else { return None };
        if !end.knows(remote.into()) {
            return None;
        }
        let network = at.tables.network(end.overlay)?;
        let [a, b, c, d] = remote.octets();
        let [e, f, g, h] = local.octets();
        let [i, j, k, l, m, n] = network.policy().gateway_mac.octets();
        Some(Self {
            network,
            addresses: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            mac: u64::from_le_bytes([0, 0, i, j, k, l, m, n]),
        })
    }

    /// The inner destination address of a packet that is right in the most common way. Its outer IPv4 header was
    /// checked.
    #[inline]
    fn common_case(&self, packet: &Packet) -> Option<u32> {
        let [_, w1, w2, w3, w4] = packet.words();
        let (words, _) = packet.header.as_chunks::<8>();
        let [_, _, _, _, _, w5, w6, w7, w8, w9, w10, ..] = words else { return None };
        let [w5, w6, w7] = [w5, w6, w7].map(|word| u64::from_le_bytes(*word));
        let [w8, w9, w10] = [w8, w9, w10].map(|word| u64::from_le_bytes(*word));
        let swapped = |word: u64| u32::from(((word & 0xffff) as u16).swap_bytes());
        let (outer, udp, total) = (swapped(w2), swapped(w4 >> 48), swapped(w8 >> 16));
        let addresses = (w3 >> 16) | (w4 << 48);
        // The bytes with their masks, in their order: the second congestion bit; version and length; no fragment; UDP;
        // VXLAN's port; the flag; MAC address; IPv4; version and length again.
        let wrong = (w1 >> 56) & 1
            | (w1 >> 48) & 0xff ^ 0x45
            | (w2 >> 32) & 0xff3f
            | (w2 >> 56) ^ 17
            | (w4 >> 32) & 0xffff ^ 0xb512
            | !(w5 >> 16) & 8
            | (addresses ^ self.addresses)
            | (w6 & !0xffff) ^ self.mac
            | (w7 >> 48) ^ 0x0008
            | (w8 & 0xff) ^ 0x45;
        if wrong != 0
            || packet.header_len < FAST_BYTES
            || packet.segment_bytes != 0
            || udp + 20 > outer
            || total < 20
            || total + LINK_BYTES + TUNNEL > udp
        {
            return None;
        }
        // As in `fast::common_case`.
        let (sum, carry) = w8.overflowing_add(w9);
        let (sum, again) = sum.overflowing_add((w10 & 0xffff_ffff) + u64::from(carry));
        if !(sum + u64::from(again)).is_multiple_of(0xffff) {
            return None;
        }
        Some(((w10 & 0xffff_ffff) as u32).swap_bytes())
    }
}

/// Lets a packet go on without its outer header, if it is in the common case. What is no port has an MTU of zero.
#[inline]
fn unwrap_to(packet: &mut Packet, hop: &PortHop) -> Option<PortIndex> {
    let (words, _) = packet.header.as_chunks_mut::<8>();
    let [_, _, _, _, w4, _, w6, w7, _, w9, ..] = words else { return None };
    let frame_bytes = u32::from(u16::from_be_bytes([w4[6], w4[7]])).saturating_sub(TUNNEL);
    let ninth = u64::from_le_bytes(*w9);
    if frame_bytes.wrapping_sub(LINK_BYTES + 1) >= u32::from(hop.mtu) || ninth & 0xff <= 1 {
        return None;
    }
    let [a, b, c, d, e, f, g, h, i, j, k, l] = hop.rewrite;
    *w6 = [w6[0], w6[1], a, b, c, d, e, f];
    *w7 = [g, h, i, j, k, l, w7[6], w7[7]];
    // As in `fast::forward`, with the words where they are here.
    let sum = ((ninth >> 16) & 0xffff) + 1;
    let sum = (sum + u64::from(sum >= 0xffff)) & 0xffff;
    *w9 = ((ninth - 1) & !0xffff_0000 | sum << 16).to_le_bytes();
    packet.frame_len = frame_bytes;
    packet.outer_len = OUTER4_LEN;
    packet.verdict = Verdict::Decapsulate(hop.port);
    Some(hop.port)
}

fn end_of(ends: &[TunnelEnd], vni: Vni) -> Option<&TunnelEnd> {
    ends.get(ends.binary_search_by_key(&vni, |end| end.vni).ok()?)
}

/// An outer IP header, whatever its family.
struct Outer {
    from: IpAddr,
    to: IpAddr,
    ecn: u8,
    is_fragment: bool,
    /// Where the UDP header starts in the frame, and how many bytes the datagram can have.
    datagram: usize,
    room: usize,
}

impl Outer {
    /// `None`: the packet carries no UDP header.
    fn of(packet: &Packet) -> Option<Self> {
        if let Ok((header, _)) = ipv6_of(packet) {
            return (header.next_header() == Protocol::UDP).then(|| Self {
                from: header.source().into(),
                to: header.destination().into(),
                ecn: header.ecn(),
                is_fragment: false,
                datagram: ethernet::HEADER_BYTES + ipv6::HEADER_BYTES,
                room: header.payload_length().into(),
            });
        }
        let (header, _) = ipv4_of(packet)?;
        let has_udp = header.protocol() == Protocol::UDP && !header.is_later_fragment();
        let bytes = usize::from(header.header_bytes());
        has_udp.then(|| Self {
            from: header.source().into(),
            to: header.destination().into(),
            ecn: header.ecn(),
            is_fragment: header.is_fragment(),
            datagram: ethernet::HEADER_BYTES + bytes,
            room: usize::from(header.total_length()).saturating_sub(bytes),
        })
    }
}

/// The verdict on any packet for an address of the vRouter in a network that carries tunnels. Its IP header was checked,
/// and who it comes from. `None`: it has nothing to do with tunnels.
#[cold]
pub(super) fn open(at: &Place<'_>, packet: &mut Packet) -> Option<Verdict> {
    let outer = Outer::of(packet)?;
    let datagram = packet.head().get(outer.datagram..)?;
    let port = datagram.get(2..)?.first_chunk().map(|port| u16::from_be_bytes(*port));
    let is_ours = at.tunnels.iter().any(|end| end.local == outer.to);
    if port != Some(vxlan::PORT) || !is_ours {
        return None;
    }
    Some(match go_on(at, packet, &outer) {
        Ok(port) => Verdict::Decapsulate(port),
        Err(reason) => Verdict::Drop(reason),
    })
}

fn go_on(at: &Place<'_>, packet: &mut Packet, outer: &Outer) -> Result<PortIndex, DropReason> {
    if packet.segment_bytes != 0 {
        return Err(DropReason::UnsupportedOffload);
    }
    let datagram = packet.head().get(outer.datagram..).unwrap_or(&[]);
    let opened = vxlan::open(datagram, outer.room).ok().filter(|_| !outer.is_fragment);
    let opened = opened.ok_or(DropReason::MalformedVxlan)?;
    let end = end_of(at.tunnels, opened.vni).filter(|end| end.local == outer.to);
    let end = end.ok_or(DropReason::UnknownVni)?;
    if !end.knows(outer.from) {
        return Err(DropReason::UnknownVtep);
    }
    let network = at.tables.network(end.overlay).ok_or(DropReason::UnknownVni)?;
    let start = outer.datagram + TUNNEL_BYTES;
    let outer_len = u8::try_from(start).map_err(|_| DropReason::MalformedVxlan)?;
    let frame_bytes = opened.frame_bytes as usize;
    let visible = packet.head_mut().get_mut(start..).unwrap_or(&mut []);
    let bytes = visible.len().min(frame_bytes);
    let visible = visible.get_mut(..bytes).unwrap_or(&mut []);
    let port = route(network, visible, frame_bytes, outer.ecn)?;
    packet.frame_len = opened.frame_bytes;
    packet.outer_len = outer_len;
    Ok(port)
}

/// Routes an inner frame of so many bytes, of which `head` is the start. It is changed only when it goes on.
fn route(
    network: &Network,
    head: &mut [u8],
    frame_bytes: usize,
    outer_ecn: u8,
) -> Result<PortIndex, DropReason> {
    let policy = network.policy();
    let (link, bytes) = ethernet::Header::split(head).map_err(|_| DropReason::RuntFrame)?;
    slow::addressed_to_gateway(link.destination(), policy)?;
    let payload_bytes = frame_bytes.saturating_sub(ethernet::HEADER_BYTES);
    match link.ether_type() {
        EtherType::IPV4 => {
            let header = slow::read_ipv4(bytes, payload_bytes)?;
            let index = network.fib().lookup(Ipv4Addr::to_bits(header.destination()));
            let hop = port_hop(network, index, header.ttl(), payload_bytes)?;
            let ecn = combine(outer_ecn, header.ecn())?;
            let bytes = rewrite(head, hop)?.first_chunk_mut().ok_or(DropReason::RuntFrame)?;
            let mut header = ipv4::Header::of(bytes);
            header.set_ttl(header.ttl().saturating_sub(1));
            header.set_ecn(ecn);
            Ok(hop.port)
        }
        EtherType::IPV6 if policy.ipv6.is_some() => {
            let header = slow::read_ipv6(bytes, payload_bytes)?;
            let to: Ipv6Addr = header.destination();
            let hop = port_hop(network, network.lookup6(to), header.hop_limit(), payload_bytes)?;
            let ecn = combine(outer_ecn, header.ecn())?;
            let bytes = rewrite(head, hop)?.first_chunk_mut().ok_or(DropReason::RuntFrame)?;
            let mut header = ipv6::Header::of(bytes);
            header.set_hop_limit(header.hop_limit().saturating_sub(1));
            header.set_ecn(ecn);
            Ok(hop.port)
        }
        _ => Err(DropReason::UnsupportedEthertype),
    }
}

/// The port that a slot leads to, if a packet may go there. Whoever sent it through the tunnel is told nothing.
fn port_hop(
    network: &Network,
    index: HopIndex,
    ttl: u8,
    packet_bytes: usize,
) -> Result<&PortHop, DropReason> {
    let hop = match network.hops().get(index) {
        NextHop::Drop(reason) => return Err(*reason),
        NextHop::Unreachable | NextHop::NoRoute => return Err(DropReason::NoRoute),
        NextHop::Gateway => return Err(DropReason::GatewayUnhandled),
        NextHop::Vxlan(_) => return Err(DropReason::TunnelTransit),
        NextHop::Port(hop) => hop,
    };
    if ttl <= 1 {
        Err(DropReason::TtlExceeded)
    } else if packet_bytes > usize::from(hop.mtu) {
        Err(DropReason::TooBig)
    } else {
        Ok(hop)
    }
}

/// Writes the MAC addresses; returns what follows the Ethernet header.
fn rewrite<'a>(head: &'a mut [u8], hop: &PortHop) -> Result<&'a mut [u8], DropReason> {
    let (mut link, bytes) = ethernet::Header::split_mut(head).map_err(|_| DropReason::RuntFrame)?;
    link.set_addresses(hop.destination_mac(), hop.source_mac());
    Ok(bytes)
}

/// What the congestion bits of both headers make of the inner ones (RFC 6040 section 4.2, figure 4).
fn combine(outer: u8, inner: u8) -> Result<u8, DropReason> {
    match (outer, inner) {
        (CE, 0) => Err(DropReason::TunnelCongestion),
        (CE, _) => Ok(CE),
        (ECT1, ECT0) => Ok(ECT1),
        (_, inner) => Ok(inner),
    }
}
