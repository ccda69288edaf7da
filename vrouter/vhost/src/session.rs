//! The state of one connection: what the frontend has set up so far, and which queues run because of it.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::memory::GuestMemory;
use crate::numa;
use crate::offload::Offloads;
use crate::queue::{Activation, Queue, RingFormat};
use crate::queues::PortQueues;
use crate::ring::{Direction, Layout, RingAddresses};

const F_CSUM: u64 = 1;
const F_GUEST_CSUM: u64 = 1 << 1;
const F_GUEST_TSO4: u64 = 1 << 7;
const F_GUEST_TSO6: u64 = 1 << 8;
const F_HOST_TSO4: u64 = 1 << 11;
const F_HOST_TSO6: u64 = 1 << 12;
const F_MRG_RXBUF: u64 = 1 << 15;
const F_VERSION_1: u64 = 1 << 32;
const F_RING_PACKED: u64 = 1 << 34;
const F_IN_ORDER: u64 = 1 << 35;

/// What the frontend has said about one virtqueue.
#[derive(Default)]
pub(crate) struct Setup {
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
    pub addressed: bool,
    pub size: u16,
    /// SET_VRING_BASE; only a packed ring goes by it.
    pub base: u16,
    pub ready: bool,
    pub enabled: bool,
    pub kick: Option<Arc<OwnedFd>>,
    pub call: Option<OwnedFd>,
    running: bool,
}

#[derive(Default)]
struct Device {
    features: u64,
    memory: Option<Arc<GuestMemory>>,
    /// Last reason why a queue did not start.
    fault: Option<String>,
}

/// What a session tells about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SessionView {
    pub features: u64,
    pub running_pairs: u32,
    pub regions: usize,
    pub bytes: u64,
    pub fault: Option<String>,
}

/// One connection of a pod.
pub(crate) struct Session {
    queues: Arc<PortQueues>,
    setups: Vec<Mutex<Setup>>,
    device: Mutex<Device>,
    changed: Box<dyn Fn() + Send + Sync>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The values are plain settings, whole at every point where a panic is possible.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    pub(crate) fn new(queues: Arc<PortQueues>, changed: Box<dyn Fn() + Send + Sync>) -> Self {
        let setups = (0..queues.virtqueues()).map(|_| Mutex::default()).collect();
        Self { queues, setups, device: Mutex::default(), changed }
    }

    pub(crate) fn virtqueues(&self) -> usize {
        self.setups.len()
    }

    pub(crate) fn set_features(&self, features: u64) {
        lock(&self.device).features = features;
        (self.changed)();
    }

    /// Memory has changed: running queues go on in the new mapping.
    pub(crate) fn set_memory(&self, memory: GuestMemory) {
        lock(&self.device).memory = Some(Arc::new(memory));
        for (index, setup) in self.setups.iter().enumerate() {
            let mut setup = lock(setup);
            if setup.running {
                self.stop(index, &mut setup, false);
                self.start(index, &mut setup);
            }
        }
        (self.changed)();
    }

    /// Applies a change to one virtqueue and starts or stops it if that follows.
    ///
    /// Returns where the ring stands when this stopped it.
    pub(crate) fn change(&self, index: usize, change: impl FnOnce(&mut Setup)) -> Option<u16> {
        let setup = self.setups.get(index)?;
        let mut setup = lock(setup);
        change(&mut setup);
        let wanted = setup.ready && setup.enabled && setup.addressed && setup.size > 0;
        let mut position = None;
        match (setup.running, wanted) {
            (false, true) => self.start(index, &mut setup),
            (true, false) => position = self.stop(index, &mut setup, true),
            (true, true) => {
                // The frontend may exchange its descriptors at any time.
                let queue = self.queues.virtqueue(index);
                queue.set_call(setup.call.as_ref().and_then(|c| c.try_clone().ok()));
                self.watch(index, &setup);
            }
            (false, false) => {}
        }
        let running_changed = wanted || position.is_some();
        drop(setup);
        if running_changed {
            (self.changed)();
        }
        position
    }

    fn start(&self, index: usize, setup: &mut Setup) {
        let (memory, features) = {
            let device = lock(&self.device);
            (device.memory.clone(), device.features)
        };
        let Some(memory) = memory else { return };
        let has = |feature: u64| features & feature != 0;
        let from_guest = PortQueues::is_tx(index);
        let offloads = if from_guest {
            Offloads { checksum: has(F_CSUM), tcp4: has(F_HOST_TSO4), tcp6: has(F_HOST_TSO6) }
        } else {
            let checksum = has(F_GUEST_CSUM);
            Offloads { checksum, tcp4: has(F_GUEST_TSO4), tcp6: has(F_GUEST_TSO6) }
        };
        // Where the used ring lies: a page that is there for certain, as starting the ring reads it.
        let node = memory.resolve_ring(setup.used, 4, 4).ok().and_then(|at| numa::node_of(at));
        let activation = Activation {
            memory,
            addresses: RingAddresses {
                desc: setup.desc,
                avail: setup.avail,
                used: setup.used,
                size: setup.size,
            },
            layout: if has(F_RING_PACKED) {
                Layout::Packed { base: setup.base, in_order: has(F_IN_ORDER) }
            } else {
                Layout::Split
            },
            direction: if from_guest { Direction::FromGuest } else { Direction::ToGuest },
            format: RingFormat {
                header: if has(F_VERSION_1 | F_MRG_RXBUF) { 12 } else { 10 },
                mergeable: has(F_MRG_RXBUF),
                offloads,
            },
            call: setup.call.as_ref().and_then(|c| c.try_clone().ok()),
        };
        match self.queues.virtqueue(index).start(activation) {
            Ok(()) => {
                setup.running = true;
                self.queues.set_node(node);
                if PortQueues::is_tx(index) {
                    self.queues.set_sending(index, true);
                }
                self.watch(index, setup);
                self.queues.wake(index / 2);
            }
            Err(error) => {
                lock(&self.device).fault = Some(format!("queue {index} can't start: {error}"));
            }
        }
    }

    fn watch(&self, index: usize, setup: &Setup) {
        if PortQueues::is_tx(index)
            && let Err(error) = self.queues.watch(index / 2, setup.kick.clone())
        {
            lock(&self.device).fault = Some(format!("queue {index} can't be watched: {error}"));
        }
    }

    fn stop(&self, index: usize, setup: &mut Setup, drain: bool) -> Option<u16> {
        let queue: &Queue = self.queues.virtqueue(index);
        let wake = || self.queues.wake(index / 2);
        let drain = drain && PortQueues::is_tx(index);
        let position = queue.stop(drain.then_some(&wake as &dyn Fn()));
        setup.running = false;
        if let Some(position) = position {
            // A packed ring goes on here when it is started again without a new SET_VRING_BASE.
            setup.base = position;
        }
        if PortQueues::is_tx(index) {
            self.queues.set_sending(index, false);
            // Taking a watch away does not fail.
            let _ = self.queues.watch(index / 2, None);
        }
        position
    }

    /// The connection has ended: takes every queue out of use, what the pod had sent is still forwarded.
    pub(crate) fn end(&self) {
        for (index, setup) in self.setups.iter().enumerate() {
            let mut setup = lock(setup);
            if setup.running {
                self.stop(index, &mut setup, true);
            }
            *setup = Setup::default();
        }
        self.queues.set_node(None);
        lock(&self.device).memory = None;
    }

    pub(crate) fn view(&self) -> SessionView {
        let running = |index: usize| {
            self.setups.get(index).is_some_and(|s| lock(s).running)
                && self.queues.virtqueue(index).broken().is_none()
        };
        let pairs = self.virtqueues() / 2;
        let running_pairs = (0..pairs).filter(|&p| running(2 * p) && running(2 * p + 1)).count();
        let device = lock(&self.device);
        let (regions, bytes) = device.memory.as_ref().map_or((0, 0), |m| m.extent());
        SessionView {
            features: device.features,
            running_pairs: u32::try_from(running_pairs).unwrap_or(u32::MAX),
            regions,
            bytes,
            fault: device
                .memory
                .as_ref()
                .filter(|m| m.lost())
                .map(|_| "the pod has shrunk memory that it shared".to_owned())
                .or_else(|| self.queues.broken())
                .or_else(|| device.fault.clone()),
        }
    }
}
