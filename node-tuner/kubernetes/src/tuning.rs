//! `NodeTuning`: one for each node. Its agent says in `status` what the node is and how tuning goes; the controller says in
//! `spec` what the node shall be.

use std::collections::BTreeMap;

use kube::CustomResource;
use node_tuner_cluster::facts::Facts;
use node_tuner_cluster::reconcile::{Given, Node};
use ringway_config::ProfileParameters;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::conditions::{self, Condition};

/// The agent has set the node up as `spec` says.
pub const APPLIED: &str = "Applied";
/// The kernel has to be started again for the rest.
pub const REBOOT_NEEDED: &str = "RebootNeeded";
/// Values that somebody else keeps changing are left alone.
pub const DRIFTING: &str = "Drifting";
/// The vRouter runs in the mode that the profile names.
pub const VROUTER_MODE: &str = "VrouterMode";
/// One profile is for the node.
pub const SELECTED: &str = "Selected";
/// That profile can be had there.
pub const RESOLVED: &str = "Resolved";

/// What a node shall be; written by the controller.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, CustomResource,
)]
#[kube(
    group = "tuning.ringway.dev",
    version = "v1alpha1",
    kind = "NodeTuning",
    status = "NodeTuningStatus",
    derive = "PartialEq",
    shortname = "ntn",
    category = "ringway",
    doc = "What a node is and shall be. The node's agent reports in status, the controller decides in spec.",
    printcolumn(name = "Profile", type_ = "string", json_path = ".spec.profile"),
    printcolumn(
        name = "Applied",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Applied')].status"
    ),
    printcolumn(
        name = "Reboot",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='RebootNeeded')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Applied')].reason"
    ),
    printcolumn(
        name = "CPU",
        type_ = "string",
        json_path = ".status.characteristics.cpu.model",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeTuningSpec {
    /// The profile that the parameters come from; none: no profile is for the node.
    pub profile: Option<String>,
    /// What the node shall be, with numbers for all formulas and shares.
    pub parameters: Option<ProfileParameters>,
    /// Mode that its vRouter shall run in; none: any.
    pub vrouter_mode: Option<String>,
}

/// What a node is; written by its agent, but for the conditions `Selected` and `Resolved`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeTuningStatus {
    /// Of the spec that the agent has acted on.
    pub observed_generation: Option<i64>,
    /// What the node is.
    pub characteristics: Option<Facts>,
    /// Arguments that the kernel was not started with.
    pub missing_arguments: Vec<String>,
    /// The line for the boot loader that has them, and the file it belongs to.
    pub boot_line: Option<String>,
    /// `Applied`, `RebootNeeded`, `Drifting`, `VrouterMode`, `Selected`, `Resolved`.
    #[schemars(schema_with = "crate::conditions::schema")]
    pub conditions: Vec<Condition>,
}

impl From<Given> for NodeTuningSpec {
    fn from(given: Given) -> Self {
        Self {
            profile: Some(given.profile),
            parameters: Some(given.parameters),
            vrouter_mode: given.vrouter_mode,
        }
    }
}

impl NodeTuningSpec {
    /// What the node was given, if anything.
    #[must_use]
    pub fn given(&self) -> Option<Given> {
        Some(Given {
            profile: self.profile.clone()?,
            parameters: self.parameters.clone()?,
            vrouter_mode: self.vrouter_mode.clone(),
        })
    }
}

impl NodeTuning {
    /// As the core decides on it; `labels` are the node's.
    #[must_use]
    pub fn to_core(&self, labels: BTreeMap<String, String>) -> Node {
        let status = self.status.clone().unwrap_or_default();
        let applied = conditions::find(&status.conditions, APPLIED).map(|applied| {
            if applied.status == "True" { Ok(()) } else { Err(applied.message.clone()) }
        });
        let reboot = conditions::find(&status.conditions, REBOOT_NEEDED);
        Node {
            name: self.metadata.name.clone().unwrap_or_default(),
            labels,
            facts: status.characteristics,
            given: self.spec.given(),
            answered: status.observed_generation.is_some()
                && status.observed_generation == self.metadata.generation,
            applied,
            reboot: reboot.is_some_and(|reboot| reboot.status == "True"),
        }
    }
}
