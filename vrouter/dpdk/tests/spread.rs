//! Packets of one batch that go different ways.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers included")]

use std::thread;

use vrouter_dpdk::{Eal, EalConfig, LogLevel, Memory, Pool, PoolConfig};

#[test]
fn packets_of_a_batch_go_different_ways() {
    let config = EalConfig {
        file_prefix: "ringway-test-spread".to_owned(),
        memory: Memory::Ordinary { mib: 64 },
        log_level: LogLevel::Error,
        extra: vec![],
    };
    let eal = thread::spawn(move || Eal::init(&config).unwrap()).join().unwrap();
    let pool = |name: &str| {
        let config = PoolConfig { name: name.to_owned(), mbufs: 1023, cache: 0, data_room: 2048 };
        Pool::new(&eal, &config).unwrap()
    };
    let (pool, other) = (pool("spread"), pool("spread-other"));
    let mut from = pool.batch(8);
    let mut to = [pool.batch(8), pool.batch(1)];
    from.alloc(5).unwrap();
    for (value, mut packet) in (0u8..).zip(from.packets()) {
        packet.append(20).unwrap().fill(value);
    }
    let mut spread = from.spread();
    assert_eq!((spread.len(), spread.is_empty()), (5, false));
    let mut packet = spread.packet(3).unwrap();
    assert!(packet.is_whole());
    assert!(packet.trim_front(18) && !packet.trim_front(18));
    packet.prepend(3).unwrap().copy_from_slice(&[9, 8, 7]);
    assert_eq!(packet.data(), [9, 8, 7, 3, 3]);
    assert!(packet.prepend(2000).is_err());
    assert!(packet.trim_end(1) && !packet.trim_end(5));
    assert_eq!(packet.data(), [9, 8, 7, 3]);
    assert_eq!(spread.take(3, &mut to[0]), Ok(true));
    assert_eq!(spread.take(3, &mut to[0]), Ok(false), "gone already");
    assert_eq!(spread.take(5, &mut to[0]), Ok(false), "never was");
    assert_eq!(spread.take(1, &mut to[1]), Ok(true));
    assert_eq!(spread.take(0, &mut to[1]), Ok(false), "no place");
    assert!(spread.take(0, &mut other.batch(1)).is_err());
    assert!(spread.packet(3).is_none() && spread.packet(5).is_none());
    assert_eq!(spread.take(0, &mut to[0]), Ok(true));
    drop(spread);
    let first = |batch: &vrouter_dpdk::MbufBatch| batch.iter().map(|p| p[0]).collect::<Vec<_>>();
    assert_eq!((first(&from), first(&to[0]), first(&to[1])), (vec![2, 4], vec![9, 0], vec![1]));
    assert_eq!(pool.in_use(), 5);
    assert!(to[1].push(10).is_err(), "no place");
    assert!(from.push(4000).is_err(), "no such buffers");
    from.push(3).unwrap().copy_from_slice(&[5, 6, 7]);
    assert_eq!((from.iter().last().unwrap(), from.len()), (&[5, 6, 7][..], 3));
    let mut many = pool.batch(100);
    many.alloc(100).unwrap();
    assert_eq!(many.spread().len(), 64);
    assert_eq!((many.len(), pool.in_use()), (64, 70));
    drop((from, to, many));
    assert_eq!((pool.in_use(), other.in_use()), (0, 0));
}
