//! What to change in a container's configuration, and changing it.
//!
//! The configuration stays a tree of JSON values: fields that are not known here, and the order of all, survive.

use serde_json::{Value, json};

use crate::json::{SpecError, list, object};
use crate::wish::{Wish, is_mount_point};
use crate::{MARK, MOUNT_POINT};

/// System calls of a DPDK application that the default profiles of containerd, Docker and podman refuse to containers without
/// CAP_SYS_NICE: EAL places its memory with them. They act on the memory of the caller alone.
const MEMORY_POLICY: [&str; 3] = ["get_mempolicy", "mbind", "set_mempolicy"];

/// What the node grants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adjustment {
    /// Each replaces one with the same destination.
    pub mounts: Vec<Mount>,
    /// Name and value; each replaces one with the same name.
    pub env: Vec<(String, String)>,
    /// Key and value; each replaces one with the same key.
    pub annotations: Vec<(String, String)>,
    /// Empty: as it is.
    pub cpuset_cpus: String,
    /// Empty: as it is.
    pub cpuset_mems: String,
    /// Page size and bytes; each replaces one of the same size.
    pub hugepages: Vec<(String, u64)>,
}

/// One mount, as OCI has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// Inside the container.
    pub destination: String,
    /// `bind`.
    pub kind: String,
    /// On the host.
    pub source: String,
    /// As of mount(8).
    pub options: Vec<String>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Of `mounts`.
    Mount(Mount),
    /// Of `process.env`.
    Env {
        /// Before the `=`.
        name: String,
        /// Behind it.
        value: String,
    },
    /// Of `annotations`.
    Annotation {
        /// Key.
        key: String,
        /// Value.
        value: String,
    },
    /// Of `linux.resources.cpu`.
    Cpu {
        /// `cpus` or `mems`.
        key: &'static str,
        /// A list.
        value: String,
    },
    /// Of `linux.resources.hugepageLimits`.
    Hugepages {
        /// Page size as of OCI.
        size: String,
        /// Bytes.
        limit: u64,
    },
    /// Of `linux.cgroupsPath`.
    CgroupsPath(String),
    /// Of `linux.seccomp`: lets the container say where its memory shall be, unless its profile names these calls itself.
    AllowMemoryPolicy,
}

/// Lists the changes that give a container what the node granted to it.
#[must_use]
pub fn plan(id: &str, wish: &Wish, adjustment: Adjustment) -> Vec<Edit> {
    let Adjustment { mounts, env, annotations, cpuset_cpus, cpuset_mems, hugepages } = adjustment;
    let mut edits: Vec<Edit> = mounts.into_iter().map(Edit::Mount).collect();
    edits.extend(env.into_iter().map(|(name, value)| Edit::Env { name, value }));
    edits.extend(annotations.into_iter().map(|(key, value)| Edit::Annotation { key, value }));
    edits.push(Edit::Annotation { key: MARK.to_owned(), value: id.to_owned() });
    for (key, value) in [("cpus", cpuset_cpus), ("mems", cpuset_mems)] {
        if !value.is_empty() {
            edits.push(Edit::Cpu { key, value });
        }
    }
    edits.extend(hugepages.into_iter().map(|(size, limit)| Edit::Hugepages { size, limit }));
    if wish.new_cgroups_path {
        edits.push(Edit::CgroupsPath(wish.cgroups_path.clone()));
    }
    edits
}

/// Applies the changes. Doing it again changes nothing more.
///
/// # Errors
/// [`SpecError::Shape`] when a field is not what the specification says; some changes may have been made then.
pub fn apply(config: &mut Value, edits: Vec<Edit>) -> Result<(), SpecError> {
    edits.into_iter().try_for_each(|edit| apply_one(config, edit))
}

fn apply_one(config: &mut Value, edit: Edit) -> Result<(), SpecError> {
    match edit {
        Edit::Mount(Mount { destination, kind, source, options }) => {
            let mounts = list(object(config, &[], "the root")?, "mounts", "mounts")?;
            let ours = destination == MOUNT_POINT;
            mounts.retain(|mount| {
                !(mount.get("destination").and_then(Value::as_str) == Some(&destination)
                    || ours && is_mount_point(mount))
            });
            // Last, so that nothing is mounted over it.
            mounts.push(json!({
                "destination": destination, "type": kind, "source": source, "options": options,
            }));
        }
        Edit::Env { name, value } => {
            let env = list(object(config, &["process"], "process")?, "env", "process.env")?;
            let is = |entry: &Value| {
                entry
                    .as_str()
                    .and_then(|entry| entry.split_once('='))
                    .is_some_and(|(key, _)| key == name)
            };
            env.retain(|entry| !is(entry));
            env.push(Value::String(format!("{name}={value}")));
        }
        Edit::Annotation { key, value } => {
            object(config, &["annotations"], "annotations")?.insert(key, Value::String(value));
        }
        Edit::Cpu { key, value } => {
            let cpu = object(config, &["linux", "resources", "cpu"], "linux.resources.cpu")?;
            cpu.insert(key.to_owned(), Value::String(value));
        }
        Edit::Hugepages { size, limit } => {
            let field = "linux.resources.hugepageLimits";
            let limits =
                list(object(config, &["linux", "resources"], field)?, "hugepageLimits", field)?;
            limits.retain(|it| it.get("pageSize").and_then(Value::as_str) != Some(&size));
            limits.push(json!({"pageSize": size, "limit": limit}));
        }
        Edit::AllowMemoryPolicy => {
            if config.pointer("/linux/seccomp").is_some_and(|profile| !profile.is_null()) {
                let field = "linux.seccomp";
                let profile = object(config, &["linux", "seccomp"], field)?;
                let rules = list(profile, "syscalls", "linux.seccomp.syscalls")?;
                let named = |name: &str| {
                    let mut names = rules.iter().filter_map(|rule| rule.get("names")?.as_array());
                    names.any(|names| names.iter().any(|it| it.as_str() == Some(name)))
                };
                let new: Vec<_> = MEMORY_POLICY.into_iter().filter(|name| !named(name)).collect();
                if !new.is_empty() {
                    rules.push(json!({"names": new, "action": "SCMP_ACT_ALLOW"}));
                }
            }
        }
        Edit::CgroupsPath(path) => {
            object(config, &["linux"], "linux")?
                .insert("cgroupsPath".to_owned(), Value::String(path));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adjustment() -> Adjustment {
        Adjustment {
            mounts: vec![Mount {
                destination: MOUNT_POINT.into(),
                kind: "bind".into(),
                source: "/run/ringway/pods/oci-1/0".into(),
                options: vec!["rbind".into(), "ro".into()],
            }],
            env: vec![("RINGWAY_EAL_ARGS".into(), "--in-memory -l 1".into())],
            annotations: vec![],
            cpuset_cpus: "1".into(),
            cpuset_mems: "0".into(),
            hugepages: vec![("2MB".into(), 1 << 29)],
        }
    }

    /// Written as a runtime's caller would, with fields nobody here knows, and an order that is not the alphabet's.
    const BEFORE: &str = r#"{
      "ociVersion": "1.2.0",
      "zeta": {"kept": [1, 2.5, 18446744073709551615, "\u0000"]},
      "process": {"terminal": false, "env": ["PATH=/bin", "RINGWAY_EAL_ARGS=forged", "RINGWAY_EAL_ARGS_2=x"], "new": null},
      "mounts": [{"destination": "/proc", "type": "proc", "source": "proc", "uidMappings": []}],
      "annotations": {"network.ringway.dev": "red"},
      "linux": {"resources": {"hugepageLimits": [{"pageSize": "2MB", "limit": 0}, {"pageSize": "1GB", "limit": 7}], "unified": {"a": "b"}},
                "memoryPolicy": {"mode": "MPOL_BIND"}}
    }"#;

    const AFTER: &str = r#"{
      "ociVersion": "1.2.0",
      "zeta": {"kept": [1, 2.5, 18446744073709551615, "\u0000"]},
      "process": {"terminal": false, "env": ["PATH=/bin", "RINGWAY_EAL_ARGS_2=x", "RINGWAY_EAL_ARGS=--in-memory -l 1"], "new": null},
      "mounts": [{"destination": "/proc", "type": "proc", "source": "proc", "uidMappings": []},
                 {"destination": "/run/ringway", "type": "bind", "source": "/run/ringway/pods/oci-1/0", "options": ["rbind", "ro"]}],
      "annotations": {"network.ringway.dev": "red", "ringway.dev/wrapped": "c1"},
      "linux": {"resources": {"hugepageLimits": [{"pageSize": "1GB", "limit": 7}, {"pageSize": "2MB", "limit": 536870912}], "unified": {"a": "b"},
                              "cpu": {"cpus": "1", "mems": "0"}},
                "memoryPolicy": {"mode": "MPOL_BIND"}, "cgroupsPath": "/ringway-c1"}
    }"#;

    fn wish() -> Wish {
        Wish { cgroups_path: "/ringway-c1".into(), new_cgroups_path: true, ..Wish::default() }
    }

    #[test]
    fn only_what_was_granted_changes_and_the_order_stays() {
        let mut config: Value = serde_json::from_str(BEFORE).unwrap();
        let after: Value = serde_json::from_str(AFTER).unwrap();
        // Twice: a bundle may be used again.
        for _ in 0..2 {
            apply(&mut config, plan("c1", &wish(), adjustment())).unwrap();
            // As text, where the order counts.
            assert_eq!(config.to_string(), after.to_string());
        }
    }

    #[test]
    fn what_is_missing_is_made() {
        let mut config = json!({"linux": null});
        apply(&mut config, plan("c1", &wish(), adjustment())).unwrap();
        assert_eq!(config["linux"]["resources"]["cpu"]["cpus"], "1");
        assert_eq!(config["process"]["env"][0], "RINGWAY_EAL_ARGS=--in-memory -l 1");
        assert_eq!(config["mounts"][0]["destination"], MOUNT_POINT);
    }

    #[test]
    fn an_empty_grant_sets_no_cpus() {
        let mut config = json!({});
        let wish = Wish { cgroups_path: "/a/b".into(), ..Wish::default() };
        apply(&mut config, plan("c1", &wish, Adjustment::default())).unwrap();
        assert_eq!(config, json!({"annotations": {MARK: "c1"}}));
    }

    #[test]
    fn a_wrong_shape_is_named() {
        for (config, field) in [
            (json!([]), "root"),
            (json!({"mounts": 7}), "mounts"),
            (json!({"process": "x"}), "process"),
            (json!({"process": {"env": {}}}), "process.env"),
            (json!({"linux": {"resources": {"cpu": []}}}), "linux.resources.cpu"),
        ] {
            let mut config = config;
            let error =
                apply(&mut config, plan("c1", &wish(), adjustment())).unwrap_err().to_string();
            assert!(error.contains(field) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_profile_is_widened_by_what_it_does_not_name() {
        let allow = |profile: Value| {
            let mut config = json!({"linux": {"seccomp": profile}});
            // Twice: a bundle may be used again.
            for _ in 0..2 {
                apply(&mut config, vec![Edit::AllowMemoryPolicy]).unwrap();
            }
            config["linux"]["seccomp"].clone()
        };
        let refuse = json!({"names": ["mbind", "x"], "action": "SCMP_ACT_KILL"});
        let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [refuse]});
        let wide = allow(profile);
        let added =
            json!({"names": ["get_mempolicy", "set_mempolicy"], "action": "SCMP_ACT_ALLOW"});
        assert_eq!(wide["syscalls"], json!([refuse, added]));
        let bare = allow(json!({"defaultAction": "SCMP_ACT_ERRNO"}));
        assert_eq!(bare["syscalls"][0]["names"], json!(MEMORY_POLICY));
        // Without a profile everything is allowed already.
        assert_eq!(allow(Value::Null), Value::Null);
        let mut none = json!({});
        apply(&mut none, vec![Edit::AllowMemoryPolicy]).unwrap();
        assert_eq!(none, json!({}));
        let mut bad = json!({"linux": {"seccomp": {"syscalls": 7}}});
        let error = apply(&mut bad, vec![Edit::AllowMemoryPolicy]).unwrap_err().to_string();
        assert!(error.contains("linux.seccomp.syscalls"), "{error}");
    }

    #[test]
    fn any_json_survives_or_is_refused() {
        bolero::check!().with_type::<(String, String, u8)>().for_each(|(key, text, place)| {
            let inner = json!({key.as_str(): text});
            let mut config = match place % 4 {
                0 => inner,
                1 => json!({"process": inner}),
                2 => json!({"linux": {"resources": inner}}),
                _ => json!({"annotations": inner, "mounts": [{key.as_str(): text}]}),
            };
            if apply(&mut config, plan("c1", &wish(), adjustment())).is_ok() {
                let once = config.clone();
                apply(&mut config, plan("c1", &wish(), adjustment())).unwrap();
                assert_eq!(config, once);
            }
        });
    }
}
