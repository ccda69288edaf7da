//! Turns knobs: of the running machine, or of a captured tree.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use node_tuner_core::engine::{Fault, Machine};
use node_tuner_core::knob::{Knob, QueueKind, RingKind};

use crate::ethtool::Ethtool;

/// What turns knobs below a root directory.
pub struct Knobs<'a> {
    /// `/`, or a captured tree.
    pub root: &'a Path,
    /// Network interfaces.
    pub ethtool: &'a mut dyn Ethtool,
}

impl Machine for Knobs<'_> {
    fn read(&mut self, knob: &Knob) -> Result<Option<String>, Fault> {
        let value = match knob {
            Knob::Attribute { path, form } => {
                let text = std::fs::read_to_string(self.root.join(path)).map_err(fault)?;
                form.normalise(&text)
            }
            Knob::Config { path } => {
                return match std::fs::read_to_string(self.root.join(path)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    text => text.map(Some).map_err(fault),
                };
            }
            Knob::Ring { nic, kind } => {
                let rings = self.ethtool.get(nic, None).map_err(fault)?.rings.ok_or(Fault::Gone)?;
                match kind {
                    RingKind::Rx => rings.rx,
                    RingKind::Tx => rings.tx,
                }
                .to_string()
            }
            Knob::Queues { nic, kind } => {
                let queues = self.ethtool.get(nic, None).map_err(fault)?.queues;
                let queues = queues.ok_or(Fault::Gone)?;
                match kind {
                    QueueKind::Combined => queues.combined,
                    QueueKind::Rx => queues.rx,
                    QueueKind::Tx => queues.tx,
                }
                .to_string()
            }
            Knob::Offload { nic, name } => {
                let offloads = self.ethtool.get(nic, None).map_err(fault)?.offloads;
                let offload = offloads.get(name).ok_or(Fault::Gone)?;
                if offload.on { "on".to_owned() } else { "off".to_owned() }
            }
        };
        Ok(Some(value))
    }

    fn write(&mut self, knob: &Knob, value: Option<&str>) -> Result<(), Fault> {
        let text = value.unwrap_or_default();
        let count = || text.parse().map_err(|_| Fault::Failed(format!("{text:?} is no number")));
        let done = match knob {
            Knob::Attribute { path, form } => attribute(&self.root.join(path), &form.written(text)),
            Knob::Config { path } => config(&self.root.join(path), value),
            Knob::Ring { nic, kind } => self.ethtool.set_ring(nic, *kind, count()?),
            Knob::Queues { nic, kind } => self.ethtool.set_queues(nic, *kind, count()?),
            Knob::Offload { nic, name } => self.ethtool.set_offload(nic, name, text == "on"),
        };
        done.map_err(fault)
    }
}

fn fault(error: io::Error) -> Fault {
    let refused = [Errno::EIO, Errno::EPERM, Errno::EINVAL, Errno::EOPNOTSUPP, Errno::EBUSY];
    if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32)
    {
        return Fault::Gone;
    }
    if refused.iter().any(|errno| error.raw_os_error() == Some(*errno as i32)) {
        return Fault::Refused(error.to_string());
    }
    Fault::Failed(error.to_string())
}

/// One write, as the kernel takes each as a value of its own. Never makes a file.
fn attribute(path: &Path, value: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).truncate(true).open(path)?;
    let line = format!("{value}\n");
    let written = file.write(line.as_bytes())?;
    if written == line.len() {
        return Ok(());
    }
    Err(io::Error::other(format!("the kernel took {written} of {} bytes", line.len())))
}

/// A whole file at once, or none: whoever reads it sees the old or the new text, even after a crash.
pub fn config(path: &Path, text: Option<&str>) -> io::Result<()> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    match text {
        Some(text) => {
            let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
            name.push(".ringway-new");
            let new: PathBuf = parent.join(name);
            let before = std::fs::metadata(path).ok();
            let mode = before.as_ref().map_or(0o644, |before| before.mode() & 0o7777);
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(mode).open(&new)?;
            file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
            if let Some(before) = before {
                fchown(&file, Some(before.uid()), Some(before.gid()))?;
            }
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, path)?;
        }
        None => std::fs::remove_file(path)?,
    }
    File::open(parent)?.sync_all()
}
