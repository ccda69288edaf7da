//! What a node is: its characteristics, made from the text of its files.

mod cpu;
mod kernel;
mod memory;
mod nic;
mod power;
mod services;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::cpu::{Cache, Core, CoreKind, Cpu};
pub use self::kernel::{BootLoader, Kernel};
pub(crate) use self::kernel::{sysctl_file, words};
pub use self::memory::{HugepagePool, Memory, NumaNode};
pub use self::nic::{EthtoolInfo, Irq, Nic, Offload, Queues, Rings};
pub(crate) use self::power::TURBO_FILES;
pub use self::power::{CpuPower, IdleState, Power};
pub use self::services::{Runtime, Services, Vrouter};
use crate::cpuset::CpuSet;
use crate::tree::Tree;

/// What was found out about a node: its files, and what only calls tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Its files.
    pub tree: Tree,
    /// What ethtool's netlink interface says, by interface.
    pub ethtool: BTreeMap<String, EthtoolInfo>,
    /// What runs there and answers.
    pub vrouters: Vec<Vrouter>,
}

/// A node's characteristics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Processors and their topology.
    pub cpu: Cpu,
    /// NUMA nodes, ascending. A kernel without NUMA support has one, number 0.
    pub numa: Vec<NumaNode>,
    /// Network interfaces but the loopback, and network cards that no kernel driver has.
    pub nics: Vec<Nic>,
    /// Interrupts that have an affinity, ascending.
    pub irqs: Vec<Irq>,
    /// Version, command line, and what follows from it.
    pub kernel: Kernel,
    /// Frequencies and idle states.
    pub power: Power,
    /// Machine-wide memory settings.
    pub memory: Memory,
    /// sysctls that matter here, by dotted name.
    pub sysctls: BTreeMap<String, String>,
    /// Container runtime, NRI, vRouters.
    pub services: Services,
}

/// The files of a node do not make sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// A file that every Linux has is not there.
    #[error("/{file} is missing; is the root directory right?")]
    Missing {
        /// Relative to the root.
        file: String,
    },
    /// A file does not say what it should.
    #[error("/{file} says {text:?}, which is not {expected}")]
    Unexpected {
        /// Relative to the root.
        file: String,
        /// Its text, shortened.
        text: String,
        /// What it should be.
        expected: &'static str,
    },
}

impl Node {
    /// Makes sense of what was observed.
    ///
    /// # Errors
    /// [`NodeError`] when the list of online CPUs is missing or a file does not have its known form.
    pub fn parse(observed: &Observed) -> Result<Self, NodeError> {
        let files = Files(&observed.tree);
        let file = "sys/devices/system/cpu/online";
        let online = files.cpus(file)?.ok_or_else(|| NodeError::Missing { file: file.into() })?;
        if online.is_empty() {
            return Err(files.unexpected(file, "at least one CPU"));
        }
        let numa = memory::nodes(files, &online)?;
        let cpu = cpu::parse(files, &online, &numa)?;
        let irqs = nic::irqs(files)?;
        Ok(Self {
            nics: nic::parse(files, &observed.ethtool, &irqs)?,
            kernel: kernel::parse(files, &cpu)?,
            power: power::parse(files, &online)?,
            memory: memory::parse(files),
            sysctls: kernel::sysctls(files),
            services: services::parse(files, &observed.vrouters),
            cpu,
            numa,
            irqs,
        })
    }

    /// The NUMA node with that number.
    #[must_use]
    pub fn numa_node(&self, id: u32) -> Option<&NumaNode> {
        self.numa.iter().find(|node| node.id == id)
    }
}

/// Reading of single values, with the file's name in every error.
#[derive(Clone, Copy)]
struct Files<'a>(&'a Tree);

impl<'a> Files<'a> {
    /// The file's text; none if it is not there or empty, as files of the kernel are that could not be read.
    fn text(self, file: &str) -> Option<&'a str> {
        self.0.text(file).filter(|text| !text.is_empty())
    }

    fn owned(self, file: &str) -> Option<String> {
        self.text(file).map(str::to_owned)
    }

    fn words(self, file: &str) -> Vec<String> {
        self.text(file).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    }

    fn number<T: std::str::FromStr>(self, file: &str) -> Result<Option<T>, NodeError> {
        let number = self.text(file).map(str::parse).transpose();
        number.map_err(|_| self.unexpected(file, "a number"))
    }

    /// A number that is -1 where the kernel does not know.
    fn known(self, file: &str) -> Result<Option<u32>, NodeError> {
        let number: Option<i64> = self.number(file)?;
        Ok(number.and_then(|number| u32::try_from(number).ok()))
    }

    fn cpus(self, file: &str) -> Result<Option<CpuSet>, NodeError> {
        let cpus = self.0.text(file).map(str::parse).transpose();
        cpus.map_err(|_| self.unexpected(file, "a list of CPUs"))
    }

    fn mask(self, file: &str) -> Result<Option<CpuSet>, NodeError> {
        let cpus = self.text(file).map(CpuSet::from_mask).transpose();
        cpus.map_err(|_| self.unexpected(file, "a mask of CPUs"))
    }

    fn unexpected(self, file: &str, expected: &'static str) -> NodeError {
        // Long enough to recognise the content, short enough for one line.
        let text = self.0.text(file).unwrap_or_default().chars().take(80).collect();
        NodeError::Unexpected { file: file.into(), text, expected }
    }
}

/// The word in brackets of `always [madvise] never`; the whole text where nothing is in brackets.
pub(crate) fn chosen(text: &str) -> &str {
    let inner = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inner.map_or(text.trim(), |(word, _)| word)
}

#[cfg(test)]
mod tests;
