use super::*;
use core::net::{Ipv4Addr, Ipv6Addr};
use etherparse::{LinkSlice, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use std::collections::BTreeSet;
use std::vec::Vec;

fn end(address: IpAddr, last: u8) -> Endpoint {
    Endpoint { mac: Mac::new([2, 0, 0, 0, 1, last]), address }
}

fn ends4() -> (Endpoint, Endpoint) {
    let address = |last| Ipv4Addr::new(192, 0, 2, last).into();
    (end(address(1), 1), end(address(2), 2))
}

fn ends6() -> (Endpoint, Endpoint) {
    let address = |last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into();
    (end(address(1), 1), end(address(2), 2))
}

fn vni() -> Vni {
    Vni::new(0x12_3456).unwrap()
}

fn udp(port: u16, payload: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 66, 0, 2], [10, 66, 0, 3], 64)
        .udp(port, 2000)
        .write(&mut frame, &std::vec![7; payload])
        .unwrap();
    frame
}

fn head(frame: &[u8]) -> [u8; 64] {
    core::array::from_fn(|i| frame.get(i).copied().unwrap_or(0))
}

fn encapsulated((from, to): (Endpoint, Endpoint), frame: &[u8], ecn: u8) -> Vec<u8> {
    let frame_bytes = u32::try_from(frame.len()).unwrap();
    let encapsulation = Encapsulation::new(vni(), from, to).unwrap();
    let mut out = [0xee; OUTER_ROOM];
    let inner = Inner { frame_bytes, flow: flow_hash(&head(frame)), ecn, is_ipv6: false };
    let bytes = encapsulation.write(&mut out, inner).unwrap();
    assert_eq!(bytes, encapsulation.bytes());
    [&out[..bytes], frame].concat()
}

/// What etherparse, which is not ours, reads from an outer header.
fn check(ends: (Endpoint, Endpoint), frame: &[u8], inner: &[u8], ecn: u8) {
    let (from, to) = ends;
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(LinkSlice::Ethernet2(link)) = sliced.link else { panic!("no link") };
    assert_eq!(link.destination(), to.mac.octets());
    assert_eq!(link.source(), from.mac.octets());
    match sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let ip = ip.header().to_header();
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!((from.address, to.address), (ip.source.into(), ip.destination.into()));
            assert_eq!((ip.dont_fragment, ip.time_to_live, ip.identification), (true, 64, 0));
            assert_eq!(ip.ecn.value(), ecn);
            assert_eq!(usize::from(ip.total_len), frame.len() - 14);
        }
        Some(NetSlice::Ipv6(ip)) => {
            let ip = ip.header().to_header();
            let ends = (ip.source.into(), ip.destination.into());
            assert_eq!((from.address, to.address), ends);
            assert_eq!((ip.hop_limit, ip.traffic_class & 3), (64, ecn));
            assert_eq!(usize::from(ip.payload_length), frame.len() - 54);
        }
        _ => panic!("no IP"),
    }
    let Some(TransportSlice::Udp(datagram)) = sliced.transport else { panic!("not UDP") };
    assert_eq!((datagram.destination_port(), datagram.checksum()), (4789, 0));
    assert!(datagram.source_port() >= 49152);
    assert_eq!(datagram.payload()[..8], [8, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
    assert_eq!(datagram.payload()[8..], *inner);
}

#[test]
fn etherparse_reads_what_we_write_and_so_do_we() {
    for (ends, outer) in [(ends4(), OUTER4_BYTES), (ends6(), OUTER6_BYTES)] {
        for payload in [0, 1, 22, 1000, 8958] {
            for ecn in 0..4 {
                let inner = udp(1000, payload);
                let mut frame = encapsulated(ends, &inner, ecn);
                check(ends, &frame, &inner, ecn);

                let datagram = &frame[outer - TUNNEL_BYTES..];
                let frame_bytes = u32::try_from(inner.len()).unwrap();
                let expected = Opened { vni: vni(), frame_bytes };
                // With padding behind it and without.
                assert_eq!(open(datagram, datagram.len()), Ok(expected));
                assert_eq!(open(&datagram[..16], datagram.len() + 9), Ok(expected));
                assert_eq!(open(datagram, datagram.len() - 1), Err(Error::Malformed));

                // The same header for a piece of the frame.
                let piece = udp(1000, payload / 2);
                set_frame_bytes(&mut frame[..outer], piece.len()).unwrap();
                frame.truncate(outer);
                frame.extend(&piece);
                check(ends, &frame, &piece, ecn);
            }
        }
    }
}

#[test]
fn limits() {
    assert_eq!(Vni::new(1 << 24), None);
    assert_eq!(Vni::new(0xff_ffff).map(Vni::number), Some(0xff_ffff));
    let mut out = [0; OUTER_ROOM];
    for (ends, longest) in [(ends4(), 65_535 - 36), (ends6(), 65_535 - 16)] {
        let encapsulation = Encapsulation::new(vni(), ends.0, ends.1).unwrap();
        let inner = |frame_bytes| Inner { frame_bytes, flow: 0, ecn: 0, is_ipv6: false };
        for (bytes, fits) in [(longest, true), (longest + 1, false), (u32::MAX, false)] {
            assert_eq!(encapsulation.write(&mut out, inner(bytes)).is_some(), fits, "{bytes}");
            let outer = &mut out[..encapsulation.bytes()];
            assert_eq!(set_frame_bytes(outer, bytes as usize).is_some(), fits, "{bytes}");
        }
    }
    assert_eq!(set_frame_bytes(&mut out[..51], 60), None);
    assert_eq!(Encapsulation::new(vni(), ends4().0, ends6().1), None);
    assert_eq!(Encapsulation::new(vni(), ends6().0, ends4().1), None);
}

#[test]
fn refuses() {
    type Change = fn(&mut [u8]);
    let cases: [(&str, Change, Error); 5] = [
        ("port", |d| d[3] ^= 1, Error::OtherPort),
        ("no identifier", |d| d[8] = 0, Error::Malformed),
        ("too long", |d| d[4] = 0x40, Error::Malformed),
        ("too short", |d| d[4..6].copy_from_slice(&[0, 15]), Error::Malformed),
        ("empty", |d| d[4..6].fill(0), Error::Malformed),
    ];
    let good = encapsulated(ends4(), &udp(1000, 100), 0).split_off(34);
    for (name, change, error) in cases {
        let mut datagram = good.clone();
        change(&mut datagram);
        assert_eq!(open(&datagram, datagram.len()), Err(error), "{name}");
    }
    // Reserved bits mean nothing.
    let mut datagram = good.clone();
    datagram[8] = 0xff;
    datagram[9..12].fill(0xff);
    datagram[15] = 0xff;
    assert_eq!(open(&datagram, datagram.len()), open(&good, good.len()));
    let truncated = Truncated { needed: 16, got: 15 };
    assert_eq!(open(&good[..15], good.len()), Err(Error::Truncated(truncated)));
}

#[test]
fn any_bytes_are_safe() {
    bolero::check!().with_type().for_each(|(bytes, room): &(Vec<u8>, u16)| {
        let room = usize::from(*room);
        if let Ok(opened) = open(bytes, room) {
            assert!(opened.frame_bytes as usize + TUNNEL_BYTES <= room);
            assert!(opened.vni.number() < 1 << 24);
        }
    });
}

#[test]
fn flows_have_a_port_of_their_own_and_fragments_stay_together() {
    let port = |frame: &[u8]| flow_hash(&head(frame)) & 0x3fff;
    let ports: BTreeSet<_> = (0..1000).map(|i| port(&udp(1024 + i, 50))).collect();
    assert!(ports.len() > 950, "{} of 1000 flows", ports.len());
    let mut other = udp(5, 50);
    other[22] = 3;
    other[18] = 99;
    assert_eq!(port(&other), port(&udp(5, 50)));
    let fragment = |source: u16, offset: u8| {
        let mut frame = udp(source, 50);
        frame[20..22].copy_from_slice(&[if offset == 0 { 0x20 } else { 0 }, offset]);
        port(&frame)
    };
    assert_eq!(fragment(5, 0), fragment(6, 7));

    let six = |source: u16, last: u8| {
        let mut frame = Vec::new();
        let to = core::array::from_fn(|i| if i == 15 { last } else { 1 });
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv6([1; 16], to, 64)
            .udp(source, 2000)
            .write(&mut frame, &[7; 20])
            .unwrap();
        port(&frame)
    };
    let ports: BTreeSet<_> = (0..1000).map(|i| six(1024 + i, 9)).collect();
    assert!(ports.len() > 950, "{} of 1000 flows", ports.len());
    assert_ne!(six(1, 1), six(1, 2));
    let mac =
        |last: u8| port(&[&[2, 2, 2, 2, 2, last][..], &[4; 6], &[0x88, 0xcc], &[0; 60]].concat());
    assert_ne!(mac(1), mac(2));
}

/// An outer header that takes the place of the inner Ethernet header, as `write` makes it for a frame of so many bytes: one that is changed
/// for another length is the one for that, and one whose end is in the frame already stays as it is.
pub(crate) fn pieces_are_as_if_written(write: impl Fn(u32) -> Vec<u8>) {
    for (before, after) in [(14, 1_514), (1_514, 14), (9_000, 64)] {
        let mut changed = write(before);
        set_frame_bytes(&mut changed, after as usize).unwrap();
        assert_eq!(changed, write(after));
        assert_eq!(overlap(changed.len()), 14);
        assert_eq!(set_frame_bytes(&mut changed, 13), None);
        let mut front = changed[..changed.len() - 14].to_vec();
        let kept = front.clone();
        assert_eq!(set_frame_bytes(&mut front, 5_000), Some(()));
        assert_eq!((overlap(front.len()), front), (0, kept));
    }
}
