//! Who of several controllers acts: the one whose name is in the lease, as long as it renews it.
//!
//! Clocks of different machines are never compared: a lease has run out when it has not changed for its duration on the
//! clock of whoever waits.

/// The lease as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; empty: nobody.
    pub holder: String,
    /// Changes with every write.
    pub version: String,
}

/// What one that would lead knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    name: String,
    /// How long a lease is good for without being renewed, ms.
    duration_ms: u64,
    /// The last record, and when it was first seen so.
    seen: Option<(Record, u64)>,
    /// When it was last renewed by us, by our clock before the call.
    renewed_ms: Option<u64>,
}

/// What to do with the lease now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make it.
    Create,
    /// Write our name into it, if it is still as read.
    Take,
    /// Renew it, if it is still as read.
    Renew,
    /// Somebody else leads: look again.
    Wait,
}

impl Candidate {
    /// One of that name.
    #[must_use]
    pub fn new(name: impl Into<String>, duration_ms: u64) -> Self {
        Self { name: name.into(), duration_ms, seen: None, renewed_ms: None }
    }

    /// What to do, now that the lease is so.
    pub fn look(&mut self, record: Option<Record>, now_ms: u64) -> Step {
        let Some(record) = record else {
            self.seen = None;
            return Step::Create;
        };
        let ours = record.holder == self.name;
        let free = record.holder.is_empty();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != record) {
            self.seen = Some((record, now_ms));
        }
        let since = self.seen.as_ref().map_or(now_ms, |(_, since)| *since);
        if ours {
            return Step::Renew;
        }
        self.renewed_ms = None;
        let over = now_ms.saturating_sub(since) >= self.duration_ms;
        if free || over { Step::Take } else { Step::Wait }
    }

    /// The lease was written with our name; `asked_ms` is from before the call.
    pub fn written(&mut self, asked_ms: u64) {
        self.renewed_ms = Some(asked_ms);
    }

    /// Whether we lead: nobody else can have taken the lease yet. Two thirds of its duration, so that a leader stops before
    /// another starts even if their clocks run differently fast.
    #[must_use]
    pub fn leads(&self, now_ms: u64) -> bool {
        self.renewed_ms.is_some_and(|at| now_ms.saturating_sub(at) < self.duration_ms / 3 * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(holder: &str, version: u32) -> Option<Record> {
        Some(Record { holder: holder.into(), version: version.to_string() })
    }

    #[test]
    fn a_lease_that_is_not_renewed_is_taken() {
        let mut b = Candidate::new("b", 15_000);
        assert_eq!(b.look(record("a", 1), 0), Step::Wait);
        assert_eq!(b.look(record("a", 2), 14_000), Step::Wait);
        assert_eq!(b.look(record("a", 2), 28_000), Step::Wait);
        assert_eq!(b.look(record("a", 2), 29_000), Step::Take);
        b.written(29_000);
        assert!(b.leads(29_000) && b.leads(38_999) && !b.leads(39_000));
        assert_eq!(b.look(record("b", 3), 34_000), Step::Renew);
        // Somebody took it from us.
        assert_eq!(b.look(record("a", 4), 36_000), Step::Wait);
        assert!(!b.leads(36_000));
    }

    #[test]
    fn none_and_one_given_up_are_taken_at_once() {
        let mut a = Candidate::new("a", 15_000);
        assert_eq!(a.look(None, 0), Step::Create);
        assert_eq!(a.look(record("", 9), 1), Step::Take);
        // After a restart under the same name.
        assert_eq!(Candidate::new("a", 15_000).look(record("a", 3), 0), Step::Renew);
    }

    /// Two candidates, a clock, and writes that only succeed on what was read: never two leaders at once.
    #[test]
    fn two_never_lead_at_once() {
        bolero::check!().with_type::<Vec<(bool, u16, bool)>>().for_each(|turns| {
            let mut both = [Candidate::new("a", 3000), Candidate::new("b", 3000)];
            let (mut lease, mut now): (Option<(String, u32)>, u64) = (None, 0);
            for (second, wait, works) in turns {
                now += u64::from(*wait % 2000);
                let who = &mut both[usize::from(*second)];
                let read = lease.clone();
                let record = read.as_ref().map(|(holder, version)| Record {
                    holder: holder.clone(),
                    version: version.to_string(),
                });
                let step = who.look(record, now);
                if step != Step::Wait && *works {
                    let version = read.map_or(1, |(_, version)| version + 1);
                    lease = Some((who.name.clone(), version));
                    who.written(now);
                }
                assert!(!(both[0].leads(now) && both[1].leads(now)), "{turns:?}");
            }
        });
    }
}
