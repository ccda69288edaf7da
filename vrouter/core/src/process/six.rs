//! IPv6: what is simply forwarded, and what is not.

use super::slow::{self, report};
use super::{Place, tunnel};
use crate::hops::{HopIndex, NextHop, PortHop, TunnelHop};
use crate::icmp::ipv6_of;
use crate::routes::LINK_LOCAL;
use crate::tables::Sender;
use crate::{DropReason, IcmpError, Packet, PortIndex, PortLimits, PortRole, Verdict};
use core::net::{IpAddr, Ipv6Addr};
use vrouter_net::ipv4::Protocol;
use vrouter_net::{Mac, ethernet, icmpv6, ipv6};

/// The part of a frame that forwarding reads and writes.
const HEAD_BYTES: usize = ethernet::HEADER_BYTES + ipv6::HEADER_BYTES;

/// Forwards a packet that is right in the most common way: from the port's own address to another port or into a
/// tunnel. Returns the port it goes to. `None`: it is not, and nothing is changed.
#[inline]
pub(super) fn forward<S: Sender>(at: &Place<'_>, packet: &mut Packet) -> Option<PortIndex> {
    let expect = at.port.expect6.as_ref()?;
    let [w0, w1, ..] = packet.words();
    if !expect.agrees::<S>(w0, w1) || usize::from(packet.header_len) < HEAD_BYTES {
        return None;
    }
    let frame_bytes = packet.frame_len;
    let ingress = at.port.policy.index;
    let head = packet.header.first_chunk::<HEAD_BYTES>()?;
    let ip: ipv6::Header<&[u8; ipv6::HEADER_BYTES]> = ipv6::Header::of(head.last_chunk()?);
    let total = u32::from(ip.payload_length()) + 54;
    // ICMPv6 may be Neighbor Discovery, which is never forwarded, wherever it claims to go.
    if !S::may_send6(expect.source, ip.source())
        || total > frame_bytes
        || ip.hop_limit() <= 1
        || ip.next_header() == Protocol::ICMPV6
    {
        return None;
    }
    let index = at.network.lookup6(ip.destination());
    let (hop, tunnel) = match at.network.hops().get(index).of_flow(|| tunnel::path(packet)) {
        NextHop::Port(hop) if hop.port != ingress => (hop, None),
        NextHop::Tunnel(tunnel) => (&tunnel.inner, Some((tunnel, ip.ecn()))),
        _ => return None,
    };
    if frame_bytes > u32::from(hop.mtu) + 14 {
        return None;
    }
    let head = packet.header.first_chunk_mut::<HEAD_BYTES>()?;
    head[..12].copy_from_slice(&hop.rewrite);
    let mut ip = ipv6::Header::of(head.last_chunk_mut::<{ ipv6::HEADER_BYTES }>()?);
    ip.set_hop_limit(ip.hop_limit() - 1);
    packet.verdict = match tunnel {
        None => Verdict::Forward(hop.port),
        Some((tunnel, ecn)) => tunnel::wrap(packet, tunnel, ecn),
    };
    Some(hop.port)
}

/// Whether a pod may send a packet with these addresses. Link-local ones may be any, as nobody but the gateway gets
/// the packet (RFC 4291 section 2.5.6).
pub(super) fn may_send(at: &Place<'_>, source: Ipv6Addr, destination: Ipv6Addr) -> bool {
    let policy = &at.port.policy;
    policy.ipv6 == Some(source)
        || LINK_LOCAL.contains(source) && at.network.lookup6(destination) == HopIndex::GATEWAY
        || policy.allows(IpAddr::V6(source))
}

/// The verdict on a packet to the gateway's MAC address that is not simply forwarded and no Neighbor Discovery.
#[cold]
pub(super) fn resolve(at: &Place<'_>, packet: &mut Packet, limits: &mut PortLimits) -> Verdict {
    let Ok((header, bytes)) = ipv6_of(packet) else {
        return Verdict::Drop(DropReason::MalformedIpv6);
    };
    let (source, destination) = (header.source(), header.destination());
    if !may_send(at, source, destination) {
        return Verdict::Drop(DropReason::SourceIp);
    }
    let hop_limit = header.hop_limit();
    let (ecn, next_hop) = (header.ecn(), at.network.hops().get(at.network.lookup6(destination)));
    let next_hop = next_hop.of_flow(|| tunnel::path(packet));
    let error = match next_hop {
        NextHop::Drop(reason) => return Verdict::Drop(*reason),
        NextHop::Gateway => {
            return tunnel::open(at, packet, limits).unwrap_or_else(|| answer_gateway(at, packet));
        }
        NextHop::NoRoute => IcmpError::NetworkUnreachable,
        NextHop::Unreachable | NextHop::Local | NextHop::Multipath(_) => IcmpError::HostUnreachable,
        NextHop::Kernel(_) if at.port.policy.role == PortRole::Kernel => {
            return Verdict::Drop(DropReason::KernelLoop);
        }
        NextHop::Port(hop) if hop.port == at.port.policy.index => {
            return Verdict::Drop(DropReason::Hairpin);
        }
        NextHop::Port(_) | NextHop::Tunnel(_) if hop_limit <= 1 => IcmpError::TimeExceeded,
        NextHop::Port(hop)
        | NextHop::Kernel(hop)
        | NextHop::Tunnel(TunnelHop { inner: hop, .. }) => {
            if fits(bytes, packet, hop.mtu) {
                return match next_hop {
                    NextHop::Kernel(hop) => slow::to_kernel(at, packet, hop, limits),
                    NextHop::Tunnel(tunnel) => {
                        rewrite(packet, hop);
                        tunnel::wrap(packet, tunnel, ecn)
                    }
                    _ => rewrite(packet, hop),
                };
            }
            if header.total_bytes() <= usize::from(hop.mtu) {
                // Too big by what follows the packet.
                return Verdict::Drop(DropReason::TooBig);
            }
            IcmpError::FragmentationNeeded { mtu: hop.mtu }
        }
    };
    report(error, may_be_reported(source, bytes), at.now, limits)
}

/// Whether a packet, or each of the segments that it is to be cut into, has at most `mtu` bytes.
pub(super) fn fits(bytes: &[u8], packet: &Packet, mtu: u16) -> bool {
    packet.payload_bytes() <= usize::from(mtu) || segments_fit(bytes, packet.segment_bytes, mtu)
}

/// Whether a TCP packet that is to be cut makes segments of at most `mtu` bytes.
fn segments_fit(bytes: &[u8], segment_bytes: u16, mtu: u16) -> bool {
    let Some(upper) = ipv6::upper_layer(bytes) else { return false };
    let Some(offset) = bytes.get(upper.offset + 12) else { return false };
    let tcp = usize::from(offset >> 4) * 4;
    let cut = segment_bytes != 0 && upper.protocol == Protocol::TCP && !upper.is_fragment;
    cut && tcp >= 20 && upper.offset + tcp + usize::from(segment_bytes) <= usize::from(mtu)
}

pub(super) fn rewrite(packet: &mut Packet, hop: &PortHop) -> Verdict {
    let Ok((mut link, bytes)) = ethernet::Header::split_mut(packet.head_mut()) else {
        return Verdict::Drop(DropReason::RuntFrame);
    };
    link.set_addresses(hop.destination_mac(), hop.source_mac());
    if let Some(bytes) = bytes.first_chunk_mut() {
        let mut header = ipv6::Header::of(bytes);
        header.set_hop_limit(header.hop_limit().saturating_sub(1));
    }
    Verdict::Forward(hop.port)
}

/// Whether an error about this packet may be sent at all (RFC 4443 section 2.4 (e)): not about an error, not to a
/// group, and not when it cannot be seen what the packet is. Destinations are no groups here.
pub(crate) fn may_be_reported(source: Ipv6Addr, bytes: &[u8]) -> bool {
    if source.is_unspecified() || source.is_multicast() {
        return false;
    }
    let Some(upper) = ipv6::upper_layer(bytes) else { return false };
    if upper.protocol != Protocol::ICMPV6 {
        return true;
    }
    let kind = bytes.get(upper.offset).copied().map(icmpv6::Type);
    !upper.is_later_fragment && kind.is_some_and(|kind| !kind.is_error())
}

/// Answers a ping for one of the gateway's addresses; nothing else is answered.
fn answer_gateway(at: &Place<'_>, packet: &mut Packet) -> Verdict {
    let policy = at.network.policy();
    if packet.payload_bytes() > usize::from(policy.mtu) {
        return Verdict::Drop(DropReason::TooBig);
    }
    let (to, from) = (at.port.policy.mac, policy.gateway_mac);
    match echo_reply(packet.head_mut(), to, from) {
        Some(()) => Verdict::Reply,
        None => Verdict::Drop(DropReason::GatewayUnhandled),
    }
}

/// Turns the frame of an echo request into that of its reply. `None`: it is not one; nothing is changed.
fn echo_reply(head: &mut [u8], to: Mac, from: Mac) -> Option<()> {
    let (mut link, bytes) = ethernet::Header::split_mut(head).ok()?;
    let upper = ipv6::upper_layer(bytes)?;
    let total = ipv6::Header::of(bytes.first_chunk()?).total_bytes();
    // Extension headers would have to be answered with their own; fragments are not put together.
    if upper.protocol != Protocol::ICMPV6 || upper.offset != ipv6::HEADER_BYTES {
        return None;
    }
    let end = bytes.len().min(total);
    let message = bytes.get_mut(ipv6::HEADER_BYTES..end)?;
    if message.len() < icmpv6::HEADER_BYTES
        || message.first_chunk() != Some(&[icmpv6::Type::ECHO_REQUEST.0, 0])
    {
        return None;
    }
    icmpv6::echo_reply(message).ok()?;
    let mut header = ipv6::Header::of(bytes.first_chunk_mut()?);
    header.set_hop_limit(ipv6::DEFAULT_HOP_LIMIT);
    header.swap_addresses();
    link.set_addresses(to, from);
    Some(())
}
