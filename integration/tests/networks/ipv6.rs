//! A routed network with IPv6.

use std::fs;
use std::net::Ipv6Addr;

use anyhow::{Result, ensure};
use integration::frames::Got;
use vrouter_api::v1::{Network, PortSpec};

use crate::frames::{advertisement, echo6, solicitation, udp6};
use crate::rig::Rig;

const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x66, 0, 0, 0, 0, 0, 1);
const A: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x66, 0, 0, 0, 0, 0, 2);
const B: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x66, 0, 0, 0, 0, 0, 3);
/// Somebody else, inside the network.
const OTHER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x66, 0, 0, 0, 0, 0, 9);
/// In a prefix that pod A may use besides.
const ALLOWED: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1);
/// Behind pod B, by a route.
const FAR: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5);

pub fn between_pods(rig: &Rig) -> Result<()> {
    let gateway = rig.network(Network {
        name: "six".into(),
        ipv4: "10.66.0.0/24".into(),
        ipv6: "fd00:66::/64".into(),
        ..Default::default()
    })?;
    let spec = |ipv4: &str, ipv6: Ipv6Addr, allowed: &[&str]| PortSpec {
        network: "six".into(),
        ipv4: ipv4.into(),
        ipv6: ipv6.to_string(),
        allowed_sources: allowed.iter().map(|&prefix| prefix.to_owned()).collect(),
        ..Default::default()
    };
    let mut a = rig.pod("a", 2, spec("10.66.0.2", A, &["fd00:77::/64"]))?;
    let mut b = rig.pod("b", 3, spec("10.66.0.3", B, &[]))?;
    let to_gateway = (gateway, a.mac);
    let to_b = (b.mac, gateway);

    // Where the gateway is, and where B is: the gateway answers for both. Nobody has OTHER.
    for (target, count) in [(GATEWAY, 1), (B, 1), (OTHER, 3)] {
        a.app.send(0, count, &solicitation((a.mac, A), target))?;
    }
    a.app.send(0, 1, &echo6(to_gateway, A, GATEWAY, 128))?;
    let counts = rig.counts(&a)?;
    let answers = [
        advertisement((a.mac, A), GATEWAY, gateway, true),
        advertisement((a.mac, A), B, gateway, false),
        echo6((a.mac, gateway), GATEWAY, A, 129),
    ];
    check(a.app.received()?, answers.map(|answer| (answer, 1)).into())?;
    ensure!(counts.dropped("nd_unanswered") == 3, "{counts:?}");

    // Packets to B, from A's own address, from one it may use, and from one it may not.
    for (from, count, mark) in [(A, 500, 1), (ALLOWED, 5, 2), (OTHER, 10, 3), (GATEWAY, 7, 4)] {
        a.app.send(0, count, &udp6(to_gateway, from, B, 64, mark))?;
    }
    // The way is too long.
    a.app.send(0, 1, &udp6(to_gateway, A, B, 1, 5))?;
    // A route, by the command line.
    let routes = rig.file("routes");
    fs::write(&routes, "2001:db8::/32 via fd00:66::3\nunreachable 2001:db8:ffff::/48\n")?;
    let routes = routes.display().to_string();
    rig.ringway(&["routes", "load", "six", &routes])?;
    rig.ringway(&["routes", "add", "six", "default", "via", "10.66.0.3"])?;
    let listed = rig.ringway(&["routes", "six"])?;
    let expected =
        "0.0.0.0/0 via 10.66.0.3\n2001:db8::/32 via fd00:66::3\n2001:db8:ffff::/48 unreachable\n";
    ensure!(listed == expected, "{listed}");
    a.app.send(0, 20, &udp6(to_gateway, A, FAR, 64, 6))?;
    let counts = rig.counts(&a)?;
    let expected = [
        (udp6(to_b, A, B, 63, 1), 500),
        (udp6(to_b, ALLOWED, B, 63, 2), 5),
        (udp6(to_b, A, FAR, 63, 6), 20),
    ];
    check(b.app.received()?, expected.into())?;
    ensure!(counts.dropped("source_ip") == 17, "{counts:?}");
    ensure!(counts.dropped("ttl_exceeded") == 1, "{counts:?}");
    // It was told: one ICMPv6 error, "time exceeded", and nothing else came.
    let told = a.app.received()?;
    let errors = told.keys().filter(|frame| frame[20] == 58 && frame[54] == 3).count();
    ensure!(errors == 1 && told.len() == 1, "{told:02x?}");

    let ports = rig.ringway(&["ports"])?;
    ensure!(ports.contains("fd00:66::2") && ports.contains("fd00:66::3"), "{ports}");
    let networks = rig.ringway(&["networks"])?;
    ensure!(networks.contains("fd00:66::/64") && networks.contains("routed"), "{networks}");
    Ok(())
}

/// Compares what a pod got with what it should have got.
pub fn check(got: Got, expected: Got) -> Result<()> {
    let unlike = |one: &Got, other: &Got| -> Vec<_> {
        one.iter()
            .filter(|(frame, count)| other.get(*frame) != Some(count))
            .map(|(f, c)| (f.clone(), *c))
            .collect()
    };
    let (more, missing) = (unlike(&got, &expected), unlike(&expected, &got));
    ensure!(more.is_empty() && missing.is_empty(), "got {more:02x?}\n not {missing:02x?}");
    Ok(())
}
