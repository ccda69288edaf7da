//! What these tests share.
//!
//! ```text
//!            node 0                          node 1                        far
//!  CPU 0  pod on-node-0              CPU 2  pod on-node-1                 vx0 203.0.113.9, VXLAN 77, 10.99.0.1
//!  CPU 1  vRouter 0 -- shared memory -- CPU 3  vRouter 1
//!            up0: 192.0.2.1 ---------------|------------------------------ e0 192.0.2.2
//!                                       up1: 198.51.100.1 --------------- e1 198.51.100.2
//! ```

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use integration::containerd::Version;
use integration::demo::report::{PodRow, Report};
use integration::machine::{Hugepages, program, repository};
use integration::node::{Node, PluginStart, RunningPod, Setup};
use integration::process::run;
use integration::qemu::numa::{FAR_MACS, NICS};
use integration::space::Space;
use serde::Serialize;
use vrouter_api::v1::{Route, RouteKind};

use crate::seen::Seen;

/// Half of them on each node: 512 MiB.
const HUGEPAGES: Hugepages = Hugepages::Free(512);
/// The end of tunnels that each vRouter has, and its neighbour on the wire.
pub const ENDS: [&str; 2] = ["192.0.2.1", "198.51.100.1"];
const NEIGHBOURS: [&str; 2] = ["192.0.2.2", "198.51.100.2"];
/// The far end of the tunnel, and an address behind it.
const FAR_END: &str = "203.0.113.9";
pub const BEHIND: &str = "10.99.0.1";

const SETTINGS: &str = r#"
[[instances]]
number = 0
cpus = [1]
addresses = { fabric = "192.0.2.1" }
[[instances]]
number = 1
cpus = [3]
addresses = { fabric = "198.51.100.1" }
[[networks]]
name = "red"
ipv4 = "10.66.0.0/24"
ipv6 = "fd00:66::/64"
tunnel = { underlay = "fabric", vni = 77 }
[[networks]]
name = "fabric"
external = true
mtu = 1600
"#;

/// The demo's report, and more.
#[derive(Debug, Serialize)]
struct Numa<'a> {
    #[serde(flatten)]
    report: &'a Report,
    placement: &'a [Seen],
}

/// Dropped in this order.
pub struct Bed {
    pub node: Node,
    /// The pods of both nodes, once they are there.
    pub pods: Option<[RunningPod; 2]>,
    pub report: Report,
    pub seen: Vec<Seen>,
    /// What the wires lead to.
    pub far: Space,
}

impl Bed {
    /// Binds the NICs and builds it all.
    pub fn start() -> Result<Self> {
        for nic in NICS {
            let words = ["uplink", "bind", nic, "--yes"];
            let output = Command::new(program("ringway")?).args(words).output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "ringway {words:?}: {said}");
        }
        Space::sweep()?;
        let mut settings = SETTINGS.to_owned();
        for (n, nic) in NICS.iter().enumerate() {
            let more =
                format!("network = \"fabric\"\nhost_interface = \"host{n}\"\ninstance = {n}");
            settings
                .push_str(&format!("[[uplinks]]\nname = \"up{n}\"\ndevice = \"{nic}\"\n{more}\n"));
        }
        let setup = Setup {
            hugepages: HUGEPAGES,
            networks: Vec::new(),
            instances: 2,
            instance_settings: settings,
            ..Setup::new(Version::V2_1, PluginStart::External)
        };
        let node = Node::start(&setup)?;
        let far = far_end(&node)?;
        let report = Report::begin(&node)?;
        Ok(Self { node, pods: None, report, seen: Vec::new(), far })
    }

    /// Writes down a pod as the system shows it.
    pub fn write_down(&mut self, pod: &RunningPod, asked: &str) -> Result<Seen> {
        self.report.pods.push(PodRow::read(&self.node, pod)?);
        let seen = Seen::read(&self.node, pod, asked)?;
        self.seen.push(seen.clone());
        Ok(seen)
    }

    /// What the programs said last.
    pub fn story(&self) -> String {
        let pods = self.pods.iter().flatten();
        let logs = pods.map(|pod| self.node.log(pod).unwrap_or_else(|error| error.to_string()));
        format!("{}\n{}", self.node.log_ends(), logs.collect::<Vec<_>>().join("\n"))
    }

    /// Writes the report.
    pub fn conclude(mut self) -> Result<()> {
        self.report.conclude(Version::V2_1);
        println!("{}", self.report.table());
        let numa = Numa { report: &self.report, placement: &self.seen };
        let directory = repository().join("target/numa/report");
        fs::create_dir_all(&directory)?;
        let text = serde_json::to_string_pretty(&numa)?;
        Ok(fs::write(directory.join("report.json"), format!("{text}\n"))?)
    }
}

/// A plain Linux router that both wires lead to, and the ways there. It has the tunnel's far end on neither wire, and learns where each
/// sender's is.
fn far_end(node: &Node) -> Result<Space> {
    let far = Space::create(node.run(), "far")?;
    for (n, mac) in FAR_MACS.iter().enumerate() {
        let there = interface_with(mac)?;
        run(
            "ip",
            &["link", "set", &there, "netns", far.name(), "name", &format!("e{n}")]
                .map(AsRef::as_ref),
        )?;
        far.ip(&format!("link set e{n} mtu 1600 up"))?;
        far.ip(&format!("addr add {}/24 dev e{n}", NEIGHBOURS[n]))?;
    }
    far.ip(&format!("addr add {FAR_END}/32 dev lo"))?;
    far.ip(&format!("link add vx0 type vxlan id 77 local {FAR_END} dstport 4789"))?;
    far.set("ipv6/conf/vx0/disable_ipv6", "1")?;
    far.ip("link set vx0 mtu 1500 up")?;
    far.ip(&format!("addr add {BEHIND}/24 dev vx0"))?;
    for (n, end) in ENDS.iter().enumerate() {
        let vrouter = node.instance(u32::try_from(n)?)?;
        let prefix = |prefix: String| Route { prefix, ..Route::default() };
        let own = Route { kind: RouteKind::Local.into(), ..prefix(format!("{end}/32")) };
        let link = Route {
            kind: RouteKind::Link.into(),
            uplink: format!("up{n}"),
            mac: far.mac(&format!("e{n}"))?,
            ..prefix(format!("{FAR_END}/32"))
        };
        vrouter.set_routes("fabric", vec![own, link])?;
        let tunnel = Route {
            kind: RouteKind::Vxlan.into(),
            via: FAR_END.to_owned(),
            mac: far.mac("vx0")?,
            ..prefix("10.99.0.0/24".to_owned())
        };
        vrouter.set_routes("red", vec![tunnel])?;
    }
    Ok(far)
}

/// The kernel's name of the interface with this address.
fn interface_with(mac: &str) -> Result<String> {
    let is_it = |entry: &fs::DirEntry| {
        fs::read_to_string(entry.path().join("address")).is_ok_and(|found| found.trim() == mac)
    };
    let found = fs::read_dir("/sys/class/net")?.flatten().find(is_it);
    let found = found.with_context(|| format!("no interface has {mac}"))?;
    Ok(found.file_name().to_string_lossy().into_owned())
}
