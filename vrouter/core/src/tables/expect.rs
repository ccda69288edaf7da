//! What frames look like that are right in the most common way.

use crate::{NetworkPolicy, PortPolicy, PortRole};
use core::net::Ipv6Addr;
use vrouter_net::ethernet::EtherType;

/// What the first 32 bytes of a frame must be that is right in the common way, as little-endian words with a mask
/// for each: from this port's MAC and IPv4 address to the gateway, IPv4, no options. Type of service and all that
/// differs from packet to packet may be anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expect {
    words: [u64; 4],
}

/// Who sends to the vRouter, and so which of the bytes must be right: of words 0, 1 and 3.
pub(crate) trait Sender {
    const MASK: [u64; 3];
    /// The same of words 0 and 1 for IPv6.
    const MASK6: [u64; 2];

    /// Whether it may send from the IPv4 address in word 3, beside what the mask says.
    #[inline(always)]
    fn may_send4(_fourth: u64) -> bool {
        true
    }

    /// Whether it may send from an IPv6 address: from its own, if it has one.
    #[inline(always)]
    fn may_send6(own: Ipv6Addr, source: Ipv6Addr) -> bool {
        own == source
    }
}

impl Expect {
    pub fn new(port: &PortPolicy, network: &NetworkPolicy) -> Self {
        let mut bytes = [0; 32];
        let to = if network.external { port.mac } else { network.gateway_mac };
        bytes[..6].copy_from_slice(&to.octets());
        bytes[6..12].copy_from_slice(&port.mac.octets());
        bytes[12..14].copy_from_slice(&EtherType::IPV4.0.to_be_bytes());
        bytes[14] = 0x45;
        bytes[26..30].copy_from_slice(&port.ipv4.octets());
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Self { words }
    }

    /// Whether words 0, 1 and 3 of a frame are as expected.
    #[inline]
    pub fn agrees<S: Sender>(&self, first: u64, second: u64, fourth: u64) -> bool {
        let wrong = ((first ^ self.words[0]) & S::MASK[0])
            | ((second ^ self.words[1]) & S::MASK[1])
            | ((fourth ^ self.words[3]) & S::MASK[2]);
        wrong == 0
    }
}

/// The same for IPv6: words 0 and 1, and the source address. The traffic class and the flow label may be anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expect6 {
    words: [u64; 2],
    pub source: Ipv6Addr,
}

impl Expect6 {
    pub fn new(port: &PortPolicy, network: &NetworkPolicy) -> Option<Self> {
        // Whoever may use any address has none to compare with.
        let source = match port.role {
            PortRole::Pod => port.ipv6?,
            PortRole::Kernel => network.ipv6.map(|_| Ipv6Addr::UNSPECIFIED)?,
            PortRole::Uplink { .. } | PortRole::Host { .. } => Ipv6Addr::UNSPECIFIED,
        };
        let mut bytes = [0; 16];
        let to = if network.external { port.mac } else { network.gateway_mac };
        bytes[..6].copy_from_slice(&to.octets());
        bytes[6..12].copy_from_slice(&port.mac.octets());
        bytes[12..14].copy_from_slice(&EtherType::IPV6.0.to_be_bytes());
        bytes[14] = 0x60;
        let [first, second] = *bytes.as_chunks().0 else { return None };
        let words = [u64::from_le_bytes(first), u64::from_le_bytes(second)];
        Some(Self { words, source })
    }

    /// Whether words 0 and 1 of a frame are as expected.
    #[inline]
    pub fn agrees<S: Sender>(&self, first: u64, second: u64) -> bool {
        ((first ^ self.words[0]) & S::MASK6[0]) | ((second ^ self.words[1]) & S::MASK6[1]) == 0
    }
}
