//! What the workers have, and the links of uplinks, which change it at once.
//!
//! A link that goes down must not wait for whoever changes networks, ports or routes just then: a million routes take a
//! second. So links are looked at under a lock that is held for a moment only, and what they say is brought into the
//! snapshot that the workers have. Whatever snapshot comes next gets it, too.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{io, mem};

use vrouter_core::{PortIndex, Tables};

use crate::dataplane::{Dataplane, Layout, Slot};

/// Says whether a link is up.
pub type Look = Box<dyn Fn() -> bool + Send>;

/// The one place from which snapshots go to the workers.
pub struct Published {
    slot: Slot,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    links: BTreeMap<PortIndex, Link>,
    /// Snapshots that workers may still have.
    retired: Vec<Arc<Dataplane>>,
}

struct Link {
    look: Look,
    up: bool,
}

impl State {
    /// The tables with links as they are.
    fn linked(&self, mut tables: Tables) -> Tables {
        for (port, link) in &self.links {
            if tables.has_link(*port) != link.up {
                tables = tables.with_link_state(*port, link.up);
            }
        }
        tables
    }

    /// Those that no worker has any more.
    fn take_buried(&mut self) -> Vec<Arc<Dataplane>> {
        let (kept, buried) =
            mem::take(&mut self.retired).into_iter().partition(|it| Arc::strong_count(it) > 1);
        self.retired = kept;
        buried
    }
}

impl Published {
    /// With what is in the slot already.
    pub fn new(slot: Slot) -> Self {
        Self { slot, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ports and who polls them, as the workers have them.
    pub fn layout(&self) -> Arc<Layout> {
        Arc::clone(&self.slot.load().layout)
    }

    /// Hands the workers a new snapshot, with the links as they are known here.
    pub fn replace(&self, plane: Dataplane) {
        let mut state = self.state();
        let tables = state.linked(plane.tables);
        self.swap(&mut state, Dataplane { tables, layout: plane.layout });
        drop(state);
        self.bury();
    }

    fn swap(&self, state: &mut State, plane: Dataplane) {
        state.retired.push(self.slot.swap(Arc::new(plane)));
    }

    /// Frees the snapshots that no worker has any more. The workers never do, and nobody waits for it: a million routes take
    /// their time.
    pub fn bury(&self) {
        let buried = self.state().take_buried();
        drop(buried);
    }

    /// Snapshots that could not be freed yet.
    #[cfg(test)]
    pub fn retired(&self) -> usize {
        self.state().retired.len()
    }

    /// From now on `look` says how it is with the link of a port. `up`: what is known of it.
    pub fn watch(&self, port: PortIndex, up: bool, look: Look) {
        self.state().links.insert(port, Link { look, up });
    }

    /// Nobody looks at the link of a port any more when this returns, and nothing is kept for that.
    pub fn forget(&self, port: PortIndex) {
        let forgotten = self.state().links.remove(&port);
        drop(forgotten);
    }

    /// Looks at all links; where one has come or gone, packets take other ways from now on.
    pub fn look(&self) {
        let mut state = self.state();
        let mut changed = false;
        for link in state.links.values_mut() {
            let up = (link.look)();
            changed |= mem::replace(&mut link.up, up) != up;
        }
        if !changed {
            return;
        }
        let now = self.slot.load_full();
        let tables = state.linked(now.tables.clone());
        let layout = Arc::clone(&now.layout);
        drop(now);
        self.swap(&mut state, Dataplane { tables, layout });
        drop(state);
        self.bury();
    }
}

/// A thread that looks at links every so often. Dropping it ends it.
pub struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts it. A thread of its own, so that nothing the control side does can keep it waiting.
    ///
    /// # Errors
    /// No thread left.
    pub fn start(published: Arc<Published>, every: Duration) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let run = move || {
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                published.look();
            }
        };
        let thread = thread::Builder::new().name("links".to_owned()).spawn(run)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that looks at links had panicked");
        }
    }
}

#[cfg(test)]
mod tests;
