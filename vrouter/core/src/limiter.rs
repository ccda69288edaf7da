//! Time as an argument, and limits on what one port can make the vRouter do.

use crate::PuntLimiter;

/// A moment of a monotonic clock whose start does not matter, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    nanoseconds: u64,
}

impl Timestamp {
    /// The moment this many nanoseconds after the clock's start.
    pub const fn from_nanoseconds(nanoseconds: u64) -> Self {
        Self { nanoseconds }
    }

    /// Nanoseconds since the clock's start.
    pub const fn nanoseconds(self) -> u64 {
        self.nanoseconds
    }
}

/// What one port can make one worker do beyond moving its packets; one for each port, so that no pod uses up what
/// another may.
#[derive(Clone, Copy, Debug, Default)]
pub struct PortLimits {
    /// ICMP errors sent to it.
    pub errors: IcmpLimiter,
    /// Frames repeated to other ports of a bridged network, which says how many ([`crate::FloodLimit`]).
    pub floods: FloodLimiter,
    /// Packets handed to the kernel, of which the network says how many ([`crate::PuntRates`]).
    pub punts: PuntLimiter,
}

/// A token bucket without a clock of its own.
///
/// Kept as the moment at which the bucket would be full again (the "virtual scheduling" form): one compare
/// and one addition for each question, and a clock that jumps back can only delay tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    /// Nanoseconds until one token is back.
    interval: u64,
    /// Nanoseconds of the whole bucket less one token.
    tolerance: u64,
    /// When the bucket is full again.
    full_at: u64,
}

impl Bucket {
    pub(crate) const fn new(per_second: u32, burst: u32) -> Self {
        if per_second == 0 || burst == 0 {
            return Self { interval: 0, tolerance: 0, full_at: u64::MAX };
        }
        // `as` because `From` is not const; both only widen.
        let interval = 1_000_000_000 / per_second as u64;
        Self { interval, tolerance: interval * (burst as u64 - 1), full_at: 0 }
    }

    /// Goes on with the rate and burst of another one.
    pub(crate) fn follow(&mut self, other: &Self) {
        if (self.interval, self.tolerance) != (other.interval, other.tolerance) {
            // One that allows none is full at the end of time.
            let full_at = if self.full_at == u64::MAX { 0 } else { self.full_at };
            *self = Self { full_at: full_at.max(other.full_at), ..*other };
        }
    }

    pub(crate) fn allow(&mut self, now: Timestamp) -> bool {
        if self.full_at > now.nanoseconds.saturating_add(self.tolerance) {
            return false;
        }
        self.full_at = self.full_at.max(now.nanoseconds).saturating_add(self.interval);
        true
    }
}

/// Declares limits that differ in what they are for and in their defaults.
macro_rules! limiters {
    ($($(#[$meta:meta])* $name:ident: $per_second:literal, $burst:literal;)*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name(Bucket);

        impl $name {
            /// Tokens per second by default.
            pub const DEFAULT_PER_SECOND: u32 = $per_second;
            /// Tokens in a row by default.
            pub const DEFAULT_BURST: u32 = $burst;

            /// Allows `burst` at once and `per_second` in the long run. Zero of either allows none.
            pub const fn new(per_second: u32, burst: u32) -> Self {
                Self(Bucket::new(per_second, burst))
            }

            /// Takes one token if there is one.
            pub fn allow(&mut self, now: Timestamp) -> bool {
                self.0.allow(now)
            }

            /// Goes on with the rate and burst of another one; what was taken stays taken.
            pub fn follow(&mut self, other: &Self) {
                self.0.follow(&other.0);
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new(Self::DEFAULT_PER_SECOND, Self::DEFAULT_BURST)
            }
        }
    )*};
}

limiters! {
    /// Limits the ICMP errors one worker originates. The defaults are what Linux allows a host
    /// (`net.ipv4.icmp_msgs_per_sec` and `net.ipv4.icmp_msgs_burst`).
    IcmpLimiter: 1000, 50;
    /// Limits the frames one worker repeats. By default as many as a thousand ports can be told each second without
    /// the copies taking more than a few percent of a worker.
    FloodLimiter: 1000, 100;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn allowed(limiter: &mut IcmpLimiter, now: u64, tries: u32) -> usize {
        (0..tries).filter(|_| limiter.allow(Timestamp::from_nanoseconds(now))).count()
    }

    #[test]
    fn a_burst_then_the_rate() {
        let mut limiter = IcmpLimiter::new(1000, 50);
        let start = 7_000_000_000;
        assert_eq!(allowed(&mut limiter, start, 1000), 50);
        assert_eq!(allowed(&mut limiter, start + 999_999, 1000), 0);
        assert_eq!(allowed(&mut limiter, start + 1_000_000, 1000), 1);
        assert_eq!(allowed(&mut limiter, start + 11_000_000, 1000), 10);
        // A long rest fills the bucket and no more.
        assert_eq!(allowed(&mut limiter, start + 3_600_000_000_000, 1000), 50);
    }

    #[test]
    fn zero_allows_none() {
        for (rate, burst) in [(0, 50), (1000, 0)] {
            assert_eq!(allowed(&mut IcmpLimiter::new(rate, burst), 1, 10), 0);
        }
    }

    #[test]
    fn a_clock_that_jumps_back_or_to_the_end_gives_nothing_away() {
        let mut limiter = IcmpLimiter::new(1000, 50);
        assert_eq!(allowed(&mut limiter, 10_000_000_000, 1000), 50);
        assert_eq!(allowed(&mut limiter, 0, 1000), 0);
        let mut limiter = IcmpLimiter::new(1, u32::MAX);
        assert!(limiter.allow(Timestamp::from_nanoseconds(u64::MAX)));
    }

    #[test]
    fn another_rate_takes_over_what_was_taken() {
        let (none, few) = (IcmpLimiter::new(0, 0), IcmpLimiter::new(1000, 2));
        let mut limiter = IcmpLimiter::new(1000, 50);
        assert_eq!(allowed(&mut limiter, 0, 30), 30);
        limiter.follow(&few);
        assert_eq!(allowed(&mut limiter, 0, 30), 0);
        assert_eq!(allowed(&mut limiter, 29_000_000, 30), 1);
        limiter.follow(&none);
        assert_eq!(allowed(&mut limiter, u64::MAX - 1, 30), 0);
        limiter.follow(&few);
        limiter.follow(&few);
        assert_eq!(allowed(&mut limiter, 29_000_000, 30), 2);
    }

    /// Beside a bucket that is refilled step by step.
    #[test]
    fn agrees_with_a_bucket_of_tokens() {
        bolero::check!().with_type().for_each(|(burst, waits): &(u8, Vec<u16>)| {
            let burst = u64::from(*burst) + 1;
            let mut limiter = IcmpLimiter::new(1_000_000, u32::try_from(burst).unwrap());
            let (mut now, mut credit) = (1_000_000_000, burst * 1000);
            for wait in waits {
                now += u64::from(*wait);
                credit = (credit + u64::from(*wait)).min(burst * 1000);
                let expected = credit >= 1000;
                if expected {
                    credit -= 1000;
                }
                assert_eq!(limiter.allow(Timestamp::from_nanoseconds(now)), expected);
            }
        });
    }
}
