//! A netlink socket that has subscribed to all that forwarding depends on.

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, SocketAddr, TokioSocket};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use std::future::poll_fn;
use std::io;
use tracing::debug;

/// The kernel makes datagrams of a dump no larger than this (`NLMSG_GOODSIZE`, `netlink_recvmsg`).
const DATAGRAM: usize = 128 << 10;

/// `RTNLGRP_*`: links, neighbours, then addresses, routes and rules of both families, nexthop objects.
const GROUPS: [u32; 9] = [1, 3, 5, 7, 8, 9, 11, 19, 32];

/// The kernel's tables can't be read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say what each field is")]
pub enum Error {
    #[error("a netlink socket can't be opened")]
    Open { source: io::Error },
    #[error("can't subscribe to the routing messages of group {group}")]
    Subscribe { group: u32, source: io::Error },
    #[error("can't ask the kernel for its tables")]
    Send { source: io::Error },
    #[error("can't read what the kernel says of its tables")]
    Receive { source: io::Error },
    #[error("the kernel refuses to dump its {what}")]
    Dump { what: &'static str, source: io::Error },
}

/// What was to be read.
pub(super) enum Received {
    Datagram(Vec<u8>),
    Nothing,
    /// The kernel had more to say than there was room for.
    Overrun,
}

pub(super) struct Socket {
    socket: TokioSocket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    pub fn open(buffer_size: usize) -> Result<Self, Error> {
        let opened = |source| Error::Open { source };
        let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(opened)?;
        // The kernel doubles what it is asked for. Without CAP_NET_ADMIN it gives no more than net.core.rmem_max.
        let half = (buffer_size / 2).max(1);
        if let Err(error) = setsockopt(socket.socket_ref(), sockopt::RcvBufForce, &half) {
            debug!(%error, "the receive buffer is limited by net.core.rmem_max");
            setsockopt(socket.socket_ref(), sockopt::RcvBuf, &half)
                .map_err(|error| opened(error.into()))?;
        }
        let port = socket.socket_mut().bind_auto().map_err(opened)?.port_number();
        for group in GROUPS {
            let subscribed = socket.socket_mut().add_membership(group);
            subscribed.map_err(|source| Error::Subscribe { group, source })?;
        }
        let buffer = Vec::with_capacity(DATAGRAM);
        Ok(Self { socket, port, sequence: 0, buffer })
    }

    /// Whether a message answers a request of this socket, not of another that was told to all.
    pub fn is_ours(&self, port: u32) -> bool {
        port == self.port
    }

    pub fn request(&mut self, request: impl FnOnce(u32) -> Vec<u8>) -> Result<u32, Error> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let request = request(self.sequence);
        let kernel = SocketAddr::new(0, 0);
        let sent = self.socket.socket_ref().send_to(&request, &kernel, 0);
        sent.map_err(|source| Error::Send { source })?;
        Ok(self.sequence)
    }

    /// Waits for a datagram. Nothing is lost if the wait is given up.
    pub async fn receive(&mut self) -> Result<Received, Error> {
        let mut buffer = self.empty_buffer();
        let received = poll_fn(|context| self.socket.poll_recv_from(context, &mut buffer)).await;
        self.received(received, buffer)
    }

    /// The next datagram, if there is one.
    pub fn try_receive(&mut self) -> Result<Received, Error> {
        let mut buffer = self.empty_buffer();
        let received = self.socket.socket_ref().recv_from(&mut buffer, 0);
        self.received(received.map(|(_, from)| from), buffer)
    }

    fn received(
        &mut self,
        from: io::Result<SocketAddr>,
        buffer: Vec<u8>,
    ) -> Result<Received, Error> {
        match from {
            // Other processes may send to the socket, too.
            Ok(from) if from.port_number() != 0 => Ok(Received::Datagram(Vec::new())),
            // What did not fit is lost.
            Ok(_) if buffer.len() == buffer.capacity() => Ok(Received::Overrun),
            Ok(_) => Ok(Received::Datagram(buffer)),
            Err(error) => {
                self.buffer = buffer;
                match error.raw_os_error() {
                    Some(libc::ENOBUFS) => Ok(Received::Overrun),
                    Some(libc::EINTR) => Ok(Received::Datagram(Vec::new())),
                    _ if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
                    _ => Err(Error::Receive { source: error }),
                }
            }
        }
    }

    fn empty_buffer(&mut self) -> Vec<u8> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.reserve(DATAGRAM);
        buffer
    }

    /// Takes back the memory of a datagram.
    pub fn give_back(&mut self, datagram: Vec<u8>) {
        self.buffer = datagram;
    }
}
