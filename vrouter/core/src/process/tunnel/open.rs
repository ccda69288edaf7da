//! Out of tunnels, whatever a packet looks like.

use super::super::{Place, bridge, slow};
use super::short;
use crate::hops::{HopIndex, NextHop, PortHop};
use crate::icmp::{ipv4_of, ipv6_of};
use crate::tunnels::TunnelEnd;
use crate::{DropReason, Network, Packet, PortIndex, PortLimits, PuntClass, Verdict};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use vrouter_net::ethernet::{self, EtherType};
use vrouter_net::ipv4::{self, Protocol};
use vrouter_net::{flow, ipip, ipv6, mpls, vxlan};

/// Congestion bits of a router that was congested, and of a transport that chose the second code point.
const CE: u8 = 3;
const ECT1: u8 = 1;
const ECT0: u8 = 2;

/// An outer IP header, whatever its family.
struct Outer {
    from: IpAddr,
    to: IpAddr,
    ecn: u8,
    /// UDP, or that of a packet inside.
    protocol: Protocol,
    is_fragment: bool,
    /// Where what it carries starts in the frame, and how many bytes that can have.
    start: usize,
    room: usize,
}

impl Outer {
    /// `None`: the packet carries neither a UDP header nor another packet.
    fn of(packet: &Packet) -> Option<Self> {
        let is_ip = |protocol| matches!(protocol, Protocol::IPV4 | Protocol::IPV6);
        if let Ok((header, bytes)) = ipv6_of(packet) {
            let options = bytes.get(ipv6::HEADER_BYTES..)?;
            let (protocol, skipped) = match header.next_header() {
                Protocol::DESTINATION_OPTIONS => (ipip::behind_limit(options)?, ipip::LIMIT_BYTES),
                next => (next, 0),
            };
            return (protocol == Protocol::UDP || is_ip(protocol)).then(|| Self {
                from: header.source().into(),
                to: header.destination().into(),
                ecn: header.ecn(),
                protocol,
                is_fragment: false,
                start: ethernet::HEADER_BYTES + ipv6::HEADER_BYTES + skipped,
                room: usize::from(header.payload_length()).saturating_sub(skipped),
            });
        }
        let (header, _) = ipv4_of(packet)?;
        let protocol = header.protocol();
        let has_udp = protocol == Protocol::UDP && !header.is_later_fragment();
        let bytes = usize::from(header.header_bytes());
        (has_udp || is_ip(protocol)).then(|| Self {
            from: header.source().into(),
            to: header.destination().into(),
            ecn: header.ecn(),
            protocol,
            is_fragment: header.is_fragment(),
            start: ethernet::HEADER_BYTES + bytes,
            room: usize::from(header.total_length()).saturating_sub(bytes),
        })
    }

    /// What can be seen of what it carries.
    fn payload<'a>(&self, packet: &'a Packet) -> &'a [u8] {
        let bytes = packet.head().get(self.start..).unwrap_or(&[]);
        bytes.get(..self.room).unwrap_or(bytes)
    }
}

/// What a packet goes through that is for an address where tunnels end.
enum Through<'a> {
    Vxlan,
    Mpls,
    Ipip(&'a TunnelEnd),
}

/// The verdict on any packet for an address of the vRouter in a network that carries tunnels. Its IP header was checked,
/// and who it comes from. `None`: it has nothing to do with tunnels.
#[cold]
pub(in super::super) fn open(
    at: &Place<'_>,
    packet: &mut Packet,
    limits: &mut PortLimits,
) -> Option<Verdict> {
    let outer = Outer::of(packet)?;
    let through = if outer.protocol == Protocol::UDP {
        let port = u16::from_be_bytes(*packet.head().get(outer.start + 2..)?.first_chunk()?);
        match port {
            vxlan::PORT | mpls::PORT if !at.tunnels.are_at(outer.to) => return None,
            vxlan::PORT => Through::Vxlan,
            mpls::PORT => Through::Mpls,
            _ => return None,
        }
    } else {
        Through::Ipip(at.tunnels.with_ipip(outer.to)?)
    };
    let done = match through {
        _ if packet.segment_bytes != 0 => Err(DropReason::UnsupportedOffload),
        Through::Vxlan => {
            return Some(vxlan(at, packet, &outer, limits).unwrap_or_else(Verdict::Drop));
        }
        Through::Mpls => mpls(at, packet, &outer, limits),
        Through::Ipip(end) => ipip(at, packet, &outer, end, limits),
    };
    Some(done.map_or_else(Verdict::Drop, Verdict::Decapsulate))
}

fn vxlan(
    at: &Place<'_>,
    packet: &mut Packet,
    outer: &Outer,
    limits: &mut PortLimits,
) -> Result<Verdict, DropReason> {
    let datagram = packet.head().get(outer.start..).unwrap_or(&[]);
    let opened = vxlan::open(datagram, outer.room).ok().filter(|_| !outer.is_fragment);
    let opened = opened.ok_or(DropReason::MalformedVxlan)?;
    let end = at.tunnels.with_vni(opened.vni).filter(|end| end.local == outer.to);
    let network = network_of(at, end.ok_or(DropReason::UnknownVni)?, outer)?;
    let start = outer.start + vxlan::TUNNEL_BYTES;
    let frame = (start, opened.frame_bytes);
    if let Some(end) = bridge::bridges(network, outer.from) {
        let (visible, bytes) = inside(packet, frame);
        let gateway = network.policy().gateway_mac.octets();
        if visible.first_chunk().is_some_and(|to| *to != gateway) {
            let arrived = bridge::Arrived { at, network, end, bytes, ecn: outer.ecn };
            let verdict = arrived.switch(visible, limits)?;
            take_off(packet, frame)?;
            return Ok(verdict);
        }
    }
    go_on(at, packet, frame, (network, outer.ecn), limits).map(Verdict::Decapsulate)
}

/// What is seen of the frame of so many bytes that starts somewhere in the head, and its bytes.
fn inside(packet: &mut Packet, (start, frame_bytes): (usize, u32)) -> (&mut [u8], usize) {
    let bytes = frame_bytes as usize;
    let visible = packet.head_mut().get_mut(start..).unwrap_or(&mut []);
    let seen = visible.len().min(bytes);
    (visible.get_mut(..seen).unwrap_or(&mut []), bytes)
}

/// Makes the frame of so many bytes that starts somewhere in the head the one that goes on.
fn take_off(packet: &mut Packet, (start, frame_bytes): (usize, u32)) -> Result<(), DropReason> {
    packet.outer_len = u8::try_from(start).map_err(|_| DropReason::RuntFrame)?;
    packet.frame_len = frame_bytes;
    Ok(())
}

fn mpls(
    at: &Place<'_>,
    packet: &mut Packet,
    outer: &Outer,
    limits: &mut PortLimits,
) -> Result<PortIndex, DropReason> {
    let datagram = packet.head().get(outer.start..).unwrap_or(&[]);
    let opened = mpls::open(datagram, outer.room).ok().filter(|_| !outer.is_fragment);
    let opened = opened.ok_or(DropReason::MalformedMpls)?;
    let end = opened.label.and_then(|label| at.tunnels.with_label(label));
    let end = end.filter(|end| end.local == outer.to).ok_or(DropReason::UnknownLabel)?;
    let network = network_of(at, end, outer)?;
    let inside = (outer.start + mpls::TUNNEL_BYTES, opened.packet_bytes);
    go_on_without_link(at, packet, inside, opened.ether_type, (network, outer.ecn), limits)
}

fn ipip(
    at: &Place<'_>,
    packet: &mut Packet,
    outer: &Outer,
    end: &TunnelEnd,
    limits: &mut PortLimits,
) -> Result<PortIndex, DropReason> {
    let opened = ipip::open(outer.payload(packet), outer.protocol).ok();
    let opened = opened.filter(|_| !outer.is_fragment).ok_or(DropReason::MalformedIpip)?;
    let network = network_of(at, end, outer)?;
    let bytes = u32::try_from(outer.room).map_err(|_| DropReason::MalformedIpip)?;
    go_on_without_link(at, packet, (outer.start, bytes), opened, (network, outer.ecn), limits)
}

/// The network of a tunnel's end, if it knows who sent the packet.
fn network_of<'a>(
    at: &Place<'a>,
    end: &TunnelEnd,
    outer: &Outer,
) -> Result<&'a Network, DropReason> {
    if !end.knows(outer.from) {
        return Err(DropReason::UnknownVtep);
    }
    at.tables.network(end.overlay).ok_or(DropReason::UnknownVni)
}

/// Routes the frame of so many bytes that starts somewhere in the head.
fn go_on(
    at: &Place<'_>,
    packet: &mut Packet,
    frame: (usize, u32),
    (network, ecn): (&Network, u8),
    limits: &mut PortLimits,
) -> Result<PortIndex, DropReason> {
    let (visible, frame_bytes) = inside(packet, frame);
    let to = Inside { at, network, frame_bytes, outer_ecn: ecn }.route(visible, limits)?;
    take_off(packet, frame)?;
    Ok(to)
}

/// The same for an IP packet that came without an Ethernet header: one is put before it, over the end of what is taken away.
/// That is as it was, if the packet goes nowhere.
fn go_on_without_link(
    at: &Place<'_>,
    packet: &mut Packet,
    (start, packet_bytes): (usize, u32),
    ether_type: EtherType,
    (network, ecn): (&Network, u8),
    limits: &mut PortLimits,
) -> Result<PortIndex, DropReason> {
    const LINK: u32 = 14;
    const _: () = assert!(LINK as usize == ethernet::HEADER_BYTES);
    let start = start.checked_sub(ethernet::HEADER_BYTES).ok_or(DropReason::RuntFrame)?;
    let place = |packet: &mut Packet, new: [u8; ethernet::HEADER_BYTES]| {
        let old = packet.header.get_mut(start..).and_then(|rest| rest.first_chunk_mut());
        old.map(|old| core::mem::replace(old, new)).ok_or(DropReason::RuntFrame)
    };
    let mut link = [0; ethernet::HEADER_BYTES];
    link[..6].copy_from_slice(&network.policy().gateway_mac.octets());
    link[12..].copy_from_slice(&ether_type.0.to_be_bytes());
    let before = place(packet, link)?;
    let frame = (start, packet_bytes.saturating_add(LINK));
    let done = go_on(at, packet, frame, (network, ecn), limits);
    if done.is_err() {
        place(packet, before)?;
    }
    done
}

/// An inner frame.
struct Inside<'a> {
    at: &'a Place<'a>,
    /// The network that it is for.
    network: &'a Network,
    frame_bytes: usize,
    outer_ecn: u8,
}

impl Inside<'_> {
    /// Routes the frame, of which `head` is the start. It is changed only when it goes on.
    fn route(&self, head: &mut [u8], limits: &mut PortLimits) -> Result<PortIndex, DropReason> {
        let policy = self.network.policy();
        let (link, bytes) = ethernet::Header::split(head).map_err(|_| DropReason::RuntFrame)?;
        slow::addressed_to_gateway(link.destination(), policy)?;
        let payload_bytes = self.frame_bytes.saturating_sub(ethernet::HEADER_BYTES);
        match link.ether_type() {
            EtherType::IPV4 => {
                let header = slow::read_ipv4(bytes, payload_bytes)?;
                let index = self.network.fib().lookup(Ipv4Addr::to_bits(header.destination()));
                let (ttl, ecn) = (header.ttl(), combine(self.outer_ecn, header.ecn()));
                let (hop, ttl) = self.next(index, head, (ttl, ecn), limits)?;
                let ecn = ecn?;
                let bytes = rewrite(head, hop)?.first_chunk_mut().ok_or(DropReason::RuntFrame)?;
                let mut header = ipv4::Header::of(bytes);
                header.set_ttl(ttl);
                header.set_ecn(ecn);
                Ok(hop.port)
            }
            EtherType::IPV6 if policy.ipv6.is_some() => {
                let header = slow::read_ipv6(bytes, payload_bytes)?;
                let to: Ipv6Addr = header.destination();
                let (ttl, ecn) = (header.hop_limit(), combine(self.outer_ecn, header.ecn()));
                let (hop, ttl) = self.next(self.network.lookup6(to), head, (ttl, ecn), limits)?;
                let ecn = ecn?;
                let bytes = rewrite(head, hop)?.first_chunk_mut().ok_or(DropReason::RuntFrame)?;
                let mut header = ipv6::Header::of(bytes);
                header.set_hop_limit(ttl);
                header.set_ecn(ecn);
                Ok(hop.port)
            }
            _ => Err(DropReason::UnsupportedEthertype),
        }
    }

    /// The port that a slot leads to, if a packet may go there, and the time to live it goes with. Whoever sent it
    /// through the tunnel is told nothing.
    fn next(
        &self,
        index: HopIndex,
        head: &[u8],
        (ttl, ecn): (u8, Result<u8, DropReason>),
        limits: &mut PortLimits,
    ) -> Result<(&PortHop, u8), DropReason> {
        let next_hop = self.network.hops().get(index).of_flow(|| flow::hash(&short(head)));
        let (hop, step) = match next_hop {
            NextHop::Drop(reason) => return Err(*reason),
            NextHop::Unreachable | NextHop::NoRoute | NextHop::Local | NextHop::Multipath(_) => {
                return Err(DropReason::NoRoute);
            }
            NextHop::Gateway => return Err(DropReason::GatewayUnhandled),
            NextHop::Tunnel(_) => return Err(DropReason::TunnelTransit),
            NextHop::Port(hop) => (hop, 1),
            // As in `slow::to_kernel`.
            NextHop::Kernel(hop) => (hop, 0),
        };
        if step != 0 && ttl <= 1 {
            return Err(DropReason::TtlExceeded);
        }
        if self.frame_bytes.saturating_sub(ethernet::HEADER_BYTES) > usize::from(hop.mtu) {
            return Err(DropReason::TooBig);
        }
        ecn?;
        let Place { now, network, .. } = *self.at;
        if step == 0 && !limits.punts.allow(now, PuntClass::Kernel, network.punts()) {
            return Err(DropReason::PuntLimited);
        }
        Ok((hop, ttl.saturating_sub(step)))
    }
}

/// Writes the MAC addresses; returns what follows the Ethernet header.
fn rewrite<'a>(head: &'a mut [u8], hop: &PortHop) -> Result<&'a mut [u8], DropReason> {
    let (mut link, bytes) = ethernet::Header::split_mut(head).map_err(|_| DropReason::RuntFrame)?;
    link.set_addresses(hop.destination_mac(), hop.source_mac());
    Ok(bytes)
}

/// What the congestion bits of both headers make of the inner ones (RFC 6040 section 4.2, figure 4).
pub(in super::super) fn combine(outer: u8, inner: u8) -> Result<u8, DropReason> {
    match (outer, inner) {
        (CE, 0) => Err(DropReason::TunnelCongestion),
        (CE, _) => Ok(CE),
        (ECT1, ECT0) => Ok(ECT1),
        (_, inner) => Ok(inner),
    }
}
