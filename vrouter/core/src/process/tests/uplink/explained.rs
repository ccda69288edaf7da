//! What is said about a packet: the entries, ways and headers that it goes by, and that asking leaves no trace.

use super::*;
use crate::{Asked, Explanation, Found, NextHop, Rate, TunnelNumber, explain};
use std::format;
use std::string::{String, ToString};
use vrouter_net::IpPrefix;

fn told(tables: &Tables, ingress: PortIndex, frame: &[u8]) -> Explanation {
    explain(tables, Timestamp::default(), ingress, packet(frame)).unwrap()
}

/// Whose address, in which network, by which entry, whether that is the network's own.
type Lookup = (Asked, NetworkIndex, Option<(String, bool)>);

fn asked(told: &Explanation) -> Vec<Lookup> {
    let found = |Found { prefix, own }: Found| (prefix.to_string(), own);
    told.lookups.iter().map(|it| (it.asked, it.network, it.found.map(found))).collect()
}

fn entry(prefix: &str, own: bool) -> Option<(String, bool)> {
    Some((prefix.to_string(), own))
}

#[test]
fn into_a_tunnel_over_one_of_several_ways() {
    use Asked::{Destination, Underlay};
    let ends = ends()[0];
    let tables = paths::spread(ends);
    let mut ways = std::collections::BTreeSet::new();
    for port in 0..64 {
        let mut frame = pod(A_MAC, A, [21, 0, 0, 1]);
        frame[34..36].copy_from_slice(&u16::to_be_bytes(port));
        let told = told(&tables, PORT_A, &frame);
        let Verdict::Encapsulate(uplink) = told.packet.verdict else { panic!("{told:?}") };
        assert_eq!(told.packet.verdict, run_on(&tables, PORT_A, &frame).verdict);
        let both = [
            (Destination, RED, entry("21.0.0.0/8", false)),
            (Underlay, FABRIC, entry("198.51.100.0/24", false)),
        ];
        assert_eq!(asked(&told), both);
        let [destination, underlay] = &told.lookups[..] else { unreachable!() };
        assert!(matches!(destination.next_hop, NextHop::Multipath(_)));
        let NextHop::Tunnel(way) = &destination.way else { panic!("{:?}", destination.way) };
        assert_eq!(way.inner.port, uplink);
        let NextHop::Port(way) = &underlay.way else { panic!("{:?}", underlay.way) };
        assert_eq!((way.port, underlay.address), (uplink, ends.1));
        let outer = told.outer.unwrap();
        assert_eq!((outer.from, outer.to, outer.ttl), (ends.0, ends.1, 64));
        assert_eq!(outer.number, TunnelNumber::Label(Label::new(0x12345).unwrap()));
        assert_eq!(outer.bytes, 32);
        let sent = sent(&told.packet, &frame);
        assert_eq!(sent[34..36], outer.source_port.unwrap().to_be_bytes());
        ways.insert(uplink);
    }
    assert!(ways.len() > 1, "{ways:?}");
}

#[test]
fn out_of_a_tunnel() {
    use Asked::{Destination, Inside};
    for ends in ends() {
        let tables = over(ends);
        for (to, label) in [([20, 0, 0, 1], None), ([21, 0, 0, 1], Some(4_000))] {
            let out = run_on(&tables, PORT_A, &pod(A_MAC, A, to));
            let mut frame = sent(&out, &pod(A_MAC, A, to));
            turn(&mut frame, ends, label);
            let told = told(&tables, UP, &frame);
            let outer = told.outer.unwrap();
            assert_eq!((outer.from, outer.to), (ends.1, ends.0));
            let expected = match label {
                Some(label) => TunnelNumber::Label(Label::new(label).unwrap()),
                None => TunnelNumber::Vni(Vni::new(77).unwrap()),
            };
            assert_eq!(outer.number, expected);
            let host = IpPrefix::host(ends.0).to_string();
            let prefix = format!("{}/8", Ipv4Addr::from([to[0], 0, 0, 0]));
            let both =
                [(Destination, FABRIC, entry(&host, true)), (Inside, RED, entry(&prefix, false))];
            assert_eq!(asked(&told), both);
            // What it was sent for is behind a tunnel here, too.
            assert_eq!(told.packet.verdict, Verdict::Drop(DropReason::TunnelTransit));
            assert!(matches!(told.lookups[1].way, NextHop::Tunnel(_)));
        }
    }
}

#[test]
fn what_is_the_kernels_and_what_goes_nowhere() {
    let tables = over(ends()[0]);
    for (ingress, frame, verdict, found) in [
        (
            UP,
            wire(STRANGER, HOST, 9),
            Verdict::Punt(UP_HOST, PuntClass::Local),
            Some(entry("192.0.2.1/32", false)),
        ),
        (
            UP,
            wire(STRANGER, [9, 9, 9, 9], 9),
            Verdict::Punt(UP_HOST, PuntClass::Exception),
            Some(None),
        ),
        (
            UP,
            wire(STRANGER, [203, 0, 114, 1], 9),
            Verdict::Drop(DropReason::Blackhole),
            Some(entry("203.0.114.0/24", false)),
        ),
        (UP_HOST, wire(STRANGER, HOST, 9), Verdict::Forward(UP), None),
        (
            PORT_A,
            pod(A_MAC, A, KERNELS),
            Verdict::Punt(KERNEL, PuntClass::Kernel),
            Some(entry("30.0.0.0/8", false)),
        ),
        (
            PORT_A,
            pod(A_MAC, A, NOBODY),
            Verdict::Originate(IcmpError::HostUnreachable),
            Some(entry("10.66.0.0/24", true)),
        ),
        (PORT_A, pod(A_MAC, A, B), Verdict::Forward(PORT_B), Some(entry("10.66.0.3/32", true))),
        // It did not come so far, and it is said nevertheless where it was to go.
        (
            PORT_A,
            pod(B_MAC, A, B),
            Verdict::Drop(DropReason::SourceMac),
            Some(entry("10.66.0.3/32", true)),
        ),
    ] {
        let told = told(&tables, ingress, &frame);
        assert_eq!(told.packet.verdict, verdict);
        let first = asked(&told).into_iter().next().map(|(.., found)| found);
        assert_eq!(first, found, "{verdict:?}");
    }
    assert!(explain(&tables, Timestamp::default(), PortIndex(99), Packet::EMPTY).is_none());
}

#[test]
fn asking_takes_nothing_and_teaches_nothing() {
    let mut policy = policy();
    policy.ports[0].rates.packets = Some(Rate { per_second: 1, burst: 1 });
    policy.networks[1].mode = Mode::Bridged;
    policy.ports[2].trunk = true;
    let tables = Tables::build(&policy).unwrap();
    let frame = pod(A_MAC, A, B);
    for _ in 0..3 {
        assert_eq!(told(&tables, PORT_A, &frame).packet.verdict, Verdict::Forward(PORT_B));
    }
    assert_eq!(run_on(&tables, PORT_A, &frame).verdict, Verdict::Forward(PORT_B));
    assert_eq!(run_on(&tables, PORT_A, &frame).verdict, Verdict::Drop(DropReason::Policed));
    // A policer that is used up is not asked.
    assert_eq!(told(&tables, PORT_A, &frame).packet.verdict, Verdict::Forward(PORT_B));
    let stranger = [&B_MAC[..], &[2, 0, 0, 0, 9, 9], &[0x88, 0xcc], &[7; 60]].concat();
    let trunk = PortIndex(2);
    assert_eq!(told(&tables, trunk, &stranger).packet.verdict, Verdict::Forward(PortIndex(3)));
    let stations =
        |tables: &Tables| tables.network(NetworkIndex(1)).unwrap().stations(Timestamp::default());
    assert_eq!(stations(&tables), 0);
    run_on(&tables, trunk, &stranger);
    assert_eq!(stations(&tables), 1);
    // What was learned is known to who asks.
    let back = [&[2, 0, 0, 0, 9, 9], &B_MAC[..], &[0x88, 0xcc], &[7; 60]].concat();
    assert_eq!(told(&tables, PortIndex(3), &back).packet.verdict, Verdict::Forward(trunk));
}
