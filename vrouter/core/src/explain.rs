//! What the stages do with one packet, and what of the tables they do it by: for people who ask why.
//!
//! This is no second router. The verdict is that of [`process`], over the tables that packets are judged by; what is added
//! is where the packet's addresses lead in those tables, and what its headers say.

use crate::icmp::{ipv4_of, ipv6_of};
use crate::process::path;
use crate::tunnels::TunnelEnd;
use crate::{
    Mode, Network, NetworkIndex, NextHop, Packet, PortIndex, PortLimits, PortRole, Tables,
    Timestamp, Verdict, process,
};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use vrouter_net::ethernet::{self, EtherType};
use vrouter_net::ipv4::{self, Protocol};
use vrouter_net::mpls::{self, Label};
use vrouter_net::vxlan::{self, Vni};
use vrouter_net::{IpPrefix, Mac, flow, ipip, ipv6};

/// What becomes of one packet, and why.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The packet as the stages left it: its verdict, and the headers to send.
    pub packet: Packet,
    /// Where its addresses lead, in the order in which that is asked: its destination, what is inside a tunnel, the other
    /// end of the tunnel that it goes into. Also for a packet that did not get so far.
    pub lookups: Vec<Lookup>,
    /// The outer header of a packet that came through a tunnel to this host or is sent through one.
    pub outer: Option<OuterHeader>,
    /// The tables name the station that the frame is for, and so its end; else it was heard there.
    pub is_named: bool,
    /// The other ends of its network's tunnel that get a copy of a frame that is flooded.
    pub flooded_to: Vec<IpAddr>,
}

/// Whose address was looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The packet's destination.
    Destination,
    /// The destination of the packet inside it.
    Inside,
    /// The other end of the tunnel that the packet goes into, in the network that carries it.
    Underlay,
}

/// Where an address leads in a network.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// Whose address it is.
    pub asked: Asked,
    /// The network.
    pub network: NetworkIndex,
    /// The address.
    pub address: IpAddr,
    /// The entry that it is found by. `None`: no entry contains it, or it is of a kind that is never routed.
    pub found: Option<Found>,
    /// Where that leads.
    pub next_hop: NextHop,
    /// Of several ways the one that the packet's flow takes; else the same.
    pub way: NextHop,
}

/// An entry of a forwarding table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its addresses.
    pub prefix: IpPrefix,
    /// It follows from the network's ports and addresses. Else it was given ([`Tables::with_routes`]).
    pub own: bool,
}

/// What a tunnel's header says of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelNumber {
    /// VXLAN.
    Vni(Vni),
    /// MPLS over UDP.
    Label(Label),
    /// Nothing: it is IP in IP, and the address that it goes to says it.
    Ipip,
}

/// The header in front of a packet inside a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterHeader {
    /// Who sent it.
    pub from: IpAddr,
    /// The tunnel's end that it goes to.
    pub to: IpAddr,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// The UDP source port, which tells routers on the way flows apart. `None`: there is no such header.
    pub source_port: Option<u16>,
    /// The network.
    pub number: TunnelNumber,
    /// Bytes in front of the inner IP packet, the outer Ethernet header not counted.
    pub bytes: usize,
}

/// Says what would become of a packet that came from a port, if the port had sent nothing of late: limits are not
/// reached. Nothing is remembered of it, neither in limits nor in what is learned.
///
/// `None`: there is no such port.
pub fn explain(
    tables: &Tables,
    now: Timestamp,
    ingress: PortIndex,
    packet: Packet,
) -> Option<Explanation> {
    let trial = tables.for_trial(ingress);
    let received = packet;
    let mut batch = [packet];
    process(&trial, now, ingress, &mut batch, &mut PortLimits::default());
    let [packet] = batch;
    let (_, network) = trial.ingress(ingress)?;
    let mut lookups = Vec::new();
    let mut outer = None;
    if let Some(address) = routed(&trial, ingress, &received) {
        let flow = path(&received);
        lookups.push(Lookup::new(Asked::Destination, network, address, flow));
        if let Some((header, end)) = tunnel_end(&trial, network, &received) {
            outer = Some(header);
            let overlay = trial.network(end.overlay);
            let overlay = overlay.filter(|overlay| !is_bridged(overlay, &received, &header));
            let inside = overlay.zip(inner(&received, &header));
            if let Some((overlay, (address, flow))) = inside {
                lookups.push(Lookup::new(Asked::Inside, overlay, address, flow));
            }
        }
    }
    if let Verdict::Encapsulate(_) = packet.verdict {
        let frame = [packet.outer(), packet.sent_head()].concat();
        outer = OuterHeader::read(&frame);
        let tunnel = network.policy().tunnel;
        let underlay = tunnel.and_then(|tunnel| trial.network(tunnel.underlay));
        if let Some((header, underlay)) = outer.zip(underlay) {
            let mut lookup = Lookup::new(Asked::Underlay, underlay, header.to, 0);
            lookup.follow(&frame);
            lookups.push(lookup);
        }
    }
    let flooded_to = match packet.verdict {
        Verdict::Flood(_) => trial.flood_ends(network.policy().index).collect(),
        _ => Vec::new(),
    };
    let to = received.head().first_chunk().map(|to| Mac::new(*to));
    let is_named = to.is_some_and(|to| network.named(to).is_some());
    Some(Explanation { packet, lookups, outer, is_named, flooded_to })
}

/// Whether what is inside a packet is a frame that its network bridges.
fn is_bridged(network: &Network, packet: &Packet, outer: &OuterHeader) -> bool {
    let policy = network.policy();
    // Where the inner Ethernet header begins: the outer one is as long.
    let to = packet.head().get(outer.bytes..).and_then(|frame| frame.first_chunk());
    policy.mode == Mode::Bridged
        && matches!(outer.number, TunnelNumber::Vni(_))
        && to.is_some_and(|to| *to != policy.gateway_mac.octets())
}

/// The destination of a packet that is for the router of its network.
fn routed(tables: &Tables, ingress: PortIndex, packet: &Packet) -> Option<IpAddr> {
    let (port, network) = tables.ingress(ingress)?;
    let (link, _) = ethernet::Header::split(packet.head()).ok()?;
    let router = match port.policy.role {
        PortRole::Host { .. } => return None,
        PortRole::Uplink { .. } => port.policy.mac,
        PortRole::Pod | PortRole::Kernel => network.policy().gateway_mac,
    };
    if link.destination() != router {
        return None;
    }
    let six = || Some(IpAddr::V6(ipv6_of(packet).ok()?.0.destination()));
    let four = ipv4_of(packet).map(|(header, _)| IpAddr::V4(header.destination()));
    four.or_else(six)
}

/// The end of a tunnel that a packet is for, with its outer header.
fn tunnel_end<'a>(
    tables: &'a Tables,
    underlay: &Network,
    packet: &Packet,
) -> Option<(OuterHeader, &'a TunnelEnd)> {
    let header = OuterHeader::read(packet.head())?;
    let ends = tables.tunnels(underlay.policy().index);
    let end = match header.number {
        TunnelNumber::Vni(vni) => ends.with_vni(vni),
        TunnelNumber::Label(label) => ends.with_label(label),
        TunnelNumber::Ipip => ends.with_ipip(header.to),
    };
    Some((header, end.filter(|end| end.local == header.to)?))
}

/// The destination and the flow of what is inside a packet.
fn inner(packet: &Packet, outer: &OuterHeader) -> Option<(IpAddr, u32)> {
    // What is inside MPLS or IP has no Ethernet header; the flow does not depend on addresses in one.
    let mut head = [0; flow::HEAD_BYTES];
    let start = ethernet::HEADER_BYTES + outer.bytes;
    let packet = packet.head().get(start..)?;
    let link = match packet.first()? >> 4 {
        4 => EtherType::IPV4,
        6 => EtherType::IPV6,
        _ => return None,
    };
    head[12..14].copy_from_slice(&link.0.to_be_bytes());
    for (to, from) in head.iter_mut().skip(ethernet::HEADER_BYTES).zip(packet) {
        *to = *from;
    }
    let destination: IpAddr = if link == EtherType::IPV4 {
        ipv4::Header::of(packet.first_chunk::<{ ipv4::HEADER_BYTES }>()?).destination().into()
    } else {
        ipv6::Header::of(packet.first_chunk::<{ ipv6::HEADER_BYTES }>()?).destination().into()
    };
    Some((destination, flow::hash(&head)))
}

impl Lookup {
    fn new(asked: Asked, network: &Network, address: IpAddr, flow: u32) -> Self {
        let next_hop = network.next_hop_ip(address).clone();
        let way = next_hop.of_flow(|| flow).clone();
        let found = network.found_by(address);
        Self { asked, network: network.policy().index, address, found, next_hop, way }
    }

    /// Of several ways, takes the one that a frame goes: it was chosen with the way into the tunnel.
    fn follow(&mut self, frame: &[u8]) {
        let Ok((link, _)) = ethernet::Header::split(frame) else { return };
        let NextHop::Multipath(group) = &self.next_hop else { return };
        let goes = |hop: &&NextHop| {
            matches!(hop, NextHop::Port(port)
                if (port.destination_mac(), port.source_mac()) == (link.destination(), link.source()))
        };
        let way = group.shares().map(|(hop, _)| hop).find(goes);
        self.way = way.cloned().unwrap_or(NextHop::Unreachable);
    }
}

impl OuterHeader {
    /// Reads the headers of a frame. `None`: it has none of a tunnel.
    fn read(frame: &[u8]) -> Option<Self> {
        let (link, packet) = ethernet::Header::split(frame).ok()?;
        let (from, to, ttl, protocol, bytes): (IpAddr, IpAddr, _, _, _) = match link.ether_type() {
            EtherType::IPV4 => {
                let header = ipv4::Header::of(packet.first_chunk::<{ ipv4::HEADER_BYTES }>()?);
                if header.is_later_fragment() {
                    return None;
                }
                let (from, to): (Ipv4Addr, Ipv4Addr) = (header.source(), header.destination());
                let bytes = usize::from(header.header_bytes());
                (from.into(), to.into(), header.ttl(), header.protocol(), bytes)
            }
            EtherType::IPV6 => {
                let header = ipv6::Header::of(packet.first_chunk::<{ ipv6::HEADER_BYTES }>()?);
                let (from, to): (Ipv6Addr, Ipv6Addr) = (header.source(), header.destination());
                let (next, bytes) = match header.next_header() {
                    Protocol::DESTINATION_OPTIONS => {
                        let options = packet.get(ipv6::HEADER_BYTES..)?;
                        (ipip::behind_limit(options)?, ipv6::HEADER_BYTES + ipip::LIMIT_BYTES)
                    }
                    next => (next, ipv6::HEADER_BYTES),
                };
                (from.into(), to.into(), header.hop_limit(), next, bytes)
            }
            _ => return None,
        };
        match protocol {
            Protocol::UDP => {}
            Protocol::IPV4 | Protocol::IPV6 => {
                let (number, source_port) = (TunnelNumber::Ipip, None);
                return Some(Self { from, to, ttl, source_port, number, bytes });
            }
            _ => return None,
        }
        let datagram = packet.get(bytes..)?;
        let ([s0, s1, d0, d1, ..], shim) = datagram.split_first_chunk::<8>()?;
        let (number, shim) = match u16::from_be_bytes([*d0, *d1]) {
            vxlan::PORT => {
                let [_, _, _, _, a, b, c, _] = *shim.first_chunk()?;
                let vni = Vni::new(u32::from_be_bytes([0, a, b, c]))?;
                (TunnelNumber::Vni(vni), vxlan::TUNNEL_BYTES + ethernet::HEADER_BYTES)
            }
            mpls::PORT => {
                let label = Label::new(u32::from_be_bytes(*shim.first_chunk()?) >> 12)?;
                (TunnelNumber::Label(label), mpls::TUNNEL_BYTES)
            }
            _ => return None,
        };
        let source_port = Some(u16::from_be_bytes([*s0, *s1]));
        Some(Self { from, to, ttl, source_port, number, bytes: bytes + shim })
    }
}
