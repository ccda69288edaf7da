//! What the gateway answers itself: pings and ARP.

use super::*;

#[test]
fn gateway_rules() {
    use DropReason::*;
    let drop = Verdict::Drop;
    let ping = || echo(GATEWAY, &[9; 300]);
    check(&[
        ("ping", ping(), |_| (), Verdict::Reply),
        ("ping without payload", echo(GATEWAY, &[]), |_| (), Verdict::Reply),
        ("ping with TTL 1", ping(), |f| (f[22] = 1, fix(f)).1, Verdict::Reply),
        ("ping with options", with_options(ping(), 10), |_| (), Verdict::Reply),
        ("ping as big as allowed", echo(GATEWAY, &[0; 1472]), |_| (), Verdict::Reply),
        ("ping above the MTU", echo(GATEWAY, &[0; 1473]), |_| (), drop(TooBig)),
        ("UDP", udp(GATEWAY), |_| (), drop(GatewayUnhandled)),
        ("echo reply", ping(), |f| f[34] = 0, drop(GatewayUnhandled)),
        ("ICMP error", ping(), |f| f[34] = 3, drop(GatewayUnhandled)),
        ("echo with a code", ping(), |f| f[35] = 1, drop(GatewayUnhandled)),
        ("first fragment", ping(), |f| (f[20] = 0x20, fix(f)).1, drop(GatewayUnhandled)),
        ("later fragment", ping(), |f| (f[21] = 1, fix(f)).1, drop(GatewayUnhandled)),
        (
            "7 bytes of ICMP",
            ping(),
            |f| (f[16..18].copy_from_slice(&[0, 27]), fix(f)).1,
            drop(GatewayUnhandled),
        ),
    ]);
}

#[test]
fn ping_is_answered_right() {
    for (payload, words) in [(0, 0), (56, 0), (1400, 0), (56, 3), (1400, 10)] {
        let payload = vec![0xa7; payload];
        let frame = with_options(echo(GATEWAY, &payload), words);
        let after = run(&frame);
        assert_eq!(after.verdict, Verdict::Reply);
        let mut answer = frame.clone();
        answer[..after.head().len()].copy_from_slice(after.head());
        let sliced = SlicedPacket::from_ethernet(&answer).unwrap();
        let Some(LinkSlice::Ethernet2(link)) = sliced.link else { panic!("no link") };
        assert_eq!((link.destination(), link.source()), (A_MAC, GATEWAY_MAC));
        let Some(NetSlice::Ipv4(ip)) = sliced.net else { panic!("not IPv4") };
        let ip = ip.header().to_header();
        assert_eq!((ip.source, ip.destination, ip.time_to_live), (GATEWAY, A, 64));
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else { panic!("not ICMP") };
        let header = icmp.header();
        let expected = etherparse::IcmpEchoHeader { id: 5, seq: 6 };
        assert_eq!(header.icmp_type, etherparse::Icmpv4Type::EchoReply(expected));
        assert_eq!(header.checksum, header.icmp_type.calc_checksum(&payload));
        assert_eq!(icmp.payload(), payload);
    }
}

#[test]
fn a_damaged_ping_is_not_made_to_look_right() {
    for payload in [1, 56, 1400] {
        let mut frame = echo(GATEWAY, &vec![0xa7; payload]);
        // The last byte of the longest one is beyond what we see.
        frame[41 + payload] ^= 1;
        let after = run(&frame);
        assert_eq!(after.verdict, Verdict::Reply);
        frame[..after.head().len()].copy_from_slice(after.head());
        assert!(!checksum::verify(&frame[34..]));
        frame[41 + payload] ^= 1;
        assert!(checksum::verify(&frame[34..]));
    }
}

#[test]
fn arp_rules() {
    use DropReason::*;
    let drop = Verdict::Drop;
    check(&[
        ("gateway", arp_request(GATEWAY), |_| (), Verdict::Reply),
        ("gateway, padded", arp_request(GATEWAY), |f| f.resize(60, 0), Verdict::Reply),
        (
            "gateway, unicast",
            arp_request(GATEWAY),
            |f| f[..6].copy_from_slice(&GATEWAY_MAC),
            Verdict::Reply,
        ),
        ("other pod", arp_request(B), |_| (), Verdict::Reply),
        ("own address", arp_request(A), |_| (), drop(ArpUnanswered)),
        ("probe of own address", arp_request(A), |f| f[28..32].fill(0), drop(ArpUnanswered)),
        ("probe of b's address", arp_request(B), |f| f[28..32].fill(0), drop(ArpUnanswered)),
        ("other network's pod", arp_request(BLUE_ONLY), |_| (), drop(ArpUnanswered)),
        ("nobody", arp_request(NOBODY), |_| (), drop(ArpUnanswered)),
        ("outside", arp_request([10, 66, 1, 2]), |_| (), drop(ArpUnanswered)),
        ("broadcast", arp_request([10, 66, 0, 255]), |_| (), drop(ArpUnanswered)),
        ("reply", arp_request(GATEWAY), |f| f[21] = 2, drop(ArpUnanswered)),
        ("sender IP of b", arp_request(GATEWAY), |f| f[31] = 3, drop(ArpSpoof)),
        ("sender MAC of b", arp_request(GATEWAY), |f| f[27] = 0xb, drop(ArpSpoof)),
        (
            "reply without sender IP",
            arp_request(GATEWAY),
            |f| (f[21] = 2, f[28..32].fill(0)).1,
            drop(ArpSpoof),
        ),
        ("announcement of b's address", arp_request(B), |f| f[31] = 3, drop(ArpSpoof)),
        ("Ethernet source of b", arp_request(GATEWAY), |f| f[11] = 0xb, drop(SourceMac)),
        (
            "to b's MAC",
            arp_request(GATEWAY),
            |f| f[..6].copy_from_slice(&B_MAC),
            drop(NotForGatewayMac),
        ),
        ("to a group", arp_request(GATEWAY), |f| f[5] = 0xfe, drop(Multicast)),
        ("hardware type", arp_request(GATEWAY), |f| f[15] = 6, drop(MalformedArp)),
        ("protocol type", arp_request(GATEWAY), |f| f[17] = 1, drop(MalformedArp)),
        ("address length", arp_request(GATEWAY), |f| f[18] = 8, drop(MalformedArp)),
        ("short", arp_request(GATEWAY), |f| f.truncate(41), drop(RuntFrame)),
    ]);
}

#[test]
fn arp_is_answered_with_the_gateway_mac() {
    for target in [GATEWAY, B] {
        let after = run(&arp_request(target));
        assert_eq!(after.verdict, Verdict::Reply);
        let sliced = SlicedPacket::from_ethernet(after.head()).unwrap();
        let Some(LinkSlice::Ethernet2(link)) = sliced.link else { panic!("no link") };
        assert_eq!((link.destination(), link.source()), (A_MAC, GATEWAY_MAC));
        let Some(NetSlice::Arp(arp)) = sliced.net else { panic!("not ARP") };
        let arp = etherparse::ArpEthIpv4Packet::try_from(arp.to_packet()).unwrap();
        assert_eq!(arp.operation, ArpOperation::REPLY);
        assert_eq!((arp.sender_mac, arp.sender_ipv4), (GATEWAY_MAC, target));
        assert_eq!((arp.target_mac, arp.target_ipv4), (A_MAC, A));
    }
}

#[test]
fn arp_answers_for_routes_on_the_link_only() {
    let via = Some(RouteTarget::Via(Ipv4Addr::from(B).into()));
    let changes = ["0.0.0.0/0", "10.66.0.77/32"]
        .map(|prefix| RouteChange { prefix: prefix.parse().unwrap(), target: via.clone() });
    let tables = tables().with_routes(NetworkIndex(0), &changes).unwrap();
    for (target, verdict) in [
        (NOBODY, Verdict::Reply),
        ([10, 66, 0, 78], Verdict::Drop(DropReason::ArpUnanswered)),
        ([8, 8, 8, 8], Verdict::Drop(DropReason::ArpUnanswered)),
    ] {
        let mut batch = [packet(&arp_request(target))];
        let mut limiter = PortLimits::default();
        process(&tables, Timestamp::default(), PORT_A, &mut batch, &mut limiter);
        assert_eq!(batch[0].verdict, verdict, "{target:?}");
    }
}
