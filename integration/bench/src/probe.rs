//! What the machine is like right now: the time one cache line takes between the two CPUs that matter.
//!
//! Hosts of virtual machines have phases. In some, core-to-core latency is a multiple of its usual value and every switch falls
//! alike; in others it is a fraction, because both CPUs are for a moment threads of one core. A sample from such a phase
//! cannot be compared with the others.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// A probe that differs from the usual one by more than this factor marks another phase. Within a phase values vary by a quarter
/// either way; phases differ by three or more.
const FACTOR: f64 = 1.6;
/// Batches whose median is the result: an interrupt in one of them does not show.
const BATCHES: usize = 15;
/// Round trips of one batch; about 0.3 ms.
const TRIPS: u32 = 2_000;
/// Longest probe. Only where something else holds one of the CPUs it takes more than 0.1 s.
const LIMIT: Duration = Duration::from_secs(2);

/// All probes so far.
#[derive(Debug, Default, Clone)]
pub struct Reference(Vec<f64>);

impl Reference {
    /// Takes a probe into account.
    pub fn note(&mut self, nanoseconds: f64) {
        let at = self.0.partition_point(|probe| *probe < nanoseconds);
        self.0.insert(at, nanoseconds);
    }

    /// The usual probe, ns: the lower quartile. Unlike the best one it is not moved by a rare moment, and unlike the median it
    /// holds when up to three quarters of the run were slow. 0 before the first.
    pub fn usual(&self) -> f64 {
        self.0.get(self.0.len() / 4).copied().unwrap_or(0.0)
    }

    /// Whether a probe is from another phase than the usual one.
    pub fn is_unusual(&self, nanoseconds: f64) -> bool {
        let usual = self.usual();
        usual > 0.0 && (nanoseconds > usual * FACTOR || nanoseconds < usual / FACTOR)
    }
}

/// Lets the calling thread, and those it starts, run on `cpus` only.
pub fn pin(cpus: &[u16]) -> Result<()> {
    sched_setaffinity(Pid::from_raw(0), &set(cpus)?)
        .with_context(|| format!("cannot run on CPU {cpus:?}; is it online?"))
}

/// Lets every thread of this process, and those they start, run on `cpus` only.
pub fn pin_all(cpus: &[u16]) -> Result<()> {
    let set = set(cpus)?;
    for task in fs::read_dir("/proc/self/task")? {
        let name = task?.file_name();
        if let Some(id) = name.to_str().and_then(|it| it.parse().ok()) {
            // A thread may end between the look and the change.
            let _gone = sched_setaffinity(Pid::from_raw(id), &set);
        }
    }
    pin(cpus)
}

fn set(cpus: &[u16]) -> Result<CpuSet> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(usize::from(cpu)).with_context(|| format!("CPU {cpu} is out of range"))?;
    }
    Ok(set)
}

#[repr(align(128))]
struct Line(AtomicU32);

/// Nanoseconds one line takes from one CPU to the other: half a round trip, median of [`BATCHES`]. [`LIMIT`] when the two CPUs do
/// not run at the same time, because something else holds one of them.
pub fn measure(one: u16, other: u16) -> Result<f64> {
    let line = Line(AtomicU32::new(0));
    let end = Instant::now() + LIMIT;
    let last = 2 * TRIPS * u32::try_from(BATCHES + 1)?;
    let times = std::thread::scope(|scope| {
        let echo = scope.spawn(|| -> Result<()> {
            pin(&[other])?;
            for turn in (0..last).step_by(2) {
                if !wait(&line, turn + 1, end) {
                    break;
                }
                line.0.store(turn + 2, Ordering::Release);
            }
            Ok(())
        });
        let caller = scope.spawn(|| -> Result<Option<Vec<f64>>> {
            pin(&[one])?;
            let mut times = Vec::with_capacity(BATCHES + 1);
            let mut turn = 0;
            for _ in 0..=BATCHES {
                let start = Instant::now();
                for _ in 0..TRIPS {
                    line.0.store(turn + 1, Ordering::Release);
                    if !wait(&line, turn + 2, end) {
                        return Ok(None);
                    }
                    turn += 2;
                }
                times.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(2 * TRIPS));
            }
            // The first batch has the start of the other thread in it.
            times.remove(0);
            Ok(Some(times))
        });
        let times = caller.join().map_err(|_| anyhow!("the calling thread ended"))?;
        echo.join().map_err(|_| anyhow!("the echoing thread ended"))??;
        times
    })?;
    let middle = crate::stats::spread(times.unwrap_or_default()).map(|it| it.median);
    Ok(middle.unwrap_or(LIMIT.as_secs_f64() * 1e9))
}

/// Whether the line holds `value` before `end`.
fn wait(line: &Line, value: u32, end: Instant) -> bool {
    loop {
        for _ in 0..10_000 {
            if line.0.load(Ordering::Acquire) == value {
                return true;
            }
            std::hint::spin_loop();
        }
        if Instant::now() > end {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_phase_is_neither_the_best_nor_the_most_frequent() {
        let mut reference = Reference::default();
        assert!(!reference.is_unusual(1000.0), "nothing is known yet");
        // Most of the time slow, and once both CPUs were one core.
        for probe in [200.0, 210.0, 60.0, 220.0, 20.0, 62.0, 205.0, 58.0, 215.0] {
            reference.note(probe);
        }
        assert_eq!(reference.usual(), 60.0);
        for (probe, unusual) in [(20.0, true), (40.0, false), (95.0, false), (97.0, true)] {
            assert_eq!(reference.is_unusual(probe), unusual, "{probe}");
        }
    }

    #[test]
    fn a_line_takes_time() {
        // On one CPU the two threads only meet through the scheduler.
        if std::thread::available_parallelism().unwrap().get() < 2 {
            return;
        }
        let nanoseconds = measure(0, 1).unwrap();
        assert!((1.0..=2e9).contains(&nanoseconds), "{nanoseconds}");
    }

    #[test]
    fn an_answer_that_does_not_come_is_not_waited_for_for_ever() {
        let line = Line(AtomicU32::new(7));
        let end = Instant::now() + Duration::from_millis(20);
        assert!(wait(&line, 7, end));
        assert!(!wait(&line, 8, end));
    }
}
