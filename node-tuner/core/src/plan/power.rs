//! Frequencies and idle states.

use super::{Item, Planner, State};
use crate::knob::Form;
use crate::node::CpuPower;

const CPU: &str = "sys/devices/system/cpu";

impl Planner<'_> {
    pub(super) fn power(&mut self) {
        let rules = &self.profile.power;
        self.turbo();
        let frequencies = rules.governor.is_some()
            || rules.energy_preference.is_some()
            || rules.min_frequency_percent.is_some()
            || rules.max_frequency_percent.is_some();
        if frequencies && self.node.power.frequencies.is_empty() {
            let reason = "the kernel sets no frequencies here (no cpufreq driver), as in most virtual machines";
            let wanted = rules.governor.clone().unwrap_or_else(|| "limits".to_owned());
            let why = "the profile says so";
            self.not_applicable("power", "frequencies of CPUs", wanted, why, reason);
        }
        for cpu in self.power_cpus().iter() {
            if let Some(power) = self.node.power.frequencies.get(&cpu) {
                self.frequencies(cpu, power);
            }
        }
        self.idle_states();
        self.latency();
    }

    fn turbo(&mut self) {
        let Some(on) = self.profile.power.turbo else { return };
        let why = if on { "short bursts of work end sooner" } else { "it costs the most power" };
        let files = crate::node::TURBO_FILES.into_iter();
        let mut files = files.filter(|(file, _)| self.observed.tree.text(file).is_some());
        match files.next() {
            Some((file, inverse)) => {
                let wanted = if on != inverse { "1" } else { "0" };
                self.attribute("power", file, Form::Words, wanted, why);
            }
            None => {
                let reason =
                    "nothing here switches it (no intel_pstate/no_turbo, no cpufreq/boost)";
                let wanted = if on { "on" } else { "off" };
                self.not_applicable("power", "turbo", wanted, why, reason);
            }
        }
    }

    fn frequencies(&mut self, cpu: u32, power: &CpuPower) {
        let performance = self.profile.power.governor.as_deref() == Some("performance");
        // With this governor intel_pstate refuses every preference but its own, so that comes before it; others take
        // one only after it.
        if performance {
            self.energy(cpu, power);
            self.governor(cpu, power);
        } else {
            self.governor(cpu, power);
            self.energy(cpu, power);
        }
        self.limits(cpu, power);
    }

    fn governor(&mut self, cpu: u32, power: &CpuPower) {
        let Some(wanted) = &self.profile.power.governor else { return };
        let path = format!("{CPU}/cpu{cpu}/cpufreq/scaling_governor");
        let why = "who chooses a CPU's frequency";
        if power.governors.iter().any(|governor| governor == wanted) {
            return self.attribute("power", &path, Form::Words, wanted, why);
        }
        let reason = format!("{} offers {}", power.driver, power.governors.join(", "));
        self.not_applicable("power", format!("/{path}"), wanted.clone(), why, reason);
    }

    fn energy(&mut self, cpu: u32, power: &CpuPower) {
        let Some(wanted) = &self.profile.power.energy_preference else { return };
        let path = format!("{CPU}/cpu{cpu}/cpufreq/energy_performance_preference");
        let why = "what the hardware prefers when it chooses";
        let governor = self.profile.power.governor.as_ref().unwrap_or(&power.governor);
        if power.energies.is_empty() {
            let reason = format!("{} has no preferences", power.driver);
            return self.not_applicable("power", format!("/{path}"), wanted.clone(), why, reason);
        }
        if !power.energies.contains(wanted) {
            let reason = format!("{} offers {}", power.driver, power.energies.join(", "));
            return self.not_applicable("power", format!("/{path}"), wanted.clone(), why, reason);
        }
        if governor == "performance" && wanted != "performance" {
            let remedy = format!(
                "{} takes no preference but \"performance\" with the governor performance; change one of the two",
                power.driver
            );
            if !self.refusals.iter().any(|refusal| refusal.field == "power.energy_preference") {
                self.refuse("power.energy_preference", wanted, remedy);
            }
            return;
        }
        self.attribute("power", &path, Form::Words, wanted, why);
    }

    /// The kernel wants least <= greatest at all times: what makes room comes first.
    fn limits(&mut self, cpu: u32, power: &CpuPower) {
        let share = |percent: u32| {
            let frequency = power.hardware_max / 100 * u64::from(percent);
            frequency.clamp(power.hardware_min, power.hardware_max)
        };
        // 100 % is the greatest itself, whatever division does.
        let of = |percent: u32| if percent >= 100 { power.hardware_max } else { share(percent) };
        let rules = &self.profile.power;
        let least = rules.min_frequency_percent.map(of);
        let most = rules.max_frequency_percent.map(of);
        let path = |name: &str| format!("{CPU}/cpu{cpu}/cpufreq/{name}");
        let why = "frequencies are chosen within these limits";
        let least = least.map(|khz| (path("scaling_min_freq"), khz));
        let most = most.map(|khz| (path("scaling_max_freq"), khz));
        let rises = most.as_ref().is_some_and(|(_, khz)| *khz >= power.max);
        let order = if rises { [most, least] } else { [least, most] };
        for (path, khz) in order.into_iter().flatten() {
            self.attribute("power", &path, Form::Words, &khz.to_string(), why);
        }
    }

    fn idle_states(&mut self) {
        let node = self.node;
        let Some(limit) = self.profile.power.max_idle_exit_us else { return };
        let why = "leaving a deep idle state takes long";
        if node.power.idle_states.is_empty() {
            let reason = "the kernel has no idle states here (no cpuidle driver)";
            let wanted = format!("at most {limit} µs to leave");
            return self.not_applicable("power", "idle states of CPUs", wanted, why, reason);
        }
        for cpu in self.power_cpus().iter() {
            for state in node.power.idle_states.get(&cpu).into_iter().flatten() {
                if state.exit_us > limit {
                    let path = format!("{CPU}/cpu{cpu}/cpuidle/state{}/disable", state.index);
                    self.attribute("power", &path, Form::Words, "1", why);
                }
            }
        }
    }

    fn latency(&mut self) {
        let Some(limit) = self.profile.power.max_latency_us else { return };
        let why = "a limit on waking up, for all CPUs (PM QoS)";
        let wanted = format!("{limit} µs");
        if !self.node.power.latency_limit {
            let reason = "the kernel does not have it";
            return self.not_applicable("power", "/dev/cpu_dma_latency", wanted, why, reason);
        }
        self.items.push(Item {
            area: "power",
            what: "/dev/cpu_dma_latency".to_owned(),
            current: None,
            wanted,
            why,
            state: State::WhileAgentRuns,
            change: None,
        });
    }
}
