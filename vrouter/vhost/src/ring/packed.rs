//! The packed virtqueue (virtio 1.2, section 2.8).

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::chain::{
    Chain, ChainFault, Chains, DESC_BYTES, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor,
    Direction, SIMPLE_BYTES,
};
use super::{MAX_QUEUE_SIZE, RingAddresses, RingError};
use crate::memory::{
    GuestMemory, Mapped, Segment, load_half, load_index, prefetch, prefetch_for_write, store_half,
    store_index,
};

const DESC_F_AVAIL: u16 = 1 << 7;
const DESC_F_USED: u16 = 1 << 15;
/// SET_VRING_BASE and GET_VRING_BASE: the wrap counter beside the index.
const WRAP: u16 = 1 << 15;
const EVENT_ENABLE: u16 = 0;
const EVENT_DISABLE: u16 = 1;
/// What of a descriptor's flags makes it an offer.
const LAP: u16 = DESC_F_AVAIL | DESC_F_USED;
/// Of the descriptor's second half, `len`, `id` and `flags`.
const HALF_AT: usize = 8;
const FLAGS_AT: usize = 14;

/// Descriptors that are fetched ahead: a worker's burst.
const STRIDE: u16 = 32;
/// Descriptors of a cache line.
const DESC_PER_LINE: u16 = 4;

/// A place in the ring and the lap it is reached in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    at: u16,
    wrap: bool,
}

impl Cursor {
    #[inline(always)]
    fn advance(&mut self, n: u16, size: u16) {
        self.at += n;
        if self.at >= size {
            self.at -= size;
            self.wrap = !self.wrap;
        }
    }

    #[inline]
    fn retreat(&mut self, n: u16, size: u16) {
        if self.at < n {
            self.at += size;
            self.wrap = !self.wrap;
        }
        self.at -= n;
    }

    /// The place so many descriptors further; at most one lap.
    #[inline(always)]
    fn ahead(mut self, n: u16, size: u16) -> Self {
        self.advance(n, size);
        self
    }

    /// How the guest offers a descriptor at this place (2.8.1).
    #[inline(always)]
    fn offer(self) -> u16 {
        if self.wrap { DESC_F_AVAIL } else { DESC_F_USED }
    }

    /// Whether a descriptor with these flags at this place is the guest's offer.
    #[inline(always)]
    fn is_offered(self, flags: u16) -> bool {
        flags & LAP == self.offer()
    }

    /// The second half of a descriptor that is given back at this place.
    #[inline(always)]
    fn used(self, id: u16, written: u32) -> u64 {
        let lap = if self.wrap { LAP } else { 0 };
        let flags = lap | if written > 0 { DESC_F_WRITE } else { 0 };
        u64::from(written) | u64::from(id) << 32 | u64::from(flags) << 48
    }
}

/// See [`super::Ring`] for what the methods do.
pub(crate) struct PackedRing {
    desc: *mut u8,
    driver_event: *const u16,
    device_event: *mut u16,
    size: u16,
    direction: Direction,
    /// Next descriptor to take.
    next: Cursor,
    /// Used buffers come back in the order of their offer, so that one descriptor stands for several.
    in_order: bool,
    /// Next descriptor to write as used.
    used: Cursor,
    /// The first used descriptor, which is not written yet: its place and its second half. The guest stops at the first
    /// that is not used, so keeping this one back hides all that come behind it.
    held: Option<(u16, u64)>,
    memory: Mapped,
}

// SAFETY: the pointers point into the mapping that `memory` keeps alive; it may be used from any thread, and
// `&mut self` on everything that changes the ring keeps it to one thread at a time.
unsafe impl Send for PackedRing {}

impl PackedRing {
    /// Position: `base` for both cursors, as everything taken is given back before a session ends.
    pub(super) fn new(
        memory: Arc<GuestMemory>,
        at: RingAddresses,
        base: u16,
        in_order: bool,
        direction: Direction,
    ) -> Result<Self, RingError> {
        let size = at.size;
        // The standard allows other sizes; no frontend uses them, and indirect tables stay as bounded as in a
        // split ring.
        if !size.is_power_of_two() || size > MAX_QUEUE_SIZE {
            return Err(RingError::Size(size));
        }
        let start = Cursor { at: base & !WRAP, wrap: base & WRAP != 0 };
        if start.at >= size {
            return Err(RingError::Position(start.at));
        }
        let ring = |part, gpa, len, align| {
            memory
                .resolve_ring(gpa, len, align)
                .map_err(|outside| RingError::Address { part, outside })
        };
        let desc = ring("descriptor ring", at.desc, DESC_BYTES * usize::from(size), 16)?;
        let driver_event = ring("driver event suppression", at.avail, 4, 4)?.cast();
        let device_event = ring("device event suppression", at.used, 4, 4)?.cast();
        Ok(Self {
            desc,
            driver_event,
            device_event,
            size,
            direction,
            in_order,
            next: start,
            used: start,
            held: None,
            memory: Mapped::new(memory),
        })
    }

    pub(super) fn position(&self) -> u16 {
        self.next.at | if self.next.wrap { WRAP } else { 0 }
    }

    pub(super) fn size(&self) -> u16 {
        self.size
    }

    /// Where descriptor `at` is. `at` must be below the ring's size, which every cursor is.
    #[inline(always)]
    fn place(&self, at: u16) -> *mut u8 {
        let at = usize::from(at & (self.size - 1));
        // SAFETY: `at` is below `size`, and the ring holds `size` descriptors (checked in `new`).
        unsafe { self.desc.add(at * DESC_BYTES) }
    }

    #[inline(always)]
    fn flags(&self, at: u16, order: Ordering) -> u16 {
        // SAFETY: the flags are the last 2 of a descriptor's 16 bytes.
        let flags = unsafe { self.place(at).add(FLAGS_AT) };
        // SAFETY: descriptors are 16-byte aligned, and mapped as long as `memory` lives.
        unsafe { load_index(flags.cast(), order) }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.next.is_offered(self.flags(self.next.at, Ordering::Acquire))
    }

    pub(super) fn has_waiting(&self, n: u16) -> bool {
        let mut last = self.next;
        last.advance(n.clamp(1, self.size) - 1, self.size);
        last.is_offered(self.flags(last.at, Ordering::Acquire))
    }

    #[inline(always)]
    pub(super) fn take(
        &mut self,
        most: usize,
        out: &mut Chains,
        hint: impl Fn(Segment),
    ) -> Result<usize, RingError> {
        let most = most.min(out.room());
        let mut taken = 0;
        loop {
            taken += self.take_simple(most - taken, out, &hint);
            if taken == most || !self.take_any(out)? {
                return Ok(taken);
            }
            taken += 1;
        }
    }

    /// Takes up to `n` chains, until one is not there or not simple; returns how many. See the split ring's.
    #[inline(always)]
    fn take_simple(&mut self, n: usize, out: &mut Chains, hint: &impl Fn(Segment)) -> usize {
        const KNOWN: u16 = LAP | DESC_F_NEXT | DESC_F_WRITE | DESC_F_INDIRECT;
        let (simple, size, region) = (self.direction.simple(), self.size, self.memory.recent());
        let mut next = self.next;
        let mut taken = 0;
        let mut places = out.places(n).iter_mut();
        // To the end of the lap; in a next one offers look different.
        while next.at < size && places.len() > 0 {
            let wanted = next.offer() | simple;
            let mut run = 0;
            for place in places.by_ref().take(usize::from(size - next.at)) {
                // SAFETY: a descriptor of the ring, mapped as long as `memory` lives.
                let (flags, d) = unsafe { read(self.place(next.at + run)) };
                let segment = region.segment(d.addr, d.len);
                let (true, Some(segment)) = (flags & KNOWN == wanted, segment) else { break };
                if d.len < SIMPLE_BYTES {
                    break;
                }
                let [id, _] = d.tail;
                hint(segment);
                *place = Chain::simple(id, segment);
                run += 1;
            }
            taken += usize::from(run);
            let whole = run == size - next.at;
            next.advance(run, size);
            if !whole {
                break;
            }
        }
        self.next = next;
        out.fill(taken);
        taken
    }

    /// What is fetched ahead is not what the guest may be writing just now: that would take the line away from it. A
    /// packed ring has no index that says how far it is; a descriptor further on does, which was itself fetched one
    /// burst before.
    #[inline(always)]
    pub(super) fn look_ahead(&self) {
        let size = self.size;
        if size < 4 * STRIDE {
            return;
        }
        let probe = self.next.ahead(2 * STRIDE - 1, size);
        if probe.is_offered(self.flags(probe.at, Ordering::Relaxed)) {
            // Lines are written, too, unless one descriptor is given back for all of a burst.
            let written = self.direction == Direction::ToGuest || !self.in_order;
            for ahead in (0..=STRIDE).step_by(usize::from(DESC_PER_LINE)) {
                let line = self.place(self.next.at.wrapping_add(ahead));
                if written { prefetch_for_write(line) } else { prefetch(line) }
            }
        }
        prefetch(self.place(probe.ahead(STRIDE, size).at));
    }

    /// Takes the next chain, whatever it is; `false` if none is there.
    #[inline(never)]
    fn take_any(&mut self, out: &mut Chains) -> Result<bool, RingError> {
        // SAFETY: a descriptor of the ring, mapped as long as `memory` lives.
        let (flags, d) = unsafe { read(self.place(self.next.at)) };
        if !self.next.is_offered(flags) {
            return Ok(false);
        }
        self.walk(flags, d, out)?;
        Ok(true)
    }

    /// Follows a chain whose first descriptor was read already.
    fn walk(&mut self, flags: u16, first: Descriptor, out: &mut Chains) -> Result<(), RingError> {
        let start = self.next;
        let (mut d, mut flags, mut slots) = (first, flags, 1);
        let (desc, size) = (self.desc, self.size);
        let mut walk = out.walk(&mut self.memory, self.direction);
        loop {
            if flags & DESC_F_INDIRECT != 0 {
                // 2.8.8: one table is the whole chain.
                if slots > 1 || flags & DESC_F_NEXT != 0 {
                    walk.fail(ChainFault::Bad);
                } else if let Some((table, entries)) = walk.table(d.addr, d.len, size) {
                    for entry in 0..usize::from(entries) {
                        // SAFETY: `entry` is below the number of descriptors that were found mapped at `table`.
                        let at = unsafe { table.add(entry * DESC_BYTES) };
                        // SAFETY: as above; mapped as long as `memory` lives.
                        let inner = unsafe { Descriptor::read(at) };
                        walk.buffer(inner.addr, inner.len, inner.tail[1]);
                        if walk.failed() {
                            break;
                        }
                    }
                }
            } else {
                walk.buffer(d.addr, d.len, flags);
            }
            // Also after a fault: the guest gets back all places of the chain, whose id stands in the last.
            if flags & DESC_F_NEXT == 0 {
                break;
            }
            if slots == size {
                return Err(RingError::Endless);
            }
            let at = usize::from((start.at + slots) & (size - 1));
            // SAFETY: `at` is below `size`, and the ring holds `size` descriptors (checked in `new`).
            let place = unsafe { desc.add(at * DESC_BYTES) };
            // SAFETY: as above; mapped as long as `memory` lives.
            (flags, d) = unsafe { read(place) };
            slots += 1;
        }
        let [id, _] = d.tail;
        walk.end(id, slots);
        self.next.advance(slots, size);
        Ok(())
    }

    #[inline]
    pub(super) fn put_back(&mut self, chains: &[Chain]) {
        for chain in chains {
            self.next.retreat(chain.slots, self.size);
        }
    }

    #[inline(always)]
    pub(super) fn complete(&mut self, chain: &Chain, written: u32) {
        self.give_back(std::iter::once((chain, written)));
    }

    #[inline(always)]
    pub(super) fn complete_written(&mut self, chains: &[Chain], written: &[u32]) {
        self.give_back(chains.iter().zip(written.iter().copied()));
    }

    #[inline(always)]
    pub(super) fn complete_read(&mut self, chains: &[Chain]) {
        if !self.in_order {
            return self.give_back(chains.iter().map(|chain| (chain, 0)));
        }
        // 2.8.8: one used descriptor, at the place of the first and with the id of the last, gives all of them back.
        // Not for what was written, as it has one length only.
        let Some(last) = chains.last() else { return };
        self.write_used(self.used, self.used.used(last.id, 0));
        for chain in chains {
            // One by one: a guest can make them have more places together than there are in a lap.
            self.used.advance(chain.slots, self.size);
        }
    }

    /// Gives back chains with the bytes written to each. What it needs of the ring is in locals, as in
    /// [`Self::take_simple`].
    #[inline(always)]
    fn give_back<'c>(&mut self, mut chains: impl Iterator<Item = (&'c Chain, u32)>) {
        let Some((first, written)) = chains.next() else { return };
        let (mut used, size) = (self.used, self.size);
        self.write_used(used, used.used(first.id, written));
        used.advance(first.slots, size);
        for (chain, written) in chains {
            self.set_half(used.at, used.used(chain.id, written), Ordering::Relaxed);
            used.advance(chain.slots, size);
        }
        self.used = used;
    }

    /// Writes a used descriptor, or keeps it back if it is the first.
    #[inline(always)]
    fn write_used(&mut self, at: Cursor, half: u64) {
        if self.held.is_none() {
            self.held = Some((at.at, half));
        } else {
            self.set_half(at.at, half, Ordering::Relaxed);
        }
    }

    #[inline(always)]
    fn set_half(&self, at: u16, half: u64, order: Ordering) {
        // SAFETY: inside the descriptor's 16 bytes.
        let place = unsafe { self.place(at).add(HALF_AT) };
        // SAFETY: 8-byte aligned, as descriptors are to 16, and mapped as long as `memory` lives.
        unsafe { store_half(place.cast(), half, order) };
    }

    /// One store after all others lets the guest see them all.
    #[inline]
    pub(super) fn publish(&mut self) -> bool {
        let Some((at, half)) = self.held.take() else { return false };
        self.set_half(at, half, Ordering::Release);
        true
    }

    /// 2.8.10, without EVENT_IDX.
    #[inline]
    pub(super) fn wants_interrupt(&self) -> bool {
        // What was used must be visible before the flag is read, or both sides may wait for ever.
        fence(Ordering::SeqCst);
        // SAFETY: the structure has 2 u16s, of which the second has the flags.
        let flags = unsafe { self.driver_event.add(1) };
        // SAFETY: aligned, and mapped as long as `memory` lives.
        unsafe { load_index(flags, Ordering::Relaxed) & 3 != EVENT_DISABLE }
    }

    pub(super) fn set_notify(&self, wanted: bool) {
        // SAFETY: the structure has 2 u16s, of which the second has the flags.
        let flags = unsafe { self.device_event.add(1) };
        let value = if wanted { EVENT_ENABLE } else { EVENT_DISABLE };
        // SAFETY: aligned, and mapped as long as `memory` lives.
        unsafe { store_index(flags, value, Ordering::Relaxed) };
        fence(Ordering::SeqCst);
    }
}

/// Reads a descriptor, each byte of it once, and its flags. The half with the flags comes first and in one piece: only an
/// offer's other fields mean anything, and the guest writes its flags last.
///
/// # Safety
/// `place` must be aligned to 16 bytes, of which all are mapped.
#[inline(always)]
unsafe fn read(place: *const u8) -> (u16, Descriptor) {
    // SAFETY: inside the descriptor's 16 bytes.
    let half = unsafe { place.add(HALF_AT) };
    // SAFETY: aligned and mapped by contract.
    let half = unsafe { load_half(half.cast(), Ordering::Acquire) };
    // SAFETY: as above.
    let addr = unsafe { load_half(place.cast(), Ordering::Relaxed) };
    let [l0, l1, l2, l3, i0, i1, f0, f1] = half.to_le_bytes();
    let (id, flags) = (u16::from_le_bytes([i0, i1]), u16::from_le_bytes([f0, f1]));
    let len = u32::from_le_bytes([l0, l1, l2, l3]);
    (flags, Descriptor { addr, len, tail: [id, flags] })
}
