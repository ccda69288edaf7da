//! Tunnels of the slow router: the outer header is written field by field, and taken away the same way.

use crate::reference::{Answer, Hop, Out, Reference, Seen, adds_up, correct, drop, four, six};
use core::net::IpAddr;
use core::sync::atomic::{AtomicUsize, Ordering};
use vrouter_core::{DropReason, MplsEnd, NetworkPolicy, Packet, RouteTarget, Verdict, Vtep};

/// The other end of a tunnel of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Vxlan(Vtep),
    Mpls(MplsEnd),
    Ipip(IpAddr),
}

impl End {
    fn address(self) -> IpAddr {
        match self {
            Self::Vxlan(vtep) => vtep.address,
            Self::Mpls(end) => end.address,
            Self::Ipip(end) => end,
        }
    }
}

/// The source port that is hashed from the flow, which the slow router leaves to the other.
pub const ANY_PORT: u16 = 0xffff;

/// Packets that went into a tunnel and that came out of one, in all tests; only the one with random input has tunnels.
static REACHED: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

pub fn count(verdict: &Verdict) {
    let way = match verdict {
        Verdict::Encapsulate(_) => 0,
        Verdict::Decapsulate(_) => 1,
        _ => return,
    };
    REACHED[way].fetch_add(1, Ordering::Relaxed);
}

/// Random input has to get as far as the tunnels, or nothing is said about them.
pub fn assert_reached() {
    let reached = REACHED.each_ref().map(|count| count.load(Ordering::Relaxed));
    assert!(reached.iter().all(|count| *count > 20), "into and out of tunnels: {reached:?}");
}

pub fn is_tunnelled(packet: &Packet) -> bool {
    matches!(packet.verdict, Verdict::Encapsulate(_) | Verdict::Decapsulate(_))
}

impl Reference<'_> {
    pub fn network(&self, slot: vrouter_core::NetworkIndex) -> &NetworkPolicy {
        self.policy.networks.iter().find(|network| network.index == slot).unwrap()
    }

    /// Where a route into a tunnel leads, over each way that the underlay has.
    pub fn through_tunnel(&self, network: &NetworkPolicy, end: End) -> Vec<Hop> {
        let underlay = self.network(network.tunnel.unwrap().underlay);
        let ways = (0..self.ways(underlay)).map(|choice| {
            let reference = Self { choice, ..*self };
            match reference.hop_in(underlay, end.address()) {
                Hop::Port(out) => Hop::Tunnel(out, end),
                _ => Hop::Nobody,
            }
        });
        let found: Vec<_> = ways.filter(|hop| *hop != Hop::Nobody).collect();
        if found.is_empty() { vec![Hop::Nobody] } else { found }
    }

    /// So many choices show every way to any address.
    fn ways(&self, underlay: &NetworkPolicy) -> usize {
        let paths = self.fabric.iter().filter(|_| underlay.external);
        let paths = paths.filter_map(|(_, target)| match target {
            RouteTarget::Multipath(paths) => Some(paths.paths().len()),
            _ => None,
        });
        paths.max().unwrap_or(1)
    }

    /// The largest packet that goes into a tunnel.
    pub fn room(&self, network: &NetworkPolicy, out: Out, end: End) -> usize {
        let outer = if end.address().is_ipv4() { 20 } else { 40 };
        let shim = match end {
            End::Vxlan(_) => 8 + 8 + 14,
            End::Mpls(_) => 8 + 4,
            End::Ipip(_) => 0,
        };
        usize::from(network.mtu).min(out.mtu - outer - shim)
    }

    /// Puts the outer header in front of a frame.
    pub fn encapsulate(
        &self,
        seen: &Seen<'_>,
        out: Out,
        end: End,
        inner: &[u8],
        ecn: u8,
    ) -> Answer {
        let tunnel = seen.network.tunnel.unwrap();
        let mut frame = [out.to, out.from].concat();
        let (protocol, payload) = match end {
            End::Vxlan(_) => (17, 8 + 8 + inner.len()),
            End::Mpls(_) => (17, 8 + 4 + inner.len() - 14),
            End::Ipip(_) => (if inner[12] == 8 { 4 } else { 41 }, inner.len() - 14),
        };
        let payload = u16::try_from(payload).unwrap();
        match (tunnel.local, end.address()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                frame.extend([0x08, 0x00, 0x45, ecn]);
                frame.extend((20 + payload).to_be_bytes());
                frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
                frame.extend(from.octets());
                frame.extend(to.octets());
                correct(&mut frame[14..34], 10);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                frame.extend([0x86, 0xdd, 0x60, ecn << 4, 0, 0]);
                frame.extend(payload.to_be_bytes());
                frame.extend([protocol, 64]);
                frame.extend(from.octets());
                frame.extend(to.octets());
            }
            _ => panic!("two families"),
        }
        let verdict = Verdict::Encapsulate(out.port);
        let vtep = match end {
            End::Vxlan(vtep) => vtep,
            End::Ipip(_) => {
                frame.extend(&inner[14..]);
                return (verdict, frame);
            }
            End::Mpls(end) => {
                frame.extend(ANY_PORT.to_be_bytes());
                frame.extend(6635_u16.to_be_bytes());
                frame.extend(payload.to_be_bytes());
                frame.extend([0, 0]);
                // Label, no class, bottom of the stack, time to live.
                frame.extend((end.label.number() << 12 | 1 << 8 | 255).to_be_bytes());
                frame.extend(&inner[14..]);
                return (verdict, frame);
            }
        };
        frame.extend(ANY_PORT.to_be_bytes());
        frame.extend(4789_u16.to_be_bytes());
        frame.extend(payload.to_be_bytes());
        frame.extend([0, 0, 8, 0, 0, 0]);
        frame.extend(&tunnel.vni.unwrap().number().to_be_bytes()[1..]);
        frame.push(0);
        let start = frame.len();
        frame.extend(inner);
        let mac = vtep.mac.unwrap_or(seen.network.gateway_mac);
        frame[start..start + 6].copy_from_slice(&mac.octets());
        frame[start + 6..start + 12].copy_from_slice(&seen.network.gateway_mac.octets());
        (verdict, frame)
    }

    /// A packet for an address of the vRouter: `None`, it does not come through a tunnel. `datagram`: where the UDP
    /// header would be.
    pub fn decapsulate(
        &self,
        seen: &Seen<'_>,
        (from, to): (IpAddr, IpAddr),
        protocol: u8,
        fragment: (bool, bool),
        (datagram, end): (usize, usize),
        ecn: u8,
    ) -> Option<Result<Answer, Verdict>> {
        let over_this = |network: &&NetworkPolicy| {
            network.tunnel.is_some_and(|t| t.underlay == seen.network.index && t.local == to)
        };
        let mut ends = self.policy.networks.iter().filter(over_this);
        ends.clone().next()?;
        let visible = &seen.frame[..seen.frame.len().min(seen.visible)];
        let (later, any) = fragment;
        // The options that Linux writes.
        let (protocol, datagram) = match visible.get(datagram..datagram + 8) {
            Some([next @ (4 | 41), 0, 4, 1, _, 1, 1, _]) if to.is_ipv6() && protocol == 60 => {
                (*next, datagram + 8)
            }
            _ => (protocol, datagram),
        };
        if matches!(protocol, 4 | 41) {
            let network = ends.find(|n| n.tunnel.unwrap().ipip)?;
            if seen.segment_bytes != 0 {
                return Some(drop(DropReason::UnsupportedOffload));
            }
            let (version, kind) = if protocol == 4 { (4, [8, 0]) } else { (6, [0x86, 0xdd]) };
            let first = visible.get(datagram).filter(|_| datagram < end);
            if any || first.is_none_or(|first| first >> 4 != version) {
                return Some(drop(DropReason::MalformedIpip));
            }
            let place = (datagram, end);
            return Some(self.inner_packet(seen, network, from, place, kind, ecn));
        }
        let is_mpls = match visible.get(datagram + 2..datagram + 4)? {
            _ if protocol != 17 || later => return None,
            [0x12, 0xb5] => false,
            [0x19, 0xeb] => true,
            _ => return None,
        };
        if seen.segment_bytes != 0 {
            return Some(drop(DropReason::UnsupportedOffload));
        }
        let (bytes, malformed, unknown) = if is_mpls {
            (12, DropReason::MalformedMpls, DropReason::UnknownLabel)
        } else {
            (16, DropReason::MalformedVxlan, DropReason::UnknownVni)
        };
        let start = datagram + bytes;
        let needed = if is_mpls { start + 1 } else { start };
        let Some(header) = visible.get(datagram..needed) else { return Some(drop(malformed)) };
        let udp = usize::from(u16::from_be_bytes([header[4], header[5]]));
        if any || udp < bytes || datagram + udp > end {
            return Some(drop(malformed));
        }
        let network = if is_mpls {
            if header[10] & 1 == 0 || ![4, 6].contains(&(header[12] >> 4)) {
                return Some(drop(malformed));
            }
            let label = u32::from_be_bytes([0, header[8], header[9], header[10]]) >> 4;
            ends.find(|n| n.tunnel.unwrap().label.is_some_and(|ours| ours.number() == label))
        } else {
            if header[8] & 8 == 0 {
                return Some(drop(malformed));
            }
            let vni = u32::from_be_bytes([0, header[12], header[13], header[14]]);
            ends.find(|n| n.tunnel.unwrap().vni.is_some_and(|ours| ours.number() == vni))
        };
        let Some(network) = network else { return Some(drop(unknown)) };
        if !is_mpls {
            if !self.knows(from) {
                return Some(drop(DropReason::UnknownVtep));
            }
            let payload = &seen.frame[start..datagram + udp];
            return Some(self.inner(network, payload, seen.visible.saturating_sub(start), ecn));
        }
        let kind = if header[12] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
        let place = (start, datagram + udp);
        Some(self.inner_packet(seen, network, from, place, kind, ecn))
    }

    /// What came without an Ethernet header, as if there had been one.
    fn inner_packet(
        &self,
        seen: &Seen<'_>,
        network: &NetworkPolicy,
        from: IpAddr,
        (start, end): (usize, usize),
        kind: [u8; 2],
        ecn: u8,
    ) -> Result<Answer, Verdict> {
        if !self.knows(from) {
            return drop(DropReason::UnknownVtep);
        }
        let link = [&network.gateway_mac.octets()[..], &[0; 6], &kind].concat();
        let frame = [&link, &seen.frame[start..end]].concat();
        self.inner(network, &frame, seen.visible.saturating_sub(start) + 14, ecn)
    }

    /// Only the first network has routes here.
    fn knows(&self, from: IpAddr) -> bool {
        self.routes.iter().any(|(_, target)| leads_to(target, from))
    }

    fn inner(
        &self,
        network: &NetworkPolicy,
        frame: &[u8],
        visible: usize,
        outer_ecn: u8,
    ) -> Result<Answer, Verdict> {
        let head = &frame[..frame.len().min(visible)];
        if head.len() < 14 {
            return drop(DropReason::RuntFrame);
        }
        if head[0] & 1 != 0 {
            return drop(DropReason::Multicast);
        }
        if head[..6] != network.gateway_mac.octets() {
            return drop(DropReason::NotForGatewayMac);
        }
        let ip = &head[14..];
        let is_six = match head[12..14] {
            [8, 0] => false,
            [0x86, 0xdd] if network.ipv6.is_some() => true,
            _ => return drop(DropReason::UnsupportedEthertype),
        };
        let (destination, hops, ecn) = if is_six {
            if ip.len() < 40 {
                return drop(DropReason::RuntFrame);
            }
            let payload = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
            if ip[0] >> 4 != 6 || 54 + payload > frame.len() {
                return drop(DropReason::MalformedIpv6);
            }
            (IpAddr::V6(six(&ip[24..40])), ip[7], ip[1] >> 4 & 3)
        } else {
            if ip.len() < 20 {
                return drop(DropReason::RuntFrame);
            }
            let header = usize::from(ip[0] & 15) * 4;
            if ip[0] >> 4 != 4 || header < 20 {
                return drop(DropReason::MalformedIpv4);
            }
            if ip.len() < header {
                return drop(DropReason::RuntFrame);
            }
            let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
            if total < header || total + 14 > frame.len() {
                return drop(DropReason::MalformedIpv4);
            }
            if !adds_up(&[&ip[..header]]) {
                return drop(DropReason::BadIpv4Checksum);
            }
            (IpAddr::V4(four(&ip[16..20])), ip[8], ip[1] & 3)
        };
        let to = match self.hop_in(network, destination) {
            Hop::Silent(reason) => return drop(reason),
            Hop::Nobody | Hop::NoRoute => return drop(DropReason::NoRoute),
            Hop::Gateway => return drop(DropReason::GatewayUnhandled),
            Hop::Tunnel(..) => return drop(DropReason::TunnelTransit),
            Hop::Local => panic!("not in this network"),
            Hop::Port(out) => (out, 1),
            Hop::Kernel(out) => (out, 0),
        };
        if to.1 == 1 && hops < 2 {
            return drop(DropReason::TtlExceeded);
        }
        let (out, step) = to;
        if frame.len() - 14 > out.mtu {
            return drop(DropReason::TooBig);
        }
        // RFC 6040, figure 4: rows by the inner bits, columns by the outer ones.
        let table = [[0, 0, 0, 9], [1, 1, 1, 3], [2, 1, 2, 3], [3, 3, 3, 3]];
        let ecn = match table[usize::from(ecn)][usize::from(outer_ecn)] {
            9 => return drop(DropReason::TunnelCongestion),
            ecn => ecn,
        };
        let mut sent = frame.to_vec();
        sent[..6].copy_from_slice(&out.to);
        sent[6..12].copy_from_slice(&out.from);
        if is_six {
            sent[15] = sent[15] & 0xcf | ecn << 4;
            sent[21] -= step;
        } else {
            sent[15] = sent[15] & 0xfc | ecn;
            sent[22] -= step;
            let end = 14 + usize::from(sent[14] & 15) * 4;
            correct(&mut sent[14..end], 10);
        }
        Ok((Verdict::Decapsulate(out.port), sent))
    }
}

/// Whether a target is a tunnel to this address, or has one among its paths.
fn leads_to(target: &RouteTarget, address: IpAddr) -> bool {
    match target {
        RouteTarget::Vxlan(vtep) => vtep.address == address,
        RouteTarget::MplsUdp(end) => end.address == address,
        RouteTarget::Ipip(end) => *end == address,
        RouteTarget::Multipath(paths) => {
            paths.paths().iter().any(|path| leads_to(&path.target, address))
        }
        _ => false,
    }
}
