use super::*;
use etherparse::PacketBuilder;
use std::vec::Vec;

fn head(frame: &[u8]) -> [u8; HEAD_BYTES] {
    std::array::from_fn(|at| frame.get(at).copied().unwrap_or(0))
}

fn udp4(from: [u8; 4], to: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
    link.ipv4(from, to, 9).udp(ports.0, ports.1).write(&mut frame, &[7; 40]).unwrap();
    frame
}

fn udp6(last: u8, ports: (u16, u16)) -> Vec<u8> {
    let (mut from, mut to) = ([0xfd; 16], [0xfd; 16]);
    (from[15], to[15]) = (last, 9);
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
    link.ipv6(from, to, 9).udp(ports.0, ports.1).write(&mut frame, &[7; 40]).unwrap();
    frame
}

/// All that makes a flow counts, and nothing else does.
#[test]
fn a_flow_is_what_it_is() {
    for (frame, part_of_it, not_part_of_it) in [
        (
            udp4([10, 0, 0, 1], [10, 0, 0, 2], (5, 6)),
            &[26, 29, 30, 33, 34, 35, 36, 37, 23][..],
            &[0, 6, 15, 16, 17, 18, 19, 22, 24, 25, 38, 40, 41, 50][..],
        ),
        (
            udp6(1, (5, 6)),
            &[17, 22, 37, 38, 53, 54, 57, 20],
            &[0, 6, 15, 18, 19, 21, 58, 60, 61, 63],
        ),
    ] {
        let before = hash(&head(&frame));
        for at in part_of_it {
            let mut other = frame.clone();
            other[*at] ^= 8;
            assert_ne!(hash(&head(&other)), before, "byte {at}");
        }
        for at in not_part_of_it {
            let mut other = frame.clone();
            // The traffic class, not the flow label.
            other[*at] ^= if *at == 15 { 0x10 } else { 1 };
            assert_eq!(hash(&head(&other)), before, "byte {at}");
        }
    }
}

#[test]
fn fragments_of_a_datagram_stay_together() {
    let mut first = udp4([10, 0, 0, 1], [10, 0, 0, 2], (5, 6));
    first[20] = 0x20;
    let mut later = udp4([10, 0, 0, 1], [10, 0, 0, 2], (0xdead, 0xbeef));
    (later[20], later[21]) = (0x20, 0xb9);
    let mut last = udp4([10, 0, 0, 1], [10, 0, 0, 2], (1, 2));
    last[21] = 0xff;
    assert_eq!(hash(&head(&first)), hash(&head(&later)));
    assert_eq!(hash(&head(&first)), hash(&head(&last)));
    let mut six = [udp6(1, (5, 6)), udp6(1, (7, 8))];
    assert_ne!(hash(&head(&six[0])), hash(&head(&six[1])));
    for (frame, offset) in six.iter_mut().zip([1, 0xb9]) {
        // Next header: fragment; what is behind the header then is the fragment header.
        frame[20] = 44;
        frame[54..62].copy_from_slice(&[17, 0, 0, offset, 1, 2, 3, 4]);
    }
    assert_eq!(hash(&head(&six[0])), hash(&head(&six[1])));
}

/// Flows that are counted up in any field fall evenly on any power of two, by the upper bits and by the lower ones.
#[test]
fn flows_spread() {
    let by_port = |i: u16| head(&udp4([10, 0, 0, 1], [10, 0, 0, 2], (i, 80)));
    let by_address = |i: u16| {
        let [a, b] = i.to_be_bytes();
        head(&udp4([10, 1, a, b], [10, 0, 0, 2], (1, 2)))
    };
    let by_port6 = |i: u16| head(&udp6(1, (i, 443)));
    type Make<'a> = &'a dyn Fn(u16) -> [u8; HEAD_BYTES];
    let fields: [(&str, Make<'_>); 3] =
        [("port", &by_port), ("address", &by_address), ("port over IPv6", &by_port6)];
    for (name, make) in fields {
        for shift in [0, 28] {
            let mut counts = [0; 16];
            for i in 0..16_000 {
                counts[(hash(&make(i)) >> shift) as usize % 16] += 1;
            }
            // 1,000 each; five standard deviations.
            assert!(counts.iter().all(|n| (840..1_160).contains(n)), "{name} {shift}: {counts:?}");
        }
    }
}

#[test]
fn any_bytes_are_safe() {
    bolero::check!().with_type().for_each(|bytes: &[u8; HEAD_BYTES]| {
        hash(bytes);
    });
}
