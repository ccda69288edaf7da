//! Into tunnels and out of them: VXLAN (RFC 7348) and MPLS over UDP (RFC 7510).
//!
//! Stages for what is right in the most common way, as in [`super::fast`], and in `open` a plain way for all else.

mod open;

use super::{Place, STAGE_PACKETS, Targets, bits};
use crate::hops::{HopIndex, NextHop, Outer, PortHop, TunnelHop};
use crate::{DropReason, Network, Packet, PortIndex, Verdict};
use core::net::{IpAddr, Ipv4Addr};
pub(super) use open::open;
use vrouter_net::flow::{self, HEAD_BYTES};
use vrouter_net::vxlan::{self, Inner, OUTER4_BYTES, TUNNEL_BYTES, Vni};
use vrouter_net::{ethernet, ipv4};

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

/// Stage 4: IPv4 packets that go into a tunnel or over one of several ways and need no more than that. Returns a bit for
/// each that is done; the others are not touched.
#[inline(never)]
pub(super) fn encapsulate(
    at: &Place<'_>,
    batch: &mut [Packet],
    found: &[u32; STAGE_PACKETS],
    left: u64,
    targets: &mut Targets,
) -> u64 {
    let hops = at.network.hops();
    let mut done = 0;
    for i in bits(left) {
        let Some(packet) = batch.get_mut(i) else { continue };
        let next_hop = hops.get(HopIndex(found[i]));
        let (hop, outer) = match next_hop {
            NextHop::Tunnel(TunnelHop { inner, outer: Outer::Vxlan(outer) }) => (inner, outer),
            NextHop::Tunnel(_) | NextHop::Multipath(_) => {
                done |= u64::from(by_the_way(at, packet, next_hop, targets)) << i;
                continue;
            }
            _ => continue,
        };
        if !may_pass(packet, hop) {
            continue;
        }
        let inner = Inner { frame_bytes: packet.frame_len, flow: flow(packet), ecn: ecn(packet) };
        let bytes = outer.write(&mut packet.outer, inner);
        let Some(bytes) = bytes.and_then(|bytes| u8::try_from(bytes).ok()) else { continue };
        packet.outer_len = bytes;
        rewrite(packet, hop);
        packet.verdict = Verdict::Encapsulate(hop.port);
        targets.add(hop.port, true);
        done |= 1 << i;
    }
    done
}

/// The same for one packet that goes into MPLS or over one of several ways; whether it is done.
#[inline(never)]
fn by_the_way(
    at: &Place<'_>,
    packet: &mut Packet,
    next_hop: &NextHop,
    targets: &mut Targets,
) -> bool {
    let (hop, tunnel) = match next_hop.of_flow(|| path(packet)) {
        NextHop::Tunnel(tunnel) => (&tunnel.inner, Some(tunnel)),
        NextHop::Port(hop) if hop.port != at.port.policy.index => (hop, None),
        _ => return false,
    };
    if !may_pass(packet, hop) {
        return false;
    }
    let mut outer_len = 0;
    if let Some(tunnel) = tunnel {
        let inner = Inner { frame_bytes: packet.frame_len, flow: flow(packet), ecn: ecn(packet) };
        let Some(bytes) = tunnel.write(&mut packet.outer, inner) else { return false };
        outer_len = bytes;
    }
    rewrite(packet, hop);
    packet.verdict = match tunnel {
        Some(tunnel) => in_front(packet, tunnel, outer_len),
        None => Verdict::Forward(hop.port),
    };
    targets.add(hop.port, tunnel.is_some());
    true
}

/// Whether length and time to live of an IPv4 packet let it pass.
#[inline(always)]
fn may_pass(packet: &Packet, hop: &PortHop) -> bool {
    let [_, _, w2, ..] = packet.words();
    packet.frame_len.wrapping_sub(LINK_BYTES + 1) < u32::from(hop.mtu) && (w2 >> 48) & 0xff > 1
}

/// The congestion bits of an IPv4 packet, in the second byte of its header.
#[inline(always)]
fn ecn(packet: &Packet) -> u8 {
    packet.header[15] & 3
}

/// Rewrites an IPv4 packet for its next hop, as in [`super::fast::forward`].
#[inline(always)]
fn rewrite(packet: &mut Packet, hop: &PortHop) {
    let [_, w1, w2, w3, _] = packet.words();
    let sum = (w3 & 0xffff) + 1;
    let sum = (sum + u64::from(sum >= 0xffff)) & 0xffff;
    let [to, from] = hop.words();
    packet.set_words([
        to,
        from | (w1 & !u64::from(u32::MAX)),
        w2 - (1 << 48),
        (w3 & !0xffff) | sum,
    ]);
}

/// Puts an outer header in front of a packet whose own headers are ready. What is to be cut gets one that is right but
/// for its lengths ([`vxlan::set_frame_bytes`]).
pub(super) fn wrap(packet: &mut Packet, hop: &TunnelHop, ecn: u8) -> Verdict {
    let frame_bytes = if packet.segment_bytes == 0 { packet.frame_len } else { LINK_BYTES };
    let inner = Inner { frame_bytes, flow: flow(packet), ecn };
    match hop.write(&mut packet.outer, inner) {
        Some(bytes) => in_front(packet, hop, bytes),
        None => Verdict::Drop(DropReason::TooBig),
    }
}

/// Notes an outer header of so many bytes. That of MPLS ends over the inner Ethernet header, so that the frame is sent as
/// any other; but not yet where it is to be cut: each piece gets its own.
#[inline]
fn in_front(packet: &mut Packet, hop: &TunnelHop, bytes: u8) -> Verdict {
    const LINK: u8 = 14;
    packet.outer_len = bytes;
    if matches!(hop.outer, Outer::Mpls(_)) && packet.segment_bytes == 0 {
        packet.outer_len = bytes.saturating_sub(LINK);
        let rest = packet.outer.get(packet.outer_len.into()..);
        let rest = rest.and_then(|rest| rest.first_chunk::<{ ethernet::HEADER_BYTES }>());
        if let (Some(link), Some(rest)) = (packet.header.first_chunk_mut(), rest) {
            *link = *rest;
        }
    }
    Verdict::Encapsulate(hop.inner.port)
}

/// The flow a packet belongs to, for the outer header.
#[inline]
fn flow(packet: &Packet) -> u16 {
    of_head(packet, vxlan::flow_hash)
}

/// The flow a packet belongs to, for choosing one of several ways.
#[inline]
pub(crate) fn path(packet: &Packet) -> u32 {
    of_head(packet, flow::hash)
}

#[inline]
fn of_head<T>(packet: &Packet, hash: impl Fn(&[u8; HEAD_BYTES]) -> T) -> T {
    /// Where the ports end behind an IPv6 header.
    const PORTS_END: u16 = 58;
    match packet.header.first_chunk() {
        Some(head) if packet.header_len >= PORTS_END => hash(head),
        _ => hash(&short(packet.head())),
    }
}

/// A head with zeros behind it: what lies there is of an older packet.
#[cold]
fn short(bytes: &[u8]) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    for (to, from) in head.iter_mut().zip(bytes) {
        *to = *from;
    }
    head
}

/// Stage 5: IPv4 packets inside VXLAN over IPv4, to a port of the inner network. Returns a bit
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
    // Once for each network that packets are for and each end that sent them, mostly one.
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

/// Source address, and the bytes where a VXLAN header has its network identifier, whatever the packet is.
#[inline]
fn number(packet: &Packet) -> (u32, u32) {
    let [a, b, c] = [packet.header[46], packet.header[47], packet.header[48]];
    let [d, e, f, g] = [packet.header[26], packet.header[27], packet.header[28], packet.header[29]];
    (u32::from_be_bytes([d, e, f, g]), u32::from_be_bytes([0, a, b, c]))
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
    fn find(at: &Place<'a>, (remote, number): (u32, u32)) -> Option<Self> {
        let end = at.tunnels.with_vni(Vni::new(number)?)?;
        let remote = Ipv4Addr::from_bits(remote);
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
