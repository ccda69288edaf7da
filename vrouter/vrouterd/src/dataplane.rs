//! What the workers see of the control side: one immutable snapshot, replaced as a whole.

use std::sync::Arc;

use arc_swap::ArcSwap;
use vrouter_core::{PortIndex, Tables};
use vrouter_vhost::queues::PortQueues;
use vrouter_vhost::wake::Wake;

use crate::assign::{Owners, WorkerIndex};
use crate::wire::Wire;

/// A port as the workers see it.
#[derive(Clone)]
pub struct DataPort {
    /// Where it stands in the tables and counters.
    pub index: PortIndex,
    /// What is behind it.
    pub ends: Ends,
}

/// What is behind a port.
#[derive(Clone)]
pub enum Ends {
    /// A pod's rings.
    Pod(Arc<PortQueues>),
    /// A device's queues.
    Wire(Arc<Wire>),
}

impl DataPort {
    /// The pod's rings, if it is a pod's.
    #[inline]
    pub fn pod(&self) -> Option<&PortQueues> {
        match &self.ends {
            Ends::Pod(queues) => Some(queues),
            Ends::Wire(_) => None,
        }
    }
}

/// What one worker polls of one port.
pub struct Polled {
    /// The port.
    pub port: DataPort,
    /// Its queue pairs that are this worker's: bit n for pair n.
    pub pairs: u32,
}

impl Polled {
    /// The pairs to look at now: this worker's, on which the pod sends. Those of a device all receive.
    #[inline]
    pub fn sending(&self) -> u32 {
        match &self.port.ends {
            Ends::Pod(queues) => queues.sending() & self.pairs,
            Ends::Wire(_) => self.pairs,
        }
    }

    /// Whether somebody has to look whether there are packets: a device that tells nobody.
    pub fn is_silent(&self) -> bool {
        matches!(&self.port.ends, Ends::Wire(wire) if !wire.tells())
    }
}

/// The ports there are, and who polls what of them.
#[derive(Default)]
pub struct Layout {
    /// Ports by index.
    ports: Vec<Option<DataPort>>,
    workers: Vec<Share>,
}

/// One worker's share.
struct Share {
    /// What it polls.
    polled: Vec<Polled>,
    /// By port index, where in `polled` the port is.
    places: Vec<Option<usize>>,
    /// How it is woken, if it runs.
    wake: Option<Arc<Wake>>,
}

impl Layout {
    /// `ports` in any order, with the owners of their queues; `wakes` by worker.
    pub fn new(
        ports: impl Iterator<Item = (DataPort, Owners)>,
        wakes: Vec<Option<Arc<Wake>>>,
    ) -> Self {
        let share = |wake| Share { polled: Vec::new(), places: Vec::new(), wake };
        let mut layout =
            Self { ports: Vec::new(), workers: wakes.into_iter().map(share).collect() };
        for (port, owners) in ports {
            let at = usize::from(port.index.0);
            for (worker, mine) in layout.workers.iter_mut().enumerate() {
                let pairs = owners.pairs_of(worker);
                if pairs != 0 {
                    put(&mut mine.places, at, mine.polled.len());
                    mine.polled.push(Polled { port: port.clone(), pairs });
                }
            }
            put(&mut layout.ports, at, port);
        }
        layout
    }

    /// What a worker polls.
    #[inline]
    pub fn polled(&self, worker: WorkerIndex) -> &[Polled] {
        self.workers.get(worker.slot()).map_or(&[], |share| &share.polled)
    }

    /// Where in the list of what a worker polls a port is.
    pub fn place(&self, worker: WorkerIndex, port: usize) -> Option<usize> {
        *self.workers.get(worker.slot())?.places.get(port)?
    }

    /// Wakes every worker to look for a new snapshot.
    pub fn nudge_all(&self) {
        self.workers.iter().filter_map(|share| share.wake.as_ref()).for_each(|wake| wake.nudge());
    }

    /// Makes every worker but `me` ask all its pods to kick again.
    pub fn doubt_all_but(&self, me: WorkerIndex) {
        for (worker, share) in self.workers.iter().enumerate() {
            if let (true, Some(wake)) = (worker != me.slot(), &share.wake) {
                wake.wake();
            }
        }
    }
}

fn put<T>(slots: &mut Vec<Option<T>>, at: usize, value: T) {
    if slots.len() <= at {
        slots.resize_with(at + 1, || None);
    }
    slots[at] = Some(value);
}

/// Everything a worker needs for a burst.
pub struct Dataplane {
    /// Networks and addresses.
    pub tables: Tables,
    /// Ports and who polls them: the very same as in the last snapshot when only tables have changed.
    pub layout: Arc<Layout>,
}

impl Dataplane {
    /// The port a packet goes to.
    #[inline]
    pub fn port(&self, index: PortIndex) -> Option<&DataPort> {
        self.layout.ports.get(usize::from(index.0))?.as_ref()
    }
}

/// The one place where the control side puts a snapshot and the workers find it.
pub type Slot = Arc<ArcSwap<Dataplane>>;
