//! Has the kernel dump its tables, listens to what changes, and hands on what that means for the networks.
//!
//! One socket does both, so that what it says of one object comes in the order in which it happened: it is subscribed
//! first, and what is said during a dump is taken in beside it. A dump goes into a mirror of its own, which then takes
//! the other one's place and says how it differs: forwarding goes on meanwhile with what was known, and learns of what is
//! said at once. The same is done again whenever the kernel had to drop a message, with a larger buffer.

mod socket;

use super::mirror::{Doubt, Mirror, NetworkName};
use super::wire::{self, Message};
use super::{BridgeSpec, BridgeUpdate, Change, NetworkSpec};
use nix::libc;
use socket::{Received, Socket};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

pub use socket::Error;

/// So many dumps in a row may be cut through by changes before one is taken as it is: all changes were heard, too.
const TRIES: u32 = 3;

/// So many datagrams are read before anything else has a turn.
const TURN: usize = 64;

/// What is dumped, in this order: each needs those before it to be understood at once.
const STEPS: [(&str, u16, u8); 8] = [
    ("links", wire::NEWLINK, wire::AF_UNSPEC),
    ("addresses", wire::NEWADDR, wire::AF_UNSPEC),
    ("rules", wire::NEWRULE, wire::AF_UNSPEC),
    ("neighbours", wire::NEWNEIGH, wire::AF_UNSPEC),
    ("forwarding databases", wire::NEWNEIGH, wire::AF_BRIDGE),
    ("nexthop objects", wire::NEWNEXTHOP, wire::AF_UNSPEC),
    ("IPv4 routes", wire::NEWROUTE, wire::AF_INET),
    ("IPv6 routes", wire::NEWROUTE, wire::AF_INET6),
];

/// Which of the kernel's tables to mirror.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Networks, as the changes will name them.
    pub networks: BTreeMap<NetworkName, NetworkSpec>,
    /// Bridged networks whose stations are in forwarding databases, as the changes will name them.
    pub bridges: BTreeMap<NetworkName, BridgeSpec>,
    /// Names of the uplinks' host interfaces.
    pub uplinks: Vec<String>,
}

impl Config {
    fn mirror(self) -> Mirror {
        Mirror::new(self.networks, self.uplinks).with_bridges(self.bridges)
    }
}

/// How to listen.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The socket's receive buffer to start with, in bytes. It doubles with each overrun.
    pub receive_buffer: usize,
    /// The largest that it may become.
    pub receive_buffer_max: usize,
    /// For how long changes are gathered after the first.
    pub gather: Duration,
    /// How long after the kernel has taken routes away silently the tables are dumped to make sure; at least nineteen times as
    /// long as the last dump took.
    pub check_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        // A notification takes up to 1 KiB of the buffer.
        Self {
            receive_buffer: 32 << 20,
            receive_buffer_max: 256 << 20,
            gather: Duration::from_millis(2),
            check_after: Duration::from_secs(2),
        }
    }
}

/// What has changed.
#[derive(Clone, Debug)]
pub struct Update {
    /// By network; prefixes ascend.
    pub changes: Vec<(NetworkName, Vec<Change>)>,
    /// By bridged network, a bounded number of stations each; more are said next.
    pub bridges: Vec<(NetworkName, BridgeUpdate)>,
    /// Whether it ends a dump. The first one is all there is, and is sent though it be empty.
    pub dumped: bool,
}

/// What has happened so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Dumps that were finished.
    pub dumps: AtomicU64,
    /// Times that the kernel had to drop messages.
    pub overruns: AtomicU64,
    /// Dumps that were begun anew because changes cut through them.
    pub interrupted: AtomicU64,
    /// Messages that could not be read.
    pub malformed: AtomicU64,
}

/// Reads the tables of the network namespace of the thread that makes it.
pub struct Reader {
    socket: Socket,
    limits: Limits,
    mirror: Mirror,
    dump: Option<Dump>,
    /// When to dump again.
    dump_at: Option<Instant>,
    dumped_once: bool,
    /// No dump to make sure before.
    rest_until: Instant,
    /// When to say what has changed.
    flush_at: Option<Instant>,
    finished_dump: bool,
    configs: mpsc::Receiver<Config>,
    sink: mpsc::Sender<Update>,
    counters: Arc<Counters>,
}

/// A dump under way.
struct Dump {
    into: Mirror,
    step: usize,
    sequence: u32,
    interrupted: bool,
    tries: u32,
    since: Instant,
}

impl Reader {
    /// Subscribes. Updates go to `sink`; while it is full, changes are gathered for longer. Each of `configs` takes the place of the one
    /// before; what that changes is said after a dump. Networks that are left out are the receiver's to forget.
    ///
    /// # Errors
    /// The socket can't be had.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(
        config: Config,
        limits: Limits,
        configs: mpsc::Receiver<Config>,
        sink: mpsc::Sender<Update>,
    ) -> Result<Self, Error> {
        let mut reader = Self {
            socket: Socket::open(limits.receive_buffer)?,
            limits,
            mirror: config.mirror(),
            dump: None,
            dump_at: None,
            dumped_once: false,
            rest_until: Instant::now(),
            flush_at: None,
            finished_dump: false,
            configs,
            sink,
            counters: Arc::default(),
        };
        reader.begin_dump(0)?;
        Ok(reader)
    }

    /// What has happened, to look at from elsewhere.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Reads until nobody takes updates any more.
    ///
    /// # Errors
    /// The socket fails, or the kernel refuses a dump.
    pub async fn run(mut self) -> Result<(), Error> {
        match self.forever().await {
            Ok(never) => match never {},
            Err(Stop::Unheard) => Ok(()),
            Err(Stop::Error(error)) => Err(error),
        }
    }

    async fn forever(&mut self) -> Result<Infallible, Stop> {
        let sink = self.sink.clone();
        loop {
            let now = Instant::now();
            if self.flush_at.is_none() && self.dumped_once {
                let due = self.finished_dump || self.mirror.is_dirty();
                self.flush_at = due.then(|| now + self.limits.gather);
            }
            let flush_due = self.flush_at.is_some_and(|at| at <= now);
            let later = now + Duration::from_secs(3600);
            let dump_at = self.dump_at.filter(|_| self.dump.is_none());
            tokio::select! {
                permit = sink.reserve(), if flush_due => {
                    let permit = permit.map_err(|_| Stop::Unheard)?;
                    let dumped = std::mem::take(&mut self.finished_dump);
                    let changes = self.mirror.flush();
                    let bridges = self.mirror.flush_bridges();
                    self.flush_at = None;
                    if dumped || !changes.is_empty() || !bridges.is_empty() {
                        permit.send(Update { changes, bridges, dumped });
                    }
                }
                received = self.socket.receive() => self.read(received?)?,
                config = self.configs.recv(), if !self.configs.is_closed() => {
                    if let Some(config) = config {
                        self.configure(config)?;
                    }
                }
                () = sleep_until(self.flush_at.unwrap_or(later)), if !flush_due => {}
                () = sleep_until(dump_at.unwrap_or(later)) => {
                    if dump_at.is_some() {
                        self.begin_dump(0)?;
                    }
                }
                () = sink.closed() => return Err(Stop::Unheard),
            }
        }
    }

    fn configure(&mut self, config: Config) -> Result<(), Error> {
        let mut mirror = config.mirror();
        mirror.continue_from(std::mem::replace(&mut self.mirror, Mirror::new([], [])));
        self.mirror = mirror;
        // It knows no route yet, and what is flushed now would take all away.
        self.dumped_once = false;
        self.flush_at = None;
        self.restart()
    }

    fn read(&mut self, first: Received) -> Result<(), Error> {
        let mut next = Some(first);
        let mut turns = TURN;
        while let Some(received) = next {
            match received {
                Received::Nothing => break,
                Received::Overrun => return self.overrun(),
                Received::Datagram(datagram) => {
                    self.datagram(&datagram)?;
                    self.socket.give_back(datagram);
                }
            }
            turns -= 1;
            next = if turns > 0 { Some(self.socket.try_receive()?) } else { None };
        }
        match self.mirror.take_doubt() {
            Doubt::None => {}
            Doubt::Check => {
                let at = (Instant::now() + self.limits.check_after).max(self.rest_until);
                self.dump_at.get_or_insert(at);
            }
            Doubt::Dump => self.dump_at = Some(Instant::now()),
        }
        Ok(())
    }

    fn overrun(&mut self) -> Result<(), Error> {
        self.counters.overruns.fetch_add(1, Ordering::Relaxed);
        let size = self.limits.receive_buffer;
        let size = (size * 2).min(self.limits.receive_buffer_max).max(size);
        self.limits.receive_buffer = size;
        warn!(
            receive_buffer = size,
            "the kernel had to drop messages: its tables are dumped again"
        );
        self.restart()
    }

    /// Dumps everything through a new socket: what is left in the old one is of the past then.
    fn restart(&mut self) -> Result<(), Error> {
        self.socket = Socket::open(self.limits.receive_buffer)?;
        self.begin_dump(0)
    }

    fn begin_dump(&mut self, tries: u32) -> Result<(), Error> {
        self.dump_at = None;
        let sequence = self.request(0)?;
        let into = self.mirror.anew();
        let since = Instant::now();
        self.dump = Some(Dump { into, step: 0, sequence, interrupted: false, tries, since });
        Ok(())
    }

    fn request(&mut self, step: usize) -> Result<u32, Error> {
        let Some((_, kind, family)) = STEPS.get(step) else { return Ok(0) };
        self.socket.request(|sequence| wire::dump_request(*kind, *family, sequence))
    }

    fn datagram(&mut self, datagram: &[u8]) -> Result<(), Error> {
        const ERROR: u16 = 2;
        const DONE: u16 = 3;
        let mut rest = datagram;
        while let Some(message) = wire::next_message(&mut rest) {
            let answer = self.dump.as_ref().is_some_and(|dump| {
                message.sequence == dump.sequence && self.socket.is_ours(message.port)
            });
            if answer
                && message.flags & wire::NLM_F_DUMP_INTR != 0
                && let Some(dump) = &mut self.dump
            {
                dump.interrupted = true;
            }
            match message.kind {
                ERROR | DONE if answer => self.step_ends(&message)?,
                ERROR | DONE => {}
                _ => self.take_in(&message, answer),
            }
        }
        Ok(())
    }

    fn take_in(&mut self, message: &Message<'_>, dumped: bool) {
        let event = match wire::event(message, dumped) {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                self.counters.malformed.fetch_add(1, Ordering::Relaxed);
                debug!(kind = message.kind, %error, "a message that can't be read");
                return;
            }
        };
        match &mut self.dump {
            Some(dump) if dumped => dump.into.apply(event),
            Some(dump) => {
                dump.into.apply(event.clone());
                self.mirror.apply(event);
            }
            None => self.mirror.apply(event),
        }
    }

    fn step_ends(&mut self, message: &Message<'_>) -> Result<(), Error> {
        let Some(mut dump) = self.dump.take() else { return Ok(()) };
        let what = STEPS.get(dump.step).map_or("", |(what, ..)| what);
        if let Some(error) = message.error() {
            match error.raw_os_error() {
                // What this kernel has not, nobody can have put into it.
                Some(libc::EOPNOTSUPP) => debug!(what, "this kernel has none"),
                // The buffer was full before the dump began.
                Some(libc::ENOBUFS) => return self.overrun(),
                _ => return Err(Error::Dump { what, source: error }),
            }
        }
        dump.step += 1;
        if dump.step < STEPS.len() {
            dump.sequence = self.request(dump.step)?;
            self.dump = Some(dump);
            return Ok(());
        }
        if dump.interrupted && dump.tries < TRIES {
            self.counters.interrupted.fetch_add(1, Ordering::Relaxed);
            return self.begin_dump(dump.tries + 1);
        }
        let now = Instant::now();
        let took = now - dump.since;
        self.rest_until = now + took * 19;
        if dump.interrupted {
            self.dump_at = Some((now + self.limits.check_after).max(self.rest_until));
        }
        let mut mirror = dump.into;
        mirror.take_doubt();
        mirror.continue_from(std::mem::replace(&mut self.mirror, Mirror::new([], [])));
        self.mirror = mirror;
        self.counters.dumps.fetch_add(1, Ordering::Relaxed);
        if !self.dumped_once {
            info!(ms = took.as_millis(), "the kernel's tables are mirrored");
        }
        (self.dumped_once, self.finished_dump, self.flush_at) = (true, true, Some(now));
        Ok(())
    }
}

/// Why reading ends.
enum Stop {
    /// Nobody takes updates any more.
    Unheard,
    Error(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}
