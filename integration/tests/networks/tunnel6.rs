//! A tunnel over IPv6, made and used with the operator's command.

use std::net::Ipv6Addr;

use anyhow::{Result, ensure};
use integration::frames::Got;
use vrouter_api::v1::{Network, PortSpec};

use crate::frames::{ethernet, ip6, udp6};
use crate::ipv6::check;
use crate::rig::Rig;

const LOCAL: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x71, 0, 0, 0, 0, 0, 9);
const REMOTE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x71, 0, 0, 0, 0, 0, 3);
const INSIDE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x72, 0, 0, 0, 0, 0, 2);
/// Behind the far end.
const FAR: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5);
/// With the number 99.
const VXLAN: [u8; 8] = [8, 0, 0, 0, 0, 0, 99, 0];
/// Where the flow decides about bytes: the flow label, of which four bits are in the first byte, and the source port.
const FLOW_LABEL: std::ops::Range<usize> = 15..18;
const SOURCE_PORT: std::ops::Range<usize> = 54..56;

pub fn both_ways(rig: &Rig) -> Result<()> {
    let outer = rig.network(Network {
        name: "wide".into(),
        ipv4: "10.71.0.0/24".into(),
        ipv6: "fd00:71::/64".into(),
        ..Default::default()
    })?;
    let (over, local) = (["--underlay", "wide", "--vni", "99", "--local"], LOCAL.to_string());
    let own = ["networks", "add", "deep", "--ipv4", "10.72.0.0/24", "--ipv6", "fd00:72::/64"];
    rig.ringway(&[&own[..], &over, &[&local]].concat())?;
    let remote = REMOTE.to_string();
    rig.ringway(&["routes", "add", "deep", "2001:db8::/32", "vxlan", &remote])?;
    let listed = rig.ringway(&["routes", "deep"])?;
    ensure!(listed == format!("2001:db8::/32 vxlan {remote}\n"), "{listed}");
    let networks = rig.ringway(&["networks"])?;
    ensure!(networks.contains("vni 99 from fd00:71::9 over wide"), "{networks}");
    let inner = rig.network(Network {
        name: "deep".into(),
        ipv4: "10.72.0.0/24".into(),
        ipv6: "fd00:72::/64".into(),
        tunnel: rig.vrouter().network("deep")?.tunnel,
        ..Default::default()
    })?;
    let spec = |network: &str, ipv4: &str, ipv6: Ipv6Addr| PortSpec {
        network: network.into(),
        ipv4: ipv4.into(),
        ipv6: ipv6.to_string(),
        ..Default::default()
    };
    let mut inside = rig.pod("inside", 2, spec("deep", "10.72.0.2", INSIDE))?;
    let mut far = rig.pod("far", 3, spec("wide", "10.71.0.3", REMOTE))?;
    // The far end's router has the MAC address of the gateway here: it is the same network.
    let wrapped = |link, from, to, port: u16, inside: &[u8]| {
        let udp = u16::try_from(16 + inside.len()).unwrap_or(u16::MAX).to_be_bytes();
        let [a, b] = port.to_be_bytes();
        let udp = [&[a, b, 0x12, 0xb5][..], &udp, &[0, 0], &VXLAN, inside].concat();
        let (to_mac, from_mac) = link;
        ethernet(to_mac, from_mac, 0x86dd, &ip6(from, to, 17, 64, &udp))
    };

    inside.app.send(0, 50, &udp6((inner, inside.mac), INSIDE, FAR, 64, 1))?;
    rig.counts(&inside)?;
    let mut got = Got::new();
    for (mut frame, count) in far.app.received()? {
        ensure!(frame.len() == 152 && frame[SOURCE_PORT.start] >= 0xc0, "{frame:02x?}");
        frame[FLOW_LABEL].fill(0);
        frame[SOURCE_PORT].fill(0);
        *got.entry(frame).or_default() += count;
    }
    let sent = udp6((inner, inner), INSIDE, FAR, 63, 1);
    check(got, [(wrapped((far.mac, outer), LOCAL, REMOTE, 0, &sent), 50)].into())?;

    let answer = udp6((inner, [2, 9, 9, 9, 9, 9]), FAR, INSIDE, 64, 2);
    let packet = wrapped((outer, far.mac), REMOTE, LOCAL, 50_000, &answer);
    far.app.send(0, 30, &packet)?;
    rig.counts(&far)?;
    let expected = udp6((inside.mac, inner), FAR, INSIDE, 63, 2);
    check(inside.app.received()?, [(expected, 30)].into())
}
