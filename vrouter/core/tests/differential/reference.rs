//! A router that is slow and plain: it takes one whole frame at a time, tries every route, computes every checksum
//! anew, and shares no code with the one under test but the types of its answers.

use crate::tunnel::End;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use vrouter_core::{
    DropReason, IcmpError, NetworkPolicy, Policy, PortIndex, PortPolicy, PortRole, PuntClass,
    RouteTarget, Verdict,
};
use vrouter_net::IpPrefix;

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    Silent(DropReason),
    Nobody,
    NoRoute,
    Gateway,
    /// The kernel of this host.
    Local,
    /// The kernel as a router.
    Kernel(Out),
    Port(Out),
    /// Through the tunnel to a port of the underlay.
    Tunnel(Out, End),
}

/// The way out of a port: between which MAC addresses, and how large packets may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Out {
    pub port: PortIndex,
    pub to: [u8; 6],
    pub from: [u8; 6],
    pub mtu: usize,
}

pub struct Reference<'a> {
    pub policy: &'a Policy,
    /// Routes of the first network, one for each prefix.
    pub routes: &'a [(IpPrefix, RouteTarget)],
    /// Routes of external networks.
    pub fabric: &'a [(IpPrefix, RouteTarget)],
    /// Uplinks without a link.
    pub down: &'a [PortIndex],
    /// Which of several paths is taken; the slow router does not hash flows.
    pub choice: usize,
}

/// What becomes of a frame, and how it looks when it is sent on.
pub type Answer = (Verdict, Vec<u8>);

/// A frame as the router sees it.
pub struct Seen<'a> {
    pub port: &'a PortPolicy,
    pub network: &'a NetworkPolicy,
    pub frame: &'a [u8],
    /// How many bytes of the frame are there to be looked at.
    pub visible: usize,
    pub segment_bytes: u16,
}

impl Reference<'_> {
    pub fn decide(
        &self,
        ingress: usize,
        frame: &[u8],
        visible: usize,
        segment_bytes: u16,
    ) -> Answer {
        let port = &self.policy.ports[ingress];
        let network = self.policy.networks.iter().find(|n| n.index == port.network).unwrap();
        let seen = Seen { port, network, frame, visible, segment_bytes };
        match self.frame(&seen) {
            Ok((verdict, frame)) => (verdict, frame),
            Err(verdict) => (verdict, frame.to_vec()),
        }
    }

    fn frame(&self, seen: &Seen<'_>) -> Result<Answer, Verdict> {
        let frame = seen.frame;
        match seen.port.role {
            PortRole::Uplink { host } => return self.by_wire(seen, host),
            PortRole::Host { .. } if frame.len() < 14 => return drop(DropReason::RuntFrame),
            PortRole::Host { uplink } => return Ok((Verdict::Forward(uplink), frame.to_vec())),
            PortRole::Pod | PortRole::Kernel => {}
        }
        if frame.len() < 14 {
            return drop(DropReason::RuntFrame);
        }
        let (to, from) = (&frame[..6], &frame[6..12]);
        let gateway = seen.network.gateway_mac.octets();
        if from != seen.port.mac.octets() {
            return drop(DropReason::SourceMac);
        }
        let not_for_us = if to[0] & 1 != 0 {
            Some(DropReason::Multicast)
        } else if to != gateway {
            Some(DropReason::NotForGatewayMac)
        } else {
            None
        };
        match frame[12..14] {
            [0x08, 0x00] => match not_for_us {
                Some(reason) => drop(reason),
                None => self.ipv4(seen),
            },
            [0x08, 0x06] => match not_for_us {
                Some(reason) if to != [0xff; 6] => drop(reason),
                _ => self.arp(seen),
            },
            [0x86, 0xdd] if seen.network.ipv6.is_some() => match not_for_us {
                Some(DropReason::NotForGatewayMac) => drop(DropReason::NotForGatewayMac),
                not_for_us => self.ipv6(seen, not_for_us),
            },
            _ => drop(DropReason::UnsupportedEthertype),
        }
    }

    fn arp(&self, seen: &Seen<'_>) -> Result<Answer, Verdict> {
        let frame = seen.frame;
        if frame.len() < 42 {
            return drop(DropReason::RuntFrame);
        }
        if frame[14..20] != [0, 1, 8, 0, 6, 4] {
            return drop(DropReason::MalformedArp);
        }
        let operation = u16::from_be_bytes([frame[20], frame[21]]);
        let sender = four(&frame[28..32]);
        let target = four(&frame[38..42]);
        let probe = operation == 1 && sender == Ipv4Addr::UNSPECIFIED;
        let own = probe || self.is_own(seen.port, sender.into());
        if frame[22..28] != seen.port.mac.octets() || !own {
            return drop(DropReason::ArpSpoof);
        }
        let on_link = seen.network.prefix.contains(target);
        let answered = operation == 1
            && !probe
            && target != seen.port.ipv4
            && target != sender
            && on_link
            && matches!(
                self.hop(seen, target.into()),
                Hop::Gateway | Hop::Port(_) | Hop::Kernel(_) | Hop::Tunnel(..)
            );
        if !answered {
            return drop(DropReason::ArpUnanswered);
        }
        let gateway = seen.network.gateway_mac.octets();
        let mut reply = [
            &seen.port.mac.octets()[..],
            &gateway,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2],
            &gateway,
            &target.octets(),
            &seen.port.mac.octets(),
            &sender.octets(),
        ]
        .concat();
        reply.extend(&frame[42..]);
        Ok((Verdict::Reply, reply))
    }

    fn ipv4(&self, seen: &Seen<'_>) -> Result<Answer, Verdict> {
        let frame = seen.frame;
        let ip = &frame[14..frame.len().min(seen.visible).max(14)];
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
        if total < header || total > frame.len() - 14 {
            return drop(DropReason::MalformedIpv4);
        }
        if !adds_up(&[&ip[..header]]) {
            return drop(DropReason::BadIpv4Checksum);
        }
        let (source, destination) = (four(&ip[12..16]), four(&ip[16..20]));
        if !self.is_own(seen.port, source.into()) {
            return drop(DropReason::SourceIp);
        }
        let fragment = u16::from_be_bytes([ip[6], ip[7]]);
        let (later, any) = (fragment & 0x1fff != 0, fragment & 0x3fff != 0);
        let packet = &ip[..ip.len().min(total)];
        let icmp_kind = (ip[9] == 1).then(|| packet.get(header).copied());
        // RFC 1122 section 3.2.2: types 3, 4, 5, 11 and 12 are errors.
        let quiet = later
            || icmp_kind
                .is_some_and(|kind| kind.is_none_or(|kind| matches!(kind, 3 | 4 | 5 | 11 | 12)));
        let report = |error, reason| {
            Err(if quiet { Verdict::Drop(reason) } else { Verdict::Originate(error) })
        };
        let mtu = usize::from(seen.network.mtu);
        match self.hop(seen, destination.into()) {
            Hop::Silent(reason) => drop(reason),
            Hop::NoRoute => drop(DropReason::NoRoute),
            Hop::Nobody => report(IcmpError::HostUnreachable, DropReason::NoRoute),
            Hop::Gateway => {
                let way = (source.into(), destination.into());
                let place = (14 + header, 14 + total);
                if let Some(answer) =
                    self.decapsulate(seen, way, ip[9], (later, any), place, ip[1] & 3)
                {
                    return answer;
                }
                if frame.len() - 14 > mtu {
                    return drop(DropReason::TooBig);
                }
                let echo = ip[9] == 1 && !any && packet.len() >= header + 8;
                if !echo || packet[header..header + 2] != [8, 0] {
                    return drop(DropReason::GatewayUnhandled);
                }
                let mut reply = frame.to_vec();
                self.turn(seen, &mut reply);
                reply[22] = 64;
                reply[26..30].copy_from_slice(&destination.octets());
                reply[30..34].copy_from_slice(&source.octets());
                correct(&mut reply[14..14 + header], 10);
                // The checksum of the message may be wrong, and stays so: by as much as the type changes.
                reply[14 + header] = 0;
                shift(&mut reply, 16 + header, 0x0800);
                Ok((Verdict::Reply, reply))
            }
            Hop::Local => panic!("not in this network"),
            Hop::Kernel(_) if seen.port.role == PortRole::Kernel => drop(DropReason::KernelLoop),
            Hop::Port(out) if out.port == seen.port.index => drop(DropReason::Hairpin),
            Hop::Port(_) | Hop::Tunnel(..) if ip[8] < 2 => {
                report(IcmpError::TimeExceeded, DropReason::TtlExceeded)
            }
            hop @ (Hop::Port(out) | Hop::Kernel(out) | Hop::Tunnel(out, _)) => {
                let mtu = self.mtu(seen, hop);
                let segments = ip[9] == 6 && !any && self.segments_fit(seen, mtu, header, ip);
                if frame.len() - 14 > mtu && !segments {
                    if ip[6] & 0x40 != 0 && total > mtu {
                        let mtu = u16::try_from(mtu).unwrap();
                        let error = IcmpError::FragmentationNeeded { mtu };
                        return report(error, DropReason::TooBig);
                    }
                    return drop(DropReason::TooBig);
                }
                let mut sent = self.send(seen, out);
                if let Hop::Kernel(out) = hop {
                    return Ok((Verdict::Punt(out.port, PuntClass::Kernel), sent));
                }
                sent[22] -= 1;
                correct(&mut sent[14..14 + header], 10);
                if let Hop::Tunnel(out, end) = hop {
                    return Ok(self.encapsulate(seen, out, end, &sent, ip[1] & 3));
                }
                Ok((Verdict::Forward(out.port), sent))
            }
        }
    }

    /// The largest packet that goes to a port or into a tunnel.
    fn mtu(&self, seen: &Seen<'_>, hop: Hop) -> usize {
        match hop {
            Hop::Tunnel(out, end) => self.room(seen.network, out, end),
            Hop::Port(out) | Hop::Kernel(out) => out.mtu,
            _ => seen.network.mtu.into(),
        }
    }

    /// `tcp`: where the TCP header starts in the packet.
    pub fn segments_fit(&self, seen: &Seen<'_>, mtu: usize, tcp: usize, visible: &[u8]) -> bool {
        let Some(offset) = visible.get(tcp + 12) else { return false };
        let header = usize::from(offset >> 4) * 4;
        let bytes = tcp + header + usize::from(seen.segment_bytes);
        seen.segment_bytes != 0 && header >= 20 && bytes <= mtu
    }

    fn ipv6(&self, seen: &Seen<'_>, group: Option<DropReason>) -> Result<Answer, Verdict> {
        let frame = seen.frame;
        let ip = &frame[14..frame.len().min(seen.visible).max(14)];
        if ip.len() < 40 {
            return drop(DropReason::RuntFrame);
        }
        let payload = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
        if ip[0] >> 4 != 6 || 40 + payload > frame.len() - 14 {
            return drop(DropReason::MalformedIpv6);
        }
        let (source, destination) = (six(&ip[8..24]), six(&ip[24..40]));
        if ip[6] == 58 && ip.get(40).is_some_and(|kind| (133..=137).contains(kind)) {
            return self.discovery(seen, source, destination, payload);
        }
        if let Some(reason) = group {
            return drop(reason);
        }
        let hop = self.hop(seen, destination.into());
        let link_local = is_link_local(source) && hop == Hop::Gateway;
        if !self.is_own(seen.port, source.into()) && !link_local {
            return drop(DropReason::SourceIp);
        }
        let upper = upper_layer(ip);
        let quiet = source.is_unspecified()
            || source.is_multicast()
            || match upper {
                None => true,
                Some((58, offset, _, later)) => {
                    later || ip.get(offset).is_none_or(|kind| *kind < 128 || *kind == 137)
                }
                Some(_) => false,
            };
        let report = |error, reason| {
            Err(if quiet { Verdict::Drop(reason) } else { Verdict::Originate(error) })
        };
        let mtu = usize::from(seen.network.mtu);
        match hop {
            Hop::Silent(reason) => drop(reason),
            Hop::NoRoute => report(IcmpError::NetworkUnreachable, DropReason::NoRoute),
            Hop::Nobody => report(IcmpError::HostUnreachable, DropReason::NoRoute),
            Hop::Gateway => {
                let way = (source.into(), destination.into());
                let (place, ecn) = ((54, 54 + payload), ip[1] >> 4 & 3);
                if let Some(answer) = self.decapsulate(seen, way, ip[6], (false, false), place, ecn)
                {
                    return answer;
                }
                if frame.len() - 14 > mtu {
                    return drop(DropReason::TooBig);
                }
                let echo = ip[6] == 58 && payload >= 8 && ip.len() >= 48;
                if !echo || ip[40..42] != [128, 0] {
                    return drop(DropReason::GatewayUnhandled);
                }
                let mut reply = frame.to_vec();
                self.turn(seen, &mut reply);
                reply[21] = 64;
                reply[22..38].copy_from_slice(&destination.octets());
                reply[38..54].copy_from_slice(&source.octets());
                reply[54] = 129;
                // One more in the high byte.
                shift(&mut reply, 56, 0xfeff);
                Ok((Verdict::Reply, reply))
            }
            Hop::Local => panic!("not in this network"),
            Hop::Kernel(_) if seen.port.role == PortRole::Kernel => drop(DropReason::KernelLoop),
            Hop::Port(out) if out.port == seen.port.index => drop(DropReason::Hairpin),
            Hop::Port(_) | Hop::Tunnel(..) if ip[7] < 2 => {
                report(IcmpError::TimeExceeded, DropReason::TtlExceeded)
            }
            hop @ (Hop::Port(out) | Hop::Kernel(out) | Hop::Tunnel(out, _)) => {
                let mtu = self.mtu(seen, hop);
                let segments = match upper {
                    Some((6, offset, false, _)) => self.segments_fit(seen, mtu, offset, ip),
                    _ => false,
                };
                if frame.len() - 14 > mtu && !segments {
                    if 40 + payload > mtu {
                        let mtu = u16::try_from(mtu).unwrap();
                        let error = IcmpError::FragmentationNeeded { mtu };
                        return report(error, DropReason::TooBig);
                    }
                    return drop(DropReason::TooBig);
                }
                let mut sent = self.send(seen, out);
                if let Hop::Kernel(out) = hop {
                    return Ok((Verdict::Punt(out.port, PuntClass::Kernel), sent));
                }
                sent[21] -= 1;
                if let Hop::Tunnel(out, end) = hop {
                    return Ok(self.encapsulate(seen, out, end, &sent, ip[1] >> 4 & 3));
                }
                Ok((Verdict::Forward(out.port), sent))
            }
        }
    }

    fn discovery(
        &self,
        seen: &Seen<'_>,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        payload: usize,
    ) -> Result<Answer, Verdict> {
        let ip = &seen.frame[14..seen.frame.len().min(seen.visible)];
        let malformed = Err(Verdict::Drop(DropReason::MalformedNd));
        let Some(message) = ip.get(40..40 + payload) else { return malformed };
        if ip[7] != 255 || !message_adds_up(source, destination, message) {
            return malformed;
        }
        let kind = message[0];
        if kind == 134 || kind == 137 {
            return drop(DropReason::NdSpoof);
        }
        let fixed = if kind == 133 { 8 } else { 24 };
        if message.len() < fixed || message[1] != 0 {
            return malformed;
        }
        let target = if kind == 133 { source } else { six(&message[8..24]) };
        if kind != 133 && target.is_multicast() {
            return malformed;
        }
        // Options: type, length in words of 8 bytes, contents.
        let wanted = if kind == 136 { 2 } else { 1 };
        let (mut at, mut mac) = (fixed, None);
        while at < message.len() {
            let Some([option, words]) = message.get(at..at + 2).map(|b| [b[0], b[1]]) else {
                return malformed;
            };
            let end = at + usize::from(words) * 8;
            if words == 0 || end > message.len() || option == wanted && words != 1 {
                return malformed;
            }
            if option == wanted {
                mac = Some(message[at + 2..at + 8].to_vec());
            }
            at = end;
        }
        let gateway_link = link_local(seen.network.gateway_mac.octets());
        let may_be = |address: Ipv6Addr| {
            self.is_own(seen.port, address.into())
                || is_link_local(address) && address != gateway_link
        };
        let mac_is_own = mac.as_deref().is_none_or(|mac| mac == seen.port.mac.octets());
        let probe = source.is_unspecified();
        let honest = match kind {
            136 => may_be(source) && may_be(target) && mac_is_own,
            _ if probe => mac.is_none(),
            _ => may_be(source) && mac_is_own,
        };
        if !honest {
            return drop(DropReason::NdSpoof);
        }
        if kind != 135 {
            return drop(DropReason::NdUnanswered);
        }
        let (is_router, known) = match self.hop(seen, target.into()) {
            Hop::Gateway => (true, true),
            Hop::Port(out) | Hop::Kernel(out) => {
                let on_link = seen.network.ipv6.unwrap().prefix.contains(target);
                let other = out.port != seen.port.index;
                (false, on_link && other && !probe)
            }
            Hop::Tunnel(..) => {
                (false, seen.network.ipv6.unwrap().prefix.contains(target) && !probe)
            }
            _ => (false, false),
        };
        if !known {
            return drop(DropReason::NdUnanswered);
        }
        let to = if probe { "ff02::1".parse().unwrap() } else { source };
        let with_mac = seen.frame.len() >= 86;
        let flags = if is_router { 0xa0 } else { 0 } | if probe { 0 } else { 0x40 };
        let gateway = seen.network.gateway_mac.octets();
        let mut message = [&[136, 0, 0, 0, flags, 0, 0, 0][..], &target.octets()].concat();
        if with_mac {
            message.extend([2, 1]);
            message.extend(gateway);
        }
        let sum = !sum(&[&pseudo(target, to, message.len()), &message]);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let to_mac = if probe { [0x33, 0x33, 0, 0, 0, 1] } else { seen.port.mac.octets() };
        let length = u8::try_from(message.len()).unwrap();
        let mut frame = [
            &to_mac[..],
            &gateway,
            &[0x86, 0xdd, 0x60, 0, 0, 0, 0, length, 58, 255],
            &target.octets(),
            &to.octets(),
            &message,
        ]
        .concat();
        frame.extend(&seen.frame[frame.len()..]);
        Ok((Verdict::Reply, frame))
    }

    /// Longest prefix first; for one prefix the network's own before the operator's.
    pub fn hop(&self, seen: &Seen<'_>, address: IpAddr) -> Hop {
        self.hop_in(seen.network, address)
    }

    pub fn hop_in(&self, network: &NetworkPolicy, address: IpAddr) -> Hop {
        if let IpAddr::V6(address) = address {
            let bits = address.to_bits();
            let never = bits >> 32 == 0 || is_link_local(address);
            if !network.external && address == link_local(network.gateway_mac.octets()) {
                return Hop::Gateway;
            }
            if address.is_multicast() {
                return Hop::Silent(DropReason::Multicast);
            }
            if never {
                return Hop::Silent(DropReason::NoRoute);
            }
        }
        let mut own: Vec<(IpPrefix, Hop)> = Vec::new();
        for (at, port) in self.policy.ports.iter().enumerate() {
            if port.network == network.index && !network.external {
                let hop = self.port(network, at);
                if port.ipv4 != Ipv4Addr::UNSPECIFIED {
                    own.push((IpPrefix::host(port.ipv4.into()), hop));
                }
                own.extend(port.ipv6.map(|six| (IpPrefix::host(six.into()), hop)));
            }
        }
        if !network.external {
            own.push((IpPrefix::host(network.gateway.into()), Hop::Gateway));
            own.push((network.prefix.into(), Hop::Nobody));
            let edges = [network.prefix.network(), network.prefix.last()];
            let hop = Hop::Silent(DropReason::Multicast);
            own.extend(edges.map(|address| (IpPrefix::host(address.into()), hop)));
        }
        let tunnels = self.policy.networks.iter().filter_map(|network| network.tunnel);
        for tunnel in tunnels.filter(|tunnel| tunnel.underlay == network.index) {
            own.push((IpPrefix::host(tunnel.local), Hop::Gateway));
        }
        let broadcast = Hop::Silent(DropReason::Multicast);
        own.push((IpPrefix::host(Ipv4Addr::BROADCAST.into()), broadcast));
        for (text, hop) in [
            ("0.0.0.0/8", Hop::Silent(DropReason::NoRoute)),
            ("127.0.0.0/8", Hop::Silent(DropReason::NoRoute)),
            ("240.0.0.0/4", Hop::Silent(DropReason::NoRoute)),
            ("224.0.0.0/4", broadcast),
        ] {
            own.push((text.parse().unwrap(), hop));
        }
        if let Some(ipv6) = network.ipv6 {
            own.push((IpPrefix::host(ipv6.gateway.into()), Hop::Gateway));
            let anycast = IpPrefix::host(ipv6.prefix.network().into());
            own.push((anycast, Hop::Silent(DropReason::NoRoute)));
            own.push((ipv6.prefix.into(), Hop::Nobody));
        }
        let is_first = network.index == self.policy.networks[0].index;
        let routes = match (is_first, network.external) {
            (true, _) => self.routes,
            (_, true) => self.fabric,
            _ => &[],
        };
        let fixed = routes.iter().map(|(prefix, target)| {
            let hops = self.targets(network, target);
            (*prefix, hops[self.choice % hops.len()])
        });
        let length = |prefix: IpPrefix| match prefix {
            IpPrefix::V4(prefix) => prefix.length(),
            IpPrefix::V6(prefix) => prefix.length(),
        };
        let all = own.into_iter().map(|(prefix, hop)| (prefix, true, hop));
        let all = all.chain(fixed.map(|(prefix, hop)| (prefix, false, hop)));
        let best = all
            .filter(|(prefix, ..)| prefix.contains(address))
            .max_by_key(|(prefix, own, _)| (length(*prefix), *own));
        let none = if address.is_ipv4() { Hop::Silent(DropReason::NoRoute) } else { Hop::NoRoute };
        best.map_or(none, |(.., hop)| hop)
    }

    /// Where a target leads, over each of its paths.
    fn targets(&self, network: &NetworkPolicy, target: &RouteTarget) -> Vec<Hop> {
        let one = |hop| vec![hop];
        let port = |has: &dyn Fn(&PortPolicy) -> bool| {
            let at = self.policy.ports.iter().position(has);
            one(at.map_or(Hop::Nobody, |at| self.port(network, at)))
        };
        match target {
            RouteTarget::Drop => one(Hop::Silent(DropReason::Blackhole)),
            RouteTarget::Unreachable => one(Hop::Nobody),
            RouteTarget::Vxlan(vtep) => self.through_tunnel(network, End::Vxlan(*vtep)),
            RouteTarget::MplsUdp(end) => self.through_tunnel(network, End::Mpls(*end)),
            RouteTarget::Ipip(end) => self.through_tunnel(network, End::Ipip(*end)),
            RouteTarget::Local => one(Hop::Local),
            RouteTarget::Link { port, mac } => one(self.over_link(network, *port, *mac)),
            RouteTarget::Kernel => {
                port(&|port| port.role == PortRole::Kernel && port.network == network.index)
            }
            RouteTarget::Multipath(paths) => {
                let paths = paths.paths().iter();
                let all = paths.flat_map(|path| self.targets(network, &path.target));
                let all: Vec<_> = all.filter(|hop| *hop != Hop::Nobody).collect();
                if all.is_empty() { one(Hop::Nobody) } else { all }
            }
            RouteTarget::Via(via) => port(&|port| {
                port.network == network.index
                    && (IpAddr::from(port.ipv4) == *via
                        || port.ipv6.is_some_and(|six| IpAddr::from(six) == *via))
            }),
        }
    }

    /// A port of a network that is not external.
    fn port(&self, network: &NetworkPolicy, at: usize) -> Hop {
        let port = &self.policy.ports[at];
        let mtu = port.mtu.unwrap_or(network.mtu).into();
        let (to, from) = (port.mac.octets(), network.gateway_mac.octets());
        let out = Out { port: port.index, to, from, mtu };
        if port.role == PortRole::Kernel { Hop::Kernel(out) } else { Hop::Port(out) }
    }

    fn is_own(&self, port: &PortPolicy, address: IpAddr) -> bool {
        port.role == PortRole::Kernel
            || address == IpAddr::from(port.ipv4)
            || port.ipv6.map(IpAddr::from) == Some(address)
            || port.allowed.iter().any(|prefix| prefix.contains(address))
    }

    /// Sends the frame back: the MAC addresses.
    fn turn(&self, seen: &Seen<'_>, frame: &mut [u8]) {
        frame[..6].copy_from_slice(&seen.port.mac.octets());
        frame[6..12].copy_from_slice(&seen.network.gateway_mac.octets());
    }

    /// The frame with the MAC addresses of the next link.
    pub fn send(&self, seen: &Seen<'_>, out: Out) -> Vec<u8> {
        let mut frame = seen.frame.to_vec();
        frame[..6].copy_from_slice(&out.to);
        frame[6..12].copy_from_slice(&out.from);
        frame
    }
}

pub fn drop<T>(reason: DropReason) -> Result<T, Verdict> {
    Err(Verdict::Drop(reason))
}

pub fn four(bytes: &[u8]) -> Ipv4Addr {
    Ipv4Addr::from(<[u8; 4]>::try_from(bytes).unwrap())
}

pub fn six(bytes: &[u8]) -> Ipv6Addr {
    Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap())
}

pub fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    six(&[0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

fn pseudo(source: Ipv6Addr, destination: Ipv6Addr, length: usize) -> Vec<u8> {
    let length = u32::try_from(length).unwrap();
    let mut bytes = [source.octets(), destination.octets()].concat();
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0, 0, 58]);
    bytes
}

fn message_adds_up(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> bool {
    adds_up(&[&pseudo(source, destination, message.len()), message])
}

/// RFC 1071, word by word. All parts but the last have an even number of bytes.
pub fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for word in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0));
        sum = sum % 0x10000 + sum / 0x10000;
    }
    u16::try_from(sum).unwrap()
}

pub fn adds_up(parts: &[&[u8]]) -> bool {
    sum(parts) == 0xffff
}

/// Computes a checksum that is at `at` anew.
pub fn correct(bytes: &mut [u8], at: usize) {
    bytes[at..at + 2].fill(0);
    let sum = !sum(&[bytes]);
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Adds to a checksum what was taken from the bytes it is about.
fn shift(bytes: &mut [u8], at: usize, more: u16) {
    let old = u32::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    let new = old + u32::from(more);
    let new = u16::try_from(new % 0x10000 + new / 0x10000).unwrap();
    bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
}

/// Protocol, offset, whether it is a fragment and a later one, behind at most seven extension headers.
pub fn upper_layer(ip: &[u8]) -> Option<(u8, usize, bool, bool)> {
    let (mut next, mut at, mut fragment) = (ip[6], 40, false);
    for _ in 0..8 {
        let bytes = match next {
            0 | 43 | 60 | 135 | 139 | 140 => 8 + 8 * usize::from(*ip.get(at + 1)?),
            44 => 8,
            51 => 8 + 4 * usize::from(*ip.get(at + 1)?),
            _ => return Some((next, at, fragment, false)),
        };
        if next == 44 {
            fragment = true;
            if u16::from_be_bytes([*ip.get(at + 2)?, *ip.get(at + 3)?]) >> 3 != 0 {
                return Some((*ip.get(at)?, at + 8, true, true));
            }
        }
        next = *ip.get(at)?;
        at += bytes;
    }
    None
}
