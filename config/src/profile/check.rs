//! What of a profile can be on no node.

use super::{
    Count, CountRule, KubeletManagers, ManagerPolicy, NodeProfile, PROFILE_VERSION, SysctlValue,
};
use crate::Bytes;
use crate::check::{self, Problem};

impl NodeProfile {
    pub(super) fn check(&self) -> Result<(), Problem> {
        check::range("version", self.version, PROFILE_VERSION, PROFILE_VERSION)?;
        check::network_name("name", &self.name)?;
        check::range("limits.hugepage_percent", self.limits.hugepage_percent, 0, 90)?;
        for (index, rule) in self.hugepages.iter().enumerate() {
            let key = format!("hugepages[{index}].size");
            let Bytes(size) = rule.size;
            if !size.is_power_of_two() || !(1 << 16..=1 << 34).contains(&size) {
                let remedy = "must be a size that hugepages come in, as \"2Mi\" or \"1Gi\"";
                return Err(Problem::new(key, rule.size, remedy));
            }
            check::cpu_list(&format!("hugepages[{index}].nodes"), &rule.nodes)?;
        }
        self.check_memory_and_power()?;
        for (index, rule) in self.nics.iter().enumerate() {
            for (name, count) in [
                ("rx_ring", rule.rx_ring),
                ("rx_ring_max", rule.rx_ring_max),
                ("tx_ring", rule.tx_ring),
                ("queues", rule.queues),
            ] {
                let key = format!("nics[{index}].{name}");
                match count {
                    Some(Count::Exactly(count)) => check::range(&key, count, 1, 1 << 20)?,
                    Some(Count::Rule(CountRule::Reserved)) if name != "queues" => {
                        let remedy = "must be a number or \"max\"; only `queues` can follow CPUs";
                        return Err(Problem::new(key, "reserved", remedy));
                    }
                    _ => {}
                }
            }
            let key = format!("nics[{index}].rx_ring_max");
            match (rule.rx_ring, rule.rx_ring_max) {
                (None, Some(most)) => {
                    let remedy = "needs the least size beside it: set rx_ring";
                    return Err(Problem::new(key, most, remedy));
                }
                (Some(Count::Exactly(least)), Some(Count::Exactly(most))) if least > most => {
                    let remedy = format!("must not be below rx_ring, {least}");
                    return Err(Problem::new(key, most, remedy));
                }
                _ => {}
            }
        }
        for (name, value) in &self.sysctls {
            check_sysctl(name, value)?;
        }
        for (index, word) in self.kernel.extra.iter().enumerate() {
            let plain =
                word.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"'\\$`".contains(&byte));
            if word.is_empty() || !plain {
                let remedy = "must be one argument without blanks, quotes, `$` and `\\`";
                return Err(Problem::new(format!("kernel.extra[{index}]"), word, remedy));
            }
        }
        check::directory("handover.vrouter_file", &self.handover.vrouter_file)?;
        check::directory("handover.nri_file", &self.handover.nri_file)?;
        check::directory("handover.kubelet_directory", &self.handover.kubelet_directory)?;
        self.check_kubelet()?;
        self.check_agent()
    }

    fn check_kubelet(&self) -> Result<(), Problem> {
        let managers = self.handover.kubelet_managers;
        let key = "handover.kubelet_managers";
        if managers != KubeletManagers::default() && !self.handover.kubelet {
            return Err(Problem::new(key, "set", "needs the drop-in: set handover.kubelet"));
        }
        match (managers.memory, managers.reserved_memory) {
            (Some(ManagerPolicy::Static), None) => {
                let remedy = "needs reserved_memory, the sum of kubelet's kubeReserved, systemReserved and evictionHard";
                Err(Problem::new(format!("{key}.memory"), "static", remedy))
            }
            (None | Some(ManagerPolicy::None), Some(bytes)) => {
                let remedy =
                    "is for a static memory manager: leave it out, or set memory = \"static\"";
                Err(Problem::new(format!("{key}.reserved_memory"), bytes, remedy))
            }
            _ => Ok(()),
        }
    }

    fn check_memory_and_power(&self) -> Result<(), Problem> {
        let word = |key: &str, value: &Option<String>, known: &[&str]| match value {
            Some(value) if !known.contains(&value.as_str()) => {
                Err(Problem::new(key, value, format!("must be one of {}", known.join(", "))))
            }
            _ => Ok(()),
        };
        let memory = &self.memory;
        let key = "memory.transparent_hugepages";
        word(key, &memory.transparent_hugepages, &["always", "madvise", "never"])?;
        let known = ["always", "defer", "defer+madvise", "madvise", "never"];
        let key = "memory.transparent_hugepages_defrag";
        word(key, &memory.transparent_hugepages_defrag, &known)?;
        let power = &self.power;
        for (key, value) in [
            ("power.governor", &power.governor),
            ("power.energy_preference", &power.energy_preference),
        ] {
            let plain = |text: &String| {
                !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
            };
            if let Some(value) = value.as_ref().filter(|value| !plain(value)) {
                return Err(Problem::new(key, value, "must be one word, as \"performance\""));
            }
        }
        let least = power.min_frequency_percent;
        for (key, value) in [
            ("power.min_frequency_percent", least),
            ("power.max_frequency_percent", power.max_frequency_percent),
        ] {
            value.map_or(Ok(()), |value| check::range(key, value, 1, 100))?;
        }
        if let (Some(least), Some(most)) = (least, power.max_frequency_percent)
            && least > most
        {
            let remedy = format!("must not be above max_frequency_percent, {most}");
            return Err(Problem::new("power.min_frequency_percent", least, remedy));
        }
        let latency = power.max_latency_us;
        latency.map_or(Ok(()), |us| check::range("power.max_latency_us", us, 0, 1_000_000))
    }

    fn check_agent(&self) -> Result<(), Problem> {
        let agent = &self.agent;
        check::range("agent.interval_s", agent.interval_s, 1, 3600)?;
        check::range("agent.repairs", agent.repairs, 0, 1000)?;
        check::range("agent.repair_window_s", agent.repair_window_s, 1, 86_400)?;
        let rings = &agent.rings;
        check::range("agent.rings.grow_above_drops", rings.grow_above_drops, 1, 1_000_000_000)?;
        check::range("agent.rings.settle_s", rings.settle_s, 1, 86_400)?;
        check::range("agent.rings.shrink_after_s", rings.shrink_after_s, 1, 30 * 86_400)?;
        let workers = &agent.workers;
        check::range("agent.workers.min", workers.min, 1, 1024)?;
        check::range("agent.workers.max", workers.max, 0, 1024)?;
        if workers.max != 0 && workers.max < workers.min {
            let remedy = format!("must be 0 or at least `min`, {}", workers.min);
            return Err(Problem::new("agent.workers.max", workers.max, remedy));
        }
        let above = workers.grow_above_percent;
        check::range("agent.workers.grow_above_percent", above, 1, 100)?;
        // Otherwise one load would ask for one more and one fewer at once.
        let key = "agent.workers.shrink_below_percent";
        if workers.shrink_below_percent >= above {
            let remedy = format!("must be below grow_above_percent, {above}");
            return Err(Problem::new(key, workers.shrink_below_percent, remedy));
        }
        check::range("agent.workers.grow_after_s", workers.grow_after_s, 0, 3600)?;
        check::range("agent.workers.shrink_after_s", workers.shrink_after_s, 0, 86_400)?;
        let (poll, sleep) = (workers.poll_above_percent, workers.sleep_below_percent);
        check::range("agent.workers.poll_above_percent", poll, 1, 100)?;
        // Otherwise one mode would be left at a load at which the other is entered.
        if sleep > poll / 4 {
            let remedy = format!("must not be above a quarter of poll_above_percent, {poll}");
            return Err(Problem::new("agent.workers.sleep_below_percent", sleep, remedy));
        }
        check::range("agent.workers.mode_after_s", workers.mode_after_s, 0, 86_400)
    }
}

/// Only what tunes: nothing that names programs (`kernel.core_pattern`), and no way out of `/proc/sys`.
fn check_sysctl(name: &str, value: &SysctlValue) -> Result<(), Problem> {
    let key = format!("sysctls.{name}");
    let tuning =
        ["kernel.sched_", "kernel.timer_migration", "kernel.watchdog", "kernel.nmi_watchdog"];
    let tuning = tuning.iter().any(|start| name.starts_with(start))
        || name == "kernel.hung_task_timeout_secs"
        || name == "kernel.soft_watchdog"
        || name.starts_with("vm.")
        || name.starts_with("net.");
    let plain = name.split('.').all(|part| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    });
    if !tuning || !plain {
        let remedy = "is not for profiles: vm.*, net.*, kernel.sched_*, kernel.timer_migration and the kernel's \
                      watchdogs are";
        return Err(Problem::new(key, name, remedy));
    }
    if let "vm.nr_hugepages" | "vm.nr_hugepages_mempolicy" = name {
        return Err(Problem::new(
            key,
            value,
            "must be left out; use [[hugepages]], which knows nodes",
        ));
    }
    let text = value.to_string();
    if text.is_empty() || text.len() > 200 || text.chars().any(|c| c.is_control() && c != '\t') {
        return Err(Problem::new(key, text, "must be one line of at most 200 characters"));
    }
    Ok(())
}
