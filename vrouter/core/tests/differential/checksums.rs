//! Every value that a checksum can have, and both ways to write zero: a carry that is lost shows with a few of 65,536.

use super::*;

/// Frames that differ in one word, each with its checksum, and where that can be written in another way, so too.
fn all(frame: &[u8], word: usize, checksum: usize, of: std::ops::Range<usize>) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for value in 0..=u16::MAX {
        let mut frame = frame.to_vec();
        frame[word..word + 2].copy_from_slice(&value.to_be_bytes());
        frame[checksum..checksum + 2].fill(0);
        let right = !sum(&[&frame[of.clone()]]);
        let ways = if right == 0 { vec![0, u16::MAX] } else { vec![right] };
        for way in ways {
            frame[checksum..checksum + 2].copy_from_slice(&way.to_be_bytes());
            frames.push(frame.clone());
        }
    }
    frames
}

fn agree(frames: &[Vec<u8>]) {
    let policy = policy(true, false, 0);
    let tables = Tables::build(&policy).unwrap();
    let reference = Reference { policy: &policy, routes: &[], fabric: &[], down: &[], choice: 0 };
    let mut limits = PortLimits::default();
    for frames in frames.chunks(64) {
        let mut batch: Vec<_> = frames.iter().map(|frame| copied(frame, 0)).collect();
        let ingress = policy.ports[0].index;
        let outcome = process(&tables, Timestamp::default(), ingress, &mut batch, &mut limits);
        for (frame, after) in frames.iter().zip(&batch) {
            let (verdict, sent) = reference.decide(0, frame, after.head().len(), 0);
            assert!(matches!(verdict, Verdict::Forward(_) | Verdict::Reply));
            assert_eq!(after.verdict, verdict);
            let mut got = after.head().to_vec();
            got.extend(&frame[got.len()..]);
            if let Verdict::Forward(to) = verdict {
                assert_eq!(outcome.all_to, Some(to), "all are of the common kind");
            }
            assert!(same(&got, &sent, &verdict), "{frame:02x?}\n got {got:02x?}\n not {sent:02x?}");
        }
    }
}

#[test]
fn every_header_checksum_is_brought_along() {
    for ttl in [2, 64, 255] {
        let mut frame = Vec::new();
        let link = PacketBuilder::ethernet2(mac(2), GATEWAY_MAC);
        link.ipv4(four(1), four(2), ttl).udp(1, 2).write(&mut frame, &[0; 18]).unwrap();
        agree(&all(&frame, 18, 24, 14..34));
    }
}

#[test]
fn every_checksum_of_a_ping_is_brought_along() {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    let link = || PacketBuilder::ethernet2(mac(2), GATEWAY_MAC);
    link().ipv4(four(1), four(0), 9).icmpv4_echo_request(1, 2).write(&mut v4, &[1; 6]).unwrap();
    agree(&all(&v4, 42, 36, 34..48));
    let (from, to) = (six(1).octets(), six(0).octets());
    link().ipv6(from, to, 9).icmpv6_echo_request(1, 2).write(&mut v6, &[1; 6]).unwrap();
    // The pseudo header adds a constant, which every value of the checksum makes up for.
    agree(&all(&v6, 62, 56, 54..68));
}
