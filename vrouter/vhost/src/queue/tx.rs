//! What a pod sends: a burst of frames, still in its memory.

use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use super::{Active, Queue};
use crate::memory::Segment;
use crate::split::{ChainFault, MAX_CHAIN};

/// Frames a worker takes from a queue at once.
pub const BURST: usize = BURST_ENTRIES as usize;
const BURST_ENTRIES: u16 = 32;

/// Segments a burst may have together; one more chain is only begun while [`MAX_CHAIN`] fit.
const BURST_SEGMENTS: usize = 4 * BURST + 2 * MAX_CHAIN;

/// Why a frame the pod sent cannot be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameFault {
    /// Descriptors that point outside memory, the wrong way, or hold less than the virtio-net header.
    BadDescriptor,
    /// More descriptors than supported.
    ChainTooLong,
    /// The header asks for checksum or segmentation, which was not offered.
    UnsupportedOffload,
}

#[derive(Clone, Copy)]
struct Frame {
    head: u16,
    fault: Option<FrameFault>,
    /// Bytes of the Ethernet frame.
    len: u32,
    /// The frame's segments in the burst's arena.
    first: usize,
    end: usize,
}

/// Room for one burst of sent frames; allocated once per worker.
pub struct TxBurst {
    frames: Vec<Frame>,
    segments: Vec<Segment>,
}

impl TxBurst {
    /// Allocates for [`BURST`] frames.
    pub fn new() -> Self {
        Self { frames: Vec::with_capacity(BURST), segments: Vec::with_capacity(BURST_SEGMENTS) }
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
    pub(super) segments: &'a [Segment],
    /// Bytes to skip in the first segment.
    pub(super) skip: u32,
    pub(super) len: u32,
}

impl Body<'_> {
    /// No bytes: for frames that are wholly in private memory.
    pub const EMPTY: Self = Body { segments: &[], skip: 0, len: 0 };
}

/// One burst of frames that a pod sent. Dropping it gives the buffers back to the pod.
pub struct TxLease<'q> {
    active: MutexGuard<'q, Option<Active>>,
    burst: &'q mut TxBurst,
    queue: &'q Queue,
}

impl<'q> TxLease<'q> {
    pub(super) fn new(
        active: MutexGuard<'q, Option<Active>>,
        burst: &'q mut TxBurst,
        queue: &'q Queue,
    ) -> Self {
        burst.frames.clear();
        burst.segments.clear();
        Self { active, burst, queue }
    }

    /// Takes up to [`BURST`] frames; returns how many.
    #[inline]
    pub fn fetch(&mut self) -> usize {
        let Some(active) = self.active.as_mut() else { return 0 };
        let want = BURST_ENTRIES;
        let waiting = match active.ring.available(want) {
            Ok(n) => n.min(want),
            Err(error) => {
                self.queue.give_up(active, error);
                return 0;
            }
        };
        let header = active.format.header;
        for ahead in 0..waiting {
            let first = self.burst.segments.len();
            if ahead > 0 && self.burst.segments.capacity() - first < MAX_CHAIN + 8 {
                break;
            }
            let (head, chain) = active.ring.walk(ahead, &mut self.burst.segments);
            let mut frame = Frame { head, fault: None, len: 0, first, end: first };
            let stripped = chain.map(|bytes| {
                // SAFETY: the segments were just resolved in the memory of `active.ring`, which the lease holds.
                unsafe { strip(&mut self.burst.segments, first, bytes, header) }
            });
            match stripped {
                Ok(Ok((len, from))) => {
                    frame.len = len;
                    frame.first = from;
                    frame.end = self.burst.segments.len();
                }
                Ok(Err(fault)) => frame.fault = Some(fault),
                Err(ChainFault::Bad) => frame.fault = Some(FrameFault::BadDescriptor),
                Err(ChainFault::TooLong) => frame.fault = Some(FrameFault::ChainTooLong),
            }
            if frame.fault.is_some() {
                self.burst.segments.truncate(first);
            }
            self.burst.frames.push(frame);
        }
        self.burst.frames.len()
    }

    /// Frames of this burst.
    pub fn len(&self) -> usize {
        self.burst.frames.len()
    }

    /// Whether nothing was fetched.
    pub fn is_empty(&self) -> bool {
        self.burst.frames.is_empty()
    }

    /// Bytes of frame `i` without FCS, or why it can't be used.
    ///
    /// # Errors
    /// What the pod did wrong with this frame. A frame outside the burst is [`FrameFault::BadDescriptor`].
    #[inline]
    pub fn frame(&self, i: usize) -> Result<u32, FrameFault> {
        let frame = self.burst.frames.get(i).ok_or(FrameFault::BadDescriptor)?;
        frame.fault.map_or(Ok(frame.len), Err)
    }

    /// Copies the first bytes of frame `i` into private memory, once; returns how many.
    #[inline]
    pub fn read_header(&self, i: usize, into: &mut [u8]) -> usize {
        let mut done = 0;
        for segment in self.segments(i) {
            let Some(rest) = into.get_mut(done..).filter(|r| !r.is_empty()) else { break };
            // SAFETY: resolved in the memory of the ring this lease holds.
            done += unsafe { segment.read(rest) };
        }
        done
    }

    /// What lies behind the first `header` bytes of frame `i`, still in the pod's memory.
    #[inline]
    pub fn body(&self, i: usize, header: u32) -> Body<'_> {
        let len = self.frame(i).unwrap_or(0).saturating_sub(header);
        let mut skip = header;
        let segments = self.segments(i);
        for (at, segment) in segments.iter().enumerate() {
            if skip < segment.len() {
                return Body { segments: segments.get(at..).unwrap_or(&[]), skip, len };
            }
            skip -= segment.len();
        }
        Body::EMPTY
    }

    fn segments(&self, i: usize) -> &[Segment] {
        self.burst
            .frames
            .get(i)
            .and_then(|f| self.burst.segments.get(f.first..f.end))
            .unwrap_or(&[])
    }

    /// Before sleeping: asks the pod to kick. `false` when frames are waiting after all.
    pub fn arm(&self) -> bool {
        self.active.as_ref().is_none_or(|a| {
            a.ring.set_notify(true);
            a.ring.load_available() == a.ring.next_available()
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
        for frame in &self.burst.frames {
            active.ring.give_back(frame.head, 0);
        }
        active.flush();
        if active.drain_to.is_some() && active.drained() {
            // No further burst: the session gets the lock now.
            self.queue.running.store(false, Ordering::Release);
            self.queue.drained.notify_all();
        }
    }
}

/// Takes the virtio-net header off a chain whose segments start at `first`; returns the bytes behind it and the
/// segment they begin in.
///
/// # Safety
/// The memory of the segments must be alive.
#[inline]
unsafe fn strip(
    segments: &mut [Segment],
    first: usize,
    bytes: u32,
    header: u8,
) -> Result<(u32, usize), FrameFault> {
    let len = bytes.checked_sub(u32::from(header)).ok_or(FrameFault::BadDescriptor)?;
    // flags and gso_type: virtio 1.2, 5.1.6.2. Neither may be set, as no offload was offered.
    let mut start = [0u8; 2];
    let mut have = 0;
    let mut left = u32::from(header);
    let mut at = first;
    while left > 0 {
        let segment = segments.get_mut(at).ok_or(FrameFault::BadDescriptor)?;
        if let Some(rest) = start.get_mut(have..).filter(|r| !r.is_empty()) {
            // SAFETY: alive by contract.
            have += unsafe { segment.read(rest) };
        }
        if segment.len() <= left {
            left -= segment.len();
            at += 1;
        } else {
            *segment = segment.skip(left);
            left = 0;
        }
    }
    if start != [0, 0] {
        return Err(FrameFault::UnsupportedOffload);
    }
    Ok((len, at))
}
