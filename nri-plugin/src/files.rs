//! The directories below `run_dir`: one per pod, root-only, with the pod's record and one directory per slot that is
//! mounted into containers.
//!
//! Where a pod writes (it listens on its own sockets), nothing here follows a name the pod could have planted: records
//! lie beside the slots, files are made with `O_EXCL` and renamed, and removal does not follow links.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nri_plugin_core::paths::{self, INTERFACES_FILE, SandboxId, Slot};
use nri_plugin_core::plan::PodRecord;

use crate::record;

/// Held by the one plugin that uses a run directory.
const LOCK_FILE: &str = "nri.lock";
/// Leases of address plugins, one file each.
const LEASES: &str = "leases";
/// Containers that are not ours and were moved off CPUs.
const MOVED_FILE: &str = "nri-moved.json";
/// How the plugin stands, see [`crate::unserved::status`].
const STATUS_FILE: &str = "nri-status.json";
/// What is on its way out: a pod can leave behind more than can be removed while its end is being handled.
const TRASH: &str = "trash";
/// Greatest record that is read; a pod with 16 interfaces in 100 containers stays below.
const MAX_RECORD: u64 = 1 << 20;
/// How long to wait for a predecessor that is just ending. containerd waits 2 s for the answer to Configure.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Something below the run directory cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The system said no.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was to be done.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Two plugins would give the same things twice.
    #[error(
        "another ringway-nri (process {pid}) uses run_dir {}; stop it, or choose another run_dir",
        run_dir.display()
    )]
    InUse {
        /// By both.
        run_dir: PathBuf,
        /// What the other one wrote into its lock file.
        pid: String,
    },
}

/// What was found below the run directory.
#[derive(Debug, Default)]
pub struct Found {
    /// Names of the pods' directories.
    pub directories: BTreeSet<String>,
    /// The records in them that can be read.
    pub records: Vec<PodRecord>,
}

/// The run directory, used by this process alone.
#[derive(Debug)]
pub struct Files {
    run_dir: PathBuf,
    unique: AtomicU64,
    _lock: Flock<File>,
}

impl Files {
    /// Makes the directories and takes the lock.
    pub async fn open(run_dir: &Path) -> Result<Self, FilesError> {
        // Parents of the sockets: others (the vRouter's own users) may pass through.
        make_directory(run_dir, 0o755)?;
        let lock = take_lock(run_dir).await?;
        let private = [paths::pods_directory(run_dir), run_dir.join(TRASH), run_dir.join(LEASES)];
        for directory in private {
            make_directory(&directory, 0o700)?;
            set_mode(&directory, 0o700)?;
        }
        let files = Self { run_dir: run_dir.to_path_buf(), unique: AtomicU64::new(0), _lock: lock };
        let trash = files.run_dir.join(TRASH);
        for entry in fs::read_dir(&trash).map_err(io_error("read", &trash))? {
            remove_later(entry.map_err(io_error("read", &trash))?.path());
        }
        Ok(files)
    }

    /// Where it is.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// Reads every record. One that cannot be read is left where it is and said.
    pub fn read_all(&self) -> Result<Found, FilesError> {
        let pods = paths::pods_directory(&self.run_dir);
        let mut found = Found::default();
        for entry in fs::read_dir(&pods).map_err(io_error("read", &pods))? {
            let name = entry.map_err(io_error("read", &pods))?.file_name();
            let Ok(name) = name.into_string() else { continue };
            if let Ok(sandbox) = SandboxId::new(&name) {
                match self.read_record(&sandbox) {
                    Ok(Some(record)) => found.records.push(record),
                    Ok(None) => {}
                    Err(error) => tracing::warn!(%sandbox, error, "unreadable record"),
                }
            }
            found.directories.insert(name);
        }
        Ok(found)
    }

    fn read_record(&self, sandbox: &SandboxId) -> Result<Option<PodRecord>, String> {
        let file = match File::open(paths::record_file(&self.run_dir, sandbox)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let mut text = String::new();
        file.take(MAX_RECORD).read_to_string(&mut text).map_err(|error| error.to_string())?;
        record::decode(&text, sandbox).map(Some).map_err(|error| error.to_string())
    }

    /// Writes a pod's record, whole or not at all as far as a crash of this process goes. It need not survive one of
    /// the machine: no pod does.
    pub fn write_record(&self, record: &PodRecord) -> Result<(), FilesError> {
        let directory = paths::pod_directory(&self.run_dir, &record.sandbox);
        make_directory(&directory, 0o700)?;
        let file = paths::record_file(&self.run_dir, &record.sandbox);
        self.replace(&directory, &file, 0o600, &record::encode(record))
    }

    /// Makes a slot's directory with its description. `pod_listens` lets the pod make sockets in it.
    pub fn write_slot(
        &self,
        sandbox: &SandboxId,
        slot: Slot,
        pod_listens: bool,
        description: &str,
    ) -> Result<PathBuf, FilesError> {
        let directory = paths::slot_directory(&self.run_dir, sandbox, slot);
        make_directory(&directory, 0o755)?;
        // The pod may run as any user, which is not known here, and has to create its socket. Everybody may write, but
        // only those who have it mounted can reach it: the parents are root's alone. Sticky, so that the description
        // stays.
        set_mode(&directory, if pod_listens { 0o1777 } else { 0o755 })?;
        self.replace(&directory, &directory.join(INTERFACES_FILE), 0o644, description)?;
        Ok(directory)
    }

    /// Removes the socket that a killed application left: the next one could not listen on it.
    pub fn remove_stale_socket(&self, socket: &Path) {
        match fs::remove_file(socket) {
            Ok(()) => tracing::debug!(socket = %socket.display(), "removed a stale socket"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(socket = %socket.display(), %error, "cannot remove a stale socket");
            }
        }
    }

    /// Writes how the plugin stands, for people and other programs.
    pub fn write_status(&self, text: &str) -> Result<(), FilesError> {
        self.replace(&self.run_dir, &self.run_dir.join(STATUS_FILE), 0o644, text)
    }

    /// Writes down which containers that are not ours were moved.
    pub fn write_moved(&self, text: &str) -> Result<(), FilesError> {
        self.replace(&self.run_dir, &self.run_dir.join(MOVED_FILE), 0o600, text)
    }

    /// What was written down; nothing when there is nothing.
    pub fn read_moved(&self) -> Option<String> {
        fs::read_to_string(self.run_dir.join(MOVED_FILE)).ok()
    }

    /// An identity for a lease of this pod that no other lease ever has.
    pub fn lease_id(&self, sandbox: &SandboxId) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        format!("{sandbox}-{}-{}", now.as_millis(), self.unique_name())
    }

    /// Writes a lease down.
    pub fn write_lease(&self, id: &str, text: &str) -> Result<(), FilesError> {
        let directory = self.run_dir.join(LEASES);
        self.replace(&directory, &directory.join(id), 0o600, text)
    }

    /// Every lease that is written down, by its identity.
    pub fn leases(&self) -> Result<BTreeMap<String, String>, FilesError> {
        let directory = self.run_dir.join(LEASES);
        let mut leases = BTreeMap::new();
        for entry in fs::read_dir(&directory).map_err(io_error("read", &directory))? {
            let path = entry.map_err(io_error("read", &directory))?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            // Files that are being written start with a dot.
            let Some(name) = name.filter(|name| !name.starts_with('.')) else { continue };
            leases.insert(name, fs::read_to_string(&path).map_err(io_error("read", &path))?);
        }
        Ok(leases)
    }

    /// Forgets a lease.
    pub fn remove_lease(&self, id: &str) -> Result<(), FilesError> {
        let file = self.run_dir.join(LEASES).join(id);
        fs::remove_file(&file).map_err(io_error("remove", &file))
    }

    /// Takes a slot's directory away.
    pub fn remove_slot(&self, sandbox: &SandboxId, slot: Slot) -> Result<(), FilesError> {
        self.discard(&paths::slot_directory(&self.run_dir, sandbox, slot))
    }

    /// Takes everything of a pod away. No error when there is nothing.
    pub fn remove_pod(&self, sandbox: &SandboxId) -> Result<(), FilesError> {
        self.discard(&paths::pod_directory(&self.run_dir, sandbox))
    }

    /// At once by name, in the background by content.
    fn discard(&self, directory: &Path) -> Result<(), FilesError> {
        let target = self.run_dir.join(TRASH).join(self.unique_name());
        match fs::rename(directory, &target) {
            Ok(()) => remove_later(target),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(io_error("remove", directory)(source)),
        }
        Ok(())
    }

    fn replace(
        &self,
        directory: &Path,
        file: &Path,
        mode: u32,
        text: &str,
    ) -> Result<(), FilesError> {
        let new = directory.join(format!(".{}", self.unique_name()));
        let create = || {
            // Fails on anything that is already there, links included.
            let mut out = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
            out.set_permissions(Permissions::from_mode(mode))?;
            out.write_all(text.as_bytes())?;
            fs::rename(&new, file)
        };
        create().map_err(|source| {
            // Ours, or planted by the pod: in both cases no use to anybody.
            let _ = fs::remove_file(&new);
            io_error("write", file)(source)
        })
    }

    fn unique_name(&self) -> String {
        let number = self.unique.fetch_add(1, Ordering::Relaxed);
        format!("{}-{number}", std::process::id())
    }
}

async fn take_lock(run_dir: &Path) -> Result<Flock<File>, FilesError> {
    let path = run_dir.join(LOCK_FILE);
    let began = tokio::time::Instant::now();
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open", &path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                let write = |lock: &mut File| {
                    lock.set_len(0)?;
                    writeln!(lock, "{}", std::process::id())
                };
                write(&mut lock).map_err(io_error("write", &path))?;
                return Ok(lock);
            }
            Err((_, Errno::EWOULDBLOCK)) if began.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err((file, Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                // Only for the message.
                let _ = file.take(16).read_to_string(&mut pid);
                let pid = pid.trim().to_owned();
                return Err(FilesError::InUse { run_dir: run_dir.to_path_buf(), pid });
            }
            Err((_, errno)) => return Err(io_error("lock", &path)(errno.into())),
        }
    }
}

fn make_directory(path: &Path, mode: u32) -> Result<(), FilesError> {
    // Recursive: one that exists is no error.
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(io_error("create", path))
}

fn set_mode(path: &Path, mode: u32) -> Result<(), FilesError> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(io_error("set the permissions of", path))
}

/// A pod that may write could have left millions of files.
fn remove_later(path: PathBuf) {
    tokio::task::spawn_blocking(move || {
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove what a pod left");
        }
    });
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FilesError {
    let path = path.to_path_buf();
    move |source| FilesError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::record::tests::sample;

    async fn files() -> (tempfile::TempDir, Files) {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(&dir.path().join("run")).await.unwrap();
        (dir, files)
    }

    fn mode(path: impl AsRef<Path>) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[tokio::test]
    async fn records_are_root_only_and_come_back() {
        let (_dir, files) = files().await;
        let record = sample("abc");
        files.write_record(&record).unwrap();
        files.write_record(&record).unwrap();
        let pods = files.run_dir().join("pods");
        assert_eq!((mode(&pods), mode(pods.join("abc"))), (0o700, 0o700));
        assert_eq!(mode(pods.join("abc/record.json")), 0o600);
        assert_eq!(fs::read_dir(pods.join("abc")).unwrap().count(), 1, "a temporary file is left");

        fs::create_dir(pods.join("broken")).unwrap();
        fs::write(pods.join("broken/record.json"), "{").unwrap();
        fs::create_dir(pods.join("empty")).unwrap();
        let found = files.read_all().unwrap();
        assert_eq!(found.records, [record]);
        assert_eq!(found.directories.len(), 3);
    }

    #[tokio::test]
    async fn a_slot_is_as_open_as_it_must_be() {
        let (_dir, files) = files().await;
        let sandbox = SandboxId::new("abc").unwrap();
        files.write_record(&sample("abc")).unwrap();
        let closed = files.write_slot(&sandbox, Slot(0), false, "[]").unwrap();
        assert_eq!((mode(&closed), mode(closed.join("interfaces.json"))), (0o755, 0o644));
        let open = files.write_slot(&sandbox, Slot(1), true, "[]").unwrap();
        assert_eq!((mode(&open), mode(open.join("interfaces.json"))), (0o1777, 0o644));
        assert!(open.ends_with("pods/abc/1"));

        files.remove_slot(&sandbox, Slot(1)).unwrap();
        assert!(!open.exists() && closed.exists());
        files.remove_pod(&sandbox).unwrap();
        files.remove_pod(&sandbox).unwrap();
        assert_eq!(fs::read_dir(files.run_dir().join("pods")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_a_pod_plants_is_replaced_and_not_followed() {
        let (dir, files) = files().await;
        let sandbox = SandboxId::new("abc").unwrap();
        files.write_record(&sample("abc")).unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let slot = files.write_slot(&sandbox, Slot(0), true, "[]").unwrap();

        fs::remove_file(slot.join("interfaces.json")).unwrap();
        symlink(&victim, slot.join("interfaces.json")).unwrap();
        symlink(&victim, slot.join("net0.sock")).unwrap();
        symlink(dir.path(), slot.join("up")).unwrap();
        // The next temporary name, had the pod guessed it: refused, cleared, and done at the next try.
        let next = files.unique.load(Ordering::Relaxed);
        symlink(&victim, slot.join(format!(".{}-{next}", std::process::id()))).unwrap();
        assert!(files.write_slot(&sandbox, Slot(0), true, "[1]").is_err());
        files.write_slot(&sandbox, Slot(0), true, "[1]").unwrap();
        assert_eq!(fs::read_to_string(slot.join("interfaces.json")).unwrap(), "[1]");
        files.remove_stale_socket(&slot.join("net0.sock"));
        assert!(!slot.join("net0.sock").is_symlink());

        files.remove_pod(&sandbox).unwrap();
        let trash = files.run_dir().join("trash");
        for _ in 0..200 {
            if fs::read_dir(&trash).unwrap().count() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(fs::read_dir(&trash).unwrap().count(), 0);
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[tokio::test]
    async fn one_plugin_at_a_time() {
        let (dir, files) = files().await;
        let run_dir = dir.path().join("run");
        let error = Files::open(&run_dir).await.unwrap_err().to_string();
        let pid = format!("process {}", std::process::id());
        assert!(error.contains(&pid) && error.contains("run_dir"), "{error}");
        // One that is just ending is waited for.
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            drop(files);
        });
        Files::open(&run_dir).await.unwrap();
    }
}
