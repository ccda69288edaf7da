//! The node API: generated messages, client and server, how to reach it, and how containers are named in it.
//!
//! Decides nothing and knows no runtime. The runtime wrapper and the NRI plugin meet here and nowhere else.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use tonic::transport::{Channel, Endpoint};

/// Version 1 of the API, generated from `proto/node.proto`, where every field is described.
#[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("ringway.node.v1");
}

/// A client of the node's allocator.
pub type Client = v1::node_client::NodeClient<Channel>;

/// The socket's name in the run directory of `ringway-nri`.
pub const SOCKET: &str = "node.sock";

/// How the sandbox ids of wrappers' containers begin. Those of CRI are hexadecimal and never look so.
const SANDBOX_MARK: &str = "oci-";
/// The same of devices.
const DEVICE_MARK: &str = "cdi-";
/// As long as the ids of CRI, which run directories are measured by.
const SANDBOX_BYTES: usize = 64;

/// Longest name of a device.
const DEVICE_NAME_BYTES: usize = 63;

/// The allocator cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing listens on the socket, or it does not exist.
    #[error("cannot reach ringway-nri at {}; start ringway-nri, or correct run_dir", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What connect(2) said.
        #[source]
        source: tonic::transport::Error,
    },
}

/// Connects to the socket at `path`.
///
/// # Errors
/// [`ConnectError::Unreachable`] when nothing listens there.
pub async fn connect(path: &Path) -> Result<Client, ConnectError> {
    let socket = path.to_path_buf();
    // The URI is never used: the connector below always opens the unix socket.
    let channel = Endpoint::from_static("http://node.invalid")
        .connect_with_connector(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|source| ConnectError::Unreachable { path: path.to_path_buf(), source })?;
    Ok(Client::new(channel))
}

/// The sandbox of a wrapper's container: itself. Ids of runtimes may be anything and are unique only below one state
/// directory, so both are hashed; the name says whose it is, to whatever reads the run directory or the vRouter's ports.
#[must_use]
pub fn sandbox(root: &str, id: &str) -> String {
    // A path has no NUL: no two pairs give the same bytes.
    named(SANDBOX_MARK, &[root.trim_end_matches('/').as_bytes(), &[0], id.as_bytes()])
}

/// The sandbox of a device.
#[must_use]
pub fn device_sandbox(name: &str) -> String {
    named(DEVICE_MARK, &[name.as_bytes()])
}

fn named(mark: &str, parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    let mut name = String::from(mark);
    for byte in hash.finalize() {
        for digit in [byte >> 4, byte & 15] {
            name.push(char::from_digit(digit.into(), 16).unwrap_or_default());
        }
    }
    name.truncate(SANDBOX_BYTES);
    name
}

/// Whether a sandbox is a wrapper's container, as [`sandbox`] names them.
#[must_use]
pub fn is_wrapped(sandbox: &str) -> bool {
    is_named(SANDBOX_MARK, sandbox)
}

/// Whether a sandbox is a device, as [`device_sandbox`] names them.
#[must_use]
pub fn is_device(sandbox: &str) -> bool {
    is_named(DEVICE_MARK, sandbox)
}

/// Whether a sandbox came by this API, so that CRI and NRI know nothing of it.
#[must_use]
pub fn is_ours_alone(sandbox: &str) -> bool {
    is_wrapped(sandbox) || is_device(sandbox)
}

fn is_named(mark: &str, sandbox: &str) -> bool {
    let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    sandbox.len() == SANDBOX_BYTES
        && sandbox.strip_prefix(mark).is_some_and(|rest| rest.chars().all(hex))
}

/// Whether a device may be called so: what CDI allows, beginning with a letter, as its versions before 0.5 want it.
#[must_use]
pub fn is_device_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    (1..=DEVICE_NAME_BYTES).contains(&name.len())
        && name.chars().all(plain)
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_one_name_and_no_other_has_it() {
        let name = sandbox("/run/containerd/runc/default", "test");
        assert_eq!(name, sandbox("/run/containerd/runc/default/", "test"));
        assert_eq!(name.len(), 64);
        assert!(is_wrapped(&name), "{name}");
        for (root, id) in [
            ("/run/containerd/runc/moby", "test"),
            ("/run/containerd/runc/default", "test2"),
            ("/run/containerd/runc/defaul", "ttest"),
        ] {
            assert_ne!(name, sandbox(root, id));
        }
    }

    #[test]
    fn the_names_stay_the_same_from_version_to_version() {
        // printf '/run/runc\0test' | sha256sum
        assert_eq!(
            sandbox("/run/runc", "test"),
            "oci-9457345e436828bc7331a3a7e14e6af1ca1364f56d85c21f629fd15c857b"
        );
    }

    #[test]
    fn devices_are_named_apart_from_containers() {
        let (device, container) = (device_sandbox("web"), sandbox("/run/runc", "web"));
        assert!(is_device(&device) && !is_wrapped(&device), "{device}");
        assert!(is_wrapped(&container) && !is_device(&container), "{container}");
        assert!(is_ours_alone(&device) && is_ours_alone(&container));
        assert!(!is_ours_alone(&"0f".repeat(32)));
        assert_ne!(device, device_sandbox("web2"));
        for (name, good) in [
            ("net-a", true),
            ("a", true),
            ("A.b_c-9", true),
            ("", false),
            ("9a", false),
            ("a-", false),
            ("-a", false),
            ("a/b", false),
            ("a b", false),
            (&*"a".repeat(63), true),
            (&*"a".repeat(64), false),
        ] {
            assert_eq!(is_device_name(name), good, "{name:?}");
        }
    }

    #[test]
    fn cri_names_are_others() {
        let name = sandbox("/run/runc", "test");
        let other = name.replace("oci-", "0ci-");
        for cri in
            [&*"0f".repeat(32), "oci-", "oci-test", &name[..63], &name.to_uppercase(), &other]
        {
            assert!(!is_wrapped(cri), "{cri}");
        }
    }
}
