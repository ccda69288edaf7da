use super::*;
use crate::{Mac, checksum};
use bolero::TypeGenerator;
use core::net::IpAddr;
use etherparse::{NetSlice, SlicedPacket};
use std::vec::Vec;

fn ends(six: bool) -> (Endpoint, Endpoint) {
    let address = |last: u16| match six {
        false => IpAddr::from([192, 0, 2, last.to_be_bytes()[1]]),
        true => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]),
    };
    let end =
        |last: u8| Endpoint { mac: Mac::new([2, 0, 0, 0, 0, last]), address: address(last.into()) };
    (end(1), end(2))
}

/// Every byte, as RFC 791 and RFC 8200 draw them.
#[test]
fn headers_byte_for_byte() {
    let link = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    for (is_ipv6, protocol, check) in [(false, 4, [0xb6, 0x7c]), (true, 41, [0xb6, 0x57])] {
        let inner = Inner { frame_bytes: 114, flow: 0x5a5a, ecn: 2, is_ipv6 };
        let (from, to) = ends(false);
        let mut room = [0; OUTER_ROOM];
        let bytes = Encapsulation::new(from, to).unwrap().write(&mut room, inner).unwrap();
        let four = [0x45, 2, 0, 120, 0, 0, 0x40, 0, 64, protocol, check[0], check[1]];
        let addresses = [192, 0, 2, 1, 192, 0, 2, 2];
        assert_eq!(room[..bytes], [&link[..], &[8, 0], &four, &addresses].concat());
        assert!(bytes == 34 && checksum::verify(&room[14..34]));
        let (from, to) = ends(true);
        let bytes = Encapsulation::new(from, to).unwrap().write(&mut room, inner).unwrap();
        let six = [0x60, 0x20, 0x5a, 0x5a, 0, 100, protocol, 64];
        let address = |last| [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        let addresses = [address(1), address(2)].concat();
        assert_eq!(room[..bytes], [&link[..], &[0x86, 0xdd], &six, &addresses].concat());
        assert_eq!(bytes, 54);
    }
    let ((from, _), (_, to)) = (ends(true), ends(false));
    assert_eq!(Encapsulation::new(from, to), None);
}

#[derive(Clone, Copy, Debug, TypeGenerator)]
struct Any {
    six: bool,
    is_ipv6: bool,
    packet_bytes: u16,
    flow: u16,
    ecn: u8,
}

/// What is written is read by etherparse, and by the way out.
#[test]
fn both_ways() {
    bolero::check!().with_type().for_each(|any: &Any| {
        let (from, to) = ends(any.six);
        let frame_bytes = 14 + u32::from(any.packet_bytes);
        let Any { flow, is_ipv6, .. } = *any;
        let ecn = any.ecn & 3;
        let mut room = [0xee; OUTER_ROOM];
        let outer = Encapsulation::new(from, to).unwrap();
        let written = outer.write(&mut room, Inner { frame_bytes, flow, ecn, is_ipv6 });
        let Some(bytes) = written else {
            assert!(!any.six && any.packet_bytes > 65_535 - 20);
            return;
        };
        let mut packet = std::vec![0; any.packet_bytes.into()];
        packet.iter_mut().take(1).for_each(|first| *first = if is_ipv6 { 0x60 } else { 0x45 });
        let frame = [&room[..bytes], &packet].concat();
        let link = ethernet::Header::split(&frame).unwrap().0;
        assert_eq!((link.destination(), link.source()), (to.mac, from.mac));
        let (protocol, payload) = if any.six {
            let header = ipv6::Header::check(&frame[14..], frame.len() - 14).unwrap();
            assert_eq!((IpAddr::from(header.source()), header.ecn()), (from.address, ecn));
            assert_eq!(IpAddr::from(header.destination()), to.address);
            (header.next_header(), usize::from(header.payload_length()))
        } else {
            let header = ipv4::Header::check(&frame[14..], frame.len() - 14).unwrap();
            assert_eq!((IpAddr::from(header.source()), header.ecn()), (from.address, ecn));
            assert_eq!(IpAddr::from(header.destination()), to.address);
            assert!(header.dont_fragment() && !header.is_fragment());
            (header.protocol(), usize::from(header.total_length()) - 20)
        };
        assert_eq!(payload, packet.len());
        let kind = if is_ipv6 { EtherType::IPV6 } else { EtherType::IPV4 };
        let expected = if packet.is_empty() { Err(Error::Malformed) } else { Ok(kind) };
        assert_eq!(open(&frame[bytes..], protocol), expected);
    });
}

#[test]
fn what_is_written_is_read_by_others() {
    for (six, is_ipv6) in [(false, false), (false, true), (true, false), (true, true)] {
        let (from, to) = ends(six);
        let inner = Inner { frame_bytes: 54, flow: 0x1234, ecn: 1, is_ipv6 };
        let mut room = [0; OUTER_ROOM];
        let bytes = Encapsulation::new(from, to).unwrap().write(&mut room, inner).unwrap();
        let frame = [&room[..bytes], &[0x60; 40][..]].concat();
        let protocol = if is_ipv6 { 41 } else { 4 };
        match SlicedPacket::from_ethernet(&frame).unwrap().net.unwrap() {
            NetSlice::Ipv4(ip) => {
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                assert_eq!((header.protocol.0, header.total_len), (protocol, 60));
                assert_eq!((header.time_to_live, header.identification), (64, 0));
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header().to_header();
                assert_eq!((header.next_header.0, header.payload_length), (protocol, 40));
                assert_eq!((header.hop_limit, header.flow_label.value()), (64, 0x1234));
            }
            _ => panic!("neither"),
        }
    }
}

#[test]
fn lengths_that_are_too_long_or_short() {
    for (six, most) in [(false, 65_535 - 20), (true, 65_535)] {
        let (from, to) = ends(six);
        let outer = Encapsulation::new(from, to).unwrap();
        let write = |frame_bytes| {
            let inner = Inner { frame_bytes, flow: 0, ecn: 0, is_ipv6: false };
            outer.write(&mut [0; OUTER_ROOM], inner).is_some()
        };
        assert!(!write(13) && write(14));
        assert!(write(most + 14) && !write(most + 15) && !write(u32::MAX));
    }
}

/// A piece of another length has the header that one of this length would have had.
#[test]
fn pieces_get_headers_of_their_own() {
    for (six, is_ipv6) in [(false, true), (true, false)] {
        let (from, to) = ends(six);
        let outer = Encapsulation::new(from, to).unwrap();
        let write = |frame_bytes| {
            let mut room = [0; OUTER_ROOM];
            let inner = Inner { frame_bytes, flow: 7, ecn: 1, is_ipv6 };
            let bytes = outer.write(&mut room, inner).unwrap();
            room[..bytes].to_vec()
        };
        vxlan::tests::pieces_are_as_if_written(write);
    }
}

#[test]
fn refuses() {
    for protocol in 0..=255 {
        let opened = [0x45, 0x60, 0x50].map(|first| open(&[first], Protocol(protocol)));
        let malformed = Err(Error::Malformed);
        let expected = match protocol {
            4 => [Ok(EtherType::IPV4), malformed, malformed],
            41 => [malformed, Ok(EtherType::IPV6), malformed],
            _ => [Err(Error::OtherProtocol); 3],
        };
        assert_eq!(opened, expected);
    }
    assert_eq!(open(&[], Protocol::IPV4), Err(Error::Malformed));
}

/// As Linux writes it (RFC 2473 section 4.1.1), and nothing else.
#[test]
fn a_limit_is_read_over() {
    let limit = [41, 0, 4, 1, 4, 1, 1, 0];
    assert_eq!(behind_limit(&limit), Some(Protocol::IPV6));
    assert_eq!(behind_limit(&[&limit[..], &[0x60]].concat()), Some(Protocol::IPV6));
    assert_eq!(behind_limit(&limit[..7]), None);
    for at in [0, 1, 2, 3, 5, 6] {
        let mut other = limit;
        other[at] ^= 0x40;
        assert_eq!(behind_limit(&other), None);
    }
    bolero::check!().with_type().for_each(|bytes: &Vec<u8>| {
        if behind_limit(bytes).is_some() {
            assert!(bytes.len() >= LIMIT_BYTES && [4, 41].contains(&bytes[0]));
        }
    });
}
