//! How many workers a vRouter shall have, and on which CPUs: follows the load within bounds, slowly.

use std::collections::BTreeMap;

use ringway_config::WorkerRules;

use crate::cpuset::CpuSet;
use crate::modes::Mode;

/// What a vRouter's workers have done so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When it was taken, ms on a clock that only goes forward.
    pub at_ms: u64,
    /// New with every start of the vRouter.
    pub instance: String,
    /// CPU and time spent on packets since the start, ns, of each worker.
    pub workers: Vec<(u32, u64)>,
    /// What they do when there is nothing to do.
    pub mode: Mode,
}

/// A vRouter whose load is followed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Follower {
    last: Option<Sample>,
    /// Since when there has been too much to do, ms.
    high_since: Option<u64>,
    /// Since when there has been too little.
    low_since: Option<u64>,
}

/// What the workers shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// One worker on each.
    pub cpus: Vec<u32>,
    /// Why.
    pub why: String,
}

impl Follower {
    /// What shall change, if anything, as of `sample`. `cpus`: those the vRouter may have; `cores`: the CPUs of each
    /// core, as two workers get in each other's way on one.
    pub fn decide(
        &mut self,
        sample: Sample,
        cpus: &CpuSet,
        cores: &[CpuSet],
        rules: &WorkerRules,
    ) -> Option<Decision> {
        let (least, most) = bounds(cpus, rules)?;
        let running: Vec<u32> = sample.workers.iter().map(|(cpu, _)| *cpu).collect();
        let load = self.last.as_ref().and_then(|last| busy_percent(last, &sample));
        let now = sample.at_ms;
        self.last = Some(sample);
        // What is outside the bounds is put right at once.
        let clamped = running.len().clamp(least, most);
        let astray: Vec<u32> = running.iter().copied().filter(|cpu| !cpus.contains(*cpu)).collect();
        if clamped != running.len() || !astray.is_empty() {
            let why = if astray.is_empty() {
                format!("{} workers, {least} to {most} are allowed", running.len())
            } else {
                let astray: CpuSet = astray.into_iter().collect();
                format!("workers on CPUs {astray}, which are not the vRouter's")
            };
            return self.changed(chosen(&running, clamped, cpus, cores), why);
        }
        let Some(load) = load else {
            (self.high_since, self.low_since) = (None, None);
            return None;
        };
        let count = u64::try_from(running.len()).unwrap_or(u64::MAX);
        let each = load / count.max(1);
        let high = each > u64::from(rules.grow_above_percent) && running.len() < most;
        let low = running.len() > least
            && load / (count - 1).max(1) < u64::from(rules.shrink_below_percent);
        let due = |since: &mut Option<u64>, holds: bool, after_s: u32| {
            *since = holds.then(|| since.unwrap_or(now));
            since.is_some_and(|since| now - since >= u64::from(after_s) * 1000)
        };
        if due(&mut self.high_since, high, rules.grow_after_s) {
            let why = format!("workers are busy for {each} % of their time");
            return self.changed(chosen(&running, running.len() + 1, cpus, cores), why);
        }
        if due(&mut self.low_since, low, rules.shrink_after_s) {
            let why = format!("workers are busy for {each} % of their time, one fewer does");
            return self.changed(chosen(&running, running.len() - 1, cpus, cores), why);
        }
        None
    }

    /// After a change the load is watched anew, for as long as before one.
    fn changed(&mut self, cpus: Vec<u32>, why: String) -> Option<Decision> {
        (self.high_since, self.low_since) = (None, None);
        self.last = None;
        Some(Decision { cpus, why })
    }
}

/// Least and greatest number; `None`: there is nothing to choose.
fn bounds(cpus: &CpuSet, rules: &WorkerRules) -> Option<(usize, usize)> {
    let have = cpus.len();
    if have == 0 || !rules.adjust {
        return None;
    }
    let limit = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let most = if rules.max == 0 { have } else { limit(rules.max).min(have) };
    Some((limit(rules.min).clamp(1, most), most))
}

/// Busy time of all workers between two samples, percent of one CPU; `None` when they cannot be compared.
pub(crate) fn busy_percent(last: &Sample, now: &Sample) -> Option<u64> {
    let before: BTreeMap<u32, u64> = last.workers.iter().copied().collect();
    let passed = now.at_ms.checked_sub(last.at_ms).filter(|ms| *ms > 0)?;
    if last.instance != now.instance || before.len() != now.workers.len() {
        return None;
    }
    let mut busy = 0u64;
    for (cpu, ns) in &now.workers {
        busy = busy.saturating_add(ns.checked_sub(*before.get(cpu)?)?);
    }
    // ns in ms, as percent: 10^6 ns are a ms.
    Some(busy / 10_000 / passed)
}

/// `count` CPUs: first those that have a worker and may keep it, then whole cores that have none, then any.
fn chosen(running: &[u32], count: usize, cpus: &CpuSet, cores: &[CpuSet]) -> Vec<u32> {
    let mut chosen: Vec<u32> =
        running.iter().copied().filter(|cpu| cpus.contains(*cpu)).take(count).collect();
    let mut rest: Vec<u32> = cpus.iter().filter(|cpu| !chosen.contains(cpu)).collect();
    while chosen.len() < count && !rest.is_empty() {
        let core = |cpu: u32| cores.iter().find(|core| core.contains(cpu));
        let taken = |cpu: u32| {
            core(cpu).is_some_and(|core| chosen.iter().any(|other| core.contains(*other)))
        };
        let next = rest.iter().position(|cpu| !taken(*cpu)).unwrap_or(0);
        chosen.push(rest.remove(next));
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: WorkerRules = WorkerRules {
        adjust: true,
        min: 1,
        max: 0,
        grow_above_percent: 80,
        grow_after_s: 20,
        shrink_below_percent: 50,
        shrink_after_s: 60,
        mode: None,
        poll_above_percent: 60,
        sleep_below_percent: 5,
        mode_after_s: 30,
    };

    /// A vRouter whose workers are busy as told, looked at every 10 s.
    struct Bench {
        follower: Follower,
        workers: Vec<(u32, u64)>,
        cpus: CpuSet,
        cores: Vec<CpuSet>,
        now_s: u64,
        rules: WorkerRules,
    }

    impl Bench {
        fn new(workers: &[u32], cpus: &str) -> Self {
            let cores = ["0,4", "1,5", "2,6", "3,7"].map(|core| core.parse().unwrap());
            Self {
                follower: Follower::default(),
                workers: workers.iter().map(|cpu| (*cpu, 0)).collect(),
                cpus: cpus.parse().unwrap(),
                cores: cores.into(),
                now_s: 0,
                rules: RULES,
            }
        }

        /// Ten seconds in which each worker is busy for `percent`; what is decided is done.
        fn pass(&mut self, percent: u64) -> Option<Vec<u32>> {
            self.now_s += 10;
            for (_, busy) in &mut self.workers {
                *busy += percent * 100_000_000;
            }
            let sample = Sample {
                at_ms: self.now_s * 1000,
                instance: "x".into(),
                workers: self.workers.clone(),
                mode: Mode::Adaptive,
            };
            let decision = self.follower.decide(sample, &self.cpus, &self.cores, &self.rules)?;
            let known: BTreeMap<u32, u64> = self.workers.iter().copied().collect();
            let count = |cpu: &u32| (*cpu, known.get(cpu).copied().unwrap_or(0));
            self.workers = decision.cpus.iter().map(count).collect();
            Some(decision.cpus)
        }

        fn passes(&mut self, percents: &[u64]) -> Vec<Option<Vec<u32>>> {
            percents.iter().map(|percent| self.pass(*percent)).collect()
        }
    }

    #[test]
    fn more_for_lasting_load_onto_a_core_of_its_own() {
        let mut bench = Bench::new(&[1], "1-2,5-6");
        // The first sample says nothing yet; then it takes 20 s.
        assert_eq!(bench.passes(&[95, 95, 95]), [None, None, None]);
        assert_eq!(bench.pass(95), Some(vec![1, 2]));
        assert_eq!(bench.passes(&[95, 95, 95]), [None, None, None]);
        assert_eq!(bench.pass(95), Some(vec![1, 2, 5]));
        let ever = bench.passes(&[95; 4]);
        assert_eq!(ever[3], Some(vec![1, 2, 5, 6]));
        // Never more than there are CPUs.
        assert!(bench.passes(&[100; 20]).iter().all(Option::is_none));
    }

    #[test]
    fn a_burst_or_a_pause_changes_nothing() {
        let mut bench = Bench::new(&[1, 2], "1-2,5-6");
        assert!(bench.passes(&[95, 95, 70, 95, 95, 70, 95]).iter().all(Option::is_none));
        assert!(bench.passes(&[10, 10, 10, 10, 60, 10, 10, 10, 60]).iter().all(Option::is_none));
    }

    #[test]
    fn fewer_only_when_the_rest_will_do() {
        let mut bench = Bench::new(&[1, 2], "1-2");
        // 2 workers at 30 % are one at 60 %.
        assert!(bench.passes(&[30; 30]).iter().all(Option::is_none));
        let quiet = bench.passes(&[20; 7]);
        assert_eq!(quiet[6], Some(vec![1]));
        assert!(bench.passes(&[0; 30]).iter().all(Option::is_none));
    }

    #[test]
    fn bounds_hold_at_once() {
        let mut bench = Bench::new(&[0, 1], "1-2");
        assert_eq!(bench.pass(0), Some(vec![1, 2]));
        let mut bench = Bench::new(&[1, 2, 5], "1-2,5");
        bench.rules.max = 2;
        assert_eq!(bench.pass(0), Some(vec![1, 2]));
        let mut bench = Bench::new(&[1], "1-2,5");
        bench.rules.min = 3;
        assert_eq!(bench.pass(0), Some(vec![1, 2, 5]));
        // More than there are: as many as there are.
        let mut bench = Bench::new(&[1], "1-2");
        bench.rules.min = 9;
        assert_eq!(bench.pass(0), Some(vec![1, 2]));
        let mut bench = Bench::new(&[0], "1-2");
        bench.rules.adjust = false;
        assert_eq!(bench.pass(100), None);
        assert_eq!(Bench::new(&[0], "").pass(100), None);
    }

    #[test]
    fn a_restart_is_no_load() {
        let mut bench = Bench::new(&[1], "1-2");
        bench.passes(&[95, 95, 95]);
        bench.workers = vec![(1, 0)];
        let sample = Sample {
            at_ms: 40_000,
            instance: "y".into(),
            workers: vec![(1, 0)],
            mode: Mode::Adaptive,
        };
        let decision = bench.follower.decide(sample, &bench.cpus, &bench.cores, &RULES);
        assert_eq!(decision, None);
        assert_eq!(bench.follower.high_since, None);
    }

    /// Whatever the load does: within bounds, never two changes without time between them, and a steady load comes to
    /// rest.
    #[test]
    fn any_load_stays_within_bounds_and_comes_to_rest() {
        bolero::check!().with_type::<(Vec<u8>, u8, u8)>().for_each(|(loads, min, max)| {
            let mut bench = Bench::new(&[1], "1-3,5-7");
            bench.rules.min = u32::from(min % 8);
            bench.rules.max = u32::from(max % 8);
            let (least, most) = bounds(&bench.cpus, &bench.rules).unwrap();
            let mut last_change = None;
            for load in loads.iter().map(|load| u64::from(*load) % 101) {
                if bench.pass(load).is_some() {
                    let waited = last_change.map(|at| bench.now_s - at);
                    assert!(waited.is_none_or(|waited| waited >= 20), "{waited:?}");
                    last_change = Some(bench.now_s);
                }
                let mut cpus: Vec<u32> = bench.workers.iter().map(|(cpu, _)| *cpu).collect();
                assert!((least..=most).contains(&cpus.len()));
                cpus.sort_unstable();
                cpus.dedup();
                assert_eq!(cpus.len(), bench.workers.len());
                assert!(cpus.iter().all(|cpu| bench.cpus.contains(*cpu)));
            }
            // A fixed amount of work, shared by however many there are: one number of workers does for it.
            let work = loads.first().map_or(0, |load| u64::from(*load) * 2);
            let share = |bench: &Bench| work / u64::try_from(bench.workers.len()).unwrap();
            for _ in 0..200 {
                let share = share(&bench).min(100);
                bench.pass(share);
            }
            for _ in 0..50 {
                let share = share(&bench).min(100);
                assert_eq!(bench.pass(share), None, "{work}");
            }
        });
    }
}
