//! The memory a pod shares with us: where a guest address lies in this process, and the only raw reads and
//! writes of it.
//!
//! Everything here treats the bytes as hostile: another process may change them at any time. So nothing hands out
//! a reference into guest memory; bytes are copied to private memory, or from one guest's memory to another's.

mod copy;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use nix::sys::stat::fstat;
use nix::sys::statfs::{HUGETLBFS_MAGIC, fstatfs};
use nix::unistd::{SysconfVar, sysconf};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

use crate::truncation::Watched;

/// A piece of guest memory, inside one region, mapped into this process.
///
/// Valid as long as the [`GuestMemory`] it came from is alive; the queue that resolved it keeps that alive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    ptr: *mut u8,
    len: u32,
}

// SAFETY: a Segment is an address and a length; it is dereferenced only by the functions of this file, whose
// contract asks the caller to keep the mapping alive. Moving the address to another thread changes nothing.
unsafe impl Send for Segment {}

/// One region of a pod's memory. As a [`Segment`] it is only an address, valid as long as its [`GuestMemory`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    /// First guest physical address.
    gpa: u64,
    /// Bytes.
    len: u64,
    /// Where `gpa` is mapped here.
    host: *mut u8,
}

impl Region {
    /// `gpa..gpa+len` if it lies whole in this region. `None` says nothing: ask [`Mapped::resolve`].
    #[inline(always)]
    pub(crate) fn segment(&self, gpa: u64, len: u32) -> Option<Segment> {
        let offset = gpa.wrapping_sub(self.gpa);
        let end = offset.checked_add(u64::from(len))?;
        if end > self.len || offset == self.len {
            return None;
        }
        let offset = usize::try_from(offset).ok()?;
        // SAFETY: `offset` is smaller than the region's length, so the result stays inside the mapping that `host`
        // points to.
        let ptr = unsafe { self.host.add(offset) };
        Some(Segment { ptr, len })
    }
}

/// The memory regions of one pod, as of one SET_MEM_TABLE. Immutable; keeps the mapping alive.
pub(crate) struct GuestMemory {
    regions: Box<[Region]>,
    /// Before the mapping: a region is watched only while it is mapped.
    watched: Vec<Watched>,
    _mapping: Arc<GuestMemoryMmap>,
}

// SAFETY: the pointers in `regions` point into `_mapping`, which lives as long as this value and whose mmap(2)ed
// memory may be used from any thread; all accesses are raw copies that expect concurrent writers (the guest).
unsafe impl Send for GuestMemory {}
// SAFETY: as for Send; `&GuestMemory` allows no more than the value itself, nothing here is mutated.
unsafe impl Sync for GuestMemory {}

/// A guest address does not lie in the memory the pod has shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guest address {gpa:#x}+{len} is outside the shared memory")]
pub(crate) struct OutsideMemory {
    pub gpa: u64,
    pub len: u64,
}

impl GuestMemory {
    /// # Errors
    /// Too many regions are mapped by all pods together.
    pub(crate) fn new(mapping: Arc<GuestMemoryMmap>) -> io::Result<Self> {
        let mut regions: Vec<Region> = mapping
            .iter()
            .map(|r| Region { gpa: r.start_addr().raw_value(), len: r.len(), host: r.as_ptr() })
            .collect();
        regions.sort_by_key(|r| r.gpa);
        let watched = mapping.iter().map(watch).collect::<Result<_, _>>()?;
        Ok(Self { regions: regions.into_boxed_slice(), watched, _mapping: mapping })
    }

    /// Whether the pod took memory away that it had shared.
    pub(crate) fn lost(&self) -> bool {
        self.watched.iter().any(Watched::lost)
    }

    /// Number of regions and their bytes together.
    pub(crate) fn extent(&self) -> (usize, u64) {
        (self.regions.len(), self.regions.iter().map(|r| r.len).sum())
    }

    fn region(&self, gpa: u64) -> Option<&Region> {
        let next = self.regions.partition_point(|r| r.gpa <= gpa);
        let region = self.regions.get(next.checked_sub(1)?)?;
        (gpa - region.gpa < region.len).then_some(region)
    }

    /// Resolves `gpa..gpa+len` to segments, in order; more than one where regions meet.
    ///
    /// # Errors
    /// [`OutsideMemory`] when any byte of it is not shared; nothing may be used then.
    #[inline]
    pub(crate) fn resolve(
        &self,
        gpa: u64,
        len: u32,
        mut push: impl FnMut(Segment) -> bool,
    ) -> Result<bool, OutsideMemory> {
        let outside = OutsideMemory { gpa, len: u64::from(len) };
        let mut at = gpa;
        let mut left = len;
        while left > 0 {
            let region = self.region(at).ok_or(outside)?;
            let offset = at - region.gpa;
            let here = u32::try_from(region.len - offset).map_or(left, |room| room.min(left));
            let offset = usize::try_from(offset).map_err(|_| outside)?;
            // SAFETY: `offset` is smaller than the region's length (see `region`), so the result stays inside
            // the mapping that `host` points to.
            let ptr = unsafe { region.host.add(offset) };
            if !push(Segment { ptr, len: here }) {
                return Ok(false);
            }
            at = at.checked_add(u64::from(here)).ok_or(outside)?;
            left -= here;
        }
        Ok(true)
    }

    /// The address of `len` bytes in one region, aligned to `align`: for rings, which may not span regions.
    ///
    /// # Errors
    /// [`OutsideMemory`] also when it would span two regions or is not aligned in this process.
    pub(crate) fn resolve_ring(
        &self,
        gpa: u64,
        len: usize,
        align: usize,
    ) -> Result<*mut u8, OutsideMemory> {
        let outside = OutsideMemory { gpa, len: len as u64 };
        let len = u32::try_from(len).map_err(|_| outside)?;
        let mut found = None;
        self.resolve(gpa, len, |segment| {
            found = Some(segment);
            true
        })?;
        match found {
            Some(s) if s.len == len && (s.ptr as usize).is_multiple_of(align) => Ok(s.ptr),
            _ => Err(outside),
        }
    }
}

/// A pod's memory as one ring sees it: remembers the region that the last address was found in, as nearly all
/// addresses of a ring lie in one.
pub(crate) struct Mapped {
    memory: Arc<GuestMemory>,
    recent: Region,
}

// SAFETY: `recent` is a copy of a region of `memory`, which is Send and stays alive with this value.
unsafe impl Send for Mapped {}

impl Mapped {
    pub(crate) fn new(memory: Arc<GuestMemory>) -> Self {
        let nowhere = Region { gpa: 0, len: 0, host: std::ptr::null_mut() };
        let recent = memory.regions.first().copied().unwrap_or(nowhere);
        Self { memory, recent }
    }

    /// The region that was used last.
    #[inline(always)]
    pub(crate) fn recent(&self) -> Region {
        self.recent
    }

    /// See [`GuestMemory::resolve`].
    ///
    /// # Errors
    /// [`OutsideMemory`].
    pub(crate) fn resolve(
        &mut self,
        gpa: u64,
        len: u32,
        push: impl FnMut(Segment) -> bool,
    ) -> Result<bool, OutsideMemory> {
        if let Some(region) = self.memory.region(gpa) {
            self.recent = *region;
        }
        self.memory.resolve(gpa, len, push)
    }

    /// See [`GuestMemory::resolve_ring`].
    ///
    /// # Errors
    /// [`OutsideMemory`].
    pub(crate) fn resolve_ring(
        &self,
        gpa: u64,
        len: usize,
        align: usize,
    ) -> Result<*mut u8, OutsideMemory> {
        self.memory.resolve_ring(gpa, len, align)
    }
}

fn watch(region: &GuestRegionMmap) -> io::Result<Watched> {
    // mmap(2) rounds up to the page size.
    let page = match region.file_offset() {
        Some(offset) => usize::try_from(page_bytes(offset.file().as_fd())?),
        None => Ok(1),
    };
    let page = page.map_err(io::Error::other)?;
    let len = usize::try_from(region.len()).map_err(io::Error::other)?;
    Watched::new(region.as_ptr(), len.next_multiple_of(page))
}

/// The page size of a file that can be mapped: what mmap(2) rounds lengths up to, and what offsets and, for munmap(2) of
/// huge pages, lengths must be a multiple of.
///
/// # Errors
/// fstatfs(2) or fstat(2).
pub(crate) fn page_bytes(file: BorrowedFd<'_>) -> io::Result<u64> {
    if fstatfs(file)?.filesystem_type() == HUGETLBFS_MAGIC {
        return u64::try_from(fstat(file)?.st_blksize).map_err(io::Error::other);
    }
    // A tmpfs that likes transparent huge pages gives their size as the best to read and write; it maps any page.
    let page = sysconf(SysconfVar::PAGE_SIZE)?.and_then(|bytes| u64::try_from(bytes).ok());
    page.ok_or_else(|| io::Error::other("the system does not tell its page size"))
}

impl Segment {
    /// No bytes.
    pub(crate) const EMPTY: Self = Self { ptr: std::ptr::dangling_mut(), len: 0 };

    /// Tells the CPU that the line `at` bytes in will be read soon. Only a hint: any value is fine.
    #[inline(always)]
    pub(crate) fn prefetch_read(self, at: u32) {
        prefetch(self.ptr.wrapping_add(at as usize));
    }

    /// Tells the CPU that the line `at` bytes in will be written soon. Only a hint: any value is fine.
    #[inline(always)]
    pub(crate) fn prefetch_write(self, at: u32) {
        prefetch_for_write(self.ptr.wrapping_add(at as usize));
    }

    /// Makes the first bytes equal to `bytes`, and leaves the cache line as it is when they already are: the other
    /// side then keeps its copy. `false` if the segment is shorter, and nothing is written.
    ///
    /// # Safety
    /// The [`GuestMemory`] this segment came from must be alive.
    #[inline(always)]
    pub(crate) unsafe fn assign<const N: usize>(self, bytes: &[u8; N]) -> bool {
        if (self.len as usize) < N {
            return false;
        }
        let mut now = [0; N];
        // SAFETY: `N` mapped bytes, alive by contract; `now` is private. A guest that changes them meanwhile gets
        // a header it has spoilt itself.
        unsafe { std::ptr::copy_nonoverlapping(self.ptr, now.as_mut_ptr(), N) };
        if now != *bytes {
            // SAFETY: as above, in the other direction.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.ptr, N) };
        }
        true
    }

    /// As [`Self::read`] for up to 64 bytes, without a call; returns how many.
    ///
    /// # Safety
    /// The [`GuestMemory`] this segment came from must be alive.
    #[inline(always)]
    pub(crate) unsafe fn read_line(self, into: &mut [u8; 64]) -> usize {
        let n = (self.len as usize).min(64);
        // SAFETY: `n` bytes are mapped and alive by contract, and `into` has 64.
        unsafe { copy::copy_line(self.ptr, into.as_mut_ptr(), n) };
        n
    }

    /// As [`Self::write`] for up to 64 bytes, without a call; returns how many.
    ///
    /// # Safety
    /// The [`GuestMemory`] this segment came from must be alive.
    #[inline(always)]
    pub(crate) unsafe fn write_line(self, from: &[u8]) -> usize {
        let n = from.len().min(self.len as usize).min(64);
        // SAFETY: `n` bytes are mapped and alive by contract, and `from` has as many.
        unsafe { copy::copy_line(from.as_ptr(), self.ptr, n) };
        n
    }

    /// Private memory, to be read only, and only while the slice is borrowed; the first 4 GiB of it.
    #[inline(always)]
    pub(crate) fn of_private(bytes: &[u8]) -> Self {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        Self { ptr: bytes.as_ptr().cast_mut(), len }
    }

    #[inline(always)]
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// What is left behind the first `n` bytes. `n` must not exceed the length; it is cut to it.
    #[inline]
    pub(crate) fn skip(self, n: u32) -> Self {
        let n = n.min(self.len);
        // SAFETY: `n` is at most the segment's length, so the pointer stays inside or one past the segment.
        let ptr = unsafe { self.ptr.add(n as usize) };
        Self { ptr, len: self.len - n }
    }

    /// The first `n` bytes of it, or all when it has fewer.
    #[inline]
    pub(crate) fn first(self, n: u32) -> Self {
        Self { len: self.len.min(n), ..self }
    }

    /// Copies up to `into.len()` bytes out of guest memory; returns how many.
    ///
    /// # Safety
    /// The [`GuestMemory`] this segment came from must be alive.
    #[inline]
    pub(crate) unsafe fn read(self, into: &mut [u8]) -> usize {
        let n = into.len().min(self.len as usize);
        // SAFETY: the segment is `len` mapped bytes by construction and alive by this function's contract; `into`
        // is private memory, so the two cannot overlap. The guest may write meanwhile: the bytes are then a mix,
        // which every user of the private copy has to expect.
        unsafe { std::ptr::copy_nonoverlapping(self.ptr, into.as_mut_ptr(), n) };
        n
    }

    /// Copies up to the segment's length of `from` into guest memory; returns how many bytes.
    ///
    /// # Safety
    /// The [`GuestMemory`] this segment came from must be alive.
    #[inline]
    pub(crate) unsafe fn write(self, from: &[u8]) -> usize {
        let n = from.len().min(self.len as usize);
        // SAFETY: as for `read`, in the other direction.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.ptr, n) };
        n
    }

    /// Copies from one guest's memory to another's (or the same guest's, overlapping or not); returns how many
    /// bytes: the shorter of the two.
    ///
    /// # Safety
    /// The [`GuestMemory`] of both segments must be alive.
    #[inline]
    pub(crate) unsafe fn copy_to(self, to: Self) -> usize {
        let n = self.len.min(to.len) as usize;
        // SAFETY: both are mapped for their length and alive by contract. A pod that sends to itself may name one
        // buffer twice, so this is memmove.
        unsafe { copy::copy(self.ptr, to.ptr, n) };
        n
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn prefetch(at: *const u8) {
    // SAFETY: a prefetch is a hint; it never faults, whatever the address.
    unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast()) };
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn prefetch_for_write(at: *const u8) {
    // The intrinsic becomes a plain prefetch on the baseline CPU; PREFETCHW is a no-op where it is unknown.
    // SAFETY: a prefetch is a hint; it never faults, whatever the address.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn prefetch(_at: *const u8) {}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn prefetch_for_write(_at: *const u8) {}

/// Loads a ring's 16-bit index that the guest publishes.
///
/// # Safety
/// `at` must be 2-byte aligned and inside memory that is mapped now.
#[inline]
pub(crate) unsafe fn load_index(at: *const u16, order: Ordering) -> u16 {
    // SAFETY: aligned and mapped by contract; an atomic because the guest writes it concurrently.
    unsafe { AtomicU16::from_ptr(at.cast_mut()) }.load(order)
}

/// Stores a 16-bit ring field that the guest reads.
///
/// # Safety
/// `at` must be 2-byte aligned and inside memory that is mapped now.
#[inline]
pub(crate) unsafe fn store_index(at: *mut u16, value: u16, order: Ordering) {
    // SAFETY: aligned and mapped by contract; an atomic because the guest reads it concurrently.
    unsafe { AtomicU16::from_ptr(at) }.store(value, order);
}

/// Loads half a descriptor of a packed ring, which the guest publishes by writing its last two bytes: they and the rest are
/// of one moment, so that what was written before them is seen with them.
///
/// # Safety
/// `at` must be 8-byte aligned and inside memory that is mapped now.
#[inline(always)]
pub(crate) unsafe fn load_half(at: *const u64, order: Ordering) -> u64 {
    // SAFETY: aligned and mapped by contract; an atomic because the guest writes it concurrently.
    u64::from_le(unsafe { AtomicU64::from_ptr(at.cast_mut()) }.load(order))
}

/// Stores half a descriptor that the guest reads, in one piece.
///
/// # Safety
/// `at` must be 8-byte aligned and inside memory that is mapped now.
#[inline(always)]
pub(crate) unsafe fn store_half(at: *mut u64, value: u64, order: Ordering) {
    // SAFETY: aligned and mapped by contract; an atomic because the guest reads it concurrently.
    unsafe { AtomicU64::from_ptr(at) }.store(value.to_le(), order);
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestAddress;

    fn memory(ranges: &[(u64, usize)]) -> GuestMemory {
        let ranges: Vec<_> = ranges.iter().map(|&(a, l)| (GuestAddress(a), l)).collect();
        GuestMemory::new(Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap())).unwrap()
    }

    fn lengths(memory: &GuestMemory, gpa: u64, len: u32) -> Result<Vec<u32>, OutsideMemory> {
        let mut out = Vec::new();
        memory.resolve(gpa, len, |s| {
            out.push(s.len());
            true
        })?;
        Ok(out)
    }

    #[test]
    fn a_buffer_is_resolved_inside_and_across_regions() {
        let m = memory(&[(0x1000, 0x1000), (0x2000, 0x1000), (0x8000, 0x1000)]);
        assert_eq!(lengths(&m, 0x1000, 0x1000), Ok(vec![0x1000]));
        assert_eq!(lengths(&m, 0x1800, 0x1000), Ok(vec![0x800, 0x800]));
        assert_eq!(lengths(&m, 0x8fff, 1), Ok(vec![1]));
        assert_eq!(lengths(&m, 0x1000, 0), Ok(vec![]));
    }

    #[test]
    fn a_buffer_outside_is_refused_whole() {
        let m = memory(&[(0x1000, 0x1000), (0x8000, 0x1000)]);
        for (gpa, len) in [
            (0, 1),
            (0xfff, 2),
            (0x1fff, 2),
            (0x3000, 1),
            (0x9000, 1),
            (u64::MAX, 2),
            (u64::MAX - 1, 16),
        ] {
            assert!(lengths(&m, gpa, len).is_err(), "{gpa:#x}+{len}");
        }
    }

    /// The short way for the region that was used last, to the byte.
    #[test]
    fn a_segment_ends_with_its_region() {
        let m = memory(&[(0x1000, 0x1000)]);
        let len = |gpa, len| m.regions[0].segment(gpa, len).map(|segment| segment.len());
        for (gpa, bytes) in [(0x1000, 0x1000), (0x1ffe, 2), (0x1fff, 1), (0x1fff, 0)] {
            assert_eq!(len(gpa, bytes), Some(bytes), "{gpa:#x}+{bytes}");
        }
        for (gpa, bytes) in
            [(0x1000, 0x1001), (0x1fff, 2), (0x2000, 0), (0x2000, 1), (0xfff, 2), (u64::MAX, 1)]
        {
            assert_eq!(len(gpa, bytes), None, "{gpa:#x}+{bytes}");
        }
    }

    #[test]
    fn a_ring_must_lie_aligned_in_one_region() {
        let m = memory(&[(0x1000, 0x1000), (0x2000, 0x1000)]);
        assert!(m.resolve_ring(0x1000, 16, 16).is_ok());
        assert!(m.resolve_ring(0x1008, 16, 16).is_err());
        assert!(m.resolve_ring(0x1ff0, 32, 16).is_err());
        assert!(m.resolve_ring(0x1000, 0, 16).is_err());
    }

    #[test]
    fn bytes_travel_between_guests_once() {
        let a = memory(&[(0, 0x1000)]);
        let b = memory(&[(0x4000, 0x1000)]);
        let segment = |m: &GuestMemory, gpa, len| {
            let mut s = None;
            m.resolve(gpa, len, |x| {
                s = Some(x);
                true
            })
            .unwrap();
            s.unwrap()
        };
        let from = segment(&a, 0x10, 5);
        let to = segment(&b, 0x4100, 64);
        // SAFETY: `a` is alive until the end of the test.
        assert_eq!(unsafe { from.write(b"hello world") }, 5);
        // SAFETY: `a` and `b` are alive until the end of the test.
        assert_eq!(unsafe { from.copy_to(to) }, 5);
        let mut out = [0; 6];
        // SAFETY: `b` is alive until the end of the test.
        assert_eq!(unsafe { to.read(&mut out) }, 6);
        assert_eq!(&out, b"hello\0");
        assert_eq!(to.skip(60).len(), 4);
        assert_eq!(to.skip(99).len(), 0);
    }

    #[test]
    fn a_pod_that_takes_its_memory_away_loses_it_alone() {
        use nix::sys::memfd::{MFdFlags, memfd_create};
        use vm_memory::FileOffset;
        let file = std::fs::File::from(memfd_create(c"pod", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(0x10000).unwrap();
        let offset = FileOffset::new(file.try_clone().unwrap(), 0);
        let ranges = [(GuestAddress(0), 0x10000, Some(offset))];
        let map = GuestMemoryMmap::from_ranges_with_files(&ranges).unwrap();
        let pod = GuestMemory::new(Arc::new(map)).unwrap();
        let other = memory(&[(0, 0x1000)]);
        let mut segment = None;
        pod.resolve(0x8000, 16, |s| {
            segment = Some(s);
            true
        })
        .unwrap();
        let segment = segment.unwrap();
        // SAFETY: `pod` is alive until the end of the test.
        unsafe { segment.write(b"before") };
        assert!(!pod.lost());

        file.set_len(0).unwrap();
        let mut bytes = [1; 6];
        // SAFETY: as above; the pages behind it are gone, which is the point.
        assert_eq!(unsafe { segment.read(&mut bytes) }, 6);
        assert_eq!(bytes, [0; 6]);
        assert!(pod.lost() && !other.lost());
        // SAFETY: as above.
        unsafe { segment.write(b"still mapped") };
    }

    /// Fails to compile without the `unsafe impl`s above: rings cross from the session's thread to a worker.
    #[test]
    fn memory_may_change_threads() {
        fn check<T: Send + Sync>() {}
        fn check_send<T: Send>() {}
        check::<GuestMemory>();
        check_send::<Segment>();
    }
}
