//! A pod's port: its socket, who may use it, the connection there is, and what became of it.
//!
//! Each port has one thread. It listens (or connects, where the pod listens), keeps strangers out, relays the
//! connection through the guard, and tells an observer what changes.

mod run;
mod socket;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::queues::PortQueues;
use crate::session::Session;
use crate::wake::{Token, Wake};
pub use socket::{MAX_SOCKET_PATH, SocketError};

/// How long closing a port waits for its thread before it takes the queues away itself.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// Who creates and listens on the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketOwner {
    /// We listen; the pod connects.
    Vrouter,
    /// The pod listens; we connect and keep trying.
    Pod,
}

/// Whose processes may be at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peers {
    /// Those in one of these cgroups, by their absolute paths, or below.
    Cgroups(Vec<String>),
    /// Those of root; for sockets in directories that pods don't see.
    Root,
}

/// How to open a port.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// For thread names and log lines.
    pub id: String,
    /// The socket; its directory exists.
    pub socket: PathBuf,
    /// Who listens on it.
    pub owner: SocketOwner,
    /// Who may connect.
    pub peers: Peers,
    /// A root-only directory for the guard's own sockets.
    pub private_dir: PathBuf,
    /// What the pod's kicks say of it to the worker they wake.
    pub token: Token,
}

/// Where a port stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nobody is connected.
    #[default]
    Waiting,
    /// Connected, no queue pair runs.
    Connected,
    /// At least one queue pair runs.
    Up,
}

/// What is known of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Where it stands.
    pub state: State,
    /// Why it is not up, one line; empty when there is nothing to say.
    pub reason: String,
    /// Virtio feature bits the pod accepted.
    pub features: u64,
    /// Queue pairs that run.
    pub queue_pairs: u32,
    /// Shared memory regions.
    pub memory_regions: usize,
    /// Their bytes.
    pub memory_bytes: u64,
    /// Process at the other end; 0 when nobody is connected.
    pub peer_pid: i32,
    /// NUMA node of the page with the used ring that was set up last; `None` while unknown.
    pub numa_node: Option<u32>,
}

/// What a port tells its observer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortEvent {
    /// It changed to this.
    Changed(Status),
    /// Somebody else's process was turned away.
    Refused {
        /// Its process id, 0 when unknown.
        pid: i32,
        /// One line.
        why: String,
    },
}

/// Called from the port's thread; must not block.
pub type Observer = Box<dyn Fn(PortEvent) + Send>;

/// What the port's thread and its owner share.
struct Shared {
    peers: Mutex<Peers>,
    status: Mutex<Status>,
    session: Mutex<Option<Arc<Session>>>,
    /// Wakes the port's thread: something changed.
    notice: EventFd,
    stopping: AtomicU32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each value is replaced whole, so it is right even after a panic elsewhere.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn notify(&self) {
        // Full only when a notice is pending, which is enough.
        let _ = self.notice.write(1);
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire) != 0
    }
}

/// A port that is open. Close it with [`Port::close`].
pub struct Port {
    queues: Arc<PortQueues>,
    shared: Arc<Shared>,
    ended: mpsc::Receiver<()>,
    id: String,
}

impl Port {
    /// Opens the port: from now on the pod can connect (or is connected to). `wake`: whom the kicks of a queue pair
    /// wake; [`PortQueues::set_wake`] changes it.
    ///
    /// # Errors
    /// [`SocketError`] when the socket can't be made or its directory can't be used.
    pub fn open(
        config: PortConfig,
        wake: impl Fn(usize) -> Arc<Wake>,
        observer: Observer,
    ) -> Result<Self, SocketError> {
        let failed = |source: io::Error| SocketError::Resources { source };
        let notice = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|e| failed(e.into()))?;
        let shared = Arc::new(Shared {
            peers: Mutex::new(config.peers.clone()),
            status: Mutex::default(),
            session: Mutex::new(None),
            notice,
            stopping: AtomicU32::new(0),
        });
        let queues = Arc::new(PortQueues::new(config.token, wake));
        let door = socket::Door::open(&config.socket, config.owner)?;
        let id = config.id.clone();
        let (done, ended) = mpsc::channel();
        let runner =
            run::Runner::new(config, door, Arc::clone(&queues), Arc::clone(&shared), observer);
        std::thread::Builder::new()
            .name("port".to_owned())
            .spawn(move || {
                runner.run();
                // Nobody listens when the owner has given up on us.
                let _ = done.send(());
            })
            .map_err(failed)?;
        Ok(Self { queues, shared, ended, id })
    }

    /// The queues, for a worker.
    pub fn queues(&self) -> &Arc<PortQueues> {
        &self.queues
    }

    /// Where it stands.
    pub fn status(&self) -> Status {
        let status = lock(&self.shared.status).clone();
        // A worker that gave up on a ring only marks it; the port's thread finds it at its next event.
        match self.queues.broken() {
            Some(reason) => Status { reason, ..status },
            None => status,
        }
    }

    /// Replaces who may connect. A connection that exists stays.
    pub fn set_cgroups(&self, cgroups: Vec<String>) {
        *lock(&self.shared.peers) = Peers::Cgroups(cgroups);
        self.shared.notify();
    }

    /// Ends the connection and removes the socket (if it is ours). When it returns, no thread touches the pod's
    /// memory any more.
    pub fn close(self) {
        self.shared.stopping.store(1, Ordering::Release);
        self.shared.notify();
        if self.ended.recv_timeout(CLOSE_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
            // The pod holds the guard in a system call on a descriptor of its own. Its thread ends with the pod;
            // its queues end now.
            tracing::warn!(
                port = self.id,
                "the pod blocks its port's thread; taking its queues away"
            );
            if let Some(session) = lock(&self.shared.session).take() {
                session.end();
            }
        }
    }
}
