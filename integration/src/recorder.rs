//! Records what a runtime sends to an NRI plugin: a socket between the two that passes everything on.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};

/// A recording of one connection.
#[derive(Debug)]
pub struct Recorder {
    socket: PathBuf,
    passing: JoinHandle<std::io::Result<()>>,
}

impl Recorder {
    /// Listens at `socket` for one plugin, connects it to the runtime that listens at `runtime`, and writes every byte that the
    /// runtime sends to `file`.
    pub fn start(runtime: &Path, socket: &Path, file: &Path) -> Result<Self> {
        let listener = UnixListener::bind(socket)
            .with_context(|| format!("cannot listen at {}", socket.display()))?;
        let mut record = File::create(file).with_context(|| file.display().to_string())?;
        let runtime = runtime.to_path_buf();
        let passing = std::thread::spawn(move || {
            let (plugin, _) = listener.accept()?;
            let runtime = UnixStream::connect(runtime)?;
            let (mut from_plugin, mut to_runtime) = (plugin.try_clone()?, runtime.try_clone()?);
            let upwards = std::thread::spawn(move || {
                let outcome = std::io::copy(&mut from_plugin, &mut to_runtime).map(drop);
                // The plugin has ended: so does what the runtime has to say to it.
                let _ = to_runtime.shutdown(std::net::Shutdown::Both);
                outcome
            });
            let (mut from_runtime, mut to_plugin) = (runtime, plugin);
            let mut buffer = vec![0; 64 << 10];
            loop {
                let length = from_runtime.read(&mut buffer)?;
                if length == 0 {
                    break;
                }
                record.write_all(&buffer[..length])?;
                // A plugin that has just ended reads no more; what was sent is recorded all the same.
                if to_plugin.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            let _ = to_plugin.shutdown(std::net::Shutdown::Both);
            upwards.join().unwrap_or(Ok(()))
        });
        Ok(Self { socket: socket.to_path_buf(), passing })
    }

    /// Waits for the end of the connection, which has to have begun.
    pub fn finish(self) -> Result<()> {
        self.passing.join().map_err(|_| anyhow!("the recorder panicked"))??;
        Ok(std::fs::remove_file(self.socket)?)
    }
}
