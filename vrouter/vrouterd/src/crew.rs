//! The workers there are: starting them, ending them, and what they have counted.

use std::collections::BTreeMap;
use std::sync::Arc;

use vrouter_dpdk::{CpuId, Eal, Pool};
use vrouter_vhost::wake::Wake;

use crate::assign::WorkerIndex;
use crate::convert::Refusal;
use crate::counters::WorkerTally;
use crate::dataplane::Slot;
use crate::worker::{Mode, Pace, Plan, Worker};

/// What every worker is made of.
pub struct Kit {
    /// DPDK.
    pub eal: Arc<Eal>,
    /// CPUs this process may use.
    pub allowed: Vec<CpuId>,
    /// How workers behave.
    pub pace: Pace,
    /// Ports there can be.
    pub ports: usize,
    /// Buffers for packets made here.
    pub pool: Pool,
    /// Where the snapshot is.
    pub slot: Slot,
    /// The NUMA node that this vRouter keeps to, if it does.
    pub node: Option<u32>,
}

/// A place for a worker. The counters stay when it is empty: those of ports are sums over all places and never go back.
struct Place {
    tally: Arc<WorkerTally>,
    worker: Option<Worker>,
}

/// The workers by number.
pub struct Crew {
    kit: Kit,
    places: Vec<Place>,
    mode: Mode,
}

/// What leads from the workers there are to those that are wanted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Workers to start.
    pub start: BTreeMap<WorkerIndex, CpuId>,
    /// Workers to end.
    pub end: Vec<WorkerIndex>,
}

/// Plans a change: a worker whose CPU stays stays, a new one gets the lowest number that is free.
///
/// # Errors
/// No CPU, one twice, or one that this process can't use.
pub fn plan(
    now: &BTreeMap<WorkerIndex, CpuId>,
    wanted: &[u32],
    allowed: &[CpuId],
) -> Result<Change, Refusal> {
    let list = || allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let refuse = |value: String, remedy: String| Refusal::Invalid { field: "cpus", value, remedy };
    if wanted.is_empty() {
        let remedy = format!("at least one worker is needed; use some of {}", list());
        return Err(refuse(String::new(), remedy));
    }
    let mut cpus = Vec::new();
    for &number in wanted {
        let cpu = u16::try_from(number).ok().map(CpuId).filter(|cpu| allowed.contains(cpu));
        let Some(cpu) = cpu else {
            let remedy = format!("offline or not allowed to this process; use some of {}", list());
            return Err(refuse(number.to_string(), remedy));
        };
        if cpus.contains(&cpu) {
            let remedy = "is there twice; name each CPU once".to_owned();
            return Err(refuse(number.to_string(), remedy));
        }
        cpus.push(cpu);
    }
    let gone = now.iter().filter(|(_, cpu)| !cpus.contains(cpu)).map(|(index, _)| *index);
    let end: Vec<_> = gone.collect();
    // The numbers of those that end are not: they have not ended when the new ones start.
    let mut free = (0..u16::MAX).map(WorkerIndex).filter(|index| !now.contains_key(index));
    let new = cpus.iter().filter(|cpu| !now.values().any(|there| there == *cpu));
    let start = new.filter_map(|cpu| Some((free.next()?, *cpu))).collect();
    Ok(Change { start, end })
}

impl Crew {
    /// None yet.
    pub fn new(kit: Kit) -> Self {
        Self { kit, places: Vec::new(), mode: Mode::default() }
    }

    /// Those that run, with their CPUs.
    pub fn running(&self) -> BTreeMap<WorkerIndex, CpuId> {
        self.workers().map(|(index, worker)| (index, worker.cpu)).collect()
    }

    fn workers(&self) -> impl Iterator<Item = (WorkerIndex, &Worker)> {
        let numbered = (0..u16::MAX).map(WorkerIndex).zip(&self.places);
        numbered.filter_map(|(index, place)| Some((index, place.worker.as_ref()?)))
    }

    /// What workers do when there is nothing to do.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Changes that, of those that run and of those to come.
    pub fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
        self.workers().for_each(|(_, worker)| worker.set_mode(mode));
    }

    /// How each is woken, by number.
    pub fn wakes(&self) -> Vec<Option<Arc<Wake>>> {
        let wake = |place: &Place| place.worker.as_ref().map(|worker| Arc::clone(&worker.wake));
        self.places.iter().map(wake).collect()
    }

    /// How one is woken, if it runs.
    pub fn wake(&self, index: WorkerIndex) -> Option<Arc<Wake>> {
        let worker = self.places.get(index.slot())?.worker.as_ref()?;
        Some(Arc::clone(&worker.wake))
    }

    /// What all that ever ran have counted, by number.
    pub fn tallies(&self) -> Vec<Arc<WorkerTally>> {
        self.places.iter().map(|place| Arc::clone(&place.tally)).collect()
    }

    /// What those that run count.
    pub fn counting(&self) -> impl Iterator<Item = (WorkerIndex, CpuId, &WorkerTally)> {
        let tally = |index: WorkerIndex| self.places.get(index.slot()).map(|p| p.tally.as_ref());
        self.workers().filter_map(move |(index, w)| Some((index, w.cpu, tally(index)?)))
    }

    /// See [`plan`].
    ///
    /// # Errors
    /// See [`plan`].
    pub fn plan(&self, wanted: &[u32]) -> Result<Change, Refusal> {
        plan(&self.running(), wanted, &self.kit.allowed)
    }

    /// Starts workers; they poll what the snapshots say from now on.
    ///
    /// # Errors
    /// The first that can't be started; none runs then that did not before.
    pub fn start(&mut self, workers: &BTreeMap<WorkerIndex, CpuId>) -> Result<(), Refusal> {
        for (&index, &cpu) in workers {
            if let Err(refusal) = self.start_one(index, cpu) {
                self.end(&workers.keys().copied().collect::<Vec<_>>());
                return Err(refusal);
            }
        }
        Ok(())
    }

    fn start_one(&mut self, index: WorkerIndex, cpu: CpuId) -> Result<(), Refusal> {
        let Kit { eal, pace, ports, pool, slot, node, .. } = &self.kit;
        while self.places.len() <= index.slot() {
            let tally = Arc::new(WorkerTally::new(*ports));
            self.places.push(Place { tally, worker: None });
        }
        let Some(place) = self.places.get_mut(index.slot()) else { return Ok(()) };
        let plan = Plan {
            index,
            cpu,
            pace: *pace,
            mode: self.mode,
            ports: *ports,
            tally: Arc::clone(&place.tally),
            pool: pool.clone(),
            slot: Arc::clone(slot),
            node: *node,
        };
        let worker =
            Worker::start(eal, plan).map_err(|source| Refusal::Worker { cpu: cpu.0, source })?;
        tracing::info!(worker = index.0, cpu = cpu.0, "worker started");
        place.worker = Some(worker);
        Ok(())
    }

    /// Ends workers, which poll nothing any more, and waits for that.
    pub fn end(&mut self, workers: &[WorkerIndex]) {
        for index in workers {
            let worker = self.places.get_mut(index.slot()).and_then(|place| place.worker.take());
            if let Some(worker) = worker {
                let cpu = worker.cpu.0;
                worker.end();
                tracing::info!(worker = index.0, cpu, "worker ended");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(list: &[(u16, u16)]) -> BTreeMap<WorkerIndex, CpuId> {
        list.iter().map(|&(index, cpu)| (WorkerIndex(index), CpuId(cpu))).collect()
    }

    #[test]
    fn whose_cpu_stays_stays() {
        let allowed = [1, 2, 3, 5].map(CpuId);
        for (now, wanted, start, end) in [
            (&[][..], &[2][..], &[(0, 2)][..], &[][..]),
            (&[], &[3, 1], &[(0, 3), (1, 1)], &[]),
            (&[(0, 1)], &[1, 2], &[(1, 2)], &[]),
            (&[(0, 1), (1, 2)], &[1], &[], &[1]),
            (&[(0, 1), (1, 2)], &[2, 1], &[], &[]),
            (&[(0, 1), (1, 2)], &[2], &[], &[0]),
            (&[(1, 2)], &[2, 5], &[(0, 5)], &[]),
            (&[(0, 1)], &[5], &[(1, 5)], &[0]),
        ] {
            let change = plan(&running(now), wanted, &allowed).unwrap();
            let end = end.iter().copied().map(WorkerIndex).collect();
            assert_eq!(change, Change { start: running(start), end }, "{now:?} {wanted:?}");
        }
    }

    #[test]
    fn a_cpu_that_cannot_be_used_is_named_with_the_remedy() {
        for (wanted, text) in [
            (&[][..], "cpus \"\": at least one worker is needed; use some of 1, 3"),
            (&[2], "cpus \"2\": offline or not allowed to this process; use some of 1, 3"),
            (
                &[1, 70_000],
                "cpus \"70000\": offline or not allowed to this process; use some of 1, 3",
            ),
            (&[1, 3, 1], "cpus \"1\": is there twice; name each CPU once"),
        ] {
            let refusal = plan(&running(&[]), wanted, &[1, 3].map(CpuId)).unwrap_err();
            assert_eq!(refusal.to_string(), text);
        }
    }
}
