//! Guest memory between pages that nobody may touch: an access outside of it ends the test with SIGSEGV.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use crate::memory::GuestMemory;

const PAGE: usize = 4096;

/// Guest memory and the fences around each of its regions.
pub(super) struct Fenced {
    reserved: *mut u8,
    bytes: usize,
    /// Guest address, bytes, where it lies here.
    regions: Vec<(u64, usize, *mut u8)>,
    map: Arc<GuestMemoryMmap>,
}

// SAFETY: the pointers are only used for atomic accesses inside the mapping, which lives as long as the value.
unsafe impl Sync for Fenced {}

impl Fenced {
    /// Regions by guest address and bytes, whole pages. Those that touch in the guest do not touch here.
    pub(super) fn new(regions: &[(u64, usize)]) -> Self {
        let bytes = regions.iter().map(|(_, len)| len + PAGE).sum::<usize>() + PAGE;
        let (none, private) = (libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, which replaces none.
        let reserved = unsafe { libc::mmap(std::ptr::null_mut(), bytes, none, private, -1, 0) };
        assert_ne!(reserved, libc::MAP_FAILED);
        let reserved = reserved.cast::<u8>();
        let mut at = PAGE;
        let (mut found, mut mapped) = (Vec::new(), Vec::new());
        for &(gpa, len) in regions {
            let start = reserved.wrapping_add(at);
            let rights = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: inside what was reserved above.
            assert_eq!(unsafe { libc::mprotect(start.cast(), len, rights) }, 0);
            // SAFETY: as above; it stays mapped until `drop`.
            let builder = unsafe { MmapRegionBuilder::new(len).with_raw_mmap_pointer(start) };
            let region = builder.with_mmap_prot(rights).with_mmap_flags(private).build().unwrap();
            mapped.push(GuestRegionMmap::new(region, GuestAddress(gpa)).unwrap());
            found.push((gpa, len, start));
            at += len + PAGE;
        }
        mapped.sort_by_key(vm_memory::GuestMemoryRegion::start_addr);
        let map = Arc::new(GuestMemoryMmap::from_regions(mapped).unwrap());
        Self { reserved, bytes, regions: found, map }
    }

    pub(super) fn map(&self) -> &Arc<GuestMemoryMmap> {
        &self.map
    }

    pub(super) fn memory(&self) -> Arc<GuestMemory> {
        Arc::new(GuestMemory::new(Arc::clone(&self.map)).unwrap())
    }

    /// The bytes from there to the end of their region.
    fn bytes(&self, gpa: u64) -> Option<&[AtomicU8]> {
        let (start, len, at) =
            self.regions.iter().find(|(start, len, _)| gpa.wrapping_sub(*start) < *len as u64)?;
        let offset = usize::try_from(gpa - start).ok().filter(|offset| offset < len)?;
        let first = at.wrapping_add(offset).cast::<AtomicU8>();
        // SAFETY: inside the region, which is mapped as long as `self`; everybody else copies raw bytes.
        Some(unsafe { std::slice::from_raw_parts(first, len - offset) })
    }

    /// Writes as a guest does: whenever it likes. What lies outside is not written.
    pub(super) fn write(&self, gpa: u64, bytes: &[u8]) {
        for (at, byte) in (0..).zip(bytes) {
            if let Some([there, ..]) = self.bytes(gpa.wrapping_add(at)) {
                there.store(*byte, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn read(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut read = Vec::with_capacity(len);
        while read.len() < len {
            let bytes = self.bytes(gpa + read.len() as u64).unwrap();
            let bytes = bytes.iter().take(len - read.len());
            read.extend(bytes.map(|byte| byte.load(Ordering::Relaxed)));
        }
        read
    }

    pub(super) fn descriptor(&self, at: u64, addr: u64, len: u32, tail: [u16; 2]) {
        let [a, b] = tail.map(u16::to_le_bytes);
        self.write(at, &[&addr.to_le_bytes()[..], &len.to_le_bytes(), &a, &b].concat());
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        // SAFETY: nobody else uses it: queues that did have ended, and raw regions unmap nothing themselves.
        unsafe { libc::munmap(self.reserved.cast(), self.bytes) };
    }
}
