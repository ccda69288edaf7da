//! `ringway-frames`: a pod's DPDK application, or a station on a kernel interface, that sends the frames it is told, and tells
//! which ones it gets.
//!
//! For tests that care what is in a frame and not how fast it goes; the thread sleeps while nothing happens. Nobody depends on
//! it. Line by line, on standard input:
//!
//! ```text
//! send QUEUE COUNT HEX    sends a frame so many times; answered by `sent COUNT` when the ring has taken all
//! leave QUEUE WORK HEX    sends a frame that leaves work to its device; answered by `sent 1`, or `refused 1`
//!                         when the device can't. WORK is IP,HEADER,PIECES,KIND:
//!                         bytes of the IP header, bytes of the next, payload bytes of each piece that TCP is to be cut
//!                         into or 0, and `tcp4`, `tcp6`, `udp4` or `udp6`
//! checked                 answered by `checked COUNT`: frames received since the start whose checksum the device calls good
//! report                  answered by `got COUNT HEX` for each frame received since the last report, and `end`
//! ```
//! `ready` is said when the device has started. The end of the input is the end of the program.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufRead as _, Write as _};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use vrouter_dpdk::{
    CpuId, Eal, EalConfig, Ethdev, EthdevConfig, LogLevel, MbufBatch, Memory, Pool, PoolConfig,
    RxQueue, TxQueue, TxWork, pin_current_thread,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const DESCRIPTORS: u16 = 1024;
const BURST: u16 = 32;
/// How long a ring may take no frame at all.
const STUCK: Duration = Duration::from_secs(10);
/// Sleep while nothing happens.
const IDLE: Duration = Duration::from_millis(1);
/// Longest frame: an MTU of 1500 with a VLAN tag.
const FRAME_MAX: usize = 1518;
/// The same of one that is to be cut.
const WHOLE_MAX: usize = 65_535;
const LINK_BYTES: u16 = 14;

/// Sends the frames it is told on standard input and tells the ones it gets on standard output.
#[derive(Debug, Parser)]
#[command(name = "ringway-frames", version)]
struct Args {
    /// The pod's vhost-user socket, on which the vRouter listens
    #[arg(long, requires = "mac", required_unless_present = "interface")]
    socket: Option<String>,
    /// The pod's Ethernet address
    #[arg(long)]
    mac: Option<String>,
    /// A kernel interface to be on instead, by a packet socket; it gets a copy of what arrives there
    #[arg(long, conflicts_with_all = ["socket", "mac", "queues"])]
    interface: Option<String>,
    /// CPU of the one thread
    #[arg(long)]
    cpu: u16,
    /// Queue pairs
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    queues: u16,
    /// Hugepage memory to take, MiB
    #[arg(long, default_value_t = 32)]
    memory_mb: u32,
    /// Agree on checksums and TCP segmentation with the vRouter, both ways
    #[arg(long)]
    offloads: bool,
}

enum Order {
    Send { queue: usize, count: u64, frame: Vec<u8> },
    Leave { queue: usize, work: TxWork, frame: Vec<u8> },
    Report,
    Checked,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringway-frames: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let Args { queues, .. } = args;
    let (name, arguments) = match (&args.socket, &args.mac, &args.interface) {
        (Some(socket), Some(mac), _) => (
            "net_virtio_user0",
            format!("path={socket},mac={mac},queues={queues},queue_size={DESCRIPTORS}"),
        ),
        (_, _, Some(interface)) => ("net_af_packet0", format!("iface={interface}")),
        _ => return Err("no socket and no interface".into()),
    };
    let device = format!("{name},{arguments}");
    let eal = Eal::init(&EalConfig {
        file_prefix: format!("frames-{}", std::process::id()),
        memory: Memory::Hugepages { mib: args.memory_mb, numa_node: None },
        log_level: LogLevel::Warning,
        extra: vec!["--single-file-segments".to_owned(), "--vdev".to_owned(), device],
    })?;
    pin_current_thread(CpuId(args.cpu))?;
    let mbufs = u32::from(DESCRIPTORS + 4 * BURST) * u32::from(*queues);
    let pool = |name: &str| {
        Pool::new(&eal, &PoolConfig { name: name.to_owned(), mbufs, cache: 0, data_room: 2048 })
    };
    let mut ethdev = Ethdev::open(&eal, name)?;
    let started = ethdev.start(&EthdevConfig {
        rx_queues: *queues,
        tx_queues: *queues,
        rx_descriptors: DESCRIPTORS,
        tx_descriptors: DESCRIPTORS,
        rx_pool: pool("frames-rx")?,
        mtu: 1500,
        tx_free_threshold: 0,
        interrupts: false,
        tx_offloads: args.offloads,
        rx_checksums: args.offloads,
    })?;
    let receive = |queue: RxQueue| (queue.batch(BURST), queue);
    let mut pod = Pod {
        rx: started.rx.into_iter().map(receive).collect(),
        tx: started.tx,
        batch: pool("frames-tx")?.batch(BURST),
        got: BTreeMap::new(),
        checked: 0,
    };
    println!("ready");
    pod.serve(&orders())
}

/// The orders on standard input, read by a thread of their own. One that is none ends them.
fn orders() -> Receiver<Order> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(io::Result::ok) {
            let Some(order) = order(&line) else {
                eprintln!("ringway-frames: {line:?} is no order");
                return;
            };
            if sender.send(order).is_err() {
                return;
            }
        }
    });
    receiver
}

fn order(line: &str) -> Option<Order> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["report"] => Some(Order::Report),
        ["checked"] => Some(Order::Checked),
        ["send", queue, count, hex] => {
            let frame = bytes(hex).filter(|frame| frame.len() <= FRAME_MAX)?;
            Some(Order::Send { queue: queue.parse().ok()?, count: count.parse().ok()?, frame })
        }
        ["leave", queue, work, hex] => {
            let frame = bytes(hex).filter(|frame| frame.len() <= WHOLE_MAX)?;
            Some(Order::Leave { queue: queue.parse().ok()?, work: self::work(work)?, frame })
        }
        _ => None,
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let byte = |at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    (0..hex.len()).step_by(2).map(byte).collect()
}

fn work(text: &str) -> Option<TxWork> {
    let words: Vec<&str> = text.split(',').collect();
    let [ip, header, pieces, kind] = words[..] else { return None };
    let (transport, family) = kind.split_at_checked(3)?;
    Some(TxWork {
        link_bytes: LINK_BYTES,
        ip_bytes: ip.parse().ok()?,
        transport_bytes: header.parse().ok()?,
        is_ipv6: family == "6",
        is_udp: transport == "udp",
        segment_bytes: pieces.parse().ok()?,
        // A virtual device has none: the header's own is right.
        ip_checksum: false,
        outer_is_ipv6: None,
    })
}

struct Pod {
    rx: Vec<(MbufBatch, RxQueue)>,
    tx: Vec<TxQueue>,
    batch: MbufBatch,
    /// Frames received, and how often.
    got: BTreeMap<Vec<u8>, u64>,
    /// Those whose checksum the device calls good.
    checked: u64,
}

impl Pod {
    fn serve(&mut self, orders: &Receiver<Order>) -> Result<()> {
        loop {
            let received = self.receive()?;
            match orders.try_recv() {
                Ok(Order::Send { queue, count, frame }) => self.send(queue, count, &frame)?,
                Ok(Order::Leave { queue, work, frame }) => self.leave(queue, &work, &frame)?,
                Ok(Order::Report) => self.report()?,
                Ok(Order::Checked) => {
                    while self.receive()? > 0 {}
                    println!("checked {}", self.checked);
                }
                Err(TryRecvError::Empty) if received == 0 => thread::sleep(IDLE),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
        }
    }

    /// Takes a burst from each queue.
    fn receive(&mut self) -> Result<u16> {
        let mut received = 0;
        for (batch, queue) in &mut self.rx {
            received += queue.receive(batch)?;
            let good = batch.packets().filter(|packet| packet.checksum_is_good()).count();
            self.checked += u64::try_from(good)?;
            for frame in batch.iter() {
                match self.got.get_mut(frame) {
                    Some(count) => *count += 1,
                    None => drop(self.got.insert(frame.to_vec(), 1)),
                }
            }
            batch.clear();
        }
        Ok(received)
    }

    fn send(&mut self, queue: usize, count: u64, frame: &[u8]) -> Result<()> {
        if queue >= self.tx.len() {
            return Err(format!("no queue {queue}").into());
        }
        let mut left = count;
        let mut moved = Instant::now();
        while left > 0 || !self.batch.is_empty() {
            if self.batch.is_empty() {
                let burst = u16::try_from(left).unwrap_or(BURST).min(BURST);
                if self.batch.alloc(burst).is_ok() {
                    for mut packet in self.batch.packets() {
                        let length = u16::try_from(frame.len())?;
                        packet.append(length)?.copy_from_slice(frame);
                    }
                    left -= u64::from(burst);
                }
            }
            let tx = self.tx.get_mut(queue).ok_or("no such queue")?;
            if tx.send(&mut self.batch) > 0 {
                moved = Instant::now();
            } else if moved.elapsed() > STUCK {
                return Err("the ring takes no frames".into());
            } else {
                thread::sleep(IDLE);
            }
            self.receive()?;
        }
        println!("sent {count}");
        Ok(())
    }

    fn leave(&mut self, queue: usize, work: &TxWork, frame: &[u8]) -> Result<()> {
        let tx = self.tx.get_mut(queue).ok_or("no such queue")?;
        let mut chain = self.batch.push_chain(u32::try_from(frame.len())?)?;
        chain.leave(work);
        let mut left = frame;
        while let Some(room) = chain.piece() {
            let (now, later) = left.split_at_checked(room.len()).ok_or("a longer packet")?;
            room.copy_from_slice(now);
            left = later;
        }
        if tx.prepare(&mut self.batch) != (0, 0) {
            println!("refused 1");
            return Ok(());
        }
        let begun = Instant::now();
        while tx.send(&mut self.batch) == 0 {
            if begun.elapsed() > STUCK {
                return Err("the ring takes no frames".into());
            }
            thread::sleep(IDLE);
        }
        println!("sent 1");
        Ok(())
    }

    fn report(&mut self) -> Result<()> {
        while self.receive()? > 0 {}
        let mut text = String::new();
        for (frame, count) in std::mem::take(&mut self.got) {
            write!(text, "got {count} ")?;
            frame.iter().try_for_each(|byte| write!(text, "{byte:02x}"))?;
            text.push('\n');
        }
        text.push_str("end\n");
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }
}
