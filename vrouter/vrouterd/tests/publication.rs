//! How a queue goes from one worker to another while its pod sends, in every order of steps that the memory model allows:
//! whoever polls it when, no packet is left behind with all workers asleep. That no two workers are in it at once is the
//! hand-over's promise (`vrouter/vhost/tests/handover.rs`).
//!
//! The texts of `kicks.rs`, `rota.rs` and the queue's hand-over are the real ones, with loom's locks and atomics for the
//! standard library's. Written after the real ones are what can't run here: the kernel's eventfd and epoll (a lock and a
//! condition), `Slot` (one atomic word, stored with release and loaded with acquire, which is all that arc-swap is relied on
//! for), the ring's two shared words, and the loop of `worker.rs`.

#![allow(
    clippy::unwrap_used,
    dead_code,
    missing_docs,
    reason = "a test fails by panicking; it does not use every part"
)]

#[path = "../../vhost/src/queue/handover.rs"]
mod handover;
#[path = "../src/kicks.rs"]
mod kicks;
#[path = "../src/rota.rs"]
mod rota;

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use loom::thread::yield_now;
    pub(crate) use std::sync::{PoisonError, TryLockError};
    use std::time::Duration;

    pub(crate) const STEP_BACK: usize = 1;

    pub(crate) fn wait<'a, T>(
        _: &Condvar,
        guard: MutexGuard<'a, T>,
        _: Duration,
        _: impl FnMut(&T) -> bool,
    ) -> MutexGuard<'a, T> {
        guard
    }
}

use handover::Handover;
use kicks::Kicks;
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use rota::{Ports, Rota};

const WORKERS: usize = 2;

/// What woke a worker; as `vrouter_vhost::wake::Woken`.
#[derive(Clone, Copy, Default)]
struct Woken {
    control: bool,
    port: bool,
    anything: bool,
}

/// As `vrouter_vhost::wake::Wake`: what is pending of the kick and of the control side.
#[derive(Default)]
struct Wake {
    pending: Mutex<Woken>,
    told: Condvar,
}

impl Wake {
    fn tell(&self, tell: impl FnOnce(&mut Woken)) {
        let mut pending = self.pending.lock().unwrap();
        tell(&mut pending);
        pending.anything = true;
        self.told.notify_one();
    }

    fn nudge(&self) {
        self.tell(|_| {});
    }

    fn wake(&self) {
        self.tell(|pending| pending.control = true);
    }

    fn port(&self) {
        self.tell(|pending| pending.port = true);
    }

    /// For ever, as a wake-up that only comes with the limit is one that was lost.
    fn wait(&self, sleep: bool) -> Woken {
        let mut pending = self.pending.lock().unwrap();
        while sleep && !pending.anything {
            pending = self.told.wait(pending).unwrap();
        }
        std::mem::take(&mut pending)
    }
}

/// The pod's kick as the kernel has it: once written it stays readable, as nobody reads it, and each write is an edge for
/// who watches.
#[derive(Default)]
struct Kick {
    readable: bool,
    watched_by: usize,
}

/// One queue of one pod.
struct Queue {
    /// What the lock is for: where the worker stands in the ring.
    ring: Handover<u32>,
    /// In the pod's memory: how many packets there are, and whether the pod is to kick.
    available: AtomicU32,
    notify: AtomicBool,
    kick: Mutex<Kick>,
}

struct World {
    queue: Queue,
    /// Whose the queue is in the layout that is published: the whole of `Slot` that matters here.
    slot: AtomicUsize,
    wakes: [Wake; WORKERS],
    packets: u32,
    /// Of the test, and seen by all at once: whoever sets `stop` goes through the lock of a [`Wake`] next.
    taken: std::sync::atomic::AtomicU32,
    stop: [std::sync::atomic::AtomicBool; WORKERS],
}

impl World {
    /// The queue is worker 0's at first; `packets` will be sent.
    fn new(packets: u32) -> Arc<Self> {
        let queue = Queue {
            ring: Handover::new(),
            available: AtomicU32::new(0),
            notify: AtomicBool::new(false),
            kick: Mutex::default(),
        };
        queue.ring.put(queue.ring.lock(), 0);
        Arc::new(Self {
            queue,
            slot: AtomicUsize::new(0),
            wakes: Default::default(),
            packets,
            taken: Default::default(),
            stop: Default::default(),
        })
    }

    /// The pod: virtio 1.2, 2.7.13: the index, a barrier, and then whether a kick is wanted.
    fn send(&self) {
        self.queue.available.fetch_add(1, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.queue.notify.load(Ordering::Relaxed) {
            let mut kick = self.queue.kick.lock().unwrap();
            kick.readable = true;
            self.wakes[kick.watched_by].port();
        }
    }

    /// The control side, as `Registry::give` and `Registry::publish`.
    fn move_queue(&self, to: usize) {
        // `PortQueues::set_wake`
        {
            let mut kick = self.queue.kick.lock().unwrap();
            // What was pending of the kick with the old one is gone with its watch.
            self.wakes[kick.watched_by].pending.lock().unwrap().port = false;
            kick.watched_by = to;
            if kick.readable {
                self.wakes[to].port();
            }
            self.wakes[to].port();
        }
        self.slot.store(to, Ordering::Release);
        self.wakes.iter().for_each(Wake::nudge);
    }

    /// `Worker::end`, without waiting.
    fn end(&self, worker: usize) {
        self.stop[worker].store(true, Ordering::Relaxed);
        self.wakes[worker].wake();
    }

    /// `TxLease::arm` by way of `each`.
    fn arm(&self) -> bool {
        let Some(held) = self.queue.ring.try_use() else { return !self.queue.ring.is_running() };
        let position = *held.as_ref().unwrap();
        self.queue.notify.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.queue.available.load(Ordering::Acquire) == position
    }

    fn disarm(&self) {
        if let Some(_held) = self.queue.ring.try_use() {
            self.queue.notify.store(false, Ordering::Relaxed);
            fence(Ordering::SeqCst);
        }
    }

    /// One burst; ends the test when it was the last.
    fn take(&self) -> usize {
        let Some(mut held) = self.queue.ring.try_use() else { return 0 };
        let available = self.queue.available.load(Ordering::Acquire);
        let taken = available - std::mem::replace(held.as_mut().unwrap(), available);
        drop(held);
        if taken > 0 && self.taken.fetch_add(taken, Ordering::AcqRel) + taken == self.packets {
            (0..WORKERS).for_each(|worker| self.end(worker));
        }
        taken as usize
    }
}

/// A round of a worker, as `worker::Round`. The queue is its only port, if it is its.
struct Round<'a> {
    world: &'a World,
    kicks: &'a mut Kicks,
}

impl Ports for Round<'_> {
    fn look(&mut self, place: usize) -> usize {
        let taken = self.world.take();
        if taken != 0 {
            self.kicks.not_needed(place, || self.world.disarm());
        }
        taken
    }

    fn ask(&mut self, place: usize) -> bool {
        self.kicks.ask(place, || self.world.arm())
    }
}

/// What is left out of the protocol, to see that the model would notice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// `Layout::doubt_all_but`.
    Doubt,
    /// The second look after asking.
    SecondLook,
}

struct Run {
    world: Arc<World>,
    me: usize,
    kicks: Kicks,
    rota: Rota,
    without: Without,
}

impl Run {
    fn new(world: &Arc<World>, me: usize, without: Without) -> Self {
        Self { world: Arc::clone(world), me, kicks: Kicks::new(), rota: Rota::new(1), without }
    }

    fn begin(&mut self, owner: usize) {
        let ports = usize::from(owner == self.me);
        self.rota.restart((0..ports).map(|_| None));
        self.kicks.restart(ports);
    }

    fn finish(&mut self) {
        self.kicks.take_back(|_| self.world.disarm());
        if self.without != Without::Doubt {
            let others = (0..WORKERS).filter(|worker| *worker != self.me);
            others.for_each(|worker| self.world.wakes[worker].wake());
        }
    }

    fn listen(&mut self, sleep: bool, now: u64) -> bool {
        let woken = self.world.wakes[self.me].wait(sleep);
        if woken.control {
            self.rota.doubt();
        }
        if woken.port {
            self.rota.kicked(0, now);
        }
        woken.anything
    }

    /// As `worker::Run::run`; time goes on with the rounds.
    fn run(mut self) {
        let world = Arc::clone(&self.world);
        let mut owner = world.slot.load(Ordering::Acquire);
        self.begin(owner);
        let mut now = 1;
        while !world.stop[self.me].load(Ordering::Relaxed) {
            now += 1;
            let newest = world.slot.load(Ordering::Acquire);
            if newest != owner {
                owner = newest;
                self.finish();
                self.begin(owner);
            }
            let mut round = Round { world: &world, kicks: &mut self.kicks };
            if self.rota.round(now, &mut round) > 0 {
                continue;
            }
            let asleep = self.rota.ask_all(&mut round);
            if asleep || (self.without == Without::SecondLook && owner == self.me) {
                self.listen(true, now);
            } else {
                // Somebody else is in the queue just now.
                thread::yield_now();
            }
        }
        if world.slot.load(Ordering::Acquire) != owner {
            self.finish();
        }
    }
}

/// How many switches there are at most where nobody has to wait. Two take minutes, and an hour is not enough for all.
fn switches() -> usize {
    std::env::var("RINGWAY_MODEL_SWITCHES").map_or(1, |text| text.parse().unwrap())
}

/// Two workers, the control side and the pod.
fn check(without: Without, packets: u32, ends: bool) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(switches());
    model.max_branches = 10_000;
    model.check(move || {
        let world = World::new(packets);
        let workers = [0, 1].map(|me| {
            let run = Run::new(&world, me, without);
            thread::spawn(move || run.run())
        });
        let pod = thread::spawn({
            let world = Arc::clone(&world);
            move || (0..packets).for_each(|_| world.send())
        });
        world.move_queue(1);
        if ends {
            world.end(0);
        }
        pod.join().unwrap();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert_eq!(world.taken.load(Ordering::Relaxed), packets);
    });
}

#[test]
fn a_queue_that_moves_is_never_left_alone() {
    check(Without::Nothing, 1, false);
}

#[test]
fn a_queue_of_a_worker_that_ends_is_never_left_alone() {
    check(Without::Nothing, 1, true);
}

/// The old worker may take back what the new one has asked for; without being told, the new one sleeps for ever.
#[test]
fn without_doubt_a_request_is_taken_back_unseen() {
    fails("without_doubt_a_request_is_taken_back_unseen", || check(Without::Doubt, 2, false));
}

#[test]
fn without_a_second_look_a_packet_is_left_behind() {
    fails("without_a_second_look_a_packet_is_left_behind", || {
        check(Without::SecondLook, 1, false);
    });
}

/// Runs a model that ends in a deadlock in a process of its own: loom can't take its threads apart again then, and aborts.
fn fails(name: &str, model: impl Fn()) {
    const INSIDE: &str = "RINGWAY_MODEL_THAT_FAILS";
    if std::env::var_os(INSIDE).is_some() {
        return model();
    }
    let mut test = std::process::Command::new(std::env::current_exe().unwrap());
    let ended = test.args(["--exact", name, "--nocapture"]).env(INSIDE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success(), "the model has not noticed");
    assert!(said.contains("deadlock"), "{said}");
}
