//! One virtqueue of a port, shared by the session that starts and stops it and the worker that runs it.
//!
//! A queue is a mutex around an optional ring. The worker takes the lock once per burst; the session takes it to
//! put a ring in or take it out, and once it has it, no worker touches the pod's memory. That is the whole
//! protocol between the two; there is no other state to agree on.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use crate::memory::{GuestMemory, Segment};
use crate::split::{ChainFault, Direction, MAX_CHAIN, RingAddresses, RingError, SplitRing};

/// Frames a worker takes from a queue at once.
pub const BURST: usize = BURST_ENTRIES as usize;
const BURST_ENTRIES: u16 = 32;

/// Segments a burst may have together; one more chain is only begun while [`MAX_CHAIN`] fit.
const BURST_SEGMENTS: usize = 4 * BURST + 2 * MAX_CHAIN;

/// How long stopping a queue waits for the worker to take what the pod sent before. A full ring takes well under
/// a millisecond; the limit only matters when the worker is stopped.
const DRAIN_LIMIT: Duration = Duration::from_millis(200);

/// What the frontend accepted, as far as rings care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingFormat {
    /// Bytes of `struct virtio_net_hdr` in front of each frame: 10 or 12 (virtio 1.2, 5.1.6).
    pub header: u8,
    /// A received frame may span several buffers (VIRTIO_NET_F_MRG_RXBUF).
    pub mergeable: bool,
}

struct Active {
    ring: SplitRing,
    format: RingFormat,
    call: Option<OwnedFd>,
    /// Why the ring is no longer served although it is set up.
    broken: Option<RingError>,
    /// Stop was asked for when the guest's available index stood here.
    drain_to: Option<u16>,
}

impl Active {
    fn drained(&self) -> bool {
        let Some(target) = self.drain_to else { return true };
        // Free-running indexes: reached or passed when the distance to go is not a small positive number.
        let left = target.wrapping_sub(self.ring.next_available());
        self.broken.is_some() || left == 0 || left > crate::split::MAX_QUEUE_SIZE
    }

    /// Publishes what was given back and interrupts the guest if it wants that.
    #[inline]
    fn flush(&mut self) {
        if self.ring.publish()
            && let Some(call) = &self.call
            && self.ring.wants_interrupt()
        {
            // The descriptor is an eventfd of ours, non-blocking (see `guard::relay`): a full counter means
            // that the guest has an interrupt pending anyway.
            let _ = nix::unistd::write(call.as_fd(), &1u64.to_ne_bytes());
        }
    }
}

/// A virtqueue: empty until the pod has set it up and enabled it.
pub struct Queue {
    active: Mutex<Option<Active>>,
    /// A hint for the worker, so that idle queues cost one load.
    running: AtomicBool,
    drained: Condvar,
}

/// Everything needed to take a queue into use.
pub(crate) struct Activation {
    pub memory: Arc<GuestMemory>,
    pub addresses: RingAddresses,
    pub direction: Direction,
    pub format: RingFormat,
    pub call: Option<OwnedFd>,
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self { active: Mutex::new(None), running: AtomicBool::new(false), drained: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Active>> {
        // A panic while the lock was held leaves ring positions that are still bounded and checked.
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the queue carries traffic.
    #[inline]
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    /// Why the queue stopped by itself, if it did.
    pub(crate) fn broken(&self) -> Option<RingError> {
        self.lock().as_ref()?.broken
    }

    pub(crate) fn start(&self, with: Activation) -> Result<(), RingError> {
        let ring = SplitRing::new(with.memory, with.addresses, with.direction)?;
        // Ring memory starts zeroed, which asks for nothing: say that we poll, or each burst costs the pod a kick.
        ring.set_notify(false);
        let mut active = self.lock();
        *active = Some(Active {
            ring,
            format: with.format,
            call: with.call,
            broken: None,
            drain_to: None,
        });
        self.running.store(true, Ordering::Release);
        Ok(())
    }

    /// Replaces the call descriptor of a running queue.
    pub(crate) fn set_call(&self, call: Option<OwnedFd>) {
        if let Some(active) = self.lock().as_mut() {
            active.call = call;
        }
    }

    /// Takes the queue out of use; when it returns, no worker touches its memory any more.
    ///
    /// With `wake`, what the pod had sent before is forwarded first: the worker is woken and given
    /// [`DRAIN_LIMIT`]. Returns the position to go on from.
    pub(crate) fn stop(&self, wake: Option<&dyn Fn()>) -> Option<u16> {
        let mut active = self.lock();
        if let (Some(wake), Some(ring)) = (wake, active.as_mut()) {
            ring.drain_to = Some(ring.ring.load_available());
            if !ring.drained() {
                wake();
                active = self
                    .drained
                    .wait_timeout_while(active, DRAIN_LIMIT, |a| {
                        a.as_ref().is_some_and(|a| !a.drained())
                    })
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
        }
        self.running.store(false, Ordering::Release);
        active.take().map(|a| a.ring.next_available())
    }

    /// Starts receiving from the pod: a lease for one burst. `None` when the queue is off or being changed.
    #[inline]
    pub fn lease_tx<'q>(&'q self, burst: &'q mut TxBurst) -> Option<TxLease<'q>> {
        if !self.is_running() {
            return None;
        }
        let active = match self.active.try_lock() {
            Ok(active) => active,
            Err(TryLockError::Poisoned(p)) => p.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        if active.as_ref().is_none_or(|a| a.broken.is_some()) {
            return None;
        }
        burst.clear();
        Some(TxLease { active, burst, queue: self })
    }

    /// Starts sending to the pod: a lease for one burst. `None` when the queue is off.
    #[inline]
    pub fn lease_rx<'q>(&'q self, scratch: &'q mut RxScratch) -> Option<RxLease<'q>> {
        if !self.is_running() {
            return None;
        }
        // Held by another worker for one burst, or by a session for a few instructions: waiting is right.
        let active = self.lock();
        active.as_ref().is_some_and(|a| a.broken.is_none()).then(|| RxLease {
            active,
            scratch,
            queue: self,
        })
    }
}

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

    fn clear(&mut self) {
        self.frames.clear();
        self.segments.clear();
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
    segments: &'a [Segment],
    /// Bytes to skip in the first segment.
    skip: u32,
    len: u32,
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

impl TxLease<'_> {
    /// Takes up to [`BURST`] frames; returns how many.
    #[inline]
    pub fn fetch(&mut self) -> usize {
        let Some(active) = self.active.as_mut() else { return 0 };
        let want = BURST_ENTRIES;
        let waiting = match active.ring.available(want) {
            Ok(n) => n.min(want),
            Err(error) => {
                active.broken = Some(error);
                self.queue.running.store(false, Ordering::Release);
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

/// Room to collect the buffers of one received frame; allocated once per worker.
pub struct RxScratch {
    segments: Vec<Segment>,
    /// Head and bytes of each chain used.
    chains: Vec<(u16, u32)>,
}

impl RxScratch {
    /// Allocates for the largest frame.
    pub fn new() -> Self {
        Self { segments: Vec::with_capacity(4 * MAX_CHAIN), chains: Vec::with_capacity(MAX_CHAIN) }
    }
}

impl Default for RxScratch {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a frame was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError {
    /// The pod has no free buffers (enough) now.
    RingFull,
    /// The pod's buffer can't hold the frame and it does not take frames over several buffers.
    BufferTooSmall,
    /// The pod's buffers are unusable.
    BadDescriptor,
}

/// One burst of frames to a pod. Dropping it publishes them.
pub struct RxLease<'q> {
    active: MutexGuard<'q, Option<Active>>,
    scratch: &'q mut RxScratch,
    queue: &'q Queue,
}

impl RxLease<'_> {
    /// Delivers one frame: `header` from private memory, `body` straight from the sender's memory.
    ///
    /// # Errors
    /// [`PushError`]; the frame is then not delivered. Buffers of the pod that are unusable are given back empty.
    #[inline]
    pub fn push(&mut self, header: &[u8], body: Body<'_>) -> Result<(), PushError> {
        let Some(active) = self.active.as_mut() else { return Err(PushError::RingFull) };
        let net_header = u32::from(active.format.header);
        let header_len = u32::try_from(header.len()).map_err(|_| PushError::BufferTooSmall)?;
        let total = net_header
            .checked_add(header_len)
            .and_then(|n| n.checked_add(body.len))
            .ok_or(PushError::BufferTooSmall)?;
        let buffers = collect(active, self.scratch, total)?;

        let mut net = [0u8; 12];
        // num_buffers, the last field (virtio 1.2, 5.1.6.4); all else stays 0: no offload was offered.
        net[10..12].copy_from_slice(&buffers.to_le_bytes());
        let net = net.get(..usize::from(active.format.header)).unwrap_or(&net);

        let mut to = Writer { segments: &self.scratch.segments, at: 0 };
        // SAFETY: the destination segments were just resolved in the memory of this lease's ring.
        unsafe { to.bytes(net) };
        // SAFETY: as above.
        unsafe { to.bytes(header) };
        let mut skip = body.skip;
        for segment in body.segments {
            // SAFETY: as above; the source's memory is held by the lease that `body` borrows from.
            unsafe { to.guest(segment.skip(skip)) };
            skip = 0;
        }

        let mut left = total;
        for &(head, room) in &self.scratch.chains {
            let written = left.min(room);
            left -= written;
            active.ring.give_back(head, written);
        }
        Ok(())
    }
}

impl Drop for RxLease<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(active) = self.active.as_mut() {
            active.flush();
            if active.broken.is_some() {
                self.queue.running.store(false, Ordering::Release);
            }
        }
    }
}

/// Collects chains of the pod for `total` bytes into `scratch`; returns how many.
#[inline]
fn collect(active: &mut Active, scratch: &mut RxScratch, total: u32) -> Result<u16, PushError> {
    scratch.segments.clear();
    scratch.chains.clear();
    let mut room: u32 = 0;
    let mut ahead: u16 = 0;
    while room < total {
        match active.ring.available(ahead + 1) {
            Ok(n) if n > ahead => {}
            Ok(_) => return Err(PushError::RingFull),
            Err(error) => {
                active.broken = Some(error);
                return Err(PushError::RingFull);
            }
        }
        let before = scratch.segments.len();
        let (head, chain) = active.ring.walk(ahead, &mut scratch.segments);
        let Ok(bytes) = chain else {
            // Only the chain at the front may be given back without the ones before it.
            scratch.segments.truncate(before);
            if ahead == 0 {
                active.ring.give_back(head, 0);
            } else {
                for &(head, _) in &scratch.chains {
                    active.ring.give_back(head, 0);
                }
                active.ring.give_back(head, 0);
            }
            return Err(PushError::BadDescriptor);
        };
        room = room.saturating_add(bytes);
        if !active.format.mergeable && room < total {
            return Err(PushError::BufferTooSmall);
        }
        scratch.chains.push((head, bytes));
        ahead += 1;
        if usize::from(ahead) == MAX_CHAIN && room < total {
            return Err(PushError::BufferTooSmall);
        }
    }
    Ok(ahead)
}

/// Writes private and guest bytes one after the other into the pod's segments.
struct Writer<'a> {
    segments: &'a [Segment],
    at: u32,
}

impl Writer<'_> {
    #[inline]
    fn target(&self) -> Option<Segment> {
        Some(self.segments.first()?.skip(self.at))
    }

    #[inline]
    fn advance(&mut self, n: usize) {
        self.at = self.at.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
        if self.segments.first().is_some_and(|s| self.at >= s.len()) {
            self.segments = self.segments.get(1..).unwrap_or(&[]);
            self.at = 0;
        }
    }

    /// # Safety
    /// The memory of the destination segments must be alive.
    #[inline]
    unsafe fn bytes(&mut self, mut from: &[u8]) {
        while !from.is_empty() {
            let Some(to) = self.target() else { return };
            // SAFETY: alive by contract.
            let n = unsafe { to.write(from) };
            from = from.get(n..).unwrap_or(&[]);
            self.advance(n);
        }
    }

    /// # Safety
    /// The memory of `from` and of the destination segments must be alive.
    #[inline]
    unsafe fn guest(&mut self, mut from: Segment) {
        while from.len() > 0 {
            let Some(to) = self.target() else { return };
            // SAFETY: alive by contract.
            let n = unsafe { from.copy_to(to) };
            from = from.skip(u32::try_from(n).unwrap_or(u32::MAX));
            self.advance(n);
        }
    }
}

#[cfg(test)]
mod tests;
