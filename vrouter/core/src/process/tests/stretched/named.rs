//! Stations that somebody names: where they are is known before they are heard, and whatever is heard.

use super::*;
use crate::StationChange;

fn at(mac: [u8; 6], end: IpAddr) -> StationChange {
    StationChange { mac: Mac::new(mac), end: Some(end) }
}

fn gone(mac: [u8; 6]) -> StationChange {
    StationChange { mac: Mac::new(mac), end: None }
}

fn goes(tables: &Tables, to: [u8; 6]) -> Verdict {
    run_on(tables, PORT_A, &other(to, A_MAC)).verdict
}

const UNKNOWN: Verdict = Verdict::Flood(Flood::Trunks);

#[test]
fn a_named_station_is_reached_before_it_is_heard() {
    for ends in ends() {
        let tables = stretched(ends, false);
        let second = other_host(ends.1);
        let tables = tables.with_stations(LAN, &[at(FAR_MAC, ends.1), at(FARTHER_MAC, second)]);
        let tables = tables.unwrap();
        let frame = other(FAR_MAC, A_MAC);
        let after = run_on(&tables, PORT_A, &frame);
        assert_eq!(after.verdict, Verdict::Encapsulate(REMOTE_PORT));
        assert_eq!(opened(&sent(&after, &frame), ends, REMOTE_MAC), frame);
        assert_eq!(goes(&tables, FARTHER_MAC), Verdict::Encapsulate(OTHER_PORT));
        let network = tables.network(LAN).unwrap();
        assert_eq!(network.named_stations(), 2);
        // Nobody was heard.
        assert_eq!(network.stations(Timestamp::from_nanoseconds(SECOND)), 0);
        // What comes from an end for a station behind another does not go round.
        let transit = hear(&tables, ends, &other(FARTHER_MAC, FAR_MAC));
        assert_eq!(transit, Verdict::Drop(DropReason::TunnelTransit));
        // A MAC address of a port here is the port's.
        let tables = tables.with_stations(LAN, &[at(B_MAC, ends.1)]).unwrap();
        assert_eq!(goes(&tables, B_MAC), Verdict::Forward(PORT_B));
        let mut policy = stretched_policy(ends.0, false);
        policy.ports.retain(|port| port.index != PORT_B);
        let moved = tables.update(&policy).unwrap();
        assert_eq!(goes(&moved, B_MAC), Verdict::Encapsulate(REMOTE_PORT));
    }
}

/// It gets no copies, and its stations are reached and heard.
#[test]
fn an_end_may_have_stations_only() {
    let ends = over4();
    let second = other_host(ends.1);
    let tables = Tables::build(&stretched_policy(ends.0, false)).unwrap();
    let tables = tables.with_bridge_ends(LAN, &[ends.1], &[second]).unwrap();
    let tables = tables.with_stations(LAN, &[at(FARTHER_MAC, second)]).unwrap();
    let copies = |tables: &Tables| -> Vec<_> {
        let packet = packet(&other([0xff; 6], A_MAC));
        let copies = tables.flood_into_tunnels(PORT_A, &packet);
        copies.map(|copy| copy.verdict).collect()
    };
    assert_eq!(copies(&tables), [Verdict::Encapsulate(REMOTE_PORT)]);
    assert_eq!(tables.flood_ends(LAN).collect::<Vec<_>>(), [ends.1]);
    assert_eq!(goes(&tables, FARTHER_MAC), Verdict::Encapsulate(OTHER_PORT));
    let from_second = (ends.0, second);
    let heard = hear(&tables, from_second, &other(A_MAC, FARTHER_MAC));
    assert_eq!(heard, Verdict::Decapsulate(PORT_A));
    // Where no end gets copies, nothing is repeated.
    let alone = tables.with_bridge_ends(LAN, &[], &[second]).unwrap();
    assert_eq!(goes(&alone, [2, 9, 9, 9, 9, 9]), Verdict::Drop(DropReason::UnknownMac));
    assert_eq!(goes(&alone, FARTHER_MAC), Verdict::Encapsulate(OTHER_PORT));
    // It stays the same end when it gets copies, too, and its stations stay.
    let both = tables.with_bridge_ends(LAN, &[second, ends.1], &[]).unwrap();
    assert_eq!(copies(&both), [REMOTE_PORT, OTHER_PORT].map(Verdict::Encapsulate));
    assert_eq!(goes(&both, FARTHER_MAC), Verdict::Encapsulate(OTHER_PORT));
    // Stations go with their end, and do not come back with it.
    let without = both.with_flood_ends(LAN, &[ends.1]).unwrap();
    assert_eq!(goes(&without, FARTHER_MAC), UNKNOWN);
    let again = without.with_flood_ends(LAN, &[ends.1, second]).unwrap();
    assert_eq!(goes(&again, FARTHER_MAC), UNKNOWN);
    assert_eq!(again.network(LAN).unwrap().named_stations(), 0);
}

#[test]
fn what_is_named_comes_before_what_was_heard() {
    let ends = over4();
    let second = other_host(ends.1);
    let hello = other([0xff; 6], FAR_MAC);
    let tables = stretched(ends, true);
    hear(&tables, ends, &hello);
    assert_eq!(goes(&tables, FAR_MAC), Verdict::Encapsulate(REMOTE_PORT));
    let named = tables.with_stations(LAN, &[at(FAR_MAC, second)]).unwrap();
    assert_eq!(goes(&named, FAR_MAC), Verdict::Encapsulate(OTHER_PORT));
    // It speaks through the first end all the same: that is bridged, and changes nothing.
    assert_eq!(hear(&named, ends, &hello), Verdict::FloodInside(LAN, Flood::All));
    assert_eq!(goes(&named, FAR_MAC), Verdict::Encapsulate(OTHER_PORT));
    let moved = named.with_stations(LAN, &[at(FAR_MAC, ends.1)]).unwrap();
    assert_eq!(goes(&moved, FAR_MAC), Verdict::Encapsulate(REMOTE_PORT));
    hear(&moved, ends, &hello);
    // Withdrawn: neither what was heard before it was named counts, nor what was since.
    let withdrawn = moved.with_stations(LAN, &[gone(FAR_MAC)]).unwrap();
    assert_eq!(goes(&withdrawn, FAR_MAC), UNKNOWN);
    // What is heard from now on does.
    hear(&withdrawn, ends, &hello);
    assert_eq!(goes(&withdrawn, FAR_MAC), Verdict::Encapsulate(REMOTE_PORT));
    // Behind a trunk of this host it is found as soon as nobody says otherwise.
    let named = tables.with_stations(LAN, &[at(FARTHER_MAC, second)]).unwrap();
    run_on(&named, TRUNK, &other([0xff; 6], FARTHER_MAC));
    assert_eq!(goes(&named, FARTHER_MAC), Verdict::Encapsulate(OTHER_PORT));
    let withdrawn = named.with_stations(LAN, &[gone(FARTHER_MAC)]).unwrap();
    assert_eq!(goes(&withdrawn, FARTHER_MAC), Verdict::Forward(TRUNK));
}

#[test]
fn stations_that_can_not_be() {
    use FloodEndError::*;
    let ends = over4();
    let tables = stretched(ends, false);
    let refused =
        |network, changes: &[_]| tables.with_stations(network, changes).map(|_| ()).unwrap_err();
    let (group, nobody) = (Mac::new([1, 0, 0, 0, 0, 1]), IpAddr::from([192, 0, 2, 99]));
    let most = u32::try_from(FloodEndError::MOST_STATIONS).unwrap();
    let many: Vec<_> = (0..=most)
        .map(|number| {
            let [_, a, b, c] = number.to_be_bytes();
            at([2, 0, 7, a, b, c], ends.1)
        })
        .collect();
    let count = many.len();
    for (network, changes, error) in [
        (NetworkIndex(9), &[][..], UnknownNetwork { network: NetworkIndex(9) }),
        (LAN, &[at(FAR_MAC, nobody)], NotBehind { station: Mac::new(FAR_MAC), end: nobody }),
        (LAN, &[at(group.octets(), ends.1)], NoStation { station: group }),
        (LAN, &many, TooManyStations { count }),
    ] {
        assert_eq!(refused(network, changes), error);
        check_error(error);
    }
    let full = tables.with_stations(LAN, &many[1..]).unwrap();
    assert_eq!(goes(&full, many[count - 1].mac.octets()), Verdict::Encapsulate(REMOTE_PORT));
    // One more only for one less.
    let swap = [gone(many[7].mac.octets()), many[0]];
    assert_eq!(full.with_stations(LAN, &swap[1..]).unwrap_err(), TooManyStations { count });
    let swapped = full.with_stations(LAN, &swap).unwrap();
    assert_eq!(goes(&swapped, many[7].mac.octets()), UNKNOWN);
    // Taking away what is not there is fine.
    assert!(swapped.with_stations(LAN, &[gone(many[7].mac.octets())]).is_ok());
}
