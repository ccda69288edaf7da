//! The cluster that the tests share.

use anyhow::{Result, ensure};
use integration::containerd::Version;
use integration::kubernetes::{self, Kubernetes, PATIENCE};
use integration::machine::{self, Hugepages};
use integration::node::{Node, PluginStart, Setup};
use integration::stage::Stage;
use integration::wait;
use vrouter_api::v1::{Port, PortState};

/// Pods of the largest deployment, each with 64 MiB of hugepages.
pub const MANY: usize = 20;
const HUGEPAGES: u64 = 64 / 2 * MANY as u64 + 64;

/// Kubernetes around a node.
#[derive(Debug)]
pub struct Cluster {
    // Dropped in this order.
    pub kubernetes: Kubernetes,
    pub node: Node,
}

impl Cluster {
    fn start() -> Result<Self> {
        let node = Node::start(&setup()?)?;
        let kubernetes = Kubernetes::start(&node)?;
        Ok(Self { kubernetes, node })
    }

    /// Waits until the vRouter has as many ports, each of them with an application; gives them by address.
    pub fn wait_ports(&self, wanted: usize) -> Result<Vec<Port>> {
        let mut last = String::new();
        let up = wait::until(&format!("{wanted} ports are up"), PATIENCE, || {
            let ports = self.node.vrouter()?.ports()?;
            let up = ports.iter().filter(|port| port.state() == PortState::Up).count();
            last = format!("{up} of {} ports", ports.len());
            Ok((ports.len() == wanted && up == wanted).then_some(ports))
        });
        let mut ports = up.map_err(|error| error.context(last))?;
        ports.sort_by_key(|port| address(port).to_owned());
        let addresses: std::collections::BTreeSet<_> = ports.iter().map(address).collect();
        ensure!(addresses.len() == wanted, "one address twice: {addresses:?}");
        Ok(ports)
    }
}

/// IPv4 address of a port.
pub fn address(port: &Port) -> &str {
    port.spec.as_ref().map_or("", |spec| spec.ipv4.as_str())
}

/// kubelet sets CPUs, the plugin follows.
fn setup() -> Result<Setup> {
    let mut setup = Setup::new(Version::from_environment()?, PluginStart::External);
    setup.plugin_settings = "[cpus]\nmode = 'follow'\n";
    setup.hugepages = Hugepages::Free(HUGEPAGES);
    Ok(setup)
}

/// Why this machine can't run the tests, or nothing when it can.
pub fn unfit() -> Option<String> {
    let version = match Version::from_environment() {
        Ok(version) => version,
        Err(error) => return Some(format!("{error:#}")),
    };
    machine::unfit(version).or_else(kubernetes::unfit)
}

/// Keeps a cluster from test to test.
#[derive(Debug, Default)]
pub struct Bed {
    cluster: Option<Cluster>,
    /// For tests without Kubernetes.
    pub stage: Stage,
}

impl Bed {
    /// Runs a test; one that fails leaves no cluster to the next.
    pub fn play(&mut self, test: fn(&mut Self) -> Result<()>) -> Result<()> {
        let result = test(self);
        if let Err(error) = &result {
            if let Some(cluster) = &self.cluster {
                println!("{}{}", cluster.node.log_ends(), cluster.kubernetes.log_ends());
            }
            // Told once more at the end of all tests, minutes later.
            println!("{error:#}");
            self.clear();
        }
        result
    }

    /// The cluster, running.
    pub fn cluster(&mut self) -> Result<&mut Cluster> {
        integration::suite::started(&mut self.cluster, Cluster::start)
    }

    /// Takes everything down.
    pub fn clear(&mut self) {
        self.cluster = None;
        self.stage.clear();
    }
}
