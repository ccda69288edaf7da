//! A pod without containers: a DPDK application that bridges its port with a TAP, so that a kernel speaks for it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use vrouter_api::v1::PortSpec;

use super::Space;
use crate::launch::{Cgroups, Side};
use crate::process::Daemon;
use crate::vrouter::VRouter;

/// Time for EAL and the handshake; a second when the CPU is free.
const UP: Duration = Duration::from_secs(60);

/// Creates the port and starts its application; the TAP `eth0` in `space` has the port's address, and `gateway` behind it.
pub fn bridge(
    space: &Space,
    vrouter: &VRouter,
    cgroups: &Cgroups,
    port: PortSpec,
    gateway: &str,
    log: &Path,
) -> Result<Daemon> {
    let PortSpec { mac, socket_path, ipv4, .. } = port.clone();
    let pod = port.id.split('/').next().unwrap_or_default().to_owned();
    vrouter.create_port(PortSpec { peer_cgroups: vec![cgroups.path(Side::Pods)], ..port })?;
    let mut command = cgroups.command(Side::Pods, 0, "/usr/sbin/ip");
    command.args(["netns", "exec", space.name(), "/usr/bin/dpdk-testpmd"]);
    command.args(["--in-memory", "--single-file-segments", "--no-pci", "--no-telemetry"]);
    command.args(["-m", "64", "--lcores", "0@0,1@0", "--vdev"]);
    command.arg(format!("net_virtio_user0,path={socket_path},mac={mac},queues=1,queue_size=256"));
    command.args(["--vdev", &format!("net_tap0,iface=eth0,mac={mac}")]);
    command.args(["--", "--forward-mode=io", "--auto-start", "--no-mlockall", "--burst=32"]);
    command.args(["--total-num-mbufs=4096", "--stats-period=3600", "--no-numa"]);
    let mut app = Daemon::start("dpdk-testpmd", command, log)?;
    app.wait_for("the pod's port is up", UP, || {
        let there = space.ip("link show dev eth0").is_ok();
        Ok((there && vrouter.wait_up(&pod, UP).is_ok()).then_some(()))
    })?;
    space.ip(&format!("addr add {ipv4}/24 dev eth0"))?;
    space.ip("link set eth0 up")?;
    space.ip(&format!("route add default via {gateway}"))?;
    ensure!(app.exited()?.is_none(), "the pod's application has ended");
    Ok(app)
}
