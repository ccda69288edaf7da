//! The control socket: who may open it, and that there is only one vRouter behind it.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};

/// The control socket can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Somebody answers there.
    #[error("another ringway-vrouter serves {}; stop it or change control_socket", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is not a socket has that name.
    #[error("control_socket {}: exists and is not a socket; remove it", path.display())]
    Occupied {
        /// The path.
        path: PathBuf,
    },
    /// The group does not exist.
    #[error(
        "control_group {group:?}: there is no such group; create it or leave control_group out"
    )]
    UnknownGroup {
        /// Its name.
        group: String,
    },
    /// Another failure.
    #[error("control_socket {}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The control socket, listening.
pub struct Control {
    path: PathBuf,
    group: Option<Gid>,
    listener: UnixListener,
}

impl Control {
    /// Listens at `path`, for root and `group`.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn listen(path: &Path, group: Option<&str>) -> Result<Self, ControlError> {
        let failed = |source| ControlError::Io { path: path.to_owned(), source };
        let group = group
            .map(|name| match Group::from_name(name) {
                Ok(Some(found)) => Ok(found.gid),
                Ok(None) | Err(_) => Err(ControlError::UnknownGroup { group: name.to_owned() }),
            })
            .transpose()?;
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(ControlError::Occupied { path: path.to_owned() });
            }
            Ok(_) if StdStream::connect(path).is_ok() => {
                return Err(ControlError::InUse { path: path.to_owned() });
            }
            Ok(_) => fs::remove_file(path).map_err(failed)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed)?;
        if let Some(gid) = group {
            chown(path, None, Some(gid.as_raw())).map_err(failed)?;
        }
        Ok(Self { path: path.to_owned(), group, listener })
    }

    /// Connections of those who may connect. The file's mode keeps others out; this does so again, for a file
    /// whose mode somebody has changed.
    pub fn connections(self) -> (impl Stream<Item = io::Result<UnixStream>>, SocketFile) {
        let group = self.group;
        let stream = UnixListenerStream::new(self.listener)
            .filter(move |stream| stream.as_ref().map_or(true, |s| allowed(s, group)));
        (stream, SocketFile(self.path))
    }
}

/// The file of the socket; removed when this is dropped.
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Gone already is fine.
        let _ = fs::remove_file(&self.0);
    }
}

fn allowed(stream: &UnixStream, group: Option<Gid>) -> bool {
    let Ok(peer) = stream.peer_cred() else { return false };
    let ok = peer.uid() == 0 || group.is_some_and(|g| g.as_raw() == peer.gid());
    if !ok {
        tracing::warn!(uid = peer.uid(), pid = ?peer.pid(), "control connection refused");
    }
    ok
}
