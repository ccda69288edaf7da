//! One connection: reads the pod's messages, lets [`super::policy`] judge them, and relays.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{ControlMessage, MsgFlags, recvmsg, sendmsg};

use super::descriptor::{kind, received};
use super::message::{HEADER_BYTES, Header, MAX_DESCRIPTORS, MAX_PAYLOAD};
use super::policy::{Decision, Policy, Violation};

/// How long the pod may take for the rest of a message it has begun, or to read an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error("the pod closed the connection")]
    PodLeft,
    #[error("the handshake was refused")]
    DaemonLeft,
    #[error("refused: {0}")]
    Violation(#[from] Violation),
    #[error("refused: a message of {0} bytes, at most {MAX_PAYLOAD} are allowed")]
    Oversize(u32),
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

/// A queue's interrupt: the worker signals `ours`, this side passes it on.
///
/// An eventfd of the pod can be made to block its writer, whatever flags we set, as the pod owns the flags too. So
/// it is written here, where only this pod waits.
struct Call {
    ours: EventFd,
    theirs: OwnedFd,
}

/// Both ends of one connection.
pub(crate) struct Relay {
    pod: UnixStream,
    daemon: UnixStream,
    policy: Policy,
    calls: Vec<Option<Call>>,
    start: Instant,
}

impl Relay {
    pub(crate) fn new(pod: UnixStream, daemon: UnixStream, queues: usize) -> io::Result<Self> {
        pod.set_read_timeout(Some(PATIENCE))?;
        pod.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            pod,
            daemon,
            policy: Policy::new(queues, Duration::ZERO),
            calls: (0..queues).map(|_| None).collect(),
            start: Instant::now(),
        })
    }

    pub(crate) fn pod(&self) -> BorrowedFd<'_> {
        self.pod.as_fd()
    }

    pub(crate) fn daemon(&self) -> BorrowedFd<'_> {
        self.daemon.as_fd()
    }

    /// The interrupts to watch, with their queue.
    pub(crate) fn calls(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        self.calls.iter().enumerate().filter_map(|(i, c)| Some((i, c.as_ref()?.ours.as_fd())))
    }

    /// Reads and handles one message of the pod.
    pub(crate) fn serve_pod(&mut self) -> Result<(), End> {
        let mut descriptors = Vec::new();
        let mut head = [0; HEADER_BYTES];
        if !receive(&self.pod, &mut head, &mut descriptors)? {
            return Err(End::PodLeft);
        }
        let header = Header::parse(head);
        let size = usize::try_from(header.size)
            .ok()
            .filter(|&n| n <= MAX_PAYLOAD)
            .ok_or(End::Oversize(header.size))?;
        let mut payload = vec![0; size];
        if size > 0 && !receive(&self.pod, &mut payload, &mut descriptors)? {
            return Err(End::PodLeft);
        }
        let kinds: Vec<_> = descriptors.iter().map(|d| kind(d.as_fd())).collect();
        let decision = self.policy.judge(self.start.elapsed(), header, &payload, &kinds)?;
        tracing::trace!(code = header.code, size, descriptors = kinds.len(), ?decision, "message");
        match decision {
            Decision::Forward => self.relay(header, &payload, &descriptors),
            Decision::ThenEnable { queues } => {
                self.relay(header, &payload, &descriptors)?;
                queues.into_iter().try_for_each(|queue| {
                    let payload = [queue.to_le_bytes(), 1u32.to_le_bytes()].concat();
                    self.relay(Header::enable(), &payload, &[])
                })
            }
            Decision::WithoutDescriptors => self.relay(header, &payload, &[]),
            Decision::Reordered { payload, order } => {
                let mut slots: Vec<_> = descriptors.into_iter().map(Some).collect();
                let sorted: Vec<_> =
                    order.iter().filter_map(|&i| slots.get_mut(i)?.take()).collect();
                self.relay(header, &payload, &sorted)
            }
            Decision::ReplaceCall { queue } => {
                let ours = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                    .map_err(io::Error::from)?;
                let given = ours.as_fd().try_clone_to_owned()?;
                if let (Some(slot), Some(theirs)) =
                    (self.calls.get_mut(queue), descriptors.into_iter().next())
                {
                    *slot = Some(Call { ours, theirs });
                }
                self.relay(header, &payload, &[given])
            }
            Decision::Acknowledge if header.needs_reply() => {
                Ok(self.pod.write_all(&header.reply(&[0; 8]))?)
            }
            Decision::Acknowledge => Ok(()),
            Decision::Answer(answer) => Ok(self.pod.write_all(&header.reply(&answer))?),
        }
    }

    fn relay(&self, header: Header, payload: &[u8], fds: &[OwnedFd]) -> Result<(), End> {
        let bytes = [&header.bytes()[..], payload].concat();
        let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
        let sent = sendmsg::<()>(
            self.daemon.as_raw_fd(),
            &[io::IoSlice::new(&bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        )
        .map_err(|_| End::DaemonLeft)?;
        let rest = bytes.get(sent..).unwrap_or(&[]);
        (&self.daemon).write_all(rest).map_err(|_| End::DaemonLeft)
    }

    /// Passes on what the daemon has answered. Its answers carry no descriptors.
    pub(crate) fn serve_daemon(&mut self) -> Result<(), End> {
        let mut buffer = [0; MAX_PAYLOAD];
        let n = self.daemon.read(&mut buffer)?;
        if n == 0 {
            return Err(End::DaemonLeft);
        }
        Ok(self.pod.write_all(buffer.get(..n).unwrap_or(&[]))?)
    }

    /// Passes on an interrupt.
    pub(crate) fn interrupt(&self, queue: usize) {
        let Some(Some(call)) = self.calls.get(queue) else { return };
        let _ = call.ours.read();
        // A full counter means that an interrupt is pending anyway, so it need not be waited for.
        if fcntl(&call.theirs, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).is_ok() {
            let _ = nix::unistd::write(&call.theirs, &1u64.to_ne_bytes());
        }
    }
}

/// Fills `buffer`, collecting descriptors. `false`: the peer had closed before the first byte.
fn receive(
    from: &UnixStream,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> Result<bool, End> {
    let mut done = 0;
    while done < buffer.len() {
        let mut space = cmsg_space!([i32; MAX_DESCRIPTORS]);
        let rest = buffer.get_mut(done..).unwrap_or(&mut []);
        let mut parts = [io::IoSliceMut::new(rest)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Ok(message) => (message.bytes, message.flags),
            Err(nix::errno::Errno::EINTR) => continue,
            Err(nix::errno::Errno::EAGAIN) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the rest of a message did not come",
                )
                .into());
            }
            Err(e) => return Err(io::Error::from(e).into()),
        };
        let (bytes, flags) = message;
        // Also of a message that is refused below: a descriptor that nobody owns is never closed, and a pod could
        // use up all there are.
        for fd in received(&space) {
            // SAFETY: the kernel has just installed this descriptor for us; nobody else owns it.
            descriptors.push(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        if flags.contains(MsgFlags::MSG_CTRUNC) || descriptors.len() > MAX_DESCRIPTORS {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too many descriptors").into());
        }
        match bytes {
            0 if done == 0 => return Ok(false),
            0 => return Err(End::PodLeft),
            n => done += n,
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
