//! The same packets through the kernel alone, and through the vRouter and the kernel behind it: what comes out is the same.
//!
//! ```text
//!  ends                 plain: the kernel alone           ends
//!  q1 ------ veth ----- q0 10.66.0.254      w0 --- veth --- w1
//! ```
//! with the routes that the node has, beside the node itself.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::frames::FramePod;
use integration::wait;
use vrouter_api::v1::PortSpec;

use crate::packets::{self, Inner, Mac, ethernet, hops, mark, srv6, with_hops};
use crate::rig::{Rig, router, wire};
use crate::srv6 as segments;
use integration::space::Space;

const PATIENCE: Duration = Duration::from_secs(30);
/// Nothing that was on its way comes later.
const STILL: Duration = Duration::from_millis(300);
/// Behind Ethernet.
const LINK: usize = 14;

/// Packets by their number.
pub type Seen = BTreeMap<u8, Vec<u8>>;

/// All that routers treat differently. The last of each family is at its end: who routes it drops it.
pub fn cases(six: bool) -> Vec<Inner> {
    let udp = 17;
    let (echo, extra) = if six { (58, 0x1_2345) } else { (1, 0x4000) };
    let base = Inner { number: 0, class: 0, hops: 64, extra: 0, protocol: udp, bytes: 128 };
    let own = if six {
        // An odd number of bytes; a protocol that is none.
        vec![Inner { bytes: 129, ..base.clone() }, Inner { protocol: 253, ..base.clone() }]
    } else {
        // The first fragment and a later one.
        vec![Inner { extra: 0x2000, ..base.clone() }, Inner { extra: 0x0020, ..base.clone() }]
    };
    let both = [
        base.clone(),
        Inner { class: 0xb8, ..base.clone() },
        // Congestion was experienced.
        Inner { class: 0x03, ..base.clone() },
        Inner { hops: 3, ..base.clone() },
        Inner { hops: 255, ..base.clone() },
        Inner { extra, ..base.clone() },
        Inner { bytes: 1400, ..base.clone() },
        Inner { protocol: echo, ..base.clone() },
        Inner { protocol: 132, ..base.clone() },
        Inner { hops: 1, ..base },
    ];
    let family = if six { 100 } else { 1 };
    own.into_iter().chain(both).zip(family..).map(|(it, number)| Inner { number, ..it }).collect()
}

/// Addresses of the pod and of the host at the site.
fn addresses(six: bool) -> (IpAddr, IpAddr) {
    if six {
        (Ipv6Addr::new(0xfd00, 0x66, 0, 0, 0, 0, 0, 3).into(), site6().into())
    } else {
        ([10, 66, 0, 3].into(), [10, 99, 0, 1].into())
    }
}

fn site6() -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 1)
}

/// The segment of the node's for a family.
fn segment(six: bool) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, if six { 6 } else { 4 })
}

/// Somebody's packets to and from the kernel alone.
struct Plain {
    space: Space,
    ends: Space,
    /// In the place of the pod.
    pod: FramePod,
    /// In the place of the router.
    wire: FramePod,
}

impl Plain {
    fn start(rig: &Rig) -> Result<Self> {
        let (space, ends) = (Space::create(&rig.run, "plain")?, Space::create(&rig.run, "ends")?);
        router(&space)?;
        // These only carry; they say nothing themselves.
        ends.set("ipv6/conf/default/disable_ipv6", "1")?;
        wire(&space, &ends, "q0", "q1")?;
        wire(&space, &ends, "w0", "w1")?;
        let (pod, far) = (ends.mac("q1")?, ends.mac("w1")?);
        space.ip("addr add 192.0.2.1/24 dev w0")?;
        space.ip("addr add 2001:db8:1::1/64 dev w0 nodad")?;
        space.ip(&format!("neigh add 2001:db8:1::2 lladdr {far} dev w0 nud permanent"))?;
        for (address, rest) in [("10.66.0.3", ""), ("fd00:66::3", "-6 ")] {
            space.ip(&format!("{rest}neigh add {address} lladdr {pod} dev q0 nud permanent"))?;
            space.ip(&format!("{rest}route add {address} dev q0 table 77"))?;
            space.ip(&format!("{rest}rule add iif q0 lookup 77"))?;
        }
        space.ip("route add 10.66.0.1 via 10.66.0.3 dev q0 table 77 onlink")?;
        segments::node(&space, "w0")?;
        let (pod, wire) = (rig.station(&ends, "q1")?, rig.station(&ends, "w1")?);
        Ok(Self { space, ends, pod, wire })
    }
}

/// Both directions, both families.
pub fn as_the_kernel_alone(rig: &mut Rig) -> Result<()> {
    if rig.node.ip("-6 route get 2001:db8:a::6").map_or(true, |it| !it.contains("seg6local")) {
        segments::node(&rig.node, "host0")?;
    }
    let mut plain = Plain::start(rig)?;
    let spec = PortSpec {
        ipv4: "10.66.0.3".to_owned(),
        ipv6: "fd00:66::3".to_owned(),
        ..PortSpec::default()
    };
    let (mut pod, pod_mac) = rig.frame_pod("red", 3, spec)?;
    let mut far = rig.station(&rig.far, "e0")?;
    let gateway = mac(&rig.network("red")?.gateway_mac)?;

    let mut sent = 0;
    for six in [false, true] {
        let (here, there) = addresses(six);
        let q0 = (mac(&plain.space.mac("q0")?)?, mac(&plain.ends.mac("q1")?)?);
        for case in cases(six) {
            let packet = case.packet(here, there);
            pod.send(0, 1, &ethernet(gateway, pod_mac, &packet))?;
            plain.pod.send(0, 1, &ethernet(q0.0, q0.1, &packet))?;
            sent += 1;
        }
    }
    let node = mac(&rig.node.mac("host0")?)?;
    // The kernel puts IPv4 into SRv6 as it is, at its end or not.
    let ours =
        collect(&mut far, sent - 1, Some(node)).context("encapsulated, through the vRouter")?;
    let from = mac(&plain.space.mac("w0")?)?;
    let theirs = collect(&mut plain.wire, sent - 1, Some(from)).context("by the kernel alone")?;
    compare(&ours, &theirs, sent - 1)?;

    // What was told of packets at their end is none of theirs.
    pod.received()?;
    plain.pod.received()?;
    let (e0, w1) = (mac(&rig.far.mac("e0")?)?, mac(&plain.ends.mac("w1")?)?);
    let mut sent = 0;
    for six in [false, true] {
        let (here, there) = addresses(six);
        // Bare fragments can't be seen beside the kernel alone: DPDK's packet socket has them put together first.
        for case in cases(six).into_iter().filter(|case| !case.is_fragment(six)) {
            sent += 1;
            // One router more is on this way: the vRouter behind the kernel. Who has two hops left gets no further than there.
            let from = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
            let packet = srv6(from, segment(six), &case.packet(there, here));
            far.send(0, 1, &ethernet(node, e0, &packet))?;
            let w0 = mac(&plain.space.mac("w0")?)?;
            plain.wire.send(0, 1, &ethernet(w0, w1, &packet))?;
        }
    }
    let ours = collect(&mut pod, sent - 2, None).context("taken out, through the vRouter")?;
    let q0 = mac(&plain.space.mac("q0")?)?;
    let theirs = collect(&mut plain.pod, sent - 2, Some(q0)).context("by the kernel alone")?;
    let one_less: Seen = theirs
        .into_iter()
        .map(|(number, packet)| {
            let left = hops(&packet).saturating_sub(1);
            (number, with_hops(&packet, left))
        })
        .collect();
    compare(&ours, &one_less, sent - 2)
}

pub fn compare(ours: &Seen, theirs: &Seen, expected: usize) -> Result<()> {
    ensure!(theirs.len() == expected, "the kernel alone let {:?} pass", theirs.keys());
    ensure!(
        ours.keys().eq(theirs.keys()),
        "through the vRouter came {:?}, by the kernel alone {:?}",
        ours.keys(),
        theirs.keys()
    );
    for (number, theirs) in theirs {
        let ours = ours.get(number).map(Vec::as_slice).unwrap_or_default();
        ensure!(
            ours == theirs,
            "packet {number} is\n{ours:02x?}\nby the kernel alone\n{theirs:02x?}"
        );
    }
    Ok(())
}

/// The tests' packets that came from somebody, without Ethernet; waits for so many, and that there are no more.
pub fn collect(station: &mut FramePod, expected: usize, from: Option<Mac>) -> Result<Seen> {
    let mut seen = Seen::new();
    let mut look = |seen: &mut Seen| -> Result<()> {
        for (frame, count) in station.received()? {
            let is_from = from.is_none_or(|from| frame.get(6..12) == Some(&from[..]));
            if let (Some(number), true) = (mark(&frame), is_from) {
                ensure!(count == 1, "packet {number} came {count} times");
                let packet = trimmed(frame.get(LINK..).unwrap_or_default());
                ensure!(seen.insert(number, packet).is_none(), "packet {number} came again");
            }
        }
        Ok(())
    };
    let waited = wait::until(&format!("{expected} packets"), PATIENCE, || {
        look(&mut seen)?;
        Ok((seen.len() >= expected).then_some(()))
    });
    waited.with_context(|| format!("came: {:?}", seen.keys()))?;
    wait::pause(STILL)?;
    look(&mut seen)?;
    Ok(seen)
}

/// Without what Ethernet adds to short packets.
fn trimmed(packet: &[u8]) -> Vec<u8> {
    let bytes = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    let length = if packet[0] >> 4 == 6 { 40 + bytes(4) } else { bytes(2) };
    packet.get(..length).unwrap_or(packet).to_vec()
}

pub fn mac(text: &str) -> Result<Mac> {
    packets::mac(text).with_context(|| format!("{text} is no Ethernet address"))
}
