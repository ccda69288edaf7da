//! The split virtqueue (virtio 1.2, section 2.7).

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::chain::{
    Chain, ChainFault, Chains, DESC_BYTES, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor,
    Direction, MAX_CHAIN, SIMPLE_BYTES,
};
use super::{MAX_QUEUE_SIZE, RingAddresses, RingError};
use crate::memory::{
    GuestMemory, Mapped, Segment, load_index, prefetch, prefetch_for_write, store_index,
};

const AVAIL_F_NO_INTERRUPT: u16 = 1;
pub(super) const USED_F_NO_NOTIFY: u16 = 1;

/// Chains whose descriptors are fetched ahead: a worker's burst.
const STRIDE: usize = STRIDE_ENTRIES as usize;
const STRIDE_ENTRIES: u16 = 32;

/// Entries of a cache line.
const DESC_PER_LINE: usize = 4;
const USED_PER_LINE: usize = 8;

/// See [`super::Ring`] for what the methods do.
pub(crate) struct SplitRing {
    desc: *const u8,
    avail: *const u16,
    used: *mut u16,
    size: u16,
    direction: Direction,
    /// Next available entry to take (free-running).
    next: u16,
    /// Available index as last loaded: what the guest has offered for certain.
    offered: u16,
    /// Next used entry to write (free-running); published up to `published`.
    used_next: u16,
    published: u16,
    memory: Mapped,
}

// SAFETY: the pointers point into the mapping that `memory` keeps alive; it may be used from any thread, and
// `&mut self` on everything that changes the ring keeps it to one thread at a time.
unsafe impl Send for SplitRing {}

impl SplitRing {
    /// Position: both indexes start at the used index found in the ring, as frontends that reconnect always say
    /// base 0 (DPDK's virtio-user) and replaying old entries would corrupt them.
    pub(super) fn new(
        memory: Arc<GuestMemory>,
        at: RingAddresses,
        direction: Direction,
    ) -> Result<Self, RingError> {
        let size = at.size;
        if !size.is_power_of_two() || size > MAX_QUEUE_SIZE {
            return Err(RingError::Size(size));
        }
        let entries = usize::from(size);
        let ring = |part, gpa, len, align| {
            memory
                .resolve_ring(gpa, len, align)
                .map_err(|outside| RingError::Address { part, outside })
        };
        let desc = ring("descriptor table", at.desc, DESC_BYTES * entries, 16)?;
        let avail = ring("available ring", at.avail, 6 + 2 * entries, 2)?.cast();
        let used = ring("used ring", at.used, 6 + 8 * entries, 4)?.cast();
        let mut ring = Self {
            desc,
            avail,
            used,
            size,
            direction,
            next: 0,
            offered: 0,
            used_next: 0,
            published: 0,
            memory: Mapped::new(memory),
        };
        let position = ring.used_index();
        (ring.next, ring.offered) = (position, position);
        (ring.used_next, ring.published) = (position, position);
        Ok(ring)
    }

    pub(super) fn position(&self) -> u16 {
        self.next
    }

    pub(super) fn size(&self) -> u16 {
        self.size
    }

    fn used_index(&self) -> u16 {
        // SAFETY: `used` has room for 2 + size*4 u16s (checked in `new`).
        let at = unsafe { self.used.add(1) };
        // SAFETY: aligned and mapped as long as `memory` lives.
        unsafe { load_index(at, Ordering::Acquire) }
    }

    #[inline]
    fn load_available(&self) -> u16 {
        // SAFETY: `avail` has room for 3 + size u16s (checked in `new`).
        let at = unsafe { self.avail.add(1) };
        // SAFETY: aligned and mapped as long as `memory` lives.
        unsafe { load_index(at, Ordering::Acquire) }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.load_available() != self.next
    }

    /// How many chains are waiting; looks at the guest's index only when fewer than `want` are known.
    #[inline(always)]
    fn available(&mut self, want: usize) -> Result<usize, RingError> {
        let known = usize::from(self.offered.wrapping_sub(self.next));
        if known >= want {
            return Ok(known);
        }
        let offered = self.load_available();
        let waiting = offered.wrapping_sub(self.next);
        if waiting > self.size {
            return Err(RingError::AvailableIndex(waiting));
        }
        self.offered = offered;
        Ok(usize::from(waiting))
    }

    #[inline(always)]
    pub(super) fn take(
        &mut self,
        most: usize,
        out: &mut Chains,
        hint: impl Fn(Segment),
    ) -> Result<usize, RingError> {
        let most = most.min(out.room());
        let n = self.available(most)?.min(most);
        let mut left = n;
        loop {
            left -= self.take_simple(left, out, &hint);
            if left == 0 {
                return Ok(n);
            }
            self.take_any(out);
            left -= 1;
        }
    }

    /// Takes up to `n` chains, of those that are there, until one is not simple; returns how many.
    ///
    /// The loop that every packet passes twice: what it needs of the ring is in locals, as the compiler must expect
    /// that writing to guest memory changes the ring's fields.
    #[inline(always)]
    fn take_simple(&mut self, n: usize, out: &mut Chains, hint: &impl Fn(Segment)) -> usize {
        let (simple, size, region) = (self.direction.simple(), self.size, self.memory.recent());
        let mut at = self.next;
        for place in out.places(n) {
            let head = self.head(at);
            if head >= size {
                break;
            }
            // SAFETY: `head` is below `size`, and the table holds `size` descriptors (checked in `new`).
            let d = unsafe { self.descriptor(head) };
            let [flags, _] = d.tail;
            let Some(segment) = region.segment(d.addr, d.len) else { break };
            if flags & (DESC_F_NEXT | DESC_F_WRITE | DESC_F_INDIRECT) != simple
                || d.len < SIMPLE_BYTES
            {
                break;
            }
            hint(segment);
            *place = Chain::simple(head, segment);
            at = at.wrapping_add(1);
        }
        let taken = at.wrapping_sub(self.next);
        self.next = at;
        out.fill(usize::from(taken));
        usize::from(taken)
    }

    /// Takes the next chain, which is there, whatever it is.
    #[cold]
    fn take_any(&mut self, out: &mut Chains) {
        let head = self.head(self.next);
        self.next = self.next.wrapping_add(1);
        if head >= self.size {
            let mut walk = out.walk(&mut self.memory, self.direction);
            walk.fail(ChainFault::Bad);
            return walk.end(head, 1);
        }
        // SAFETY: `head` is below `size`, and the table holds `size` descriptors (checked in `new`).
        let d = unsafe { self.descriptor(head) };
        self.walk(head, d, out);
    }

    #[inline(always)]
    pub(super) fn look_ahead(&self) {
        let slot = usize::from(self.used_next & (self.size - 1));
        // Addresses of hints may lie anywhere, so the ring's end needs no care.
        let entries = self.used.wrapping_add(2 + 4 * slot).cast::<u8>();
        for line in 0..=STRIDE / USED_PER_LINE {
            prefetch_for_write(entries.wrapping_add(64 * line));
        }
        prefetch_for_write(self.used.cast());
        let known = usize::from(self.offered.wrapping_sub(self.next));
        // Not what the guest may be writing just now: that would take the line away from it.
        if known >= 2 * STRIDE {
            let next = self.head(self.next);
            for ahead in (0..STRIDE_ENTRIES).step_by(DESC_PER_LINE) {
                let index = next.wrapping_add(ahead) & (self.size - 1);
                prefetch(self.desc.wrapping_add(usize::from(index) * DESC_BYTES));
            }
        }
    }

    /// The available ring's entry at a free-running position.
    #[inline(always)]
    fn head(&self, at: u16) -> u16 {
        let slot = usize::from(at & (self.size - 1));
        // SAFETY: `slot` is below `size`; the ring starts 2 u16s into `avail` (checked in `new`).
        let entry = unsafe { self.avail.add(2 + slot) };
        // SAFETY: aligned and mapped as long as `memory` lives.
        unsafe { load_index(entry, Ordering::Relaxed) }
    }

    /// # Safety
    /// `index` must be below the ring's size.
    #[inline(always)]
    unsafe fn descriptor(&self, index: u16) -> Descriptor {
        // SAFETY: in bounds by contract.
        let at = unsafe { self.desc.add(usize::from(index) * DESC_BYTES) };
        // SAFETY: mapped as long as `memory` lives.
        unsafe { Descriptor::read(at) }
    }

    /// Follows a chain whose first descriptor was read already.
    fn walk(&mut self, head: u16, first: Descriptor, out: &mut Chains) {
        let (desc, size) = (self.desc, self.size);
        let mut walk = out.walk(&mut self.memory, self.direction);
        let (mut d, mut table, mut entries, mut inside) = (first, desc, size, false);
        // One more than allowed, so that `buffer` sees the one too many.
        for _ in 0..=MAX_CHAIN + 1 {
            let [flags, next] = d.tail;
            if flags & DESC_F_INDIRECT != 0 {
                // 2.7.5.3.1: the table ends the chain; a table inside a table is not allowed.
                if inside || flags & DESC_F_NEXT != 0 {
                    walk.fail(ChainFault::Bad);
                    break;
                }
                let Some(found) = walk.table(d.addr, d.len, size) else { break };
                (table, entries) = found;
                inside = true;
                // SAFETY: a table has at least one descriptor.
                d = unsafe { Descriptor::read(table) };
                continue;
            }
            walk.buffer(d.addr, d.len, flags);
            if walk.failed() || flags & DESC_F_NEXT == 0 {
                break;
            }
            if next >= entries {
                walk.fail(ChainFault::Bad);
                break;
            }
            // SAFETY: `next` is below `entries`, and `table` is mapped for that many descriptors: the ring's own
            // (checked in `new`) or the one that was resolved above.
            let at = unsafe { table.add(usize::from(next) * DESC_BYTES) };
            // SAFETY: as above; mapped as long as `memory` lives.
            d = unsafe { Descriptor::read(at) };
        }
        walk.end(head, 1);
    }

    #[inline]
    pub(super) fn put_back(&mut self, chains: &[Chain]) {
        // No more were taken than the ring holds, so the count fits.
        let n = u16::try_from(chains.len()).unwrap_or(0);
        self.next = self.next.wrapping_sub(n);
    }

    #[inline(always)]
    pub(super) fn complete(&mut self, chain: &Chain, written: u32) {
        self.use_at(self.used_next, chain, written);
        self.used_next = self.used_next.wrapping_add(1);
    }

    #[inline(always)]
    pub(super) fn complete_written(&mut self, chains: &[Chain], written: &[u32]) {
        let mut at = self.used_next;
        for (chain, written) in chains.iter().zip(written) {
            self.use_at(at, chain, *written);
            at = at.wrapping_add(1);
        }
        self.used_next = at;
    }

    #[inline(always)]
    pub(super) fn complete_read(&mut self, chains: &[Chain]) {
        let mut at = self.used_next;
        for chain in chains {
            self.use_at(at, chain, 0);
            at = at.wrapping_add(1);
        }
        self.used_next = at;
    }

    /// Writes the used entry at a free-running position.
    #[inline(always)]
    fn use_at(&self, at: u16, chain: &Chain, written: u32) {
        let slot = usize::from(at & (self.size - 1));
        // SAFETY: `slot` is below `size`; the used ring has room for `size` entries of 4 u16s after its first 2
        // (checked in `new`).
        let entry = unsafe { self.used.add(2 + 4 * slot) }.cast::<u64>();
        let value = u64::from(chain.id) | u64::from(written) << 32;
        // SAFETY: `entry` is mapped: 8 bytes, 4 bytes into the ring, of which nothing more is known than that it is
        // 4-byte aligned.
        unsafe { entry.write_unaligned(value.to_le()) };
    }

    #[inline]
    pub(super) fn publish(&mut self) -> bool {
        if self.published == self.used_next {
            return false;
        }
        // SAFETY: `used` has room for its index behind its flags (checked in `new`).
        let at = unsafe { self.used.add(1) };
        // SAFETY: aligned and mapped as long as `memory` lives.
        unsafe { store_index(at, self.used_next, Ordering::Release) };
        self.published = self.used_next;
        true
    }

    /// 2.7.7, without EVENT_IDX.
    #[inline]
    pub(super) fn wants_interrupt(&self) -> bool {
        // The used index must be visible before the flag is read, or both sides may wait for ever.
        fence(Ordering::SeqCst);
        // SAFETY: the flags are the first u16 of `avail`, aligned and mapped as long as `memory` lives.
        unsafe { load_index(self.avail, Ordering::Relaxed) & AVAIL_F_NO_INTERRUPT == 0 }
    }

    /// 2.7.10.
    pub(super) fn set_notify(&self, wanted: bool) {
        let flags = if wanted { 0 } else { USED_F_NO_NOTIFY };
        // SAFETY: the flags are the first u16 of `used`, aligned and mapped as long as `memory` lives.
        unsafe { store_index(self.used, flags, Ordering::Relaxed) };
        fence(Ordering::SeqCst);
    }
}
