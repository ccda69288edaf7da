//! The machine of these tests.
//!
//! ```text
//!  pod               node                                  far                       site
//!  eth0 (TAP)        red0 (TAP)    host0 (TAP)             router, SRv6
//!   | testpmd         |  kernel     |  192.0.2.1            |  192.0.2.2
//!  10.66.0.2 ------- vRouter ------- up0: n0 ---- veth ---- e0        s0 ---- veth ---- t0 10.99.0.1
//!  10.66.0.3 (frames) -/                   2001:db8:1::1    2001:db8:1::2               2001:db8:99::1
//! ```

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::frames::FramePod;
use integration::launch::{Cgroups, Side};
use integration::machine::{self, Hugepages, program};
use integration::process::{Daemon, tail};
use integration::rundir::RunDir;
use integration::vrouter::VRouter;
use integration::wait;
use vrouter_api::v1::{KernelPortStats, Network, PortSpec, RouteKind};

use crate::packets::Mac;
use integration::space::Space;
use integration::space::pod::bridge;

/// Of 2 MiB: 32 for the vRouter, 32 for each of two pods that speak, 16 for each of five that send frames, and some to spare.
const HUGEPAGES: Hugepages = Hugepages::Free(224);
pub const UP: Duration = Duration::from_secs(60);
const POD_MAC: &str = "02:00:00:00:77:01";

/// The wire has room for what tunnels add. The tunnels' own addresses are not the kernel's, which has tunnels at its own.
const CONFIG: &str = r#"
[[networks]]
name = "red"
ipv4 = "10.66.0.0/24"
ipv6 = "fd00:66::/64"
kernel_table = 77
kernel_port = { name = "red0", mtu = 1400 }
tunnel = { underlay = "fabric", local = "192.0.2.9", ipip = true }
[[networks]]
name = "lime"
ipv4 = "10.67.0.0/24"
ipv6 = "fd00:67::/64"
tunnel = { underlay = "fabric", local = "2001:db8:1::9", ipip = true }
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
"#;

/// Dropped in this order.
pub struct Rig {
    pod_app: Daemon,
    /// The vRouter.
    pub vrouter: VRouter,
    cgroups: Cgroups,
    /// Where the kernel speaks for the pod 10.66.0.2, fd00:66::2.
    pub pod: Space,
    /// Where the vRouter is.
    pub node: Space,
    /// The router at the other end of the wire.
    pub far: Space,
    /// A host behind it.
    pub site: Space,
    /// What belongs to the run.
    pub run: RunDir,
}

impl Rig {
    /// Builds it all.
    pub fn start() -> Result<Self> {
        let run = RunDir::create()?;
        Space::sweep()?;
        machine::prepare(&run.path(), HUGEPAGES)?;
        let cgroups = Cgroups::create(&run)?;
        let [pod, node, far, site] = [
            Space::create(&run, "pod")?,
            Space::create(&run, "node")?,
            Space::create(&run, "far")?,
            Space::create(&run, "site")?,
        ];
        router(&node)?;
        router(&far)?;
        wire(&node, &far, "n0", "e0")?;
        // The wire is the vRouter's alone: the kernel would forward what is for the tunnels' ends a second time, and tell who sent it
        // that they do not answer.
        for (key, value) in [
            ("ipv6/conf/n0/disable_ipv6", "1"),
            ("ipv4/conf/n0/arp_ignore", "8"),
            ("ipv4/conf/n0/rp_filter", "1"),
        ] {
            node.set(key, value)?;
        }
        far.ip("addr add 192.0.2.2/24 dev e0")?;
        far.ip("addr add 2001:db8:1::2/64 dev e0 nodad")?;
        wire(&far, &site, "s0", "t0")?;
        far.ip("addr add 10.99.0.254/24 dev s0")?;
        far.ip("addr add 2001:db8:99::fe/64 dev s0 nodad")?;
        site.ip("addr add 10.99.0.1/24 dev t0")?;
        site.ip("addr add 2001:db8:99::1/64 dev t0 nodad")?;
        site.ip("route add default via 10.99.0.254")?;
        site.ip("-6 route add default via 2001:db8:99::fe")?;

        let (config, socket) = (run.path().join("vrouter.toml"), VRouter::socket_of(&run));
        fs::write(&config, text(&run, CONFIG))?;
        let command = node.command(program("ringway-vrouter")?);
        let log = run.path().join("vrouter.log");
        let vrouter = VRouter::start_as(command, &config, &socket, &log)?;
        node.ip("addr add 192.0.2.1/24 dev host0")?;
        node.ip("addr add 2001:db8:1::1/64 dev host0 nodad")?;
        let pod_app = pod_app(&run, &cgroups, &pod, &vrouter)?;
        Ok(Self { pod_app, vrouter, cgroups, pod, node, far, site, run })
    }

    /// A pod of network lime where a kernel speaks for 10.67.0.2 and fd00:67::2.
    pub fn lime_pod(&self) -> Result<(Daemon, Space)> {
        let space = Space::create(&self.run, "lime")?;
        let port = PortSpec {
            id: "lime/0/net0".to_owned(),
            network: "lime".to_owned(),
            mac: "02:00:00:00:78:01".to_owned(),
            ipv4: "10.67.0.2".to_owned(),
            ipv6: "fd00:67::2".to_owned(),
            socket_path: self.file("lime.sock").display().to_string(),
            ..PortSpec::default()
        };
        let log = self.file("lime.log");
        let app = bridge(&space, &self.vrouter, &self.cgroups, port, "10.67.0.1", &log)?;
        space.ip("addr add fd00:67::2/64 dev eth0 nodad")?;
        space.ip("-6 route add default via fd00:67::1 dev eth0")?;
        Ok((app, space))
    }

    /// A pod that sends single frames.
    pub fn frame_pod(&self, network: &str, number: u8, spec: PortSpec) -> Result<(FramePod, Mac)> {
        let mac = [2, 0, 0, 0, 0x77, number];
        let text: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = text.join(":");
        let name = format!("{network}-{number}");
        let socket = self.file(&format!("{name}.sock"));
        self.vrouter.create_port(PortSpec {
            id: format!("{name}/0/net0"),
            network: network.to_owned(),
            mac: text.clone(),
            socket_path: socket.display().to_string(),
            peer_cgroups: vec![self.cgroups.path(Side::Pods)],
            ..spec
        })?;
        let mut command = self.cgroups.command(Side::Pods, 0, program("ringway-frames")?);
        command.arg("--socket").arg(&socket).args(["--mac", &text, "--cpu", "0"]);
        let app = FramePod::start(&name, command, &self.file(&format!("{name}.log")))?;
        self.vrouter.wait_up(&name, UP)?;
        Ok((app, mac))
    }

    /// Somebody on an interface in a namespace who hears all and says single frames.
    pub fn station(&self, space: &Space, interface: &str) -> Result<FramePod> {
        let mut command = space.command(program("ringway-frames")?);
        command.args(["--interface", interface, "--cpu", "0"]);
        let name = format!("{}-{interface}", space.name());
        FramePod::start(&name, command, &self.file(&format!("{name}.log")))
    }

    /// A network as it is now.
    pub fn network(&self, name: &str) -> Result<Network> {
        self.vrouter.network(name)
    }

    /// Waits until a route leads there.
    pub fn wait_route(&self, network: &str, prefix: &str, kind: RouteKind) -> Result<()> {
        let mut found = None;
        let waited = wait::until(&format!("route {prefix} of {network}"), UP, || {
            found = self.vrouter.routes(network)?.into_iter().find(|it| it.prefix == prefix);
            Ok(found.as_ref().filter(|route| route.kind() == kind).map(|_| ()))
        });
        waited.with_context(|| format!("{prefix} is {found:?}"))
    }

    /// Counters of a network's kernel port.
    pub fn kernel_stats(&self, network: &str) -> Result<KernelPortStats> {
        let found = self.vrouter.stats()?.kernel_ports.into_iter().find(|it| it.network == network);
        found.with_context(|| format!("no counters of the kernel port of {network}"))
    }

    /// What the operator's command says.
    pub fn ringway(&self, line: &str) -> Result<String> {
        let mut command = Command::new(program("ringway")?);
        command.arg("--socket").arg(VRouter::socket_of(&self.run)).args(line.split(' '));
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ringway {line}: {said}{error}");
        Ok(said)
    }

    /// What the programs said last.
    pub fn story(&self) -> String {
        let vrouter = tail(&self.run.path().join("vrouter.log"), 25);
        let ask = |line: &str| self.ringway(line).unwrap_or_else(|error| format!("{error:#}\n"));
        let ip = |line: &str| self.node.ip(line).unwrap_or_else(|error| format!("{error:#}\n"));
        let asked = [
            ask("networks"),
            ask("routes red"),
            ask("routes fabric"),
            ask("stats"),
            ask("drops"),
            ip("rule"),
            ip("route show table 77"),
            ip("-6 route show table 77"),
            ip("-s link show dev red0"),
        ];
        format!("vRouter:\n{vrouter}\n{}\npod:\n{}", asked.concat(), tail(self.pod_app.log(), 5))
    }

    /// A file of the run.
    pub fn file(&self, name: &str) -> PathBuf {
        self.run.path().join(name)
    }
}

/// A configuration of a run.
pub fn text(run: &RunDir, rest: &str) -> String {
    let (socket, dir) = (VRouter::socket_of(run), run.path());
    format!("control_socket = \"{}\"\nrun_dir = \"{}\"\n{rest}", socket.display(), dir.display())
}

/// A namespace that forwards, and takes SRv6.
pub fn router(space: &Space) -> Result<()> {
    for (key, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv6/conf/all/seg6_enabled", "1"),
        ("ipv6/conf/default/seg6_enabled", "1"),
    ] {
        space.set(key, value)?;
    }
    Ok(())
}

/// A veth pair that carries what a wire would.
pub fn wire(here: &Space, there: &Space, near: &str, far: &str) -> Result<()> {
    let other = there.name();
    here.ip(&format!("link add {near} mtu 1600 type veth peer name {far} mtu 1600 netns {other}"))?;
    for (space, end) in [(here, near), (there, far)] {
        space.run(&format!("/usr/sbin/ethtool -K {end} tx off rx off tso off gso off gro off"))?;
        space.ip(&format!("link set {end} up"))?;
    }
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
        ipv6: "fd00:66::2".to_owned(),
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
    command.args(["--total-num-mbufs=4096", "--stats-period=3600"]);
    let mut app = Daemon::start("dpdk-testpmd", command, &run.path().join("pod.log"))?;
    app.wait_for("the pod's port is up", UP, || {
        let there = pod.ip("link show dev eth0").is_ok();
        Ok((there && vrouter.wait_up("pod", UP).is_ok()).then_some(()))
    })?;
    pod.ip("addr add 10.66.0.2/24 dev eth0")?;
    pod.ip("addr add fd00:66::2/64 dev eth0 nodad")?;
    pod.ip("link set eth0 up")?;
    pod.ip("route add default via 10.66.0.1")?;
    wait::until("the pod's IPv6 is up", UP, || {
        Ok(pod.ip("-6 route add default via fd00:66::1").is_ok().then_some(()))
    })?;
    Ok(app)
}
