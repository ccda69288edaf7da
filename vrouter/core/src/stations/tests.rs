//! Learning beside a slow list, and by several threads at once.

use super::*;
use bolero::TypeGenerator;
use std::vec::Vec;

const SECOND: u64 = 1_000_000_000;

fn at(nanoseconds: u64) -> Timestamp {
    Timestamp::from_nanoseconds(nanoseconds)
}

fn mac(number: u64) -> Mac {
    let [_, _, a, b, c, d, e, f] = number.to_be_bytes();
    Mac::new([a & 0xfe | 2, b, c, d, e, f])
}

/// Ports and ends with the same numbers.
fn behind(number: u16) -> Behind {
    match number % 2 {
        0 => Behind::Port(PortIndex(number / 2)),
        _ => Behind::End(EndIndex(u8::try_from(number / 2).unwrap())),
    }
}

/// Addresses that all share one bucket.
fn crowd(table: &Stations) -> impl Iterator<Item = Mac> {
    let first = core::ptr::from_ref(table.bucket(key(mac(1))));
    (1..).map(mac).filter(move |mac| core::ptr::eq(first, table.bucket(key(*mac))))
}

#[test]
fn a_station_is_where_it_was_seen_last_until_it_is_old() {
    let table = Stations::new();
    let (a, b) = (Behind::Port(PortIndex(3)), Behind::Port(PortIndex(u16::MAX)));
    assert_eq!(table.find(at(0), mac(1)), None);
    table.learn(at(SECOND), mac(1), a);
    assert_eq!(table.find(at(SECOND), mac(1)), Some(a));
    assert_eq!(table.find(at(0), mac(1)), Some(a), "a clock that jumps back");
    // It moves at once.
    let end = Behind::End(EndIndex(3));
    table.learn(at(SECOND), mac(1), end);
    assert_eq!(table.find(at(SECOND), mac(1)), Some(end));
    table.forget(a);
    assert_eq!(table.find(at(SECOND), mac(1)), Some(end), "an end is no port of its number");
    table.learn(at(SECOND), mac(1), b);
    assert_eq!(table.find(at(2 * SECOND), mac(1)), Some(b));
    assert_eq!(table.find(at(300 * SECOND), mac(1)), Some(b));
    assert_eq!(table.find(at(302 * SECOND), mac(1)), None);
    assert_eq!((table.count(at(300 * SECOND)), table.count(at(302 * SECOND))), (1, 0));
    // It is heard again and stays.
    table.learn(at(290 * SECOND), mac(1), b);
    assert_eq!(table.find(at(589 * SECOND), mac(1)), Some(b));
    table.learn(at(290 * SECOND), mac(2), a);
    table.forget(b);
    assert_eq!([1, 2].map(|n| table.find(at(291 * SECOND), mac(n))), [None, Some(a)]);
}

#[test]
fn a_full_bucket_forgets_the_old_then_the_oldest() {
    let table = Stations::new();
    let all: Vec<_> = crowd(&table).take(WAYS + 2).collect();
    let port = behind(2);
    for (second, mac) in (1..).zip(&all[..WAYS]) {
        table.learn(at(second * SECOND), *mac, port);
    }
    let know = |now, range: core::ops::Range<usize>| {
        all[range].iter().all(|mac| table.find(at(now), *mac) == Some(port))
    };
    assert!(know(9 * SECOND, 0..WAYS));
    table.learn(at(9 * SECOND), all[WAYS], port);
    assert!(know(9 * SECOND, 1..WAYS + 1));
    assert_eq!(table.find(at(9 * SECOND), all[0]), None);
    // The last but one is silent for too long while the others speak.
    for mac in all[1..WAYS - 1].iter().chain([&all[WAYS]]) {
        table.learn(at(305 * SECOND), *mac, port);
    }
    table.learn(at(310 * SECOND), all[WAYS + 1], port);
    assert!(know(310 * SECOND, 1..WAYS - 1) && know(310 * SECOND, WAYS..WAYS + 2));
}

/// A trunk that invents addresses, all of them for the bucket of somebody else's stations.
#[test]
fn a_port_keeps_its_share_of_a_bucket_whatever_others_send() {
    let table = Stations::new();
    let (honest, hostile) = (behind(2), behind(3));
    let all: Vec<_> = crowd(&table).take(200).collect();
    let (mine, theirs) = all.split_at(WAYS / 2);
    for mac in mine {
        table.learn(at(SECOND), *mac, honest);
    }
    for (second, mac) in (2..).zip(theirs) {
        table.learn(at(second * SECOND), *mac, hostile);
    }
    assert!(mine.iter().all(|mac| table.find(at(200 * SECOND), *mac) == Some(honest)));
    // Also when they come later than the flood.
    let table = Stations::new();
    for (second, mac) in (1..).zip(theirs) {
        table.learn(at(second * SECOND), *mac, hostile);
    }
    for mac in mine {
        table.learn(at(250 * SECOND), *mac, honest);
    }
    assert!(mine.iter().all(|mac| table.find(at(251 * SECOND), *mac) == Some(honest)));
}

#[derive(Clone, Copy, Debug, TypeGenerator)]
enum Step {
    Learn { station: u8, port: u8 },
    Wait(u16),
    Forget(u8),
}

/// Few enough stations for their buckets: then it is an endless list with times.
#[test]
fn agrees_with_a_list_of_times() {
    bolero::check!().with_type().for_each(|steps: &Vec<Step>| {
        let table = Stations::new();
        let mut list: Vec<(u8, Behind, Ticks)> = Vec::new();
        let mut now = 5 * SECOND;
        for step in steps {
            match *step {
                Step::Learn { station, port } => {
                    let (station, port) = (station % 8, behind(u16::from(port % 4)));
                    table.learn(at(now), mac(u64::from(station)), port);
                    let old = list.iter().position(|(there, ..)| *there == station);
                    let old = old.map(|at| list.remove(at));
                    // The time is not written again within a second.
                    let kept =
                        old.filter(|(_, p, seen)| *p == port && ticks(at(now)) - seen < REFRESH);
                    list.push(kept.unwrap_or((station, port, ticks(at(now)))));
                }
                Step::Wait(tenths) => now += u64::from(tenths) * SECOND / 10,
                Step::Forget(port) => {
                    let port = behind(u16::from(port % 4));
                    table.forget(port);
                    list.retain(|(_, there, _)| *there != port);
                }
            }
            let fresh = |(station, port, seen): &(u8, Behind, Ticks)| {
                (ticks(at(now)) - seen <= AGEING).then_some((*station, *port))
            };
            let fresh: Vec<_> = list.iter().filter_map(fresh).collect();
            assert_eq!(table.count(at(now)), fresh.len());
            for station in 0..8 {
                let known = fresh.iter().find(|(there, _)| *there == station);
                let found = table.find(at(now), mac(u64::from(station)));
                assert_eq!(found, known.map(|(_, port)| *port));
            }
        }
    });
}

/// Threads that learn far more stations than fit into one bucket, each always behind the same port, never see one
/// behind another.
#[test]
fn entries_are_never_mixed_up_between_threads() {
    let table = Stations::new();
    let all: Vec<_> = crowd(&table).take(3 * WAYS).collect();
    let port = |number: usize| behind(u16::try_from(number).unwrap());
    let (all, table) = (&all, &table);
    std::thread::scope(|scope| {
        for start in [0, 5, 11] {
            scope.spawn(move || {
                for round in 0..20_000 {
                    let number = (start + round * 7) % all.len();
                    let now = at(SECOND * (1 + round as u64 / 100));
                    table.learn(now, all[number], port(number));
                    let other = (number + 3) % all.len();
                    let found = table.find(now, all[other]);
                    assert!(found.is_none_or(|found| found == port(other)), "{found:?}, {other}");
                }
            });
        }
    });
    assert_eq!(table.count(at(SECOND * 201)), WAYS);
}
