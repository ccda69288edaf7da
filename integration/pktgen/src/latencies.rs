//! Latencies of a run, as a whole and period by period: a thread that is kept from its CPU once for 8 ms decides what the slowest
//! thousandth of two seconds is, but only of one period in twenty.

use crate::histogram::Histogram;

/// Periods of a second.
const PERIODS: u64 = 10;
/// With fewer values there is no last thousandth.
const FEWEST: u64 = 1_000;

/// Latencies in ticks, and when they were measured.
#[derive(Debug)]
pub struct Latencies {
    whole: Histogram,
    period: Histogram,
    length: u64,
    /// When the present period ends.
    end: u64,
    /// Of each period that is over: what 99.9 % of its values do not exceed.
    p999: Vec<u64>,
}

impl Latencies {
    /// None yet. The clock has `hz` ticks per second.
    pub fn new(hz: u64) -> Self {
        let (whole, period) = (Histogram::new(), Histogram::new());
        Self { whole, period, length: hz / PERIODS, end: 0, p999: Vec::new() }
    }

    /// Notes that something took `value` and was over at `now`.
    #[inline]
    pub fn record(&mut self, now: u64, value: u64) {
        if now >= self.end {
            self.close();
            self.end = now + self.length;
        }
        self.whole.record(value);
        self.period.record(value);
    }

    fn close(&mut self) {
        if self.period.samples() >= FEWEST {
            self.p999.extend(self.period.quantile(999));
        }
        self.period.clear();
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.whole.clear();
        self.period.clear();
        self.p999.clear();
        self.end = 0;
    }

    /// All together.
    pub fn whole(&self) -> &Histogram {
        &self.whole
    }

    /// What 99.9 % of the values do not exceed in half of the periods that are over. `None`: none is.
    pub fn p999_of_half(&self) -> Option<u64> {
        let mut all = self.p999.clone();
        all.sort_unstable();
        all.get(all.len().saturating_sub(1) / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_period_is_seen_in_the_whole_only() {
        // A period has 100 ticks.
        let mut it = Latencies::new(1_000);
        assert_eq!(it.p999_of_half(), None);
        for period in 0..20 {
            for at in 0..2_000 {
                let late = period == 7 && at < 1_000;
                it.record(period * 100 + at / 20, if late { 9_000 } else { 20 + period % 2 });
            }
        }
        assert_eq!(it.whole().samples(), 40_000);
        assert!(it.whole().quantile(999).unwrap() >= 9_000);
        assert!([20, 21].contains(&it.p999_of_half().unwrap()));
        it.clear();
        assert_eq!((it.whole().samples(), it.p999_of_half()), (0, None));
    }

    #[test]
    fn a_period_with_few_values_says_nothing() {
        let mut it = Latencies::new(1_000);
        for at in 0..999 {
            it.record(at / 10, 5);
        }
        it.record(100, 5);
        assert_eq!(it.p999_of_half(), None);
    }
}
