//! Addresses, protocol headers and checksums over plain byte slices.
//!
//! Does: parse and print MAC addresses and IP prefixes; read and change Ethernet, ARP, IPv4, IPv6,
//! ICMP and Neighbor Discovery headers in place through views that were checked once; compute, verify and update
//! Internet checksums;
//! write ARP replies, advertisements and ICMP errors.
//!
//! Does not: decide anything about a packet, allocate, do IO, know ports, networks or guests.
//!
//! May be used by: every `vrouter-*` crate. Uses: nothing but `core`.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod flow;
pub mod icmpv4;
pub mod icmpv6;
pub mod ipip;
pub mod ipv4;
pub mod ipv6;
mod mac;
pub mod mpls;
pub mod nd;
mod prefix;
mod prefix6;
pub mod segment;
pub mod vxlan;

pub use core::net::{Ipv4Addr, Ipv6Addr};
pub use mac::{Mac, ParseMacError};
pub use prefix::{Ipv4Prefix, PrefixError};
pub use prefix6::{IpPrefix, Ipv6Prefix};

/// A byte slice ends before the header that should be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated {
    /// Bytes the header needs.
    pub needed: usize,
    /// Bytes there are.
    pub got: usize,
}

impl core::fmt::Display for Truncated {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "the header needs {} bytes, there are {}", self.needed, self.got)
    }
}

impl core::error::Error for Truncated {}
