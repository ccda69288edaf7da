//! A pod's port: its device, its queues, and the buffers it sends.

use vrouter_dpdk::{
    AllocError, Eal, Ethdev, EthdevConfig, EthdevError, MbufBatch, Pool, PoolConfig, PoolError,
    RxQueue, TxQueue, WrongPool, tsc,
};

use crate::args::{PortSettings, Settings};
use crate::flow::Share;
use crate::frame::{Sender, Stream};
use crate::pace::Pace;
use crate::pattern::Pattern;
use crate::tunnel::{OUTER, Tunnel};

/// Buffers the thread keeps at hand, the most DPDK allows. Up to half as many again rest with it.
const CACHE: u32 = 512;

/// Bytes of packet in a buffer if frames are no larger: what pods use.
const BUFFER: u16 = 2048;

/// [`OUTER`], in the width of lengths.
const OUTER_LEN: u16 = 50;
const _: () = assert!(OUTER_LEN as usize == OUTER);

/// Every n-th packet carries the time when latency is measured.
const STAMP_EVERY: u64 = 16;

/// Why there is no port.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Its device.
    #[error(transparent)]
    Device(#[from] EthdevError),
    /// Its buffers.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// Its buffers could not be filled.
    #[error(transparent)]
    Buffers(#[from] AllocError),
}

/// EAL's options for the ports of `settings`.
pub fn eal_options(settings: &Settings) -> Vec<String> {
    let mut options = Vec::new();
    if !settings.file_per_page {
        options.push("--single-file-segments".to_owned());
    }
    let shapes = || settings.ports.iter().map(|port| settings.shape_of(port));
    if shapes().any(|shape| shape.vectorized && shape.packed) {
        options.push("--force-max-simd-bitwidth=512".to_owned());
    }
    for (number, port) in settings.ports.iter().enumerate() {
        options.extend(["--vdev".to_owned(), device_options(settings, port, number)]);
    }
    options
}

fn device_name(number: usize) -> String {
    format!("net_virtio_user{number}")
}

fn device_options(settings: &Settings, port: &PortSettings, number: usize) -> String {
    let switch = u8::from;
    let shape = settings.shape_of(port);
    format!(
        "{},path={},mac={},queues={},queue_size={},packed_vq={},mrg_rxbuf={},in_order={},vectorized={},server={}",
        device_name(number),
        port.socket.display(),
        port.mac,
        shape.queues,
        shape.queue_size,
        switch(shape.packed),
        switch(shape.mrg_rxbuf),
        switch(shape.in_order),
        switch(shape.vectorized),
        switch(port.server),
    )
}

/// A started port.
#[derive(Debug)]
pub struct Port {
    /// Keeps the device, and tells its link.
    pub device: Ethdev,
    /// Receiving queues.
    pub rx: Vec<Receiver>,
    /// Sending queues; none if the port only receives.
    pub tx: Vec<Transmitter>,
}

/// A receiving queue and room for one burst.
#[derive(Debug)]
pub struct Receiver {
    queue: RxQueue,
    batch: MbufBatch,
}

impl Receiver {
    /// Receives a burst and hands it to `look`; then the buffers are free again. Returns its length.
    #[inline]
    pub fn poll(&mut self, look: impl FnOnce(&MbufBatch)) -> Result<u16, WrongPool> {
        let count = self.queue.receive(&mut self.batch)?;
        if count > 0 {
            look(&self.batch);
            self.batch.clear();
        }
        Ok(count)
    }
}

/// What came of an attempt to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attempt {
    /// Packets wanted.
    pub wanted: u16,
    /// Packets the ring took.
    pub sent: u16,
}

/// A sending queue with its next burst.
#[derive(Debug)]
pub struct Transmitter {
    queue: TxQueue,
    stream: Stream,
    /// The next packets to go: written, or all still to be written.
    batch: MbufBatch,
    written: bool,
    pace: Option<Pace>,
    len: u16,
    latency: bool,
}

impl Transmitter {
    /// Sends the next burst, as far as the ring has room for it. `now` is the time.
    #[inline]
    pub fn send(&mut self, now: u64, pattern: Option<&Pattern>) -> Result<Attempt, AllocError> {
        if self.batch.is_empty() {
            self.take(now)?;
        }
        if self.batch.is_empty() {
            return Ok(Attempt::default());
        }
        if !self.written {
            self.write(pattern);
        }
        let wanted = self.batch.len();
        let sent = self.queue.send(&mut self.batch);
        if self.batch.is_empty() && self.pace.is_none() {
            // Ready for the next round: what others hold of these buffers is on its way meanwhile.
            self.take(now)?;
            self.batch.prefetch_write(0);
        }
        Ok(Attempt { wanted, sent })
    }

    /// Takes buffers for the packets that are due.
    #[inline]
    fn take(&mut self, now: u64) -> Result<(), AllocError> {
        let room = self.batch.capacity();
        let due = self.pace.as_mut().map_or(room, |pace| pace.take(now, room));
        self.written = false;
        self.batch.alloc_as_left(due, self.len)
    }

    #[inline]
    fn write(&mut self, pattern: Option<&Pattern>) {
        let now = if self.latency { tsc() } else { 0 };
        for mut packet in self.batch.packets() {
            let stamped = self.latency && self.stream.seq().is_multiple_of(STAMP_EVERY);
            self.stream.write(packet.data_mut(), stamped.then_some(now), pattern);
        }
        self.written = true;
    }

    /// Forgets what was due until `now`.
    fn forgive(&mut self, now: u64) {
        if let Some(pace) = &mut self.pace {
            pace.restart(now);
        }
    }

    /// Forgets what was due until `now`, and what a full ring has kept here: its time stamps are old.
    pub fn resume(&mut self, now: u64) {
        self.batch.clear();
        self.forgive(now);
    }
}

impl Port {
    /// Forgets what was due until `now`.
    pub fn forgive(&mut self, now: u64) {
        self.tx.iter_mut().for_each(|transmitter| transmitter.forgive(now));
    }

    /// Makes pools, prepares the buffers and starts the device. `number` is the port's.
    pub fn start(
        eal: &Eal,
        settings: &Settings,
        pattern: &Pattern,
        number: u8,
        now: u64,
    ) -> Result<Self, PortError> {
        // Of every port, so that those at both ends of a tunnel have the same buffers.
        let outer =
            if settings.ports.iter().any(|port| port.tunnel.is_some()) { OUTER_LEN } else { 0 };
        let own = settings.ports.get(usize::from(number)).and_then(|port| port.tunnel);
        let len = settings.len + if own.is_some() { OUTER_LEN } else { 0 };
        let mut device = Ethdev::open(eal, &device_name(usize::from(number)))?;
        let own = settings.ports.get(usize::from(number));
        let shape = own.map_or(settings.shape, |port| settings.shape_of(port));
        let pool = |kind| {
            let per_queue = u32::from(shape.queue_size) + 2 * u32::from(settings.burst);
            let mbufs = per_queue * u32::from(shape.queues) + CACHE + CACHE / 2;
            let name = format!("pktgen-{kind}{number}");
            // Two bytes of rest for the length of a tagged frame, which virtio counts as well.
            let data_room = BUFFER.max((settings.len + outer + 32).next_multiple_of(64));
            Pool::new(eal, &PoolConfig { name, mbufs, cache: CACHE, data_room })
        };
        let queues = device.start(&EthdevConfig {
            rx_queues: shape.queues,
            tx_queues: shape.queues,
            rx_descriptors: shape.queue_size,
            tx_descriptors: shape.queue_size,
            rx_pool: pool("rx")?,
            mtu: (settings.len + outer).max(1514) - 14,
            tx_free_threshold: settings.tx_free_threshold,
            interrupts: false,
            tx_offloads: false,
            rx_checksums: false,
        })?;
        let receiver = |queue: RxQueue| Receiver { batch: queue.batch(settings.burst), queue };
        let rx = queues.rx.into_iter().map(receiver).collect();
        let mut tx = Vec::new();
        if settings.sends(number) {
            let pool = pool("tx")?;
            let streams = streams(settings, number);
            if let Some(stream) = streams.first() {
                prepare(&pool, stream, pattern, len)?;
            }
            let rate = settings.rate.map(|rate| rate / u64::from(shape.queues.max(1)));
            let transmitter = |(queue, stream)| Transmitter {
                queue,
                stream,
                batch: pool.batch(settings.burst),
                written: false,
                pace: rate.map(|rate| Pace::new(rate, eal.tsc_hz(), now)),
                len,
                latency: settings.latency,
            };
            let used = queues.tx.into_iter().zip(streams);
            tx = used.filter(|(_, stream)| stream.share().len() > 0).map(transmitter).collect();
        }
        Ok(Self { device, rx, tx })
    }
}

/// Fills every buffer of the pool for good: which stream sends it later makes no difference to what is written.
fn prepare(pool: &Pool, stream: &Stream, pattern: &Pattern, len: u16) -> Result<(), AllocError> {
    let mut rest = pool.capacity();
    let mut batches = Vec::new();
    while rest > 0 {
        let count = u16::try_from(rest).unwrap_or(u16::MAX);
        let mut batch = pool.batch(count);
        batch.alloc_as_left(count, len)?;
        for (number, mut packet) in (0..).zip(batch.packets()) {
            stream.prepare(packet.data_mut(), pattern, number);
        }
        batches.push(batch);
        rest -= u32::from(count);
    }
    Ok(())
}

fn shares(settings: &Settings, port: &PortSettings) -> Vec<Share> {
    let queues = settings.shape_of(port).queues;
    let share =
        |queue| Share::new(settings.flows, queue, queues, port.ip, port.to_ip, settings.len);
    (0..queues).map(share).collect()
}

fn streams(settings: &Settings, number: u8) -> Vec<Stream> {
    let Some(port) = settings.ports.get(usize::from(number)) else { return Vec::new() };
    let stream = |(queue, share)| {
        Stream::new(share, number, queue, (port.mac, port.to_mac), tunnel(settings, port))
    };
    (0..).zip(shares(settings, port)).map(stream).collect()
}

fn tunnel(settings: &Settings, port: &PortSettings) -> Option<Tunnel> {
    port.tunnel.map(|tunnel| Tunnel::new(tunnel, port.mac, settings.len))
}

/// Each port's tunnel, if it has one.
pub fn tunnels(settings: &Settings) -> Vec<Option<Tunnel>> {
    settings.ports.iter().map(|port| tunnel(settings, port)).collect()
}

/// What the checker must know of each port: `None` where it does not send.
pub fn senders(settings: &Settings) -> Vec<Option<Sender>> {
    let sender = |(number, port): (u8, &PortSettings)| {
        settings.sends(number).then(|| Sender {
            peer: settings.peer_of(number),
            len: settings.len,
            to: port.to_mac,
            shares: shares(settings, port),
        })
    };
    (0..).zip(&settings.ports).map(sender).collect()
}
