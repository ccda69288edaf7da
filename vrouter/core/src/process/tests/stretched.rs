//! Bridged networks that stretch to other hosts by VXLAN.

mod named;

use super::hostile::Hostile;
use super::tunnel::{
    FABRIC, FABRIC_MAC, REMOTE, REMOTE_MAC, REMOTE_PORT, VNI, VTEP, encapsulated, ends, inner6,
    route, sent, six, tunnelled,
};
use super::*;
use crate::{Flood, FloodEndError, PuntRate, Tunnel};
use core::net::IpAddr;
use vrouter_net::vxlan::{OUTER4_BYTES, OUTER6_BYTES, Vni};

const LAN: NetworkIndex = NetworkIndex(0);
/// A second host that the network stretches to.
const OTHER_PORT: PortIndex = PortIndex(31);
const OTHER_HOST_MAC: [u8; 6] = [2, 0, 0, 0, 9, 3];
const TRUNK: PortIndex = PortIndex(20);
/// Stations on other hosts.
const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 5, 1];
const FARTHER_MAC: [u8; 6] = [2, 0, 0, 0, 5, 2];
const SECOND: u64 = 1_000_000_000;

/// The address of the second host, of the same family.
fn other_host(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { [192, 0, 2, 3].into() } else { six(3).into() }
}

fn stretched_policy(local: IpAddr, trunk: bool) -> Policy {
    let mut policy = tunnelled(local);
    policy.networks[0].mode = Mode::Bridged;
    let mut other = policy.ports.last().unwrap().clone();
    other.index = OTHER_PORT;
    other.mac = Mac::new(OTHER_HOST_MAC);
    other.ipv4 = [192, 0, 2, 3].into();
    other.ipv6 = Some(six(3));
    policy.ports.push(other);
    if trunk {
        policy.ports.push(PortPolicy {
            index: TRUNK,
            mac: Mac::new([2, 0, 0, 0, 0, 0x20]),
            ipv4: [10, 66, 0, 20].into(),
            ipv6: None,
            trunk,
            ..policy.ports[0].clone()
        });
    }
    policy
}

/// A network that stretches to two hosts.
fn stretched(ends: (IpAddr, IpAddr), trunk: bool) -> Tables {
    let tables = Tables::build(&stretched_policy(ends.0, trunk)).unwrap();
    tables.with_flood_ends(LAN, &[ends.1, other_host(ends.1)]).unwrap()
}

fn over4() -> (IpAddr, IpAddr) {
    ends()[0]
}

fn run_at(tables: &Tables, second: u64, ingress: PortIndex, frame: &[u8]) -> Packet {
    let mut batch = [packet(frame)];
    let now = Timestamp::from_nanoseconds(second * SECOND);
    process(tables, now, ingress, &mut batch, &mut PortLimits::default());
    batch[0]
}

fn run_on(tables: &Tables, ingress: PortIndex, frame: &[u8]) -> Packet {
    run_at(tables, 1, ingress, frame)
}

/// A frame comes from another end: the packet around it, and what becomes of it.
fn arrive(tables: &Tables, second: u64, ends: (IpAddr, IpAddr), inner: &[u8]) -> (Packet, Vec<u8>) {
    let mut frame = encapsulated(ends, VNI, inner);
    if ends.1 == other_host(ends.1) {
        frame[6..12].copy_from_slice(&OTHER_HOST_MAC);
        return (run_at(tables, second, OTHER_PORT, &frame), frame);
    }
    (run_at(tables, second, REMOTE_PORT, &frame), frame)
}

fn hear(tables: &Tables, ends: (IpAddr, IpAddr), inner: &[u8]) -> Verdict {
    arrive(tables, 1, ends, inner).0.verdict
}

fn between(to: [u8; 6], from: [u8; 6], mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
    frame
}

/// Neither IP nor ARP.
fn other(to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    [&to[..], &from, &[0x88, 0xcc], &[7; 60]].concat()
}

/// An ARP request from behind another end.
fn far_arp(target: [u8; 4]) -> Vec<u8> {
    let mut frame = between([0xff; 6], FAR_MAC, arp_request(target));
    frame[22..28].copy_from_slice(&FAR_MAC);
    frame[28..32].copy_from_slice(&[10, 66, 0, 99]);
    frame
}

/// What a packet in the tunnel has in front, checked, and what is inside.
fn opened(frame: &[u8], ends: (IpAddr, IpAddr), to_mac: [u8; 6]) -> Vec<u8> {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(LinkSlice::Ethernet2(link)) = sliced.link else { panic!("no link") };
    assert_eq!((link.destination(), link.source()), (to_mac, FABRIC_MAC));
    let addresses: (IpAddr, IpAddr) = match sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let ip = ip.header().to_header();
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!(usize::from(ip.total_len) + 14, frame.len());
            (ip.source.into(), ip.destination.into())
        }
        Some(NetSlice::Ipv6(ip)) => {
            let ip = ip.header().to_header();
            assert_eq!(usize::from(ip.payload_length) + 54, frame.len());
            (ip.source.into(), ip.destination.into())
        }
        _ => panic!("no IP"),
    };
    assert_eq!(addresses, ends);
    let Some(TransportSlice::Udp(datagram)) = sliced.transport else { panic!("not UDP") };
    assert_eq!((datagram.destination_port(), datagram.checksum()), (4789, 0));
    let (vxlan, inner) = datagram.payload().split_at(8);
    assert_eq!(vxlan, [8, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
    inner.to_vec()
}

#[test]
fn a_frame_goes_to_the_end_that_its_station_was_heard_from() {
    for ends in ends() {
        let tables = stretched(ends, false);
        // Nobody knows yet.
        let unknown = Verdict::Flood(Flood::Trunks);
        assert_eq!(run_on(&tables, PORT_A, &other(FAR_MAC, A_MAC)).verdict, unknown);
        hear(&tables, ends, &other([0xff; 6], FAR_MAC));
        let from_other = (ends.0, other_host(ends.1));
        hear(&tables, from_other, &other([0xff; 6], FARTHER_MAC));
        assert_eq!(tables.network(LAN).unwrap().stations(Timestamp::from_nanoseconds(SECOND)), 2);

        let mut tagged = between(FAR_MAC, A_MAC, udp(B));
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        let mut last_hop = between(FAR_MAC, A_MAC, udp(B));
        last_hop[22] = 1;
        fix(&mut last_hop);
        for frame in [other(FAR_MAC, A_MAC), tagged, last_hop] {
            let after = run_on(&tables, PORT_A, &frame);
            assert_eq!(after.verdict, Verdict::Encapsulate(REMOTE_PORT));
            assert_eq!(opened(&sent(&after, &frame), ends, REMOTE_MAC), frame);
        }
        let frame = other(FARTHER_MAC, B_MAC);
        let after = run_on(&tables, PORT_B, &frame);
        assert_eq!(after.verdict, Verdict::Encapsulate(OTHER_PORT));
        assert_eq!(opened(&sent(&after, &frame), from_other, OTHER_HOST_MAC), frame);
        // Who sends is checked as before.
        let spoofed = other(FAR_MAC, B_MAC);
        let refused = Verdict::Drop(DropReason::SourceMac);
        assert_eq!(run_on(&tables, PORT_A, &spoofed).verdict, refused);
    }
}

#[test]
fn a_flooded_frame_goes_to_each_end_once() {
    for ends in ends() {
        let tables = stretched(ends, true);
        let broadcast = between([0xff; 6], A_MAC, udp([255; 4]));
        for (frame, flood, ports) in [
            (broadcast, Flood::All, &[PORT_B, TRUNK][..]),
            (arp_request(NOBODY), Flood::All, &[PORT_B, TRUNK]),
            (other([1, 0, 0x5e, 0, 0, 1], A_MAC), Flood::All, &[PORT_B, TRUNK]),
            (other(FAR_MAC, A_MAC), Flood::Trunks, &[TRUNK]),
        ] {
            let after = run_on(&tables, PORT_A, &frame);
            assert_eq!(after.verdict, Verdict::Flood(flood));
            assert_eq!(after.header, packet(&frame).header);
            assert_eq!(tables.flood(PORT_A, flood).collect::<Vec<_>>(), ports);
            let copies: Vec<_> = tables.flood_into_tunnels(PORT_A, &after).collect();
            let verdicts: Vec<_> = copies.iter().map(|copy| copy.verdict).collect();
            assert_eq!(verdicts, [REMOTE_PORT, OTHER_PORT].map(Verdict::Encapsulate));
            let other_ends = (ends.0, other_host(ends.1));
            assert_eq!(opened(&sent(&copies[0], &frame), ends, REMOTE_MAC), frame);
            assert_eq!(opened(&sent(&copies[1], &frame), other_ends, OTHER_HOST_MAC), frame);
        }
        // A trunk's stations, too; another network's ports do not.
        let packet = packet(&other([0xff; 6], FAR_MAC));
        assert_eq!(tables.flood_into_tunnels(TRUNK, &packet).count(), 2);
        assert_eq!(tables.flood_into_tunnels(REMOTE_PORT, &packet).count(), 0);
        assert_eq!(tables.flood_into_tunnels(PortIndex(99), &packet).count(), 0);
    }
}

/// Each end has its copy or its own reason why not.
#[test]
fn copies_that_can_not_go_are_dropped_one_by_one() {
    let ends = over4();
    let tables = Tables::build(&stretched_policy(ends.0, false)).unwrap();
    let nobody: IpAddr = [192, 0, 2, 77].into();
    let tables = tables.with_flood_ends(LAN, &[nobody, ends.1]).unwrap();
    let verdicts = |frame: &[u8]| -> Vec<_> {
        let copies = tables.flood_into_tunnels(PORT_A, &packet(frame)).collect::<Vec<_>>();
        copies.iter().map(|copy| copy.verdict).collect()
    };
    let no_route = Verdict::Drop(DropReason::NoRoute);
    let fits = [other([0xff; 6], A_MAC), vec![0; 1390]].concat();
    assert_eq!(fits.len(), 14 + 1450);
    assert_eq!(verdicts(&fits), [no_route, Verdict::Encapsulate(REMOTE_PORT)]);
    // The network's MTU is 1500, but the underlay's leaves 1450.
    let beyond = [&fits[..], &[0]].concat();
    assert_eq!(verdicts(&beyond), [no_route, Verdict::Drop(DropReason::TooBig)]);
    // A tag counts: it has to be carried.
    let mut tagged = beyond;
    tagged[12..14].copy_from_slice(&[0x81, 0]);
    assert_eq!(verdicts(&tagged), [no_route, Verdict::Drop(DropReason::TooBig)]);
    // For a known station nothing else holds.
    hear(&tables, ends, &other([0xff; 6], FAR_MAC));
    let too_big = between(FAR_MAC, A_MAC, tagged);
    let after = run_on(&tables, PORT_A, &too_big);
    assert_eq!(after.verdict, Verdict::Drop(DropReason::TooBig));
}

/// What is to be cut into segments is as large as those are.
#[test]
fn the_underlays_mtu_counts_for_segments() {
    let ends = over4();
    let tables = stretched(ends, false);
    hear(&tables, ends, &other([0xff; 6], FAR_MAC));
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(A_MAC, FAR_MAC)
        .ipv4(A, NOBODY, 64)
        .tcp(1000, 2000, 1, 1000)
        .write(&mut frame, &[0; 9000])
        .unwrap();
    for (segment, verdict) in [
        (1410, Verdict::Encapsulate(REMOTE_PORT)),
        (1411, Verdict::Drop(DropReason::TooBig)),
        (0, Verdict::Drop(DropReason::TooBig)),
    ] {
        let mut batch = [Packet { segment_bytes: segment, ..packet(&frame) }];
        let mut limits = PortLimits::default();
        process(&tables, Timestamp::from_nanoseconds(SECOND), PORT_A, &mut batch, &mut limits);
        assert_eq!(batch[0].verdict, verdict, "{segment}");
    }
    // One such frame would be many for each end.
    let unknown = packet(&between([2, 9, 9, 9, 9, 9], A_MAC, frame));
    let copies = |packet: Packet| -> Vec<_> {
        let copies = tables.flood_into_tunnels(PORT_A, &packet);
        copies.map(|copy| copy.verdict).collect()
    };
    let limited = Verdict::Drop(DropReason::FloodLimited);
    assert_eq!(copies(Packet { segment_bytes: 1000, ..unknown }), [limited; 2]);
    assert_eq!(copies(unknown), [Verdict::Drop(DropReason::TooBig); 2]);
}

#[test]
fn what_comes_out_stays_on_this_host() {
    use DropReason::*;
    let drop = Verdict::Drop;
    let inside = |flood| Verdict::FloodInside(LAN, flood);
    for (ends, outer_bytes) in ends().into_iter().zip([OUTER4_BYTES, OUTER6_BYTES]) {
        let tables = stretched(ends, true);
        let other_ends = (ends.0, other_host(ends.1));
        hear(&tables, other_ends, &other(B_MAC, FARTHER_MAC));
        let mut gateways = far_arp(A);
        gateways[28..32].copy_from_slice(&GATEWAY);
        let mut ethernet_only = far_arp(A);
        ethernet_only[15] = 6;
        let big = |bytes: usize| [other(B_MAC, FAR_MAC), vec![0; bytes - 60]].concat();
        let last_hop = between(B_MAC, FAR_MAC, with_options(udp(B), 2));
        for (name, frame, verdict) in [
            ("unicast", other(B_MAC, FAR_MAC), Verdict::Decapsulate(PORT_B)),
            ("IPv4, whatever it says", last_hop, Verdict::Decapsulate(PORT_B)),
            ("broken IPv4", between(B_MAC, FAR_MAC, vec![0x45; 60]), Verdict::Decapsulate(PORT_B)),
            ("broadcast", other([0xff; 6], FAR_MAC), inside(Flood::All)),
            ("group", other([1, 0, 0x5e, 0, 0, 1], FAR_MAC), inside(Flood::All)),
            ("ARP", far_arp(A), inside(Flood::All)),
            ("nobody known", other([2, 9, 9, 9, 9, 9], FAR_MAC), inside(Flood::Trunks)),
            ("behind another end", other(FARTHER_MAC, FAR_MAC), drop(TunnelTransit)),
            ("behind the same end", other(FAR_MAC, [2, 0, 0, 0, 5, 9]), drop(TunnelTransit)),
            ("a port's MAC", other(B_MAC, A_MAC), drop(SourceMac)),
            ("the gateway's MAC", other(B_MAC, GATEWAY_MAC), drop(SourceMac)),
            ("a group's MAC", other(B_MAC, [3; 6]), drop(SourceMac)),
            ("no MAC", other(B_MAC, [0; 6]), drop(SourceMac)),
            ("ARP as the gateway", gateways, drop(ArpSpoof)),
            ("ARP for the gateway", far_arp(GATEWAY), drop(ArpUnanswered)),
            ("not for IPv4", ethernet_only, drop(MalformedArp)),
            ("as big as allowed", big(1500), Verdict::Decapsulate(PORT_B)),
            ("too big", big(1501), drop(TooBig)),
            ("cut off", other(B_MAC, FAR_MAC)[..13].to_vec(), drop(RuntFrame)),
        ] {
            let mut frame_outside = encapsulated(ends, VNI, &frame);
            // Padding is not sent on.
            frame_outside.extend([0xee; 9]);
            let before = packet(&frame_outside);
            let after = run_on(&tables, REMOTE_PORT, &frame_outside);
            assert_eq!(after.verdict, verdict, "{name}");
            assert_eq!(after.header, before.header, "{name}");
            if !matches!(verdict, Verdict::Drop(_)) {
                assert_eq!(after.removed(), outer_bytes, "{name}");
                assert_eq!(sent(&after, &frame_outside), frame, "{name}");
                assert_eq!(after.received_bytes() as usize, outer_bytes + frame.len(), "{name}");
            }
        }
        let ports = |flood| tables.flood_inside(LAN, flood).collect::<Vec<_>>();
        assert_eq!(ports(Flood::All), [PORT_A, PORT_B, TRUNK]);
        assert_eq!(ports(Flood::Trunks), [TRUNK]);
        // What was refused taught nothing: A is where it was.
        let to_a = run_on(&tables, PORT_B, &other(A_MAC, B_MAC));
        assert_eq!(to_a.verdict, Verdict::Forward(PORT_A));
        // Without a trunk there is nobody whom nobody knows.
        let alone = stretched(ends, false);
        let unknown = other([2, 9, 9, 9, 9, 9], FAR_MAC);
        assert_eq!(hear(&alone, ends, &unknown), drop(UnknownMac));
    }
}

/// Frames are taken from the ends that are named and from nobody else, though routes lead there.
#[test]
fn only_ends_that_are_named_are_bridged() {
    use DropReason::*;
    let ends = over4();
    let other_ends = (ends.0, other_host(ends.1));
    let tables = Tables::build(&stretched_policy(ends.0, false)).unwrap();
    let tables = tables.with_flood_ends(LAN, &[ends.1]).unwrap();
    let frame = other(B_MAC, FAR_MAC);
    assert_eq!(hear(&tables, ends, &frame), Verdict::Decapsulate(PORT_B));
    assert_eq!(hear(&tables, other_ends, &frame), Verdict::Drop(UnknownVtep));
    let routes = [route("20.0.0.0/8", other_ends.1, None)];
    let routed = tables.with_routes(LAN, &routes).unwrap();
    assert_eq!(hear(&routed, other_ends, &frame), Verdict::Drop(NotForGatewayMac));
    let group = other([0xff; 6], FAR_MAC);
    assert_eq!(hear(&routed, other_ends, &group), Verdict::Drop(Multicast));
    // Packets for the gateway are routed as before, and from a named end without a route, too.
    let mut inward = Vec::new();
    PacketBuilder::ethernet2(FAR_MAC, GATEWAY_MAC)
        .ipv4([20, 0, 0, 1], B, 64)
        .udp(1000, 2000)
        .write(&mut inward, &[0xa5; 50])
        .unwrap();
    for ends in [ends, other_ends] {
        let (after, _) = arrive(&routed, 1, ends, &inward);
        assert_eq!((after.verdict, after.header[72]), (Verdict::Decapsulate(PORT_B), 63));
    }
}

#[test]
fn stations_move_between_trunks_and_ends() {
    let ends = over4();
    let other_ends = (ends.0, other_host(ends.1));
    let tables = stretched(ends, true);
    let to_far = other(FAR_MAC, A_MAC);
    let hello = other([0xff; 6], FAR_MAC);
    let goes = |second, tables: &Tables| run_at(tables, second, PORT_A, &to_far).verdict;
    run_at(&tables, 1, TRUNK, &hello);
    assert_eq!(goes(1, &tables), Verdict::Forward(TRUNK));
    arrive(&tables, 2, ends, &hello);
    assert_eq!(goes(2, &tables), Verdict::Encapsulate(REMOTE_PORT));
    arrive(&tables, 3, other_ends, &hello);
    assert_eq!(goes(3, &tables), Verdict::Encapsulate(OTHER_PORT));
    run_at(&tables, 4, TRUNK, &hello);
    assert_eq!(goes(4, &tables), Verdict::Forward(TRUNK));
    arrive(&tables, 5, ends, &hello);
    // It is forgotten, 300 s after it was heard last.
    assert_eq!(goes(304, &tables), Verdict::Encapsulate(REMOTE_PORT));
    assert_eq!(goes(306, &tables), Verdict::Flood(Flood::Trunks));
    // From the trunk to the end and back.
    arrive(&tables, 306, ends, &hello);
    let trunks = other(FAR_MAC, FARTHER_MAC);
    let verdict = run_at(&tables, 306, TRUNK, &trunks).verdict;
    assert_eq!(verdict, Verdict::Encapsulate(REMOTE_PORT));
    let (back, _) = arrive(&tables, 306, ends, &other(FARTHER_MAC, FAR_MAC));
    assert_eq!(back.verdict, Verdict::Decapsulate(TRUNK));
}

/// What was learned of an end is forgotten with it, whatever end is next; those that stay keep theirs.
#[test]
fn ends_come_and_go() {
    let ends = over4();
    let second_host = other_host(ends.1);
    let first = stretched(ends, false);
    let to_far = other(FAR_MAC, A_MAC);
    let hello = other([0xff; 6], FAR_MAC);
    hear(&first, (ends.0, second_host), &hello);
    let goes = |tables: &Tables| run_on(tables, PORT_A, &to_far).verdict;
    let kept = first.with_flood_ends(LAN, &[second_host]).unwrap();
    assert_eq!(goes(&kept), Verdict::Encapsulate(OTHER_PORT));
    // Ports and routes change, and the end is there.
    let mut policy = stretched_policy(ends.0, false);
    policy.ports.retain(|port| port.index != PORT_B);
    policy.networks[0].mtu = 1400;
    let changed = kept.update(&policy).unwrap();
    let changed = changed.with_routes(LAN, &[route("20.0.0.0/8", ends.1, None)]).unwrap();
    assert_eq!(goes(&changed), Verdict::Encapsulate(OTHER_PORT));
    assert_eq!(changed.flood_ends(LAN).collect::<Vec<_>>(), [second_host]);
    let swapped = kept.with_flood_ends(LAN, &[ends.1, [192, 0, 2, 8].into()]).unwrap();
    assert_eq!(goes(&swapped), Verdict::Flood(Flood::Trunks));
    let none = swapped.with_flood_ends(LAN, &[]).unwrap();
    assert_eq!(goes(&none), Verdict::Drop(DropReason::UnknownMac));
    // A network that bridges no more has none, also when it bridges again.
    let mut policy = stretched_policy(ends.0, false);
    policy.networks[0].mode = Mode::Routed;
    let routed = first.update(&policy).unwrap();
    assert_eq!(routed.flood_ends(LAN).count(), 0);
    assert_eq!(hear(&routed, ends, &hello), Verdict::Drop(DropReason::UnknownVtep));
    // The underlay's port goes, and with it the way.
    let mut policy = stretched_policy(ends.0, false);
    hear(&first, (ends.0, second_host), &hello);
    policy.ports.retain(|port| port.index != OTHER_PORT);
    let cut = first.update(&policy).unwrap();
    assert_eq!(goes(&cut), Verdict::Drop(DropReason::NoRoute));
}

#[test]
fn ends_that_can_not_be() {
    use FloodEndError::*;
    let tables = Tables::build(&stretched_policy(VTEP.into(), false)).unwrap();
    let local = VTEP.into();
    let refused = |tables: &Tables, network, ends: &[IpAddr]| {
        tables.with_flood_ends(network, ends).map(|_| ()).unwrap_err()
    };
    let many: Vec<IpAddr> = (0..=64).map(|last| [192, 0, 2, 100 + last].into()).collect();
    assert!(tables.with_flood_ends(LAN, &many[..64]).is_ok());
    for (ends, error) in [
        (&many[..], TooMany { count: 65 }),
        (&[local], Address { address: local, local }),
        (&[six(7).into()], Address { address: six(7).into(), local }),
        (&[[224, 0, 0, 9].into()], Address { address: [224, 0, 0, 9].into(), local }),
        (&[REMOTE.into(), REMOTE.into()], Duplicate { address: REMOTE.into() }),
    ] {
        assert_eq!(refused(&tables, LAN, ends), error);
        check_error(error);
    }
    let one = [REMOTE.into()];
    for (network, error) in [
        (NetworkIndex(9), UnknownNetwork { network: NetworkIndex(9) }),
        (FABRIC, NotBridged { network: FABRIC }),
        (NetworkIndex(1), NotBridged { network: NetworkIndex(1) }),
    ] {
        assert_eq!(refused(&tables, network, &one), error);
        check_error(error);
    }
    let mut policy = stretched_policy(VTEP.into(), false);
    let tunnel = policy.networks[0].tunnel.as_mut().unwrap();
    (tunnel.vni, tunnel.label) = (None, vrouter_net::mpls::Label::new(99));
    let mpls = Tables::build(&policy).unwrap();
    assert_eq!(refused(&mpls, LAN, &one), NoVni { network: LAN });
    policy.networks[0].tunnel = None;
    let alone = Tables::build(&policy).unwrap();
    assert_eq!(refused(&alone, LAN, &one), NoVni { network: LAN });
    assert!(alone.with_flood_ends(LAN, &[]).is_ok());
}

fn check_error(error: FloodEndError) {
    let text = std::format!("{error}");
    assert!(text.starts_with("tunnel.flood ") && text.contains(": "), "{text}");
}

/// A frame is one flood, however many ends get a copy; what comes in counts at the port it came by.
#[test]
fn floods_are_limited_both_ways() {
    let ends = over4();
    let mut policy = stretched_policy(ends.0, false);
    policy.networks[0].floods = FloodLimit { per_second: 1, burst: 2 };
    // What the kernel may get is no limit for others.
    policy.networks[2].punts.kernel = PuntRate { per_second: 1, burst: 1 };
    let tables = Tables::build(&policy).unwrap();
    let tables = tables.with_flood_ends(LAN, &[ends.1, other_host(ends.1)]).unwrap();
    let run = |ingress, frame: &[u8]| {
        let mut batch = [packet(frame); 4];
        let now = Timestamp::from_nanoseconds(SECOND);
        process(&tables, now, ingress, &mut batch, &mut PortLimits::default());
        batch.map(|packet| packet.verdict)
    };
    let limited = Verdict::Drop(DropReason::FloodLimited);
    let out = Verdict::Flood(Flood::All);
    assert_eq!(run(PORT_A, &arp_request(NOBODY)), [out, out, limited, limited]);
    let unknown = Verdict::Flood(Flood::Trunks);
    assert_eq!(run(PORT_A, &other(FAR_MAC, A_MAC)), [unknown, unknown, limited, limited]);
    let inside = Verdict::FloodInside(LAN, Flood::All);
    let frame = encapsulated(ends, VNI, &far_arp(A));
    assert_eq!(run(REMOTE_PORT, &frame), [inside, inside, limited, limited]);
    // What is for somebody is no flood.
    let frame = encapsulated(ends, VNI, &other(B_MAC, FAR_MAC));
    assert_eq!(run(REMOTE_PORT, &frame), [Verdict::Decapsulate(PORT_B); 4]);
    assert_eq!(run(PORT_A, &other(FAR_MAC, A_MAC)), [Verdict::Encapsulate(REMOTE_PORT); 4]);
}

/// A network that repeats nothing is no way for another to repeat more.
#[test]
fn networks_behind_one_port_share_its_floods() {
    let ends = over4();
    let mut policy = stretched_policy(ends.0, false);
    policy.networks[0].floods = FloodLimit { per_second: 1, burst: 2 };
    let quiet = NetworkIndex(1);
    let tunnel = policy.networks[0].tunnel.unwrap();
    policy.networks[1].mode = Mode::Bridged;
    policy.networks[1].floods = FloodLimit { per_second: 0, burst: 0 };
    policy.networks[1].tunnel = Some(Tunnel { vni: Vni::new(VNI + 1), ..tunnel });
    let tables = Tables::build(&policy).unwrap();
    let tables = tables.with_flood_ends(LAN, &[ends.1]).unwrap();
    let tables = tables.with_flood_ends(quiet, &[ends.1]).unwrap();
    let frame = |vni| packet(&encapsulated(ends, vni, &other([0xff; 6], FAR_MAC)));
    let mut batch = [frame(VNI), frame(VNI + 1)].repeat(5);
    let now = Timestamp::from_nanoseconds(SECOND);
    process(&tables, now, REMOTE_PORT, &mut batch, &mut PortLimits::default());
    let inside = Verdict::FloodInside(LAN, Flood::All);
    let repeated: Vec<_> = batch.iter().map(|packet| packet.verdict == inside).collect();
    assert_eq!(repeated.iter().filter(|it| **it).count(), 2, "{repeated:?}");
    let limited = Verdict::Drop(DropReason::FloodLimited);
    assert!(batch.iter().filter(|packet| packet.verdict != inside).all(|it| it.verdict == limited));
}

/// The gateway goes on to answer for whom routes lead to; others are asked themselves.
#[test]
fn who_is_far_is_asked_unless_a_route_says_where() {
    use super::six::discovery;
    let ends = over4();
    let routes = [route("10.66.0.200/32", ends.1, None), route("fd00:66::200/128", ends.1, None)];
    let tables = stretched(ends, false).with_routes(LAN, &routes).unwrap();
    let flood = Verdict::Flood(Flood::All);
    let verdict = |frame: &[u8]| run_on(&tables, PORT_A, frame).verdict;
    assert_eq!(verdict(&arp_request([10, 66, 0, 200])), Verdict::Reply);
    assert_eq!(verdict(&arp_request([10, 66, 0, 201])), flood);
    // Each host's own gateway answers.
    assert_eq!(verdict(&arp_request(GATEWAY)), Verdict::Reply);
    let from = std::format!("{}", inner6(0xa));
    let ask = |group: &str, target: &str| discovery(&from, group, 135, target, Some((1, A_MAC)));
    assert_eq!(verdict(&ask("ff02::1:ff00:200", "fd00:66::200")), Verdict::Reply);
    assert_eq!(verdict(&ask("ff02::1:ff00:201", "fd00:66::201")), flood);
    assert_eq!(verdict(&ask("ff02::1:ff00:1", "fd00:66::1")), Verdict::Reply);
}

/// RFC 6040, also for frames that are only bridged.
#[test]
fn congestion_in_the_tunnel_is_told() {
    let ends = over4();
    let tables = stretched(ends, false);
    let inside = |ecn: u8, mac| {
        let mut inner = between(mac, FAR_MAC, udp(B));
        inner[15] = ecn;
        fix(&mut inner);
        inner
    };
    let run = |outer: u8, inner: &[u8]| {
        let mut frame = encapsulated(ends, VNI, inner);
        frame[15] = outer;
        fix(&mut frame);
        let after = run_on(&tables, REMOTE_PORT, &frame);
        (after.verdict, sent(&after, &frame))
    };
    let all = Verdict::FloodInside(LAN, Flood::All);
    for (mac, verdict) in [(B_MAC, Verdict::Decapsulate(PORT_B)), ([0xff; 6], all)] {
        assert_eq!(run(3, &inside(2, mac)), (verdict, inside(3, mac)));
        assert_eq!(run(1, &inside(2, mac)), (verdict, inside(1, mac)));
        assert_eq!(run(2, &inside(0, mac)), (verdict, inside(0, mac)));
        let lost = Verdict::Drop(DropReason::TunnelCongestion);
        assert_eq!(run(3, &inside(0, mac)).0, lost);
        let no_ip = other(mac, FAR_MAC);
        assert_eq!(run(3, &no_ip), (verdict, no_ip));
    }
    // The way in: the outer header has the inner one's.
    let frame = between(FAR_MAC, A_MAC, inside(2, FAR_MAC));
    let mut own = frame;
    own[26..30].copy_from_slice(&A);
    fix(&mut own);
    let after = run_on(&tables, PORT_A, &own);
    assert_eq!((after.verdict, after.outer()[15]), (Verdict::Encapsulate(REMOTE_PORT), 2));
}

/// Whatever is inside: it never goes into a tunnel again, to another network's port, or with a port's address as its own.
#[test]
fn any_bytes_inside_stay_here() {
    let both = ends().map(|ends| (ends, stretched(ends, true)));
    bolero::check!().with_type().for_each(|(hostile, kind): &(Hostile, u8)| {
        let (ends, tables) = &both[usize::from(kind & 1)];
        let packet = hostile.packet();
        let mut inner = packet.head().to_vec();
        if kind & 2 != 0 && inner.len() >= 12 {
            inner[6..12].copy_from_slice(&FAR_MAC);
        }
        if kind & 4 != 0 && inner.len() >= 6 {
            inner[..6].copy_from_slice(&B_MAC);
        }
        let frame = encapsulated(*ends, VNI, &inner);
        let after = run_on(tables, REMOTE_PORT, &frame);
        match after.verdict {
            Verdict::Drop(_) => {}
            Verdict::Decapsulate(to) => {
                assert!([PORT_A, PORT_B, TRUNK].contains(&to));
                assert_eq!(after.frame_len as usize, inner.len());
            }
            Verdict::FloodInside(network, _) => {
                assert_eq!(network, LAN);
                assert_eq!(after.frame_len as usize, inner.len());
                assert!(![A_MAC, B_MAC, GATEWAY_MAC].contains(&inner[6..12].try_into().unwrap()));
            }
            other => panic!("{other:?}"),
        }
    });
}
