//! Which worker polls which sending queue. Pure.
//!
//! The unit is a queue: one port's one queue pair. Frames of one queue stay in order whoever polls it, so any of them
//! may be anywhere; a flow's frames are in one queue, which is the pod's doing.

use std::collections::BTreeMap;
use std::fmt;

use vrouter_core::PortIndex;
use vrouter_vhost::queues::QUEUE_PAIRS;

/// A worker's place: its number in the API. It keeps that as long as it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerIndex(pub u16);

impl WorkerIndex {
    /// As an index of lists with one entry for each worker.
    #[inline]
    pub fn slot(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for WorkerIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// For each queue pair of a port, who polls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owners([WorkerIndex; QUEUE_PAIRS]);

impl Owners {
    /// All pairs are one worker's.
    pub fn one(worker: WorkerIndex) -> Self {
        Self([worker; QUEUE_PAIRS])
    }

    /// The pairs of a worker: bit n for pair n.
    pub fn pairs_of(&self, worker: usize) -> u32 {
        let bits = self.0.iter().enumerate().filter(|(_, owner)| owner.slot() == worker);
        bits.fold(0, |pairs, (pair, _)| pairs | 1 << pair)
    }

    /// Who polls a pair.
    pub fn of(&self, pair: usize) -> WorkerIndex {
        self.0.get(pair).copied().unwrap_or_default()
    }

    /// Gives a pair to a worker.
    pub fn set(&mut self, pair: usize, worker: WorkerIndex) {
        if let Some(owner) = self.0.get_mut(pair) {
            *owner = worker;
        }
    }

    /// Everybody, by pair.
    pub fn iter(&self) -> impl Iterator<Item = (usize, WorkerIndex)> + '_ {
        self.0.iter().copied().enumerate()
    }
}

/// What a worker has already when something is assigned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Burden {
    /// How busy it is, in tenths; 0 where only the number of queues counts.
    pub busy: u8,
    /// Its queues that pods are meant to use.
    pub queues: usize,
}

/// Spreads the queues of a new port that is meant to use `pairs` pairs over `workers`: each to whoever has least. Pairs
/// beyond those go the same way round. With no workers, worker 0 is as good as any.
pub fn place(mut workers: BTreeMap<WorkerIndex, Burden>, pairs: usize) -> Owners {
    let mut owners = Owners::one(WorkerIndex::default());
    let pairs = pairs.clamp(1, QUEUE_PAIRS);
    for pair in 0..pairs {
        let least = workers.iter_mut().min_by_key(|(worker, burden)| (**burden, **worker));
        if let Some((worker, burden)) = least {
            burden.queues += 1;
            owners.set(pair, *worker);
        }
    }
    for pair in pairs..QUEUE_PAIRS {
        owners.set(pair, owners.of(pair % pairs));
    }
    owners
}

/// A port whose queues are assigned anew.
#[derive(Clone, Copy, Debug)]
pub struct Assigned {
    /// Who polls it.
    pub owners: Owners,
    /// Pairs that it is meant to use.
    pub pairs: usize,
    /// Whether an operator has said who.
    pub pinned: bool,
}

/// Assigns queues anew when workers have come or gone: those of workers that are not in `running` go to whoever has
/// fewest, and then from who has most to who has fewest, until nobody has two more than another. Pins stay.
pub fn spread(ports: &mut [Assigned], running: &[WorkerIndex]) {
    let mut counts: BTreeMap<WorkerIndex, usize> = running.iter().map(|w| (*w, 0)).collect();
    for port in &*ports {
        for (_, owner) in port.owners.iter().take(port.pairs) {
            counts.entry(owner).and_modify(|n| *n += 1);
        }
    }
    for port in &mut *ports {
        for pair in 0..QUEUE_PAIRS {
            if counts.contains_key(&port.owners.of(pair)) {
                continue;
            }
            let least = counts.iter_mut().min_by_key(|(worker, n)| (**n, **worker));
            let Some((worker, n)) = least else { return };
            port.owners.set(pair, *worker);
            *n += usize::from(pair < port.pairs);
        }
    }
    for port in ports.iter_mut().filter(|port| !port.pinned) {
        for pair in 0..port.pairs.min(QUEUE_PAIRS) {
            let owner = port.owners.of(pair);
            let mine = counts.get(&owner).copied().unwrap_or(0);
            let least = counts.iter().min_by_key(|(worker, n)| (**n, **worker));
            if let Some((&least, &n)) = least
                && mine > n + 1
            {
                port.owners.set(pair, least);
                counts.entry(owner).and_modify(|n| *n -= 1);
                counts.entry(least).and_modify(|n| *n += 1);
            }
        }
    }
}

/// One sending queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueKey {
    /// Its port.
    pub port: PortIndex,
    /// Its pair.
    pub pair: usize,
}

/// What a queue cost in an interval.
#[derive(Clone, Copy, Debug)]
pub struct QueueLoad {
    /// Which.
    pub queue: QueueKey,
    /// Who polls it.
    pub owner: WorkerIndex,
    /// TSC ticks its owner spent on it.
    pub ticks: u64,
}

/// A queue that goes to another worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Which.
    pub queue: QueueKey,
    /// Who has it.
    pub from: WorkerIndex,
    /// Who gets it.
    pub to: WorkerIndex,
}

/// A worker that is busy for less than this share of the time (1 in 2) is left alone: its packets do not wait.
const BUSY: u64 = 2;
/// The busier of two workers must come down by this share of the interval (1 in 10), or the move is not worth it.
const GAIN: u64 = 10;

/// The one queue whose move evens out the load most, if that is worth it. `busy`: TSC ticks that each worker spent in
/// rounds with packets, of `interval`; `queues`: those that may be moved.
///
/// A saturated worker hides what its queues would like to have; half of it elsewhere is right all the same, and the
/// next interval shows more.
pub fn relieve(
    busy: &BTreeMap<WorkerIndex, u64>,
    queues: &[QueueLoad],
    interval: u64,
) -> Option<Move> {
    let (&from, &most) = busy.iter().max_by_key(|(_, ticks)| **ticks)?;
    let (&to, &least) = busy.iter().min_by_key(|(_, ticks)| **ticks)?;
    if from == to || most < interval / BUSY {
        return None;
    }
    let after = |ticks: u64| (most.saturating_sub(ticks)).max(least.saturating_add(ticks));
    let mine = queues.iter().filter(|q| q.owner == from && q.ticks > 0);
    let best = mine.min_by_key(|q| (after(q.ticks), q.queue))?;
    let gain = most.saturating_sub(after(best.ticks));
    (gain >= interval / GAIN).then_some(Move { queue: best.queue, from, to })
}

/// Intervals in a row in which a move must look right before it is made: a burst of traffic is no reason.
const PATIENCE: u32 = 3;

/// Remembers what was seen, so that queues do not go to and fro.
#[derive(Debug, Default)]
pub struct Balancer {
    queues: BTreeMap<QueueKey, u64>,
    busy: BTreeMap<WorkerIndex, u64>,
    /// The busiest worker and for how many intervals it has been worth relieving.
    uneven: Option<(WorkerIndex, u32)>,
    /// The share of time each worker was busy in the last interval, in tenths.
    tenths: BTreeMap<WorkerIndex, u8>,
}

impl Balancer {
    /// Looks at what has been counted since the start of the process, `interval` ticks after the last look; at most one
    /// queue moves. What is seen for the first time is only noted.
    pub fn look(
        &mut self,
        busy: &BTreeMap<WorkerIndex, u64>,
        queues: &[QueueLoad],
        interval: u64,
    ) -> Option<Move> {
        let interval = interval.max(1);
        let since = |then: Option<&u64>, now: u64| then.map_or(0, |then| now.saturating_sub(*then));
        let spent: BTreeMap<_, _> =
            busy.iter().map(|(w, now)| (*w, since(self.busy.get(w), *now))).collect();
        let loads: Vec<_> = queues
            .iter()
            .map(|q| QueueLoad { ticks: since(self.queues.get(&q.queue), q.ticks), ..*q })
            .collect();
        self.busy.clone_from(busy);
        self.queues = queues.iter().map(|q| (q.queue, q.ticks)).collect();
        self.tenths = spent
            .iter()
            .map(|(w, ticks)| (*w, u8::try_from(ticks.saturating_mul(10) / interval).unwrap_or(10)))
            .collect();
        let wish = relieve(&spent, &loads, interval);
        let times = match (wish, self.uneven) {
            (None, _) => 0,
            (Some(wish), Some((from, times))) if wish.from == from => times + 1,
            (Some(_), _) => 1,
        };
        self.uneven = wish.map(|wish| (wish.from, times));
        if times < PATIENCE {
            return None;
        }
        self.uneven = None;
        wish
    }

    /// How busy a worker was in the last interval, in tenths.
    pub fn tenths(&self, worker: WorkerIndex) -> u8 {
        self.tenths.get(&worker).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
