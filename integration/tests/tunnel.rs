//! A VXLAN tunnel between a pod and another that plays the far end, with the real vRouter, its configuration file and two
//! real DPDK pods: every packet of both directions is read to its last byte, outer headers included.
#![forbid(unsafe_code)]
#![allow(clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::machine::{self, Hugepages, program};
use integration::process::{Daemon, tail};
use integration::readback::mounts;
use integration::rundir::RunDir;
use integration::vrouter::VRouter;
use integration::wait::{self, runtime};
use serde_json::Value;
use vrouter_api::v1::PortSpec;
use vrouter_api::{Client, connect};

const NETWORKS: &str = r#"
# On purpose in this order: the vRouter has to find out what carries what.
[[networks]]
name = "overlay"
ipv4 = "10.66.0.0/24"
tunnel = { underlay = "fabric", local = "192.0.2.9", vni = 4711 }
routes = [
  { prefix = "11.0.0.0/8", action = "vxlan", via = "192.0.2.3" },
  { prefix = "12.0.0.0/8", via = "10.66.0.2" },
]
[[networks]]
name = "fabric"
ipv4 = "192.0.2.0/24"
"#;
/// Rings and buffers of vRouter and generator, 2 MiB each.
const HUGEPAGES: u64 = 340;
const LIMIT: Duration = Duration::from_secs(60);

/// A vRouter with both networks, and where its pods run.
struct Fabric {
    vrouter: VRouter,
    client: Client,
    run: PathBuf,
    cgroup: String,
    procs: PathBuf,
}

impl Fabric {
    fn start(run: &RunDir) -> Result<Self> {
        machine::prepare(&run.path(), Hugepages::Free(HUGEPAGES))?;
        let hierarchy = mounts(None)?
            .into_iter()
            .filter(|mount| !mount.super_options.split(',').any(|option| option == "cpuset"))
            .find(|mount| mount.kind == "cgroup2" || mount.kind == "cgroup")
            .context("no cgroup hierarchy is mounted")?
            .target;
        let directory = hierarchy.join(run.id()).join("pods");
        fs::create_dir_all(&directory)?;
        let socket = run.path().join("control.sock");
        let config = run.path().join("vrouter.toml");
        let (control, own) = (socket.display(), run.path());
        let own = own.display();
        let text = format!("control_socket = \"{control}\"\nrun_dir = \"{own}\"\n{NETWORKS}");
        fs::write(&config, text)?;
        let vrouter = VRouter::start_with(&config, &socket, &run.path().join("vrouter.log"))?;
        let client = runtime()?.block_on(connect(&socket))?;
        let cgroup = format!("/{}/pods", run.id());
        let procs = directory.join("cgroup.procs");
        Ok(Self { vrouter, client, run: run.path(), cgroup, procs })
    }

    fn port(&self, network: &str, id: &str, mac: &str, ipv4: &str) -> Result<PathBuf> {
        let socket = self.run.join(format!("{id}.sock"));
        let spec = PortSpec {
            id: id.to_owned(),
            network: network.to_owned(),
            mac: mac.to_owned(),
            ipv4: ipv4.to_owned(),
            socket_path: socket.display().to_string(),
            peer_cgroups: vec![self.cgroup.clone()],
            ..PortSpec::default()
        };
        runtime()?.block_on(self.client.clone().create_port(spec))?;
        Ok(socket)
    }

    /// What the two pods say at the end of a second of traffic with frames of this size, and how they exited.
    fn exchange(&self, sockets: [&Path; 2], size: u16, vni: u32) -> Result<(Value, Option<i32>)> {
        let mac = |name: &str| anyhow::Ok(self.vrouter.network(name)?.gateway_mac);
        let (overlay, fabric) = (mac("overlay")?, mac("fabric")?);
        let [inside, far] = sockets.map(Path::display);
        let script = "echo $$ >\"$1\" && shift && exec \"$@\"";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, "sh"]).arg(&self.procs).arg(program("ringway-pktgen")?);
        command.args(["--cpu", "0", "--size", &size.to_string(), "--flows", "1000"]);
        // Every byte of every packet is written and read.
        command.args(["--touch", "--verify-every", "1", "--rate", "20000"]);
        command.args(["--warmup", "0.5", "--seconds", "1", "--memory-mb", "256"]);
        command.arg("--port").arg(format!(
            "socket={inside},mac=02:00:00:00:00:0a,ip=10.66.0.2,to-mac={overlay},to-ip=11.0.0.1"
        ));
        // Who is behind the far end is anybody; its frames go to the inner network's router.
        command.arg("--port").arg(format!(
            "socket={far},mac=02:00:00:00:00:0b,ip=13.0.0.1,to-mac={overlay},to-ip=12.0.0.1,vni={vni},\
             vtep=192.0.2.3,to-vtep=192.0.2.9,vtep-mac={fabric}"
        ));
        let log = self.run.join(format!("pktgen-{size}-{vni}.log"));
        let mut pods = Daemon::start("ringway-pktgen", command, &log)?;
        let status = wait::until("the pods end", LIMIT, || pods.exited())?;
        let text = fs::read_to_string(&log)?;
        let end = text.lines().find(|line| line.starts_with("{\"event\":\"end\""));
        let end = end.with_context(|| format!("no result: {}", tail(&log, 5)))?;
        Ok((serde_json::from_str(end)?, status.code()))
    }

    fn drops(&self, port: &str) -> Result<Vec<String>> {
        let drops = self.vrouter.port_stats(port)?.drops;
        Ok(drops.into_iter().filter(|drop| drop.packets > 0).map(|drop| drop.reason).collect())
    }
}

fn count(end: &Value, port: usize, field: &str) -> u64 {
    end["ports"][port][field].as_u64().unwrap_or(u64::MAX)
}

fn both_ways(run: &RunDir) -> Result<()> {
    let fabric = Fabric::start(run)?;
    let inside = fabric.port("overlay", "inside", "02:00:00:00:00:0a", "10.66.0.2")?;
    let far = fabric.port("fabric", "far", "02:00:00:00:00:0b", "192.0.2.3")?;
    // The smallest, one of two lines of cache and more, and the largest that fits into the underlay.
    for size in [64, 200, 1468] {
        let (end, code) = fabric.exchange([&inside, &far], size, 4711)?;
        for port in [0, 1] {
            for fault in ["corrupt", "foreign", "reordered"] {
                ensure!(count(&end, port, fault) == 0, "{size} bytes, port {port}: {end}");
            }
            let (received, checked) = (count(&end, port, "received"), count(&end, port, "checked"));
            ensure!(received > 1000 && checked >= received, "{size} bytes: {end}");
        }
        ensure!(code == Some(0), "{size} bytes: {code:?}");
    }
    let drops = [fabric.drops("inside")?, fabric.drops("far")?].concat();
    ensure!(
        drops.iter().all(|reason| reason == "receiver_ring_full" || reason == "receiver_down"),
        "{drops:?}"
    );

    // One byte too many for the underlay: the sender is told, and nothing arrives.
    let (end, _) = fabric.exchange([&inside, &far], 1469, 4711)?;
    ensure!(count(&end, 1, "received") == 0, "{end}");
    ensure!(
        fabric.drops("inside")?.contains(&"too_big".to_owned()),
        "{:?}",
        fabric.drops("inside")
    );
    // A number that no network has.
    let (end, _) = fabric.exchange([&inside, &far], 64, 4712)?;
    ensure!(count(&end, 0, "received") == 0, "{end}");
    ensure!(fabric.drops("far")?.contains(&"unknown_vni".to_owned()), "{:?}", fabric.drops("far"));
    Ok(())
}

#[test]
fn packets_go_in_and_come_out_undamaged() {
    let run = RunDir::create().unwrap_or_else(|error| panic!("{error:#}"));
    if let Err(error) = both_ways(&run) {
        panic!("{error:#}\n{}", tail(&run.path().join("vrouter.log"), 20));
    }
}
