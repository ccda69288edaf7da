//! Processors and their topology.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Files, NodeError, NumaNode};
use crate::cpuset::CpuSet;

/// Processors and their topology.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// `GenuineIntel`, `AuthenticAMD`, `ARM`, ...
    pub vendor: Option<String>,
    /// As the processor or `/proc/cpuinfo` names it.
    pub model: Option<String>,
    /// Features by the kernel's names.
    pub flags: Vec<String>,
    /// Online CPUs.
    pub online: CpuSet,
    /// Number of sockets.
    pub sockets: usize,
    /// Number of dies, of all sockets.
    pub dies: usize,
    /// `on`, `off`, `forceoff`, `notsupported`, `notimplemented`.
    pub smt_control: Option<String>,
    /// Whether any core has more than one CPU online.
    pub smt: bool,
    /// Cores, by their first CPU.
    pub cores: Vec<Core>,
    /// Caches, each once.
    pub caches: Vec<Cache>,
}

/// One core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Core {
    /// Its online CPUs: hardware threads.
    pub cpus: CpuSet,
    /// Socket.
    pub socket: u32,
    /// Die within the socket.
    pub die: u32,
    /// NUMA node.
    pub numa: u32,
    /// Where a machine has two kinds.
    pub kind: CoreKind,
    /// The CPUs it shares its last cache with; empty: not known.
    pub last_cache: CpuSet,
}

/// The kind of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CoreKind {
    /// All are of one kind, or this is of the fast kind.
    Fast,
    /// Of a slower, thriftier kind than others of the machine.
    Slow,
}

/// One cache.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cache {
    /// 1, 2, 3.
    pub level: u32,
    /// `Data`, `Instruction`, `Unified`.
    pub kind: String,
    /// As the kernel says: `32768K`.
    pub size: String,
    /// CPUs that share it.
    pub cpus: CpuSet,
}

pub(super) fn parse(
    files: Files<'_>,
    online: &CpuSet,
    numa: &[NumaNode],
) -> Result<Cpu, NodeError> {
    let caches = caches(files, online)?;
    let slow = slow_cpus(files, online)?;
    let (mut cores, mut seen, mut dies) = (Vec::new(), CpuSet::new(), BTreeSet::new());
    for cpu in online.iter() {
        if seen.contains(cpu) {
            continue;
        }
        let topology = format!("sys/devices/system/cpu/cpu{cpu}/topology");
        let siblings = files.cpus(&format!("{topology}/thread_siblings_list"))?;
        let cpus = siblings.unwrap_or_default().intersection(online).difference(&seen);
        let cpus = if cpus.contains(cpu) { cpus } else { CpuSet::from_iter([cpu]) };
        seen.extend(&cpus);
        let socket = files.known(&format!("{topology}/physical_package_id"))?.unwrap_or(0);
        let die = files.known(&format!("{topology}/die_id"))?.unwrap_or(0);
        dies.insert((socket, die));
        let node = numa.iter().find(|node| node.cpus.contains(cpu));
        let last = caches.iter().filter(|cache| cache.cpus.contains(cpu));
        let last = last.max_by_key(|cache| cache.level);
        cores.push(Core {
            kind: if slow.contains(cpu) { CoreKind::Slow } else { CoreKind::Fast },
            last_cache: last.map(|cache| cache.cpus.clone()).unwrap_or_default(),
            numa: node.map_or(0, |node| node.id),
            cpus,
            socket,
            die,
        });
    }
    let info = Info::parse(files.text("proc/cpuinfo").unwrap_or_default());
    Ok(Cpu {
        vendor: info.vendor(),
        model: info.model(),
        flags: info.flags(),
        online: online.clone(),
        sockets: cores.iter().map(|core| core.socket).collect::<BTreeSet<_>>().len(),
        dies: dies.len(),
        smt_control: files.owned("sys/devices/system/cpu/smt/control"),
        smt: cores.iter().any(|core| core.cpus.len() > 1),
        cores,
        caches,
    })
}

fn caches(files: Files<'_>, online: &CpuSet) -> Result<Vec<Cache>, NodeError> {
    let mut caches = BTreeSet::new();
    for cpu in online.iter() {
        let folder = format!("sys/devices/system/cpu/cpu{cpu}/cache");
        for index in files.0.numbered(&folder, "index") {
            let folder = format!("{folder}/index{index}");
            let shared = files.cpus(&format!("{folder}/shared_cpu_list"))?;
            let Some(level) = files.number(&format!("{folder}/level"))? else { continue };
            caches.insert(Cache {
                level,
                kind: files.owned(&format!("{folder}/type")).unwrap_or_default(),
                size: files.owned(&format!("{folder}/size")).unwrap_or_default(),
                cpus: shared.unwrap_or_default().intersection(online),
            });
        }
    }
    Ok(caches.into_iter().collect())
}

/// The CPUs that are slower than others of the machine: Intel's efficient cores, Arm's little ones.
fn slow_cpus(files: Files<'_>, online: &CpuSet) -> Result<CpuSet, NodeError> {
    if let Some(atom) = files.cpus("sys/devices/cpu_atom/cpus")?
        && files.cpus("sys/devices/cpu_core/cpus")?.is_some_and(|core| !core.is_empty())
    {
        return Ok(atom);
    }
    let mut capacities = BTreeMap::new();
    for cpu in online.iter() {
        let file = format!("sys/devices/system/cpu/cpu{cpu}/cpu_capacity");
        if let Some(capacity) = files.number::<u32>(&file)? {
            capacities.insert(cpu, capacity);
        }
    }
    let greatest = capacities.values().max().copied().unwrap_or(0);
    // Favoured cores of one kind differ by a few percent; kinds differ by more.
    let slow = |capacity: u32| u64::from(capacity) * 5 < u64::from(greatest) * 4;
    Ok(capacities.into_iter().filter(|(_, capacity)| slow(*capacity)).map(|(cpu, _)| cpu).collect())
}

/// The first processor's lines of `/proc/cpuinfo`, and what stands below all processors.
struct Info<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Info<'a> {
    fn parse(text: &'a str) -> Self {
        let pair = |line: &'a str| {
            let (key, value) = line.split_once(':')?;
            Some((key.trim(), value.trim()))
        };
        Self(text.lines().filter_map(pair).collect())
    }

    fn get(&self, wanted: &str) -> Option<&'a str> {
        let found = self.0.iter().find(|(key, _)| *key == wanted)?;
        Some(found.1).filter(|value| !value.is_empty())
    }

    fn vendor(&self) -> Option<String> {
        let implementer = || {
            Some(match self.get("CPU implementer")? {
                "0x41" => "ARM".to_owned(),
                "0x43" => "Cavium".to_owned(),
                "0x48" => "HiSilicon".to_owned(),
                "0x50" => "APM".to_owned(),
                "0x51" => "Qualcomm".to_owned(),
                "0x61" => "Apple".to_owned(),
                "0xc0" => "Ampere".to_owned(),
                other => format!("implementer {other}"),
            })
        };
        self.get("vendor_id").map(str::to_owned).or_else(implementer)
    }

    fn model(&self) -> Option<String> {
        let part = || Some(format!("part {}", self.get("CPU part")?));
        self.get("model name").or(self.get("Model")).map(str::to_owned).or_else(part)
    }

    fn flags(&self) -> Vec<String> {
        let flags = self.get("flags").or(self.get("Features")).unwrap_or_default();
        flags.split_whitespace().map(str::to_owned).collect()
    }
}
