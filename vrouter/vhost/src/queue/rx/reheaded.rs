//! Frames whose head is not as long as what it stands for: into a tunnel and out of one.

use super::{LINE_BYTES, PLAIN, PLAIN_BYTES, PushError, RxLease};
use crate::offload::Offload;
use crate::queue::{HEAD_BYTES, TxLease};

/// Most bytes of a header that is put in front of a frame.
const FRONT_BYTES: usize = 72;

/// What of a sender's frame is sent as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// Bytes in front of it.
    pub skip: u32,
    /// Its bytes; less if the frame has less.
    pub len: u32,
}

impl RxLease<'_> {
    /// Delivers part of frame `i` of a burst behind other bytes from private memory: first `front`, then `head`, then
    /// `rest` of the frame straight from the sender's memory.
    ///
    /// # Errors
    /// As [`RxLease::forward`]. [`PushError::BufferTooSmall`] too when `front` and `head` are longer than any head.
    #[inline]
    pub fn forward_reheaded(
        &mut self,
        from: &TxLease<'_>,
        i: usize,
        front: &[u8],
        head: &[u8],
        rest: Rest,
        offload: &Offload,
    ) -> Result<(), PushError> {
        let front_bytes = u32::try_from(front.len()).unwrap_or(u32::MAX);
        let head_bytes = u32::try_from(head.len()).unwrap_or(u32::MAX);
        if self.modern
            && front_bytes <= LINE_BYTES
            && head_bytes <= LINE_BYTES
            && offload.is_none()
            && let Some(body) = from.simple_rest(i, rest.skip)
            && let body = body.first(rest.len)
            && let heads = PLAIN_BYTES + front_bytes + head_bytes
            && let Some(total) = body.len().checked_add(heads)
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
            unsafe { to.write_line(front) };
            let to = to.skip(front_bytes);
            // SAFETY: as above.
            unsafe { to.write_line(head) };
            if body.len() > 0 {
                // SAFETY: as above; `from` holds the sender's memory.
                unsafe { body.copy_to(to.skip(head_bytes)) };
            }
            active.ring.complete(chain, total);
            self.ready.consume_first();
            return Ok(());
        }
        self.push_reheaded(from, i, front, head, rest, offload)
    }

    /// The same, whatever the buffers are like.
    #[inline(never)]
    fn push_reheaded(
        &mut self,
        from: &TxLease<'_>,
        i: usize,
        front: &[u8],
        head: &[u8],
        rest: Rest,
        offload: &Offload,
    ) -> Result<(), PushError> {
        let mut both = [0; FRONT_BYTES + HEAD_BYTES];
        let bytes = front.len() + head.len();
        let room = both.get_mut(..bytes).ok_or(PushError::BufferTooSmall)?;
        for (to, from) in room.iter_mut().zip(front.iter().chain(head)) {
            *to = *from;
        }
        self.push(room, from.body(i, rest.skip).first(rest.len), offload)
    }
}
