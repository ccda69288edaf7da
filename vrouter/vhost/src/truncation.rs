//! A pod may shrink the file behind its memory after we have mapped it; touching the pages that are gone raises
//! SIGBUS, which would end the vRouter and every pod's traffic with it.
//!
//! Instead, the handler here puts empty memory in place of the pod's region: the pod's rings then read as zeros and
//! stop, and nobody else notices. A SIGBUS anywhere else ends the process as always.

use std::io;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Regions that can be watched at once: all ports of a large node with eight regions each. More are not served by
/// the handler, which [`Watched::new`] reports.
const SLOTS: usize = 16 * 1024;

struct Slot {
    start: AtomicUsize,
    len: AtomicUsize,
    lost: AtomicBool,
}

static REGIONS: [Slot; SLOTS] = [const {
    Slot { start: AtomicUsize::new(0), len: AtomicUsize::new(0), lost: AtomicBool::new(false) }
}; SLOTS];

static INSTALL: Once = Once::new();

/// A mapped region under the handler's care, until dropped.
#[derive(Debug)]
pub(crate) struct Watched {
    slot: usize,
}

impl Watched {
    /// `len`: rounded up to the page size of the mapping, as mmap(2) did.
    ///
    /// # Errors
    /// No free slot, or the handler can't be installed.
    pub(crate) fn new(start: *const u8, len: usize) -> io::Result<Self> {
        let mut installed = Ok(());
        INSTALL.call_once(|| installed = install());
        installed?;
        let (slot, found) = REGIONS
            .iter()
            .enumerate()
            .find(|(_, slot)| {
                // A claimed slot has a start but no length yet, so the handler passes it by.
                let claim = (Ordering::AcqRel, Ordering::Relaxed);
                slot.start.compare_exchange(0, start as usize, claim.0, claim.1).is_ok()
            })
            .ok_or_else(|| io::Error::other("too many memory regions are mapped"))?;
        found.lost.store(false, Ordering::Relaxed);
        found.len.store(len, Ordering::Release);
        Ok(Self { slot })
    }

    /// Whether the pod took the memory away.
    pub(crate) fn lost(&self) -> bool {
        REGIONS.get(self.slot).is_some_and(|s| s.lost.load(Ordering::Relaxed))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(slot) = REGIONS.get(self.slot) {
            slot.len.store(0, Ordering::Release);
            slot.start.store(0, Ordering::Release);
        }
    }
}

fn install() -> io::Result<()> {
    let action = SigAction::new(
        SigHandler::SigAction(on_sigbus),
        SaFlags::SA_SIGINFO | SaFlags::SA_NODEFER,
        SigSet::empty(),
    );
    // SAFETY: `on_sigbus` only reads atomics and calls mmap(2) and sigaction(2), which a signal handler may.
    unsafe { sigaction(Signal::SIGBUS, &action) }?;
    Ok(())
}

extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let errno = Errno::last_raw();
    // SAFETY: the kernel passes a valid siginfo_t to an SA_SIGINFO handler.
    let info = unsafe { &*info };
    // SAFETY: for SIGBUS the fault address is the member that is set.
    let at = unsafe { info.si_addr() } as usize;
    // All of them: adding a region leaves the others mapped where they were, under old and new watch for a moment.
    if REGIONS.iter().filter(|slot| replace(slot, at)).count() == 0 {
        // Not a pod's memory: a fault of our own, which must not be hidden. The access is repeated and ends us.
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: the default action runs no code of ours.
        let _ = unsafe { sigaction(Signal::SIGBUS, &default) };
    }
    Errno::set_raw(errno);
}

/// Puts empty memory in place of the region if `at` lies in it.
fn replace(slot: &Slot, at: usize) -> bool {
    let len = slot.len.load(Ordering::Acquire);
    let start = slot.start.load(Ordering::Acquire);
    if len == 0 || at.wrapping_sub(start) >= len {
        return false;
    }
    // SAFETY: the slot's owner keeps `start..start+len` mapped as long as the slot has a length (`GuestMemory` drops
    // its watches before its mapping), so exactly that mapping is replaced.
    let mapped = unsafe {
        libc::mmap(
            ptr::with_exposed_provenance_mut(start),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        return false;
    }
    slot.lost.store(true, Ordering::Relaxed);
    true
}
