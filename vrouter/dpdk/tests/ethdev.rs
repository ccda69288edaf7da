//! Ethernet devices on ordinary memory: two ends of a shared-memory interface of DPDK's own, in one process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers included")]

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use vrouter_dpdk::{
    Eal, EalConfig, Ethdev, EthdevConfig, EthdevError, Link, LogLevel, Memory, Pool, PoolConfig,
    Queues, RxQueue, TxQueue, WrongPool,
};

/// Packets a ring of the interface holds: 2^6.
const RING: u16 = 64;

fn eal() -> &'static Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    EAL.get_or_init(|| {
        let socket = format!("socket=ringway-test-{},rsize=6", std::process::id());
        let devices = [
            format!("net_memif0,role=server,id=0,{socket}"),
            format!("net_memif1,role=client,id=0,{socket}"),
            "net_null0".to_owned(),
            "net_null1".to_owned(),
            "net_ring0".to_owned(),
        ];
        let config = EalConfig {
            file_prefix: "ringway-test-ethdev".to_owned(),
            memory: Memory::Ordinary { mib: 64 },
            log_level: LogLevel::Error,
            extra: devices.into_iter().flat_map(|device| ["--vdev".to_owned(), device]).collect(),
        };
        thread::spawn(move || Eal::init(&config).unwrap()).join().unwrap()
    })
}

fn pool(name: &str, mbufs: u32) -> Pool {
    let config = PoolConfig { name: name.to_owned(), mbufs, cache: 0, data_room: 2048 };
    Pool::new(eal(), &config).unwrap()
}

fn config(rx_pool: &Pool) -> EthdevConfig {
    EthdevConfig {
        rx_queues: 1,
        tx_queues: 1,
        rx_descriptors: 0,
        tx_descriptors: 0,
        rx_pool: rx_pool.clone(),
        mtu: 1500,
        tx_free_threshold: 0,
        interrupts: false,
        tx_offloads: false,
        rx_checksums: false,
    }
}

const _: () = {
    const fn send<T: Send>() {}
    send::<Ethdev>();
    send::<RxQueue>();
    send::<TxQueue>();
};

#[test]
fn packets_go_from_one_device_to_another_and_none_is_lost_or_freed_twice() {
    let (sent_from, received_into) = (pool("memif-tx", 255), pool("memif-rx", 255));
    let mut ends = ["net_memif0", "net_memif1"].map(|name| Ethdev::open(eal(), name).unwrap());
    assert!(!ends[0].link().unwrap().up, "nobody is connected yet");
    let [server, client] = &mut ends;
    let mut server_queues = server.start(&config(&received_into)).unwrap();
    let client_queues = client.start(&config(&received_into)).unwrap();
    let start = Instant::now();
    while !ends.iter().all(|end| end.link().unwrap().up) {
        assert!(start.elapsed() < Duration::from_secs(10), "the two ends do not meet");
        thread::sleep(Duration::from_millis(5));
    }

    let mut tx = client_queues.tx.into_iter().next().unwrap();
    let rx = &mut server_queues.rx[0];
    let mut foreign = sent_from.batch(8);
    assert_eq!(rx.receive(&mut foreign), Err(WrongPool));

    // More than the ring holds: what it does not take stays, in order.
    let mut batch = sent_from.batch(2 * RING);
    let mut received = rx.batch(32);
    assert_eq!(rx.receive(&mut received), Ok(0));
    batch.alloc(2 * RING).unwrap();
    for (value, mut packet) in (0u8..).zip(batch.packets()) {
        packet.append(60).unwrap().fill(value);
    }
    let took = tx.send(&mut batch);
    assert!((1..=RING).contains(&took), "{took}");
    assert_eq!(batch.len(), 2 * RING - took);
    let first = u8::try_from(took).unwrap();
    assert_eq!(batch.iter().next().unwrap(), [first; 60], "the tail follows what was taken");

    let mut next = 0u8;
    while next < 2 * u8::try_from(RING).unwrap() {
        assert!(start.elapsed() < Duration::from_secs(20), "{next} packets arrived");
        rx.receive(&mut received).unwrap();
        for packet in received.iter() {
            assert_eq!(packet, [next; 60]);
            next += 1;
        }
        received.clear();
        tx.send(&mut batch);
    }
    assert!(batch.is_empty());
    assert_eq!(rx.receive(&mut received), Ok(0), "and nothing twice");
    let stats = ends[0].stats().unwrap();
    assert_eq!((stats.rx_packets, stats.rx_bytes), (128, 128 * 60));

    // The queues keep the devices, and those the pools, whatever goes first.
    drop(ends);
    drop((batch, foreign));
    let mut batch = sent_from.batch(4);
    batch.alloc_as_left(4, 60).unwrap();
    assert_eq!(thread::spawn(move || tx.send(&mut batch)).join().unwrap(), 4);
    drop((server_queues, client_queues.rx, received));
    assert_eq!((sent_from.in_use(), received_into.in_use()), (0, 0));
}

#[test]
fn a_device_has_one_owner_and_is_started_once() {
    let rx_pool = pool("null", 127);
    let mut device = Ethdev::open(eal(), "net_null0").unwrap();
    assert!(matches!(Ethdev::open(eal(), "net_null0"), Err(EthdevError::Owned { .. })));
    assert_eq!(device.info().unwrap().driver, "net_null");
    assert_eq!(device.name(), "net_null0");
    let Queues { mut rx, .. } = device.start(&config(&rx_pool)).unwrap();
    let again = device.start(&config(&rx_pool)).unwrap_err().to_string();
    assert_eq!(again, "Ethernet device \"net_null0\": cannot start it twice");
    assert!(matches!(device.link(), Ok(Link { up: true, speed: Some(_) })));

    // This driver always has packets: no more than the batch has room for are taken.
    let mut batch = rx[0].batch(48);
    assert_eq!((rx[0].receive(&mut batch), rx[0].receive(&mut batch)), (Ok(48), Ok(0)));
    assert_eq!((batch.len(), rx_pool.in_use()), (48, 48));
    assert!(batch.iter().all(|packet| packet.len() == 64));
    drop((device, rx, batch));
    assert_eq!(rx_pool.in_use(), 0);
}

#[test]
fn what_cannot_be_opened_or_started_is_refused_by_name() {
    let text = |error: EthdevError| error.to_string();
    for (name, expected) in [
        (
            "net_none0",
            "there is no Ethernet device \"net_none0\": name one that EAL found or that `--vdev` made",
        ),
        (
            "a\0b",
            "there is no Ethernet device \"a\\0b\": name one that EAL found or that `--vdev` made",
        ),
        (
            "net_ring0",
            "Ethernet device \"net_ring0\": driver net_ring is not supported: use net_memif between processes",
        ),
    ] {
        assert_eq!(text(Ethdev::open(eal(), name).unwrap_err()), expected);
    }

    let rx_pool = pool("range", 127);
    let good = config(&rx_pool);
    let mut device = Ethdev::open(eal(), "net_null1").unwrap();
    let info = device.info().unwrap();
    let (max, min_mtu) = (info.max_rx_queues, info.min_mtu);
    for (bad, expected) in [
        (
            EthdevConfig { rx_queues: 0, ..good.clone() },
            format!("receive queues 0: use 1 to {max}"),
        ),
        (EthdevConfig { mtu: 2031, ..good.clone() }, format!("MTU 2031: use {min_mtu} to 2030")),
    ] {
        let expected = format!("Ethernet device \"net_null1\": {expected}");
        assert_eq!(text(device.start(&bad).unwrap_err()), expected);
    }
    device.start(&good).unwrap();
}
