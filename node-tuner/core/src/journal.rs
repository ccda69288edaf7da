//! What was done to a node, as a list of records: enough to undo it, whatever happened in between.
//!
//! A record is on disk before what it announces is done. So after a crash, the value that was there first is known for
//! every knob that may have been turned, and applying again or reverting is all that recovery takes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::knob::Knob;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "record")]
pub enum Record {
    /// A run begins.
    Begin {
        /// Of the kernel: what does not survive a boot is not there to be undone after one.
        boot_id: String,
        /// What is applied; empty: a revert.
        profile: String,
    },
    /// A knob is about to be turned.
    Turn {
        /// Which.
        knob: Knob,
        /// Its value now; `None`: a file that is not there.
        from: Option<String>,
        /// Its value then.
        to: Option<String>,
    },
    /// The kernel refuses to turn a knob; it has not been turned.
    Unwritable {
        /// Which.
        knob: Knob,
        /// What the kernel said.
        why: String,
    },
    /// A knob has its first value again, or is gone.
    Restored {
        /// Which.
        knob: Knob,
    },
    /// The run is over: everything it wanted, or nothing of it.
    End,
}

/// What the records say, taken together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    boot_id: String,
    /// The profile that was applied last.
    profile: String,
    /// Knobs that were turned, in the order of their first time.
    turned: Vec<Turned>,
    unwritable: BTreeMap<Knob, String>,
    open: bool,
}

/// A knob that was turned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turned {
    /// Which.
    pub knob: Knob,
    /// What was there first; `None`: no file.
    pub first: Option<String>,
    /// What was there before the last write.
    pub previous: Option<String>,
    /// What was written last.
    pub last: Option<String>,
}

impl Journal {
    /// What `records` say.
    #[must_use]
    pub fn from_records(records: impl IntoIterator<Item = Record>) -> Self {
        let mut journal = Self::default();
        for record in records {
            journal.add(&record);
        }
        journal
    }

    /// Takes in one more record.
    pub fn add(&mut self, record: &Record) {
        match record {
            Record::Begin { boot_id, profile } => {
                if self.boot_id != *boot_id {
                    self.turned.retain(|turned| !turned.knob.is_volatile());
                    self.unwritable.clear();
                    self.boot_id.clone_from(boot_id);
                }
                if !profile.is_empty() {
                    self.profile.clone_from(profile);
                }
                self.open = true;
            }
            Record::Turn { knob, from, to } => {
                match self.turned.iter_mut().find(|turned| turned.knob == *knob) {
                    Some(turned) => {
                        turned.previous.clone_from(from);
                        turned.last.clone_from(to);
                    }
                    None => self.turned.push(Turned {
                        knob: knob.clone(),
                        first: from.clone(),
                        previous: from.clone(),
                        last: to.clone(),
                    }),
                }
            }
            Record::Unwritable { knob, why } => {
                self.turned.retain(|turned| turned.knob != *knob);
                self.unwritable.insert(knob.clone(), why.clone());
            }
            Record::Restored { knob } => self.turned.retain(|turned| turned.knob != *knob),
            Record::End => self.open = false,
        }
    }

    /// The fewest records that say the same.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        let begin = Record::Begin { boot_id: self.boot_id.clone(), profile: self.profile.clone() };
        let mut records = vec![begin];
        for (knob, why) in &self.unwritable {
            records.push(Record::Unwritable { knob: knob.clone(), why: why.clone() });
        }
        for Turned { knob, first, previous, last } in self.turned.clone() {
            if previous != first {
                let to = previous.clone();
                records.push(Record::Turn { knob: knob.clone(), from: first, to });
            }
            records.push(Record::Turn { knob, from: previous, to: last });
        }
        if !self.open {
            records.push(Record::End);
        }
        records
    }

    /// Knobs that were turned, in the order of their first time.
    #[must_use]
    pub fn turned(&self) -> &[Turned] {
        &self.turned
    }

    /// Knobs that the kernel refuses to turn, and what it said.
    #[must_use]
    pub fn unwritable(&self) -> &BTreeMap<Knob, String> {
        &self.unwritable
    }

    /// The profile that was applied last; empty: none.
    #[must_use]
    pub fn profile(&self) -> &str {
        &self.profile
    }

    /// Whether the last run was cut off.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knob::Form;

    fn knob(path: &str) -> Knob {
        Knob::attribute(path, Form::Words)
    }

    fn turn(path: &str, from: &str, to: &str) -> Record {
        Record::Turn { knob: knob(path), from: Some(from.into()), to: Some(to.into()) }
    }

    fn begin(boot_id: &str) -> Record {
        Record::Begin { boot_id: boot_id.into(), profile: "p".into() }
    }

    #[test]
    fn the_first_value_is_what_counts() {
        let records =
            [begin("x"), turn("a", "1", "2"), Record::End, begin("x"), turn("a", "2", "3")];
        let mut journal = Journal::from_records(records);
        assert!(journal.is_open());
        let [turned] = journal.turned() else { panic!("{journal:?}") };
        let values = [&turned.first, &turned.previous, &turned.last].map(|v| v.as_deref().unwrap());
        assert_eq!(values, ["1", "2", "3"]);
        journal.add(&Record::Restored { knob: knob("a") });
        journal.add(&Record::End);
        assert!(journal.turned().is_empty() && !journal.is_open());
    }

    #[test]
    fn a_boot_forgets_what_it_undid() {
        let config = Knob::Config { path: "etc/x".into() };
        let written = Record::Turn { knob: config.clone(), from: None, to: Some("y".into()) };
        let refused =
            Record::Unwritable { knob: knob("proc/irq/0/smp_affinity_list"), why: "no".into() };
        let journal = Journal::from_records([
            begin("x"),
            turn("a", "1", "2"),
            written,
            refused,
            Record::End,
            begin("y"),
        ]);
        assert_eq!(journal.turned().len(), 1);
        assert_eq!(journal.turned()[0].knob, config);
        assert!(journal.unwritable().is_empty());
    }

    #[test]
    fn fewest_records_say_the_same() {
        let refused = Record::Unwritable { knob: knob("c"), why: "no".into() };
        let records = [
            begin("x"),
            turn("a", "1", "2"),
            turn("b", "5", "6"),
            turn("a", "2", "3"),
            refused,
            Record::End,
        ];
        let journal = Journal::from_records(records);
        assert_eq!(Journal::from_records(journal.records()), journal);
        assert_eq!(journal.records().len(), 6);
        let text = serde_json::to_string(&journal.records()).unwrap();
        let records: Vec<Record> = serde_json::from_str(&text).unwrap();
        assert_eq!(records, journal.records());
    }
}
