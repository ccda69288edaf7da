//! What a pod receives: frames written into the buffers it offered.

use super::tx::{BURST, LINE_BYTES};
use super::{Active, Body, Held, PlainBurst, Queue, TxLease};
use crate::memory::Segment;
use crate::offload::Offload;
use crate::ring::{Chains, MAX_CHAIN};

/// Room for the buffers of received frames; allocated once per worker.
pub struct RxScratch {
    /// Chains taken from the ring and not used yet.
    ready: Chains,
}

impl RxScratch {
    /// Allocates for a burst, or for the largest frame.
    pub fn new() -> Self {
        Self { ready: Chains::new(BURST + MAX_CHAIN) }
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
    /// The frame leaves work to its receiver that this pod has not agreed to do.
    Offload,
}

/// A frame of a plain burst, and what is sent in front of its own bytes.
#[derive(Clone, Copy, Debug)]
pub struct Headed<'h> {
    /// Its place in the burst.
    pub frame: usize,
    /// What is sent first, such as the header of a tunnel.
    pub front: &'h [u8],
    /// What follows.
    pub head: &'h [u8],
    /// How many of its own bytes both replace.
    pub skip: u32,
    /// How many of those behind are sent; less if there are less.
    pub len: u32,
}

/// What was delivered of a plain burst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// The first so many frames of those wanted.
    pub frames: usize,
    /// Bytes of them, without virtio-net headers and frame check sequences.
    pub bytes: u64,
}

/// One burst of frames to a pod. Dropping it publishes them.
pub struct RxLease<'q> {
    active: Held<'q, Active>,
    ready: &'q mut Chains,
    queue: &'q Queue,
    /// The virtio-net header has 12 bytes.
    modern: bool,
}

const PLAIN_BYTES: u32 = 12;

/// The virtio-net header of a frame in one buffer that leaves nothing to do (virtio 1.2, 5.1.6.4: `num_buffers`
/// is 1 also without MRG_RXBUF).
const PLAIN: [u8; PLAIN_BYTES as usize] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

impl<'q> RxLease<'q> {
    pub(super) fn new(
        active: Held<'q, Active>,
        scratch: &'q mut RxScratch,
        queue: &'q Queue,
    ) -> Self {
        scratch.ready.clear();
        let modern = active.as_ref().is_some_and(|a| usize::from(a.format.header) == PLAIN.len());
        Self { active, ready: &mut scratch.ready, queue, modern }
    }

    /// Gets buffers for `frames` frames ready, so that the CPU fetches them all at once. Without it, and for frames
    /// that need more than one, [`Self::push`] gets them itself.
    #[inline]
    pub fn prepare(&mut self, frames: usize) {
        let Some(active) = self.active.as_mut() else { return };
        let wanted = frames.saturating_sub(self.ready.len());
        let net_header = u32::from(active.format.header);
        let taken = active.ring.take(wanted, self.ready, |buffer| {
            buffer.prefetch_read(0);
            buffer.prefetch_write(net_header);
        });
        if let Err(error) = taken {
            return self.queue.give_up(active, error);
        }
        active.ring.look_ahead();
    }

    /// Whether the pod may be told that a frame's checksum is right (virtio 1.2, 5.1.6.4.1): only one that has agreed to
    /// checksums being left to it.
    pub fn takes_word(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.format.offloads.checksum)
    }

    /// Delivers frames of a plain burst as [`Self::forward`] does, until one needs more than one plain buffer.
    #[inline(always)]
    pub fn forward_plain<'h>(
        &mut self,
        from: PlainBurst<'_>,
        wanted: impl Iterator<Item = Headed<'h>>,
    ) -> Delivered {
        let (true, Some(buffers), Some(active)) =
            (self.modern, self.ready.all_simple(), self.active.as_mut())
        else {
            return Delivered::default();
        };
        let mut written = [0; BURST];
        let Delivered { mut frames, mut bytes } = Delivered::default();
        for ((it, buffer), written) in wanted.zip(buffers).zip(&mut written) {
            let Some(frame) = from.frame(it.frame) else { break };
            let length = |head: &[u8]| u32::try_from(head.len()).unwrap_or(u32::MAX);
            let (front, head) = (length(it.front), length(it.head));
            let rest = frame.memory.skip(it.skip).first(it.len);
            // In 64 bits, where so few lengths of 32 can't overflow.
            let sent = u64::from(front) + u64::from(head) + u64::from(rest.len());
            if u64::from(PLAIN_BYTES) + sent > u64::from(buffer.bytes) {
                break;
            }
            let to = buffer.first;
            // SAFETY: resolved in the memory of the ring this lease holds.
            unsafe { to.assign(&PLAIN) };
            let mut to = to.skip(PLAIN_BYTES);
            if front > 0 {
                // SAFETY: as above.
                unsafe { write_head(to, it.front) };
                to = to.skip(front);
            }
            // SAFETY: as above.
            unsafe { write_head(to, it.head) };
            if rest.len() > 0 {
                // SAFETY: as above; `from` borrows from the lease that holds the sender's memory.
                unsafe { rest.copy_to(to.skip(head)) };
            }
            *written = PLAIN_BYTES + front + head + rest.len();
            frames += 1;
            bytes += sent;
        }
        let (buffers, written) = (buffers.get(..frames).unwrap_or(&[]), written.get(..frames));
        active.ring.complete_written(buffers, written.unwrap_or(&[]));
        self.ready.consume(frames);
        Delivered { frames, bytes }
    }

    /// Delivers frame `i` of a burst: `header` from private memory, which replaces as many of its bytes, the rest
    /// straight from the sender's memory.
    ///
    /// # Errors
    /// [`PushError`]; the frame is then not delivered. Buffers of the pod that are unusable are given back empty.
    #[inline(always)]
    pub fn forward(
        &mut self,
        from: &TxLease<'_>,
        i: usize,
        header: &[u8],
        offload: &Offload,
    ) -> Result<(), PushError> {
        // A longer head, if there is one, takes the general way.
        let bytes = u32::try_from(header.len()).unwrap_or(u32::MAX);
        if self.modern
            && bytes <= LINE_BYTES
            && offload.is_none()
            && let Some(rest) = from.simple_rest(i, bytes)
            && let Some(total) = rest.len().checked_add(PLAIN_BYTES + bytes)
            && let Some(chain) = self.ready.front()
            && chain.is_simple()
            && total <= chain.bytes
            && let Some(active) = self.active.as_mut()
        {
            let to = chain.first;
            // SAFETY: resolved in the memory of the ring this lease holds.
            unsafe { to.assign(&PLAIN) };
            let to = to.skip(PLAIN_BYTES);
            // SAFETY: as above.
            unsafe { to.write_line(header) };
            if rest.len() > 0 {
                // SAFETY: as above; `from` holds the sender's memory.
                unsafe { rest.copy_to(to.skip(bytes)) };
            }
            active.ring.complete(chain, total);
            self.ready.consume_first();
            return Ok(());
        }
        self.push(header, from.body(i, bytes), offload)
    }

    /// Delivers one frame: `header` from private memory, `body` straight from the sender's memory.
    ///
    /// # Errors
    /// As [`Self::forward`].
    #[inline]
    pub fn push(
        &mut self,
        header: &[u8],
        body: Body<'_>,
        offload: &Offload,
    ) -> Result<(), PushError> {
        self.push_behind(&[], header, body, offload)
    }

    /// The same behind other bytes from private memory. `offload` is about the frame they make together.
    ///
    /// # Errors
    /// As [`Self::forward`].
    #[inline(never)]
    pub fn push_behind(
        &mut self,
        front: &[u8],
        header: &[u8],
        body: Body<'_>,
        offload: &Offload,
    ) -> Result<(), PushError> {
        let Some(active) = self.active.as_mut() else { return Err(PushError::RingFull) };
        if !active.format.offloads.accepts(offload) {
            return Err(PushError::Offload);
        }
        let net_header = u32::from(active.format.header);
        let total = u32::try_from(front.len() + header.len())
            .ok()
            .and_then(|n| n.checked_add(net_header))
            .and_then(|n| n.checked_add(body.len))
            .ok_or(PushError::BufferTooSmall)?;
        let buffers = collect(self.queue, active, self.ready, total)?;

        // num_buffers is the last field (virtio 1.2, 5.1.6.4).
        let [f0, f1, f2, f3, f4, f5, f6, f7, f8, f9] = offload.fields();
        let [b0, b1] = buffers.to_le_bytes();
        let net = [f0, f1, f2, f3, f4, f5, f6, f7, f8, f9, b0, b1];
        let net = net.get(..usize::from(active.format.header)).unwrap_or(&net);

        let chains = self.ready.all().iter().take(usize::from(buffers));
        let mut to = Writer { rest: chains.flat_map(|c| self.ready.segments(c)), room: None };
        // SAFETY: the destination segments were resolved in the memory of this lease's ring.
        unsafe { to.bytes(net) };
        // SAFETY: as above.
        unsafe { to.bytes(front) };
        // SAFETY: as above.
        unsafe { to.bytes(header) };
        let mut left = body.len;
        for piece in body.segments() {
            // SAFETY: as above; the source's memory is held by the lease that `body` borrows from, or is the slice that
            // it borrows.
            unsafe { to.guest(piece.first(left)) };
            left = left.saturating_sub(piece.len());
        }

        let mut left = total;
        for chain in self.ready.all().iter().take(usize::from(buffers)) {
            let written = left.min(chain.bytes);
            left -= written;
            active.ring.complete(chain, written);
        }
        self.ready.consume(usize::from(buffers));
        Ok(())
    }
}

impl Drop for RxLease<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(active) = self.active.as_mut() {
            active.ring.put_back(self.ready.all());
            active.flush();
        }
        self.ready.clear();
    }
}

/// Writes the head of a frame, or part of it. Most are no longer than one line, and nearly all no longer than two: they need
/// no call.
///
/// # Safety
/// The memory of the segment must be alive.
#[inline(always)]
unsafe fn write_head(to: Segment, head: &[u8]) {
    match head.split_first_chunk::<{ LINE_BYTES as usize }>() {
        // SAFETY: alive by contract.
        None => unsafe { to.write_line(head) },
        Some((line, rest)) if rest.len() <= line.len() => {
            // SAFETY: as above.
            unsafe { to.write_line(line) };
            // SAFETY: as above.
            unsafe { to.skip(LINE_BYTES).write_line(rest) }
        }
        // SAFETY: as above.
        Some(_) => unsafe { to.write(head) },
    };
}

/// Sees to it that the first chains in `ready` have `total` bytes; returns how many they are. Takes chains with
/// faults out: they go back empty, in their turn.
fn collect(
    queue: &Queue,
    active: &mut Active,
    ready: &mut Chains,
    total: u32,
) -> Result<u16, PushError> {
    let mut room: u32 = 0;
    let mut buffers: u16 = 0;
    while room < total {
        let at = usize::from(buffers);
        if at == ready.len() {
            if ready.room() == 0 {
                ready.compact();
            }
            match active.ring.take(1, ready, |_| {}) {
                Ok(1) => {}
                Ok(_) => return Err(PushError::RingFull),
                Err(error) => {
                    queue.give_up(active, error);
                    return Err(PushError::RingFull);
                }
            }
        }
        let Some(chain) = ready.get(at) else { return Err(PushError::RingFull) };
        if chain.fault.is_some() {
            // In the order they were offered: the good ones before it go back empty too.
            for chain in ready.all().iter().take(at + 1) {
                active.ring.complete(chain, 0);
            }
            ready.consume(at + 1);
            return Err(PushError::BadDescriptor);
        }
        room = room.saturating_add(chain.bytes);
        if !active.format.mergeable && room < total {
            return Err(PushError::BufferTooSmall);
        }
        buffers += 1;
        if usize::from(buffers) == MAX_CHAIN && room < total {
            return Err(PushError::BufferTooSmall);
        }
    }
    Ok(buffers)
}

/// Writes private and guest bytes one after the other into the pod's segments.
struct Writer<'a, I: Iterator<Item = &'a Segment>> {
    rest: I,
    /// What is left of the segment that is being filled.
    room: Option<Segment>,
}

impl<'a, I: Iterator<Item = &'a Segment>> Writer<'a, I> {
    fn target(&mut self) -> Option<Segment> {
        while self.room.is_none_or(|s| s.len() == 0) {
            self.room = Some(*self.rest.next()?);
        }
        self.room
    }

    fn advance(&mut self, n: usize) {
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        self.room = self.room.map(|s| s.skip(n));
    }

    /// # Safety
    /// The memory of the destination segments must be alive.
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
