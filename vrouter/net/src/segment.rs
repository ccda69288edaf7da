//! What a sender left to its device, done in software: a transport checksum, and cutting a large TCP packet into
//! pieces (virtio 1.2, 5.1.6.2: NEEDS_CSUM, GSO_TCPV4, GSO_TCPV6).

use crate::{checksum, ethernet, ipv4};

const IPV6_HEADER_BYTES: usize = 40;
const TCP_HEADER_BYTES: usize = 20;
const PROTOCOL_TCP: u8 = 6;
/// Two IPv6 addresses, protocol and length.
const PSEUDO_BYTES: usize = 36;
/// TCP flags (RFC 9293 section 3.1, RFC 3168 section 6.1): on the last piece only, on the first piece only.
const TCP_FIN_PSH: u8 = 0x09;
const TCP_CWR: u8 = 0x80;

/// Completes the checksum of everything from byte `start`, whose field at byte `at` holds the sum of the pseudo
/// header. `None`: the frame is too short, and unchanged.
pub fn complete_checksum(frame: &mut [u8], start: usize, at: usize) -> Option<()> {
    if at < start || at.checked_add(2)? > frame.len() {
        return None;
    }
    let sum = match checksum::compute(frame.get(start..)?) {
        // RFC 768: zero means that there is none. Equal to it in one's complement, so right for TCP too.
        0 => 0xffff,
        sum => sum,
    };
    frame.get_mut(at..at + 2)?.copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// A TCP packet that is cut into pieces of one size.
#[derive(Debug)]
pub struct TcpPieces<'a> {
    headers: &'a [u8],
    payload: &'a [u8],
    size: usize,
    is_ipv6: bool,
    /// Where the TCP header starts.
    tcp: usize,
}

impl<'a> TcpPieces<'a> {
    /// `frame`: a whole Ethernet frame with TCP over IPv4 or, without extension headers, over IPv6. `size`: payload
    /// bytes of each piece but the last.
    ///
    /// `None` when it is not such a frame, or has no payload to cut.
    pub fn new(frame: &'a [u8], size: usize) -> Option<Self> {
        let ip = frame.get(ethernet::HEADER_BYTES..)?;
        let (is_ipv6, ip_bytes) = match frame.get(12..14)? {
            [0x08, 0x00] => (false, usize::from(ip.first()? & 0x0f) * 4),
            [0x86, 0xdd] => (true, IPV6_HEADER_BYTES),
            _ => return None,
        };
        let (version, protocol, total) = if is_ipv6 {
            let payload = usize::from(u16::from_be_bytes([*ip.get(4)?, *ip.get(5)?]));
            (6, *ip.get(6)?, IPV6_HEADER_BYTES + payload)
        } else {
            (4, *ip.get(9)?, usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?])))
        };
        if ip.first()? >> 4 != version
            || protocol != PROTOCOL_TCP
            || ip_bytes < ipv4::HEADER_BYTES
            || size == 0
        {
            return None;
        }
        // What follows the packet is padding and not sent on.
        let packet = ip.get(..total)?;
        let tcp = packet.get(ip_bytes..)?;
        let tcp_bytes = usize::from(tcp.get(12)? >> 4) * 4;
        let payload = tcp.get(tcp_bytes..).filter(|p| !p.is_empty())?;
        if tcp_bytes < TCP_HEADER_BYTES {
            return None;
        }
        let tcp = ethernet::HEADER_BYTES + ip_bytes;
        let headers = frame.get(..tcp + tcp_bytes)?;
        Some(Self { headers, payload, size, is_ipv6, tcp })
    }

    /// How many pieces there are.
    pub fn len(&self) -> usize {
        self.payload.len().div_ceil(self.size)
    }

    /// Never: there is at least one.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Bytes of the largest piece as an Ethernet frame.
    pub fn largest(&self) -> usize {
        self.headers.len() + self.payload.len().min(self.size)
    }

    /// Writes piece `n` as a frame of its own, checksums included; returns its bytes. `None`: there is no such
    /// piece, or `into` is too short.
    pub fn write(&self, n: usize, into: &mut [u8]) -> Option<usize> {
        let from = n.checked_mul(self.size)?;
        let end = self.payload.len().min(from.checked_add(self.size)?);
        let payload = self.payload.get(from..end).filter(|p| !p.is_empty())?;
        let bytes = self.headers.len() + payload.len();
        let frame = into.get_mut(..bytes)?;
        let (headers, body) = frame.split_at_mut(self.headers.len());
        headers.copy_from_slice(self.headers);
        body.copy_from_slice(payload);

        let (link_and_ip, tcp) = frame.split_at_mut(self.tcp);
        let ip = link_and_ip.get_mut(ethernet::HEADER_BYTES..)?;
        let tcp_bytes = u16::try_from(tcp.len()).ok()?;
        // RFC 9293 section 3.1: the pseudo header is both addresses, the protocol and the TCP length.
        let addresses = if self.is_ipv6 {
            ip.get_mut(4..6)?.copy_from_slice(&tcp_bytes.to_be_bytes());
            ip.get(8..40)?
        } else {
            let total = u16::try_from(ip.len()).ok()?.checked_add(tcp_bytes)?;
            ip.get_mut(2..4)?.copy_from_slice(&total.to_be_bytes());
            let id = u16::from_be_bytes([*ip.get(4)?, *ip.get(5)?]);
            // Distinct for each piece, in case one is fragmented later (RFC 6864).
            let id = id.wrapping_add(u16::try_from(n).ok()?);
            ip.get_mut(4..6)?.copy_from_slice(&id.to_be_bytes());
            ip.get_mut(10..12)?.fill(0);
            let sum = checksum::compute(ip);
            ip.get_mut(10..12)?.copy_from_slice(&sum.to_be_bytes());
            ip.get(12..20)?
        };
        let sequence = u32::from_be_bytes(*tcp.get(4..)?.first_chunk()?);
        let offset = u32::try_from(from).ok()?;
        tcp.get_mut(4..8)?.copy_from_slice(&sequence.wrapping_add(offset).to_be_bytes());
        let flags = tcp.get_mut(13)?;
        if end < self.payload.len() {
            *flags &= !TCP_FIN_PSH;
        }
        if n > 0 {
            *flags &= !TCP_CWR;
        }
        let mut pseudo = [0; PSEUDO_BYTES];
        let (to, rest) = pseudo.split_at_mut_checked(addresses.len())?;
        to.copy_from_slice(addresses);
        let [high, low] = tcp_bytes.to_be_bytes();
        rest.get_mut(..4)?.copy_from_slice(&[0, PROTOCOL_TCP, high, low]);
        let pseudo = checksum::sum(&pseudo);
        tcp.get_mut(16..18)?.copy_from_slice(&pseudo.to_be_bytes());
        complete_checksum(tcp, 0, 16)?;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
    use std::vec;
    use std::vec::Vec;

    fn frame(is_ipv6: bool, payload: usize) -> Vec<u8> {
        let payload: Vec<u8> = (0..=250).cycle().take(payload).collect();
        let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = if is_ipv6 {
            link.ipv6([1; 16], [2; 16], 9)
        } else {
            link.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9)
        };
        let tcp = ip.tcp(1000, 80, 0xffff_ff00, 512).psh().fin().ack(7).ece().cwr();
        let tcp = tcp.options_raw(&[1, 1, 1, 1]).unwrap();
        let mut frame = Vec::new();
        tcp.write(&mut frame, &payload).unwrap();
        frame
    }

    #[test]
    fn pieces_are_packets_that_make_up_the_whole() {
        for is_ipv6 in [false, true] {
            for (payload, size) in
                [(1, 1460), (1460, 1460), (1461, 1460), (9000, 1000), (60_000, 1448)]
            {
                let mut whole = frame(is_ipv6, payload);
                let plain = whole.len();
                whole.extend_from_slice(&[0xee; 5]);
                let pieces = TcpPieces::new(&whole, size).unwrap();
                assert_eq!(pieces.len(), payload.div_ceil(size));
                let mut got = Vec::new();
                for n in 0..pieces.len() {
                    let mut bytes = vec![0; pieces.largest()];
                    let len = pieces.write(n, &mut bytes).unwrap();
                    let piece = SlicedPacket::from_ethernet(&bytes[..len]).unwrap();
                    let Some(TransportSlice::Tcp(tcp)) = &piece.transport else {
                        unreachable!("TCP")
                    };
                    assert_eq!(
                        tcp.sequence_number(),
                        0xffff_ff00u32.wrapping_add(u32::try_from(n * size).unwrap())
                    );
                    let last = n + 1 == pieces.len();
                    assert_eq!((tcp.fin(), tcp.psh(), tcp.cwr()), (last, last, n == 0));
                    assert!(tcp.ack() && tcp.ece());
                    let net = piece.net.as_ref().unwrap();
                    let right = match net {
                        etherparse::NetSlice::Ipv4(ip) => {
                            let header = ip.header().to_header();
                            assert_eq!(header.calc_header_checksum(), header.header_checksum);
                            tcp.calc_checksum_ipv4(header.source, header.destination).unwrap()
                        }
                        etherparse::NetSlice::Ipv6(ip) => tcp
                            .to_header()
                            .calc_checksum_ipv6(&ip.header().to_header(), tcp.payload())
                            .unwrap(),
                        etherparse::NetSlice::Arp(_) => unreachable!("IP"),
                    };
                    assert_eq!(tcp.checksum(), right);
                    got.extend_from_slice(tcp.payload());
                }
                assert_eq!(got, whole[plain - payload..plain]);
                assert_eq!(pieces.write(pieces.len(), &mut vec![0; 70_000]), None);
                assert_eq!(pieces.write(0, &mut [0; 58]), None);
            }
        }
    }

    #[test]
    fn a_checksum_is_completed() {
        let right = frame(false, 100);
        let mut left = right.clone();
        // What a driver leaves in the field: the sum of the pseudo header.
        let mut pseudo = right[26..34].to_vec();
        pseudo.extend_from_slice(&[0, 6]);
        pseudo.extend_from_slice(&u16::try_from(right.len() - 34).unwrap().to_be_bytes());
        left[50..52].copy_from_slice(&checksum::sum(&pseudo).to_be_bytes());
        assert_ne!(left, right);
        assert_eq!(complete_checksum(&mut left, 34, 50), Some(()));
        assert_eq!(left, right);
        assert_eq!(complete_checksum(&mut left, 34, right.len() - 1), None);
        assert_eq!(complete_checksum(&mut left, 50, 34), None);
        let mut ones = [0xff, 0xff, 0, 0];
        assert_eq!(complete_checksum(&mut ones, 0, 2), Some(()));
        assert_eq!(ones, [0xff; 4], "zero would say that there is no checksum");
    }

    #[test]
    fn no_bytes_lead_astray() {
        bolero::check!().with_type().for_each(|(bytes, size, spoil): &(Vec<u8>, u16, u16)| {
            let mut whole = frame(spoil & 1 == 0, 3000);
            for (i, byte) in bytes.iter().enumerate() {
                let at = (usize::from(*spoil) + i) % 80;
                whole[at] = *byte;
            }
            let Some(pieces) = TcpPieces::new(&whole, usize::from(*size)) else { return };
            let mut room = vec![0; pieces.largest()];
            for n in 0..pieces.len().min(50) {
                assert!(pieces.write(n, &mut room).is_some());
            }
        });
    }
}
