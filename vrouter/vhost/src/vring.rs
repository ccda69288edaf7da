//! Our `VringT`: the daemon's view of a virtqueue, which starts and stops the queue a worker polls.
//!
//! The daemon drives rings through this trait and never reads them: no queue is given to its epoll threads
//! (there are none). `set_enabled(false)` and `set_queue_ready(false)` return only when no worker uses the ring.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, MutexGuard};

use vhost_user_backend::{VringMutex, VringState, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::Error;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::session::Session;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

thread_local! {
    /// Whose vrings are being made on this thread, and the index of the next. The daemon makes its vrings itself
    /// and tells them nothing but the memory.
    static MAKING: RefCell<Option<(Arc<Session>, usize)>> = const { RefCell::new(None) };
}

/// Runs `make`; the vrings that the daemon constructs in it, in index order, belong to `session`.
pub(crate) fn of_session<T>(session: &Arc<Session>, make: impl FnOnce() -> T) -> T {
    MAKING.with_borrow_mut(|m| *m = Some((Arc::clone(session), 0)));
    let made = make();
    MAKING.with_borrow_mut(|m| *m = None);
    made
}

/// One virtqueue of one session.
#[derive(Clone)]
pub(crate) struct PortVring {
    /// What the daemon asks back: readiness, kick, position.
    inner: VringMutex,
    session: Arc<Session>,
    index: usize,
}

impl<'a> VringStateGuard<'a, Memory> for PortVring {
    type G = MutexGuard<'a, VringState>;
}

impl<'a> VringStateMutGuard<'a, Memory> for PortVring {
    type G = MutexGuard<'a, VringState>;
}

fn duplicate(file: Option<&File>) -> Option<OwnedFd> {
    // Without a descriptor the queue is still polled; it only can't be woken or wake.
    file.and_then(|f| f.try_clone().ok()).map(OwnedFd::from)
}

impl VringT<Memory> for PortVring {
    fn new(mem: Memory, max_queue_size: u16) -> Result<Self, Error> {
        let (session, index) = MAKING
            .with_borrow_mut(|making| {
                let (session, next) = making.as_mut()?;
                let index = *next;
                *next += 1;
                Some((Arc::clone(session), index))
            })
            .ok_or(Error::QueueNotReady)?;
        Ok(Self { inner: VringMutex::new(mem, max_queue_size)?, session, index })
    }

    fn get_ref(&self) -> MutexGuard<'_, VringState> {
        self.inner.get_ref()
    }

    fn get_mut(&self) -> MutexGuard<'_, VringState> {
        self.inner.get_mut()
    }

    fn add_used(&self, desc_index: u16, len: u32) -> Result<(), Error> {
        self.inner.add_used(desc_index, len)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.inner.signal_used_queue()
    }

    fn enable_notification(&self) -> Result<bool, Error> {
        self.inner.enable_notification()
    }

    fn disable_notification(&self) -> Result<(), Error> {
        self.inner.disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, Error> {
        self.inner.needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        self.inner.set_enabled(enabled);
        self.session.change(self.index, |s| s.enabled = enabled);
    }

    fn set_queue_info(&self, desc: u64, avail: u64, used: u64) -> Result<(), Error> {
        self.inner.set_queue_info(desc, avail, used)?;
        self.session.change(self.index, |s| {
            (s.desc, s.avail, s.used, s.addressed) = (desc, avail, used, true);
        });
        Ok(())
    }

    fn queue_next_avail(&self) -> u16 {
        self.inner.queue_next_avail()
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.inner.set_queue_next_avail(base);
        self.session.change(self.index, |s| s.base = base);
    }

    fn set_queue_next_used(&self, idx: u16) {
        self.inner.set_queue_next_used(idx);
    }

    fn queue_used_idx(&self) -> Result<u16, Error> {
        self.inner.queue_used_idx()
    }

    fn set_queue_size(&self, num: u16) {
        self.inner.set_queue_size(num);
        self.session.change(self.index, |s| s.size = num);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.inner.set_queue_event_idx(enabled);
    }

    fn set_queue_ready(&self, ready: bool) {
        self.inner.set_queue_ready(ready);
        if let Some(position) = self.session.change(self.index, |s| s.ready = ready) {
            // GET_VRING_BASE answers with this.
            self.inner.set_queue_next_avail(position);
        }
    }

    fn set_kick(&self, file: Option<File>) {
        let kick = duplicate(file.as_ref()).map(Arc::new);
        self.inner.set_kick(file);
        self.session.change(self.index, |s| s.kick = kick);
    }

    fn read_kick(&self) -> io::Result<bool> {
        self.inner.read_kick()
    }

    fn set_call(&self, file: Option<File>) {
        let call = duplicate(file.as_ref());
        self.inner.set_call(file);
        self.session.change(self.index, |s| s.call = call);
    }

    fn set_err(&self, file: Option<File>) {
        self.inner.set_err(file);
    }
}
