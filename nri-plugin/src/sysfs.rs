//! Reads the files that a machine's topology is made of.

use std::io;
use std::path::{Path, PathBuf};

use nri_plugin_core::topology::{
    SYSFS_FILES, SysfsText, Topology, TopologyError, component_matches,
};

/// The machine's topology cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SysfsError {
    /// A directory or file that is there cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What it says makes no sense.
    #[error(transparent)]
    Topology(#[from] TopologyError),
}

/// The machine below `root`, usually `/sys`.
pub fn topology(root: &Path) -> Result<Topology, SysfsError> {
    let mut text = SysfsText::new();
    for pattern in SYSFS_FILES {
        let components: Vec<&str> = pattern.split('/').collect();
        read(root, String::new(), &components, &mut text)?;
    }
    Ok(Topology::parse(&text)?)
}

/// Adds each file that `pattern` means below `root`/`path`. What is not there is left out: CPUs and memory come and go.
fn read(
    root: &Path,
    path: String,
    pattern: &[&str],
    text: &mut SysfsText,
) -> Result<(), SysfsError> {
    let here = root.join(&path);
    let unreadable = |source| SysfsError::Unreadable { path: here.clone(), source };
    let Some((component, rest)) = pattern.split_first() else {
        match std::fs::read_to_string(&here) {
            Ok(content) => text.insert(path, content),
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(unreadable(error)),
        }
        return Ok(());
    };
    let join = |name: &str| if path.is_empty() { name.into() } else { format!("{path}/{name}") };
    if !component.contains('*') {
        return read(root, join(component), rest, text);
    }
    let entries = match std::fs::read_dir(&here) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(()),
        Err(error) => return Err(unreadable(error)),
    };
    for entry in entries {
        let name = entry.map_err(unreadable)?.file_name();
        if let Some(name) = name.to_str().filter(|name| component_matches(component, name)) {
            read(root, join(name), rest, text)?;
        }
    }
    Ok(())
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_read_and_what_is_missing_is_named() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert!(topology(root.path()).unwrap_err().to_string().contains("cpu/online"));
        write("devices/system/cpu/online", "0-3\n");
        write("devices/system/cpu/cpufreq/ignored", "x");
        write("devices/system/node/online", "0-1\n");
        for (node, cpus) in [(0, "0-1\n"), (1, "2-3\n")] {
            let node = format!("devices/system/node/node{node}");
            write(&format!("{node}/cpulist"), cpus);
            write(&format!("{node}/hugepages/hugepages-2048kB/nr_hugepages"), "7\n");
            write(&format!("{node}/hugepages/hugepages-2048kB/free_hugepages"), "3\n");
        }
        let topology = topology(root.path()).unwrap();
        assert_eq!(topology.online().to_string(), "0-3");
        let nodes: Vec<_> =
            topology.nodes().map(|n| (n.cpus.to_string(), n.hugepages[0].total)).collect();
        assert_eq!(nodes, [("0-1".to_owned(), 7), ("2-3".to_owned(), 7)]);
    }

    #[test]
    fn this_machine_is_understood() {
        let topology = topology(Path::new("/sys")).unwrap();
        let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
        assert_eq!(topology.online().to_string(), online.trim());
    }
}
