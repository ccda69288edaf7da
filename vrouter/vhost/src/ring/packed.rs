//! The packed virtqueue (virtio 1.2, section 2.8).

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::chain::{
    Chain, ChainFault, Chains, DESC_BYTES, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor,
    Direction, SIMPLE_BYTES,
};
use super::{MAX_QUEUE_SIZE, RingAddresses, RingError};
use crate::memory::{GuestMemory, Mapped, Segment, load_index, store_index};

const DESC_F_AVAIL: u16 = 1 << 7;
const DESC_F_USED: u16 = 1 << 15;
/// SET_VRING_BASE and GET_VRING_BASE: the wrap counter beside the index.
const WRAP: u16 = 1 << 15;
const EVENT_ENABLE: u16 = 0;
const EVENT_DISABLE: u16 = 1;
/// `len` and `id` come before the flags in a descriptor.
const LEN_AT: usize = 8;
const ID_AT: usize = 12;
const FLAGS_AT: usize = 14;

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

    /// Whether a descriptor with these flags at this place is the guest's offer (2.8.1).
    #[inline(always)]
    fn is_offered(self, flags: u16) -> bool {
        let (available, used) = (flags & DESC_F_AVAIL != 0, flags & DESC_F_USED != 0);
        available == self.wrap && used != self.wrap
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
    /// Next descriptor to write as used. The one at `held`, if any, is written with its flags kept back.
    used: Cursor,
    /// The first used descriptor that the guest does not see yet, with its flags.
    held: Option<(u16, u16)>,
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
        let (simple, size, region) = (self.direction.simple(), self.size, self.memory.recent());
        let mut next = self.next;
        let mut taken = 0;
        for place in out.places(n) {
            // Read on their own and first: only an offer's other fields mean anything.
            let flags = self.flags(next.at, Ordering::Acquire);
            if !next.is_offered(flags)
                || flags & (DESC_F_NEXT | DESC_F_WRITE | DESC_F_INDIRECT) != simple
            {
                break;
            }
            // SAFETY: a descriptor of the ring, mapped as long as `memory` lives.
            let d = unsafe { Descriptor::read(self.place(next.at)) };
            let Some(segment) = region.segment(d.addr, d.len) else { break };
            if d.len < SIMPLE_BYTES {
                break;
            }
            let [id, _] = d.tail;
            hint(segment);
            *place = Chain::simple(id, segment);
            next.advance(1, size);
            taken += 1;
        }
        self.next = next;
        out.fill(taken);
        taken
    }

    /// Takes the next chain, whatever it is; `false` if none is there.
    #[inline(never)]
    fn take_any(&mut self, out: &mut Chains) -> Result<bool, RingError> {
        let flags = self.flags(self.next.at, Ordering::Acquire);
        if !self.next.is_offered(flags) {
            return Ok(false);
        }
        // SAFETY: a descriptor of the ring, mapped as long as `memory` lives.
        let d = unsafe { Descriptor::read(self.place(self.next.at)) };
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
            d = unsafe { Descriptor::read(place) };
            flags = d.tail[1];
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
        let place = self.place(self.used.at);
        // SAFETY: inside the descriptor's 16 bytes.
        let len = unsafe { place.add(LEN_AT) }.cast::<u32>();
        // SAFETY: aligned, and mapped as long as `memory` lives.
        unsafe { len.write_volatile(written.to_le()) };
        // SAFETY: inside the descriptor's 16 bytes.
        let id = unsafe { place.add(ID_AT) };
        // SAFETY: aligned, and mapped as long as `memory` lives.
        unsafe { store_index(id.cast(), chain.id, Ordering::Relaxed) };
        let lap = if self.used.wrap { DESC_F_AVAIL | DESC_F_USED } else { 0 };
        let flags = lap | if written > 0 { DESC_F_WRITE } else { 0 };
        if self.held.is_none() {
            // The guest stops at the first that is not used, so keeping this one back hides them all.
            self.held = Some((self.used.at, flags));
        } else {
            self.set_flags(self.used.at, flags);
        }
        self.used.advance(chain.slots, self.size);
    }

    /// `len` and `id` must be visible before.
    #[inline(always)]
    fn set_flags(&self, at: u16, flags: u16) {
        // SAFETY: inside the descriptor's 16 bytes.
        let place = unsafe { self.place(at).add(FLAGS_AT) };
        // SAFETY: aligned, and mapped as long as `memory` lives.
        unsafe { store_index(place.cast(), flags, Ordering::Release) };
    }

    #[inline]
    pub(super) fn publish(&mut self) -> bool {
        let Some((at, flags)) = self.held.take() else { return false };
        self.set_flags(at, flags);
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
