//! Whatever a frame is made of, every parser says what it is or what is wrong with it, and what one changes stays right.
//! The corpus beside this file holds good frames of every kind and what a fuzzer has made of them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use vrouter_net::segment::TcpPieces;
use vrouter_net::{Mac, arp, checksum, ethernet, icmpv4, icmpv6, ipv4, ipv6, nd};

#[test]
fn any_frame() {
    bolero::check!().for_each(|frame: &[u8]| {
        let Ok((link, payload)) = ethernet::Header::split(frame) else {
            assert!(frame.len() < ethernet::HEADER_BYTES);
            return;
        };
        assert_eq!(payload.len() + ethernet::HEADER_BYTES, frame.len());
        let mut turned = frame.to_vec();
        let (mut other, _) = ethernet::Header::split_mut(&mut turned).unwrap();
        other.set_addresses(link.source(), link.destination());
        assert_eq!((other.source(), other.destination()), (link.destination(), link.source()));

        // Whatever the type says: each must stand any bytes.
        read_arp(payload);
        read_ipv4(payload);
        read_ipv6(payload);
        for size in [0, 1, 7, 536, 1460, usize::MAX] {
            cut(frame, size);
        }
    });
}

fn read_arp(payload: &[u8]) {
    let Ok(packet) = arp::Packet::parse(payload) else { return };
    assert!(payload.len() >= arp::PACKET_BYTES);
    let mut frame = [0xee; arp::FRAME_BYTES];
    let (mac, ip) = (packet.sender_mac(), packet.sender_ip());
    arp::write_reply(&mut frame, Mac::new([2; 6]), packet.target_ip(), mac, ip);
    let (link, reply) = ethernet::Header::split(&frame).unwrap();
    let reply = arp::Packet::parse(reply).unwrap();
    assert_eq!(link.destination(), mac);
    assert_eq!((reply.target_mac(), reply.target_ip()), (mac, ip));
    assert_eq!(reply.sender_ip(), packet.target_ip());
}

fn read_ipv4(payload: &[u8]) {
    let Ok(header) = ipv4::Header::check(payload, payload.len()) else { return };
    let (bytes, total) = (usize::from(header.header_bytes()), usize::from(header.total_length()));
    assert!((20..=60).contains(&bytes) && bytes <= total && total <= payload.len());
    assert!(checksum::verify(&payload[..bytes]));
    assert!(header.is_fragment() || !header.is_later_fragment());
    let mut changed = payload.to_vec();
    let mut view = ipv4::Header::of(changed.first_chunk_mut().unwrap());
    view.set_ttl(header.ttl().wrapping_sub(1));
    view.swap_addresses();
    assert!(checksum::verify(&changed[..bytes]), "the checksum was not brought along");
    let again = ipv4::Header::check(&changed, changed.len()).unwrap();
    assert_eq!((again.source(), again.destination()), (header.destination(), header.source()));

    let message = &mut changed[bytes..total];
    let was_right = checksum::verify(message);
    let is_request = message.first() == Some(&8);
    if is_request && icmpv4::echo_reply(message).is_ok() {
        assert_eq!(message[0], 0);
        assert_eq!(checksum::verify(message), was_right);
    }
}

fn read_ipv6(payload: &[u8]) {
    let Ok(header) = ipv6::Header::check(payload, payload.len()) else { return };
    let total = header.total_bytes();
    assert!((40..=payload.len()).contains(&total));
    let packet = &payload[..total];
    if let Some(upper) = ipv6::upper_layer(packet) {
        assert!(upper.offset >= 40 && (upper.is_fragment || !upper.is_later_fragment));
    }
    let message = &packet[40..];
    match nd::Message::parse(message) {
        Ok(Some(_)) => assert!((133..=137).contains(&message[0])),
        Ok(None) => assert!(!(133..=137).contains(&message[0])),
        Err(_) => {}
    }
    let (from, to) = (header.source(), header.destination());
    let was_right = icmpv6::verify(from, to, message);
    let mut reply = message.to_vec();
    if reply.first() == Some(&128) && icmpv6::echo_reply(&mut reply).is_ok() {
        // The addresses change places, which the sum does not see.
        assert_eq!((reply[0], icmpv6::verify(to, from, &reply)), (129, was_right));
    }
}

/// The pieces hold the payload, all of it and in order, and each is a sound packet.
fn cut(frame: &[u8], size: usize) {
    let Some(pieces) = TcpPieces::new(frame, size) else { return };
    let word = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    let is_ipv4 = frame[12] == 8;
    let (ip, total) =
        if is_ipv4 { (usize::from(frame[14] & 15) * 4, word(16)) } else { (40, 40 + word(18)) };
    let headers = 14 + ip + usize::from(frame[14 + ip + 12] >> 4) * 4;
    let mut room = vec![0; pieces.largest()];
    let mut payload = Vec::new();
    for n in 0..pieces.len() {
        let bytes = pieces.write(n, &mut room).unwrap();
        assert!(bytes > headers && bytes <= headers + size.min(0x1_0000));
        payload.extend_from_slice(&room[headers..bytes]);
        if is_ipv4 {
            let header = ipv4::Header::check(&room[14..bytes], bytes - 14).unwrap();
            assert_eq!(usize::from(header.total_length()), bytes - 14);
        } else {
            let header = ipv6::Header::check(&room[14..bytes], bytes - 14).unwrap();
            assert_eq!(header.total_bytes(), bytes - 14);
        }
    }
    assert!(!pieces.is_empty());
    assert_eq!(payload, frame[headers..14 + total]);
    assert_eq!(pieces.write(pieces.len(), &mut room), None);
}
