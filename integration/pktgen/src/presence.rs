//! Whether the generator was there to see a packet come: what comes while it does not run waits for the generator and not for
//! the switch. Time is an argument, in ticks of the cycle counter.

/// How many rounds there are in a second at least while the thread is not interrupted for longer than a timer needs: 20 µs each. A round
/// of full bursts takes 2 to 6 µs.
const FEWEST_ROUNDS: u64 = 50_000;

/// Watches one polling thread by the length of its rounds.
#[derive(Debug)]
pub struct Presence {
    longest: u64,
    /// When the present round began.
    round: u64,
    /// Since when it was there without a break.
    back: u64,
    absences: u64,
    away: u64,
}

impl Presence {
    /// At `hz` ticks per second. Nobody was away yet.
    pub fn new(hz: u64) -> Self {
        Self { longest: hz / FEWEST_ROUNDS, round: u64::MAX, back: 0, absences: 0, away: 0 }
    }

    /// A round begins at `now`, right behind the one before; true if that one was interrupted.
    #[inline]
    pub fn begin(&mut self, now: u64) -> bool {
        let took = now.saturating_sub(self.round);
        self.round = now;
        let was_away = took > self.longest;
        if was_away {
            self.absences += 1;
            self.away += took;
            self.back = now;
        }
        was_away
    }

    /// The next round begins after something else.
    pub fn pause(&mut self) {
        self.round = u64::MAX;
    }

    /// Whether it was there from `stamp`, when a packet was sent, until `now` in this round.
    #[inline]
    pub fn saw(&self, stamp: u64, now: u64) -> bool {
        stamp >= self.back && now.saturating_sub(self.round) <= self.longest
    }

    /// Counts from zero again.
    pub fn reset(&mut self) {
        (self.absences, self.away) = (0, 0);
    }

    /// How often it was away, and for how many ticks together.
    pub fn absences(&self) -> (u64, u64) {
        (self.absences, self.away)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_under_way_while_it_was_away_were_not_seen() {
        // 20 ticks.
        let mut it = Presence::new(1_000_000);
        assert!(!it.begin(1_000), "nothing was before");
        assert!(!it.begin(1_020));
        assert!(it.saw(1_001, 1_025) && it.saw(1_019, 1_040));
        assert!(!it.saw(1_019, 1_041), "interrupted in this round");
        assert!(it.begin(1_500), "480 ticks");
        assert!(!it.saw(1_499, 1_501), "sent before, received after");
        assert!(it.saw(1_500, 1_510));
        assert_eq!(it.absences(), (1, 480));
        it.pause();
        assert!(!it.begin(9_000), "it did something else");
        assert!(it.saw(1_600, 9_001));
        it.reset();
        assert_eq!(it.absences(), (0, 0));
    }
}
