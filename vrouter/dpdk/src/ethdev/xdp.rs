//! AF_XDP sockets of a device, and what DPDK 22.11's driver of them leaves behind.
//!
//! When a device is closed, its driver counts the users of a queue's memory wrong and keeps the socket that the memory belongs to; of
//! several queues it forgets all but the first. As long as such a socket is there, nobody can have another one on that queue of the
//! interface. So the sockets that came with a device are written down, and what is left of them is closed after it.

use std::ffi::c_void;
use std::fs;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::sys::mman::munmap;
use vrouter_dpdk_sys as sys;

/// How DPDK calls the driver.
pub(super) const DRIVER: &str = "net_af_xdp";

/// Two devices whose sockets come at the same time could not be told apart.
static OPENING: Mutex<()> = Mutex::new(());

/// A socket, and what tells it from another one that has its number later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Socket {
    fd: RawFd,
    inode: u64,
}

/// AF_XDP sockets that came with a device.
#[derive(Debug, Default)]
pub(super) struct Sockets(Vec<Socket>);

impl Sockets {
    /// Those that are new after `act`. They are not handed on to programs that are started later: who has one keeps the queue taken.
    pub(super) fn of<T>(act: impl FnOnce() -> T) -> (T, Self) {
        let _opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all();
        let done = act();
        let mut new = all();
        new.retain(|socket| !before.contains(socket));
        for socket in &new {
            // SAFETY: open, for it was just listed, and the driver keeps it open while its device is.
            let fd = unsafe { BorrowedFd::borrow_raw(socket.fd) };
            // All that can go wrong with it is that the descriptor is none.
            let _ = fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        }
        (done, Self(new))
    }

    /// Closes those that are still there.
    ///
    /// # Safety
    /// Their device was closed: nobody uses them, or what is mapped of them.
    pub(super) unsafe fn close(self) {
        let left: Vec<_> = self.0.into_iter().filter(|socket| socket.is_there()).collect();
        if left.is_empty() {
            return;
        }
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        for socket in left {
            for (start, length) in rings(&maps, socket.inode) {
                // SAFETY: rings of a socket of a device that was closed, says the caller: its driver has forgotten them.
                let _ = unsafe { munmap(start, length) };
            }
            // SAFETY: it is the very socket that came with the device, which is closed, says the caller; nobody else has it.
            drop(unsafe { OwnedFd::from_raw_fd(socket.fd) });
        }
    }
}

impl Socket {
    fn is_there(&self) -> bool {
        socket(self.fd) == Some(*self)
    }
}

/// The AF_XDP sockets of this process.
fn all() -> Vec<Socket> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    entries.flatten().filter_map(|entry| socket(number(entry)?)).collect()
}

/// The AF_XDP socket that a descriptor is, if it is one.
fn socket(fd: RawFd) -> Option<Socket> {
    let link = fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
    let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
    let mut domain: libc::c_int = 0;
    let mut length = libc::socklen_t::try_from(size_of_val(&domain)).ok()?;
    // SAFETY: a place for the answer, and how long it is. Whatever the descriptor is by now, nothing is changed.
    let status = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_DOMAIN,
            (&raw mut domain).cast(),
            &raw mut length,
        )
    };
    (status == 0 && domain == libc::AF_XDP).then_some(Socket { fd, inode })
}

/// What is mapped of a socket, in the text of `/proc/self/maps` (proc_pid_maps(5)): address, and bytes.
fn rings(maps: &str, inode: u64) -> Vec<(NonNull<c_void>, usize)> {
    let name = format!("socket:[{inode}]");
    let ring = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        if rest.split_whitespace().nth(4)? != name {
            return None;
        }
        let (start, end) = range.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        let (start, end) = (address(start)?, address(end)?);
        let at = NonNull::new(std::ptr::with_exposed_provenance_mut(start))?;
        Some((at, end.checked_sub(start)?))
    };
    maps.lines().filter_map(ring).collect()
}

/// Has the driver forget the memory of the first queue, which it could not set up: it has freed what it keeps of it, and would write
/// to that when the device is closed. It forgets when it is given buffers that are smaller than the kernel takes.
///
/// # Safety
/// The number of a configured device of this driver that has no queue and is ours.
pub(super) unsafe fn forget_queue(port: u16) {
    let _opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    let room = sys::RINGWAY_MBUF_HEADROOM;
    // SAFETY: a C string for the whole call; the device lives in the environment, which is up.
    let pool =
        unsafe { sys::rte_pktmbuf_pool_create(c"af_xdp_forget".as_ptr(), 1, 0, 0, room, -1) };
    if pool.is_null() {
        return;
    }
    // SAFETY: a device as the caller says, and a pool that is there until it was refused.
    unsafe { sys::ringway_ethdev_rx_queue(port, 0, 0, pool) };
    // SAFETY: made here, and refused.
    unsafe { sys::rte_mempool_free(pool) };
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn rings_are_those_of_one_socket() {
        let maps = "\
7f10c8a00000-7f10c8c00000 rw-p 00000000 00:00 0
7f10c8c1d000-7f10c8c22000 rw-s 180000000 00:08 91234                      socket:[91234]
7f10c8c22000-7f10c8c27000 rw-s 100000000 00:08 912345                     socket:[912345]
7f10c8c30000-7f10c8c34000 rw-s 00000000 00:08 91234                      socket:[91234]
7f10c8d00000-7f10c8d26000 r--p 00000000 fe:00 91234                      /usr/lib/socket:[91234]
";
        let found: Vec<_> =
            rings(maps, 91234).iter().map(|(at, length)| (at.addr().get(), *length)).collect();
        assert_eq!(found, [(0x7f10_c8c1_d000, 0x5000), (0x7f10_c8c3_0000, 0x4000)]);
        assert!(rings(maps, 9).is_empty() && rings("", 1).is_empty());
    }

    #[test]
    fn only_such_sockets_are_found() {
        let (other, _) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(socket(other.as_raw_fd()), None);
        assert_eq!(socket(-1), None);
    }
}
