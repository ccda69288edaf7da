//! Where cgroups are, and what a pod's cgroup allows.

use std::fs;
use std::path::{Path, PathBuf};

use nri_plugin_core::annotations::{HUGEPAGES_1GI, HUGEPAGES_2MI};
use nri_plugin_core::hugepages::{HugepageLimit, PageSize};

/// The hierarchies of this machine, or the only one.
pub const ROOT: &str = "/sys/fs/cgroup";

const MIB: u64 = 1 << 20;

/// kubelet limits the cgroup of a whole pod to what its containers request of hugepages; an annotation alone raises the limit of the
/// container, and the kernel goes by the lower of both. The application would end with a bus error or with too little memory.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "annotation {key} asks for {} MiB of hugepages, but the pod as a whole may have {} MiB (cgroup {cgroup}): request {resource} in the \
     container's resources as well",
    .wanted / MIB,
    .allowed / MIB
)]
pub struct PodLimit {
    key: &'static str,
    resource: &'static str,
    wanted: u64,
    allowed: u64,
    cgroup: String,
}

/// Fails when a cgroup above that of a container does not allow what its annotations ask for.
///
/// # Errors
/// [`PodLimit`].
pub fn check_hugepages(cgroup: &str, wanted: &[HugepageLimit]) -> Result<(), PodLimit> {
    check_below(&hierarchies(Path::new(ROOT)).unwrap_or_default(), cgroup, wanted)
}

fn check_below(
    hierarchies: &[PathBuf],
    cgroup: &str,
    wanted: &[HugepageLimit],
) -> Result<(), PodLimit> {
    for limit in wanted {
        for parent in Path::new(relative(cgroup)).ancestors().skip(1) {
            let Some(allowed) =
                hierarchies.iter().find_map(|it| limit_in(&it.join(parent), limit.size))
            else {
                continue;
            };
            if allowed < limit.limit {
                let small = limit.size == PageSize::MIB_2;
                return Err(PodLimit {
                    key: if small { HUGEPAGES_2MI } else { HUGEPAGES_1GI },
                    resource: if small { "hugepages-2Mi" } else { "hugepages-1Gi" },
                    wanted: limit.limit,
                    allowed,
                    cgroup: Path::new("/").join(parent).display().to_string(),
                });
            }
        }
    }
    Ok(())
}

/// The limit that a cgroup of either version sets, if it sets one.
fn limit_in(directory: &Path, size: PageSize) -> Option<u64> {
    let files = [format!("hugetlb.{size}.max"), format!("hugetlb.{size}.limit_in_bytes")];
    let text = files.iter().find_map(|file| fs::read_to_string(directory.join(file)).ok())?;
    text.trim().parse().ok()
}

/// The directories that cgroup paths are relative to: the root itself for version 2, one for each controller for version 1.
pub fn hierarchies(root: &Path) -> Option<Vec<PathBuf>> {
    let entries = fs::read_dir(root).ok()?;
    let below = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Some([root.to_path_buf()].into_iter().chain(below).collect())
}

/// A cgroup's path as it is joined to a hierarchy.
pub fn relative(cgroup: &str) -> &str {
    cgroup.trim_start_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_may_have_less_than_its_container_is_refused() {
        let wanted = [HugepageLimit { size: PageSize::MIB_2, limit: 64 * MIB }];
        let check = |file: &str, value: &str| {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, value).unwrap();
            check_below(&hierarchies(root.path()).unwrap(), "/kubepods/pod1/c1", &wanted)
        };
        // Version 1 and version 2; the pod and what is around it.
        for file in [
            "hugetlb/kubepods/pod1/hugetlb.2MB.limit_in_bytes",
            "kubepods/pod1/hugetlb.2MB.max",
            "kubepods/hugetlb.2MB.max",
        ] {
            let error = check(file, "0\n").unwrap_err();
            assert_eq!((error.wanted, error.allowed), (64 * MIB, 0), "{file}");
            assert!(
                error.to_string().contains("hugepages-2mi.ringway.dev asks for 64 MiB"),
                "{error}"
            );
            assert!(check(file, &(64 * MIB).to_string()).is_ok(), "{file}");
            assert!(check(file, "max\n").is_ok(), "{file}");
        }
        // The container's own limit is what the plugin sets, and other sizes are other pages.
        assert!(check("kubepods/pod1/c1/hugetlb.2MB.max", "0\n").is_ok());
        assert!(check("kubepods/pod1/hugetlb.1GB.max", "0\n").is_ok());
    }
}
