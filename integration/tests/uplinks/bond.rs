//! An uplink that is a bond of two TAPs, which a bridge of the kernel's holds together as a switch would.
//!
//! ```text
//!  pod                node                                     the same kernel
//!  eth0 (TAP) ------ vRouter -- up0: b0 ---- br0 198.18.2.2    vx0 10.99.0.1, VXLAN 77
//!                           \------- b1 ---/
//! ```

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use integration::launch::Cgroups;
use integration::machine::{self, Hugepages, program};
use integration::process::tail;
use integration::rundir::RunDir;
use integration::space::Space;
use integration::space::pod::bridge;
use integration::space::stream::Stream;
use integration::vrouter::VRouter;
use integration::{process, wait};
use serde_json::Value;
use vrouter_api::v1::{PortSpec, UplinkDriver, UplinkSpec};

use crate::rig::{UP, link, vxlan};

/// Of 2 MiB: 32 for the vRouter, 64 for the pod, and some to spare.
const HUGEPAGES: Hugepages = Hugepages::Free(128);
/// Datagrams that show that it goes on.
const SOME: usize = 50;

const CONFIG: &str = r#"
[[networks]]
name = "red"
ipv4 = "10.66.0.0/24"
tunnel = { underlay = "wire", local = "198.18.2.1", vni = 77 }
[[networks]]
name = "wire"
external = true
mtu = 1600
[[uplinks]]
name = "up0"
device = "b0"
backups = ["b1"]
driver = "tap"
network = "wire"
"#;

/// Dropped in this order.
struct Rig {
    _pod_app: process::Daemon,
    vrouter: VRouter,
    _cgroups: Cgroups,
    pod: Space,
    node: Space,
    run: RunDir,
}

impl Rig {
    fn start() -> Result<Self> {
        let run = RunDir::create()?;
        Space::sweep()?;
        machine::prepare(&run.path(), HUGEPAGES)?;
        let cgroups = Cgroups::create(&run)?;
        let [pod, node] = [Space::create(&run, "pod")?, Space::create(&run, "node")?];
        for space in [&pod, &node] {
            space.set("ipv6/conf/default/disable_ipv6", "1")?;
        }
        let vrouter = VRouter::start_in(&node, &run.path(), CONFIG)?;
        let mac = vrouter.uplink("up0")?.mac;
        node.ip("link add br0 type bridge")?;
        for (tap, own) in [("b0", "02:00:00:00:b0:00"), ("b1", "02:00:00:00:b0:01")] {
            // A bridge takes for its own what is for an interface of it, and both ends of a TAP have one address.
            node.ip(&format!("link set {tap} address {own}"))?;
            node.ip(&format!("link set {tap} master br0"))?;
        }
        node.ip("link set br0 mtu 1600 up")?;
        node.ip("addr add 198.18.2.2/24 dev br0")?;
        node.ip(&format!("neigh add 198.18.2.1 lladdr {mac} dev br0 nud permanent"))?;
        node.ip(
            "link add vx0 type vxlan id 77 local 198.18.2.2 remote 198.18.2.1 dstport 4789 dev br0",
        )?;
        node.ip("link set vx0 mtu 1500 up")?;
        node.ip("addr add 10.99.0.1/24 dev vx0")?;
        let gateway = vrouter.network("red")?.gateway_mac;
        node.ip(&format!("neigh add 10.99.0.254 lladdr {gateway} dev vx0 nud permanent"))?;
        node.ip("route add 10.66.0.0/24 via 10.99.0.254 dev vx0")?;
        vrouter.set_routes("wire", vec![link("198.18.2.2/32", "up0", &node.mac("br0")?)])?;
        vrouter.set_routes("red", vec![vxlan("10.99.0.0/24", "198.18.2.2", &node.mac("vx0")?)])?;
        let port = PortSpec {
            id: "pod/0/net0".to_owned(),
            network: "red".to_owned(),
            mac: "02:00:00:00:77:01".to_owned(),
            ipv4: "10.66.0.2".to_owned(),
            socket_path: run.path().join("pod.sock").display().to_string(),
            ..PortSpec::default()
        };
        let log = run.path().join("pod.log");
        let pod_app = bridge(&pod, &vrouter, &cgroups, port, "10.66.0.1", &log)?;
        Ok(Self { _pod_app: pod_app, vrouter, _cgroups: cgroups, pod, node, run })
    }

    /// Waits until these devices of the bond have a link and this one carries the packets; gives what people are told.
    fn wait_bond(&self, links: [bool; 2], carries: Option<&str>) -> Result<String> {
        wait::until(&format!("links {links:?}, carried by {carries:?}"), UP, || {
            let uplink = self.vrouter.uplink("up0")?;
            let found: Vec<_> = uplink.members.iter().map(|member| member.link).collect();
            let active = uplink.members.iter().find(|member| member.active);
            let is_so = found == links
                && active.map(|it| it.device.as_str()) == carries
                && uplink.link == links.contains(&true);
            Ok(is_so.then_some(uplink.reason))
        })
    }

    fn ringway(&self, words: &[&str]) -> Result<Value> {
        let mut command = Command::new(program("ringway")?);
        command.arg("--socket").arg(VRouter::socket_of(&self.run)).args(words).arg("--json");
        let output = command.output()?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "ringway {words:?}: {error}");
        serde_json::from_slice(&output.stdout).context("no JSON")
    }

    /// By which device the kernel has got packets since it had got `before`.
    fn carried(&self) -> Result<[u64; 2]> {
        Ok([self.node.counter("b0", "rx_packets")?, self.node.counter("b1", "rx_packets")?])
    }
}

/// All of it.
pub fn fails_over() -> Result<()> {
    let rig = Rig::start()?;
    cut_and_back(&rig)
        .and_then(|()| refusals(&rig).context("refusals"))
        .and_then(|()| made_anew(&rig).context("a TAP deleted by hand"))
        .with_context(|| tail(&rig.run.path().join("vrouter.log"), 25))
}

/// Packets go by the first, by the second as soon as the first has no link, and by the first again.
fn cut_and_back(rig: &Rig) -> Result<()> {
    ensure!(rig.wait_bond([true, true], Some("b0"))?.is_empty(), "something is wrong with it");
    ensure!(rig.vrouter.uplink("up0")?.driver == "net_bonding", "no bond of DPDK's");
    let stream = Stream::start(&rig.pod, &rig.node, "10.99.0.1:5009")?;
    let told = cut(rig, &stream);
    stream.end()?;
    told
}

fn cut(rig: &Rig, stream: &Stream) -> Result<()> {
    stream.wait_more(SOME).context("by the first")?;
    let by = rig.carried()?;
    ensure!(by[0] > by[1], "by device: {by:?}");

    let since = Instant::now();
    rig.node.ip("link set b0 down")?;
    let reason = rig.wait_bond([false, true], Some("b1"))?;
    ensure!(reason == "b1 carries: b0 has no link", "{reason}");
    let before = rig.carried()?;
    stream.wait_more(SOME).context("by the second")?;
    let after = rig.carried()?;
    ensure!(after[0] == before[0] && after[1] >= before[1] + 50, "{before:?}, then {after:?}");
    println!("    without an answer for {:?} when the first link went", stream.longest_gap(since));
    let listed = rig.ringway(&["uplinks"])?;
    ensure!(listed[0]["members"][1]["active"] == true, "{listed}");
    let told = rig.ringway(&["explain", "--from", "pod/0/net0", "--to", "10.99.0.1"])?;
    ensure!(told[0]["to"]["device"] == "b1", "{told}");
    let why = told[0]["why"].to_string();
    ensure!(
        why.contains("Uplink up0 is a bond: b1 is the first of its devices that has a link"),
        "{why}"
    );

    rig.node.ip("link set b1 down")?;
    rig.wait_bond([false, false], None)?;
    rig.node.ip("link set b1 up")?;
    rig.wait_bond([false, true], Some("b1"))?;
    stream.wait_more(SOME).context("after no link at all")?;

    let since = Instant::now();
    rig.node.ip("link set b0 up")?;
    ensure!(rig.wait_bond([true, true], Some("b0"))?.is_empty(), "something is wrong with it");
    stream.wait_more(SOME).context("by the first again")?;
    println!("    without an answer for {:?} when it came back", stream.longest_gap(since));
    Ok(())
}

/// What can't be a bond is refused, and leaves nothing.
fn refusals(rig: &Rig) -> Result<()> {
    rig.node.ip("link add v0 type veth peer name v1")?;
    let spec = |device: &str, backup: &str, driver: UplinkDriver| UplinkSpec {
        name: "up1".to_owned(),
        device: device.to_owned(),
        backups: vec![backup.to_owned()],
        driver: driver.into(),
        network: "wire".to_owned(),
        ..UplinkSpec::default()
    };
    for (spec, expected) in [
        (spec("v0", "v1", UplinkDriver::AfPacket), "does not see a link go"),
        (
            spec("b2", "v1", UplinkDriver::Tap),
            "v1 can't be in the bond: interface \"v1\" exists already",
        ),
        (spec("b2", "b1", UplinkDriver::Tap), "device \"b1\" is in use by uplink \"up0\""),
    ] {
        let error = rig.vrouter.create_uplink(spec).err().context("it was made")?;
        ensure!(format!("{error:#}").contains(expected), "{error:#}");
    }
    ensure!(rig.node.ip("link show dev b2").is_err(), "b2 is left");
    Ok(())
}

/// It is made anew when a device of it is gone.
fn made_anew(rig: &Rig) -> Result<()> {
    rig.node.ip("link delete b1")?;
    wait::until("b1 is there again", UP, || Ok(rig.node.ip("link show dev b1").ok()))?;
    rig.wait_bond([true, true], Some("b0"))?;
    rig.vrouter.delete_uplink("up0")?;
    for name in ["b0", "b1"] {
        ensure!(rig.node.ip(&format!("link show dev {name}")).is_err(), "{name} is left");
    }
    Ok(())
}
