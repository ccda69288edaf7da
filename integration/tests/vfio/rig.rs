//! What these tests share.
//!
//! ```text
//!  pod              node                                  far
//!  eth0 (TAP)       host0 (TAP) 192.0.2.1                 e0 192.0.2.2      vx0 10.99.0.1
//!   | testpmd        |                                    |                  VXLAN 77
//!  net0.sock ------ vRouter -- up0: NIC of node 0 ------- e0
//!                       \----- up1: NIC of node 1 ------- e1 198.51.100.2
//! ```

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::launch::{Cgroups, Side};
use integration::machine::{self, Hugepages, program};
use integration::process::{Daemon, run, tail};
use integration::qemu::numa::{FAR_MACS, NICS};
use integration::rundir::RunDir;
use integration::vrouter::VRouter;
use integration::wait;
use vrouter_api::v1::{PortSpec, Route, RouteKind, UplinkStats};

use crate::binding;
use crate::monitor::Monitor;
use crate::space::Space;

/// Of 2 MiB, half of them on each node.
const HUGEPAGES: Hugepages = Hugepages::Free(512);
pub const UP: Duration = Duration::from_secs(30);
const POD_MAC: &str = "02:00:00:00:77:01";

const CONFIG: &str = r#"
[workers]
cpus = [1]
[[networks]]
name = "red"
ipv4 = "10.66.0.0/24"
tunnel = { underlay = "fabric", local = "192.0.2.1", vni = 77 }
[[networks]]
name = "fabric"
external = true
mtu = 1600
"#;

/// Dropped in this order.
pub struct Rig {
    pod_app: Daemon,
    pub vrouter: VRouter,
    _cgroups: Cgroups,
    /// Where the kernel speaks for the pod, which has 10.66.0.2.
    pub pod: Space,
    /// Where the vRouter is.
    pub node: Space,
    /// What the wires lead to.
    pub far: Space,
    pub monitor: RefCell<Monitor>,
    run: RunDir,
}

impl Rig {
    /// Binds the NICs and builds it all.
    pub fn start() -> Result<Self> {
        let monitor = RefCell::new(Monitor::open()?);
        NICS.iter().try_for_each(|nic| binding::bind(nic))?;
        let run = RunDir::create()?;
        Space::sweep()?;
        machine::prepare(&run.path(), HUGEPAGES)?;
        let cgroups = Cgroups::create(&run)?;
        let [pod, node, far] = [
            Space::create(&run, "pod")?,
            Space::create(&run, "node")?,
            Space::create(&run, "far")?,
        ];
        pod.set("ipv6/conf/default/disable_ipv6", "1")?;
        for (mac, name, address) in
            [(FAR_MACS[0], "e0", "192.0.2.2/24"), (FAR_MACS[1], "e1", "198.51.100.2/24")]
        {
            let there = with_mac(mac)?;
            ip(&format!("link set {there} netns {} name {name}", far.name()))?;
            far.ip(&format!("link set {name} mtu 1600 up"))?;
            far.ip(&format!("addr add {address} dev {name}"))?;
        }
        let socket = VRouter::socket_of(&run);
        let config = run.path().join("vrouter.toml");
        let mut text = format!(
            "control_socket = \"{}\"\nrun_dir = \"{}\"\n{CONFIG}",
            socket.display(),
            run.path().display()
        );
        for (n, nic) in NICS.iter().enumerate() {
            let uplink = format!("name = \"up{n}\"\ndevice = \"{nic}\"\nnetwork = \"fabric\"");
            text.push_str(&format!("[[uplinks]]\n{uplink}\nhost_interface = \"host{n}\"\n"));
        }
        fs::write(&config, text)?;
        let command = node.command(program("ringway-vrouter")?);
        let log = run.path().join("vrouter.log");
        let vrouter = VRouter::start_as(command, &config, &socket, &log)?;
        node.ip("addr add 192.0.2.1/24 dev host0")?;
        node.ip("link set host0 up")?;
        node.ip("addr add 198.51.100.1/24 dev host1")?;
        node.ip("link set host1 up")?;
        far_end(&far, &vrouter.network("red")?.gateway_mac)?;
        let local = |to: &str| Route { kind: RouteKind::Local.into(), ..prefix(to) };
        let link = Route {
            kind: RouteKind::Link.into(),
            uplink: "up0".to_owned(),
            mac: far.mac("e0")?,
            ..prefix("192.0.2.2/32")
        };
        let routes = vec![local("192.0.2.1/32"), local("198.51.100.1/32"), link];
        vrouter.set_routes("fabric", routes)?;
        let tunnel = Route {
            kind: RouteKind::Vxlan.into(),
            via: "192.0.2.2".to_owned(),
            mac: far.mac("vx0")?,
            ..prefix("10.99.0.0/24")
        };
        vrouter.set_routes("red", vec![tunnel])?;
        let pod_app = pod_app(&run, &cgroups, &pod, &vrouter)?;
        Ok(Self { pod_app, vrouter, _cgroups: cgroups, pod, node, far, monitor, run })
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

    /// A file of the run.
    pub fn file(&self, name: &str) -> PathBuf {
        self.run.path().join(name)
    }

    /// What the programs said last.
    pub fn story(&self) -> String {
        let vrouter = tail(&self.run.path().join("vrouter.log"), 25);
        let socket = VRouter::socket_of(&self.run).display().to_string();
        let ask = |what: &str| {
            binding::ringway(&["--socket", &socket, what]).unwrap_or_else(|it| it.to_string())
        };
        let asked = ["uplinks", "drops"].map(ask).concat();
        format!("vRouter:\n{vrouter}\n{asked}\npod:\n{}", tail(self.pod_app.log(), 5))
    }
}

fn ip(words: &str) -> Result<String> {
    let words: Vec<_> = words.split(' ').map(AsRef::as_ref).collect();
    run("ip", &words)
}

/// The kernel's name of the interface with this address.
fn with_mac(mac: &str) -> Result<String> {
    for entry in fs::read_dir("/sys/class/net")? {
        let path = entry?.path();
        if fs::read_to_string(path.join("address")).is_ok_and(|found| found.trim() == mac) {
            return Ok(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    anyhow::bail!("no interface has {mac}: {}", ip("link")?)
}

fn prefix(prefix: &str) -> Route {
    Route { prefix: prefix.to_owned(), ..Route::default() }
}

/// What a plain Linux router does to join the network by VXLAN.
fn far_end(far: &Space, gateway: &str) -> Result<()> {
    far.ip("link add vx0 type vxlan id 77 local 192.0.2.2 remote 192.0.2.1 dstport 4789 dev e0")?;
    far.set("ipv6/conf/vx0/disable_ipv6", "1")?;
    far.ip("link set vx0 mtu 1500 up")?;
    far.ip("addr add 10.99.0.1/24 dev vx0")?;
    far.ip(&format!("neigh add 10.99.0.254 lladdr {gateway} dev vx0 nud permanent"))?;
    far.ip("route add 10.66.0.0/24 via 10.99.0.254 dev vx0")?;
    Ok(())
}

/// A DPDK application that bridges its port with a TAP in the pod's namespace.
fn pod_app(run: &RunDir, cgroups: &Cgroups, pod: &Space, vrouter: &VRouter) -> Result<Daemon> {
    let socket = run.path().join("pod.sock");
    let text = socket.display();
    vrouter.create_port(PortSpec {
        id: "pod/0/net0".to_owned(),
        network: "red".to_owned(),
        mac: POD_MAC.to_owned(),
        ipv4: "10.66.0.2".to_owned(),
        socket_path: text.to_string(),
        peer_cgroups: vec![cgroups.path(Side::Pods)],
        ..PortSpec::default()
    })?;
    let mut command = cgroups.command(Side::Pods, 0, "/usr/sbin/ip");
    command.args(["netns", "exec", pod.name(), "/usr/bin/dpdk-testpmd"]);
    command.args(["--in-memory", "--single-file-segments", "--no-pci", "--no-telemetry"]);
    command.args(["-m", "64", "--lcores", "0@0,1@0", "--vdev"]);
    command.arg(format!("net_virtio_user0,path={text},mac={POD_MAC},queues=1,queue_size=256"));
    command.args(["--vdev", &format!("net_tap0,iface=eth0,mac={POD_MAC}")]);
    command.args(["--", "--forward-mode=io", "--auto-start", "--no-mlockall", "--burst=32"]);
    command.args(["--total-num-mbufs=4096", "--stats-period=3600", "--no-numa"]);
    let mut app = Daemon::start("dpdk-testpmd", command, &run.path().join("pod.log"))?;
    app.wait_for("the pod's port is up", UP, || {
        let there = pod.ip("link show dev eth0").is_ok();
        Ok((there && vrouter.wait_up("pod", UP).is_ok()).then_some(()))
    })?;
    pod.ip("addr add 10.66.0.2/24 dev eth0")?;
    pod.ip("link set eth0 up")?;
    pod.ip("route add default via 10.66.0.1")?;
    ensure!(app.exited()?.is_none(), "the pod's application has ended");
    Ok(app)
}
