//! A chain of guest buffers that make one virtio buffer.

use crate::memory::{Mapped, Segment};

/// Most descriptors one chain may have, direct and indirect together. A 64 KiB frame in 4 KiB pieces with its
/// header needs 18; Linux sends at most 19.
pub(crate) const MAX_CHAIN: usize = 64;

pub(super) const DESC_F_NEXT: u16 = 1;
pub(super) const DESC_F_WRITE: u16 = 2;
pub(super) const DESC_F_INDIRECT: u16 = 4;
pub(super) const DESC_BYTES: usize = 16;

/// Fewest bytes of a chain that counts as simple: the longest virtio-net header, so that nobody who skips one has to ask.
pub(super) const SIMPLE_BYTES: u32 = 12;

/// One chain is unusable; the ring goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainFault {
    /// An address outside memory, a wrong direction, an index outside the table, a malformed indirect table.
    Bad,
    /// More than [`MAX_CHAIN`] descriptors or segments.
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

impl Direction {
    /// The flags of a descriptor that is a whole chain.
    pub(super) fn simple(self) -> u16 {
        match self {
            Self::FromGuest => 0,
            Self::ToGuest => DESC_F_WRITE,
        }
    }
}

/// A private copy of a descriptor, in the words both layouts share.
#[derive(Clone, Copy)]
pub(super) struct Descriptor {
    pub addr: u64,
    pub len: u32,
    /// The last 4 bytes: flags and next (split), id and flags (packed).
    pub tail: [u16; 2],
}

impl Descriptor {
    /// Reads one descriptor once.
    ///
    /// # Safety
    /// 16 bytes at `at` must be mapped.
    #[inline(always)]
    pub(super) unsafe fn read(at: *const u8) -> Self {
        let mut raw = [0u8; DESC_BYTES];
        // SAFETY: mapped by contract; `raw` is private. Whatever the guest does meanwhile, the copy does not change
        // any more once it is made.
        unsafe { std::ptr::copy_nonoverlapping(at, raw.as_mut_ptr(), DESC_BYTES) };
        let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, t0, t1, u0, u1] = raw;
        Self {
            addr: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            tail: [u16::from_le_bytes([t0, t1]), u16::from_le_bytes([u0, u1])],
        }
    }
}

/// A chain that was taken from a ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    /// Its only segment, unless `start..end` says that they are in the arena.
    pub first: Segment,
    /// Bytes of all segments.
    pub bytes: u32,
    start: u16,
    end: u16,
    /// What the guest knows it by: head index (split) or buffer id (packed).
    pub id: u16,
    /// Places it takes in a packed ring.
    pub slots: u16,
    /// Why it can't be used; it then has no bytes, and must be completed all the same.
    pub fault: Option<ChainFault>,
}

impl Chain {
    const EMPTY: Self =
        Self { first: Segment::EMPTY, bytes: 0, start: 0, end: 0, id: 0, slots: 0, fault: None };

    /// One descriptor in one region: nearly every chain there is.
    #[inline(always)]
    pub(super) fn simple(id: u16, segment: Segment) -> Self {
        Self { first: segment, bytes: segment.len(), start: 0, end: 0, id, slots: 1, fault: None }
    }

    /// Whether it is one piece of memory and has no fault.
    #[inline(always)]
    pub(crate) fn is_simple(&self) -> bool {
        self.start == self.end && self.fault.is_none()
    }
}

/// Room for chains, allocated once: a queue that [`Chains::push`]es behind and is consumed in front.
pub(crate) struct Chains {
    chains: Box<[Chain]>,
    at: usize,
    end: usize,
    /// Some chain was not simple since all were consumed.
    odd: bool,
    /// Segments of the chains that have more than one. Never grows.
    arena: Vec<Segment>,
}

impl Chains {
    /// Room for `capacity` chains of the longest kind.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            chains: vec![Chain::EMPTY; capacity].into_boxed_slice(),
            at: 0,
            end: 0,
            odd: false,
            arena: Vec::with_capacity(capacity * MAX_CHAIN),
        }
    }

    #[inline]
    pub(crate) fn clear(&mut self) {
        (self.at, self.end) = (0, 0);
        self.odd = false;
        self.arena.clear();
    }

    /// Chains that are not consumed.
    #[inline(always)]
    pub(crate) fn all(&self) -> &[Chain] {
        self.chains.get(self.at..self.end).unwrap_or(&[])
    }

    /// The chains that are not consumed, if certainly all of them are simple.
    #[inline(always)]
    pub(crate) fn all_simple(&self) -> Option<&[Chain]> {
        (!self.odd).then(|| self.all())
    }

    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.end - self.at
    }

    /// How many more there is room for.
    #[inline(always)]
    pub(crate) fn room(&self) -> usize {
        self.chains.len() - self.end
    }

    #[inline(always)]
    pub(crate) fn get(&self, i: usize) -> Option<&Chain> {
        self.all().get(i)
    }

    #[inline(always)]
    pub(crate) fn front(&self) -> Option<&Chain> {
        if self.at < self.end { self.chains.get(self.at) } else { None }
    }

    /// Consumes the chain in front, if there is one.
    #[inline(always)]
    pub(crate) fn consume_first(&mut self) {
        self.at += 1;
        if self.at >= self.end {
            self.clear();
        }
    }

    /// Consumes `n` in front; no more than there are.
    #[inline(always)]
    pub(crate) fn consume(&mut self, n: usize) {
        self.at = (self.at + n).min(self.end);
        if self.at == self.end {
            self.clear();
        }
    }

    /// Moves what is left to the front, so that there is room behind it.
    pub(crate) fn compact(&mut self) {
        // The arena keeps its places: chains refer to them. It is emptied when the last chain is consumed.
        self.chains.copy_within(self.at..self.end, 0);
        (self.at, self.end) = (0, self.end - self.at);
    }

    /// Up to `n` places behind the last chain, to be filled from the first on.
    #[inline(always)]
    pub(super) fn places(&mut self, n: usize) -> &mut [Chain] {
        let rest = self.chains.get_mut(self.end..).unwrap_or(&mut []);
        let n = n.min(rest.len());
        rest.get_mut(..n).unwrap_or(&mut [])
    }

    /// Appends the first `n` of the places that were filled.
    #[inline(always)]
    pub(super) fn fill(&mut self, n: usize) {
        self.end = (self.end + n).min(self.chains.len());
    }

    /// Appends; without room the chain is lost, so ask [`Self::room`] first.
    fn push(&mut self, chain: Chain) {
        if let Some(place) = self.chains.get_mut(self.end) {
            self.odd = true;
            *place = chain;
            self.end += 1;
        }
    }

    /// The segments of a chain of this room.
    #[inline(always)]
    pub(crate) fn segments<'a>(&'a self, chain: &'a Chain) -> &'a [Segment] {
        if chain.start == chain.end {
            return std::slice::from_ref(&chain.first);
        }
        self.arena.get(usize::from(chain.start)..usize::from(chain.end)).unwrap_or(&[])
    }

    /// Begins a chain that is not simple.
    pub(super) fn walk<'a>(&'a mut self, memory: &'a mut Mapped, direction: Direction) -> Walk<'a> {
        let start = self.arena.len();
        Walk { chains: self, memory, direction, start, bytes: 0, left: MAX_CHAIN, fault: None }
    }
}

/// A chain while its descriptors are followed.
pub(super) struct Walk<'a> {
    chains: &'a mut Chains,
    memory: &'a mut Mapped,
    direction: Direction,
    start: usize,
    bytes: u32,
    /// Descriptors that may still come.
    left: usize,
    fault: Option<ChainFault>,
}

impl Walk<'_> {
    pub(super) fn fail(&mut self, fault: ChainFault) {
        self.fault.get_or_insert(fault);
    }

    pub(super) fn failed(&self) -> bool {
        self.fault.is_some()
    }

    /// Adds what one descriptor points to. After a fault it does nothing.
    pub(super) fn buffer(&mut self, addr: u64, len: u32, flags: u16) {
        if self.failed() {
            return;
        }
        if self.left == 0 {
            return self.fail(ChainFault::TooLong);
        }
        self.left -= 1;
        if (flags & DESC_F_WRITE != 0) != (self.direction == Direction::ToGuest) {
            return self.fail(ChainFault::Bad);
        }
        let (arena, start) = (&mut self.chains.arena, self.start);
        let resolved = self.memory.resolve(addr, len, |segment| {
            // Never grow: it was allocated for the worst case, and this is the hot path.
            let fits = arena.len() < arena.capacity() && arena.len() - start < MAX_CHAIN;
            if fits {
                arena.push(segment);
            }
            fits
        });
        match resolved {
            Ok(true) => {}
            Ok(false) => return self.fail(ChainFault::TooLong),
            Err(_) => return self.fail(ChainFault::Bad),
        }
        match self.bytes.checked_add(len) {
            Some(bytes) => self.bytes = bytes,
            None => self.fail(ChainFault::Bad),
        }
    }

    /// Where a table of descriptors in guest memory is mapped, and how many it has. It must lie in one region, so
    /// that an index into it is an index into mapped memory.
    pub(super) fn table(&mut self, addr: u64, len: u32, most: u16) -> Option<(*const u8, u16)> {
        let bytes = len as usize;
        if bytes == 0 || !bytes.is_multiple_of(DESC_BYTES) {
            self.fail(ChainFault::Bad);
            return None;
        }
        let entries = u16::try_from(bytes / DESC_BYTES).ok().filter(|n| *n <= most);
        let Some(entries) = entries else {
            self.fail(ChainFault::TooLong);
            return None;
        };
        match self.memory.resolve_ring(addr, bytes, 1) {
            Ok(base) => Some((base.cast_const(), entries)),
            Err(_) => {
                self.fail(ChainFault::Bad);
                None
            }
        }
    }

    /// Ends the chain and appends it.
    pub(super) fn end(self, id: u16, slots: u16) {
        let mut chain = Chain { id, slots, fault: self.fault, ..Chain::EMPTY };
        let end = self.chains.arena.len();
        match (self.fault, u16::try_from(self.start), u16::try_from(end)) {
            (None, Ok(start), Ok(end)) => {
                chain.bytes = self.bytes;
                if let Some(first) = self.chains.arena.get(self.start) {
                    chain.first = *first;
                }
                (chain.start, chain.end) = (start, end);
            }
            (None, ..) => chain.fault = Some(ChainFault::TooLong),
            (Some(_), ..) => {}
        }
        if chain.fault.is_some() {
            self.chains.arena.truncate(self.start);
        }
        self.chains.push(chain);
    }
}
