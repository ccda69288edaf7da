//! Devices over the kernel's interfaces, made while DPDK runs: a packet socket on a veth, and a TAP. Needs root.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers included")]

use std::process::Command;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use vrouter_dpdk::{
    BondView, Bus, Eal, EalConfig, Ethdev, EthdevConfig, EthdevError, LogLevel, Mac, Memory, Plug,
    Pool, PoolConfig, Queues, set_interface_mtu,
};

fn eal() -> &'static Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    EAL.get_or_init(|| {
        let config = EalConfig {
            file_prefix: "ringway-test-uplink".to_owned(),
            memory: Memory::Ordinary { mib: 64 },
            log_level: LogLevel::Error,
            extra: vec![],
        };
        thread::spawn(move || Eal::init(&config).unwrap()).join().unwrap()
    })
}

fn pool(name: &str) -> Pool {
    let config = PoolConfig { name: name.to_owned(), mbufs: 1023, cache: 0, data_room: 2048 };
    Pool::new(eal(), &config).unwrap()
}

fn config(rx_pool: &Pool) -> EthdevConfig {
    EthdevConfig {
        rx_queues: 1,
        tx_queues: 1,
        rx_descriptors: 128,
        tx_descriptors: 128,
        rx_pool: rx_pool.clone(),
        mtu: 1500,
        tx_free_threshold: 0,
        interrupts: true,
        tx_offloads: true,
        rx_checksums: true,
    }
}

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Taken away also when the test fails.
struct Link(String);

impl Drop for Link {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.0]).output();
    }
}

fn plug(name: &str, arguments: &str) -> Result<Ethdev, EthdevError> {
    let plug = Plug { bus: Bus::Virtual, name: name.to_owned(), arguments: arguments.to_owned() };
    Ethdev::plug(eal(), &plug)
}

/// Waits until a TAP is gone: a command that the other test runs just now has its descriptor, too.
fn is_gone(name: &str) {
    let start = Instant::now();
    while std::path::Path::new(&format!("/sys/class/net/{name}")).exists() {
        assert!(start.elapsed() < Duration::from_secs(10), "{name} is left");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_packet_socket_and_a_tap_carry_frames_and_go_again() {
    let id = std::process::id() % 100_000;
    let (a, b, tap) = (format!("rwa{id}"), format!("rwb{id}"), format!("rwt{id}"));
    ip(&format!("link add {a} type veth peer name {b}"));
    let _veth = Link(a.clone());
    ip(&format!("link set {a} up"));
    ip(&format!("link set {b} up"));

    let rx_pool = pool("uplinks");
    let mut ends: Vec<_> = [("net_af_packet_a", &a), ("net_af_packet_b", &b)]
        .into_iter()
        .map(|(name, link)| {
            let mut end = plug(
                name,
                &format!("iface={link},blocksz=4096,framesz=2048,framecnt=512,qpairs=1"),
            )
            .unwrap();
            let queues = end.start(&config(&rx_pool)).unwrap();
            (end, queues)
        })
        .collect();
    let (_, Queues { mut tx, .. }) = ends.remove(0);
    let (end, mut queues) = ends.remove(0);
    assert_eq!(end.info().unwrap().driver, "net_af_packet");
    assert!(queues.rx[0].interrupt().is_none(), "this driver only polls");
    let mut batch = rx_pool.batch(32);
    batch.alloc(3).unwrap();
    for (value, mut packet) in (1u8..).zip(batch.packets()) {
        let frame = packet.append(60).unwrap();
        frame.fill(value);
        frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]);
    }
    assert_eq!(tx[0].send(&mut batch), 3);
    let mut received = queues.rx[0].batch(32);
    let start = Instant::now();
    let mine = |received: &vrouter_dpdk::MbufBatch| {
        received.iter().filter(|frame| frame[12..14] == [0x88, 0xb5]).count()
    };
    while mine(&received) < 3 {
        assert!(start.elapsed() < Duration::from_secs(10), "{}", received.len());
        queues.rx[0].receive(&mut received).unwrap();
    }
    received.clear();

    let mac = "02:5a:00:00:00:07";
    let mut host = plug("net_tap_t", &format!("iface={tap},mac={mac}")).unwrap();
    assert_eq!(host.info().unwrap().mac, Mac([2, 0x5a, 0, 0, 0, 7]));
    assert!(host.info().unwrap().offloads.tcp4_segmentation);
    let mut host_queues = host.start(&config(&rx_pool)).unwrap();
    host.set_mtu(1400).unwrap();
    assert!(set_interface_mtu(&tap, 1).is_err() && set_interface_mtu("rw-none", 1500).is_err());
    let sys =
        |field: &str| std::fs::read_to_string(format!("/sys/class/net/{tap}/{field}")).unwrap();
    assert_eq!((sys("address").trim(), sys("mtu").trim()), (mac, "1400"));
    assert!(host_queues.rx[0].interrupt().is_some(), "a TAP tells of packets");
    let before: u64 = sys("statistics/rx_packets").trim().parse().unwrap();
    batch.alloc(1).unwrap();
    let mut packet = batch.packets().next().unwrap();
    packet.append(60).unwrap().fill(0xff);
    assert_eq!(host_queues.tx[0].send(&mut batch), 1);
    let after: u64 = sys("statistics/rx_packets").trim().parse().unwrap();
    assert_eq!(after, before + 1);
    let extended = host.extended_stats().unwrap();
    assert!(extended.iter().any(|stat| *stat == ("tx_good_packets".to_owned(), 1)), "{extended:?}");
    // Taken away by hand: no packets, no crash.
    ip(&format!("link del {tap}"));
    host_queues.rx[0].receive(&mut received).unwrap();
    received.clear();
    drop((host, host_queues));
    // The name is free again.
    let again = plug("net_tap_t", &format!("iface={tap},mac={mac}")).unwrap();
    drop(again);
    is_gone(&tap);
    drop((end, queues, tx, batch, received));
    assert_eq!(rx_pool.in_use(), 0);
    let error = plug("net_af_packet_x", "iface=rw-none").unwrap_err().to_string();
    assert!(error.starts_with("cannot make the Ethernet device \"net_af_packet_x\""), "{error}");
}

/// Packets go by the first device that has a link, and it is seen when a TAP loses its.
#[test]
fn a_bond_goes_on_with_the_device_that_is_left() {
    let id = std::process::id() % 100_000;
    let names = [format!("rwx{id}"), format!("rwy{id}")];
    let rx_pool = pool("bond");
    let member =
        |name: &String| plug(&format!("net_tap_{name}"), &format!("iface={name}")).unwrap();
    let members: Vec<_> = names.iter().map(member).collect();
    let macs: Vec<_> = members.iter().map(|member| member.info().unwrap().mac).collect();
    let mut bond = Ethdev::bond(eal(), "t", members).unwrap();
    let info = bond.info().unwrap();
    assert_eq!((info.driver.as_str(), info.mac), ("net_bonding", macs[0]));
    assert!(!info.offloads.tcp6_segmentation, "no TAP cuts TCP over IPv6");
    let mut queues = bond.start(&EthdevConfig { interrupts: false, ..config(&rx_pool) }).unwrap();
    bond.set_mtu(1500).unwrap();
    let keeper = bond.bond_keeper();
    let both = BondView { links: vec![true, true], active: Some(0) };
    assert_eq!(keeper.tend(), both);
    let sent = |name: &String| -> u64 {
        let path = format!("/sys/class/net/{name}/statistics/rx_packets");
        std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
    };
    let mut send = |to: usize| {
        let before = sent(&names[to]);
        let mut batch = rx_pool.batch(1);
        batch.alloc(1).unwrap();
        batch.packets().next().unwrap().append(60).unwrap().fill(0xff);
        assert_eq!(queues.tx[0].send(&mut batch), 1);
        assert_eq!(sent(&names[to]), before + 1, "it did not go by device {to}");
    };
    send(0);
    let wait = |links: [bool; 2], active| {
        let (start, expected) = (Instant::now(), BondView { links: links.to_vec(), active });
        while keeper.tend() != expected {
            assert!(start.elapsed() < Duration::from_secs(10), "{:?}", keeper.tend());
            thread::sleep(Duration::from_millis(5));
        }
    };
    ip(&format!("link set {} down", names[0]));
    wait([false, true], Some(1));
    send(1);
    ip(&format!("link set {} down", names[1]));
    wait([false, false], None);
    ip(&format!("link set {} up", names[1]));
    wait([false, true], Some(1));
    ip(&format!("link set {} up", names[0]));
    wait([true, true], Some(0));
    send(0);
    drop((keeper, queues));
    drop(bond);
    names.iter().for_each(|name| is_gone(name));
    assert_eq!(rx_pool.in_use(), 0);
}

/// Why the vRouter has no bonds of packet sockets: their driver does not see a link go.
#[test]
fn a_packet_socket_always_has_a_link() {
    let id = std::process::id() % 100_000;
    let (near, far) = (format!("rwp{id}"), format!("rwq{id}"));
    ip(&format!("link add {near} type veth peer name {far}"));
    let _veth = Link(near.clone());
    ip(&format!("link set {near} up"));
    let rx_pool = pool("sockets");
    let arguments = format!("iface={near},blocksz=4096,framesz=2048,framecnt=512,qpairs=1");
    let mut socket = plug("net_af_packet_p", &arguments).unwrap();
    let queues = socket.start(&config(&rx_pool)).unwrap();
    let carrier = std::fs::read_to_string(format!("/sys/class/net/{near}/carrier")).unwrap();
    assert_eq!((carrier.trim(), socket.link().unwrap().up), ("0", true));
    drop((socket, queues));
}

/// An interface whose socket was closed can be had again, by the same process, and one that somebody else has can't.
#[test]
fn sockets_of_af_xdp_go_with_their_device() {
    let id = std::process::id() % 100_000;
    let (near, far) = (format!("rwm{id}"), format!("rwn{id}"));
    ip(&format!("link add {near} type veth peer name {far}"));
    let _veth = Link(near.clone());
    ip(&format!("link set {near} up"));
    ip(&format!("link set {far} up"));
    let open = |name: &str| {
        let buffers = PoolConfig { name: name.to_owned(), mbufs: 4095, cache: 0, data_room: 2048 };
        let pool = Pool::new(eal(), &buffers).unwrap();
        let arguments = format!("iface={near},queue_count=1,busy_budget=0,force_copy=1");
        let mut socket = plug(&format!("net_af_xdp_{name}"), &arguments).unwrap();
        let config = EthdevConfig { rx_descriptors: 512, interrupts: false, ..config(&pool) };
        socket.start(&config).map(|queues| (socket, queues))
    };
    // What the kernel has not cleared up yet it refuses.
    let retry = |name: &str| {
        let start = Instant::now();
        loop {
            match open(name) {
                Err(EthdevError::NoSocket { queue: 0, .. })
                    if start.elapsed() < Duration::from_secs(10) =>
                {
                    thread::sleep(Duration::from_millis(10));
                }
                opened => return opened.unwrap(),
            }
        }
    };
    for _ in 0..3 {
        let (first, queues) = retry("a");
        assert_eq!(first.info().unwrap().driver, "net_af_xdp");
        assert!(matches!(open("b"), Err(EthdevError::NoSocket { queue: 0, .. })));
        drop((first, queues));
    }
}
