//! When a queue stops, sleeps, rests, or is wanted by a session meanwhile.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use super::*;
use crate::ring::tests::packed::PackedDriver;

#[test]
fn a_ring_that_breaks_stops_and_says_why() {
    let mut a = Driver::new(8);
    let tx = start(&a, Direction::FromGuest, PLAIN, None);
    send(&mut a, 0, &frame(60), &[]);
    a.set_avail_index(1000);
    let mut burst = TxBurst::new();
    assert_eq!(tx.lease_tx(&mut burst).unwrap().fetch(), 0);
    assert!(!tx.is_running());
    assert!(tx.lease_tx(&mut burst).is_none());
    assert_eq!(tx.broken(), Some(RingError::AvailableIndex(1000)));
    let waking = AtomicUsize::new(0);
    let wake = || {
        waking.fetch_add(1, Ordering::Relaxed);
    };
    assert_eq!(tx.stop(Some(&wake)), Some(0), "no wait for a ring that is broken");
}

#[test]
fn stopping_waits_until_what_was_sent_is_taken() {
    let mut a = Driver::new(64);
    let tx = start(&a, Direction::FromGuest, PLAIN, None);
    for i in 0..40 {
        a.desc(i, BUF, 72, 0, 0);
        a.offer(i);
    }
    thread::scope(|s| {
        let worker = s.spawn(|| {
            let mut burst = TxBurst::new();
            let mut taken = 0;
            while taken < 40 {
                if let Some(mut lease) = tx.lease_tx(&mut burst) {
                    taken += lease.fetch();
                }
            }
            taken
        });
        assert_eq!(tx.stop(Some(&|| {})), Some(40));
        assert_eq!(worker.join().unwrap(), 40);
    });
    assert_eq!(a.used_index(), 40);
    assert!(tx.lease_tx(&mut TxBurst::new()).is_none());
}

#[test]
fn stopping_does_not_wait_for_ever() {
    let mut a = Driver::new(8);
    let tx = start(&a, Direction::FromGuest, PLAIN, None);
    send(&mut a, 0, &frame(60), &[]);
    let start = Instant::now();
    assert_eq!(tx.stop(Some(&|| {})), Some(0));
    assert!(start.elapsed() >= DRAIN_LIMIT);
    assert_eq!(tx.stop(Some(&|| {})), None, "stopped already");
}

#[test]
fn a_packed_burst_that_has_just_begun_is_left_alone_for_a_moment() {
    let mut a = PackedDriver::new(128);
    let queue = Queue::new();
    let layout = Layout::Packed { base: 1 << 15, in_order: true };
    let activation = Activation {
        memory: a.memory.memory(),
        addresses: a.addresses(),
        layout,
        direction: Direction::FromGuest,
        format: PLAIN,
        call: None,
    };
    queue.start(activation).unwrap();
    let mut burst = TxBurst::new();
    let mut rests = |now, may_begin| {
        queue.lease_tx(&mut burst).unwrap().rests(Rest { now, limit: 300_000, may_begin })
    };
    assert!(!rests(0, true), "nothing is there");
    (0..5).for_each(|id| a.put(BUF, 72, id, 0));
    assert!(!rests(0, false), "the worker has time");
    assert!(rests(0, true) && rests(299, true));
    assert!(!rests(300, true), "it is taken, whole or not");
    (5..32).for_each(|id| a.put(BUF, 72, id, 0));
    assert!(!rests(400, true), "it is whole");
    let mut lease = queue.lease_tx(&mut burst).unwrap();
    assert_eq!(lease.fetch(), 32);
    drop(lease);
    let (id, len, _) = a.get(0);
    assert_eq!((id, len), (31, 0), "one stands for all");
    a.put(BUF, 72, 32, 0);
    let mut lease = queue.lease_tx(&mut burst).unwrap();
    assert!(lease.rests(Rest { now: 500, limit: 300_000, may_begin: true }));
    drop(lease);
    queue.active.lock().as_mut().unwrap().drain = Some(128);
    let mut lease = queue.lease_tx(&mut burst).unwrap();
    assert!(!lease.rests(Rest { now: 501, limit: 300_000, may_begin: true }), "it is stopping");
}

#[test]
fn sleeping_is_safe_against_a_frame_that_comes_meanwhile() {
    let mut a = Driver::new(8);
    let tx = start(&a, Direction::FromGuest, PLAIN, None);
    assert_eq!(a.used_flags(), 1, "polling: no kicks");
    let mut burst = TxBurst::new();
    assert!(tx.lease_tx(&mut burst).unwrap().arm());
    assert_eq!(a.used_flags(), 0, "asleep: kicks wanted");
    send(&mut a, 0, &frame(60), &[]);
    assert!(!tx.lease_tx(&mut burst).unwrap().arm(), "a frame is waiting");
    tx.lease_tx(&mut burst).unwrap().disarm();
    assert_eq!(a.used_flags(), 1);
}

#[test]
fn a_busy_worker_lets_a_session_pass() {
    let (mut a, b) = (Driver::new(8), Driver::new(8));
    let tx = start(&a, Direction::FromGuest, PLAIN, None);
    send(&mut a, 0, &frame(60), &[]);
    let mut burst = TxBurst::new();
    tx.active.waiting.fetch_add(1, Ordering::Relaxed);
    assert!(tx.lease_tx(&mut burst).is_none(), "a session waits");
    assert!(tx.is_running(), "and the queue is not off");
    tx.active.waiting.fetch_sub(1, Ordering::Relaxed);
    assert_eq!(tx.lease_tx(&mut burst).map(|mut lease| lease.fetch()), Some(1));

    // A worker that never pauses, as under full load, on however few CPUs there are.
    let rx = start(&b, Direction::ToGuest, PLAIN, None);
    let stop = AtomicBool::new(false);
    thread::scope(|s| {
        s.spawn(|| {
            let mut scratch = RxScratch::new();
            while !stop.load(Ordering::Relaxed) {
                if let Some(mut lease) = rx.lease_rx(&mut scratch) {
                    for _ in 0..BURST {
                        let _ = lease.push(&[0; 60], Body::EMPTY, &Offload::NONE);
                    }
                }
            }
        });
        for _ in 0..100 {
            rx.set_call(None);
        }
        assert_eq!(rx.stop(None), Some(0));
        stop.store(true, Ordering::Relaxed);
    });
}
