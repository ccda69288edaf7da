//! Who has which interface, and how it was: one file each, locked by the keeper as long as it lives.
//!
//! A record is worth as much as the kernel's state it is about, so it belongs on a file system that a boot empties; it
//! also names the boot.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::plan::Claim;
use super::snapshot::Snapshot;

/// How long the keeper of a vRouter that died may need to put an interface back, before the next one gives up.
const PATIENCE: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What is known of an interface that is away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The boot it is about.
    pub boot: String,
    /// The vRouter that has it, for people.
    pub owner: String,
    /// Its process.
    pub pid: u32,
    /// The interface.
    pub claim: Claim,
    /// What goes back to it.
    pub latest: Snapshot,
    /// The TAP's number in the kernel, once it carries the name.
    pub tap: Option<u32>,
}

/// Why an interface can't be claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Somebody has it.
    #[error(
        "interface {name} is already an uplink of the vRouter {owner} (process {pid}); detach it there first"
    )]
    Held {
        /// The interface.
        name: String,
        /// Who has it.
        owner: String,
        /// The process.
        pid: u32,
    },
    /// Somebody is about to have it.
    #[error("interface {name} is just being claimed or given back by another vRouter; try again")]
    Busy {
        /// The interface.
        name: String,
    },
    /// The folder can't be used.
    #[error("cannot use the record {}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where the record of an interface is.
#[derive(Clone, Debug)]
pub struct Place {
    name: String,
    record: PathBuf,
    lock: PathBuf,
}

/// The lock on a record. Whoever has it is the interface's keeper. Its file goes with it.
#[derive(Debug)]
pub struct Lock {
    locked: Flock<File>,
    path: PathBuf,
}

impl Lock {
    /// Whether the file that was locked is the one of the name: it may have gone between opening and locking, and then somebody else
    /// can have one of the name.
    fn is_in_place(&self) -> io::Result<bool> {
        let ours = self.locked.metadata()?;
        let there = fs::metadata(&self.path);
        Ok(there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is locked, so that nobody else's is removed.
        if self.is_in_place().is_ok_and(|is| is) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Place {
    /// The place of `name` in this thread's network namespace; makes the folder.
    ///
    /// # Errors
    /// [`ClaimError::File`].
    pub fn new(folder: &Path, name: &str) -> Result<Self, ClaimError> {
        let fault = |source| ClaimError::File { file: folder.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(fault)?;
        let stem = format!("{}-{name}", namespace().map_err(fault)?);
        Ok(Self {
            name: name.to_owned(),
            record: folder.join(format!("{stem}.json")),
            lock: folder.join(format!("{stem}.lock")),
        })
    }

    /// Names of all interfaces that have a record in this thread's network namespace.
    #[must_use]
    pub fn all(folder: &Path) -> Vec<String> {
        let Ok(namespace) = namespace() else { return Vec::new() };
        let prefix = format!("{namespace}-");
        let files = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = files.filter_map(|file| {
            let file = file.file_name().into_string().ok()?;
            Some(file.strip_prefix(&prefix)?.strip_suffix(".json")?.to_owned())
        });
        names.collect()
    }

    /// Locks it. Waits a while for the keeper of a vRouter that is no more.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub fn lock(&self) -> Result<Lock, ClaimError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(lock) = self.try_lock()? {
                return Ok(lock);
            }
            let record = self.read();
            if let Some(Record { owner, pid, .. }) = record.as_ref().filter(|it| lives(it.pid)) {
                let (name, owner) = (self.name.clone(), owner.clone());
                return Err(ClaimError::Held { name, owner, pid: *pid });
            }
            if Instant::now() > deadline {
                return Err(ClaimError::Busy { name: self.name.clone() });
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Locks it if nobody else has.
    ///
    /// # Errors
    /// [`ClaimError::File`].
    pub fn try_lock(&self) -> Result<Option<Lock>, ClaimError> {
        let fault = |source| ClaimError::File { file: self.lock.clone(), source };
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).write(true).mode(0o600);
        let file = options.open(&self.lock).map_err(fault)?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => Lock { locked, path: self.lock.clone() },
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(fault(errno.into())),
        };
        // Whoever had it is just giving it up.
        Ok(lock.is_in_place().map_err(fault)?.then_some(lock))
    }

    /// The record, if there is one of this boot.
    #[must_use]
    pub fn read(&self) -> Option<Record> {
        let text = fs::read_to_string(&self.record).ok()?;
        let record: Record = serde_json::from_str(&text)
            .inspect_err(|error| {
                tracing::warn!(file = %self.record.display(), %error, "not a record of an uplink");
            })
            .ok()?;
        (record.boot == boot()).then_some(record)
    }

    /// Writes the record, whole or not at all.
    ///
    /// # Errors
    /// [`ClaimError::File`].
    pub fn write(&self, record: &Record) -> Result<(), ClaimError> {
        let fault = |source| ClaimError::File { file: self.record.clone(), source };
        let text = serde_json::to_string(record).map_err(|e| fault(e.into()))?;
        let new = self.record.with_extension("new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, &self.record)).map_err(fault)
    }

    /// Removes the record. The lock's file goes with the lock.
    pub fn remove(&self) {
        match fs::remove_file(&self.record) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(file = %self.record.display(), %error, "cannot remove the record");
            }
            _ => {}
        }
    }
}

/// The boot of this machine.
#[must_use]
pub fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// Number of this thread's network namespace.
fn namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/thread-self/ns/net")?.ino())
}

fn lives(pid: u32) -> bool {
    // A process that has ended but was not waited for has no files any more, and no TAP.
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = status.rsplit(") ").next().and_then(|rest| rest.chars().next());
    state.is_some_and(|state| !"ZX".contains(state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_goes_with_its_file_and_keeps_others_out_till_then() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path(), "eth1").unwrap();
        let files = || fs::read_dir(dir.path()).unwrap().count();
        let lock = place.try_lock().unwrap().unwrap();
        assert!(place.try_lock().unwrap().is_none());
        drop(lock);
        assert_eq!(files(), 0);
        // Opened before the file went, and locked after that.
        let late = OpenOptions::new().create(true).append(true).open(&place.lock).unwrap();
        drop(place.try_lock().unwrap().unwrap());
        let locked = Flock::lock(late, FlockArg::LockExclusiveNonblock).unwrap();
        let late = Lock { locked, path: place.lock.clone() };
        assert!(!late.is_in_place().unwrap());
        let lock = place.try_lock().unwrap().unwrap();
        drop(late);
        assert!(lock.is_in_place().unwrap(), "the file of another one was removed");
        drop(lock);
        assert_eq!(files(), 0);
    }
}
