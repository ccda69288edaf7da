//! The schema of a node profile: what `ringway-tuner` makes of a node. Everything is optional; what a profile does not
//! mention is left as it is.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::check::Problem;
use crate::{Amount, Bytes, ConfigError, locate};

mod agent;
mod check;

pub use agent::{AgentRules, RingRules, WorkerModeRule, WorkerRules};

/// The version of the schema that this program reads.
pub const PROFILE_VERSION: u32 = 1;

/// A node profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeProfile {
    /// Of the schema: [`PROFILE_VERSION`].
    pub version: u32,
    /// What reports call it: lower case letters, digits and `-`, at most 63.
    pub name: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// What no formula may exceed.
    #[serde(default)]
    pub limits: ProfileLimits,
    /// Who gets which CPUs.
    #[serde(default)]
    pub cpus: CpuRules,
    /// Hugepages of each NUMA node. Of two entries for one size and node the later counts.
    #[serde(default)]
    pub hugepages: Vec<HugepageRule>,
    /// How the kernel treats memory.
    #[serde(default)]
    pub memory: MemoryRules,
    /// Where interrupts go.
    #[serde(default)]
    pub irqs: IrqRules,
    /// Which CPUs the kernel's own packets are spread over.
    #[serde(default)]
    pub steering: SteeringRules,
    /// Frequencies and idle states.
    #[serde(default)]
    pub power: PowerRules,
    /// What network cards get; of two entries that match one card the later counts, value by value.
    #[serde(default)]
    pub nics: Vec<NicRule>,
    /// sysctls by their dotted names.
    #[serde(default)]
    pub sysctls: BTreeMap<String, SysctlValue>,
    /// What only the kernel's command line can do: proposed, never done.
    #[serde(default)]
    pub kernel: KernelRules,
    /// Files of others that get the CPU sets.
    #[serde(default)]
    pub handover: HandoverRules,
    /// How `ringway-tuner run` behaves.
    #[serde(default)]
    pub agent: AgentRules,
}

/// What a profile asks for, without its name: all of [`NodeProfile`] that is not about the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ProfileParameters {
    /// What no formula may exceed.
    pub limits: ProfileLimits,
    /// Who gets which CPUs.
    pub cpus: CpuRules,
    /// Hugepages of each NUMA node. Of two entries for one size and node the later counts.
    pub hugepages: Vec<HugepageRule>,
    /// How the kernel treats memory.
    pub memory: MemoryRules,
    /// Where interrupts go.
    pub irqs: IrqRules,
    /// Which CPUs the kernel's own packets are spread over.
    pub steering: SteeringRules,
    /// Frequencies and idle states.
    pub power: PowerRules,
    /// What network cards get; of two entries that match one card the later counts, value by value.
    pub nics: Vec<NicRule>,
    /// sysctls by their dotted names.
    pub sysctls: BTreeMap<String, SysctlValue>,
    /// What only the kernel's command line can do: proposed, never done.
    pub kernel: KernelRules,
    /// Files of others that get the CPU sets.
    pub handover: HandoverRules,
    /// How the agent behaves.
    pub agent: AgentRules,
}

/// `[limits]`: what no formula may exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ProfileLimits {
    /// Most of a NUMA node's memory that may become hugepages, all sizes together, percent.
    pub hugepage_percent: u32,
}

impl Default for ProfileLimits {
    fn default() -> Self {
        Self { hugepage_percent: 50 }
    }
}

/// `[cpus]`: who gets which CPUs. In each NUMA node the first cores are for the system, the next for the vRouter, the
/// rest for pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct CpuRules {
    /// Cores of each NUMA node for the system: kernel threads, interrupts, daemons.
    pub reserved_cores: u32,
    /// Cores of a NUMA node for the vRouter's workers.
    pub vrouter_cores: u32,
    /// On which NUMA nodes.
    pub vrouter_nodes: VrouterNodes,
    /// Whether the hardware threads of a core stay together. `false`: each is counted as a core.
    pub split_cores: bool,
}

/// On which NUMA nodes the vRouter has workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum VrouterNodes {
    /// Those with a network card; all if no card says where it is.
    #[default]
    Nic,
    /// All that have CPUs.
    All,
}

/// One of `[[hugepages]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct HugepageRule {
    /// Of one page: `2Mi`, `1Gi`.
    pub size: Bytes,
    /// How much of each node.
    pub amount: Amount,
    /// Nodes in the kernel's list form; empty: all that have CPUs and memory.
    #[serde(default)]
    pub nodes: String,
}

/// `[memory]`: how the kernel treats memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct MemoryRules {
    /// Transparent hugepages: `always`, `madvise`, `never`.
    pub transparent_hugepages: Option<String>,
    /// How hard the kernel tries for them: `always`, `defer`, `defer+madvise`, `madvise`, `never`.
    pub transparent_hugepages_defrag: Option<String>,
    /// Whether the kernel moves pages to where they are used, which stops a worker for each page it looks at.
    pub numa_balancing: Option<bool>,
}

/// `[irqs]`: where interrupts go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct IrqRules {
    /// Whether interrupts are moved away from the CPUs of vRouter and pods.
    pub keep_off_data_cpus: bool,
    /// Whether unbound kernel work (workqueues) is, too.
    pub workqueues_off_data_cpus: bool,
}

/// `[steering]`: which CPUs handle packets of the kernel's own network stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SteeringRules {
    /// Of which interfaces: names, `*` at the end for any rest. Empty: those with hardware behind them.
    pub interfaces: Vec<String>,
    /// Of received packets (RPS).
    pub rps: Option<Spread>,
    /// Of the queues for packets sent (XPS).
    pub xps: Option<Spread>,
}

/// A set of CPUs by rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Spread {
    /// None: the kernel's default, the CPU that got the interrupt.
    Off,
    /// The reserved CPUs.
    Reserved,
    /// All online CPUs.
    All,
}

/// `[power]`: frequencies and idle states.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct PowerRules {
    /// cpufreq governor, `performance`, `powersave`, `schedutil`, ...
    pub governor: Option<String>,
    /// Least frequency, percent of the hardware's greatest.
    pub min_frequency_percent: Option<u32>,
    /// Greatest frequency, percent of the hardware's greatest.
    pub max_frequency_percent: Option<u32>,
    /// Whether frequencies above the nominal one are used.
    pub turbo: Option<bool>,
    /// Energy performance preference: `performance`, `balance_performance`, `balance_power`, `power`.
    pub energy_preference: Option<String>,
    /// Idle states that need longer than this to leave are switched off, µs.
    pub max_idle_exit_us: Option<u32>,
    /// Longest that waking a CPU may take, machine-wide, µs (PM QoS). Held only while the agent runs.
    pub max_latency_us: Option<u32>,
    /// Which CPUs `governor`, frequencies, `energy_preference` and `max_idle_exit_us` are for.
    pub cpus: PowerCpus,
}

/// Which CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum PowerCpus {
    /// All.
    #[default]
    All,
    /// Those of vRouter and pods.
    Data,
    /// Those of the vRouter.
    Vrouter,
}

/// One of `[[nics]]`: what network cards get that match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct NicRule {
    /// Interface names, `*` at the end for any rest. Empty: any.
    pub names: Vec<String>,
    /// Driver names. Empty: any.
    pub drivers: Vec<String>,
    /// Descriptors of each receive ring.
    pub rx_ring: Option<Count>,
    /// Greatest number that a receive ring grows to while the card drops packets as no descriptor is free; then `rx_ring` is the least.
    /// Only the agent resizes.
    pub rx_ring_max: Option<Count>,
    /// Descriptors of each send ring.
    pub tx_ring: Option<Count>,
    /// Number of (combined) queues.
    pub queues: Option<Count>,
    /// Offloads by the names of `ethtool -k` in the kernel's form: `rx-gro`, `tx-tcp-segmentation`.
    pub offloads: BTreeMap<String, bool>,
}

/// A number, or a rule that gives one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Count {
    /// That many.
    Exactly(u32),
    /// As a rule says.
    Rule(CountRule),
}

/// A rule that gives a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum CountRule {
    /// As many as the hardware has.
    Max,
    /// One for each reserved CPU, as far as the hardware goes.
    Reserved,
}

/// Value of a sysctl: a number or a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SysctlValue {
    /// A number.
    Number(i64),
    /// Anything else: several numbers, a word.
    Text(String),
}

/// `[kernel]`: the kernel's command line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct KernelRules {
    /// `isolcpus=managed_irq,domain,...`: the scheduler leaves these CPUs alone. Nothing is moved between them either: pods
    /// that share CPUs need theirs not to be isolated.
    pub isolate: Option<Isolated>,
    /// `nohz_full=`: no timer tick on a data CPU that runs one thread.
    pub nohz_full: bool,
    /// `rcu_nocbs=`: no RCU callbacks on data CPUs.
    pub rcu_nocbs: bool,
    /// `irqaffinity=`: interrupts start on reserved CPUs.
    pub irqaffinity: bool,
    /// `iommu=pt`, and `intel_iommu=on` on Intel: devices are translated for user space only.
    pub iommu_passthrough: bool,
    /// `hugepagesz=1G hugepages=N`: pages of 1 GiB are hard to find once the machine runs.
    pub boot_hugepages: bool,
    /// Further arguments, `name` or `name=value`.
    pub extra: Vec<String>,
}

/// `[handover]`: files of others that get the CPU sets. A file that is not there is not made, but for kubelet's drop-in,
/// whose directory has to be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct HandoverRules {
    /// `workers.cpus` of the vRouter's configuration.
    pub vrouter: bool,
    /// Where that is.
    pub vrouter_file: PathBuf,
    /// `cpus.reserved` of the NRI plugin's configuration.
    pub nri: bool,
    /// Where that is.
    pub nri_file: PathBuf,
    /// `reservedSystemCPUs` of kubelet, and what `kubelet_managers` says, by a drop-in.
    pub kubelet: bool,
    /// kubelet's `--config-dir`.
    pub kubelet_directory: PathBuf,
    /// kubelet's resource managers, in the same drop-in.
    pub kubelet_managers: KubeletManagers,
}

/// `[handover.kubelet_managers]`: how kubelet gives pods CPUs and memory; what is left out stays as it is. The policies decide for pods of
/// Kubernetes that ask for whole CPUs; the NRI plugin's `cpus.mode` is to be `follow` then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct KubeletManagers {
    /// `cpuManagerPolicy`.
    pub cpu: Option<ManagerPolicy>,
    /// `topologyManagerPolicy`.
    pub topology: Option<TopologyPolicy>,
    /// `memoryManagerPolicy`.
    pub memory: Option<ManagerPolicy>,
    /// `reservedMemory`, which a static memory manager needs: kubelet starts only if it is the sum of its `kubeReserved`, `systemReserved` and
    /// `evictionHard`, so that they are to be set to come to this. It is taken from the first NUMA node with memory.
    pub reserved_memory: Option<Bytes>,
}

/// Policy of kubelet's CPU or memory manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ManagerPolicy {
    /// It decides nothing.
    None,
    /// Guaranteed pods get some of their own.
    Static,
}

/// Policy of kubelet's topology manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum TopologyPolicy {
    /// It decides nothing.
    None,
    /// One NUMA node if that can be.
    BestEffort,
    /// As few NUMA nodes as could ever do, or none.
    Restricted,
    /// One NUMA node or none.
    SingleNumaNode,
}

impl Default for HandoverRules {
    fn default() -> Self {
        Self {
            vrouter: false,
            vrouter_file: crate::VROUTER_FILE.into(),
            nri: false,
            nri_file: crate::NRI_FILE.into(),
            kubelet: false,
            kubelet_directory: "/etc/kubernetes/kubelet.conf.d".into(),
            kubelet_managers: KubeletManagers::default(),
        }
    }
}

/// Which CPUs the scheduler leaves alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Isolated {
    /// The vRouter's.
    Vrouter,
    /// The vRouter's and the pods'.
    Data,
}

// === impl ===

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(count) => count.fmt(f),
            Self::Rule(CountRule::Max) => f.write_str("max"),
            Self::Rule(CountRule::Reserved) => f.write_str("reserved"),
        }
    }
}

impl fmt::Display for SysctlValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

impl NodeProfile {
    /// Reads `text`, which came from `file`; the name is only for messages.
    ///
    /// # Errors
    /// [`ConfigError`] for text that is not TOML, an unknown key or a value that is not allowed on any node.
    pub fn from_toml(text: &str, file: &Path) -> Result<Self, ConfigError> {
        locate::read(text, file, Self::check)
    }

    /// A profile of that name with those parameters, checked as one from a file is.
    ///
    /// # Errors
    /// Key, value and remedy, one line.
    pub fn from_parameters(name: &str, parameters: ProfileParameters) -> Result<Self, String> {
        let ProfileParameters {
            limits,
            cpus,
            hugepages,
            memory,
            irqs,
            steering,
            power,
            nics,
            sysctls,
            kernel,
            handover,
            agent,
        } = parameters;
        let profile = Self {
            version: PROFILE_VERSION,
            name: name.to_owned(),
            description: String::new(),
            limits,
            cpus,
            hugepages,
            memory,
            irqs,
            steering,
            power,
            nics,
            sysctls,
            kernel,
            handover,
            agent,
        };
        let told =
            |problem: Problem| format!("{} = {}: {}", problem.key, problem.value, problem.remedy);
        profile.check().map_err(told)?;
        Ok(profile)
    }

    /// What it asks for.
    #[must_use]
    pub fn into_parameters(self) -> ProfileParameters {
        ProfileParameters {
            limits: self.limits,
            cpus: self.cpus,
            hugepages: self.hugepages,
            memory: self.memory,
            irqs: self.irqs,
            steering: self.steering,
            power: self.power,
            nics: self.nics,
            sysctls: self.sysctls,
            kernel: self.kernel,
            handover: self.handover,
            agent: self.agent,
        }
    }
}
