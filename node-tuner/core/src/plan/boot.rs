//! The kernel's command line: what is missing, and the line for the boot loader. Proposed, never done.

use ringway_config::Isolated;
use serde::Serialize;

use super::{Item, Planner, State};
use crate::cpuset::CpuSet;
use crate::node::{BootLoader, words};

/// What to write for the boot loader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proposal {
    /// Arguments that the running kernel was not started with.
    pub missing: Vec<String>,
    /// The file to edit; empty if no boot loader was found.
    pub file: String,
    /// The whole line, to replace the one that begins alike.
    pub line: String,
    /// The command to run then; empty: none.
    pub command: String,
}

/// One argument, and why.
struct Argument {
    text: String,
    why: &'static str,
}

const PASSTHROUGH: &str = "the kernel's own drivers work without translation, DPDK's with";

/// Those that mean nothing alone: `hugepages=` counts for the `hugepagesz=` before it.
const PAGES: [&str; 2] = ["hugepagesz", "hugepages"];

impl Planner<'_> {
    pub(super) fn boot(&mut self) -> Option<Proposal> {
        let intel = self.node.cpu.vendor.as_deref() == Some("GenuineIntel");
        if self.profile.kernel.iommu_passthrough && !intel && self.node.kernel.iommu == "none" {
            let (what, reason) = ("command line iommu", "the machine has no IOMMU");
            self.not_applicable("kernel", what, "passthrough", PASSTHROUGH, reason);
        }
        let arguments = self.arguments();
        let given = &self.node.kernel.command_line;
        let mut missing = Vec::new();
        for argument in &arguments {
            let key = key(&argument.text);
            let current: Vec<&str> =
                given.iter().map(String::as_str).filter(|word| self::key(word) == key).collect();
            let there =
                argument.text.split(' ').all(|word| given.iter().any(|other| other == word));
            if !there {
                missing.extend(argument.text.split(' ').map(str::to_owned));
            }
            self.items.push(Item {
                area: "kernel",
                what: format!("command line {key}"),
                current: current.last().map(|word| (*word).to_owned()),
                wanted: argument.text.clone(),
                why: argument.why,
                state: if there { State::Done } else { State::NeedsReboot },
                change: None,
            });
        }
        if missing.is_empty() {
            return None;
        }
        let wanted: Vec<&str> =
            arguments.iter().flat_map(|argument| argument.text.split(' ')).collect();
        Some(proposal(&self.node.kernel.boot_loader, missing, &wanted))
    }

    fn arguments(&self) -> Vec<Argument> {
        let rules = &self.profile.kernel;
        let data = self.cpus.data();
        let mut arguments = Vec::new();
        let mut add = |text: String, why| arguments.push(Argument { text, why });
        if let Some(isolated) = rules.isolate {
            let (cpus, why) = match isolated {
                Isolated::Vrouter => {
                    (self.cpus.vrouter.clone(), "the scheduler leaves the vRouter's CPUs alone")
                }
                Isolated::Data => (data.clone(), "the scheduler leaves data CPUs alone"),
            };
            if !cpus.is_empty() {
                add(format!("isolcpus=managed_irq,domain,{cpus}"), why);
            }
        }
        if rules.nohz_full {
            // The boot CPU keeps time for the others.
            let boot: Option<u32> = self.node.cpu.online.first();
            let cpus = data.difference(&boot.into_iter().collect::<CpuSet>());
            add(format!("nohz_full={cpus}"), "no timer tick on a CPU that runs one thread");
        }
        if rules.rcu_nocbs {
            add(format!("rcu_nocbs={data}"), "RCU callbacks run on reserved CPUs");
        }
        if rules.irqaffinity {
            let why = "interrupts start on reserved CPUs";
            add(format!("irqaffinity={}", self.cpus.reserved), why);
        }
        if rules.iommu_passthrough {
            let why = PASSTHROUGH;
            let arm = self.node.cpu.flags.iter().any(|flag| flag == "asimd");
            match self.node.cpu.vendor.as_deref() {
                Some("GenuineIntel") => {
                    add("intel_iommu=on".to_owned(), "the IOMMU is off without it");
                    add("iommu=pt".to_owned(), why);
                }
                // Elsewhere it is on by itself where there is one.
                _ if self.node.kernel.iommu == "none" => {}
                _ if arm => add("iommu.passthrough=1".to_owned(), why),
                _ => add("iommu=pt".to_owned(), why),
            }
        }
        if rules.boot_hugepages {
            let pages = self.boot_pages();
            let total: u64 = pages.values().sum();
            let by_node: Vec<String> =
                pages.iter().map(|(node, pages)| format!("{node}:{pages}")).collect();
            let why = "contiguous memory is hard to find later";
            // By node since Linux 5.17.
            if total > 0 && self.node.numa.len() > 1 {
                add(format!("hugepagesz=1G hugepages={}", by_node.join(",")), why);
            } else if total > 0 {
                add(format!("hugepagesz=1G hugepages={total}"), why);
            }
        }
        for word in &rules.extra {
            add(word.clone(), "the profile says so");
        }
        arguments
    }
}

fn key(argument: &str) -> &str {
    argument.split_once('=').map_or(argument, |(key, _)| key)
}

fn proposal(loader: &BootLoader, missing: Vec<String>, wanted: &[&str]) -> Proposal {
    let (file, start, end, now, command) = match loader {
        BootLoader::Grub { arguments } => (
            "/etc/default/grub".to_owned(),
            "GRUB_CMDLINE_LINUX=\"",
            "\"",
            arguments.as_str(),
            "update-grub",
        ),
        BootLoader::SystemdBoot { file, arguments } => {
            let entry = file.ends_with(".conf");
            let command = if entry { "" } else { "kernel-install add-all" };
            (
                format!("/{file}"),
                if entry { "options " } else { "" },
                "",
                arguments.as_str(),
                command,
            )
        }
        BootLoader::Unknown => (String::new(), "", "", "", ""),
    };
    let line = merged(now, wanted);
    Proposal { missing, file, line: format!("{start}{line}{end}"), command: command.to_owned() }
}

/// What is there, but for arguments that are set anew; then these.
fn merged(now: &str, wanted: &[&str]) -> String {
    let pages = wanted.iter().any(|word| PAGES.contains(&key(word)));
    let anew = |word: &String| {
        let key = key(word);
        wanted.iter().any(|other| self::key(other) == key) || (pages && PAGES.contains(&key))
    };
    let mut line: Vec<String> = words(now).into_iter().filter(|word| !anew(word)).collect();
    line.extend(wanted.iter().map(|word| (*word).to_owned()));
    line.join(" ")
}
