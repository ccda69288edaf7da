//! A bridged network with two trunks.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use integration::frames::Got;
use vrouter_api::v1::{FloodLimit, Network, NetworkMode, PortSpec};

use crate::frames::{BROADCAST, Mac, other, udp4};
use crate::ipv6::check;
use crate::rig::Rig;

/// A station behind a trunk, and one nobody has heard of.
const STATION: Mac = [2, 0, 0, 0, 0x99, 1];
const UNHEARD: Mac = [2, 0, 0, 0, 0x99, 2];

fn spec(network: &str, number: u8, trunk: bool) -> PortSpec {
    PortSpec {
        network: network.into(),
        ipv4: format!("10.67.0.{number}"),
        trunk,
        ..Default::default()
    }
}

pub fn delivers_and_floods(rig: &Rig) -> Result<()> {
    let gateway = rig.network(Network {
        name: "lan".into(),
        ipv4: "10.67.0.0/24".into(),
        mode: NetworkMode::Bridged.into(),
        ..Default::default()
    })?;
    let mut a = rig.pod("a", 10, spec("lan", 10, false))?;
    let mut b = rig.pod("b", 11, spec("lan", 11, false))?;
    let mut trunk = rig.pod("trunk", 12, spec("lan", 12, true))?;
    let mut second = rig.pod("second", 13, spec("lan", 13, true))?;

    let direct = other(b.mac, a.mac, 1);
    let ip = udp4((b.mac, a.mac), [10, 67, 0, 10].into(), [10, 67, 0, 11].into(), 2);
    let to_all = other(BROADCAST, a.mac, 3);
    let unheard = other(UNHEARD, a.mac, 4);
    let to_station = other(STATION, a.mac, 5);
    let spoofed = other(b.mac, STATION, 6);
    let false_ip = udp4((b.mac, a.mac), [10, 67, 0, 99].into(), [10, 67, 0, 11].into(), 7);
    for (frame, count) in [
        (&direct, 100),
        (&ip, 50),
        (&to_all, 3),
        (&unheard, 2),
        (&to_station, 4),
        (&spoofed, 6),
        (&false_ip, 7),
    ] {
        a.app.send(0, count, frame)?;
    }
    let counts = rig.counts(&a)?;
    let got = |frames: &[(&Vec<u8>, u64)]| -> Got {
        frames.iter().map(|(frame, count)| ((*frame).clone(), *count)).collect()
    };
    // Unchanged, each where it belongs; nobody knows yet where the station is.
    check(b.app.received()?, got(&[(&direct, 100), (&ip, 50), (&to_all, 3)]))?;
    let both = got(&[(&to_all, 3), (&unheard, 2), (&to_station, 4)]);
    check(trunk.app.received()?, both.clone())?;
    check(second.app.received()?, both)?;
    check(a.app.received()?, Got::new())?;
    ensure!(counts.dropped("source_mac") == 6 && counts.dropped("source_ip") == 7, "{counts:?}");

    // The station speaks behind the first trunk: from now on only that one gets its frames, from pods and from the
    // other trunk, whichever worker looks at them.
    let hello = other(a.mac, STATION, 8);
    trunk.app.send(0, 1, &hello)?;
    rig.counts(&trunk)?;
    check(a.app.received()?, got(&[(&hello, 1)]))?;
    let from_b = other(STATION, b.mac, 9);
    let from_second = other(STATION, second.mac, 10);
    a.app.send(0, 200, &to_station)?;
    b.app.send(0, 200, &from_b)?;
    second.app.send(0, 20, &from_second)?;
    rig.counts(&a)?;
    let expected = got(&[(&to_station, 200), (&from_b, 200), (&from_second, 20)]);
    check(trunk.app.received()?, expected)?;
    check(second.app.received()?, Got::new())?;
    ensure!(
        rig.vrouter().network("lan")?.stations == 1,
        "stations: {:?}",
        rig.vrouter().networks()?
    );

    // It moves.
    second.app.send(0, 1, &hello)?;
    rig.counts(&second)?;
    a.app.send(0, 5, &to_station)?;
    rig.counts(&a)?;
    check(second.app.received()?, got(&[(&to_station, 5)]))?;
    check(trunk.app.received()?, Got::new())?;

    // The gateway is still there, and routes.
    let routed = udp4((gateway, a.mac), [10, 67, 0, 10].into(), [10, 67, 0, 11].into(), 11);
    a.app.send(0, 1, &routed)?;
    rig.counts(&a)?;
    let (frame, _) = b.app.received()?.pop_first().context("nothing was routed")?;
    ensure!(frame[..12] == [b.mac, gateway].concat() && frame[22] == 63, "{frame:02x?}");
    Ok(())
}

pub fn floods_are_limited(rig: &Rig) -> Result<()> {
    let (per_second, burst, sent) = (1, 5, 60);
    rig.network(Network {
        name: "quiet".into(),
        ipv4: "10.67.0.0/24".into(),
        mode: NetworkMode::Bridged.into(),
        flood_limit: Some(FloodLimit { frames_per_second: per_second, burst_frames: burst }),
        ..Default::default()
    })?;
    let mut a = rig.pod("a", 20, spec("quiet", 20, false))?;
    let mut b = rig.pod("b", 21, spec("quiet", 21, false))?;
    let to_all = other(BROADCAST, a.mac, 1);
    let begun = Instant::now();
    a.app.send(0, sent, &to_all)?;
    let seconds = begun.elapsed().as_secs() + 1;
    let counts = rig.counts(&a)?;
    let got = b.app.received()?.get(&to_all).copied().unwrap_or(0);
    let allowed = u64::from(burst) + seconds * u64::from(per_second);
    ensure!((u64::from(burst)..=allowed).contains(&got), "{got} of at most {allowed}");
    ensure!(got + counts.dropped("flood_limited") == sent, "{got} arrived, {counts:?}");
    // What is for one pod is no flood.
    let direct = other(b.mac, a.mac, 2);
    a.app.send(0, sent, &direct)?;
    rig.counts(&a)?;
    check(b.app.received()?, Got::from([(direct, sent)]))
}
