//! Answers in full, and every kind of verdict in words.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use vrouter_core::{
    FloodLimit, Ipv6Network, Mode, MplsEnd, NetworkIndex, NetworkPolicy, Path, Paths, Policy,
    PortIndex, PortPolicy, PortRole, Rates, RouteChange, RouteTarget, Tables, Timestamp, Tunnel,
    Vtep, explain,
};
use vrouter_net::mpls::Label;
use vrouter_net::vxlan::Vni;
use vrouter_net::{IpPrefix, Mac};

use super::*;

mod bridged;

const RED: NetworkIndex = NetworkIndex(0);
const FABRIC: NetworkIndex = NetworkIndex(1);
const POD: PortIndex = PortIndex(0);
const OTHER: PortIndex = PortIndex(1);
const UP: PortIndex = PortIndex(2);
const HOST: PortIndex = PortIndex(3);
const UP1: PortIndex = PortIndex(4);
const KERNEL: PortIndex = PortIndex(5);

fn mac(last: u8) -> Mac {
    Mac::new([2, 0, 0, 0, 0, last])
}

fn tables() -> Tables {
    tables_of(Mode::Routed)
}

fn tables_of(mode: Mode) -> Tables {
    let local = IpAddr::from([192, 0, 2, 1]);
    let tunnel =
        Tunnel { vni: Vni::new(77), label: Label::new(100), ipip: true, underlay: FABRIC, local };
    let red = NetworkPolicy {
        index: RED,
        prefix: "10.66.0.0/24".parse().unwrap(),
        gateway: Ipv4Addr::new(10, 66, 0, 1),
        gateway_mac: mac(0xfe),
        mtu: 1500,
        ipv6: Some(Ipv6Network {
            prefix: "fd00:66::/64".parse().unwrap(),
            gateway: "fd00:66::1".parse().unwrap(),
        }),
        mode,
        floods: FloodLimit::default(),
        tunnel: Some(tunnel),
        external: false,
        punts: Default::default(),
    };
    let port = |index, network, role, last, ipv4: [u8; 4]| PortPolicy {
        index,
        network,
        role,
        mac: mac(last),
        ipv4: ipv4.into(),
        ipv6: None,
        allowed: Vec::new(),
        trunk: false,
        rates: Rates::default(),
        mtu: None,
    };
    let none = [0; 4];
    let mut pod = port(POD, RED, PortRole::Pod, 2, [10, 66, 0, 2]);
    pod.ipv6 = Some("fd00:66::2".parse().unwrap());
    let policy = Policy {
        networks: vec![red, NetworkPolicy::external(FABRIC, 1500)],
        ports: vec![
            pod,
            port(OTHER, RED, PortRole::Pod, 3, [10, 66, 0, 3]),
            port(UP, FABRIC, PortRole::Uplink { host: Some(HOST) }, 7, none),
            port(HOST, FABRIC, PortRole::Host { uplink: UP }, 7, none),
            port(UP1, FABRIC, PortRole::Uplink { host: None }, 8, none),
            port(KERNEL, RED, PortRole::Kernel, 9, none),
        ],
    };
    let route = |(prefix, target): (&str, RouteTarget)| RouteChange {
        prefix: prefix.parse().unwrap(),
        target: Some(target),
    };
    let link = |port, last| RouteTarget::Link { port, mac: mac(last) };
    let both = [link(UP, 0x21), link(UP1, 0x22)].map(|target| Path { target, weight: 1 });
    let far = IpAddr::from([192, 0, 2, 2]);
    let fabric = [
        ("192.0.2.2/32", link(UP, 0x20)),
        ("192.0.2.1/32", RouteTarget::Local),
        ("198.51.100.0/24", RouteTarget::Multipath(Paths::new(both.into()))),
        ("203.0.113.0/24", RouteTarget::Drop),
    ];
    let red = [
        ("10.99.0.0/24", RouteTarget::Vxlan(Vtep { address: far, mac: None })),
        (
            "10.98.0.0/24",
            RouteTarget::MplsUdp(MplsEnd { address: far, label: Label::new(200).unwrap() }),
        ),
        ("10.95.0.0/24", RouteTarget::Ipip(far)),
        ("10.97.0.0/24", RouteTarget::Kernel),
        ("10.96.0.0/24", RouteTarget::Via(Ipv4Addr::new(10, 66, 0, 50).into())),
    ];
    let tables = Tables::build(&policy).unwrap();
    let tables = tables.with_routes(FABRIC, &fabric.map(route)).unwrap();
    tables.with_routes(RED, &red.map(route)).unwrap()
}

fn place(kind: &str, name: &str, network: &str, state: &str) -> v1::Place {
    v1::Place {
        kind: kind.into(),
        name: name.into(),
        network: network.into(),
        pod: if name == "a/0/net0" { "shop/cart".into() } else { String::new() },
        state: state.into(),
        device: if name == "up1" { "0000:02:00.0".into() } else { String::new() },
    }
}

fn known(network: NetworkIndex, prefix: IpPrefix) -> Known {
    let kernels = network == FABRIC;
    let route = v1::Route { prefix: prefix.to_string(), mirrored: kernels, ..v1::Route::default() };
    let source = match prefix.to_string().as_str() {
        "10.98.0.0/24" => "config",
        _ if kernels => "kernel",
        _ => "api",
    };
    Known { source, route: Some(route) }
}

fn ask(ingress: PortIndex, packet: &Packet) -> v1::Explanation {
    ask_on(&tables(), ingress, packet)
}

fn ask_on(tables: &Tables, ingress: PortIndex, packet: &Packet) -> v1::Explanation {
    let names = Names {
        places: BTreeMap::from([
            (POD, place("pod", "a/0/net0", "red", "up")),
            (OTHER, place("pod", "b/0/net0", "red", "waiting")),
            (UP, place("uplink", "up0", "fabric", "up")),
            (HOST, place("host_interface", "host0", "fabric", "up")),
            (UP1, place("uplink", "up1", "fabric", "up")),
            (KERNEL, place("kernel", "rw-red", "red", "up")),
        ]),
        networks: BTreeMap::from([(RED, "red".to_owned()), (FABRIC, "fabric".to_owned())]),
        known: &known,
    };
    let told = explain(tables, Timestamp::default(), ingress, *packet).unwrap();
    answer(ingress, packet, &told, &names)
}

fn flow(from: &str, to: &str, more: impl Fn(&mut v1::Flow)) -> Flow {
    let mut wire = v1::Flow {
        source: from.into(),
        destination: to.into(),
        source_port: 1,
        destination_port: 2,
        ..v1::Flow::default()
    };
    more(&mut wire);
    Flow::read(&wire).unwrap()
}

fn made(ingress: PortIndex, from: &str, to: &str, more: impl Fn(&mut v1::Flow)) -> Packet {
    let link = match ingress {
        UP | UP1 => Link { to: mac(if ingress == UP { 7 } else { 8 }), from: mac(0x30) },
        _ => Link { to: mac(0xfe), from: mac(if ingress == POD { 2 } else { 9 }) },
    };
    let flow = flow(from, to, more);
    flow.packet(link, from.parse().unwrap(), None, true).unwrap()
}

#[test]
fn every_kind_of_way_in_words() {
    let plain = |_: &mut v1::Flow| {};
    let last = |wire: &mut v1::Flow| wire.ttl = 1;
    let large = |wire: &mut v1::Flow| wire.bytes = 1501;
    let ping = |wire: &mut v1::Flow| {
        wire.protocol = "icmp".into();
        (wire.source_port, wire.destination_port) = (0, 0);
    };
    type Change = fn(&mut v1::Flow);
    /// From where, to where, what is changed, and what is said.
    type Said<'a> = (PortIndex, &'a str, &'a str, Change, &'a str, &'a [&'a str]);
    let cases: [Said<'_>; 23] = [
        (
            POD,
            "10.66.0.2",
            "10.66.0.3",
            plain,
            "dpdk forward ",
            &[
                "address of pod b/0/net0",
                "one of its ports",
                "no application reads port b/0/net0",
                "(it is waiting)",
                "start the application",
            ],
        ),
        (
            POD,
            "10.66.0.2",
            "10.99.0.7",
            plain,
            "dpdk encapsulate ",
            &[
                "by 10.99.0.0/24, a route from the control API",
                "it speaks VXLAN",
                "The tunnel's other end, 192.0.2.2, is found in network fabric by 192.0.2.2/32, a route from the kernel's routing table",
                "uplink up0, neighbour 02:00:00:00:00:20",
            ],
        ),
        (
            POD,
            "10.66.0.2",
            "10.98.0.7",
            plain,
            "dpdk encapsulate ",
            &["a route from the configuration file", "MPLS over UDP"],
        ),
        (POD, "10.66.0.2", "10.95.0.7", plain, "dpdk encapsulate ", &["it speaks IP in IP"]),
        (
            POD,
            "10.66.0.2",
            "10.97.0.7",
            plain,
            "kernel punt kernel",
            &["by kernel port rw-red.", "punt class kernel", "the kernel routes it on"],
        ),
        (
            POD,
            "10.66.0.2",
            "10.66.0.1",
            ping,
            "vrouter reply ",
            &["answers it itself", "its gateway's"],
        ),
        (
            POD,
            "10.66.0.2",
            "10.66.0.1",
            plain,
            "nobody drop gateway_unhandled",
            &["answers pings only"],
        ),
        (
            POD,
            "10.66.0.2",
            "10.66.0.77",
            plain,
            "vrouter icmp_error host_unreachable",
            &["no port has it", "host unreachable", "create a port with that address"],
        ),
        (
            POD,
            "10.66.0.2",
            "10.96.0.7",
            plain,
            "vrouter icmp_error host_unreachable",
            &["leads to nobody", "no port has the address that the route leads to"],
        ),
        (
            POD,
            "10.66.0.2",
            "9.9.9.9",
            plain,
            "nobody drop no_route",
            &["in no prefix of network red", "ringway routes add red 9.9.9.9"],
        ),
        (
            POD,
            "10.66.0.2",
            "10.66.0.3",
            last,
            "vrouter icmp_error time_exceeded",
            &["time to live ends"],
        ),
        (
            POD,
            "10.66.0.2",
            "10.66.0.3",
            large,
            "vrouter icmp_error fragmentation_needed",
            &["told", "tells its sender the MTU"],
        ),
        (
            POD,
            "10.66.0.3",
            "10.66.0.2",
            plain,
            "nobody drop source_ip",
            &["the pod has to send from its own address"],
        ),
        (POD, "10.66.0.2", "224.0.0.1", plain, "nobody drop multicast", &["a bridged one does"]),
        (
            POD,
            "fd00:66::2",
            "fd00:77::1",
            plain,
            "vrouter icmp_error network_unreachable",
            &["no prefix of network red", "no route to the destination"],
        ),
        (
            KERNEL,
            "10.1.1.1",
            "10.97.0.9",
            plain,
            "nobody drop kernel_loop",
            &["each say that the other"],
        ),
        (UP, "198.18.0.1", "192.0.2.1", plain, "kernel punt local", &["this host's kernel has"]),
        (
            UP,
            "198.18.0.1",
            "198.51.100.9",
            plain,
            "dpdk forward ",
            &["2 ways, of which this flow takes", "behind one of its uplinks"],
        ),
        (UP, "198.18.0.1", "9.9.9.9", plain, "kernel punt exception", &["no route for it here"]),
        (UP, "198.18.0.1", "192.0.2.2", last, "kernel punt exception", &["time to live ends here"]),
        (
            UP,
            "198.18.0.1",
            "192.0.2.2",
            large,
            "kernel punt exception",
            &["it has 1501 bytes and the next link takes 1500"],
        ),
        (
            UP,
            "198.18.0.1",
            "203.0.113.9",
            plain,
            "nobody drop blackhole",
            &["`ringway routes fabric`"],
        ),
        (
            UP1,
            "198.18.0.1",
            "9.9.9.9",
            plain,
            "nobody drop no_host_interface",
            &["give the uplink a `host_interface`"],
        ),
    ];
    for (ingress, from, to, more, verdict, parts) in cases {
        let packet = made(ingress, from, to, more);
        let told = ask(ingress, &packet);
        let v1::Explanation { path, verdict: got, reason, why, remedy, .. } = &told;
        assert_eq!(format!("{path} {got} {reason}"), verdict, "{from} to {to}: {why:?}");
        let said = format!("{} {remedy}", why.join(" "));
        for part in parts.iter().filter(|part| **part != "told") {
            assert!(said.contains(part), "{part:?} is not in {said:?}");
        }
        assert!(why.iter().all(|why| why.ends_with('.') && !why.contains("  ")), "{why:?}");
        assert_eq!(got == "drop", told.path == "nobody");
        let headers = told.packet.unwrap();
        assert_eq!((headers.source.as_str(), headers.destination.as_str()), (from, to));
    }
}

#[test]
fn what_goes_into_a_tunnel_and_comes_out_of_one() {
    let told = ask(POD, &made(POD, "10.66.0.2", "10.98.0.7", |_| {}));
    let outer = told.outer.clone().unwrap();
    assert!(outer.source_port >= 0xc000);
    let expected = v1::TunnelHeaders {
        kind: "mpls".into(),
        number: 200,
        source: "192.0.2.1".into(),
        destination: "192.0.2.2".into(),
        source_port: outer.source_port,
        destination_port: 6635,
        ttl: 64,
        bytes: 32,
        source_mac: "02:00:00:00:00:07".into(),
        destination_mac: "02:00:00:00:00:20".into(),
    };
    assert_eq!((outer, told.mtu), (expected.clone(), 1468));
    assert_eq!(told.to.unwrap(), place("uplink", "up0", "fabric", "up"));
    let asked: Vec<_> =
        told.lookups.iter().map(|it| (it.asked.as_str(), it.prefix.as_str())).collect();
    assert_eq!(asked, [("destination", "10.98.0.0/24"), ("underlay", "192.0.2.2/32")]);

    // Without UDP, without a number.
    let told = ask(POD, &made(POD, "10.66.0.2", "10.95.0.7", |_| {}));
    let expected = v1::TunnelHeaders {
        kind: "ipip".into(),
        number: 0,
        source_port: 0,
        destination_port: 0,
        bytes: 20,
        ..expected
    };
    assert_eq!((told.outer, told.mtu), (Some(expected), 1480));

    // The same back, in VXLAN.
    let inner = made(POD, "10.98.0.7", "10.66.0.2", |_| {});
    let mut frame = made(UP, "192.0.2.2", "192.0.2.1", |wire| {
        (wire.source_port, wire.destination_port) = (50_000, 4789);
        wire.bytes = 20 + 16 + 42;
    });
    let shim = [8, 0, 0, 0, 0, 0, 77, 0];
    frame.header[42..50].copy_from_slice(&shim);
    frame.header[50..92].copy_from_slice(&inner.header[..42]);
    let told = ask(UP, &frame);
    assert_eq!((told.verdict.as_str(), told.path.as_str()), ("decapsulate", "dpdk"));
    assert_eq!(told.to.unwrap().name, "a/0/net0");
    let asked: Vec<_> =
        told.lookups.iter().map(|it| (it.asked.as_str(), it.network.as_str())).collect();
    assert_eq!(asked, [("destination", "fabric"), ("inside", "red")]);
    let outer = told.outer.unwrap();
    assert_eq!((outer.kind.as_str(), outer.number, outer.bytes), ("vxlan", 77, 50));
    // A network that nobody has.
    frame.header[48] = 78;
    let told = ask(UP, &frame);
    assert_eq!(told.reason, "unknown_vni");
    assert!(told.remedy.contains("VNI") && told.outer.is_none(), "{told:?}");
}

#[test]
fn packets_that_are_made_are_right() {
    use vrouter_net::checksum;
    for (from, to) in [("10.66.0.2", "10.66.0.3"), ("fd00:66::2", "fd00:66::3")] {
        for (protocol, number) in [("udp", 17), ("tcp", 6), ("icmp", 1)] {
            let packet = made(POD, from, to, |wire| {
                wire.protocol = protocol.into();
                if protocol == "icmp" {
                    (wire.source_port, wire.destination_port) = (0, 0);
                }
                wire.bytes = 100;
                wire.ttl = 9;
            });
            assert_eq!(packet.frame_len, 114);
            let headers = headers::read(&packet);
            assert_eq!((headers.ttl, headers.bytes, headers.protocol.as_str()), (9, 100, protocol));
            let is_six = to.contains(':');
            let (start, addresses) = if is_six { (54, 22..54) } else { (34, 26..34) };
            if !is_six {
                assert!(checksum::verify(&packet.header[14..34]));
                assert_eq!(packet.header[23], number);
            }
            // The rest is zeros, which do not count.
            let length = u32::try_from(114 - start).unwrap().to_be_bytes();
            let next = packet.header[if is_six { 20 } else { 23 }];
            let pseudo = [&packet.header[addresses], &length, &[0, 0, 0, next]].concat();
            let end = usize::from(packet.header_len);
            if protocol == "tcp" && is_six {
                // A worker sees the head up to the ports and the sequence number.
                assert_eq!(end, 64);
                continue;
            }
            let message = &packet.header[start..end];
            let covered = if protocol == "icmp" && !is_six {
                message.to_vec()
            } else {
                [&pseudo, message].concat()
            };
            assert!(checksum::verify(&covered), "{protocol} to {to}");
        }
    }
}

#[test]
fn what_can_be_asked() {
    let wire = |more: fn(&mut v1::Flow)| {
        let mut flow = v1::Flow { destination: "10.1.0.1".into(), ..v1::Flow::default() };
        more(&mut flow);
        v1::ExplainRequest {
            ingress: Some(wire::Ingress::Port("a".into())),
            packet: Some(wire::Packet::Flow(flow)),
        }
    };
    assert!(Question::read(wire(|_| {})).is_ok());
    for (request, text) in [
        (wire(|it| it.destination = "x".into()), "destination \"x\": use an IPv4 or IPv6"),
        (wire(|it| it.source = "fd00::1".into()), "source \"fd00::1\": use an address of the same"),
        (wire(|it| it.protocol = "sctp".into()), "protocol \"sctp\": use udp, tcp or icmp"),
        (wire(|it| it.source_port = 65_536), "source_port \"65536\""),
        (wire(|it| it.ttl = 256), "ttl \"256\": use 1 to 255"),
        (wire(|it| it.bytes = 27), "bytes \"27\": its headers alone have 28"),
        (wire(|it| (it.protocol, it.source_port) = ("icmp".into(), 7)), "icmp has no ports"),
        (v1::ExplainRequest { ingress: None, ..wire(|_| {}) }, "ingress \"\": name a port"),
        (v1::ExplainRequest { packet: None, ..wire(|_| {}) }, "packet \"\": give a frame"),
        (
            v1::ExplainRequest { packet: Some(wire::Packet::Frame(vec![])), ..wire(|_| {}) },
            "frame \"0 bytes\"",
        ),
    ] {
        let error = Question::read(request).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn larger_packets_in_words() {
    use vrouter_core::{DropReason, IcmpError, PuntClass, Verdict};
    for (verdict, part) in [
        (Verdict::Originate(IcmpError::FragmentationNeeded { mtu: 1450 }), "told the MTU 1450"),
        (Verdict::Drop(DropReason::TooBig), "nobody is told"),
        (Verdict::Drop(DropReason::NoHostInterface), "no_host_interface"),
        (Verdict::Punt(HOST, PuntClass::Exception), "cuts it into fragments"),
        (Verdict::Forward(OTHER), "(forward)"),
    ] {
        let larger = larger(&verdict, true);
        assert!(larger.what.contains(part), "{larger:?}");
    }
}

#[test]
fn frames_of_any_kind_are_safe() {
    bolero::check!().with_type().for_each(|(bytes, port): &(Vec<u8>, u8)| {
        let packet = received(bytes, bytes.len());
        let told = ask(PortIndex(u16::from(port % 6)), &packet);
        assert!(!told.why.is_empty(), "{told:?}");
    });
}
