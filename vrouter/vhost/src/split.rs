//! The split virtqueue seen from the device side (virtio 1.2, section 2.7).
//!
//! Reads each descriptor once into private memory and checks it in release builds; every loop over what a guest
//! wrote is bounded by a constant or the ring's size. Knows nothing of packets.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::memory::{GuestMemory, OutsideMemory, Segment, load_index, store_index};

/// Most descriptors one chain may have, direct and indirect together. A 64 KiB frame in 4 KiB pieces with its
/// header needs 18; Linux sends at most 19.
pub(crate) const MAX_CHAIN: usize = 64;

/// Largest ring size a frontend may set (virtio allows 32,768; DPDK and QEMU use up to 4,096).
pub const MAX_QUEUE_SIZE: u16 = 4096;

const DESC_F_NEXT: u16 = 1;
const DESC_F_WRITE: u16 = 2;
const DESC_F_INDIRECT: u16 = 4;
const AVAIL_F_NO_INTERRUPT: u16 = 1;
const USED_F_NO_NOTIFY: u16 = 1;
const DESC_BYTES: u32 = 16;

/// Guest addresses and size of a ring, as SET_VRING_ADDR and SET_VRING_NUM gave them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingAddresses {
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
    pub size: u16,
}

/// The ring itself cannot be used (not one of its buffers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RingError {
    #[error("ring size {0} is not a power of two up to {MAX_QUEUE_SIZE}")]
    Size(u16),
    #[error("the {part} does not lie aligned in one shared region: {outside}")]
    Address { part: &'static str, outside: OutsideMemory },
    #[error("the available index ran {0} entries ahead, more than the ring holds")]
    AvailableIndex(u16),
}

/// One buffer chain is unusable; the ring goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainFault {
    /// An address outside memory, a wrong direction, an index outside the table, a malformed indirect table.
    Bad,
    /// More than [`MAX_CHAIN`] descriptors.
    TooLong,
}

/// Which way the descriptors of a chain must point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The device reads (the pod transmits).
    FromGuest,
    /// The device writes (the pod receives).
    ToGuest,
}

#[derive(Clone, Copy)]
struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

/// A ring in use. One thread at a time, which the [`crate::queue::Queue`] around it sees to.
pub(crate) struct SplitRing {
    desc: *mut u8,
    avail: *mut u16,
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
    memory: Arc<GuestMemory>,
}

// SAFETY: the pointers point into the mapping that `memory` keeps alive; it may be used from any thread, and
// `&mut self` on everything that touches the ring keeps it to one thread at a time.
unsafe impl Send for SplitRing {}

impl SplitRing {
    /// Takes a ring into use. Position: both indexes start at the used index found in the ring, as
    /// frontends that reconnect always say base 0 (DPDK's virtio-user) and replaying old entries would
    /// corrupt them.
    pub(crate) fn new(
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
        let desc = ring("descriptor table", at.desc, 16 * entries, 16)?;
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
            memory,
        };
        let position = ring.used_index();
        (ring.next, ring.offered) = (position, position);
        (ring.used_next, ring.published) = (position, position);
        Ok(ring)
    }

    /// Where a later session has to go on: the value of GET_VRING_BASE.
    pub(crate) fn next_available(&self) -> u16 {
        self.next
    }

    fn used_index(&self) -> u16 {
        // SAFETY: `used` has room for 2 + size*4 u16s (checked in `new`).
        let at = unsafe { self.used.add(1) };
        // SAFETY: aligned and mapped as long as `memory` lives.
        unsafe { load_index(at, Ordering::Acquire) }
    }

    /// The available index as the guest has it now.
    #[inline]
    pub(crate) fn load_available(&self) -> u16 {
        // SAFETY: `avail` has room for 3 + size u16s (checked in `new`).
        let at = unsafe { self.avail.add(1) };
        // SAFETY: aligned and mapped as long as `memory` lives.
        unsafe { load_index(at, Ordering::Acquire) }
    }

    /// How many chains are waiting; looks at the guest's index only when fewer than `want` are known.
    #[inline]
    pub(crate) fn available(&mut self, want: u16) -> Result<u16, RingError> {
        let known = self.offered.wrapping_sub(self.next);
        if known >= want {
            return Ok(known);
        }
        let offered = self.load_available();
        let waiting = offered.wrapping_sub(self.next);
        if waiting > self.size {
            return Err(RingError::AvailableIndex(waiting));
        }
        self.offered = offered;
        Ok(waiting)
    }

    /// Head of the chain `ahead` entries after the next one. `ahead` must be below what [`Self::available`] said.
    #[inline]
    fn head(&self, ahead: u16) -> u16 {
        let slot = usize::from(self.next.wrapping_add(ahead) & (self.size - 1));
        // SAFETY: `slot` is below `size`; the ring starts 2 u16s into `avail` (checked in `new`).
        let at = unsafe { self.avail.add(2 + slot) };
        // SAFETY: aligned and mapped as long as `memory` lives.
        unsafe { load_index(at, Ordering::Relaxed) }
    }

    /// Reads one descriptor once. `index` must be below the number of descriptors at `table`.
    ///
    /// # Safety
    /// `table` must be mapped for more than `index` descriptors.
    #[inline]
    unsafe fn descriptor(table: *const u8, index: u16) -> Descriptor {
        let mut raw = [0u8; 16];
        // SAFETY: in bounds by contract.
        let at = unsafe { table.add(usize::from(index) * 16) };
        // SAFETY: 16 mapped bytes at `at` by contract; `raw` is private. Whatever the guest does meanwhile, the
        // copy does not change any more once it is made.
        unsafe { std::ptr::copy_nonoverlapping(at, raw.as_mut_ptr(), 16) };
        let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, n0, n1] = raw;
        Descriptor {
            addr: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        }
    }

    /// Walks the chain `ahead` entries after the next one and appends its segments to `out`.
    ///
    /// Returns the chain's head (to be given back with [`Self::give_back`]) and its bytes or what is wrong with
    /// it; `out` then holds the segments found so far, which the caller drops.
    #[inline]
    pub(crate) fn walk(
        &self,
        ahead: u16,
        out: &mut Vec<Segment>,
    ) -> (u16, Result<u32, ChainFault>) {
        let head = self.head(ahead);
        (head, self.walk_from(head, out))
    }

    fn walk_from(&self, head: u16, out: &mut Vec<Segment>) -> Result<u32, ChainFault> {
        let mut bytes: u32 = 0;
        let mut index = head;
        for _ in 0..MAX_CHAIN {
            if index >= self.size {
                return Err(ChainFault::Bad);
            }
            // SAFETY: `index` is below `size`, and the table holds `size` descriptors (checked in `new`).
            let d = unsafe { Self::descriptor(self.desc, index) };
            if d.flags & DESC_F_INDIRECT != 0 {
                // 2.7.5.3.1: the table ends the chain; a table inside a table is not allowed.
                if d.flags & DESC_F_NEXT != 0 {
                    return Err(ChainFault::Bad);
                }
                return self.walk_table(&d, bytes, out);
            }
            bytes = self.take(&d, bytes, out)?;
            if d.flags & DESC_F_NEXT == 0 {
                return Ok(bytes);
            }
            index = d.next;
        }
        Err(ChainFault::TooLong)
    }

    /// An indirect table: up to [`MAX_CHAIN`] descriptors in guest memory of its own.
    fn walk_table(
        &self,
        table: &Descriptor,
        mut bytes: u32,
        out: &mut Vec<Segment>,
    ) -> Result<u32, ChainFault> {
        if table.len == 0 || !table.len.is_multiple_of(DESC_BYTES) {
            return Err(ChainFault::Bad);
        }
        let entries = table.len / DESC_BYTES;
        if entries > u32::from(self.size) {
            return Err(ChainFault::TooLong);
        }
        // The table must lie in one region, so that an index into it is an index into mapped memory.
        let base = self
            .memory
            .resolve_ring(table.addr, table.len as usize, 1)
            .map_err(|_| ChainFault::Bad)?;
        let mut index: u16 = 0;
        for _ in 0..MAX_CHAIN {
            if u32::from(index) >= entries {
                return Err(ChainFault::Bad);
            }
            // SAFETY: `index` is below `entries`, and `base` is mapped for `entries` descriptors (just resolved).
            let d = unsafe { Self::descriptor(base, index) };
            if d.flags & DESC_F_INDIRECT != 0 {
                return Err(ChainFault::Bad);
            }
            bytes = self.take(&d, bytes, out)?;
            if d.flags & DESC_F_NEXT == 0 {
                return Ok(bytes);
            }
            index = d.next;
        }
        Err(ChainFault::TooLong)
    }

    #[inline]
    fn take(&self, d: &Descriptor, bytes: u32, out: &mut Vec<Segment>) -> Result<u32, ChainFault> {
        let writable = d.flags & DESC_F_WRITE != 0;
        if writable != (self.direction == Direction::ToGuest) {
            return Err(ChainFault::Bad);
        }
        // Never grow: `out` was allocated for the worst case of a burst, and this is the hot path.
        let room = self
            .memory
            .resolve(d.addr, d.len, |segment| {
                let fits = out.len() < out.capacity();
                if fits {
                    out.push(segment);
                }
                fits
            })
            .map_err(|_| ChainFault::Bad)?;
        if !room {
            return Err(ChainFault::TooLong);
        }
        bytes.checked_add(d.len).ok_or(ChainFault::Bad)
    }

    /// Takes the next chain off the available ring and gives it back to the guest with `written` bytes; the guest
    /// sees it after [`Self::publish`].
    #[inline]
    pub(crate) fn give_back(&mut self, head: u16, written: u32) {
        let slot = usize::from(self.used_next & (self.size - 1));
        // SAFETY: `slot` is below `size`; the used ring has room for `size` entries of 4 u16s after its first 2
        // (checked in `new`).
        let at = unsafe { self.used.add(2 + 4 * slot) }.cast::<[u32; 2]>();
        // SAFETY: `at` is mapped and 4-byte aligned: the used ring is, and entries are 8 bytes, 4 bytes in.
        unsafe { at.write_volatile([u32::from(head).to_le(), written.to_le()]) };
        self.used_next = self.used_next.wrapping_add(1);
        self.next = self.next.wrapping_add(1);
    }

    /// Lets the guest see everything given back so far; says whether there was anything.
    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
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

    /// Whether the guest wants an interrupt for what was just published (2.7.7, without EVENT_IDX).
    #[inline]
    pub(crate) fn wants_interrupt(&self) -> bool {
        // The used index must be visible before the flag is read, or both sides may wait for ever.
        fence(Ordering::SeqCst);
        // SAFETY: the flags are the first u16 of `avail`, aligned and mapped as long as `memory` lives.
        unsafe { load_index(self.avail, Ordering::Relaxed) & AVAIL_F_NO_INTERRUPT == 0 }
    }

    /// Asks the guest to kick, or not to (2.7.10). After asking, look at [`Self::load_available`] once more.
    pub(crate) fn set_notify(&self, wanted: bool) {
        let flags = if wanted { 0 } else { USED_F_NO_NOTIFY };
        // SAFETY: the flags are the first u16 of `used`, aligned and mapped as long as `memory` lives.
        unsafe { store_index(self.used, flags, Ordering::Relaxed) };
        fence(Ordering::SeqCst);
    }
}

#[cfg(test)]
pub(crate) mod tests;
