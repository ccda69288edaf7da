//! What the kernel of a namespace gets from a wire, frame by frame.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::Result;
use integration::wait;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};

use crate::space::Space;

const PATIENCE: Duration = Duration::from_secs(30);
/// The kernel's queue: everything on all interfaces of the namespace is in it until it is looked at.
const QUEUE_BYTES: usize = 4 << 20;
const LONGEST: usize = 65_536 + 14;

/// A socket that gets every frame of every interface of a namespace from when it was made.
pub struct Capture(OwnedFd);

impl Capture {
    /// Begins.
    pub fn start(space: &Space) -> Result<Self> {
        space.inside(|| {
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )?;
            setsockopt(&socket, sockopt::RcvBufForce, &QUEUE_BYTES)?;
            Ok(Self(socket))
        })
    }

    /// Waits for `count` frames that `pick` makes something of.
    pub fn wait<T>(
        &self,
        what: &str,
        count: usize,
        pick: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>> {
        let mut picked = Vec::new();
        let mut frame = vec![0; LONGEST];
        let done = wait::until(what, PATIENCE, || {
            loop {
                match recv(self.0.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
                    Ok(bytes) => picked.extend(pick(frame.get(..bytes).unwrap_or(&[]))),
                    Err(Errno::EAGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            Ok((picked.len() >= count).then_some(()))
        });
        let seen = picked.len();
        done.map_err(|error| error.context(format!("{seen} of {count} frames")))?;
        Ok(picked)
    }
}
