//! When what failed is tried again: each thing by itself later and later, and everything later and later while the server is in
//! trouble. The same for what was written and did not stay so.
//!
//! One object that is refused again and again does not hold up others, and a server that cannot is not asked as fast as it can say so.

use std::collections::BTreeMap;

/// Until the first new try, ms.
const FIRST_MS: u64 = 1_000;
/// At most, ms.
const MOST_MS: u64 = 64_000;
/// After a round in which the server was in trouble and nothing succeeded, until the next one, ms; twice that after the next such round.
const REST_MS: u64 = 250;
/// At most, ms.
const MOST_REST_MS: u64 = 32_000;

/// What has failed, by key.
#[derive(Clone, Debug)]
pub struct Backoff<K> {
    waiting: BTreeMap<K, Wait>,
    barren: Barren,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    /// Failures in a row.
    times: u32,
    until_ms: u64,
}

/// Why something failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The server refused this and may well do the next.
    Refused,
    /// The server cannot: it is overloaded, broken or not there.
    Trouble,
}

/// How rounds went.
#[derive(Clone, Copy, Debug, Default)]
struct Barren {
    /// Rounds in a row with trouble and nothing else.
    rounds: u32,
    troubles: usize,
    /// The server has answered something else.
    answered: bool,
}

impl<K> Default for Backoff<K> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), barren: Barren::default() }
    }
}

impl<K: Ord> Backoff<K> {
    /// Whether `key` may be tried now.
    #[must_use]
    pub fn may(&self, key: &K, now_ms: u64) -> bool {
        self.waiting.get(key).is_none_or(|wait| wait.until_ms <= now_ms)
    }

    /// It has failed.
    pub fn failed(&mut self, key: K, why: Why, now_ms: u64) {
        self.later(key, now_ms);
        match why {
            Why::Refused => self.barren.answered = true,
            Why::Trouble => self.barren.troubles += 1,
        }
    }

    /// It has succeeded again with what it had succeeded with before: somebody else had changed it. Two that want different
    /// things are not to write as fast as they can.
    pub fn repeated(&mut self, key: K, now_ms: u64) {
        self.later(key, now_ms);
        self.barren.answered = true;
    }

    fn later(&mut self, key: K, now_ms: u64) {
        let wait = self.waiting.entry(key).or_insert(Wait { times: 0, until_ms: 0 });
        wait.until_ms = now_ms.saturating_add(doubled(FIRST_MS, wait.times, MOST_MS));
        wait.times = wait.times.saturating_add(1);
    }

    /// It has succeeded.
    pub fn succeeded(&mut self, key: &K) {
        self.waiting.remove(key);
        self.barren.answered = true;
    }

    /// How often the server could not in this round so far; 0 once it has answered something else.
    #[must_use]
    pub fn troubles(&self) -> usize {
        if self.barren.answered { 0 } else { self.barren.troubles }
    }

    /// A round has ended: how long nothing is tried, ms. What nobody wants to try any more is forgotten.
    pub fn round(&mut self, now_ms: u64) -> u64 {
        self.waiting.retain(|_, wait| wait.until_ms.saturating_add(MOST_MS) > now_ms);
        let Barren { rounds, troubles, answered } = self.barren;
        let (rounds, rest) = match (answered, troubles) {
            (true, _) => (0, 0),
            (false, 0) => (rounds, 0),
            (false, _) => (rounds.saturating_add(1), doubled(REST_MS, rounds, MOST_REST_MS)),
        };
        self.barren = Barren { rounds, ..Barren::default() };
        rest
    }

    /// When the first of what has to wait at `now_ms` may be tried again, ms.
    #[must_use]
    pub fn next(&self, now_ms: u64) -> Option<u64> {
        self.waiting.values().map(|wait| wait.until_ms).filter(|until| *until > now_ms).min()
    }
}

fn doubled(first: u64, times: u32, most: u64) -> u64 {
    1_u64.checked_shl(times).and_then(|factor| first.checked_mul(factor)).unwrap_or(most).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_tried_later_and_later_and_others_are_not_held_up() {
        let mut backoff = Backoff::default();
        assert!(backoff.may(&"a", 0) && backoff.next(0).is_none());
        let mut now = 0;
        for wait in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 64_000] {
            backoff.failed("a", Why::Refused, now);
            assert!(!backoff.may(&"a", now + wait - 1) && backoff.may(&"a", now + wait));
            assert!(backoff.may(&"b", now));
            assert_eq!(backoff.next(now), Some(now + wait));
            assert_eq!(backoff.next(now + wait), None);
            now += wait;
        }
        backoff.succeeded(&"a");
        assert!(backoff.may(&"a", now) && backoff.next(0).is_none());
        backoff.failed("a", Why::Trouble, now);
        assert!(backoff.may(&"a", now + 1_000));
        // What does not stay as it was written waits as well, and is no trouble.
        backoff.repeated("c", now);
        backoff.repeated("c", now + 1_000);
        assert!(!backoff.may(&"c", now + 2_999) && backoff.may(&"c", now + 3_000));
        assert_eq!((backoff.troubles(), backoff.round(now + 1_000)), (0, 0));
    }

    #[test]
    fn rounds_of_nothing_but_trouble_rest_longer_and_longer() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.round(0), 0);
        for rest in [250, 500, 1_000] {
            backoff.failed(1, Why::Trouble, 0);
            backoff.failed(2, Why::Trouble, 0);
            assert_eq!(backoff.troubles(), 2);
            assert_eq!(backoff.round(0), rest);
            assert_eq!(backoff.troubles(), 0);
        }
        // A round in which nothing was tried says nothing.
        assert_eq!(backoff.round(0), 0);
        backoff.failed(1, Why::Trouble, 0);
        assert_eq!(backoff.round(0), 2_000);
        // A server that refuses or does something works.
        backoff.failed(1, Why::Trouble, 0);
        backoff.succeeded(&2);
        assert_eq!((backoff.troubles(), backoff.round(0)), (0, 0));
        backoff.failed(1, Why::Trouble, 0);
        backoff.failed(2, Why::Refused, 0);
        assert_eq!((backoff.troubles(), backoff.round(0)), (0, 0));
        backoff.failed(1, Why::Trouble, 0);
        assert_eq!(backoff.round(0), 250);
        for _ in 0..100 {
            backoff.failed(1, Why::Trouble, 0);
            assert!(backoff.round(0) <= MOST_REST_MS);
        }
    }

    #[test]
    fn what_nobody_tries_any_more_is_forgotten() {
        let mut backoff = Backoff::default();
        backoff.failed("gone", Why::Refused, 0);
        backoff.round(FIRST_MS + MOST_MS - 1);
        assert_eq!(backoff.next(0), Some(FIRST_MS));
        backoff.round(FIRST_MS + MOST_MS);
        assert_eq!(backoff.next(0), None);
    }
}
