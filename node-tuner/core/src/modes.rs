//! What a vRouter's workers shall do when there is nothing to do: as a profile says, or after their load, slowly.

use std::fmt;

use ringway_config::{WorkerModeRule, WorkerRules};
use serde::{Deserialize, Serialize};

use crate::workers::{Sample, busy_percent};

/// What workers do when there is nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// They go on polling for a while, then sleep.
    #[default]
    Adaptive,
    /// They poll for ever.
    Poll,
    /// They sleep at once.
    Sleep,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Adaptive => "adaptive",
            Self::Poll => "poll",
            Self::Sleep => "sleep",
        })
    }
}

/// A vRouter whose load is followed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModeFollower {
    last: Option<Sample>,
    /// The mode that the load has asked for, and since when, ms.
    wanted: Option<(Mode, u64)>,
}

/// What workers shall do, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeDecision {
    /// The mode.
    pub mode: Mode,
    /// Why.
    pub why: String,
}

impl ModeFollower {
    /// What shall change, if anything, as of `sample`.
    pub fn decide(&mut self, sample: Sample, rules: &WorkerRules) -> Option<ModeDecision> {
        let fixed = match rules.mode? {
            WorkerModeRule::Adaptive => Mode::Adaptive,
            WorkerModeRule::Poll => Mode::Poll,
            WorkerModeRule::Sleep => Mode::Sleep,
            WorkerModeRule::ByLoad => return self.follow(sample, rules),
        };
        let why = "the profile says so".to_owned();
        (sample.mode != fixed).then_some(ModeDecision { mode: fixed, why })
    }

    fn follow(&mut self, sample: Sample, rules: &WorkerRules) -> Option<ModeDecision> {
        let (now, mode) = (sample.at_ms, sample.mode);
        let count = u64::try_from(sample.workers.len()).unwrap_or(u64::MAX).max(1);
        let load = self.last.as_ref().and_then(|last| busy_percent(last, &sample));
        self.last = Some(sample);
        let (poll, sleep) =
            (u64::from(rules.poll_above_percent), u64::from(rules.sleep_below_percent));
        // What is outside the bounds is put right at once.
        if (mode == Mode::Poll && poll == 100) || (mode == Mode::Sleep && sleep == 0) {
            return self.changed(Mode::Adaptive, "the profile does not allow this mode".to_owned());
        }
        let Some(load) = load else {
            self.wanted = None;
            return None;
        };
        let each = load / count;
        // A mode is left at another load than it is entered at.
        let wanted = match mode {
            Mode::Adaptive if each > poll => Some(Mode::Poll),
            Mode::Adaptive if each < sleep => Some(Mode::Sleep),
            Mode::Poll if each < poll / 2 => Some(Mode::Adaptive),
            Mode::Sleep if each >= sleep * 2 => Some(Mode::Adaptive),
            _ => None,
        };
        let since = |wanted| match self.wanted {
            Some((before, since)) if before == wanted => since,
            _ => now,
        };
        self.wanted = wanted.map(|wanted| (wanted, since(wanted)));
        let (wanted, since) = self.wanted?;
        if now - since < u64::from(rules.mode_after_s) * 1000 {
            return None;
        }
        self.changed(wanted, format!("workers are busy for {each} % of their time"))
    }

    /// After a change the load is watched anew.
    fn changed(&mut self, mode: Mode, why: String) -> Option<ModeDecision> {
        (self.last, self.wanted) = (None, None);
        Some(ModeDecision { mode, why })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A vRouter with two workers, looked at every 10 s.
    struct Bench {
        follower: ModeFollower,
        sample: Sample,
        rules: WorkerRules,
    }

    impl Bench {
        fn new(mode: WorkerModeRule) -> Self {
            let rules = WorkerRules {
                mode: Some(mode),
                poll_above_percent: 60,
                sleep_below_percent: 10,
                mode_after_s: 20,
                ..WorkerRules::default()
            };
            let workers = vec![(1, 0), (2, 0)];
            let sample = Sample { at_ms: 0, instance: "x".into(), workers, mode: Adaptive };
            Self { follower: ModeFollower::default(), sample, rules }
        }

        /// The modes after as many times ten seconds, in which each worker is busy for `percent`.
        fn pass(&mut self, percents: &[u64]) -> Vec<Mode> {
            let mut modes = Vec::new();
            for percent in percents {
                self.sample.at_ms += 10_000;
                self.sample.workers.iter_mut().for_each(|(_, ns)| *ns += percent * 100_000_000);
                let decision = self.follower.decide(self.sample.clone(), &self.rules);
                self.sample.mode = decision.map_or(self.sample.mode, |decision| decision.mode);
                modes.push(self.sample.mode);
            }
            modes
        }
    }

    use Mode::{Adaptive, Poll, Sleep};

    #[test]
    fn what_a_profile_says_holds_at_once_and_nothing_is_touched_without() {
        for (rule, mode) in [
            (WorkerModeRule::Poll, Poll),
            (WorkerModeRule::Sleep, Sleep),
            (WorkerModeRule::Adaptive, Adaptive),
        ] {
            let mut bench = Bench::new(rule);
            bench.sample.mode = if mode == Poll { Sleep } else { Poll };
            assert_eq!(bench.pass(&[0, 100]), [mode, mode]);
        }
        let mut bench = Bench::new(WorkerModeRule::Poll);
        bench.rules.mode = None;
        assert_eq!(bench.pass(&[0, 100]), [Adaptive, Adaptive]);
    }

    #[test]
    fn lasting_load_makes_them_poll_and_lasting_rest_makes_them_sleep() {
        let mut bench = Bench::new(WorkerModeRule::ByLoad);
        // The first sample says nothing yet; then it takes 20 s.
        assert_eq!(bench.pass(&[70, 70, 70, 70]), [Adaptive, Adaptive, Adaptive, Poll]);
        // It stays above half of that.
        assert_eq!(bench.pass(&[30; 6]), [Poll; 6]);
        assert_eq!(bench.pass(&[29, 29, 29]), [Poll, Poll, Adaptive]);
        assert_eq!(bench.pass(&[9, 9, 9, 9]), [Adaptive, Adaptive, Adaptive, Sleep]);
        assert_eq!(bench.pass(&[19; 6]), [Sleep; 6]);
        assert_eq!(bench.pass(&[20, 20, 20]), [Sleep, Sleep, Adaptive]);
    }

    #[test]
    fn a_burst_a_pause_or_a_new_vrouter_changes_nothing() {
        let mut bench = Bench::new(WorkerModeRule::ByLoad);
        assert_eq!(bench.pass(&[70, 70, 70, 50, 70, 70, 5, 5, 50, 5]), [Adaptive; 10]);
        let mut bench = Bench::new(WorkerModeRule::ByLoad);
        assert_eq!(bench.pass(&[70, 70, 70]), [Adaptive; 3]);
        bench.sample.instance = "y".into();
        assert_eq!(bench.pass(&[70, 70, 70]), [Adaptive; 3]);
        assert_eq!(bench.pass(&[70]), [Poll]);
    }

    #[test]
    fn a_profile_can_leave_out_either() {
        let mut bench = Bench::new(WorkerModeRule::ByLoad);
        (bench.rules.poll_above_percent, bench.rules.sleep_below_percent) = (100, 0);
        assert_eq!(bench.pass(&[100; 10]), [Adaptive; 10]);
        assert_eq!(bench.pass(&[0; 10]), [Adaptive; 10]);
        for other in [Poll, Sleep] {
            bench.sample.mode = other;
            assert_eq!(bench.pass(&[50]), [Adaptive], "{other:?}");
        }
    }
}
