//! The tuner's objects in Kubernetes, and what is read from other objects: schemas, conditions, a pod's needs.
//!
//! Decides nothing and talks to nobody. `ringway-controller`, the agent and their tests depend on it.
#![forbid(unsafe_code)]
#![allow(
    clippy::duplicated_attributes,
    reason = "printer columns repeat the names of their fields"
)]

pub mod conditions;
pub mod crds;
pub mod pods;
pub mod profile;
pub mod topology;
pub mod tuning;

pub use profile::{NodeProfile, NodeProfileSpec, NodeProfileStatus, Rollout};
pub use topology::NodeResourceTopology;
pub use tuning::{NodeTuning, NodeTuningSpec, NodeTuningStatus};

/// Group of the tuner's own objects.
pub const GROUP: &str = "tuning.ringway.dev";
/// Who writes what the controller writes.
pub const CONTROLLER: &str = "ringway-controller";
/// Who writes what a node's agent writes.
pub const AGENT: &str = "ringway-tuner";

/// `value` as it is written to an API server: without nulls. One is as good as a field that is not there, but for words of which
/// null is none.
///
/// # Errors
/// Those of making JSON of it.
pub fn written(value: &impl serde::Serialize) -> Result<serde_json::Value, serde_json::Error> {
    let mut value = serde_json::to_value(value)?;
    drop_nulls(&mut value);
    Ok(value)
}

fn drop_nulls(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        serde_json::Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An API server compares null with each word of an enumeration, and refuses it.
    #[test]
    fn nothing_is_written_as_null_and_reads_as_before() {
        let spec = NodeTuningSpec {
            profile: Some("p".into()),
            parameters: Some(ringway_config::ProfileParameters::default()),
            vrouter_mode: None,
        };
        let value = written(&spec).unwrap();
        assert!(!value.to_string().contains("null"), "{value}");
        assert_eq!(serde_json::from_value::<NodeTuningSpec>(value).unwrap(), spec);
    }
}
