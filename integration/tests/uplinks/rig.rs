//! The machine of these tests.
//!
//! ```text
//!  pod              node                               far
//!  eth0 (TAP)       host0 (TAP) 192.0.2.1              e0 192.0.2.2      vx0 10.99.0.1, 10.98.0.1
//!   | testpmd        |                                 |                  VXLAN 77
//!  net0.sock ------ vRouter -- up0: n0 ---- veth ----- e0
//!                       \----- up1: n1 ---- veth ----- e1 198.51.100.2
//! ```

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use integration::launch::Cgroups;
use integration::machine::{self, Hugepages, program};
use integration::process::{Daemon, tail};
use integration::rundir::RunDir;
use integration::vrouter::VRouter;
use integration::wait;
use vrouter_api::v1::{PortSpec, Route, RouteKind, UplinkStats};

use integration::space::Space;
use integration::space::pod::bridge;

/// Of 2 MiB: 32 for the vRouter, 64 for the pod, and some to spare.
const HUGEPAGES: Hugepages = Hugepages::Free(128);
/// Time for what is expected to happen.
pub const UP: Duration = Duration::from_secs(60);
const POD_MAC: &str = "02:00:00:00:77:01";

/// MTU of the wires: a tunnel over them carries 1500 bytes.
const CONFIG: &str = r#"
[[networks]]
name = "red"
ipv4 = "10.66.0.0/24"
tunnel = { underlay = "fabric", local = "192.0.2.1", vni = 77 }
kernel_table = 77
[[networks]]
name = "fabric"
external = true
mtu = 1600
kernel_table = "main"
[[uplinks]]
name = "up0"
device = "n0"
network = "fabric"
host_interface = "host0"
[[uplinks]]
name = "up1"
device = "n1"
driver = "af_packet"
network = "fabric"
"#;

/// Dropped in this order.
pub struct Rig {
    pod_app: Daemon,
    /// The vRouter.
    pub vrouter: VRouter,
    cgroups: Cgroups,
    /// Where the kernel speaks for the pod, which has 10.66.0.2.
    pub pod: Space,
    /// Where the vRouter is.
    pub node: Space,
    /// What the wires lead to.
    pub far: Space,
    run: RunDir,
}

impl Rig {
    /// Builds it all.
    pub fn start() -> Result<Self> {
        Self::with(CONFIG)
    }

    /// The same with AF_XDP sockets on both wires.
    pub fn with_af_xdp() -> Result<Self> {
        let config = CONFIG
            .replace("device = \"n0\"\n", "device = \"n0\"\ndriver = \"af_xdp\"\n")
            .replace("af_packet", "af_xdp");
        Self::with(&format!("{config}[dpdk]\naf_xdp = true\n"))
    }

    fn with(config: &str) -> Result<Self> {
        let run = RunDir::create()?;
        Space::sweep()?;
        machine::prepare(&run.path(), HUGEPAGES)?;
        let cgroups = Cgroups::create(&run)?;
        let [pod, node, far] = [
            Space::create(&run, "pod")?,
            Space::create(&run, "node")?,
            Space::create(&run, "far")?,
        ];
        // Networks here have no IPv6; of its own accord a kernel would look for routers.
        pod.set("ipv6/conf/default/disable_ipv6", "1")?;
        for (near, there, address) in
            [("n0", "e0", "192.0.2.2/24"), ("n1", "e1", "198.51.100.2/24")]
        {
            wire(&node, &far, near, there)?;
            far.ip(&format!("addr add {address} dev {there}"))?;
        }
        let vrouter = VRouter::start_in(&node, &run.path(), config)?;
        node.ip("addr add 192.0.2.1/24 dev host0")?;
        far_end(&far, &vrouter.network("red")?.gateway_mac)?;
        vrouter.set_routes(
            "fabric",
            vec![
                Route { kind: RouteKind::Local.into(), ..prefix("192.0.2.1/32") },
                link("192.0.2.2/32", "up0", &far.mac("e0")?),
            ],
        )?;
        vrouter.set_routes("red", vec![vxlan("10.99.0.0/24", "192.0.2.2", &far.mac("vx0")?)])?;
        let pod_app = pod_app(&run, &cgroups, &pod, &vrouter)?;
        Ok(Self { pod_app, vrouter, cgroups, pod, node, far, run })
    }

    /// Counters of an uplink.
    pub fn uplink_stats(&self, name: &str) -> Result<UplinkStats> {
        let found = self.vrouter.stats()?.uplinks.into_iter().find(|it| it.name == name);
        found.with_context(|| format!("no counters of uplink {name}"))
    }

    /// Waits until an uplink's link is as wanted, and says what the vRouter says of it.
    pub fn wait_link(&self, name: &str, up: bool) -> Result<String> {
        wait::until(&format!("link of {name} is {up}"), UP, || {
            let uplink = self.vrouter.uplink(name)?;
            Ok((uplink.link == up).then_some(uplink.reason))
        })
    }

    /// What the programs said last.
    pub fn story(&self) -> String {
        let vrouter = tail(&self.run.path().join("vrouter.log"), 25);
        let ask = |words: &[&str]| {
            let said = program("ringway").and_then(|ringway| {
                let socket = VRouter::socket_of(&self.run);
                let mut command = std::process::Command::new(ringway);
                Ok(command.arg("--socket").arg(socket).args(words).output()?)
            });
            said.map_or_else(
                |error| error.to_string(),
                |it| String::from_utf8_lossy(&it.stdout).into(),
            )
        };
        let asked = [&["routes", "red"][..], &["routes", "fabric"], &["drops"]].map(ask).concat();
        format!("vRouter:\n{vrouter}\n{asked}\npod:\n{}", tail(self.pod_app.log(), 5))
    }

    /// The run's cgroups.
    pub fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// A file of the run.
    pub fn file(&self, name: &str) -> PathBuf {
        self.run.path().join(name)
    }
}

/// A route without a target yet.
pub fn prefix(prefix: &str) -> Route {
    Route { prefix: prefix.to_owned(), ..Route::default() }
}

/// A route to a neighbour behind an uplink.
pub fn link(to: &str, uplink: &str, mac: &str) -> Route {
    let (uplink, mac) = (uplink.to_owned(), mac.to_owned());
    Route { kind: RouteKind::Link.into(), uplink, mac, ..prefix(to) }
}

/// A route through the tunnel.
pub fn vxlan(to: &str, via: &str, mac: &str) -> Route {
    let (via, mac) = (via.to_owned(), mac.to_owned());
    Route { kind: RouteKind::Vxlan.into(), via, mac, ..prefix(to) }
}

/// A veth pair between two namespaces. The near end is the vRouter's alone: the kernel there has to take nothing from it
/// itself. The far end sends what a wire would carry, for the near end's packet socket can't tell what is left to be done.
pub fn wire(node: &Space, far: &Space, near: &str, there: &str) -> Result<()> {
    let other = far.name();
    node.ip(&format!(
        "link add {near} mtu 1600 type veth peer name {there} mtu 1600 netns {other}"
    ))?;
    for (key, value) in [
        (format!("ipv6/conf/{near}/disable_ipv6"), "1"),
        (format!("ipv4/conf/{near}/arp_ignore"), "8"),
        (format!("ipv4/conf/{near}/rp_filter"), "1"),
    ] {
        node.set(&key, value)?;
    }
    far.run(&format!("/usr/sbin/ethtool -K {there} tx off rx off tso off gso off gro off"))?;
    node.ip(&format!("link set {near} up"))?;
    far.ip(&format!("link set {there} up"))?;
    Ok(())
}

/// What a plain Linux router does to join the network by VXLAN.
fn far_end(far: &Space, gateway: &str) -> Result<()> {
    far.ip("link add vx0 type vxlan id 77 local 192.0.2.2 remote 192.0.2.1 dstport 4789 dev e0")?;
    // Of its own accord it would tell all routers that it is there.
    far.set("ipv6/conf/vx0/disable_ipv6", "1")?;
    far.ip("link set vx0 mtu 1500 up")?;
    far.ip("addr add 10.99.0.1/24 dev vx0")?;
    far.ip("addr add 10.98.0.1/32 dev vx0")?;
    // Another address of it, for the second tunnel end.
    far.ip("addr add 203.0.113.9/32 dev lo")?;
    far.ip(&format!("neigh add 10.99.0.254 lladdr {gateway} dev vx0 nud permanent"))?;
    far.ip("route add 10.66.0.0/24 via 10.99.0.254 dev vx0")?;
    Ok(())
}

/// The pod's application.
fn pod_app(run: &RunDir, cgroups: &Cgroups, pod: &Space, vrouter: &VRouter) -> Result<Daemon> {
    let port = PortSpec {
        id: "pod/0/net0".to_owned(),
        network: "red".to_owned(),
        mac: POD_MAC.to_owned(),
        ipv4: "10.66.0.2".to_owned(),
        socket_path: run.path().join("pod.sock").display().to_string(),
        ..PortSpec::default()
    };
    bridge(pod, vrouter, cgroups, port, "10.66.0.1", &run.path().join("pod.log"))
}
