//! Whatever bytes come in, by whatever port.

use super::*;
use crate::Flood;

/// A good frame with some bytes changed, its lengths perhaps a lie; or just any bytes.
#[derive(Clone, Debug, TypeGenerator)]
struct Hostile {
    ingress: u8,
    template: u8,
    any: [u8; HEADER_BYTES],
    changes: [(u8, u8); 3],
    changed: u8,
    fix: bool,
    header_len: Option<u16>,
    frame_len: Option<u32>,
    segment: Option<u16>,
}

const INGRESS: [PortIndex; 5] = [UP, OTHER, UP_HOST, KERNEL, PORT_A];

impl Hostile {
    fn packet(&self) -> Packet {
        let inner = wire(FAR, B, 9);
        let vxlan = |inner: &[u8]| {
            let payload = [&[8, 0, 0, 0, 0, 0, 77, 0][..], inner].concat();
            let mut frame = Vec::new();
            let link = PacketBuilder::ethernet2(PEER, UP_MAC);
            link.ipv4(REMOTE, LOCAL, 9).udp(50_000, 4789).write(&mut frame, &payload).unwrap();
            frame
        };
        let mut gateways = inner.clone();
        gateways[..6].copy_from_slice(&GATEWAY_MAC);
        let mut frame = match self.template % 14 {
            0 => wire(STRANGER, THERE, 9),
            1 => wire(STRANGER, HOST, 9),
            2 => wire6("2001:db8:9::1", "2001:db8:2::7", 9),
            3 => vxlan(&gateways),
            4 | 5 => labelled(&inner[14..], |_| ()),
            6 => pod(A_MAC, A, KERNELS),
            7 => pod(A_MAC, A, [21, 0, 0, 1]),
            8 => pod6("2001:db8:21::1"),
            10 => ipip::around(ends()[0], &inner),
            11 => ipip::around(ends()[0], &wire6("2001:db8:22::1", "fd00:66::b", 9)),
            12 => pod(A_MAC, A, [22, 0, 0, 1]),
            13 => pod6("2001:db8:22::1"),
            _ => self.any.to_vec(),
        };
        let (to, from) = match self.ingress() {
            OTHER => (OTHER_MAC, PEER),
            KERNEL => (GATEWAY_MAC, KERNEL_MAC),
            PORT_A => (GATEWAY_MAC, A_MAC),
            _ => (UP_MAC, PEER),
        };
        if self.template % 14 != 9 {
            frame[..12].copy_from_slice(&[to, from].concat());
        }
        let mut packet = packet(&frame);
        for (at, byte) in self.changes.into_iter().take(usize::from(self.changed % 4)) {
            packet.header[usize::from(at) % HEADER_BYTES] = byte;
        }
        if self.fix {
            fix(&mut packet.header);
        }
        packet.header_len = self.header_len.unwrap_or(packet.header_len);
        packet.frame_len = self.frame_len.unwrap_or(packet.frame_len);
        packet.segment_bytes = self.segment.unwrap_or(0);
        packet
    }

    fn ingress(&self) -> PortIndex {
        INGRESS[usize::from(self.ingress) % INGRESS.len()]
    }
}

#[test]
fn any_bytes_and_lengths_are_safe_at_every_port() {
    let tables = over(ends()[0]);
    let spread = paths::spread(ends()[0]);
    let mut limits = PortLimits::default();
    let mut now = 0;
    bolero::check!().with_type().for_each(|hostile: &Hostile| {
        for tables in [&tables, &spread] {
            let (before, ingress) = (hostile.packet(), hostile.ingress());
            // Seldom enough for every bucket.
            now += 1_000_000_000;
            let mut batch = [before, before];
            process(tables, Timestamp::from_nanoseconds(now), ingress, &mut batch, &mut limits);
            let [after, again] = batch;
            assert_eq!((after.verdict, after.header), (again.verdict, again.header));
            // What is not valid is neither changed nor shown.
            let valid = before.head().len();
            assert_eq!(after.header[valid..], before.header[valid..]);
            assert!(after.removed() + after.sent_head().len() <= HEADER_BYTES);
            assert!(after.sent_head().len() <= after.frame_len as usize);
            let is_fabrics = |port| [UP, OTHER, paths::THIRD].contains(&port);
            let is_tenants = |port| [PORT_A, PORT_B, KERNEL].contains(&port);
            let from_wire = [UP, OTHER].contains(&ingress);
            match after.verdict {
                Verdict::Drop(_) | Verdict::Originate(_) => {
                    assert_eq!(after.header, before.header);
                }
                Verdict::Forward(to) if ingress == UP_HOST => {
                    assert_eq!((to, after.header), (UP, before.header));
                }
                Verdict::Forward(to) if from_wire => assert!(is_fabrics(to)),
                Verdict::Forward(to) => assert!(is_tenants(to) && to != KERNEL && to != ingress),
                Verdict::Punt(to, PuntClass::Kernel) => {
                    assert!(to == KERNEL && ingress == PORT_A);
                    assert_eq!(after.header[12..], before.header[12..]);
                    assert_eq!(after.header[..12], [KERNEL_MAC, GATEWAY_MAC].concat());
                }
                Verdict::Punt(to, _) => {
                    assert!(to == UP_HOST && ingress == UP);
                    assert_eq!(after.header, before.header);
                }
                Verdict::Encapsulate(to) => {
                    assert!(is_fabrics(to) && !from_wire);
                    assert!([20, 32, 34, 46, 50].contains(&after.outer().len()));
                    assert_eq!(after.frame_len, before.frame_len);
                }
                Verdict::Decapsulate(to) => {
                    assert!(is_tenants(to) && from_wire);
                    let received = after.frame_len as usize + after.removed();
                    assert!(received <= before.frame_len as usize);
                    let to_mac = match to {
                        PORT_A => A_MAC,
                        PORT_B => B_MAC,
                        _ => KERNEL_MAC,
                    };
                    assert_eq!(after.sent_head()[..12], [to_mac, GATEWAY_MAC].concat());
                }
                Verdict::Reply => assert!(!from_wire && ingress != UP_HOST),
                Verdict::Flood(Flood::All | Flood::Trunks) | Verdict::FloodInside(..) => {
                    panic!("nothing is bridged here")
                }
            }
            let mut out = [0; ICMP_ERROR_BYTES];
            icmp_error(tables, ingress, &before, IcmpError::TimeExceeded, &mut out);
        }
    });
}
