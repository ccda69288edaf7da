//! Work that packets leave to a device: a TAP, whose driver does it, and a kernel that looks at what comes out. Needs root.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers included")]

use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use vrouter_dpdk::{
    Bus, Eal, EalConfig, Ethdev, EthdevConfig, LogLevel, MbufBatch, Memory, Plug, Pool, PoolConfig,
    TxWork,
};

const PATIENCE: Duration = Duration::from_secs(20);
const IP: usize = 14;
const TCP: usize = IP + 20;
const PAYLOAD: usize = TCP + 20;

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

fn sum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    let total: u32 = words.sum();
    let folded = (total & 0xffff) + (total >> 16);
    u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()
}

/// A TCP packet without checksums, from a port that tells it from others.
fn tcp(port: u16, payload: &[u8]) -> Vec<u8> {
    let total = u16::try_from(40 + payload.len()).unwrap();
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
    frame.extend(total.to_be_bytes());
    frame.extend([0, 1, 0, 0, 64, 6, 0, 0, 198, 18, 7, 2, 198, 18, 7, 1]);
    frame.extend(port.to_be_bytes());
    frame.extend([0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    frame.extend(payload);
    frame
}

/// Whether both checksums of such a packet are right.
fn is_right(frame: &[u8]) -> bool {
    let length = u16::try_from(frame.len() - TCP).unwrap().to_be_bytes();
    let pseudo = [&frame[IP + 12..IP + 20], &[0, 6], &length].concat();
    sum(&frame[IP..TCP]) == 0xffff && sum(&[&pseudo, &frame[TCP..]].concat()) == 0xffff
}

fn send(device: &mut vrouter_dpdk::TxQueue, batch: &mut MbufBatch, frame: &[u8], work: &TxWork) {
    let mut chain = batch.push_chain(u32::try_from(frame.len()).unwrap()).unwrap();
    chain.leave(work);
    let mut left = frame;
    while let Some(piece) = chain.piece() {
        let (now, later) = left.split_at(piece.len());
        piece.copy_from_slice(now);
        left = later;
    }
    assert!(left.is_empty());
    assert_eq!(batch.bytes(), frame.len() as u64);
    assert_eq!(device.prepare(batch), (0, 0));
    assert_eq!(device.send(batch), 1);
}

/// Waits for frames from a port.
fn wait(kernel: &OwnedFd, port: u16, count: usize) -> Vec<Vec<u8>> {
    let (mut got, mut frame, start) = (Vec::new(), vec![0; 70_000], Instant::now());
    while got.len() < count {
        assert!(start.elapsed() < PATIENCE, "{} frames of {count}", got.len());
        match recv(kernel.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
            Ok(n) if n > PAYLOAD && frame[TCP..TCP + 2] == port.to_be_bytes() => {
                got.push(frame[..n].to_vec());
            }
            Ok(_) => {}
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
    got
}

#[test]
fn a_device_fills_in_checksums_cuts_packets_and_looks_at_what_it_receives() {
    let config = EalConfig {
        file_prefix: "ringway-test-offload".to_owned(),
        memory: Memory::Ordinary { mib: 64 },
        log_level: LogLevel::Error,
        extra: vec![],
    };
    let eal = thread::spawn(move || Eal::init(&config).unwrap()).join().unwrap();
    let config = PoolConfig { name: "offload".to_owned(), mbufs: 1023, cache: 0, data_room: 2048 };
    let pool = Pool::new(&eal, &config).unwrap();
    let tap = format!("rwo{}", std::process::id() % 100_000);
    let plug =
        Plug { bus: Bus::Virtual, name: "net_tap_o".to_owned(), arguments: format!("iface={tap}") };
    let mut device = Ethdev::plug(&eal, &plug).unwrap();
    let mut queues = device
        .start(&EthdevConfig {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: 128,
            tx_descriptors: 128,
            rx_pool: pool.clone(),
            mtu: 1500,
            tx_free_threshold: 0,
            interrupts: true,
            tx_offloads: true,
            rx_checksums: true,
        })
        .unwrap();
    let can = *queues.tx[0].offloads();
    assert!(can.tcp_checksum && can.udp_checksum && can.ipv4_checksum && can.tcp4_segmentation);
    assert_eq!((can.tcp6_segmentation, can.pieces, can.piece_bytes), (false, 64, 1500));
    let kernel =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
            .unwrap();
    setsockopt(&kernel, sockopt::RcvBufForce, &(4 << 20)).unwrap();

    let mut batch = pool.batch(8);
    let payload: Vec<u8> = (0u8..=250).cycle().take(20_000).collect();
    let checksum = TxWork {
        link_bytes: 14,
        ip_bytes: 20,
        transport_bytes: 20,
        ip_checksum: true,
        ..TxWork::default()
    };
    let whole = tcp(41_001, &payload[..1000]);
    send(&mut queues.tx[0], &mut batch, &whole, &checksum);
    let got = wait(&kernel, 41_001, 1).remove(0);
    assert!(is_right(&got) && got[PAYLOAD..] == payload[..1000]);

    // In pieces, out of a packet in several buffers.
    let large = tcp(41_002, &payload);
    let pieces = TxWork { segment_bytes: 1200, ..checksum };
    send(&mut queues.tx[0], &mut batch, &large, &pieces);
    let got = wait(&kernel, 41_002, 17);
    assert!(got.iter().all(|piece| is_right(piece)));
    let together: Vec<u8> = got.iter().flat_map(|piece| piece[PAYLOAD..].to_vec()).collect();
    assert_eq!(together, payload);
    assert!(batch.push_chain(0).is_err() && batch.push_chain(64 * 2048 + 1).is_err());
    drop(batch);

    // What the kernel sends is right, and the driver says so.
    ip(&format!("addr add 198.18.7.1/24 dev {tap}"));
    ip(&format!("neigh add 198.18.7.2 lladdr 02:00:00:00:00:02 dev {tap} nud permanent"));
    let sender = UdpSocket::bind("198.18.7.1:0").unwrap();
    sender.send_to(&[7; 100], "198.18.7.2:9").unwrap();
    let mut received = queues.rx[0].batch(8);
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < PATIENCE, "nothing was received");
        queues.rx[0].receive(&mut received).unwrap();
        let mine = |packet: &vrouter_dpdk::Packet<'_>| packet.data().ends_with(&[7; 100]);
        let found = received.packets().find(mine);
        let words = found.map(|it| (it.checksum_is_good(), it.inner_checksum_is_good()));
        if let Some(words) = words {
            assert_eq!(words, (true, false));
            break;
        }
        received.clear();
    }
    received.clear();
    drop((queues, device, received));
    assert_eq!(pool.in_use(), 0);
}
