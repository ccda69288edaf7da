//! Policers.

use super::*;
use crate::Rate;

/// A policer is the last stage of its port and of no other.
#[test]
fn what_is_above_the_rate_is_dropped() {
    let mut policy = policy();
    policy.ports[0].rates.packets = Some(Rate { per_second: 1000, burst: 5 });
    let index = policy.ports[0].index;
    assert_eq!(index, PORT_A);
    let tables = Tables::build(&policy).unwrap();
    let pass = |tables: &Tables, port, frame: &[u8], now| {
        let mut batch = vec![packet(frame); 100];
        let now = Timestamp::from_nanoseconds(now);
        let outcome = process(tables, now, port, &mut batch, &mut PortLimits::default());
        let policed = Verdict::Drop(DropReason::Policed);
        let passed = batch.iter().filter(|packet| packet.verdict != policed).count();
        assert!(batch[..passed].iter().all(|packet| packet.verdict != policed));
        assert_eq!(outcome.all_to.is_some(), passed == 100);
        passed
    };
    let (to_a, to_b) = ([&A_MAC[..], &B_MAC[..]].concat(), udp(B));
    let mut back = udp(A);
    back[6..12].copy_from_slice(&to_a[6..]);
    back[26..30].copy_from_slice(&B);
    fix(&mut back);
    assert_eq!(pass(&tables, PORT_A, &to_b, 0), 5);
    assert_eq!(pass(&tables, PORT_B, &back, 0), 100);
    assert_eq!(pass(&tables, PORT_A, &to_b, 3_000_000), 3);
    // Answers count, what is dropped anyway does not.
    let mut mixed = vec![packet(&udp([9, 9, 9, 9])), packet(&echo(GATEWAY, &[])), packet(&to_b)];
    let now = Timestamp::from_nanoseconds(4_000_000);
    process(&tables, now, PORT_A, &mut mixed, &mut PortLimits::default());
    let verdicts: Vec<_> = mixed.iter().map(|packet| packet.verdict).collect();
    let [drop, reply, policed] = verdicts[..] else { unreachable!() };
    assert_eq!(drop, Verdict::Drop(DropReason::NoRoute));
    assert_eq!((reply, policed), (Verdict::Reply, Verdict::Drop(DropReason::Policed)));
    // What was used stays used when other things change, and not when the rate or the pod does.
    policy.ports[1].mac = Mac::new([2, 0, 0, 0, 0, 0x1b]);
    let later = tables.update(&policy).unwrap();
    assert_eq!(pass(&later, PORT_A, &to_b, 4_000_000), 0);
    policy.ports[0].rates.packets = Some(Rate { per_second: 1000, burst: 6 });
    let other = later.update(&policy).unwrap();
    assert_eq!(pass(&other, PORT_A, &to_b, 4_000_000), 6);
    policy.ports[0].rates = Rates::default();
    let free = other.update(&policy).unwrap();
    assert_eq!(pass(&free, PORT_A, &to_b, 4_000_000), 100);
}
