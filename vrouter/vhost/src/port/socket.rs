//! The two ways to a pod: a socket we listen on, and a socket in the pod's directory that we connect to.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::stat::{Mode, SFlag, fstat};

use super::SocketOwner;

/// Longest path of a unix socket in bytes (`sun_path` in unix(7), with its terminating zero: 108).
pub const MAX_SOCKET_PATH: usize = 107;

/// A port's socket can't be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// See [`MAX_SOCKET_PATH`].
    #[error(
        "the socket path {} has {len} bytes, unix sockets allow {MAX_SOCKET_PATH}; choose a shorter run_dir",
        path.display()
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its bytes.
        len: usize,
    },
    /// The path is not absolute or names no file.
    #[error("the socket path {} is not absolute with a file name", path.display())]
    NotAbsolute {
        /// The path.
        path: PathBuf,
    },
    /// Something that is not a socket has that name.
    #[error("{} exists and is not a socket; remove it", path.display())]
    Occupied {
        /// The path.
        path: PathBuf,
    },
    /// The directory can't be used.
    #[error("cannot use {}: {source}", path.display())]
    Directory {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Out of threads, descriptors or memory.
    #[error("cannot start a port: {source}")]
    Resources {
        /// What the system said.
        source: io::Error,
    },
}

/// Where connections come from.
pub(super) enum Door {
    /// Our listener. Its file (with this inode number) is removed on drop.
    Listener { listener: UnixListener, path: PathBuf, inode: u64 },
    /// The pod's directory, held so that its name can't be given to another, and the socket's name in it.
    Directory { directory: OwnedFd, name: PathBuf },
}

impl Door {
    pub(super) fn open(path: &Path, owner: SocketOwner) -> Result<Self, SocketError> {
        let len = path.as_os_str().len();
        if len > MAX_SOCKET_PATH {
            return Err(SocketError::TooLong { path: path.to_owned(), len });
        }
        let (Some(parent), Some(name), true) =
            (path.parent(), path.file_name(), path.is_absolute())
        else {
            return Err(SocketError::NotAbsolute { path: path.to_owned() });
        };
        let failed = |source| SocketError::Directory { path: path.to_owned(), source };
        match owner {
            SocketOwner::Vrouter => {
                match fs::symlink_metadata(path) {
                    Ok(found) if found.file_type().is_socket() => {
                        fs::remove_file(path).map_err(failed)?;
                    }
                    Ok(_) => return Err(SocketError::Occupied { path: path.to_owned() }),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(failed(e)),
                }
                let listener = UnixListener::bind(path).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                // Any user of the pod may connect; that it is the pod's is checked by its cgroup, and the
                // directory above is root's alone.
                fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(failed)?;
                let inode = fs::symlink_metadata(path).map_err(failed)?.ino();
                Ok(Self::Listener { listener, path: path.to_owned(), inode })
            }
            SocketOwner::Pod => {
                let flags =
                    OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let directory = open(parent, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
                Ok(Self::Directory { directory, name: PathBuf::from(name) })
            }
        }
    }

    /// What to poll for a new connection; nothing where we connect.
    pub(super) fn listening(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Listener { listener, .. } => Some(listener.as_fd()),
            Self::Directory { .. } => None,
        }
    }

    /// A new connection if there is one now. Never blocks.
    pub(super) fn knock(&self) -> io::Result<Option<UnixStream>> {
        match self {
            Self::Listener { listener, .. } => match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    Ok(Some(stream))
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(e) => Err(e),
            },
            Self::Directory { directory, name } => connect_beneath(directory, name),
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // A port that was created anew meanwhile has a file of its own under the same name.
        if let Self::Listener { path, inode, .. } = self
            && fs::symlink_metadata(&*path).is_ok_and(|found| found.ino() == *inode)
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// Connects to `name` in `directory`. The pod can write there, so nothing it puts there is followed: no symbolic
/// link, no other file system, only a socket in that very directory.
fn connect_beneath(directory: &OwnedFd, name: &Path) -> io::Result<Option<UnixStream>> {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_XDEV,
    );
    let file = match openat2(directory, name, how) {
        Ok(fd) => File::from(fd),
        Err(nix::errno::Errno::ENOENT) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let mode = fstat(&file)?.st_mode & SFlag::S_IFMT.bits();
    if mode != SFlag::S_IFSOCK.bits() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} in the pod's directory is not a socket", name.display()),
        ));
    }
    let stream = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    let address = UnixAddr::new(format!("/proc/self/fd/{}", file.as_raw_fd()).as_str())?;
    match connect(stream.as_raw_fd(), &address) {
        Ok(()) => {
            let stream = UnixStream::from(stream);
            stream.set_nonblocking(false)?;
            Ok(Some(stream))
        }
        // Nobody listens (yet, or any more), or its backlog is full.
        Err(nix::errno::Errno::ECONNREFUSED | nix::errno::Errno::EAGAIN) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_socket_is_reached_but_nothing_it_points_to() {
        let pod = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let target = other.path().join("net0.sock");
        let _other = UnixListener::bind(&target).unwrap();
        let door = Door::open(&pod.path().join("net0.sock"), SocketOwner::Pod).unwrap();

        assert!(door.knock().unwrap().is_none(), "nothing there yet");
        std::os::unix::fs::symlink(&target, pod.path().join("net0.sock")).unwrap();
        assert!(door.knock().is_err(), "a symbolic link was followed");
        fs::remove_file(pod.path().join("net0.sock")).unwrap();
        fs::write(pod.path().join("net0.sock"), "").unwrap();
        let error = door.knock().unwrap_err();
        assert!(error.to_string().contains("not a socket"), "{error}");
        fs::remove_file(pod.path().join("net0.sock")).unwrap();

        let listener = UnixListener::bind(pod.path().join("net0.sock")).unwrap();
        assert!(door.knock().unwrap().is_some());
        drop(listener);
        assert!(door.knock().unwrap().is_none(), "nobody listens any more");
    }

    #[test]
    fn our_socket_replaces_a_stale_one_and_goes_with_the_port() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("net0.sock");
        drop(UnixListener::bind(&path).unwrap());
        let door = Door::open(&path, SocketOwner::Vrouter).unwrap();
        assert!(door.knock().unwrap().is_none());
        let _client = UnixStream::connect(&path).unwrap();
        assert!(door.knock().unwrap().is_some());
        let again = Door::open(&path, SocketOwner::Vrouter).unwrap();
        drop(door);
        assert!(path.exists(), "an old port removed the new one's socket");
        drop(again);
        assert!(!path.exists());
    }

    #[test]
    fn impossible_paths_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(120));
        assert!(matches!(
            Door::open(&long, SocketOwner::Vrouter),
            Err(SocketError::TooLong { len, .. }) if len > 107
        ));
        assert!(matches!(
            Door::open(Path::new("net0.sock"), SocketOwner::Vrouter),
            Err(SocketError::NotAbsolute { .. })
        ));
        let file = dir.path().join("file");
        fs::write(&file, "keep").unwrap();
        assert!(matches!(
            Door::open(&file, SocketOwner::Vrouter),
            Err(SocketError::Occupied { .. })
        ));
        assert_eq!(fs::read_to_string(&file).unwrap(), "keep");
    }
}
