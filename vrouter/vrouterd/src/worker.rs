//! A worker: one pinned thread that polls the queues of its ports, and sleeps when they are idle.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::Cache;
use vrouter_dpdk::{CpuId, Eal, Pool, pin_current_thread, tsc};
use vrouter_vhost::queue::{Rest, TxBurst, TxLease};
use vrouter_vhost::queues::PortQueues;
use vrouter_vhost::wake::{Token, Wake};

use crate::assign::WorkerIndex;
use crate::counters::WorkerTally;
use crate::dataplane::{Dataplane, Ends, Layout, Polled, Slot};
use crate::forward::Pipeline;
use crate::kicks::Kicks;
use crate::rota::{Ports, Rota};

/// How long a worker looks at a port without packets before it asks the pod to kick and looks no more. Pods that send more
/// often than this never have to kick a worker that is awake.
const PATIENCE: Duration = Duration::from_micros(500);

/// How often a worker that is awake asks the kernel for kicks, with packets and without: how long the first packet of a
/// quiet port may have to wait. A question costs some 300 ns, so the first is about one hundredth of a busy worker's time,
/// however many quiet ports there are.
const KICKS_BUSY: Duration = Duration::from_micros(25);
const KICKS_IDLE: Duration = Duration::from_micros(2);

/// How long a worker must have had much to do before queues are left alone.
const LOAD_WINDOW: Duration = Duration::from_millis(1);

/// One burst in this many is timed from taking it to giving it away. A prime, or two ports that send in turn would have
/// all samples from one of them.
const SAMPLED: u32 = 1021;

/// How a worker behaves.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long it keeps polling without packets.
    pub spin: Duration,
    /// How long it sleeps at most.
    pub sleep: Duration,
    /// How long a frame waits at most so that it leaves the cache of the CPU that wrote it; zero: never for that.
    pub rest: Duration,
    /// How often a sleeping worker looks at devices that do not tell of packets.
    pub poll: Duration,
}

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Goes on polling for a while, then sleeps.
    #[default]
    Adaptive,
    /// Polls for ever, and asks nobody to kick.
    Poll,
    /// Sleeps at once.
    Sleep,
}

/// What the control side wants of a worker: one word, so that a round costs one look at it.
struct Orders(AtomicU8);

impl Orders {
    const END: u8 = u8::MAX;

    fn new(mode: Mode) -> Self {
        Self(AtomicU8::new(mode as u8))
    }

    fn set(&self, mode: Mode) {
        self.0.store(mode as u8, Ordering::Relaxed);
    }

    fn end(&self) {
        self.0.store(Self::END, Ordering::Relaxed);
    }

    /// The order's word, to see whether it is another.
    #[inline]
    fn word(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    /// `None`: it is to end.
    fn mode(word: u8) -> Option<Mode> {
        [Mode::Adaptive, Mode::Poll, Mode::Sleep].into_iter().find(|mode| *mode as u8 == word)
    }
}

/// A running worker, seen from outside.
pub struct Worker {
    /// CPU it is pinned to.
    pub cpu: CpuId,
    /// Wakes it.
    pub wake: Arc<Wake>,
    orders: Arc<Orders>,
    thread: JoinHandle<()>,
}

/// What a worker is made of.
pub struct Plan {
    /// Its number.
    pub index: WorkerIndex,
    /// Where it runs.
    pub cpu: CpuId,
    /// How it behaves.
    pub pace: Pace,
    /// What it does at first when there is nothing to do.
    pub mode: Mode,
    /// Ports there can be.
    pub ports: usize,
    /// What it counts; nobody else does.
    pub tally: Arc<WorkerTally>,
    /// Buffers for packets made here.
    pub pool: Pool,
    /// Where the snapshot is.
    pub slot: Slot,
    /// The NUMA node that this vRouter keeps to, if it does.
    pub node: Option<u32>,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread or descriptor left, the CPU can't be used, or DPDK has no lcore id left.
    pub fn start(eal: &Arc<Eal>, plan: Plan) -> io::Result<Self> {
        let wake = Arc::new(Wake::new()?);
        let orders = Arc::new(Orders::new(plan.mode));
        let cpu = plan.cpu;
        let (started, report) = std::sync::mpsc::channel();
        let (its_wake, its_orders) = (Arc::clone(&wake), Arc::clone(&orders));
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
                Run::new(&eal, its_wake, &plan).run(plan.slot, &its_orders);
                drop(registered);
            })?;
        match report.recv() {
            Ok(Ok(())) => Ok(Self { cpu, wake, orders, thread }),
            Ok(Err(why)) => Err(io::Error::other(why)),
            Err(_) => Err(io::Error::other("the worker ended at once")),
        }
    }

    /// Changes what it does when there is nothing to do, from its next round on.
    pub fn set_mode(&self, mode: Mode) {
        self.orders.set(mode);
        self.wake.nudge();
    }

    /// Ends the thread and waits for that. What it still polls is polled no more.
    pub fn end(self) {
        self.orders.end();
        self.wake.wake();
        if self.thread.join().is_err() {
            tracing::error!("a worker had panicked");
        }
    }
}

/// What the thread itself holds.
struct Run {
    wake: Arc<Wake>,
    me: WorkerIndex,
    pace: Pace,
    work: Work,
    kicks: Kicks,
    /// The places of devices that do not tell of packets.
    silent: Vec<usize>,
    /// For looking at queues without taking anything.
    burst: TxBurst,
}

/// From TSC ticks to time and back.
#[derive(Clone, Copy)]
struct Clock {
    ticks_per_second: u64,
    /// In units of 2^-32.
    ns_per_tick: u64,
}

impl Clock {
    fn ticks(self, time: Duration) -> u64 {
        let ticks = u128::from(self.ticks_per_second) * time.as_nanos() / 1_000_000_000;
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// Without a division: it is asked for in every round.
    #[inline]
    fn nanoseconds(self, ticks: u64) -> u64 {
        let ns = (u128::from(ticks) * u128::from(self.ns_per_tick)) >> 32;
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}

impl Run {
    fn new(eal: &Eal, wake: Arc<Wake>, plan: &Plan) -> Self {
        let hz = eal.tsc_hz().max(1);
        let work = Work {
            pipeline: Pipeline::new(plan.pool.clone(), plan.ports, plan.node),
            tally: Arc::clone(&plan.tally),
            clock: Clock { ticks_per_second: hz, ns_per_tick: (1_000_000_000 << 32) / hz },
            until_sample: SAMPLED,
            rest: Rest {
                now: 0,
                limit: u64::try_from(plan.pace.rest.as_nanos()).unwrap_or(u64::MAX),
                may_begin: false,
            },
        };
        Self {
            wake,
            me: plan.index,
            pace: plan.pace,
            work,
            kicks: Kicks::new(),
            silent: Vec::new(),
            burst: TxBurst::new(),
        }
    }

    fn run(mut self, slot: Slot, orders: &Orders) {
        let clock = self.work.clock;
        let (busy, idle) = (clock.ticks(KICKS_BUSY), clock.ticks(KICKS_IDLE));
        let mut load = Load::new(clock.ticks(LOAD_WINDOW));
        let mut cache = Cache::new(slot);
        let mut plane = Arc::clone(cache.load());
        let mut rota = Rota::new(Rota::NEVER);
        self.begin(&Layout::default(), &plane.layout, &mut rota);
        let mut last = tsc();
        let (mut idle_since, mut listened) = (last, last);
        // Of no mode, so that the first round sees one.
        let (mut order, mut spin) = (Orders::END, 0);
        loop {
            let word = orders.word();
            if word != order || word == Orders::END {
                let Some(mode) = Orders::mode(word) else { break };
                order = word;
                spin = self.spin(mode);
                rota.set_patience(if mode == Mode::Poll {
                    Rota::NEVER
                } else {
                    clock.ticks(PATIENCE)
                });
            }
            let newest = cache.load();
            if !Arc::ptr_eq(newest, &plane) {
                let old = std::mem::replace(&mut plane, Arc::clone(newest));
                if !Arc::ptr_eq(&old.layout, &plane.layout) {
                    self.finish(&old.layout, &plane.layout);
                    self.begin(&old.layout, &plane.layout, &mut rota);
                }
            }
            let mut round = self.round(&plane, last);
            let moved = rota.round(last, &mut round);
            let done = round.done;
            if moved > 0 {
                // The last burst has just been timed. What was idle polling since counts for the next round.
                self.work.tally.busy_ticks.add(done - last);
                load.busy(done - last);
                (last, idle_since) = (done, done);
            } else {
                last = tsc();
            }
            self.work.rest.may_begin = load.is_loaded(last);
            if self.work.pipeline.take_rested() {
                idle_since = last;
            }
            if rota.has_quiet() && last - listened >= if moved > 0 { busy } else { idle } {
                listened = last;
                let heard = self.listen(Duration::ZERO, &plane.layout, &mut rota, last);
                self.peek(&plane.layout, &mut rota, last);
                if heard {
                    continue;
                }
            }
            if last - idle_since >= spin {
                if rota.ask_all(&mut self.round(&plane, last)) {
                    self.work.tally.sleeps.add(1);
                    self.sleep(&plane.layout, &mut rota, last);
                }
                last = tsc();
                (idle_since, listened) = (last, last);
            }
        }
        let newest = cache.load();
        self.finish(&plane.layout, &newest.layout);
    }

    /// After how many ticks without packets it sleeps.
    fn spin(&self, mode: Mode) -> u64 {
        match mode {
            Mode::Adaptive => self.work.clock.ticks(self.pace.spin),
            Mode::Poll => u64::MAX,
            // Not in a round that has moved something.
            Mode::Sleep => 1,
        }
    }

    /// A round that begins at `now` ticks.
    #[inline]
    fn round<'a>(&'a mut self, plane: &'a Dataplane, now: u64) -> Round<'a> {
        self.work.rest.now = self.work.clock.nanoseconds(now);
        let polled = plane.layout.polled(self.me);
        let (work, kicks, burst) = (&mut self.work, &mut self.kicks, &mut self.burst);
        Round { work, kicks, burst, plane, polled, done: now }
    }

    /// Begins with a new layout.
    fn begin(&mut self, old: &Layout, new: &Layout, rota: &mut Rota) {
        let ports = new.polled(self.me);
        rota.restart(ports.iter().map(|p| old.place(self.me, usize::from(p.port.index.0))));
        self.kicks.restart(ports.len());
        let silent = ports.iter().enumerate().filter(|(_, polled)| polled.is_silent());
        self.silent.clear();
        self.silent.extend(silent.map(|(place, _)| place));
    }

    /// Has done with a layout.
    ///
    /// Some of its queues may be another worker's by now, who may have asked their pods to kick before this worker takes
    /// that back here. So that nobody sleeps on kicks that do not come, everybody is told to ask again.
    fn finish(&mut self, old: &Layout, new: &Layout) {
        let polled = old.polled(self.me);
        self.kicks.take_back(|place| take_back(polled.get(place), &mut self.burst));
        new.doubt_all_but(self.me);
    }

    /// Sleeps until there is something to do, or for as long as a worker may. Devices that do not tell of packets are
    /// looked at meanwhile, which is all that is done for them: nobody is asked again.
    fn sleep(&mut self, layout: &Layout, rota: &mut Rota, now: u64) {
        let mut left = self.pace.sleep;
        while !left.is_zero() {
            let limit = if self.silent.is_empty() { left } else { left.min(self.pace.poll) };
            if self.listen(limit, layout, rota, now) || self.peek(layout, rota, now) {
                return;
            }
            left -= limit;
        }
    }

    /// Looks at devices that do not tell of packets; says whether one has some. From the next round on it is looked at.
    fn peek(&self, layout: &Layout, rota: &mut Rota, now: u64) -> bool {
        let polled = layout.polled(self.me);
        let mut any = false;
        for &place in &self.silent {
            if let Some(Polled { port, pairs }) = polled.get(place)
                && let Ends::Wire(wire) = &port.ends
                && wire.has_packets(*pairs)
            {
                rota.kicked(place, now);
                any = true;
            }
        }
        any
    }

    /// Waits for kicks and for the control side, `limit` at most; who kicked is looked at from the next round on. Says
    /// whether it heard anything: then there may be a new snapshot, or it is time to end, and nothing will say so again.
    fn listen(&mut self, limit: Duration, layout: &Layout, rota: &mut Rota, now: u64) -> bool {
        match self.wake.wait(limit) {
            Ok(woken) => {
                if woken.control {
                    rota.doubt();
                }
                for Token(port) in woken.ports() {
                    if let Some(place) = layout.place(self.me, *port as usize) {
                        rota.kicked(place, now);
                    }
                }
                woken.anything
            }
            Err(error) => {
                // Polling all is the safe answer; it costs CPU, not packets.
                rota.doubt();
                tracing::error!(%error, "a worker can't listen to kicks");
                true
            }
        }
    }
}

/// What it takes to move packets.
struct Work {
    pipeline: Pipeline,
    tally: Arc<WorkerTally>,
    clock: Clock,
    /// Bursts until the next one that is timed.
    until_sample: u32,
    /// When the round began, and how queues may be left alone in it.
    rest: Rest,
}

/// Whether a worker has much to do, from one stretch of time to the next. In ticks.
struct Load {
    window: u64,
    since: u64,
    busy: u64,
    loaded: bool,
}

impl Load {
    fn new(window: u64) -> Self {
        Self { window, since: 0, busy: 0, loaded: false }
    }

    #[inline]
    fn busy(&mut self, ticks: u64) {
        self.busy += ticks;
    }

    /// Whether at least half of the last whole stretch was work. Where pods write payloads, they and their worker slow each
    /// other down, so that neither is ever wholly busy.
    #[inline]
    fn is_loaded(&mut self, now: u64) -> bool {
        let length = now.saturating_sub(self.since);
        if length >= self.window {
            self.loaded = self.busy >= length / 2;
            (self.since, self.busy) = (now, 0);
        }
        self.loaded
    }
}

/// One round over the worker's ports.
struct Round<'a> {
    work: &'a mut Work,
    kicks: &'a mut Kicks,
    burst: &'a mut TxBurst,
    plane: &'a Dataplane,
    polled: &'a [Polled],
    /// When the last burst was done with, or the round began; the next one's time is counted from there.
    done: u64,
}

impl Ports for Round<'_> {
    /// Takes one burst from each of a port's queues that are ours.
    #[inline]
    fn look(&mut self, place: usize) -> usize {
        let Some(polled) = self.polled.get(place) else { return 0 };
        let work = &mut *self.work;
        let mut moved = 0;
        let mut pairs = polled.sending();
        while pairs != 0 {
            let pair = pairs.trailing_zeros() as usize;
            pairs &= pairs - 1;
            let begun = if work.until_sample == 0 { tsc() } else { 0 };
            let (from, rest, tally) = (polled.port.index, work.rest, &work.tally);
            let taken = match &polled.port.ends {
                Ends::Pod(queues) => work.pipeline.run(self.plane, from, queues, pair, rest, tally),
                Ends::Wire(wire) => {
                    work.pipeline.run_wire(self.plane, from, wire, pair, rest.now, tally)
                }
            };
            if taken == 0 {
                continue;
            }
            moved += taken;
            let done = tsc();
            if let Some(port) = work.tally.port(polled.port.index) {
                port.burst(pair, taken, done - self.done);
                if begun != 0 {
                    port.sample(work.clock.nanoseconds(done - begun));
                    work.until_sample = SAMPLED;
                }
            }
            work.until_sample = work.until_sample.saturating_sub(1);
            self.done = done;
        }
        if moved != 0 {
            self.kicks.not_needed(place, || take_back(Some(polled), self.burst));
        }
        moved
    }

    fn ask(&mut self, place: usize) -> bool {
        let Some(polled) = self.polled.get(place) else { return true };
        self.kicks.ask(place, || match &polled.port.ends {
            Ends::Pod(queues) => each(queues, polled.sending(), self.burst, |lease| lease.arm()),
            Ends::Wire(wire) => !wire.ask(polled.pairs),
        })
    }
}

/// Asks the pod not to kick, or the device not to tell.
fn take_back(polled: Option<&Polled>, burst: &mut TxBurst) {
    let Some(polled) = polled else { return };
    match &polled.port.ends {
        Ends::Pod(queues) => {
            each(queues, polled.sending(), burst, |lease| {
                lease.disarm();
                true
            });
        }
        Ends::Wire(wire) => wire.take_back(polled.pairs),
    }
}

/// Looks at the sending queues of some pairs; `false` when one says so or is being changed right now.
fn each(
    queues: &PortQueues,
    mut pairs: u32,
    burst: &mut TxBurst,
    look: impl Fn(&TxLease<'_>) -> bool,
) -> bool {
    let mut all = true;
    while pairs != 0 {
        let queue = queues.tx(pairs.trailing_zeros() as usize);
        pairs &= pairs - 1;
        all &= match queue.lease_tx(burst) {
            Some(lease) => look(&lease),
            None => !queue.is_running(),
        };
    }
    all
}
