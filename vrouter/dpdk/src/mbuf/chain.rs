//! Packets of more than one buffer, and what is said of a packet beside its bytes.

use std::marker::PhantomData;

use vrouter_dpdk_sys as sys;

use super::{AllocError, MbufBatch, Packet, data_mut, field};
use crate::ethdev::offload::TxWork;

/// A packet that was just added to a batch, to be written piece by piece.
#[derive(Debug)]
pub struct Chain<'b> {
    first: *mut sys::rte_mbuf,
    /// What [`Self::piece`] gives next; null behind the last.
    next: *mut sys::rte_mbuf,
    owner: PhantomData<&'b mut MbufBatch>,
}

impl MbufBatch {
    /// Adds one packet of `len` bytes in as many buffers as it takes: each but the last is filled. Write all pieces, as those
    /// of [`MbufBatch::push`].
    ///
    /// # Errors
    /// [`AllocError`]; a packet takes 64 buffers at most.
    pub fn push_chain(&mut self, len: u32) -> Result<Chain<'_>, AllocError> {
        let full = AllocError::Full { wanted: 1, len: self.len };
        let place = self.raws.get_mut(usize::from(self.len)).ok_or(full)?;
        let room = self.pool.data_room();
        let most = sys::RINGWAY_MBUF_CHAIN_MAX * u32::from(room);
        if len == 0 || len > most {
            return Err(AllocError::TooLong { len: u16::try_from(len).unwrap_or(u16::MAX), room });
        }
        // SAFETY: the handle keeps the pool alive, and there is a place for the one pointer that is written.
        let status = unsafe { sys::ringway_mbuf_alloc_chain(self.pool.raw(), place, len) };
        if status != 0 {
            let wanted = u16::try_from(len.div_ceil(u32::from(room))).unwrap_or(u16::MAX);
            return Err(AllocError::Exhausted { wanted });
        }
        let first = *place;
        self.len += 1;
        Ok(Chain { first, next: first, owner: PhantomData })
    }

    /// Bytes of packet that a buffer of its pool holds.
    pub fn data_room(&self) -> u16 {
        self.pool.data_room()
    }

    /// Bytes of all packets, those in several buffers with all of them.
    pub fn bytes(&self) -> u64 {
        let owned = self.raws.iter().take(usize::from(self.len));
        // SAFETY: the batch owns these live buffers; the offset is that of a field of this type.
        owned.map(|raw| u64::from(unsafe { field::<u32>(*raw, sys::RINGWAY_MBUF_PKT_LEN) })).sum()
    }

    /// Lets `check` look at packets from the front: it is given those that it has not seen and returns how many of them, from
    /// the first on, are right. One that is not goes back to the pool. Returns number and bytes of those.
    ///
    /// # Safety
    /// `check` must own none of them, nor free any.
    pub(crate) unsafe fn sift(
        &mut self,
        mut check: impl FnMut(*mut *mut sys::rte_mbuf, u16) -> u16,
    ) -> (u64, u64) {
        let (mut seen, mut lost) = (0, (0, 0));
        while seen < self.len {
            let rest = self.raws.get_mut(usize::from(seen)..usize::from(self.len));
            let Some(rest) = rest else { break };
            let right = check(rest.as_mut_ptr(), self.len - seen);
            seen = seen.saturating_add(right);
            if seen >= self.len {
                break;
            }
            let Some(wrong) = self.raws.get_mut(usize::from(seen)..usize::from(self.len)) else {
                break;
            };
            // To the end, the others in their order; then it is no longer the batch's.
            wrong.rotate_left(1);
            self.len -= 1;
            if let Some(raw) = self.raws.get_mut(usize::from(self.len)) {
                // SAFETY: a live buffer, and the offset is that of a field of this type.
                let bytes = unsafe { field::<u32>(*raw, sys::RINGWAY_MBUF_PKT_LEN) };
                lost = (lost.0 + 1, lost.1 + u64::from(bytes));
                // SAFETY: the batch owned it, and has just forgotten it.
                unsafe { sys::rte_pktmbuf_free_bulk(raw, 1) };
            }
        }
        lost
    }
}

impl Chain<'_> {
    /// The next piece of the packet, in order; `None` behind the last.
    pub fn piece(&mut self) -> Option<&mut [u8]> {
        if self.next.is_null() {
            return None;
        }
        let raw = self.next;
        // SAFETY: a live buffer of the chain, and the offset is that of a field of this type.
        self.next = unsafe { field::<*mut sys::rte_mbuf>(raw, sys::RINGWAY_MBUF_NEXT) };
        // SAFETY: the batch owns the chain and is borrowed exclusively for this value's lifetime; no piece is given twice, and
        // `&mut self` ends the borrow of the last.
        Some(unsafe { data_mut(raw) })
    }

    /// Leaves work to the device that sends the packet.
    pub fn leave(&mut self, work: &TxWork) {
        // SAFETY: the batch owns this live buffer and is borrowed exclusively.
        unsafe { sys::ringway_mbuf_offload(self.first, &work.raw()) };
    }
}

impl Packet<'_> {
    /// Whether the device that received the packet has found the checksum of its TCP or UDP header right; of one that came
    /// in a tunnel that the device knows, the checksum of the packet inside. `false` says nothing.
    #[inline]
    pub fn checksum_is_good(&self) -> bool {
        // SAFETY: a live buffer, and the offset is that of a field of this type.
        let flags = unsafe { field::<u64>(self.raw, sys::RINGWAY_MBUF_OL_FLAGS) };
        flags & sys::RINGWAY_RX_L4_CHECKSUM == sys::RINGWAY_RX_L4_CHECKSUM_GOOD
    }

    /// Whether that was a packet inside a tunnel.
    #[inline]
    pub fn inner_checksum_is_good(&self) -> bool {
        // SAFETY: as above.
        let kind = unsafe { field::<u32>(self.raw, sys::RINGWAY_MBUF_PACKET_TYPE) };
        let inner = kind & sys::RINGWAY_PTYPE_INNER_L4;
        let is_known =
            inner == sys::RINGWAY_PTYPE_INNER_TCP || inner == sys::RINGWAY_PTYPE_INNER_UDP;
        is_known && kind & sys::RINGWAY_PTYPE_TUNNEL != 0 && self.checksum_is_good()
    }
}
