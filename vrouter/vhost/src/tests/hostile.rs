//! Two pods that write whatever they like into their rings, before and while a worker moves packets between them.
//!
//! Outside of the memory that a pod shares nobody may read or write ([`super::fence`] ends the test otherwise), and in it
//! nothing is written but what the pod offered for that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bolero::TypeGenerator;

use super::fence::Fenced;
use crate::offload::Offloads;
use crate::queue::{Activation, HEAD_BYTES, Queue, RingFormat, RxScratch, TxBurst};
use crate::ring::{Direction, Layout, RingAddresses};

const DESC: u64 = 0x1000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;
const TABLE: u64 = 0x4000;
/// Two regions that touch, one that lies alone.
const REGIONS: [(u64, usize); 3] = [(0, 0x8000), (0x8000, 0x8000), (0x2_0000, 0x1000)];
/// Largest ring here, and entries of the indirect table.
const MOST: u16 = 32;

const WRITE: u16 = 2;
const LAP: [u16; 4] = [1 << 7, 1 << 15, 0, 1 << 7 | 1 << 15];

/// A descriptor somewhere, of values that are near to what matters.
#[derive(Clone, Copy, Debug, TypeGenerator)]
struct Entry {
    place: u8,
    addr: u8,
    offset: u8,
    len: u8,
    flags: u8,
    next: u8,
}

impl Entry {
    fn addr(self) -> u64 {
        let base = match self.addr % 16 {
            0..=5 => 0x5000 + 0x800 * u64::from(self.addr % 6),
            6..=8 => TABLE,
            // So that it ends at the end of a region, or a byte before or behind.
            9..=11 => {
                let end = [0x8000, 0x1_0000, 0x2_1000_u64][usize::from(self.addr % 16) - 9];
                let end = end + u64::from(self.offset % 3);
                return end.wrapping_sub(1 + u64::from(self.len()));
            }
            12 => [DESC, AVAIL, USED][usize::from(self.addr / 16) % 3],
            13 => 0x2_0000,
            14 => 0_u64.wrapping_sub(32),
            _ => return u64::from(self.offset) << 56 | u64::from(self.len),
        };
        base.wrapping_add(u64::from(self.offset % 64))
    }

    fn len(self) -> u32 {
        const LENGTHS: [u32; 24] = [
            0,
            1,
            9,
            10,
            11,
            12,
            13,
            16,
            32,
            48,
            64,
            72,
            76,
            128,
            140,
            512,
            1526,
            2048,
            4096,
            0x8000,
            0x1_0000,
            0x1_0001,
            0x7fff_ffff,
            u32::MAX,
        ];
        LENGTHS[usize::from(self.len) % LENGTHS.len()]
    }

    /// Flags without those of a packed ring's laps.
    fn flags(self) -> u16 {
        // Mostly one buffer of the wrong or the right direction.
        [0, WRITE, 0, WRITE, 1, 3, 4, 5, 6, 7, 1, 3, 0, WRITE, 8, 0x7f78]
            [usize::from(self.flags % 16)]
    }

    fn put(self, guest: &Fenced, packed: bool, size: u16) {
        let index = u64::from(self.place % 32);
        let at = if self.place & 0x40 != 0 {
            TABLE + 16 * index
        } else {
            DESC + 16 * (index % u64::from(size))
        };
        let next = u16::from(self.next % 36);
        let lap = if packed { LAP[usize::from(self.flags >> 4) % 4] } else { 0 };
        let flags = self.flags() | lap;
        let tail = if packed { [next, flags] } else { [flags, next] };
        guest.descriptor(at, self.addr(), self.len(), tail);
    }
}

/// What one pod does.
#[derive(Clone, Debug, TypeGenerator)]
struct Pod {
    packed: bool,
    modern: bool,
    mergeable: bool,
    offloads: bool,
    size: u8,
    index: u16,
    start: u16,
    heads: [u8; 8],
    first: Vec<Entry>,
    later: Vec<Entry>,
}

impl Pod {
    fn size(&self) -> u16 {
        1 << (self.size % 6)
    }

    fn layout(&self) -> Layout {
        let base = (self.start & (self.size() - 1)) | (self.start & 1 << 15);
        if self.packed { Layout::Packed { base } } else { Layout::Split }
    }

    fn memory(&self) -> Fenced {
        let guest = Fenced::new(&REGIONS);
        for entry in &self.first {
            entry.put(&guest, self.packed, self.size());
        }
        guest.write(USED + 2, &self.start.to_le_bytes());
        if !self.packed {
            for (at, head) in (0..).zip(self.heads.iter().cycle().take(usize::from(MOST))) {
                guest.write(AVAIL + 4 + 2 * at, &u16::from(head % 34).to_le_bytes());
            }
            self.offer(&guest, self.index);
        }
        guest
    }

    /// Mostly not more than there are.
    fn offer(&self, guest: &Fenced, index: u16) {
        let ahead = if index.is_multiple_of(16) { index } else { index % (self.size() + 1) };
        guest.write(AVAIL + 2, &self.start.wrapping_add(ahead).to_le_bytes());
    }

    fn start(&self, guest: &Fenced, queue: &Queue, direction: Direction) {
        let on = self.offloads;
        let header = if self.modern || self.mergeable { 12 } else { 10 };
        let started = queue.start(Activation {
            memory: guest.memory(),
            addresses: RingAddresses { desc: DESC, avail: AVAIL, used: USED, size: self.size() },
            layout: self.layout(),
            direction,
            format: RingFormat {
                header,
                mergeable: self.mergeable,
                offloads: Offloads { checksum: on, tcp4: on, tcp6: on },
            },
            call: None,
        });
        assert_eq!(started, Ok(()));
    }

    /// Does as it likes until it is told to stop.
    fn interfere(&self, guest: &Fenced, stop: &AtomicBool) {
        for (n, entry) in (0..=u16::MAX).cycle().zip(self.later.iter().cycle()) {
            entry.put(guest, self.packed, self.size());
            if !self.packed {
                self.offer(guest, n);
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
    }

    fn receives_its_rings(&self) -> bool {
        self.first.iter().any(|entry| {
            let (addr, end) = (entry.addr(), entry.addr().saturating_add(entry.len().into()));
            entry.flags() & WRITE != 0 && addr < 0x5000 && end > DESC
        })
    }

    /// Which bytes of its first region the worker may change, if nothing changes meanwhile.
    fn writable(&self, direction: Direction) -> Vec<bool> {
        let mut may = vec![false; 0x1_0000];
        let mut mark = |from: u64, len: u64| {
            let limit = |at: u64| usize::try_from(at.min(0x1_0000)).unwrap();
            may[limit(from)..limit(from.saturating_add(len))].fill(true);
        };
        let size = u64::from(self.size());
        if self.packed {
            mark(DESC, 16 * size);
            mark(USED, 4);
        } else {
            mark(USED, 4 + 8 * size);
        }
        if direction == Direction::ToGuest {
            let buffers = self.first.iter().filter(|entry| entry.flags() & WRITE != 0);
            buffers.for_each(|entry| mark(entry.addr(), entry.len().into()));
        }
        may
    }
}

/// Moves packets as a worker does, for as long as it is told to.
fn work(from: &Queue, to: &Queue, rounds: usize) {
    let (mut burst, mut scratch) = (TxBurst::new(), RxScratch::new());
    for _ in 0..rounds {
        let Some(mut tx) = from.lease_tx(&mut burst) else { return };
        let frames = tx.fetch();
        let Some(mut rx) = to.lease_rx(&mut scratch) else { return };
        rx.prepare(frames);
        for i in 0..frames {
            let mut private = [0xee; HEAD_BYTES];
            let Ok(head) = tx.head(i, &mut private, |line| line[0] & 1 == 0) else { continue };
            let copied = usize::from(head.copied);
            assert!(copied <= HEAD_BYTES && copied <= head.frame_len as usize);
            let body = tx.body(i, u32::from(head.copied));
            assert_eq!(body.len() + copied, head.frame_len as usize);
            let mut whole = vec![0; body.len().min(0x4000)];
            assert_eq!(body.read(&mut whole), whole.len());
            let _ = rx.forward(&tx, i, &private[..copied], &head.offload);
        }
        drop(rx);
        tx.arm();
        tx.disarm();
    }
}

fn queues(pods: &[Pod; 2], memory: &[Fenced; 2]) -> [Queue; 2] {
    let queues = [Queue::new(), Queue::new()];
    pods[0].start(&memory[0], &queues[0], Direction::FromGuest);
    pods[1].start(&memory[1], &queues[1], Direction::ToGuest);
    queues
}

#[test]
fn nothing_is_written_but_what_was_offered() {
    bolero::check!().with_type::<[Pod; 2]>().for_each(|pods| {
        let memory = [pods[0].memory(), pods[1].memory()];
        let before = [0, 1].map(|i| memory[i].read(0, 0x1_0000));
        let queues = queues(pods, &memory);
        work(&queues[0], &queues[1], 3);
        queues.iter().for_each(|queue| {
            queue.stop(None);
        });
        for (i, direction) in [(0, Direction::FromGuest), (1, Direction::ToGuest)] {
            let (may, after) = (pods[i].writable(direction), memory[i].read(0, 0x1_0000));
            let wrong = (0..after.len()).find(|at| before[i][*at] != after[*at] && !may[*at]);
            // Buffers that lie over the rings themselves: the worker then follows what it has written.
            let own_table = direction == Direction::ToGuest && pods[i].receives_its_rings();
            assert!(wrong.is_none() || own_table, "{wrong:x?}");
        }
    });
}

#[test]
fn pods_that_change_their_rings_meanwhile() {
    bolero::check!().with_type::<[Pod; 2]>().for_each(|pods| {
        let memory = [pods[0].memory(), pods[1].memory()];
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for (pod, memory) in pods.iter().zip(&memory) {
                scope.spawn(|| pod.interfere(memory, &stop));
            }
            for _ in 0..8 {
                let queues = queues(pods, &memory);
                work(&queues[0], &queues[1], 8);
                queues.iter().for_each(|queue| {
                    queue.stop(None);
                });
            }
            stop.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn the_last_byte_of_a_receive_buffer_counts() {
    let pod = |size, first| Pod {
        packed: false,
        modern: true,
        mergeable: false,
        offloads: false,
        size,
        index: 1,
        start: 0,
        heads: [0; 8],
        first,
        later: Vec::new(),
    };
    for (room, delivered) in [(71, 0), (72, 1), (73, 1)] {
        let pods = [pod(3, Vec::new()), pod(3, Vec::new())];
        let memory = [pods[0].memory(), pods[1].memory()];
        memory[0].descriptor(DESC, 0x5000, 72, [0, 0]);
        memory[1].descriptor(DESC, 0x1_0000 - u64::from(room), room, [WRITE, 0]);
        let queues = queues(&pods, &memory);
        work(&queues[0], &queues[1], 1);
        assert_eq!(memory[1].read(USED + 2, 2), [delivered, 0], "{room} bytes");
        if delivered == 1 {
            assert_eq!(memory[1].read(USED + 8, 4), [72, 0, 0, 0]);
        }
    }
}
