//! Packets that go into tunnels and come out of them. What is sent is read by etherparse.

use super::six::discovery;
use super::*;
use crate::{Flood, Ipv6Network, Tunnel, Vtep};
use core::net::{IpAddr, Ipv6Addr};
use vrouter_net::vxlan::Vni;

/// The network that carries the others' packets.
pub(super) const FABRIC: NetworkIndex = NetworkIndex(2);
pub(super) const VTEP: [u8; 4] = [192, 0, 2, 9];
pub(super) const REMOTE: [u8; 4] = [192, 0, 2, 2];
pub(super) const REMOTE_MAC: [u8; 6] = [2, 0, 0, 0, 9, 2];
pub(super) const FABRIC_MAC: [u8; 6] = [2, 0, 0, 0, 9, 0xfe];
pub(super) const REMOTE_PORT: PortIndex = PortIndex(30);
pub(super) const VNI: u32 = 0x12_3456;
const FAR: [u8; 4] = [20, 0, 0, 1];

pub(super) fn six(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, last)
}

pub(super) fn inner6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x66, 0, 0, 0, 0, 0, last)
}

/// The first network with a tunnel from `local`; the third is its underlay.
pub(super) fn tunnelled(local: IpAddr) -> Policy {
    let mut policy = policy();
    let mut fabric = policy.networks[0];
    fabric.index = FABRIC;
    fabric.prefix = "192.0.2.0/24".parse().unwrap();
    fabric.gateway = [192, 0, 2, 1].into();
    fabric.gateway_mac = Mac::new(FABRIC_MAC);
    let (prefix, gateway) = ("2001:db8:9::/64".parse().unwrap(), six(1));
    fabric.ipv6 = Some(Ipv6Network { prefix, gateway });
    policy.networks.push(fabric);
    let vni = Vni::new(VNI).unwrap();
    policy.networks[0].tunnel =
        Some(Tunnel { vni: Some(vni), label: None, ipip: false, underlay: FABRIC, local });
    let (prefix, gateway) = ("fd00:66::/64".parse().unwrap(), inner6(1));
    policy.networks[0].ipv6 = Some(Ipv6Network { prefix, gateway });
    policy.ports[0].ipv6 = Some(inner6(0xa));
    policy.ports[1].ipv6 = Some(inner6(0xb));
    policy.ports.push(PortPolicy {
        index: REMOTE_PORT,
        network: FABRIC,
        mac: Mac::new(REMOTE_MAC),
        ipv4: REMOTE.into(),
        ipv6: Some(six(2)),
        allowed: Vec::new(),
        trunk: false,
        rates: Rates::default(),
        role: Default::default(),
        mtu: None,
    });
    policy
}

pub(super) fn route(prefix: &str, address: IpAddr, mac: Option<Mac>) -> RouteChange {
    let target = Some(RouteTarget::Vxlan(Vtep { address, mac }));
    RouteChange { prefix: prefix.parse().unwrap(), target }
}

/// The two ends of the tunnel, over either family.
pub(super) fn ends() -> [(IpAddr, IpAddr); 2] {
    [(VTEP.into(), REMOTE.into()), (six(9).into(), six(2).into())]
}

fn over(ends: (IpAddr, IpAddr)) -> Tables {
    let routes = [
        route("20.0.0.0/8", ends.1, None),
        route("2001:db8:20::/48", ends.1, None),
        route("20.1.0.0/16", ends.1, Some(Mac::new([2, 7, 7, 7, 7, 7]))),
    ];
    let tables = Tables::build(&tunnelled(ends.0)).unwrap();
    tables.with_routes(NetworkIndex(0), &routes).unwrap()
}

/// What becomes of a packet by itself, which is what becomes of it among others of its kind.
fn run_on(tables: &Tables, ingress: PortIndex, frame: &[u8]) -> (Packet, Option<PortIndex>) {
    let [alone, many] = [1, 5].map(|packets| {
        let mut batch = vec![packet(frame); packets];
        let mut limits = PortLimits::default();
        let outcome = process(tables, Timestamp::default(), ingress, &mut batch, &mut limits);
        (batch, outcome)
    });
    assert_eq!(many.1, alone.1);
    for packet in many.0 {
        assert_eq!(sent(&packet, frame), sent(&alone.0[0], frame));
        assert_eq!(packet.verdict, alone.0[0].verdict);
    }
    (alone.0[0], alone.1.all_to)
}

/// The frame that leaves.
pub(super) fn sent(packet: &Packet, frame: &[u8]) -> Vec<u8> {
    let head = packet.sent_head();
    let start = packet.removed();
    let end = start + packet.frame_len as usize;
    [packet.outer(), head, &frame[start + head.len()..end]].concat()
}

fn udp6(to: Ipv6Addr) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(A_MAC, GATEWAY_MAC)
        .ipv6(inner6(0xa).octets(), to.octets(), 64)
        .udp(1000, 2000)
        .write(&mut frame, &[0x5a; 200])
        .unwrap();
    frame
}

/// What a tunnel's other end sends: `inner` in a packet to `to`.
pub(super) fn encapsulated((to, from): (IpAddr, IpAddr), vni: u32, inner: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    let payload = [&[8, 0, 0, 0, a, b, c, 0][..], inner].concat();
    let link = PacketBuilder::ethernet2(REMOTE_MAC, FABRIC_MAC);
    let mut frame = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link
            .ipv4(from.octets(), to.octets(), 64)
            .udp(50_000, 4789)
            .write(&mut frame, &payload)
            .unwrap(),
        (IpAddr::V6(from), IpAddr::V6(to)) => link
            .ipv6(from.octets(), to.octets(), 64)
            .udp(50_000, 4789)
            .write(&mut frame, &payload)
            .unwrap(),
        _ => unreachable!("two families"),
    }
    frame
}

/// A frame from behind the tunnel to port B.
fn inward() -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 8, 8, 8, 8, 8], GATEWAY_MAC)
        .ipv4(FAR, B, 64)
        .udp(1000, 2000)
        .write(&mut frame, &[0xa5; 200])
        .unwrap();
    frame
}

fn inward6() -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 8, 8, 8, 8, 8], GATEWAY_MAC)
        .ipv6(six(77).octets(), inner6(0xb).octets(), 64)
        .udp(1000, 2000)
        .write(&mut frame, &[0xa5; 200])
        .unwrap();
    frame
}

#[test]
fn what_goes_in_is_right_to_the_byte() {
    let far6 = Ipv6Addr::new(0x2001, 0xdb8, 0x20, 0, 0, 0, 0, 1);
    for (ends, outer_bytes) in ends().into_iter().zip([50, 70]) {
        let tables = over(ends);
        let mut short = udp(FAR);
        short.truncate(42);
        short[16..18].copy_from_slice(&[0, 28]);
        fix(&mut short);
        let other_mac = udp([20, 1, 0, 1]);
        let options = with_options(udp(FAR), 3);
        let mut marked = udp(FAR);
        marked[15] = 2;
        fix(&mut marked);
        for frame in [udp(FAR), short, other_mac, options, marked, udp6(far6)] {
            let (after, all_to) = run_on(&tables, PORT_A, &frame);
            assert_eq!(after.verdict, Verdict::Encapsulate(REMOTE_PORT));
            assert_eq!(all_to, Some(REMOTE_PORT));
            assert_eq!(after.outer().len(), outer_bytes);
            let sent = sent(&after, &frame);
            let sliced = SlicedPacket::from_ethernet(&sent).unwrap();
            let Some(LinkSlice::Ethernet2(link)) = sliced.link else { panic!("no link") };
            assert_eq!((link.destination(), link.source()), (REMOTE_MAC, FABRIC_MAC));
            let ecn = match sliced.net {
                Some(NetSlice::Ipv4(ip)) => {
                    let ip = ip.header().to_header();
                    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                    assert_eq!((ends.0, ends.1), (ip.source.into(), ip.destination.into()));
                    assert_eq!(usize::from(ip.total_len) + 14, sent.len());
                    ip.ecn.value()
                }
                Some(NetSlice::Ipv6(ip)) => {
                    let ip = ip.header().to_header();
                    assert_eq!((ends.0, ends.1), (ip.source.into(), ip.destination.into()));
                    assert_eq!(usize::from(ip.payload_length) + 54, sent.len());
                    ip.traffic_class & 3
                }
                _ => panic!("no IP"),
            };
            assert_eq!(ecn, frame[15] & if frame[12] == 8 { 3 } else { 0 });
            let Some(TransportSlice::Udp(datagram)) = sliced.transport else { panic!("not UDP") };
            assert_eq!((datagram.destination_port(), datagram.checksum()), (4789, 0));
            assert!(datagram.source_port() >= 49_152);
            let (vxlan, inner) = datagram.payload().split_at(8);
            assert_eq!(vxlan, [8, 0, 0, 0, 0x12, 0x34, 0x56, 0]);

            let mut expected = frame.clone();
            let mac =
                if frame[31] == 1 && frame[12] == 8 { [2, 7, 7, 7, 7, 7] } else { GATEWAY_MAC };
            expected[..6].copy_from_slice(&mac);
            expected[6..12].copy_from_slice(&GATEWAY_MAC);
            if frame[12] == 8 {
                expected[22] -= 1;
                fix(&mut expected);
            } else {
                expected[21] -= 1;
            }
            assert_eq!(inner, expected);
        }
    }
}

#[test]
fn what_comes_out_is_right_to_the_byte() {
    for (ends, outer_bytes) in ends().into_iter().zip([50, 70]) {
        let tables = over(ends);
        for (inner, is_fast) in
            [(inward(), ends.0.is_ipv4()), (with_options(inward(), 3), false), (inward6(), false)]
        {
            let mut frame = encapsulated(ends, VNI, &inner);
            // Padding is not sent on.
            frame.extend([0xee; 9]);
            let (after, all_to) = run_on(&tables, REMOTE_PORT, &frame);
            assert_eq!(after.verdict, Verdict::Decapsulate(PORT_B));
            assert_eq!(all_to, is_fast.then_some(PORT_B));
            assert_eq!((after.removed(), after.frame_len as usize), (outer_bytes, inner.len()));
            let mut expected = inner.clone();
            expected[..6].copy_from_slice(&B_MAC);
            expected[6..12].copy_from_slice(&GATEWAY_MAC);
            if inner[12] == 8 {
                expected[22] -= 1;
                fix(&mut expected);
            } else {
                expected[21] -= 1;
            }
            assert_eq!(sent(&after, &frame), expected);
        }
    }
}

#[test]
fn what_may_not_come_out_is_named() {
    use DropReason::*;
    type Change = fn(&mut Vec<u8>);
    let v4 = ends()[0];
    // In an inner frame, which starts at 50.
    fn inner(frame: &mut [u8]) -> &mut [u8] {
        &mut frame[50..]
    }
    let cases: [(&str, Change, DropReason); 25] = [
        ("no identifier", |f| f[42] = 0, MalformedVxlan),
        ("UDP too long", |f| f[38] = 0x40, MalformedVxlan),
        ("UDP too long by one", |f| f[39] += 1, MalformedVxlan),
        ("UDP too short", |f| f[38..40].copy_from_slice(&[0, 15]), MalformedVxlan),
        ("first fragment", |f| (f[20] = 0x20, fix(f)).1, MalformedVxlan),
        ("later fragment", |f| (f[21] = 1, fix(f)).1, GatewayUnhandled),
        ("other port", |f| f[37] ^= 1, GatewayUnhandled),
        ("other protocol", |f| (f[23] = 6, fix(f)).1, GatewayUnhandled),
        ("another address", |f| (f[33] = 1, fix(f)).1, GatewayUnhandled),
        ("another number", |f| f[48] ^= 1, UnknownVni),
        ("inner MAC address", |f| inner(f)[5] ^= 1, NotForGatewayMac),
        ("inner group", |f| inner(f)[..6].fill(0xff), Multicast),
        ("inner ARP", |f| inner(f)[13] = 6, UnsupportedEthertype),
        ("inner checksum", |f| inner(f)[24] ^= 1, BadIpv4Checksum),
        ("inner length", |f| (inner(f)[16] = 2, fix(inner(f))).1, MalformedIpv4),
        ("inner length by one", |f| (inner(f)[17] += 1, fix(inner(f))).1, MalformedIpv4),
        ("inner runt", |f| f[38..40].copy_from_slice(&[0, 16 + 33]), RuntFrame),
        ("inner TTL", |f| (inner(f)[22] = 1, fix(inner(f))).1, TtlExceeded),
        ("to nobody", |f| (inner(f)[33] = 77, fix(inner(f))).1, NoRoute),
        ("to the gateway", |f| (inner(f)[33] = 1, fix(inner(f))).1, GatewayUnhandled),
        ("to a group", |f| (inner(f)[30] = 224, fix(inner(f))).1, Multicast),
        ("back", |f| (inner(f)[30..34].copy_from_slice(&FAR), fix(inner(f))).1, TunnelTransit),
        ("no route", |f| (inner(f)[30] = 99, fix(inner(f))).1, NoRoute),
        ("congestion", |f| (f[15] = 3, fix(f)).1, TunnelCongestion),
        ("outer checksum", |f| f[24] ^= 1, BadIpv4Checksum),
    ];
    let tables = over(v4);
    for (name, change, reason) in cases {
        let mut frame = encapsulated(v4, VNI, &inward());
        change(&mut frame);
        let (after, all_to) = run_on(&tables, REMOTE_PORT, &frame);
        assert_eq!((after.verdict, all_to), (Verdict::Drop(reason), None), "{name}");
        assert_eq!(after.header, packet(&frame).header, "{name}");
        // Those beside it go on.
        let good = encapsulated(v4, VNI, &inward());
        for place in 0..3 {
            let mut batch = [packet(&good); 3];
            batch[place] = packet(&frame);
            let mut limits = PortLimits::default();
            process(&tables, Timestamp::default(), REMOTE_PORT, &mut batch, &mut limits);
            let mut expected = [Verdict::Decapsulate(PORT_B); 3];
            expected[place] = Verdict::Drop(reason);
            assert_eq!(batch.map(|packet| packet.verdict), expected, "{name}");
        }
    }
    // Larger than the inner network's packets.
    let mut big = inward();
    big.resize(14 + 1501, 0);
    big[16..18].copy_from_slice(&1501_u16.to_be_bytes());
    fix(&mut big);
    let (after, _) = run_on(&tables, REMOTE_PORT, &encapsulated(v4, VNI, &big));
    assert_eq!(after.verdict, Verdict::Drop(TooBig));
    // Of which too little was copied: what follows in the head is another packet's.
    let mut batch = [packet(&encapsulated(v4, VNI, &inward()))];
    batch[0].header_len = 64;
    process(&tables, Timestamp::default(), REMOTE_PORT, &mut batch, &mut PortLimits::default());
    assert_eq!(batch[0].verdict, Verdict::Drop(RuntFrame));
    // From a host that no route leads to.
    let tables = Tables::build(&tunnelled(v4.0)).unwrap();
    let frame = encapsulated(v4, VNI, &inward());
    assert_eq!(run_on(&tables, REMOTE_PORT, &frame).0.verdict, Verdict::Drop(UnknownVtep));
    // A pod of the inner network cannot speak for the tunnel.
    let mut frame = encapsulated(v4, VNI, &inward());
    frame[..6].copy_from_slice(&GATEWAY_MAC);
    frame[6..12].copy_from_slice(&A_MAC);
    frame[26..30].copy_from_slice(&A);
    fix(&mut frame);
    assert_eq!(run_on(&over(v4), PORT_A, &frame).0.verdict, Verdict::Drop(NoRoute));
}

/// RFC 6040 section 4.2, figure 4.
#[test]
fn congestion_is_told_inside() {
    let tables = over(ends()[0]);
    for (outer, inner, left) in
        [(3, 1, 3), (3, 2, 3), (3, 3, 3), (1, 2, 1), (1, 1, 1), (2, 1, 1), (2, 0, 0)]
    {
        let mut frame = inward();
        frame[15] |= inner;
        fix(&mut frame);
        let mut frame = encapsulated(ends()[0], VNI, &frame);
        frame[15] |= outer;
        fix(&mut frame);
        let (after, _) = run_on(&tables, REMOTE_PORT, &frame);
        assert_eq!(after.verdict, Verdict::Decapsulate(PORT_B));
        let sent = sent(&after, &frame);
        assert_eq!(sent[15] & 3, left, "{outer} {inner}");
        assert!(checksum::verify(&sent[14..34]));
    }
}

/// The MTU of the underlay less the outer headers, and the sender is told.
#[test]
fn senders_are_told_what_does_not_fit() {
    for (ends, room) in ends().into_iter().zip([1450, 1430]) {
        let tables = over(ends);
        let sized = |bytes: u16, flags: u8| {
            let mut frame = udp(FAR);
            frame.resize(14 + usize::from(bytes), 7);
            frame[16..18].copy_from_slice(&bytes.to_be_bytes());
            frame[20] = flags;
            fix(&mut frame);
            frame
        };
        let verdict = |frame: &[u8]| run_on(&tables, PORT_A, frame).0.verdict;
        let into = Verdict::Encapsulate(REMOTE_PORT);
        let needed = Verdict::Originate(IcmpError::FragmentationNeeded { mtu: room });
        assert_eq!(verdict(&sized(room, 0x40)), into);
        assert_eq!(verdict(&sized(room + 1, 0x40)), needed);
        assert_eq!(verdict(&sized(room + 1, 0)), Verdict::Drop(DropReason::TooBig));
        let mut old = udp(FAR);
        old[22] = 1;
        fix(&mut old);
        assert_eq!(verdict(&old), Verdict::Originate(IcmpError::TimeExceeded));
        let mut big6 = udp6(Ipv6Addr::new(0x2001, 0xdb8, 0x20, 0, 0, 0, 0, 1));
        big6.resize(54 + 1400, 7);
        big6[18..20].copy_from_slice(&1400_u16.to_be_bytes());
        assert_eq!(verdict(&big6), if room < 1440 { needed } else { into });
        big6[21] = 1;
        assert_eq!(verdict(&big6), Verdict::Originate(IcmpError::TimeExceeded));
    }
}

/// A TCP packet that its sender wants cut: what counts is a segment, and the outer header is ready but for its lengths.
#[test]
fn what_is_to_be_cut_goes_in_whole() {
    for (ends, longest) in ends().into_iter().zip([1410, 1390]) {
        let tables = over(ends);
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(A_MAC, GATEWAY_MAC).ipv4(A, FAR, 64).tcp(1, 2, 3, 4);
        builder.write(&mut frame, &vec![7; 60_000]).unwrap();
        for (segment_bytes, fits) in [(longest, true), (longest + 1, false)] {
            let mut batch = [Packet { segment_bytes, ..packet(&frame) }];
            let mut limits = PortLimits::default();
            process(&tables, Timestamp::default(), PORT_A, &mut batch, &mut limits);
            assert_eq!(batch[0].verdict == Verdict::Encapsulate(REMOTE_PORT), fits);
            if fits {
                let mut outer = batch[0].outer().to_vec();
                vrouter_net::vxlan::set_frame_bytes(&mut outer, 100).unwrap();
                if outer.len() == 50 {
                    assert!(checksum::verify(&outer[14..34]));
                }
            }
        }
    }
}

#[test]
fn a_tunnel_follows_the_network_that_carries_it() {
    let ends = ends()[0];
    let into = Verdict::Encapsulate(REMOTE_PORT);
    let nobody = Verdict::Originate(IcmpError::HostUnreachable);
    let verdict = |tables: &Tables| run_on(tables, PORT_A, &udp(FAR)).0.verdict;
    let tables = over(ends);
    assert_eq!(verdict(&tables), into);
    // The port at the other end goes and comes back, with another MAC address.
    let mut policy = tunnelled(ends.0);
    let remote = policy.ports.pop().unwrap();
    let without = tables.update(&policy).unwrap();
    assert_eq!(verdict(&without), nobody);
    policy.ports.push(PortPolicy { mac: Mac::new([2, 5, 5, 5, 5, 5]), ..remote.clone() });
    let again = without.update(&policy).unwrap();
    let (after, _) = run_on(&again, PORT_A, &udp(FAR));
    assert_eq!((after.verdict, &after.outer()[..6]), (into, &[2, 5, 5, 5, 5, 5][..]));
    // A route of the underlay leads to it, while it has another address.
    policy.ports.pop();
    policy.ports.push(PortPolicy { ipv4: [192, 0, 2, 50].into(), ..remote });
    let moved = again.update(&policy).unwrap();
    assert_eq!(verdict(&moved), nobody);
    let via = RouteChange {
        prefix: "192.0.2.2/32".parse().unwrap(),
        target: Some(RouteTarget::Via([192, 0, 2, 50].into())),
    };
    let routed = moved.with_routes(FABRIC, std::slice::from_ref(&via)).unwrap();
    assert_eq!(verdict(&routed), into);
    let gone = routed.with_routes(FABRIC, &[RouteChange { target: None, ..via }]).unwrap();
    assert_eq!(verdict(&gone), nobody);
    // What has not changed is shared.
    let shared = |tables: &Tables, index| std::ptr::from_ref(tables.network(index).unwrap());
    for index in [NetworkIndex(0), NetworkIndex(1)] {
        assert_eq!(shared(&gone.update(&policy).unwrap(), index), shared(&gone, index));
    }
    // The last route goes, and with it the right to send.
    let frame = encapsulated(ends, VNI, &inward());
    let from = |tables: &Tables| run_on(tables, REMOTE_PORT, &frame).0.verdict;
    assert_eq!(from(&tables), Verdict::Decapsulate(PORT_B));
    let prefixes = ["20.0.0.0/8", "2001:db8:20::/48", "20.1.0.0/16"];
    let gone = prefixes.map(|p| RouteChange { target: None, ..route(p, ends.1, None) });
    let tables = tables.with_routes(NetworkIndex(0), &gone).unwrap();
    assert_eq!(from(&tables), Verdict::Drop(DropReason::UnknownVtep));
}

/// The vRouter answers for the tunnel's end as for its gateway.
#[test]
fn the_end_of_a_tunnel_is_an_address_like_the_gateways() {
    let tables = over(ends()[0]);
    let mut frame = Vec::new();
    let arp = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &REMOTE_MAC,
        &REMOTE,
        &[0; 6],
        &VTEP,
    );
    let builder = PacketBuilder::ethernet2(REMOTE_MAC, [0xff; 6]).arp(arp.unwrap());
    builder.write(&mut frame).unwrap();
    assert_eq!(run_on(&tables, REMOTE_PORT, &frame).0.verdict, Verdict::Reply);
    let mut ping = Vec::new();
    let link = PacketBuilder::ethernet2(REMOTE_MAC, FABRIC_MAC);
    link.ipv4(REMOTE, VTEP, 64).icmpv4_echo_request(1, 2).write(&mut ping, &[7; 20]).unwrap();
    assert_eq!(run_on(&tables, REMOTE_PORT, &ping).0.verdict, Verdict::Reply);
}

/// A batch for several networks, with plain packets and damaged ones between.
#[test]
fn packets_of_a_batch_do_not_mix() {
    let ends = ends()[0];
    let mut policy = tunnelled(ends.0);
    // The second network has a tunnel too, from the gateway's address.
    let (vni, local) = (Vni::new(77).unwrap(), [192, 0, 2, 1].into());
    policy.networks[1].tunnel =
        Some(Tunnel { vni: Some(vni), label: None, ipip: false, underlay: FABRIC, local });
    let mut tables = Tables::build(&policy).unwrap();
    for index in [NetworkIndex(0), NetworkIndex(1)] {
        tables = tables.with_routes(index, &[route("20.0.0.0/8", ends.1, None)]).unwrap();
    }
    let red = encapsulated(ends, VNI, &inward());
    let mut blue = inward();
    blue[30..34].copy_from_slice(&BLUE_ONLY);
    fix(&mut blue);
    let blue = encapsulated((local, ends.1), 77, &blue);
    // The right number at the other network's address.
    let crossed = encapsulated((local, ends.1), VNI, &inward());
    let unknown = encapsulated(ends, 5, &inward());
    let kinds = [
        (&red, Verdict::Decapsulate(PORT_B)),
        (&blue, Verdict::Decapsulate(PortIndex(3))),
        (&crossed, Verdict::Drop(DropReason::UnknownVni)),
        (&unknown, Verdict::Drop(DropReason::UnknownVni)),
        (&red, Verdict::Decapsulate(PORT_B)),
    ];
    for length in [1, 5, 64, 65, 200] {
        let mut batch: Vec<_> =
            kinds.iter().cycle().take(length).map(|(frame, _)| packet(frame)).collect();
        let mut limits = PortLimits::default();
        process(&tables, Timestamp::default(), REMOTE_PORT, &mut batch, &mut limits);
        for (i, (after, (frame, verdict))) in batch.iter().zip(kinds.iter().cycle()).enumerate() {
            assert_eq!(after.verdict, *verdict, "packet {i} of {length}");
            if let Verdict::Decapsulate(_) = verdict {
                assert!(checksum::verify(&sent(after, frame)[14..34]));
            }
        }
    }
}

/// That all packets go to one port is said only when none of them stays behind, whichever stage decided.
#[test]
fn a_batch_goes_somewhere_as_a_whole_or_not() {
    let ends = ends()[0];
    let tables = over(ends);
    let red = encapsulated(ends, VNI, &inward());
    let mut to_a = inward();
    to_a[30..34].copy_from_slice(&A);
    fix(&mut to_a);
    let to_a = encapsulated(ends, VNI, &to_a);
    let unknown = encapsulated(ends, 5, &inward());
    let (four, six) = (udp(FAR), udp6(Ipv6Addr::new(0x2001, 0xdb8, 0x20, 0, 0, 0, 0, 1)));
    let (near, runt) = (udp(B), vec![0; 13]);
    for (ingress, frames, to) in [
        (REMOTE_PORT, vec![&red, &red], Some(PORT_B)),
        (REMOTE_PORT, vec![&red, &to_a, &red], None),
        (REMOTE_PORT, vec![&to_a, &red], None),
        (REMOTE_PORT, vec![&red, &unknown, &red], None),
        (REMOTE_PORT, vec![&unknown, &red], None),
        (PORT_A, vec![&four, &six, &four], Some(REMOTE_PORT)),
        (PORT_A, vec![&six, &runt], None),
        (PORT_A, vec![&runt, &six, &four], None),
        (PORT_A, vec![&near, &four], None),
    ] {
        let mut batch: Vec<_> = frames.iter().map(|frame| packet(frame)).collect();
        let mut limits = PortLimits::default();
        let outcome = process(&tables, Timestamp::default(), ingress, &mut batch, &mut limits);
        let verdicts: Vec<_> = batch.iter().map(|packet| packet.verdict).collect();
        assert_eq!(outcome.all_to, to, "{verdicts:?}");
    }
}

/// A policer is about what a port sends: the outer header of what comes out of a tunnel counts, that of what goes in does
/// not.
#[test]
fn policers_count_frames_as_they_were_received() {
    let out = encapsulated(ends()[0], VNI, &inward());
    for (port, frame) in [(REMOTE_PORT, out), (PORT_A, udp(FAR))] {
        let mut policy = tunnelled(VTEP.into());
        let burst = 100 * 8 * frame.len() as u64;
        let rates = Rates { bits: Some(crate::Rate { per_second: 1, burst }), packets: None };
        policy.ports.iter_mut().find(|it| it.index == port).unwrap().rates = rates;
        let routes = [route("20.0.0.0/8", REMOTE.into(), None)];
        let tables = Tables::build(&policy).unwrap().with_routes(NetworkIndex(0), &routes).unwrap();
        let mut batch = vec![packet(&frame); 200];
        process(&tables, Timestamp::default(), port, &mut batch, &mut PortLimits::default());
        let dropped = Verdict::Drop(DropReason::Policed);
        assert!(batch[..100].iter().all(|packet| !matches!(packet.verdict, Verdict::Drop(_))));
        assert!(batch[100..].iter().all(|packet| packet.verdict == dropped));
    }
}

/// A pod looks for others of its network on its link. For those behind a tunnel the gateway speaks, in a bridged network too, whose frames
/// do not go there; for nobody else's addresses, and not to who asks whether an address is free.
#[test]
fn the_gateway_speaks_for_who_is_behind_a_tunnel() {
    const THERE: [u8; 4] = [10, 66, 0, 88];
    let solicit = |from: &str, target: &str| {
        let option = (from != "::").then_some((1, A_MAC));
        discovery(from, "ff02::1:ff00:77", 135, target, option)
    };
    let mut probe = arp_request(THERE);
    probe[28..32].fill(0);
    // Of one of the pod's further addresses, which it has taken over from somebody there.
    let mut announcement = arp_request(THERE);
    announcement[28..32].copy_from_slice(&THERE);
    let cases = [
        ("ARP", arp_request(THERE), true),
        ("ARP for somebody elsewhere", arp_request(FAR), false),
        ("ARP for nobody", arp_request(NOBODY), false),
        ("ARP probe", probe, false),
        ("ARP announcement", announcement, false),
        ("solicitation", solicit("fd00:66::a", "fd00:66::77"), true),
        ("solicitation for somebody elsewhere", solicit("fd00:66::a", "2001:db8:20::1"), false),
        ("solicitation for nobody", solicit("fd00:66::a", "fd00:66::78"), false),
        ("probe", solicit("::", "fd00:66::77"), false),
    ];
    let ends = (VTEP.into(), REMOTE.into());
    for mode in [Mode::Routed, Mode::Bridged] {
        let mut policy = tunnelled(ends.0);
        policy.networks[0].mode = mode;
        policy.ports[0].allowed = vec!["10.66.0.88/32".parse().unwrap()];
        let routes = ["10.66.0.88/32", "fd00:66::77/128", "20.0.0.0/8", "2001:db8:20::/48"]
            .map(|prefix| route(prefix, ends.1, None));
        let tables = Tables::build(&policy).unwrap();
        let tables = tables.with_routes(NetworkIndex(0), &routes).unwrap();
        for (name, frame, answered) in &cases {
            let (after, _) = run_on(&tables, PORT_A, frame);
            let unanswered = match mode {
                Mode::Bridged => Verdict::Flood(Flood::All),
                Mode::Routed if name.contains("ARP") => Verdict::Drop(DropReason::ArpUnanswered),
                Mode::Routed => Verdict::Drop(DropReason::NdUnanswered),
            };
            let expected = if *answered { Verdict::Reply } else { unanswered };
            assert_eq!(after.verdict, expected, "{name}, {mode:?}");
            if *answered {
                assert_eq!(after.header[..6], A_MAC, "{name}");
                assert_eq!(after.header[6..12], GATEWAY_MAC, "{name}");
            }
        }
        // What follows goes through the tunnel.
        let (after, _) = run_on(&tables, PORT_A, &udp(THERE));
        assert_eq!(after.verdict, Verdict::Encapsulate(REMOTE_PORT), "{mode:?}");
    }
}
