//! MPLS over UDP over IPv4 or IPv6 (RFC 7510), with one label: the bytes in front of an IP packet that crosses between
//! hosts.
//!
//! The Ethernet header of the inner frame does not cross. The outer header is longer than that by
//! [`FRONT4_BYTES`] or [`FRONT6_BYTES`]: so much of it is written beside the frame, the rest over the Ethernet header.

use crate::ethernet::{self, EtherType};
use crate::vxlan::{self, Endpoint, Inner, OUTER_ROOM};
use crate::{Truncated, ipv4, ipv6};
use core::fmt;

/// Bytes of the whole outer header over IPv4: Ethernet, IPv4 without options, UDP, one label.
pub const OUTER4_BYTES: usize = ethernet::HEADER_BYTES + ipv4::HEADER_BYTES + TUNNEL_BYTES;
/// The same over IPv6.
pub const OUTER6_BYTES: usize = ethernet::HEADER_BYTES + ipv6::HEADER_BYTES + TUNNEL_BYTES;
/// Bytes of the outer header over IPv4 without those that take the place of the inner Ethernet header.
pub const FRONT4_BYTES: usize = OUTER4_BYTES - ethernet::HEADER_BYTES;
/// The same over IPv6.
pub const FRONT6_BYTES: usize = OUTER6_BYTES - ethernet::HEADER_BYTES;
/// Bytes of the UDP header and the label stack entry.
pub const TUNNEL_BYTES: usize = 8 + 4;
/// Destination port of every MPLS-in-UDP packet.
pub const PORT: u16 = 6635;

const _: () = assert!(OUTER4_BYTES == 46 && OUTER6_BYTES == 66 && OUTER6_BYTES <= OUTER_ROOM);

/// [`TUNNEL_BYTES`] in the width of a length field.
const TUNNEL: u16 = 12;
const _: () = assert!(TUNNEL as usize == TUNNEL_BYTES);
/// First label that is not reserved (RFC 3032 section 2.1).
const FIRST: u32 = 16;
/// The third byte of a label stack entry: bottom of the stack.
const BOTTOM: u8 = 0x01;
/// Time to live of the entries written here. The pipe model of RFC 3443 section 3.2: the tunnel is one hop for the
/// packet inside, whose own time to live does not see it.
const TTL: u8 = 255;

/// An MPLS label that says which network a packet is for: 16 to 1,048,575.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(u32);

impl Label {
    /// `None` above 20 bits, and for those that are reserved.
    pub const fn new(number: u32) -> Option<Self> {
        if number >= FIRST && number >> 20 == 0 { Some(Self(number)) } else { None }
    }

    /// The number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The outer header of all packets with one label from one endpoint to another, but for what [`Inner`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encapsulation(vxlan::Template);

impl Encapsulation {
    /// What does not change from packet to packet. `None`: the two ends are of different families.
    ///
    /// The UDP checksum is left out: RFC 7510 section 3 advises so over IPv4, and section 3.1 allows it over IPv6 where
    /// the ends know each other, as they do here. The packets may not be fragmented (section 4).
    pub fn new(label: Label, from: Endpoint, to: Endpoint) -> Option<Self> {
        let mut template = vxlan::Template::new(from, to, PORT)?;
        let udp = template.end();
        // RFC 3032 section 2.1: label, traffic class, bottom of the stack, time to live.
        let [_, a, b, c] = (label.0 << 4).to_be_bytes();
        template.bytes[udp + 8..udp + TUNNEL_BYTES].copy_from_slice(&[a, b, c | BOTTOM, TTL]);
        Some(Self(template))
    }

    /// Writes the whole outer header for an inner frame, whose Ethernet header does not cross; returns its bytes,
    /// [`OUTER4_BYTES`] or [`OUTER6_BYTES`]. `None`: the frame is too short or too long; what `out` holds then means
    /// nothing.
    #[inline]
    pub fn write(&self, out: &mut [u8; OUTER_ROOM], inner: Inner) -> Option<usize> {
        const LINK: u32 = 14;
        const _: () = assert!(LINK as usize == ethernet::HEADER_BYTES);
        let packet = inner.frame_bytes.checked_sub(LINK)?;
        let udp = u16::try_from(packet).ok()?.checked_add(TUNNEL)?;
        self.0.write(out, udp, inner).map(|()| self.0.end() + TUNNEL_BYTES)
    }
}

/// What a datagram for MPLS's port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The bytes end before the label stack entry does.
    Truncated(Truncated),
    /// It goes to another port: no MPLS.
    OtherPort,
    /// The length is impossible, or there is more than one label.
    Malformed,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated(truncated) => truncated.fmt(f),
            Self::OtherPort => f.write_str("the datagram goes to another port than MPLS's"),
            Self::Malformed => f.write_str("the UDP header or the label stack is not sound"),
        }
    }
}

impl core::error::Error for Error {}

/// What came through a tunnel. The caller decides whether it knows the sender and the label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The label, which may be a reserved one: then it is `None`.
    pub label: Option<Label>,
    /// What the packet is, by the first half of its first byte (RFC 4928 section 2).
    pub ether_type: EtherType,
    /// Bytes of the inner IP packet, which starts behind the label. What follows it is padding.
    pub packet_bytes: u32,
}

/// Reads the UDP header and the label at the start of `datagram`, behind an IP header that leaves so many bytes to it.
///
/// A UDP checksum other than zero is not verified; the inner packet has its own. The label's time to live means nothing
/// where the tunnel ends (RFC 3443 section 3.2, pipe model), nor does its traffic class.
///
/// # Errors
/// See [`enum@Error`].
pub fn open(datagram: &[u8], bytes: usize) -> Result<Opened, Error> {
    const NEEDED: usize = TUNNEL_BYTES + 1;
    let truncated = Truncated { needed: NEEDED, got: datagram.len() };
    let header = datagram.first_chunk::<NEEDED>().ok_or(Error::Truncated(truncated))?;
    let [_, _, p0, p1, l0, l1, _, _, a, b, c, _, first] = *header;
    if u16::from_be_bytes([p0, p1]) != PORT {
        return Err(Error::OtherPort);
    }
    let udp = u16::from_be_bytes([l0, l1]);
    let packet = udp.checked_sub(TUNNEL).ok_or(Error::Malformed)?;
    if usize::from(udp) > bytes || c & BOTTOM == 0 {
        return Err(Error::Malformed);
    }
    let ether_type = match first >> 4 {
        4 => EtherType::IPV4,
        6 => EtherType::IPV6,
        _ => return Err(Error::Malformed),
    };
    let label = Label::new(u32::from_be_bytes([0, a, b, c]) >> 4);
    Ok(Opened { label, ether_type, packet_bytes: packet.into() })
}

#[cfg(test)]
mod tests;
