//! When to look again at something that changes: soon after it has come to rest, and now and then while it has not.
//! Pure.

use std::time::{Duration, Instant};

/// After so long without a change it is looked at: a device that goes is gone by then.
const REST: Duration = Duration::from_millis(30);
/// So long after the first change at the latest.
const LONGEST: Duration = Duration::from_secs(1);
/// Who has been down for so long was put down, and is not about to go.
const DOWN: Duration = Duration::from_secs(2);

/// Changes that were not looked at yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settling {
    first: Option<Instant>,
    last: Option<Instant>,
    down_since: Option<Instant>,
}

impl Settling {
    /// Something has changed.
    pub fn changed(&mut self, now: Instant) {
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    /// It was looked at.
    pub fn looked(&mut self) {
        (self.first, self.last) = (None, None);
    }

    /// When to look.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let change = match (self.first, self.last) {
            (Some(first), Some(last)) => Some((first + LONGEST).min(last + REST)),
            _ => None,
        };
        let down = self.down_since.map(|since| since + DOWN);
        change.into_iter().chain(down).min()
    }

    /// It was found down; says whether that has lasted.
    pub fn is_down_for_good(&mut self, now: Instant) -> bool {
        let since = *self.down_since.get_or_insert(now);
        let for_good = now >= since + DOWN;
        if for_good {
            self.down_since = None;
        }
        for_good
    }

    /// It was found up.
    pub fn is_up(&mut self) {
        self.down_since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_at_when_it_rests_or_has_not_for_long() {
        let start = Instant::now();
        let mut settling = Settling::default();
        assert_eq!(settling.due(), None);
        settling.changed(start);
        assert_eq!(settling.due(), Some(start + REST));
        let later = start + LONGEST - REST / 2;
        settling.changed(later);
        assert_eq!(settling.due(), Some(start + LONGEST));
        settling.looked();
        assert_eq!(settling.due(), None);
    }

    #[test]
    fn down_counts_when_it_lasts() {
        let start = Instant::now();
        let mut settling = Settling::default();
        assert!(!settling.is_down_for_good(start));
        assert_eq!(settling.due(), Some(start + DOWN));
        assert!(!settling.is_down_for_good(start + DOWN / 2));
        assert!(settling.is_down_for_good(start + DOWN));
        assert_eq!(settling.due(), None);

        assert!(!settling.is_down_for_good(start));
        settling.is_up();
        assert_eq!(settling.due(), None);
    }
}
