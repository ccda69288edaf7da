//! What an attached pod that does nothing costs.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::idle_pods::ATTACHED;
use integration::launch::Side;
use integration::memory::Resident;
use integration::process::Daemon;
use integration::wait;
use vrouter_api::v1::PortState;

use crate::bed::{Bed, Wanted};

/// First argument of this program when it plays idle pods; their sockets follow.
pub const ROLE: &str = "idle-pods";

const PODS: u16 = 250;
const ATTACH: Duration = Duration::from_secs(60);
/// Private memory of the vRouter for each, KiB. Pages of the pods' own memory come on top and belong to the pods.
const ALLOWED: u64 = 100;

pub fn pods_are_small(bed: &mut Bed) -> Result<()> {
    bed.vrouter().create_plain_network("idle", "10.80.0.0/16", 1500)?;
    let before = Resident::of(bed.vrouter().pid())?;
    let mut command = bed.cgroups().command(Side::Pods, bed.pod_cpu, std::env::current_exe()?);
    command.arg(ROLE);
    for index in 0..PODS {
        let [high, low] = index.to_be_bytes();
        let (id, ip) = (format!("idle-{index}"), Ipv4Addr::new(10, 80, 1 + high, low));
        bed.port(Wanted { id: &id, network: "idle", ip, pairs: 1, server: false })?;
        command.arg(bed.socket(&id));
    }
    let log = bed.log("idle-pods");
    let mut pods = Daemon::start("idle pods", command, &log)?;
    let said = format!("{ATTACHED} {PODS}\n");
    pods.wait_for("all are attached", ATTACH, || {
        Ok(fs::read_to_string(&log)?.contains(&said).then_some(()))
    })?;
    wait::until("all ports are up", ATTACH, || {
        let ports = bed.vrouter().ports()?;
        let up = ports.iter().filter(|port| port.state() == PortState::Up).count();
        Ok((up == usize::from(PODS)).then_some(()))
    })?;
    let after = Resident::of(bed.vrouter().pid())?;
    let each = after.own.saturating_sub(before.own) / u64::from(PODS);
    println!("    {each} KiB of private memory for each of {PODS} idle pods");
    ensure!(each < ALLOWED, "{each} KiB for each idle pod: {before:?}, then {after:?}");
    Ok(())
}
