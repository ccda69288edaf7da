//! What a pod receives: frames written into the buffers it offered.

use std::sync::MutexGuard;

use super::{Active, Body, Queue};
use crate::memory::Segment;
use crate::split::MAX_CHAIN;

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

impl<'q> RxLease<'q> {
    pub(super) fn new(
        active: MutexGuard<'q, Option<Active>>,
        scratch: &'q mut RxScratch,
        queue: &'q Queue,
    ) -> Self {
        Self { active, scratch, queue }
    }

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
        let buffers = collect(self.queue, active, self.scratch, total)?;

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
        }
    }
}

/// Collects chains of the pod for `total` bytes into `scratch`; returns how many.
#[inline]
fn collect(
    queue: &Queue,
    active: &mut Active,
    scratch: &mut RxScratch,
    total: u32,
) -> Result<u16, PushError> {
    scratch.segments.clear();
    scratch.chains.clear();
    let mut room: u32 = 0;
    let mut ahead: u16 = 0;
    while room < total {
        match active.ring.available(ahead + 1) {
            Ok(n) if n > ahead => {}
            Ok(_) => return Err(PushError::RingFull),
            Err(error) => {
                queue.give_up(active, error);
                return Err(PushError::RingFull);
            }
        }
        let (head, chain) = active.ring.walk(ahead, &mut scratch.segments);
        let Ok(bytes) = chain else {
            // In the order they were offered: the good ones before it go back empty too.
            for &(head, _) in &scratch.chains {
                active.ring.give_back(head, 0);
            }
            active.ring.give_back(head, 0);
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
