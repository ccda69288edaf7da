//! testpmd in `io` mode between two `net_vhost` ports.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use integration::process::Daemon;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::switch::{Place, Switch, Window, neighbours, per_packet};
use integration::launch::Side;
use integration::pktgen::Endpoint;

/// From the package `dpdk`.
pub const PROGRAM: &str = "/usr/bin/dpdk-testpmd";
/// Time for EAL, and for an answer to a command.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running testpmd.
pub struct Testpmd {
    process: Daemon,
    sockets: [PathBuf; 2],
    commands: PathBuf,
    /// Length of its output when the counters were cleared.
    seen: usize,
}

impl Testpmd {
    /// Starts it; returns when it forwards.
    pub fn start(place: Place) -> Result<Self> {
        let commands = place.directory.join("testpmd.commands");
        mkfifo(&commands, Mode::S_IRUSR | Mode::S_IWUSR)
            .with_context(|| format!("cannot create {}", commands.display()))?;
        let sockets = ["a", "b"].map(|name| place.directory.join(format!("{name}.sock")));
        // It takes commands from a pipe that never ends, and says at once what it has to say.
        let mut command = place.cgroups.command(Side::Switch, place.control_cpu, "/bin/sh");
        let script = "commands=$1 && shift && exec stdbuf -oL \"$@\" 0<>\"$commands\"";
        command.args(["-c", script, "sh"]).arg(&commands).arg(PROGRAM);
        command.args(["--in-memory", "--no-pci", "-m", "256"]);
        let lcores = format!("--lcores=0@{},1@{}", place.control_cpu, place.worker_cpu);
        command.args([lcores.as_str(), "--main-lcore=0"]);
        for (index, socket) in sockets.iter().enumerate() {
            command.arg(format!("--vdev=net_vhost{index},iface={}", socket.display()));
        }
        command.args(["--", "--interactive", "--auto-start", "--no-mlockall"]);
        command.args(["--forward-mode=io", "--record-core-cycles", "--total-num-mbufs=32768"]);
        let mut process = Daemon::start("dpdk-testpmd", command, &place.log("testpmd"))?;
        let log = process.log().to_owned();
        let forwarding = || {
            let output = fs::read_to_string(&log).unwrap_or_default();
            Ok((output.contains("testpmd>") && sockets.iter().all(|it| it.exists())).then_some(()))
        };
        process.wait_for("its ports are there", PATIENCE, forwarding)?;
        Ok(Self { process, sockets, commands, seen: 0 })
    }

    fn tell(&self, line: &str) -> Result<()> {
        // Without a reader, because testpmd has ended, this fails and does not wait for one.
        let flags = OFlag::O_NONBLOCK.bits();
        let mut pipe = File::options().write(true).custom_flags(flags).open(&self.commands)?;
        Ok(writeln!(pipe, "{line}")?)
    }

    fn output(&self) -> Result<String> {
        let bytes = fs::read(self.process.log())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        // It may miss a signal while it prints its prompt. When the command does not reach it, the signal has to do.
        let _told = self.tell("quit");
    }
}

impl Switch for Testpmd {
    fn endpoints(&self) -> [Endpoint; 2] {
        neighbours(self.sockets.clone())
    }

    fn begin(&mut self) -> Result<()> {
        self.seen = self.output()?.len();
        self.tell("clear fwd stats all")
    }

    fn end(&mut self) -> Result<Window> {
        self.tell("show fwd stats all")?;
        let (log, seen) = (self.process.log().to_owned(), self.seen);
        let answer = || {
            let output = fs::read(&log)?;
            Ok(cycles(&String::from_utf8_lossy(output.get(seen..).unwrap_or_default())))
        };
        self.process.wait_for("it shows its counters", PATIENCE, answer)
    }

    fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// Reads `CPU cycles/packet=A (total cycles=B / total io packets=C) at D MHz Clock`, the last one. testpmd counts the cycles
/// of polls that brought packets.
fn cycles(output: &str) -> Option<Window> {
    let (_, line) = output.rsplit_once("CPU cycles/packet=")?;
    let line = line.lines().next()?;
    let (_, counts) = line.split_once("(total cycles=")?;
    let (cycles, rest) = counts.split_once(" / total ")?;
    let (packets, _) = rest.split_once("packets=")?.1.split_once(") at ")?;
    let (cycles, packets): (u64, u64) = (cycles.parse().ok()?, packets.parse().ok()?);
    Some(Window {
        packets,
        cycles_per_packet: per_packet(cycles as f64, packets),
        busy: None,
        burst: None,
        drops: BTreeMap::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_real_output() {
        let output = include_str!("../../testdata/testpmd_io.txt");
        let window = cycles(output).unwrap();
        assert_eq!(window.packets, 7_658_016);
        assert!((window.cycles_per_packet.unwrap() - 236.24).abs() < 0.01, "{window:?}");
        let twice = format!("{output}{}", output.replace("7658016) at", "3829008) at"));
        assert_eq!(cycles(&twice).unwrap().packets, 3_829_008);
    }

    #[test]
    fn what_is_incomplete_is_no_answer() {
        for output in [
            "",
            "testpmd> show fwd stats all",
            "  CPU cycles/packet=236.24 (total cycles=1809108124 / total io pack",
        ] {
            assert_eq!(cycles(output), None, "{output:?}");
        }
    }
}
