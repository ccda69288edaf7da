//! Where a pod's things are on the host: `<run_dir>/pods/<sandbox id>/<slot>/net0.sock`.
//!
//! The directory of a slot is what a container gets mounted; the plugin's own record lies beside the slots, where no
//! pod sees it.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a slot's directory is mounted inside the container.
pub const MOUNT_POINT: &str = "/run/ringway";
/// The file inside a slot's directory that describes its interfaces to the application.
pub const INTERFACES_FILE: &str = "interfaces.json";
/// The plugin's own record of a pod, inside the pod's directory and outside every slot.
pub const RECORD_FILE: &str = "record.json";

/// Bytes of a unix socket address, its closing NUL included (`sun_path` in unix(7)).
const SOCKET_PATH_BYTES: usize = 108;
/// Longest sandbox id; containerd's have 64 characters.
const SANDBOX_ID_BYTES: usize = 128;

/// A pod sandbox's id: a plain file name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SandboxId(String);

/// Which set of interfaces of a pod: 0 is shared by its containers, others belong to one container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

impl Slot {
    /// The interfaces the pod's containers share.
    pub const POD: Self = Self(0);
}

/// The vRouter's id of a pod's port: `<sandbox id>/<slot>/<interface>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId {
    /// Whose port.
    pub sandbox: SandboxId,
    /// Which set of its interfaces.
    pub slot: Slot,
    /// The interface's name, `net0`.
    pub interface: String,
}

/// A name or a path that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The runtime's sandbox id would leave its directory.
    #[error(
        "sandbox id {id:?} is no plain name of 1 to {SANDBOX_ID_BYTES} letters, digits and `_.-`; the container runtime is not one we know"
    )]
    SandboxId {
        /// As the runtime gave it.
        id: String,
    },
    /// The socket's path does not fit a unix address.
    #[error(
        "socket path {} has {bytes} bytes, and a unix socket path must be shorter than {SOCKET_PATH_BYTES}; set a shorter run_dir than {} in nri.toml and vrouter.toml, or a shorter interface name",
        path.display(), run_dir.display()
    )]
    SocketTooLong {
        /// The path that was to be used.
        path: PathBuf,
        /// Its length.
        bytes: usize,
        /// The part of it an operator chooses.
        run_dir: PathBuf,
    },
}

impl SandboxId {
    /// Checks that `id` is a plain file name.
    ///
    /// # Errors
    /// [`PathError::SandboxId`] if it is not.
    pub fn new(id: &str) -> Result<Self, PathError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let first = id.starts_with(|c: char| c.is_ascii_alphanumeric());
        if first && id.len() <= SANDBOX_ID_BYTES && id.chars().all(plain) && !id.contains("..") {
            return Ok(Self(id.to_owned()));
        }
        Err(PathError::SandboxId { id: id.chars().take(SANDBOX_ID_BYTES + 1).collect() })
    }

    /// The id as the runtime writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.sandbox, self.slot, self.interface)
    }
}

impl PortId {
    /// Reads what `Display` writes. `None` for a port that is not one of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '/');
        let sandbox = SandboxId::new(parts.next()?).ok()?;
        let slot = Slot(parts.next()?.parse().ok()?);
        let interface = parts.next().filter(|name| is_interface_name(name))?.to_owned();
        let id = Self { sandbox, slot, interface };
        // Other spellings of the number are not ours.
        (id.to_string() == text).then_some(id)
    }
}

/// Whether a pod's interface may be called so: it becomes part of a file name and of a DPDK device argument.
pub(crate) fn is_interface_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.len() <= 15
        && name.chars().all(plain)
}

/// Below which all pods' directories are: root-only.
#[must_use]
pub fn pods_directory(run_dir: &Path) -> PathBuf {
    run_dir.join("pods")
}

/// One pod's directory: root-only.
#[must_use]
pub fn pod_directory(run_dir: &Path, sandbox: &SandboxId) -> PathBuf {
    pods_directory(run_dir).join(sandbox.as_str())
}

/// The plugin's record of one pod.
#[must_use]
pub fn record_file(run_dir: &Path, sandbox: &SandboxId) -> PathBuf {
    pod_directory(run_dir, sandbox).join(RECORD_FILE)
}

/// The directory that is mounted into the slot's containers.
#[must_use]
pub fn slot_directory(run_dir: &Path, sandbox: &SandboxId, slot: Slot) -> PathBuf {
    pod_directory(run_dir, sandbox).join(slot.to_string())
}

/// The vhost-user socket of one interface, on the host.
///
/// # Errors
/// [`PathError::SocketTooLong`] when it does not fit a unix address.
pub fn socket(run_dir: &Path, port: &PortId) -> Result<PathBuf, PathError> {
    let path =
        slot_directory(run_dir, &port.sandbox, port.slot).join(format!("{}.sock", port.interface));
    let bytes = path.as_os_str().len();
    if bytes < SOCKET_PATH_BYTES {
        return Ok(path);
    }
    Err(PathError::SocketTooLong { path, bytes, run_dir: run_dir.to_path_buf() })
}

/// The same socket as the container sees it.
#[must_use]
pub fn socket_in_container(interface: &str) -> String {
    format!("{MOUNT_POINT}/{interface}.sock")
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{PathError, PortId, SandboxId, Slot, pod_directory, record_file, socket};

    fn port(sandbox: &str) -> PortId {
        PortId {
            sandbox: SandboxId::new(sandbox).unwrap(),
            slot: Slot::POD,
            interface: "net0".into(),
        }
    }

    #[test]
    fn sandbox_ids_are_plain_names() {
        for good in ["a", &"0f".repeat(32), "pod_1.x-y"] {
            assert_eq!(SandboxId::new(good).unwrap().as_str(), good);
        }
        for bad in
            ["", ".", "..", "a/b", "/a", "a..b", "-a", ".a", "a b", "a\n", "a\0", &"a".repeat(129)]
        {
            let error = SandboxId::new(bad).unwrap_err();
            assert!(matches!(error, PathError::SandboxId { .. }), "{bad}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }

    #[test]
    fn layout() {
        let run_dir = Path::new("/run/ringway");
        let id = port("abc");
        assert_eq!(pod_directory(run_dir, &id.sandbox), PathBuf::from("/run/ringway/pods/abc"));
        assert_eq!(
            record_file(run_dir, &id.sandbox),
            PathBuf::from("/run/ringway/pods/abc/record.json")
        );
        assert_eq!(
            socket(run_dir, &id).unwrap(),
            PathBuf::from("/run/ringway/pods/abc/0/net0.sock")
        );
    }

    #[test]
    fn a_socket_path_has_at_most_107_bytes() {
        let id = port(&"f".repeat(64));
        // "/pods/" + 64 + "/0/net0.sock" are 82 bytes.
        let longest = format!("/{}", "r".repeat(24));
        assert_eq!(socket(Path::new(&longest), &id).unwrap().as_os_str().len(), 107);
        let error = socket(Path::new(&format!("{longest}r")), &id).unwrap_err().to_string();
        for part in ["108 bytes", "shorter than 108", "run_dir", "/rrr"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn port_ids_round_trip_and_others_are_not_ours() {
        let id = PortId { slot: Slot(3), ..port("abc") };
        assert_eq!(id.to_string(), "abc/3/net0");
        assert_eq!(PortId::parse("abc/3/net0"), Some(id));
        for other in [
            "",
            "abc",
            "abc/0",
            "abc/x/net0",
            "../0/net0",
            "abc/0/net0/x",
            "abc/00/net0",
            "abc/+1/net0",
            "abc/0/",
        ] {
            assert_eq!(PortId::parse(other), None, "{other}");
        }
    }
}
