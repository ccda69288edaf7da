//! The kernel's version and command line, what follows from it, and who loads it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Cpu, Files, NodeError};
use crate::cpuset::CpuSet;

/// The kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// `6.1.0-30-amd64`.
    pub version: Option<String>,
    /// New with every boot.
    pub boot_id: Option<String>,
    /// Its command line, argument by argument.
    pub command_line: Vec<String>,
    /// CPUs that the scheduler leaves alone (`isolcpus=domain`).
    pub isolated: CpuSet,
    /// CPUs without a timer tick when they run one thread.
    pub nohz_full: CpuSet,
    /// CPUs without RCU callbacks, from the command line.
    pub rcu_nocbs: CpuSet,
    /// Whether devices are translated, and how: `none`, `translated`, `passthrough`.
    pub iommu: String,
    /// CPUs for unbound kernel work; `None`: can't be set here.
    pub workqueues: Option<CpuSet>,
    /// CPUs that new interrupts go to.
    pub default_irq_affinity: Option<CpuSet>,
    /// 1, 2, or `None` if not known. 1 also for version 1 with version 2 beside it.
    pub cgroup_version: Option<u32>,
    /// Who loads it, as far as its configuration is there.
    pub boot_loader: BootLoader,
}

/// Who loads the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootLoader {
    /// GRUB, configured in `/etc/default/grub`; the text of `GRUB_CMDLINE_LINUX`.
    Grub {
        /// Arguments now, without quotes.
        arguments: String,
    },
    /// systemd-boot, with the arguments in `/etc/kernel/cmdline` or in the entries.
    SystemdBoot {
        /// The file that has the arguments.
        file: String,
        /// Arguments now.
        arguments: String,
    },
    /// None whose configuration was found.
    Unknown,
}

/// sysctls that reports show even if no profile sets them.
const SHOWN: [&str; 8] = [
    "kernel.nmi_watchdog",
    "kernel.timer_migration",
    "kernel.sched_rt_runtime_us",
    "vm.stat_interval",
    "vm.swappiness",
    "vm.nr_overcommit_hugepages",
    "net.core.netdev_max_backlog",
    "net.core.rps_sock_flow_entries",
];

/// Path of a sysctl below the root. A name whose parts hold dots themselves (interfaces) is written with `/` by nobody
/// here: profiles refuse it.
pub(crate) fn sysctl_file(name: &str) -> String {
    format!("proc/sys/{}", name.replace('.', "/"))
}

pub(super) fn sysctls(files: Files<'_>) -> BTreeMap<String, String> {
    let value = |name: &str| Some((name.to_owned(), files.owned(&sysctl_file(name))?));
    SHOWN.into_iter().filter_map(value).collect()
}

pub(super) fn parse(files: Files<'_>, cpu: &Cpu) -> Result<Kernel, NodeError> {
    let command_line = words(files.text("proc/cmdline").unwrap_or_default());
    let file = "sys/devices/system/cpu/isolated";
    let isolated = files.cpus(file)?.unwrap_or_default();
    let nohz_full = files.cpus("sys/devices/system/cpu/nohz_full")?.unwrap_or_default();
    let rcu_nocbs = command_line.iter().rev().find_map(|word| word.strip_prefix("rcu_nocbs="));
    let rcu_nocbs = rcu_nocbs.map(|list| list.replace("all", &cpu.online.to_string()));
    Ok(Kernel {
        version: files.owned("proc/sys/kernel/osrelease"),
        boot_id: files.owned("proc/sys/kernel/random/boot_id"),
        isolated,
        nohz_full,
        // Whatever else people write there (`0-N`), the kernel takes; it is shown in the command line.
        rcu_nocbs: rcu_nocbs.and_then(|list| list.parse().ok()).unwrap_or_default(),
        iommu: iommu(files, &command_line).to_owned(),
        workqueues: files.mask("sys/devices/virtual/workqueue/cpumask")?,
        default_irq_affinity: files.mask("proc/irq/default_smp_affinity")?,
        cgroup_version: cgroup_version(files),
        boot_loader: boot_loader(files),
        command_line,
    })
}

fn iommu(files: Files<'_>, command_line: &[String]) -> &'static str {
    let has = |word: &str| command_line.iter().any(|argument| argument == word);
    if !files.0.has("sys/kernel/iommu_groups") && !files.0.has("sys/class/iommu") {
        "none"
    } else if has("iommu=pt") || has("iommu.passthrough=1") {
        "passthrough"
    } else {
        "translated"
    }
}

fn cgroup_version(files: Files<'_>) -> Option<u32> {
    if files.text("sys/fs/cgroup/cgroup.controllers").is_some() {
        return Some(2);
    }
    let mounts = files.text("proc/mounts")?;
    let kind = |line: &str| line.split_whitespace().nth(2).map(str::to_owned);
    let kinds: Vec<String> = mounts.lines().filter_map(kind).collect();
    let has = |kind: &str| kinds.iter().any(|other| other == kind);
    if has("cgroup") { Some(1) } else { has("cgroup2").then_some(2) }
}

fn boot_loader(files: Files<'_>) -> BootLoader {
    // The file of the packages, of a loader that is not installed, is nobody's.
    let installed = files.0.has("boot/grub/grub.cfg") || files.0.has("boot/grub2/grub.cfg");
    if let Some(text) = files.text("etc/default/grub").filter(|_| installed) {
        return BootLoader::Grub { arguments: grub_arguments(text) };
    }
    let folders = ["boot/loader/entries", "boot/efi/loader/entries", "efi/loader/entries"];
    let entries = folders
        .iter()
        .flat_map(|folder| files.0.names(folder).map(move |name| format!("{folder}/{name}")));
    let Some(entry) = entries.max() else { return BootLoader::Unknown };
    let file = "etc/kernel/cmdline";
    if let Some(arguments) = files.owned(file) {
        return BootLoader::SystemdBoot { file: file.into(), arguments };
    }
    let options = files.text(&entry).unwrap_or_default().lines();
    let mut options = options.filter_map(|line| line.strip_prefix("options"));
    let arguments = options.next().unwrap_or_default().trim().to_owned();
    BootLoader::SystemdBoot { file: entry, arguments }
}

/// The value of the last `GRUB_CMDLINE_LINUX=`, a shell assignment, without its quotes.
fn grub_arguments(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    let value = lines.filter_map(|line| line.strip_prefix("GRUB_CMDLINE_LINUX=")).next_back();
    value.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
}

/// Arguments of a command line; blanks inside double quotes belong to an argument, as in the kernel's `next_arg`.
pub(crate) fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                word.push(c);
            }
            c if c.is_whitespace() && !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}
