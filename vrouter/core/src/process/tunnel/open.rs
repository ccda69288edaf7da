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
use vrouter_net::{flow, ipv6, mpls, vxlan};

/// Congestion bits of a router that was congested, and of a transport that chose the second code point.
const CE: u8 = 3;
const ECT1: u8 = 1;
const ECT0: u8 = 2;

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
pub(in super::super) fn open(
    at: &Place<'_>,
    packet: &mut Packet,
    limits: &mut PortLimits,
) -> Option<Verdict> {
    let outer = Outer::of(packet)?;
    let datagram = packet.head().get(outer.datagram..)?;
    let port = u16::from_be_bytes(*datagram.get(2..)?.first_chunk()?);
    if !at.tunnels.are_at(outer.to) {
        return None;
    }
    let done = match port {
        _ if packet.segment_bytes != 0 && [vxlan::PORT, mpls::PORT].contains(&port) => {
            Err(DropReason::UnsupportedOffload)
        }
        vxlan::PORT => {
            return Some(vxlan(at, packet, &outer, limits).unwrap_or_else(Verdict::Drop));
        }
        mpls::PORT => mpls(at, packet, &outer, limits),
        _ => return None,
    };
    Some(done.map_or_else(Verdict::Drop, Verdict::Decapsulate))
}

fn vxlan(
    at: &Place<'_>,
    packet: &mut Packet,
    outer: &Outer,
    limits: &mut PortLimits,
) -> Result<Verdict, DropReason> {
    let datagram = packet.head().get(outer.datagram..).unwrap_or(&[]);
    let opened = vxlan::open(datagram, outer.room).ok().filter(|_| !outer.is_fragment);
    let opened = opened.ok_or(DropReason::MalformedVxlan)?;
    let end = at.tunnels.with_vni(opened.vni).filter(|end| end.local == outer.to);
    let network = network_of(at, end.ok_or(DropReason::UnknownVni)?, outer)?;
    let start = outer.datagram + vxlan::TUNNEL_BYTES;
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
    const LINK: u32 = 14;
    let datagram = packet.head().get(outer.datagram..).unwrap_or(&[]);
    let opened = mpls::open(datagram, outer.room).ok().filter(|_| !outer.is_fragment);
    let opened = opened.ok_or(DropReason::MalformedMpls)?;
    let end = opened.label.and_then(|label| at.tunnels.with_label(label));
    let end = end.filter(|end| end.local == outer.to).ok_or(DropReason::UnknownLabel)?;
    let network = network_of(at, end, outer)?;
    // An Ethernet header for the inner packet, where the outer header ends. As it was, if the packet goes nowhere.
    let start = outer.datagram + mpls::TUNNEL_BYTES - ethernet::HEADER_BYTES;
    let place = |packet: &mut Packet, new: [u8; ethernet::HEADER_BYTES]| {
        let old = packet.header.get_mut(start..).and_then(|rest| rest.first_chunk_mut());
        old.map(|old| core::mem::replace(old, new)).ok_or(DropReason::MalformedMpls)
    };
    let mut link = [0; ethernet::HEADER_BYTES];
    link[..6].copy_from_slice(&network.policy().gateway_mac.octets());
    link[12..].copy_from_slice(&opened.ether_type.0.to_be_bytes());
    let before = place(packet, link)?;
    let frame = (start, opened.packet_bytes.saturating_add(LINK));
    let done = go_on(at, packet, frame, (network, outer.ecn), limits);
    if done.is_err() {
        place(packet, before)?;
    }
    done
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
