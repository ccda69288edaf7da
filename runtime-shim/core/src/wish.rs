//! What a container's configuration asks Ringway for.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::json::{SpecError, find};
use crate::{MARK, MOUNT_POINT};

/// What all annotation keys of Ringway end with.
const DOMAIN: &str = ".ringway.dev";
/// A container has opted in by one of these.
const OPT_IN: [&str; 2] = ["network.ringway.dev", "interfaces.ringway.dev"];
/// nerdctl makes annotations of labels that begin so, with the prefix.
const NERDCTL: &str = "nerdctl/";
/// Which kind of container CRI creates: containerd's key and CRI-O's.
const CRI_KIND: [&str; 2] =
    ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"];
const CRI_SANDBOX: &str = "sandbox";

/// What the container asks for, and what the node has to know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Those of Ringway, by key.
    pub annotations: BTreeMap<String, String>,
    /// Of the pod, or of whatever the container manager calls so.
    pub namespace: Option<String>,
    /// Its pod's name, else its own for people.
    pub pod: Option<String>,
    /// Its name in the pod.
    pub name: Option<String>,
    /// `linux.cgroupsPath` as it will be; see [`Wish::new_cgroups_path`].
    pub cgroups_path: String,
    /// Whether `cgroups_path` has to be written into the configuration.
    pub new_cgroups_path: bool,
    /// `linux.resources.cpu`; 0 is unset.
    pub cpu_shares: u64,
    /// µs.
    pub cpu_quota: i64,
    /// µs.
    pub cpu_period: u64,
    /// `linux.resources.cpu.cpus`.
    pub cpuset_cpus: String,
    /// `linux.resources.cpu.mems`.
    pub cpuset_mems: String,
    /// Page size and bytes.
    pub hugepages: Vec<(String, u64)>,
}

/// What is known of a container beside its configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outside<'a> {
    /// Its id.
    pub id: &'a str,
    /// Whether systemd makes its cgroup.
    pub systemd_cgroup: bool,
    /// Labels that its manager keeps to itself; annotations win over them.
    pub labels: Option<&'a BTreeMap<String, String>>,
}

/// Whether labels that are not in the configuration could matter: it has not opted in by annotation, and no CRI is behind it.
///
/// # Errors
/// [`SpecError::Shape`].
pub fn may_have_labels(config: &Value) -> Result<bool, SpecError> {
    let all = annotations(config)?;
    Ok(!CRI_KIND.iter().any(|key| all.contains_key(*key)) && !opted_in(&ours(&all)))
}

/// An annotation of the container.
///
/// # Errors
/// [`SpecError::Shape`].
pub fn annotation(config: &Value, key: &str) -> Result<Option<String>, SpecError> {
    Ok(annotations(config)?.get(key).map(|value| (*value).to_owned()))
}

/// What the container asks for; `None` when it has not opted in, or has been served already by the NRI plugin.
///
/// # Errors
/// [`SpecError`] for a container that opted in and whose configuration cannot be understood.
pub fn read(config: &Value, outside: Outside<'_>) -> Result<Option<Wish>, SpecError> {
    let all = annotations(config)?;
    let mut ours = ours(&all);
    for (key, value) in outside.labels.into_iter().flatten().filter(|(key, _)| is_ours(key)) {
        ours.entry(key.clone()).or_insert_with(|| value.clone());
    }
    if !opted_in(&ours) {
        return Ok(None);
    }
    let cri = CRI_KIND.iter().find_map(|key| all.get(*key)).copied();
    if cri == Some(CRI_SANDBOX) {
        return Ok(None);
    }
    if is_mounted(config)? && !all.contains_key(MARK) {
        return if cri.is_some() { Ok(None) } else { Err(SpecError::MountTaken) };
    }
    let one_of = |keys: [&str; 2]| {
        keys.into_iter().find_map(|key| all.get(key)).map(|value| (*value).to_owned())
    };
    let (cgroups_path, new_cgroups_path) = cgroups_path(config, outside)?;
    let cpu = find(config, &["linux", "resources", "cpu"], "linux.resources.cpu")?;
    let cpu = |key: &str| cpu.and_then(|cpu| cpu.get(key));
    let text = |key: &str| cpu(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Some(Wish {
        namespace: one_of(["io.kubernetes.cri.sandbox-namespace", "nerdctl/namespace"]),
        pod: one_of(["io.kubernetes.cri.sandbox-name", "nerdctl/name"]),
        name: one_of(["io.kubernetes.cri.container-name", "nerdctl/name"]),
        cgroups_path,
        new_cgroups_path,
        cpu_shares: cpu("shares").and_then(Value::as_u64).unwrap_or_default(),
        cpu_quota: cpu("quota").and_then(Value::as_i64).unwrap_or_default(),
        cpu_period: cpu("period").and_then(Value::as_u64).unwrap_or_default(),
        cpuset_cpus: text("cpus"),
        cpuset_mems: text("mems"),
        hugepages: hugepages(config)?,
        annotations: ours,
    }))
}

fn annotations(config: &Value) -> Result<BTreeMap<&str, &str>, SpecError> {
    let field = "annotations";
    let Some(value) = find(config, &[field], field)? else { return Ok(BTreeMap::new()) };
    let object = value.as_object().ok_or(SpecError::Shape { field, expected: "an object" })?;
    Ok(object.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?))).collect())
}

fn ours(all: &BTreeMap<&str, &str>) -> BTreeMap<String, String> {
    let mut ours = BTreeMap::new();
    for (key, value) in all {
        let plain = key.strip_prefix(NERDCTL).unwrap_or(key);
        // A key of one's own wins over the one nerdctl made of a label.
        if is_ours(plain) && (plain == *key || !all.contains_key(plain)) {
            ours.insert(plain.to_owned(), (*value).to_owned());
        }
    }
    ours
}

fn is_ours(key: &str) -> bool {
    key.split('/').next().is_some_and(|base| base.ends_with(DOMAIN))
}

fn opted_in(ours: &BTreeMap<String, String>) -> bool {
    ours.keys().any(|key| key.split('/').next().is_some_and(|base| OPT_IN.contains(&base)))
}

fn is_mounted(config: &Value) -> Result<bool, SpecError> {
    let field = "mounts";
    let Some(value) = find(config, &[field], field)? else { return Ok(false) };
    let mounts = value.as_array().ok_or(SpecError::Shape { field, expected: "a list" })?;
    Ok(mounts.iter().any(is_mount_point))
}

/// Whether a mount is at our place, however it is written.
pub(crate) fn is_mount_point(mount: &Value) -> bool {
    let destination = mount.get("destination").and_then(Value::as_str).unwrap_or_default();
    let parts = |path: &str| {
        path.split('/')
            .filter(|part| !matches!(*part, "" | "."))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    parts(destination) == parts(MOUNT_POINT)
}

/// The cgroup as it will be. A runtime that is told none makes one below the caller's own, or as it likes: then it is told one.
fn cgroups_path(config: &Value, outside: Outside<'_>) -> Result<(String, bool), SpecError> {
    let value = find(config, &["linux", "cgroupsPath"], "linux")?;
    let path = value.and_then(Value::as_str).unwrap_or_default();
    let id = outside.id;
    match path {
        // runc's own default.
        "" if outside.systemd_cgroup => Ok((format!("system.slice:runc:{id}"), true)),
        "" => Ok((format!("/ringway-{id}"), true)),
        _ if path.starts_with('/') || path.split(':').count() == 3 => Ok((path.to_owned(), false)),
        _ => Err(SpecError::CgroupsPath { path: path.chars().take(256).collect() }),
    }
}

fn hugepages(config: &Value) -> Result<Vec<(String, u64)>, SpecError> {
    let field = "linux.resources.hugepageLimits";
    let Some(value) = find(config, &["linux", "resources", "hugepageLimits"], field)? else {
        return Ok(Vec::new());
    };
    let list = value.as_array().ok_or(SpecError::Shape { field, expected: "a list" })?;
    let limit =
        |it: &Value| Some((it.get("pageSize")?.as_str()?.to_owned(), it.get("limit")?.as_u64()?));
    Ok(list.iter().filter_map(limit).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const OUTSIDE: Outside<'static> = Outside { id: "c1", systemd_cgroup: false, labels: None };

    fn wish(config: &Value) -> Option<Wish> {
        read(config, OUTSIDE).unwrap()
    }

    #[test]
    fn only_the_opt_in_counts() {
        for plain in [
            json!({}),
            json!({"annotations": null}),
            json!({"annotations": {"other": "x", "cpus.ringway.dev": "2", "ringway.dev/wrapped": ""}}),
            json!({"annotations": {"network.ringway.dev.example.com": "red", "network": "ringway.dev"}}),
            json!({"process": {"env": ["network.ringway.dev=red"]}, "mounts": [], "linux": 7}),
        ] {
            assert_eq!(wish(&plain), None, "{plain}");
        }
        for key in [
            "network.ringway.dev",
            "network.ringway.dev/container.app",
            "interfaces.ringway.dev/pod",
            "nerdctl/network.ringway.dev",
        ] {
            let wish = wish(&json!({"annotations": {key: "red", "x": "y"}})).unwrap();
            let expected = key.strip_prefix("nerdctl/").unwrap_or(key);
            assert_eq!(wish.annotations, BTreeMap::from([(expected.to_owned(), "red".to_owned())]));
        }
    }

    #[test]
    fn what_the_node_needs_is_read() {
        let config = json!({
            "annotations": {"network.ringway.dev": "red", "netwrok.ringway.dev": "blue", "nerdctl/name": "web",
                            "nerdctl/namespace": "default", "nerdctl/network.ringway.dev": "green"},
            "linux": {
                "cgroupsPath": "/default/c1",
                "resources": {
                    "cpu": {"shares": 2048, "quota": -1, "period": 100000, "cpus": "0-3", "mems": "0"},
                    "hugepageLimits": [{"pageSize": "2MB", "limit": 1073741824_u64}, {"pageSize": "1GB"}],
                },
            },
        });
        assert_eq!(
            wish(&config).unwrap(),
            Wish {
                annotations: [("network.ringway.dev", "red"), ("netwrok.ringway.dev", "blue")]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
                namespace: Some("default".into()),
                pod: Some("web".into()),
                name: Some("web".into()),
                cgroups_path: "/default/c1".into(),
                new_cgroups_path: false,
                cpu_shares: 2048,
                cpu_quota: -1,
                cpu_period: 100_000,
                cpuset_cpus: "0-3".into(),
                cpuset_mems: "0".into(),
                hugepages: vec![("2MB".into(), 1 << 30)],
            }
        );
    }

    #[test]
    fn what_cri_and_the_plugin_have_done_is_left_alone() {
        let config = |kind: &str, destination: &str| {
            json!({
                "annotations": {"network.ringway.dev": "red", "io.kubernetes.cri.container-type": kind,
                                "io.kubernetes.cri.container-name": "app",
                                "io.kubernetes.cri.sandbox-namespace": "demo"},
                "mounts": [{"destination": "/proc"}, {"destination": destination}],
            })
        };
        assert_eq!(wish(&config("sandbox", "/sys")), None);
        assert_eq!(wish(&config("container", "/run/ringway")), None);
        assert_eq!(wish(&config("container", "/run//ringway/.")), None);
        // No plugin was there: a node without NRI.
        let alone = wish(&config("container", "/run/ringway2")).unwrap();
        assert_eq!(
            (alone.name.as_deref(), alone.namespace.as_deref()),
            (Some("app"), Some("demo"))
        );
    }

    #[test]
    fn a_mount_of_others_is_no_answer_and_one_of_ours_is_replaced() {
        let mut config = json!({
            "annotations": {"network.ringway.dev": "red"}, "mounts": [{"destination": "/run/ringway/"}]
        });
        let error = read(&config, OUTSIDE).unwrap_err().to_string();
        assert!(error.contains("/run/ringway") && error.contains("network.ringway.dev"), "{error}");
        config["annotations"][MARK] = json!("c1");
        assert!(wish(&config).is_some());
    }

    #[test]
    fn the_cgroup_is_always_known() {
        let opted =
            |linux: Value| json!({"annotations": {"network.ringway.dev": "red"}, "linux": linux});
        for (linux, systemd_cgroup, path, new) in [
            (json!({"cgroupsPath": "/a/b"}), false, "/a/b", false),
            (
                json!({"cgroupsPath": "machine.slice:libpod:c1"}),
                true,
                "machine.slice:libpod:c1",
                false,
            ),
            (json!({}), false, "/ringway-c1", true),
            (json!(null), false, "/ringway-c1", true),
            (json!({"cgroupsPath": ""}), true, "system.slice:runc:c1", true),
        ] {
            let found =
                read(&opted(linux), Outside { systemd_cgroup, ..OUTSIDE }).unwrap().unwrap();
            assert_eq!((found.cgroups_path.as_str(), found.new_cgroups_path), (path, new));
        }
        let error = read(&opted(json!({"cgroupsPath": "a/b"})), OUTSIDE).unwrap_err().to_string();
        assert!(error.contains("\"a/b\"") && error.contains("cgroupsPath"), "{error}");
    }

    #[test]
    fn labels_count_where_no_annotation_says_otherwise() {
        let labels: BTreeMap<_, _> =
            [("network.ringway.dev", "red"), ("cpus.ringway.dev", "1"), ("x", "y")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into();
        let config = json!({"annotations": {"cpus.ringway.dev": "2"}});
        assert!(may_have_labels(&config).unwrap());
        let wish = read(&config, Outside { labels: Some(&labels), ..OUTSIDE }).unwrap().unwrap();
        assert_eq!(wish.annotations["network.ringway.dev"], "red");
        assert_eq!(wish.annotations["cpus.ringway.dev"], "2");
        assert_eq!(wish.annotations.len(), 2);
        for no in [
            json!({"annotations": {"network.ringway.dev": "red"}}),
            json!({"annotations": {"io.kubernetes.cri.container-type": "container"}}),
        ] {
            assert!(!may_have_labels(&no).unwrap());
        }
    }

    #[test]
    fn a_wrong_shape_is_named() {
        for (config, field) in [
            (json!({"annotations": []}), "annotations"),
            (json!({"annotations": {"network.ringway.dev": "red"}, "mounts": {}}), "mounts"),
            (
                json!({"annotations": {"network.ringway.dev": "red"}, "linux": {"resources": {"cpu": 1, "hugepageLimits": 7}}}),
                "hugepageLimits",
            ),
            (json!([]), "annotations"),
        ] {
            let error = read(&config, OUTSIDE).unwrap_err().to_string();
            assert!(error.contains(field) && !error.contains('\n'), "{error}");
        }
    }
}
