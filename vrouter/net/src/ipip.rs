//! IP in IP: IPv4 (RFC 2003) and IPv6 (RFC 4213) in IPv4, either in IPv6 (RFC 2473). Nothing but an IP header is in front of
//! a packet that crosses between hosts.
//!
//! It has no number: the address that it goes to says which network a packet is for. As with MPLS ([`crate::mpls`]) the
//! Ethernet header of the inner frame does not cross.

use crate::ethernet::{self, EtherType};
use crate::ipv4::{self, Protocol};
use crate::ipv6;
use crate::vxlan::{self, Endpoint, Inner, OUTER_ROOM};
use core::fmt;

/// Bytes of the whole outer header over IPv4: Ethernet, IPv4 without options.
pub const OUTER4_BYTES: usize = ethernet::HEADER_BYTES + ipv4::HEADER_BYTES;
/// The same over IPv6.
pub const OUTER6_BYTES: usize = ethernet::HEADER_BYTES + ipv6::HEADER_BYTES;
/// Bytes of the outer header over IPv4 without those that take the place of the inner Ethernet header.
pub const FRONT4_BYTES: usize = OUTER4_BYTES - ethernet::HEADER_BYTES;
/// The same over IPv6.
pub const FRONT6_BYTES: usize = OUTER6_BYTES - ethernet::HEADER_BYTES;

const _: () = assert!(OUTER4_BYTES == 34 && OUTER6_BYTES == 54 && OUTER6_BYTES <= OUTER_ROOM);

/// Where an IPv4 and an IPv6 header name what follows.
const PROTOCOL: usize = ethernet::HEADER_BYTES + 9;
const NEXT_HEADER: usize = ethernet::HEADER_BYTES + 6;

/// The outer header of all packets from one endpoint to another, but for what [`Inner`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encapsulation(vxlan::Template);

impl Encapsulation {
    /// What does not change from packet to packet. `None`: the two ends are of different families.
    ///
    /// The packets may not be fragmented: RFC 2003 section 3.1 lets the end that encapsulates set that.
    pub fn new(from: Endpoint, to: Endpoint) -> Option<Self> {
        vxlan::Template::of_ip(from, to, Protocol(0)).map(Self)
    }

    /// Writes the whole outer header for an inner frame, whose Ethernet header does not cross; returns its bytes,
    /// [`OUTER4_BYTES`] or [`OUTER6_BYTES`]. `None`: the frame is too short or too long; what `out` holds then means
    /// nothing.
    #[inline]
    pub fn write(&self, out: &mut [u8; OUTER_ROOM], inner: Inner) -> Option<usize> {
        const LINK: u32 = 14;
        const _: () = assert!(LINK as usize == ethernet::HEADER_BYTES);
        let packet = u16::try_from(inner.frame_bytes.checked_sub(LINK)?).ok()?;
        let Protocol(protocol) = if inner.is_ipv6 { Protocol::IPV6 } else { Protocol::IPV4 };
        let template = &self.0;
        *out = template.bytes;
        if template.is_ipv6 {
            out[NEXT_HEADER] = protocol;
            vxlan::write_ip6(out, packet, inner);
            return Some(OUTER6_BYTES);
        }
        out[PROTOCOL] = protocol;
        // The low half of a word.
        let sum = u32::from(template.sum) + u32::from(protocol);
        vxlan::write_ip4(out, sum, packet, inner).map(|()| OUTER4_BYTES)
    }
}

/// Why bytes behind an IP header are no packet inside another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// They are of another protocol.
    OtherProtocol,
    /// They do not begin as a packet of the family that the header in front says, or not at all.
    Malformed,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherProtocol => "the protocol is neither IPv4 nor IPv6",
            Self::Malformed => "what is inside is no packet of the family that the header says",
        })
    }
}

impl core::error::Error for Error {}

/// Reads what is behind an IP header of this protocol: what the packet inside is. It has all bytes that the header leaves;
/// what follows it there is padding.
///
/// # Errors
/// See [`enum@Error`].
pub fn open(packet: &[u8], protocol: Protocol) -> Result<EtherType, Error> {
    let (ether_type, version) = match protocol {
        Protocol::IPV4 => (EtherType::IPV4, 4),
        Protocol::IPV6 => (EtherType::IPV6, 6),
        _ => return Err(Error::OtherProtocol),
    };
    match packet.first() {
        Some(first) if first >> 4 == version => Ok(ether_type),
        _ => Err(Error::Malformed),
    }
}

/// Bytes of a header with a limit of further encapsulations.
pub const LIMIT_BYTES: usize = 8;

/// The protocol of a packet behind a header of options for the destination that says nothing but how often the packet may be
/// encapsulated again: Linux puts one between an outer IPv6 header and the packet unless told not to. At the end of a tunnel
/// it means nothing (RFC 2473 section 4.1.1). `None`: it says more, or no IP packet follows.
pub fn behind_limit(options: &[u8]) -> Option<Protocol> {
    // The length beyond 8 bytes; the option and its length; the limit; an option that fills up.
    match options.first_chunk::<LIMIT_BYTES>()? {
        [next @ (4 | 41), 0, 4, 1, _, 1, 1, _] => Some(Protocol(*next)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
