//! DPDK's environment: started once, kept alive by everything made from it, shut down at the end.

pub(crate) mod config;
mod log;

use std::ffi::{CStr, CString, OsStr, c_char};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use vrouter_dpdk_sys as sys;

use crate::cpu::{self, NumaNode};
use crate::hugepages::Report;
use config::{EalConfig, Memory};

/// Why DPDK's environment did not start.
#[derive(Debug, thiserror::Error)]
pub enum EalError {
    /// The machine, or the NUMA node, has too few hugepages left. Nothing was started; trying again is fine.
    #[error("not enough free hugepages{}: {wanted_mib} MiB wanted, {free_mib} MiB free; {remedy}",
            numa_node.map(|node| format!(" on NUMA node {node}")).unwrap_or_default())]
    NoHugepages {
        /// MiB asked for.
        wanted_mib: u32,
        /// MiB there are.
        free_mib: u64,
        /// Node that was asked; `None`: the whole machine.
        numa_node: Option<NumaNode>,
        /// What to do about it.
        remedy: String,
    },
    /// A process can start DPDK once; also after it was shut down or was refused.
    #[error("DPDK was already initialised in this process; it can be only once")]
    AlreadyInitialised,
    /// A value of [`EalConfig`] cannot be passed on. Nothing was started.
    #[error("EAL {field} {value:?}: {remedy}")]
    BadOption {
        /// Which one.
        field: &'static str,
        /// What it was.
        value: String,
        /// What it should be.
        remedy: &'static str,
    },
    /// EAL itself gave up.
    #[error("DPDK's EAL refused to start ({errno}): {text}")]
    Refused {
        /// `rte_errno`.
        errno: Errno,
        /// What EAL logged, in one line.
        text: String,
    },
    /// The CPU affinity of the calling thread could not be read or put back.
    #[error("cannot keep the CPU affinity of the thread that starts DPDK")]
    Affinity(#[source] Errno),
    /// EAL's log could not be redirected.
    #[error("cannot capture EAL's log")]
    Log(#[source] Errno),
}

/// DPDK's environment, running. There is one per process: it is made in `main` and passed by reference (or in
/// an `Arc`) to whoever makes pools and workers.
///
/// DPDK is shut down when this and everything made from it are gone.
#[derive(Debug)]
pub struct Eal {
    running: Arc<Running>,
}

/// Proof that the environment is up; dropping the last one shuts it down.
#[derive(Debug)]
pub(crate) struct Running {
    numa_node: Option<NumaNode>,
}

/// Set by the first call that reaches EAL and never cleared: DPDK does not promise that `rte_eal_init` works
/// after a failure or after `rte_eal_cleanup`.
static TRIED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts DPDK. The calling thread becomes lcore 0 and keeps its CPU affinity.
    ///
    /// What EAL says at [`EalConfig::log_level`] or above goes to stderr, or into the error.
    ///
    /// # Errors
    /// See [`EalError`].
    pub fn init(config: &EalConfig) -> Result<Self, EalError> {
        let affinity = cpu::current().map_err(EalError::Affinity)?;
        let argv = config.argv(&cpu::members(&affinity))?;
        if TRIED.load(Ordering::Relaxed) {
            return Err(EalError::AlreadyInitialised);
        }
        check_hugepages(config.memory)?;
        if TRIED.swap(true, Ordering::Relaxed) {
            return Err(EalError::AlreadyInitialised);
        }

        let capture = log::Capture::start().map_err(EalError::Log)?;
        let started = start(argv);
        let text = capture.finish();
        remove_runtime_dir();
        // EAL has bound the calling thread to its lcore's CPUs, also when it failed later on.
        let restored = cpu::restore(&affinity);

        if let Err(errno) = started {
            return Err(EalError::Refused { errno, text: one_line(&text) });
        }
        let eal = Self { running: Arc::new(Running { numa_node: config.memory.numa_node() }) };
        restored.map_err(EalError::Affinity)?;
        eprint!("{text}");
        Ok(eal)
    }

    /// Ticks of [`crate::tsc`] per second.
    pub fn tsc_hz(&self) -> u64 {
        // SAFETY: EAL measured the rate at start, and `self` proves that it is up.
        unsafe { sys::rte_get_tsc_hz() }
    }

    /// The node whose memory DPDK uses; `None`: any.
    pub fn numa_node(&self) -> Option<NumaNode> {
        self.running.numa_node
    }

    pub(crate) fn running(&self) -> &Arc<Running> {
        &self.running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // SAFETY: whatever uses EAL holds an `Arc<Running>`, and this is the last one going. `TRIED` keeps a
        // second environment from existing. A failure here has no remedy: the process is about to end.
        unsafe { sys::rte_eal_cleanup() };
    }
}

/// DPDK's name and release, for example `DPDK 22.11.11`. Needs no environment.
pub fn version() -> String {
    // SAFETY: returns a pointer to a constant or to a buffer filled once; has no precondition.
    let text = unsafe { sys::rte_version() };
    // SAFETY: that text is NUL-terminated and lives as long as the process.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// `rte_errno` of the calling thread.
pub(crate) fn last_errno() -> Errno {
    // SAFETY: reads a thread-local integer.
    Errno::from_raw(unsafe { sys::ringway_errno() })
}

fn check_hugepages(memory: Memory) -> Result<(), EalError> {
    let Memory::Hugepages { mib, numa_node } = memory else { return Ok(()) };
    match Report::read(Path::new("/sys"), numa_node).shortage(mib) {
        None => Ok(()),
        Some(shortage) => Err(EalError::NoHugepages {
            wanted_mib: mib,
            free_mib: shortage.free_mib,
            numa_node,
            remedy: shortage.remedy,
        }),
    }
}

fn start(argv: Vec<CString>) -> Result<(), Errno> {
    // EAL may keep pointers into its arguments and reorders the vector. Both are given away for good: this
    // runs once per process.
    let words = argv.into_iter().map(CString::into_raw);
    let vector: &mut [*mut c_char] = words.chain([ptr::null_mut()]).collect::<Vec<_>>().leak();
    let count = i32::try_from(vector.len() - 1).map_err(|_| Errno::E2BIG)?;
    // SAFETY: `count` strings and a null pointer that live, and may be written, until the process ends;
    // `Eal::init` lets only one caller per process come here.
    match unsafe { sys::rte_eal_init(count, vector.as_mut_ptr()) } {
        parsed if parsed >= 0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// EAL makes a directory for its files even when told to have none. Ours is empty; one that is not stays.
fn remove_runtime_dir() {
    // SAFETY: returns a static buffer of EAL's, empty or filled by the start that this thread has just made.
    let dir = unsafe { sys::rte_eal_get_runtime_dir() };
    // SAFETY: that buffer is NUL-terminated and changes only when EAL starts, which it does not again.
    let dir = unsafe { CStr::from_ptr(dir) };
    // A leftover directory does no harm, so a failure is none of ours either.
    let _ = fs::remove_dir(OsStr::from_bytes(dir.to_bytes()));
}

/// Log lines as one: `EAL: a\nEAL: b\n` is `a; b`.
fn one_line(text: &str) -> String {
    let lines = text.lines().map(|line| line.trim().trim_start_matches("EAL: "));
    let line = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    if line.is_empty() { "it gave no reason".to_owned() } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_becomes_one_line() {
        for (text, line) in [
            ("EAL: one\n", "one"),
            ("EAL: one\n\n  EAL: two: EAL: x \nRING: three", "one; two: EAL: x; RING: three"),
            ("", "it gave no reason"),
        ] {
            assert_eq!(one_line(text), line);
        }
    }

    #[test]
    fn the_hugepage_error_names_amount_place_and_remedy() {
        let error = |numa_node| EalError::NoHugepages {
            wanted_mib: 256,
            free_mib: 12,
            numa_node,
            remedy: "echo 1 > there".to_owned(),
        };
        assert_eq!(
            error(None).to_string(),
            "not enough free hugepages: 256 MiB wanted, 12 MiB free; echo 1 > there"
        );
        assert_eq!(
            error(Some(NumaNode(1))).to_string(),
            "not enough free hugepages on NUMA node 1: 256 MiB wanted, 12 MiB free; echo 1 > there"
        );
    }

    #[test]
    fn the_version_is_one_we_support() {
        let version = version();
        let release = version.strip_prefix("DPDK ").expect(&version);
        let year: u32 =
            release.split('.').next().and_then(|year| year.parse().ok()).expect(&version);
        assert!(year >= 22, "{version}");
    }
}
