//! The cgroups of a pod and of a container, before it exists, from what NRI says.

use std::fmt::Write as _;

/// `cgroups_path` of a container is of neither known form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cgroup path {path:?} of the container is neither \"/a/b/id\" nor \"slice:prefix:id\"; set SystemdCgroup in containerd's runtime options to what the node uses"
)]
pub struct CgroupError {
    /// As NRI gave it.
    pub path: String,
}

/// The absolute cgroup path, as `/proc/PID/cgroup` shows it, of a container whose NRI `linux.cgroups_path` is `path`.
///
/// `/a/b/id` (cgroupfs driver) is the path itself. `a-b.slice:prefix:id` (systemd driver) is the scope
/// `prefix-id.scope` below the slice, and a slice's name spells out its parents (systemd.slice(5)).
///
/// # Errors
/// [`CgroupError`] for anything else, above all for paths that would name a parent of other pods.
pub fn container_cgroup(path: &str) -> Result<String, CgroupError> {
    let bad = || CgroupError { path: path.chars().take(256).collect() };
    if let Some(relative) = path.strip_prefix('/') {
        return if relative.split('/').all(is_name) { Ok(path.to_owned()) } else { Err(bad()) };
    }
    let mut parts = path.split(':');
    let (Some(slice), Some(prefix), Some(id), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(bad());
    };
    if !is_name(id) || !(prefix.is_empty() || is_name(prefix)) {
        return Err(bad());
    }
    // runc's default where the runtime names none.
    let slice = if slice.is_empty() { "system.slice" } else { slice };
    let mut absolute = expand_slice(slice).ok_or_else(bad)?;
    // Writing to a String cannot fail.
    let _ = match prefix {
        "" => write!(absolute, "/{id}.scope"),
        _ => write!(absolute, "/{prefix}-{id}.scope"),
    };
    Ok(absolute)
}

/// The absolute cgroup of a pod whose NRI `linux.cgroup_parent` is `parent` and whose id at the API server is `uid`, if that cgroup is the pod's
/// own: kubelet names it after the pod (`/kubepods/burstable/podUID`, or `kubepods-burstable-podUID.slice` with `_` for each `-` of the id).
/// `None` for all others: several pods may share them.
#[must_use]
pub fn pod_cgroup(parent: &str, uid: &str) -> Option<String> {
    if uid.is_empty() || !is_name(uid) {
        return None;
    }
    if let Some(relative) = parent.strip_prefix('/') {
        let own = relative.rsplit('/').next()?.strip_prefix("pod") == Some(uid);
        return (own && relative.split('/').all(is_name)).then(|| parent.to_owned());
    }
    let name = parent.strip_suffix(".slice")?;
    let own = name.rsplit('-').next()?.strip_prefix("pod") == Some(&*uid.replace('-', "_"));
    own.then(|| expand_slice(parent)).flatten()
}

/// Whether a cgroup is another one, or below it.
#[must_use]
pub fn is_within(cgroup: &str, outer: &str) -> bool {
    cgroup.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// `a-b-c.slice` is `/a.slice/a-b.slice/a-b-c.slice`; `-.slice` is the root.
fn expand_slice(slice: &str) -> Option<String> {
    let name = slice.strip_suffix(".slice")?;
    let mut absolute = String::new();
    if name == "-" {
        return Some(absolute);
    }
    if !is_name(name) || name.split('-').any(str::is_empty) {
        return None;
    }
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    for end in ends {
        absolute.push('/');
        absolute.push_str(name.get(..end)?);
        absolute.push_str(".slice");
    }
    Some(absolute)
}

fn is_name(part: &str) -> bool {
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && c != '/' && c != ':';
    !part.is_empty() && part != "." && part != ".." && part.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::{container_cgroup, is_within, pod_cgroup};

    #[test]
    fn both_drivers() {
        for (path, expected) in [
            ("/kubepods/burstable/pod1/abc", "/kubepods/burstable/pod1/abc"),
            ("/k8s.io/abc", "/k8s.io/abc"),
            (
                "kubepods-burstable-pod1a_2b.slice:cri-containerd:abc",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1a_2b.slice/cri-containerd-abc.scope",
            ),
            ("system.slice:nerdctl:abc", "/system.slice/nerdctl-abc.scope"),
            (":cri-containerd:abc", "/system.slice/cri-containerd-abc.scope"),
            ("user.slice::abc", "/user.slice/abc.scope"),
            ("-.slice:x:abc", "/x-abc.scope"),
        ] {
            assert_eq!(container_cgroup(path).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn a_pods_cgroup_is_its_own_or_not_taken() {
        let uid = "1a-2b";
        for (parent, expected) in [
            ("/kubepods/burstable/pod1a-2b", Some("/kubepods/burstable/pod1a-2b")),
            ("/pod1a-2b", Some("/pod1a-2b")),
            (
                "kubepods-burstable-pod1a_2b.slice",
                Some("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1a_2b.slice"),
            ),
            // Others may be in there, too.
            ("", None),
            ("/", None),
            ("/kubepods", None),
            ("/kubepods/pod1a-2b/x", None),
            ("/kubepods/pod1a-2c", None),
            ("/kubepods/xpod1a-2b", None),
            ("/kubepods/1a-2b", None),
            ("/kubepods/../pod1a-2b", None),
            ("kubepods/pod1a-2b", None),
            ("kubepods-burstable.slice", None),
            ("kubepods-pod1a-2b.slice", None),
            ("kubepods--pod1a_2b.slice", None),
            ("system.slice", None),
        ] {
            assert_eq!(pod_cgroup(parent, uid).as_deref(), expected, "{parent}");
        }
        for uid in ["", "..", "a/b", "a b"] {
            assert_eq!(pod_cgroup(&format!("/kubepods/pod{uid}"), uid), None, "{uid}");
        }
        let within = |cgroup: &str, outer: &str| is_within(cgroup, outer);
        assert!(within("/a/b", "/a/b") && within("/a/b/c", "/a/b"));
        assert!(!within("/a/bc", "/a/b") && !within("/a", "/a/b"));
    }

    #[test]
    fn anything_that_could_name_others_is_refused() {
        for bad in [
            "",
            "/",
            "//",
            "/a/../b",
            "/a/./b",
            "/a//b",
            "/a/",
            "a/b",
            "a.slice",
            "a.slice:b",
            "a.slice:b:",
            "a:b:c",
            "a.slice:b:c:d",
            "a--b.slice:x:y",
            "-a.slice:x:y",
            "a/b.slice:x:y",
            "a.slice:x/..:y",
            "a.slice:x:../y",
            "/a b",
            "/a\nb",
        ] {
            let error = container_cgroup(bad).unwrap_err().to_string();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
    }
}
