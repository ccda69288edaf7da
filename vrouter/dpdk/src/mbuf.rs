//! Packet buffers: one, or a batch of them.

pub(crate) mod chain;

use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::slice;

use vrouter_dpdk_sys as sys;

use crate::pool::Pool;

/// Buffers were not taken; none was. Small and free of text: the packet path sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AllocError {
    /// The pool has fewer.
    #[error("packet pool exhausted: {wanted} buffers wanted")]
    Exhausted {
        /// Buffers asked for.
        wanted: u16,
    },
    /// The batch has no place for them.
    #[error("packet batch full: {wanted} buffers wanted on top of {len}")]
    Full {
        /// Buffers asked for.
        wanted: u16,
        /// Buffers in the batch.
        len: u16,
    },
    /// The packets asked for do not fit the pool's buffers.
    #[error("packets of {len} bytes wanted from buffers of {room}")]
    TooLong {
        /// Bytes asked for.
        len: u16,
        /// Bytes a buffer holds.
        room: u16,
    },
}

/// A packet does not fit its buffer; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no room for {len} more bytes in the packet buffer")]
pub struct NoRoom {
    /// Bytes asked for.
    pub len: u16,
}

/// A batch is of another pool than the one the buffers are, or must be, from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the packet batch belongs to another pool")]
pub struct WrongPool;

/// One packet buffer, returned to its pool when dropped. Its owner is the only one: it is never shared,
/// chained or referenced twice.
#[derive(Debug)]
pub struct Mbuf {
    raw: NonNull<sys::rte_mbuf>,
    /// Keeps the pool, and so the buffer's memory, until the buffer is back.
    _pool: Pool,
}

// SAFETY: a buffer belongs to no thread. Its memory is reached only through its one owner, and returning it
// from another thread than the one that took it is what mempools are made for. Test
// `buffers_move_between_threads` returns buffers from a thread that never took one.
unsafe impl Send for Mbuf {}

impl Mbuf {
    pub(crate) fn alloc(pool: &Pool) -> Result<Self, AllocError> {
        let mut raw = ptr::null_mut();
        // SAFETY: the handle keeps the pool alive, and there is room for the one pointer that is written.
        let status = unsafe { sys::ringway_mbuf_alloc_bulk(pool.raw(), &raw mut raw, 1) };
        match NonNull::new(raw) {
            Some(raw) if status == 0 => Ok(Self { raw, _pool: pool.clone() }),
            _ => Err(AllocError::Exhausted { wanted: 1 }),
        }
    }

    /// The buffer as a packet to be read or written.
    pub fn packet(&mut self) -> Packet<'_> {
        Packet { raw: self.raw.as_ptr(), owner: PhantomData }
    }

    /// The packet's bytes.
    pub fn data(&self) -> &[u8] {
        // SAFETY: this owns the buffer, and `&self` keeps it from being written or freed meanwhile.
        unsafe { data(self.raw.as_ptr()) }
    }

    /// See [`Packet::append`].
    ///
    /// # Errors
    /// [`NoRoom`].
    pub fn append(&mut self, len: u16) -> Result<&mut [u8], NoRoom> {
        // SAFETY: this owns the buffer, and `&mut self` keeps everyone else away meanwhile.
        unsafe { append(self.raw.as_ptr(), len) }
    }
}

impl Drop for Mbuf {
    fn drop(&mut self) {
        let mut raw = self.raw.as_ptr();
        // SAFETY: this owns the buffer and is gone afterwards; `_pool` is dropped after this.
        unsafe { sys::rte_pktmbuf_free_bulk(&raw mut raw, 1) };
    }
}

/// Packet buffers that are taken and returned together: several times cheaper than one by one.
///
/// Made by [`Pool::batch`] once, then filled and cleared for every burst. Dropping it returns the buffers.
#[derive(Debug)]
pub struct MbufBatch {
    /// The first `len` are buffers this batch owns, the rest is stale.
    raws: Box<[*mut sys::rte_mbuf]>,
    len: u16,
    pool: Pool,
}

// SAFETY: as for `Mbuf`: the batch is the only owner of its buffers, and no buffer belongs to a thread. Test
// `buffers_move_between_threads`.
unsafe impl Send for MbufBatch {}

impl MbufBatch {
    pub(crate) fn new(pool: &Pool, capacity: u16) -> Self {
        let raws = vec![ptr::null_mut(); usize::from(capacity)].into_boxed_slice();
        Self { raws, len: 0, pool: pool.clone() }
    }

    /// Adds `count` empty buffers, all or none.
    ///
    /// # Errors
    /// [`AllocError`].
    pub fn alloc(&mut self, count: u16) -> Result<(), AllocError> {
        let full = AllocError::Full { wanted: count, len: self.len };
        let len = self.len.checked_add(count).ok_or(full)?;
        let spare = self.raws.get_mut(usize::from(self.len)..usize::from(len)).ok_or(full)?;
        // SAFETY: the handle keeps the pool alive, and `spare` has room for exactly `count` pointers.
        let status = unsafe {
            sys::ringway_mbuf_alloc_bulk(self.pool.raw(), spare.as_mut_ptr(), u32::from(count))
        };
        if status != 0 {
            return Err(AllocError::Exhausted { wanted: count });
        }
        self.len = len;
        Ok(())
    }

    /// Adds `count` packets of `len` bytes, all or none. Their bytes are whatever the buffers held before: in a
    /// pool that only this is used with, what was written last, so that a sender may leave alone what does not
    /// change. Half the price of [`MbufBatch::alloc`].
    ///
    /// # Errors
    /// [`AllocError`].
    pub fn alloc_as_left(&mut self, count: u16, len: u16) -> Result<(), AllocError> {
        let room = self.pool.data_room();
        if len > room {
            return Err(AllocError::TooLong { len, room });
        }
        let full = AllocError::Full { wanted: count, len: self.len };
        let total = self.len.checked_add(count).ok_or(full)?;
        let spare = self.raws.get_mut(usize::from(self.len)..usize::from(total)).ok_or(full)?;
        // SAFETY: the handle keeps the pool alive, `spare` has room for exactly `count` pointers, and `len` bytes
        // fit each of the pool's buffers.
        let status = unsafe {
            sys::ringway_mbuf_alloc_bulk_len(
                self.pool.raw(),
                spare.as_mut_ptr(),
                u32::from(count),
                len,
            )
        };
        if status != 0 {
            return Err(AllocError::Exhausted { wanted: count });
        }
        self.len = total;
        Ok(())
    }

    /// Adds one packet of `len` bytes and returns them, to be written whole as those of [`Packet::append`].
    ///
    /// # Errors
    /// [`AllocError`].
    #[inline]
    pub fn push(&mut self, len: u16) -> Result<&mut [u8], AllocError> {
        self.alloc_as_left(1, len)?;
        let last = usize::from(self.len.saturating_sub(1));
        let raw = self.raws.get(last).copied().ok_or(AllocError::Exhausted { wanted: 1 })?;
        // SAFETY: the batch owns this live buffer, and `&mut self` keeps everybody else away while the bytes are
        // borrowed.
        Ok(unsafe { data_mut(raw) })
    }

    /// Returns all buffers to the pool.
    pub fn clear(&mut self) {
        let count = u32::from(std::mem::take(&mut self.len));
        if count == 0 {
            return;
        }
        // SAFETY: the batch owned these buffers, and has just forgotten them. They are from its pool: `alloc`
        // takes them there, and `fill` has its caller promise it. Nothing here attaches or shares buffers.
        unsafe {
            sys::ringway_mbuf_free_bulk_pool(self.pool.raw(), self.raws.as_mut_ptr(), count);
        }
    }

    /// Lets `source` put buffers behind those there are. It is given the free places and returns how many of
    /// them, from the first on, it filled; the batch owns those from then on.
    ///
    /// # Safety
    /// Each must be a live buffer of this batch's pool that nobody else owns.
    pub(crate) unsafe fn fill(&mut self, source: impl FnOnce(*mut *mut sys::rte_mbuf, u16) -> u16) {
        let spare = self.raws.get_mut(usize::from(self.len)..).unwrap_or_default();
        let room = u16::try_from(spare.len()).unwrap_or(u16::MAX);
        self.len += source(spare.as_mut_ptr(), room).min(room);
    }

    /// Lets `sink` take buffers from the front. It is given all of them and returns how many it took; the batch
    /// keeps the others, in order.
    ///
    /// # Safety
    /// `sink` must have become the owner of exactly that many.
    pub(crate) unsafe fn drain(
        &mut self,
        sink: impl FnOnce(*mut *mut sys::rte_mbuf, u16) -> u16,
    ) -> u16 {
        let taken = sink(self.raws.as_mut_ptr(), self.len).min(self.len);
        if taken < self.len {
            self.raws.copy_within(usize::from(taken)..usize::from(self.len), 0);
        }
        self.len -= taken;
        taken
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Asks the CPU to load the cache line at byte `offset` of each packet, ahead of [`MbufBatch::iter`].
    pub fn prefetch(&self, offset: u32) {
        // SAFETY: the batch owns `len` live buffers; a prefetch may name any address.
        unsafe { sys::ringway_mbuf_prefetch(self.raws.as_ptr(), u32::from(self.len), offset) };
    }

    /// As [`MbufBatch::prefetch`], and takes the line away from other CPUs: for packets about to be written.
    pub fn prefetch_write(&self, offset: u32) {
        // SAFETY: as in `prefetch`.
        unsafe {
            sys::ringway_mbuf_prefetch_write(self.raws.as_ptr(), u32::from(self.len), offset)
        };
    }

    /// Buffers in it.
    pub fn len(&self) -> u16 {
        self.len
    }

    /// Buffers it has places for.
    pub fn capacity(&self) -> u16 {
        u16::try_from(self.raws.len()).unwrap_or(u16::MAX)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of each packet.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        // SAFETY: the batch owns its buffers, and `&self` keeps them from being written or freed meanwhile.
        self.raws.iter().take(usize::from(self.len)).map(|&raw| unsafe { data(raw) })
    }

    /// The bytes of packet `index`, counted from 0.
    pub fn get(&self, index: u16) -> Option<&[u8]> {
        let raw = self.raws.get(usize::from(index)).filter(|_| index < self.len)?;
        // SAFETY: as in `iter`.
        Some(unsafe { data(*raw) })
    }

    /// Each packet, to be read or written.
    pub fn packets(&mut self) -> impl Iterator<Item = Packet<'_>> {
        let owned = self.raws.iter_mut().take(usize::from(self.len));
        owned.map(|raw| Packet { raw: *raw, owner: PhantomData })
    }
}

impl Drop for MbufBatch {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The packets of a batch while they go different ways, each known by its place at the beginning. Those that were not
/// taken are in the batch again, in order, when this is dropped.
#[derive(Debug)]
pub struct Spread<'b> {
    /// Says that it is empty meanwhile, so that nothing is owned twice even if this is leaked.
    batch: &'b mut MbufBatch,
    len: u16,
    /// Bit n: packet n was taken.
    taken: u64,
}

impl MbufBatch {
    /// Lets the first 64 packets go different ways; those behind them are returned to the pool.
    pub fn spread(&mut self) -> Spread<'_> {
        const MOST: u16 = 64;
        if self.len > MOST {
            let count = u32::from(std::mem::replace(&mut self.len, MOST) - MOST);
            let rest = self.raws.get_mut(usize::from(MOST)..).unwrap_or_default();
            // SAFETY: as in `clear`: the batch owned these buffers of its pool, and has just forgotten them.
            unsafe { sys::ringway_mbuf_free_bulk_pool(self.pool.raw(), rest.as_mut_ptr(), count) };
        }
        let len = std::mem::take(&mut self.len);
        Spread { batch: self, len, taken: 0 }
    }
}

impl Spread<'_> {
    /// Packets it began with.
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether there were none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn raw(&self, at: usize) -> Option<*mut sys::rte_mbuf> {
        if at >= self.len() || self.taken >> at & 1 != 0 {
            return None;
        }
        self.batch.raws.get(at).copied()
    }

    /// Packet `at`, unless it was taken.
    #[inline]
    pub fn packet(&mut self, at: usize) -> Option<Packet<'_>> {
        Some(Packet { raw: self.raw(at)?, owner: PhantomData })
    }

    /// Whether packets can be moved there: both are of one pool.
    #[inline]
    pub fn can_go_to(&self, to: &MbufBatch) -> bool {
        to.pool.is(&self.batch.pool)
    }

    /// Moves packet `at` to the end of `to`; `false` when it was taken already, or `to` has no place for it.
    ///
    /// # Errors
    /// [`WrongPool`]: `to` must be of the same pool.
    #[inline]
    pub fn take(&mut self, at: usize, to: &mut MbufBatch) -> Result<bool, WrongPool> {
        if !self.can_go_to(to) {
            return Err(WrongPool);
        }
        let len = to.len;
        let (Some(raw), Some(place)) = (self.raw(at), to.raws.get_mut(usize::from(len))) else {
            return Ok(false);
        };
        *place = raw;
        to.len = len + 1;
        self.taken |= 1 << at;
        Ok(true)
    }
}

impl Drop for Spread<'_> {
    fn drop(&mut self) {
        let mut kept = 0;
        for at in 0..self.len() {
            let Some(raw) = self.raw(at) else { continue };
            if let Some(place) = self.batch.raws.get_mut(usize::from(kept)) {
                *place = raw;
                kept += 1;
            }
        }
        self.batch.len = kept;
    }
}

/// The packet in a buffer that a [`Mbuf`] or a [`MbufBatch`] owns.
#[derive(Debug)]
pub struct Packet<'a> {
    raw: *mut sys::rte_mbuf,
    owner: PhantomData<&'a mut Mbuf>,
}

impl Packet<'_> {
    /// The packet's bytes.
    pub fn data(&self) -> &[u8] {
        // SAFETY: the owner is borrowed exclusively for this value's lifetime, and `&self` excludes `append`.
        unsafe { data(self.raw) }
    }

    /// The packet's bytes, to be written.
    pub fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: the owner is borrowed exclusively for this value's lifetime, and `&mut self` excludes every
        // other use of the packet while the bytes are borrowed.
        unsafe { data_mut(self.raw) }
    }

    /// Grows the packet by `len` bytes at its end and returns them. Their content is whatever the buffer held
    /// before, possibly another pod's packet: write every one of them.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub fn append(&mut self, len: u16) -> Result<&mut [u8], NoRoom> {
        // SAFETY: the owner is borrowed exclusively for this value's lifetime, and `&mut self` excludes
        // every other use of the packet while the bytes are borrowed.
        unsafe { append(self.raw, len) }
    }

    /// Grows the packet by `len` bytes at its start and returns them. Write every one of them, as for
    /// [`Packet::append`].
    ///
    /// # Errors
    /// [`NoRoom`]: what is in front of a packet that was received is DPDK's headroom, 128 bytes.
    #[inline]
    pub fn prepend(&mut self, len: u16) -> Result<&mut [u8], NoRoom> {
        // SAFETY: a live buffer that nobody else uses, as in `append`; DPDK checks the room.
        let start = unsafe { sys::ringway_mbuf_prepend(self.raw, len) };
        if start.is_null() {
            return Err(NoRoom { len });
        }
        // SAFETY: DPDK found `len` bytes of room at `start` inside the buffer, in memory that came zeroed from EAL;
        // `&mut self` makes them ours alone.
        Ok(unsafe { slice::from_raw_parts_mut(start, usize::from(len)) })
    }

    /// Takes `len` bytes off the packet's start. `false`, and nothing is changed, when its first segment has fewer.
    #[inline]
    pub fn trim_front(&mut self, len: u16) -> bool {
        // SAFETY: a live buffer that nobody else uses, as in `append`; DPDK checks the length.
        let start = unsafe { sys::ringway_mbuf_adj(self.raw, len) };
        !start.is_null()
    }

    /// Takes `len` bytes off the packet's end. `false`, and nothing is changed, when its last segment has fewer.
    #[inline]
    pub fn trim_end(&mut self, len: u16) -> bool {
        // SAFETY: a live buffer that nobody else uses, as in `append`; DPDK checks the length.
        unsafe { sys::ringway_mbuf_trim(self.raw, len) == 0 }
    }

    /// Whether [`Packet::data`] is all of it. It is not when a device received it in pieces.
    #[inline]
    pub fn is_whole(&self) -> bool {
        // SAFETY: a live buffer, and the offset is that of a field of this type.
        let all = unsafe { field::<u32>(self.raw, sys::RINGWAY_MBUF_PKT_LEN) };
        all as usize == self.data().len()
    }

    /// Makes the packet empty again.
    pub fn reset(&mut self) {
        // SAFETY: a live buffer that nobody else uses, as in `append`.
        unsafe { sys::ringway_mbuf_reset(self.raw) };
    }
}

/// Bytes of the packet in `raw`; of a packet in pieces, of its first one.
///
/// # Safety
/// `raw` must be a buffer of this crate's pools that is neither written nor freed during `'a`.
unsafe fn data<'a>(raw: *const sys::rte_mbuf) -> &'a [u8] {
    // SAFETY: a live buffer, by this function's contract.
    let (start, len) = unsafe { extent(raw) };
    // SAFETY: `extent` found `len` bytes inside the buffer, whose memory came zeroed from EAL, so it is
    // initialised. The contract excludes writers.
    unsafe { slice::from_raw_parts(start, len) }
}

/// As [`data`].
///
/// # Safety
/// `raw` must be a buffer of this crate's pools that nothing else reads, writes or frees during `'a`.
unsafe fn data_mut<'a>(raw: *mut sys::rte_mbuf) -> &'a mut [u8] {
    // SAFETY: a live buffer, by this function's contract.
    let (start, len) = unsafe { extent(raw) };
    // SAFETY: as in `data`; the contract makes the bytes ours alone.
    unsafe { slice::from_raw_parts_mut(start, len) }
}

/// Where the packet in `raw` starts, and how many bytes it has there. Whatever a device wrote into the buffer's
/// fields, they are inside the buffer.
///
/// # Safety
/// `raw` must be a live buffer whose fields nobody writes meanwhile.
unsafe fn extent(raw: *const sys::rte_mbuf) -> (*mut u8, usize) {
    // SAFETY: the contract, and the offset is that of a field of this type.
    let start = unsafe { field::<*mut u8>(raw, sys::RINGWAY_MBUF_BUF_ADDR) };
    // SAFETY: as above.
    let offset = unsafe { field::<u16>(raw, sys::RINGWAY_MBUF_DATA_OFF) };
    // SAFETY: as above.
    let len = unsafe { field::<u16>(raw, sys::RINGWAY_MBUF_DATA_LEN) };
    // SAFETY: as above.
    let size = unsafe { field::<u16>(raw, sys::RINGWAY_MBUF_BUF_LEN) };
    let offset = offset.min(size);
    // SAFETY: DPDK made the buffer with `size` bytes at `start`, and `offset` does not exceed them.
    let start = unsafe { start.add(usize::from(offset)) };
    (start, usize::from(len.min(size - offset)))
}

/// The field of type `T` at `offset` in `raw`.
///
/// # Safety
/// `raw` must be live, and have an initialised `T` at `offset` that nobody writes meanwhile.
unsafe fn field<T: Copy>(raw: *const sys::rte_mbuf, offset: usize) -> T {
    // SAFETY: the field is inside the buffer's descriptor, by the contract.
    let field = unsafe { raw.byte_add(offset) };
    // SAFETY: it is an initialised and aligned `T`, by the contract and by C's layout.
    unsafe { field.cast::<T>().read() }
}

/// Grows the packet in `raw`.
///
/// # Safety
/// `raw` must be a buffer of this crate's pools that nothing else reads, writes or frees during `'a`.
unsafe fn append<'a>(raw: *mut sys::rte_mbuf, len: u16) -> Result<&'a mut [u8], NoRoom> {
    // SAFETY: a live buffer, by this function's contract; DPDK checks the room.
    let start = unsafe { sys::ringway_mbuf_append(raw, len) };
    if start.is_null() {
        return Err(NoRoom { len });
    }
    // SAFETY: DPDK found `len` bytes of room at `start` inside the buffer's one segment, in memory that came
    // zeroed from EAL; the contract makes them ours alone.
    Ok(unsafe { slice::from_raw_parts_mut(start, usize::from(len)) })
}
