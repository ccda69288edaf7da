//! How long the receive rings of a network card shall be: as long as it needs not to drop packets, within bounds, slowly.

use std::collections::BTreeMap;

use ringway_config::RingRules;

/// A ring that may be resized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The interface.
    pub nic: String,
    /// Descriptors now.
    pub now: u32,
    /// Least number.
    pub least: u32,
    /// Greatest.
    pub most: u32,
    /// Packets that the card has dropped so far as no descriptor was free.
    pub drops: u64,
}

/// The rings of all cards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RingFollower(BTreeMap<String, Known>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    drops: u64,
    /// Since when nothing was dropped and nothing changed, ms.
    quiet_since: u64,
    /// Left alone until then, ms.
    settled_at: u64,
}

/// Another size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingDecision {
    /// The interface.
    pub nic: String,
    /// Descriptors of each receive ring.
    pub size: u32,
    /// Why.
    pub why: String,
}

impl RingFollower {
    /// What shall change as of `now_ms`, if anything. Cards that are not in `spans` are forgotten.
    pub fn decide(&mut self, now_ms: u64, spans: &[Span], rules: &RingRules) -> Vec<RingDecision> {
        self.0.retain(|nic, _| spans.iter().any(|span| span.nic == *nic));
        spans.iter().filter_map(|span| self.decide_one(now_ms, span, rules)).collect()
    }

    fn decide_one(&mut self, now: u64, span: &Span, rules: &RingRules) -> Option<RingDecision> {
        // What was dropped before the first look has its own reasons.
        let fresh = Known { drops: span.drops, quiet_since: now, settled_at: now };
        let known = self.0.entry(span.nic.clone()).or_insert(fresh);
        // A driver that was loaded anew counts from zero.
        let dropped = span.drops.saturating_sub(known.drops);
        known.drops = span.drops;
        if dropped > 0 {
            known.quiet_since = now;
        }
        if now < known.settled_at {
            return None;
        }
        let quiet_s = now.saturating_sub(known.quiet_since) / 1000;
        let (size, why) = if dropped >= u64::from(rules.grow_above_drops) {
            let size = span.now.saturating_mul(2).min(span.most);
            (size, format!("{dropped} packets found no free descriptor since the last look"))
        } else if quiet_s >= u64::from(rules.shrink_after_s) {
            ((span.now / 2).max(span.least), format!("nothing was dropped for {quiet_s} s"))
        } else {
            return None;
        };
        if size == span.now {
            return None;
        }
        known.quiet_since = now;
        known.settled_at = now.saturating_add(u64::from(rules.settle_s) * 1000);
        Some(RingDecision { nic: span.nic.clone(), size, why })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A card that drops as told, looked at every 10 s.
    struct Bench {
        follower: RingFollower,
        span: Span,
        now_s: u64,
    }

    const RULES: RingRules = RingRules { grow_above_drops: 10, settle_s: 30, shrink_after_s: 100 };

    impl Bench {
        fn new(now: u32, least: u32, most: u32) -> Self {
            let span = Span { nic: "ens1f0".into(), now, least, most, drops: 1_000_000 };
            Self { follower: RingFollower::default(), span, now_s: 0 }
        }

        /// The ring after as many looks, before each of which so many packets were dropped.
        fn pass(&mut self, drops: &[u64]) -> Vec<u32> {
            let mut sizes = Vec::new();
            for dropped in drops {
                self.now_s += 10;
                self.span.drops += dropped;
                let spans = [self.span.clone()];
                for decision in self.follower.decide(self.now_s * 1000, &spans, &RULES) {
                    assert_eq!(decision.nic, "ens1f0");
                    assert!(!decision.why.is_empty());
                    self.span.now = decision.size;
                }
                sizes.push(self.span.now);
            }
            sizes
        }
    }

    #[test]
    fn it_grows_while_packets_are_dropped_up_to_the_bound_and_settles_in_between() {
        let mut bench = Bench::new(512, 512, 3000);
        assert_eq!(bench.pass(&[0, 10]), [512, 1024], "what was before does not count");
        assert_eq!(bench.pass(&[99, 99, 99]), [1024, 1024, 2048]);
        assert_eq!(bench.pass(&[0, 0, 10]), [2048, 2048, 3000]);
        assert_eq!(bench.pass(&[99; 8]), [3000; 8]);
    }

    #[test]
    fn a_few_drops_change_nothing_and_keep_it_from_shrinking() {
        let mut bench = Bench::new(1024, 512, 4096);
        assert_eq!(bench.pass(&[9; 30]), [1024; 30]);
    }

    #[test]
    fn it_shrinks_after_long_quiet_step_by_step_and_not_below_the_bound() {
        let mut bench = Bench::new(4096, 1500, 4096);
        assert_eq!(bench.pass(&[0; 10]), [4096; 10]);
        assert_eq!(bench.pass(&[0]), [2048]);
        assert_eq!(bench.pass(&[0; 9]), [2048; 9]);
        assert_eq!(bench.pass(&[0]), [1500]);
        assert_eq!(bench.pass(&[0; 30]), [1500; 30]);
        // A drop on the way begins the quiet anew.
        let mut bench = Bench::new(4096, 512, 4096);
        assert_eq!(bench.pass(&[0; 9]), [4096; 9]);
        assert_eq!(bench.pass(&[1]), [4096]);
        assert_eq!(bench.pass(&[0; 9]), [4096; 9]);
        assert_eq!(bench.pass(&[0]), [2048]);
    }

    #[test]
    fn a_counter_that_begins_anew_and_a_card_that_was_away_are_no_drops() {
        let mut bench = Bench::new(512, 512, 4096);
        assert_eq!(bench.pass(&[0]), [512]);
        bench.span.drops = 0;
        assert_eq!(bench.pass(&[0, 9, 9]), [512; 3]);
        assert_eq!(bench.follower.decide(50_000, &[], &RULES), []);
        bench.span.drops = 900;
        assert_eq!(bench.pass(&[0]), [512]);
    }

    /// Whatever happens, the bounds hold and it doubles or halves at most once in the time to settle.
    #[test]
    fn bounds_hold() {
        bolero::check!().with_type().for_each(|steps: &Vec<(u8, u16)>| {
            let mut follower = RingFollower::default();
            let mut span = Span { nic: "x".into(), now: 300, least: 256, most: 2048, drops: 0 };
            let (mut now, mut last) = (0, None);
            for (seconds, dropped) in steps {
                now += u64::from(*seconds) * 1000;
                span.drops += u64::from(*dropped);
                for decision in follower.decide(now, std::slice::from_ref(&span), &RULES) {
                    assert!((256..=2048).contains(&decision.size));
                    assert_ne!(decision.size, span.now);
                    assert!(decision.size <= span.now * 2 && decision.size >= span.now / 2);
                    assert!(last.is_none_or(|last| now - last >= 30_000));
                    (span.now, last) = (decision.size, Some(now));
                }
            }
        });
    }
}
