//! A sending queue that goes from worker to worker while its pod sends.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::*;
use crate::memory::GuestMemory;
use crate::queue::{HEAD_BYTES, RxScratch, TxBurst};
use crate::ring::tests::Driver;
use crate::session::Session;

const RING: u16 = 64;
const BUFFERS: u64 = 0x10000;
const BUFFER: u32 = 0x100;
/// Bytes in front of each frame (virtio 1.2, 5.1.6).
const NET_HEADER: u32 = 12;
const FRAME: u32 = 60;
/// Longer than the test may take: a kick that is lost is a failure, not a delay.
const ASLEEP: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(5);

/// One queue of a pod: its driver, and the session that has set it up.
struct Pod {
    driver: Driver,
    queues: Arc<PortQueues>,
    kick: EventFd,
    session: Session,
    position: u16,
    taken: u16,
}

impl Pod {
    fn new(virtqueue: usize, wake: &Arc<Wake>) -> Self {
        let driver = Driver::new(RING);
        let queues = Arc::new(PortQueues::new(Token(5), |_| Arc::clone(wake)));
        let session = Session::new(Arc::clone(&queues), Box::new(|| {}));
        let kick = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
        session.set_features(1 << 32);
        session.set_memory(GuestMemory::new(Arc::clone(&driver.map)).unwrap());
        session.change(virtqueue, |setup| {
            let at = driver.addresses();
            (setup.desc, setup.avail, setup.used, setup.size) =
                (at.desc, at.avail, at.used, at.size);
            (setup.addressed, setup.ready, setup.enabled) = (true, true, true);
            setup.kick = Some(Arc::new(kick.as_fd().try_clone_to_owned().unwrap()));
        });
        Self { driver, queues, kick, session, position: 0, taken: 0 }
    }

    fn buffer(position: u16) -> (u16, u64) {
        let slot = position % RING;
        (slot, BUFFERS + u64::from(slot) * u64::from(BUFFER))
    }

    fn send(&mut self, sequence: u64) {
        let (slot, at) = Self::buffer(self.position);
        self.position = self.position.wrapping_add(1);
        self.driver.write(at, &[0; NET_HEADER as usize]);
        self.driver.write(at + u64::from(NET_HEADER), &sequence.to_le_bytes());
        self.driver.desc(slot, at, FRAME + NET_HEADER, 0, 0);
        self.driver.offer(slot);
        fence(Ordering::SeqCst);
        if self.driver.used_flags() == 0 {
            self.kick.write(1).unwrap();
        }
    }

    fn offer(&mut self) {
        let (slot, at) = Self::buffer(self.position);
        self.position = self.position.wrapping_add(1);
        self.driver.desc(slot, at, BUFFER, 2, 0);
        self.driver.offer(slot);
    }

    fn receive(&mut self) -> Option<u64> {
        if self.driver.used_index() == self.taken {
            return None;
        }
        let (_, at) = Self::buffer(self.taken);
        self.taken = self.taken.wrapping_add(1);
        let bytes = self.driver.read(at + u64::from(NET_HEADER), 8);
        self.offer();
        Some(u64::from_le_bytes(bytes.try_into().unwrap()))
    }
}

/// What two workers share: who polls the queue, as a snapshot would say it, and their wakes.
struct Crew {
    owner: AtomicUsize,
    wakes: [Arc<Wake>; 2],
    stop: AtomicBool,
    slept: AtomicUsize,
}

impl Crew {
    /// A worker as `vrouterd` has it, with one queue: what it was told to poll stays what it polls until it looks
    /// again; when it has let go, it tells the other.
    fn work(&self, me: usize, from: &PortQueues, to: &PortQueues) {
        let (mut burst, mut scratch) = (TxBurst::new(), RxScratch::new());
        let mut mine = false;
        while !self.stop.load(Ordering::Relaxed) {
            let now_mine = self.owner.load(Ordering::Acquire) == me;
            if mine && !now_mine {
                disarm(from, &mut burst);
                self.wakes[1 - me].wake();
            }
            mine = now_mine;
            let mut moved = 0;
            if mine && let Some(mut lease) = from.tx(0).lease_tx(&mut burst) {
                moved = lease.fetch();
                let mut out = to.rx(0).lease_rx(&mut scratch).unwrap();
                out.prepare(moved);
                for frame in 0..moved {
                    let mut private = [0; HEAD_BYTES];
                    let head = lease.head(frame, &mut private, |_| true).unwrap();
                    let body = lease.body(frame, u32::from(head.copied));
                    let head_bytes = &private[..usize::from(head.copied)];
                    out.push(head_bytes, body, &head.offload).unwrap();
                }
            }
            if moved == 0 && (!mine || arm(from, &mut burst)) {
                self.slept.fetch_add(1, Ordering::Relaxed);
                self.wakes[me].wait(ASLEEP).unwrap();
                if mine {
                    disarm(from, &mut burst);
                }
            }
        }
    }

    fn give(&self, queues: &PortQueues, to: usize) {
        queues.set_wake(0, Arc::clone(&self.wakes[to])).unwrap();
        self.owner.store(to, Ordering::Release);
        self.wakes.iter().for_each(|wake| wake.wake());
    }
}

fn arm(queues: &PortQueues, burst: &mut TxBurst) -> bool {
    queues.tx(0).lease_tx(burst).is_some_and(|lease| lease.arm())
}

fn disarm(queues: &PortQueues, burst: &mut TxBurst) {
    if let Some(lease) = queues.tx(0).lease_tx(burst) {
        lease.disarm();
    }
}

#[test]
fn a_queue_that_changes_workers_loses_and_reorders_nothing() {
    const FRAMES: u64 = 30_000;
    let crew = Crew {
        owner: AtomicUsize::new(0),
        wakes: [0, 1].map(|_| Arc::new(Wake::new().unwrap())),
        stop: AtomicBool::new(false),
        slept: AtomicUsize::new(0),
    };
    let mut from = Pod::new(1, &crew.wakes[0]);
    let mut to = Pod::new(0, &crew.wakes[0]);
    (0..RING).for_each(|_| to.offer());
    let (sender, receiver) = (Arc::clone(&from.queues), Arc::clone(&to.queues));
    let (moves, arrived) = (AtomicUsize::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for me in 0..2 {
            let (crew, sender, receiver) = (&crew, &sender, &receiver);
            scope.spawn(move || crew.work(me, sender, receiver));
        }
        scope.spawn(|| {
            while !crew.stop.load(Ordering::Relaxed) {
                let to = 1 - crew.owner.load(Ordering::Relaxed);
                let before = arrived.load(Ordering::Relaxed);
                crew.give(&sender, to);
                let moves = moves.fetch_add(1, Ordering::Relaxed);
                // The next move would wake a worker that this one has left asleep.
                while arrived.load(Ordering::Relaxed) < before + 3
                    && !crew.stop.load(Ordering::Relaxed)
                {
                    thread::yield_now();
                }
                // At all distances from the last move, a worker that is just going to sleep included.
                thread::sleep(Duration::from_micros((moves as u64 * 37) % 200));
            }
        });
        let (mut sent, mut got, mut progress) = (0, 0, Instant::now());
        let mut failure = None;
        while got < FRAMES && failure.is_none() {
            // Never more than the receiver has room for: what does not arrive is lost, not dropped. And every now
            // and then one alone, so that workers sleep.
            let room = if sent % 64 < 8 { 1 } else { 40 };
            if sent < FRAMES && sent - got < room {
                from.send(sent);
                sent += 1;
            }
            while let Some(sequence) = to.receive() {
                if sequence != got {
                    failure = Some(format!("frame {sequence} came instead of {got}"));
                }
                got += 1;
                arrived.store(got, Ordering::Relaxed);
                progress = Instant::now();
            }
            if progress.elapsed() > PATIENCE {
                failure = Some(format!("stuck at {got} of {sent} sent"));
            }
            std::hint::spin_loop();
        }
        crew.stop.store(true, Ordering::Relaxed);
        crew.wakes.iter().for_each(|wake| wake.wake());
        assert_eq!(failure, None);
    });
    let (moves, slept) = (moves.into_inner(), crew.slept.into_inner());
    assert!(moves > 10 && slept > 10, "{moves} moves, {slept} sleeps: nothing was tried");
}

#[test]
fn a_queue_wakes_the_worker_it_was_given_to_and_no_other() {
    let (old, new) = (Arc::new(Wake::new().unwrap()), Arc::new(Wake::new().unwrap()));
    let pod = Pod::new(1, &old);
    let soon = Duration::from_millis(20);
    let woken = |wake: &Wake| {
        let start = Instant::now();
        let woken = wake.wait(soon).unwrap();
        assert!(!woken.control && woken.ports().iter().all(|token| *token == Token(5)));
        start.elapsed() < soon
    };
    assert!(woken(&old), "the queue was started");
    pod.kick.write(1).unwrap();
    assert!(woken(&old));
    pod.queues.set_wake(0, Arc::clone(&new)).unwrap();
    assert!(woken(&new));
    pod.kick.write(1).unwrap();
    assert_eq!((woken(&old), woken(&new)), (false, true));
    // A descriptor that the pod exchanges, and a queue that is started later, go to the new one, too.
    pod.session.change(1, |setup| setup.enabled = false);
    pod.kick.write(1).unwrap();
    assert_eq!((woken(&old), woken(&new)), (false, false), "off");
    pod.session.change(1, |setup| setup.enabled = true);
    assert_eq!((woken(&old), woken(&new)), (false, true));
}

#[test]
fn crossings_need_two_known_nodes() {
    let wake = Arc::new(Wake::new().unwrap());
    let at = |node| {
        let queues = PortQueues::new(Token(5), |_| Arc::clone(&wake));
        queues.set_node(node);
        queues
    };
    for (from, to, crosses) in [(None, None, false), (Some(0), None, false), (None, Some(1), false)]
        .into_iter()
        .chain([(Some(0), Some(0), false), (Some(0), Some(1), true), (Some(1), Some(0), true)])
    {
        assert_eq!(at(from).crosses(None, to), crosses, "{from:?} {to:?}");
        // By the hands of a worker that is elsewhere it crosses, too.
        let by = Some(7);
        assert_eq!(at(from).crosses(by, to), from.is_some() || to.is_some(), "{from:?} {to:?}");
        assert_eq!(at(from).node(), from);
    }
}

/// A worker writes to a queue in each burst: its lock, and where it stands in the ring.
#[test]
fn two_queues_share_no_cache_line() {
    let wake = Arc::new(Wake::new().unwrap());
    let queues = PortQueues::new(Token(0), |_| Arc::clone(&wake));
    for pair in queues.virtqueues.windows(2) {
        let [a, b] = [&pair[0], &pair[1]].map(|queue| std::ptr::from_ref(queue).addr());
        assert!(
            a.is_multiple_of(64)
                && b - a >= size_of::<Queue>()
                && size_of::<Queue>().is_multiple_of(64)
        );
    }
}
