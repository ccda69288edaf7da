//! What is on the wire, taken by dumpcap and read by tshark, which are Wireshark's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::process::Daemon;
use integration::space::Space;

use crate::daemons::{libraries, unpacked};
use crate::rig::{Node, PATIENCE};

/// Why tshark can't be run here, or nothing when it can.
pub fn unfit() -> Option<String> {
    let missing = [unpacked().join("usr/bin/tshark"), unpacked().join("usr/bin/dumpcap")];
    let missing = missing.into_iter().find(|it| !it.exists());
    missing.map(|it| format!("{} is missing; run integration/setup/frr.sh", it.display()))
}

/// A capture under way.
pub struct Capture {
    dumpcap: Daemon,
    file: PathBuf,
}

impl Capture {
    /// Takes so many frames that a filter lets pass from a node's end of the wire.
    pub fn start(node: &Node, filter: &str, frames: u32) -> Result<Self> {
        Self::start_in(&node.space, &node.file(""), filter, frames)
    }

    /// The same in a namespace with a `w0`; the file goes to `directory`.
    pub fn start_in(space: &Space, directory: &Path, filter: &str, frames: u32) -> Result<Self> {
        let file = directory.join("wire.pcap");
        let mut command = space.command("/usr/bin/env");
        command.arg(libraries()).arg(unpacked().join("usr/bin/dumpcap"));
        command.args(["-P", "-i", "w0", "-f", filter, "-c", &frames.to_string(), "-w"]).arg(&file);
        let log = directory.join("dumpcap.log");
        let _ = std::fs::remove_file(&log);
        let mut dumpcap = Daemon::start("dumpcap", command, &log)?;
        dumpcap.wait_for("it captures", Duration::from_secs(30), || {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            Ok(said.contains("File:").then_some(()))
        })?;
        Ok(Self { dumpcap, file })
    }

    /// Waits until all have come; the file that they are in.
    pub fn finish(mut self) -> Result<PathBuf> {
        let ended =
            integration::wait::until("frames are captured", PATIENCE, || self.dumpcap.exited());
        ensure!(ended?.success(), "dumpcap failed");
        Ok(self.file.clone())
    }
}

/// A frame as tshark takes it apart.
#[derive(Debug, Default)]
pub struct Dissected {
    /// Protocols with their first byte and how many they have, in order; those of the same name are numbered on: `ip`, `ip2`.
    pub protocols: Vec<(String, usize, usize)>,
    /// Fields by name, with what tshark says of them; of inner protocols the names have a number behind them: `ip2.src`.
    pub fields: BTreeMap<String, String>,
}

/// Has tshark read a file.
pub fn dissect(file: &Path) -> Result<Vec<Dissected>> {
    let mut command = Command::new("/usr/bin/env");
    command.arg(libraries()).arg(unpacked().join("usr/bin/tshark"));
    command.args(["-n", "-o", "ip.check_checksum:TRUE", "-T", "pdml", "-r"]).arg(file);
    let output = command.output().context("tshark")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "tshark: {}", String::from_utf8_lossy(&output.stderr));
    let mut frames = Vec::new();
    let mut suffix = String::new();
    for line in text.lines().map(str::trim_start) {
        if line.starts_with("<packet>") {
            frames.push(Dissected::default());
        }
        let Some(frame) = frames.last_mut() else { continue };
        if line.starts_with("<proto ") {
            let name = attribute(line, "name").context("a protocol without a name")?;
            let before = frame
                .protocols
                .iter()
                .filter(|(other, ..)| other.trim_end_matches(|c: char| c.is_ascii_digit()) == name);
            let number = before.count() + 1;
            suffix = if number > 1 { number.to_string() } else { String::new() };
            if !["geninfo", "frame"].contains(&name) {
                let place = |what| -> Result<usize> {
                    Ok(attribute(line, what).context("a protocol without a place")?.parse()?)
                };
                frame.protocols.push((format!("{name}{suffix}"), place("pos")?, place("size")?));
            }
        } else if line.starts_with("<field ") {
            let name = attribute(line, "name").unwrap_or_default();
            let show = attribute(line, "show").unwrap_or_default().to_owned();
            let numbered = match name.split_once('.') {
                Some((protocol, rest)) => format!("{protocol}{suffix}.{rest}"),
                None => name.to_owned(),
            };
            frame.fields.entry(numbered).or_insert(show);
        }
    }
    Ok(frames)
}

fn attribute<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(&format!(" {name}=\""))?;
    Some(rest.split_once('"')?.0)
}
