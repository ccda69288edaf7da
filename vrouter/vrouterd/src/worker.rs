//! A worker: one pinned thread that polls the queues of its ports, and sleeps when they are idle.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::Cache;
use vrouter_core::Timestamp;
use vrouter_dpdk::{CpuId, Eal, Pool, pin_current_thread, tsc};
use vrouter_vhost::queue::TxBurst;
use vrouter_vhost::wake::Wake;

use crate::counters::WorkerTally;
use crate::dataplane::{Dataplane, Slot};
use crate::forward::Pipeline;

/// How a worker behaves.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long it keeps polling without packets.
    pub spin: Duration,
    /// How long it sleeps at most.
    pub sleep: Duration,
}

/// A running worker, seen from outside.
pub struct Worker {
    /// CPU it is pinned to.
    pub cpu: CpuId,
    /// What it counts.
    pub tally: Arc<WorkerTally>,
    /// Wakes it.
    pub wake: Arc<Wake>,
    thread: JoinHandle<()>,
}

/// What a worker is made of.
pub struct Plan {
    /// Its number, from 0.
    pub index: usize,
    /// Where it runs.
    pub cpu: CpuId,
    /// How it behaves.
    pub pace: Pace,
    /// Ports to count for.
    pub ports: usize,
    /// Buffers for packets made here.
    pub pool: Pool,
    /// Where the snapshot is.
    pub slot: Slot,
    /// Set when the daemon ends.
    pub stop: Arc<AtomicBool>,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread or descriptor left, the CPU can't be used, or DPDK has no lcore id left.
    pub fn start(eal: &Arc<Eal>, plan: Plan) -> io::Result<Self> {
        let wake = Arc::new(Wake::new()?);
        let tally = Arc::new(WorkerTally::new(plan.ports));
        let cpu = plan.cpu;
        let (started, report) = std::sync::mpsc::channel();
        let run = Run {
            wake: Arc::clone(&wake),
            tally: Arc::clone(&tally),
            ticks_per_second: eal.tsc_hz(),
            idle: TxBurst::new(),
        };
        let eal = Arc::clone(eal);
        let thread =
            thread::Builder::new().name(format!("worker-{}", plan.index)).spawn(move || {
                let ready = pin_current_thread(plan.cpu)
                    .map_err(|e| format!("cannot run on CPU {}: {e}", plan.cpu.0))
                    .and_then(|()| eal.register_worker().map_err(|e| e.to_string()));
                let registered = match ready {
                    Ok(registered) => registered,
                    Err(why) => {
                        let _ = started.send(Err(why));
                        return;
                    }
                };
                let _ = started.send(Ok(()));
                run.run(plan);
                drop(registered);
            })?;
        match report.recv() {
            Ok(Ok(())) => Ok(Self { cpu, tally, wake, thread }),
            Ok(Err(why)) => Err(io::Error::other(why)),
            Err(_) => Err(io::Error::other("the worker ended at once")),
        }
    }

    /// Waits for the end of the thread; the stop flag must be set before.
    pub fn join(self) {
        self.wake.wake();
        if self.thread.join().is_err() {
            tracing::error!("a worker had panicked");
        }
    }
}

/// What the thread itself holds.
struct Run {
    wake: Arc<Wake>,
    tally: Arc<WorkerTally>,
    ticks_per_second: u64,
    /// For looking at queues before and after a sleep.
    idle: TxBurst,
}

impl Run {
    fn ticks(&self, time: Duration) -> u64 {
        let ticks = u128::from(self.ticks_per_second) * time.as_nanos() / 1_000_000_000;
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    fn time(&self, ticks: u64) -> Timestamp {
        let ns = u128::from(ticks) * 1_000_000_000 / u128::from(self.ticks_per_second.max(1));
        Timestamp::from_nanoseconds(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    fn run(mut self, plan: Plan) {
        let spin = self.ticks(plan.pace.spin);
        let mut pipeline = Pipeline::new(plan.pool, plan.ports);
        let mut cache = Cache::new(plan.slot);
        let mut last = tsc();
        let mut idle_since = last;
        while !plan.stop.load(Ordering::Relaxed) {
            let plane = cache.load();
            let now = self.time(last);
            let mut moved = 0;
            for port in plane.polled(plan.index) {
                let mut pairs = port.queues.sending();
                while pairs != 0 {
                    let pair = pairs.trailing_zeros() as usize;
                    pairs &= pairs - 1;
                    moved += pipeline.run(plane, port, pair, now, &self.tally);
                }
            }
            let after = tsc();
            if moved > 0 {
                self.tally.busy_ticks.add(after - last);
                idle_since = after;
            } else if after - idle_since >= spin {
                self.sleep(plane, plan.index, plan.pace.sleep);
                idle_since = tsc();
                last = idle_since;
                continue;
            }
            last = after;
        }
    }

    /// Sleeps until a pod kicks, the control side wakes us, or the limit passes. Returns at once when packets came
    /// in while it was asking the pods to kick.
    fn sleep(&mut self, plane: &Dataplane, me: usize, limit: Duration) {
        if self.arm(plane, me) {
            self.tally.sleeps.add(1);
            if let Err(error) = self.wake.wait(limit) {
                // Polling on is the safe answer; it costs CPU, not packets.
                tracing::error!(%error, "a worker can't sleep");
            }
        }
        for port in plane.polled(me) {
            self.each(port, |lease| {
                lease.disarm();
                true
            });
        }
    }

    fn arm(&mut self, plane: &Dataplane, me: usize) -> bool {
        plane.polled(me).iter().all(|port| self.each(port, |lease| lease.arm()))
    }

    /// Looks at every sending queue of a port; `false` when one says so or is being changed right now.
    fn each(
        &mut self,
        port: &crate::dataplane::DataPort,
        look: impl Fn(&vrouter_vhost::queue::TxLease<'_>) -> bool,
    ) -> bool {
        let mut all = true;
        let mut pairs = port.queues.sending();
        while pairs != 0 {
            let queue = port.queues.tx(pairs.trailing_zeros() as usize);
            pairs &= pairs - 1;
            all &= match queue.lease_tx(&mut self.idle) {
                Some(lease) => look(&lease),
                None => !queue.is_running(),
            };
        }
        all
    }
}
