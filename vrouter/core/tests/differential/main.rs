//! The stages beside a slow and plain router: the same packets through both, good, damaged and hostile ones, by any
//! routes. What they say and what they send must be the same to the byte.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod bridge;
mod checksums;
mod edges;
mod explain;
mod reference;
mod tunnel;
mod uplink;

use bolero::TypeGenerator;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use etherparse::PacketBuilder;
use reference::{Reference, sum};
use std::collections::BTreeMap;
use vrouter_core::{
    FloodLimit, HEADER_BYTES, ICMP_ERROR_BYTES, IcmpLimiter, Ipv6Network, Mode, NetworkIndex,
    NetworkPolicy, Packet, Policy, PortIndex, PortLimits, PortPolicy, Rates, RouteChange,
    RouteTarget, Tables, Timestamp, Tunnel, Verdict, Vtep, icmp_error, process,
};
use vrouter_net::vxlan::Vni;
use vrouter_net::{IpPrefix, Mac};

const MTU: u16 = 1280;
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
/// Addresses that packets come from and go to, of ports and others, near to each other.
const FOUR: [[u8; 4]; 20] = [
    [10, 66, 0, 1],
    [10, 66, 0, 2],
    [10, 66, 0, 3],
    [10, 66, 0, 4],
    [10, 66, 0, 5],
    [10, 66, 0, 0],
    [10, 66, 0, 255],
    [10, 66, 1, 2],
    [192, 0, 2, 1],
    [192, 0, 2, 129],
    [192, 0, 3, 1],
    [8, 8, 8, 8],
    [0, 0, 0, 0],
    [0, 1, 2, 3],
    [127, 0, 0, 1],
    [224, 0, 0, 1],
    [239, 255, 255, 255],
    [240, 0, 0, 1],
    [255, 255, 255, 255],
    [223, 255, 255, 255],
];
const SIX: [&str; 20] = [
    "fd00:66::1",
    "fd00:66::2",
    "fd00:66::3",
    "fd00:66::4",
    "fd00:66::5",
    "fd00:66::",
    "fd00:66::ffff",
    "fd00:67::2",
    "2001:db8::1",
    "2001:db8:0:1::1",
    "2001:db9::1",
    "2606::1",
    "::",
    "::1",
    "::ffff:10.66.0.2",
    "ff02::1",
    "ff0e::5",
    "fe80::1",
    "fe80::ff:fe00:fe",
    "febf::2",
];
/// Prefixes of routes: nested, touching and alone.
const PREFIXES: [&str; 20] = [
    "0.0.0.0/0",
    "0.0.0.0/1",
    "192.0.2.0/24",
    "192.0.2.0/25",
    "192.0.2.128/25",
    "192.0.2.1/32",
    "192.0.0.0/16",
    "192.0.2.0/23",
    "8.0.0.0/8",
    "10.66.0.0/16",
    "10.66.0.0/24",
    "10.66.0.4/32",
    "10.66.0.5/32",
    "::/0",
    "2001:db8::/32",
    "2001:db8::/48",
    "2001:db8:0:1::/64",
    "2001:db8::1/128",
    "fd00:66::5/128",
    "2000::/3",
];

fn six(at: u8) -> Ipv6Addr {
    SIX[usize::from(at) % SIX.len()].parse().unwrap()
}

fn four(at: u8) -> [u8; 4] {
    FOUR[usize::from(at) % FOUR.len()]
}

fn mac(last: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, last]
}

/// Ports 2 and 3 of the first network, which has IPv6; port 4 too if `third`; port 2 of the second, which has not.
/// Slots are not in order.
fn policy(third: bool, allowed: bool, tunnel: u8) -> Policy {
    let network = |index, ipv6| NetworkPolicy {
        index: NetworkIndex(index),
        prefix: "10.66.0.0/24".parse().unwrap(),
        gateway: Ipv4Addr::new(10, 66, 0, 1),
        gateway_mac: Mac::new(GATEWAY_MAC),
        mtu: MTU,
        ipv6,
        mode: Mode::Routed,
        floods: FloodLimit::default(),
        tunnel: None,
        external: false,
        punts: Default::default(),
    };
    let port = |slot, network: u16, last: u8| PortPolicy {
        index: PortIndex(slot),
        network: NetworkIndex(network),
        mac: Mac::new(mac(last)),
        ipv4: [10, 66, 0, last].into(),
        ipv6: (network == 0).then(|| format!("fd00:66::{last}").parse().unwrap()),
        allowed: Vec::new(),
        trunk: false,
        rates: Rates::default(),
        role: Default::default(),
        mtu: None,
    };
    let (prefix, gateway) = ("fd00:66::/64".parse().unwrap(), "fd00:66::1".parse().unwrap());
    let ipv6 = Some(Ipv6Network { prefix, gateway });
    let mut ports = vec![port(7, 0, 2), port(1, 0, 3), port(5, 1, 2)];
    let mut networks = vec![network(0, ipv6), network(1, None)];
    // The second network carries packets of the first, and has IPv6 then.
    if let Some(local) = tunnel_end(tunnel) {
        let (vni, underlay) = (Vni::new(VNI).unwrap(), NetworkIndex(1));
        networks[0].tunnel =
            Some(Tunnel { vni: Some(vni), label: None, ipip: false, underlay, local });
        networks[1].ipv6 = ipv6;
        // Larger, or too small for the largest packets of the first.
        networks[1].mtu = if tunnel & 8 == 0 { 1400 } else { 1351 };
        ports[2].ipv6 = ports[0].ipv6;
    }
    if third {
        ports.push(port(4, 0, 4));
    }
    if allowed {
        ports[0].allowed =
            vec!["192.0.2.128/25".parse().unwrap(), "2001:db8:0:1::/64".parse().unwrap()];
    }
    Policy { networks, ports }
}

/// This end of the tunnel: none, an address of its own or the gateway's.
fn tunnel_end(tunnel: u8) -> Option<IpAddr> {
    match tunnel % 5 {
        0 => None,
        1 | 2 => Some([10, 66, 0, 5].into()),
        3 => Some([10, 66, 0, 1].into()),
        _ => Some(six(4).into()),
    }
}

/// The number of the first network's tunnel.
const VNI: u32 = 0x01_0203;

#[derive(Clone, Copy, Debug, TypeGenerator)]
struct Change {
    prefix: u8,
    target: Option<u8>,
}

impl Change {
    fn change(self, tunnel: u8) -> RouteChange {
        let prefix: IpPrefix = PREFIXES[usize::from(self.prefix) % PREFIXES.len()].parse().unwrap();
        let far = tunnel_end(tunnel).filter(|_| self.target.is_some_and(|target| target & 1 != 0));
        if let Some(local) = far {
            let target = self.target.unwrap_or(0) / 2;
            let address = match local {
                IpAddr::V4(_) => IpAddr::from([10, 66, 0, 2 + target % 3]),
                IpAddr::V6(_) => six(1 + target % 3).into(),
            };
            let mac = (target & 64 != 0).then(|| Mac::new([2, 7, 7, 7, 7, target]));
            return RouteChange { prefix, target: Some(RouteTarget::Vxlan(Vtep { address, mac })) };
        }
        let target = self.target.map(|target| match target % 8 {
            0 => RouteTarget::Drop,
            1 => RouteTarget::Unreachable,
            // 5 is nobody's address, 4 somebody's at times.
            target @ 2..=5 => RouteTarget::Via(Ipv4Addr::new(10, 66, 0, target).into()),
            target => RouteTarget::Via(six(target % 4).into()),
        });
        // The gateway's address is no port's.
        let target = target.filter(|target| *target != RouteTarget::Via(IpAddr::V6(six(0))));
        RouteChange { prefix, target }
    }
}

/// A frame: what it starts from, and what is then done to it.
#[derive(Clone, Debug, TypeGenerator)]
struct Recipe {
    kind: u8,
    from: u8,
    to: u8,
    ttl: u8,
    size: u16,
    options: u8,
    fragment: Option<u16>,
    changes: [(u8, u8); 2],
    changed: u8,
    fix: bool,
    padding: u8,
    segment: Option<u16>,
}

impl Recipe {
    fn frame(&self, own: u8) -> Vec<u8> {
        let ttl = match self.ttl {
            ttl @ 0..=3 => ttl,
            ttl => ttl | 32,
        };
        // Mostly the port's own address, else others'.
        let from = if self.from < 200 { own - 1 } else { self.from };
        let size = match self.size % 4 {
            0 => 1200 + self.size % 200,
            1 => self.size % 40_000,
            _ => self.size % 100,
        };
        let payload = vec![0xa5; usize::from(size)];
        let link = PacketBuilder::ethernet2(mac(own), GATEWAY_MAC);
        let (f4, t4) = (four(from), four(self.to));
        let (f6, t6) = (six(from).octets(), six(self.to).octets());
        let mut frame = Vec::new();
        match self.kind % 16 {
            0..=2 => link.ipv4(f4, t4, ttl).udp(1, 2).write(&mut frame, &payload).unwrap(),
            3 => link.ipv4(f4, t4, ttl).tcp(1, 2, 3, 4).write(&mut frame, &payload).unwrap(),
            4 => {
                link.ipv4(f4, t4, ttl)
                    .icmpv4_echo_request(1, 2)
                    .write(&mut frame, &payload)
                    .unwrap();
            }
            5..=6 => link.ipv6(f6, t6, ttl).udp(1, 2).write(&mut frame, &payload).unwrap(),
            7 => link.ipv6(f6, t6, ttl).tcp(1, 2, 3, 4).write(&mut frame, &payload).unwrap(),
            8 => {
                link.ipv6(f6, t6, ttl)
                    .icmpv6_echo_request(1, 2)
                    .write(&mut frame, &payload)
                    .unwrap();
            }
            9 => frame = self.arp(own, f4, t4),
            10 => frame = self.discovery(own, six(from), six(self.to)),
            12..=15 => frame = self.tunnelled(own, from, ttl, &payload),
            _ => frame = payload,
        }
        // There is much in a packet inside another that has to be right.
        if self.kind % 16 < 12 || self.padding.is_multiple_of(2) {
            self.spoil(&mut frame);
        }
        frame.extend(vec![0xee; usize::from(self.padding / 4)]);
        frame
    }

    /// A packet inside another.
    fn tunnelled(&self, own: u8, from: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
        // The fields that plain packets do not use say what the inner packet is like.
        let [(inner_from, inner_mac), (number, flags)] = self.changes;
        let inner_to = if inner_mac < 230 { GATEWAY_MAC } else { mac(inner_mac) };
        // Mostly for a port.
        let to = if self.to < 160 { 1 + self.to % 3 } else { self.to };
        let link = PacketBuilder::ethernet2(mac(9), inner_to);
        let mut inner = Vec::new();
        if self.kind % 16 < 14 {
            link.ipv4(four(inner_from), four(to), ttl).udp(1, 2).write(&mut inner, payload)
        } else {
            let (from, to) = (six(inner_from).octets(), six(to).octets());
            link.ipv6(from, to, ttl).udp(1, 2).write(&mut inner, payload)
        }
        .unwrap();
        if flags & 0x30 == 0x30 && inner.len() > 34 && self.kind % 16 < 14 {
            inner.splice(34..34, [1; 8]);
            inner[14] = 0x47;
            let total = u16::try_from(inner.len() - 14).unwrap();
            inner[16..18].copy_from_slice(&total.to_be_bytes());
        }
        // Congestion inside.
        if self.kind % 16 < 14 {
            inner[15] |= flags >> 6;
            if flags & 0xf != 0xf {
                fix(&mut inner);
            }
        } else {
            inner[15] |= flags >> 6 << 4;
        }
        let vni = if number < 230 { VNI } else { number.into() };
        let [_, a, b, c] = vni.to_be_bytes();
        let datagram = [&[8, 0, 0, 0, a, b, c, 0][..], &inner].concat();
        let link = PacketBuilder::ethernet2(mac(own), GATEWAY_MAC);
        let mut frame = Vec::new();
        // To one of the addresses that an end can have.
        if self.kind.is_multiple_of(2) {
            let to = [10, 66, 0, if self.options & 1 == 0 { 5 } else { 1 }];
            link.ipv4(four(from), to, 64).udp(50_000, 4789).write(&mut frame, &datagram)
        } else {
            let to = six(if self.options & 7 == 0 { 0 } else { 4 }).octets();
            link.ipv6(six(from).octets(), to, 64).udp(50_000, 4789).write(&mut frame, &datagram)
        }
        .unwrap();
        frame
    }

    fn arp(&self, own: u8, from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
        [
            &[0xff; 6][..],
            &mac(own),
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1 + self.options / 200],
            &mac(own),
            &from,
            &[0; 6],
            &to,
        ]
        .concat()
    }

    fn discovery(&self, own: u8, from: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
        let kind = if self.ttl < 200 { 135 } else { 133 + self.ttl % 5 };
        let group = [&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff][..], &target.octets()[13..]];
        let to: [u8; 16] = group.concat().try_into().unwrap();
        let mut message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target.octets()].concat();
        if self.options & 1 != 0 {
            message.extend([if kind == 136 { 2 } else { 1 }, 1]);
            message.extend(mac(own));
        }
        if self.options & 2 != 0 {
            message.extend([14, 1, 1, 2, 3, 4, 5, 6]);
        }
        let length = u8::try_from(message.len()).unwrap();
        let group = [&[0x33, 0x33, 0xff][..], &to[13..]].concat();
        [
            &group[..],
            &mac(own),
            &[0x86, 0xdd, 0x60, 0, 0, 0, 0, length, 58, 255],
            &from.octets(),
            &to,
            &message,
        ]
        .concat()
    }

    /// Options, fragments, damage, and checksums that are right again or not.
    fn spoil(&self, frame: &mut Vec<u8>) {
        let is = |frame: &[u8], kind: [u8; 2]| frame.get(12..14) == Some(&kind);
        if is(frame, [8, 0]) && frame.len() > 34 {
            let words = self.options % 16;
            if self.options >= 64 && words <= 10 {
                frame.splice(34..34, vec![1; usize::from(words) * 4]);
                frame[14] = 0x45 + words;
                let total = u16::try_from(frame.len() - 14).unwrap();
                frame[16..18].copy_from_slice(&total.to_be_bytes());
            }
            if let Some(fragment) = self.fragment {
                frame[20..22].copy_from_slice(&fragment.to_be_bytes());
            }
        }
        if is(frame, [0x86, 0xdd]) && frame.len() > 54 && self.kind % 16 != 10 {
            for extension in 0..self.options / 100 {
                let kind = [0, 60, 44, 51, 43][usize::from(self.options ^ extension) % 5];
                let next = std::mem::replace(&mut frame[20], kind);
                let mut header = [next, 0, 0, 0, 0, 0, 0, 0];
                if let Some(fragment) = self.fragment.filter(|_| kind == 44) {
                    header[2..4].copy_from_slice(&fragment.to_be_bytes());
                }
                frame.splice(54..54, header);
            }
            let payload = u16::try_from(frame.len() - 54).unwrap();
            frame[18..20].copy_from_slice(&payload.to_be_bytes());
        }
        for (at, byte) in self.changes.iter().take(usize::from(self.changed % 8)) {
            if let Some(there) = frame.get_mut(usize::from(at % 100)) {
                *there = *byte;
            }
        }
        if self.fix || self.changed.is_multiple_of(8) {
            fix(frame);
        }
    }
}

/// Makes the checksum of the IPv4 header or of an ICMPv6 message right.
fn fix(frame: &mut [u8]) {
    if frame.len() >= 34 && frame[12..14] == [8, 0] {
        let end = 14 + usize::from(frame[14] & 15) * 4;
        if end >= 34 && end <= frame.len() {
            frame[24..26].fill(0);
            let sum = !sum(&[&frame[14..end]]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
    }
    if frame.len() >= 58 && frame[12..14] == [0x86, 0xdd] && frame[20] == 58 {
        let length = u16::from_be_bytes([frame[18], frame[19]]);
        let Some(end) =
            Some(54 + usize::from(length)).filter(|end| (58..=frame.len()).contains(end))
        else {
            return;
        };
        frame[56..58].fill(0);
        let [a, b] = length.to_be_bytes();
        let tail = [0, 0, a, b, 0, 0, 0, 58];
        let sum = !sum(&[&frame[22..54], &tail, &frame[54..end]]);
        frame[56..58].copy_from_slice(&sum.to_be_bytes());
    }
}

/// The copy of a frame's head that a caller makes, over the bytes of an older frame.
fn copied(frame: &[u8], segment_bytes: u16) -> Packet {
    let mut packet = Packet::EMPTY;
    packet.header.fill(0xdb);
    let first: [u8; 64] = std::array::from_fn(|i| frame.get(i).copied().unwrap_or(0xdb));
    let most = if Packet::enough(&first) { 64 } else { HEADER_BYTES };
    let bytes = frame.len().min(most);
    packet.header[..bytes].copy_from_slice(&frame[..bytes]);
    packet.header_len = u16::try_from(bytes).unwrap();
    packet.frame_len = u32::try_from(frame.len()).unwrap();
    packet.segment_bytes = segment_bytes;
    packet
}

fn check(policy: &Policy, tables: &Tables, routes: &[(IpPrefix, RouteTarget)], recipes: &[Recipe]) {
    let reference = Reference { policy, routes, fabric: &[], down: &[], choice: 0 };
    for (ingress, port) in policy.ports.iter().enumerate() {
        let own = port.mac.octets()[5];
        let frames: Vec<_> = recipes
            .iter()
            .map(|recipe| (recipe.frame(own), recipe.segment.map_or(0, |s| s % 1500)))
            .collect();
        let mut batch: Vec<_> =
            frames.iter().map(|(frame, segment)| copied(frame, *segment)).collect();
        let before = batch.clone();
        let mut limits =
            PortLimits { errors: IcmpLimiter::new(1_000_000, 100_000), ..PortLimits::default() };
        let outcome = process(tables, Timestamp::default(), port.index, &mut batch, &mut limits);
        let mut targets = Vec::new();
        for (i, (frame, segment)) in frames.iter().enumerate() {
            let visible = usize::from(before[i].header_len);
            let (verdict, sent) = reference.decide(ingress, frame, visible, *segment);
            let after = &batch[i];
            assert_eq!(after.verdict, verdict, "port {own}, frame {frame:02x?}");
            assert_eq!(after.header_len, before[i].header_len);
            let is_opened = matches!(verdict, Verdict::Decapsulate(_));
            assert!(is_opened || after.frame_len == before[i].frame_len);
            let start = after.removed();
            let end = start + usize::try_from(after.frame_len).unwrap();
            let rest = start + after.sent_head().len();
            let mut got = [after.outer(), after.sent_head(), &frame[rest..end]].concat();
            if matches!(verdict, Verdict::Encapsulate(_)) {
                hide_entropy(&mut got, after.outer().len(), *segment);
            }
            if !same(&got, &sent, &verdict) {
                panic!("frame {frame:02x?}\n got {got:02x?}\n not {sent:02x?}");
            }
            assert_eq!(after.header[visible..], before[i].header[visible..]);
            explain::check(tables, port.index, &before[i], after);
            tunnel::count(&verdict);
            targets.push(match verdict {
                Verdict::Forward(to) | Verdict::Encapsulate(to) | Verdict::Decapsulate(to) => {
                    Some(to)
                }
                _ => None,
            });
            if let Verdict::Originate(kind) = verdict {
                let mut out = [0; ICMP_ERROR_BYTES];
                let bytes = icmp_error(tables, port.index, after, kind, &mut out).unwrap();
                let quote = if frame[12] == 8 { 42 } else { 62 };
                assert!(frame[14..].starts_with(&out[quote..bytes]));
                assert_eq!(out[..6], port.mac.octets());
            }
        }
        targets.dedup();
        let all_to = if let [target] = targets[..] { target } else { None };
        // Packets that took a longer look are not summed up.
        assert!(outcome.all_to.is_none() || outcome.all_to == all_to);
        let summed_up = outcome.all_to.is_some();
        assert!(!summed_up || outcome.tunnelled == batch.iter().any(tunnel::is_tunnelled));
    }
}

/// The slow router does not hash flows, and has no outer header for what is to be cut up.
fn hide_entropy(frame: &mut [u8], outer: usize, segment_bytes: u16) {
    assert!(frame[outer - 16] >= 0xc0, "a dynamic port");
    frame[outer - 16..outer - 14].copy_from_slice(&tunnel::ANY_PORT.to_be_bytes());
    if outer == 70 {
        frame[16..18].fill(0);
    }
    if segment_bytes != 0 && vrouter_net::vxlan::set_frame_bytes(&mut frame[..outer], 0).is_some() {
        let bytes = frame.len() - outer;
        vrouter_net::vxlan::set_frame_bytes(&mut frame[..outer], bytes).unwrap();
    }
}

/// Whether two frames are the same but for the two ways to write the checksum zero of a forwarded IPv4 packet or a
/// reply: RFC 1624 keeps what the sender wrote, computing it anew does not.
fn same(got: &[u8], sent: &[u8], verdict: &Verdict) -> bool {
    let zeros = |at: usize| {
        let words = [&got[at..at + 2], &sent[at..at + 2]];
        words.contains(&&[0, 0][..]) && words.contains(&&[0xff, 0xff][..])
    };
    if got == sent {
        return true;
    }
    let differing: Vec<_> = (0..got.len()).filter(|at| got[*at] != sent[*at]).collect();
    let [at, last] = differing[..] else { return false };
    let kept = !matches!(verdict, Verdict::Drop(_) | Verdict::Originate(_));
    kept && last == at + 1 && zeros(at)
}

#[test]
fn the_stages_agree_with_a_slow_router() {
    let input = bolero::check!()
        .with_type::<(bool, bool, bool, u8, Vec<Change>, Vec<Recipe>)>()
        .with_iterations(3000);
    input.for_each(|(third, later, allowed, tunnel, changes, recipes)| {
        let policy = policy(*third, *allowed, *tunnel);
        // The routes first, or the port they lead to first.
        let start = if *later { self::policy(!third, *allowed, *tunnel) } else { policy.clone() };
        let mut tables = Tables::build(&start).unwrap();
        let mut routes = BTreeMap::new();
        let mut versions = Vec::new();
        for batch in changes.chunks(3) {
            let batch: Vec<_> = batch.iter().map(|change| change.change(*tunnel)).collect();
            tables = tables.with_routes(NetworkIndex(0), &batch).unwrap();
            for change in batch {
                match change.target {
                    Some(target) => routes.insert(change.prefix, target),
                    None => routes.remove(&change.prefix),
                };
            }
            let now: Vec<_> = routes.clone().into_iter().collect();
            if versions.is_empty() {
                check(&start, &tables, &now, recipes.get(..1).unwrap_or(&[]));
            }
            versions.push((start.clone(), tables.clone(), now));
        }
        let tables = tables.update(&policy).unwrap();
        let routes: Vec<_> = routes.into_iter().collect();
        assert_eq!(tables.network(NetworkIndex(0)).unwrap().routes(), routes.len());
        check(&policy, &tables, &routes, recipes);
        // Workers may still have an older version, which shares most of its memory with the newest.
        if let Some((policy, tables, routes)) = versions.first() {
            check(policy, tables, routes, recipes.get(..1).unwrap_or(&[]));
        }
    });
    tunnel::assert_reached();
}

/// Every kind of frame to and from every address, so that nothing depends on luck.
#[test]
fn every_pair_of_addresses() {
    let policy = policy(true, true, 0);
    let routes: Vec<(IpPrefix, RouteTarget)> = [
        ("0.0.0.0/0", RouteTarget::Via([10, 66, 0, 3].into())),
        ("192.0.2.0/24", RouteTarget::Via(six(3).into())),
        ("192.0.2.0/25", RouteTarget::Drop),
        ("10.66.0.5/32", RouteTarget::Via([10, 66, 0, 4].into())),
        ("8.0.0.0/8", RouteTarget::Unreachable),
        ("2001:db8::/32", RouteTarget::Via(six(2).into())),
        ("2001:db8:0:1::/64", RouteTarget::Via([10, 66, 0, 5].into())),
        ("fd00:66::5/128", RouteTarget::Via(six(3).into())),
    ]
    .map(|(prefix, target)| (prefix.parse().unwrap(), target))
    .into();
    let changes: Vec<_> = routes
        .iter()
        .map(|(prefix, target)| RouteChange { prefix: *prefix, target: Some(target.clone()) })
        .collect();
    let tables = Tables::build(&policy).unwrap().with_routes(NetworkIndex(0), &changes).unwrap();
    let mut verdicts = BTreeMap::<String, usize>::new();
    for kind in 0..16 {
        for ttl in [0, 1, 2, 64, 133, 134, 136, 201, 202, 203, 204] {
            let recipes: Vec<_> = (0..20)
                .flat_map(|to| [0, 200, 205, 210, 217].map(|from| (from, to)))
                .map(|(from, to)| Recipe {
                    kind,
                    from,
                    to,
                    ttl,
                    size: 42,
                    options: 1,
                    fragment: None,
                    changes: [(0, 0); 2],
                    changed: 0,
                    fix: true,
                    padding: 0,
                    segment: None,
                })
                .collect();
            check(&policy, &tables, &routes, &recipes);
            for recipe in &recipes {
                let reference = Reference {
                    policy: &policy,
                    routes: &routes,
                    fabric: &[],
                    down: &[],
                    choice: 0,
                };
                let frame = recipe.frame(2);
                let (verdict, _) = reference.decide(0, &frame, frame.len().min(128), 0);
                *verdicts.entry(format!("{verdict:?}")).or_default() += 1;
            }
        }
    }
    // The packets reach far: most verdicts that a good packet can get.
    assert!(verdicts.len() >= 18, "{verdicts:?}");
}
