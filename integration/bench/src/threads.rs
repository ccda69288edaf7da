//! What the kernel says about the threads of a process.

use std::fs;

use anyhow::{Context, Result};

/// A thread's times so far, from /proc/PID/task/TID/schedstat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thread {
    /// Its id.
    pub id: u32,
    /// On a CPU, ns.
    pub ran: u64,
    /// Ready, but not on a CPU, ns.
    pub waited: u64,
}

/// Every thread of a process.
pub fn of(pid: u32) -> Result<Vec<Thread>> {
    let path = format!("/proc/{pid}/task");
    let mut found = Vec::new();
    for entry in fs::read_dir(&path).with_context(|| path.clone())? {
        let entry = entry?;
        // A thread may end between the look and the reading.
        let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
        let id = entry.file_name().to_string_lossy().parse()?;
        found.extend(parse(id, &text));
    }
    Ok(found)
}

/// How long each thread that is in both readings ran and waited between them, ns.
pub fn changes(before: &[Thread], after: &[Thread]) -> Vec<Thread> {
    let change = |now: &Thread| {
        let then = before.iter().find(|then| then.id == now.id)?;
        let ran = now.ran.saturating_sub(then.ran);
        Some(Thread { id: now.id, ran, waited: now.waited.saturating_sub(then.waited) })
    };
    after.iter().filter_map(change).collect()
}

/// `RAN WAITED SLICES`, the first two in ns.
fn parse(id: u32, schedstat: &str) -> Option<Thread> {
    let mut fields = schedstat.split_whitespace().map(str::parse);
    Some(Thread { id, ran: fields.next()?.ok()?, waited: fields.next()?.ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_counters() {
        assert_eq!(parse(7, "12 34 5\n"), Some(Thread { id: 7, ran: 12, waited: 34 }));
        assert_eq!(parse(7, ""), None);
        assert!(!of(std::process::id()).unwrap().is_empty());
    }

    #[test]
    fn changes_are_those_of_threads_in_both_readings() {
        let thread = |id, ran, waited| Thread { id, ran, waited };
        let before = [thread(1, 5, 6), thread(2, 100, 50)];
        let after = [thread(2, 1100, 80), thread(4, 5000, 5000)];
        assert_eq!(changes(&before, &after), [thread(2, 1000, 30)]);
    }
}
