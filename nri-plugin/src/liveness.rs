//! Whether a pod still runs, told by its cgroups: for pods whose end the runtime does not announce.

use std::path::{Path, PathBuf};

use nri_plugin_core::plan::{ContainerRecord, PodRecord};

/// Where cgroups are.
const ROOT: &str = "/sys/fs/cgroup";

/// Whether the pod's sandbox or one of its containers has a cgroup. Also true when that cannot be told.
pub fn is_alive(record: &PodRecord) -> bool {
    let Some(hierarchies) = hierarchies(Path::new(ROOT)) else { return true };
    cgroups(record).iter().any(|cgroup| exists(&hierarchies, cgroup))
}

/// Those of the containers, and that of the sandbox, which lies beside them under the same name with the sandbox's id.
fn cgroups(record: &PodRecord) -> Vec<String> {
    let sandbox = record.sandbox.as_str();
    let both = |container: &ContainerRecord| {
        [container.cgroup.clone(), container.cgroup.replace(&container.id, sandbox)]
    };
    record.containers.values().flat_map(both).collect()
}

/// The directories that cgroup paths are relative to: the root itself for version 2, one for each controller for version 1.
fn hierarchies(root: &Path) -> Option<Vec<PathBuf>> {
    let entries = std::fs::read_dir(root).ok()?;
    let below = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Some([root.to_path_buf()].into_iter().chain(below).collect())
}

fn exists(hierarchies: &[PathBuf], cgroup: &str) -> bool {
    let relative = cgroup.trim_start_matches('/');
    hierarchies.iter().any(|hierarchy| hierarchy.join(relative).is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::sample;

    #[test]
    fn a_pod_lives_as_long_as_a_cgroup_of_it() {
        let record = sample("sandbox1");
        let root = tempfile::tempdir().unwrap();
        let alive = |path: &str| {
            let directory = root.path().join(path);
            std::fs::create_dir_all(&directory).unwrap();
            let all = hierarchies(root.path()).unwrap();
            let alive = cgroups(&record).iter().any(|cgroup| exists(&all, cgroup));
            std::fs::remove_dir(&directory).unwrap();
            alive
        };
        // Version 2 and version 1; a container, the sandbox, and others.
        assert!(alive("kubepods/pod1/c2"));
        assert!(alive("cpuset/kubepods/pod1/c1"));
        assert!(alive("cpuset/kubepods/pod1/sandbox1"));
        assert!(!alive("cpuset/kubepods/pod1/c3"));
        assert!(!alive("kubepods/pod2/c1"));
        assert!(hierarchies(Path::new("/nonexistent")).is_none());
    }

    #[test]
    fn nothing_of_a_made_up_pod_lives_on_this_machine() {
        assert!(!is_alive(&sample("sandbox1")));
    }
}
