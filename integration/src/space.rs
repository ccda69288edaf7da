//! Network namespaces, and what runs in them.

pub mod pod;
pub mod stream;
pub mod traffic;

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};

use crate::rundir::RunDir;

/// Beginning of the names; whoever holds the machine may take away what earlier runs left.
const MARK: &str = "rwtest-";

/// Why this machine can't run the tests, or nothing when it can.
pub fn unfit() -> Option<String> {
    ["/usr/sbin/ip", "/usr/sbin/ethtool", "/usr/bin/dpdk-testpmd"]
        .into_iter()
        .find(|program| !Path::new(program).exists())
        .map(|program| format!("{program} is missing; run `make setup`"))
}

/// A network namespace; dropping it takes it away with all interfaces in it.
pub struct Space(String);

impl Space {
    /// Makes one, with its loopback up.
    pub fn create(run: &RunDir, name: &str) -> Result<Self> {
        let space = Self(format!("{}-{name}", run.id()));
        ip(&["netns", "add", &space.0])?;
        space.ip("link set lo up")?;
        Ok(space)
    }

    /// Takes away those of runs that have ended. For whoever holds the machine.
    pub fn sweep() -> Result<()> {
        for line in ip(&["netns", "list"])?.lines() {
            let name = line.split_whitespace().next().unwrap_or_default();
            if name.starts_with(MARK) {
                ip(&["netns", "delete", name])?;
            }
        }
        Ok(())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// `ip` in here; what it says.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let words: Vec<&str> = ["-n", &self.0].into_iter().chain(arguments.split(' ')).collect();
        ip(&words)
    }

    /// A command in here.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("/usr/sbin/ip");
        command.args(["netns", "exec", &self.0]).arg(program.as_ref());
        command
    }

    /// Runs a command in here to its end; what it says.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split(' ');
        let program = words.next().context("no program")?;
        let output = self.command(program).args(words).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("{line}: {said}{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(said)
    }

    /// Sets something below /proc/sys/net in here.
    pub fn set(&self, key: &str, value: &str) -> Result<()> {
        let (key, value) = (format!("/proc/sys/net/{key}"), value.to_owned());
        self.inside(move || std::fs::write(&key, value).with_context(|| key.clone()))
    }

    /// Runs something in a thread that is in here, with the sockets it makes.
    pub fn inside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.start(work).finish()
    }

    /// The same without waiting for its end.
    pub fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Started<T> {
        let path = format!("/run/netns/{}", self.0);
        Started(thread::spawn(move || {
            let space = File::open(&path).with_context(|| path.clone())?;
            setns(space, CloneFlags::CLONE_NEWNET).with_context(|| path.clone())?;
            work()
        }))
    }

    /// A number that the kernel counts for an interface in here.
    pub fn counter(&self, interface: &str, name: &str) -> Result<u64> {
        let text = self.run(&format!("cat /sys/class/net/{interface}/statistics/{name}"))?;
        Ok(text.trim().parse()?)
    }

    /// The address of an interface in here.
    pub fn mac(&self, interface: &str) -> Result<String> {
        Ok(self.run(&format!("cat /sys/class/net/{interface}/address"))?.trim().to_owned())
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "delete", &self.0]) {
            eprintln!("clean-up: {error:#}");
        }
    }
}

/// Work in another namespace.
pub struct Started<T>(thread::JoinHandle<Result<T>>);

impl<T> Started<T> {
    /// Its result.
    pub fn finish(self) -> Result<T> {
        self.0.join().map_err(|_| anyhow!("a thread has panicked"))?
    }
}

fn ip(words: &[&str]) -> Result<String> {
    let output = Command::new("/usr/sbin/ip").args(words).output().context("ip")?;
    if !output.status.success() {
        bail!("ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
