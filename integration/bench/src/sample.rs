//! One measurement and everything that is known about it.

use serde::{Deserialize, Serialize};

use crate::cells::SwitchKind;
use crate::disturbance::Disturbance;
use crate::probe::Reference;
use crate::switch::Window;
use integration::memory::Resident;
use integration::pktgen::End;

/// What a sample is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The cell's question.
    Measure,
    /// The greatest rate, of which the cell's question takes a share.
    Maximum,
}

/// One measurement of one switch.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// From 1.
    pub round: u32,
    /// Name of the cell.
    pub cell: &'static str,
    /// Name of the subject.
    pub subject: &'static str,
    /// Its switch.
    pub switch: SwitchKind,
    /// What it is for.
    pub purpose: Purpose,
    /// From 1; more when the machine was not fit the times before.
    pub attempt: u32,
    /// Core-to-core latency right before and after, ns.
    pub probes_ns: [f64; 2],
    /// What was found out.
    #[serde(flatten)]
    pub reading: Reading,
    /// Why it fails its cell.
    pub faults: Vec<String>,
}

impl Sample {
    /// Why it says nothing about the switch, if so: the machine was in an unusual phase before or after it, its CPUs were not
    /// its own, or it was not measured at the rate that was asked for.
    pub fn spoiled(&self, reference: &Reference) -> Option<Spoiled> {
        if matches!(self.reading, Reading::Table(_)) {
            // It takes so long that a moment before and after says nothing of it, and what is asked depends on neither.
            return None;
        }
        if self.probes_ns.iter().any(|probe| reference.is_unusual(*probe)) {
            return Some(Spoiled::Phase);
        }
        match &self.reading {
            Reading::Traffic(it) if it.disturbance.is_too_much() => Some(Spoiled::Disturbed),
            Reading::Traffic(it) if it.generator.too_slow(it.rate_per_pod).is_some() => {
                Some(Spoiled::Rate)
            }
            Reading::Traffic(_) | Reading::Idle(_) | Reading::Table(_) => None,
        }
    }
}

/// Why a sample does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Spoiled {
    /// The host was in an unusual phase.
    Phase,
    /// Other programs or the host took the CPUs.
    Disturbed,
    /// The generator did not reach the rate it was to send at: the machine has become slower since that was chosen.
    Rate,
}

/// What a sample found out.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    /// With traffic.
    Traffic(Box<TrafficReading>),
    /// Without.
    Idle(IdleReading),
    /// With traffic, while a table fills.
    Table(Box<TableReading>),
}

/// A table that was filled under traffic.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TableReading {
    /// Routes.
    pub routes: u64,
    /// From the first one that was written to the kernel until the vRouter had the last.
    pub seconds: f64,
    /// From the last one that was written until then.
    pub seconds_behind: f64,
    /// Private memory that the vRouter has more, MiB.
    pub mib: f64,
    /// Packets per second each pod was to send.
    pub rate_per_pod: u64,
    /// What the generator saw, some time before and after included.
    pub generator: End,
    /// What the switch counted while the table filled.
    pub switch: Window,
}

/// A measurement with traffic.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrafficReading {
    /// Packets per second that reached a pod, both pods together.
    pub received_pps: f64,
    /// Packets per second each pod was to send; 0: as many as possible.
    pub rate_per_pod: u64,
    /// Flows from each pod.
    pub flows: u32,
    /// Destination addresses of the flows.
    pub addresses: u32,
    /// What the generator saw.
    pub generator: End,
    /// What the switch counted.
    pub switch: Window,
    /// What others took from both.
    pub disturbance: Disturbance,
}

/// A measurement without traffic.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct IdleReading {
    /// Attached pods.
    pub pods: u16,
    /// Length, seconds.
    pub seconds: f64,
    /// CPU time of the switch in that time, as a share of one CPU.
    pub cpu_share: f64,
    /// Memory before the pods came.
    pub before: Resident,
    /// Memory with them.
    pub with_pods: Resident,
}

impl IdleReading {
    /// Resident memory per pod, KiB, with the pages of the pods' own memory that the switch has touched.
    pub fn kib_per_pod(&self) -> f64 {
        self.per_pod(Resident::total)
    }

    /// Private memory per pod, KiB.
    pub fn own_kib_per_pod(&self) -> f64 {
        self.per_pod(|resident| resident.own)
    }

    fn per_pod(&self, of: impl Fn(&Resident) -> u64) -> f64 {
        (of(&self.with_pods) as f64 - of(&self.before) as f64) / f64::from(self.pods.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_came_with_the_pods() {
        let resident = |own, shared| Resident { own, file: 1000, shared };
        let it = IdleReading {
            pods: 10,
            seconds: 1.0,
            cpu_share: 0.0,
            before: resident(100, 0),
            with_pods: resident(600, 120),
        };
        assert_eq!((it.own_kib_per_pod(), it.kib_per_pod()), (50.0, 62.0));
    }
}
