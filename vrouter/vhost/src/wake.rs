//! How a sleeping worker is woken: by a pod's kick, or by the control side.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

/// What is said of the control side; no port has it.
const CONTROL: u64 = u64::MAX;

/// Events that are taken from the kernel at once.
const AT_ONCE: usize = 16;

/// Ports for whose sake the control side can wake a worker before it has to look at all of them.
const POKED: usize = 8;

/// What a port's kicks say of it to the worker they wake: whatever the control side wants, its index for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u32);

/// Who woke a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// The control side, for the sake of all ports: none is certain to kick.
    pub control: bool,
    /// Something happened, if only that a new snapshot is there or the worker is to end. It is told once: look before
    /// sleeping again.
    pub anything: bool,
    ports: [Token; AT_ONCE + POKED],
    count: usize,
}

impl Woken {
    /// The ports that want to be looked at: their pods have kicked, or one of their queues has been started or is to be
    /// drained. There may be more: those are told next time, at once.
    pub fn ports(&self) -> &[Token] {
        self.ports.get(..self.count).unwrap_or(&[])
    }

    fn add(&mut self, port: Token) {
        if let Some(next) = self.ports.get_mut(self.count) {
            *next = port;
            self.count += 1;
        }
    }
}

/// Why the control side has woken the worker.
#[derive(Default)]
struct Reasons {
    all: bool,
    ports: Vec<Token>,
}

/// What one worker sleeps on. The control side adds and removes kick descriptors from other threads.
///
/// Kicks are watched edge-triggered and never read: nothing a pod does to its eventfd can block the worker. And a
/// descriptor that was kicked before it came here (it moves with its queue from worker to worker) wakes once.
pub struct Wake {
    epoll: Epoll,
    event: EventFd,
    reasons: Mutex<Reasons>,
}

impl Wake {
    /// Makes an empty set.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&event, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, CONTROL))?;
        Ok(Self { epoll, event, reasons: Mutex::default() })
    }

    /// Sleeps until something happens, at most `limit`; does not sleep when that is zero.
    ///
    /// # Errors
    /// epoll_wait(2) other than EINTR.
    pub fn wait(&self, limit: Duration) -> io::Result<Woken> {
        let mut events = [EpollEvent::empty(); AT_ONCE];
        let limit = self.wait_finely(limit)?;
        let limit = EpollTimeout::try_from(limit).unwrap_or(EpollTimeout::MAX);
        let n = match self.epoll.wait(&mut events, limit) {
            Ok(n) => n,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(e) => return Err(e.into()),
        };
        let mut woken = Woken { anything: n > 0, ..Woken::default() };
        for event in events.iter().take(n) {
            if let Ok(port) = u32::try_from(event.data()) {
                woken.add(Token(port));
                continue;
            }
            let mut reasons = self.reasons();
            woken.control |= std::mem::take(&mut reasons.all);
            reasons.ports.drain(..).for_each(|port| woken.add(port));
        }
        Ok(woken)
    }

    /// Waits for as long as epoll_wait(2), which counts milliseconds, can't; returns for how long to wait still.
    fn wait_finely(&self, limit: Duration) -> io::Result<Duration> {
        const FINE: Duration = Duration::from_millis(10);
        if limit.is_zero() || limit >= FINE {
            return Ok(limit);
        }
        let mut epoll = [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut epoll, Some(TimeSpec::from_duration(limit)), None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(Duration::ZERO),
            Err(error) => Err(error.into()),
        }
    }

    /// Watches a descriptor that is no pod's kick but tells of packets, too. It is watched edge-triggered and never read.
    ///
    /// # Errors
    /// epoll_ctl(2).
    pub fn watch(&self, descriptor: BorrowedFd<'_>, token: Token) -> io::Result<()> {
        self.add(descriptor, token)
    }

    /// Watches it no more.
    pub fn unwatch(&self, descriptor: BorrowedFd<'_>) {
        self.remove(descriptor);
    }

    fn reasons(&self) -> MutexGuard<'_, Reasons> {
        // Nothing panics in the middle of a change.
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the worker, now or at its next attempt to sleep, to look at all of its ports.
    pub fn wake(&self) {
        self.reasons().all = true;
        self.notify();
    }

    /// Wakes it for nothing of the kind: there may be something else to see.
    pub fn nudge(&self) {
        self.notify();
    }

    /// Wakes it to look at one port.
    pub(crate) fn poke(&self, port: Token) {
        let mut reasons = self.reasons();
        if !reasons.ports.contains(&port) {
            if reasons.ports.len() < POKED {
                reasons.ports.push(port);
            } else {
                reasons.all = true;
            }
        }
        drop(reasons);
        self.notify();
    }

    fn notify(&self) {
        // The counter can't be full for long: each write is an edge, and 2^64 of them are never pending.
        let _ = self.event.write(1);
    }

    pub(crate) fn add(&self, kick: BorrowedFd<'_>, token: Token) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, token.0.into());
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
        assert_eq!(
            wake.wait(LONG).unwrap(),
            Woken { control: true, anything: true, ..Woken::default() }
        );
        assert!(start.elapsed() < LONG / 2);
    }

    #[test]
    fn a_kick_that_moves_to_another_worker_is_not_lost() {
        let (old, new) = (Wake::new().unwrap(), Wake::new().unwrap());
        let kick = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
        old.add(kick.as_fd(), Token(7)).unwrap();
        old.remove(kick.as_fd());
        kick.write(1).unwrap();
        new.add(kick.as_fd(), Token(7)).unwrap();
        let start = Instant::now();
        let woken = new.wait(LONG).unwrap();
        assert_eq!((woken.control, woken.ports()), (false, &[Token(7)][..]));
        assert!(start.elapsed() < LONG / 2);
        kick.write(1).unwrap();
        old.wait(Duration::from_millis(20)).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(19), "the old worker was woken");
    }

    #[test]
    fn each_kick_wakes_once_without_being_read() {
        let wake = Wake::new().unwrap();
        let kick = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
        wake.add(kick.as_fd(), Token(0)).unwrap();
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

    #[test]
    fn a_wait_can_be_shorter_than_a_millisecond() {
        let wake = Wake::new().unwrap();
        let start = Instant::now();
        wake.wait(Duration::from_micros(300)).unwrap();
        assert!(start.elapsed() >= Duration::from_micros(300));
        let kick = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
        wake.watch(kick.as_fd(), Token(3)).unwrap();
        kick.write(1).unwrap();
        assert_eq!(wake.wait(Duration::from_millis(9)).unwrap().ports(), [Token(3)]);
        wake.unwatch(kick.as_fd());
        kick.write(1).unwrap();
        assert_eq!(wake.wait(Duration::from_micros(1)).unwrap(), Woken::default());
    }

    #[test]
    fn the_control_side_says_what_for() {
        let wake = Wake::new().unwrap();
        let told = || {
            let woken = wake.wait(Duration::ZERO).unwrap();
            (woken.control, woken.ports().to_vec())
        };
        wake.nudge();
        assert_eq!(told(), (false, vec![]));
        [3, 4, 3].into_iter().for_each(|port| wake.poke(Token(port)));
        assert_eq!(told(), (false, vec![Token(3), Token(4)]));
        wake.poke(Token(1));
        wake.wake();
        assert_eq!(told(), (true, vec![Token(1)]));
        (0..100).for_each(|n| wake.poke(Token(n)));
        let (all, ports) = told();
        assert!(all && ports.len() <= POKED, "{ports:?}");
        assert_eq!(told(), (false, vec![]));
    }

    #[test]
    fn more_kicks_than_fit_are_told_in_turn() {
        let wake = Wake::new().unwrap();
        let kicks: Vec<_> = (0..40)
            .map(|n| {
                let kick = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
                wake.add(kick.as_fd(), Token(n)).unwrap();
                kick.write(1).unwrap();
                kick
            })
            .collect();
        wake.wake();
        let (mut told, mut control) = (Vec::new(), 0);
        loop {
            let woken = wake.wait(Duration::ZERO).unwrap();
            if woken == Woken::default() {
                break;
            }
            told.extend_from_slice(woken.ports());
            control += usize::from(woken.control);
        }
        told.sort_unstable();
        assert_eq!(told, (0..40).map(Token).collect::<Vec<_>>());
        assert_eq!((control, kicks.len()), (1, 40));
    }
}
