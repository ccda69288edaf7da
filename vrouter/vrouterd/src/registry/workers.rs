//! Who polls what: workers come and go, and queues change hands.

use std::collections::BTreeMap;

use ringway_config::Assignment;
use vrouter_api::v1::{self, event};
use vrouter_vhost::queues::QUEUE_PAIRS;

use super::Registry;
use crate::assign::{self, Assigned, Burden, Owners, QueueKey, QueueLoad, WorkerIndex};
use crate::convert::{Refusal, workers::worker_mode};
use crate::counters::{PortCounts, since};
use crate::worker::Mode;

impl Registry {
    pub(super) fn known_worker(&self, wanted: u32) -> Result<WorkerIndex, Refusal> {
        let running = self.crew.running();
        let found = running.keys().find(|index| u32::from(index.0) == wanted);
        found.copied().ok_or_else(|| {
            let known: Vec<_> = running.keys().map(ToString::to_string).collect();
            Refusal::UnknownWorker { worker: wanted, known: known.join(", ") }
        })
    }

    /// Changes which CPUs have workers.
    ///
    /// New ones start first; then queues change hands, under load and without loss (see [`PortQueues::set_wake`]); those
    /// that are not wanted end last, when nothing is theirs any more.
    ///
    /// [`PortQueues::set_wake`]: vrouter_vhost::queues::PortQueues::set_wake
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub fn set_workers(&mut self, cpus: &[u32]) -> Result<Vec<v1::Worker>, Refusal> {
        let change = self.crew.plan(cpus)?;
        let mut running = self.crew.running();
        for (id, record) in &self.ports {
            let pin = record.facts.with(|request, _| request.spec.worker);
            let ends = |index: &&WorkerIndex| Some(u32::from(index.0)) == pin;
            if let Some(worker) = change.end.iter().find(ends) {
                let cpu = running.get(worker).map_or(0, |cpu| cpu.0);
                return Err(Refusal::Pinned { port: id.clone(), worker: *worker, cpu });
            }
        }
        self.crew.start(&change.start)?;
        running.extend(&change.start);
        running.retain(|index, _| !change.end.contains(index));

        let (ids, mut ports): (Vec<_>, Vec<_>) = self.assigned().unzip();
        assign::spread(&mut ports, &running.keys().copied().collect::<Vec<_>>());
        for (id, port) in ids.iter().zip(&ports) {
            self.give(id, port.owners);
        }
        self.publish();
        self.crew.end(&change.end);
        let workers = self.workers();
        if !change.start.is_empty() || !change.end.is_empty() {
            self.tell_of_workers();
        }
        Ok(workers)
    }

    /// What workers do when there is nothing to do.
    pub fn worker_mode(&self) -> Mode {
        self.crew.mode()
    }

    /// Changes that.
    pub fn set_worker_mode(&mut self, mode: Mode) {
        if mode != self.crew.mode() {
            self.crew.set_mode(mode);
            tracing::info!(?mode, "workers have another mode");
            self.tell_of_workers();
        }
    }

    fn tell_of_workers(&mut self) {
        let (workers, mode) = (self.workers(), worker_mode(self.crew.mode()).into());
        self.tell(event::Event::WorkersChanged(v1::WorkersChanged { workers, mode }));
    }

    /// Ends every worker, at the end of the process.
    pub fn dismiss(&mut self) {
        let all: Vec<_> = self.crew.running().into_keys().collect();
        self.crew.end(&all);
    }

    /// Looks at what the workers have had to do since the last look, and moves at most one queue if one of them has far
    /// more to do than another. `now`: TSC ticks.
    pub fn balance(&mut self, now: u64) {
        self.published.bury();
        let interval = now.saturating_sub(std::mem::replace(&mut self.looked, now));
        let busy = self.crew.counting().map(|(index, _, tally)| (index, tally.busy_ticks.get()));
        let busy: BTreeMap<_, _> = busy.collect();
        let tallies = self.crew.tallies();
        let mut queues = Vec::new();
        for record in self.ports.values() {
            let (pinned, owners) =
                record.facts.with(|request, owners| (request.spec.worker.is_some(), *owners));
            if pinned {
                continue;
            }
            let counts = since(&tallies, record.index, &PortCounts::default());
            let used = counts.queues.iter().enumerate().filter(|(_, queue)| queue.ticks > 0);
            queues.extend(used.map(|(pair, queue)| QueueLoad {
                queue: QueueKey { port: record.index, pair },
                owner: owners.of(pair),
                ticks: queue.ticks,
            }));
        }
        let Some(moved) = self.balancer.look(&busy, &queues, interval) else { return };
        if self.assignment != Assignment::Load {
            return;
        }
        let id = self.ports.iter().find(|(_, record)| record.index == moved.queue.port);
        let Some((id, mut owners)) = id.map(|(id, r)| (id.clone(), r.facts.owners())) else {
            return;
        };
        owners.set(moved.queue.pair, moved.to);
        let (pair, from, to) = (moved.queue.pair, moved.from.0, moved.to.0);
        tracing::info!(port = id, pair, from, to, "a queue goes to a worker with less to do");
        self.give(&id, owners);
        self.publish();
    }

    /// What each running worker has already.
    pub(super) fn burdens(&self) -> BTreeMap<WorkerIndex, Burden> {
        let busy = |index| match self.assignment {
            Assignment::Load => self.balancer.tenths(index),
            Assignment::RoundRobin => 0,
        };
        let fresh = |index| (index, Burden { busy: busy(index), queues: 0 });
        let mut burdens: BTreeMap<_, _> = self.crew.running().into_keys().map(fresh).collect();
        for (_, port) in self.assigned() {
            for (_, owner) in port.owners.iter().take(port.pairs) {
                burdens.entry(owner).and_modify(|burden| burden.queues += 1);
            }
        }
        burdens
    }

    fn assigned(&self) -> impl Iterator<Item = (String, Assigned)> + '_ {
        self.ports.iter().map(|(id, record)| {
            let assigned = record.facts.with(|request, owners| Assigned {
                owners: *owners,
                pairs: request.pairs,
                pinned: request.spec.worker.is_some(),
            });
            (id.clone(), assigned)
        })
    }

    /// Lets the kicks of a port's queues wake their new owners; the workers learn of it with the next snapshot. Says
    /// whether anything changed.
    pub(super) fn give(&self, id: &str, owners: Owners) -> bool {
        let Some(record) = self.ports.get(id) else { return false };
        let before = record.facts.with(|_, mine| std::mem::replace(mine, owners));
        if before == owners {
            return false;
        }
        for pair in (0..QUEUE_PAIRS).filter(|&pair| before.of(pair) != owners.of(pair)) {
            let Some(wake) = self.crew.wake(owners.of(pair)) else { continue };
            if let Err(error) = record.end.set_wake(pair, &wake) {
                tracing::warn!(port = id, pair, %error, "a worker can't watch a pod's kicks");
            }
        }
        self.tell(event::Event::PortChanged(record.wire()));
        true
    }
}
