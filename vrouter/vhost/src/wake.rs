//! How a sleeping worker is woken: by a pod's kick, or by the control side.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// What one worker sleeps on. The control side adds and removes kick descriptors from other threads.
///
/// Kicks are watched edge-triggered and never read: nothing a pod does to its eventfd can block the worker.
pub struct Wake {
    epoll: Epoll,
    event: EventFd,
}

impl Wake {
    /// Makes an empty set.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&event, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0))?;
        Ok(Self { epoll, event })
    }

    /// Sleeps until something happens, at most `limit`.
    ///
    /// # Errors
    /// epoll_wait(2) other than EINTR.
    pub fn wait(&self, limit: Duration) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 16];
        let limit = EpollTimeout::try_from(limit).unwrap_or(EpollTimeout::MAX);
        match self.epoll.wait(&mut events, limit) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Wakes the worker, now or at its next attempt to sleep.
    pub fn wake(&self) {
        // The counter can't be full for long: each write is an edge, and 2^64 of them are never pending.
        let _ = self.event.write(1);
    }

    pub(crate) fn add(&self, kick: BorrowedFd<'_>) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 1);
        Ok(self.epoll.add(kick, event)?)
    }

    pub(crate) fn remove(&self, kick: BorrowedFd<'_>) {
        // Unknown is fine: the wish is that it is not there.
        let _ = self.epoll.delete(kick.as_fd());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_wake_before_the_sleep_is_not_lost() {
        let wake = Wake::new().unwrap();
        wake.wake();
        let start = Instant::now();
        wake.wait(LONG).unwrap();
        assert!(start.elapsed() < LONG / 2);
    }

    #[test]
    fn each_kick_wakes_once_without_being_read() {
        let wake = Wake::new().unwrap();
        let kick = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
        wake.add(kick.as_fd()).unwrap();
        for _ in 0..3 {
            kick.write(1).unwrap();
            let start = Instant::now();
            wake.wait(LONG).unwrap();
            assert!(start.elapsed() < LONG / 2);
        }
        let start = Instant::now();
        wake.wait(Duration::from_millis(20)).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(19), "an old kick woke again");
        wake.remove(kick.as_fd());
        kick.write(1).unwrap();
        let start = Instant::now();
        wake.wait(Duration::from_millis(20)).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(19), "a removed kick woke");
    }
}
