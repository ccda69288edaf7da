//! `[agent]` of a node profile: how the agent goes on after a profile was applied.

use serde::{Deserialize, Serialize};

/// `[agent]`: how `ringway-tuner run` behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct AgentRules {
    /// How often the node is looked at, s.
    pub interval_s: u32,
    /// A value that somebody else changed is set again at most this often ...
    pub repairs: u32,
    /// ... within this time, s; then it is left alone and reported, as two that fight help nobody.
    pub repair_window_s: u32,
    /// How many workers the vRouter has.
    pub workers: WorkerRules,
    /// How it resizes receive rings that may grow.
    pub rings: RingRules,
}

/// `[agent.rings]`: receive rings that have an `rx_ring_max` follow what their cards drop. Most drivers start their queues anew for
/// another size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RingRules {
    /// Twice the size, when so many packets found no free descriptor between two looks.
    pub grow_above_drops: u32,
    /// A ring is left alone for this long after a change, s.
    pub settle_s: u32,
    /// Half the size, when nothing was dropped for this long, s.
    pub shrink_after_s: u32,
}

impl Default for RingRules {
    fn default() -> Self {
        Self { grow_above_drops: 10, settle_s: 60, shrink_after_s: 21_600 }
    }
}

impl Default for AgentRules {
    fn default() -> Self {
        Self {
            interval_s: 10,
            repairs: 3,
            repair_window_s: 600,
            workers: WorkerRules::default(),
            rings: RingRules::default(),
        }
    }
}

/// `[agent.workers]`: how many workers the vRouter has, within its CPUs, and what they do when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct WorkerRules {
    /// Whether their number follows the load at all.
    pub adjust: bool,
    /// Least number.
    pub min: u32,
    /// Greatest number; 0: as many as the vRouter has CPUs.
    pub max: u32,
    /// One more, when those that run are on average busier than this, percent of their time ...
    pub grow_above_percent: u32,
    /// ... for this long, s.
    pub grow_after_s: u32,
    /// One fewer, when those that would be left would on average be less busy than this, percent ...
    pub shrink_below_percent: u32,
    /// ... for this long, s.
    pub shrink_after_s: u32,
    /// What workers do when there is nothing to do; none: that is left as it is.
    pub mode: Option<WorkerModeRule>,
    /// With `by-load`: they poll for ever when those that run are on average busier than this, percent of their time, and no more below half
    /// of it; 100: never ...
    pub poll_above_percent: u32,
    /// ... and sleep at once when they are less busy than this, percent, and no more from twice as much on; 0: never ...
    pub sleep_below_percent: u32,
    /// ... each for this long, s.
    pub mode_after_s: u32,
}

/// What a vRouter's workers do when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum WorkerModeRule {
    /// They go on polling for the vRouter's `workers.idle_spin_us`, then sleep.
    Adaptive,
    /// They poll for ever: no packet waits for a worker to wake.
    Poll,
    /// They sleep at once.
    Sleep,
    /// One of these, after their load.
    ByLoad,
}

impl Default for WorkerRules {
    fn default() -> Self {
        Self {
            adjust: false,
            min: 1,
            max: 0,
            grow_above_percent: 80,
            grow_after_s: 20,
            shrink_below_percent: 50,
            shrink_after_s: 120,
            mode: None,
            poll_above_percent: 60,
            sleep_below_percent: 5,
            mode_after_s: 30,
        }
    }
}
