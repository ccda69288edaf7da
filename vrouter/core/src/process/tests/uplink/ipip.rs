//! IP in IP: there and back in all four combinations of families, and what does not go through.

use super::*;
use crate::RouteError;
use DropReason::*;
use vrouter_net::ipv4;

/// A frame from the other end with the packet of another frame inside, and what is to be different.
pub(super) fn around((local, remote): (IpAddr, IpAddr), frame: &[u8]) -> Vec<u8> {
    let link = [&UP_MAC[..], &PEER].concat();
    let protocol = if frame[12] == 8 { 4 } else { 41 };
    let inner = &frame[14..];
    let bytes = u16::try_from(inner.len()).unwrap();
    let mut outer = match (remote, local) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = [0; ipv4::HEADER_BYTES];
            header[..4].copy_from_slice(&[0x45, 0, 0, 0]);
            header[2..4].copy_from_slice(&(20 + bytes).to_be_bytes());
            header[6..10].copy_from_slice(&[0x40, 0, 9, protocol]);
            header[12..].copy_from_slice(&[from.octets(), to.octets()].concat());
            [&link, &[8, 0][..], &header, inner].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let fixed =
                [0x60, 0, 0, 0, bytes.to_be_bytes()[0], bytes.to_be_bytes()[1], protocol, 9];
            let addresses = [from.octets(), to.octets()].concat();
            [&link, &[0x86, 0xdd][..], &fixed, &addresses, inner].concat()
        }
        _ => unreachable!("two families"),
    };
    if outer[12] == 8 {
        fix(&mut outer);
    }
    outer
}

/// From behind the tunnel to a port here.
fn inward(six: bool) -> Vec<u8> {
    if six { wire6("2001:db8:22::1", "fd00:66::b", 9) } else { wire([22, 0, 0, 1], B, 9) }
}

fn set_ecn(frame: &mut [u8], at: usize, ecn: u8) {
    if frame[at] >> 4 == 6 {
        frame[at + 1] = frame[at + 1] & 0xcf | ecn << 4;
    } else {
        frame[at + 1] = frame[at + 1] & 0xfc | ecn;
        let bytes = usize::from(frame[at] & 15) * 4;
        frame[at + 10..at + 12].fill(0);
        let sum = checksum::compute(&frame[at..at + bytes]);
        frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
    }
}

#[test]
fn into_the_tunnel() {
    for (local, remote) in ends() {
        let tables = over((local, remote));
        let plain = pod(A_MAC, A, [22, 0, 0, 1]);
        for mut frame in [plain.clone(), with_options(plain, 2), pod6("2001:db8:22::1")] {
            set_ecn(&mut frame, 14, 2);
            let after = run_on(&tables, PORT_A, &frame);
            assert_eq!(after.verdict, Verdict::Encapsulate(OTHER));
            let got = sent(&after, &frame);
            // One hop for the packet inside, whose congestion bits are outside, too.
            let mut expected = around((remote, local), &frame);
            expected[..12].copy_from_slice(&[NEXT, OTHER_MAC].concat());
            let (ttl, start) = if local.is_ipv4() { (22, 34) } else { (21, 54) };
            expected[ttl] = 64;
            set_ecn(&mut expected, 14, 2);
            expected[start + if frame[12] == 8 { 8 } else { 7 }] = 8;
            set_ecn(&mut expected, start, 2);
            if local.is_ipv6() {
                assert_ne!(got[16..18], [0; 2], "the flow label tells flows apart");
                expected[16..18].copy_from_slice(&got[16..18]);
            }
            assert_eq!(got, expected);
        }
        let told = run_on(&tables, PORT_A, &{
            let mut frame = pod(A_MAC, A, [22, 0, 0, 1]);
            frame[22] = 1;
            fix(&mut frame);
            frame
        });
        assert_eq!(told.verdict, Verdict::Originate(IcmpError::TimeExceeded));
    }
}

#[test]
fn out_of_the_tunnel() {
    for ends in ends() {
        let tables = over(ends);
        let front = if ends.0.is_ipv4() { 20 } else { 40 };
        let options = with_options(inward(false), 2);
        for inner in [inward(false), options, inward(true)] {
            let mut frame = around(ends, &inner);
            // Padding is no part of it.
            frame.extend([0xee; 5]);
            let after = run_on(&tables, UP, &frame);
            assert_eq!((after.verdict, after.removed()), (Verdict::Decapsulate(PORT_B), front));
            let mut expected = inner.clone();
            expected[..12].copy_from_slice(&[B_MAC, GATEWAY_MAC].concat());
            expected[if inner[12] == 8 { 22 } else { 21 }] = 8;
            if inner[12] == 8 {
                set_ecn(&mut expected, 14, 0);
            }
            assert_eq!(sent(&after, &frame), expected);
            // What is copied of it is enough.
            let copied = if Packet::enough(frame.first_chunk().unwrap()) { 64 } else { 128 };
            assert_eq!(copied, HEADER_BYTES);
            // Linux puts options in front, over IPv6, which mean nothing here; others are not ours to judge.
            if ends.0.is_ipv6() {
                let limit = [frame[20], 0, 4, 1, 4, 1, 1, 0];
                frame.splice(54..54, limit);
                frame[20] = 60;
                let bytes = u16::from_be_bytes([frame[18], frame[19]]) + 8;
                frame[18..20].copy_from_slice(&bytes.to_be_bytes());
                let after = run_on(&tables, UP, &frame);
                let verdict = Verdict::Decapsulate(PORT_B);
                assert_eq!((after.verdict, after.removed()), (verdict, front + 8));
                assert_eq!(sent(&after, &frame), expected);
                frame[56] = 0xc2;
                let verdict = run_on(&tables, UP, &frame).verdict;
                assert_eq!(verdict, Verdict::Punt(UP_HOST, PuntClass::Local));
            }
        }
    }
}

/// RFC 6040 section 4.2, figure 4: rows by the inner bits, columns by the outer ones.
#[test]
fn congestion_is_told_inside() {
    let table = [[0, 0, 0, 9], [1, 1, 1, 3], [2, 1, 2, 3], [3, 3, 3, 3]];
    for ends in ends() {
        let tables = over(ends);
        for six in [false, true] {
            for (inner_ecn, row) in (0..).zip(table) {
                for (outer_ecn, expected) in (0..).zip(row) {
                    let mut inner = inward(six);
                    set_ecn(&mut inner, 14, inner_ecn);
                    let mut frame = around(ends, &inner);
                    set_ecn(&mut frame, 14, outer_ecn);
                    let after = run_on(&tables, UP, &frame);
                    if expected == 9 {
                        assert_eq!(after.verdict, Verdict::Drop(TunnelCongestion));
                        assert_eq!(after.header, packet(&frame).header);
                        continue;
                    }
                    assert_eq!(after.verdict, Verdict::Decapsulate(PORT_B));
                    let byte = sent(&after, &frame)[15];
                    assert_eq!(if six { byte >> 4 & 3 } else { byte & 3 }, expected);
                }
            }
        }
    }
}

#[test]
fn what_is_not_right() {
    type Change = fn(&mut Vec<u8>);
    let drop = Verdict::Drop;
    let local = Verdict::Punt(UP_HOST, PuntClass::Local);
    let cases: [(&str, [u8; 4], Change, Verdict); 14] = [
        ("right", A, |_| (), Verdict::Decapsulate(PORT_A)),
        ("from a stranger", A, |f| f[29] ^= 1, drop(UnknownVtep)),
        ("the first fragment", A, |f| f[20] = 0x20, drop(MalformedIpip)),
        ("a later fragment", A, |f| f[21] = 1, drop(MalformedIpip)),
        ("another family than it says", A, |f| f[23] = 41, drop(MalformedIpip)),
        ("no IP", A, |f| f[34] = 0x15, drop(MalformedIpip)),
        ("nothing inside", A, |f| f[16..18].copy_from_slice(&[0, 20]), drop(MalformedIpip)),
        ("cut off inside", A, |f| f[16..18].copy_from_slice(&[0, 60]), drop(MalformedIpv4)),
        ("bad checksum inside", A, |f| f[44] ^= 1, drop(BadIpv4Checksum)),
        ("into a tunnel", [22, 0, 0, 9], |_| (), drop(TunnelTransit)),
        ("the kernel's", KERNELS, |_| (), Verdict::Decapsulate(KERNEL)),
        ("nobody's", NOBODY, |_| (), drop(NoRoute)),
        ("of another protocol", A, |f| f[23] = 47, local),
        ("for this host", A, |f| f[30..34].copy_from_slice(&HOST), local),
    ];
    let tables = over(ends()[0]);
    for (name, to, change, verdict) in cases {
        let mut frame = around(ends()[0], &wire([22, 0, 0, 1], to, 9));
        change(&mut frame);
        fix(&mut frame);
        let after = run_on(&tables, UP, &frame);
        assert_eq!(after.verdict, verdict, "{name}");
        if !matches!(verdict, Verdict::Decapsulate(_)) {
            assert_eq!(after.header, packet(&frame).header, "{name}");
        }
    }
    let old = around(ends()[0], &wire([22, 0, 0, 1], A, 1));
    assert_eq!(run_on(&tables, UP, &old).verdict, drop(TtlExceeded));
    // A pod's stack that leaves the cutting to us cannot mean a packet inside another.
    let frame = around(ends()[0], &inward(false));
    let mut batch = [Packet { segment_bytes: 500, ..packet(&frame) }];
    process(&tables, Timestamp::default(), UP, &mut batch, &mut PortLimits::default());
    assert_eq!(batch[0].verdict, drop(UnsupportedOffload));
}

/// Where no network speaks it, such packets are the kernel's, and no route leads into it.
#[test]
fn without_a_network_that_speaks_it() {
    for ends in ends() {
        let mut policy = uplinks(ends.0);
        policy.networks[0].tunnel.as_mut().unwrap().ipip = false;
        let tables = Tables::build(&policy).unwrap();
        let route = routes(&[("22.0.0.0/8", RouteTarget::Ipip(ends.1))]);
        let error = tables.with_routes(RED, &route).unwrap_err();
        assert!(matches!(error, RouteError::TunnelKind { needs: "ipip", .. }), "{error}");
        assert!(std::string::ToString::to_string(&error).contains("has to have ipip"));
        let tables = tables.with_routes(RED, &routes(&[("20.0.0.0/8", vtep(ends.1))])).unwrap();
        for six in [false, true] {
            let frame = around(ends, &inward(six));
            let after = run_on(&tables, UP, &frame);
            assert_eq!(after.verdict, Verdict::Punt(UP_HOST, PuntClass::Local));
            assert_eq!(after.header, packet(&frame).header);
        }
    }
}

#[test]
fn is_explained() {
    use crate::{Asked, TunnelNumber, explain};
    for ends in ends() {
        let tables = over(ends);
        let bytes = if ends.0.is_ipv4() { 20 } else { 40 };
        for is_six in [false, true] {
            let told =
                |port, frame: &[u8]| explain(&tables, Timestamp::default(), port, packet(frame));
            let asked = |told: &crate::Explanation| -> Vec<_> {
                told.lookups.iter().map(|it| (it.asked, it.network, it.address)).collect()
            };
            let (far, here) = if is_six {
                (six("2001:db8:22::1").into(), six("fd00:66::b").into())
            } else {
                (IpAddr::from([22, 0, 0, 1]), IpAddr::from(B))
            };
            let frame = if is_six { pod6("2001:db8:22::1") } else { pod(A_MAC, A, [22, 0, 0, 1]) };
            let out = told(PORT_A, &frame).unwrap();
            let outer = out.outer.unwrap();
            assert_eq!((outer.number, outer.source_port), (TunnelNumber::Ipip, None));
            assert_eq!((outer.from, outer.to, outer.ttl), (ends.0, ends.1, 64));
            assert_eq!(outer.bytes, bytes);
            let both = [(Asked::Destination, RED, far), (Asked::Underlay, FABRIC, ends.1)];
            assert_eq!(asked(&out), both);
            let back = told(UP, &around(ends, &inward(is_six))).unwrap();
            let outer = back.outer.unwrap();
            assert_eq!((outer.number, outer.from, outer.to), (TunnelNumber::Ipip, ends.1, ends.0));
            let both = [(Asked::Destination, FABRIC, ends.0), (Asked::Inside, RED, here)];
            assert_eq!(asked(&back), both);
        }
    }
}
