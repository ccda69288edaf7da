//! Whether the two CPUs belonged to the measurement alone: how long the generator and the switch's worker were kept waiting
//! for their CPU by other programs, and how much the host took away.

use std::fs;
use std::time::Instant;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::threads::{self, Thread};

/// A sample in which one of the two lost more of its time than this does not count. On a quiet machine it is below 0.5 %.
const LIMIT: f64 = 0.03;

/// Shares of the time of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Disturbance {
    /// In which the generator was ready to run while its CPU ran something else.
    pub generator_waited: f64,
    /// In which the switch's busiest thread was.
    pub switch_waited: f64,
    /// That the host took from the two CPUs together.
    pub stolen: f64,
}

impl Disturbance {
    /// Whether it spoils a sample.
    pub fn is_too_much(&self) -> bool {
        [self.generator_waited, self.switch_waited, self.stolen].iter().any(|it| *it > LIMIT)
    }
}

/// What the kernel had counted when the measurement began.
#[derive(Debug)]
pub struct Watch {
    since: Instant,
    processes: [Vec<Thread>; 2],
    stolen: f64,
    cpus: [u16; 2],
}

impl Watch {
    /// Begins to watch the generator, the switch and their CPUs.
    pub fn begin(generator: u32, switch: u32, cpus: [u16; 2]) -> Result<Self> {
        let processes = [threads::of(generator)?, threads::of(switch)?];
        let stolen = stolen(&fs::read_to_string("/proc/stat")?, &cpus);
        Ok(Self { since: Instant::now(), processes, stolen, cpus })
    }

    /// What happened since; `generator` and `switch` as before.
    pub fn end(&self, generator: u32, switch: u32) -> Result<Disturbance> {
        let elapsed = self.since.elapsed().as_secs_f64();
        let [generator_before, switch_before] = &self.processes;
        let waited = |before: &[Thread], pid| -> Result<f64> {
            Ok(kept_waiting(before, &threads::of(pid)?) / 1e9 / elapsed)
        };
        let stolen_now = stolen(&fs::read_to_string("/proc/stat")?, &self.cpus);
        Ok(Disturbance {
            generator_waited: waited(generator_before, generator)?,
            switch_waited: waited(switch_before, switch)?,
            stolen: (stolen_now - self.stolen) / elapsed / 2.0,
        })
    }
}

/// How long the thread that ran most between two readings was kept waiting, ns.
fn kept_waiting(before: &[Thread], after: &[Thread]) -> f64 {
    let changes = threads::changes(before, after);
    changes.iter().max_by_key(|it| it.ran).map_or(0.0, |it| it.waited as f64)
}

/// Seconds that the host has taken from some CPUs: the eighth number of their lines in /proc/stat, in 1/100 s.
fn stolen(stat: &str, cpus: &[u16]) -> f64 {
    let of = |cpu: &u16| {
        let name = format!("cpu{cpu}");
        let line = stat.lines().find(|line| line.split(' ').next() == Some(&name))?;
        line.split_whitespace().nth(8)?.parse::<f64>().ok()
    };
    cpus.iter().filter_map(of).sum::<f64>() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_that_ran_most_decides() {
        let thread = |id, ran, waited| Thread { id, ran, waited };
        let before = [thread(1, 0, 0), thread(2, 100, 50), thread(3, 0, 0)];
        let after = [thread(1, 10, 900), thread(2, 1100, 80), thread(4, 5000, 5000)];
        assert_eq!(kept_waiting(&before, &after), 30.0);
        assert_eq!(kept_waiting(&before, &[]), 0.0);
    }

    #[test]
    fn reads_the_kernels_counters() {
        let real = "cpu  680699 793388 134585 1056937 6941 0 1467 79117 0 0\n\
                    cpu0 374704 386034 69424 502946 4373 0 284 37683 0 0\n\
                    cpu1 305994 407354 65160 553990 2568 0 1183 41434 0 0\n";
        assert!((stolen(real, &[0, 1]) - 791.17).abs() < 1e-9);
        assert!((stolen(real, &[1]) - 414.34).abs() < 1e-9);
        assert_eq!(stolen(real, &[9]), 0.0);
    }

    #[test]
    fn any_of_the_three_spoils_a_sample() {
        let quiet = Disturbance { generator_waited: 0.01, switch_waited: 0.0, stolen: 0.005 };
        assert!(!quiet.is_too_much());
        assert!(Disturbance { generator_waited: 0.5, ..quiet }.is_too_much());
        assert!(Disturbance { switch_waited: 0.5, ..quiet }.is_too_much());
        assert!(Disturbance { stolen: 0.5, ..quiet }.is_too_much());
    }
}
