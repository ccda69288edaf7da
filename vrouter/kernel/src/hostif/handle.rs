//! The vRouter's side: asks the keeper, and starts another one if it dies.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::protocol::{Answer, Request, Taken, Which};

/// How long an answer may take. The kernel's lock of all network changes is held by others for a while at worst.
const ANSWER: Duration = Duration::from_secs(15);
/// Keepers in a row that die before they have resumed, until it is given up.
const TRIES: u32 = 3;

/// How keepers are started, and where they write what they know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Program and arguments that call [`keeper::run`](super::keeper::run).
    pub keeper: Vec<OsString>,
    /// Folder of the records; the same for all vRouters of the machine, and empty after a boot.
    pub records: PathBuf,
    /// This vRouter, for people: its control socket.
    pub owner: String,
}

/// What happens to a host interface without being asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The TAP is gone. Within a second either another one has to be made and [installed](HostInterface::install), or the
    /// devices be closed: the interface goes back to the kernel then.
    TapLost,
    /// The keeper died; there is a new one.
    KeeperReplaced,
    /// The keeper died and no other could be started: if the vRouter dies now, the interface stays away until the next
    /// one starts.
    Unkept,
}

/// Why a host interface could not be had.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The keeper could not be started.
    #[error("cannot start the keeper of interface {name}")]
    Start {
        /// The interface.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The keeper says why not.
    #[error("{0}")]
    Refused(String),
    /// The keeper does not answer.
    #[error("the keeper of interface {name} does not answer")]
    Silent {
        /// The interface.
        name: String,
    },
}

/// A network interface that was taken from the kernel, so that a DPDK device may serve it.
///
/// To be used in this order: [`take`](Self::take); make the DPDK devices, the one for the interface on
/// [`device`](Self::device) and the TAP; [`install`](Self::install). To give it back: [`release`](Self::release), close
/// the devices (DPDK puts a TAP down by its name, which must not be the interface's again by then),
/// [`Releasing::wait`]. Dropped without that, the keeper does the same as after the vRouter's death.
#[derive(Debug)]
pub struct HostInterface {
    which: Which,
    taken: Taken,
    link: Arc<Link>,
    answers: Mutex<Receiver<Answer>>,
}

/// A host interface whose devices are being closed.
#[derive(Debug)]
pub struct Releasing(HostInterface);

/// The connection to the keeper of the day.
#[derive(Debug)]
struct Link {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    keeper: UnixStream,
    /// Process of the keeper.
    pid: u32,
    phase: Phase,
}

/// What the death of a keeper means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The interface may be half taken.
    Taking,
    /// It is away.
    Away,
    /// It is going back.
    Ending,
    /// It is back.
    Back,
}

impl Link {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts back all interfaces that a vRouter and its keeper, both dead, have left away; returns their names. To be called
/// before anything is taken, and before capabilities are given up.
///
/// # Errors
/// [`HostError`].
pub fn repair(options: &Options) -> Result<Vec<String>, HostError> {
    let which = which("", options);
    let (mut child, keeper) = start(&which, options)?;
    let silent = || HostError::Silent { name: "any".to_owned() };
    let answer = send(&keeper, &Request::Repair(which)).and_then(|()| {
        keeper.set_read_timeout(Some(ANSWER))?;
        let mut line = String::new();
        BufReader::new(&keeper).read_line(&mut line)?;
        Ok(line)
    });
    // It ends with its answer, or with its socket.
    let _ = keeper.shutdown(Shutdown::Both);
    let _ = child.wait();
    match serde_json::from_str(&answer.map_err(|_| silent())?) {
        Ok(Answer::Restored(names)) => Ok(names),
        Ok(Answer::Failed(text)) => Err(HostError::Refused(text)),
        _ => Err(silent()),
    }
}

impl HostInterface {
    /// Starts a keeper and lets it take the interface `name` away: its name, addresses and routes are free then, the
    /// kernel does not hear what arrives on it, and it is called [`device`](Self::device).
    ///
    /// `events` is called by a thread of its own.
    ///
    /// # Errors
    /// [`HostError`]; the interface is as it was then.
    pub fn take(
        name: &str,
        options: &Options,
        events: impl Fn(Event) + Send + 'static,
    ) -> Result<Self, HostError> {
        let which = which(name, options);
        let (child, keeper) = start(&which, options)?;
        let cannot = |source| HostError::Start { name: name.to_owned(), source };
        let writer = keeper.try_clone().map_err(cannot)?;
        let state = State { keeper: writer, pid: child.id(), phase: Phase::Taking };
        let link = Arc::new(Link { state: Mutex::new(state) });
        let (sender, answers) = channel();
        let watch = Watch {
            which: which.clone(),
            options: options.clone(),
            link: Arc::clone(&link),
            answers: sender,
            events: Box::new(events),
        };
        thread::Builder::new()
            .name(format!("keeper {name}"))
            .spawn(move || watch.run(child, keeper))
            .map_err(cannot)?;
        let nothing = Taken { device: String::new(), mac: [0; 6], mtu: 0, addresses: Vec::new() };
        let mut this = Self { which, taken: nothing, link, answers: Mutex::new(answers) };
        match this.ask(&Request::Take(this.which.clone()))? {
            Answer::Taken(taken) => this.taken = taken,
            _ => return Err(this.silent()),
        }
        this.link.state().phase = Phase::Away;
        Ok(this)
    }

    /// The name it had, and has again when it is back.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.which.name
    }

    /// The name of the real interface meanwhile: for af_packet, af_xdp.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.taken.device
    }

    /// Its hardware address, which the TAP has to have, too.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.taken.mac
    }

    /// Bytes of an IP packet.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.taken.mtu
    }

    /// Its addresses when it was taken, for people.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.taken.addresses
    }

    /// Process of the keeper, for people.
    #[must_use]
    pub fn keeper(&self) -> u32 {
        self.link.state().pid
    }

    /// Gives the TAP of the name `tap` what the interface had, or an earlier TAP that is gone. Returns what it would not take, in words: a route by
    /// way of something that is gone, a setting that a TAP has not.
    ///
    /// # Errors
    /// [`HostError`]; release it then.
    pub fn install(&self, tap: &str) -> Result<Vec<String>, HostError> {
        match self.ask(&Request::Install(tap.to_owned()))? {
            Answer::Installed(missing) => Ok(missing),
            _ => Err(self.silent()),
        }
    }

    /// Lets the keeper read a last time what the TAP has. Next the devices have to be closed.
    ///
    /// # Errors
    /// [`HostError`]; the keeper puts the interface back then as after the vRouter's death.
    pub fn release(self) -> Result<Releasing, HostError> {
        if self.is_back() {
            return Ok(Releasing(self));
        }
        self.link.state().phase = Phase::Ending;
        match self.ask(&Request::Release) {
            Ok(Answer::Released) => Ok(Releasing(self)),
            // Its TAP went just now, and the keeper was faster.
            _ if self.is_back() => Ok(Releasing(self)),
            Err(error) => Err(error),
            Ok(_) => Err(self.silent()),
        }
    }

    /// Whether it is the kernel's again, though nobody here asked for that.
    #[must_use]
    pub fn is_back(&self) -> bool {
        self.link.state().phase == Phase::Back
    }

    /// Sends a request and waits for its answer.
    fn ask(&self, request: &Request) -> Result<Answer, HostError> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        // What came too late for an earlier one.
        while answers.try_recv().is_ok() {}
        let sent = send(&self.link.state().keeper, request);
        match sent.map_or(Err(RecvTimeoutError::Disconnected), |()| answers.recv_timeout(ANSWER)) {
            Ok(Answer::Failed(text)) => Err(HostError::Refused(text)),
            Ok(answer) => Ok(answer),
            Err(_) => Err(self.silent()),
        }
    }

    fn silent(&self) -> HostError {
        HostError::Silent { name: self.which.name.clone() }
    }
}

impl Drop for HostInterface {
    fn drop(&mut self) {
        let mut state = self.link.state();
        if state.phase != Phase::Back {
            state.phase = Phase::Ending;
        }
        // The keeper takes it for the vRouter's end.
        let _ = state.keeper.shutdown(Shutdown::Both);
    }
}

impl Releasing {
    /// Says that the devices are closed, and waits until the interface is the kernel's again.
    ///
    /// # Errors
    /// [`HostError`]; the keeper goes on all the same.
    pub fn wait(self) -> Result<(), HostError> {
        if self.0.is_back() {
            return Ok(());
        }
        match self.0.ask(&Request::Closed) {
            Ok(Answer::Restored(_)) => Ok(()),
            _ if self.0.is_back() => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(self.0.silent()),
        }
    }
}

/// What the thread that listens to keepers has.
struct Watch {
    which: Which,
    options: Options,
    link: Arc<Link>,
    answers: Sender<Answer>,
    events: Box<dyn Fn(Event) + Send>,
}

impl Watch {
    /// Listens to one keeper after the other, until one ends that was meant to.
    fn run(self, mut child: Child, mut keeper: UnixStream) {
        loop {
            self.listen(&keeper);
            let _ = child.wait();
            let phase = self.link.state().phase;
            match phase {
                Phase::Ending | Phase::Back => return,
                Phase::Taking => {
                    // It died half-way, or was refused and is let go: whatever it did is undone by the next one.
                    let _ = repair(&self.options);
                    let text = format!("the keeper of interface {} died", self.which.name);
                    let _ = self.answers.send(Answer::Failed(text));
                    return;
                }
                Phase::Away => {}
            }
            tracing::warn!(interface = self.which.name, "its keeper died; another one is started");
            let Some(next) = (0..TRIES).find_map(|_| self.resume()) else {
                tracing::error!(interface = self.which.name, "no keeper can be started");
                (self.events)(Event::Unkept);
                return;
            };
            (child, keeper) = next;
            (self.events)(Event::KeeperReplaced);
        }
    }

    /// Passes on what the keeper says, until it says no more.
    fn listen(&self, keeper: &UnixStream) {
        let lines = BufReader::new(keeper).lines();
        for line in lines.map_while(Result::ok) {
            match serde_json::from_str(&line) {
                Ok(Answer::TapLost) => (self.events)(Event::TapLost),
                Ok(answer) => {
                    if matches!(answer, Answer::Restored(_)) {
                        // Asked for or not, the keeper has done its work and ends.
                        self.link.state().phase = Phase::Back;
                    }
                    let _ = self.answers.send(answer);
                }
                Err(error) => tracing::warn!(%error, line, "not understood from the keeper"),
            }
        }
    }

    fn resume(&self) -> Option<(Child, UnixStream)> {
        let (mut child, keeper) = start(&self.which, &self.options)
            .inspect_err(|error| tracing::warn!(%error, "no new keeper"))
            .ok()?;
        let resumed = || {
            send(&keeper, &Request::Resume(self.which.clone()))?;
            keeper.set_read_timeout(Some(ANSWER))?;
            // Byte by byte: what follows the line belongs to whoever listens next.
            let mut line = Vec::new();
            let mut byte = [0];
            while byte != [b'\n'] && io::Read::read(&mut &keeper, &mut byte)? == 1 {
                line.extend_from_slice(&byte);
            }
            keeper.set_read_timeout(None)?;
            match serde_json::from_slice(&line) {
                Ok(Answer::Taken(_)) => keeper.try_clone(),
                Ok(Answer::Failed(text)) => Err(io::Error::other(text)),
                _ => Err(io::Error::other("no answer")),
            }
        };
        match resumed() {
            Ok(writer) => {
                let mut state = self.link.state();
                if state.phase != Phase::Away {
                    // Dropped meanwhile: this keeper has to learn it, too.
                    let _ = writer.shutdown(Shutdown::Both);
                }
                (state.keeper, state.pid) = (writer, child.id());
                drop(state);
                Some((child, keeper))
            }
            Err(error) => {
                tracing::warn!(%error, "the new keeper cannot go on");
                let _ = keeper.shutdown(Shutdown::Both);
                let _ = child.wait();
                None
            }
        }
    }
}

fn which(name: &str, options: &Options) -> Which {
    Which {
        name: name.to_owned(),
        records: options.records.clone(),
        owner: options.owner.clone(),
        pid: std::process::id(),
    }
}

fn start(which: &Which, options: &Options) -> Result<(Child, UnixStream), HostError> {
    let started = || {
        let (ours, theirs) = UnixStream::pair()?;
        let (program, arguments) = options
            .keeper
            .split_first()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no program is named"))?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()?;
        Ok((child, ours))
    };
    started().map_err(|source| HostError::Start { name: which.name.clone(), source })
}

fn send(mut keeper: &UnixStream, request: &Request) -> io::Result<()> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    keeper.write_all(&line)
}
