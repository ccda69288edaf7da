//! The files that a node is known by, as text: of the running machine, of a captured directory, or written for a test.
//!
//! Reading them is the caller's job: it expands [`PATTERNS`] below its root with [`component_matches`].

use std::collections::BTreeMap;

/// What is read, relative to the root. `*` in a component stands for any text that is not empty, `#` for digits. A path
/// that ends with `@` is a symbolic link whose target counts, one that ends with `?` counts by being there.
pub const PATTERNS: &[&str] = &[
    "proc/cpuinfo",
    "proc/cmdline",
    "proc/interrupts",
    "proc/irq/default_smp_affinity",
    "proc/irq/#/smp_affinity_list",
    "proc/irq/#/effective_affinity_list",
    "proc/mounts",
    "proc/sys/kernel/osrelease",
    "proc/sys/kernel/random/boot_id",
    "proc/sys/kernel/numa_balancing",
    "proc/sys/kernel/nmi_watchdog",
    "proc/sys/kernel/timer_migration",
    "proc/sys/kernel/sched_rt_runtime_us",
    "proc/sys/vm/stat_interval",
    "proc/sys/vm/swappiness",
    "proc/sys/vm/nr_overcommit_hugepages",
    "proc/sys/net/core/netdev_max_backlog",
    "proc/sys/net/core/rps_sock_flow_entries",
    "sys/devices/system/cpu/online",
    "sys/devices/system/cpu/present",
    "sys/devices/system/cpu/isolated",
    "sys/devices/system/cpu/nohz_full",
    "sys/devices/system/cpu/smt/active",
    "sys/devices/system/cpu/smt/control",
    "sys/devices/system/cpu/cpufreq/boost",
    "sys/devices/system/cpu/intel_pstate/status",
    "sys/devices/system/cpu/intel_pstate/no_turbo",
    "sys/devices/system/cpu/amd_pstate/status",
    "sys/devices/system/cpu/cpuidle/current_driver",
    "sys/devices/system/cpu/cpuidle/current_governor",
    "sys/devices/system/cpu/cpuidle/current_governor_ro",
    "sys/devices/system/cpu/cpu#/topology/physical_package_id",
    "sys/devices/system/cpu/cpu#/topology/die_id",
    "sys/devices/system/cpu/cpu#/topology/core_id",
    "sys/devices/system/cpu/cpu#/topology/thread_siblings_list",
    "sys/devices/system/cpu/cpu#/cpu_capacity",
    "sys/devices/system/cpu/cpu#/cache/index#/level",
    "sys/devices/system/cpu/cpu#/cache/index#/type",
    "sys/devices/system/cpu/cpu#/cache/index#/size",
    "sys/devices/system/cpu/cpu#/cache/index#/shared_cpu_list",
    "sys/devices/system/cpu/cpu#/cpufreq/scaling_driver",
    "sys/devices/system/cpu/cpu#/cpufreq/scaling_governor",
    "sys/devices/system/cpu/cpu#/cpufreq/scaling_available_governors",
    "sys/devices/system/cpu/cpu#/cpufreq/scaling_min_freq",
    "sys/devices/system/cpu/cpu#/cpufreq/scaling_max_freq",
    "sys/devices/system/cpu/cpu#/cpufreq/cpuinfo_min_freq",
    "sys/devices/system/cpu/cpu#/cpufreq/cpuinfo_max_freq",
    "sys/devices/system/cpu/cpu#/cpufreq/energy_performance_preference",
    "sys/devices/system/cpu/cpu#/cpufreq/energy_performance_available_preferences",
    "sys/devices/system/cpu/cpu#/cpuidle/state#/name",
    "sys/devices/system/cpu/cpu#/cpuidle/state#/latency",
    "sys/devices/system/cpu/cpu#/cpuidle/state#/disable",
    "sys/devices/cpu_core/cpus",
    "sys/devices/cpu_atom/cpus",
    "sys/devices/system/node/online",
    "sys/devices/system/node/node#/cpulist",
    "sys/devices/system/node/node#/distance",
    "sys/devices/system/node/node#/meminfo",
    "sys/devices/system/node/node#/hugepages/hugepages-*kB/nr_hugepages",
    "sys/devices/system/node/node#/hugepages/hugepages-*kB/free_hugepages",
    "sys/devices/virtual/workqueue/cpumask",
    "sys/devices/virtual/workqueue/writeback/cpumask",
    "sys/kernel/mm/transparent_hugepage/enabled",
    "sys/kernel/mm/transparent_hugepage/defrag",
    "sys/kernel/iommu_groups/#?",
    "sys/class/iommu/*?",
    "sys/class/net/*@",
    "sys/class/net/*/type",
    "sys/class/net/*/speed",
    "sys/class/net/*/mtu",
    "sys/class/net/*/operstate",
    "sys/class/net/*/statistics/rx_missed_errors",
    "sys/class/net/*/statistics/rx_fifo_errors",
    "sys/class/net/*/device/driver@",
    "sys/class/net/*/device/numa_node",
    "sys/class/net/*/device/sriov_totalvfs",
    "sys/class/net/*/device/sriov_numvfs",
    "sys/class/net/*/queues/rx-#/rps_cpus",
    "sys/class/net/*/queues/tx-#/xps_cpus",
    "sys/bus/pci/devices/*/class",
    "sys/bus/pci/devices/*/vendor",
    "sys/bus/pci/devices/*/device",
    "sys/bus/pci/devices/*/numa_node",
    "sys/bus/pci/devices/*/driver@",
    "sys/bus/pci/devices/*/msi_irqs/#?",
    "sys/fs/cgroup/cgroup.controllers",
    "dev/cpu_dma_latency?",
    "etc/default/grub",
    "etc/kernel/cmdline",
    "boot/grub/grub.cfg?",
    "boot/grub2/grub.cfg?",
    "boot/loader/entries/*.conf",
    "boot/efi/loader/entries/*.conf",
    "efi/loader/entries/*.conf",
    "run/containerd/containerd.sock?",
    "run/crio/crio.sock?",
    "run/nri/nri.sock?",
    "var/run/nri/nri.sock?",
    "etc/ringway/vrouter.toml",
    "etc/ringway/nri.toml",
    "etc/kubernetes/kubelet.conf.d?",
];

/// Whether the file or directory `name` is meant by one component of a pattern of [`PATTERNS`], without its `@` or `?`.
#[must_use]
pub fn component_matches(pattern: &str, name: &str) -> bool {
    let digits = pattern.contains('#');
    let Some((head, tail)) = pattern.split_once(['*', '#']) else {
        return pattern == name;
    };
    name.strip_prefix(head).and_then(|rest| rest.strip_suffix(tail)).is_some_and(|middle| {
        !middle.is_empty() && (!digits || middle.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A file with this text.
    File(String),
    /// A symbolic link to this target.
    Link(String),
    /// Something whose content does not matter: a socket, a device, a directory.
    There,
}

/// What was read, by path relative to the root, with `/` and without a leading one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(BTreeMap<String, Entry>);

impl Tree {
    /// Nothing read yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what is at `path`.
    pub fn insert(&mut self, path: impl Into<String>, entry: Entry) {
        self.0.insert(path.into(), entry);
    }

    /// Adds a file.
    pub fn file(&mut self, path: impl Into<String>, text: impl Into<String>) {
        self.insert(path, Entry::File(text.into()));
    }

    /// Takes out what is at `path`.
    pub fn remove(&mut self, path: &str) {
        self.0.remove(path);
    }

    /// All, in the order of their paths.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.0.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// Text of the file, without blanks around it.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<&str> {
        self.whole(path).map(str::trim)
    }

    /// Text of the file as it is.
    #[must_use]
    pub fn whole(&self, path: &str) -> Option<&str> {
        match self.0.get(path)? {
            Entry::File(text) => Some(text),
            _ => None,
        }
    }

    /// Target of the link.
    #[must_use]
    pub fn link(&self, path: &str) -> Option<&str> {
        match self.0.get(path)? {
            Entry::Link(target) => Some(target),
            _ => None,
        }
    }

    /// Whether something is at `path` or below.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.0.contains_key(path) || self.names(path).next().is_some()
    }

    /// Names directly below the directory `path`, in the order of their text.
    pub fn names<'a>(&'a self, path: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let start = format!("{path}/");
        let skip = start.len();
        let below = self.0.range(start.clone()..);
        let below = below.map_while(move |(file, _)| file.starts_with(&start).then_some(file));
        let mut last = None;
        below.filter_map(move |file| file.get(skip..)?.split('/').next()).filter(move |name| {
            // The map is sorted, so what is in one directory comes together.
            last.replace(*name) != Some(*name)
        })
    }

    /// The numbers in names directly below `path` that are `prefix` and digits, ascending.
    #[must_use]
    pub fn numbered(&self, path: &str, prefix: &str) -> Vec<u32> {
        let number = |name: &str| name.strip_prefix(prefix)?.parse().ok();
        let mut numbers: Vec<u32> = self.names(path).filter_map(number).collect();
        numbers.sort_unstable();
        numbers
    }

    /// One text with everything: `@ path` or `@ path -> target` or `@ path ?`, and below a file's path its lines behind
    /// `| `. Lines that begin with `#` are comments.
    ///
    /// # Errors
    /// The line that is none of these.
    pub fn from_text(text: &str) -> Result<Self, String> {
        let mut tree = Self::new();
        let mut current: Option<(String, String)> = None;
        for line in text.lines() {
            if let Some(content) = line.strip_prefix('|') {
                let content = content.strip_prefix(' ').unwrap_or(content);
                let (_, file) = current.as_mut().ok_or_else(|| line.to_owned())?;
                file.push_str(content);
                file.push('\n');
                continue;
            }
            if let Some((path, file)) = current.take() {
                tree.file(path, file);
            }
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let path = line.strip_prefix("@ ").ok_or_else(|| line.to_owned())?;
            if let Some((path, target)) = path.split_once(" -> ") {
                tree.insert(path, Entry::Link(target.into()));
            } else if let Some(path) = path.strip_suffix(" ?") {
                tree.insert(path, Entry::There);
            } else {
                current = Some((path.to_owned(), String::new()));
            }
        }
        if let Some((path, file)) = current.take() {
            tree.file(path, file);
        }
        Ok(tree)
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, Tree, component_matches};

    #[test]
    fn patterns() {
        for (pattern, name, matches) in [
            ("cpu#", "cpu12", true),
            ("cpu#", "cpufreq", false),
            ("cpu#", "cpu", false),
            ("*", "eth0", true),
            ("hugepages-*kB", "hugepages-2048kB", true),
            ("hugepages-*kB", "hugepages-kB", false),
            ("online", "online", true),
            ("online", "offline", false),
        ] {
            assert_eq!(component_matches(pattern, name), matches, "{pattern} {name}");
        }
    }

    #[test]
    fn trees_from_text() {
        let tree = Tree::from_text("# x\n@ a/b1\n| 1\n|\n| 2\n@ a/b0 -> ../c/d\n\n@ a/c ?\n@ e\n");
        let tree = tree.unwrap();
        assert_eq!(tree.whole("a/b1"), Some("1\n\n2\n"));
        assert_eq!(tree.link("a/b0"), Some("../c/d"));
        assert_eq!(tree.text("e"), Some(""));
        assert!(tree.has("a") && tree.has("a/c") && !tree.has("c"));
        assert_eq!(tree.names("a").collect::<Vec<_>>(), ["b0", "b1", "c"]);
        assert_eq!(tree.numbered("a", "b"), [0, 1]);
        assert_eq!(tree.entries().filter(|(_, entry)| **entry == Entry::There).count(), 1);
        assert_eq!(Tree::from_text("x"), Err("x".to_owned()));
        assert_eq!(Tree::from_text("| x"), Err("| x".to_owned()));
    }
}
