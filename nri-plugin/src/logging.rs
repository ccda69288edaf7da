//! Where messages go.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

/// A log file is put aside (one predecessor is kept) when it has this many bytes: pods that come and go quickly shall not fill /run.
const MAX_BYTES: u64 = 8 << 20;

/// To standard error, for the service manager or a person.
pub fn to_stderr(filter: &str) -> Result<()> {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(levels(filter)?)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .finish();
    tracing::subscriber::set_global_default(subscriber).context("log")
}

/// To a file: a plugin that containerd starts has no standard error.
pub fn to_file(filter: &str, path: &Path) -> Result<()> {
    let file = LogFile::open(path).with_context(|| path.display().to_string())?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(levels(filter)?)
        .with_ansi(false)
        .with_writer(Mutex::new(file))
        .finish();
    tracing::subscriber::set_global_default(subscriber).context("log")
}

/// `debug` is about this program: the HTTP/2 below the vRouter's API says something only when it is named.
fn levels(filter: &str) -> Result<EnvFilter> {
    EnvFilter::try_new(format!("h2=info,hyper=info,tower=info,{filter}")).context("log")
}

/// A file of bounded size.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        // Names of pods and their annotations are nobody else's business.
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_path_buf(), file, bytes })
    }
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.bytes >= MAX_BYTES {
            std::fs::rename(&self.path, self.path.with_extension("log.old"))?;
            *self = Self::open(&self.path)?;
        }
        let written = self.file.write(line)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_file_is_bounded_and_continued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        LogFile::open(&path).unwrap().write_all(b"first\n").unwrap();
        let mut log = LogFile::open(&path).unwrap();
        log.write_all(b"second\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"first\nsecond\n");
        let line = vec![b'x'; 1 << 20];
        for _ in 0..9 {
            log.write_all(&line).unwrap();
        }
        let old = std::fs::metadata(path.with_extension("log.old")).unwrap().len();
        let new = std::fs::metadata(&path).unwrap().len();
        assert!(old >= MAX_BYTES && new == 1 << 20, "{old} {new}");
    }
}
