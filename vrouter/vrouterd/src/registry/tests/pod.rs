//! A pod: a vhost-user frontend with its own memory and split rings, driven by hand.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{Ordering, fence};

use nix::sys::memfd::{MFdFlags, memfd_create};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{ByteValued, Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const RING: u16 = 128;
const MEMORY: u32 = 1 << 20;
/// Where the pod claims to have mapped its memory.
const BASE: u64 = 0x7f00_0000_0000;
/// Of each queue: descriptors, then the available and the used ring, then buffers.
const QUEUE: u64 = 0x1_0000;
const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;
const BUFFERS: u64 = 0x4000;
const BUFFER: u32 = 0x100;
/// virtio 1.2, 5.1.6 and 2.7.5.
const NET_HEADER: u32 = 12;
const WRITE: u16 = 2;
const VERSION_1: u64 = 1 << 32;
/// Ethernet, IPv4, UDP, then the queue pair and the sequence number.
const FRAME: u32 = 60;
const PAYLOAD: usize = 42;

pub struct Pod {
    pub number: u8,
    gateway: [u8; 6],
    map: GuestMemoryMmap,
    queues: Vec<Ring>,
    _frontend: Frontend,
}

struct Ring {
    at: u64,
    position: u16,
    taken: u16,
    kick: EventFd,
    _call: EventFd,
}

impl Pod {
    /// Attaches pod `number`, whose addresses end in it, and offers receive buffers.
    pub fn attach(socket: &Path, number: u8, gateway: [u8; 6], pairs: usize) -> Self {
        let file = File::from(memfd_create(c"pod", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(MEMORY.into()).unwrap();
        let mut frontend = Frontend::connect(socket, 2 * pairs as u64).unwrap();
        frontend.set_owner().unwrap();
        let offered = frontend.get_features().unwrap();
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        let known = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
        let both = frontend.get_protocol_features().unwrap() & known;
        frontend.set_protocol_features(both).unwrap();
        frontend.set_features(offered & (VERSION_1 | protocol)).unwrap();
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
        let mut pod = Self { number, gateway, map, queues: Vec::new(), _frontend: frontend };
        for queue in 0..2 * pairs {
            let (kick, call) =
                (EventFd::new(EFD_NONBLOCK).unwrap(), EventFd::new(EFD_NONBLOCK).unwrap());
            let at = QUEUE * queue as u64;
            let frontend = &mut pod._frontend;
            frontend.set_vring_num(queue, RING).unwrap();
            frontend.set_vring_base(queue, 0).unwrap();
            let config = VringConfigData {
                queue_max_size: RING,
                queue_size: RING,
                flags: 0,
                desc_table_addr: BASE + at,
                used_ring_addr: BASE + at + USED,
                avail_ring_addr: BASE + at + AVAIL,
                log_addr: None,
            };
            frontend.set_vring_addr(queue, &config).unwrap();
            frontend.set_vring_call(queue, &call).unwrap();
            frontend.set_vring_kick(queue, &kick).unwrap();
            pod.queues.push(Ring { at, position: 0, taken: 0, kick, _call: call });
            if queue % 2 == 0 {
                (0..RING).for_each(|_| pod.offer(queue, BUFFER, WRITE));
            }
        }
        for queue in 0..2 * pairs {
            pod._frontend.set_vring_enable(queue, true).unwrap();
        }
        pod
    }

    fn put<T: ByteValued>(&self, at: u64, value: T) {
        self.map.write_obj(value, GuestAddress(at)).unwrap();
    }

    fn get<T: ByteValued>(&self, at: u64) -> T {
        self.map.read_obj(GuestAddress(at)).unwrap()
    }

    fn buffer(&self, queue: usize, position: u16) -> u64 {
        self.queues[queue].at + BUFFERS + u64::from(position % RING) * u64::from(BUFFER)
    }

    fn offer(&mut self, queue: usize, len: u32, flags: u16) {
        let Ring { at, position, .. } = self.queues[queue];
        let slot = u64::from(position % RING);
        self.put(at + 16 * slot, self.buffer(queue, position));
        self.put(at + 16 * slot + 8, len);
        self.put(at + 16 * slot + 12, flags);
        self.put(at + AVAIL + 4 + 2 * slot, position % RING);
        fence(Ordering::SeqCst);
        self.queues[queue].position = position.wrapping_add(1);
        self.put(at + AVAIL + 2, position.wrapping_add(1));
    }

    /// Sends a frame with a sequence number to pod `to` on queue pair `pair`.
    pub fn send(&mut self, pair: usize, to: u8, sequence: u64) {
        let queue = 2 * pair + 1;
        let mut frame = [0; (NET_HEADER + FRAME) as usize];
        let bytes = &mut frame[NET_HEADER as usize..];
        bytes[..6].copy_from_slice(&self.gateway);
        bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0, self.number]);
        bytes[12..14].copy_from_slice(&[8, 0]);
        bytes[14..34].copy_from_slice(&ipv4([10, 66, 0, self.number], [10, 66, 0, to]));
        bytes[PAYLOAD] = u8::try_from(pair).unwrap();
        bytes[PAYLOAD + 1..PAYLOAD + 9].copy_from_slice(&sequence.to_le_bytes());
        let at = self.buffer(queue, self.queues[queue].position);
        self.map.write_slice(&frame, GuestAddress(at)).unwrap();
        self.offer(queue, NET_HEADER + FRAME, 0);
        fence(Ordering::SeqCst);
        if self.get::<u16>(self.queues[queue].at + USED) == 0 {
            self.queues[queue].kick.write(1).unwrap();
        }
    }

    /// The queue pair and sequence number of the next frame that came in on queue pair `pair`, or on the first when this
    /// pod has no such pair.
    pub fn receive(&mut self, pair: usize) -> Option<(usize, u64)> {
        let queue = if 2 * pair < self.queues.len() { 2 * pair } else { 0 };
        let Ring { at, taken, .. } = self.queues[queue];
        if self.get::<u16>(at + USED + 2) == taken {
            return None;
        }
        fence(Ordering::SeqCst);
        let frame = self.buffer(queue, taken) + u64::from(NET_HEADER);
        let on: u8 = self.get(frame + PAYLOAD as u64);
        let sequence: u64 = self.get(frame + PAYLOAD as u64 + 1);
        self.queues[queue].taken = taken.wrapping_add(1);
        self.offer(queue, BUFFER, WRITE);
        Some((usize::from(on), sequence))
    }
}

/// An IPv4 header with the right checksum: UDP, what is left of the frame.
fn ipv4(from: [u8; 4], to: [u8; 4]) -> [u8; 20] {
    let mut header = [0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[12..16].copy_from_slice(&from);
    header[16..].copy_from_slice(&to);
    let words = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum = words.sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    let [.., high, low] = (!((folded & 0xffff) + (folded >> 16))).to_be_bytes();
    (header[10], header[11]) = (high, low);
    header
}
