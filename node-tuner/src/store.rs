//! The journal on disk: one record a line, each on disk before the next step; one writer at a time.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use node_tuner_core::engine::{Fault, Log};
use node_tuner_core::journal::{Journal, Record};

use crate::machine::config;

const JOURNAL: &str = "journal.jsonl";
const LOCK: &str = "lock";
/// Records above which the journal is written anew with the fewest that say the same.
const MANY: usize = 2000;

/// The journal, while this program may write to it.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    file: File,
    _lock: Flock<File>,
}

/// What the journal in `directory` says; nothing, if there is none.
pub fn read(directory: &Path) -> Result<Journal> {
    Ok(Journal::from_records(records(&directory.join(JOURNAL))?))
}

fn records(path: &Path) -> Result<Vec<Record>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(|| path.display().to_string())?,
    };
    let mut records = Vec::new();
    for (index, line) in text.split_inclusive('\n').enumerate() {
        // What was cut off while it was written announced nothing that was done.
        let Some(line) = line.strip_suffix('\n') else { break };
        let record = serde_json::from_str(line).with_context(|| {
            format!(
                "{}:{}: not a record of the journal; without it nothing can be reverted: restore the file, or \
                 remove it and set the node back by hand",
                path.display(),
                index + 1
            )
        })?;
        records.push(record);
    }
    Ok(records)
}

impl Store {
    /// Opens the journal in `directory` for writing.
    pub fn open(directory: &Path) -> Result<(Self, Journal)> {
        std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        let path = directory.join(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let lock = lock.with_context(|| path.display().to_string())?;
        let Ok(lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
            bail!(
                "{} is locked: another ringway-tuner applies, reverts or runs; stop ringway-tuner.service first",
                path.display()
            );
        };
        let path = directory.join(JOURNAL);
        let records = records(&path)?;
        let journal = Journal::from_records(records.iter().cloned());
        let kept = if records.len() > MANY { journal.records() } else { records };
        // Also gets rid of a record that was cut off.
        let mut text = String::new();
        for record in &kept {
            text.push_str(&serde_json::to_string(record)?);
            text.push('\n');
        }
        config(&path, Some(&text)).with_context(|| path.display().to_string())?;
        let file = OpenOptions::new().append(true).open(&path)?;
        Ok((Self { path, file, _lock: lock }, journal))
    }

    /// Removes a journal that says nothing any more.
    pub fn close(self, journal: &Journal) -> Result<()> {
        if journal.turned().is_empty() && !journal.is_open() {
            config(&self.path, None).with_context(|| self.path.display().to_string())?;
        }
        Ok(())
    }
}

impl Log for Store {
    fn append(&mut self, record: &Record) -> Result<(), Fault> {
        let failed = |error: io::Error| Fault::Failed(format!("{}: {error}", self.path.display()));
        let line = serde_json::to_string(record).map_err(|error| failed(error.into()))?;
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(failed)?;
        self.file.sync_data().map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(boot_id: &str) -> Record {
        Record::Begin { boot_id: boot_id.into(), profile: "p".into() }
    }

    #[test]
    fn records_survive_and_a_torn_one_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, journal) = Store::open(directory.path()).unwrap();
        assert_eq!(journal, Journal::default());
        store.append(&begin("x")).unwrap();
        let busy = Store::open(directory.path()).unwrap_err().to_string();
        assert!(busy.contains("another ringway-tuner"), "{busy}");
        drop(store);
        let path = directory.path().join(JOURNAL);
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("{\"record\":\"tu");
        std::fs::write(&path, &text).unwrap();
        assert!(read(directory.path()).unwrap().is_open());
        let (mut store, _) = Store::open(directory.path()).unwrap();
        store.append(&Record::End).unwrap();
        let journal = read(directory.path()).unwrap();
        assert!(!journal.is_open());
        store.close(&journal).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_damaged_journal_is_not_guessed_at() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(JOURNAL), "{}\n").unwrap();
        let error = format!("{:#}", Store::open(directory.path()).unwrap_err());
        assert!(error.contains("journal.jsonl:1: not a record"), "{error}");
    }
}
