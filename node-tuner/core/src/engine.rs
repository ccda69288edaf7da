//! Carries out a plan and takes it back, one knob after the other, over a journal.

use crate::journal::{Journal, Record, Turned};
use crate::knob::Knob;
use crate::plan::Change;

/// What turns knobs.
pub trait Machine {
    /// The knob's value in its normalised form; `None` for a configuration file that is not there.
    ///
    /// # Errors
    /// [`Fault`], [`Fault::Gone`] when the knob itself is not there.
    fn read(&mut self, knob: &Knob) -> Result<Option<String>, Fault>;

    /// Turns the knob; `None` removes a configuration file.
    ///
    /// # Errors
    /// [`Fault`].
    fn write(&mut self, knob: &Knob, value: Option<&str>) -> Result<(), Fault>;
}

/// What keeps records.
pub trait Log {
    /// Returns when the record is on disk.
    ///
    /// # Errors
    /// [`Fault`] when it is not.
    fn append(&mut self, record: &Record) -> Result<(), Fault>;
}

/// A knob could not be read or turned, or a record not be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The knob is not there (any more): a card or CPU has gone.
    #[error("it is not there")]
    Gone,
    /// The kernel refuses this very knob (EIO, EPERM, EINVAL, EOPNOTSUPP).
    #[error("the kernel refuses it: {0}")]
    Refused(String),
    /// It was turned and has another value than it should.
    #[error("{wanted} was written and {found} is there{}", hint(.knob))]
    Other {
        /// Which.
        knob: Knob,
        /// What was written.
        wanted: String,
        /// What was read back.
        found: String,
    },
    /// Anything else, in words.
    #[error("{0}")]
    Failed(String),
}

fn hint(knob: &Knob) -> &'static str {
    match knob {
        Knob::Attribute { path, .. } if path.ends_with("/nr_hugepages") => {
            "; memory is too fragmented, used up, or the pages are in use: free some, or reserve them at boot"
        }
        _ => "",
    }
}

/// What became of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Knobs that were turned and read back.
    pub turned: Vec<Knob>,
    /// Knobs that the kernel refuses to turn, and why; they are left alone from now on.
    pub unwritable: Vec<(Knob, String)>,
    /// Knobs that are gone, which leaves nothing to do.
    pub gone: Vec<Knob>,
    /// What ended the run, and where. Everything turned before has been turned back.
    pub failed: Option<(String, Fault)>,
    /// What could not be turned back, and why; it stays in the journal.
    pub left: Vec<(Knob, Fault)>,
}

impl Outcome {
    /// Whether all is as it should be.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.failed.is_none() && self.left.is_empty()
    }
}

/// Turns each knob and reads it back. At the first that fails, those before it are turned back, in reverse.
pub fn apply(
    changes: &[Change],
    boot_id: &str,
    profile: &str,
    journal: &mut Journal,
    machine: &mut impl Machine,
    log: &mut impl Log,
) -> Outcome {
    let mut run = Run { journal, machine, log, outcome: Outcome::default() };
    let begin = Record::Begin { boot_id: boot_id.to_owned(), profile: profile.to_owned() };
    if let Err(fault) = run.record(begin) {
        run.outcome.failed = Some(("the journal".to_owned(), fault));
        return run.outcome;
    }
    let mut before: Vec<(Knob, Option<String>)> = Vec::new();
    for Change { knob, value } in changes {
        match run.turn(knob, value, &mut before) {
            Ok(()) => {}
            Err(Fault::Gone) => run.outcome.gone.push(knob.clone()),
            Err(fault) => {
                run.outcome.failed = Some((knob.to_string(), fault));
                break;
            }
        }
    }
    if run.outcome.failed.is_some() {
        run.outcome.turned.clear();
        for (knob, value) in before.into_iter().rev() {
            if let Err(fault) = run.put_back(&knob, value.as_ref()) {
                run.outcome.left.push((knob, fault));
            }
        }
    }
    run.end()
}

/// Gives every knob that was turned the value that was there first, in reverse.
///
/// A configuration file that somebody has edited since keeps the edit.
pub fn revert(
    boot_id: &str,
    journal: &mut Journal,
    machine: &mut impl Machine,
    log: &mut impl Log,
) -> Outcome {
    let mut run = Run { journal, machine, log, outcome: Outcome::default() };
    let begin = Record::Begin { boot_id: boot_id.to_owned(), profile: String::new() };
    if let Err(fault) = run.record(begin) {
        run.outcome.failed = Some(("the journal".to_owned(), fault));
        return run.outcome;
    }
    for turned in run.journal.turned().to_vec().into_iter().rev() {
        match run.restore(&turned) {
            Ok(()) => run.outcome.turned.push(turned.knob),
            Err(Fault::Gone) => run.outcome.gone.push(turned.knob),
            Err(fault) => run.outcome.left.push((turned.knob, fault)),
        }
    }
    run.end()
}

struct Run<'a, M, L> {
    journal: &'a mut Journal,
    machine: &'a mut M,
    log: &'a mut L,
    outcome: Outcome,
}

impl<M: Machine, L: Log> Run<'_, M, L> {
    fn record(&mut self, record: Record) -> Result<(), Fault> {
        self.log.append(&record)?;
        self.journal.add(&record);
        Ok(())
    }

    /// `before` gets the knob as soon as it may have been turned.
    fn turn(
        &mut self,
        knob: &Knob,
        wanted: &str,
        before: &mut Vec<(Knob, Option<String>)>,
    ) -> Result<(), Fault> {
        let now = self.machine.read(knob)?;
        if now.as_deref() == Some(wanted) {
            return Ok(());
        }
        let to = Some(wanted.to_owned());
        self.record(Record::Turn { knob: knob.clone(), from: now.clone(), to: to.clone() })?;
        match self.machine.write(knob, Some(wanted)) {
            Err(Fault::Refused(why)) if knob.may_be_refused() => {
                self.outcome.unwritable.push((knob.clone(), why.clone()));
                return self.record(Record::Unwritable { knob: knob.clone(), why });
            }
            written => {
                before.push((knob.clone(), now));
                written?;
            }
        }
        self.verify(knob, to.as_ref())?;
        self.outcome.turned.push(knob.clone());
        Ok(())
    }

    fn verify(&mut self, knob: &Knob, wanted: Option<&String>) -> Result<(), Fault> {
        let found = self.machine.read(knob)?;
        if found.as_ref() == wanted {
            return Ok(());
        }
        let text = |value: Option<&String>| match value {
            Some(value) if value.contains('\n') => "another text".to_owned(),
            Some(value) if value.is_empty() => "nothing".to_owned(),
            Some(value) => value.clone(),
            None => "no file".to_owned(),
        };
        let (wanted, found) = (text(wanted), text(found.as_ref()));
        Err(Fault::Other { knob: knob.clone(), wanted, found })
    }

    /// Back to what was there before this run, whether or not the journal can still be written: the first value is in
    /// it already.
    fn put_back(&mut self, knob: &Knob, value: Option<&String>) -> Result<(), Fault> {
        let now = self.machine.read(knob)?;
        if now.as_ref() != value {
            self.machine.write(knob, value.map(String::as_str))?;
            self.verify(knob, value)?;
        }
        let first = self.journal.turned().iter().find(|turned| turned.knob == *knob);
        let is_first = first.is_some_and(|turned| turned.first.as_ref() == value);
        let record = if is_first {
            Record::Restored { knob: knob.clone() }
        } else {
            Record::Turn { knob: knob.clone(), from: now, to: value.cloned() }
        };
        self.record(record)
    }

    fn restore(&mut self, turned: &Turned) -> Result<(), Fault> {
        let Turned { knob, first, previous, last } = turned;
        let now = match self.machine.read(knob) {
            Err(Fault::Gone) => {
                self.record(Record::Restored { knob: knob.clone() })?;
                return Err(Fault::Gone);
            }
            now => now?,
        };
        if now != *first {
            // It may have been cut off before it was written, or between two writes; a file is never half written.
            if !knob.is_volatile() && now != *last && now != *previous {
                let why = "somebody has edited it since; take back what concerns this node by hand, or remove it";
                return Err(Fault::Failed(why.to_owned()));
            }
            self.machine.write(knob, first.as_deref())?;
            self.verify(knob, first.as_ref())?;
        }
        self.record(Record::Restored { knob: knob.clone() })
    }

    fn end(mut self) -> Outcome {
        // Without it the run counts as cut off, which the next one mends.
        if let Err(fault) = self.record(Record::End)
            && self.outcome.failed.is_none()
        {
            self.outcome.failed = Some(("the journal".to_owned(), fault));
        }
        self.outcome
    }
}

#[cfg(test)]
mod tests;
