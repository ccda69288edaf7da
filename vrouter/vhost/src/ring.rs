//! Virtqueues seen from the device side, in both layouts, as a source and sink of buffer chains.
//!
//! Reads each descriptor once into private memory and checks it in release builds; every loop over what a guest
//! wrote is bounded by a constant or the ring's size. Knows nothing of packets.

mod chain;
mod packed;
mod split;

use std::sync::Arc;

use crate::memory::{GuestMemory, OutsideMemory, Segment};
pub(crate) use chain::{Chain, ChainFault, Chains, Direction, MAX_CHAIN};
use packed::PackedRing;
use split::SplitRing;

/// Largest ring size a frontend may set (virtio allows 32,768; DPDK and QEMU use up to 4,096).
pub const MAX_QUEUE_SIZE: u16 = 4096;

/// Guest addresses and size of a ring, as SET_VRING_ADDR and SET_VRING_NUM gave them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingAddresses {
    /// Descriptor table or ring.
    pub desc: u64,
    /// Available ring; packed: the driver's event suppression structure.
    pub avail: u64,
    /// Used ring; packed: the device's event suppression structure.
    pub used: u64,
    pub size: u16,
}

/// Which layout, and where a packed ring goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Virtio 1.2, 2.7. Goes on at the used index found in the ring.
    Split,
    /// Virtio 1.2, 2.8. `base`: SET_VRING_BASE, an index with the wrap counter as its highest bit. `in_order`: the guest knows
    /// that buffers come back in the order of their offer (VIRTIO_F_IN_ORDER), and takes one for several.
    Packed { base: u16, in_order: bool },
}

/// The ring itself cannot be used (not one of its buffers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RingError {
    #[error("ring size {0} is not a power of two up to {MAX_QUEUE_SIZE}")]
    Size(u16),
    #[error("ring position {0} is outside the ring")]
    Position(u16),
    #[error("the {part} does not lie aligned in one shared region: {outside}")]
    Address { part: &'static str, outside: OutsideMemory },
    #[error("the available index ran {0} entries ahead, more than the ring holds")]
    AvailableIndex(u16),
    #[error("a chain does not end within the ring")]
    Endless,
}

/// A ring in use. One thread at a time, which the [`crate::queue::Queue`] around it sees to.
pub(crate) enum Ring {
    Split(SplitRing),
    Packed(PackedRing),
}

impl Ring {
    /// Takes a ring into use.
    pub(crate) fn new(
        memory: Arc<GuestMemory>,
        at: RingAddresses,
        layout: Layout,
        direction: Direction,
    ) -> Result<Self, RingError> {
        match layout {
            Layout::Split => SplitRing::new(memory, at, direction).map(Self::Split),
            Layout::Packed { base, in_order } => {
                PackedRing::new(memory, at, base, in_order, direction).map(Self::Packed)
            }
        }
    }

    /// Appends up to `most` of the chains that are waiting to `out`; returns how many. They count as taken until
    /// they are completed or put back. `hint` is told of nearly every chain's memory, before it is used.
    ///
    /// # Errors
    /// The ring makes no sense any more; what was appended before still counts.
    #[inline(always)]
    pub(crate) fn take(
        &mut self,
        most: usize,
        out: &mut Chains,
        hint: impl Fn(Segment),
    ) -> Result<usize, RingError> {
        match self {
            Self::Split(ring) => ring.take(most, out, hint),
            Self::Packed(ring) => ring.take(most, out, hint),
        }
    }

    /// Has the lines fetched that will be needed next: where to write what is used, and the next burst's descriptors, of a
    /// split ring only if the guest goes round its table in order, as most do.
    #[inline(always)]
    pub(crate) fn look_ahead(&self) {
        match self {
            Self::Split(ring) => ring.look_ahead(),
            Self::Packed(ring) => ring.look_ahead(),
        }
    }

    /// Puts back chains that were taken last, as if they had not been.
    #[inline]
    pub(crate) fn put_back(&mut self, chains: &[Chain]) {
        match self {
            Self::Split(ring) => ring.put_back(chains),
            Self::Packed(ring) => ring.put_back(chains),
        }
    }

    /// Gives a taken chain back to the guest with `written` bytes, in the order they were taken; the guest sees it
    /// after [`Self::publish`].
    #[inline(always)]
    pub(crate) fn complete(&mut self, chain: &Chain, written: u32) {
        match self {
            Self::Split(ring) => ring.complete(chain, written),
            Self::Packed(ring) => ring.complete(chain, written),
        }
    }

    /// Gives taken chains back to the guest, each with as many bytes as `written` says, as [`Self::complete`] does.
    #[inline(always)]
    pub(crate) fn complete_written(&mut self, chains: &[Chain], written: &[u32]) {
        match self {
            Self::Split(ring) => ring.complete_written(chains, written),
            Self::Packed(ring) => ring.complete_written(chains, written),
        }
    }

    /// Gives taken chains back to the guest, from which something was read, as [`Self::complete`] does.
    #[inline(always)]
    pub(crate) fn complete_read(&mut self, chains: &[Chain]) {
        match self {
            Self::Split(ring) => ring.complete_read(chains),
            Self::Packed(ring) => ring.complete_read(chains),
        }
    }

    /// Lets the guest see everything completed so far; says whether there was anything.
    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        match self {
            Self::Split(ring) => ring.publish(),
            Self::Packed(ring) => ring.publish(),
        }
    }

    /// Whether something is waiting, as the guest has it now.
    #[inline]
    pub(crate) fn is_waiting(&self) -> bool {
        match self {
            Self::Split(ring) => ring.is_waiting(),
            Self::Packed(ring) => ring.is_waiting(),
        }
    }

    /// Whether `n` chains of one descriptor each are waiting; `n` is at least 1 and at most the ring's size.
    #[inline]
    pub(crate) fn has_waiting(&mut self, n: u16) -> bool {
        match self {
            Self::Split(ring) => ring.has_waiting(n),
            Self::Packed(ring) => ring.has_waiting(n),
        }
    }

    /// Whether frames can be seen one by one while the guest is still writing a burst.
    #[inline]
    pub(crate) fn shows_singly(&self) -> bool {
        matches!(self, Self::Packed(_))
    }

    /// Whether the guest wants an interrupt for what was just published.
    #[inline]
    pub(crate) fn wants_interrupt(&self) -> bool {
        match self {
            Self::Split(ring) => ring.wants_interrupt(),
            Self::Packed(ring) => ring.wants_interrupt(),
        }
    }

    /// Asks the guest to kick, or not to. After asking, look at [`Self::is_waiting`] once more.
    pub(crate) fn set_notify(&self, wanted: bool) {
        match self {
            Self::Split(ring) => ring.set_notify(wanted),
            Self::Packed(ring) => ring.set_notify(wanted),
        }
    }

    /// Where a later session has to go on: the value of GET_VRING_BASE.
    pub(crate) fn position(&self) -> u16 {
        match self {
            Self::Split(ring) => ring.position(),
            Self::Packed(ring) => ring.position(),
        }
    }

    /// Most chains that can be waiting.
    pub(crate) fn size(&self) -> u16 {
        match self {
            Self::Split(ring) => ring.size(),
            Self::Packed(ring) => ring.size(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
