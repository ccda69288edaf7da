//! The command line, and what is asked by it.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::error::ErrorKind;
use clap::{ArgAction, Parser};
use vrouter_dpdk::{CpuId, Mac};

use crate::flow::Flows;
use crate::tunnel::TunnelSettings;

/// Bytes of the frame check sequence: part of a frame's size, but never on a ring.
const FCS: u16 = 4;

/// Most queue pairs and ports: both have a place of their own in the packets.
const QUEUES_MAX: u16 = 16;
const PORTS_MAX: usize = 32;

/// Buffers that DPDK 22.11's vector code puts into a split ring at once. Bursts of 64 lost 21 to 37 % for that.
const VECTOR_REFILL: u16 = 32;

/// Most flows: their headers are kept ready, 16 bytes each.
const FLOWS_MAX: u64 = 1 << 20;

/// Sends packets through a switch from pod ports (virtio-user) and checks what comes back.
///
/// Every port sends to its peer and receives from it; ports 0 and 1, 2 and 3, ... are peers unless said otherwise.
/// Results are JSON, one object per line on stdout: "ready" when all links are up, "start" when warm-up is over and
/// the counters are zero, "end" with the results.
///
/// At the end of the warm-up sending pauses until the switch is empty (--drain at most), so that "lost" covers exactly
/// the packets sent between "start" and the end of the measurement: those that did not arrive at the peer during
/// it or within --drain after it. "received" are all packets that arrived at a port between "start" and the end of the
/// measurement. "checked" are those of them, and of the time after it, that were fully checked; "reordered", "corrupt" and
/// "foreign" are found among those. A packet of another length than ours is always checked.
///
/// "busy" is the share of time in rounds that sent or received something. "ring_full" is the share of attempts to
/// send that a ring did not take whole. "limit" is "generator" if busy > 0.97 and ring_full < 0.10, else "switch"
/// (with --rate: whatever limits is neither, if nothing is lost).
///
/// Exit: 0 fine, 1 failed, 2 wrong arguments, 3 corrupt or foreign packets.
#[derive(Debug, Parser)]
#[command(name = "ringway-pktgen", version, verbatim_doc_comment)]
struct Args {
    /// CPU of the one thread that sends and receives
    #[arg(long, value_name = "CPU")]
    cpu: u16,
    /// A port: socket=PATH,mac=MAC,ip=IP,to-mac=MAC,to-ip=IP and, if wanted, peer=PORT and server; repeat for more.
    /// With server the pod listens and the switch connects. queues=N, queue-size=N, packed=0|1, vectorized=0|1,
    /// mrg-rxbuf=0|1 and in-order=0|1 replace the options of the same names for this port. With vni=N,vtep=IP,to-vtep=IP,vtep-mac=MAC
    /// its frames go into VXLAN packets from vtep to to-vtep at that MAC address, and it receives such
    #[arg(long = "port", value_name = "KEY=VALUE,...", required = true, action = ArgAction::Append)]
    ports: Vec<PortSettings>,
    /// Bytes of each frame, its 4 byte frame check sequence included
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(64..=9018))]
    size: u16,
    /// Flows of each port; flow f goes to address to-ip + f % ADDRESSES from UDP port 1024 + f % 50000
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=(1 << 20)))]
    flows: u32,
    /// Destination addresses that the flows are spread over
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=(1 << 20)))]
    addresses: u32,
    /// Descriptors of each ring
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u16).range(64..=32768))]
    queue_size: u16,
    /// Queue pairs of each port; a flow stays in one
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    queues: u16,
    /// Packed rings
    #[arg(long)]
    packed: bool,
    /// Vector code in the driver; for split rings it needs --mrg-rxbuf=0 --in-order=0 and --burst 32 or less
    #[arg(long)]
    vectorized: bool,
    /// Receive buffers may be merged for a large packet
    #[arg(long, value_name = "0|1", default_value = "1", value_parser = switch, action = ArgAction::Set)]
    mrg_rxbuf: bool,
    /// Offer to use descriptors in order
    #[arg(long, value_name = "0|1", default_value = "1", value_parser = switch, action = ArgAction::Set)]
    in_order: bool,
    /// Write every payload byte of each packet sent, read and check every byte of each one received
    #[arg(long)]
    touch: bool,
    /// Check every n-th packet received, on average and at irregular distances; 0: none
    #[arg(long, default_value_t = 64, value_name = "N")]
    verify_every: u32,
    /// Packets per second and port; 0: as many as the rings take
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Put the time into every 16th packet and report latencies; every packet received is looked at for that
    #[arg(long)]
    latency: bool,
    /// Seconds of traffic before the measurement
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// Seconds of the measurement
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Hugepage memory to take
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..))]
    memory_mb: u32,
    /// Send nothing until this file exists
    #[arg(long, value_name = "FILE")]
    go: Option<PathBuf>,
    /// Give each hugepage a file of its own, which makes it a memory region of its own: virtio-user has 8 at most
    #[arg(long)]
    file_per_page: bool,
    /// Allocate this much memory and free it again, over and over, while packets flow: each time the switch is told
    #[arg(long, default_value_t = 0, value_name = "MIB", value_parser = clap::value_parser!(u32).range(..=512))]
    churn_mb: u32,
    /// Seconds to wait at most for packets under way at the end of the warm-up and of the measurement
    #[arg(long, default_value_t = 0.2)]
    drain: f64,
    /// Ports that send
    #[arg(long, value_name = "all|PORT", default_value = "all")]
    send_from: SendFrom,
    /// Packets moved at once
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    burst: u16,
    /// Sent packets a driver may leave in a ring before it takes the buffers back; 0: the driver's choice
    #[arg(long, default_value_t = 0)]
    tx_free_threshold: u16,
}

/// One port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSettings {
    /// The vhost-user socket.
    pub socket: PathBuf,
    /// The pod listens there.
    pub server: bool,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Source address of its packets.
    pub ip: Ipv4Addr,
    /// Ethernet address its packets go to: a gateway, or the peer.
    pub to_mac: Mac,
    /// Destination address of flow 0.
    pub to_ip: Ipv4Addr,
    /// The port that receives its packets, if not the usual one.
    pub peer: Option<u8>,
    /// The tunnel it is the far end of.
    pub tunnel: Option<TunnelSettings>,
    /// Where its rings differ from the others'.
    pub own: OwnShape,
}

/// What the rings of a port are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Queue pairs.
    pub queues: u16,
    /// Descriptors of each ring.
    pub queue_size: u16,
    /// Packed rings.
    pub packed: bool,
    /// Vector code in the driver.
    pub vectorized: bool,
    /// Mergeable receive buffers.
    pub mrg_rxbuf: bool,
    /// Descriptors in order.
    pub in_order: bool,
}

/// Parts of a [`Shape`] that a port has for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnShape {
    queues: Option<u16>,
    queue_size: Option<u16>,
    packed: Option<bool>,
    vectorized: Option<bool>,
    mrg_rxbuf: Option<bool>,
    in_order: Option<bool>,
}

impl OwnShape {
    /// Notes an option; `None` for a key that is none of these.
    fn set(&mut self, key: &str, value: &str) -> Option<Result<(), String>> {
        let number = || value.parse().map_err(|_| format!("{key}={value:?}: use a number"));
        let flag = || switch(value).map_err(|remedy| format!("{key}={value:?}: {remedy}"));
        Some(match key {
            "queues" => number().map(|it| self.queues = Some(it)),
            "queue-size" => number().map(|it| self.queue_size = Some(it)),
            "packed" => flag().map(|it| self.packed = Some(it)),
            "vectorized" => flag().map(|it| self.vectorized = Some(it)),
            "mrg-rxbuf" => flag().map(|it| self.mrg_rxbuf = Some(it)),
            "in-order" => flag().map(|it| self.in_order = Some(it)),
            _ => return None,
        })
    }
}

impl Shape {
    fn with(self, own: &OwnShape) -> Self {
        Self {
            queues: own.queues.unwrap_or(self.queues),
            queue_size: own.queue_size.unwrap_or(self.queue_size),
            packed: own.packed.unwrap_or(self.packed),
            vectorized: own.vectorized.unwrap_or(self.vectorized),
            mrg_rxbuf: own.mrg_rxbuf.unwrap_or(self.mrg_rxbuf),
            in_order: own.in_order.unwrap_or(self.in_order),
        }
    }

    fn check(&self, burst: u16) -> Result<(), ArgsError> {
        if !(1..=QUEUES_MAX).contains(&self.queues) {
            return Err(ArgsError::Queues(self.queues));
        }
        if !self.queue_size.is_power_of_two() {
            return Err(ArgsError::QueueSize(self.queue_size));
        }
        if self.vectorized && !self.packed && (self.mrg_rxbuf || self.in_order) {
            return Err(ArgsError::Vectorized);
        }
        if self.vectorized && !self.packed && burst > VECTOR_REFILL {
            return Err(ArgsError::VectorBurst(burst));
        }
        Ok(())
    }
}

/// Which ports send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendFrom {
    /// Every one.
    All,
    /// Only this.
    Only(u8),
}

impl FromStr for SendFrom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            _ => {
                text.parse().map(Self::Only).map_err(|_| "use `all` or a port's number".to_owned())
            }
        }
    }
}

/// What to do, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// CPU of the polling thread.
    pub cpu: CpuId,
    /// Ports, by number.
    pub ports: Vec<PortSettings>,
    /// Bytes of each frame as it lies in a buffer, without its frame check sequence.
    pub len: u16,
    /// Flows of each sending port.
    pub flows: Flows,
    /// Rings of the ports that have no own.
    pub shape: Shape,
    /// Write and read all payload.
    pub touch: bool,
    /// Check every n-th packet; 0: none.
    pub verify_every: u32,
    /// Packets per second and port; `None`: as many as possible.
    pub rate: Option<u64>,
    /// Measure latency.
    pub latency: bool,
    /// Seconds before the measurement.
    pub warmup: f64,
    /// Seconds of the measurement.
    pub seconds: f64,
    /// Longest wait for packets under way, seconds.
    pub drain: f64,
    /// MiB of hugepages.
    pub memory_mib: u32,
    /// The file to wait for before anything is sent.
    pub go: Option<PathBuf>,
    /// A file for each hugepage.
    pub file_per_page: bool,
    /// MiB to allocate and free over and over.
    pub churn_mib: u32,
    /// Which ports send.
    pub send_from: SendFrom,
    /// Packets moved at once.
    pub burst: u16,
    /// Sent packets left in a ring; 0: the driver's choice.
    pub tx_free_threshold: u16,
}

impl Settings {
    /// The port that receives what `port` sends: the one it names, else its neighbour, else itself.
    pub fn peer_of(&self, port: u8) -> u8 {
        let named = self.ports.get(usize::from(port)).and_then(|settings| settings.peer);
        let neighbour = Some(port ^ 1).filter(|&peer| usize::from(peer) < self.ports.len());
        named.or(neighbour).unwrap_or(port)
    }

    /// What the rings of `port` are like.
    pub fn shape_of(&self, port: &PortSettings) -> Shape {
        self.shape.with(&port.own)
    }

    /// Whether `port` sends.
    pub fn sends(&self, port: u8) -> bool {
        self.send_from == SendFrom::All || self.send_from == SendFrom::Only(port)
    }
}

/// What the command line wants.
#[derive(Debug)]
pub enum Asked {
    /// Traffic.
    Run(Box<Settings>),
    /// This text: help or version.
    Text(String),
}

/// A command line that cannot be followed. In one line.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum ArgsError {
    /// An option is unknown, missing or has a wrong value.
    #[error("{0}")]
    Option(String),
    /// More ports than there are numbers for.
    #[error("--port: {count} ports: use at most {PORTS_MAX}")]
    Ports {
        /// How many.
        count: usize,
    },
    /// A port's number that no port has.
    #[error("{option} {port}: there are {count} ports, numbered from 0")]
    NoSuchPort {
        /// Where it is named.
        option: &'static str,
        /// The number.
        port: u8,
        /// Ports there are.
        count: usize,
    },
    /// Packets of two ports would arrive at one: its losses could not be told apart.
    #[error(
        "--port: ports {0} and {1} send to the same peer: give one of them another with `peer=`"
    )]
    SharedPeer(u8, u8),
    /// Some flows would be the same.
    #[error(
        "--flows {flows}: with --addresses {addresses} only {distinct} can be told apart: use fewer flows"
    )]
    Flows {
        /// Flows wanted.
        flows: u32,
        /// Addresses wanted.
        addresses: u32,
        /// Flows there would be.
        distinct: u64,
    },
    /// A ring's size.
    #[error("--queue-size {0}: use a power of two")]
    QueueSize(u16),
    /// A number of queue pairs.
    #[error("--queues {0}: use 1 to {QUEUES_MAX}")]
    Queues(u16),
    /// A time.
    #[error("--{option} {value}: use 0 to 86400 seconds")]
    Seconds {
        /// Which.
        option: &'static str,
        /// What it was.
        value: f64,
    },
    /// The driver's vector code for split rings cannot do that.
    #[error("--vectorized: split rings need --mrg-rxbuf=0 --in-order=0 with it")]
    Vectorized,
    /// That code refills a ring by [`VECTOR_REFILL`] buffers each time it receives, however many it took out.
    #[error(
        "--burst {0}: use {VECTOR_REFILL} or less with --vectorized split rings, else they run empty"
    )]
    VectorBurst(u16),
}

/// Reads and checks the command line.
///
/// # Errors
/// [`ArgsError`].
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Asked, ArgsError> {
    match Args::try_parse_from(words) {
        Ok(args) => settings(args).map(Box::new).map(Asked::Run),
        Err(text) if matches!(text.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(Asked::Text(text.to_string()))
        }
        Err(error) => {
            let text = error.to_string();
            // What follows the first paragraph is usage.
            let text = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
            Err(ArgsError::Option(text.split_whitespace().collect::<Vec<_>>().join(" ")))
        }
    }
}

fn settings(args: Args) -> Result<Settings, ArgsError> {
    let count = args.ports.len();
    if count > PORTS_MAX {
        return Err(ArgsError::Ports { count });
    }
    let known = |option, port: u8| {
        let known = usize::from(port) < count;
        known.then_some(()).ok_or(ArgsError::NoSuchPort { option, port, count })
    };
    if let SendFrom::Only(port) = args.send_from {
        known("--send-from", port)?;
    }
    for peer in args.ports.iter().filter_map(|port| port.peer) {
        known("--port: peer", peer)?;
    }
    let Args { flows, addresses, .. } = args;
    let distinct = Flows::distinct(addresses).min(FLOWS_MAX);
    if u64::from(flows) > distinct {
        return Err(ArgsError::Flows { flows, addresses, distinct });
    }
    let shape = Shape {
        queues: args.queues,
        queue_size: args.queue_size,
        packed: args.packed,
        vectorized: args.vectorized,
        mrg_rxbuf: args.mrg_rxbuf,
        in_order: args.in_order,
    };
    for port in &args.ports {
        shape.with(&port.own).check(args.burst)?;
    }
    for (option, value) in
        [("warmup", args.warmup), ("seconds", args.seconds), ("drain", args.drain)]
    {
        if !(0.0..=86_400.0).contains(&value) {
            return Err(ArgsError::Seconds { option, value });
        }
    }
    let settings = Settings {
        cpu: CpuId(args.cpu),
        ports: args.ports,
        len: args.size - FCS,
        flows: Flows { count: flows, addresses },
        shape,
        touch: args.touch,
        verify_every: args.verify_every,
        rate: (args.rate > 0).then_some(args.rate),
        latency: args.latency,
        warmup: args.warmup,
        seconds: args.seconds,
        drain: args.drain,
        memory_mib: args.memory_mb,
        go: args.go,
        file_per_page: args.file_per_page,
        churn_mib: args.churn_mb,
        send_from: args.send_from,
        burst: args.burst,
        tx_free_threshold: args.tx_free_threshold,
    };
    let numbers = (0..=u8::MAX).take(count).filter(|&port| settings.sends(port));
    let mut senders: Vec<_> = numbers.map(|port| (settings.peer_of(port), port)).collect();
    senders.sort_unstable();
    for pair in senders.windows(2) {
        if let [(peer, one), (same, other)] = pair
            && peer == same
        {
            return Err(ArgsError::SharedPeer(*one, *other));
        }
    }
    Ok(settings)
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err("use 0 or 1".to_owned()),
    }
}

impl FromStr for PortSettings {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut socket, mut mac, mut ip, mut to_mac, mut to_ip) = (None, None, None, None, None);
        let (mut peer, mut server, mut own) = (None, false, OwnShape::default());
        let (mut vni, mut vtep, mut to_vtep, mut vtep_mac) = (None, None, None, None);
        for word in text.split(',') {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "socket" => socket = Some(PathBuf::from(value)).filter(|_| !value.is_empty()),
                "mac" => mac = Some(parse_mac(key, value)?),
                "to-mac" => to_mac = Some(parse_mac(key, value)?),
                "ip" => ip = Some(parse_ip(key, value)?),
                "to-ip" => to_ip = Some(parse_ip(key, value)?),
                "peer" => {
                    let number = value
                        .parse()
                        .map_err(|_| format!("peer={value:?}: use a port's number"))?;
                    peer = Some(number);
                }
                "server" => server = true,
                "vni" => {
                    let number = value.parse::<u32>().ok().filter(|vni| vni >> 24 == 0);
                    vni = Some(number.ok_or_else(|| format!("vni={value:?}: use 0 to 16777215"))?);
                }
                "vtep" => vtep = Some(parse_ip(key, value)?),
                "to-vtep" => to_vtep = Some(parse_ip(key, value)?),
                "vtep-mac" => vtep_mac = Some(parse_mac(key, value)?),
                _ => own.set(key, value).ok_or_else(|| {
                    format!(
                        "{key:?} is unknown: use socket, mac, ip, to-mac, to-ip, peer, server, vni, vtep, to-vtep, \
                         vtep-mac, or an option of rings"
                    )
                })??,
            }
        }
        let missing = |key: &str| format!("{key}= is missing");
        let tunnel = match (vni, vtep, to_vtep, vtep_mac) {
            (None, None, None, None) => None,
            (Some(vni), Some(from), Some(to), Some(to_mac)) => {
                Some(TunnelSettings { vni, from, to, to_mac })
            }
            _ => return Err("vni, vtep, to-vtep, vtep-mac: give all four or none".to_owned()),
        };
        Ok(Self {
            socket: socket.ok_or_else(|| missing("socket"))?,
            server,
            mac: mac.ok_or_else(|| missing("mac"))?,
            ip: ip.ok_or_else(|| missing("ip"))?,
            to_mac: to_mac.ok_or_else(|| missing("to-mac"))?,
            to_ip: to_ip.ok_or_else(|| missing("to-ip"))?,
            peer,
            tunnel,
            own,
        })
    }
}

fn parse_ip(key: &str, value: &str) -> Result<Ipv4Addr, String> {
    value.parse().map_err(|_| format!("{key}={value:?}: use an IPv4 address"))
}

fn parse_mac(key: &str, value: &str) -> Result<Mac, String> {
    let wrong = || format!("{key}={value:?}: use six pairs of hexadecimal digits with colons");
    let mut mac = [0; 6];
    let mut parts = value.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
    }
    parts.next().is_none().then_some(Mac(mac)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests;
