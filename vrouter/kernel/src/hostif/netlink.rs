//! A netlink socket that asks and waits for the answer.

use std::io;

use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;

use super::wire::{Message, parse_all};

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// Message types of `linux/netlink.h`.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Flags of a request.
pub const REQUEST: u16 = 0x01;
/// Asks for an acknowledgement.
pub const ACK: u16 = 0x04;
/// Asks for all there are.
const DUMP: u16 = 0x300;
/// What there is gives way.
pub const REPLACE: u16 = 0x100;
/// It has to be new.
pub const EXCLUSIVE: u16 = 0x200;
/// It is made if it is not there.
pub const CREATE: u16 = 0x400;
/// It is added behind those that are there.
pub const APPEND: u16 = 0x800;
/// A dump that was disturbed by a change.
const DUMP_INTR: u16 = 0x10;
/// Text of an error, in an extended acknowledgement.
const NLMSGERR_ATTR_MSG: u16 = 1;
/// An acknowledgement with the request's header only; one with attributes.
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
/// How often a disturbed dump is begun again before it is taken as it is.
const DUMPS: usize = 5;

/// What the kernel answered.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// It refused.
    #[error("{}{}", .errno.desc(), .text.as_deref().map(|it| format!(" ({it})")).unwrap_or_default())]
    Refused {
        /// Why.
        errno: Errno,
        /// Why, in the kernel's words.
        text: Option<String>,
    },
    /// The socket failed.
    #[error("netlink socket")]
    Socket(#[source] io::Error),
}

impl NetlinkError {
    /// Why the kernel refused.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Socket(_) => None,
        }
    }
}

/// One message as it came.
#[derive(Debug)]
pub struct Frame {
    /// Message type.
    pub kind: u16,
    /// Flags.
    pub flags: u16,
    sequence: u32,
    /// What follows the header.
    pub payload: Vec<u8>,
}

/// A socket of one netlink family.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// A socket for links, addresses and routes.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn route() -> Result<Self, NetlinkError> {
        Self::open(NETLINK_ROUTE)
    }

    /// A socket for the families that have no number of their own.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn generic() -> Result<Self, NetlinkError> {
        Self::open(NETLINK_GENERIC)
    }

    /// A socket for nftables.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn netfilter() -> Result<Self, NetlinkError> {
        Self::open(NETLINK_NETFILTER)
    }

    fn open(protocol: isize) -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_ext_ack(true)?;
            if protocol == NETLINK_ROUTE {
                // So that a dump of routes can be limited to one interface.
                socket.set_netlink_get_strict_chk(true)?;
            }
            io::Result::Ok(socket)
        };
        open().map(|socket| Self { socket, sequence: 0 }).map_err(NetlinkError::Socket)
    }

    /// Sends a request and waits until it is done.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn request(&mut self, message: &Message, flags: u16) -> Result<Vec<Frame>, NetlinkError> {
        self.ask(message.kind, flags | REQUEST | ACK, &message.emit())
    }

    /// Asks for all that match `message`.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn dump(&mut self, message: &Message) -> Result<Vec<Message>, NetlinkError> {
        let mut frames = Vec::new();
        for _ in 0..DUMPS {
            frames = self.ask(message.kind, REQUEST | DUMP, &message.emit())?;
            if frames.iter().all(|frame| frame.flags & DUMP_INTR == 0) {
                break;
            }
        }
        let messages = frames.iter().filter_map(|frame| Message::parse(frame.kind, &frame.payload));
        Ok(messages.collect())
    }

    /// Sends a request of any kind and returns what came before its end.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        payload: &[u8],
    ) -> Result<Vec<Frame>, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = frame(kind, flags, self.sequence, payload);
        self.send(&request)?;
        self.collect(self.sequence)
    }

    /// Sends requests as one batch of nftables (`linux/netfilter/nfnetlink.h`), which is done whole or not at all.
    ///
    /// # Errors
    /// What the kernel answered to the first one it refused.
    pub fn batch(&mut self, requests: &[(u16, u16, Vec<u8>)]) -> Result<(), NetlinkError> {
        const BEGIN: u16 = 16;
        const END: u16 = 17;
        // Family unspecified, version 0, subsystem nftables in network order.
        const NFTABLES: [u8; 4] = [0, 0, 0, 10];
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = frame(BEGIN, REQUEST, self.sequence, &NFTABLES);
        let mut last = self.sequence;
        for (at, (kind, flags, payload)) in (1..).zip(requests) {
            last = self.sequence.wrapping_add(at);
            // Only the last one is acknowledged: the others' errors come all the same.
            let ack =
                if usize::try_from(at).is_ok_and(|at| at == requests.len()) { ACK } else { 0 };
            bytes.extend(frame(*kind, flags | REQUEST | ack, last, payload));
        }
        bytes.extend(frame(END, REQUEST, last.wrapping_add(1), &NFTABLES));
        let first = self.sequence;
        self.sequence = last.wrapping_add(1);
        self.send(&bytes)?;
        self.collect_range(first, last)
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        self.socket.send(bytes, 0).map(|_| ()).map_err(NetlinkError::Socket)
    }

    fn receive(&self) -> Result<Vec<Frame>, NetlinkError> {
        let (bytes, _) = self.socket.recv_from_full().map_err(NetlinkError::Socket)?;
        Ok(frames(&bytes))
    }

    fn collect(&self, sequence: u32) -> Result<Vec<Frame>, NetlinkError> {
        let mut found = Vec::new();
        loop {
            for frame in self.receive()? {
                if frame.sequence != sequence {
                    continue;
                }
                match frame.kind {
                    NLMSG_DONE => return Ok(found),
                    NLMSG_ERROR => return error(&frame).map_or(Ok(found), Err),
                    _ => found.push(frame),
                }
            }
        }
    }

    /// Waits for the acknowledgement of `last`, or for the first error from `first` on.
    fn collect_range(&self, first: u32, last: u32) -> Result<(), NetlinkError> {
        let span = last.wrapping_sub(first);
        loop {
            for frame in self.receive()? {
                if frame.kind != NLMSG_ERROR || frame.sequence.wrapping_sub(first) > span {
                    continue;
                }
                if let Some(error) = error(&frame) {
                    return Err(error);
                }
                if frame.sequence == last {
                    return Ok(());
                }
            }
        }
    }
}

/// One message with its header.
fn frame(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + payload.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Messages in what was received.
#[must_use]
pub fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut found = Vec::new();
    while let Some((head, _)) = bytes.split_first_chunk::<HEADER>() {
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *head;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        let Some(payload) = bytes.get(HEADER..length) else { break };
        found.push(Frame {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            payload: payload.to_owned(),
        });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The error in an answer; `None` in an acknowledgement.
fn error(frame: &Frame) -> Option<NetlinkError> {
    let code = frame.payload.first_chunk::<4>().map_or(0, |code| i32::from_ne_bytes(*code));
    if code == 0 {
        return None;
    }
    let text = (frame.flags & NLM_F_ACK_TLVS != 0)
        .then(|| {
            // The request follows, whole or only its header.
            let length = frame.payload.get(4..8)?.try_into().ok().map(u32::from_ne_bytes)?;
            let capped = frame.flags & NLM_F_CAPPED != 0;
            let request = if capped { HEADER } else { usize::try_from(length).ok()? };
            let attributes = parse_all(frame.payload.get(4 + request.next_multiple_of(4)..)?);
            let text = attributes.iter().find(|it| it.kind() == NLMSGERR_ATTR_MSG)?;
            text.as_text().map(str::to_owned)
        })
        .flatten();
    Some(NetlinkError::Refused { errno: Errno::from_raw(code.saturating_neg()), text })
}

/// A socket that hears of changes.
#[derive(Debug)]
pub struct Changes {
    socket: Socket,
}

impl Changes {
    /// Hears of links, neighbours, addresses, routes and nexthops.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn subscribe() -> Result<Self, NetlinkError> {
        // `RTNLGRP_*`: link, neighbours, addresses and routes of both families, nexthops.
        const GROUPS: [u32; 7] = [1, 3, 5, 7, 9, 11, 32];
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            for group in GROUPS {
                socket.add_membership(group)?;
            }
            socket.set_non_blocking(true)?;
            io::Result::Ok(socket)
        };
        open().map(|socket| Self { socket }).map_err(NetlinkError::Socket)
    }

    /// What has come; `None` if the kernel had to leave something out.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn read(&self) -> Result<Option<Vec<Frame>>, NetlinkError> {
        match self.socket.recv_from_full() {
            Ok((bytes, _)) => Ok(Some(frames(&bytes))),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Some(Vec::new())),
            Err(e) if e.raw_os_error() == Some(Errno::ENOBUFS as i32) => Ok(None),
            Err(e) => Err(NetlinkError::Socket(e)),
        }
    }
}

impl std::os::fd::AsFd for Changes {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
