//! When a queue that a pod fills fast is left alone for a moment. Pure.
//!
//! A frame that was just written lies in a cache of the pod's CPU, and a worker that copies it at once waits for every line
//! of it, three times as long as for a line that has meanwhile been displaced into the cache both share (ADR 4). So a
//! queue of large frames that keeps a worker busy is left until half its ring is waiting.

use super::Rest;

/// Mean size, bytes, from which frames are worth it: below, their headers are most of the work.
const LARGE: u64 = 1024;

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
}

impl Resting {
    /// Whether the queue is left alone now. `half`: half its ring is waiting.
    #[inline]
    pub(super) fn rests(&mut self, rest: Rest, half: impl FnOnce() -> bool) -> bool {
        if !self.fast || half() {
            return false;
        }
        // So long, and not half a ring: it fills fast no more, and what is there has waited long enough.
        self.fast = rest.now.saturating_sub(self.since) < rest.limit;
        self.fast
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
        self.fast = (self.fast || rest.may_begin)
            && rest.now.saturating_sub(self.since) < rest.limit
            && self.bytes >= LARGE * self.frames;
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

    #[test]
    fn only_large_frames_that_come_fast_to_a_busy_worker_rest() {
        for (time, size, busy, rests) in [
            (299, 1024, true, true),
            (300, 1024, true, false),
            (299, 1023, true, false),
            (299, 1024, false, false),
        ] {
            let mut it = Resting::default();
            half_a_ring(&mut it, 0, time, size, busy);
            let at = |now| Rest { now, limit: 300, may_begin: false };
            assert_eq!(it.rests(at(time), || false), rests, "{time} {size} {busy}");
            assert!(!it.rests(at(time), || true), "half a ring is there");
        }
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
        assert!(it.rests(at(699), || false), "not busy any more thanks to it: no reason to end");
        assert!(!it.rests(at(700), || false), "since 400 not half a ring");
        assert!(!it.rests(at(701), || false), "nor again");
        half_a_ring(&mut it, 701, 100, 1500, false);
        assert!(!it.rests(at(801), || false), "the worker has time");
        // A clock that goes back delays nothing for long.
        half_a_ring(&mut it, 10, 0, 1500, true);
        half_a_ring(&mut it, 10, 0, 1500, true);
        assert!(it.rests(at(0), || false) && !it.rests(at(310), || false));
    }
}
