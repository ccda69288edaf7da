//! Frequencies and idle states.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Files, NodeError};
use crate::cpuset::CpuSet;

/// Frequencies and idle states of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Power {
    /// Whether frequencies above the nominal one are used; `None`: can't be set here.
    pub turbo: Option<bool>,
    /// Driver of the idle states.
    pub idle_driver: Option<String>,
    /// Who chooses among them.
    pub idle_governor: Option<String>,
    /// Whether a limit on waking up can be held (`/dev/cpu_dma_latency`).
    pub latency_limit: bool,
    /// By CPU; without any where the kernel sets no frequencies, as in most virtual machines.
    pub frequencies: BTreeMap<u32, CpuPower>,
    /// Idle states by CPU, the lightest first.
    pub idle_states: BTreeMap<u32, Vec<IdleState>>,
}

/// Frequencies of one CPU, kHz.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuPower {
    /// cpufreq driver: `intel_pstate`, `amd-pstate-epp`, `acpi-cpufreq`, ...
    pub driver: String,
    /// Who chooses.
    pub governor: String,
    /// Who could.
    pub governors: Vec<String>,
    /// Least that may be chosen.
    pub min: u64,
    /// Greatest that may be chosen.
    pub max: u64,
    /// The hardware's least.
    pub hardware_min: u64,
    /// The hardware's greatest.
    pub hardware_max: u64,
    /// Energy performance preference.
    pub energy: Option<String>,
    /// Those that there are.
    pub energies: Vec<String>,
}

/// One idle state of a CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleState {
    /// Number in sysfs.
    pub index: u32,
    /// `POLL`, `C1`, `C6`.
    pub name: String,
    /// Time to leave it, µs.
    pub exit_us: u32,
    /// Whether it is switched off.
    pub disabled: bool,
}

/// Turbo's file, and whether a 1 there means that it is off.
pub(crate) const TURBO_FILES: [(&str, bool); 2] = [
    ("sys/devices/system/cpu/intel_pstate/no_turbo", true),
    ("sys/devices/system/cpu/cpufreq/boost", false),
];

pub(super) fn parse(files: Files<'_>, online: &CpuSet) -> Result<Power, NodeError> {
    let cpu = "sys/devices/system/cpu";
    let turbo = TURBO_FILES.into_iter().find_map(|(file, inverse)| {
        let text = files.text(file)?;
        Some((text == "1") != inverse)
    });
    let governor = files.owned(&format!("{cpu}/cpuidle/current_governor"));
    let (mut frequencies, mut idle_states) = (BTreeMap::new(), BTreeMap::new());
    for id in online.iter() {
        let folder = format!("{cpu}/cpu{id}/cpufreq");
        let file = |name: &str| format!("{folder}/{name}");
        if let Some(driver) = files.owned(&file("scaling_driver")) {
            let number = |name: &str| files.number(&file(name)).map(|n| n.unwrap_or(0));
            let power = CpuPower {
                driver,
                governor: files.owned(&file("scaling_governor")).unwrap_or_default(),
                governors: files.words(&file("scaling_available_governors")),
                min: number("scaling_min_freq")?,
                max: number("scaling_max_freq")?,
                hardware_min: number("cpuinfo_min_freq")?,
                hardware_max: number("cpuinfo_max_freq")?,
                energy: files.owned(&file("energy_performance_preference")),
                energies: files.words(&file("energy_performance_available_preferences")),
            };
            frequencies.insert(id, power);
        }
        let folder = format!("{cpu}/cpu{id}/cpuidle");
        let mut states = Vec::new();
        for index in files.0.numbered(&folder, "state") {
            let file = |name: &str| format!("{folder}/state{index}/{name}");
            states.push(IdleState {
                index,
                name: files.owned(&file("name")).unwrap_or_default(),
                exit_us: files.number(&file("latency"))?.unwrap_or(0),
                disabled: files.text(&file("disable")).is_some_and(|text| text != "0"),
            });
        }
        if !states.is_empty() {
            idle_states.insert(id, states);
        }
    }
    Ok(Power {
        turbo,
        idle_driver: files.owned(&format!("{cpu}/cpuidle/current_driver")),
        idle_governor: governor
            .or_else(|| files.owned(&format!("{cpu}/cpuidle/current_governor_ro"))),
        latency_limit: files.0.has("dev/cpu_dma_latency"),
        frequencies,
        idle_states,
    })
}
