//! Every rule and every drop reason of the stages, then properties that hold for any bytes.

use super::*;
use crate::{
    FloodLimit, HEADER_BYTES, ICMP_ERROR_BYTES, IcmpError, IcmpLimiter, Mode, NetworkIndex,
    NetworkPolicy, Policy, PortPolicy, Rates, RouteChange, RouteTarget, icmp_error,
};
use bolero::TypeGenerator;
use core::net::Ipv4Addr;
use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, LinkSlice, NetSlice, PacketBuilder,
    SlicedPacket, TransportSlice,
};
use std::vec;
use std::vec::Vec;
use vrouter_net::{Mac, checksum};

mod batch;
mod bridge;
mod gateway;
mod hostile;
mod policed;
mod six;
mod stretched;
mod tunnel;
mod uplink;

use hostile::check_error;

const GATEWAY: [u8; 4] = [10, 66, 0, 1];
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
const A: [u8; 4] = [10, 66, 0, 2];
const A_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
const B: [u8; 4] = [10, 66, 0, 3];
const B_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
/// Only in a test of its own.
const C: [u8; 4] = [10, 66, 0, 4];
/// Only the other network, which uses the same addresses, has this one.
const BLUE_ONLY: [u8; 4] = [10, 66, 0, 9];
const NOBODY: [u8; 4] = [10, 66, 0, 77];
const MTU: u16 = 1500;

const PORT_A: PortIndex = PortIndex(4);
const PORT_B: PortIndex = PortIndex(1);

fn tables() -> Tables {
    Tables::build(&policy()).unwrap()
}

fn policy() -> Policy {
    let network = |index| NetworkPolicy {
        index: NetworkIndex(index),
        prefix: "10.66.0.0/24".parse().unwrap(),
        gateway: GATEWAY.into(),
        gateway_mac: Mac::new(GATEWAY_MAC),
        mtu: MTU,
        ipv6: None,
        mode: Mode::Routed,
        floods: FloodLimit::default(),
        tunnel: None,
        external: false,
        punts: Default::default(),
    };
    let port = |index, network, mac, ipv4: [u8; 4]| PortPolicy {
        index,
        network: NetworkIndex(network),
        mac: Mac::new(mac),
        ipv4: ipv4.into(),
        ipv6: None,
        allowed: Vec::new(),
        trunk: false,
        rates: Rates::default(),
        role: Default::default(),
        mtu: None,
    };
    Policy {
        networks: vec![network(0), network(1)],
        ports: vec![
            port(PORT_A, 0, A_MAC, A),
            port(PORT_B, 0, B_MAC, B),
            port(PortIndex(2), 1, A_MAC, A),
            port(PortIndex(3), 1, B_MAC, BLUE_ONLY),
        ],
    }
}

fn packet(frame: &[u8]) -> Packet {
    let mut packet = Packet::EMPTY;
    let bytes = frame.len().min(HEADER_BYTES);
    packet.header[..bytes].copy_from_slice(&frame[..bytes]);
    packet.header_len = u16::try_from(bytes).unwrap();
    packet.frame_len = u32::try_from(frame.len()).unwrap();
    packet
}

fn run_with(limiter: &mut PortLimits, ingress: PortIndex, frame: &[u8]) -> Packet {
    let mut batch = [packet(frame)];
    process(&tables(), Timestamp::default(), ingress, &mut batch, limiter);
    batch[0]
}

fn run(frame: &[u8]) -> Packet {
    run_with(&mut PortLimits::default(), PORT_A, frame)
}

fn udp(to: [u8; 4]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(A_MAC, GATEWAY_MAC).ipv4(A, to, 64).udp(1000, 2000);
    builder.write(&mut frame, &[0x5a; 200]).unwrap();
    frame
}

fn echo(to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder =
        PacketBuilder::ethernet2(A_MAC, GATEWAY_MAC).ipv4(A, to, 7).icmpv4_echo_request(5, 6);
    builder.write(&mut frame, payload).unwrap();
    frame
}

fn arp_request(to: [u8; 4]) -> Vec<u8> {
    let mut frame = Vec::new();
    let arp = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &A_MAC,
        &A,
        &[0; 6],
        &to,
    )
    .unwrap();
    PacketBuilder::ethernet2(A_MAC, [0xff; 6]).arp(arp).write(&mut frame).unwrap();
    frame
}

/// Makes the header checksum right again after a change.
fn fix(frame: &mut [u8]) {
    let end = 14 + usize::from(frame[14] & 0xf) * 4;
    frame[24..26].fill(0);
    let sum = checksum::compute(&frame[14..end.clamp(34, frame.len())]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// Puts no-operation options behind the IPv4 header.
fn with_options(mut frame: Vec<u8>, words: u8) -> Vec<u8> {
    frame.splice(34..34, vec![1; usize::from(words) * 4]);
    frame[14] = 0x45 + words;
    let total = u16::try_from(frame.len() - 14).unwrap();
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    fix(&mut frame);
    frame
}

type Change = fn(&mut Vec<u8>);

fn check(cases: &[(&str, Vec<u8>, Change, Verdict)]) {
    for (name, frame, change, verdict) in cases {
        let mut frame = frame.clone();
        change(&mut frame);
        let before = packet(&frame);
        let after = run(&frame);
        assert_eq!(after.verdict, *verdict, "{name}");
        if matches!(verdict, Verdict::Drop(_) | Verdict::Originate(_)) {
            assert_eq!(after.header, before.header, "{name}");
        }
        assert_eq!((after.header_len, after.frame_len), (before.header_len, before.frame_len));
    }
}

#[test]
fn ethernet_and_ipv4_rules() {
    use DropReason::*;
    let drop = Verdict::Drop;
    let to_b = Verdict::Forward(PORT_B);
    check(&[
        ("as it should be", udp(B), |_| (), to_b),
        ("any type of service", udp(B), |f| (f[15] = 0xff, fix(f)).1, to_b),
        ("no bytes", vec![], |_| (), drop(RuntFrame)),
        ("13 bytes", udp(B), |f| f.truncate(13), drop(RuntFrame)),
        ("Ethernet only", udp(B), |f| f.truncate(14), drop(RuntFrame)),
        ("33 bytes", udp(B), |f| f.truncate(33), drop(RuntFrame)),
        ("options cut off", with_options(udp(B), 10), |f| f.truncate(73), drop(RuntFrame)),
        ("source MAC of b", udp(B), |f| f[11] = 0xb, drop(SourceMac)),
        ("source MAC group", udp(B), |f| f[6] |= 1, drop(SourceMac)),
        ("IPv6", udp(B), |f| f[12..14].copy_from_slice(&[0x86, 0xdd]), drop(UnsupportedEthertype)),
        ("VLAN", udp(B), |f| f[12..14].copy_from_slice(&[0x81, 0]), drop(UnsupportedEthertype)),
        ("802.3 length", udp(B), |f| f[12..14].fill(0), drop(UnsupportedEthertype)),
        ("to b's MAC", udp(B), |f| f[5] = 0xb, drop(NotForGatewayMac)),
        ("to the broadcast MAC", udp(B), |f| f[..6].fill(0xff), drop(Multicast)),
        ("to a group MAC", udp([224, 0, 0, 1]), |f| f[0] = 1, drop(Multicast)),
        ("version 6", udp(B), |f| (f[14] = 0x65, fix(f)).1, drop(MalformedIpv4)),
        ("IHL 4", udp(B), |f| (f[14] = 0x44, fix(f)).1, drop(MalformedIpv4)),
        (
            "total below header",
            udp(B),
            |f| (f[16..18].copy_from_slice(&[0, 19]), fix(f)).1,
            drop(MalformedIpv4),
        ),
        ("total above frame", udp(B), |f| f.truncate(14 + 227), drop(MalformedIpv4)),
        (
            "total below options",
            with_options(udp(B), 2),
            |f| (f[16..18].copy_from_slice(&[0, 27]), fix(f)).1,
            drop(MalformedIpv4),
        ),
        ("header only", udp(B), |f| (f[16..18].copy_from_slice(&[0, 20]), fix(f)).1, to_b),
        ("bad checksum", udp(B), |f| f[25] ^= 1, drop(BadIpv4Checksum)),
        ("bad checksum in options", with_options(udp(B), 2), |f| f[34] ^= 1, drop(BadIpv4Checksum)),
        ("source of b", udp(B), |f| (f[29] = 3, fix(f)).1, drop(SourceIp)),
        ("source unspecified", udp(B), |f| (f[26..30].fill(0), fix(f)).1, drop(SourceIp)),
        ("options", with_options(udp(B), 1), |_| (), to_b),
        ("all options", with_options(udp(B), 10), |_| (), to_b),
        ("first fragment", udp(B), |f| (f[20..22].copy_from_slice(&[0x20, 0]), fix(f)).1, to_b),
        ("later fragment", udp(B), |f| (f[20..22].copy_from_slice(&[0, 9]), fix(f)).1, to_b),
        ("padding", udp(B), |f| f.extend([0; 40]), to_b),
    ]);
}

#[test]
fn routing_rules() {
    use DropReason::*;
    let drop = Verdict::Drop;
    let unreachable = Verdict::Originate(IcmpError::HostUnreachable);
    let expired = Verdict::Originate(IcmpError::TimeExceeded);
    let needed = Verdict::Originate(IcmpError::FragmentationNeeded { mtu: MTU });
    /// An ICMP error inside a valid packet.
    fn error(to: [u8; 4]) -> Vec<u8> {
        let mut frame = echo(to, &[0; 40]);
        frame[34] = 3;
        frame
    }
    fn ttl(frame: &mut [u8], ttl: u8) {
        frame[22] = ttl;
        fix(frame);
    }
    /// A packet one byte above the MTU; etherparse sets "don't fragment".
    fn big() -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(A_MAC, GATEWAY_MAC).ipv4(A, B, 64).udp(1, 2);
        builder.write(&mut frame, &vec![0; usize::from(MTU) - 27]).unwrap();
        assert_eq!(frame.len(), 14 + 1501);
        frame
    }
    check(&[
        ("other network's address", udp(BLUE_ONLY), |_| (), unreachable),
        ("nobody's address", udp(NOBODY), |_| (), unreachable),
        ("outside the network", udp([10, 66, 1, 2]), |_| (), drop(NoRoute)),
        ("zero", udp([0, 0, 0, 0]), |_| (), drop(NoRoute)),
        ("loopback", udp([127, 0, 0, 1]), |_| (), drop(NoRoute)),
        ("multicast", udp([224, 0, 0, 251]), |_| (), drop(Multicast)),
        ("multicast, last", udp([239, 255, 255, 255]), |_| (), drop(Multicast)),
        ("broadcast", udp([255; 4]), |_| (), drop(Multicast)),
        ("directed broadcast", udp([10, 66, 0, 255]), |_| (), drop(Multicast)),
        ("network address", udp([10, 66, 0, 0]), |_| (), drop(Multicast)),
        ("itself", udp(A), |_| (), drop(Hairpin)),
        ("TTL 2", udp(B), |f| ttl(f, 2), Verdict::Forward(PORT_B)),
        ("TTL 1", udp(B), |f| ttl(f, 1), expired),
        ("TTL 0", udp(B), |f| ttl(f, 0), expired),
        ("TTL 1, later fragment", udp(B), |f| (f[21] = 1, ttl(f, 1)).1, drop(TtlExceeded)),
        ("TTL 1, first fragment", udp(B), |f| (f[20] = 0x20, ttl(f, 1)).1, expired),
        ("TTL 1, ICMP error", error(B), |f| ttl(f, 1), drop(TtlExceeded)),
        ("TTL 1, ping", echo(B, &[]), |f| ttl(f, 1), expired),
        (
            "TTL 1, ICMP without type",
            udp(B),
            |f| (f[23] = 1, f[16..18].copy_from_slice(&[0, 20]), ttl(f, 1)).2,
            drop(TtlExceeded),
        ),
        ("TTL 1 to nobody", udp(NOBODY), |f| ttl(f, 1), unreachable),
        ("ICMP error to nobody", error(NOBODY), |_| (), drop(NoRoute)),
        ("later fragment to nobody", udp(NOBODY), |f| (f[21] = 1, fix(f)).1, drop(NoRoute)),
        ("TTL 1 to multicast", udp([224, 0, 0, 1]), |f| ttl(f, 1), drop(Multicast)),
        (
            "as big as allowed",
            big(),
            |f| (f[16..18].copy_from_slice(&[0x05, 0xdc]), f.truncate(1514), fix(f)).2,
            Verdict::Forward(PORT_B),
        ),
        ("too big, don't fragment", big(), |_| (), needed),
        ("too big, may be fragmented", big(), |f| (f[20] = 0, fix(f)).1, drop(TooBig)),
        (
            "too big by padding only",
            big(),
            |f| (f[16..18].copy_from_slice(&[0x05, 0xdc]), fix(f)).1,
            drop(TooBig),
        ),
        ("too big ICMP error", big(), |f| (f[23] = 1, f[34] = 11, fix(f)).2, drop(TooBig)),
    ]);
}

/// A TCP packet far above the MTU, which its sender wants cut.
#[test]
fn the_mtu_counts_for_segments() {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(A_MAC, GATEWAY_MAC).ipv4(A, B, 64).tcp(1, 2, 3, 4);
    builder.write(&mut frame, &vec![7; 60_000]).unwrap();
    let needed = Verdict::Originate(IcmpError::FragmentationNeeded { mtu: MTU });
    let to_b = Verdict::Forward(PORT_B);
    type Change = fn(&mut Vec<u8>);
    let cases: [(u16, Change, Verdict); 9] = [
        (1460, |_| (), to_b),
        (1461, |_| (), needed),
        (0, |_| (), needed),
        (1460, |f| f[46] = 0x60, needed),
        (1456, |f| f[46] = 0x60, to_b),
        (1460, |f| f[46] = 0x40, needed),
        (1460, |f| (f[23] = 17, fix(f)).1, needed),
        (1460, |f| (f[20] = 0x20, fix(f)).1, Verdict::Drop(DropReason::TooBig)),
        (1460, |f| (f[22] = 1, fix(f)).1, Verdict::Originate(IcmpError::TimeExceeded)),
    ];
    for (segment_bytes, change, verdict) in cases {
        let mut frame = frame.clone();
        change(&mut frame);
        for header_len in [64, 128] {
            let mut batch = [Packet { segment_bytes, header_len, ..packet(&frame) }];
            let mut limiter = PortLimits::default();
            process(&tables(), Timestamp::default(), PORT_A, &mut batch, &mut limiter);
            assert_eq!(batch[0].verdict, verdict, "{segment_bytes}");
            if verdict == to_b {
                let mut expected = frame.clone();
                expected[..6].copy_from_slice(&B_MAC);
                expected[6..12].copy_from_slice(&GATEWAY_MAC);
                expected[22] = 63;
                fix(&mut expected);
                assert_eq!(batch[0].header, expected[..HEADER_BYTES]);
            }
        }
    }
}

#[test]
fn forwarding_rewrites_only_what_it_must() {
    for words in [0, 1, 10] {
        let mut expected = with_options(udp(B), words);
        let after = run(&expected);
        assert_eq!(after.verdict, Verdict::Forward(PORT_B));
        expected[..6].copy_from_slice(&B_MAC);
        expected[6..12].copy_from_slice(&GATEWAY_MAC);
        expected[22] = 63;
        fix(&mut expected);
        assert_eq!(after.header, expected[..HEADER_BYTES]);
    }
}

/// As somebody would who sums up the header anew, also where the checksum runs over (RFC 1624).
#[test]
fn the_header_checksum_is_right_whatever_it_was() {
    let tables = tables();
    let mut limiter = PortLimits::default();
    for identification in 0..=u16::MAX {
        let mut frame = udp(B);
        frame[18..20].copy_from_slice(&identification.to_be_bytes());
        fix(&mut frame);
        let mut batch = [packet(&frame)];
        process(&tables, Timestamp::default(), PORT_A, &mut batch, &mut limiter);
        assert_eq!(batch[0].verdict, Verdict::Forward(PORT_B));
        let mut expected = batch[0].head()[14..34].to_vec();
        assert_eq!(expected[8], frame[22] - 1);
        expected[10..12].fill(0);
        let sum = checksum::compute(&expected).to_be_bytes();
        assert_eq!(batch[0].head()[24..26], sum, "{identification}");
    }
    // Zero, written as the other zero of one's complement.
    let mut frame = udp(B);
    let zero = (0..=u16::MAX).find(|identification| {
        frame[18..20].copy_from_slice(&identification.to_be_bytes());
        fix(&mut frame);
        frame[24..26] == [0, 0]
    });
    assert!(zero.is_some());
    frame[24..26].fill(0xff);
    let sent = run(&frame);
    assert_eq!(sent.verdict, Verdict::Forward(PORT_B));
    assert!(checksum::verify(&sent.head()[14..34]));
}

#[test]
fn unknown_ingress() {
    for ingress in [PortIndex(0), PortIndex(5), PortIndex(u16::MAX)] {
        let after = run_with(&mut PortLimits::default(), ingress, &udp(B));
        assert_eq!(after.verdict, Verdict::Drop(DropReason::UnknownIngress));
        assert_eq!(after.header, packet(&udp(B)).header);
    }
}

#[test]
fn networks_never_meet() {
    // The same bytes, from the port of the same name in the other network.
    let (red, blue) = (PORT_A, PortIndex(2));
    for (to, from, verdict) in [
        (B, red, Verdict::Forward(PORT_B)),
        (B, blue, Verdict::Originate(IcmpError::HostUnreachable)),
        (BLUE_ONLY, blue, Verdict::Forward(PortIndex(3))),
        (BLUE_ONLY, red, Verdict::Originate(IcmpError::HostUnreachable)),
    ] {
        assert_eq!(run_with(&mut PortLimits::default(), from, &udp(to)).verdict, verdict);
    }
}

#[test]
fn errors_are_limited() {
    let mut limiter = PortLimits { errors: IcmpLimiter::new(1, 2), ..PortLimits::default() };
    let error = Verdict::Originate(IcmpError::HostUnreachable);
    let limited = Verdict::Drop(DropReason::IcmpRateLimited);
    let mut batch = [packet(&udp(NOBODY)); 4];
    let tables = tables();
    process(&tables, Timestamp::default(), PORT_A, &mut batch, &mut limiter);
    assert_eq!(batch.map(|packet| packet.verdict), [error, error, limited, limited]);
    let later = Timestamp::from_nanoseconds(1_000_000_000);
    process(&tables, later, PORT_A, &mut batch, &mut limiter);
    assert_eq!(batch.map(|packet| packet.verdict), [error, limited, limited, limited]);
}

#[test]
fn routes_lead_through_the_stages() {
    let via = |address: [u8; 4]| Some(RouteTarget::Via(Ipv4Addr::from(address).into()));
    let route = |prefix: &str, target| RouteChange { prefix: prefix.parse().unwrap(), target };
    let tables = tables()
        .with_routes(
            NetworkIndex(0),
            &[
                route("0.0.0.0/0", via(B)),
                route("198.51.100.0/24", via(NOBODY)),
                route("198.51.100.128/25", via(B)),
                route("198.51.100.9/32", Some(RouteTarget::Drop)),
                route("203.0.113.0/24", Some(RouteTarget::Unreachable)),
                route("192.0.2.0/24", via(A)),
            ],
        )
        .unwrap();
    let unreachable = Verdict::Originate(IcmpError::HostUnreachable);
    let drop = Verdict::Drop;
    for (to, verdict) in [
        ([8, 8, 8, 8], Verdict::Forward(PORT_B)),
        ([198, 51, 100, 1], unreachable),
        ([198, 51, 100, 200], Verdict::Forward(PORT_B)),
        ([198, 51, 100, 9], drop(DropReason::Blackhole)),
        ([203, 0, 113, 1], unreachable),
        ([192, 0, 2, 1], drop(DropReason::Hairpin)),
        ([127, 0, 0, 1], drop(DropReason::NoRoute)),
        ([0, 0, 0, 0], drop(DropReason::NoRoute)),
        ([240, 0, 0, 1], drop(DropReason::NoRoute)),
        ([224, 0, 0, 1], drop(DropReason::Multicast)),
        ([255; 4], drop(DropReason::Multicast)),
        (NOBODY, unreachable),
        (B, Verdict::Forward(PORT_B)),
    ] {
        let mut batch = [packet(&udp(to))];
        let mut limiter = PortLimits::default();
        process(&tables, Timestamp::default(), PORT_A, &mut batch, &mut limiter);
        assert_eq!(batch[0].verdict, verdict, "{to:?}");
        // The other network has its own routes: none.
        let mut batch = [packet(&udp(to))];
        process(&tables, Timestamp::default(), PortIndex(2), &mut batch, &mut limiter);
        assert!(!matches!(batch[0].verdict, Verdict::Forward(_)), "{to:?}");
    }
}
