//! Conditions of objects, as `kubectl wait` and people read them.

use k8s_openapi::jiff::Timestamp;
use node_tuner_cluster::reconcile::Told;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Something that holds of an object, or does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    #[schemars(regex(pattern = "^(True|False|Unknown)$"))]
    pub status: String,
    /// Why, in one word.
    pub reason: String,
    /// Why, for people.
    pub message: String,
    /// Since when `status` is so (RFC 3339).
    pub last_transition_time: String,
}

/// A list of conditions that several writers share, each with types of its own.
pub(crate) fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let items = Condition::json_schema(generator);
    schemars::json_schema!({
        "type": "array",
        "items": items,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}

/// The condition `kind` as `told`; its time stays while its status does.
#[must_use]
pub fn condition(kind: &str, told: &Told, before: &[Condition]) -> Condition {
    let status = if told.holds { "True" } else { "False" };
    let same = before.iter().find(|one| one.kind == kind && one.status == status);
    let since = same.map(|one| one.last_transition_time.clone());
    Condition {
        kind: kind.to_owned(),
        status: status.to_owned(),
        reason: told.reason.to_owned(),
        message: told.message.clone(),
        last_transition_time: since.unwrap_or_else(now),
    }
}

/// The condition of that kind.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.kind == kind)
}

/// Now, to the second.
#[must_use]
pub fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_that_of_the_last_change() {
        let told = |holds, message: &str| Told { holds, reason: "R", message: message.into() };
        let mut first = condition("Applied", &told(true, "a"), &[]);
        assert_eq!(first.last_transition_time.len(), "2026-01-01T00:00:00Z".len());
        first.last_transition_time = "2020-01-01T00:00:00Z".into();
        let before = [first];
        let second = condition("Applied", &told(true, "b"), &before);
        assert_eq!(
            (second.last_transition_time.as_str(), second.message.as_str()),
            ("2020-01-01T00:00:00Z", "b")
        );
        assert_ne!(
            condition("Applied", &told(false, "b"), &before).last_transition_time,
            second.last_transition_time
        );
        assert_ne!(
            condition("Other", &told(true, "b"), &before).last_transition_time,
            second.last_transition_time
        );
    }
}
