//! Uplinks, their host interfaces and kernel ports: what is forwarded, what is the kernel's, and what goes through tunnels
//! over an external network.

use super::*;
use crate::{
    Ipv6Network, MplsEnd, Path, Paths, PortRole, PuntClass, PuntRate, PuntRates, Tunnel, Vtep,
};
use core::net::{IpAddr, Ipv6Addr};
use vrouter_net::mpls::Label;
use vrouter_net::vxlan::Vni;

mod explained;
mod hostile;
mod ipip;
mod paths;

const FABRIC: NetworkIndex = NetworkIndex(2);
const RED: NetworkIndex = NetworkIndex(0);
const UP: PortIndex = PortIndex(20);
const UP_HOST: PortIndex = PortIndex(21);
/// Has no host interface, and takes smaller packets.
const OTHER: PortIndex = PortIndex(22);
const KERNEL: PortIndex = PortIndex(23);
const UP_MAC: [u8; 6] = [2, 0, 0, 0, 7, 1];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 7, 2];
const KERNEL_MAC: [u8; 6] = [2, 0, 0, 0, 7, 3];
/// A router on the wire.
const PEER: [u8; 6] = [2, 0, 0, 0, 8, 1];
const NEXT: [u8; 6] = [2, 0, 0, 0, 8, 2];
const OTHER_MTU: u16 = 1400;
/// This host's.
const HOST: [u8; 4] = [192, 0, 2, 1];
/// Behind the other uplink.
const THERE: [u8; 4] = [198, 51, 100, 7];
const STRANGER: [u8; 4] = [203, 0, 113, 5];
const LOCAL: [u8; 4] = [192, 0, 2, 9];
const REMOTE: [u8; 4] = [198, 51, 100, 2];
const FAR: [u8; 4] = [20, 0, 0, 1];
const KERNELS: [u8; 4] = [30, 0, 0, 1];

fn six(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn uplinks(local: IpAddr) -> Policy {
    let mut policy = policy();
    let mut fabric = NetworkPolicy::external(FABRIC, MTU + 100);
    fabric.punts = PuntRates {
        local: PuntRate { per_second: 1_000, burst: 5 },
        control: PuntRate { per_second: 1_000, burst: 6 },
        exception: PuntRate { per_second: 1_000, burst: 7 },
        ..PuntRates::default()
    };
    policy.networks.push(fabric);
    let red = &mut policy.networks[0];
    red.tunnel = Some(Tunnel {
        vni: Vni::new(77),
        label: Label::new(4_000),
        ipip: true,
        underlay: FABRIC,
        local,
    });
    let (prefix, gateway) = ("fd00:66::/64".parse().unwrap(), six("fd00:66::1"));
    red.ipv6 = Some(Ipv6Network { prefix, gateway });
    red.punts.kernel = PuntRate { per_second: 1_000, burst: 3 };
    policy.ports[0].ipv6 = Some(six("fd00:66::a"));
    policy.ports[1].ipv6 = Some(six("fd00:66::b"));
    let none = Ipv4Addr::UNSPECIFIED;
    let like = |index, network, role, mac| PortPolicy {
        index,
        network,
        role,
        mac: Mac::new(mac),
        ipv4: none,
        ipv6: None,
        ..policy.ports[0].clone()
    };
    let other = like(OTHER, FABRIC, PortRole::Uplink { host: None }, OTHER_MAC);
    let more = [
        like(UP, FABRIC, PortRole::Uplink { host: Some(UP_HOST) }, UP_MAC),
        like(UP_HOST, FABRIC, PortRole::Host { uplink: UP }, UP_MAC),
        PortPolicy { mtu: Some(OTHER_MTU), ..other },
        like(KERNEL, RED, PortRole::Kernel, KERNEL_MAC),
    ];
    policy.ports.extend(more);
    policy
}

fn link(port: PortIndex, mac: [u8; 6]) -> RouteTarget {
    RouteTarget::Link { port, mac: Mac::new(mac) }
}

fn routes(routes: &[(&str, RouteTarget)]) -> Vec<RouteChange> {
    let change = |(prefix, target): &(&str, RouteTarget)| RouteChange {
        prefix: prefix.parse().unwrap(),
        target: Some(target.clone()),
    };
    routes.iter().map(change).collect()
}

fn vtep(address: IpAddr) -> RouteTarget {
    RouteTarget::Vxlan(Vtep { address, mac: None })
}

fn mpls(address: IpAddr) -> RouteTarget {
    RouteTarget::MplsUdp(MplsEnd { address, label: Label::new(0x12345).unwrap() })
}

/// The two ends of the tunnel, over either family.
fn ends() -> [(IpAddr, IpAddr); 2] {
    [(LOCAL.into(), REMOTE.into()), (six("2001:db8:1::9").into(), six("2001:db8:2::2").into())]
}

fn over((local, remote): (IpAddr, IpAddr)) -> Tables {
    let fabric = [
        ("192.0.2.1/32", RouteTarget::Local),
        ("2001:db8:1::1/128", RouteTarget::Local),
        ("198.51.100.0/24", link(OTHER, NEXT)),
        ("2001:db8:2::/48", link(OTHER, NEXT)),
        ("198.51.100.77/32", link(UP, PEER)),
        ("203.0.113.128/25", RouteTarget::Unreachable),
        ("203.0.114.0/24", RouteTarget::Drop),
    ];
    let red = [
        ("20.0.0.0/8", vtep(remote)),
        ("2001:db8:20::/48", vtep(remote)),
        ("21.0.0.0/8", mpls(remote)),
        ("2001:db8:21::/48", mpls(remote)),
        ("22.0.0.0/8", RouteTarget::Ipip(remote)),
        ("2001:db8:22::/48", RouteTarget::Ipip(remote)),
        ("30.0.0.0/8", RouteTarget::Kernel),
        ("2001:db8:30::/48", RouteTarget::Kernel),
    ];
    let tables = Tables::build(&uplinks(local)).unwrap();
    let tables = tables.with_routes(FABRIC, &routes(&fabric)).unwrap();
    tables.with_routes(RED, &routes(&red)).unwrap()
}

fn run_on(tables: &Tables, ingress: PortIndex, frame: &[u8]) -> Packet {
    let mut batch = [packet(frame)];
    process(tables, Timestamp::default(), ingress, &mut batch, &mut PortLimits::default());
    batch[0]
}

/// The frame that leaves.
fn sent(packet: &Packet, frame: &[u8]) -> Vec<u8> {
    let (head, start) = (packet.sent_head(), packet.removed());
    let end = start + packet.frame_len as usize;
    [packet.outer(), head, &frame[start + head.len()..end]].concat()
}

fn wire(from: [u8; 4], to: [u8; 4], ttl: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2(PEER, UP_MAC);
    link.ipv4(from, to, ttl).udp(1000, 2000).write(&mut frame, &[0x5a; 100]).unwrap();
    frame
}

fn wire6(from: &str, to: &str, ttl: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2(PEER, UP_MAC);
    let (from, to) = (six(from).octets(), six(to).octets());
    link.ipv6(from, to, ttl).udp(1000, 2000).write(&mut frame, &[0x5a; 100]).unwrap();
    frame
}

fn pod(from_mac: [u8; 6], from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2(from_mac, GATEWAY_MAC);
    link.ipv4(from, to, 9).udp(1000, 2000).write(&mut frame, &[0x5a; 100]).unwrap();
    frame
}

fn pod6(to: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2(A_MAC, GATEWAY_MAC);
    let (from, to) = (six("fd00:66::a").octets(), six(to).octets());
    link.ipv6(from, to, 9).udp(1000, 2000).write(&mut frame, &[0x5a; 100]).unwrap();
    frame
}

#[test]
fn what_comes_in_by_an_uplink() {
    use DropReason::*;
    use PuntClass::*;
    let tables = over(ends()[0]);
    let punt = |class| Verdict::Punt(UP_HOST, class);
    let drop = Verdict::Drop;
    let to_other = Verdict::Forward(OTHER);
    fn ttl(f: &mut [u8], ttl: u8) {
        f[22] = ttl;
        fix(f);
    }
    let v6 = |to| wire6("2001:db8:9::1", to, 9);
    let cases: Vec<(&str, Vec<u8>, Change, Verdict)> = vec![
        ("for this host", wire(STRANGER, HOST, 9), |_| (), punt(Local)),
        ("for this host, TTL 1", wire(STRANGER, HOST, 1), |_| (), punt(Local)),
        ("for the tunnel's end, no tunnel", wire(STRANGER, LOCAL, 9), |_| (), punt(Local)),
        ("for another host", wire(STRANGER, THERE, 9), |_| (), to_other),
        ("TTL 2", wire(STRANGER, THERE, 9), |f| ttl(f, 2), to_other),
        ("TTL 1", wire(STRANGER, THERE, 9), |f| ttl(f, 1), punt(Exception)),
        ("options", with_options(wire(STRANGER, THERE, 9), 1), |_| (), punt(Exception)),
        ("options, here", with_options(wire(STRANGER, HOST, 9), 1), |_| (), punt(Local)),
        ("no route", wire(STRANGER, [9, 9, 9, 9], 9), |_| (), punt(Exception)),
        ("unreachable", wire(STRANGER, [203, 0, 113, 200], 9), |_| (), punt(Exception)),
        ("black hole", wire(STRANGER, [203, 0, 114, 1], 9), |_| (), drop(Blackhole)),
        ("out again", wire(STRANGER, [198, 51, 100, 77], 9), |_| (), Verdict::Forward(UP)),
        ("a group", wire(STRANGER, [224, 0, 0, 5], 9), |_| (), punt(Control)),
        ("a group's MAC", wire(STRANGER, [224, 0, 0, 5], 9), |f| f[0] |= 1, punt(Control)),
        ("broadcast", wire(STRANGER, HOST, 9), |f| f[..6].fill(0xff), punt(Control)),
        ("loopback source", wire([127, 0, 0, 1], THERE, 9), |_| (), drop(SourceIp)),
        ("zero source", wire([0, 1, 0, 1], THERE, 9), |_| (), drop(SourceIp)),
        ("group source", wire([224, 0, 0, 1], THERE, 9), |_| (), drop(SourceIp)),
        ("broadcast source", wire([255; 4], THERE, 9), |_| (), drop(SourceIp)),
        ("another MAC", wire(STRANGER, HOST, 9), |f| f[5] ^= 1, drop(NotForGatewayMac)),
        ("bad checksum", wire(STRANGER, THERE, 9), |f| f[25] ^= 1, drop(BadIpv4Checksum)),
        ("version", wire(STRANGER, THERE, 9), |f| f[14] = 0x55, drop(MalformedIpv4)),
        ("13 bytes", wire(STRANGER, THERE, 9), |f| f.truncate(13), drop(RuntFrame)),
        ("33 bytes", wire(STRANGER, THERE, 9), |f| f.truncate(33), drop(RuntFrame)),
        ("VLAN", wire(STRANGER, THERE, 9), |f| f[12] = 0x81, punt(Control)),
        ("ARP", wire(STRANGER, THERE, 9), |f| f[13] = 6, punt(Control)),
        ("802.3", wire(STRANGER, THERE, 9), |f| f[12..14].fill(0), punt(Control)),
        ("6, here", v6("2001:db8:1::1"), |_| (), punt(Local)),
        ("6, another host", v6("2001:db8:2::7"), |_| (), to_other),
        ("6, hop limit 1", v6("2001:db8:2::7"), |f| f[21] = 1, punt(Exception)),
        ("6, hop-by-hop", v6("2001:db8:2::7"), |f| f[20] = 0, punt(Exception)),
        ("6, no route", v6("2001:db8:7::7"), |_| (), punt(Exception)),
        ("6, link-local", v6("fe80::1"), |_| (), punt(Control)),
        ("6, group", v6("ff02::5"), |_| (), punt(Control)),
        ("6, link-local source", wire6("fe80::2", "2001:db8:2::7", 9), |_| (), drop(SourceIp)),
        ("6, no source", wire6("::", "2001:db8:2::7", 9), |_| (), drop(SourceIp)),
        ("6, link-local source, here", wire6("fe80::2", "2001:db8:1::1", 9), |_| (), punt(Local)),
        ("6, length", v6("2001:db8:2::7"), |f| f[18] = 1, drop(MalformedIpv6)),
        ("6, discovery", v6("2001:db8:1::1"), |f| (f[20] = 58, f[54] = 135).1, punt(Control)),
    ];
    for (name, mut frame, change, verdict) in cases {
        change(&mut frame);
        let before = packet(&frame);
        let after = run_on(&tables, UP, &frame);
        assert_eq!(after.verdict, verdict, "{name}");
        if let Verdict::Forward(port) = verdict {
            let mut expected = frame.clone();
            let (to, from) = if port == UP { (PEER, UP_MAC) } else { (NEXT, OTHER_MAC) };
            expected[..6].copy_from_slice(&to);
            expected[6..12].copy_from_slice(&from);
            if frame[12] == 8 {
                expected[22] -= 1;
                fix(&mut expected);
            } else {
                expected[21] -= 1;
            }
            assert_eq!(sent(&after, &frame), expected, "{name}");
        } else {
            assert_eq!(after.header, before.header, "{name}");
        }
        // Without a host interface the kernel gets nothing.
        if matches!(verdict, Verdict::Punt(..)) {
            if frame[0] & 1 == 0 {
                frame[..6].copy_from_slice(&OTHER_MAC);
            }
            let after = run_on(&tables, OTHER, &frame);
            assert_eq!(after.verdict, drop(NoHostInterface), "{name}");
        }
    }
}

/// The kernel makes the error about a packet that is too big for the next link.
#[test]
fn packets_larger_than_the_next_link() {
    let tables = over(ends()[0]);
    let frame = |to: [u8; 4], bytes: u16| {
        let mut frame = Vec::new();
        let link = PacketBuilder::ethernet2(PEER, UP_MAC);
        let payload = vec![0; usize::from(bytes) - 28];
        link.ipv4(STRANGER, to, 9).udp(1, 2).write(&mut frame, &payload).unwrap();
        frame
    };
    for (bytes, verdict) in [
        (OTHER_MTU, Verdict::Forward(OTHER)),
        (OTHER_MTU + 1, Verdict::Punt(UP_HOST, PuntClass::Exception)),
    ] {
        assert_eq!(run_on(&tables, UP, &frame(THERE, bytes)).verdict, verdict);
    }
    let verdict = run_on(&tables, UP, &frame([198, 51, 100, 77], MTU + 100)).verdict;
    assert_eq!(verdict, Verdict::Forward(UP));
}

#[test]
fn a_host_interface_is_connected_through() {
    let tables = over(ends()[0]);
    for frame in [wire(HOST, STRANGER, 1), vec![0xff; 14], arp_request(A), vec![7; 1514]] {
        let mut batch = [packet(&frame); 3];
        let mut limits = PortLimits::default();
        let outcome = process(&tables, Timestamp::default(), UP_HOST, &mut batch, &mut limits);
        assert_eq!(outcome, Outcome { all_to: Some(UP), tunnelled: false });
        for after in batch {
            assert_eq!(
                (after.verdict, after.header),
                (Verdict::Forward(UP), packet(&frame).header)
            );
        }
    }
    let mut batch = [packet(&[1; 60]), packet(&[1; 13])];
    let mut limits = PortLimits::default();
    let outcome = process(&tables, Timestamp::default(), UP_HOST, &mut batch, &mut limits);
    assert_eq!(outcome.all_to, None);
    assert_eq!(batch[1].verdict, Verdict::Drop(DropReason::RuntFrame));
}

/// Each class has its own bucket, and its tokens come back.
#[test]
fn punts_are_limited_by_class() {
    let tables = over(ends()[0]);
    let mut limits = PortLimits::default();
    let mut count = |now, ingress, frame: &[u8]| {
        let mut batch = [packet(frame); 100];
        process(&tables, Timestamp::from_nanoseconds(now), ingress, &mut batch, &mut limits);
        let limited = Verdict::Drop(DropReason::PuntLimited);
        assert!(batch.iter().all(|packet| match packet.verdict {
            Verdict::Punt(..) => true,
            verdict => verdict == limited,
        }));
        batch.iter().filter(|packet| packet.verdict != limited).count()
    };
    let kinds = [
        (wire(STRANGER, HOST, 9), 5),
        (arp_request(A), 6),
        (wire(STRANGER, [9, 9, 9, 9], 9), 7),
        (wire6("2001:db8:9::1", "2001:db8:7::7", 9), 0),
    ];
    for (frame, allowed) in &kinds {
        assert_eq!(count(0, UP, frame), *allowed);
    }
    assert_eq!(count(2_000_000, UP, &kinds[0].0), 2);
    assert_eq!(count(2_000_000, UP, &kinds[2].0), 2);
    assert_eq!(count(0, PORT_A, &pod(A_MAC, A, KERNELS)), 3);
}

#[test]
fn to_the_kernel_as_a_router() {
    let tables = over(ends()[0]);
    for mut frame in [pod(A_MAC, A, KERNELS), pod6("2001:db8:30::1")] {
        // The kernel counts itself, and says so when the count is out.
        let ttl = if frame[12] == 8 { 22 } else { 21 };
        for hops in [9, 1] {
            frame[ttl] = hops;
            if ttl == 22 {
                fix(&mut frame);
            }
            let after = run_on(&tables, PORT_A, &frame);
            assert_eq!(after.verdict, Verdict::Punt(KERNEL, PuntClass::Kernel));
            let mut expected = frame.clone();
            expected[..6].copy_from_slice(&KERNEL_MAC);
            expected[6..12].copy_from_slice(&GATEWAY_MAC);
            assert_eq!(sent(&after, &frame), expected);
        }
        // Round and round is not to be.
        frame[6..12].copy_from_slice(&KERNEL_MAC);
        let after = run_on(&tables, KERNEL, &frame);
        assert_eq!(after.verdict, Verdict::Drop(DropReason::KernelLoop));
        assert_eq!(after.header, packet(&frame).header);
    }
    // What the kernel forwards for others, and its own.
    for from in [STRANGER, [10, 66, 0, 200], B] {
        let frame = pod(KERNEL_MAC, from, A);
        let after = run_on(&tables, KERNEL, &frame);
        assert_eq!(after.verdict, Verdict::Forward(PORT_A), "{from:?}");
        assert_eq!(after.header[22], 8);
    }
    let into = run_on(&tables, KERNEL, &pod(KERNEL_MAC, STRANGER, FAR));
    assert_eq!(into.verdict, Verdict::Encapsulate(OTHER));
    let spoofed = run_on(&tables, KERNEL, &pod(A_MAC, STRANGER, A));
    assert_eq!(spoofed.verdict, Verdict::Drop(DropReason::SourceMac));
    // Too big for it: the gateway says so.
    let mut policy = uplinks(LOCAL.into());
    policy.ports.last_mut().unwrap().mtu = Some(1280);
    let smaller = tables.update(&policy).unwrap();
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2(A_MAC, GATEWAY_MAC).ipv4(A, KERNELS, 9).udp(1, 2);
    link.write(&mut frame, &[0; 1280 - 27]).unwrap();
    let needed = IcmpError::FragmentationNeeded { mtu: 1280 };
    assert_eq!(run_on(&smaller, PORT_A, &frame).verdict, Verdict::Originate(needed));
    // Without a kernel port the route leads to nobody.
    policy.ports.pop();
    let without = tables.update(&policy).unwrap();
    let verdict = run_on(&without, PORT_A, &pod(A_MAC, A, KERNELS)).verdict;
    assert_eq!(verdict, Verdict::Originate(IcmpError::HostUnreachable));
    let again = without.update(&uplinks(LOCAL.into())).unwrap();
    let verdict = run_on(&again, PORT_A, &pod(A_MAC, A, KERNELS)).verdict;
    assert_eq!(verdict, Verdict::Punt(KERNEL, PuntClass::Kernel));
}

/// With an address of its own, the kernel answers for itself; the gateway says where it is.
#[test]
fn a_kernel_port_with_an_address() {
    let mut policy = uplinks(LOCAL.into());
    policy.ports.last_mut().unwrap().ipv4 = [10, 66, 0, 99].into();
    policy.ports.last_mut().unwrap().ipv6 = Some(six("fd00:66::99"));
    let tables = Tables::build(&policy).unwrap();
    let to_kernel = Verdict::Punt(KERNEL, PuntClass::Kernel);
    assert_eq!(run_on(&tables, PORT_A, &pod(A_MAC, A, [10, 66, 0, 99])).verdict, to_kernel);
    assert_eq!(run_on(&tables, PORT_A, &pod6("fd00:66::99")).verdict, to_kernel);
    assert_eq!(run_on(&tables, PORT_A, &arp_request([10, 66, 0, 99])).verdict, Verdict::Reply);
    let verdict = run_on(&tables, KERNEL, &pod(KERNEL_MAC, STRANGER, [10, 66, 0, 99])).verdict;
    assert_eq!(verdict, Verdict::Drop(DropReason::KernelLoop));
}

/// In a bridged network the kernel is a station, too, and gets no more of what is for it than its limit allows.
#[test]
fn a_kernel_port_of_a_bridged_network() {
    let mut policy = uplinks(LOCAL.into());
    policy.networks[0].mode = Mode::Bridged;
    let tables = Tables::build(&policy).unwrap();
    let mut frame = pod(A_MAC, A, B);
    frame[..6].copy_from_slice(&KERNEL_MAC);
    let mut batch = [packet(&frame); 5];
    let mut limits = PortLimits::default();
    process(&tables, Timestamp::default(), PORT_A, &mut batch, &mut limits);
    let to_kernel = Verdict::Punt(KERNEL, PuntClass::Kernel);
    let limited = Verdict::Drop(DropReason::PuntLimited);
    let expected = [to_kernel, to_kernel, to_kernel, limited, limited];
    assert_eq!(batch.map(|packet| packet.verdict), expected);
    assert_eq!(batch[0].header, packet(&frame).header);
    let mut back = pod(KERNEL_MAC, STRANGER, A);
    back[..6].copy_from_slice(&A_MAC);
    assert_eq!(run_on(&tables, KERNEL, &back).verdict, Verdict::Forward(PORT_A));
}

/// There and back: what one vRouter puts into a tunnel, another takes out.
#[test]
fn tunnels_over_an_external_network() {
    for ends in ends() {
        let tables = over(ends);
        for (to, is_mpls) in [(FAR, false), ([21, 0, 0, 1], true)] {
            let frames = [
                pod(A_MAC, A, to),
                with_options(pod(A_MAC, A, to), 2),
                pod6(if is_mpls { "2001:db8:21::1" } else { "2001:db8:20::1" }),
            ];
            for frame in frames {
                let after = run_on(&tables, PORT_A, &frame);
                assert_eq!(after.verdict, Verdict::Encapsulate(OTHER));
                let mut outer = sent(&after, &frame);
                let saved = if is_mpls { 4 + 14 } else { 0 };
                let header = if ends.0.is_ipv4() { 50 } else { 70 };
                assert_eq!(outer.len(), frame.len() + header - saved);
                assert_eq!(outer[..12], [NEXT, OTHER_MAC].concat());
                let read = outer.clone();
                let sliced = SlicedPacket::from_ethernet(&read).unwrap();
                let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("no UDP") };
                assert_eq!(udp.destination_port(), if is_mpls { 6635 } else { 4789 });
                let payload = udp.payload().to_vec();
                if is_mpls {
                    assert_eq!(payload[..4], [0x12, 0x34, 0x51, 255]);
                    assert_eq!(payload[4], frame[14]);
                    let ttl = if payload[4] >> 4 == 4 { 8 } else { 7 };
                    assert_eq!(
                        payload[4 + ttl],
                        8,
                        "the pipe model: one hop for the packet inside"
                    );
                }
                // The other end sends the same to us.
                turn(&mut outer, ends, if is_mpls { Some(4_000) } else { None });
                let inner_end = outer.len();
                // To a port here.
                let start = inner_end - (frame.len() - 14);
                if frame[12] == 8 {
                    outer[start + 12..start + 16].copy_from_slice(&FAR);
                    outer[start + 16..start + 20].copy_from_slice(&B);
                    let bytes = usize::from(outer[start] & 0xf) * 4;
                    outer[start + 10..start + 12].fill(0);
                    let sum = checksum::compute(&outer[start..start + bytes]);
                    outer[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
                } else {
                    outer[start + 24..start + 40].copy_from_slice(&six("fd00:66::b").octets());
                }
                outer.extend([0xee; 5]);
                let back = run_on(&tables, UP, &outer);
                assert_eq!(back.verdict, Verdict::Decapsulate(PORT_B), "{frame:02x?}");
                let got = sent(&back, &outer);
                assert_eq!(got.len(), frame.len());
                assert_eq!(got[..12], [B_MAC, GATEWAY_MAC].concat());
                assert_eq!(got[12..14], frame[12..14]);
                assert_eq!(got[got.len() - 100..], [0x5a; 100]);
                let ttl = if frame[12] == 8 { 22 } else { 21 };
                assert_eq!(got[ttl], 7);
                // A stranger may not, nor is anything changed then.
                let from = if ends.0.is_ipv4() { 29 } else { 37 };
                outer[from] ^= 1;
                if from == 29 {
                    fix(&mut outer);
                }
                let after = run_on(&tables, UP, &outer);
                assert_eq!(after.verdict, Verdict::Drop(DropReason::UnknownVtep));
                assert_eq!(after.header, packet(&outer).header);
            }
        }
    }
}

/// Makes a frame that leaves one that arrives: the ends change places, and the label is ours.
fn turn(frame: &mut [u8], (local, remote): (IpAddr, IpAddr), label: Option<u32>) {
    frame[..12].copy_from_slice(&[UP_MAC, PEER].concat());
    match (local, remote) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => {
            frame[26..34].copy_from_slice(&[remote.octets(), local.octets()].concat());
            fix(frame);
        }
        (IpAddr::V6(local), IpAddr::V6(remote)) => {
            frame[22..54].copy_from_slice(&[remote.octets(), local.octets()].concat());
        }
        _ => unreachable!("two families"),
    }
    let shim = if local.is_ipv4() { 42 } else { 62 };
    match label {
        Some(label) => {
            let [_, a, b, c] = (label << 4).to_be_bytes();
            frame[shim..shim + 3].copy_from_slice(&[a, b, c | 1]);
        }
        // The inner frame is for the gateway as it is.
        None => assert_eq!(frame[shim + 8..shim + 14], GATEWAY_MAC),
    }
}

fn labelled(inner: &[u8], change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut payload = [&(4_000 << 12 | 0x1_ff_u32).to_be_bytes()[..], inner].concat();
    change(&mut payload);
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2(PEER, UP_MAC);
    link.ipv4(REMOTE, LOCAL, 9).udp(50_000, 6635).write(&mut frame, &payload).unwrap();
    frame
}

#[test]
fn mpls_that_is_not_right() {
    use DropReason::*;
    let tables = over(ends()[0]);
    let inner = |to: [u8; 4], ttl: u8| {
        let mut frame = wire(FAR, to, ttl);
        frame.drain(..14);
        frame
    };
    type Change = fn(&mut Vec<u8>);
    let cases: [(&str, Vec<u8>, Change, Verdict); 10] = [
        ("right", inner(A, 9), |_| (), Verdict::Decapsulate(PORT_A)),
        ("two labels", inner(A, 9), |p| p[2] &= !1, Verdict::Drop(MalformedMpls)),
        ("another label", inner(A, 9), |p| p[1] ^= 1, Verdict::Drop(UnknownLabel)),
        ("a reserved label", inner(A, 9), |p| p[..3].copy_from_slice(&[0, 0, 0x31]), {
            Verdict::Drop(UnknownLabel)
        }),
        ("no IP", inner(A, 9), |p| p[4] = 0x10, Verdict::Drop(MalformedMpls)),
        ("nothing inside", Vec::new(), |_| (), Verdict::Drop(MalformedMpls)),
        ("bad checksum", inner(A, 9), |p| p[14] ^= 1, Verdict::Drop(BadIpv4Checksum)),
        ("TTL 1", inner(A, 1), |_| (), Verdict::Drop(TtlExceeded)),
        ("into a tunnel", inner(FAR, 9), |_| (), Verdict::Drop(TunnelTransit)),
        ("the kernel's", inner(KERNELS, 1), |_| (), Verdict::Decapsulate(KERNEL)),
    ];
    for (name, inner, change, verdict) in cases {
        let frame = labelled(&inner, change);
        let after = run_on(&tables, UP, &frame);
        assert_eq!(after.verdict, verdict, "{name}");
        if matches!(verdict, Verdict::Drop(_)) {
            assert_eq!(after.header, packet(&frame).header, "{name}");
        }
    }
    let mut fragment = labelled(&inner(A, 9), |_| ());
    fragment[20] = 0x20;
    fix(&mut fragment);
    assert_eq!(run_on(&tables, UP, &fragment).verdict, Verdict::Drop(MalformedMpls));
}

/// The uplink's MTU and the tunnel's header leave so much for a pod, whose gateway says so.
#[test]
fn packets_larger_than_a_tunnel_over_an_uplink() {
    for ends in ends() {
        let tables = over(ends);
        for (to, outer) in [(FAR, 50), ([21, 0, 0, 1], 32), ([22, 0, 0, 1], 20)] {
            let room = OTHER_MTU - outer - if ends.0.is_ipv4() { 0 } else { 20 };
            let frame = |bytes: u16| {
                let mut frame = Vec::new();
                let link = PacketBuilder::ethernet2(A_MAC, GATEWAY_MAC).ipv4(A, to, 9).udp(1, 2);
                link.write(&mut frame, &vec![0; usize::from(bytes) - 28]).unwrap();
                frame
            };
            let largest = frame(room);
            let after = run_on(&tables, PORT_A, &largest);
            assert_eq!(after.verdict, Verdict::Encapsulate(OTHER));
            assert_eq!(sent(&after, &largest).len(), usize::from(OTHER_MTU) + 14);
            let needed = IcmpError::FragmentationNeeded { mtu: room };
            let verdict = run_on(&tables, PORT_A, &frame(room + 1)).verdict;
            assert_eq!(verdict, Verdict::Originate(needed));
        }
    }
}

/// A packet that its sender wants cut keeps its Ethernet header under an outer header that takes the place of that, for
/// whoever cuts it.
#[test]
fn segments_into_mpls_and_ipip_get_their_header_later() {
    for ends in ends() {
        let tables = over(ends);
        for (to, lengths) in [([21, 0, 0, 1], [46, 66]), ([22, 0, 0, 1], [34, 54])] {
            let mut frame = Vec::new();
            let link = PacketBuilder::ethernet2(A_MAC, GATEWAY_MAC).ipv4(A, to, 9);
            link.tcp(1, 2, 3, 4).write(&mut frame, &vec![7; 20_000]).unwrap();
            let mut batch = [Packet { segment_bytes: 1_000, ..packet(&frame) }];
            let mut limits = PortLimits::default();
            process(&tables, Timestamp::default(), PORT_A, &mut batch, &mut limits);
            let [after] = batch;
            assert_eq!(after.verdict, Verdict::Encapsulate(OTHER));
            assert_eq!(after.header[12..14], [8, 0]);
            let outer = after.outer();
            assert_eq!(vrouter_net::vxlan::overlap(outer.len()), 14);
            assert_eq!(outer.len(), lengths[usize::from(ends.0.is_ipv6())]);
        }
    }
}
