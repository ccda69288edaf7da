//! What a file descriptor that came through a socket really is.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::sys::stat::{SFlag, fstat};
use nix::sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC, fstatfs};

use crate::memory::page_bytes;

/// A descriptor's kind, as far as the guard cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An eventfd.
    Event,
    /// Memory: a file of tmpfs or hugetlbfs (memfd or not) with its size and page size in bytes.
    Memory { size: u64, page: u64 },
    /// Anything else. A file of another file system is no memory: a page of it may never come (FUSE, NFS).
    Other,
}

/// Looks at a descriptor.
pub(crate) fn kind(fd: BorrowedFd<'_>) -> Kind {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    if std::fs::read_link(link).is_ok_and(|to| to.as_os_str() == "anon_inode:[eventfd]") {
        return Kind::Event;
    }
    let (Ok(stat), Ok(fs)) = (fstat(fd), fstatfs(fd.as_fd())) else { return Kind::Other };
    let regular = stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits();
    let in_memory = [TMPFS_MAGIC, HUGETLBFS_MAGIC].contains(&fs.filesystem_type());
    match (regular && in_memory, u64::try_from(stat.st_size), page_bytes(fd)) {
        (true, Ok(size), Ok(page)) if page.is_power_of_two() => Kind::Memory { size, page },
        _ => Kind::Other,
    }
}

/// The descriptors that the kernel has put into a control buffer (cmsg(3)), which was zero before. They are open in this
/// process, whatever else is wrong with the message.
///
/// The library's own reading gives none for a message whose descriptors were cut off, although those before are there.
pub(crate) fn received(control: &[u8]) -> Vec<RawFd> {
    const WORD: usize = size_of::<usize>();
    const HEADER: usize = size_of::<libc::cmsghdr>();
    let int = |bytes: &[u8]| bytes.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
    let mut fds = Vec::new();
    let mut rest = control;
    while let Some(len) = rest.first_chunk::<WORD>().map(|bytes| usize::from_ne_bytes(*bytes)) {
        let Some(message) = rest.get(..len).filter(|message| message.len() >= HEADER) else {
            break;
        };
        let kind =
            [int(message.get(WORD..).unwrap_or(&[])), int(message.get(WORD + 4..).unwrap_or(&[]))];
        if kind == [Some(libc::SOL_SOCKET), Some(libc::SCM_RIGHTS)] {
            fds.extend(message.get(HEADER..).unwrap_or(&[]).chunks_exact(4).filter_map(int));
        }
        rest = rest.get(len.next_multiple_of(WORD)..).unwrap_or(&[]);
    }
    fds
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::eventfd::EventFd;
    use nix::sys::memfd::{MFdFlags, memfd_create};

    #[test]
    fn kinds_are_told_apart() {
        let event = EventFd::new().unwrap();
        assert_eq!(kind(event.as_fd()), Kind::Event);
        let memory = memfd_create(c"test", MFdFlags::MFD_CLOEXEC).unwrap();
        nix::unistd::ftruncate(&memory, 12288).unwrap();
        assert_eq!(kind(memory.as_fd()), Kind::Memory { size: 12288, page: 4096 });
        let (read, _write) = nix::unistd::pipe().unwrap();
        assert_eq!(kind(read.as_fd()), Kind::Other);
        let proc = std::fs::File::open("/proc/self/stat").unwrap();
        assert_eq!(kind(proc.as_fd()), Kind::Other);
    }
}
