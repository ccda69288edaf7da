//! The IPv4 header (RFC 791).

use crate::{Truncated, checksum};
use core::fmt;
use core::net::Ipv4Addr;
use core::ops::{Deref, DerefMut};

/// Bytes of the header without options.
pub const HEADER_BYTES: usize = 20;
/// Bytes of the header with as many options as fit.
pub const MAX_HEADER_BYTES: usize = 60;
/// TTL of what the vRouter sends itself (the value assigned numbers recommend, RFC 1700).
pub const DEFAULT_TTL: u8 = 64;

/// What an IPv4 or IPv6 packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP.
    pub const ICMP: Self = Self(1);
    /// An IPv4 packet (RFC 2003).
    pub const IPV4: Self = Self(4);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// An IPv6 packet (RFC 4213).
    pub const IPV6: Self = Self(41);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// Options of IPv6 for the destination (RFC 8200 section 4.6).
    pub const DESTINATION_OPTIONS: Self = Self(60);
}

const FLAG_DONT_FRAGMENT: u16 = 0x4000;
const FLAG_MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Bytes are not an IPv4 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Too few bytes for the header.
    Truncated(Truncated),
    /// The version field, not 4.
    Version(u8),
    /// The header length in bytes, below 20.
    HeaderLength(u8),
    /// The total length does not hold the header or does not fit in the frame.
    TotalLength {
        /// The field, in bytes.
        total: u16,
        /// Bytes of the header.
        header: u8,
        /// Bytes the frame has for the packet.
        frame: usize,
    },
    /// The header checksum does not add up.
    Checksum(u16),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated(truncated) => truncated.fmt(f),
            Self::Version(version) => write!(f, "version {version} is not 4"),
            Self::HeaderLength(bytes) => write!(f, "header length {bytes} is below 20 bytes"),
            Self::TotalLength { total, header, frame } => write!(
                f,
                "total length {total} does not lie between the header's {header} and the frame's {frame} bytes"
            ),
            Self::Checksum(field) => write!(f, "header checksum {field:#06x} does not add up"),
        }
    }
}

impl core::error::Error for Error {}

/// View of the first 20 bytes of an IPv4 header; `B` is `&[u8; 20]` or `&mut [u8; 20]`.
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
    /// Checks version, lengths and checksum of the packet that starts `bytes`.
    ///
    /// `bytes` may end before the packet does (only its head was copied) but not before its header;
    /// `frame_payload_bytes` is what the frame really carries behind its Ethernet header.
    ///
    /// # Errors
    /// The first thing that is wrong, in the order of [`enum@Error`].
    pub fn check(bytes: &'a [u8], frame_payload_bytes: usize) -> Result<Self, Error> {
        let truncated = |needed| Error::Truncated(Truncated { needed, got: bytes.len() });
        let header = Self(bytes.first_chunk().ok_or(truncated(HEADER_BYTES))?);
        if header.version() != 4 {
            return Err(Error::Version(header.version()));
        }
        let header_bytes = header.header_bytes();
        if usize::from(header_bytes) < HEADER_BYTES {
            return Err(Error::HeaderLength(header_bytes));
        }
        let needed = usize::from(header_bytes);
        let whole = bytes.get(..needed).ok_or(truncated(needed))?;
        let total = header.total_length();
        if total < u16::from(header_bytes) || usize::from(total) > frame_payload_bytes {
            return Err(Error::TotalLength {
                total,
                header: header_bytes,
                frame: frame_payload_bytes,
            });
        }
        if !checksum::verify(whole) {
            return Err(Error::Checksum(header.checksum()));
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

    /// Bytes of the header with its options (the IHL field is in 32-bit words).
    #[inline]
    pub fn header_bytes(&self) -> u8 {
        (self.0[0] & 0x0f) * 4
    }

    /// Bytes of the packet, header included.
    #[inline]
    pub fn total_length(&self) -> u16 {
        self.word(2)
    }

    /// Whether routers may not fragment the packet.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.word(6) & FLAG_DONT_FRAGMENT != 0
    }

    /// Whether the packet is a piece of another (first, middle or last).
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.word(6) & (FLAG_MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
    }

    /// Whether the packet is a piece without the start of the payload.
    #[inline]
    pub fn is_later_fragment(&self) -> bool {
        self.word(6) & FRAGMENT_OFFSET != 0
    }

    /// Congestion bits (RFC 3168 section 5).
    #[inline]
    pub fn ecn(&self) -> u8 {
        self.0[1] & 3
    }

    /// Time to live, in hops.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.0[8]
    }

    /// What the packet carries.
    #[inline]
    pub fn protocol(&self) -> Protocol {
        Protocol(self.0[9])
    }

    /// The header checksum field.
    #[inline]
    pub fn checksum(&self) -> u16 {
        self.word(10)
    }

    /// Who sent the packet.
    #[inline]
    pub fn source(&self) -> Ipv4Addr {
        let [_, _, _, _, _, _, _, _, _, _, _, _, a, b, c, d, ..] = *self.0;
        Ipv4Addr::new(a, b, c, d)
    }

    /// Who shall receive the packet.
    #[inline]
    pub fn destination(&self) -> Ipv4Addr {
        let [.., a, b, c, d] = *self.0;
        Ipv4Addr::new(a, b, c, d)
    }

    #[inline]
    fn word(&self, offset: usize) -> u16 {
        u16::from_be_bytes([self.0[offset], self.0[offset + 1]])
    }
}

impl<B: DerefMut<Target = [u8; HEADER_BYTES]>> Header<B> {
    /// Writes the time to live and brings the header checksum along.
    #[inline]
    pub fn set_ttl(&mut self, ttl: u8) {
        let old = self.word(8);
        let new = u16::from_be_bytes([ttl, self.0[9]]);
        let sum = checksum::update(self.checksum(), old, new);
        self.0[8] = ttl;
        self.put(10, sum);
    }

    /// Writes the congestion bits (RFC 3168 section 5) and brings the header checksum along.
    #[inline]
    pub fn set_ecn(&mut self, ecn: u8) {
        let old = self.word(0);
        self.0[1] = self.0[1] & !3 | ecn & 3;
        let sum = checksum::update(self.checksum(), old, self.word(0));
        self.put(10, sum);
    }

    /// Exchanges source and destination. The checksum stays right: a sum does not know the order.
    #[inline]
    pub fn swap_addresses(&mut self) {
        let (source, destination) = (self.source().octets(), self.destination().octets());
        self.0[12..16].copy_from_slice(&destination);
        self.0[16..20].copy_from_slice(&source);
    }

    /// Writes a whole header without options: identification 0, don't fragment, [`DEFAULT_TTL`].
    pub fn write(
        &mut self,
        type_of_service: u8,
        total_length: u16,
        protocol: Protocol,
        source: Ipv4Addr,
        destination: Ipv4Addr,
    ) {
        *self.0 = [0; HEADER_BYTES];
        self.0[0] = 0x45;
        self.0[1] = type_of_service;
        self.put(2, total_length);
        // RFC 6864 section 4.1: a packet that cannot be fragmented needs no identification.
        self.put(6, FLAG_DONT_FRAGMENT);
        self.0[8] = DEFAULT_TTL;
        self.0[9] = protocol.0;
        self.0[12..16].copy_from_slice(&source.octets());
        self.0[16..20].copy_from_slice(&destination.octets());
        let sum = checksum::compute(&*self.0);
        self.put(10, sum);
    }

    #[inline]
    fn put(&mut self, offset: usize, word: u16) {
        self.0[offset..offset + 2].copy_from_slice(&word.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{IpDscp, IpFragOffset, IpNumber, Ipv4Header};
    use std::vec::Vec;

    fn oracle(payload: u16, fragment: u16, ttl: u8, protocol: u8, options: &[u8]) -> Ipv4Header {
        let mut header =
            Ipv4Header::new(payload, ttl, IpNumber(protocol), [10, 66, 0, 2], [10, 66, 0, 3])
                .unwrap();
        header.dscp = IpDscp::try_new(ttl & 0x3f).unwrap();
        header.identification = fragment.rotate_left(3) ^ payload;
        header.dont_fragment = fragment & 0x4000 != 0;
        header.more_fragments = fragment & 0x2000 != 0;
        header.fragment_offset = IpFragOffset::try_new(fragment & 0x1fff).unwrap();
        header.options = options.try_into().unwrap();
        header.set_payload_len(usize::from(payload)).unwrap();
        header.header_checksum = header.calc_header_checksum();
        header
    }

    #[test]
    fn agrees_with_etherparse() {
        bolero::check!().with_type().for_each(
            |(payload, fragment, ttl, protocol, options, new_ttl): &(u16, u16, u8, u8, u8, u8)| {
                let options = &[0x01; 40][..usize::from(options % 11) * 4];
                let mut oracle = oracle(payload % 60000, *fragment, *ttl, *protocol, options);
                let mut bytes: Vec<u8> = oracle.to_bytes().to_vec();
                let frame = usize::from(oracle.total_len);
                let header = Header::check(&bytes, frame).unwrap();
                assert_eq!(usize::from(header.header_bytes()), oracle.header_len());
                assert_eq!(usize::from(header.total_length()), frame);
                assert_eq!(header.dont_fragment(), oracle.dont_fragment);
                assert_eq!(header.is_fragment(), oracle.is_fragmenting_payload());
                assert_eq!(header.is_later_fragment(), oracle.fragment_offset.value() != 0);
                assert_eq!(header.ttl(), *ttl);
                assert_eq!(header.protocol().0, *protocol);
                assert_eq!(header.checksum(), oracle.header_checksum);
                assert_eq!(header.source().octets(), oracle.source);
                assert_eq!(header.destination().octets(), oracle.destination);

                let mut header = Header::of(bytes.first_chunk_mut::<20>().unwrap());
                header.set_ttl(*new_ttl);
                header.swap_addresses();
                oracle.time_to_live = *new_ttl;
                (oracle.source, oracle.destination) = (oracle.destination, oracle.source);
                oracle.header_checksum = oracle.calc_header_checksum();
                assert_eq!(bytes, oracle.to_bytes().to_vec());
            },
        );
    }

    #[test]
    fn refuses() {
        let truncated = |needed, got| Error::Truncated(Truncated { needed, got });
        let total = |total, header, frame| Error::TotalLength { total, header, frame };
        type Break = fn(&mut Vec<u8>);
        let cases: [(&str, Break, usize, Error); 9] = [
            ("nothing", |b| b.clear(), 100, truncated(20, 0)),
            ("one byte short", |b| b.truncate(19), 100, truncated(20, 19)),
            ("version 6", |b| b[0] = 0x65, 100, Error::Version(6)),
            ("IHL 4", |b| b[0] = 0x44, 100, Error::HeaderLength(16)),
            ("options not there", |b| b[0] = 0x46, 100, truncated(24, 20)),
            ("total below header", |b| b[3] = 19, 100, total(19, 20, 100)),
            ("total above frame", |_| (), 27, total(28, 20, 27)),
            ("checksum", |b| b[11] ^= 1, 100, Error::Checksum(0x6648)),
            ("source", |b| b[12] ^= 1, 100, Error::Checksum(0x6649)),
        ];
        for (name, change, frame, error) in cases {
            let mut bytes = oracle(8, 0, 64, 17, &[]).to_bytes().to_vec();
            bytes[1] = 0;
            bytes[4..6].fill(0);
            bytes[10..12].fill(0);
            let sum = checksum::compute(&bytes);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
            assert!(Header::check(&bytes, 28).is_ok());
            change(&mut bytes);
            let got = Header::check(&bytes, frame).unwrap_err();
            assert_eq!(got, error, "{name}");
        }
    }

    #[test]
    fn check_never_panics_and_believes_only_what_fits() {
        bolero::check!().with_type().for_each(|(bytes, frame): &(Vec<u8>, u16)| {
            if let Ok(header) = Header::check(bytes, usize::from(*frame)) {
                assert!(header.total_length() <= *frame);
                assert!(u16::from(header.header_bytes()) <= header.total_length());
                assert!(usize::from(header.header_bytes()) <= bytes.len());
            }
        });
    }
}
