//! Who is at the other end of a pod's socket: the process must be in one of the pod's cgroups. At the other end of a link
//! between vRouters it must be root's.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::port::Peers;

/// Why a peer is not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The kernel can't say who it is.
    #[error("the peer process is unknown: {0}")]
    Unknown(Errno),
    /// It ended (or its pid was reused) before it was identified.
    #[error("process {pid} ended before it was identified")]
    Gone {
        /// Its process id.
        pid: i32,
    },
    /// It belongs to something else.
    #[error("process {pid} is not in the pod's cgroup (it is in {cgroup})")]
    Foreign {
        /// Its process id.
        pid: i32,
        /// Where it really is.
        cgroup: String,
    },
    /// It is somebody's who may not.
    #[error("process {pid} is not root's (it is of user {uid})")]
    NotRoot {
        /// Its process id.
        pid: i32,
        /// Its user.
        uid: u32,
    },
}

/// Checks that the process that connected (or listens) at the other end is one of `peers`.
///
/// The kernel recorded it at connect(2) or listen(2); passing the socket on does not change it. Returns its pid.
///
/// # Errors
/// [`PeerError`]; with no cgroups everybody is foreign.
pub fn check(stream: &UnixStream, peers: &Peers) -> Result<i32, PeerError> {
    match peers {
        Peers::Cgroups(cgroups) => in_cgroups(stream, cgroups),
        Peers::Root => {
            let peer = getsockopt(stream, PeerCredentials).map_err(PeerError::Unknown)?;
            let (pid, uid) = (peer.pid(), peer.uid());
            if uid == 0 { Ok(pid) } else { Err(PeerError::NotRoot { pid, uid }) }
        }
    }
}

fn in_cgroups(stream: &UnixStream, cgroups: &[String]) -> Result<i32, PeerError> {
    // Taken first: while it refers to a live process, the pid below can't have been given to another.
    let pidfd = peer_pidfd(stream);
    let pid = getsockopt(stream, PeerCredentials).map_err(PeerError::Unknown)?.pid();
    let text =
        fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(|_| PeerError::Gone { pid })?;
    match pidfd {
        // An older kernel: the pid is all there is.
        Err(Errno::ENOPROTOOPT) => {}
        Ok(pidfd) if !ended(&pidfd) => {}
        Ok(_) | Err(_) => return Err(PeerError::Gone { pid }),
    }
    if belongs(&text, cgroups) {
        Ok(pid)
    } else {
        let cgroup = most_specific(&text).to_owned();
        Err(PeerError::Foreign { pid, cgroup })
    }
}

/// Linux 6.5 and newer; ENOPROTOOPT on older kernels.
fn peer_pidfd(stream: &UnixStream) -> Result<OwnedFd, Errno> {
    let mut fd: libc::c_int = -1;
    let mut len: libc::socklen_t = 4;
    // SAFETY: `fd` and `len` are live locals of the type and size SO_PEERPIDFD writes (an int).
    let status = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut len,
        )
    };
    Errno::result(status)?;
    // SAFETY: on success the kernel has installed a new descriptor for us that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO) != Ok(0)
}

/// Whether the text of `/proc/PID/cgroup` puts a process into one of `cgroups` or below, in any hierarchy: joining
/// one takes rights on the host that no pod has.
fn belongs(text: &str, cgroups: &[String]) -> bool {
    let wanted = || cgroups.iter().map(|c| c.trim_end_matches('/')).filter(|c| c.starts_with('/'));
    paths(text).any(|path| {
        wanted().any(|want| {
            path.strip_prefix(want).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    })
}

fn paths(text: &str) -> impl Iterator<Item = &str> {
    // hierarchy:controllers:path; a removed cgroup has " (deleted)" behind it, and is nobody's any more.
    text.lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .filter(|path| !path.ends_with(" (deleted)"))
}

fn most_specific(text: &str) -> &str {
    paths(text).max_by_key(|path| path.len()).unwrap_or("none")
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "12:pids:/k8s.io/aaaa\n5:cpuset:/k8s.io/aaaa\n1:name=systemd:/\n0::/\n";
    const V2: &str = "0::/kubepods.slice/pod1.slice/cri-containerd-aaaa.scope\n";

    fn cgroups(list: &[&str]) -> Vec<String> {
        list.iter().map(|&s| s.to_owned()).collect()
    }

    #[test]
    fn a_process_belongs_to_its_cgroup_and_those_above() {
        for (text, wanted, expected) in [
            (V1, &["/k8s.io/aaaa"][..], true),
            (V1, &["/k8s.io/aaaa/"], true),
            (V1, &["/k8s.io/bbbb", "/k8s.io/aaaa"], true),
            (V1, &["/k8s.io"], true),
            (V1, &["/k8s.io/aaa"], false),
            (V1, &["/k8s.io/aaaa/b"], false),
            (V1, &[], false),
            (V1, &[""], false),
            (V1, &["/"], false),
            (V1, &["k8s.io/aaaa"], false),
            (V2, &["/kubepods.slice/pod1.slice/cri-containerd-aaaa.scope"], true),
            (V2, &["/kubepods.slice/pod2.slice"], false),
            ("0::/k8s.io/aaaa (deleted)\n", &["/k8s.io/aaaa"], false),
            ("", &["/k8s.io/aaaa"], false),
        ] {
            assert_eq!(belongs(text, &cgroups(wanted)), expected, "{text:?} in {wanted:?}");
        }
    }

    #[test]
    fn the_kernel_tells_who_connected() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        let text = fs::read_to_string("/proc/self/cgroup").unwrap();
        assert_eq!(check(&ours, &Peers::Root).is_ok(), nix::unistd::getuid().is_root());
        match check(&ours, &Peers::Cgroups(cgroups(&["/no/such/pod"]))) {
            Err(PeerError::Foreign { pid, cgroup }) => {
                assert_eq!(pid, me);
                assert!(text.contains(&cgroup));
            }
            other => panic!("{other:?}"),
        }
    }
}
