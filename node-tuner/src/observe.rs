//! Looks at the machine: its files, its network interfaces, its vRouters. And writes down what it saw, as a tree that
//! can be looked at instead.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use node_tuner_core::node::{Observed, Vrouter};
use node_tuner_core::tree::{Entry, PATTERNS, Tree, component_matches};

use crate::ethtool::{self, Ethtool};

/// Name of the file with the vRouters in a captured tree.
const VROUTERS: &str = "vrouters.json";

/// The files below `root` that [`PATTERNS`] and `more` name.
pub fn tree(root: &Path, more: &[String]) -> Result<Tree> {
    let mut tree = Tree::new();
    for pattern in PATTERNS.iter().copied().chain(more.iter().map(String::as_str)) {
        let (pattern, kind) = match pattern.strip_suffix(['@', '?']) {
            Some(stripped) => (stripped, pattern.chars().next_back()),
            None => (pattern, None),
        };
        let components: Vec<&str> = pattern.split('/').collect();
        expand(root, String::new(), &components, kind, &mut tree)?;
    }
    Ok(tree)
}

fn expand(
    root: &Path,
    path: String,
    pattern: &[&str],
    kind: Option<char>,
    tree: &mut Tree,
) -> Result<()> {
    let here = root.join(&path);
    let Some((component, rest)) = pattern.split_first() else {
        if let Some(entry) = entry(&here, kind).with_context(|| here.display().to_string())? {
            tree.insert(path, entry);
        }
        return Ok(());
    };
    let join = |name: &str| if path.is_empty() { name.into() } else { format!("{path}/{name}") };
    if !component.contains(['*', '#']) {
        return expand(root, join(component), rest, kind, tree);
    }
    let entries = match std::fs::read_dir(&here) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(()),
        Err(error) => return Err(error).with_context(|| here.display().to_string()),
    };
    for entry in entries {
        let name = entry?.file_name();
        if let Some(name) = name.to_str().filter(|name| component_matches(component, name)) {
            expand(root, join(name), rest, kind, tree)?;
        }
    }
    Ok(())
}

fn entry(path: &Path, kind: Option<char>) -> io::Result<Option<Entry>> {
    let found = match kind {
        Some('@') => std::fs::read_link(path)
            .map(|target| Entry::Link(target.to_string_lossy().into_owned())),
        Some(_) => std::fs::symlink_metadata(path).map(|_| Entry::There),
        None => std::fs::read(path)
            .map(|bytes| Entry::File(String::from_utf8_lossy(&bytes).into_owned())),
    };
    match found {
        Ok(entry) => Ok(Some(entry)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Not there, or a file of the kernel that has nothing to say: the speed of a link that is down (EINVAL), the XPS mask of
/// a single queue (ENOENT), an affinity of nothing (EIO), one that only root may read.
fn is_absent(error: &io::Error) -> bool {
    let quiet = [
        nix::errno::Errno::EINVAL,
        nix::errno::Errno::EIO,
        nix::errno::Errno::ENODEV,
        nix::errno::Errno::EOPNOTSUPP,
        nix::errno::Errno::ENXIO,
    ];
    matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::PermissionDenied
    ) || quiet.iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

/// The machine below `root`, with the files `more` beside the usual ones. `vrouters` are those that answer; of a captured
/// machine, those that were recorded.
pub fn machine(
    root: &Path,
    more: &[String],
    ethtool: &mut dyn Ethtool,
    vrouters: Vec<Vrouter>,
) -> Result<Observed> {
    let tree = tree(root, more)?;
    let mut infos = BTreeMap::new();
    for name in tree.names("sys/class/net") {
        let link = tree.link(&format!("sys/class/net/{name}")).unwrap_or_default();
        let pci = link.split('/').rev().find(|part| {
            root.join("sys/bus/pci/devices").join(part).exists() && part.contains(':')
        });
        let info = ethtool.get(name, pci).with_context(|| format!("ethtool of {name}"))?;
        infos.insert(name.to_owned(), info);
    }
    let recorded = root.join(VROUTERS);
    let vrouters = match std::fs::read(&recorded) {
        Ok(bytes) if root != Path::new("/") => {
            serde_json::from_slice(&bytes).with_context(|| recorded.display().to_string())?
        }
        _ => vrouters,
    };
    Ok(Observed { tree, ethtool: infos, vrouters })
}

/// Writes what was observed below `directory`, which must be empty or not there.
pub fn capture(observed: &Observed, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let occupied = std::fs::read_dir(directory)?.next().is_some();
    anyhow::ensure!(!occupied, "{} is not empty; name a new directory", directory.display());
    // The order of paths has links before what is read through them.
    for (path, entry) in observed.tree.entries() {
        let path = directory.join(path);
        let parent = path.parent().unwrap_or(directory);
        let written = std::fs::create_dir_all(parent).and_then(|()| match entry {
            Entry::File(text) => std::fs::write(&path, text),
            Entry::There => std::fs::create_dir_all(&path),
            Entry::Link(target) => link(&path, parent, target),
        });
        written.with_context(|| path.display().to_string())?;
    }
    let json = |name: &str, bytes: serde_json::Result<Vec<u8>>| -> Result<()> {
        Ok(std::fs::write(directory.join(name), bytes?)?)
    };
    json(ethtool::RECORD, serde_json::to_vec_pretty(&observed.ethtool))?;
    json(VROUTERS, serde_json::to_vec_pretty(&observed.vrouters))
}

/// A link like the kernel's. Where other files are read through it, its target has to be there, too.
fn link(path: &Path, parent: &Path, target: &str) -> io::Result<()> {
    let folder: PathBuf = parent.join(target);
    if !target.contains("/drivers/") {
        std::fs::create_dir_all(folder)?;
    }
    symlink(target, path)
}

#[cfg(test)]
pub(crate) mod tests {
    use node_tuner_core::node::Node;

    use super::*;
    use crate::ethtool::Recorded;

    /// A machine of one of the core's shapes, as a directory.
    pub(crate) fn shape(name: &str, directory: &Path) {
        let shapes = Path::new(env!("CARGO_MANIFEST_DIR")).join("core/testdata");
        let text = std::fs::read_to_string(shapes.join(format!("{name}.tree"))).unwrap();
        let tree = Tree::from_text(&text).unwrap();
        capture(&Observed { tree, ..Observed::default() }, directory).unwrap();
    }

    #[test]
    fn a_captured_machine_is_seen_as_it_was() {
        for name in ["vm", "two-sockets", "four-nodes", "arm", "hybrid", "bare", "cxl"] {
            let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            shape(name, first.path());
            let seen = |root: &Path| {
                let vrouters = vec![Vrouter { socket: "x".into(), ..Vrouter::default() }];
                machine(root, &[], &mut Recorded::of(root), vrouters).unwrap()
            };
            let one = seen(first.path());
            assert!(one.vrouters.is_empty(), "recorded ones count");
            let second = second.path().join("new");
            capture(&one, &second).unwrap();
            assert_eq!(seen(&second), one, "{name}");
            Node::parse(&one).unwrap();
            let again = capture(&one, &second).unwrap_err().to_string();
            assert!(again.contains("is not empty"), "{again}");
        }
    }

    #[test]
    fn this_machine_is_understood() {
        let mut live = ethtool::Live::open().unwrap();
        let observed = machine(Path::new("/"), &[], &mut live, Vec::new()).unwrap();
        let node = Node::parse(&observed).unwrap();
        let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
        assert_eq!(node.cpu.online.to_string(), online.trim());
        let directory = tempfile::tempdir().unwrap();
        capture(&observed, directory.path()).unwrap();
        let mut recorded = Recorded::of(directory.path());
        let again = machine(directory.path(), &[], &mut recorded, Vec::new()).unwrap();
        assert_eq!(again, observed);
    }
}
