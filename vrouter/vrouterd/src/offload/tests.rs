use super::*;

const ALL: Offloads = Offloads {
    ipv4_checksum: true,
    udp_checksum: true,
    tcp_checksum: true,
    tcp4_segmentation: true,
    tcp6_segmentation: true,
    vxlan_segmentation: false,
    outer_checksum: false,
    pieces: 64,
    piece_bytes: 1514,
    buffers: 40,
};
const ROOM: usize = 2048;

/// The head of a frame of a packet with so much payload.
fn packet(is_ipv6: bool, is_udp: bool, payload: usize) -> (Vec<u8>, usize) {
    let (ip_bytes, transport_bytes) = (if is_ipv6 { 40 } else { 20 }, if is_udp { 8 } else { 32 });
    let total = ip_bytes + transport_bytes + payload;
    let mut frame = vec![0; 14 + total];
    let protocol = if is_udp { 17 } else { 6 };
    if is_ipv6 {
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        frame[14] = 0x60;
        frame[18..20].copy_from_slice(&u16::try_from(total - 40).unwrap().to_be_bytes());
        frame[20] = protocol;
    } else {
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&u16::try_from(total).unwrap().to_be_bytes());
        frame[23] = protocol;
    }
    if !is_udp {
        frame[14 + ip_bytes + 12] = 0x80;
    }
    let bytes = frame.len();
    frame.truncate(128);
    (frame, bytes)
}

/// A checksum left to be done, as a pod says it, and pieces of `size` bytes.
fn offload(start: u8, offset: u8, kind: u8, size: u16) -> Offload {
    let [low, high] = size.to_le_bytes();
    Offload::of_fields([1, kind, 0, 0, low, high, start, 0, offset, 0])
}

#[test]
fn a_checksum_is_left_to_a_device_that_has_it() {
    for (is_ipv6, is_udp, start, offset, transport_bytes) in [
        (false, true, 34, 6, 8),
        (false, false, 34, 16, 32),
        (true, true, 54, 6, 8),
        (true, false, 54, 16, 32),
    ] {
        let (head, bytes) = packet(is_ipv6, is_udp, 1000);
        let wanted = offload(start, offset, 0, 0);
        let expected = TxWork {
            link_bytes: 14,
            ip_bytes: if is_ipv6 { 40 } else { 20 },
            transport_bytes,
            is_ipv6,
            is_udp,
            segment_bytes: 0,
            ip_checksum: false,
            outer_is_ipv6: None,
        };
        assert_eq!(plan(&ALL, &wanted, &[], &head, bytes, ROOM), Some(expected));
        // Inside VXLAN or MPLS, over either family; there is no Ethernet header in the latter.
        let mut bare = head.clone();
        bare[..14].fill(0xff);
        for (front, head) in
            [(50, &head), (70, &head), (32, &bare), (52, &bare), (20, &bare), (40, &bare)]
        {
            let inside = TxWork { link_bytes: front + 14, ..expected };
            let front = vec![0; front.into()];
            assert_eq!(plan(&ALL, &wanted, &front, head, bytes, ROOM), Some(inside));
        }
        assert_eq!(plan(&ALL, &wanted, &[0; 46], &head, bytes, ROOM), None);
        assert_eq!(plan(&ALL, &wanted, &[], &bare, bytes, ROOM), None);
        let other = if is_udp {
            Offloads { udp_checksum: false, ..ALL }
        } else {
            Offloads { tcp_checksum: false, ..ALL }
        };
        assert_eq!(plan(&other, &wanted, &[], &head, bytes, ROOM), None);
        assert_eq!(plan(&Offloads::NONE, &wanted, &[], &head, bytes, ROOM), None);
        assert_eq!(plan(&ALL, &Offload::NONE, &[], &head, bytes, ROOM), None);
    }
}

#[test]
fn a_large_packet_is_cut_by_a_device_that_can() {
    for (is_ipv6, start, kind) in [(false, 34, 1), (true, 54, 4)] {
        let (head, bytes) = packet(is_ipv6, false, 20_000);
        let wanted = offload(start, 16, kind, 1400);
        let work = plan(&ALL, &wanted, &[], &head, bytes, ROOM).unwrap();
        assert_eq!((work.segment_bytes, work.ip_checksum), (1400, !is_ipv6));
        // A paravirtual device has no checksum of IPv4 headers.
        let virtio = Offloads { ipv4_checksum: false, ..ALL };
        assert!(!plan(&virtio, &wanted, &[], &head, bytes, ROOM).unwrap().ip_checksum);
        let not = [
            Offloads { tcp4_segmentation: false, tcp6_segmentation: false, ..ALL },
            Offloads { tcp4_segmentation: is_ipv6, tcp6_segmentation: !is_ipv6, ..ALL },
            Offloads { tcp_checksum: false, ..ALL },
            Offloads { pieces: 14, ..ALL },
            Offloads { piece_bytes: u16::from(start) + 32 + 1399, ..ALL },
            Offloads { buffers: 9, ..ALL },
        ];
        for can in not {
            assert_eq!(plan(&can, &wanted, &[], &head, bytes, ROOM), None, "{can:?}");
        }
        for can in [
            Offloads { tcp4_segmentation: !is_ipv6, tcp6_segmentation: is_ipv6, ..ALL },
            Offloads { pieces: 15, buffers: 10, ..ALL },
            Offloads { piece_bytes: u16::from(start) + 32 + 1400, ..ALL },
        ] {
            assert!(plan(&can, &wanted, &[], &head, bytes, ROOM).is_some(), "{can:?}");
        }
        // Inside a tunnel only where it says so, with the checksum outside.
        let inside = Offloads { vxlan_segmentation: true, piece_bytes: u16::MAX, ..ALL };
        let both = Offloads { outer_checksum: true, ..inside };
        let planned =
            |can: &Offloads, front: usize| plan(can, &wanted, &vec![0; front], &head, bytes, ROOM);
        assert_eq!(
            (planned(&ALL, 50), planned(&inside, 50), planned(&both, 32)),
            (None, None, None)
        );
        for (can, front, outer_is_ipv6) in [(both, 50, false), (inside, 70, true)] {
            let expected = TxWork { link_bytes: 30, outer_is_ipv6: Some(outer_is_ipv6), ..work };
            assert_eq!(planned(&can, front), Some(expected));
            let tight = Offloads { piece_bytes: u16::from(start) + 32 + 1400, ..can };
            assert_eq!(planned(&tight, front), None);
        }
        // Of another family, in pieces that hang a NIC.
        let other = offload(start, 16, 5 - kind, 1400);
        assert_eq!(plan(&ALL, &other, &[], &head, bytes, ROOM), None);
        let many = Offloads { pieces: u16::MAX, piece_bytes: u16::MAX, ..ALL };
        for (size, fits) in [(255, false), (256, true), (9_000, true), (9_001, false)] {
            let wanted = offload(start, 16, kind, size);
            assert_eq!(plan(&many, &wanted, &[], &head, bytes, ROOM).is_some(), fits, "{size}");
        }
        // One that fits one piece is a frame like others.
        let (head, bytes) = packet(is_ipv6, false, 1400);
        let work = plan(&ALL, &wanted, &[], &head, bytes, ROOM).unwrap();
        assert_eq!((work.segment_bytes, work.ip_checksum), (0, false));
    }
}

#[test]
fn what_is_not_plainly_one_packet_is_done_in_software() {
    let (good, bytes) = packet(false, false, 1000);
    let wanted = offload(34, 16, 0, 0);
    let refused =
        |head: &[u8], wanted: &Offload, bytes| plan(&ALL, wanted, &[], head, bytes, ROOM).is_none();
    assert!(!refused(&good, &wanted, bytes));
    let changed = |at: usize, byte: u8| {
        let mut head = good.clone();
        head[at] = byte;
        head
    };
    for (what, head) in [
        ("a fragment", changed(20, 0x20)),
        ("a later fragment", changed(21, 1)),
        ("a VLAN tag", changed(12, 0x81)),
        ("another version", changed(14, 0x65)),
        ("a header too short", changed(14, 0x44)),
        ("options that are not there", changed(14, 0x46)),
        ("another protocol", changed(23, 1)),
        ("another length", changed(17, 0)),
        ("TCP without a header", changed(46, 0x40)),
        ("TCP longer than what was looked at", good[..60].to_vec()),
        ("no IP header", good[..20].to_vec()),
        ("nothing", vec![]),
    ] {
        assert!(refused(&head, &wanted, bytes), "{what}");
    }
    assert!(refused(&good, &wanted, bytes + 1), "padding");
    assert!(refused(&good, &offload(35, 16, 0, 0), bytes), "another start");
    assert!(refused(&good, &offload(34, 18, 0, 0), bytes), "another field");
    // Longer TCP than the frame, extension headers.
    let (short, bytes) = packet(false, false, 0);
    let mut long = short.clone();
    long[46] = 0xf0;
    assert!(!refused(&short, &wanted, bytes) && refused(&long, &wanted, bytes));
    let (mut extended, bytes) = packet(true, false, 100);
    extended[20] = 0;
    assert!(refused(&extended, &offload(54, 16, 0, 0), bytes));
}

#[test]
fn a_word_is_taken_for_whole_packets_only() {
    for (is_ipv6, is_udp) in [(false, false), (false, true), (true, false), (true, true)] {
        assert!(is_vouched_for(&packet(is_ipv6, is_udp, 10).0));
    }
    let (mut fragment, _) = packet(false, true, 10);
    fragment[20] = 0x20;
    let (mut icmp, _) = packet(false, true, 10);
    icmp[23] = 1;
    let (mut extended, _) = packet(true, true, 10);
    extended[20] = 44;
    for head in [fragment, icmp, extended, vec![0; 60], vec![]] {
        assert!(!is_vouched_for(&head), "{head:?}");
    }
}
