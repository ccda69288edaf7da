//! The keeper: a process of its own that knows what an interface had, and puts it back when the vRouter is gone.
//!
//! It has one thread, one capability, and no file open but its socket to the vRouter, two or three of netlink, and the
//! lock of the interface's record. It waits for the vRouter to ask, for the socket to end (the vRouter is dead), and for
//! the kernel to say that the TAP changed or is gone.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::kernel::{Depth, Kernel};
use super::netlink::{Changes, Frame, NetlinkError};
use super::protocol::{Answer, Request, Which};
use super::record::{ClaimError, Lock, Place, Record};
use super::settling::Settling;
use super::wire::{Attribute, Message, attribute, kind};
use super::{put_back, take};

/// How long a TAP may outlive its vRouter, or its removal the vRouter's devices. It leaves a second for the rest.
const GRACE: Duration = Duration::from_secs(1);

/// The keeper cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// Standard input is not the socket of a vRouter.
    #[error("the keeper is started by the vRouter, not by hand")]
    ByHand(#[source] io::Error),
    /// The process could not be set apart.
    #[error("cannot set the keeper apart: {what}")]
    Apart {
        /// What failed.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel cannot be talked to.
    #[error("cannot talk to the kernel")]
    Netlink(#[from] NetlinkError),
    /// The socket failed.
    #[error("cannot wait for the vRouter")]
    Wait(#[source] io::Error),
}

/// Runs the keeper in this process until its interface is back.
///
/// # Errors
/// [`KeeperError`]; nothing has been taken then.
pub fn run() -> Result<(), KeeperError> {
    let control = apart::control()?;
    apart::leave_the_vrouter()?;
    let mut keeper = Keeper {
        kernel: Kernel::open()?,
        changes: Changes::subscribe()?,
        control: Some(control),
        pending: Vec::new(),
        kept: None,
        done: false,
    };
    while !keeper.done {
        keeper.round()?;
    }
    Ok(())
}

/// An interface that is kept.
struct Kept {
    place: Place,
    _lock: Lock,
    record: Record,
    /// What the TAP has may have changed.
    settling: Settling,
    /// What the TAP has is not looked at any more: the vRouter is about to close it.
    frozen: bool,
    /// The TAP went; the interface goes back then at the latest.
    back_at: Option<Instant>,
}

struct Keeper {
    kernel: Kernel,
    changes: Changes,
    /// `None` once the vRouter is gone.
    control: Option<UnixStream>,
    /// Bytes of a request that has not come whole.
    pending: Vec<u8>,
    kept: Option<Kept>,
    done: bool,
}

impl Keeper {
    /// Waits for what comes next, and does what follows from it.
    fn round(&mut self) -> Result<(), KeeperError> {
        let now = Instant::now();
        let due = self.kept.as_ref().and_then(|it| it.back_at.or_else(|| it.settling.due()));
        // A millisecond more: never too early, which would be a busy wait.
        let wait = due.map(|due| due.saturating_duration_since(now) + Duration::from_millis(1));
        let wait = wait.map_or(PollTimeout::NONE, |wait| {
            PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = vec![PollFd::new(self.changes.as_fd(), PollFlags::POLLIN)];
        if let Some(control) = &self.control {
            fds.push(PollFd::new(control.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, wait) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(KeeperError::Wait(errno.into())),
        }
        let ready = |fd: Option<&PollFd>| fd.is_some_and(|fd| fd.any().unwrap_or(false));
        let (changed, asked) = (ready(fds.first()), ready(fds.get(1)));
        if changed {
            self.hear();
        }
        if asked {
            self.listen();
        }
        self.follow_up();
        Ok(())
    }

    /// Reads what the kernel says has changed.
    fn hear(&mut self) {
        let Some(kept) = &mut self.kept else {
            // Nothing to watch yet; only the queue has to be emptied.
            let _ = self.changes.read();
            return;
        };
        let Some(tap) = kept.record.tap else {
            let _ = self.changes.read();
            return;
        };
        match self.changes.read() {
            Ok(Some(frames)) => {
                if frames.iter().any(|frame| is_end_of(frame, tap)) {
                    kept.back_at.get_or_insert(Instant::now() + GRACE);
                    self.tell_if_lost();
                } else if !kept.frozen && frames.iter().any(|frame| concerns(frame, tap)) {
                    kept.settling.changed(Instant::now());
                }
            }
            // Something was left out, and that may have been the end.
            Ok(None) if kept.frozen => {}
            Ok(None) => kept.settling.changed(Instant::now()),
            Err(error) => tracing::warn!(%error, "the kernel's changes are not heard"),
        }
    }

    fn tell_if_lost(&mut self) {
        let kept = self.kept.as_ref().filter(|kept| !kept.frozen);
        if let Some(kept) = kept {
            tracing::warn!(interface = kept.record.claim.name(), "its TAP is gone");
            self.answer(&Answer::TapLost);
        }
    }

    /// Reads what the vRouter asks.
    fn listen(&mut self) {
        let Some(control) = &mut self.control else { return };
        let mut bytes = [0; 4096];
        match control.read(&mut bytes) {
            Ok(0) => self.control = None,
            Ok(length) => self.pending.extend_from_slice(bytes.get(..length).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.control = None,
        }
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            let answer = match serde_json::from_slice(&line) {
                Ok(request) => self.serve(request),
                Err(error) => Some(Answer::Failed(format!("not understood: {error}"))),
            };
            if let Some(answer) = answer {
                self.answer(&answer);
            }
        }
    }

    fn answer(&mut self, answer: &Answer) {
        let Ok(mut line) = serde_json::to_vec(answer) else { return };
        line.push(b'\n');
        // Who does not listen any more is found dead by the next read.
        if let Some(control) = &mut self.control {
            let _ = control.write_all(&line);
        }
    }

    fn serve(&mut self, request: Request) -> Option<Answer> {
        let failed = |error: String| Some(Answer::Failed(error));
        match request {
            Request::Take(which) => match self.take(&which, take::take) {
                Ok(answer) => Some(answer),
                Err(error) => failed(error),
            },
            Request::Resume(which) => match self.take(&which, take::resume) {
                Ok(answer) => Some(answer),
                Err(error) => failed(error),
            },
            Request::Repair(which) => {
                let done = put_back::leftovers(&mut self.kernel, &which);
                self.done = true;
                Some(Answer::Restored(done))
            }
            Request::Install(tap) => match self.install(&tap) {
                Ok(missing) => Some(Answer::Installed(missing)),
                Err(error) => failed(error),
            },
            Request::Release => {
                self.refresh(Depth::All);
                if let Some(kept) = &mut self.kept {
                    kept.frozen = true;
                    kept.settling = Settling::default();
                }
                Some(Answer::Released)
            }
            Request::Closed => {
                self.end();
                None
            }
        }
    }

    fn take(
        &mut self,
        which: &Which,
        how: fn(&mut Kernel, &Place, &Which) -> Result<Record, String>,
    ) -> Result<Answer, String> {
        if let Some(kept) = &self.kept {
            return Err(format!("this keeper has {} already", kept.record.claim.name()));
        }
        let claimed = || {
            let place = Place::new(&which.records, &which.name)?;
            let lock = place.lock()?;
            Ok::<_, ClaimError>((place, lock))
        };
        let (place, lock) = claimed().map_err(|error| chain(&error))?;
        let record = how(&mut self.kernel, &place, which)?;
        let answer = Answer::Taken(take::describe(&record));
        let settling = Settling::default();
        let tap = record.tap;
        let mut kept = Kept { place, _lock: lock, record, settling, frozen: false, back_at: None };
        // After a change of keepers nobody has watched for a while.
        if tap.is_some() {
            kept.settling.changed(Instant::now());
        }
        self.kept = Some(kept);
        Ok(answer)
    }

    fn install(&mut self, tap: &str) -> Result<Vec<String>, String> {
        let kept = self.kept.as_mut().ok_or("nothing was taken")?;
        let (index, missing) = take::install(&mut self.kernel, &kept.record, tap)?;
        kept.record.tap = Some(index);
        // One that was made in place of one that went.
        kept.back_at = None;
        kept.place.write(&kept.record).map_err(|error| chain(&error))?;
        kept.settling.changed(Instant::now());
        Ok(missing)
    }

    /// Looks at what the TAP has now.
    fn refresh(&mut self, depth: Depth) {
        let Some(kept) = self.kept.as_mut() else { return };
        kept.settling.looked();
        let (Some(tap), false) = (kept.record.tap, kept.frozen) else { return };
        let read = self.kernel.link_by_index(tap).and_then(|link| match link {
            Some(link) => self.kernel.read(&link, depth).map(|it| (true, it)),
            None => Ok((false, None)),
        });
        match read {
            Ok((_, Some(mut snapshot))) => {
                if depth == Depth::Own {
                    snapshot.keep_routes_of_others(&kept.record.latest);
                }
                // A device that goes is first put down, and loses what it had. Only who stays down was meant to be.
                if kept.record.latest.up
                    && !snapshot.up
                    && depth == Depth::Own
                    && !kept.settling.is_down_for_good(Instant::now())
                {
                    return;
                }
                if snapshot.up {
                    kept.settling.is_up();
                }
                if snapshot.addresses != kept.record.latest.addresses {
                    let addresses = snapshot.addresses_as_text();
                    tracing::debug!(interface = snapshot.name, ?addresses, "seen");
                }
                kept.record.latest = snapshot;
                if let Err(error) = kept.place.write(&kept.record) {
                    tracing::warn!(error = chain(&error), "what the TAP has is not on record");
                }
            }
            // It is changing right now: what it is then will be heard.
            Ok((true, None)) => kept.settling.changed(Instant::now()),
            Ok((false, None)) => {
                kept.back_at.get_or_insert(Instant::now() + GRACE);
                self.tell_if_lost();
            }
            Err(error) => {
                kept.settling = Settling::default();
                tracing::warn!(%error, "cannot look at the TAP");
            }
        }
    }

    fn follow_up(&mut self) {
        if self.control.is_none() {
            if self.kept.is_some() {
                tracing::warn!("the vRouter is gone");
            }
            self.end();
            return;
        }
        let now = Instant::now();
        let Some(kept) = &self.kept else { return };
        if kept.back_at.is_some_and(|at| at <= now) {
            self.end();
        } else if kept.back_at.is_none() && kept.settling.due().is_some_and(|due| due <= now) {
            self.refresh(Depth::Own);
        }
    }

    /// Puts the interface back, and ends.
    fn end(&mut self) {
        self.done = true;
        let Some(kept) = self.kept.take() else {
            self.answer(&Answer::Restored(Vec::new()));
            return;
        };
        if let Some(tap) = kept.record.tap {
            self.wait_for_the_end_of(tap);
        }
        put_back::put_back(&mut self.kernel, &kept.record);
        kept.place.remove();
        self.answer(&Answer::Restored(vec![kept.record.claim.name().to_owned()]));
    }

    /// Waits until the kernel has taken the TAP away, which it does with the process that made it; helps it on after a
    /// while, if another process has the device, too.
    fn wait_for_the_end_of(&mut self, tap: u32) {
        let deadline = Instant::now() + GRACE;
        loop {
            match self.kernel.link_by_index(tap) {
                Ok(None) => return,
                Ok(Some(_)) => {}
                Err(error) => tracing::warn!(%error, "cannot look at the TAP"),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let mut fds = [PollFd::new(self.changes.as_fd(), PollFlags::POLLIN)];
            let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let _ = poll(&mut fds, wait);
            let _ = self.changes.read();
        }
        if let Err(error) = self.kernel.delete_link(tap) {
            tracing::warn!(%error, "cannot remove the TAP");
        }
    }
}

/// Whether the kernel says that the interface is gone.
fn is_end_of(frame: &Frame, index: u32) -> bool {
    let message = Message::parse(frame.kind, &frame.payload);
    // Bridges send such messages for their ports: family AF_BRIDGE.
    frame.kind == kind::DELLINK && message.is_some_and(|it| it.word(4) == index && it.family() == 0)
}

/// Whether a change may be one of the interface's. Routes and nexthops are not looked into: asking the kernel for those
/// of one interface is as cheap.
fn concerns(frame: &Frame, index: u32) -> bool {
    match Message::parse(frame.kind, &frame.payload) {
        Some(message) => match frame.kind {
            kind::NEWLINK..=kind::GETADDR | kind::NEWNEIGH..=kind::GETNEIGH => {
                message.word(4) == index
            }
            kind::NEWROUTE..=kind::GETROUTE => message
                .get(attribute::RTA_OIF)
                .and_then(Attribute::u32)
                .is_none_or(|it| it == index),
            _ => true,
        },
        None => false,
    }
}

/// An error with its sources, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// What makes a process of its own of a child of the vRouter.
mod apart {
    use std::collections::HashSet;
    use std::fs;

    use caps::{CapSet, Capability};
    use nix::sys::signal::SigSet;
    use nix::sys::stat::{SFlag, fstat};

    use super::{AsFd, KeeperError, OwnedFd, UnixStream, io};

    /// The socket to the vRouter: standard input.
    pub fn control() -> Result<UnixStream, KeeperError> {
        let stdin = io::stdin();
        let kind = fstat(stdin.as_fd()).map_err(|errno| KeeperError::ByHand(errno.into()))?;
        if SFlag::from_bits_truncate(kind.st_mode) & SFlag::S_IFMT != SFlag::S_IFSOCK {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "standard input is no socket");
            return Err(KeeperError::ByHand(error));
        }
        let fd: OwnedFd = stdin.as_fd().try_clone_to_owned().map_err(KeeperError::ByHand)?;
        Ok(UnixStream::from(fd))
    }

    /// A session of its own, no signal but the deadly one, nothing of the vRouter's held open, one capability, and none to come.
    pub fn leave_the_vrouter() -> Result<(), KeeperError> {
        let fault = |what| move |source: io::Error| KeeperError::Apart { what, source };
        // systemd ends what is left of a unit by SIGTERM, a terminal by SIGHUP and SIGINT: that is when the keeper has
        // to stay. It ends by itself.
        SigSet::all().thread_block().map_err(|e| fault("signals")(e.into()))?;
        // It leads a session already if whoever started it saw to that.
        let _ = nix::unistd::setsid();
        std::env::set_current_dir("/").map_err(fault("working directory"))?;
        close_the_vrouters_files().map_err(fault("open files"))?;
        // The vRouter may have no CAP_SETPCAP left to give: all that it ever had would stay in the bounding set, where root finds
        // it again by running a program.
        nix::sys::prctl::set_no_new_privs().map_err(|e| fault("new privileges")(e.into()))?;
        let net_admin = HashSet::from([Capability::CAP_NET_ADMIN]);
        let drop_others = || {
            if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
                for capability in caps::read(None, CapSet::Bounding)?.difference(&net_admin) {
                    caps::drop(None, CapSet::Bounding, *capability)?;
                }
            }
            caps::clear(None, CapSet::Ambient)?;
            caps::set(None, CapSet::Effective, &net_admin)?;
            caps::set(None, CapSet::Permitted, &net_admin)?;
            caps::set(None, CapSet::Inheritable, &HashSet::new())
        };
        drop_others().map_err(|error| {
            let text = format!("{error}; CAP_NET_ADMIN has to be kept for uplinks by kernel name");
            fault("capabilities")(io::Error::other(text))
        })
    }

    /// DPDK opens devices and memory without close-on-exec: a TAP that is open here would outlive the vRouter.
    fn close_the_vrouters_files() -> io::Result<()> {
        let open: Vec<i32> = fs::read_dir("/proc/self/fd")?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        // Ours are close-on-exec, so they are not of the vRouter's; the folder's own is closed already.
        for fd in open.into_iter().filter(|fd| *fd > 2) {
            let link = fs::read_link(format!("/proc/self/fd/{fd}"));
            if link.is_ok_and(|_| !is_ours(fd)) {
                let _ = nix::unistd::close(fd);
            }
        }
        Ok(())
    }

    /// Whether this process opened it: all that Rust opens is closed on exec.
    fn is_ours(fd: i32) -> bool {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
        flags.is_none_or(|flags| flags & nix::libc::O_CLOEXEC != 0)
    }
}
