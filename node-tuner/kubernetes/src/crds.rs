//! The definitions of the objects, as an API server wants them.

use kube::CustomResourceExt;
use serde_json::Value;

use crate::{NodeProfile, NodeResourceTopology, NodeTuning};

/// File names and definitions.
///
/// # Errors
/// Those of making JSON of them; there are none.
pub fn definitions() -> Result<[(&'static str, Value); 3], serde_json::Error> {
    let clean = |definition| {
        let mut value = serde_json::to_value(&definition)?;
        tidy(&mut value);
        Ok(value)
    };
    Ok([
        ("nodeprofiles.yaml", clean(NodeProfile::crd())?),
        ("nodetunings.yaml", clean(NodeTuning::crd())?),
        ("noderesourcetopologies.yaml", clean(NodeResourceTopology::crd())?),
    ])
}

/// Takes out what a structural schema may not have (`additionalProperties: false` beside properties: an API server prunes and
/// warns of unknown fields itself), formats that no API server knows, and defaults: whoever reads has them, and objects stay as
/// they were written.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("additionalProperties") == Some(&Value::Bool(false)) {
                map.remove("additionalProperties");
            }
            map.remove("default");
            let unknown = |format: &Value| matches!(format.as_str(), Some(format) if format.starts_with("uint"));
            if map.get("format").is_some_and(unknown) {
                map.remove("format");
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an API server requires of every schema: a type or int-or-string everywhere, nothing that composes.
    fn check(path: &str, schema: &Value) {
        let map = schema.as_object().unwrap_or_else(|| panic!("{path}: {schema}"));
        let typed = map.contains_key("type") || map.contains_key("x-kubernetes-int-or-string");
        assert!(typed, "{path} has no type: {schema}");
        for key in ["oneOf", "anyOf", "allOf", "$ref", "not", "const"] {
            assert!(!map.contains_key(key), "{path} has {key}: {schema}");
        }
        let both = map.contains_key("additionalProperties") && map.contains_key("properties");
        assert!(!both, "{path}: {schema}");
        for (name, property) in
            map.get("properties").and_then(Value::as_object).into_iter().flatten()
        {
            check(&format!("{path}.{name}"), property);
        }
        for key in ["items", "additionalProperties"] {
            if let Some(inner) = map.get(key) {
                check(&format!("{path}.{key}"), inner);
            }
        }
    }

    #[test]
    fn schemas_are_structural() {
        for (name, definition) in definitions().unwrap() {
            let versions = definition["spec"]["versions"].as_array().unwrap();
            assert_eq!(versions.len(), 1, "{name}");
            check(name, &versions[0]["schema"]["openAPIV3Schema"]);
        }
    }

    #[test]
    fn keys_of_parameters_are_those_of_a_profile() {
        let definitions = definitions().unwrap();
        let spec = &definitions[0].1["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
            ["spec"];
        let parameters = spec["properties"]["parameters"]["properties"].as_object().unwrap();
        let mut keys: Vec<_> = parameters.keys().map(String::as_str).collect();
        keys.sort_unstable();
        let wanted = [
            "agent",
            "cpus",
            "handover",
            "hugepages",
            "irqs",
            "kernel",
            "limits",
            "memory",
            "nics",
            "power",
            "steering",
            "sysctls",
        ];
        assert_eq!(keys, wanted);
        let ring = &parameters["nics"]["items"]["properties"]["rx_ring"];
        assert_eq!(ring["x-kubernetes-int-or-string"], true, "{ring}");
    }
}
