//! Two wires to one destination.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use vrouter_api::v1::{Path, Route, RouteKind};

use crate::rig::{Rig, link, prefix, vxlan};
use integration::space::traffic;

const FLOWS: usize = 64;

fn sent(rig: &Rig, uplink: &str) -> Result<u64> {
    Ok(rig.uplink_stats(uplink)?.port.context("no counters")?.tx_packets)
}

/// The tunnel's other end is reached over both; with one lost, every flow takes the other, and with it back both are used.
pub fn spread_and_fail_over(rig: &Rig) -> Result<()> {
    let path = |uplink: &str, interface: &str| {
        let route = link("", uplink, &rig.far.mac(interface)?);
        anyhow::Ok(Path { route: Some(route), weight: 1 })
    };
    let paths = vec![path("up0", "e0")?, path("up1", "e1")?];
    rig.vrouter.set_routes(
        "fabric",
        vec![Route { kind: RouteKind::Multipath.into(), paths, ..prefix("203.0.113.9/32") }],
    )?;
    rig.vrouter
        .set_routes("red", vec![vxlan("10.98.0.0/24", "203.0.113.9", &rig.far.mac("vx0")?)])?;
    let exchange = || {
        let before = (sent(rig, "up0")?, sent(rig, "up1")?);
        let came = traffic::udp(&rig.pod, &rig.far, "10.98.0.1:5003", 1000, FLOWS)?;
        ensure!(came == FLOWS, "{came} of {FLOWS} datagrams came back");
        anyhow::Ok((sent(rig, "up0")? - before.0, sent(rig, "up1")? - before.1))
    };
    let (first, second) = exchange().context("over both")?;
    ensure!(first > 0 && second > 0, "up0 {first}, up1 {second}");

    let start = Instant::now();
    rig.far.ip("link set e1 down")?;
    let reason = rig.wait_link("up1", false)?;
    println!("link loss was seen within {:?}", start.elapsed());
    ensure!(reason == "no link", "{reason}");
    let (first, second) = exchange().context("over one")?;
    ensure!(first >= u64::try_from(FLOWS)? && second == 0, "up0 {first}, up1 {second}");

    rig.far.ip("link set e1 up")?;
    rig.wait_link("up1", true)?;
    let (first, second) = exchange().context("over both again")?;
    ensure!(first > 0 && second > 0, "up0 {first}, up1 {second}");
    Ok(())
}
