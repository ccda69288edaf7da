//! Frames as the tests send and expect them.

use std::net::{Ipv4Addr, Ipv6Addr};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// To everybody.
pub const BROADCAST: Mac = [0xff; 6];
/// Shortest frame without its check sequence.
const SHORTEST: usize = 60;

/// A frame, padded.
pub fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&to[..], &from, &kind.to_be_bytes(), payload].concat();
    frame.resize(frame.len().max(SHORTEST), 0);
    frame
}

/// A frame of a kind that nobody but a bridge forwards (LLDP's type), with a mark.
pub fn other(to: Mac, from: Mac, mark: u8) -> Vec<u8> {
    ethernet(to, from, 0x88cc, &[mark; 50])
}

/// UDP over IPv4, header checksum right.
pub fn udp4(link: (Mac, Mac), from: Ipv4Addr, to: Ipv4Addr, mark: u8) -> Vec<u8> {
    let mut ip =
        [&[0x45, 0, 0, 48, 0, 0, 0x40, 0, 64, 17, 0, 0][..], &from.octets(), &to.octets()].concat();
    let sum = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let udp = [&[0x10, 0, 0, 9, 0, 28, 0, 0][..], &[mark; 20]].concat();
    ethernet(link.0, link.1, 0x0800, &[ip, udp].concat())
}

/// A packet over IPv6.
pub fn ip6(from: Ipv6Addr, to: Ipv6Addr, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let [high, low] = length;
    [&[0x60, 0, 0, 0, high, low, next, hops][..], &from.octets(), &to.octets(), payload].concat()
}

/// UDP over IPv6 with this hop limit; `link`: to and from whom on the link.
pub fn udp6(link: (Mac, Mac), from: Ipv6Addr, to: Ipv6Addr, hops: u8, mark: u8) -> Vec<u8> {
    let mut udp = [&[0x10, 0, 0, 9, 0, 28, 0, 0][..], &[mark; 20]].concat();
    let sum = checksum(&[&pseudo(from, to, 17, udp.len()), &udp]);
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    ethernet(link.0, link.1, 0x86dd, &ip6(from, to, 17, hops, &udp))
}

/// An ICMPv6 message.
fn icmp6(
    link: (Mac, Mac),
    from: Ipv6Addr,
    to: Ipv6Addr,
    hops: u8,
    mut message: Vec<u8>,
) -> Vec<u8> {
    let sum = checksum(&[&pseudo(from, to, 58, message.len()), &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ethernet(link.0, link.1, 0x86dd, &ip6(from, to, 58, hops, &message))
}

/// Asks everybody in the target's group for its Ethernet address (RFC 4861 section 4.3).
pub fn solicitation(from: (Mac, Ipv6Addr), target: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = target.octets();
    let group =
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &[1, 1], &from.0].concat();
    icmp6(([0x33, 0x33, 0xff, a, b, c], from.0), from.1, group, 255, message)
}

/// The answer: `target` is at `mac` (RFC 4861 section 4.4).
pub fn advertisement(to: (Mac, Ipv6Addr), target: Ipv6Addr, mac: Mac, router: bool) -> Vec<u8> {
    // Solicited; a router overrides what was known.
    let flags = if router { 0xe0 } else { 0x40 };
    let message = [&[136, 0, 0, 0, flags, 0, 0, 0][..], &target.octets(), &[2, 1], &mac].concat();
    icmp6((to.0, mac), target, to.1, 255, message)
}

/// A ping or, with `kind` 129, its answer.
pub fn echo6(link: (Mac, Mac), from: Ipv6Addr, to: Ipv6Addr, kind: u8) -> Vec<u8> {
    icmp6(link, from, to, 64, [&[kind, 0, 0, 0, 0, 1, 0, 2][..], &[7; 24]].concat())
}

fn pseudo(from: Ipv6Addr, to: Ipv6Addr, next: u8, length: usize) -> Vec<u8> {
    let length = u32::try_from(length).unwrap_or(0).to_be_bytes();
    [&from.octets()[..], &to.octets(), &length, &[0, 0, 0, next]].concat()
}

/// The Internet checksum (RFC 1071); all parts but the last have an even number of bytes.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts
        .iter()
        .flat_map(|part| part.chunks(2))
        .map(|word| u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)])));
    let sum = words.fold(0, |sum, word| (sum + word) % 0x10000 + (sum + word) / 0x10000);
    !u16::try_from(sum).unwrap_or(0)
}
