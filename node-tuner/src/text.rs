//! What people and programs read: reports, plans and outcomes, as tables or JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use node_tuner_core::cpuset::CpuSet;
use node_tuner_core::engine::Outcome;
use node_tuner_core::journal::Journal;
use node_tuner_core::node::{BootLoader, CoreKind, Nic, Node};
use node_tuner_core::plan::{Item, Plan, State};
use serde::Serialize;

/// The node, and what was made of it.
#[derive(Serialize)]
struct Report<'a> {
    node: &'a Node,
    tuning: Tuning<'a>,
}

#[derive(Serialize)]
struct Tuning<'a> {
    /// The profile that was applied last; empty: none.
    profile: &'a str,
    /// Values that are other than they were at first.
    changed: usize,
    /// Whether a run was cut off.
    interrupted: bool,
}

pub fn report(node: &Node, journal: &Journal, json: bool) -> Result<String> {
    let tuning = Tuning {
        profile: journal.profile(),
        changed: journal.turned().len(),
        interrupted: journal.is_open(),
    };
    if json {
        return Ok(serde_json::to_string_pretty(&Report { node, tuning })? + "\n");
    }
    let mut out = String::new();
    let mut line = |key: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{:<12} {}", key, plain(&value));
    };
    let cpu = &node.cpu;
    let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
    line("processor", format!("{} ({})", known(&cpu.model), known(&cpu.vendor)));
    let slow = cpu.cores.iter().filter(|core| core.kind == CoreKind::Slow).count();
    let kinds = if slow > 0 { format!(", {slow} of them slow") } else { String::new() };
    line(
        "topology",
        format!(
            "{} sockets, {} dies, {} cores{kinds}, CPUs {}, SMT {}",
            cpu.sockets,
            cpu.dies,
            cpu.cores.len(),
            cpu.online,
            if cpu.smt { "on" } else { "off" }
        ),
    );
    for numa in &node.numa {
        let cpus =
            if numa.cpus.is_empty() { "no CPUs".to_owned() } else { format!("CPUs {}", numa.cpus) };
        let memory = numa.memory.map_or("?".to_owned(), mib);
        let free = numa.memory_free.map_or("?".to_owned(), mib);
        let pools = numa.hugepages.iter().map(|(size, pool)| {
            format!("{} of {} {} pages free", pool.free, pool.total, ringway_config::Bytes(*size))
        });
        let pools: Vec<String> = pools.collect();
        let pools = if pools.is_empty() { "no hugepages".to_owned() } else { pools.join(", ") };
        let key = format!("NUMA {}", numa.id);
        line(&key, format!("{cpus}, {memory} ({free} free), {pools}"));
    }
    for nic in &node.nics {
        line(nic.name.as_deref().unwrap_or("card"), card(nic));
    }
    let kernel = &node.kernel;
    line("kernel", known(&kernel.version));
    line("command line", kernel.command_line.join(" "));
    let set = |cpus: &CpuSet| {
        if cpus.is_empty() { "none".to_owned() } else { cpus.to_string() }
    };
    line(
        "kept free",
        format!(
            "isolated {}, nohz_full {}, rcu_nocbs {}",
            set(&kernel.isolated),
            set(&kernel.nohz_full),
            set(&kernel.rcu_nocbs)
        ),
    );
    let loader = match &kernel.boot_loader {
        BootLoader::Grub { .. } => "GRUB",
        BootLoader::SystemdBoot { .. } => "systemd-boot",
        BootLoader::Unknown => "unknown boot loader",
    };
    let cgroups = kernel.cgroup_version.map_or("?".to_owned(), |version| version.to_string());
    line("system", format!("IOMMU {}, cgroup version {cgroups}, {loader}", kernel.iommu));
    for text in frequencies(node) {
        line("frequencies", text);
    }
    for text in idle(node) {
        line("idle", text);
    }
    let memory = &node.memory;
    line(
        "memory",
        format!(
            "transparent hugepages {}, defrag {}, NUMA balancing {}",
            known(&memory.transparent_hugepages),
            known(&memory.transparent_hugepages_defrag),
            known(&memory.numa_balancing)
        ),
    );
    let sysctls = node.sysctls.iter().map(|(name, value)| format!("{name}={value}"));
    line("sysctls", sysctls.collect::<Vec<_>>().join(" "));
    let services = &node.services;
    let runtimes: Vec<String> = services.runtimes.iter().map(|it| format!("{it:?}")).collect();
    let runtimes = if runtimes.is_empty() { "no runtime".to_owned() } else { runtimes.join(", ") };
    line("containers", format!("{runtimes}, NRI {}", if services.nri { "on" } else { "off" }));
    if services.vrouters.is_empty() {
        line("vRouter", "none answers".to_owned());
    }
    for vrouter in &services.vrouters {
        let most = vrouter.ports_max.map_or("?".to_owned(), |most| most.to_string());
        line(
            "vRouter",
            format!(
                "{} {} at {}, workers on {:?} ({}), {} of {most} ports",
                vrouter.mode,
                vrouter.version,
                vrouter.socket,
                vrouter.workers,
                vrouter.worker_mode,
                vrouter.ports
            ),
        );
    }
    let profile = if tuning.profile.is_empty() { "none" } else { tuning.profile };
    let cut = if tuning.interrupted { ", CUT OFF: run apply or revert" } else { "" };
    line("profile", format!("{profile}, {} values changed{cut}", tuning.changed));
    Ok(out)
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn card(nic: &Nic) -> String {
    let mut parts = Vec::new();
    parts.push(nic.driver.clone().unwrap_or_else(|| "no driver".to_owned()));
    parts.extend(nic.pci.clone());
    parts.extend(nic.numa.map(|numa| format!("NUMA {numa}")));
    parts.extend(nic.state.clone());
    parts.extend(nic.speed.map(|speed| format!("{speed} Mbit/s")));
    if let Some(queues) = nic.ethtool.queues {
        let (now, most) = if queues.combined_max > 0 {
            (queues.combined, queues.combined_max)
        } else {
            (queues.rx, queues.rx_max)
        };
        parts.push(format!("{now}/{most} queues"));
    }
    if let Some(rings) = nic.ethtool.rings {
        parts.push(format!(
            "rings rx {}/{} tx {}/{}",
            rings.rx, rings.rx_max, rings.tx, rings.tx_max
        ));
    }
    parts
        .extend(nic.virtual_functions_max.map(|most| {
            format!("{}/{most} virtual functions", nic.virtual_functions.unwrap_or(0))
        }));
    parts.extend(nic.ethtool.firmware.as_ref().map(|version| format!("firmware {version}")));
    parts.join(", ")
}

/// What is said of CPUs, once for those of which the same is said.
fn by_cpus(said: impl Iterator<Item = (u32, String)>) -> Vec<String> {
    let mut groups: Vec<(String, Vec<u32>)> = Vec::new();
    for (cpu, text) in said {
        match groups.iter_mut().find(|(other, _)| *other == text) {
            Some((_, cpus)) => cpus.push(cpu),
            None => groups.push((text, vec![cpu])),
        }
    }
    let line = |(text, cpus): (String, Vec<u32>)| {
        format!("CPUs {}: {text}", cpus.into_iter().collect::<CpuSet>())
    };
    groups.into_iter().map(line).collect()
}

fn frequencies(node: &Node) -> Vec<String> {
    let power = &node.power;
    if power.frequencies.is_empty() {
        return vec!["not set by this kernel".to_owned()];
    }
    let said = power.frequencies.iter().map(|(cpu, it)| {
        let energy = it.energy.as_ref().map(|it| format!(", preference {it}")).unwrap_or_default();
        let (min, max) = (it.min / 1000, it.max / 1000);
        (*cpu, format!("{}, {}, {min} to {max} MHz{energy}", it.driver, it.governor))
    });
    let mut lines = by_cpus(said);
    lines.push(match power.turbo {
        Some(true) => "turbo on".to_owned(),
        Some(false) => "turbo off".to_owned(),
        None => "turbo can't be set".to_owned(),
    });
    lines
}

fn idle(node: &Node) -> Vec<String> {
    let driver = node.power.idle_driver.clone().unwrap_or_else(|| "no driver".to_owned());
    let state = |state: &node_tuner_core::node::IdleState| {
        let off = if state.disabled { " off" } else { "" };
        format!("{} {} µs{off}", state.name, state.exit_us)
    };
    let said = node.power.idle_states.iter().map(|(cpu, states)| {
        (*cpu, format!("{driver}, {}", states.iter().map(state).collect::<Vec<_>>().join(", ")))
    });
    let lines = by_cpus(said);
    if lines.is_empty() { vec!["no states".to_owned()] } else { lines }
}

/// Items that say the same of several CPUs, queues or interrupts.
struct Group<'a> {
    first: &'a Item,
    what: String,
    count: usize,
}

pub fn plan(plan: &Plan, json: bool, all: bool) -> Result<String> {
    if json {
        return Ok(serde_json::to_string_pretty(plan)? + "\n");
    }
    let mut out = String::new();
    let set = |cpus: &CpuSet| {
        if cpus.is_empty() { "none".to_owned() } else { cpus.to_string() }
    };
    let _ = writeln!(
        out,
        "profile {}: CPUs reserved {}, vRouter {}, pods {}\n",
        plan.profile,
        set(&plan.cpus.reserved),
        set(&plan.cpus.vrouter),
        set(&plan.cpus.pods)
    );
    section(&mut out, plan, "to change now", |state| *state == State::Change);
    section(&mut out, plan, "to write, for the next start of a daemon", |state| {
        matches!(state, State::ChangeForNextStart(_))
    });
    section(&mut out, plan, "while ringway-tuner run runs", |state| {
        *state == State::WhileAgentRuns
    });
    section(&mut out, plan, "needs a reboot, and a change by hand", |state| {
        *state == State::NeedsReboot
    });
    if let Some(boot) = &plan.boot {
        let place = if boot.file.is_empty() {
            "No boot loader was found; append to the kernel's command line:".to_owned()
        } else {
            format!("In {}:", boot.file)
        };
        let _ = writeln!(out, "{place}\n  {}", boot.line);
        if !boot.command.is_empty() {
            let _ = writeln!(out, "then run {}, and reboot", boot.command);
        }
        out.push('\n');
    }
    section(&mut out, plan, "not applicable", |state| matches!(state, State::NotApplicable(_)));
    if all {
        section(&mut out, plan, "as it should be", |state| *state == State::Done);
    }
    for note in &plan.notes {
        let _ = writeln!(out, "note: {}", plain(note));
    }
    let changes = plan.changes().count();
    let done = plan.items.iter().filter(|item| item.state == State::Done).count();
    let _ = writeln!(out, "{changes} values to change, {done} as they should be");
    Ok(out)
}

fn section(out: &mut String, plan: &Plan, title: &str, wanted: impl Fn(&State) -> bool) {
    let groups = groups(plan.items.iter().filter(|item| wanted(&item.state)));
    if groups.is_empty() {
        return;
    }
    let _ = writeln!(out, "{title}:");
    let mut last_why = "";
    for group in groups {
        let Item { area, current, wanted, why, state, .. } = group.first;
        if *why != last_why {
            let _ = writeln!(out, "  [{area}] {why}");
            last_why = why;
        }
        let times =
            if group.count > 1 { format!(" ({} times)", group.count) } else { String::new() };
        let value = |text: &str| if text.is_empty() { "none".to_owned() } else { plain(text) };
        let current = current.as_deref().map_or("-".to_owned(), value);
        let note = match state {
            State::NotApplicable(why) => format!("  ({})", plain(why)),
            State::ChangeForNextStart(who) => format!("  (read by {who} when it starts)"),
            _ => String::new(),
        };
        let _ = writeln!(
            out,
            "    {}{times}: {current} -> {}{note}",
            plain(&group.what),
            value(wanted)
        );
    }
    out.push('\n');
}

fn groups<'a>(items: impl Iterator<Item = &'a Item>) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut index: BTreeMap<(String, Option<&str>, &str, String), usize> = BTreeMap::new();
    for item in items {
        let what = without_numbers(&item.what);
        let state = format!("{:?}", item.state);
        let key = (what.clone(), item.current.as_deref(), item.wanted.as_str(), state);
        match index.get(&key).and_then(|at| groups.get_mut(*at)) {
            Some(group) => {
                group.count += 1;
                group.what.clone_from(&what);
            }
            None => {
                index.insert(key, groups.len());
                groups.push(Group { first: item, what: item.what.clone(), count: 1 });
            }
        }
    }
    // What belongs together stands together.
    let rank: BTreeMap<&str, usize> =
        groups.iter().enumerate().rev().map(|(at, group)| (group.first.why, at)).collect();
    groups.sort_by_key(|group| rank.get(group.first.why).copied());
    groups
}

/// `*` for the numbers of CPUs, interrupts and queues.
fn without_numbers(what: &str) -> String {
    let mut parts = what.split('/').map(str::to_owned).collect::<Vec<_>>();
    let mut last = String::new();
    for part in &mut parts {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        for prefix in ["cpu", "rx-", "tx-"] {
            if part.strip_prefix(prefix).is_some_and(digits) {
                *part = format!("{prefix}*");
            }
        }
        if last == "irq" && digits(part) {
            *part = "*".to_owned();
        }
        last.clone_from(part);
    }
    parts.join("/")
}

pub fn applied(plan: &Plan, outcome: &Outcome) -> String {
    let mut out = String::new();
    for (knob, why) in &outcome.unwritable {
        let _ = writeln!(out, "not applicable: {knob}: {why}");
    }
    for knob in &outcome.gone {
        let _ = writeln!(out, "gone: {knob}");
    }
    for (knob, fault) in &outcome.left {
        let _ = writeln!(out, "could not be turned back: {knob}: {fault}");
    }
    if outcome.failed.is_none() {
        let _ = writeln!(
            out,
            "profile {}: {} values changed and read back",
            plan.profile,
            outcome.turned.len()
        );
        let reboot = plan.items.iter().filter(|item| item.state == State::NeedsReboot).count();
        if reboot > 0 {
            let _ = writeln!(
                out,
                "{reboot} kernel arguments need a reboot and a change by hand; `ringway-tuner plan` has the line"
            );
        }
        if plan.max_latency_us.is_some() {
            let _ =
                writeln!(out, "the limit on waking up holds only while `ringway-tuner run` runs");
        }
    }
    out
}

pub fn reverted(outcome: &Outcome) -> String {
    let mut out = String::new();
    for knob in &outcome.gone {
        let _ = writeln!(out, "gone, nothing to do: {knob}");
    }
    for (knob, fault) in &outcome.left {
        let _ = writeln!(out, "left as it is: {knob}: {fault}");
    }
    let _ = writeln!(out, "{} values have what they had at first", outcome.turned.len());
    out
}

/// Text from elsewhere on one line, unable to move the cursor or colour the terminal.
fn plain(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::{plain, without_numbers};

    #[test]
    fn what_is_alike_is_one_line() {
        for (what, alike) in [
            (
                "/sys/devices/system/cpu/cpu12/cpufreq/scaling_governor",
                "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
            ),
            ("/proc/irq/120/smp_affinity_list", "/proc/irq/*/smp_affinity_list"),
            (
                "/sys/class/net/eth0/queues/rx-3/rps_cpus",
                "/sys/class/net/eth0/queues/rx-*/rps_cpus",
            ),
            ("/sys/devices/system/node/node0/x", "/sys/devices/system/node/node0/x"),
            ("eth0 rx ring", "eth0 rx ring"),
        ] {
            assert_eq!(without_numbers(what), alike);
        }
    }

    #[test]
    fn hostile_text_cannot_touch_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
    }
}
