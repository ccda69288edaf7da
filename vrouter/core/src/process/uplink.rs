//! What comes in by an uplink, and what its host interface sends.
//!
//! The vRouter forwards what is right and for somebody else, and takes tunnels apart; all the rest of what is for this
//! host is the kernel's, as it is. So there is one stack on the wire, the kernel's: it answers, resolves neighbours and
//! sends ICMP errors.

use super::ingress::{Uplink, is_routed4, is_routed6};
use super::{Place, six, slow, tunnel};
use crate::hops::NextHop;
use crate::icmp::{ipv4_of, ipv6_of};
use crate::routes::LINK_LOCAL;
use crate::{DropReason, Outcome, Packet, PortIndex, PortLimits, PortRole, PuntClass, Verdict};
use vrouter_net::ethernet::{self, EtherType};
use vrouter_net::ipv4::{self, Protocol};

/// What the kernel sends goes out as it is.
pub(super) fn cross(batch: &mut [Packet], uplink: PortIndex) -> Outcome {
    let mut all_to = Some(uplink).filter(|_| !batch.is_empty());
    for packet in batch {
        packet.verdict = if packet.frame_len as usize >= ethernet::HEADER_BYTES {
            Verdict::Forward(uplink)
        } else {
            all_to = None;
            Verdict::Drop(DropReason::RuntFrame)
        };
    }
    Outcome { all_to, tunnelled: false }
}

/// Hands a packet to the kernel's side of the uplink, if there is one and it has not got too many.
pub(super) fn punt(at: &Place<'_>, class: PuntClass, limits: &mut PortLimits) -> Verdict {
    match at.port.policy.role {
        PortRole::Uplink { host: Some(host) } => {
            if limits.punts.allow(at.now, class, at.network.punts()) {
                Verdict::Punt(host, class)
            } else {
                Verdict::Drop(DropReason::PuntLimited)
            }
        }
        _ => Verdict::Drop(DropReason::NoHostInterface),
    }
}

/// Forwards an IPv6 packet that needs no more than that.
#[inline]
pub(super) fn forward6(at: &Place<'_>, packet: &mut Packet) -> Option<PortIndex> {
    // Hop-by-hop options are for routers to look at (RFC 8200 section 4.3), the kernel in this case.
    const HOP_BY_HOP: u8 = 0;
    if packet.header[20] == HOP_BY_HOP {
        return None;
    }
    six::forward::<Uplink>(at, packet)
}

/// The verdict on any frame.
#[cold]
pub(super) fn decide(at: &Place<'_>, packet: &mut Packet, limits: &mut PortLimits) -> Verdict {
    let Ok((link, bytes)) = ethernet::Header::split(packet.head()) else {
        return Verdict::Drop(DropReason::RuntFrame);
    };
    let to = link.destination();
    if to.is_multicast() {
        return punt(at, PuntClass::Control, limits);
    }
    if to != at.port.policy.mac {
        return Verdict::Drop(DropReason::NotForGatewayMac);
    }
    match link.ether_type() {
        EtherType::IPV4 => match slow::read_ipv4(bytes, packet.payload_bytes()) {
            Ok(header) => {
                let index = at.network.fib().lookup(header.destination().to_bits());
                resolve4(at, at.network.hops().get(index), packet, limits)
            }
            Err(reason) => Verdict::Drop(reason),
        },
        EtherType::IPV6 => resolve6(at, packet, limits),
        _ => punt(at, PuntClass::Control, limits),
    }
}

/// The verdict on an IPv4 packet for the uplink's MAC address that is not simply forwarded. Its header was checked.
#[cold]
pub(super) fn resolve4(
    at: &Place<'_>,
    next_hop: &NextHop,
    packet: &mut Packet,
    limits: &mut PortLimits,
) -> Verdict {
    let Some((header, bytes)) = ipv4_of(packet) else {
        return Verdict::Drop(DropReason::MalformedIpv4);
    };
    let class = match next_hop.of_flow(|| tunnel::path(packet)) {
        NextHop::Gateway => {
            if let Some(verdict) = tunnel::open(at, packet, limits) {
                return verdict;
            }
            PuntClass::Local
        }
        NextHop::Port(hop) => {
            let [source, ..] = header.source().octets();
            let options = usize::from(header.header_bytes()) > ipv4::HEADER_BYTES;
            if !is_routed4(source) {
                return Verdict::Drop(DropReason::SourceIp);
            }
            let fits = slow::fits(&header, bytes, packet, hop.mtu);
            if header.ttl() > 1 && !options && fits {
                return slow::forward(packet, hop);
            }
            PuntClass::Exception
        }
        next_hop => match kernels(next_hop) {
            Ok(class) => class,
            Err(reason) => return Verdict::Drop(reason),
        },
    };
    punt(at, class, limits)
}

/// The same for IPv6, whose header is checked here.
fn resolve6(at: &Place<'_>, packet: &mut Packet, limits: &mut PortLimits) -> Verdict {
    let (header, bytes) = match ipv6_of(packet) {
        Ok(found) => found,
        Err(reason) => return Verdict::Drop(reason),
    };
    let (source, destination) = (header.source(), header.destination());
    let is_discovery = header.next_header() == Protocol::ICMPV6
        && bytes.get(40).is_some_and(|kind| (133..=137).contains(kind));
    if is_discovery || destination.is_multicast() || LINK_LOCAL.contains(destination) {
        return punt(at, PuntClass::Control, limits);
    }
    let (hop_limit, next) = (header.hop_limit(), header.next_header());
    let next_hop = at.network.hops().get(at.network.lookup6(destination));
    let class = match next_hop.of_flow(|| tunnel::path(packet)) {
        NextHop::Gateway => {
            if let Some(verdict) = tunnel::open(at, packet, limits) {
                return verdict;
            }
            PuntClass::Local
        }
        NextHop::Port(hop) => {
            if !is_routed6(source) {
                return Verdict::Drop(DropReason::SourceIp);
            }
            let fits = six::fits(bytes, packet, hop.mtu);
            if hop_limit > 1 && next.0 != 0 && fits {
                return six::rewrite(packet, hop);
            }
            PuntClass::Exception
        }
        next_hop => match kernels(next_hop) {
            Ok(class) => class,
            Err(reason) => return Verdict::Drop(reason),
        },
    };
    punt(at, class, limits)
}

/// What the kernel is to do with a packet that goes nowhere here, or why nobody is.
fn kernels(next_hop: &NextHop) -> Result<PuntClass, DropReason> {
    match next_hop {
        NextHop::Local | NextHop::Gateway => Ok(PuntClass::Local),
        NextHop::Drop(DropReason::Multicast) => Ok(PuntClass::Control),
        NextHop::Drop(DropReason::Blackhole) => Err(DropReason::Blackhole),
        // It makes the ICMP error, or knows a route that is not here.
        _ => Ok(PuntClass::Exception),
    }
}
