//! What the workers see of the control side: one immutable snapshot, replaced as a whole.

use std::sync::Arc;

use arc_swap::ArcSwap;
use vrouter_core::{PortIndex, Tables};
use vrouter_vhost::queues::PortQueues;

/// A port as the workers see it.
#[derive(Clone)]
pub struct DataPort {
    /// Where it stands in the tables and counters.
    pub index: PortIndex,
    /// Its rings.
    pub queues: Arc<PortQueues>,
    /// Who polls what its pod sends.
    pub worker: usize,
}

/// Everything a worker needs for a burst.
pub struct Dataplane {
    /// Networks and addresses.
    pub tables: Tables,
    /// Ports by index.
    ports: Vec<Option<DataPort>>,
    /// For each worker, the ports it polls.
    polled: Vec<Vec<DataPort>>,
}

impl Dataplane {
    /// `ports` in any order.
    pub fn new(tables: Tables, ports: impl Iterator<Item = DataPort>, workers: usize) -> Self {
        let mut by_index: Vec<Option<DataPort>> = Vec::new();
        let mut polled = vec![Vec::new(); workers];
        for port in ports {
            let at = usize::from(port.index.0);
            if by_index.len() <= at {
                by_index.resize(at + 1, None);
            }
            if let Some(mine) = polled.get_mut(port.worker) {
                mine.push(port.clone());
            }
            by_index[at] = Some(port);
        }
        Self { tables, ports: by_index, polled }
    }

    /// The port a packet goes to.
    #[inline]
    pub fn port(&self, index: PortIndex) -> Option<&DataPort> {
        self.ports.get(usize::from(index.0))?.as_ref()
    }

    /// The ports a worker polls.
    #[inline]
    pub fn polled(&self, worker: usize) -> &[DataPort] {
        self.polled.get(worker).map_or(&[], Vec::as_slice)
    }
}

/// The one place where the control side puts a snapshot and the workers find it.
pub type Slot = Arc<ArcSwap<Dataplane>>;
