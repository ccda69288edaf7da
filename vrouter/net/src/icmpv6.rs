//! ICMP for IPv6 (RFC 4443).

use crate::ethernet::{self, EtherType};
use crate::icmpv4::ErrorKind;
use crate::ipv4::Protocol;
use crate::{Mac, Truncated, checksum, ipv6};
use core::net::Ipv6Addr;

/// Bytes of a header with its second word (identifier and sequence, or MTU, or unused).
pub const HEADER_BYTES: usize = 8;
/// Bytes in front of the quoted packet in the frame of an error.
pub const ERROR_OVERHEAD_BYTES: usize = ethernet::HEADER_BYTES + ipv6::HEADER_BYTES + HEADER_BYTES;
/// Most bytes of the offending packet that an error quotes: the error fits the smallest MTU (section 2.4 (c)).
pub const MAX_QUOTE_BYTES: usize = ipv6::MIN_MTU as usize - ipv6::HEADER_BYTES - HEADER_BYTES;

/// Type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Type(pub u8);

impl Type {
    /// A packet could not be delivered.
    pub const DESTINATION_UNREACHABLE: Self = Self(1);
    /// A packet was larger than the next link takes.
    pub const PACKET_TOO_BIG: Self = Self(2);
    /// The hop limit ran out.
    pub const TIME_EXCEEDED: Self = Self(3);
    /// Please answer.
    pub const ECHO_REQUEST: Self = Self(128);
    /// Answer to an echo request.
    pub const ECHO_REPLY: Self = Self(129);
    /// Is there a router? (RFC 4861)
    pub const ROUTER_SOLICITATION: Self = Self(133);
    /// I am a router. (RFC 4861)
    pub const ROUTER_ADVERTISEMENT: Self = Self(134);
    /// Who has this address? (RFC 4861)
    pub const NEIGHBOR_SOLICITATION: Self = Self(135);
    /// I have this address. (RFC 4861)
    pub const NEIGHBOR_ADVERTISEMENT: Self = Self(136);
    /// Another router is nearer. (RFC 4861)
    pub const REDIRECT: Self = Self(137);

    /// Whether no error may be sent about the message: errors and redirects (section 2.4 (e)).
    pub const fn is_error(self) -> bool {
        self.0 < 128 || self.0 == Self::REDIRECT.0
    }
}

/// The checksum of a whole message whose checksum field is zero (section 2.3, RFC 8200 section 8.1).
pub fn compute(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    !sum(source, destination, message)
}

/// Whether a whole message adds up.
pub fn verify(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> bool {
    sum(source, destination, message) == 0xffff
}

fn sum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let mut pseudo = [0; 40];
    pseudo[..16].copy_from_slice(&source.octets());
    pseudo[16..32].copy_from_slice(&destination.octets());
    // A message longer than a packet can be does not add up whatever stands here.
    let length = u32::try_from(message.len()).unwrap_or(0);
    pseudo[32..36].copy_from_slice(&length.to_be_bytes());
    pseudo[39] = Protocol::ICMPV6.0;
    // `update` of a sum s from word 0 to word w is the one's complement sum of s and w.
    !checksum::update(!checksum::sum(&pseudo), 0, checksum::sum(message))
}

/// Turns the echo request at the start of `message` into its reply, of which addresses are swapped: they count in
/// the checksum alike.
///
/// `message` may end before the request does. The checksum is updated, not computed: a request whose payload was
/// damaged gets a reply that is as wrong.
///
/// # Errors
/// Fewer than 8 bytes; nothing is changed then.
pub fn echo_reply(message: &mut [u8]) -> Result<(), Truncated> {
    let got = message.len();
    let header =
        message.first_chunk_mut::<HEADER_BYTES>().ok_or(Truncated { needed: HEADER_BYTES, got })?;
    let word = |kind: u8, code| u16::from_be_bytes([kind, code]);
    let old = u16::from_be_bytes([header[2], header[3]]);
    // The pseudo header is never zero, so that an update is always right.
    let new =
        checksum::update(old, word(header[0], header[1]), word(Type::ECHO_REPLY.0, header[1]));
    header[0] = Type::ECHO_REPLY.0;
    header[2..4].copy_from_slice(&new.to_be_bytes());
    Ok(())
}

/// Type, code and second word of an error.
const fn fields(kind: ErrorKind) -> (Type, u8, u32) {
    match kind {
        ErrorKind::NetworkUnreachable => (Type::DESTINATION_UNREACHABLE, 0, 0),
        ErrorKind::HostUnreachable => (Type::DESTINATION_UNREACHABLE, 3, 0),
        ErrorKind::FragmentationNeeded { mtu } => (Type::PACKET_TOO_BIG, 0, mtu as u32),
        ErrorKind::TimeExceeded => (Type::TIME_EXCEEDED, 0, 0),
    }
}

/// An error about to be written as a whole Ethernet frame.
#[derive(Clone, Copy, Debug)]
pub struct ErrorFrame<'a> {
    /// What is reported.
    pub kind: ErrorKind,
    /// Ethernet source and IPv6 source: the reporting router.
    pub from: (Mac, Ipv6Addr),
    /// Ethernet destination and IPv6 destination: who sent the offending packet.
    pub to: (Mac, Ipv6Addr),
    /// Start of the offending packet, from its IPv6 header; at most [`MAX_QUOTE_BYTES`] are used.
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
        link.set_ether_type(EtherType::IPV6);

        let (bytes, message) = packet.split_first_chunk_mut().ok_or(truncated)?;
        let length = u16::try_from(message.len()).map_err(|_| truncated)?;
        ipv6::Header::of(bytes).write(
            length,
            Protocol::ICMPV6,
            ipv6::DEFAULT_HOP_LIMIT,
            self.from.1,
            self.to.1,
        );

        let (kind, code, word) = fields(self.kind);
        let (header, body) = message.split_first_chunk_mut::<HEADER_BYTES>().ok_or(truncated)?;
        let [a, b, c, d] = word.to_be_bytes();
        *header = [kind.0, code, 0, 0, a, b, c, d];
        body.copy_from_slice(quote);
        let sum = compute(self.from.1, self.to.1, message);
        if let Some(field) = message.get_mut(2..4) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
        Ok(needed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::icmpv6::{DestUnreachableCode, TimeExceededCode};
    use etherparse::{
        IcmpEchoHeader, Icmpv6Header, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice,
    };
    use std::vec;
    use std::vec::Vec;

    fn message(kind: Icmpv6Type, from: [u8; 16], to: [u8; 16], payload: &[u8]) -> Vec<u8> {
        let header = Icmpv6Header::with_checksum(kind, from, to, payload).unwrap();
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn echo_reply_is_what_etherparse_computes() {
        bolero::check!().with_type().for_each(
            |(id, seq, from, to, payload): &(u16, u16, [u8; 16], [u8; 16], Vec<u8>)| {
                let echo = IcmpEchoHeader { id: *id, seq: *seq };
                let mut bytes = message(Icmpv6Type::EchoRequest(echo), *from, *to, payload);
                assert!(verify((*from).into(), (*to).into(), &bytes));
                echo_reply(&mut bytes).unwrap();
                assert!(verify((*to).into(), (*from).into(), &bytes));
                let expected = message(Icmpv6Type::EchoReply(echo), *to, *from, payload);
                // Both forms of zero add up.
                if bytes[2..4] != [0, 0] && expected[2..4] != [0xff, 0xff] {
                    assert_eq!(bytes, expected);
                }
                bytes[4] ^= 1;
                assert!(!verify((*to).into(), (*from).into(), &bytes));
            },
        );
        let mut short = [128, 0, 0, 0, 0, 0, 0];
        assert_eq!(echo_reply(&mut short), Err(Truncated { needed: 8, got: 7 }));
    }

    #[test]
    fn etherparse_reads_our_errors() {
        let from = (Mac::new([2, 0, 0, 0, 0, 1]), "fd00::1".parse().unwrap());
        let to = (Mac::new([2, 0, 0, 0, 0, 2]), "fd00::2".parse().unwrap());
        let quote: Vec<u8> = (0..=255).cycle().take(2000).collect();
        for (kind, expected) in [
            (
                ErrorKind::NetworkUnreachable,
                Icmpv6Type::DestinationUnreachable(DestUnreachableCode::NoRoute),
            ),
            (
                ErrorKind::HostUnreachable,
                Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Address),
            ),
            (ErrorKind::FragmentationNeeded { mtu: 1400 }, Icmpv6Type::PacketTooBig { mtu: 1400 }),
            (ErrorKind::TimeExceeded, Icmpv6Type::TimeExceeded(TimeExceededCode::HopLimitExceeded)),
        ] {
            for (length, quoted) in [(40, 40), (41, 41), (114, 114), (2000, 1232)] {
                let frame = ErrorFrame { kind, from, to, quote: &quote[..length] };
                let mut out = [0xee; 2100];
                let bytes = frame.write(&mut out).unwrap();
                assert_eq!(bytes, 62 + quoted);
                assert!(out[bytes..].iter().all(|byte| *byte == 0xee));
                let sliced = SlicedPacket::from_ethernet(&out[..bytes]).unwrap();
                let Some(NetSlice::Ipv6(ip)) = sliced.net else { panic!("not IPv6") };
                let ip = ip.header().to_header();
                assert_eq!((ip.source, ip.destination), (from.1.octets(), to.1.octets()));
                assert_eq!((usize::from(ip.payload_length), ip.hop_limit), (bytes - 54, 64));
                let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else {
                    panic!("not ICMPv6")
                };
                assert_eq!(icmp.icmp_type(), expected);
                assert!(icmp.is_checksum_valid(ip.source, ip.destination));
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
        assert_eq!(errors, (0..128).chain([137]).collect::<Vec<_>>());
    }
}
