//! Several paths: which one a flow takes, and what happens when one goes.

use super::*;

pub(super) const THIRD: PortIndex = PortIndex(24);

fn several(paths: &[(RouteTarget, u16)]) -> RouteTarget {
    let path =
        |(target, weight): &(RouteTarget, u16)| Path { target: target.clone(), weight: *weight };
    RouteTarget::Multipath(Paths::new(paths.iter().map(path).collect()))
}

/// Both uplinks and a third one, whose host interface is nobody's.
fn three(ends: (IpAddr, IpAddr)) -> Policy {
    let mut policy = uplinks(ends.0);
    let third = policy.ports.iter().find(|port| port.index == OTHER).unwrap().clone();
    policy.ports.push(PortPolicy { index: THIRD, mac: Mac::new([2, 0, 0, 0, 7, 9]), ..third });
    policy
}

fn links() -> [(RouteTarget, u16); 3] {
    [(link(UP, PEER), 1), (link(OTHER, NEXT), 1), (link(THIRD, [2, 0, 0, 0, 8, 3]), 2)]
}

pub(super) fn spread(ends: (IpAddr, IpAddr)) -> Tables {
    let tables = over(ends).update(&three(ends)).unwrap();
    let fabric = [
        ("198.51.100.0/24", several(&links())),
        ("2001:db8:2::/48", several(&links())),
        ("100.0.0.0/8", several(&links()[..1])),
    ];
    tables.with_routes(FABRIC, &routes(&fabric)).unwrap()
}

/// Flows over an uplink and into tunnels of both kinds, in both families.
fn flows(n: u16) -> Vec<(PortIndex, Vec<u8>)> {
    let mut flows = Vec::new();
    for port in 0..n {
        let frames = [
            (UP, wire(STRANGER, THERE, 9)),
            (UP, wire6("2001:db8:9::1", "2001:db8:2::7", 9)),
            (PORT_A, pod(A_MAC, A, FAR)),
            (PORT_A, pod(A_MAC, A, [21, 0, 0, 1])),
            (PORT_A, pod6("2001:db8:20::1")),
            (PORT_A, pod6("2001:db8:21::1")),
            (PORT_A, with_options(pod(A_MAC, A, FAR), 1)),
        ];
        for (at, (ingress, mut frame)) in frames.into_iter().enumerate() {
            let place = if frame[12] == 8 { 34 } else { 54 };
            // Options: the ports are elsewhere, the addresses tell flows apart.
            if at == 6 {
                frame[33..34].copy_from_slice(&port.to_be_bytes()[1..]);
                fix(&mut frame);
            } else {
                frame[place..place + 2].copy_from_slice(&port.to_be_bytes());
            }
            flows.push((ingress, frame));
        }
    }
    flows
}

fn target(packet: &Packet) -> PortIndex {
    match packet.verdict {
        Verdict::Forward(port) | Verdict::Encapsulate(port) => port,
        other => panic!("{other:?}"),
    }
}

#[test]
fn flows_stay_on_their_paths() {
    for ends in ends() {
        let tables = spread(ends);
        let mut counts = std::collections::BTreeMap::new();
        let flows = flows(200);
        for (ingress, frame) in &flows {
            let after = run_on(&tables, *ingress, frame);
            let to = target(&after);
            *counts.entry(to).or_insert(0) += 1;
            // The frame has the addresses of that link.
            let (mac, from) = match to {
                UP => (PEER, UP_MAC),
                OTHER => (NEXT, OTHER_MAC),
                _ => ([2, 0, 0, 0, 8, 3], [2, 0, 0, 0, 7, 9]),
            };
            assert_eq!(sent(&after, frame)[..12], [mac, from].concat());
            // Another packet of the flow: longer, with another time to live.
            let mut other = frame.clone();
            other.extend([0; 30]);
            if frame[12] == 8 {
                other[22] = 77;
                fix(&mut other);
            } else {
                other[21] = 77;
            }
            assert_eq!(target(&run_on(&tables, *ingress, &other)), to);
            // In a burst, too.
            let mut batch = [packet(frame); 3];
            let mut limits = PortLimits::default();
            let outcome = process(&tables, Timestamp::default(), *ingress, &mut batch, &mut limits);
            assert!(batch.iter().all(|packet| target(packet) == to));
            assert!(outcome.all_to.is_none_or(|all| all == to));
        }
        // A quarter, a quarter and a half of 1,400.
        let all: usize = counts.values().sum();
        assert_eq!(all, flows.len());
        for (port, part) in [(UP, 4), (OTHER, 4), (THIRD, 2)] {
            let expected = all / part;
            assert!(counts[&port].abs_diff(expected) < expected / 3, "{counts:?}");
        }
    }
}

#[test]
fn only_flows_of_a_link_that_is_lost_move() {
    for ends in ends() {
        let tables = spread(ends);
        let flows = flows(60);
        let where_to = |tables: &Tables| -> Vec<PortIndex> {
            let target =
                |(ingress, frame): &(PortIndex, Vec<u8>)| target(&run_on(tables, *ingress, frame));
            flows.iter().map(target).collect()
        };
        let before = where_to(&tables);
        let down = tables.with_link_state(OTHER, false);
        assert!(tables.has_link(OTHER) && !down.has_link(OTHER));
        let after = where_to(&down);
        assert!(
            before.iter().zip(&after).all(|(before, after)| {
                *after != OTHER && (before == after || *before == OTHER)
            })
        );
        // The same when the kernel takes the path out of the routes, before or after.
        let fewer = [links()[0].clone(), links()[2].clone()];
        let fabric =
            routes(&[("198.51.100.0/24", several(&fewer)), ("2001:db8:2::/48", several(&fewer))]);
        let removed = down.with_routes(FABRIC, &fabric).unwrap();
        assert_eq!(where_to(&removed), after);
        assert_eq!(where_to(&removed.with_link_state(OTHER, true)), after);
        assert_eq!(where_to(&tables.with_routes(FABRIC, &fabric).unwrap()), after);
        // And all move back.
        assert_eq!(where_to(&down.with_link_state(OTHER, true)), before);
        // The state is kept when other things change, until the port is another.
        let mut policy = three(ends);
        policy.ports[1].ipv4 = [10, 66, 0, 44].into();
        assert_eq!(where_to(&down.update(&policy).unwrap()), after);
        policy.ports.last_mut().unwrap().mac = Mac::new([2, 0, 0, 0, 7, 0xa]);
        assert!(!down.update(&policy).unwrap().has_link(OTHER));
        policy.ports.retain(|port| port.index != OTHER);
        let gone = down.update(&policy).unwrap();
        assert!(gone.has_link(OTHER));
    }
}

/// One path left, none left, one again.
#[test]
fn the_last_link() {
    let tables = spread(ends()[0]);
    let verdict = |tables: &Tables| run_on(tables, PORT_A, &pod(A_MAC, A, FAR)).verdict;
    let wire = |tables: &Tables| run_on(tables, UP, &wire(STRANGER, THERE, 9)).verdict;
    let two = tables.with_link_state(THIRD, false).with_link_state(OTHER, false);
    assert_eq!(verdict(&two), Verdict::Encapsulate(UP));
    let none = two.with_link_state(UP, false);
    assert_eq!(verdict(&none), Verdict::Originate(IcmpError::HostUnreachable));
    assert_eq!(wire(&none), Verdict::Punt(UP_HOST, PuntClass::Exception));
    assert_eq!(verdict(&none.with_link_state(OTHER, true)), Verdict::Encapsulate(OTHER));
    // Of what is no port nothing is known.
    let nobody = none.with_link_state(PortIndex(999), false);
    assert!(nobody.has_link(PortIndex(999)));
    // A link alone.
    let alone = over(ends()[0]);
    assert_eq!(wire(&alone), Verdict::Forward(OTHER));
    let down = alone.with_link_state(OTHER, false);
    assert_eq!(wire(&down), Verdict::Punt(UP_HOST, PuntClass::Exception));
    assert_eq!(verdict(&down), Verdict::Originate(IcmpError::HostUnreachable));
}

/// Over two tunnels, one of which has several ways itself: the parts multiply.
#[test]
fn paths_over_paths() {
    let tables = spread(ends()[0]);
    let far: IpAddr = [198, 51, 100, 3].into();
    let near: IpAddr = [100, 0, 0, 3].into();
    let both = several(&[(vtep(far), 1), (vtep(near), 1)]);
    let tables = tables.with_routes(RED, &routes(&[("20.0.0.0/8", both)])).unwrap();
    let mut counts = std::collections::BTreeMap::new();
    for port in 0..2_000_u16 {
        let mut frame = pod(A_MAC, A, FAR);
        frame[34..36].copy_from_slice(&port.to_be_bytes());
        let after = run_on(&tables, PORT_A, &frame);
        let outer = sent(&after, &frame);
        *counts.entry((target(&after), outer[33])).or_insert(0_usize) += 1;
        assert_eq!(outer[30], if outer[30] == 100 { 100 } else { 198 });
        *counts.entry((PortIndex(u16::MAX), outer[30])).or_insert(0) += 1;
    }
    assert!(counts[&(PortIndex(u16::MAX), 100)].abs_diff(1_000) < 150, "{counts:?}");
    assert!(counts[&(THIRD, 3)].abs_diff(500) < 120, "{counts:?}");
}

#[test]
fn fragments_of_a_datagram_take_one_path() {
    let tables = spread(ends()[0]);
    for id in 0..64_u8 {
        let to = |flags: [u8; 2], ports: [u8; 4]| {
            let mut frame = wire([203, 0, 113, id], THERE, 9);
            frame[19] = id;
            frame[20..22].copy_from_slice(&flags);
            frame[34..38].copy_from_slice(&ports);
            fix(&mut frame);
            target(&run_on(&tables, UP, &frame))
        };
        let first = to([0x20, 0], [1, 2, 3, 4]);
        assert_eq!(first, to([0x20, 0xb9], [9, id, 7, 6]));
        assert_eq!(first, to([0x01, 0x72], [id, 0, 0, 0]));
    }
}

#[test]
fn routes_that_cannot_be() {
    use crate::RouteError;
    let tables = spread(ends()[0]);
    let prefix: vrouter_net::IpPrefix = "50.0.0.0/8".parse().unwrap();
    let refused = |network, target: RouteTarget| {
        let change = RouteChange { prefix, target: Some(target) };
        tables.with_routes(network, &[change]).unwrap_err()
    };
    let via = RouteTarget::Via(IpAddr::from(A));
    let outside = RouteError::Kind { prefix, external: true };
    let through = RouteTarget::Ipip(REMOTE.into());
    for target in
        [via.clone(), vtep(REMOTE.into()), mpls(REMOTE.into()), through, RouteTarget::Kernel]
    {
        assert_eq!(refused(FABRIC, target.clone()), outside);
        assert_eq!(refused(FABRIC, several(&[(target, 1)])), outside);
    }
    let inside = RouteError::Kind { prefix, external: false };
    for target in [RouteTarget::Local, link(UP, PEER), several(&links())] {
        assert_eq!(refused(RED, target), inside);
    }
    let group = link(UP, [1, 0, 0, 0, 0, 1]);
    assert!(matches!(refused(FABRIC, group), RouteError::LinkMac { .. }));
    let count = |paths: &[(RouteTarget, u16)], network| {
        let error = refused(network, several(paths));
        assert_eq!(error, RouteError::Paths { prefix, count: paths.len() });
    };
    count(&[], RED);
    count(&vec![(via.clone(), 1); Paths::MAX + 1], RED);
    count(&[(via.clone(), 0)], RED);
    count(&[(RouteTarget::Drop, 1)], RED);
    count(&[(several(&[(via.clone(), 1)]), 1)], RED);
    count(&[(RouteTarget::Local, 1)], FABRIC);
    // As many as there may be are fine, and so is taking them away.
    let most = several(&vec![(via, 1); Paths::MAX]);
    let set = RouteChange { prefix, target: Some(most) };
    let unset = RouteChange { prefix, target: None };
    let there = tables.with_routes(RED, &[set]).unwrap();
    let gone = there.with_routes(RED, &[unset]).unwrap();
    let used = |tables: &Tables| tables.network(RED).unwrap().hops().used();
    assert_eq!((used(&there), used(&gone)), (used(&tables) + 1, used(&tables)));
}
