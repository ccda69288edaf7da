//! A daemon as a child process with a log file.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A child process; dropping it stops it.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    detached: bool,
}

impl Daemon {
    /// Starts `command` in a process group of its own (a Ctrl-C is for us, we stop it in order) with its output in `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        command.process_group(0).stdin(Stdio::null());
        command.stdout(out.try_clone()?).stderr(out);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), detached: false })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it did.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for a condition that this daemon brings about; fails at once when the daemon ends, and shows the end of its log
    /// with every failure.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut probe: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let name = self.name.clone();
        let child = &mut self.child;
        crate::wait::until(&format!("{name}: {what}"), limit, || {
            if let Some(status) = child.try_wait()? {
                bail!("{name} ended with {status} while waiting for: {what}");
            }
            probe()
        })
        .with_context(|| format!("end of {}:\n{}", self.log.display(), tail(&self.log, 30)))
    }

    /// SIGTERM, then SIGKILL after `grace`.
    pub fn stop(&mut self, grace: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM)?;
        let end = Instant::now() + grace;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child.kill()?;
        Ok(self.child.wait()?)
    }

    /// Ends it as a crash would.
    pub fn crash(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id())?;
        kill(Pid::from_raw(pid), signal)
            .with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Leaves it running when dropped.
    pub fn detach(&mut self) {
        self.detached = true;
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.detached
            && let Err(error) = self.stop(Duration::from_secs(10))
        {
            eprintln!("clean-up: cannot stop {}: {error:#}", self.name);
        }
    }
}

/// Runs a command to its end.
///
/// # Errors
/// When it cannot be started or fails: with its error output.
pub fn run(program: impl AsRef<OsStr>, arguments: &[&OsStr]) -> Result<String> {
    let program = program.as_ref();
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!(
            "{} {} ended with {}: {}",
            program.display(),
            arguments.join(OsStr::new(" ")).display(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The last `lines` lines of a file, or why they cannot be had.
pub fn tail(path: &Path, lines: usize) -> String {
    match std::fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("({}: {error})", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_gives_the_last_lines() {
        let file = std::env::temp_dir().join(format!("ringway-tail-{}", std::process::id()));
        std::fs::write(&file, "a\nb\nc\n").unwrap();
        assert_eq!(tail(&file, 2), "b\nc");
        assert_eq!(tail(&file, 9), "a\nb\nc");
        std::fs::remove_file(&file).unwrap();
        assert!(tail(&file, 2).contains("No such file"));
    }

    #[test]
    fn a_daemon_that_ends_early_is_reported_with_its_log() {
        let log = std::env::temp_dir().join(format!("ringway-daemon-{}", std::process::id()));
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo no luck; exit 3"]);
        let mut daemon = Daemon::start("teller", command, &log).unwrap();
        let error =
            daemon.wait_for::<()>("good news", Duration::from_secs(10), || Ok(None)).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("teller ended with exit status: 3"), "{text}");
        assert!(text.contains("no luck"), "{text}");
        std::fs::remove_file(&log).unwrap();
    }
}
