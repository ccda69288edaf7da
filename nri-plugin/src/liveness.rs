//! Whether a pod still runs, told by its cgroups: for pods whose end the runtime does not announce.

use std::fs;
use std::path::{Path, PathBuf};

use nri_plugin_core::cpuset::CpuSet;
use nri_plugin_core::plan::{ContainerRecord, PodRecord};

use crate::cgroups::{ROOT, hierarchies, relative};

/// Whether the pod's sandbox or one of its containers has a cgroup. Also true when that cannot be told.
pub fn is_alive(record: &PodRecord) -> bool {
    let Some(hierarchies) = hierarchies(Path::new(ROOT)) else { return true };
    cgroups(record).iter().any(|cgroup| exists(&hierarchies, cgroup))
}

/// Whether a process is in the cgroup of one of its containers, or below. Also true when that cannot be told.
pub fn is_populated(record: &PodRecord) -> bool {
    let Some(hierarchies) = hierarchies(Path::new(ROOT)) else { return true };
    record.containers.values().any(|container| populated(&hierarchies, &container.cgroup))
}

/// Gives the processes of a cgroup other CPUs. One that has just gone needs none.
pub fn set_cpus(cgroup: &str, cpus: &CpuSet) {
    let hierarchies = hierarchies(Path::new(ROOT)).unwrap_or_default();
    let files = hierarchies.iter().map(|it| it.join(relative(cgroup)).join("cpuset.cpus"));
    for file in files.filter(|file| file.exists()) {
        if let Err(error) = fs::write(&file, cpus.to_string()) {
            tracing::warn!(file = %file.display(), %error, "cannot tell a container its CPUs");
        }
    }
}

fn populated(hierarchies: &[PathBuf], cgroup: &str) -> bool {
    hierarchies.iter().any(|hierarchy| has_process(&hierarchy.join(relative(cgroup)), DEPTH))
}

/// Cgroups that a container makes inside its own, at most so deep; who makes more counts as running.
const DEPTH: u32 = 32;

fn has_process(directory: &Path, depth: u32) -> bool {
    // Of version 2: the whole tree at once.
    if let Ok(events) = fs::read_to_string(directory.join("cgroup.events")) {
        return events.lines().any(|line| line == "populated 1");
    }
    let Ok(entries) = fs::read_dir(directory) else { return false };
    let processes = fs::read_to_string(directory.join("cgroup.procs"));
    depth == 0
        || processes.is_ok_and(|text| !text.trim().is_empty())
        || entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .any(|entry| has_process(&entry.path(), depth - 1))
}

/// Those of the containers, and that of the sandbox, which lies beside them under the same name with the sandbox's id.
fn cgroups(record: &PodRecord) -> Vec<String> {
    let sandbox = record.sandbox.as_str();
    let both = |container: &ContainerRecord| {
        [container.cgroup.clone(), container.cgroup.replace(&container.id, sandbox)]
    };
    record.containers.values().flat_map(both).collect()
}

fn exists(hierarchies: &[PathBuf], cgroup: &str) -> bool {
    hierarchies.iter().any(|hierarchy| hierarchy.join(relative(cgroup)).is_dir())
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
            fs::create_dir_all(&directory).unwrap();
            let all = hierarchies(root.path()).unwrap();
            let alive = cgroups(&record).iter().any(|cgroup| exists(&all, cgroup));
            fs::remove_dir(&directory).unwrap();
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
    fn a_cgroup_is_populated_by_a_process_in_it_or_below() {
        let root = tempfile::tempdir().unwrap();
        let populated = || populated(&hierarchies(root.path()).unwrap(), "/a/c1");
        assert!(!populated(), "there is no such cgroup");
        let deep = root.path().join("pids/a/c1/b");
        fs::create_dir_all(&deep).unwrap();
        for directory in [deep.parent().unwrap(), &deep] {
            fs::write(directory.join("cgroup.procs"), "").unwrap();
        }
        assert!(!populated());
        for file in [deep.join("cgroup.procs"), deep.parent().unwrap().join("cgroup.procs")] {
            fs::write(&file, "77\n").unwrap();
            assert!(populated(), "{}", file.display());
            fs::write(&file, "").unwrap();
        }
        // Version 2 says it for the tree.
        let unified = root.path().join("unified/a/c1");
        fs::create_dir_all(&unified).unwrap();
        for (events, expected) in [("populated 0\nfrozen 0\n", false), ("populated 1\n", true)] {
            fs::write(unified.join("cgroup.events"), events).unwrap();
            assert_eq!(populated(), expected);
        }
    }

    #[test]
    fn nothing_of_a_made_up_pod_lives_on_this_machine() {
        assert!(!is_alive(&sample("sandbox1")));
        assert!(!is_populated(&sample("sandbox1")));
    }
}
