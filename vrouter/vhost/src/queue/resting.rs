//! When a queue that a pod fills fast is left alone for a moment. Pure.
//!
//! A frame that was just written lies in a cache of the pod's CPU, and a worker that copies it at once waits for every line
//! of it, three times as long as for a line that has meanwhile been displaced into the cache both share (ADR 4). So a
//! queue of large frames that keeps a worker busy is left until half its ring is waiting.
//!
//! Smaller frames gather until there are several bursts, which are then taken one after the other. Taking each as soon as it is
//! there costs the pod more than the worker saves: both wait for the lines that they look at in turns. They do so only where half a
//! ring fills in a quarter of the time: what is gained is throughput, and whoever sends less wants to wait less.

use super::{BURST_ENTRIES, Rest};

/// Mean size, bytes, from which frames are worth it: below, their headers are most of the work.
const LARGE: u64 = 1024;

/// Bursts of smaller frames that gather.
const GATHERED: u16 = 8;

/// The part of the time a queue may rest that half a ring of smaller frames may take to fill.
const QUICK: u64 = 4;

/// How long a pod takes to write the descriptors of a burst, nanoseconds: 32 frames of DPDK's driver for packed rings need some
/// 800 ticks of 2.6 GHz.
const BURST_TIME: u64 = 300;

/// What is known of one queue. Times in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Resting {
    /// A burst was first seen then, and is not taken yet.
    begun: Option<u64>,
    /// When counting began.
    since: u64,
    /// Frames and their bytes taken since.
    frames: u64,
    bytes: u64,
    /// It fills fast: the next half ring may come together before it is looked at.
    fast: bool,
    /// What fills it are large frames.
    large: bool,
    /// Smaller frames have gathered, and are taken as long as there is a whole burst.
    taking: bool,
}

impl Resting {
    /// Whether the queue is left alone now. `half`: frames of half its ring; `waiting`: whether so many, at least 1 and at most
    /// those, are waiting.
    #[inline]
    pub(super) fn rests(
        &mut self,
        rest: Rest,
        half: u16,
        mut waiting: impl FnMut(u16) -> bool,
    ) -> bool {
        if !self.fast {
            return false;
        }
        let enough = if self.large {
            waiting(half)
        } else {
            let wanted = if self.taking { BURST_ENTRIES } else { GATHERED * BURST_ENTRIES };
            self.taking = waiting(wanted.min(half));
            self.taking
        };
        if enough {
            return false;
        }
        // So long, and not half a ring: it fills fast no more, and what is there has waited long enough.
        self.fast = self.is_fast(rest);
        self.fast
    }

    /// Whether it is not too long ago that counting began.
    fn is_fast(&self, rest: Rest) -> bool {
        let limit = if self.large { rest.limit } else { rest.limit / QUICK };
        rest.now.saturating_sub(self.since) < limit
    }

    /// Whether a burst is left alone until it is whole, in a ring that shows frames one by one. `part`: there is a frame, and
    /// not yet those of a burst.
    #[inline]
    pub(super) fn gathers(&mut self, rest: Rest, part: impl FnOnce() -> bool) -> bool {
        match self.begun {
            None => {
                let begins = rest.may_begin && part();
                self.begun = begins.then_some(rest.now);
                begins
            }
            // Not looked at meanwhile, as the pod is writing there.
            Some(begun) => {
                let waits = rest.now.saturating_sub(begun) < BURST_TIME.min(rest.limit);
                self.begun = self.begun.filter(|_| waits);
                waits
            }
        }
    }

    /// Notes a burst. `half`: frames of half a ring.
    #[inline]
    pub(super) fn took(&mut self, rest: Rest, half: u64, frames: u64, bytes: u64) {
        self.frames += frames;
        self.bytes += bytes;
        if self.frames < half {
            return;
        }
        self.large = self.bytes >= LARGE * self.frames;
        self.fast = (self.fast || rest.may_begin) && self.is_fast(rest);
        (self.since, self.frames, self.bytes) = (rest.now, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: u64 = 512;

    /// Half a ring in bursts of 32, taken from `begin` on within `time`.
    fn half_a_ring(it: &mut Resting, begin: u64, time: u64, size: u64, may_begin: bool) {
        for burst in 1..=HALF / 32 {
            let now = begin + time * burst * 32 / HALF;
            it.took(Rest { now, limit: 300, may_begin }, HALF, 32, 32 * size);
        }
    }

    /// As many as given are waiting.
    fn there(frames: u16) -> impl FnMut(u16) -> bool {
        move |n| {
            assert!((1..=512).contains(&n));
            frames >= n
        }
    }

    #[test]
    fn only_frames_that_come_fast_to_a_busy_worker_rest() {
        for (time, size, busy, rests) in [
            (299, 1024, true, true),
            (300, 1024, true, false),
            (74, 1023, true, true),
            (75, 1023, true, false),
            (299, 1024, false, false),
            (74, 60, false, false),
        ] {
            let mut it = Resting::default();
            half_a_ring(&mut it, 0, time, size, busy);
            let at = |now| Rest { now, limit: 300, may_begin: false };
            assert_eq!(it.rests(at(time), 512, there(0)), rests, "{time} {size} {busy}");
            let enough = if size < 1024 { 256 } else { 512 };
            assert_eq!(it.rests(at(time), 512, there(enough - 1)), rests, "{time} {size} {busy}");
            assert!(!it.rests(at(time), 512, there(enough)), "half a ring is there");
        }
    }

    #[test]
    fn smaller_frames_gather_and_are_taken_to_the_last_whole_burst() {
        let mut it = Resting::default();
        half_a_ring(&mut it, 0, 70, 60, true);
        let at = |now| Rest { now, limit: 300, may_begin: false };
        for _ in 0..2 {
            assert!(it.rests(at(71), 512, there(255)));
            assert!(!it.rests(at(72), 512, there(256)));
            assert!(!it.rests(at(73), 512, there(224)));
            assert!(!it.rests(at(74), 512, there(32)));
            assert!(it.rests(at(75), 512, there(31)), "not a whole burst");
            assert!(it.rests(at(76), 512, there(32)), "they gather again");
        }
        assert!(it.rests(at(144), 512, there(31)));
        assert!(!it.rests(at(145), 512, there(31)), "what is there has waited long enough");
        // A ring so small that half of it is less.
        half_a_ring(&mut it, 145, 50, 60, true);
        half_a_ring(&mut it, 195, 50, 60, true);
        assert!(it.rests(at(246), 16, there(15)));
        assert!(!it.rests(at(247), 16, there(16)));
        assert!(!it.rests(at(248), 16, there(16)) && it.rests(at(249), 16, there(15)));
    }

    #[test]
    fn a_burst_that_has_begun_gets_a_moment_and_is_not_looked_at_meanwhile() {
        let at = |now, may_begin| Rest { now, limit: 300_000, may_begin };
        let never = || -> bool { unreachable!("looked at") };
        let mut it = Resting::default();
        assert!(!it.gathers(at(1_000, false), never), "the worker has time");
        assert!(!it.gathers(at(1_000, true), || false), "there is nothing, or all");
        assert!(it.gathers(at(1_000, true), || true));
        assert!(it.gathers(at(1_299, true), never));
        assert!(!it.gathers(at(1_300, true), never), "it is taken as it is");
        assert!(it.gathers(at(1_400, true), || true), "the next one");
        assert!(it.gathers(at(0, false), never), "a clock that goes back");
        assert!(!it.gathers(at(1_700, false), never));
        let short = Rest { limit: 100, ..at(2_000, true) };
        assert!(it.gathers(short, || true));
        assert!(!it.gathers(Rest { now: 2_100, ..short }, never), "as long as configured");
    }

    #[test]
    fn it_goes_on_while_they_come_fast_and_no_frame_waits_longer_than_the_limit() {
        let mut it = Resting::default();
        half_a_ring(&mut it, 0, 200, 1500, true);
        half_a_ring(&mut it, 200, 200, 1500, false);
        let at = |now| Rest { now, limit: 300, may_begin: false };
        assert!(
            it.rests(at(699), 512, there(0)),
            "not busy any more thanks to it: no reason to end"
        );
        assert!(!it.rests(at(700), 512, there(0)), "since 400 not half a ring");
        assert!(!it.rests(at(701), 512, there(0)), "nor again");
        half_a_ring(&mut it, 701, 100, 1500, false);
        assert!(!it.rests(at(801), 512, there(0)), "the worker has time");
        // A clock that goes back delays nothing for long.
        half_a_ring(&mut it, 10, 0, 1500, true);
        half_a_ring(&mut it, 10, 0, 1500, true);
        assert!(it.rests(at(0), 512, there(0)) && !it.rests(at(310), 512, there(0)));
    }
}
