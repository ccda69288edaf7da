//! Frames of a bridged network that are not for the gateway.

mod inside;
mod known;

use super::slow::{self, Step};
use super::{Place, nd};
use crate::icmp::ipv6_of;
use crate::routes::LINK_LOCAL;
use crate::stations::Behind;
use crate::{
    DropReason, Flood, Network, Packet, PortIndex, PortLimits, PortRole, PuntClass, Verdict,
};
use core::net::{IpAddr, Ipv4Addr};
pub(crate) use inside::into_tunnel;
pub(super) use inside::{Arrived, bridges};
pub(super) use known::forward;
use vrouter_net::ethernet::{self, EtherType};
use vrouter_net::{Mac, arp};

/// Bytes of a VLAN tag, which do not count for the MTU (IEEE 802.1Q).
const TAG_BYTES: usize = 4;
/// Bytes of an IPv4 and a TCP header without options.
const SEGMENT_HEADER_BYTES: usize = 40;
const ETHERTYPES_OF_TAGS: [EtherType; 2] = [EtherType(0x8100), EtherType(0x88a8)];

fn tag_bytes(ether_type: EtherType) -> usize {
    if ETHERTYPES_OF_TAGS.contains(&ether_type) { TAG_BYTES } else { 0 }
}

/// The verdict on a frame that is not for the gateway's MAC address. ARP and Neighbor Discovery for the gateway, and for whom a route says
/// that it is behind a tunnel, are answered; all else is forwarded as it is, if its sender may be who it says.
pub(super) fn decide(at: &Place<'_>, packet: &mut Packet, limits: &mut PortLimits) -> Verdict {
    match checked(at, packet) {
        Ok(Some(answer)) => answer,
        Ok(None) => switch(at, packet, limits),
        Err(reason) => Verdict::Drop(reason),
    }
}

/// Checks who sent the frame. `Some`: it is answered here.
fn checked(at: &Place<'_>, packet: &mut Packet) -> Result<Option<Verdict>, DropReason> {
    let policy = &at.port.policy;
    let (link, payload) =
        ethernet::Header::split(packet.head()).map_err(|_| DropReason::RuntFrame)?;
    let source = link.source();
    if source != policy.mac {
        let taken = at.network.port_of(source).is_some()
            || source == at.network.policy().gateway_mac
            || !source.is_station();
        if !policy.trunk || taken {
            return Err(DropReason::SourceMac);
        }
    }
    let ether_type = link.ether_type();
    let tag = tag_bytes(ether_type);
    // Of a packet that is to be cut, a segment with its shortest headers counts.
    let bytes = match packet.segment_bytes {
        0 => packet.payload_bytes(),
        segment => usize::from(segment) + tag + SEGMENT_HEADER_BYTES,
    };
    if bytes > usize::from(at.network.policy().mtu) + tag {
        return Err(DropReason::TooBig);
    }
    match ether_type {
        EtherType::IPV4 => {
            // The version, up to the source address. Nobody here needs more.
            let source = payload.get(12..).and_then(|rest| rest.first_chunk::<4>());
            let source = Ipv4Addr::from(*source.ok_or(DropReason::RuntFrame)?);
            let own = source == policy.ipv4 || policy.allows(IpAddr::V4(source));
            if own || policy.trunk { Ok(None) } else { Err(DropReason::SourceIp) }
        }
        EtherType::ARP => arp(at, packet),
        EtherType::IPV6 => ipv6(at, packet),
        _ => Ok(None),
    }
}

fn arp(at: &Place<'_>, packet: &mut Packet) -> Result<Option<Verdict>, DropReason> {
    let Ok((_, payload)) = ethernet::Header::split(packet.head()) else {
        return Err(DropReason::RuntFrame);
    };
    let asked = slow::read_arp(payload)?;
    let policy = &at.port.policy;
    let own = asked.sender_mac() == policy.mac
        && (asked.sender_ip() == policy.ipv4
            || policy.allows(IpAddr::V4(asked.sender_ip()))
            || asked.sender_ip().is_unspecified() && asked.operation() == arp::Operation::REQUEST);
    let gateway = at.network.policy().gateway;
    if !own {
        // The stations behind a trunk speak for themselves, but not for the gateway, and it does not serve them.
        let fine = policy.trunk && asked.sender_ip() != gateway;
        return if fine { Ok(None) } else { Err(DropReason::ArpSpoof) };
    }
    let asker = asked.sender_ip();
    let target = asked.target_ip();
    let for_gateway = asked.operation() == arp::Operation::REQUEST
        && (target == gateway || target != asker && nd::is_far(at, target.into()));
    if for_gateway && !asker.is_unspecified() {
        return match slow::answer_arp(at, packet, target, asker) {
            Step::Done(verdict) => Ok(Some(verdict)),
            Step::LookUp(_) => Ok(None),
        };
    }
    Ok(None)
}

fn ipv6(at: &Place<'_>, packet: &mut Packet) -> Result<Option<Verdict>, DropReason> {
    let policy = &at.port.policy;
    if policy.trunk {
        return Ok(None);
    }
    if let Some(wish) = nd::check(at, packet)? {
        return Ok(match wish {
            nd::Wish::Know { target, .. } if nd::is_gateway(at, target) => {
                Some(nd::answer(at, packet, wish))
            }
            // A probe is for those who are on the link.
            nd::Wish::Know { target, source }
                if !source.is_unspecified() && nd::is_far(at, target.into()) =>
            {
                Some(nd::answer(at, packet, wish))
            }
            _ => None,
        });
    }
    let (header, _) = ipv6_of(packet)?;
    let source = header.source();
    // RFC 4291 section 2.5.6: on the link, link-local addresses reach everybody.
    let own = policy.ipv6 == Some(source)
        || LINK_LOCAL.contains(source)
        || policy.allows(IpAddr::V6(source))
        // A node without an address yet joins its groups (RFC 3590).
        || source.is_unspecified() && header.destination().is_multicast();
    if own { Ok(None) } else { Err(DropReason::SourceIp) }
}

/// Where a frame goes by its destination MAC address.
fn switch(at: &Place<'_>, packet: &mut Packet, limits: &mut PortLimits) -> Verdict {
    let Ok((link, _)) = ethernet::Header::split(packet.head()) else {
        return Verdict::Drop(DropReason::RuntFrame);
    };
    let (to, from): (Mac, Mac) = (link.destination(), link.source());
    let own = at.port.policy.index;
    // Only a trunk gets here with an address that is not its own.
    if from != at.port.policy.mac
        && let Some(stations) = at.network.learned()
    {
        stations.learn(at.now, from, Behind::Port(own));
    }
    let flood = if to.is_multicast() {
        Flood::All
    } else {
        match find(at, at.network, to) {
            Some(Behind::Port(port)) if port == own => return Verdict::Drop(DropReason::Hairpin),
            Some(Behind::Port(port)) if is_kernel(at, port) => {
                let allowed = limits.punts.allow(at.now, PuntClass::Kernel, at.network.punts());
                return if allowed {
                    Verdict::Punt(port, PuntClass::Kernel)
                } else {
                    Verdict::Drop(DropReason::PuntLimited)
                };
            }
            Some(Behind::Port(port)) => return Verdict::Forward(port),
            Some(Behind::End(end)) => return into_tunnel(at.network, end, packet),
            None => Flood::Trunks,
        }
    };
    let nobody = at.network.is_on_one_host() && at.network.trunks().iter().all(|port| *port == own);
    limits.floods.follow(at.network.floods());
    if flood == Flood::Trunks && nobody {
        Verdict::Drop(DropReason::UnknownMac)
    } else if limits.floods.allow(at.now) {
        Verdict::Flood(flood)
    } else {
        Verdict::Drop(DropReason::FloodLimited)
    }
}

fn is_kernel(at: &Place<'_>, port: PortIndex) -> bool {
    at.tables.port(port).is_some_and(|policy| policy.role == PortRole::Kernel)
}

/// The port that has a MAC address in a network, or what a station is behind. The tables are asked first: a port's address is the
/// port's, and of a station that they name behind an end nothing else counts that was heard. What was learned counts only as
/// long as the tables say that the port is a trunk of this very network, or that it has such an end.
fn find(at: &Place<'_>, network: &Network, station: Mac) -> Option<Behind> {
    if let Some(port) = network.port_of(station) {
        return Some(Behind::Port(port));
    }
    if let Some(end) = network.named(station) {
        return Some(Behind::End(end));
    }
    let behind = network.learned()?.find(at.now, station)?;
    let is_there = match behind {
        Behind::Port(port) => at
            .tables
            .port(port)
            .is_some_and(|policy| policy.trunk && policy.network == network.policy().index),
        Behind::End(end) => network.hop_to_end(end).is_some(),
    };
    is_there.then_some(behind)
}
