//! What is said about a packet beside what happens to it: the same verdict and the same headers to the byte, by entries that
//! lead to them.

use vrouter_core::{
    Asked, DropReason, Explanation, IcmpError, Lookup, NextHop, Packet, PortIndex, PortRole,
    PuntClass, Tables, Timestamp, Verdict, explain,
};

/// `before` and `after`: the packet as it came in and as the stages left it, in a batch with others.
pub fn check(tables: &Tables, ingress: PortIndex, before: &Packet, after: &Packet) {
    let told = explain(tables, Timestamp::default(), ingress, *before).unwrap();
    let packet = &told.packet;
    assert_eq!(packet.verdict, after.verdict, "{told:?}");
    assert_eq!((packet.header, packet.frame_len), (after.header, after.frame_len));
    assert_eq!((packet.outer(), packet.removed()), (after.outer(), after.removed()));
    let role = tables.port(ingress).unwrap().role;
    if !matches!(role, PortRole::Host { .. }) {
        leads_there(tables, &told);
    }
}

/// The entries explain the verdict.
fn leads_there(tables: &Tables, told: &Explanation) {
    for lookup in &told.lookups {
        let network = tables.network(lookup.network).unwrap();
        assert_eq!(*network.next_hop_ip(lookup.address), lookup.next_hop);
        assert!(lookup.found.is_none_or(|found| found.prefix.contains(lookup.address)));
        match &lookup.next_hop {
            NextHop::Multipath(group) => {
                assert!(group.shares().any(|(way, _)| *way == lookup.way), "{told:?}");
            }
            single => assert_eq!(*single, lookup.way),
        }
    }
    let way = |asked| {
        let found = told.lookups.iter().find(|lookup: &&Lookup| lookup.asked == asked);
        found.map(|lookup| lookup.way.clone())
    };
    let destination = way(Asked::Destination);
    match told.packet.verdict {
        Verdict::Forward(port) => {
            let Some(NextHop::Port(hop)) = destination else { panic!("{told:?}") };
            assert_eq!(port, hop.port);
            let head = told.packet.sent_head();
            assert_eq!(head[..6], hop.destination_mac().octets());
            assert_eq!(head[6..12], hop.source_mac().octets());
        }
        Verdict::Encapsulate(port) => {
            let Some(NextHop::Tunnel(hop)) = destination else { panic!("{told:?}") };
            let Some(NextHop::Port(under)) = way(Asked::Underlay) else { panic!("{told:?}") };
            assert_eq!((hop.inner.port, under.port), (port, port));
            let outer = told.outer.unwrap();
            assert_eq!(told.packet.outer()[..6], under.destination_mac().octets());
            assert_eq!(outer.to, told.lookups.last().unwrap().address);
            assert!(outer.source_port.is_none_or(|port| port >= 0xc000));
        }
        Verdict::Decapsulate(port) => {
            let inside = way(Asked::Inside);
            let Some(NextHop::Port(hop) | NextHop::Kernel(hop)) = inside else {
                panic!("{told:?}")
            };
            assert_eq!(port, hop.port);
            assert!(told.outer.is_some());
        }
        Verdict::Punt(port, PuntClass::Kernel) => {
            let Some(NextHop::Kernel(hop)) = destination else { panic!("{told:?}") };
            assert_eq!(port, hop.port);
        }
        Verdict::Punt(_, PuntClass::Local) => {
            assert!(matches!(destination, Some(NextHop::Local | NextHop::Gateway)), "{told:?}");
        }
        Verdict::Originate(IcmpError::FragmentationNeeded { mtu }) => {
            let hop = match destination {
                Some(NextHop::Port(hop) | NextHop::Kernel(hop)) => hop,
                Some(NextHop::Tunnel(hop)) => hop.inner,
                _ => panic!("{told:?}"),
            };
            assert_eq!(mtu, hop.mtu);
        }
        Verdict::Originate(IcmpError::NetworkUnreachable) => {
            assert_eq!(destination, Some(NextHop::NoRoute));
        }
        Verdict::Drop(DropReason::Blackhole) => {
            let last = told.lookups.last().map(|lookup| lookup.way.clone());
            assert_eq!(last, Some(NextHop::Drop(DropReason::Blackhole)));
        }
        Verdict::Drop(DropReason::TunnelTransit) => {
            assert!(matches!(way(Asked::Inside), Some(NextHop::Tunnel(_))), "{told:?}");
        }
        Verdict::Drop(DropReason::KernelLoop) => {
            assert!(matches!(destination, Some(NextHop::Kernel(_))), "{told:?}");
        }
        _ => {}
    }
}
