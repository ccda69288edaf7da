//! The run: wait for the links, warm up, measure, drain, report.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use vrouter_dpdk::{
    AllocError, CpuId, Eal, EalError, EthdevError, Pool, PoolConfig, PoolError, WrongPool, tsc,
};

use crate::args::Settings;
use crate::books::{Books, Counters};
use crate::pattern::Pattern;
use crate::port::{Port, PortError};
use crate::report::{self, Event, Latency, Limit, PortResults, Results, ratio};

/// The polling thread looks at the stop flag from here on.
pub static STARTED: AtomicBool = AtomicBool::new(false);

/// Longest wait for links to come up.
const LINK_SECONDS: u64 = 60;
const LINK_POLL: Duration = Duration::from_millis(10);

/// Pause after each change of the memory: each makes a switch stop and start every queue.
const CHURN_PAUSE: Duration = Duration::from_millis(20);

/// Bytes of a buffer in memory that is only there to be allocated.
const CHURN_BUFFER: u16 = 8 * 1024;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Signals could not be blocked.
    #[error("cannot block signals")]
    Signals(#[source] Errno),
    /// DPDK.
    #[error(transparent)]
    Eal(#[from] EalError),
    /// The CPU.
    #[error("--cpu {cpu}: cannot run there")]
    Pin {
        /// Which.
        cpu: CpuId,
        /// The kernel's reason.
        source: Errno,
    },
    /// A port.
    #[error("--port: port {port} did not start")]
    Port {
        /// Its number.
        port: usize,
        /// Why.
        source: PortError,
    },
    /// A link.
    #[error(
        "--port: port {port}: the link is not up after {LINK_SECONDS} s: is the switch at its socket?"
    )]
    NoLink {
        /// The port's number.
        port: usize,
    },
    /// A device.
    #[error(transparent)]
    Device(#[from] EthdevError),
    /// Asked to end before there was traffic.
    #[error("stopped by a signal before the measurement")]
    Stopped,
    /// Buffers.
    #[error("--memory-mb: sending ran out of buffers")]
    Buffers(#[from] AllocError),
    /// Memory.
    #[error("--churn-mb: cannot allocate it once more")]
    Churn(#[source] PoolError),
    /// Buffers of one port in another's queue.
    #[error(transparent)]
    WrongPool(#[from] WrongPool),
    /// Output.
    #[error("cannot write to stdout")]
    Output(#[from] io::Error),
}

/// How a run ended that has results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing damaged, nothing foreign.
    Clean,
    /// Something was.
    Damaged,
}

/// Runs it all and prints the events.
///
/// # Errors
/// See [`RunError`].
pub fn run(settings: &Settings, eal: &Eal, stop: &AtomicBool) -> Result<Outcome, RunError> {
    STARTED.store(true, Ordering::Relaxed);
    let pattern = Pattern::new(usize::from(settings.len));
    let mut ports = Vec::new();
    for (index, number) in (0..settings.ports.len()).zip(0_u8..) {
        let port = Port::start(eal, settings, &pattern, number, tsc())
            .map_err(|source| RunError::Port { port: index, source })?;
        ports.push(port);
    }
    wait_for_links(&ports, stop)?;

    let mut traffic = Traffic::new(settings, ports, pattern, eal.tsc_hz());
    report::print(&Event::Ready)?;
    if let Some(file) = &settings.go {
        wait_for_go(file, stop)?;
    }
    if settings.churn_mib == 0 {
        return send(settings, &mut traffic, stop, || None);
    }
    let (ended, changes) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let churning = scope.spawn(|| churn(eal, settings.churn_mib, &ended, &changes));
        let outcome = send(settings, &mut traffic, stop, || Some(changes.load(Ordering::Relaxed)));
        ended.store(true, Ordering::Relaxed);
        let churned = churning.join().unwrap_or(Ok(()));
        outcome.and_then(|outcome| churned.map(|()| outcome).map_err(RunError::Churn))
    })
}

/// Allocates and frees memory until `ended`, and counts how often it was done.
fn churn(eal: &Eal, mib: u32, ended: &AtomicBool, changes: &AtomicU64) -> Result<(), PoolError> {
    while !ended.load(Ordering::Relaxed) {
        let mbufs = mib * (1024 * 1024 / u32::from(CHURN_BUFFER));
        let name = "pktgen-churn".to_owned();
        let config = PoolConfig { name, mbufs, cache: 0, data_room: CHURN_BUFFER };
        drop(Pool::new(eal, &config)?);
        changes.fetch_add(1, Ordering::Relaxed);
        thread::sleep(CHURN_PAUSE);
    }
    Ok(())
}

/// The phases of a run. `changes` tells how often the memory has changed, if it does.
fn send(
    settings: &Settings,
    traffic: &mut Traffic,
    stop: &AtomicBool,
    changes: impl Fn() -> Option<u64>,
) -> Result<Outcome, RunError> {
    traffic.phase(settings.warmup, stop)?;
    traffic.drain()?;
    if stop.load(Ordering::Relaxed) {
        return Err(RunError::Stopped);
    }
    traffic.reset();
    report::print(&Event::Start)?;
    let ticks = traffic.phase(settings.seconds, stop)?;
    let measured = traffic.snapshot();
    traffic.drain()?;
    let results =
        Results { memory_changes: changes(), ..traffic.results(settings, &measured, ticks) };
    let damaged = results.ports.iter().any(|port| port.corrupt > 0 || port.foreign > 0);
    report::print(&Event::End(Box::new(results)))?;
    Ok(if damaged { Outcome::Damaged } else { Outcome::Clean })
}

fn wait_for_links(ports: &[Port], stop: &AtomicBool) -> Result<(), RunError> {
    let polls = Duration::from_secs(LINK_SECONDS).as_millis() / LINK_POLL.as_millis();
    let mut down = None;
    for _ in 0..polls {
        down = None;
        for (number, port) in ports.iter().enumerate() {
            if !port.device.link()?.up {
                down = Some(number);
            }
        }
        if down.is_none() {
            return Ok(());
        }
        if stop.load(Ordering::Relaxed) {
            return Err(RunError::Stopped);
        }
        thread::sleep(LINK_POLL);
    }
    down.map_or(Ok(()), |port| Err(RunError::NoLink { port }))
}

fn wait_for_go(file: &Path, stop: &AtomicBool) -> Result<(), RunError> {
    while !file.exists() {
        if stop.load(Ordering::Relaxed) {
            return Err(RunError::Stopped);
        }
        thread::sleep(LINK_POLL);
    }
    Ok(())
}

/// What the polling itself did since [`Traffic::reset`].
#[derive(Debug, Default, Clone, Copy)]
struct Effort {
    busy_ticks: u64,
    attempts: u64,
    refused: u64,
}

/// The ports and all that is counted.
struct Traffic {
    ports: Vec<Port>,
    /// Who receives what each port sends.
    peers: Vec<usize>,
    books: Books,
    effort: Effort,
    hz: u64,
    touch: bool,
    latency: bool,
    /// Longest wait for packets under way, seconds.
    patience: f64,
}

impl Traffic {
    fn new(settings: &Settings, ports: Vec<Port>, pattern: Pattern, hz: u64) -> Self {
        let books = Books::new(settings, pattern, hz);
        let peers = (0..).zip(&ports).map(|(number, _)| usize::from(settings.peer_of(number)));
        let peers = peers.collect();
        let (effort, touch, latency) = (Effort::default(), settings.touch, settings.latency);
        Self { ports, peers, books, effort, hz, touch, latency, patience: settings.drain }
    }

    /// Sends and receives for `seconds`, or until `stop`; returns the ticks it took.
    fn phase(&mut self, seconds: f64, stop: &AtomicBool) -> Result<u64, RunError> {
        let start = tsc();
        let end = start.saturating_add(self.ticks(seconds));
        for transmitter in self.ports.iter_mut().flat_map(|port| &mut port.tx) {
            transmitter.resume(start);
        }
        let mut now = start;
        while now < end && !stop.load(Ordering::Relaxed) {
            if self.books.presence().begin(now) && self.latency {
                // What should have gone meanwhile would come as a flood that nobody asked for.
                self.ports.iter_mut().for_each(|port| port.forgive(now));
            }
            let moved = self.round(now, true)?;
            let then = tsc();
            if moved {
                self.effort.busy_ticks += then - now;
            }
            now = then;
        }
        self.books.presence().pause();
        Ok(now - start)
    }

    /// Receives until all that was sent is here, or it took too long.
    fn drain(&mut self) -> Result<(), RunError> {
        let start = tsc();
        let longest = self.ticks(self.patience);
        while self.under_way() && tsc() - start < longest {
            let now = tsc();
            self.books.presence().begin(now);
            self.round(now, false)?;
        }
        self.books.presence().pause();
        Ok(())
    }

    /// Whether some port has not received what was sent to it.
    fn under_way(&self) -> bool {
        let counters = self.books.counters();
        counters
            .iter()
            .zip(&self.peers)
            .any(|(sender, &peer)| sender.sent > counters.get(peer).map_or(0, |peer| peer.received))
    }

    /// Polls each queue once; true if a packet was moved.
    #[inline]
    fn round(&mut self, now: u64, sending: bool) -> Result<bool, RunError> {
        let mut moved = 0;
        for (number, port) in (0_u8..).zip(&mut self.ports) {
            let (mut received, mut sent) = (0, 0);
            for receiver in &mut port.rx {
                let books = &mut self.books;
                received += u64::from(receiver.poll(|batch| books.look(number, batch))?);
            }
            if sending {
                let pattern = self.touch.then_some(self.books.pattern());
                for transmitter in &mut port.tx {
                    let attempt = transmitter.send(now, pattern)?;
                    sent += u64::from(attempt.sent);
                    self.effort.attempts += u64::from(attempt.wanted > 0);
                    self.effort.refused += u64::from(attempt.sent < attempt.wanted);
                }
            }
            moved += received + sent;
            self.books.moved(number, received, sent);
        }
        Ok(moved > 0)
    }

    /// Counts from zero again.
    fn reset(&mut self) {
        self.books.reset();
        self.effort = Effort::default();
    }

    fn snapshot(&self) -> Vec<Counters> {
        self.books.counters().to_vec()
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "seconds are checked to be 0 to 86400, and ticks of a day are far below 2^63"
    )]
    fn ticks(&self, seconds: f64) -> u64 {
        (seconds * self.hz as f64) as u64
    }

    /// `measured` are the counters when the measurement ended, `ticks` later than it began; the present ones count
    /// what came afterwards, too.
    fn results(&self, settings: &Settings, measured: &[Counters], ticks: u64) -> Results {
        let mut ports: Vec<_> = measured
            .iter()
            .zip(self.books.counters())
            .map(|(then, now)| PortResults {
                sent: then.sent,
                received: then.received,
                lost: 0,
                reordered: now.reordered,
                corrupt: now.corrupt,
                checked: now.checked,
                foreign: now.foreign,
            })
            .collect();
        for (sender, &peer) in measured.iter().zip(&self.peers) {
            let arrived = self.books.counters().get(peer).map_or(0, |peer| peer.received);
            if let Some(port) = ports.get_mut(peer)
                && sender.sent > 0
            {
                port.lost = sender.sent.saturating_sub(arrived);
                // More than was sent: somebody else's, or copies.
                port.foreign = port.foreign.max(arrived.saturating_sub(sender.sent));
            }
        }
        let sum = |of: fn(&PortResults) -> u64| ports.iter().map(of).sum::<u64>();
        let (sent, received, lost) =
            (sum(|port| port.sent), sum(|port| port.received), sum(|port| port.lost));
        let seconds = ratio(ticks, self.hz);
        let busy = ratio(self.effort.busy_ticks, ticks);
        let ring_full = ratio(self.effort.refused, self.effort.attempts);
        let (absences, away) = self.books.absences();
        Results {
            seconds,
            busy,
            absences,
            away: ratio(away, ticks),
            ring_full,
            limit: Limit::of(busy, ring_full),
            cycles_per_packet: ratio(self.effort.busy_ticks, sent + received),
            sent_per_second: if ticks > 0 { ratio(sent, 1) / seconds } else { 0.0 },
            received_per_second: if ticks > 0 { ratio(received, 1) / seconds } else { 0.0 },
            loss: ratio(lost, sent),
            memory_changes: None,
            latency_ns: if settings.latency {
                Latency::of(self.books.latency(), self.books.unseen(), self.hz)
            } else {
                None
            },
            ports,
        }
    }
}
