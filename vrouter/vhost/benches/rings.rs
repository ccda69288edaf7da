//! What rings and copies cost with no second CPU in the way: bursts of 32 frames from one pod's memory to another's, by one
//! thread that also fills and empties both. `cargo bench -p vrouter-vhost`; multiply the time by the clock for cycles.
//!
//! The pods are vhost-user frontends at real ports, with 64 buffers a ring: all of it stays in a second-level cache. Only what a
//! worker does is timed, each burst by itself, so that two looks at the clock are in every time. `take` is a burst that is taken, whose
//! heads are read, and that is given back; the others forward it as well.

#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{ByteValued, Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vrouter_vhost::port::{Peers, Port, PortConfig, SocketOwner};
use vrouter_vhost::queue::{BURST, HEAD_BYTES, Headed, RxScratch, TxBurst};
use vrouter_vhost::wake::{Token, Wake};

const RING: u16 = 64;
const MEMORY: u32 = 1 << 20;
/// Where a pod claims to have mapped its memory.
const BASE: u64 = 0x7f00_0000_0000;
/// Of each queue: descriptors, then what else its ring has, then buffers.
const QUEUE: u64 = 0x4_0000;
const DRIVER_AREA: u64 = 0x1000;
const DEVICE_AREA: u64 = 0x2000;
const BUFFERS: u64 = 0x4074;
/// A buffer, and how far the next one is: as far as DPDK's are, so that their first lines don't fight for the same places in the cache.
const BUFFER: u32 = 2048;
const STEP: u64 = 2048 + 128 + 128;
/// The queue that a pod receives from, and the one it sends to.
const RECEIVING: usize = 0;
const SENDING: usize = 1;

/// virtio 1.2: 5.1.6, 6, 2.7.5 and 2.8.1.
const NET_HEADER: u32 = 12;
const VERSION_1: u64 = 1 << 32;
const RING_PACKED: u64 = 1 << 34;
const WRITE: u16 = 2;
const PACKED_AVAIL: u16 = 1 << 7;
const PACKED_USED: u16 = 1 << 15;
/// In the flags of either kind of ring's driver area (2.7.6, 2.8.14): the pod polls.
const NO_INTERRUPT: u16 = 1;
/// Where a packed ring begins: at its first place, in the first lap.
const FIRST_LAP: u16 = 1 << 15;

/// What a tunnel puts in front: Ethernet, IPv4, UDP and VXLAN.
const OUTER: usize = 50;
/// Lines of a frame behind its first that a worker asks for when it reads the head.
const BODY_LINES: u32 = 8;

/// A pod's side of one ring.
#[derive(Default)]
struct Driver {
    /// Descriptors that were ever offered, counted as the split ring does.
    offered: u16,
    _events: Vec<EventFd>,
}

/// A port and the pod at it.
struct Pod {
    port: Port,
    map: GuestMemoryMmap,
    packed: bool,
    drivers: [Driver; 2],
    _frontend: Frontend,
}

/// Who this process is to a port: a member of its cgroup, or root where it has none of its own.
fn ourselves() -> Peers {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap();
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let own = paths.max_by_key(|path| path.len()).filter(|path| path.len() > 1);
    own.map_or(Peers::Root, |path| Peers::Cgroups(vec![path.to_owned()]))
}

impl Pod {
    fn attach(directory: &Path, id: &str, packed: bool) -> Self {
        let wake = Arc::new(Wake::new().unwrap());
        let config = PortConfig {
            id: id.to_owned(),
            socket: directory.join(id),
            owner: SocketOwner::Vrouter,
            peers: ourselves(),
            private_dir: directory.to_owned(),
            token: Token::default(),
        };
        let socket = config.socket.clone();
        let port = Port::open(config, |_| Arc::clone(&wake), Box::new(drop)).unwrap();

        let file = File::from(memfd_create(c"pod", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(MEMORY.into()).unwrap();
        let mut frontend = Frontend::connect(socket, 2).unwrap();
        frontend.set_owner().unwrap();
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        let wanted = VERSION_1 | protocol | if packed { RING_PACKED } else { 0 };
        assert_eq!(frontend.get_features().unwrap() & wanted, wanted);
        let known = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
        let both = frontend.get_protocol_features().unwrap() & known;
        frontend.set_protocol_features(both).unwrap();
        frontend.set_features(wanted).unwrap();
        frontend
            .set_mem_table(&[VhostUserMemoryRegionInfo {
                guest_phys_addr: 0,
                memory_size: MEMORY.into(),
                userspace_addr: BASE,
                mmap_offset: 0,
                mmap_handle: file.as_raw_fd(),
            }])
            .unwrap();
        let region = (GuestAddress(0), MEMORY as usize, Some(FileOffset::new(file, 0)));
        let map = GuestMemoryMmap::from_ranges_with_files(&[region]).unwrap();
        let drivers = [RECEIVING, SENDING].map(|queue| {
            let at = BASE + QUEUE * queue as u64;
            let (kick, call) =
                (EventFd::new(EFD_NONBLOCK).unwrap(), EventFd::new(EFD_NONBLOCK).unwrap());
            frontend.set_vring_num(queue, RING).unwrap();
            frontend.set_vring_base(queue, if packed { FIRST_LAP } else { 0 }).unwrap();
            let config = VringConfigData {
                queue_max_size: RING,
                queue_size: RING,
                flags: 0,
                desc_table_addr: at,
                used_ring_addr: at + DEVICE_AREA,
                avail_ring_addr: at + DRIVER_AREA,
                log_addr: None,
            };
            frontend.set_vring_addr(queue, &config).unwrap();
            frontend.set_vring_call(queue, &call).unwrap();
            frontend.set_vring_kick(queue, &kick).unwrap();
            Driver { offered: 0, _events: vec![kick, call] }
        });
        for queue in [RECEIVING, SENDING] {
            frontend.set_vring_enable(queue, true).unwrap();
        }
        // Messages are answered in their order: with this answer, the queues run.
        frontend.get_features().unwrap();
        let queues = port.queues();
        assert!(queues.tx(0).is_running() && queues.rx(0).is_running(), "{:?}", port.status());
        let pod = Self { port, map, packed, drivers, _frontend: frontend };
        for queue in [RECEIVING, SENDING] {
            let flags = QUEUE * queue as u64 + DRIVER_AREA + if packed { 2 } else { 0 };
            pod.put(flags, NO_INTERRUPT);
        }
        pod
    }

    fn put<T: ByteValued>(&self, at: u64, value: T) {
        self.map.write_obj(value, GuestAddress(at)).unwrap();
    }

    fn get<T: ByteValued>(&self, at: u64) -> T {
        self.map.read_obj(GuestAddress(at)).unwrap()
    }

    fn buffer(queue: usize, slot: u16) -> u64 {
        QUEUE * queue as u64 + BUFFERS + STEP * u64::from(slot)
    }

    /// Writes frames of so many bytes into all buffers of the sending queue; each line says whose it is.
    fn write_frames(&self, bytes: usize) {
        for slot in 0..RING {
            let at = Self::buffer(SENDING, slot);
            self.map.write_slice(&[0; NET_HEADER as usize], GuestAddress(at)).unwrap();
            let at = GuestAddress(at + u64::from(NET_HEADER));
            self.map.write_slice(&frame(slot, bytes), at).unwrap();
        }
    }

    /// Offers a burst of buffers of so many bytes.
    fn offer(&mut self, queue: usize, bytes: u32) {
        let burst = u16::try_from(BURST).unwrap();
        let ring = QUEUE * queue as u64;
        let begin = self.offered(queue);
        let direction = if queue == RECEIVING { WRITE } else { 0 };
        for position in (0..burst).map(|i| begin.wrapping_add(i)) {
            let slot = position % RING;
            let at = ring + 16 * u64::from(slot);
            self.put(at, Self::buffer(queue, slot));
            self.put(at + 8, bytes);
            if self.packed {
                self.put(at + 12, slot);
                fence(Ordering::Release);
                self.put(
                    at + 14,
                    direction | if lap(position) { PACKED_AVAIL } else { PACKED_USED },
                );
            } else {
                self.put(at + 12, direction);
                self.put(ring + DRIVER_AREA + 4 + 2 * u64::from(slot), slot);
            }
        }
        let end = begin.wrapping_add(burst);
        if !self.packed {
            fence(Ordering::Release);
            self.put(ring + DRIVER_AREA + 2, end);
        }
        self.drivers[queue].offered = end;
    }

    fn offered(&self, queue: usize) -> u16 {
        self.drivers[queue].offered
    }

    /// Whether all that was offered has come back.
    fn is_back(&self, queue: usize) -> bool {
        let ring = QUEUE * queue as u64;
        let offered = self.offered(queue);
        let back = if self.packed {
            let last = offered.wrapping_sub(1);
            let flags: u16 = self.get(ring + 16 * u64::from(last % RING) + 14);
            [PACKED_AVAIL, PACKED_USED].iter().all(|flag| (flags & flag != 0) == lap(last))
        } else {
            self.get::<u16>(ring + DEVICE_AREA + 2) == offered
        };
        fence(Ordering::Acquire);
        back
    }

    /// The frame in a buffer of the receiving queue.
    fn received(&self, slot: u16, bytes: usize) -> Vec<u8> {
        let mut frame = vec![0; bytes];
        let at = Self::buffer(RECEIVING, slot) + u64::from(NET_HEADER);
        self.map.read_slice(&mut frame, GuestAddress(at)).unwrap();
        frame
    }
}

/// Whether a place of a packed ring is written in a lap of the first kind (virtio 1.2, 2.8.1).
fn lap(position: u16) -> bool {
    (position / RING).is_multiple_of(2)
}

fn frame(slot: u16, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| u8::try_from((i + usize::from(slot) * 7) % 251).unwrap()).collect()
}

/// What a worker does with a burst.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Take,
    Plain,
    Into,
    OutOf,
}

impl Way {
    const ALL: [(&str, Self); 4] = [
        ("take", Self::Take),
        ("plain", Self::Plain),
        ("into a tunnel", Self::Into),
        ("out of a tunnel", Self::OutOf),
    ];

    /// Of an inner frame of `inner` bytes, how many a pod sends, and how many the other gets.
    fn bytes(self, inner: usize) -> (usize, usize) {
        match self {
            Self::Take | Self::Plain => (inner, inner),
            Self::Into => (inner, OUTER + inner),
            Self::OutOf => (OUTER + inner, inner),
        }
    }
}

/// A worker's own memory.
struct Worker {
    burst: TxBurst,
    scratch: RxScratch,
    heads: [[u8; HEAD_BYTES]; BURST],
    copied: [u16; BURST],
    outer: [u8; OUTER],
}

impl Worker {
    fn new() -> Self {
        Self {
            burst: TxBurst::new(),
            scratch: RxScratch::new(),
            heads: [[0; HEAD_BYTES]; BURST],
            copied: [0; BURST],
            outer: [0xaa; OUTER],
        }
    }

    /// One burst, in the order in which the vRouter goes about it.
    fn step(&mut self, from: &Port, to: &Port, way: Way) {
        let mut sent = from.queues().tx(0).lease_tx(&mut self.burst).unwrap();
        assert_eq!(sent.fetch(), BURST);
        let mut receiver = (way != Way::Take).then(|| {
            let mut lease = to.queues().rx(0).try_lease_rx(&mut self.scratch).unwrap();
            lease.prepare(BURST);
            lease
        });
        let plain = sent.plain().unwrap();
        for ((frame, head), copied) in plain.frames().zip(&mut self.heads).zip(&mut self.copied) {
            frame.look_ahead(BODY_LINES);
            *copied = frame.head(head, |_| way != Way::OutOf);
        }
        let Some(receiver) = &mut receiver else { return };
        let outer = &self.outer;
        let wanted =
            self.heads.iter().zip(&self.copied).enumerate().map(|(frame, (head, &copied))| {
                let head = &head[..usize::from(copied)];
                let (front, head) = match way {
                    Way::Into => (&outer[..], head),
                    Way::OutOf => (&[][..], &head[OUTER..]),
                    Way::Take | Way::Plain => (&[][..], head),
                };
                Headed { frame, front, head, skip: u32::from(copied), len: u32::MAX }
            });
        assert_eq!(receiver.forward_plain(plain, wanted).frames, BURST);
    }
}

fn rings(c: &mut Criterion) {
    for (layout, packed) in [("split", false), ("packed", true)] {
        let mut group = c.benchmark_group(layout);
        group.throughput(Throughput::Elements(BURST as u64));
        let directory = tempfile::tempdir().unwrap();
        let mut from = Pod::attach(directory.path(), "from", packed);
        let mut to = Pod::attach(directory.path(), "to", packed);
        let mut worker = Worker::new();
        for (name, way) in Way::ALL {
            for inner in [64, 512, 1468] {
                let (sent, received) = way.bytes(inner);
                from.write_frames(sent);
                let length = NET_HEADER + u32::try_from(sent).unwrap();
                let mut bursts = |count| {
                    let mut took = Duration::ZERO;
                    for _ in 0..count {
                        from.offer(SENDING, length);
                        if way != Way::Take {
                            to.offer(RECEIVING, BUFFER);
                        }
                        let begun = Instant::now();
                        worker.step(&from.port, &to.port, way);
                        took += begun.elapsed();
                        assert!(from.is_back(SENDING) && to.is_back(RECEIVING));
                    }
                    took
                };
                group.bench_function(BenchmarkId::new(name, inner), |b| b.iter_custom(&mut bursts));
                // A ring of them, of which every byte is looked at.
                bursts(u64::from(RING) / BURST as u64);
                // The receiver was offered nothing while bursts were taken only.
                let ahead = from.offered(SENDING).wrapping_sub(to.offered(RECEIVING));
                for slot in 0..RING {
                    let sent = frame((slot + ahead) % RING, sent);
                    let whole = match way {
                        Way::Take => continue,
                        Way::Plain => sent,
                        Way::Into => [&worker.outer[..], &sent].concat(),
                        Way::OutOf => sent[OUTER..].to_vec(),
                    };
                    assert_eq!(to.received(slot, received), whole, "{layout} {name} {inner}");
                }
            }
        }
        group.finish();
        from.port.close();
        to.port.close();
    }
}

criterion_group!(benches, rings);
criterion_main!(benches);
