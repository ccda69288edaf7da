//! The switch's CPU, set apart from all other threads while the bench runs, as `isolcpus` does it on a node: whoever wakes up there takes
//! it from the worker for some 40 µs, and which switch that hits is chance. One that never sleeps drives them all to the generator's CPU at
//! its start.

use std::collections::BTreeSet;
use std::fs;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// A thread that had to leave.
#[derive(Debug, PartialEq)]
struct Moved {
    thread: i32,
    before: CpuSet,
    now: CpuSet,
}

/// Threads that stay away from a CPU; dropping it lets them come back.
#[derive(Debug)]
pub struct Apart {
    moved: Vec<Moved>,
    /// Threads that were there then.
    known: BTreeSet<i32>,
}

impl Apart {
    /// Has all threads of other processes leave `cpu` that may run elsewhere, kernel threads too. Those that belong to the CPU stay.
    pub fn set(cpu: u16) -> Self {
        let mut moved = Vec::new();
        let known: BTreeSet<_> = others().into_iter().collect();
        for &thread in &known {
            // It may have ended.
            let Ok(before) = sched_getaffinity(Pid::from_raw(thread)) else { continue };
            if let Some(now) = without(&before, cpu.into())
                && sched_setaffinity(Pid::from_raw(thread), &now).is_ok()
            {
                moved.push(Moved { thread, before, now });
            }
        }
        Self { moved, known }
    }

    /// How many have left.
    pub fn count(&self) -> usize {
        self.moved.len()
    }

    /// Where a thread goes that may run on `now`: back, or, if it was started meanwhile, where the one may run that has started it.
    fn back(&self, thread: i32, now: &CpuSet) -> Option<CpuSet> {
        let is_it = |moved: &&Moved| {
            moved.now == *now && (moved.thread == thread || !self.known.contains(&thread))
        };
        self.moved.iter().find(is_it).map(|moved| moved.before)
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        for thread in others() {
            let Ok(now) = sched_getaffinity(Pid::from_raw(thread)) else { continue };
            if let Some(before) = self.back(thread, &now) {
                let _gone = sched_setaffinity(Pid::from_raw(thread), &before);
            }
        }
    }
}

/// The set without a CPU, if that is in it and not the only one.
fn without(set: &CpuSet, cpu: usize) -> Option<CpuSet> {
    let mut rest = *set;
    let is_there = set.is_set(cpu).unwrap_or(false);
    let left = (0..CpuSet::count()).any(|it| it != cpu && set.is_set(it).unwrap_or(false));
    (is_there && left && rest.unset(cpu).is_ok()).then_some(rest)
}

/// Every thread but those of this process.
fn others() -> Vec<i32> {
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<i32>().ok();
    let numbers = |path: &str| fs::read_dir(path).into_iter().flatten().flatten();
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let processes = numbers("/proc").filter_map(number).filter(|process| *process != own);
    let threads = |process| numbers(&format!("/proc/{process}/task")).filter_map(number);
    processes.flat_map(threads).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cpus: &[usize]) -> CpuSet {
        let mut set = CpuSet::new();
        cpus.iter().for_each(|cpu| set.set(*cpu).unwrap());
        set
    }

    #[test]
    fn who_can_be_elsewhere_leaves() {
        assert_eq!(without(&set(&[0, 1]), 1), Some(set(&[0])));
        assert_eq!(without(&set(&[0, 2]), 1), None);
        assert_eq!(without(&set(&[1]), 1), None);
    }

    #[test]
    fn they_come_back_and_who_was_started_meanwhile_too() {
        let moved = |thread, before: &[usize], now: &[usize]| Moved {
            thread,
            before: set(before),
            now: set(now),
        };
        let apart = Apart {
            moved: vec![moved(7, &[0, 1], &[0]), moved(8, &[0, 1, 2], &[0, 2])],
            known: [6, 7, 8].into(),
        };
        assert_eq!(apart.back(7, &set(&[0])), Some(set(&[0, 1])));
        assert_eq!(apart.back(8, &set(&[0, 2])), Some(set(&[0, 1, 2])));
        assert_eq!(apart.back(8, &set(&[0])), None, "it was sent elsewhere meanwhile");
        assert_eq!(apart.back(9, &set(&[0, 2])), Some(set(&[0, 1, 2])), "started meanwhile");
        assert_eq!(apart.back(9, &set(&[1])), None);
        assert_eq!(apart.back(6, &set(&[0])), None, "it was never there");
        std::mem::forget(apart);
    }

    #[test]
    fn threads_of_others_are_found() {
        let all = others();
        assert!(all.contains(&1));
        assert!(!all.contains(&i32::try_from(std::process::id()).unwrap()));
    }
}
