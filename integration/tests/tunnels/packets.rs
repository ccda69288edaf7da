//! Packets as the tests send and expect them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Begins what a test recognises its packets by.
const MARK: [u8; 4] = *b"RWt:";

/// An address as it is written with colons.
pub fn mac(text: &str) -> Option<Mac> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    Mac::try_from(bytes?).ok()
}

/// A frame.
pub fn ethernet(to: Mac, from: Mac, packet: &[u8]) -> Vec<u8> {
    let kind: [u8; 2] =
        if packet.first().is_some_and(|it| it >> 4 == 6) { [0x86, 0xdd] } else { [0x08, 0x00] };
    [&to[..], &from, &kind, packet].concat()
}

/// Which packet of the tests a frame carries, at whatever depth.
pub fn mark(frame: &[u8]) -> Option<u8> {
    let at = frame.windows(MARK.len()).position(|window| window == MARK)?;
    frame.get(at + MARK.len()).copied()
}

/// A packet of the tests: what is said about it is what routers look at.
#[derive(Clone, Debug)]
pub struct Inner {
    /// Tells it from others.
    pub number: u8,
    /// Traffic class.
    pub class: u8,
    /// Time to live, or hop limit.
    pub hops: u8,
    /// IPv4: flags and fragment offset, as they are in the header. IPv6: the flow label.
    pub extra: u32,
    /// Protocol.
    pub protocol: u8,
    /// Bytes of the whole packet.
    pub bytes: usize,
}

impl Inner {
    /// Whether it is a part of a packet: of IPv6 there are none here.
    pub fn is_fragment(&self, six: bool) -> bool {
        !six && self.extra & 0x3fff != 0
    }

    /// It, from somewhere to somewhere of the same family.
    pub fn packet(&self, from: IpAddr, to: IpAddr) -> Vec<u8> {
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => self.four(from, to),
            (IpAddr::V6(from), IpAddr::V6(to)) => self.six(from, to),
            _ => Vec::new(),
        }
    }

    fn payload(&self, bytes: usize, pseudo: &[u8]) -> Vec<u8> {
        let filler = (0..bytes).map(|at| u8::try_from(at % 251).unwrap_or(0));
        let mut text: Vec<u8> = filler.collect();
        let length = u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
        // UDP from port 4096 to 9; an echo request; else what nobody understands.
        let head: &[u8] = match self.protocol {
            17 => &[0x10, 0, 0, 9, length[0], length[1], 0, 0],
            1 => &[8, 0, 0, 0, 0, 7, 0, self.number],
            58 => &[128, 0, 0, 0, 0, 7, 0, self.number],
            _ => &[0; 8],
        };
        text[..8].copy_from_slice(head);
        text[8..12].copy_from_slice(&MARK);
        text[12] = self.number;
        let at = match self.protocol {
            17 => 6,
            1 | 58 => 2,
            _ => return text,
        };
        let pseudo = if self.protocol == 1 { &[] } else { pseudo };
        let sum = checksum(&[pseudo, &text]);
        text[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        text
    }

    fn four(&self, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
        let total = u16::try_from(self.bytes).unwrap_or(0).to_be_bytes();
        let [_, _, flags, offset] = self.extra.to_be_bytes();
        let mut ip = vec![0x45, self.class, total[0], total[1], 0x5a, self.number, flags, offset];
        ip.extend([self.hops, self.protocol, 0, 0]);
        ip.extend(from.octets());
        ip.extend(to.octets());
        set_header_sum(&mut ip);
        let length = u16::try_from(self.bytes - 20).unwrap_or(0).to_be_bytes();
        let pseudo = [&from.octets()[..], &to.octets(), &[0, self.protocol], &length].concat();
        let payload = self.payload(self.bytes - 20, &pseudo);
        [ip, payload].concat()
    }

    fn six(&self, from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
        let payload = self.bytes - 40;
        let length = u32::try_from(payload).unwrap_or(0);
        let pseudo =
            [&from.octets()[..], &to.octets(), &length.to_be_bytes(), &[0, 0, 0, self.protocol]];
        let first = 0x6000_0000 | u32::from(self.class) << 20 | self.extra & 0xf_ffff;
        let bytes = u16::try_from(payload).unwrap_or(0).to_be_bytes();
        let ip = [
            &first.to_be_bytes()[..],
            &bytes,
            &[self.protocol, self.hops],
            &from.octets(),
            &to.octets(),
        ];
        [ip.concat(), self.payload(payload, &pseudo.concat())].concat()
    }
}

/// An IPv4 header with another time to live.
pub fn with_hops(packet: &[u8], hops: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 6 {
        packet[7] = hops;
    } else {
        packet[8] = hops;
        set_header_sum(&mut packet[..20]);
    }
    packet
}

/// The time to live, or hop limit, of a packet.
pub fn hops(packet: &[u8]) -> u8 {
    if packet[0] >> 4 == 6 { packet[7] } else { packet[8] }
}

/// A packet in SRv6 as H.Encaps makes it with one segment (RFC 8986 section 5.1, RFC 8754 section 2).
pub fn srv6(from: Ipv6Addr, segment: Ipv6Addr, inner: &[u8]) -> Vec<u8> {
    let next = if inner[0] >> 4 == 6 { 41 } else { 4 };
    let routing = [&[next, 2, 4, 0, 0, 0, 0, 0][..], &segment.octets()].concat();
    let length = u16::try_from(routing.len() + inner.len()).unwrap_or(0).to_be_bytes();
    let ip = [&[0x60, 0, 0, 0][..], &length, &[43, 64], &from.octets(), &segment.octets()].concat();
    [ip, routing, inner.to_vec()].concat()
}

/// A packet in another IP packet, as a vRouter makes it: RFC 2003, RFC 4213, RFC 2473. What it inherits is how congested the
/// way is. `flow`: the flow label.
pub fn ipip(from: IpAddr, to: IpAddr, flow: u16, inner: &[u8]) -> Vec<u8> {
    let is_six = inner[0] >> 4 == 6;
    let next = if is_six { 41 } else { 4 };
    let ecn = if is_six { inner[1] >> 4 & 3 } else { inner[1] & 3 };
    let ip = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = u16::try_from(20 + inner.len()).unwrap_or(0).to_be_bytes();
            let mut ip = vec![0x45, ecn, total[0], total[1], 0, 0, 0x40, 0, 64, next, 0, 0];
            ip.extend(from.octets());
            ip.extend(to.octets());
            set_header_sum(&mut ip);
            ip
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let length = u16::try_from(inner.len()).unwrap_or(0).to_be_bytes();
            let [high, low] = flow.to_be_bytes();
            let fixed = [0x60, ecn << 4, high, low, length[0], length[1], next, 64];
            [&fixed[..], &from.octets(), &to.octets()].concat()
        }
        _ => Vec::new(),
    };
    [ip, inner.to_vec()].concat()
}

/// An IPv6 packet with a header of options that says how often it may be encapsulated again, as Linux writes it (RFC 2473
/// section 4.1.1).
pub fn with_limit(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let bytes = u16::from_be_bytes([packet[4], packet[5]]) + 8;
    packet[4..6].copy_from_slice(&bytes.to_be_bytes());
    let next = std::mem::replace(&mut packet[6], 60);
    packet.splice(40..40, [next, 0, 4, 1, 4, 1, 1, 0]);
    packet
}

fn set_header_sum(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = checksum(&[header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
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
