//! What is printed without an API server.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use anyhow::Result;
use kube::Resource as _;
use node_tuner_kubernetes::{NodeProfile, crds};
use ringway_config::PROFILES;
use serde_json::{Value, json};

/// Starts the generated files.
const GENERATED: &str = "# Written by `ringway-controller";

/// All definitions, as one file of several documents.
///
/// # Errors
/// When `out` takes nothing.
pub fn crds(out: &mut impl Write) -> Result<()> {
    for (_, definition) in crds::definitions()? {
        write!(out, "---\n{}", document("crds", &definition)?)?;
    }
    Ok(())
}

/// The profiles that come with Ringway, as one file of several documents.
///
/// # Errors
/// When `out` takes nothing.
pub fn profiles(out: &mut impl Write) -> Result<()> {
    for (_, profile) in shipped()? {
        write!(out, "---\n{}", document("profiles", &profile)?)?;
    }
    Ok(())
}

fn document(command: &str, value: &Value) -> Result<String> {
    Ok(format!("{GENERATED} {command}`.\n{}", serde_saphyr::to_string(value)?))
}

/// Each is for the nodes that have its name as label `tuning.ringway.dev/want`.
fn shipped() -> Result<Vec<(&'static str, Value)>> {
    let mut all = Vec::new();
    for (name, text) in PROFILES {
        let profile = ringway_config::NodeProfile::from_toml(text, Path::new(name))?;
        let description = profile.description.clone();
        let mut parameters = serde_json::to_value(profile.into_parameters())?;
        let defaults = serde_json::to_value(ringway_config::ProfileParameters::default())?;
        drop_defaults(&mut parameters, &defaults);
        let selector =
            json!({ "matchLabels": BTreeMap::from([("tuning.ringway.dev/want", name)]) });
        let object = json!({
            "apiVersion": NodeProfile::api_version(&()),
            "kind": NodeProfile::kind(&()),
            "metadata": { "name": name },
            "spec": {
                "description": description,
                "priority": 10,
                "selector": selector,
                "parameters": parameters,
                "rollout": { "maxConcurrent": 1 },
            },
        });
        all.push((name, object));
    }
    Ok(all)
}

/// People read these: only what is not as it would be anyway.
fn drop_defaults(value: &mut Value, defaults: &Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, value| {
                let default = defaults.get(key).unwrap_or(&Value::Null);
                drop_defaults(value, default);
                let empty = value.as_object().is_some_and(serde_json::Map::is_empty);
                value != default && !empty
            });
        }
        Value::Array(list) => list.iter_mut().for_each(|value| drop_defaults(value, &Value::Null)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(folder: &str, name: &str) -> String {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/kubernetes").join(folder);
        std::fs::read_to_string(path.join(name)).unwrap_or_default()
    }

    #[test]
    fn committed_definitions_are_those_of_this_program() {
        for (name, definition) in crds::definitions().unwrap() {
            let now = document("crds", &definition).unwrap();
            assert!(
                committed("crds", name) == now,
                "config/kubernetes/crds/{name} is not what `ringway-controller crds` prints:\n{now}"
            );
        }
    }

    #[test]
    fn committed_profiles_are_those_of_the_files() {
        for (name, profile) in shipped().unwrap() {
            let now = document("profiles", &profile).unwrap();
            let name = format!("{name}.yaml");
            assert!(
                committed("profiles", &name) == now,
                "config/kubernetes/profiles/{name} is not what `ringway-controller profiles` prints:\n{now}"
            );
            // What is left out is what it would be anyway.
            let read: NodeProfile = serde_json::from_value(profile).unwrap();
            let text = PROFILES.iter().find(|(known, _)| name.starts_with(known)).unwrap().1;
            let file = ringway_config::NodeProfile::from_toml(text, Path::new("x")).unwrap();
            assert_eq!(read.spec.parameters, file.into_parameters(), "{name}");
        }
    }
}
