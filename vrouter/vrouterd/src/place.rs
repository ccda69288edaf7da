//! The NUMA node that a vRouter keeps to: its threads run there, so that what they touch first lies there.

use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Where Linux tells of its nodes.
pub const NODES: &str = "/sys/devices/system/node";
/// The calling thread.
const CALLER: Pid = Pid::from_raw(0);

/// A node can't be kept to.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It is not there.
    #[error(
        "this machine has no NUMA node {node}; it has {known} (numa_node in the configuration)"
    )]
    Unknown {
        /// As configured.
        node: u32,
        /// Those there are.
        known: String,
    },
    /// None of its CPUs is ours.
    #[error(
        "this process may use none of the CPUs of NUMA node {node} ({cpus}); let it, or choose another (numa_node in \
         the configuration)"
    )]
    NoCpus {
        /// As configured.
        node: u32,
        /// Its CPUs.
        cpus: String,
    },
    /// The system refused.
    #[error("cannot keep to the CPUs of NUMA node {node}")]
    Refused {
        /// As configured.
        node: u32,
        /// What it said.
        #[source]
        errno: Errno,
    },
}

/// Binds the calling thread, and all that it will start, to the CPUs of a node.
///
/// # Errors
/// [`PlaceError`].
pub fn keep_to(node: u32) -> Result<(), PlaceError> {
    let list = cpu_list(Path::new(NODES), node)?;
    let refused = |errno| PlaceError::Refused { node, errno };
    let allowed = sched_getaffinity(CALLER).map_err(refused)?;
    let mut wanted = CpuSet::new();
    let mut some = false;
    for cpu in cpus(&list).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)) {
        wanted.set(cpu).map_err(refused)?;
        some = true;
    }
    if !some {
        return Err(PlaceError::NoCpus { node, cpus: list });
    }
    sched_setaffinity(CALLER, &wanted).map_err(refused)
}

fn cpu_list(nodes: &Path, node: u32) -> Result<String, PlaceError> {
    if let Ok(list) = fs::read_to_string(nodes.join(format!("node{node}/cpulist"))) {
        return Ok(list.trim().to_owned());
    }
    let number =
        |entry: fs::DirEntry| entry.file_name().to_str()?.strip_prefix("node")?.parse::<u32>().ok();
    let entries = fs::read_dir(nodes).into_iter().flatten().flatten();
    let mut known: Vec<_> = entries.filter_map(number).collect();
    known.sort_unstable();
    let known: Vec<_> = known.iter().map(ToString::to_string).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Err(PlaceError::Unknown { node, known })
}

/// The kernel's list notation, `0-3,8`.
fn cpus(list: &str) -> impl Iterator<Item = usize> + '_ {
    list.split(',')
        .filter_map(|run| {
            let (first, last) = run.split_once('-').unwrap_or((run, run));
            Some(first.trim().parse::<usize>().ok()?..=last.trim().parse().ok()?)
        })
        .flatten()
}

/// The NUMA node of a device, by the folder that Linux has for it; a virtio device says it one level up.
pub fn node_of(device: &Path) -> Option<u32> {
    let places: [PathBuf; 2] = [device.join("numa_node"), device.join("../numa_node")];
    let text = places.iter().find_map(|path| fs::read_to_string(path).ok())?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        let read = |list| cpus(list).collect::<Vec<_>>();
        assert_eq!(read("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(read("7"), [7]);
        assert_eq!(read(""), [0; 0]);
    }

    #[test]
    fn a_node_that_is_not_there_is_told_with_those_that_are() {
        let error = cpu_list(Path::new(NODES), 31).unwrap_err().to_string();
        assert!(error.contains("no NUMA node 31; it has 0"), "{error}");
    }

    #[test]
    fn a_device_without_a_node_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let write = |text: &str| fs::write(dir.path().join("numa_node"), text).unwrap();
        assert_eq!(node_of(&dir.path().join("virtio0")), None);
        fs::create_dir(dir.path().join("virtio0")).unwrap();
        write("1\n");
        assert_eq!(node_of(dir.path()), Some(1));
        assert_eq!(node_of(&dir.path().join("virtio0")), Some(1));
        write("-1\n");
        assert_eq!(node_of(dir.path()), None);
    }

    #[test]
    fn a_thread_keeps_to_the_node_it_is_told() {
        std::thread::spawn(|| {
            keep_to(0).unwrap();
            let list = cpu_list(Path::new(NODES), 0).unwrap();
            let ours = sched_getaffinity(CALLER).unwrap();
            let outside = (0..CpuSet::count()).filter(|cpu| ours.is_set(*cpu).unwrap());
            for cpu in outside {
                assert!(cpus(&list).any(|there| there == cpu), "{cpu} is not in {list}");
            }
        })
        .join()
        .unwrap();
    }
}
