//! Which pods may have been asked to kick.
//!
//! A pod stays asked until it sends. Between two looks of the worker a pod that was asked can't send without kicking, and
//! the kick stays pending until the worker listens. What could take the request back unseen is its queue being set up
//! anew, after which the worker is woken to look at the port, and another worker that polled it before: whoever has done
//! with a layout tells all others to ask again (`Layout::doubt_all_but`).
//!
//! `tests/publication.rs` runs this text, that of `rota` and that of the queue's hand-over under a model checker.

/// The places of one worker's list.
pub struct Kicks {
    asked: Vec<bool>,
}

impl Kicks {
    /// For no ports.
    pub fn new() -> Self {
        Self { asked: Vec::new() }
    }

    /// The worker has another list, of so many ports. Nobody in it has been asked.
    pub fn restart(&mut self, ports: usize) {
        self.asked.clear();
        self.asked.resize(ports, false);
    }

    /// Asks a pod by `ask`, which says `false` when the pod has sent meanwhile, or one of its queues is being changed
    /// right now.
    pub fn ask(&mut self, place: usize, ask: impl FnOnce() -> bool) -> bool {
        // First: `ask` may have asked some of the pod's queues whatever it says.
        if let Some(asked) = self.asked.get_mut(place) {
            *asked = true;
        }
        ask()
    }

    /// A pod sends, and the worker looks anyway: `take_back` says so to the pod if it has been asked.
    #[inline]
    pub fn not_needed(&mut self, place: usize, take_back: impl FnOnce()) {
        if let Some(asked) = self.asked.get_mut(place)
            && std::mem::take(asked)
        {
            take_back();
        }
    }

    /// The same for all that have been asked: the worker has done with these ports.
    pub fn take_back(&mut self, mut take_back: impl FnMut(usize)) {
        for (place, asked) in self.asked.iter_mut().enumerate() {
            if std::mem::take(asked) {
                take_back(place);
            }
        }
    }
}
