//! A pair of interfaces, a directory for the journal, and a picture of what the tests change.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use integration::machine::program;
use integration::process::run;
use integration::rundir::RunDir;

/// The two ends of a pair, each with four queues.
pub const NIC: &str = "rwtest-t0";
const PEER: &str = "rwtest-t1";

/// What is compared before and after; `*` is any name.
const WATCHED: [&str; 9] = [
    "/sys/devices/system/node/*/hugepages/hugepages-2048kB/nr_hugepages",
    "/sys/kernel/mm/transparent_hugepage/*",
    "/proc/sys/vm/stat_interval",
    "/proc/irq/*/smp_affinity_list",
    "/proc/irq/default_smp_affinity",
    "/sys/devices/virtual/workqueue/cpumask",
    "/sys/devices/system/cpu/*/cpuidle/*/disable",
    "/sys/class/net/*/queues/*/rps_cpus",
    "/sys/class/net/*/queues/*/xps_cpus",
];

/// Why this machine cannot run these tests.
pub fn unfit() -> Option<String> {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if cpus < 2 {
        return Some("needs two CPUs, one of them to be kept free".to_owned());
    }
    (!Path::new("/sys/devices/system/node/node0").exists())
        .then(|| "the kernel has no NUMA nodes".to_owned())
}

/// Dropped, it takes the interfaces away and reverts what a failed test has left.
pub struct Bed {
    pub run: RunDir,
    before: BTreeMap<PathBuf, String>,
}

impl Bed {
    pub fn new() -> Result<Self> {
        // What a killed run may have left.
        let _ = Command::new("ip").args(["link", "delete", NIC]).output();
        let run_dir = RunDir::create()?;
        let queues = ["numrxqueues", "4", "numtxqueues", "4"];
        let words = [&["link", "add", NIC][..], &queues, &["type", "veth", "peer", "name", PEER]];
        let words: Vec<&OsStr> = words.concat().into_iter().map(OsStr::new).collect();
        run("ip", &words)?;
        let mut bed = Self { run: run_dir, before: BTreeMap::new() };
        bed.before = bed.picture()?;
        Ok(bed)
    }

    /// A profile in a file.
    pub fn profile(&self, text: &str) -> Result<PathBuf> {
        let path = self.run.path().join("profile.toml");
        fs::write(&path, format!("version = 1\nname = \"test\"\n{text}"))?;
        Ok(path)
    }

    /// One call of the program, with the journal of this test.
    pub fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(program("ringway-tuner")?);
        command.args(words).arg("--state").arg(self.state());
        Ok(command)
    }

    /// Its output, when it succeeds.
    pub fn tuner(&self, words: &[&str]) -> Result<String> {
        let output = self.output(words)?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "ringway-tuner {words:?}: {}: {error}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// However it ends.
    pub fn output(&self, words: &[&str]) -> Result<Output> {
        Ok(self.command(words)?.output()?)
    }

    pub fn state(&self) -> PathBuf {
        self.run.path().join("tuner")
    }

    /// What is watched, as it is now.
    pub fn picture(&self) -> Result<BTreeMap<PathBuf, String>> {
        let mut picture = BTreeMap::new();
        for pattern in WATCHED {
            let parts: Vec<&str> = pattern.trim_start_matches('/').split('/').collect();
            collect(Path::new("/"), &parts, &mut picture)?;
        }
        Ok(picture)
    }

    /// Fails with each file that is other than it was.
    pub fn is_as_before(&self) -> Result<()> {
        let now = self.picture()?;
        let changed = self.before.iter().filter(|(path, text)| now.get(*path) != Some(text));
        let changed: Vec<String> = changed
            .map(|(path, text)| format!("{}: {text:?}, now {:?}", path.display(), now.get(path)))
            .collect();
        ensure!(changed.is_empty(), "not as before: {changed:#?}");
        Ok(())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let reverted = self.tuner(&["revert"]);
        if let Err(error) = reverted {
            eprintln!("{error:#}");
        }
        let _ = run("ip", &["link", "delete", NIC].map(OsStr::new));
    }
}

fn collect(here: &Path, parts: &[&str], picture: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    let Some((part, rest)) = parts.split_first() else {
        // A single queue has no XPS mask (ENOENT), a link that is down no speed.
        if let Ok(text) = fs::read_to_string(here) {
            picture.insert(here.to_owned(), text);
        }
        return Ok(());
    };
    if *part != "*" {
        return collect(&here.join(part), rest, picture);
    }
    let Ok(entries) = fs::read_dir(here) else { return Ok(()) };
    for entry in entries {
        let name = entry?.file_name();
        // Interfaces of others come and go.
        let others = here.ends_with("class/net") && name != NIC;
        if !others {
            collect(&here.join(name), rest, picture)?;
        }
    }
    Ok(())
}

/// The file's text without its line break.
pub fn text(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.trim().to_owned())
}

/// A CPU list's or mask's text that means the same whatever its padding.
pub fn mask(path: impl AsRef<Path>) -> Result<u64> {
    Ok(u64::from_str_radix(&text(path)?.replace(',', ""), 16)?)
}

/// Of NUMA node 0, of 2 MiB.
pub fn hugepages() -> Result<u64> {
    Ok(text("/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages")?.parse()?)
}
