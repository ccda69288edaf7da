//! The IPv6 header and its extension headers (RFC 8200).

use crate::ipv4::Protocol;
use crate::{Mac, Truncated};
use core::fmt;
use core::net::Ipv6Addr;
use core::ops::{Deref, DerefMut};

/// Bytes of the header without extension headers.
pub const HEADER_BYTES: usize = 40;
/// Hop limit of what the vRouter sends itself, as for IPv4.
pub const DEFAULT_HOP_LIMIT: u8 = 64;
/// Smallest MTU every IPv6 link must have (RFC 8200 section 5).
pub const MIN_MTU: u16 = 1280;
/// All nodes of the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Extension headers that are looked behind; more are not seen in honest packets.
const MAX_EXTENSIONS: usize = 8;

/// Bytes are not an IPv6 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Too few bytes for the header.
    Truncated(Truncated),
    /// The version field, not 6.
    Version(u8),
    /// The payload length does not fit in the frame.
    PayloadLength {
        /// The field, in bytes.
        payload: u16,
        /// Bytes the frame has for the packet.
        frame: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated(truncated) => truncated.fmt(f),
            Self::Version(version) => write!(f, "version {version} is not 6"),
            Self::PayloadLength { payload, frame } => write!(
                f,
                "payload length {payload} does not fit with the header in the frame's {frame} bytes"
            ),
        }
    }
}

impl core::error::Error for Error {}

/// View of an IPv6 header; `B` is `&[u8; 40]` or `&mut [u8; 40]`.
#[derive(Debug)]
pub struct Header<B>(B);

impl<B> Header<B> {
    /// A view of bytes whose meaning the caller has checked; see [`Header::check`].
    #[inline]
    pub const fn of(bytes: B) -> Self {
        Self(bytes)
    }
}

impl<'a> Header<&'a [u8; HEADER_BYTES]> {
    /// Checks version and payload length of the packet that starts `bytes`.
    ///
    /// `bytes` may end before the packet does (only its head was copied) but not before its header;
    /// `frame_payload_bytes` is what the frame really carries behind its Ethernet header. Jumbograms (RFC 2675)
    /// are taken by their payload length of zero.
    ///
    /// # Errors
    /// The first thing that is wrong, in the order of [`enum@Error`].
    pub fn check(bytes: &'a [u8], frame_payload_bytes: usize) -> Result<Self, Error> {
        let truncated = Truncated { needed: HEADER_BYTES, got: bytes.len() };
        let header = Self(bytes.first_chunk().ok_or(Error::Truncated(truncated))?);
        if header.version() != 6 {
            return Err(Error::Version(header.version()));
        }
        if header.total_bytes() > frame_payload_bytes {
            let payload = header.payload_length();
            return Err(Error::PayloadLength { payload, frame: frame_payload_bytes });
        }
        Ok(header)
    }
}

impl<B: Deref<Target = [u8; HEADER_BYTES]>> Header<B> {
    /// The version field.
    #[inline]
    pub fn version(&self) -> u8 {
        self.0[0] >> 4
    }

    /// Bytes behind this header, extension headers included.
    #[inline]
    pub fn payload_length(&self) -> u16 {
        u16::from_be_bytes([self.0[4], self.0[5]])
    }

    /// Bytes of the packet, this header included.
    #[inline]
    pub fn total_bytes(&self) -> usize {
        HEADER_BYTES + usize::from(self.payload_length())
    }

    /// What follows this header: a protocol or an extension header.
    #[inline]
    pub fn next_header(&self) -> Protocol {
        Protocol(self.0[6])
    }

    /// Hop limit.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.0[7]
    }

    /// Congestion bits (RFC 3168 section 5).
    #[inline]
    pub fn ecn(&self) -> u8 {
        self.0[1] >> 4 & 3
    }

    /// Who sent the packet.
    #[inline]
    pub fn source(&self) -> Ipv6Addr {
        self.address(8)
    }

    /// Who shall receive the packet.
    #[inline]
    pub fn destination(&self) -> Ipv6Addr {
        self.address(24)
    }

    fn address(&self, at: usize) -> Ipv6Addr {
        Ipv6Addr::from(core::array::from_fn::<u8, 16, _>(|i| self.0[at + i]))
    }
}

impl<B: DerefMut<Target = [u8; HEADER_BYTES]>> Header<B> {
    /// Writes the hop limit.
    #[inline]
    pub fn set_hop_limit(&mut self, hop_limit: u8) {
        self.0[7] = hop_limit;
    }

    /// Writes the congestion bits.
    #[inline]
    pub fn set_ecn(&mut self, ecn: u8) {
        self.0[1] = self.0[1] & !0x30 | (ecn & 3) << 4;
    }

    /// Swaps source and destination address.
    pub fn swap_addresses(&mut self) {
        let (from, to) = (self.source(), self.destination());
        self.set_addresses(to, from);
    }

    fn set_addresses(&mut self, source: Ipv6Addr, destination: Ipv6Addr) {
        self.0[8..24].copy_from_slice(&source.octets());
        self.0[24..40].copy_from_slice(&destination.octets());
    }

    /// Writes a whole header, without flow label.
    pub fn write(
        &mut self,
        payload_length: u16,
        next_header: Protocol,
        hop_limit: u8,
        source: Ipv6Addr,
        destination: Ipv6Addr,
    ) {
        self.0[..4].copy_from_slice(&[0x60, 0, 0, 0]);
        self.0[4..6].copy_from_slice(&payload_length.to_be_bytes());
        self.0[6..8].copy_from_slice(&[next_header.0, hop_limit]);
        self.set_addresses(source, destination);
    }
}

/// What is behind the extension headers of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpperLayer {
    /// The protocol.
    pub protocol: Protocol,
    /// Where it starts, from the start of the IPv6 header. What is visible may end before it.
    pub offset: usize,
    /// The packet is a piece of another (first, middle or last).
    pub is_fragment: bool,
    /// The packet is a piece without the start of the payload.
    pub is_later_fragment: bool,
}

/// Looks behind the extension headers of the packet that starts `bytes`, as far as they are visible. `None`: they
/// end beyond `bytes`, or there are more than anybody needs.
pub fn upper_layer(bytes: &[u8]) -> Option<UpperLayer> {
    let mut upper = UpperLayer {
        protocol: Protocol(*bytes.get(6)?),
        offset: HEADER_BYTES,
        is_fragment: false,
        is_later_fragment: false,
    };
    for _ in 0..MAX_EXTENSIONS {
        let unit = match upper.protocol.0 {
            // Hop-by-hop options, routing, destination options, mobility, HIP, shim6 (RFC 8200 section 4, and the
            // registry of RFC 7045).
            0 | 43 | 60 | 135 | 139 | 140 => 8,
            // A fragment header has no length; the byte is reserved.
            44 => 0,
            // Authentication (RFC 4302 section 2.2), in words of 4 bytes less 2.
            51 => 4,
            _ => return Some(upper),
        };
        let [next, length] = *bytes.get(upper.offset..)?.first_chunk()?;
        if upper.protocol.0 == 44 {
            let field = bytes.get(upper.offset + 2..)?.first_chunk()?;
            let field = u16::from_be_bytes(*field);
            upper.is_fragment = true;
            upper.is_later_fragment |= field & 0xfff8 != 0;
        }
        upper.protocol = Protocol(next);
        upper.offset += 8 + usize::from(length) * unit;
        // What a later piece starts with is no header.
        if upper.is_later_fragment {
            return Some(upper);
        }
    }
    None
}

/// The link-local address made from a MAC address (RFC 4291 appendix A).
pub const fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.octets();
    let octets = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    Ipv6Addr::from_bits(u128::from_be_bytes(octets))
}

/// The group that a node with this address is solicited in (RFC 4291 section 2.7.1).
pub const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let octets = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c];
    Ipv6Addr::from_bits(u128::from_be_bytes(octets))
}

/// The MAC address of a group (RFC 2464 section 7).
pub const fn group_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac::new([0x33, 0x33, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{IpNumber, Ipv6FlowLabel, Ipv6Header};
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn reads_what_etherparse_writes_and_the_other_way_round() {
        bolero::check!().with_type().for_each(
            |(length, next, hops, from, to): &(u16, u8, u8, [u8; 16], [u8; 16])| {
                let mut oracle = Ipv6Header {
                    traffic_class: 0xa5,
                    flow_label: Ipv6FlowLabel::try_new(0x12345).unwrap(),
                    payload_length: *length,
                    next_header: IpNumber(*next),
                    hop_limit: *hops,
                    source: *from,
                    destination: *to,
                };
                let bytes = oracle.to_bytes();
                let frame = 40 + usize::from(*length);
                let header = Header::check(&bytes, frame).unwrap();
                assert_eq!(header.payload_length(), *length);
                assert_eq!((header.next_header().0, header.hop_limit()), (*next, *hops));
                assert_eq!(header.source().octets(), *from);
                assert_eq!(header.destination().octets(), *to);
                assert_eq!(
                    Header::check(&bytes, frame - 1).unwrap_err(),
                    Error::PayloadLength { payload: *length, frame: frame - 1 }
                );

                let mut ours = [0xee; 40];
                let (source, destination) = ((*from).into(), (*to).into());
                Header::of(&mut ours).write(*length, Protocol(*next), *hops, source, destination);
                oracle.traffic_class = 0;
                oracle.flow_label = Ipv6FlowLabel::ZERO;
                assert_eq!(ours, oracle.to_bytes());
                Header::of(&mut ours).swap_addresses();
                Header::of(&mut ours).set_hop_limit(7);
                (oracle.source, oracle.destination) = (*to, *from);
                oracle.hop_limit = 7;
                assert_eq!(ours, oracle.to_bytes());
            },
        );
    }

    #[test]
    fn refuses() {
        let mut bytes = [0; 40];
        bytes[0] = 0x60;
        assert!(Header::check(&bytes, 40).is_ok());
        let truncated = Truncated { needed: 40, got: 39 };
        assert_eq!(Header::check(&bytes[..39], 40).unwrap_err(), Error::Truncated(truncated));
        bytes[0] = 0x45;
        assert_eq!(Header::check(&bytes, 40).unwrap_err(), Error::Version(4));
    }

    /// A packet with these extension headers of a kind and bytes, and a protocol behind them.
    fn packet(extensions: &[(u8, usize)], protocol: u8) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        bytes[0] = 0x60;
        let mut next_at = 6;
        for (kind, length) in extensions {
            bytes[next_at] = *kind;
            next_at = bytes.len();
            let mut extension = vec![0; *length];
            extension[1] = match kind {
                44 => 0xee,
                51 => u8::try_from(length / 4 - 2).unwrap(),
                _ => u8::try_from(length / 8 - 1).unwrap(),
            };
            bytes.extend(extension);
        }
        bytes[next_at] = protocol;
        bytes
    }

    #[test]
    fn finds_the_upper_layer() {
        let kinds: [&[(u8, usize)]; 6] = [
            &[],
            &[(0, 8)],
            &[(0, 24), (60, 16), (43, 8), (60, 8)],
            &[(44, 8)],
            &[(51, 24)],
            &[(0, 8), (44, 8), (51, 12), (60, 8)],
        ];
        for extensions in kinds {
            let bytes = packet(extensions, 17);
            let upper = upper_layer(&bytes).unwrap();
            let fragment = extensions.iter().any(|(kind, _)| *kind == 44);
            assert_eq!((upper.protocol, upper.offset), (Protocol::UDP, bytes.len()));
            assert_eq!((upper.is_fragment, upper.is_later_fragment), (fragment, false));
            for end in 0..bytes.len() {
                let seen = upper_layer(&bytes[..end]);
                // The last header's first bytes say what follows it.
                assert!(seen.is_none() || seen == Some(upper), "{end} bytes of {extensions:?}");
            }
        }
        let mut later = packet(&[(44, 8), (60, 8)], 17);
        later[42..44].copy_from_slice(&[0x01, 0x09]);
        let upper = upper_layer(&later).unwrap();
        assert!(upper.is_later_fragment && upper.protocol == Protocol(60) && upper.offset == 48);
        assert_eq!(upper_layer(&packet(&[(60, 8); 7], 17)).unwrap().protocol, Protocol::UDP);
        assert_eq!(upper_layer(&packet(&[(60, 8); 8], 17)), None);
    }

    #[test]
    fn upper_layer_is_safe_with_any_bytes() {
        bolero::check!().with_type().for_each(|bytes: &Vec<u8>| {
            if let Some(upper) = upper_layer(bytes) {
                assert!(upper.offset >= HEADER_BYTES && upper.offset <= 40 + 8 * 2048);
            }
        });
    }

    #[test]
    fn derived_addresses() {
        let mac = Mac::new([0x02, 0, 0, 0x12, 0x34, 0x56]);
        assert_eq!(link_local(mac), "fe80::ff:fe12:3456".parse::<Ipv6Addr>().unwrap());
        let address: Ipv6Addr = "fd00:66::12ab:cdef".parse().unwrap();
        let group = solicited_node(address);
        assert_eq!(group, "ff02::1:ffab:cdef".parse::<Ipv6Addr>().unwrap());
        assert_eq!(group_mac(group), Mac::new([0x33, 0x33, 0xff, 0xab, 0xcd, 0xef]));
    }
}
