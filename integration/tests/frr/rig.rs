//! The machines of these tests.
//!
//! ```text
//!  pod a            node a                                        node b            pod b
//!  eth0 (TAP)       host0 192.0.2.1                     192.0.2.2 host0             eth0 (TAP)
//!   | testpmd        |                                             |                | testpmd
//!  net0.sock ------ vRouter -- up0: wa ---- veth ---- wb :up0 -- vRouter ----- net0.sock
//!  10.66.1.2                                                                         10.66.2.2
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::launch::{Cgroups, Side};
use integration::machine::{self, Hugepages, program};
use integration::process::{Daemon, tail};
use integration::rundir::RunDir;
use integration::vrouter::VRouter;
use integration::wait;
use vrouter_api::v1::{PortSpec, Route};

use integration::space::Space;
use integration::space::pod::bridge;

use crate::daemons::Frr;

/// Of 2 MiB: 32 for each vRouter, 32 for each pod, and some to spare.
pub const HUGEPAGES: Hugepages = Hugepages::Free(192);
/// For what two kernels, two routers and two vRouters do one after the other.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// One of the two.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Which {
    A,
    B,
}

impl Which {
    /// What `docs/frr.md` says of one node, for this one.
    pub fn place(self, text: &str) -> String {
        let swap = |text: &str, a: &str, b: &str| {
            let [first, second] = ["\u{1}", "\u{2}"];
            text.replace(a, first).replace(b, second).replace(first, b).replace(second, a)
        };
        match self {
            Self::A => text.to_owned(),
            Self::B => {
                let text = swap(text, "192.0.2.1", "192.0.2.2");
                let text = swap(&text, "65001", "65002");
                text.replace("node-a", "node-b").replace("10.66.1.0", "10.66.2.0")
            }
        }
    }

    /// What its things are called by.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// Its pod's address.
    pub fn pod(self) -> &'static str {
        match self {
            Self::A => "10.66.1.2",
            Self::B => "10.66.2.2",
        }
    }

    /// Its own address.
    pub fn address(self) -> &'static str {
        match self {
            Self::A => "192.0.2.1",
            Self::B => "192.0.2.2",
        }
    }
}

/// A node with its pod. Dropped in this order.
pub struct Node {
    pub which: Which,
    /// FRR, when it runs.
    pub frr: Option<Frr>,
    pod_app: Option<Daemon>,
    pub vrouter: Option<VRouter>,
    /// Where the kernel speaks for the pod.
    pub pod: Space,
    /// Where the vRouter and FRR are.
    pub space: Space,
    dir: PathBuf,
}

/// Everything. Dropped in this order.
pub struct Rig {
    pub a: Node,
    pub b: Node,
    pub cgroups: Cgroups,
    /// What belongs to the run.
    pub run: RunDir,
}

/// A block of `docs/frr.md`, by the word behind its fence.
pub fn documented(language: &str) -> Result<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/frr.md");
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let fence = format!("\n```{language}\n");
    let (_, rest) = text.split_once(&fence).with_context(|| format!("no {language} block"))?;
    let (block, _) = rest.split_once("\n```\n").context("the block has no end")?;
    Ok(format!("{block}\n"))
}

impl Rig {
    /// Builds it all, but for FRR.
    pub fn start() -> Result<Self> {
        let run = RunDir::create()?;
        Space::sweep()?;
        machine::prepare(&run.path(), HUGEPAGES)?;
        let cgroups = Cgroups::create(&run)?;
        let mut a = Node::create(&run, Which::A)?;
        let mut b = Node::create(&run, Which::B)?;
        wire(&a.space, &b.space)?;
        for node in [&mut a, &mut b] {
            node.start_vrouter(&node.which.place(&documented("toml")?))?;
            node.start_pod(&cgroups, "")?;
        }
        Ok(Self { a, b, cgroups, run })
    }

    /// What the programs said last.
    pub fn story(&self) -> String {
        format!("{}\n{}", self.a.story(), self.b.story())
    }

    /// Starts a node's vRouter again, and its pod.
    pub fn restart(&mut self, which: Which) -> Result<()> {
        let node = match which {
            Which::A => &mut self.a,
            Which::B => &mut self.b,
        };
        node.pod_app = None;
        node.start_vrouter(&which.place(&documented("toml")?))?;
        node.start_pod(&self.cgroups, "")
    }
}

/// A veth pair whose ends are the vRouters' alone, as `uplinks` has it for one end.
fn wire(a: &Space, b: &Space) -> Result<()> {
    let other = b.name();
    a.ip(&format!("link add w0 mtu 1600 type veth peer name w0 mtu 1600 netns {other}"))?;
    [a, b].into_iter().try_for_each(silence)
}

/// Has the kernel leave an end of the wire to the vRouter.
pub fn silence(space: &Space) -> Result<()> {
    for (key, value) in [
        ("ipv6/conf/w0/disable_ipv6", "1"),
        ("ipv4/conf/w0/arp_ignore", "8"),
        ("ipv4/conf/w0/rp_filter", "1"),
    ] {
        space.set(key, value)?;
    }
    space.run("/usr/sbin/ethtool -K w0 tx off rx off tso off gso off gro off")?;
    space.ip("link set w0 up").map(drop)
}

impl Node {
    /// Its namespaces and folder.
    pub fn create(run: &RunDir, which: Which) -> Result<Self> {
        let name = which.name();
        let dir = run.path().join(name);
        fs::create_dir_all(&dir)?;
        let [space, pod] = [
            Space::create(run, &format!("node-{name}"))?,
            Space::create(run, &format!("pod-{name}"))?,
        ];
        // Of its own accord a kernel would look for IPv6 routers.
        for space in [&space, &pod] {
            space.set("ipv6/conf/default/disable_ipv6", "1")?;
        }
        Ok(Self { which, frr: None, pod_app: None, vrouter: None, pod, space, dir })
    }

    /// A file of this node.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Its vRouter.
    pub fn vrouter(&self) -> Result<&VRouter> {
        self.vrouter.as_ref().context("no vRouter")
    }

    /// FRR, which runs.
    pub fn frr(&self) -> Result<&Frr> {
        self.frr.as_ref().context("no FRR")
    }

    /// Starts FRR as `docs/frr.md` has it.
    pub fn start_frr(&mut self) -> Result<()> {
        let config = self.which.place(&documented("frr")?);
        self.frr = Some(Frr::start(&self.space, &self.dir, &config)?);
        Ok(())
    }

    /// Starts FRR again after zebra was killed.
    pub fn restart_frr(&mut self) -> Result<()> {
        self.frr.as_mut().context("no FRR")?.restart(&self.space, &self.dir)
    }

    /// Starts its vRouter with what `docs/frr.md` says.
    pub fn start_vrouter(&mut self, documented: &str) -> Result<()> {
        self.vrouter = None;
        ensure!(documented.contains("device = \"eth1\""), "{documented}");
        let documented = documented.replace("device = \"eth1\"", "device = \"w0\"");
        // One kind more than a network between routers that speak BGP needs.
        let documented = documented.replace("label = 7700,", "label = 7700, ipip = true,");
        self.vrouter = Some(VRouter::start_in(&self.space, &self.dir, &documented)?);
        self.space.ip(&format!("addr add {}/24 dev host0", self.which.address()))?;
        Ok(())
    }

    /// A DPDK application that bridges its port with a TAP in the pod's namespace; `ipv6`: an address that the port has
    /// besides, if any.
    pub fn start_pod(&mut self, cgroups: &Cgroups, ipv6: &str) -> Result<()> {
        let socket = self.file("pod.sock");
        let (text, address) = (socket.display().to_string(), self.which.pod());
        let mac = format!("02:00:00:00:77:0{}", if self.which == Which::A { 1 } else { 2 });
        let port = self.pod_port("pod/0/net0", address, &mac, &text);
        let port = PortSpec { ipv6: ipv6.to_owned(), ..port };
        let gateway = if self.which == Which::A { "10.66.1.1" } else { "10.66.2.1" };
        let log = self.file("pod.log");
        let app = bridge(&self.pod, self.vrouter()?, cgroups, port, gateway, &log)?;
        // It would look whether the gateway is still there, now and then.
        let mac = self.vrouter()?.network("red")?.gateway_mac;
        self.pod.ip(&format!("neigh replace {gateway} lladdr {mac} dev eth0 nud permanent"))?;
        self.pod_app = Some(app);
        Ok(())
    }

    /// A port of a pod, whether it runs or not.
    pub fn create_pod_port(
        &self,
        id: &str,
        address: &str,
        mac: &str,
        socket: &str,
        cgroups: &Cgroups,
    ) -> Result<()> {
        let peer_cgroups = vec![cgroups.path(Side::Pods)];
        let port = PortSpec { peer_cgroups, ..self.pod_port(id, address, mac, socket) };
        self.vrouter()?.create_port(port).map(drop)
    }

    fn pod_port(&self, id: &str, address: &str, mac: &str, socket: &str) -> PortSpec {
        PortSpec {
            id: id.to_owned(),
            network: "red".to_owned(),
            mac: mac.to_owned(),
            ipv4: address.to_owned(),
            socket_path: socket.to_owned(),
            pod_namespace: "shop".to_owned(),
            pod_name: format!("cart-{}", self.which.name()),
            ..PortSpec::default()
        }
    }

    /// `ringway ARGUMENTS` at its vRouter; what it says.
    pub fn ringway(&self, arguments: &str) -> Result<String> {
        let mut command = Command::new(program("ringway")?);
        command.arg("--socket").arg(self.file("vrouter.sock")).args(arguments.split(' '));
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "ringway {arguments}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(said)
    }

    /// Waits for a route of network red, or for there to be none.
    pub fn wait_route(&self, prefix: &str, fits: impl Fn(Option<&Route>) -> bool) -> Result<()> {
        let mut seen = None;
        let waited = wait::until(&format!("route {prefix}"), PATIENCE, || {
            seen = self.vrouter()?.routes("red")?.into_iter().find(|it| it.prefix == prefix);
            Ok(fits(seen.as_ref()).then_some(()))
        });
        waited.with_context(|| format!("{prefix} was last seen as {seen:?}"))
    }

    /// What its programs said last.
    pub fn story(&self) -> String {
        let asked = ["routes red", "routes fabric", "drops", "uplinks"];
        let asked =
            asked.map(|words| self.ringway(words).unwrap_or_else(|error| error.to_string()));
        let table = self.space.ip("route show table all").unwrap_or_default();
        let logs = ["vrouter.log", "zebra.log", "bgpd.log", "bfdd.log", "pod.log"];
        let logs = logs.map(|name| format!("-- {name}\n{}", tail(&self.file(name), 15))).concat();
        format!("node {}:\n{}\n{table}\n{logs}", self.which.name(), asked.concat())
    }
}
