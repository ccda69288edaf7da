use super::*;
use crate::Mac;
use core::net::IpAddr;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use std::vec;
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

#[test]
fn labels_are_20_bits_and_not_reserved() {
    assert_eq!(Label::new(15), None);
    assert_eq!(Label::new(16).map(Label::number), Some(16));
    assert_eq!(Label::new(0xf_ffff).map(Label::number), Some(0xf_ffff));
    assert_eq!(Label::new(0x10_0000), None);
}

/// Read by etherparse, and by hand behind UDP: RFC 3032 section 2.1.
#[test]
fn what_is_written_is_read_by_others() {
    for six in [false, true] {
        let (from, to) = ends(six);
        let outer = Encapsulation::new(Label::new(0x12345).unwrap(), from, to).unwrap();
        let packet = [0x45; 100];
        let mut room = [0; OUTER_ROOM];
        let inner = Inner { frame_bytes: 114, flow: 0x5a5a, ecn: 2, is_ipv6: false };
        let bytes = outer.write(&mut room, inner).unwrap();
        assert_eq!(bytes, if six { OUTER6_BYTES } else { OUTER4_BYTES });
        let frame = [&room[..bytes], &packet].concat();
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        match sliced.net.unwrap() {
            NetSlice::Ipv4(ip) => {
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                assert_eq!(usize::from(header.total_len), frame.len() - 14);
                assert_eq!((header.ecn.value(), header.time_to_live), (2, 64));
                assert!(header.dont_fragment && !six);
                let addresses = (IpAddr::from(header.source), IpAddr::from(header.destination));
                assert_eq!(addresses, (from.address, to.address));
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header().to_header();
                assert_eq!(usize::from(header.payload_length), frame.len() - 54);
                assert_eq!((header.traffic_class & 3, header.hop_limit), (2, 64));
                assert!(header.flow_label.value() != 0 && six);
                let addresses = (IpAddr::from(header.source), IpAddr::from(header.destination));
                assert_eq!(addresses, (from.address, to.address));
            }
            _ => panic!("neither"),
        }
        let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("no UDP") };
        assert_eq!((udp.destination_port(), udp.checksum()), (6635, 0));
        assert_eq!(usize::from(udp.length()), 8 + 4 + packet.len());
        assert!(udp.source_port() >= 49_152);
        assert_eq!(udp.payload()[..4], [0x12, 0x34, 0x51, 255]);
        assert_eq!(udp.payload()[4..], packet);
        let opened = open(&frame[bytes - TUNNEL_BYTES..], TUNNEL_BYTES + packet.len()).unwrap();
        let label = Label::new(0x12345);
        assert_eq!(opened, Opened { label, ether_type: EtherType::IPV4, packet_bytes: 100 });
    }
    let ((from, _), (_, to)) = (ends(true), ends(false));
    assert_eq!(Encapsulation::new(Label::new(16).unwrap(), from, to), None);
}

#[test]
fn lengths_that_are_too_long_or_short() {
    let (from, to) = ends(false);
    let outer = Encapsulation::new(Label::new(16).unwrap(), from, to).unwrap();
    let write = |frame_bytes| {
        outer
            .write(&mut [0; OUTER_ROOM], Inner { frame_bytes, flow: 0, ecn: 0, is_ipv6: false })
            .is_some()
    };
    assert!(!write(13) && write(14));
    assert!(write(65_535 - 20 - 12 + 14) && !write(65_535 - 20 - 12 + 15));
    assert!(!write(u32::MAX));
}

/// A piece of another length has the header that one of this length would have had.
#[test]
fn pieces_get_headers_of_their_own() {
    for six in [false, true] {
        let (from, to) = ends(six);
        let outer = Encapsulation::new(Label::new(99).unwrap(), from, to).unwrap();
        let write = |frame_bytes| {
            let mut room = [0; OUTER_ROOM];
            let inner = Inner { frame_bytes, flow: 7, ecn: 1, is_ipv6: false };
            let bytes = outer.write(&mut room, inner).unwrap();
            room[..bytes].to_vec()
        };
        vxlan::tests::pieces_are_as_if_written(write);
    }
}

#[test]
fn refuses() {
    let sound = || -> Vec<u8> {
        let mut bytes = vec![0xc0, 0, 0x19, 0xeb, 0, 32, 0, 0, 0x12, 0x34, 0x51, 255];
        bytes.extend([0x60; 20]);
        bytes
    };
    assert_eq!(open(&sound(), 32).unwrap().ether_type, EtherType::IPV6);
    type Change = fn(&mut Vec<u8>);
    let malformed = |change: Change| {
        let mut bytes = sound();
        change(&mut bytes);
        open(&bytes, 32)
    };
    assert_eq!(malformed(|b| b[3] = 0xea), Err(Error::OtherPort));
    assert_eq!(malformed(|b| b[5] = 11), Err(Error::Malformed));
    assert_eq!(malformed(|b| b[5] = 33), Err(Error::Malformed));
    assert_eq!(malformed(|b| b[10] = 0x50), Err(Error::Malformed));
    assert_eq!(malformed(|b| b[12] = 0x50), Err(Error::Malformed));
    assert!(matches!(malformed(|b| b.truncate(12)), Err(Error::Truncated(_))));
    let reserved = malformed(|b| b[8..10].fill(0)).unwrap();
    assert_eq!(reserved.label, None);
}

#[test]
fn open_never_panics_and_believes_only_what_fits() {
    bolero::check!().with_type().for_each(|(bytes, room): &(Vec<u8>, u16)| {
        if let Ok(opened) = open(bytes, usize::from(*room)) {
            assert!(opened.packet_bytes as usize + TUNNEL_BYTES <= usize::from(*room));
        }
    });
}
