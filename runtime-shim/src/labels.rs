//! Labels that a container's manager keeps to itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

mod containerd;

/// What Docker keeps of a container, beside the files it mounts into it.
const DOCKER_FILE: &str = "config.v2.json";
/// Files that Docker mounts from there.
const DOCKER_MOUNTS: [&str; 3] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];

/// The labels of a container, as far as they can be found. `namespace` is containerd's.
pub fn find(config: &Value, id: &str, namespace: Option<&str>) -> Option<BTreeMap<String, String>> {
    if let Some(file) = docker_file(config, id) {
        return docker(&file);
    }
    let socket = containerd::socket().filter(|_| is_nerdctls(config))?;
    match containerd::ask(&socket, namespace?, id) {
        Ok(labels) => Some(labels),
        // Nearly every container has none for us, and shall start.
        Err(error) => {
            eprintln!("ringway: {error}; labels of {id} do not count");
            None
        }
    }
}

/// Whether nerdctl made the container: only its containers are worth asking containerd.
fn is_nerdctls(config: &Value) -> bool {
    let annotations = config.get("annotations").and_then(Value::as_object);
    annotations.is_some_and(|all| all.keys().any(|key| key.starts_with("nerdctl/")))
}

/// Docker's own file of a container: `<data root>/containers/<id>/config.v2.json`, whatever the data root is.
fn docker_file(config: &Value, id: &str) -> Option<PathBuf> {
    let mounts = config.get("mounts")?.as_array()?.iter();
    let text = |mount: &Value, key: &str| Some(mount.get(key)?.as_str()?.to_owned());
    mounts
        .filter(|mount| {
            text(mount, "destination").is_some_and(|it| DOCKER_MOUNTS.contains(&it.as_str()))
        })
        .filter_map(|mount| Some(PathBuf::from(text(mount, "source")?).parent()?.to_owned()))
        .find(|directory| directory.ends_with(Path::new("containers").join(id)))
        .map(|directory| directory.join(DOCKER_FILE))
}

fn docker(file: &Path) -> Option<BTreeMap<String, String>> {
    let kept: Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    let labels = kept.pointer("/Config/Labels")?.as_object()?.iter();
    Some(
        labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn dockers_labels_are_found_by_its_mounts() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("containers/c1");
        std::fs::create_dir_all(&directory).unwrap();
        let kept =
            json!({"ID": "c1", "Config": {"Labels": {"network.ringway.dev": "red", "x": "y"}}});
        std::fs::write(directory.join(DOCKER_FILE), kept.to_string()).unwrap();
        let config = |source: PathBuf| json!({"mounts": [{"destination": "/proc"}, {"destination": "/etc/hosts", "source": source}]});
        let labels = find(&config(directory.join("hosts")), "c1", None).unwrap();
        assert_eq!(labels["network.ringway.dev"], "red");
        assert_eq!(labels.len(), 2);
        // Another container's directory, or none of Docker's.
        assert_eq!(find(&config(directory.join("hosts")), "c2", None), None);
        assert_eq!(find(&config(root.path().join("other/c1/hosts")), "c1", None), None);
        assert_eq!(find(&config("/etc/hosts".into()), "c1", None), None);
        assert_eq!(find(&json!({}), "c1", None), None);
    }

    #[test]
    fn containerd_is_asked_for_nerdctls_containers_only() {
        assert!(is_nerdctls(&json!({"annotations": {"a": "b", "nerdctl/name": "web"}})));
        for other in [json!({}), json!({"annotations": {"nerdctl": "x", "ctr/name": "y"}})] {
            assert!(!is_nerdctls(&other), "{other}");
        }
    }
}
