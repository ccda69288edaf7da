//! The thread of one port.

use std::fs;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use vhost::vhost_user::Listener;
use vhost_user_backend::VhostUserDaemon;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use super::socket::Door;
use super::{Observer, PortConfig, PortEvent, Shared, State, Status, lock};
use crate::backend::PortBackend;
use crate::guard::peer;
use crate::guard::relay::{End, Relay};
use crate::queues::PortQueues;
use crate::session::Session;
use crate::vring::of_session;

/// How often a pod's socket is tried: soon at first, then once a second.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(1);

/// Names of the guard's private sockets.
static NEXT_PRIVATE: AtomicU64 = AtomicU64::new(0);

/// A connection that is served.
struct Live {
    relay: Relay,
    daemon: VhostUserDaemon<PortBackend>,
    session: Arc<Session>,
    pid: i32,
}

pub(super) struct Runner {
    config: PortConfig,
    door: Door,
    queues: Arc<PortQueues>,
    shared: Arc<Shared>,
    observer: Observer,
    live: Option<Live>,
    /// Why there is no connection, for people.
    reason: String,
    retry: Duration,
    next_try: Instant,
}

/// What woke the thread.
#[derive(Default)]
struct Ready {
    door: bool,
    pod: bool,
    daemon: bool,
    calls: Vec<usize>,
}

impl Runner {
    pub(super) fn new(
        config: PortConfig,
        door: Door,
        queues: Arc<PortQueues>,
        shared: Arc<Shared>,
        observer: Observer,
    ) -> Self {
        Self {
            config,
            door,
            queues,
            shared,
            observer,
            live: None,
            reason: String::new(),
            retry: FIRST_RETRY,
            next_try: Instant::now(),
        }
    }

    pub(super) fn run(mut self) {
        while !self.shared.stopping() {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::error!(port = self.config.id, %error, "the port's thread can't wait; port is dead");
                    break;
                }
            };
            self.serve(&ready);
            if self.shared.stopping() {
                break;
            }
            if ready.door || (self.live.is_none() && self.next_try <= Instant::now()) {
                self.admit();
            }
            self.publish();
        }
        self.hang_up(String::new());
    }

    /// Sleeps until there is something to do.
    fn wait(&self) -> io::Result<Ready> {
        let mut fds = vec![PollFd::new(self.shared.notice.as_fd(), PollFlags::POLLIN)];
        let listening = self.door.listening();
        fds.extend(listening.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let mut queues = Vec::new();
        if let Some(live) = &self.live {
            fds.push(PollFd::new(live.relay.pod(), PollFlags::POLLIN));
            fds.push(PollFd::new(live.relay.daemon(), PollFlags::POLLIN));
            for (queue, fd) in live.relay.calls() {
                queues.push(queue);
                fds.push(PollFd::new(fd, PollFlags::POLLIN));
            }
        }
        let timeout = match (&self.live, listening) {
            (None, None) => {
                let left = self.next_try.saturating_duration_since(Instant::now());
                // Rounded up, so that the moment has come when poll(2) returns.
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            }
            _ => PollTimeout::NONE,
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let mut set = fds.iter().map(|fd| fd.any().unwrap_or(false));
        if set.next() == Some(true) {
            let _ = self.shared.notice.read();
        }
        let door = listening.is_some() && set.next() == Some(true);
        let pod = set.next() == Some(true);
        let daemon = set.next() == Some(true);
        let calls =
            queues.into_iter().zip(set).filter_map(|(q, ready)| ready.then_some(q)).collect();
        Ok(Ready { door, pod, daemon, calls })
    }

    /// Does what the connection asks for.
    fn serve(&mut self, ready: &Ready) {
        let Some(live) = self.live.as_mut() else { return };
        for &queue in &ready.calls {
            live.relay.interrupt(queue);
        }
        // Answers first: they may belong to requests that came before the end of the connection.
        let answered = if ready.daemon { live.relay.serve_daemon() } else { Ok(()) };
        let asked = match answered {
            Ok(()) if ready.pod => live.relay.serve_pod(),
            other => other,
        };
        if let Err(end) = asked {
            self.hang_up(end.to_string());
        }
    }

    /// Takes a new connection if there is one and it is the pod's.
    fn admit(&mut self) {
        let stream = match self.door.knock() {
            Ok(Some(stream)) => stream,
            Ok(None) => return self.later(),
            Err(error) => {
                self.reason = format!("cannot connect: {error}");
                return self.later();
            }
        };
        let peers = lock(&self.shared.peers).clone();
        let pid = match peer::check(&stream, &peers) {
            Ok(pid) => pid,
            Err(error) => {
                let pid = match &error {
                    peer::PeerError::Unknown(_) => 0,
                    peer::PeerError::Gone { pid }
                    | peer::PeerError::Foreign { pid, .. }
                    | peer::PeerError::NotRoot { pid, .. } => *pid,
                };
                return self.refuse(pid, format!("peer refused: {error}"));
            }
        };
        if let Some(live) = &self.live {
            let why = format!("process {} of the pod is connected already", live.pid);
            return self.refuse(pid, why);
        }
        match self.begin(stream, pid) {
            Ok(live) => {
                *lock(&self.shared.session) = Some(Arc::clone(&live.session));
                self.live = Some(live);
                self.reason.clear();
                self.retry = FIRST_RETRY;
                tracing::info!(port = self.config.id, pid, "pod connected");
            }
            Err(error) => {
                self.reason = format!("cannot serve the connection: {error}");
                self.later();
            }
        }
    }

    fn refuse(&mut self, pid: i32, why: String) {
        tracing::warn!(port = self.config.id, pid, why, "connection refused");
        (self.observer)(PortEvent::Refused { pid, why: why.clone() });
        if self.live.is_none() {
            self.reason = why;
        }
        self.later();
    }

    fn later(&mut self) {
        self.next_try = Instant::now() + self.retry;
        self.retry = (self.retry * 2).min(LAST_RETRY);
    }

    /// A daemon of its own for each connection: the crate's can't be claimed twice.
    fn begin(&self, pod: UnixStream, pid: i32) -> io::Result<Live> {
        let shared = Arc::clone(&self.shared);
        let session =
            Arc::new(Session::new(Arc::clone(&self.queues), Box::new(move || shared.notify())));
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let backend = PortBackend::new(Arc::clone(&session));
        let mut daemon =
            of_session(&session, || VhostUserDaemon::new("vhost-user".to_owned(), backend, memory))
                .map_err(|e| io::Error::other(e.to_string()))?;

        // The daemon only takes a listener; its socket has a name for a moment, in a directory that is ours alone.
        let n = NEXT_PRIVATE.fetch_add(1, Ordering::Relaxed);
        let name = self.config.private_dir.join(format!("{n}.sock"));
        let _ = fs::remove_file(&name);
        let listener = UnixListener::bind(&name)?;
        let connected = UnixStream::connect(&name);
        fs::remove_file(&name)?;
        let ours = connected?;
        daemon.start(&mut Listener::from(listener)).map_err(|e| io::Error::other(e.to_string()))?;
        let relay = Relay::new(pod, ours, session.virtqueues())?;
        Ok(Live { relay, daemon, session, pid })
    }

    /// Ends the connection: the daemon first, then the queues, so that nothing starts them again.
    fn hang_up(&mut self, reason: String) {
        let Some(mut live) = self.live.take() else { return };
        live.daemon.request_shutdown();
        let reason = match live.daemon.wait() {
            Err(error) if reason == End::DaemonLeft.to_string() => {
                format!("{reason}: {error}")
            }
            _ => reason,
        };
        live.session.end();
        *lock(&self.shared.session) = None;
        tracing::info!(port = self.config.id, pid = live.pid, reason, "pod disconnected");
        self.reason = reason;
        self.retry = FIRST_RETRY;
        self.next_try = Instant::now();
    }

    /// Tells the observer if anything changed.
    fn publish(&self) {
        let status = match &self.live {
            None => Status { reason: self.reason.clone(), ..Status::default() },
            Some(live) => {
                let view = live.session.view();
                let up = view.running_pairs > 0;
                Status {
                    state: if up { State::Up } else { State::Connected },
                    reason: view.fault.unwrap_or_default(),
                    features: view.features,
                    queue_pairs: view.running_pairs,
                    memory_regions: view.regions,
                    memory_bytes: view.bytes,
                    peer_pid: live.pid,
                    numa_node: self.queues.node(),
                }
            }
        };
        let mut known = lock(&self.shared.status);
        if *known != status {
            known.clone_from(&status);
            drop(known);
            (self.observer)(PortEvent::Changed(status));
        }
    }
}
