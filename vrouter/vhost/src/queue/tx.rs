//! What a pod sends: a burst of frames, still in its memory.

use std::marker::PhantomData;

use super::{Active, Held, Queue, Rest};
use crate::memory::Segment;
use crate::offload::{NET_HEADER_FIELDS, Offload};
use crate::ring::{Chain, ChainFault, Chains};

/// Frames a worker takes from a queue at once.
pub const BURST: usize = BURST_ENTRIES as usize;
pub(super) const BURST_ENTRIES: u16 = 32;

/// Bytes of a frame that are copied in any case: one cache line, where a DPDK pod's frame starts.
const LINE: usize = LINE_BYTES as usize;
pub(super) const LINE_BYTES: u32 = 64;

/// Most bytes of a frame that [`TxLease::head`] copies.
pub const HEAD_BYTES: usize = 128;

/// Room for a head as two lines.
#[inline(always)]
fn lines(head: &mut [u8; HEAD_BYTES]) -> [&mut [u8; LINE]; 2] {
    const { assert!(HEAD_BYTES == 2 * LINE) };
    let (lines, _) = head.as_chunks_mut::<LINE>();
    let [one, two] = lines else { unreachable!("two lines") };
    [one, two]
}

/// Why a frame the pod sent cannot be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameFault {
    /// Descriptors that point outside memory, the wrong way, or hold less than the virtio-net header.
    BadDescriptor,
    /// More descriptors than supported.
    ChainTooLong,
    /// The header asks for checksum or segmentation in a way that was not agreed on, or that makes no sense.
    UnsupportedOffload,
}

/// What was copied of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the Ethernet frame, without FCS.
    pub frame_len: u32,
    /// Bytes of it that were copied.
    pub copied: u16,
    /// What the pod leaves to be done.
    pub offload: Offload,
}

/// Room for one burst of sent frames; allocated once per worker.
pub struct TxBurst {
    chains: Chains,
}

impl TxBurst {
    /// Allocates for [`BURST`] frames.
    pub fn new() -> Self {
        Self { chains: Chains::new(BURST) }
    }
}

impl Default for TxBurst {
    fn default() -> Self {
        Self::new()
    }
}

/// The bytes of a frame behind its header, still in the sender's memory. Lives no longer than the sender's lease.
#[derive(Clone, Copy)]
pub struct Body<'a> {
    /// Its first bytes, or all of them.
    pub(super) first: Segment,
    /// What comes behind them.
    pub(super) rest: &'a [Segment],
    /// Bytes of it all.
    pub(super) len: u32,
}

impl<'a> Body<'a> {
    /// Bytes in private memory, such as those of a frame that a NIC received.
    #[inline]
    pub fn of_private(bytes: &'a [u8]) -> Self {
        let first = Segment::of_private(bytes);
        Body { first, rest: &[], len: first.len() }
    }
}

impl Body<'_> {
    /// No bytes: for frames that are wholly in private memory.
    pub const EMPTY: Self = Body { first: Segment::EMPTY, rest: &[], len: 0 };

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its first `len` bytes, or all when it has fewer.
    #[inline]
    pub fn first(self, len: u32) -> Self {
        Self { len: self.len.min(len), ..self }
    }

    /// What comes behind its first `bytes` bytes; nothing when it has fewer.
    pub fn skip(mut self, bytes: usize) -> Self {
        let mut left = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.len);
        self.len -= left;
        while left >= self.first.len()
            && let Some((next, rest)) = self.rest.split_first()
        {
            left -= self.first.len();
            (self.first, self.rest) = (*next, rest);
        }
        self.first = self.first.skip(left);
        self
    }

    /// Copies all of it into private memory, once; `into` gets as much as it has room for. Returns how many bytes.
    pub fn read(&self, into: &mut [u8]) -> usize {
        let room = into.len().min(self.len());
        let into = into.get_mut(..room).unwrap_or(&mut []);
        let mut done = 0;
        for segment in self.segments() {
            let Some(rest) = into.get_mut(done..).filter(|r| !r.is_empty()) else { break };
            // SAFETY: the lease that this body borrows from holds the memory, or it is a slice that it borrows.
            done += unsafe { segment.read(rest) };
        }
        done
    }

    /// Its pieces, in order.
    pub(super) fn segments(&self) -> impl Iterator<Item = &Segment> {
        std::iter::once(&self.first).chain(self.rest)
    }
}

/// A burst of frames that are as nearly all are: one piece of memory each, and nothing left to do. What is done with
/// them needs no case to be told from another, so it fits loops that stay in registers.
#[derive(Clone, Copy)]
pub struct PlainBurst<'a> {
    chains: &'a [Chain],
    /// Bytes of the virtio-net header.
    net_header: u32,
}

impl<'a> PlainBurst<'a> {
    /// The frames, in order.
    #[inline(always)]
    pub fn frames(self) -> impl Iterator<Item = PlainFrame<'a>> {
        self.chains.iter().map(move |chain| self.frame_of(chain))
    }

    /// Frame `i`.
    #[inline(always)]
    pub(super) fn frame(self, i: usize) -> Option<PlainFrame<'a>> {
        self.chains.get(i).map(|chain| self.frame_of(chain))
    }

    #[inline(always)]
    fn frame_of(self, chain: &Chain) -> PlainFrame<'a> {
        PlainFrame { memory: chain.first.skip(self.net_header), burst: PhantomData }
    }
}

/// One frame of a [`PlainBurst`].
#[derive(Clone, Copy)]
pub struct PlainFrame<'a> {
    /// Resolved in the memory of the lease that the burst borrows from.
    pub(super) memory: Segment,
    burst: PhantomData<&'a TxBurst>,
}

impl PlainFrame<'_> {
    /// Bytes of the Ethernet frame, without FCS.
    #[inline(always)]
    pub fn bytes(self) -> u32 {
        self.memory.len()
    }

    /// As [`TxLease::head`]; returns how many bytes were copied.
    #[inline(always)]
    pub fn head(self, into: &mut [u8; HEAD_BYTES], enough: impl Fn(&[u8; LINE]) -> bool) -> u16 {
        let [line, rest] = lines(into);
        // SAFETY: the burst borrows from the lease that holds the memory.
        let mut copied = unsafe { self.memory.read_line(line) };
        if copied == LINE && !enough(line) {
            // SAFETY: as above.
            copied += unsafe { self.memory.skip(LINE_BYTES).read_line(rest) };
        }
        u16::try_from(copied).unwrap_or(0)
    }

    /// Has up to `lines` cache lines behind the first fetched.
    #[inline(always)]
    pub fn look_ahead(self, lines: u32) {
        let mut at = LINE_BYTES;
        let end = self.memory.len().min(LINE_BYTES + LINE_BYTES * lines);
        while at < end {
            self.memory.prefetch_read(at);
            at += LINE_BYTES;
        }
    }
}

/// One burst of frames that a pod sent. Dropping it gives the buffers back to the pod.
pub struct TxLease<'q> {
    active: Held<'q, Active>,
    chains: &'q mut Chains,
    queue: &'q Queue,
    /// Bytes of the virtio-net header.
    net_header: u32,
    /// The virtio-net header may ask for something.
    reads_header: bool,
}

impl<'q> TxLease<'q> {
    pub(super) fn new(active: Held<'q, Active>, burst: &'q mut TxBurst, queue: &'q Queue) -> Self {
        burst.chains.clear();
        let format = active.as_ref().map(|a| a.format);
        let net_header = format.map_or(0, |f| u32::from(f.header));
        let reads_header = format.is_some_and(|f| f.offloads.any());
        Self { active, chains: &mut burst.chains, queue, net_header, reads_header }
    }

    /// Whether the queue had better be left alone just now, because frames come so fast ([`Self::note`]) that half a ring of
    /// large ones, or some bursts of others, will be there soon, or because the pod is just writing a burst. Never while it is
    /// being stopped.
    #[inline]
    pub fn rests(&mut self, rest: Rest) -> bool {
        self.active.as_mut().is_some_and(|Active { ring, resting, drain, .. }| {
            if drain.is_some() {
                return false;
            }
            let half = ring.size() / 2;
            if resting.rests(rest, half.max(1), |n| ring.has_waiting(n)) {
                return true;
            }
            let burst = half.clamp(1, BURST_ENTRIES);
            ring.shows_singly()
                && resting.gathers(rest, || ring.is_waiting() && !ring.has_waiting(burst))
        })
    }

    /// Notes for [`Self::rests`] that the frames of this burst have so many bytes.
    #[inline]
    pub fn note(&mut self, rest: Rest, bytes: u64) {
        if let Some(active) = self.active.as_mut() {
            let half = u64::from(active.ring.size() / 2);
            active.resting.took(rest, half, self.chains.len() as u64, bytes);
        }
    }

    /// Takes up to [`BURST`] frames; returns how many. The lines that [`Self::head`] reads are on their way then.
    #[inline]
    pub fn fetch(&mut self) -> usize {
        let Some(active) = self.active.as_mut() else { return 0 };
        let net_header = self.net_header;
        let taken = active.ring.take(BURST, self.chains, |buffer| {
            buffer.prefetch_read(net_header);
            // The second line, too, of a frame that has one: a tunnel's inner header lies there.
            if buffer.len() > net_header + LINE_BYTES {
                buffer.prefetch_read(net_header + LINE_BYTES);
            }
        });
        if let Err(error) = taken {
            self.queue.give_up(active, error);
            return 0;
        }
        active.ring.look_ahead();
        self.chains.len()
    }

    /// The frames, if they are all plain.
    #[inline(always)]
    pub fn plain(&self) -> Option<PlainBurst<'_>> {
        if self.reads_header {
            return None;
        }
        let net_header = self.net_header;
        self.chains.all_simple().map(|chains| PlainBurst { chains, net_header })
    }

    /// Frames of this burst.
    pub fn len(&self) -> usize {
        self.chains.len()
    }

    /// Whether nothing was fetched.
    pub fn is_empty(&self) -> bool {
        self.chains.len() == 0
    }

    /// Copies the first bytes of frame `i` into private memory, each once: 64 if `enough` says that they are,
    /// otherwise up to [`HEAD_BYTES`]. Bytes of `into` behind those copied are left as they were.
    ///
    /// # Errors
    /// What the pod did wrong with this frame. A frame outside the burst is [`FrameFault::BadDescriptor`].
    #[inline(always)]
    pub fn head(
        &self,
        i: usize,
        into: &mut [u8; HEAD_BYTES],
        enough: impl Fn(&[u8; LINE]) -> bool,
    ) -> Result<Head, FrameFault> {
        let chain = self.chains.get(i).ok_or(FrameFault::BadDescriptor)?;
        if !chain.is_simple() || chain.bytes < self.net_header || self.reads_header {
            return self.any_head(chain, into);
        }
        let frame = chain.first.skip(self.net_header);
        let [line, rest] = lines(into);
        let frame_len = frame.len();
        // SAFETY: resolved in the memory of the ring this lease holds.
        let mut copied = unsafe { frame.read_line(line) };
        if copied == LINE && !enough(line) {
            // SAFETY: as above.
            copied += unsafe { frame.skip(LINE_BYTES).read_line(rest) };
        }
        let copied = u16::try_from(copied).unwrap_or(0);
        Ok(Head { frame_len, copied, offload: Offload::NONE })
    }

    /// Frames in several pieces, with offloads, or with faults.
    #[inline(never)]
    fn any_head(&self, chain: &Chain, into: &mut [u8; HEAD_BYTES]) -> Result<Head, FrameFault> {
        match chain.fault {
            Some(ChainFault::Bad) => return Err(FrameFault::BadDescriptor),
            Some(ChainFault::TooLong) => return Err(FrameFault::ChainTooLong),
            None => {}
        }
        let frame_len =
            chain.bytes.checked_sub(self.net_header).ok_or(FrameFault::BadDescriptor)?;
        let segments = self.chains.segments(chain);
        let offloads = self.active.as_ref().map(|a| a.format.offloads).unwrap_or_default();
        let mut offload = Offload::NONE;
        if offloads.any() {
            let mut fields = [0; NET_HEADER_FIELDS];
            self.behind(segments, 0, chain.bytes).read(&mut fields);
            offload = offloads.check(&fields, frame_len).ok_or(FrameFault::UnsupportedOffload)?;
        }
        let copied = self.behind(segments, self.net_header, frame_len).read(into);
        Ok(Head { frame_len, copied: u16::try_from(copied).unwrap_or(0), offload })
    }

    /// The same as [`Self::body`] for a frame that is one piece of memory, and has so many bytes.
    #[inline(always)]
    pub(super) fn simple_rest(&self, i: usize, header: u32) -> Option<Segment> {
        let chain = self.chains.get(i)?;
        let skip = self.net_header.checked_add(header)?;
        (chain.is_simple() && skip <= chain.bytes).then(|| chain.first.skip(skip))
    }

    /// What lies behind the first `header` bytes of frame `i`, still in the pod's memory.
    #[inline(always)]
    pub fn body(&self, i: usize, header: u32) -> Body<'_> {
        let Some(chain) = self.chains.get(i) else { return Body::EMPTY };
        let skip = self.net_header.saturating_add(header);
        let len = chain.bytes.saturating_sub(skip);
        if chain.is_simple() {
            return Body { first: chain.first.skip(skip), rest: &[], len };
        }
        self.behind(self.chains.segments(chain), skip, len)
    }

    fn behind<'a>(&self, segments: &'a [Segment], mut skip: u32, len: u32) -> Body<'a> {
        for (at, segment) in segments.iter().enumerate() {
            if skip < segment.len() {
                let rest = segments.get(at + 1..).unwrap_or(&[]);
                return Body { first: segment.skip(skip), rest, len };
            }
            skip -= segment.len();
        }
        Body::EMPTY
    }

    /// Before sleeping: asks the pod to kick. `false` when frames are waiting after all.
    pub fn arm(&self) -> bool {
        self.active.as_ref().is_none_or(|a| {
            a.ring.set_notify(true);
            !a.ring.is_waiting()
        })
    }

    /// After sleeping: asks the pod not to kick.
    pub fn disarm(&self) {
        if let Some(active) = self.active.as_ref() {
            active.ring.set_notify(false);
        }
    }
}

impl Drop for TxLease<'_> {
    #[inline]
    fn drop(&mut self) {
        let Some(active) = self.active.as_mut() else { return };
        active.ring.complete_read(self.chains.all());
        active.flush();
        if let Some(left) = active.drain.as_mut() {
            *left = left.saturating_sub(self.chains.len());
            if active.drained() {
                // No further burst: the session gets the lock now.
                self.queue.active.tell_drained();
            }
        }
        self.chains.clear();
    }
}
