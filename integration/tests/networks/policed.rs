//! What a pod may send.

use std::time::Instant;

use anyhow::{Result, ensure};
use vrouter_api::v1::{Network, Policer, PortSpec};

use crate::frames::{Mac, udp4};
use crate::rig::Rig;

fn spec(network: &str, number: u8) -> PortSpec {
    PortSpec { network: network.into(), ipv4: format!("10.68.0.{number}"), ..Default::default() }
}

fn frame(gateway: Mac, from: (Mac, u8), to: u8, mark: u8) -> Vec<u8> {
    let ip = |last| [10, 68, 0, last].into();
    udp4((gateway, from.0), ip(from.1), ip(to), mark)
}

/// Two queues, each with a worker of its own where there are two CPUs, share what the port may send.
pub fn all_queues_together(rig: &Rig) -> Result<()> {
    let (per_second, burst, sent) = (1, 200, 800);
    let policer =
        Policer { packets_per_second: per_second, burst_packets: burst, ..Default::default() };
    let gateway = rig.network(Network {
        name: "slow".into(),
        ipv4: "10.68.0.0/24".into(),
        policer: Some(policer),
        ..Default::default()
    })?;
    let mut a = rig.pod("a", 2, PortSpec { queue_pairs: 2, ..spec("slow", 2) })?;
    let mut b = rig.pod("b", 3, PortSpec { queue_pairs: 2, ..spec("slow", 3) })?;
    let workers = rig.vrouter().port("slow-a")?.workers;
    let running = rig.vrouter().info()?.workers.len();
    ensure!(workers.len() == 2 && (running == 1 || workers[0] != workers[1]), "{workers:?}");
    let begun = Instant::now();
    for queue in [0, 1, 0, 1] {
        a.app.send(queue, sent / 4, &frame(gateway, (a.mac, 2), 3, 1))?;
    }
    let seconds = begun.elapsed().as_secs() + 1;
    let counts = rig.counts(&a)?;
    let got: u64 = b.app.received()?.values().sum();
    let allowed = burst + seconds * per_second;
    println!("    {got} of {sent} arrived, {allowed} were allowed, {counts:?}");
    ensure!(counts.sent == sent, "{counts:?}");
    ensure!((burst..=allowed).contains(&got), "{got} of at most {allowed} arrived");
    ensure!(got + counts.dropped("policed") == sent, "{got} arrived, {counts:?}");
    // What others may send is theirs.
    b.app.send(0, burst, &frame(gateway, (b.mac, 3), 2, 2))?;
    rig.counts(&b)?;
    let got: u64 = a.app.received()?.values().sum();
    ensure!(got == burst, "{got} of {burst} arrived");
    let ports = rig.ringway(&["ports"])?;
    ensure!(ports.contains("1 pps"), "{ports}");
    Ok(())
}

/// By bits, in a network whose other ports may send none but the default, and by none at all.
pub fn its_own(rig: &Rig) -> Result<()> {
    let sent = 300;
    let policer = Policer { packets_per_second: 1, burst_packets: 1, ..Default::default() };
    let gateway = rig.network(Network {
        name: "own".into(),
        ipv4: "10.68.0.0/24".into(),
        policer: Some(policer),
        ..Default::default()
    })?;
    // The frames have 62 bytes.
    let (bits, frames) = (62 * 8, 100);
    let by_bits =
        Policer { bits_per_second: bits, burst_bits: frames * bits, ..Default::default() };
    let with = |number, policer| PortSpec { policer: Some(policer), ..spec("own", number) };
    let mut a = rig.pod("a", 2, with(2, by_bits))?;
    let mut b = rig.pod("b", 3, with(3, Policer::default()))?;
    let begun = Instant::now();
    a.app.send(0, sent, &frame(gateway, (a.mac, 2), 3, 1))?;
    let seconds = begun.elapsed().as_secs() + 1;
    let counts = rig.counts(&a)?;
    let got: u64 = b.app.received()?.values().sum();
    let allowed = frames + seconds;
    println!("    {got} of {sent} arrived, {allowed} were allowed, {counts:?}");
    ensure!((frames..=allowed).contains(&got), "{got} of at most {allowed} arrived");
    ensure!(got + counts.dropped("policed") == sent, "{got} arrived, {counts:?}");
    b.app.send(0, sent, &frame(gateway, (b.mac, 3), 2, 2))?;
    let counts = rig.counts(&b)?;
    let got: u64 = a.app.received()?.values().sum();
    ensure!(got == sent && counts.drops.is_empty(), "{got} arrived, {counts:?}");
    Ok(())
}
