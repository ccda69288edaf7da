//! ICMP for IPv4 (RFC 792).

use crate::ethernet::{self, EtherType};
use crate::ipv4::{self, Protocol};
use crate::{Mac, Truncated, checksum};
use core::net::Ipv4Addr;
use core::ops::{Deref, DerefMut};

/// Bytes of an ICMP header with its second word (identifier and sequence, or MTU, or unused).
pub const HEADER_BYTES: usize = 8;
/// Bytes in front of the quoted packet in the frame of an ICMP error.
pub const ERROR_OVERHEAD_BYTES: usize = ethernet::HEADER_BYTES + ipv4::HEADER_BYTES + HEADER_BYTES;
/// Most bytes of the offending packet that an error quotes: the error stays below 576 bytes (RFC 1812
/// section 4.3.2.3).
pub const MAX_QUOTE_BYTES: usize = 576 - ipv4::HEADER_BYTES - HEADER_BYTES;

/// Precedence "internetwork control" (RFC 1812 section 4.3.2.5).
const ERROR_TYPE_OF_SERVICE: u8 = 0xc0;

/// Type of an ICMP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Type(pub u8);

impl Type {
    /// Answer to an echo request.
    pub const ECHO_REPLY: Self = Self(0);
    /// A packet could not be delivered.
    pub const DESTINATION_UNREACHABLE: Self = Self(3);
    /// Slow down (deprecated by RFC 6633, still an error).
    pub const SOURCE_QUENCH: Self = Self(4);
    /// Another gateway is nearer.
    pub const REDIRECT: Self = Self(5);
    /// Please answer.
    pub const ECHO_REQUEST: Self = Self(8);
    /// The TTL ran out.
    pub const TIME_EXCEEDED: Self = Self(11);
    /// A header field is wrong.
    pub const PARAMETER_PROBLEM: Self = Self(12);

    /// Whether the message reports an error, so that no error may be sent about it (RFC 1122 section
    /// 3.2.2).
    pub const fn is_error(self) -> bool {
        matches!(
            self,
            Self::DESTINATION_UNREACHABLE
                | Self::SOURCE_QUENCH
                | Self::REDIRECT
                | Self::TIME_EXCEEDED
                | Self::PARAMETER_PROBLEM
        )
    }
}

/// View of an ICMP header; `B` is `&[u8; 8]` or `&mut [u8; 8]`.
#[derive(Debug)]
pub struct Header<B>(B);

impl<'a> Header<&'a [u8; HEADER_BYTES]> {
    /// The header at the start of `message`.
    ///
    /// # Errors
    /// Fewer than 8 bytes.
    pub fn parse(message: &'a [u8]) -> Result<Self, Truncated> {
        let got = message.len();
        Ok(Self(message.first_chunk().ok_or(Truncated { needed: HEADER_BYTES, got })?))
    }
}

impl<B: Deref<Target = [u8; HEADER_BYTES]>> Header<B> {
    /// Type of the message.
    pub fn kind(&self) -> Type {
        Type(self.0[0])
    }

    /// Refines the type.
    pub fn code(&self) -> u8 {
        self.0[1]
    }

    /// The checksum field, over the whole message.
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.0[2], self.0[3]])
    }
}

impl<B: DerefMut<Target = [u8; HEADER_BYTES]>> Header<B> {
    fn put_checksum(&mut self, checksum: u16) {
        self.0[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Turns the echo request at the start of `message` into its reply.
///
/// `message` may end before the request does. The checksum is updated, not computed: a request whose
/// payload was damaged gets a reply that is as wrong.
///
/// # Errors
/// Fewer than 8 bytes; nothing is changed then.
pub fn echo_reply(message: &mut [u8]) -> Result<(), Truncated> {
    let got = message.len();
    let Some((bytes, rest)) = message.split_first_chunk_mut::<HEADER_BYTES>() else {
        return Err(Truncated { needed: HEADER_BYTES, got });
    };
    let old = u16::from_be_bytes([bytes[0], bytes[1]]);
    let mut header = Header(bytes);
    let new = u16::from_be_bytes([Type::ECHO_REPLY.0, header.code()]);
    let mut sum = checksum::update(header.checksum(), old, new);
    header.0[0] = Type::ECHO_REPLY.0;
    // The one case where an update is wrong: a message of nothing but zeros needs 0xffff, see
    // `checksum::update`. If there are other bytes past `message` both values add up.
    let zeros = new == 0 && header.0[4..].iter().chain(&*rest).all(|byte| *byte == 0);
    if sum == 0 && zeros {
        sum = 0xffff;
    }
    header.put_checksum(sum);
    Ok(())
}

/// An error that a router reports about a packet, in the words of IPv4; IPv6 knows the same ones
/// ([`crate::icmpv6`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorKind {
    /// There is no route to the destination.
    NetworkUnreachable,
    /// Nobody has the destination address.
    HostUnreachable,
    /// The packet may not be fragmented and the next link takes less.
    FragmentationNeeded {
        /// Bytes of the largest IP packet the next link takes (RFC 1191 section 4).
        mtu: u16,
    },
    /// The TTL ran out on the way.
    TimeExceeded,
}

impl ErrorKind {
    /// Type, code and the low half of the second word.
    const fn fields(self) -> (Type, u8, u16) {
        match self {
            Self::NetworkUnreachable => (Type::DESTINATION_UNREACHABLE, 0, 0),
            Self::HostUnreachable => (Type::DESTINATION_UNREACHABLE, 1, 0),
            Self::FragmentationNeeded { mtu } => (Type::DESTINATION_UNREACHABLE, 4, mtu),
            Self::TimeExceeded => (Type::TIME_EXCEEDED, 0, 0),
        }
    }
}

/// An ICMP error about to be written as a whole Ethernet frame.
#[derive(Clone, Copy, Debug)]
pub struct ErrorFrame<'a> {
    /// What is reported.
    pub kind: ErrorKind,
    /// Ethernet source and IPv4 source: the reporting router.
    pub from: (Mac, Ipv4Addr),
    /// Ethernet destination and IPv4 destination: who sent the offending packet.
    pub to: (Mac, Ipv4Addr),
    /// Start of the offending packet, from its IPv4 header; at most [`MAX_QUOTE_BYTES`] are used.
    pub quote: &'a [u8],
}

impl ErrorFrame<'_> {
    /// Writes the frame to the start of `out` and returns its bytes.
    ///
    /// # Errors
    /// `out` is shorter than [`ERROR_OVERHEAD_BYTES`] plus the quote.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, Truncated> {
        let quote = self.quote.get(..MAX_QUOTE_BYTES).unwrap_or(self.quote);
        let needed = ERROR_OVERHEAD_BYTES + quote.len();
        let truncated = Truncated { needed, got: out.len() };
        let frame = out.get_mut(..needed).ok_or(truncated)?;

        let (mut link, packet) = ethernet::Header::split_mut(frame)?;
        link.set_addresses(self.to.0, self.from.0);
        link.set_ether_type(EtherType::IPV4);

        let total = u16::try_from(packet.len()).map_err(|_| truncated)?;
        let (bytes, message) = packet.split_first_chunk_mut().ok_or(truncated)?;
        ipv4::Header::of(bytes).write(
            ERROR_TYPE_OF_SERVICE,
            total,
            Protocol::ICMP,
            self.from.1,
            self.to.1,
        );

        let (kind, code, low) = self.kind.fields();
        let (header, body) = message.split_first_chunk_mut::<HEADER_BYTES>().ok_or(truncated)?;
        let [high, low] = low.to_be_bytes();
        *header = [kind.0, code, 0, 0, 0, 0, high, low];
        body.copy_from_slice(quote);
        let sum = checksum::compute(message);
        if let Some(header) = message.first_chunk_mut() {
            Header(header).put_checksum(sum);
        }
        Ok(needed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::icmpv4::{DestUnreachableHeader, TimeExceededCode};
    use etherparse::{
        IcmpEchoHeader, Icmpv4Header, Icmpv4Type, NetSlice, SlicedPacket, TransportSlice,
    };
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn echo_reply_is_what_etherparse_computes() {
        bolero::check!().with_type().for_each(|(id, seq, payload): &(u16, u16, Vec<u8>)| {
            let echo = IcmpEchoHeader { id: *id, seq: *seq };
            let message = |kind| {
                let mut bytes = Icmpv4Header::with_checksum(kind, payload).to_bytes().to_vec();
                bytes.extend_from_slice(payload);
                bytes
            };
            let mut bytes = message(Icmpv4Type::EchoRequest(echo));
            echo_reply(&mut bytes).unwrap();
            assert!(checksum::verify(&bytes));
            assert_eq!(bytes, message(Icmpv4Type::EchoReply(echo)));
        });
    }

    #[test]
    fn echo_reply_of_zeros_adds_up() {
        for payload in [0, 1, 56, 200] {
            for seen in [8, 8 + payload] {
                let mut bytes = vec![0; 8 + payload];
                bytes[0] = 8;
                let sum = checksum::compute(&bytes);
                bytes[2..4].copy_from_slice(&sum.to_be_bytes());
                echo_reply(&mut bytes[..seen]).unwrap();
                assert!(checksum::verify(&bytes), "payload {payload}, seen {seen}");
            }
        }
    }

    #[test]
    fn echo_reply_keeps_a_wrong_checksum_wrong() {
        bolero::check!().with_type().for_each(|(rest, wrong): &([u8; 24], u16)| {
            let mut bytes = [0; 32];
            bytes[0] = 8;
            bytes[8..].copy_from_slice(rest);
            bytes[2..4].copy_from_slice(&wrong.to_be_bytes());
            let before = checksum::verify(&bytes);
            echo_reply(&mut bytes).unwrap();
            assert_eq!(checksum::verify(&bytes), before);
        });
    }

    #[test]
    fn echo_reply_refuses_a_short_message() {
        let mut bytes = [8, 0, 0, 0, 0, 0, 0];
        assert_eq!(echo_reply(&mut bytes), Err(Truncated { needed: 8, got: 7 }));
        assert_eq!(bytes, [8, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn etherparse_reads_our_errors() {
        let from = (Mac::new([2, 0, 0, 0, 0, 1]), Ipv4Addr::new(10, 66, 0, 1));
        let to = (Mac::new([2, 0, 0, 0, 0, 2]), Ipv4Addr::new(10, 66, 0, 2));
        let quote: Vec<u8> = (0..=255).cycle().take(700).collect();
        for (kind, expected) in [
            (
                ErrorKind::NetworkUnreachable,
                Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Network),
            ),
            (
                ErrorKind::HostUnreachable,
                Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host),
            ),
            (
                ErrorKind::FragmentationNeeded { mtu: 1400 },
                Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
                    next_hop_mtu: 1400,
                }),
            ),
            (
                ErrorKind::TimeExceeded,
                Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit),
            ),
        ] {
            for (length, quoted) in [(28, 28), (29, 29), (114, 114), (700, 548)] {
                let frame = ErrorFrame { kind, from, to, quote: &quote[..length] };
                let mut out = [0xee; 1000];
                let bytes = frame.write(&mut out).unwrap();
                assert_eq!(bytes, 42 + quoted);
                assert!(out[bytes..].iter().all(|byte| *byte == 0xee));
                let sliced = SlicedPacket::from_ethernet(&out[..bytes]).unwrap();
                let Some(etherparse::LinkSlice::Ethernet2(link)) = sliced.link else {
                    panic!("no link")
                };
                assert_eq!(link.destination(), to.0.octets());
                assert_eq!(link.source(), from.0.octets());
                let Some(NetSlice::Ipv4(ip)) = sliced.net else { panic!("not IPv4") };
                let ip = ip.header().to_header();
                assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                assert_eq!((ip.source, ip.destination), (from.1.octets(), to.1.octets()));
                assert_eq!(usize::from(ip.total_len), bytes - 14);
                assert_eq!(ip.time_to_live, 64);
                let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else {
                    panic!("not ICMP")
                };
                assert_eq!(icmp.icmp_type(), expected);
                assert_eq!(icmp.checksum(), expected.calc_checksum(icmp.payload()));
                assert_eq!(icmp.payload(), &quote[..quoted]);

                assert_eq!(
                    frame.write(&mut vec![0; bytes - 1]),
                    Err(Truncated { needed: bytes, got: bytes - 1 })
                );
            }
        }
    }

    #[test]
    fn errors_are_known() {
        let errors: Vec<u8> = (0..=255).filter(|kind| Type(*kind).is_error()).collect();
        assert_eq!(errors, [3, 4, 5, 11, 12]);
    }
}
