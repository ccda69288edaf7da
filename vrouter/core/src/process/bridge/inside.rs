//! Frames of a bridged network that cross between hosts by VXLAN (RFC 7348): into the tunnel and out of it.
//!
//! Who is where is learned from what comes (section 4.1); what is for everybody or nobody known goes to each other end,
//! once (section 4.2 without multicast in the underlay). What came out of a tunnel never goes into one of the same
//! network: each end reaches all others by itself, so nothing goes round.

use super::super::{Place, six, slow, tunnel};
use super::{find, tag_bytes};
use crate::hops::NextHop;
use crate::icmp::{ipv4_of, ipv6_of};
use crate::stations::{Behind, EndIndex};
use crate::{
    DropReason, Flood, FloodLimit, Mode, Network, Packet, PortIndex, PortLimits, PortRole,
    PuntClass, Verdict,
};
use core::net::IpAddr;
use vrouter_net::ethernet::{self, EtherType};
use vrouter_net::{Mac, arp, ipv4, ipv6};

/// Puts a frame as it is into the tunnel to another end of its network.
pub(crate) fn into_tunnel(network: &Network, end: EndIndex, packet: &mut Packet) -> Verdict {
    let no_way = Verdict::Drop(DropReason::NoRoute);
    let Some(hop) = network.hop_to_end(end) else { return no_way };
    let next_hop = network.hops().get(hop).of_flow(|| tunnel::path(packet));
    let NextHop::Tunnel(hop) = next_hop else { return no_way };
    let room = hop.room;
    let (fits, ecn) = if let Some((header, bytes)) = ipv4_of(packet) {
        (slow::fits(&header, bytes, packet, room), header.ecn())
    } else if let Ok((header, bytes)) = ipv6_of(packet) {
        (six::fits(bytes, packet, room), header.ecn())
    } else {
        (packet.payload_bytes() <= usize::from(room), 0)
    };
    if fits { tunnel::wrap(packet, hop, ecn) } else { Verdict::Drop(DropReason::TooBig) }
}

/// A frame that came out of a tunnel.
pub(in super::super) struct Arrived<'a> {
    pub at: &'a Place<'a>,
    /// The network that it is for.
    pub network: &'a Network,
    /// The end that sent it.
    pub end: EndIndex,
    /// Bytes of the frame.
    pub bytes: usize,
    /// Congestion bits of the outer header.
    pub ecn: u8,
}

/// The end that frames from an address are bridged from, if they are.
pub(in super::super) fn bridges(network: &Network, from: IpAddr) -> Option<EndIndex> {
    network.end(from).filter(|_| network.policy().mode == Mode::Bridged)
}

impl Arrived<'_> {
    /// The verdict on the frame, of which `head` is the start, and which is not for the gateway's MAC address. It goes on as
    /// it is, but for congestion bits.
    pub fn switch(&self, head: &mut [u8], limits: &mut PortLimits) -> Result<Verdict, DropReason> {
        let (link, payload) = ethernet::Header::split(head).map_err(|_| DropReason::RuntFrame)?;
        let (to, from): (Mac, Mac) = (link.destination(), link.source());
        let ether_type = link.ether_type();
        self.check(from, ether_type, payload)?;
        let ecn = self.congestion(ether_type, payload)?;
        // Of whom the tables say where they are, nothing is to be learned: it would outlive what they say.
        if let Some(stations) = self.network.learned()
            && self.network.named(from).is_none()
        {
            stations.learn(self.at.now, from, Behind::End(self.end));
        }
        let verdict = self.receiver(to, limits)?;
        if let Some(ecn) = ecn {
            mark(head, ether_type, ecn);
        }
        Ok(verdict)
    }

    /// Checks who sent the frame. Whoever is at another end speaks for itself, as behind a trunk, but not for those here.
    fn check(&self, from: Mac, ether_type: EtherType, payload: &[u8]) -> Result<(), DropReason> {
        let policy = self.network.policy();
        let taken = self.network.port_of(from).is_some() || from == policy.gateway_mac;
        if taken || !from.is_station() {
            return Err(DropReason::SourceMac);
        }
        let most = usize::from(policy.mtu) + tag_bytes(ether_type);
        if self.bytes.saturating_sub(ethernet::HEADER_BYTES) > most {
            return Err(DropReason::TooBig);
        }
        if ether_type == EtherType::ARP {
            let said = slow::read_arp(payload)?;
            if said.sender_ip() == policy.gateway {
                return Err(DropReason::ArpSpoof);
            }
            // Each host has a gateway of its own, and nobody here answers for it.
            if said.operation() == arp::Operation::REQUEST && said.target_ip() == policy.gateway {
                return Err(DropReason::ArpUnanswered);
            }
        }
        Ok(())
    }

    /// What the outer header's congestion bits change of the inner one's.
    fn congestion(&self, ether_type: EtherType, payload: &[u8]) -> Result<Option<u8>, DropReason> {
        let bytes = self.bytes.saturating_sub(ethernet::HEADER_BYTES);
        let inner = match ether_type {
            EtherType::IPV4 => slow::read_ipv4(payload, bytes).map(|header| header.ecn()),
            EtherType::IPV6 => slow::read_ipv6(payload, bytes).map(|header| header.ecn()),
            _ => return Ok(None),
        };
        // What is no sound packet has no such bits, and is its receiver's to judge.
        let Ok(inner) = inner else { return Ok(None) };
        let both = tunnel::combine(self.ecn, inner)?;
        Ok((both != inner).then_some(both))
    }

    /// Where the frame goes: to ports of this host only.
    fn receiver(&self, to: Mac, limits: &mut PortLimits) -> Result<Verdict, DropReason> {
        let Place { tables, now, .. } = *self.at;
        let kernels = |port: PortIndex| {
            tables.port(port).is_some_and(|policy| policy.role == PortRole::Kernel)
        };
        let flood = if to.is_multicast() {
            Flood::All
        } else {
            match find(self.at, self.network, to) {
                Some(Behind::Port(port)) => {
                    let punts = &mut limits.punts;
                    let limit = self.at.network.punts();
                    if kernels(port) && !punts.allow(now, PuntClass::Kernel, limit) {
                        return Err(DropReason::PuntLimited);
                    }
                    return Ok(Verdict::Decapsulate(port));
                }
                Some(Behind::End(_)) => return Err(DropReason::TunnelTransit),
                None => Flood::Trunks,
            }
        };
        if flood == Flood::Trunks && self.network.trunks().is_empty() {
            return Err(DropReason::UnknownMac);
        }
        // All networks behind the port have one bucket, and following one that allows none would fill it for the others.
        let FloodLimit { per_second, burst } = self.network.policy().floods;
        if per_second == 0 || burst == 0 {
            return Err(DropReason::FloodLimited);
        }
        limits.floods.follow(self.network.floods());
        if limits.floods.allow(now) {
            Ok(Verdict::FloodInside(self.network.policy().index, flood))
        } else {
            Err(DropReason::FloodLimited)
        }
    }
}

/// Writes the congestion bits of an IP packet whose header was checked.
fn mark(head: &mut [u8], ether_type: EtherType, ecn: u8) {
    let Ok((_, bytes)) = ethernet::Header::split_mut(head) else { return };
    if ether_type == EtherType::IPV6 {
        if let Some(bytes) = bytes.first_chunk_mut::<{ ipv6::HEADER_BYTES }>() {
            ipv6::Header::of(bytes).set_ecn(ecn);
        }
    } else if let Some(bytes) = bytes.first_chunk_mut::<{ ipv4::HEADER_BYTES }>() {
        ipv4::Header::of(bytes).set_ecn(ecn);
    }
}
