//! IPv6 and Neighbor Discovery.

use super::*;
use crate::Ipv6Network;
use core::net::Ipv6Addr;
use std::string::ToString;
use vrouter_net::nd::Message;
use vrouter_net::{icmpv6, ipv6};

fn address(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

const GW6: &str = "fd00:66::1";
const A6: &str = "fd00:66::a";
const B6: &str = "fd00:66::b";
const NOBODY6: &str = "fd00:66::77";
/// A link-local address of the pod, and the gateway's.
const A_LINK: &str = "fe80::a";
const GW_LINK: &str = "fe80::ff:fe00:fe";

fn policy6() -> Policy {
    let mut policy = policy();
    policy.networks[0].ipv6 =
        Some(Ipv6Network { prefix: "fd00:66::/64".parse().unwrap(), gateway: address(GW6) });
    policy.ports[0].ipv6 = Some(address(A6));
    policy.ports[1].ipv6 = Some(address(B6));
    policy
}

fn tables6() -> Tables {
    let via = |prefix: &str, target| RouteChange { prefix: prefix.parse().unwrap(), target };
    let b = Some(RouteTarget::Via(address(B6).into()));
    Tables::build(&policy6())
        .unwrap()
        .with_routes(
            NetworkIndex(0),
            &[
                via("2001:db8::/32", b.clone()),
                via("2001:db8:1::/48", Some(RouteTarget::Unreachable)),
                via("2001:db8:2::/48", Some(RouteTarget::Drop)),
                via("2001:db8:3::/48", Some(RouteTarget::Via(address("fd00:66::c").into()))),
                // An address on the link that is behind a pod.
                via("fd00:66::99/128", b),
            ],
        )
        .unwrap()
}

fn run6(frame: &[u8]) -> Packet {
    let mut batch = [packet(frame)];
    let mut limits = PortLimits::default();
    process(&tables6(), Timestamp::default(), PORT_A, &mut batch, &mut limits);
    batch[0]
}

fn udp6(to: &str) -> Vec<u8> {
    from_to(A6, to, 64)
}

pub(super) fn from_to(from: &str, to: &str, hop_limit: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let (from, to) = (address(from).octets(), address(to).octets());
    let builder =
        PacketBuilder::ethernet2(A_MAC, GATEWAY_MAC).ipv6(from, to, hop_limit).udp(1000, 2000);
    builder.write(&mut frame, &[0x5a; 200]).unwrap();
    frame
}

fn ping6(from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let (from, to) = (address(from).octets(), address(to).octets());
    let builder =
        PacketBuilder::ethernet2(A_MAC, GATEWAY_MAC).ipv6(from, to, 7).icmpv6_echo_request(5, 6);
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// A Neighbor Discovery message with whatever its type and bytes say.
pub(super) fn discovery(
    from: &str,
    to: &str,
    kind: u8,
    target: &str,
    option: Option<(u8, [u8; 6])>,
) -> Vec<u8> {
    let (from, to) = (address(from), address(to));
    let mut message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &address(target).octets()].concat();
    if let Some((kind, mac)) = option {
        message.extend([kind, 1]);
        message.extend(mac);
    }
    let sum = icmpv6::compute(from, to, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0; 54];
    let group = if to.is_multicast() { ipv6::group_mac(to).octets() } else { GATEWAY_MAC };
    frame[..6].copy_from_slice(&group);
    frame[6..12].copy_from_slice(&A_MAC);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    let length = u16::try_from(message.len()).unwrap();
    let header: &mut [u8; 40] = frame.last_chunk_mut().unwrap();
    let protocol = vrouter_net::ipv4::Protocol::ICMPV6;
    ipv6::Header::of(header).write(length, protocol, 255, from, to);
    frame.extend(message);
    frame
}

fn solicitation(from: &str, target: &str) -> Vec<u8> {
    let group = ipv6::solicited_node(address(target)).to_string();
    let option = (from != "::").then_some((1, A_MAC));
    discovery(from, &group, 135, target, option)
}

/// Makes the ICMPv6 checksum right again after a change.
fn fix6(frame: &mut [u8]) {
    let header = ipv6::Header::of(frame[14..].first_chunk::<40>().unwrap());
    let (from, to) = (header.source(), header.destination());
    frame[56..58].fill(0);
    let sum = icmpv6::compute(from, to, &frame[54..]);
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
}

fn check6(cases: &[(&str, Vec<u8>, Change, Verdict)]) {
    for (name, frame, change, verdict) in cases {
        let mut frame = frame.clone();
        change(&mut frame);
        let before = packet(&frame);
        let after = run6(&frame);
        assert_eq!(after.verdict, *verdict, "{name}");
        if matches!(verdict, Verdict::Drop(_) | Verdict::Originate(_)) {
            assert_eq!(after.header, before.header, "{name}");
        }
        assert_eq!((after.header_len, after.frame_len), (before.header_len, before.frame_len));
    }
}

/// Puts destination options of 8 bytes behind the header.
fn with_extension(mut frame: Vec<u8>, kind: u8) -> Vec<u8> {
    let next = std::mem::replace(&mut frame[20], kind);
    frame.splice(54..54, [next, 0, 0, 0, 0, 0, 0, 0]);
    let length = u16::try_from(frame.len() - 54).unwrap();
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame
}

#[test]
fn forwarding_rules() {
    use DropReason::*;
    let drop = Verdict::Drop;
    let to_b = Verdict::Forward(PORT_B);
    let unreachable = Verdict::Originate(IcmpError::HostUnreachable);
    let no_route = Verdict::Originate(IcmpError::NetworkUnreachable);
    let expired = Verdict::Originate(IcmpError::TimeExceeded);
    check6(&[
        ("as it should be", udp6(B6), |_| (), to_b),
        (
            "any traffic class and flow label",
            udp6(B6),
            |f| f[14..18].copy_from_slice(&[0x6f, 0xff, 0xff, 0xff]),
            to_b,
        ),
        ("routed", udp6("2001:db8:9::1"), |_| (), to_b),
        ("routed to nobody", udp6("2001:db8:1::1"), |_| (), unreachable),
        ("routed to a drop", udp6("2001:db8:2::1"), |_| (), drop(Blackhole)),
        ("routed via nobody", udp6("2001:db8:3::1"), |_| (), unreachable),
        ("not routed", udp6("2001:db9::1"), |_| (), no_route),
        ("nobody", udp6(NOBODY6), |_| (), unreachable),
        ("anycast", udp6("fd00:66::"), |_| (), drop(NoRoute)),
        ("loopback", udp6("::1"), |_| (), drop(NoRoute)),
        ("IPv4-compatible", udp6("::10.66.0.3"), |_| (), drop(NoRoute)),
        ("link-local", udp6("fe80::b"), |_| (), drop(NoRoute)),
        ("group", udp6("ff0e::1"), |_| (), drop(Multicast)),
        ("itself", udp6(A6), |_| (), drop(Hairpin)),
        ("hop limit 2", from_to(A6, B6, 2), |_| (), to_b),
        ("hop limit 1", from_to(A6, B6, 1), |_| (), expired),
        ("hop limit 0", from_to(A6, B6, 0), |_| (), expired),
        ("hop limit 1 to nobody", from_to(A6, NOBODY6, 1), |_| (), unreachable),
        ("source of b", from_to(B6, A6, 64), |_| (), drop(SourceIp)),
        ("source unspecified", from_to("::", B6, 64), |_| (), drop(SourceIp)),
        ("source link-local", from_to(A_LINK, B6, 64), |_| (), drop(SourceIp)),
        ("source a group", from_to("ff0e::1", B6, 64), |_| (), drop(SourceIp)),
        ("source MAC of b", udp6(B6), |f| f[11] = 0xb, drop(SourceMac)),
        ("to b's MAC", udp6(B6), |f| f[5] = 0xb, drop(NotForGatewayMac)),
        (
            "to a group MAC",
            udp6("ff02::fb"),
            |f| f[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 0xfb]),
            drop(Multicast),
        ),
        ("to the broadcast MAC", udp6(B6), |f| f[..6].fill(0xff), drop(Multicast)),
        ("version 4", udp6(B6), |f| f[14] = 0x40, drop(MalformedIpv6)),
        ("payload above frame", udp6(B6), |f| f.truncate(14 + 40 + 207), drop(MalformedIpv6)),
        ("header cut off", udp6(B6), |f| f.truncate(53), drop(RuntFrame)),
        ("header only", udp6(B6), |f| (f[20] = 59, f[18..20].fill(0), f.truncate(54)).2, to_b),
        ("padding", udp6(B6), |f| f.extend([0; 40]), to_b),
        ("options", with_extension(udp6(B6), 60), |_| (), to_b),
        ("hop-by-hop options", with_extension(udp6(B6), 0), |_| (), to_b),
        ("fragment", with_extension(udp6(B6), 44), |_| (), to_b),
        ("later fragment", with_extension(udp6(B6), 44), |f| f[57] = 8, to_b),
    ]);
    // In a network without IPv6 nothing of it passes.
    let mut batch = [packet(&udp6(B6))];
    process(&tables(), Timestamp::default(), PORT_A, &mut batch, &mut PortLimits::default());
    assert_eq!(batch[0].verdict, drop(UnsupportedEthertype));
}

#[test]
fn errors_are_not_answered_with_errors() {
    use DropReason::*;
    let drop = Verdict::Drop;
    let unreachable = Verdict::Originate(IcmpError::HostUnreachable);
    check6(&[
        ("ping", ping6(A6, NOBODY6, &[]), |_| (), unreachable),
        ("error", ping6(A6, NOBODY6, &[]), |f| f[54] = 1, drop(NoRoute)),
        ("last error type", ping6(A6, NOBODY6, &[]), |f| f[54] = 127, drop(NoRoute)),
        (
            "error behind options",
            with_extension(ping6(A6, NOBODY6, &[]), 60),
            |f| f[62] = 3,
            drop(NoRoute),
        ),
        ("ping behind options", with_extension(ping6(A6, NOBODY6, &[]), 60), |_| (), unreachable),
        (
            "first fragment of a ping",
            with_extension(ping6(A6, NOBODY6, &[]), 44),
            |f| f[57] = 1,
            unreachable,
        ),
        (
            "later fragment of ICMP",
            with_extension(ping6(A6, NOBODY6, &[]), 44),
            |f| f[57] = 8,
            drop(NoRoute),
        ),
        ("later fragment of UDP", with_extension(udp6(NOBODY6), 44), |f| f[57] = 8, unreachable),
        (
            "options beyond what is seen",
            with_extension(udp6(NOBODY6), 60),
            |f| f[54..56].copy_from_slice(&[60, 9]),
            drop(NoRoute),
        ),
        (
            "ICMP without type",
            ping6(A6, NOBODY6, &[]),
            |f| (f[18..20].fill(0), f.truncate(54)).1,
            drop(NoRoute),
        ),
    ]);
}

#[test]
fn forwarding_rewrites_only_what_it_must() {
    for frame in [udp6(B6), with_extension(udp6(B6), 60), udp6("2001:db8:9::1")] {
        for header_len in [64, 128] {
            let mut batch = [Packet { header_len, ..packet(&frame) }];
            let outcome = process(
                &tables6(),
                Timestamp::default(),
                PORT_A,
                &mut batch,
                &mut PortLimits::default(),
            );
            assert_eq!(batch[0].verdict, Verdict::Forward(PORT_B));
            assert_eq!(outcome.all_to, Some(PORT_B));
            let mut expected = frame.clone();
            expected[..6].copy_from_slice(&B_MAC);
            expected[6..12].copy_from_slice(&GATEWAY_MAC);
            expected[21] = 63;
            assert_eq!(batch[0].header, expected[..HEADER_BYTES]);
        }
    }
}

#[test]
fn mtu_and_segments() {
    let tcp = |payload: usize| {
        let mut frame = Vec::new();
        let (from, to) = (address(A6).octets(), address(B6).octets());
        let builder =
            PacketBuilder::ethernet2(A_MAC, GATEWAY_MAC).ipv6(from, to, 64).tcp(1, 2, 3, 4);
        builder.write(&mut frame, &vec![7; payload]).unwrap();
        frame
    };
    let needed = Verdict::Originate(IcmpError::FragmentationNeeded { mtu: MTU });
    let to_b = Verdict::Forward(PORT_B);
    for (payload, padding, segment_bytes, verdict) in [
        (1440, 0, 0, to_b),
        (1441, 0, 0, needed),
        (1440, 1, 0, Verdict::Drop(DropReason::TooBig)),
        (60_000, 0, 0, needed),
        (60_000, 0, 1440, to_b),
        (60_000, 0, 1441, needed),
    ] {
        let mut frame = tcp(payload);
        frame.extend(vec![0; padding]);
        let mut batch = [Packet { segment_bytes, ..packet(&frame) }];
        process(&tables6(), Timestamp::default(), PORT_A, &mut batch, &mut PortLimits::default());
        assert_eq!(batch[0].verdict, verdict, "{payload} {segment_bytes}");
        if verdict == to_b {
            assert_eq!((batch[0].header[21], batch[0].header[5]), (63, 0xb));
        }
    }
    // UDP is not cut.
    let mut batch = [Packet { segment_bytes: 100, ..packet(&tcp(60_000)) }];
    batch[0].header[20] = 17;
    process(&tables6(), Timestamp::default(), PORT_A, &mut batch, &mut PortLimits::default());
    assert_eq!(batch[0].verdict, needed);
}

#[test]
fn the_gateway_answers_pings() {
    use DropReason::*;
    let drop = Verdict::Drop;
    let payload = vec![0xa7; 300];
    for (from, to) in [(A6, GW6), (A6, GW_LINK), (A_LINK, GW6), (A_LINK, GW_LINK)] {
        let frame = ping6(from, to, &payload);
        let after = run6(&frame);
        assert_eq!(after.verdict, Verdict::Reply, "{from} to {to}");
        let mut answer = frame.clone();
        answer[..after.head().len()].copy_from_slice(after.head());
        let sliced = SlicedPacket::from_ethernet(&answer).unwrap();
        let Some(LinkSlice::Ethernet2(link)) = sliced.link else { panic!("no link") };
        assert_eq!((link.destination(), link.source()), (A_MAC, GATEWAY_MAC));
        let Some(NetSlice::Ipv6(ip)) = sliced.net else { panic!("not IPv6") };
        let ip = ip.header().to_header();
        assert_eq!((ip.source, ip.destination), (address(to).octets(), address(from).octets()));
        assert_eq!(ip.hop_limit, 64);
        let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else { panic!("not ICMPv6") };
        let expected = etherparse::IcmpEchoHeader { id: 5, seq: 6 };
        assert_eq!(icmp.icmp_type(), etherparse::Icmpv6Type::EchoReply(expected));
        assert!(icmp.is_checksum_valid(ip.source, ip.destination));
        assert_eq!(icmp.payload(), payload);
    }
    check6(&[
        ("UDP", udp6(GW6), |_| (), drop(GatewayUnhandled)),
        ("echo reply", ping6(A6, GW6, &[]), |f| f[54] = 129, drop(GatewayUnhandled)),
        ("code", ping6(A6, GW6, &[]), |f| f[55] = 1, drop(GatewayUnhandled)),
        ("behind options", with_extension(ping6(A6, GW6, &[]), 60), |_| (), drop(GatewayUnhandled)),
        (
            "fragment",
            with_extension(ping6(A6, GW6, &[]), 44),
            |f| f[57] = 1,
            drop(GatewayUnhandled),
        ),
        ("7 bytes", ping6(A6, GW6, &[]), |f| (f[19] = 7, f.truncate(61)).1, drop(GatewayUnhandled)),
        ("above the MTU", ping6(A6, GW6, &[0; 1453]), |_| (), drop(TooBig)),
        ("source of b", ping6(B6, GW6, &[]), |_| (), drop(SourceIp)),
        ("hop limit 1", ping6(A6, GW6, &[]), |f| f[21] = 1, Verdict::Reply),
    ]);
}

#[test]
fn neighbor_discovery_rules() {
    use DropReason::*;
    let drop = Verdict::Drop;
    let own = Some((1, A_MAC));
    check6(&[
        ("gateway", solicitation(A6, GW6), |_| (), Verdict::Reply),
        ("gateway's link-local", solicitation(A6, GW_LINK), |_| (), Verdict::Reply),
        ("from link-local", solicitation(A_LINK, GW6), |_| (), Verdict::Reply),
        ("unicast", discovery(A6, GW6, 135, GW6, None), |_| (), Verdict::Reply),
        ("other pod", solicitation(A6, B6), |_| (), Verdict::Reply),
        ("address behind a pod", solicitation(A6, "fd00:66::99"), |_| (), Verdict::Reply),
        ("routed address elsewhere", solicitation(A6, "2001:db8:9::1"), |_| (), drop(NdUnanswered)),
        ("nobody", solicitation(A6, NOBODY6), |_| (), drop(NdUnanswered)),
        ("own address", solicitation(A6, A6), |_| (), drop(NdUnanswered)),
        ("probe of own address", solicitation("::", A6), |_| (), drop(NdUnanswered)),
        ("probe of b's address", solicitation("::", B6), |_| (), drop(NdUnanswered)),
        ("probe of a link-local address", solicitation("::", A_LINK), |_| (), drop(NdUnanswered)),
        ("probe of the gateway's", solicitation("::", GW6), |_| (), Verdict::Reply),
        (
            "probe that names a MAC",
            discovery("::", "ff02::1:ff00:1", 135, GW6, own),
            |_| (),
            drop(NdSpoof),
        ),
        ("from b's address", solicitation(B6, GW6), |_| (), drop(NdSpoof)),
        ("from the gateway's", solicitation(GW6, B6), |_| (), drop(NdSpoof)),
        ("from the gateway's link-local", solicitation(GW_LINK, B6), |_| (), drop(NdSpoof)),
        (
            "with b's MAC",
            discovery(A6, "ff02::1:ff00:1", 135, GW6, Some((1, B_MAC))),
            |_| (),
            drop(NdSpoof),
        ),
        (
            "advertisement of its own",
            discovery(A6, "ff02::1", 136, A6, Some((2, A_MAC))),
            |_| (),
            drop(NdUnanswered),
        ),
        (
            "advertisement of b's",
            discovery(A6, "ff02::1", 136, B6, Some((2, A_MAC))),
            |_| (),
            drop(NdSpoof),
        ),
        (
            "advertisement with b's MAC",
            discovery(A6, "ff02::1", 136, A6, Some((2, B_MAC))),
            |_| (),
            drop(NdSpoof),
        ),
        (
            "router solicitation",
            discovery(A_LINK, "ff02::2", 133, "::", None),
            |_| (),
            drop(MalformedNd),
        ),
        (
            "router advertisement",
            discovery(A_LINK, "ff02::1", 134, "::", None),
            |_| (),
            drop(NdSpoof),
        ),
        ("router advertisement to b", discovery(A6, B6, 134, "::", None), |_| (), drop(NdSpoof)),
        ("redirect", discovery(A_LINK, A6, 137, "::", None), |_| (), drop(NdSpoof)),
        ("forwarded", solicitation(A6, GW6), |f| f[21] = 254, drop(MalformedNd)),
        ("checksum", solicitation(A6, GW6), |f| f[56] ^= 1, drop(MalformedNd)),
        ("code", solicitation(A6, GW6), |f| (f[55] = 1, fix6(f)).1, drop(MalformedNd)),
        (
            "option of no length",
            solicitation(A6, GW6),
            |f| (f[79] = 0, fix6(f)).1,
            drop(MalformedNd),
        ),
        ("target a group", solicitation(A6, GW6), |f| (f[62] = 0xff, fix6(f)).1, drop(MalformedNd)),
        (
            "not seen whole",
            solicitation(A6, GW6),
            |f| (f[18..20].copy_from_slice(&[0, 200]), f.resize(300, 0)).1,
            drop(MalformedNd),
        ),
        (
            "to b's MAC",
            discovery(A6, B6, 135, B6, own),
            |f| f[..6].copy_from_slice(&B_MAC),
            drop(NotForGatewayMac),
        ),
    ]);
    // With well-formed options, a router solicitation is only not answered.
    let mut frame = discovery(A_LINK, "ff02::2", 133, "::", None);
    frame.truncate(62);
    frame[18..20].copy_from_slice(&[0, 8]);
    fix6(&mut frame);
    assert_eq!(run6(&frame).verdict, drop(NdUnanswered));
}

#[test]
fn advertisements_say_where_to_send() {
    for (from, target, pad, flags, told) in [
        (A6, GW6, 0, 0xe0, A6),
        (A_LINK, GW_LINK, 0, 0xe0, A_LINK),
        (A6, B6, 0, 0x40, A6),
        (A6, GW6, 20, 0xe0, A6),
        ("::", GW6, 0, 0xa0, "ff02::1"),
    ] {
        let mut frame = solicitation(from, target);
        frame.resize(frame.len() + pad, 0);
        let after = run6(&frame);
        assert_eq!(after.verdict, Verdict::Reply);
        assert_eq!(after.head().len(), frame.len());
        let sliced = SlicedPacket::from_ethernet(after.head()).unwrap();
        let Some(LinkSlice::Ethernet2(link)) = sliced.link else { panic!("no link") };
        let to = if from == "::" { [0x33, 0x33, 0, 0, 0, 1] } else { A_MAC };
        assert_eq!((link.destination(), link.source()), (to, GATEWAY_MAC));
        let Some(NetSlice::Ipv6(ip)) = sliced.net else { panic!("not IPv6") };
        let ip = ip.header().to_header();
        assert_eq!((ip.source, ip.destination), (address(target).octets(), address(told).octets()));
        let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else { panic!("not ICMPv6") };
        assert!(icmp.is_checksum_valid(ip.source, ip.destination));
        assert_eq!(icmp.slice()[4], flags, "{target}");
        let mac = (from != "::").then_some(Mac::new(GATEWAY_MAC));
        let message = Message::NeighborAdvertisement(address(target), mac);
        assert_eq!(Message::parse(icmp.slice()), Ok(Some(message)));
    }
}

#[test]
fn icmp_error_quotes_the_packet_to_its_sender() {
    for (frame, pad) in [(udp6(NOBODY6), 0), (udp6(NOBODY6), 9), (from_to(A6, B6, 1), 0)] {
        for header_len in [64, 128] {
            let mut frame = frame.clone();
            frame.resize(frame.len() + pad, 0xee);
            let mut batch = [Packet { header_len, ..packet(&frame) }];
            let tables = tables6();
            process(&tables, Timestamp::default(), PORT_A, &mut batch, &mut PortLimits::default());
            let Verdict::Originate(kind) = batch[0].verdict else { panic!("{:?}", batch[0]) };
            let mut out = [0; ICMP_ERROR_BYTES];
            let bytes = icmp_error(&tables, PORT_A, &batch[0], kind, &mut out).unwrap();
            assert_eq!(bytes, 62 + usize::from(header_len) - 14);
            check_error6(&out[..bytes], &frame);
            assert_eq!(icmp_error(&tables, PORT_A, &batch[0], kind, &mut out[..bytes - 1]), None);
        }
    }
}

/// A whole ICMPv6 error frame from the gateway that quotes the start of `original`.
fn check_error6(frame: &[u8], original: &[u8]) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(LinkSlice::Ethernet2(link)) = sliced.link else { panic!("no link") };
    assert_eq!((link.destination(), link.source()), (A_MAC, GATEWAY_MAC));
    let Some(NetSlice::Ipv6(ip)) = sliced.net else { panic!("not IPv6") };
    let ip = ip.header().to_header();
    assert_eq!(ip.source, address(GW6).octets());
    assert_eq!(ip.destination, original[22..38]);
    let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else { panic!("not ICMPv6") };
    assert!(matches!(icmp.type_u8(), 1..=3));
    assert!(icmp.is_checksum_valid(ip.source, ip.destination));
    assert!(original[14..].starts_with(icmp.payload()) && icmp.payload().len() >= 40);
}

#[test]
fn a_pod_may_route_for_others() {
    let mut policy = policy6();
    policy.ports[0].allowed =
        vec!["2001:db8:a::/48".parse().unwrap(), "192.0.2.0/24".parse().unwrap()];
    let tables = Tables::build(&policy).unwrap();
    let verdict = |frame: &[u8]| {
        let mut batch = [packet(frame)];
        process(&tables, Timestamp::default(), PORT_A, &mut batch, &mut PortLimits::default());
        batch[0]
    };
    let mut four = udp(B);
    four[26..30].copy_from_slice(&[192, 0, 2, 9]);
    fix(&mut four);
    let spoof = Verdict::Drop(DropReason::SourceIp);
    for (frame, expected) in [
        (udp(B), Verdict::Forward(PORT_B)),
        (four.clone(), Verdict::Forward(PORT_B)),
        (udp6(B6), Verdict::Forward(PORT_B)),
        (from_to("2001:db8:a::9", B6, 64), Verdict::Forward(PORT_B)),
        (from_to("2001:db8:b::9", B6, 64), spoof),
        (ping6("2001:db8:a::9", GW6, &[]), Verdict::Reply),
    ] {
        assert_eq!(verdict(&frame).verdict, expected);
    }
    // Errors go to who sent the packet.
    four[22] = 1;
    fix(&mut four);
    let after = verdict(&four);
    let Verdict::Originate(kind) = after.verdict else { panic!("{:?}", after.verdict) };
    let mut out = [0; ICMP_ERROR_BYTES];
    icmp_error(&tables, PORT_A, &after, kind, &mut out).unwrap();
    assert_eq!((out[..6] == A_MAC, &out[30..34]), (true, &[192, 0, 2, 9][..]));
    four[29] = 0;
    four[28] = 3;
    fix(&mut four);
    assert_eq!(verdict(&four).verdict, spoof);
}

/// Good frames with some bytes changed and lengths that may lie.
#[test]
fn any_bytes_and_lengths_are_safe_and_never_spoof() {
    let tables = tables6();
    let templates = [
        udp6(B6),
        with_extension(udp6("2001:db8:9::1"), 60),
        ping6(A6, GW6, &[3; 60]),
        ping6(A_LINK, GW_LINK, &[]),
        with_extension(udp6(NOBODY6), 44),
        solicitation(A6, GW6),
        solicitation("::", GW6),
        solicitation(A6, B6),
    ];
    type Input = (u8, [(u8, u8); 3], u8, bool, Option<u16>, Option<u16>);
    bolero::check!().with_type().for_each(
        |(template, changes, changed, fix, header_len, frame_len): &Input| {
            let mut frame = templates[usize::from(template % 8)].clone();
            for (at, byte) in changes.iter().take(usize::from(changed % 4)) {
                let at = usize::from(at % 96).min(frame.len() - 1);
                frame[at] = *byte;
            }
            if *fix {
                fix6(&mut frame);
            }
            let mut before = packet(&frame);
            before.header_len = header_len.unwrap_or(before.header_len);
            before.frame_len = frame_len.map_or(before.frame_len, u32::from);
            let mut batch = [before];
            process(&tables, Timestamp::default(), PORT_A, &mut batch, &mut PortLimits::default());
            let [after] = batch;
            let valid = before.head().len();
            assert_eq!(after.header[valid..], before.header[valid..]);
            match after.verdict {
                Verdict::Punt(..) => panic!("no kernel here"),
                Verdict::Forward(port) => {
                    assert_eq!(port, PORT_B);
                    let is_six = before.header[12] == 0x86;
                    let source =
                        if is_six { &before.header[22..38] } else { &before.header[26..30] };
                    let own: &[u8] = if is_six { &address(A6).octets() } else { &A };
                    assert_eq!(source, own);
                    assert!(after.frame_len <= u32::from(MTU) + 14);
                    if is_six {
                        assert_eq!(after.header[21] + 1, before.header[21]);
                        assert_eq!(after.header[22..], before.header[22..]);
                    }
                    assert_eq!(after.header[..12], [B_MAC, GATEWAY_MAC].concat());
                }
                Verdict::Reply => assert_eq!(after.header[6..12], GATEWAY_MAC),
                Verdict::Encapsulate(_) | Verdict::Decapsulate(_) => panic!("no tunnels here"),
                Verdict::Flood(_) | Verdict::FloodInside(..) => panic!("nothing is repeated"),
                Verdict::Drop(_) | Verdict::Originate(_) => {
                    assert_eq!(after.header, before.header);
                }
            }
            for kind in [IcmpError::HostUnreachable, IcmpError::FragmentationNeeded { mtu: 1280 }] {
                let mut out = [0; ICMP_ERROR_BYTES];
                let written = icmp_error(&tables, PORT_A, &after, kind, &mut out);
                assert!(written.is_some() || !matches!(after.verdict, Verdict::Originate(_)));
            }
        },
    );
}
