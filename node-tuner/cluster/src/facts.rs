//! What a node is, as far as profiles and placement ask: a digest of the agent's report, small enough for a controller
//! to keep thousands of them.

use node_tuner_core::cpus::Division;
use node_tuner_core::cpuset::CpuSet;
use node_tuner_core::node::{Node, Runtime};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Facts {
    /// Processors.
    pub cpu: CpuFacts,
    /// NUMA nodes, ascending.
    pub numa: Vec<NumaFacts>,
    /// Network cards, and interfaces with hardware behind them.
    pub nics: Vec<NicFacts>,
    /// The kernel.
    pub kernel: KernelFacts,
    /// Frequencies.
    pub power: PowerFacts,
    /// Container runtimes that are there.
    pub runtimes: Vec<String>,
    /// Whether a runtime listens for NRI plugins.
    pub nri: bool,
    /// vRouters that answer.
    pub vrouters: Vec<VrouterFacts>,
}

/// Processors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CpuFacts {
    /// `GenuineIntel`, `AuthenticAMD`, `ARM`, ...
    pub vendor: String,
    /// As the processor names it.
    pub model: String,
    /// Features that data planes ask for, by the kernel's names.
    pub flags: Vec<String>,
    /// Sockets.
    pub sockets: u32,
    /// Cores with a CPU online.
    pub cores: u32,
    /// CPUs online.
    pub cpus: u32,
    /// Whether any core has more than one CPU online.
    pub smt: bool,
}

/// One NUMA node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NumaFacts {
    /// As the kernel numbers it.
    pub id: u32,
    /// Its online CPUs, as `0-15,32-47`.
    pub cpus: String,
    /// Those of them that pods may have: neither the system's nor the vRouter's.
    pub pod_cpus: String,
    /// Its cores.
    pub cores: u32,
    /// Its memory, bytes; 0: the kernel does not say.
    pub memory: u64,
    /// How far other nodes are; 10 is the node itself.
    pub distances: Vec<Distance>,
    /// Its pools of hugepages, by ascending size.
    pub hugepages: Vec<PoolFacts>,
}

/// How far a NUMA node is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Distance {
    /// The other node.
    pub to: u32,
    /// As firmware says.
    pub distance: u32,
}

/// The hugepages of one size of one NUMA node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolFacts {
    /// Bytes of one page.
    pub size: u64,
    /// Pages.
    pub total: u64,
    /// Of those, pages nobody uses.
    pub free: u64,
}

/// A network card or interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NicFacts {
    /// Interface name; empty: the kernel has none for it.
    pub name: String,
    /// `0000:81:00.0`, where it is on PCI.
    pub pci: String,
    /// PCI vendor and device, `8086:1592`.
    pub model: String,
    /// Kernel driver.
    pub driver: String,
    /// NUMA node, where the machine says.
    pub numa: Option<u32>,
    /// Mbit/s, where there is a link that has a speed.
    pub speed: Option<u32>,
}

/// The kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct KernelFacts {
    /// `6.1.0-30-amd64`.
    pub version: String,
    /// CPUs that the scheduler leaves alone.
    pub isolated: String,
    /// `none`, `translated`, `passthrough`.
    pub iommu: String,
    /// 1 or 2; 0: not known.
    pub cgroups: u32,
}

/// Frequencies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PowerFacts {
    /// cpufreq driver; empty: the kernel sets no frequencies here.
    pub driver: String,
    /// Governors in use.
    pub governors: Vec<String>,
    /// Whether frequencies above the nominal one are used, where it can be set.
    pub turbo: Option<bool>,
}

/// A vRouter that answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VrouterFacts {
    /// `dpdk` or `kernel`.
    pub mode: String,
    /// Of the program.
    pub version: String,
    /// The NUMA node it is for; none: all.
    pub numa: Option<u32>,
    /// Workers.
    pub workers: u32,
    /// What they do when there is nothing to do: `adaptive`, `poll`, `sleep`; empty: not known.
    pub worker_mode: String,
    /// Ports that exist.
    pub ports: u32,
    /// Most that can exist; 0: not known.
    pub ports_max: u32,
    /// Networks it has.
    pub networks: Vec<String>,
}

/// Features that are told; the kernel lists more than a hundred.
const FLAGS: [&str; 16] = [
    "aes",
    "asimd",
    "avx",
    "avx2",
    "avx512bw",
    "avx512f",
    "avx512vl",
    "constant_tsc",
    "crc32",
    "hypervisor",
    "invpcid",
    "nonstop_tsc",
    "pdpe1gb",
    "sse4_2",
    "sve",
    "tsc_deadline_timer",
];

/// A fact by its name, for selectors: all values it has here.
pub const FACT_NAMES: [&str; 17] = [
    "cpu.vendor",
    "cpu.model",
    "cpu.flags",
    "cpu.sockets",
    "cpu.cores",
    "cpu.cpus",
    "cpu.smt",
    "numa.nodes",
    "memory.gib",
    "nic.driver",
    "nic.model",
    "nic.speed",
    "kernel.version",
    "kernel.iommu",
    "kernel.cgroups",
    "power.driver",
    "vrouter.mode",
];

impl Facts {
    /// The digest of `node`. `division`: who gets which CPUs by the profile in force, where there is one. `taken`: CPUs of
    /// containers that Kubernetes does not know.
    #[must_use]
    pub fn of(node: &Node, division: Option<&Division>, taken: &CpuSet) -> Self {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let known = |text: &Option<String>| text.clone().unwrap_or_default();
        let mut flags: Vec<String> =
            node.cpu.flags.iter().filter(|flag| FLAGS.contains(&flag.as_str())).cloned().collect();
        flags.sort_unstable();
        let mut governors: Vec<String> =
            node.power.frequencies.values().map(|cpu| cpu.governor.clone()).collect();
        governors.sort_unstable();
        governors.dedup();
        let driver = node.power.frequencies.values().next().map(|cpu| cpu.driver.clone());
        let workers: CpuSet = node
            .services
            .vrouters
            .iter()
            .flat_map(|vrouter| vrouter.workers.iter().copied())
            .collect();
        let taken = workers.union(taken);
        Self {
            cpu: CpuFacts {
                vendor: known(&node.cpu.vendor),
                model: known(&node.cpu.model),
                flags,
                sockets: count(node.cpu.sockets),
                cores: count(node.cpu.cores.len()),
                cpus: count(node.cpu.online.len()),
                smt: node.cpu.smt,
            },
            numa: node.numa.iter().map(|numa| numa_facts(node, numa, division, &taken)).collect(),
            nics: nics(node),
            kernel: KernelFacts {
                version: known(&node.kernel.version),
                isolated: node.kernel.isolated.to_string(),
                iommu: node.kernel.iommu.clone(),
                cgroups: node.kernel.cgroup_version.unwrap_or(0),
            },
            power: PowerFacts {
                driver: driver.unwrap_or_default(),
                governors,
                turbo: node.power.turbo,
            },
            runtimes: node
                .services
                .runtimes
                .iter()
                .map(|runtime| runtime_name(*runtime).to_owned())
                .collect(),
            nri: node.services.nri,
            vrouters: node
                .services
                .vrouters
                .iter()
                .map(|vrouter| VrouterFacts {
                    mode: vrouter.mode.clone(),
                    version: vrouter.version.clone(),
                    numa: vrouter.numa,
                    workers: count(vrouter.workers.len()),
                    worker_mode: vrouter.worker_mode.to_string(),
                    ports: vrouter.ports,
                    ports_max: vrouter.ports_max.unwrap_or(0),
                    networks: vrouter.networks.clone(),
                })
                .collect(),
        }
    }

    /// All values of the fact of that name; `None`: there is no such fact.
    #[must_use]
    pub fn values(&self, name: &str) -> Option<Vec<String>> {
        let all = |texts: &mut dyn Iterator<Item = &String>| {
            texts.filter(|text| !text.is_empty()).cloned().collect::<Vec<_>>()
        };
        let memory: u64 =
            self.numa.iter().map(|numa| numa.memory >> 30).fold(0, u64::saturating_add);
        Some(match name {
            "cpu.vendor" => all(&mut [&self.cpu.vendor].into_iter()),
            "cpu.model" => all(&mut [&self.cpu.model].into_iter()),
            "cpu.flags" => self.cpu.flags.clone(),
            "cpu.sockets" => vec![self.cpu.sockets.to_string()],
            "cpu.cores" => vec![self.cpu.cores.to_string()],
            "cpu.cpus" => vec![self.cpu.cpus.to_string()],
            "cpu.smt" => vec![self.cpu.smt.to_string()],
            "numa.nodes" => {
                vec![self.numa.iter().filter(|numa| !numa.cpus.is_empty()).count().to_string()]
            }
            "memory.gib" => vec![memory.to_string()],
            "nic.driver" => all(&mut self.nics.iter().map(|nic| &nic.driver)),
            "nic.model" => all(&mut self.nics.iter().map(|nic| &nic.model)),
            "nic.speed" => {
                self.nics.iter().filter_map(|nic| Some(nic.speed?.to_string())).collect()
            }
            "kernel.version" => all(&mut [&self.kernel.version].into_iter()),
            "kernel.iommu" => all(&mut [&self.kernel.iommu].into_iter()),
            "kernel.cgroups" => vec![self.kernel.cgroups.to_string()],
            "power.driver" => all(&mut [&self.power.driver].into_iter()),
            "vrouter.mode" => all(&mut self.vrouters.iter().map(|vrouter| &vrouter.mode)),
            _ => return None,
        })
    }
}

fn numa_facts(
    node: &Node,
    numa: &node_tuner_core::node::NumaNode,
    division: Option<&Division>,
    taken: &CpuSet,
) -> NumaFacts {
    let cores = node.cpu.cores.iter().filter(|core| core.numa == numa.id).count();
    let divided = division.and_then(|division| division.by_numa.get(&numa.id));
    let pods = divided.map_or(&numa.cpus, |divided| &divided.pods);
    NumaFacts {
        id: numa.id,
        cpus: numa.cpus.to_string(),
        pod_cpus: pods.difference(taken).to_string(),
        cores: u32::try_from(cores).unwrap_or(u32::MAX),
        memory: numa.memory.unwrap_or(0),
        distances: numa
            .distances
            .iter()
            .map(|(to, distance)| Distance { to: *to, distance: *distance })
            .collect(),
        hugepages: numa
            .hugepages
            .iter()
            .map(|(size, pool)| PoolFacts { size: *size, total: pool.total, free: pool.free })
            .collect(),
    }
}

fn nics(node: &Node) -> Vec<NicFacts> {
    let known = |text: &Option<String>| text.clone().unwrap_or_default();
    let real = node.nics.iter().filter(|nic| nic.physical || nic.pci.is_some());
    real.map(|nic| NicFacts {
        name: known(&nic.name),
        pci: known(&nic.pci),
        model: known(&nic.model),
        driver: known(&nic.driver),
        numa: nic.numa,
        speed: nic.speed.or(nic.ethtool.link_speed),
    })
    .collect()
}

fn runtime_name(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Containerd => "containerd",
        Runtime::Crio => "crio",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use node_tuner_core::modes::Mode;
    use node_tuner_core::node::{Observed, Vrouter};

    use super::*;

    /// A machine of two NUMA nodes with eight cores of two CPUs each, 64 GiB and 16 pages of 1 GiB per node.
    pub(crate) fn two_nodes() -> Facts {
        let numa = |id: u32, cpus: &str, pods: &str| NumaFacts {
            id,
            cpus: cpus.into(),
            pod_cpus: pods.into(),
            cores: 8,
            memory: 64 << 30,
            distances: vec![
                Distance { to: 0, distance: if id == 0 { 10 } else { 21 } },
                Distance { to: 1, distance: if id == 1 { 10 } else { 21 } },
            ],
            hugepages: vec![
                PoolFacts { size: 2 << 20, total: 1024, free: 1024 },
                PoolFacts { size: 1 << 30, total: 16, free: 16 },
            ],
        };
        let vrouter = |numa: u32| VrouterFacts {
            mode: "dpdk".into(),
            version: "0.1.0".into(),
            numa: Some(numa),
            workers: 1,
            worker_mode: "adaptive".into(),
            ports: 0,
            ports_max: 8,
            networks: vec!["blue".into(), "red".into()],
        };
        Facts {
            cpu: CpuFacts {
                vendor: "GenuineIntel".into(),
                model: "Model X".into(),
                flags: vec!["avx2".into(), "pdpe1gb".into()],
                sockets: 2,
                cores: 16,
                cpus: 32,
                smt: true,
            },
            numa: vec![numa(0, "0-7,16-23", "2-7,18-23"), numa(1, "8-15,24-31", "10-15,26-31")],
            nics: vec![NicFacts {
                name: "ens1f0".into(),
                driver: "ice".into(),
                speed: Some(100_000),
                numa: Some(0),
                ..NicFacts::default()
            }],
            kernel: KernelFacts {
                version: "6.1.0".into(),
                iommu: "none".into(),
                ..Default::default()
            },
            vrouters: vec![vrouter(0), vrouter(1)],
            nri: true,
            ..Facts::default()
        }
    }

    #[test]
    fn a_vrouter_is_told_with_what_its_workers_do() {
        let text = include_str!("../../core/testdata/two-sockets.tree");
        let tree = node_tuner_core::tree::Tree::from_text(text).unwrap();
        let vrouter = Vrouter {
            mode: "dpdk".into(),
            workers: vec![1, 3],
            worker_mode: Mode::Poll,
            ..Vrouter::default()
        };
        let observed = Observed { tree, vrouters: vec![vrouter], ..Default::default() };
        let facts = Facts::of(&Node::parse(&observed).unwrap(), None, &CpuSet::new());
        let [vrouter] = &facts.vrouters[..] else { panic!("{:?}", facts.vrouters) };
        assert_eq!((vrouter.workers, vrouter.worker_mode.as_str()), (2, "poll"));
    }

    #[test]
    fn of_a_captured_machine() {
        let text = include_str!("../../core/testdata/two-sockets.tree");
        let tree = node_tuner_core::tree::Tree::from_text(text).unwrap();
        let observed = Observed { tree, ..Default::default() };
        let node = Node::parse(&observed).unwrap();
        let whole = Facts::of(&node, None, &CpuSet::new());
        assert_eq!((whole.cpu.sockets, whole.numa.len()), (2, 2));
        assert_eq!(whole.numa[0].cpus, whole.numa[0].pod_cpus);
        assert!(whole.numa.iter().all(|numa| numa.memory > 0 && numa.distances.len() == 2));
        assert!(whole.nics.iter().any(|nic| nic.numa.is_some() && !nic.driver.is_empty()));
        // What others have, and what the profile keeps for the system, is not for pods.
        let first: CpuSet = whole.numa[0].cpus.parse().unwrap();
        let taken = CpuSet::from_iter(first.iter().take(1));
        let facts = Facts::of(&node, None, &taken);
        let left: CpuSet = facts.numa[0].pod_cpus.parse().unwrap();
        assert_eq!(left, first.difference(&taken));
        let rules = ringway_config::CpuRules { reserved_cores: 1, ..Default::default() };
        let division = node_tuner_core::cpus::divide(&node, &rules).unwrap();
        let facts = Facts::of(&node, Some(&division), &taken);
        assert_eq!(facts.numa[1].pod_cpus, division.by_numa[&1].pods.to_string());
    }

    #[test]
    fn every_name_is_a_fact_and_nothing_else_is() {
        let facts = two_nodes();
        for name in FACT_NAMES {
            assert!(facts.values(name).is_some(), "{name}");
        }
        assert_eq!(facts.values("cpu.colour"), None);
        assert_eq!(facts.values("memory.gib").unwrap(), ["128"]);
        assert_eq!(facts.values("vrouter.mode").unwrap(), ["dpdk", "dpdk"]);
        assert_eq!(facts.values("power.driver").unwrap(), [""; 0]);
    }
}
