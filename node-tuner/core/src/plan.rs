//! What a profile makes of a node: a list of items, each with its reason, what is there now and what shall be.

mod boot;
mod handover;
mod hugepages;
mod irqs;
mod nics;
mod power;

use std::collections::BTreeMap;

use ringway_config::{NodeProfile, PowerCpus};
use serde::Serialize;

pub use self::boot::Proposal;
use crate::cpus::{self, Division, Refusal};
use crate::cpuset::CpuSet;
use crate::knob::{Form, Knob};
use crate::node::{Node, Observed};
use crate::rings::Span;

/// What a profile makes of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The profile's name.
    pub profile: String,
    /// Who gets which CPUs.
    pub cpus: Division,
    /// Everything the profile asks for, in the order in which it is done.
    pub items: Vec<Item>,
    /// For the boot loader, if anything is missing there.
    pub boot: Option<Proposal>,
    /// Longest that waking a CPU may take, µs; held while the agent runs.
    pub max_latency_us: Option<u32>,
    /// Receive rings that the agent may resize.
    #[serde(skip)]
    pub rings: Vec<Span>,
    /// What an operator should know.
    pub notes: Vec<String>,
}

/// One thing that a profile asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// Table of the profile: `hugepages`, `irqs`, ...
    pub area: &'static str,
    /// What is set, in words.
    pub what: String,
    /// What is there now; `None`: nothing, or not known.
    pub current: Option<String>,
    /// What shall be.
    pub wanted: String,
    /// Why.
    pub why: &'static str,
    /// What is to be done.
    pub state: State,
    /// What is turned, and the whole value; `None` where nothing can be.
    #[serde(skip)]
    pub change: Option<Change>,
}

/// A value for a knob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What is turned.
    pub knob: Knob,
    /// To what.
    pub value: String,
}

/// What is to be done for an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "note")]
pub enum State {
    /// It is so already.
    Done,
    /// It is set, and holds at once.
    Change,
    /// It is written, and holds when somebody starts again: who.
    ChangeForNextStart(&'static str),
    /// It holds only while the agent runs.
    WhileAgentRuns,
    /// The kernel has to be started with it.
    NeedsReboot,
    /// The machine does not have it: why.
    NotApplicable(String),
}

/// What a profile asks for that this node can't or shall not do; nothing of it is done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refused(pub Vec<Refusal>);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, refusal) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{refusal}")?;
        }
        Ok(())
    }
}

impl Plan {
    /// The changes, in order; empty when everything that can be is as the profile wants it.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        let due = |item: &&Item| matches!(item.state, State::Change | State::ChangeForNextStart(_));
        self.items.iter().filter(due).filter_map(|item| item.change.as_ref())
    }
}

/// Files beside [`crate::tree::PATTERNS`] that a plan for `profile` looks at.
#[must_use]
pub fn files(profile: &NodeProfile) -> Vec<String> {
    let sysctls = profile.sysctls.keys().map(|name| crate::node::sysctl_file(name));
    let hand = &profile.handover;
    let drop_in = hand.kubelet_directory.join(handover::KUBELET_FILE);
    let named = [&hand.vrouter_file, &hand.nri_file, &drop_in].map(|path| {
        let path = path.to_string_lossy();
        path.trim_start_matches('/').to_owned()
    });
    let directory = hand.kubelet_directory.to_string_lossy();
    let directory = format!("{}?", directory.trim_start_matches('/'));
    let states = handover::KUBELET_STATES.iter().map(|file| format!("{file}?"));
    let states = states.filter(|_| hand.kubelet);
    sysctls.chain(named).chain([directory]).chain(states).collect()
}

/// What `profile` makes of `node`, which was made from `observed`. `unwritable`: knobs that the kernel has refused to
/// turn, and why.
///
/// # Errors
/// [`Refused`] with everything that can't be or is not safe.
pub fn plan(
    observed: &Observed,
    node: &Node,
    profile: &NodeProfile,
    unwritable: &BTreeMap<Knob, String>,
) -> Result<Plan, Refused> {
    let cpus = cpus::divide(node, &profile.cpus).map_err(Refused)?;
    let mut planner = Planner {
        observed,
        node,
        profile,
        unwritable,
        cpus,
        items: Vec::new(),
        rings: Vec::new(),
        notes: Vec::new(),
        refusals: Vec::new(),
    };
    planner.check_data_cpus();
    planner.memory();
    planner.hugepages();
    planner.sysctls();
    planner.nics();
    planner.irqs();
    planner.steering();
    planner.power();
    planner.handover();
    let boot = planner.boot();
    let Planner { cpus, items, rings, notes, refusals, .. } = planner;
    if !refusals.is_empty() {
        return Err(Refused(refusals));
    }
    let max_latency_us = profile.power.max_latency_us.filter(|_| node.power.latency_limit);
    Ok(Plan { profile: profile.name.clone(), cpus, items, boot, max_latency_us, rings, notes })
}

struct Planner<'a> {
    observed: &'a Observed,
    node: &'a Node,
    profile: &'a NodeProfile,
    unwritable: &'a BTreeMap<Knob, String>,
    cpus: Division,
    items: Vec<Item>,
    rings: Vec<Span>,
    notes: Vec<String>,
    refusals: Vec<Refusal>,
}

impl Planner<'_> {
    fn refuse(
        &mut self,
        field: impl Into<String>,
        value: impl std::fmt::Display,
        remedy: impl Into<String>,
    ) {
        self.refusals.push(Refusal::new(field, value, remedy));
    }

    fn not_applicable(
        &mut self,
        area: &'static str,
        what: impl Into<String>,
        wanted: impl Into<String>,
        why: &'static str,
        reason: impl Into<String>,
    ) {
        self.items.push(Item {
            area,
            what: what.into(),
            current: None,
            wanted: wanted.into(),
            why,
            state: State::NotApplicable(reason.into()),
            change: None,
        });
    }

    /// A knob whose value now is `current`.
    fn turn(
        &mut self,
        area: &'static str,
        knob: Knob,
        current: String,
        wanted: String,
        why: &'static str,
    ) {
        let state = match self.unwritable.get(&knob) {
            _ if current == wanted => State::Done,
            Some(reason) => State::NotApplicable(reason.clone()),
            None => State::Change,
        };
        self.items.push(Item {
            area,
            what: knob.to_string(),
            current: Some(current),
            wanted: wanted.clone(),
            why,
            state,
            change: Some(Change { knob, value: wanted }),
        });
    }

    /// A file of the kernel.
    fn attribute(
        &mut self,
        area: &'static str,
        path: &str,
        form: Form,
        wanted: &str,
        why: &'static str,
    ) {
        let wanted = form.normalise(wanted);
        match self.observed.tree.text(path) {
            Some(text) => {
                let current = form.normalise(text);
                self.turn(area, Knob::attribute(path, form), current, wanted, why);
            }
            None => {
                let reason = "this kernel or machine does not have it";
                self.not_applicable(area, format!("/{path}"), wanted, why, reason);
            }
        }
    }

    /// What keeps something off data CPUs needs CPUs that are none.
    fn check_data_cpus(&mut self) {
        let profile = self.profile;
        let reserved = Some(ringway_config::Spread::Reserved);
        let need = [
            ("irqs.keep_off_data_cpus", profile.irqs.keep_off_data_cpus),
            ("irqs.workqueues_off_data_cpus", profile.irqs.workqueues_off_data_cpus),
            ("steering.rps", profile.steering.rps == reserved),
            ("steering.xps", profile.steering.xps == reserved),
            ("kernel.isolate", profile.kernel.isolate.is_some()),
            ("kernel.nohz_full", profile.kernel.nohz_full),
            ("kernel.rcu_nocbs", profile.kernel.rcu_nocbs),
            ("kernel.irqaffinity", profile.kernel.irqaffinity),
            ("handover.kubelet", profile.handover.kubelet),
        ];
        if self.cpus.reserved.is_empty() {
            for (field, _) in need.into_iter().filter(|(_, set)| *set) {
                let remedy = "needs CPUs for the system; set cpus.reserved_cores to 1 or more";
                self.refuse(field, "set", remedy);
            }
        }
        if self.cpus.pods.is_empty() {
            self.notes.push(
                "no CPU is left for pods that want their own; lower cpus.vrouter_cores if there are to be such"
                    .to_owned(),
            );
        }
    }

    fn memory(&mut self) {
        let rules = &self.profile.memory;
        let folder = "sys/kernel/mm/transparent_hugepage";
        if let Some(choice) = &rules.transparent_hugepages {
            let why = "khugepaged and compaction stop whoever uses the memory they work on";
            self.attribute("memory", &format!("{folder}/enabled"), Form::Choice, choice, why);
        }
        if let Some(choice) = &rules.transparent_hugepages_defrag {
            let why = "a page fault shall not wait for compaction";
            self.attribute("memory", &format!("{folder}/defrag"), Form::Choice, choice, why);
        }
        if let Some(on) = rules.numa_balancing {
            let why =
                "NUMA balancing unmaps pages to see who uses them; data paths have theirs in place";
            let wanted = if on { "1" } else { "0" };
            self.attribute("memory", "proc/sys/kernel/numa_balancing", Form::Words, wanted, why);
        }
    }

    fn sysctls(&mut self) {
        for (name, value) in &self.profile.sysctls {
            let path = crate::node::sysctl_file(name);
            let why = "the profile says so";
            self.attribute("sysctls", &path, Form::Words, &value.to_string(), why);
        }
    }

    fn power_cpus(&self) -> CpuSet {
        match self.profile.power.cpus {
            PowerCpus::All => self.node.cpu.online.clone(),
            PowerCpus::Data => self.cpus.data(),
            PowerCpus::Vrouter => self.cpus.vrouter.clone(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
