use super::*;
use crate::flow::Flows;

const A: Mac = Mac([2, 0, 0, 0, 0, 0x0a]);
const B: Mac = Mac([2, 0, 0, 0, 0, 0x0b]);
const GATEWAY: Mac = Mac([2, 0, 0, 0, 0, 1]);
const IP: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 2);
const TO: Ipv4Addr = Ipv4Addr::new(10, 67, 0, 0);
const FLOWS: Flows = Flows { count: 10, addresses: 4 };

fn share(len: u16, queue: u16) -> Share {
    Share::new(FLOWS, queue, 2, IP, TO, len)
}

/// Port 0 sends to port 1 through a gateway, on two queues.
fn checker(len: u16, touched: bool) -> Checker {
    let shares = vec![share(len, 0), share(len, 1)];
    let sender = Sender { peer: 1, len, to: GATEWAY, shares };
    Checker::new(vec![Some(sender), None], vec![A, B], vec![None, None], touched)
}

fn stream(len: u16) -> Stream {
    Stream::new(share(len, 1), 0, 1, (A, GATEWAY), None)
}

/// The first `count` packets of queue 1, each in a buffer of its own.
fn sent(len: u16, count: u64, pattern: &Pattern, touch: bool) -> Vec<Vec<u8>> {
    let mut stream = stream(len);
    let frames = (0..count).map(|number| {
        let mut frame = vec![0xee; usize::from(len)];
        stream.prepare(&mut frame, pattern, number + 1000);
        let stamp = number.is_multiple_of(3).then_some(number + 5);
        stream.write(&mut frame, stamp, touch.then_some(pattern));
        frame
    });
    frames.collect()
}

/// What a router does to a frame: its own and the receiver's Ethernet address, TTL, checksum.
fn route(frame: &mut [u8]) {
    frame[..6].copy_from_slice(&B.0);
    frame[6..12].copy_from_slice(&GATEWAY.0);
    frame[22] -= 1;
    frame[24..26].fill(0);
    let sum = checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn a_frame_is_what_its_layout_says() {
    let pattern = Pattern::new(100);
    let frame = &sent(60, 2, &pattern, false)[1];
    // Flow 3: the second one of queue 1 of two; 10.67.0.3, UDP 1027.
    let expected = [
        &GATEWAY.0[..],
        &A.0,
        &[8, 0],
        &[0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17],
        // By hand: 4500 + 002e + 4000 + 4011 + 0a42 + 0002 + 0a43 + 0003 = d9c9 and a carry of 0.
        &(!0xd9c9_u16).to_be_bytes(),
        &[10, 66, 0, 2, 10, 67, 0, 3],
        &[4, 3, 0, 9, 0, 26, 0, 0],
        &[0x52, 0xa7, 0, 1],
        &[1, 0, 0, 0, 0, 0],
        &[0; 8],
    ]
    .concat();
    assert_eq!(frame, &expected);
    assert_eq!(checksum(&frame[14..34]), 0);
}

#[test]
fn the_checksum_is_the_internets() {
    // The example of RFC 1071, section 3: 0001 f203 f4f5 f6f7 sum to ddf2.
    assert_eq!(checksum(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    assert_eq!(checksum(&[0xff; 40]), 0);
    assert_eq!(checksum(&[]), 0xffff);
}

#[test]
fn what_was_sent_is_good_switched_or_routed() {
    for (len, touch) in
        [(60, false), (61, false), (62, true), (128, false), (1514, true), (9014, false)]
    {
        let pattern = Pattern::new(usize::from(len));
        let checker = checker(len, touch);
        for (seq, mut frame) in (0..).zip(sent(len, 12, &pattern, touch)) {
            let stamp = (seq % 3 == 0).then_some(seq + 5);
            let flow = usize::try_from(1 + 2 * (seq % 5)).unwrap();
            let good = Verdict::Good { from: 0, flow, seq, stamp };
            assert_eq!(checker.check(&frame, 1, &pattern), good, "{len} bytes, switched");
            assert_eq!(is_stamped(&frame), stamp.is_some());
            route(&mut frame);
            assert_eq!(checker.check(&frame, 1, &pattern), good, "{len} bytes, routed");
        }
    }
}

#[test]
fn no_byte_may_change() {
    let pattern = Pattern::new(200);
    let checker = checker(200, false);
    let frame = &sent(200, 2, &pattern, false)[1];
    for at in 0..frame.len() {
        // The sender's address is not known behind a router, the time stamp means nothing without its flag, and
        // payloads that are not written anew are known by their first byte alone: it is tested below.
        if (6..12).contains(&at) || (STAMP..HEAD).contains(&at) {
            continue;
        }
        let mut frame = frame.clone();
        frame[at] ^= 0x20;
        let verdict = checker.check(&frame, 1, &pattern);
        let expected = match at {
            0..6 | 42..44 => Verdict::Foreign,
            _ => Verdict::Corrupt,
        };
        assert_eq!(verdict, expected, "byte {at}");
    }
}

#[test]
fn damage_is_told_from_what_is_not_for_us() {
    let pattern = Pattern::new(200);
    let checker = checker(100, true);
    type Edit = fn(&mut Vec<u8>);
    let frame = &sent(100, 2, &pattern, true)[1];
    let edited = |edit: Edit| {
        let mut frame = frame.clone();
        edit(&mut frame);
        checker.check(&frame, 1, &pattern)
    };
    let cases: [(&str, Edit, Verdict); 9] = [
        ("cut", |f| f.truncate(99), Verdict::Corrupt),
        ("cut below a head", |f| f.truncate(59), Verdict::Foreign),
        ("too long", |f| f.push(0), Verdict::Corrupt),
        ("empty", Vec::clear, Verdict::Foreign),
        (
            "TTL 0, checksum right",
            |f| {
                f[22] = 1;
                route(f)
            },
            Verdict::Corrupt,
        ),
        (
            "TTL 65, checksum right",
            |f| {
                f[22] = 66;
                route(f)
            },
            Verdict::Corrupt,
        ),
        (
            "wrong checksum",
            |f| {
                route(f);
                f[25] ^= 1
            },
            Verdict::Corrupt,
        ),
        (
            "both Ethernet addresses swapped",
            |f| {
                let (to, rest) = f.split_at_mut(6);
                to.swap_with_slice(&mut rest[..6])
            },
            Verdict::Foreign,
        ),
        // An older packet's payload in a newer packet: right bytes, but not this packet's.
        ("another packet's payload", |f| Pattern::new(200).fill(&mut f[60..], 7), Verdict::Corrupt),
    ];
    for (name, edit, verdict) in cases {
        assert_eq!(edited(edit), verdict, "{name}");
    }
    assert_eq!(checker.check(frame, 0, &pattern), Verdict::Foreign, "back at its sender");
    assert!(matches!(checker.check(frame, 1, &pattern), Verdict::Good { .. }));
}

#[test]
fn a_packet_of_a_port_that_does_not_send_is_corrupt() {
    let pattern = Pattern::new(60);
    let mut stream = Stream::new(share(60, 0), 1, 0, (B, GATEWAY), None);
    let mut frame = vec![0; 60];
    stream.prepare(&mut frame, &pattern, 0);
    stream.write(&mut frame, None, None);
    assert_eq!(checker(60, false).check(&frame, 1, &pattern), Verdict::Corrupt);
}

#[test]
fn buffers_are_written_again_and_again() {
    let pattern = Pattern::new(100);
    let checker = checker(100, false);
    let mut stream = stream(100);
    let mut buffer = vec![0; 100];
    stream.prepare(&mut buffer, &pattern, 3);
    for turn in 0..20 {
        assert_eq!(stream.seq(), turn);
        stream.write(&mut buffer, (turn == 4).then_some(9), None);
        let verdict = checker.check(&buffer, 1, &pattern);
        let Verdict::Good { seq, stamp, .. } = verdict else { unreachable!("{verdict:?}") };
        assert_eq!(
            (seq, stamp),
            (turn, (turn == 4).then_some(9)),
            "an old time stamp is not seen again"
        );
    }
}
