//! A Linux guest in QEMU as a pod: a second kind of vhost-user frontend, with a kernel's network stack behind it.
//!
//! `integration/setup/qemu.sh` fetches what it is made of. It runs without KVM, so that it runs anywhere.

pub mod numa;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::launch::{Cgroups, Side};
use crate::machine::repository;
use crate::process::Daemon;
use crate::wait;

const QEMU: &str = "/usr/bin/qemu-system-x86_64";
/// Time for a boot: 3 s where nothing else runs.
const BOOT: Duration = Duration::from_secs(90);
/// Time for a command in the guest.
const COMMAND: Duration = Duration::from_secs(60);
/// How long one read of the serial line waits.
const READ: Duration = Duration::from_millis(200);
/// Memory devices that can be plugged in, and up to which size of the guest, MiB.
const SLOTS: u32 = 16;
const MOST_MB: u32 = 8192;

fn directory() -> PathBuf {
    repository().join("target/qemu")
}

/// Why this machine cannot run a guest, or nothing when it can.
pub fn unfit() -> Option<String> {
    let parts =
        [PathBuf::from(QEMU), directory().join("vmlinuz"), directory().join("initramfs.gz")];
    let missing = parts.iter().find(|path| !path.exists())?;
    Some(format!("{} is missing; run integration/setup/qemu.sh", missing.display()))
}

/// A network interface of a guest.
#[derive(Debug, Clone)]
pub struct Nic {
    /// The vhost-user socket, which the vRouter listens on.
    pub socket: PathBuf,
    /// Its address.
    pub mac: String,
    /// Queue pairs.
    pub queues: u32,
    /// Further properties of QEMU's `virtio-net-pci`, `packed=on`.
    pub properties: &'static str,
}

/// A running guest; dropping it ends it.
#[derive(Debug)]
pub struct Guest {
    process: Daemon,
    serial: UnixStream,
    /// What the serial line has said since the last answer.
    said: String,
    /// Commands since the last boot.
    commands: u32,
    monitor: BufReader<UnixStream>,
}

impl Guest {
    /// Boots a guest with `memory_mb` of memory. `name` is for files in `directory`.
    pub fn boot(
        cgroups: &Cgroups,
        cpu: u16,
        directory: &Path,
        name: &str,
        memory_mb: u32,
        nics: &[Nic],
    ) -> Result<Self> {
        let mut command = cgroups.command(Side::Pods, cpu, QEMU);
        let parts = self::directory();
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"]);
        command.args(["-machine", "q35,memory-backend=ram"]);
        command.args(["-m", &format!("{memory_mb}M,slots={SLOTS},maxmem={MOST_MB}M")]);
        command.args(["-object", &memory_object("ram", memory_mb)]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        command.arg("-kernel").arg(parts.join("vmlinuz"));
        command.arg("-initrd").arg(parts.join("initramfs.gz"));
        command.args(["-append", "console=ttyS0 quiet"]);
        for (n, nic) in nics.iter().enumerate() {
            let Nic { socket, mac, queues, properties } = nic;
            let path = socket.display();
            // `reconnect`: a vRouter that was started anew is found again.
            command.args(["-chardev", &format!("socket,id=c{n},path={path},reconnect=1")]);
            let netdev = format!("vhost-user,id=n{n},chardev=c{n},queues={queues}");
            command.args(["-netdev", &netdev]);
            let many = if *queues > 1 { "on" } else { "off" };
            // Without KVM, QEMU 7.2 ends with SIGSEGV when the guest unmasks an MSI-X vector of a vhost-user device:
            // it looks it up among KVM's. So the guest has one interrupt line.
            let mut device = format!("virtio-net-pci,netdev=n{n},mac={mac},mq={many},vectors=0");
            if !properties.is_empty() {
                device.push(',');
                device.push_str(properties);
            }
            command.args(["-device", &device]);
        }
        Self::start(command, directory, name, BOOT)
    }

    /// Starts a command of QEMU's, to which the serial line and the monitor are added; returns when the guest takes commands.
    fn start(mut command: Command, directory: &Path, name: &str, boot: Duration) -> Result<Self> {
        let [serial, monitor] = ["serial", "qmp"].map(|it| directory.join(format!("{name}.{it}")));
        command.args(["-chardev", &format!("socket,id=serial,{}", listen(&serial))]);
        command.args(["-serial", "chardev:serial"]);
        command.args(["-chardev", &format!("socket,id=qmp,{}", listen(&monitor))]);
        command.args(["-mon", "chardev=qmp,mode=control"]);
        let log = directory.join(format!("{name}.log"));
        let mut process = Daemon::start("qemu", command, &log)?;
        let mut connect = |what: &str, path: &Path| {
            process.wait_for(what, BOOT, || Ok(UnixStream::connect(path).ok()))
        };
        let serial = connect("its serial line is there", &serial)?;
        let monitor = connect("its monitor is there", &monitor)?;
        serial.set_read_timeout(Some(READ))?;
        monitor.set_read_timeout(Some(COMMAND))?;
        let monitor = BufReader::new(monitor);
        let mut guest = Self { process, serial, said: String::new(), commands: 0, monitor };
        guest.monitor_line().context("QEMU's greeting")?;
        guest.ask("qmp_capabilities", &json!({}))?;
        guest.booted(boot)?;
        Ok(guest)
    }

    /// Returns when the guest takes commands.
    fn booted(&mut self, limit: Duration) -> Result<()> {
        self.commands = 0;
        let status = self.answer(limit, false).context("the guest boots")?.1;
        ensure!(status == 0, "the guest's init said {status}");
        Ok(())
    }

    /// Runs a line of shell in the guest; gives what it prints.
    ///
    /// # Errors
    /// When it fails in the guest: with what it printed.
    pub fn run(&mut self, line: &str) -> Result<String> {
        let (text, status) = self.say(line, COMMAND, false)?;
        ensure!(status == 0, "guest: {line}: ended with {status}: {text}");
        Ok(text)
    }

    /// Runs a line of shell in the guest and prints what it prints, as it comes; gives its exit status.
    ///
    /// # Errors
    /// It did not end in time.
    pub fn run_aloud(&mut self, line: &str, limit: Duration) -> Result<i32> {
        Ok(self.say(line, limit, true)?.1)
    }

    fn say(&mut self, line: &str, limit: Duration, aloud: bool) -> Result<(String, i32)> {
        ensure!(!line.contains('\n'), "one line: {line:?}");
        self.commands += 1;
        self.serial.write_all(format!("{line}\n").as_bytes())?;
        self.answer(limit, aloud).with_context(|| format!("guest: {line}"))
    }

    /// What is printed until the end of the present command, and its status. `aloud`: here, too, line by line.
    fn answer(&mut self, limit: Duration, aloud: bool) -> Result<(String, i32)> {
        let mark = format!("={} ", self.commands);
        let end = Instant::now() + limit;
        let mut told = 0;
        loop {
            wait::check_stop()?;
            if aloud {
                told = tell(&self.said, told, &mark);
            }
            if let Some((text, status, rest)) = split_answer(&self.said, &mark) {
                let found = (text.to_owned(), status);
                self.said = rest.to_owned();
                return Ok(found);
            }
            if let Some(status) = self.process.exited()? {
                bail!("QEMU ended with {status}: {}", crate::process::tail(self.process.log(), 20));
            }
            ensure!(Instant::now() < end, "no answer within {limit:?}; it said: {}", self.said);
            let mut bytes = [0; 4096];
            match self.serial.read(&mut bytes) {
                Ok(0) => {
                    let status = wait::until("QEMU ends", READ * 10, || self.process.exited())?;
                    let log = crate::process::tail(self.process.log(), 20);
                    bail!("QEMU ended with {status}: {log}; the guest said: {}", self.said);
                }
                Ok(n) => {
                    let text = String::from_utf8_lossy(bytes.get(..n).unwrap_or(&[]));
                    self.said.push_str(&text.replace('\r', ""));
                }
                // Interrupted: this process was stopped, and goes on.
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn monitor_line(&mut self) -> Result<Value> {
        let mut line = String::new();
        ensure!(self.monitor.read_line(&mut line)? > 0, "QEMU's monitor is closed");
        Ok(serde_json::from_str(&line)?)
    }

    /// A command of QEMU's monitor.
    pub fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let message = json!({"execute": command, "arguments": arguments});
        self.monitor.get_mut().write_all(format!("{message}\n").as_bytes())?;
        loop {
            // Events come in between.
            let mut line = self.monitor_line()?;
            if let Some(error) = line.get("error") {
                bail!("QEMU: {message}: {error}");
            }
            if let Some(value) = line.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    /// Plugs `memory_mb` of further memory in; the guest has to take it into use.
    pub fn plug_memory(&mut self, name: &str, memory_mb: u32) -> Result<()> {
        let size = u64::from(memory_mb) << 20;
        self.ask(
            "object-add",
            &json!({"qom-type": "memory-backend-memfd", "id": name, "size": size, "share": true}),
        )?;
        let device = json!({"driver": "pc-dimm", "id": format!("dimm-{name}"), "memdev": name});
        self.ask("device_add", &device)?;
        Ok(())
    }

    /// Starts the guest anew, as its reset button would.
    pub fn reset(&mut self) -> Result<()> {
        self.said.clear();
        self.ask("system_reset", &json!({}))?;
        self.booted(BOOT)
    }
}

fn memory_object(id: &str, memory_mb: u32) -> String {
    format!("memory-backend-memfd,id={id},size={memory_mb}M,share=on")
}

fn listen(path: &Path) -> String {
    format!("path={},server=on,wait=off", path.display())
}

/// Prints the whole lines of `said` from `begin` on, up to one that begins with `mark`; says where to go on.
fn tell(said: &str, begin: usize, mark: &str) -> usize {
    let mut at = begin;
    for line in said.get(begin..).unwrap_or_default().split_inclusive('\n') {
        if !line.ends_with('\n') || line.starts_with(mark) {
            break;
        }
        print!("{line}");
        at += line.len();
    }
    at
}

/// What came before a whole line that begins with `mark`, the number in it, and what came after.
fn split_answer<'a>(said: &'a str, mark: &str) -> Option<(&'a str, i32, &'a str)> {
    let mut at = 0;
    for line in said.split_inclusive('\n') {
        if let Some(status) = line.strip_prefix(mark)
            && line.ends_with('\n')
        {
            return Some((&said[..at], status.trim().parse().ok()?, &said[at + line.len()..]));
        }
        at += line.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_its_number() {
        assert_eq!(split_answer("a\n=2 ", "=2 "), None, "the line is not whole");
        assert_eq!(split_answer("=1 0\na=2 0\n", "=2 "), None);
        assert_eq!(split_answer("a\n b\n=2 17\nc", "=2 "), Some(("a\n b\n", 17, "c")));
        assert_eq!(split_answer("=0 0\n", "=0 "), Some(("", 0, "")));
    }
}
