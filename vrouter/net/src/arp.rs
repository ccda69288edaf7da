//! ARP for IPv4 over Ethernet (RFC 826).

use crate::ethernet::{self, EtherType};
use crate::{Mac, Truncated};
use core::fmt;
use core::net::Ipv4Addr;
use core::ops::{Deref, DerefMut};

/// Bytes of an ARP packet for IPv4 over Ethernet.
pub const PACKET_BYTES: usize = 28;
/// Bytes of an Ethernet frame with such a packet, without padding.
pub const FRAME_BYTES: usize = ethernet::HEADER_BYTES + PACKET_BYTES;

/// Hardware type Ethernet, protocol type IPv4, address lengths 6 and 4.
const IPV4_OVER_ETHERNET: [u8; 6] = [0x00, 0x01, 0x08, 0x00, 6, 4];

/// What an ARP packet wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation(pub u16);

impl Operation {
    /// Who has the target address?
    pub const REQUEST: Self = Self(1);
    /// The sender has its address.
    pub const REPLY: Self = Self(2);
}

/// Bytes are not an ARP packet this crate reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Too few bytes.
    Truncated(Truncated),
    /// Another hardware or protocol.
    NotIpv4OverEthernet,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated(truncated) => truncated.fmt(f),
            Self::NotIpv4OverEthernet => f.write_str("the packet is not for IPv4 over Ethernet"),
        }
    }
}

impl core::error::Error for Error {}

/// View of an ARP packet for IPv4 over Ethernet; `B` is `&[u8; 28]` or `&mut [u8; 28]`.
#[derive(Debug)]
pub struct Packet<B>(B);

impl<'a> Packet<&'a [u8; PACKET_BYTES]> {
    /// The packet at the start of `payload` (what follows the Ethernet header).
    ///
    /// # Errors
    /// Too few bytes, or another hardware or protocol type.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Error> {
        let got = payload.len();
        let packet = payload
            .first_chunk::<PACKET_BYTES>()
            .ok_or(Error::Truncated(Truncated { needed: PACKET_BYTES, got }))?;
        if !packet.starts_with(&IPV4_OVER_ETHERNET) {
            return Err(Error::NotIpv4OverEthernet);
        }
        Ok(Self(packet))
    }
}

impl<B: Deref<Target = [u8; PACKET_BYTES]>> Packet<B> {
    /// What the packet wants.
    pub fn operation(&self) -> Operation {
        Operation(u16::from_be_bytes(self.at(6)))
    }

    /// MAC address of the sender, as it claims.
    pub fn sender_mac(&self) -> Mac {
        Mac::new(self.at(8))
    }

    /// IPv4 address of the sender, as it claims; unspecified in a probe (RFC 5227 section 1.1).
    pub fn sender_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.at::<4>(14))
    }

    /// MAC address of the target; means nothing in a request.
    pub fn target_mac(&self) -> Mac {
        Mac::new(self.at(18))
    }

    /// IPv4 address of the target.
    pub fn target_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.at::<4>(24))
    }

    fn at<const N: usize>(&self, offset: usize) -> [u8; N] {
        core::array::from_fn(|i| self.0[offset + i])
    }
}

impl<B: DerefMut<Target = [u8; PACKET_BYTES]>> Packet<B> {
    fn write_reply(&mut self, mac: Mac, ip: Ipv4Addr, to_mac: Mac, to_ip: Ipv4Addr) {
        self.0[..6].copy_from_slice(&IPV4_OVER_ETHERNET);
        self.0[6..8].copy_from_slice(&Operation::REPLY.0.to_be_bytes());
        self.0[8..14].copy_from_slice(&mac.octets());
        self.0[14..18].copy_from_slice(&ip.octets());
        self.0[18..24].copy_from_slice(&to_mac.octets());
        self.0[24..28].copy_from_slice(&to_ip.octets());
    }
}

/// Writes a whole frame over `frame`: "`ip` is at `mac`", told to `to_mac` / `to_ip`.
pub fn write_reply(
    frame: &mut [u8; FRAME_BYTES],
    mac: Mac,
    ip: Ipv4Addr,
    to_mac: Mac,
    to_ip: Ipv4Addr,
) {
    // Both splits succeed: FRAME_BYTES is the sum of the two.
    if let Ok((mut header, payload)) = ethernet::Header::split_mut(frame) {
        header.set_addresses(to_mac, mac);
        header.set_ether_type(EtherType::ARP);
        if let Some(packet) = payload.first_chunk_mut() {
            Packet(packet).write_reply(mac, ip, to_mac, to_ip);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{ArpEthIpv4Packet, ArpOperation, NetSlice, SlicedPacket};

    #[test]
    fn reads_what_etherparse_writes() {
        bolero::check!().with_type().for_each(
            |(operation, sender_mac, sender_ip, target_mac, target_ip): &(
                u16,
                [u8; 6],
                [u8; 4],
                [u8; 6],
                [u8; 4],
            )| {
                let bytes = ArpEthIpv4Packet {
                    operation: ArpOperation(*operation),
                    sender_mac: *sender_mac,
                    sender_ipv4: *sender_ip,
                    target_mac: *target_mac,
                    target_ipv4: *target_ip,
                }
                .to_bytes();
                let packet = Packet::parse(&bytes).unwrap();
                assert_eq!(packet.operation(), Operation(*operation));
                assert_eq!(packet.sender_mac().octets(), *sender_mac);
                assert_eq!(packet.sender_ip().octets(), *sender_ip);
                assert_eq!(packet.target_mac().octets(), *target_mac);
                assert_eq!(packet.target_ip().octets(), *target_ip);
            },
        );
    }

    #[test]
    fn etherparse_reads_our_reply() {
        let mut frame = [0xee; FRAME_BYTES];
        let (gateway, pod) = (Mac::new([2, 0, 0, 0, 0, 1]), Mac::new([2, 0, 0, 0, 0, 2]));
        let (ip, pod_ip) = (Ipv4Addr::new(10, 66, 0, 1), Ipv4Addr::new(10, 66, 0, 2));
        write_reply(&mut frame, gateway, ip, pod, pod_ip);
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(etherparse::LinkSlice::Ethernet2(link)) = sliced.link else { panic!("no link") };
        assert_eq!(link.destination(), pod.octets());
        assert_eq!(link.source(), gateway.octets());
        let Some(NetSlice::Arp(arp)) = sliced.net else { panic!("not ARP") };
        let arp = ArpEthIpv4Packet::try_from(arp.to_packet()).unwrap();
        assert_eq!(arp.operation, ArpOperation::REPLY);
        assert_eq!(arp.sender_mac, gateway.octets());
        assert_eq!(arp.sender_ipv4, ip.octets());
        assert_eq!(arp.target_mac, pod.octets());
        assert_eq!(arp.target_ipv4, pod_ip.octets());
    }

    #[test]
    fn refuses() {
        let mut good = [0; PACKET_BYTES];
        good[..6].copy_from_slice(&IPV4_OVER_ETHERNET);
        assert!(Packet::parse(&good).is_ok());
        for at in 0..6 {
            let mut bad = good;
            bad[at] ^= 1;
            assert_eq!(Packet::parse(&bad).unwrap_err(), Error::NotIpv4OverEthernet, "byte {at}");
        }
        assert_eq!(
            Packet::parse(&good[..27]).unwrap_err(),
            Error::Truncated(Truncated { needed: 28, got: 27 })
        );
    }
}
