//! Everything one run leaves on the machine, and how it is taken away again, also after a crash.
//!
//! A run has one identifier. Its sockets and state are under `/run/rwtest-ID`, its file systems and plugin programs under
//! `/var/lib/rwtest-ID` (Debian mounts /run noexec), its containers in cgroups under `/rwtest-ID`. Whatever carries that mark
//! belongs to the run, nothing else is ever touched.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::machine::Restore;
use crate::readback;

/// Beginning of every identifier; short, because a socket's path has 107 usable bytes and 64 of them are a sandbox id.
const MARK: &str = "rwtest-";
const RUN_PARENT: &str = "/run";
const DISK_PARENT: &str = "/var/lib";
/// One run at a time: hugepages and CPUs are shared.
const LOCK: &str = "/run/rwtest.lock";
/// Programs that a run starts outside containers; a process with another name (an editor on a log file) is left alone.
const OURS: [&str; 10] = [
    "containerd",
    "ringway",
    "10-ringway",
    "runc",
    "crun",
    "ctr",
    "pins",
    "etcd",
    "kube",
    "critest",
];
/// How often a tree is tried again while processes or mounts in it go away.
const ROUNDS: u32 = 100;

/// The directories of one run; dropping it removes every trace of the run.
#[derive(Debug)]
pub struct RunDir {
    id: String,
    keep: bool,
}

impl RunDir {
    /// Takes the machine for this process, removes what earlier runs left, and makes new directories.
    ///
    /// # Errors
    /// When another run is in progress.
    pub fn create() -> Result<Self> {
        take_machine()?;
        sweep_all()?;
        let id = format!("{MARK}{:x}", std::process::id());
        let run = Self { id, keep: false };
        for directory in [run.path(), run.disk()] {
            DirBuilder::new()
                .mode(0o711)
                .create(&directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        Ok(run)
    }

    /// `rwtest-ID`: also the name of the run's top cgroup.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// For sockets, configuration, logs and state.
    pub fn path(&self) -> PathBuf {
        Path::new(RUN_PARENT).join(&self.id)
    }

    /// For images, container file systems and programs.
    pub fn disk(&self) -> PathBuf {
        Path::new(DISK_PARENT).join(&self.id)
    }

    /// Leaves everything in place when dropped, until the next run or [`sweep_all`].
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Whether [`Self::keep`] was asked for.
    pub fn is_kept(&self) -> bool {
        self.keep
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = sweep(&self.id)
        {
            eprintln!("clean-up of {}: {error:#}", self.id);
        }
    }
}

/// Holds [`LOCK`] until this process ends.
fn take_machine() -> Result<()> {
    static HELD: OnceLock<Flock<File>> = OnceLock::new();
    if HELD.get().is_some() {
        return Ok(());
    }
    let file = File::options().create(true).append(true).open(LOCK).context(LOCK)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => {
            HELD.get_or_init(|| lock);
            Ok(())
        }
        Err((_, error)) => {
            bail!("another demo or test run holds {LOCK} ({error}); wait for it or stop it")
        }
    }
}

/// Removes what runs that no longer exist (killed, or kept on purpose) left behind; says so for each.
///
/// # Errors
/// When another run is in progress, or something cannot be removed.
pub fn sweep_all() -> Result<()> {
    take_machine()?;
    let mut found = BTreeSet::new();
    for parent in [RUN_PARENT, DISK_PARENT] {
        for entry in fs::read_dir(parent).context(parent)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if let Some(number) = name.strip_prefix(MARK)
                && u32::from_str_radix(number, 16).is_ok()
            {
                found.insert(name);
            }
        }
    }
    for id in found {
        println!("removing what the earlier run {id} left");
        sweep(&id).with_context(|| format!("cannot remove the earlier run {id}"))?;
    }
    Ok(())
}

/// Takes away one run: processes, mounts, cgroups, settings, directories, in this order.
fn sweep(id: &str) -> Result<()> {
    let run = Path::new(RUN_PARENT).join(id);
    let disk = Path::new(DISK_PARENT).join(id);
    end_processes(id, &[&run, &disk])?;
    unmount_below(&[&run, &disk])?;
    remove_cgroups(id)?;
    let restored = Restore::load(&run).and_then(|restore| restore.apply());
    for directory in [&disk, &run] {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error)
                    .with_context(|| format!("cannot remove {}", directory.display()));
            }
            _ => {}
        }
    }
    restored
}

fn end_processes(id: &str, directories: &[&Path]) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let mut left = Vec::new();
        for process in readback::processes()? {
            if process.pid != std::process::id() && belongs(&process, id, directories) {
                // It may end by itself between the look and the signal.
                let _gone = kill(Pid::from_raw(i32::try_from(process.pid)?), Signal::SIGKILL);
                left.push(process.pid);
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("processes {left:?} of {id} do not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn belongs(process: &readback::Process, id: &str, directories: &[&Path]) -> bool {
    let in_cgroup = process.cgroups.iter().any(|path| path.split('/').any(|part| part == id));
    let named = OURS.iter().any(|name| process.name.starts_with(name))
        && directories.iter().any(|directory| {
            let inside = format!("{}/", directory.display());
            process.command_line.iter().any(|argument| argument.contains(&inside))
        });
    in_cgroup || named
}

fn unmount_below(directories: &[&Path]) -> Result<()> {
    for _ in 0..ROUNDS {
        let mounts = readback::mounts(None)?;
        let Some(last) = mounts
            .iter()
            .rev()
            .find(|mount| directories.iter().any(|directory| mount.target.starts_with(directory)))
        else {
            return Ok(());
        };
        umount2(&last.target, MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {}", last.target.display()))?;
    }
    bail!("more than {ROUNDS} mounts below {directories:?}")
}

fn remove_cgroups(id: &str) -> Result<()> {
    for mount in readback::mounts(None)? {
        if mount.kind == "cgroup" || mount.kind == "cgroup2" {
            remove_cgroup(&mount.target.join(id))?;
        }
    }
    Ok(())
}

/// Children first; a cgroup whose last process has just been killed stays busy for a moment.
fn remove_cgroup(directory: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    let mut last = Ok(());
    for _ in 0..ROUNDS {
        last = match fs::remove_dir(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => return Ok(()),
        };
        std::thread::sleep(Duration::from_millis(20));
    }
    last.with_context(|| format!("cannot remove {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readback::Process;

    #[test]
    fn only_processes_with_the_mark_belong_to_a_run() {
        let cases: [(&str, &[&str], &str, bool); 6] = [
            ("containerd", &["containerd", "--config", "/run/rwtest-1f/c.toml"], "/", true),
            ("containerd", &["containerd", "--config", "/etc/containerd/c.toml"], "/", false),
            ("containerd", &["containerd", "--config", "/run/rwtest-1f0/c.toml"], "/", false),
            ("tail", &["tail", "-f", "/run/rwtest-1f/log"], "/", false),
            ("dpdk-testpmd", &["dpdk-testpmd"], "/rwtest-1f/pod7/abc", true),
            ("dpdk-testpmd", &["dpdk-testpmd"], "/rwtest-1f0/pod7/abc", false),
        ];
        for (name, arguments, cgroup, expected) in cases {
            let process = Process {
                pid: 7,
                name: name.to_owned(),
                command_line: arguments.iter().map(ToString::to_string).collect(),
                cgroups: vec![cgroup.to_owned()],
            };
            assert_eq!(
                belongs(&process, "rwtest-1f", &[Path::new("/run/rwtest-1f")]),
                expected,
                "{name} {arguments:?} {cgroup}"
            );
        }
    }
}
