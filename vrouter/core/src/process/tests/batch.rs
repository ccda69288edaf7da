//! Many packets at once, and heads of two lengths.

use super::*;

#[test]
fn each_packet_of_a_long_batch_has_its_own_verdict() {
    let kinds = [
        (udp(B), Verdict::Forward(PORT_B)),
        (udp([9, 9, 9, 9]), Verdict::Drop(DropReason::NoRoute)),
        (echo(GATEWAY, &[1; 20]), Verdict::Reply),
        (udp(A), Verdict::Drop(DropReason::Hairpin)),
        (arp_request(B), Verdict::Reply),
    ];
    for length in [0, 1, 63, 64, 65, 128, 200] {
        let mut batch: Vec<Packet> =
            kinds.iter().cycle().take(length).map(|(frame, _)| packet(frame)).collect();
        let mut limiter = PortLimits::default();
        process(&tables(), Timestamp::default(), PORT_A, &mut batch, &mut limiter);
        for (i, (packet, (_, verdict))) in batch.iter().zip(kinds.iter().cycle()).enumerate() {
            assert_eq!(packet.verdict, *verdict, "packet {i} of {length}");
        }
    }
}

#[test]
fn the_outcome_names_the_one_port_all_go_to() {
    let all_to = |frames: &[&Vec<u8>], times: usize| {
        let frames = frames.iter().cycle().take(frames.len() * times);
        let mut batch: Vec<Packet> = frames.map(|frame| packet(frame)).collect();
        let mut limiter = PortLimits::default();
        process(&tables(), Timestamp::default(), PORT_A, &mut batch, &mut limiter).all_to
    };
    let (b, options) = (udp(B), with_options(udp(B), 3));
    assert_eq!(all_to(&[&b], 1), Some(PORT_B));
    assert_eq!(all_to(&[&b], 64), Some(PORT_B));
    assert_eq!(all_to(&[&b], 200), Some(PORT_B));
    // Whatever way they took through the stages.
    assert_eq!(all_to(&[&b, &options], 40), Some(PORT_B));
    assert_eq!(all_to(&[], 1), None);
    let others =
        [udp(NOBODY), udp(A), udp([9, 9, 9, 9]), echo(GATEWAY, &[]), arp_request(B), vec![]];
    for other in &others {
        for at in [0, 1, 63, 64, 100] {
            let mut frames = vec![&b; 101];
            frames[at] = other;
            assert_eq!(all_to(&frames, 1), None);
        }
    }
    // Two ports that a packet can go to.
    let via_c = Ipv4Addr::from(C);
    let mut policy = policy();
    let c = PortPolicy {
        index: PortIndex(9),
        mac: Mac::new([2, 0, 0, 0, 0, 0xc]),
        ipv4: via_c,
        ..policy.ports[0].clone()
    };
    policy.ports.push(c);
    let tables = Tables::build(&policy).unwrap();
    for at in [0, 1, 63, 64, 100] {
        let mut batch = vec![packet(&b); 101];
        batch[at] = packet(&udp(C));
        let mut limiter = PortLimits::default();
        let outcome = process(&tables, Timestamp::default(), PORT_A, &mut batch, &mut limiter);
        assert_eq!(outcome.all_to, None);
        assert_eq!(batch[at].verdict, Verdict::Forward(PortIndex(9)));
    }
}

/// Where [`Packet::enough`] says so, 64 bytes are judged, answered and quoted like the whole head. So they are of pings, of
/// which it says nothing.
#[test]
fn sixty_four_bytes_are_enough_where_promised() {
    let mut seen = 0;
    for frame in [
        udp(B),
        udp(NOBODY),
        udp(A),
        echo(B, &[7; 200]),
        echo(GATEWAY, &[7; 200]),
        with_options(udp(B), 2),
    ] {
        let whole = run(&frame);
        seen += u32::from(Packet::enough(frame.first_chunk().unwrap()));
        if frame[14] != 0x45 {
            continue;
        }
        let mut short = packet(&frame);
        short.header_len = 64;
        // Bytes of an older frame.
        short.header[64..].fill(0xee);
        let mut batch = [short];
        process(&tables(), Timestamp::default(), PORT_A, &mut batch, &mut PortLimits::default());
        let [short] = batch;
        assert_eq!(short.verdict, whole.verdict);
        assert_eq!(short.header[..64], whole.header[..64]);
        assert!(short.header[64..].iter().all(|byte| *byte == 0xee));
        if let Verdict::Originate(kind) = short.verdict {
            let mut out = [0; ICMP_ERROR_BYTES];
            let bytes = icmp_error(&tables(), PORT_A, &short, kind, &mut out).unwrap();
            assert_eq!(bytes, 42 + 50);
            check_error(&out[..bytes], &frame);
        }
    }
    assert_eq!(seen, 3);
}
