//! How long an NRI plugin lets a runtime wait, as the runtime sees it: a socket between the two that passes everything on and looks at the
//! time.
//!
//! The runtime asks one thing at a time, so whatever the plugin sends after a request is its answer. What the passing on takes, and the
//! wait of its own threads for a CPU, is in the times: they are what a runtime waits at most.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::unistd::gettid;

use crate::process::run;

/// In a ttrpc request: end of the service's name, then the method's, both with protobuf's tag and length.
const CREATE: &[u8] = b".Plugin\x12\x0fCreateContainer";
/// As important as a thread can be without real-time scheduling.
const NICE: &str = "-20";

/// When the request under way came, and how long those before it took.
#[derive(Debug, Default)]
struct Times {
    asked: Option<Instant>,
    taken: Vec<Duration>,
}

/// Between a runtime and one plugin.
#[derive(Debug)]
pub struct Stopwatch {
    socket: PathBuf,
    times: Arc<Mutex<Times>>,
    passing: JoinHandle<Result<()>>,
}

impl Stopwatch {
    /// Listens at `socket` for one plugin and connects it to the runtime that listens at `runtime`.
    pub fn start(runtime: &Path, socket: &Path) -> Result<Self> {
        let listener = UnixListener::bind(socket)
            .with_context(|| format!("cannot listen at {}", socket.display()))?;
        let times = Arc::new(Mutex::new(Times::default()));
        let (requests, answers) = (Arc::clone(&times), Arc::clone(&times));
        let runtime = runtime.to_path_buf();
        let passing = std::thread::spawn(move || {
            let (plugin, _) = listener.accept()?;
            let runtime = UnixStream::connect(runtime)?;
            let (from_plugin, to_runtime) = (plugin.try_clone()?, runtime.try_clone()?);
            let upwards = std::thread::spawn(move || {
                pass(from_plugin, to_runtime, |_| {
                    let mut times = answers.lock().unwrap_or_else(PoisonError::into_inner);
                    let took = times.asked.take().map(|asked| asked.elapsed());
                    times.taken.extend(took);
                })
            });
            pass(runtime, plugin, |bytes| {
                if bytes.windows(CREATE.len()).any(|window| window == CREATE) {
                    let mut times = requests.lock().unwrap_or_else(PoisonError::into_inner);
                    times.asked = Some(Instant::now());
                }
            })?;
            upwards.join().map_err(|_| anyhow!("a thread of the stopwatch panicked"))?
        });
        Ok(Self { socket: socket.to_path_buf(), times, passing })
    }

    /// How long each CreateContainer took so far; forgets them.
    pub fn take(&self) -> Vec<Duration> {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut times.taken)
    }

    /// Waits for the end of the connection, which has to have begun.
    pub fn finish(self) -> Result<()> {
        self.passing.join().map_err(|_| anyhow!("a thread of the stopwatch panicked"))??;
        Ok(std::fs::remove_file(self.socket)?)
    }
}

/// Passes bytes on until one end closes, and shows them before.
fn pass(mut from: UnixStream, mut to: UnixStream, mut see: impl FnMut(&[u8])) -> Result<()> {
    let thread = gettid().to_string();
    // Who may not do that has longer times.
    let _ = run("renice", &["--priority", NICE, "--pid", &thread].map(AsRef::as_ref));
    let mut buffer = vec![0; 64 << 10];
    loop {
        // An end that is gone has closed, whatever the system calls it.
        let length = from.read(&mut buffer).unwrap_or(0);
        if length == 0 {
            break;
        }
        see(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    // Not all of it may be open any more.
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait;

    #[test]
    fn only_creations_are_timed_and_all_bytes_arrive() {
        let directory = tempfile::tempdir().unwrap();
        let (up, down) = (directory.path().join("runtime"), directory.path().join("plugin"));
        let listener = UnixListener::bind(&up).unwrap();
        let stopwatch = Stopwatch::start(&up, &down).unwrap();
        let mut plugin = UnixStream::connect(&down).unwrap();
        let (mut runtime, _) = listener.accept().unwrap();
        let mut exchange = |request: &[u8]| {
            runtime.write_all(request).unwrap();
            let mut got = vec![0; request.len()];
            plugin.read_exact(&mut got).unwrap();
            assert_eq!(got, request);
            plugin.write_all(b"answer").unwrap();
            let mut answer = [0; 6];
            runtime.read_exact(&mut answer).unwrap();
        };
        exchange(b"nri.pkg.api.v1alpha1.Plugin\x12\x10StopPodSandbox..");
        exchange(b"nri.pkg.api.v1alpha1.Plugin\x12\x0fCreateContainer, and what it is about");
        exchange(b"nri.pkg.api.v1alpha1.Plugin\x12\x0fUpdateContainer");
        assert_eq!(stopwatch.take().len(), 1);
        assert_eq!(stopwatch.take().len(), 0);
        drop(plugin);
        wait::until("the runtime sees the end", Duration::from_secs(10), || {
            Ok((runtime.read(&mut [0; 8])? == 0).then_some(()))
        })
        .unwrap();
        stopwatch.finish().unwrap();
    }
}
