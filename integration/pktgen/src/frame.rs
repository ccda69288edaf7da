//! Frames: how they are built, and how a received one is judged.
//!
//! ```text
//!  0  Ethernet, type IPv4          42  magic, 2 bytes
//! 14  IPv4, don't fragment, TTL 64 44  sending port, 1 byte
//! 34  UDP, checksum 0              45  queue, and 0x80 if there is a time stamp
//!                                  46  sequence number of the queue, 6 bytes, little endian
//!                                  52  time stamp, 8 bytes, little endian
//!                                  60  payload: its shift, then the pattern (absent in the smallest frames)
//! ```
//! All that changes from packet to packet lies in the first cache line, at 24 to 60.

use std::net::Ipv4Addr;

use vrouter_dpdk::Mac;

use crate::flow::Share;
use crate::pattern::{self, Pattern};
use crate::tunnel::{OUTER, Tunnel};

/// Bytes of every frame's head; the smallest frame is just that.
pub const HEAD: usize = 60;

/// Bytes 24 to 40, which differ between flows: IP checksum, addresses, UDP ports and length.
pub type Variable = [u8; 16];

const VARIABLE: usize = 24;
const MAGIC_AT: usize = 42;
const MAGIC: [u8; 2] = [0x52, 0xa7];
const TAG: usize = 44;
const STAMP: usize = 52;
const STAMPED: u8 = 0x80;
const IP: usize = 14;
const IP_HEADER: usize = 20;
const TTL: u8 = 64;
const UDP: u8 = 17;
const DONT_FRAGMENT: u8 = 0x40;

/// Highest sequence number plus one.
const SEQUENCES: u64 = 1 << 48;

/// The bytes of a frame of `len` bytes that differ between flows.
pub fn variable(len: u16, ip: Ipv4Addr, to: Ipv4Addr, source_port: u16, to_port: u16) -> Variable {
    let mut header = ip_header(len, ip, to);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut variable = Variable::default();
    variable[..10].copy_from_slice(&header[10..20]);
    variable[10..12].copy_from_slice(&source_port.to_be_bytes());
    variable[12..14].copy_from_slice(&to_port.to_be_bytes());
    let udp_len = len.saturating_sub(34);
    variable[14..16].copy_from_slice(&udp_len.to_be_bytes());
    variable
}

/// The IPv4 header of a frame of `len` bytes, its checksum 0.
fn ip_header(len: u16, ip: Ipv4Addr, to: Ipv4Addr) -> [u8; IP_HEADER] {
    let [total_high, total_low] = len.saturating_sub(14).to_be_bytes();
    let mut header = [0; IP_HEADER];
    header[..12].copy_from_slice(&[
        0x45,
        0,
        total_high,
        total_low,
        0,
        0,
        DONT_FRAGMENT,
        0,
        TTL,
        UDP,
        0,
        0,
    ]);
    header[12..16].copy_from_slice(&ip.octets());
    header[16..20].copy_from_slice(&to.octets());
    header
}

/// The Internet checksum (RFC 1071) of a header; 0 for one that contains its right checksum.
pub fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).unwrap_or(0)
}

/// One sending queue: numbers its packets and writes them.
#[derive(Debug)]
pub struct Stream {
    share: Share,
    /// What no packet of the stream changes; zero where packets differ.
    head: [u8; HEAD],
    /// Port and queue as they stand in the tag.
    tag: u64,
    seq: u64,
    /// Place of the next packet's flow in `share`.
    next: usize,
    /// Frames go into a tunnel.
    tunnel: Option<Tunnel>,
}

impl Stream {
    /// Sends from port `port`, queue `queue`, from one Ethernet address to another.
    pub fn new(
        share: Share,
        port: u8,
        queue: u8,
        (from, to): (Mac, Mac),
        tunnel: Option<Tunnel>,
    ) -> Self {
        let mut head = [0; HEAD];
        head[..6].copy_from_slice(&to.0);
        head[6..12].copy_from_slice(&from.0);
        head[12..14].copy_from_slice(&[8, 0]);
        head[MAGIC_AT..TAG].copy_from_slice(&MAGIC);
        let tag = u64::from_le_bytes([port, queue, 0, 0, 0, 0, 0, 0]);
        Self { share, head, tag, seq: 0, next: 0, tunnel }
    }

    /// Writes all of a buffer that this stream will send again and again; `number` tells buffers apart.
    pub fn prepare(&self, frame: &mut [u8], pattern: &Pattern, number: u64) {
        let frame = match &self.tunnel {
            None => frame,
            Some(tunnel) => {
                let Some((outer, frame)) = frame.split_first_chunk_mut::<OUTER>() else { return };
                tunnel.prepare(outer);
                frame
            }
        };
        let len = u16::try_from(frame.len()).unwrap_or(u16::MAX);
        let Some((head, payload)) = frame.split_first_chunk_mut::<HEAD>() else { return };
        *head = self.head;
        // The start of the IP header is the same for all flows; the rest `write` replaces.
        let ip = ip_header(len, Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED);
        head[IP..IP + IP_HEADER].copy_from_slice(&ip);
        pattern.fill(payload, pattern::shift(number));
    }

    /// Makes the prepared `frame` the stream's next packet. With a `pattern` its payload is written anew, too.
    #[inline]
    pub fn write(&mut self, frame: &mut [u8], stamp: Option<u64>, pattern: Option<&Pattern>) {
        let frame = match &self.tunnel {
            None => frame,
            Some(tunnel) => {
                let Some((outer, frame)) = frame.split_first_chunk_mut::<OUTER>() else { return };
                tunnel.write(outer, self.next);
                frame
            }
        };
        let Some((head, payload)) = frame.split_first_chunk_mut::<HEAD>() else { return };
        let Some(variable) = self.share.variable(self.next) else { return };
        head[VARIABLE..VARIABLE + 16].copy_from_slice(variable);
        let mut tag = self.tag | (self.seq << 16);
        if let Some(stamp) = stamp {
            tag |= u64::from(STAMPED) << 8;
            head[STAMP..].copy_from_slice(&stamp.to_le_bytes());
        }
        head[TAG..STAMP].copy_from_slice(&tag.to_le_bytes());
        if let Some(pattern) = pattern {
            pattern.fill(payload, pattern::shift(self.seq));
        }
        self.seq = (self.seq + 1) % SEQUENCES;
        self.next = if self.next + 1 < self.share.len() { self.next + 1 } else { 0 };
    }

    /// Number of the next packet.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The stream's flows.
    pub fn share(&self) -> &Share {
        &self.share
    }
}

/// Whether a frame carries a time stamp, if it is ours at all.
#[inline]
pub fn is_stamped(frame: &[u8]) -> bool {
    frame.get(TAG + 1).is_some_and(|queue| queue & STAMPED != 0)
}

/// What a received frame is, without what a tunnel has put in front of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Exactly what was sent, but for what a router changes: Ethernet addresses, TTL, checksum.
    Good {
        /// Port that sent it.
        from: u8,
        /// Number of its flow.
        flow: usize,
        /// Its number within its queue.
        seq: u64,
        /// Time it was sent, if it says.
        stamp: Option<u64>,
    },
    /// Ours, but not as it was sent.
    Corrupt,
    /// Not ours, or not for this port.
    Foreign,
}

/// What is known of a sending port.
#[derive(Debug, Clone)]
pub struct Sender {
    /// The port that receives what it sends.
    pub peer: u8,
    /// Bytes of each frame.
    pub len: u16,
    /// The Ethernet address it sends to.
    pub to: Mac,
    /// Its flows, by queue.
    pub shares: Vec<Share>,
}

/// Judges received frames.
#[derive(Debug)]
pub struct Checker {
    /// Sending ports, by number.
    senders: Vec<Option<Sender>>,
    /// The ports' Ethernet addresses.
    macs: Vec<Mac>,
    /// The ports' tunnels, for those that have one.
    tunnels: Vec<Option<Tunnel>>,
    /// Payloads are written for each packet, so they belong to its number.
    touched: bool,
}

impl Checker {
    /// Knows who sends what. `touched`: [`Stream::write`] is given the pattern.
    pub fn new(
        senders: Vec<Option<Sender>>,
        macs: Vec<Mac>,
        tunnels: Vec<Option<Tunnel>>,
        touched: bool,
    ) -> Self {
        Self { senders, macs, tunnels, touched }
    }

    /// Bytes in front of the frames that `port` receives.
    #[inline]
    pub fn outer_bytes(&self, port: u8) -> usize {
        let tunnel = self.tunnels.get(usize::from(port)).and_then(Option::as_ref);
        tunnel.map_or(0, |_| OUTER)
    }

    /// Judges `frame`, received by `port`. Reads all of it.
    #[inline]
    pub fn check(&self, frame: &[u8], port: u8, pattern: &Pattern) -> Verdict {
        self.try_check(frame, port, pattern).unwrap_or_else(|fault| fault)
    }

    fn try_check(&self, frame: &[u8], port: u8, pattern: &Pattern) -> Result<Verdict, Verdict> {
        let ours = |is: bool| if is { Ok(()) } else { Err(Verdict::Foreign) };
        let intact = |is: bool| if is { Ok(()) } else { Err(Verdict::Corrupt) };

        let frame = match self.tunnels.get(usize::from(port)).and_then(Option::as_ref) {
            None => frame,
            Some(tunnel) => tunnel.open(frame).ok_or(Verdict::Corrupt)?,
        };
        let (head, payload) = frame.split_first_chunk::<HEAD>().ok_or(Verdict::Foreign)?;
        ours(head[MAGIC_AT..TAG] == MAGIC)?;
        let mut tag = [0; 8];
        tag.copy_from_slice(&head[TAG..STAMP]);
        let [from, queue, ..] = tag;
        let seq = u64::from_le_bytes(tag) >> 16;
        let sender = self.senders.get(usize::from(from)).and_then(Option::as_ref);
        let sender = sender.ok_or(Verdict::Corrupt)?;
        ours(sender.peer == port)?;
        let mac = self.macs.get(usize::from(port)).is_some_and(|mac| head[..6] == mac.0);
        ours(mac || head[..6] == sender.to.0)?;

        intact(frame.len() == usize::from(sender.len))?;
        intact(head[12..14] == [8, 0])?;
        let share = sender.shares.get(usize::from(queue & !STAMPED)).ok_or(Verdict::Corrupt)?;
        let (flow, variable) = share.of(seq).ok_or(Verdict::Corrupt)?;
        // Addresses, ports and UDP length; the IP checksum before them changes with the TTL.
        intact(head[VARIABLE + 2..VARIABLE + 16] == variable[2..])?;
        let ip = &head[IP..IP + IP_HEADER];
        let [total_high, total_low] = sender.len.saturating_sub(14).to_be_bytes();
        intact(ip[..8] == [0x45, 0, total_high, total_low, 0, 0, DONT_FRAGMENT, 0])?;
        intact((1..=TTL).contains(&ip[8]) && ip[9] == UDP && checksum(ip) == 0)?;
        intact(head[VARIABLE + 16..MAGIC_AT] == [0, 0])?;
        if !payload.is_empty() {
            let shift = pattern.check(payload).ok_or(Verdict::Corrupt)?;
            intact(!self.touched || shift == pattern::shift(seq))?;
        }
        let mut stamp = [0; 8];
        stamp.copy_from_slice(&head[STAMP..]);
        let stamp = (queue & STAMPED != 0).then(|| u64::from_le_bytes(stamp));
        Ok(Verdict::Good { from, flow, seq, stamp })
    }
}

#[cfg(test)]
mod tests;
