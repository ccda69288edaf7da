//! The machine and the versions a report belongs to.

use std::ffi::OsStr;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use integration::machine::repository;
use integration::process::run;
use serde::{Deserialize, Serialize};

use crate::switch::{ovs, testpmd};

/// What a report says about where it was made. Versions that cannot be found out are empty.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// CPU model.
    pub cpu_model: String,
    /// Online CPUs.
    pub cpus: usize,
    /// Ticks of the time stamp counter per second.
    pub tsc_hz: f64,
    /// Kernel release.
    pub kernel: String,
    /// DPDK of testpmd, and of the vRouter when built here.
    pub dpdk: String,
    /// OVS-DPDK.
    pub ovs: String,
    /// Compiler.
    pub rustc: String,
    /// Commit, with `-dirty` when something was not committed.
    pub git_revision: String,
    /// When the run began, UTC.
    pub date: String,
    /// Usual core-to-core latency of the run, ns.
    pub probe_ns: f64,
}

impl Machine {
    /// Looks around. The probe comes at the end of the run.
    pub fn here() -> Result<Self> {
        let cpu = Cpu::read(&fs::read_to_string("/proc/cpuinfo")?)?;
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
        let root = repository();
        let git = |words: &[&str]| {
            let words = [&["-C".as_ref(), root.as_os_str()][..], &words_of(words)].concat();
            run("git", &words).unwrap_or_default().trim().to_owned()
        };
        Ok(Self {
            cpu_model: cpu.model,
            cpus: cpu.number,
            tsc_hz: cpu.tsc_hz,
            kernel,
            dpdk: dpdk(&eal_messages()),
            ovs: first_line(&run(ovs::PROGRAM, &words_of(&["--version"])).unwrap_or_default()),
            rustc: first_line(&run("rustc", &words_of(&["--version"])).unwrap_or_default()),
            git_revision: git(&["describe", "--always", "--dirty", "--abbrev=12"]),
            date: run("date", &words_of(&["-u", "+%Y-%m-%dT%H:%M:%SZ"]))?.trim().to_owned(),
            probe_ns: 0.0,
        })
    }

    /// One line for people.
    pub fn line(&self) -> String {
        format!(
            "{}, {} CPUs, TSC {:.2} GHz, Linux {}, {}, {}, {} ({})",
            self.cpu_model,
            self.cpus,
            self.tsc_hz / 1e9,
            self.kernel,
            or_unknown(&self.dpdk, "DPDK"),
            or_unknown(&self.ovs, "OVS"),
            self.git_revision,
            self.date
        )
    }
}

/// What EAL says at its start; it says it on the error output.
fn eal_messages() -> String {
    let output = Command::new(testpmd::PROGRAM).args(["-v", "--help"]).output();
    output.map(|it| String::from_utf8_lossy(&it.stderr).into_owned()).unwrap_or_default()
}

fn or_unknown(version: &str, what: &str) -> String {
    if version.is_empty() { format!("no {what}") } else { version.to_owned() }
}

fn words_of<'a>(words: &'a [&'a str]) -> Vec<&'a OsStr> {
    words.iter().map(OsStr::new).collect()
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// `EAL: RTE Version: 'DPDK 22.11.11'`.
fn dpdk(output: &str) -> String {
    let version = output.split_once("RTE Version: '").and_then(|(_, rest)| rest.split_once('\''));
    version.map(|(version, _)| version.to_owned()).unwrap_or_default()
}

#[derive(Debug, PartialEq)]
struct Cpu {
    model: String,
    number: usize,
    tsc_hz: f64,
}

impl Cpu {
    /// Reads /proc/cpuinfo. The kernel computes `bogomips` from the frequency of the time stamp counter: it is two per MHz.
    fn read(text: &str) -> Result<Self> {
        let field = |name: &str| {
            text.lines()
                .filter_map(|line| line.split_once(':'))
                .find_map(|(key, value)| (key.trim() == name).then(|| value.trim().to_owned()))
        };
        let bogomips: f64 = field("bogomips").context("/proc/cpuinfo has no bogomips")?.parse()?;
        Ok(Self {
            model: field("model name").unwrap_or_default(),
            number: text.lines().filter(|line| line.starts_with("processor")).count(),
            tsc_hz: bogomips / 2.0 * 1e6,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_cpu() {
        let text = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Processor\nbogomips\t: 4000.00\n\n\
                    processor\t: 1\nmodel name\t: Intel(R) Xeon(R) Processor\nbogomips\t: 4000.02\n";
        let expected =
            Cpu { model: "Intel(R) Xeon(R) Processor".to_owned(), number: 2, tsc_hz: 2e9 };
        assert_eq!(Cpu::read(text).unwrap(), expected);
        assert!(Cpu::read("processor: 0\n").is_err());
    }

    #[test]
    fn reads_versions() {
        let output = "EAL: Detected CPU lcores: 2\nEAL: RTE Version: 'DPDK 22.11.11'\nUsage:";
        assert_eq!(dpdk(output), "DPDK 22.11.11");
        assert_eq!(dpdk("Usage:"), "");
        assert_eq!(
            first_line("ovs-vswitchd-dpdk (Open vSwitch) 3.1.0\nDPDK 22.11.11\n"),
            "ovs-vswitchd-dpdk (Open vSwitch) 3.1.0"
        );
    }
}
