//! Neighbor Discovery for IPv6 over Ethernet (RFC 4861).

use crate::ethernet::{self, EtherType};
use crate::icmpv6::{self, Type};
use crate::ipv4::Protocol;
use crate::{Mac, ipv6};
use core::fmt;
use core::net::Ipv6Addr;

/// Hop limit of every message: who forwards one is caught (section 3.1).
pub const HOP_LIMIT: u8 = 255;
/// Bytes of the frame of an advertisement without a link-layer address.
pub const BARE_FRAME_BYTES: usize = ethernet::HEADER_BYTES + ipv6::HEADER_BYTES + FIXED_BYTES;
/// Bytes of the frame of an advertisement with one.
pub const FRAME_BYTES: usize = BARE_FRAME_BYTES + 8;

/// Bytes of a solicitation or advertisement without options.
const FIXED_BYTES: usize = 24;
const OPTION_SOURCE_LINK: u8 = 1;
const OPTION_TARGET_LINK: u8 = 2;

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Who has the target address? The sender's link-layer address, if it tells it.
    NeighborSolicitation(Ipv6Addr, Option<Mac>),
    /// I have the target address, with this link-layer address, if it tells it.
    NeighborAdvertisement(Ipv6Addr, Option<Mac>),
    /// Is there a router? The sender's link-layer address, if it tells it.
    RouterSolicitation(Option<Mac>),
    /// What routers say: advertisements and redirects.
    FromRouter,
}

/// Bytes are not a valid message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It ends before it should, or an option does, or has no length.
    Length,
    /// Its code is not zero.
    Code,
    /// It asks for or tells of a group.
    Target,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "the message or one of its options has an impossible length",
            Self::Code => "the code is not zero",
            Self::Target => "the target is a multicast address",
        })
    }
}

impl core::error::Error for Error {}

impl Message {
    /// Reads a whole ICMPv6 message. `None`: it is of another kind. Its checksum, hop limit and addresses are the
    /// caller's to check.
    ///
    /// # Errors
    /// See [`enum@Error`].
    pub fn parse(message: &[u8]) -> Result<Option<Self>, Error> {
        let Some(kind) = message.first().copied().map(Type) else { return Err(Error::Length) };
        let fixed = match kind {
            Type::ROUTER_SOLICITATION => 8,
            Type::NEIGHBOR_SOLICITATION | Type::NEIGHBOR_ADVERTISEMENT => FIXED_BYTES,
            Type::ROUTER_ADVERTISEMENT | Type::REDIRECT => return Ok(Some(Self::FromRouter)),
            _ => return Ok(None),
        };
        let options = message.get(fixed..).ok_or(Error::Length)?;
        if message.get(1) != Some(&0) {
            return Err(Error::Code);
        }
        let target = || {
            let bytes = message.get(8..).and_then(|rest| rest.first_chunk::<16>());
            let target = Ipv6Addr::from(*bytes.ok_or(Error::Length)?);
            if target.is_multicast() { Err(Error::Target) } else { Ok(target) }
        };
        Ok(Some(match kind {
            Type::NEIGHBOR_SOLICITATION => {
                Self::NeighborSolicitation(target()?, link_option(options, OPTION_SOURCE_LINK)?)
            }
            Type::NEIGHBOR_ADVERTISEMENT => {
                Self::NeighborAdvertisement(target()?, link_option(options, OPTION_TARGET_LINK)?)
            }
            _ => Self::RouterSolicitation(link_option(options, OPTION_SOURCE_LINK)?),
        }))
    }
}

/// The link-layer address of an option, the last one if there are several. All options must be well formed
/// (section 4.6).
fn link_option(mut options: &[u8], wanted: u8) -> Result<Option<Mac>, Error> {
    let mut found = None;
    while let Some([kind, units]) = options.first_chunk().copied() {
        let bytes = usize::from(units) * 8;
        if bytes == 0 {
            return Err(Error::Length);
        }
        let (option, rest) = options.split_at_checked(bytes).ok_or(Error::Length)?;
        if kind == wanted {
            // Ethernet's fits one unit.
            let octets = option.get(2..8).and_then(|octets| octets.first_chunk());
            match octets {
                Some(octets) if units == 1 => found = Some(Mac::new(*octets)),
                _ => return Err(Error::Length),
            }
        }
        options = rest;
    }
    if options.is_empty() { Ok(found) } else { Err(Error::Length) }
}

/// An advertisement about to be written: "`target` is at `mac`".
#[derive(Clone, Copy, Debug)]
pub struct Advertisement {
    /// Whose address it is about.
    pub target: Ipv6Addr,
    /// Where it is.
    pub mac: Mac,
    /// Who is told: Ethernet and IPv6 destination.
    pub to: (Mac, Ipv6Addr),
    /// The target is a router.
    pub is_router: bool,
    /// It answers a question of one node; false when it goes to all.
    pub is_solicited: bool,
    /// What the receiver knows about the target so far is void.
    pub is_override: bool,
}

impl Advertisement {
    /// Writes a whole frame over the start of `frame` and returns its bytes: [`FRAME_BYTES`], or where there is no
    /// room for the link-layer address option [`BARE_FRAME_BYTES`]; `None` where there is none for that either.
    pub fn write(&self, frame: &mut [u8]) -> Option<usize> {
        let with_option = frame.len() >= FRAME_BYTES;
        let bytes = if with_option { FRAME_BYTES } else { BARE_FRAME_BYTES };
        let (mut link, packet) = ethernet::Header::split_mut(frame.get_mut(..bytes)?).ok()?;
        link.set_addresses(self.to.0, self.mac);
        link.set_ether_type(EtherType::IPV6);
        let (header, message) = packet.split_first_chunk_mut()?;
        let length = u16::try_from(message.len()).ok()?;
        ipv6::Header::of(header).write(length, Protocol::ICMPV6, HOP_LIMIT, self.target, self.to.1);
        let flags = u8::from(self.is_router) << 7
            | u8::from(self.is_solicited) << 6
            | u8::from(self.is_override) << 5;
        message.get_mut(..8)?.copy_from_slice(&[
            Type::NEIGHBOR_ADVERTISEMENT.0,
            0,
            0,
            0,
            flags,
            0,
            0,
            0,
        ]);
        message.get_mut(8..FIXED_BYTES)?.copy_from_slice(&self.target.octets());
        if with_option {
            message
                .get_mut(FIXED_BYTES..FIXED_BYTES + 2)?
                .copy_from_slice(&[OPTION_TARGET_LINK, 1]);
            message.get_mut(FIXED_BYTES + 2..)?.copy_from_slice(&self.mac.octets());
        }
        let sum = icmpv6::compute(self.target, self.to.1, message);
        message.get_mut(2..4)?.copy_from_slice(&sum.to_be_bytes());
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{Icmpv6Type, NetSlice, SlicedPacket, TransportSlice};
    use std::vec::Vec;

    const TARGET: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x66, 0, 0, 0, 0, 0, 1);
    const MAC: Mac = Mac::new([2, 0, 0, 0, 0, 1]);

    fn message(kind: u8, options: &[&[u8]]) -> Vec<u8> {
        let mut bytes = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &TARGET.octets()].concat();
        if kind == 133 {
            bytes.truncate(8);
        }
        bytes.extend(options.concat());
        bytes
    }

    #[test]
    fn parses() {
        let (source, target) = ([1, 1, 2, 0, 0, 0, 0, 1], [2, 1, 2, 0, 0, 0, 0, 1]);
        let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
        let long = [200, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        use Message::*;
        for (bytes, expected) in [
            (message(135, &[]), Ok(Some(NeighborSolicitation(TARGET, None)))),
            (message(135, &[&source]), Ok(Some(NeighborSolicitation(TARGET, Some(MAC))))),
            (message(135, &[&target]), Ok(Some(NeighborSolicitation(TARGET, None)))),
            (
                message(135, &[&long, &nonce, &source]),
                Ok(Some(NeighborSolicitation(TARGET, Some(MAC)))),
            ),
            (message(136, &[&target]), Ok(Some(NeighborAdvertisement(TARGET, Some(MAC))))),
            (message(136, &[&source]), Ok(Some(NeighborAdvertisement(TARGET, None)))),
            (message(133, &[&source]), Ok(Some(RouterSolicitation(Some(MAC))))),
            (message(134, &[]), Ok(Some(FromRouter))),
            (message(137, &[]), Ok(Some(FromRouter))),
            (message(128, &[]), Ok(None)),
            (message(135, &[])[..23].to_vec(), Err(Error::Length)),
            (message(133, &[])[..7].to_vec(), Err(Error::Length)),
            (Vec::new(), Err(Error::Length)),
            (message(135, &[&[1, 0, 2, 0, 0, 0, 0, 1]]), Err(Error::Length)),
            (message(135, &[&[1, 2, 2, 0, 0, 0, 0, 1]]), Err(Error::Length)),
            (message(135, &[&[1, 2], &[0; 14]]), Err(Error::Length)),
            (message(135, &[&source, &[1]]), Err(Error::Length)),
        ] {
            assert_eq!(Message::parse(&bytes), expected, "{bytes:?}");
        }
        let mut bad = message(135, &[]);
        bad[1] = 1;
        assert_eq!(Message::parse(&bad), Err(Error::Code));
        let mut bad = message(135, &[]);
        bad[8] = 0xff;
        assert_eq!(Message::parse(&bad), Err(Error::Target));
    }

    #[test]
    fn etherparse_reads_our_advertisements() {
        let pod = (Mac::new([2, 0, 0, 0, 0, 2]), Ipv6Addr::new(0xfd00, 0x66, 0, 0, 0, 0, 0, 2));
        for flags in 0..8 {
            let [is_router, is_solicited, is_override] = [0, 1, 2].map(|bit| flags & 1 << bit != 0);
            let advertisement = Advertisement {
                target: TARGET,
                mac: MAC,
                to: pod,
                is_router,
                is_solicited,
                is_override,
            };
            for (room, bytes) in [(77, None), (78, Some(78)), (85, Some(78)), (90, Some(86))] {
                let mut frame = std::vec![0xee; room];
                assert_eq!(advertisement.write(&mut frame), bytes);
                let Some(bytes) = bytes else { continue };
                assert!(frame[bytes..].iter().all(|byte| *byte == 0xee));
                let sliced = SlicedPacket::from_ethernet(&frame[..bytes]).unwrap();
                let Some(NetSlice::Ipv6(ip)) = sliced.net else { panic!("not IPv6") };
                let ip = ip.header().to_header();
                assert_eq!((ip.source, ip.destination), (TARGET.octets(), pod.1.octets()));
                assert_eq!(ip.hop_limit, 255);
                let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else {
                    panic!("not ICMPv6")
                };
                assert!(icmp.is_checksum_valid(ip.source, ip.destination));
                let Icmpv6Type::NeighborAdvertisement(header) = icmp.icmp_type() else {
                    panic!("no advertisement: {:?}", icmp.icmp_type())
                };
                assert_eq!(
                    (header.router, header.solicited, header.r#override),
                    (is_router, is_solicited, is_override)
                );
                let told = Message::parse(&frame[54..bytes]);
                let mac = (bytes == FRAME_BYTES).then_some(MAC);
                assert_eq!(told, Ok(Some(Message::NeighborAdvertisement(TARGET, mac))));
            }
        }
    }

    #[test]
    fn any_bytes_are_safe() {
        bolero::check!().with_type().for_each(|(kind, bytes): &(u8, Vec<u8>)| {
            let mut bytes = bytes.clone();
            if let Some(first) = bytes.first_mut() {
                *first = 133 + kind % 5;
            }
            if let Ok(Some(Message::NeighborSolicitation(target, _))) = Message::parse(&bytes) {
                assert!(bytes.len() >= 24 && !target.is_multicast());
            }
        });
    }
}
