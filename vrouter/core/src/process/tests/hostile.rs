//! ICMP errors, and whatever bytes a pod may send.

use super::*;
use crate::process::fast::common_case;
use crate::process::ingress::Pod;
use crate::tunnels::Ends;

#[test]
fn icmp_error_quotes_the_packet_to_its_sender() {
    for (frame, payload) in [(udp(NOBODY), 100), (with_options(udp(NOBODY), 10), 60)] {
        for pad in [0, 10] {
            let mut frame = frame.clone();
            frame.resize(frame.len() + pad, 0xee);
            let after = run(&frame);
            let Verdict::Originate(kind) = after.verdict else { panic!("{:?}", after.verdict) };
            let mut out = [0; ICMP_ERROR_BYTES];
            let bytes = icmp_error(&tables(), PORT_A, &after, kind, &mut out).unwrap();
            check_error(&out[..bytes], &frame);
            assert_eq!(bytes, 42 + HEADER_BYTES - 14, "payload {payload}");
            assert_eq!(icmp_error(&tables(), PORT_A, &after, kind, &mut out[..bytes - 1]), None);
            assert_eq!(icmp_error(&tables(), PortIndex(9), &after, kind, &mut out), None);
        }
    }
    // A short packet is quoted whole, without its padding.
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(A_MAC, GATEWAY_MAC).ipv4(A, NOBODY, 64).udp(1, 2);
    builder.write(&mut frame, &[7; 3]).unwrap();
    frame.resize(60, 0xee);
    let after = run(&frame);
    let mut out = [0; ICMP_ERROR_BYTES];
    let kind = IcmpError::HostUnreachable;
    let bytes = icmp_error(&tables(), PORT_A, &after, kind, &mut out).unwrap();
    assert_eq!(bytes, 42 + 31);
    check_error(&out[..bytes], &frame);
}

/// A whole ICMP error frame from the gateway to port A that quotes the start of `original`.
pub(super) fn check_error(frame: &[u8], original: &[u8]) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(LinkSlice::Ethernet2(link)) = sliced.link else { panic!("no link") };
    assert_eq!((link.destination(), link.source()), (A_MAC, GATEWAY_MAC));
    let Some(NetSlice::Ipv4(ip)) = sliced.net else { panic!("not IPv4") };
    let ip = ip.header().to_header();
    assert_eq!((ip.source, ip.destination), (GATEWAY, A));
    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
    let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else { panic!("not ICMP") };
    assert!(matches!(icmp.type_u8(), 3 | 11));
    assert!(checksum::verify(&frame[34..]));
    assert!(original[14..].starts_with(icmp.payload()));
    let whole = usize::from(u16::from_be_bytes([original[16], original[17]]));
    let header = usize::from(original[14] & 0xf) * 4;
    assert!(icmp.payload().len() >= whole.min(header + 8).min(original.len() - 14));
}

#[test]
fn icmp_error_refuses_what_may_not_be_reported() {
    let mut error = echo(NOBODY, &[0; 40]);
    error[34] = 11;
    let mut fragment = udp(NOBODY);
    fragment[21] = 1;
    fix(&mut fragment);
    let mut damaged = udp(NOBODY);
    damaged[25] ^= 1;
    for frame in [error, fragment, damaged, arp_request(B), vec![], vec![0; 20]] {
        for kind in [IcmpError::HostUnreachable, IcmpError::TimeExceeded] {
            let mut out = [0; ICMP_ERROR_BYTES];
            assert_eq!(icmp_error(&tables(), PORT_A, &packet(&frame), kind, &mut out), None);
        }
    }
}

/// Bytes that reach deep: a good frame with some bytes changed, its checksum perhaps right again, its
/// lengths perhaps a lie; or just any bytes.
#[derive(Clone, Debug, TypeGenerator)]
pub(super) struct Hostile {
    template: u8,
    any: [u8; HEADER_BYTES],
    changes: [(u8, u8); 3],
    changed: u8,
    fix: bool,
    header_len: Option<u16>,
    frame_len: Option<u32>,
}

impl Hostile {
    pub(super) fn packet(&self) -> Packet {
        let to = [B, GATEWAY, NOBODY, A][usize::from(self.template >> 3) % 4];
        let frame = match self.template % 8 {
            0 => udp(to),
            1 => echo(to, &[0xa7; 30]),
            2 => echo(to, &[0xa7; 300]),
            3 => arp_request(to),
            4 => with_options(udp(to), self.template >> 5),
            5 => with_options(echo(to, &[0; 20]), self.template >> 5),
            6 => udp(self.any[..4].try_into().unwrap()),
            _ => self.any.to_vec(),
        };
        let mut packet = packet(&frame);
        for (at, byte) in self.changes.into_iter().take(usize::from(self.changed % 4)) {
            // The first 80 bytes hold all that is looked at.
            packet.header[usize::from(at % 80)] = byte;
        }
        if self.fix {
            fix(&mut packet.header);
        }
        packet.header_len = self.header_len.unwrap_or(packet.header_len);
        packet.frame_len = self.frame_len.unwrap_or(packet.frame_len);
        packet
    }
}

#[test]
fn any_bytes_and_lengths_are_safe() {
    let tables = tables();
    bolero::check!().with_type().for_each(|hostile: &[Hostile; 3]| {
        let before = [0, 1, 2].map(|i| hostile[i].packet());
        let mut batch = before;
        let mut limiter = PortLimits::default();
        process(&tables, Timestamp::default(), PORT_A, &mut batch, &mut limiter);
        for (before, after) in before.iter().zip(&batch) {
            assert_eq!(after.frame_len, before.frame_len);
            assert_eq!(after.header_len, before.header_len);
            // What is not valid is neither changed nor shown.
            let valid = before.head().len();
            assert_eq!(after.header[valid..], before.header[valid..]);
            match after.verdict {
                Verdict::Punt(..) => panic!("no kernel here"),
                Verdict::Forward(port) => check_forwarded(port, before, after),
                Verdict::Reply => assert_eq!(after.header[..6], A_MAC),
                Verdict::Encapsulate(_) | Verdict::Decapsulate(_) => panic!("no tunnels here"),
                Verdict::Flood(_) | Verdict::FloodInside(..) => panic!("nothing is repeated"),
                Verdict::Drop(_) => assert_eq!(after.header, before.header),
                Verdict::Originate(kind) => {
                    assert_eq!(after.header, before.header);
                    let mut out = [0; ICMP_ERROR_BYTES];
                    let bytes = icmp_error(&tables, PORT_A, after, kind, &mut out).unwrap();
                    check_error(&out[..bytes], before.head());
                }
            }
            let mut out = [0; ICMP_ERROR_BYTES];
            icmp_error(&tables, PORT_A, before, IcmpError::TimeExceeded, &mut out);
        }
    });
}

fn check_forwarded(port: PortIndex, before: &Packet, after: &Packet) {
    assert_eq!(port, PORT_B);
    assert_eq!(after.header[..6], B_MAC);
    assert_eq!(after.header[6..12], GATEWAY_MAC);
    let parse = |packet: &Packet| {
        let header = etherparse::Ipv4Header::from_slice(&packet.head()[14..]).unwrap().0;
        // Either form of zero adds up; a guest may send the other one than etherparse computes.
        let adds_up = header.header_checksum == header.calc_header_checksum()
            || checksum::verify(&packet.head()[14..14 + header.header_len()]);
        assert!(adds_up, "{header:?}");
        header
    };
    let (before, mut ip) = (parse(before), parse(after));
    assert_eq!((ip.source, ip.destination), (A, B));
    assert!(u32::from(ip.total_len) + 14 <= after.frame_len);
    assert!(after.frame_len <= u32::from(MTU) + 14);
    assert_eq!(ip.time_to_live + 1, before.time_to_live);
    ip.time_to_live = before.time_to_live;
    ip.header_checksum = before.header_checksum;
    assert_eq!(ip, before);
}

#[test]
fn the_common_case_accepts_only_what_the_slow_path_accepts() {
    let tables = tables();
    let (port, network) = tables.ingress(PORT_A).unwrap();
    bolero::check!().with_type().for_each(|hostile: &Hostile| {
        let mut packet = hostile.packet();
        if let Some(address) = common_case::<Pod>(port, &packet) {
            let at = Place {
                tables: &tables,
                tunnels: Ends::default(),
                port,
                network,
                now: Timestamp::default(),
            };
            let slow = slow::classify(&at, &mut packet, &mut PortLimits::default());
            assert!(matches!(slow, Step::LookUp(other) if other == address), "{address:#x}");
        }
    });
    // And it does accept what is common.
    assert_eq!(common_case::<Pod>(port, &packet(&udp(B))), Some(Ipv4Addr::from(B).to_bits()));
}

#[test]
fn echo_reply_checksum_is_right_when_the_request_was() {
    bolero::check!().with_type().for_each(
        |(payload, words, wrong): &(Vec<u8>, u8, Option<u16>)| {
            let words = words % 11;
            let mut frame = with_options(echo(GATEWAY, payload), words);
            let start = 34 + usize::from(words) * 4;
            if let Some(wrong) = wrong {
                frame[start + 2..start + 4].copy_from_slice(&wrong.to_be_bytes());
            }
            let right = checksum::verify(&frame[start..]);
            let after = run(&frame);
            assert_eq!(after.verdict, Verdict::Reply);
            frame[..after.head().len()].copy_from_slice(after.head());
            assert_eq!(frame[start], 0);
            assert_eq!(checksum::verify(&frame[start..]), right);
        },
    );
}
