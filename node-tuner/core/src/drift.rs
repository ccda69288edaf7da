//! What to do about values that somebody else has changed: set them again, but not for ever.

use std::collections::BTreeMap;

use ringway_config::AgentRules;

use crate::knob::Knob;

/// When each knob was set again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repairs(BTreeMap<Knob, Vec<u64>>);

/// What to do about one knob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Set it again.
    Repair,
    /// Somebody sets it as often as we do. Leave it, and say so this once.
    GiveUp,
    /// It has been given up; say nothing.
    Leave,
}

impl Repairs {
    /// What to do about `knob`, which at `now_ms` is not as it should be although it once was.
    pub fn judge(&mut self, knob: &Knob, now_ms: u64, rules: &AgentRules) -> Verdict {
        let window = u64::from(rules.repair_window_s) * 1000;
        let most = usize::try_from(rules.repairs).unwrap_or(usize::MAX);
        let times = self.0.entry(knob.clone()).or_default();
        times.retain(|at| now_ms.saturating_sub(*at) < window);
        if times.len() < most {
            times.push(now_ms);
            return Verdict::Repair;
        }
        // One more entry marks that it was said; it ends with the window, too.
        if times.len() == most {
            times.push(now_ms);
            return Verdict::GiveUp;
        }
        Verdict::Leave
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knob::Form;

    #[test]
    fn a_fight_ends_and_may_begin_again_later() {
        let rules = AgentRules { repairs: 2, repair_window_s: 100, ..AgentRules::default() };
        let knobs = ["a", "b"].map(|path| Knob::attribute(path, Form::Words));
        let mut repairs = Repairs::default();
        let mut judge = |knob: usize, s: u64| repairs.judge(&knobs[knob], s * 1000, &rules);
        assert_eq!([judge(0, 0), judge(0, 10)], [Verdict::Repair; 2]);
        assert_eq!(judge(0, 20), Verdict::GiveUp);
        assert_eq!(judge(1, 20), Verdict::Repair);
        assert_eq!([judge(0, 30), judge(0, 90)], [Verdict::Leave; 2]);
        // 100 s after the last there is room again.
        assert_eq!(judge(0, 121), Verdict::Repair);
        let never = AgentRules { repairs: 0, ..rules };
        let mut repairs = Repairs::default();
        assert_eq!(repairs.judge(&knobs[0], 0, &never), Verdict::GiveUp);
        assert_eq!(repairs.judge(&knobs[0], 1, &never), Verdict::Leave);
    }
}
