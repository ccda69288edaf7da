//! Datagrams that go to a kernel and back without a rest, to see when they don't.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Space, Started};
use crate::wait;

/// How often one is sent.
const EVERY: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(30);

/// A stream of them, until it is ended.
pub struct Stream {
    stop: Arc<AtomicBool>,
    /// When each came back.
    came: Arc<Mutex<Vec<Instant>>>,
    ends: [Started<()>; 2],
}

impl Stream {
    /// Starts one from a namespace to an address in another.
    pub fn start(from: &Space, to: &Space, address: &str) -> Result<Self> {
        let address: SocketAddr = address.parse()?;
        let stop = Arc::new(AtomicBool::new(false));
        let came = Arc::new(Mutex::new(Vec::new()));
        let server = to.inside(move || UdpSocket::bind(address).context("bind"))?;
        let stopped = Arc::clone(&stop);
        let echo = to.start(move || {
            server.set_read_timeout(Some(EVERY))?;
            let mut buffer = [0; 64];
            while !stopped.load(Ordering::Relaxed) {
                if let Some((n, client)) = heard(server.recv_from(&mut buffer))? {
                    server.send_to(buffer.get(..n).unwrap_or(&[]), client)?;
                }
            }
            Ok(())
        });
        let (stopped, times) = (Arc::clone(&stop), Arc::clone(&came));
        let asked = from.start(move || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(EVERY))?;
            let mut buffer = [0; 64];
            while !stopped.load(Ordering::Relaxed) {
                let next = Instant::now() + EVERY;
                // A way that is lost may be an error here.
                let _ = socket.send_to(&[1; 32], address);
                while Instant::now() < next {
                    if heard(socket.recv(&mut buffer))?.is_some() {
                        times.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                    }
                }
            }
            Ok(())
        });
        Ok(Self { stop, came, ends: [asked, echo] })
    }

    fn came(&self) -> Vec<Instant> {
        self.came.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until so many more have come back.
    pub fn wait_more(&self, count: usize) -> Result<()> {
        let before = self.came().len();
        wait::until("datagrams come back", PATIENCE, || {
            Ok((self.came().len() >= before + count).then_some(()))
        })
    }

    /// The longest time between two that came back, since a moment.
    pub fn longest_gap(&self, since: Instant) -> Duration {
        let came = self.came();
        let pairs = came.iter().zip(came.iter().skip(1)).filter(|(_, next)| **next >= since);
        pairs.map(|(one, next)| *next - *one).max().unwrap_or_default()
    }

    /// Ends it.
    pub fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.ends.into_iter().try_for_each(Started::finish)
    }
}

/// What came, if anything did in time. That nobody listens is told by an ICMP error.
fn heard<T>(received: std::io::Result<T>) -> Result<Option<T>> {
    match received {
        Ok(it) => Ok(Some(it)),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::WouldBlock
                    | ErrorKind::TimedOut
                    | ErrorKind::ConnectionRefused
                    | ErrorKind::HostUnreachable
                    | ErrorKind::NetworkUnreachable
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
