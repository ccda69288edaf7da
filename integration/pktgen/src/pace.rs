//! How many packets are due.

/// Most packets that may be owed; what is beyond was missed for good, so that a pause is not followed by a flood.
const OWED_MAX: u64 = 1024;

/// Credit for sending at a constant rate. Time is an argument, in ticks of the cycle counter.
#[derive(Debug)]
pub struct Pace {
    /// Packets per tick, in units of 2^-32.
    per_tick: u64,
    /// Packets due and not taken, in units of 2^-32.
    owed: u64,
    last: u64,
}

impl Pace {
    /// `rate` packets per second at `hz` ticks per second, from `now` on.
    pub fn new(rate: u64, hz: u64, now: u64) -> Self {
        let per_tick = (u128::from(rate) << 32) / u128::from(hz.max(1));
        Self { per_tick: u64::try_from(per_tick).unwrap_or(u64::MAX), owed: 0, last: now }
    }

    /// Starts anew at `now` with nothing owed.
    pub fn restart(&mut self, now: u64) {
        self.owed = 0;
        self.last = now;
    }

    /// Takes what is due at `now`, at most `limit` packets.
    #[inline]
    pub fn take(&mut self, now: u64, limit: u16) -> u16 {
        let earned = now.saturating_sub(self.last).saturating_mul(self.per_tick);
        self.last = now;
        self.owed = self.owed.saturating_add(earned).min(OWED_MAX << 32);
        let due = u16::try_from(self.owed >> 32).unwrap_or(u16::MAX).min(limit);
        self.owed -= u64::from(due) << 32;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_fall_due_at_the_rate() {
        for (rate, hz, step) in
            [(1_000_000, 2_000_000_000, 700), (3, 1_000, 1), (14_880_952, 2_600_000_000, 333)]
        {
            let mut pace = Pace::new(rate, hz, 5);
            let mut now = 5;
            let mut taken = 0;
            while now < 5 + hz {
                now += step;
                taken += u64::from(pace.take(now, 32));
            }
            assert!(
                taken.abs_diff(rate) <= 1 + rate / 1_000_000,
                "{taken} of {rate} packets in a second"
            );
        }
    }

    #[test]
    fn a_limit_postpones_and_a_pause_forgives() {
        let mut pace = Pace::new(1_000, 1_000, 0);
        assert_eq!((pace.take(40, 32), pace.take(40, 32), pace.take(40, 32)), (32, 8, 0));
        assert_eq!(pace.take(1_000_000, u16::MAX), u16::try_from(OWED_MAX).unwrap());
        pace.take(1_000_500, 0);
        pace.restart(1_000_600);
        assert_eq!(pace.take(1_000_600, 32), 0);
    }
}
