//! Into tunnels and out of them: VXLAN (RFC 7348), MPLS over UDP (RFC 7510) and IP in IP (RFC 2003, 4213, 2473).
//!
//! Stages for what is right in the most common way, as in [`super::fast`], and in `open` a plain way for all else.

mod open;
mod out_of;

use super::{Place, STAGE_PACKETS, Same, Targets, bits};
use crate::hops::{HopIndex, NextHop, Outer, PortHop, TunnelHop};
use crate::{DropReason, Packet, Verdict};
pub(super) use open::{combine, open};
pub(super) use out_of::{all_at_once, decapsulate, for_the_gateway};
use vrouter_net::ethernet::{self, EtherType};
use vrouter_net::flow::{self, HEAD_BYTES};
use vrouter_net::vxlan::{self, Inner};

const LINK_BYTES: u32 = 14;

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
    let (mut same, mut packets) = (Same::default(), 0);
    for i in bits(left) {
        let Some(packet) = batch.get_mut(i) else { continue };
        let next_hop = hops.get(HopIndex(found[i]));
        let (hop, outer) = match next_hop {
            NextHop::Tunnel(TunnelHop { inner, outer: Outer::Vxlan(outer), .. }) => (inner, outer),
            NextHop::Tunnel(_) | NextHop::Multipath(_) => {
                done |= u64::from(by_the_way(at, packet, next_hop, targets)) << i;
                continue;
            }
            _ => continue,
        };
        if !may_pass(packet, hop) {
            continue;
        }
        let inner = inner4(packet);
        let bytes = outer.write(&mut packet.outer, inner);
        let Some(bytes) = bytes.and_then(|bytes| u8::try_from(bytes).ok()) else { continue };
        packet.outer_len = bytes;
        rewrite(packet, hop);
        packet.verdict = Verdict::Encapsulate(hop.port);
        same.add(hop.port);
        packets += 1;
        done |= 1 << i;
    }
    targets.add_all(same, packets);
    done
}

/// The same for one packet that goes into another tunnel than VXLAN or over one of several ways; whether it is done.
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
        let inner = inner4(packet);
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

/// What an outer header needs to know of an IPv4 packet. Its congestion bits are in the second byte of its header.
#[inline(always)]
fn inner4(packet: &Packet) -> Inner {
    let (frame_bytes, ecn) = (packet.frame_len, packet.header[15] & 3);
    Inner { frame_bytes, flow: flow(packet), ecn, is_ipv6: false }
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
    let is_ipv6 = packet.header[12..14] == EtherType::IPV6.0.to_be_bytes();
    let inner = Inner { frame_bytes, flow: flow(packet), ecn, is_ipv6 };
    match hop.write(&mut packet.outer, inner) {
        Some(bytes) => in_front(packet, hop, bytes),
        None => Verdict::Drop(DropReason::TooBig),
    }
}

/// Notes an outer header of so many bytes. One behind which no Ethernet header crosses ends over the inner one, so that the
/// frame is sent as any other; but not yet where it is to be cut: each piece gets its own.
#[inline]
fn in_front(packet: &mut Packet, hop: &TunnelHop, bytes: u8) -> Verdict {
    const LINK: u8 = 14;
    packet.outer_len = bytes;
    if !matches!(hop.outer, Outer::Vxlan(_)) && packet.segment_bytes == 0 {
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
