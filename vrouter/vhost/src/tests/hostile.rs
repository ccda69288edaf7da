//! Two pods that write whatever they like into their rings, before and while a worker moves packets between them.
//!
//! Outside of the memory that a pod shares nobody may read or write ([`super::fence`] ends the test otherwise), and in it
//! nothing is written but what the pod offered for that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bolero::TypeGenerator;

use super::fence::Fenced;
use crate::offload::Offloads;
use crate::queue::{
    Activation, BURST, HEAD_BYTES, Headed, PlainBurst, Queue, RingFormat, RxLease, RxScratch,
    TxBurst,
};
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
/// Bytes of a buffer that is as it should be.
const BUFFER: u32 = 0x100;
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
    in_order: bool,
    modern: bool,
    mergeable: bool,
    offloads: bool,
    /// Its ring is full of good buffers before it writes there: nearly all of its frames are plain then.
    tidy: bool,
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

    /// Where in a packed ring it starts.
    fn start(&self) -> u16 {
        self.start & (self.size() - 1)
    }

    fn layout(&self) -> Layout {
        let base = self.start() | (self.start & 1 << 15);
        let in_order = self.in_order;
        if self.packed { Layout::Packed { base, in_order } } else { Layout::Split }
    }

    /// Where its good buffers lie; they touch, and reach from one region into the next.
    fn buffers(&self) -> impl Iterator<Item = (u64, u64)> {
        let most = if self.tidy { u64::from(self.size()) } else { 0 };
        (0..most).map(|n| (n, 0x7000 + u64::from(BUFFER) * n))
    }

    fn memory(&self, direction: Direction) -> Fenced {
        let guest = Fenced::new(&REGIONS);
        let write = if direction == Direction::ToGuest { WRITE } else { 0 };
        for (n, addr) in self.buffers() {
            let (index, behind) = (u16::try_from(n).unwrap(), n < u64::from(self.start()));
            // Those before the start are offered in the next lap.
            let lap = if (self.start & 1 << 15 != 0) != behind { LAP[0] } else { LAP[1] };
            let tail = if self.packed { [index, write | lap] } else { [write, 0] };
            guest.descriptor(DESC + 16 * n, addr, BUFFER, tail);
            if direction == Direction::FromGuest {
                // Their fields differ from one frame to the next, and some want more than a line of the head.
                let bytes: Vec<u8> =
                    (n..n + u64::from(BUFFER)).map(|b| b.to_le_bytes()[0]).collect();
                guest.write(addr, &bytes);
            }
        }
        for entry in &self.first {
            entry.put(&guest, self.packed, self.size());
        }
        guest.write(USED + 2, &self.start.to_le_bytes());
        if !self.packed {
            for (at, head) in (0..).zip(self.heads.iter().cycle().take(usize::from(MOST))) {
                let most = if self.tidy { self.size() } else { 34 };
                guest.write(AVAIL + 4 + 2 * at, &(u16::from(*head) % most).to_le_bytes());
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

    fn activate(&self, guest: &Fenced, queue: &Queue, direction: Direction) {
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
            self.buffers().for_each(|(_, addr)| mark(addr, BUFFER.into()));
        }
        may
    }
}

/// How a worker passes bursts on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Those that are plain in tight loops, as the vRouter does.
    Plain,
    /// Every frame on its own.
    Single,
}

/// Moves packets as a worker does, for as long as it is told to. Returns how many were plain and delivered as such.
fn work(from: &Queue, to: &Queue, rounds: usize, way: Way) -> usize {
    let (mut burst, mut scratch) = (TxBurst::new(), RxScratch::new());
    let mut plain_frames = 0;
    for _ in 0..rounds {
        let Some(mut tx) = from.lease_tx(&mut burst) else { break };
        let frames = tx.fetch();
        let Some(mut rx) = to.lease_rx(&mut scratch) else { break };
        rx.prepare(frames);
        let mut heads = [[0xee; HEAD_BYTES]; BURST];
        let first = match tx.plain().filter(|_| way == Way::Plain) {
            Some(burst) => deliver_plain(&mut rx, burst, frames, &mut heads),
            None => 0,
        };
        plain_frames += first;
        for (i, private) in heads.iter_mut().enumerate().take(frames).skip(first) {
            *private = [0xee; HEAD_BYTES];
            let Ok(head) = tx.head(i, private, enough) else { continue };
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
    plain_frames
}

fn enough(line: &[u8; 64]) -> bool {
    // Of tidy pods, from the twentieth buffer on.
    line[0] & 0x20 == 0
}

fn deliver_plain(
    rx: &mut RxLease<'_>,
    burst: PlainBurst<'_>,
    frames: usize,
    heads: &mut [[u8; HEAD_BYTES]; BURST],
) -> usize {
    let mut copied = [0; BURST];
    for ((frame, head), copied) in burst.frames().zip(heads.iter_mut()).zip(&mut copied) {
        frame.look_ahead(8);
        *copied = frame.head(head, enough);
        assert!(usize::from(*copied) <= HEAD_BYTES && u32::from(*copied) <= frame.bytes());
    }
    let wanted = (0..frames).map(|frame| {
        let head = &heads[frame][..copied[frame].into()];
        Headed { frame, front: &[], head, skip: copied[frame].into(), len: u32::MAX }
    });
    let done = rx.forward_plain(burst, wanted).frames;
    assert!(done <= frames);
    done
}

fn memory(pods: &[Pod; 2]) -> [Fenced; 2] {
    [pods[0].memory(Direction::FromGuest), pods[1].memory(Direction::ToGuest)]
}

fn queues(pods: &[Pod; 2], memory: &[Fenced; 2]) -> [Queue; 2] {
    let queues = [Queue::new(), Queue::new()];
    pods[0].activate(&memory[0], &queues[0], Direction::FromGuest);
    pods[1].activate(&memory[1], &queues[1], Direction::ToGuest);
    queues
}

/// Where two memories differ.
fn differences<'a>(one: &'a [u8], other: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    assert_eq!(one.len(), other.len());
    // Most lines are the same, which is soon said of a whole one.
    let lines = one.chunks(64).zip(other.chunks(64)).enumerate().filter(|(_, (a, b))| a != b);
    lines.flat_map(|(line, (a, b))| {
        let differ = a.iter().zip(b).enumerate().filter(|(_, (a, b))| a != b);
        differ.map(move |(at, _)| 64 * line + at)
    })
}

#[test]
fn nothing_is_written_but_what_was_offered() {
    bolero::check!().with_type::<[Pod; 2]>().for_each(|pods| {
        let memory = memory(pods);
        let before = [0, 1].map(|i| memory[i].read(0, 0x1_0000));
        let queues = queues(pods, &memory);
        work(&queues[0], &queues[1], 3, Way::Plain);
        queues.iter().for_each(|queue| {
            queue.stop(None);
        });
        for (i, direction) in [(0, Direction::FromGuest), (1, Direction::ToGuest)] {
            let (may, after) = (pods[i].writable(direction), memory[i].read(0, 0x1_0000));
            let wrong = differences(&before[i], &after).find(|at| !may[*at]);
            // Buffers that lie over the rings themselves: the worker then follows what it has written.
            let own_table = direction == Direction::ToGuest && pods[i].receives_its_rings();
            assert!(wrong.is_none() || own_table, "{wrong:x?}");
        }
    });
}

#[test]
fn pods_that_change_their_rings_meanwhile() {
    bolero::check!().with_type::<[Pod; 2]>().for_each(|pods| {
        let memory = memory(pods);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for (pod, memory) in pods.iter().zip(&memory) {
                scope.spawn(|| pod.interfere(memory, &stop));
            }
            for _ in 0..8 {
                let queues = queues(pods, &memory);
                work(&queues[0], &queues[1], 8, Way::Plain);
                queues.iter().for_each(|queue| {
                    queue.stop(None);
                });
            }
            stop.store(true, Ordering::Relaxed);
        });
    });
}

/// A pod whose ring is full of good buffers, or empty.
fn pod(packed: bool, tidy: bool) -> Pod {
    Pod {
        packed,
        in_order: false,
        modern: true,
        mergeable: false,
        offloads: false,
        tidy,
        size: 3,
        index: 8,
        start: if packed { 1 << 15 } else { 0 },
        heads: [0, 1, 2, 3, 4, 5, 6, 7],
        first: Vec::new(),
        later: Vec::new(),
    }
}

/// What both pods' memory is like after a few bursts.
fn after(pods: &[Pod; 2], way: Way) -> ([Vec<u8>; 2], usize) {
    let memory = memory(pods);
    let queues = queues(pods, &memory);
    let plain = work(&queues[0], &queues[1], 3, way);
    queues.iter().for_each(|queue| {
        queue.stop(None);
    });
    (memory.map(|guest| guest.read(0, 0x1_0000)), plain)
}

#[test]
fn plain_bursts_end_as_single_frames_do() {
    bolero::check!().with_type::<[Pod; 2]>().for_each(|pods| {
        // Who has frames written over its rings sees when that happens.
        if pods[1].receives_its_rings() {
            return;
        }
        let (bursts, single) = (after(pods, Way::Plain).0, after(pods, Way::Single).0);
        for (i, (bursts, single)) in bursts.iter().zip(&single).enumerate() {
            assert_eq!(differences(bursts, single).next(), None, "memory of pod {i}");
        }
    });
}

#[test]
fn plain_bursts_are_plain_in_both_layouts() {
    for (sends, receives) in [(false, false), (false, true), (true, false), (true, true)] {
        let pods = [pod(sends, true), pod(receives, true)];
        let (bursts, plain) = after(&pods, Way::Plain);
        assert_eq!(plain, 8, "packed: {sends}, {receives}");
        assert!(bursts == after(&pods, Way::Single).0, "packed: {sends}, {receives}");
    }
}

#[test]
fn a_buffer_too_small_stops_a_plain_burst_there() {
    for mergeable in [false, true] {
        for packed in [false, true] {
            let mut pods = [pod(false, true), pod(packed, true)];
            // The third buffer, whose place and id stay.
            let lap = if packed { LAP[0] } else { 0 };
            let tail = if packed { [2, WRITE | lap] } else { [WRITE, 0] };
            pods[1].mergeable = mergeable;
            let memory = memory(&pods);
            memory[1].descriptor(DESC + 32, 0x5000, 64, tail);
            let queues = queues(&pods, &memory);
            assert_eq!(work(&queues[0], &queues[1], 1, Way::Plain), 2, "{packed}");
            queues.iter().for_each(|queue| {
                queue.stop(None);
            });
            // The third frame takes two buffers where that is agreed; otherwise no frame gets past the small one.
            let used = if mergeable { 8 } else { 2 };
            if packed {
                let flags = |n: u64| memory[1].read(DESC + 16 * n + 14, 2);
                let done = (0..8).filter(|n| flags(*n) == [1 << 7 | 2, 1 << 7]).count();
                assert_eq!(done, used);
            } else {
                assert_eq!(memory[1].read(USED + 2, 2), [u8::try_from(used).unwrap(), 0]);
            }
        }
    }
}

#[test]
fn the_last_byte_of_a_receive_buffer_counts() {
    for (room, delivered) in [(71, 0), (72, 1), (73, 1)] {
        for way in [Way::Plain, Way::Single] {
            let mut pods = [pod(false, false), pod(false, false)];
            pods.iter_mut().for_each(|pod| pod.index = 1);
            let memory = memory(&pods);
            memory[0].descriptor(DESC, 0x5000, 72, [0, 0]);
            // The end of the first region, which rings look at first.
            memory[1].descriptor(DESC, 0x8000 - u64::from(room), room, [WRITE, 0]);
            let queues = queues(&pods, &memory);
            work(&queues[0], &queues[1], 1, way);
            assert_eq!(memory[1].read(USED + 2, 2), [delivered, 0], "{room} bytes");
            if delivered == 1 {
                assert_eq!(memory[1].read(USED + 8, 4), [72, 0, 0, 0]);
            }
        }
    }
}
