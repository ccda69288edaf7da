//! `NodeProfile`: what nodes of a kind shall be.

use std::collections::BTreeMap;

use kube::CustomResource;
use node_tuner_cluster::reconcile::Profile;
use node_tuner_cluster::select::Selector;
use ringway_config::ProfileParameters;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::conditions::Condition;

/// What nodes of a kind shall be.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, CustomResource,
)]
#[kube(
    group = "tuning.ringway.dev",
    version = "v1alpha1",
    kind = "NodeProfile",
    status = "NodeProfileStatus",
    derive = "PartialEq",
    shortname = "npf",
    category = "ringway",
    doc = "What nodes of a kind shall be: how Ringway's tuner sets them up.",
    printcolumn(name = "Priority", type_ = "integer", json_path = ".spec.priority"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.nodes"),
    printcolumn(name = "Done", type_ = "integer", json_path = ".status.done"),
    printcolumn(
        name = "State",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Complete')].reason"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeProfileSpec {
    /// For people.
    #[schemars(length(max = 1000))]
    pub description: String,
    /// Where several profiles are for a node, the greatest priority counts.
    pub priority: i32,
    /// Which nodes it is for; empty: all.
    pub selector: Selector,
    /// What it asks for, with the keys of a profile in a file.
    pub parameters: ProfileParameters,
    /// Parameters that depend on the node: `cpus.reserved_cores`, `cpus.vrouter_cores`, `agent.workers.max`, `hugepages.2Mi` and
    /// `hugepages.1Gi` (bytes on each NUMA node), each as a formula such as `memory / 2`, `min(cores / 8, 4)`, `25% memory - 4Gi`.
    /// Names: `memory`, `cores`, `cpus`, `nics` of a NUMA node, `nodes`, `total_memory` of the machine.
    #[schemars(extend("maxProperties" = 16))]
    pub formulas: BTreeMap<String, String>,
    /// Mode that the vRouter of these nodes shall run in: `dpdk` or `kernel`; none: any.
    #[schemars(regex(pattern = "^(dpdk|kernel)$"))]
    pub vrouter_mode: Option<String>,
    /// How it reaches the nodes.
    pub rollout: Rollout,
}

/// How a profile reaches its nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Rollout {
    /// Most nodes to be tuned at once. A node that fails stops the rest.
    #[schemars(range(min = 1, max = 10000))]
    pub max_concurrent: u32,
    /// Whether no further node is to be tuned.
    pub paused: bool,
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeProfileStatus {
    /// Of the profile that this is about.
    pub observed_generation: i64,
    /// Nodes it was chosen for.
    pub nodes: u32,
    /// Of those, done.
    pub done: u32,
    /// Nodes that are at it.
    pub underway: Vec<String>,
    /// Nodes that failed; they stop the rollout.
    pub failed: Vec<String>,
    /// Nodes where it can't be had.
    pub refused: Vec<String>,
    /// Nodes that somebody has to reboot for the rest.
    pub reboot_needed: Vec<String>,
    /// `Accepted`, `Complete`.
    #[schemars(schema_with = "crate::conditions::schema")]
    pub conditions: Vec<Condition>,
}

impl Default for Rollout {
    fn default() -> Self {
        Self { max_concurrent: 1, paused: false }
    }
}

impl NodeProfile {
    /// As the core decides on it.
    #[must_use]
    pub fn to_core(&self) -> Profile {
        let spec = &self.spec;
        Profile {
            name: self.metadata.name.clone().unwrap_or_default(),
            priority: spec.priority,
            selector: spec.selector.clone(),
            parameters: spec.parameters.clone(),
            formulas: spec.formulas.clone(),
            vrouter_mode: spec.vrouter_mode.clone(),
            at_once: spec.rollout.max_concurrent,
            paused: spec.rollout.paused,
        }
    }
}
