//! CPU numbers, NUMA nodes and thread affinity.

use std::fmt;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// A logical CPU by the kernel's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(pub u16);

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A NUMA node by the kernel's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NumaNode(pub u8);

impl fmt::Display for NumaNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The calling thread. The kernel's affinity calls are per thread and take 0 for the caller.
const CALLER: Pid = Pid::from_raw(0);

/// Binds the calling thread to one CPU. Threads it starts later inherit that.
///
/// Do this before [`crate::Eal::register_worker`], so that DPDK notes the right NUMA node for the thread.
///
/// # Errors
/// `EINVAL`: no such CPU, it is offline, or it is outside this process's cpuset.
pub fn pin_current_thread(cpu: CpuId) -> Result<(), Errno> {
    let mut set = CpuSet::new();
    set.set(usize::from(cpu.0))?;
    restore(&set)
}

/// The CPUs the calling thread may run on, ascending.
///
/// # Errors
/// `EINVAL`: the kernel has more CPUs than the 1024 a C library's CPU set holds.
pub fn allowed_cpus() -> Result<Vec<CpuId>, Errno> {
    Ok(members(&current()?))
}

/// Affinity of the calling thread, for [`restore`].
pub(crate) fn current() -> Result<CpuSet, Errno> {
    sched_getaffinity(CALLER)
}

/// Sets the affinity of the calling thread.
pub(crate) fn restore(set: &CpuSet) -> Result<(), Errno> {
    sched_setaffinity(CALLER, set)
}

pub(crate) fn members(set: &CpuSet) -> Vec<CpuId> {
    (0..u16::MAX)
        .take(CpuSet::count())
        .filter(|&cpu| set.is_set(usize::from(cpu)).unwrap_or(false))
        .map(CpuId)
        .collect()
}

/// The kernel's list notation, `0-2,5`, of ascending CPUs.
pub(crate) fn list(cpus: &[CpuId]) -> String {
    let runs = cpus.chunk_by(|a, b| b.0 == a.0 + 1);
    let texts = runs.filter_map(|run| match run {
        [] => None,
        [only] => Some(only.to_string()),
        [first, .., last] => Some(format!("{first}-{last}")),
    });
    texts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_written_as_the_kernel_writes_them() {
        for (cpus, text) in [
            (&[][..], ""),
            (&[0], "0"),
            (&[3, 5], "3,5"),
            (&[0, 1], "0-1"),
            (&[0, 1, 2, 5, 7, 8], "0-2,5,7-8"),
            (&[1023], "1023"),
        ] {
            let cpus: Vec<_> = cpus.iter().copied().map(CpuId).collect();
            assert_eq!(list(&cpus), text);
        }
    }

    #[test]
    fn members_of_a_set_are_read_to_its_last_bit() {
        let mut set = CpuSet::new();
        for cpu in [0, 2, CpuSet::count() - 1] {
            set.set(cpu).unwrap();
        }
        assert_eq!(members(&set), [CpuId(0), CpuId(2), CpuId(1023)]);
    }

    #[test]
    fn a_thread_can_be_pinned_and_only_to_a_cpu_that_exists() {
        std::thread::spawn(|| {
            let last = *allowed_cpus().unwrap().last().unwrap();
            pin_current_thread(last).unwrap();
            assert_eq!(allowed_cpus().unwrap(), [last]);
            assert_eq!(pin_current_thread(CpuId(u16::MAX)), Err(Errno::EINVAL), "beyond the set");
            assert_eq!(allowed_cpus().unwrap(), [last], "a refused pin changes nothing");
        })
        .join()
        .unwrap();
    }
}
