//! Whatever messages a pod sends, through the guard and to a real daemon, while workers poll the queues that come of it:
//! nobody panics, hangs or reads outside, and when the connection ends no queue runs.

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bolero::TypeGenerator;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use vhost::vhost_user::Listener;
use vhost_user_backend::VhostUserDaemon;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::backend::{FEATURES, PortBackend};
use crate::guard::descriptor::Kind;
use crate::guard::message::{Header, MAX_PAYLOAD, REGION_BYTES, Region};
use crate::guard::policy::{Decision, Policy};
use crate::guard::relay::{End, Relay};
use crate::offload::Offload;
use crate::queue::{Body, HEAD_BYTES, RxScratch, TxBurst};
use crate::queues::{PortQueues, QUEUE_PAIRS};
use crate::session::Session;
use crate::vring::of_session;
use crate::wake::{Token, Wake};

const QUEUES: usize = 2 * QUEUE_PAIRS;
const FILE_BYTES: i64 = 0x4_0000;
/// Where the pod has its memory, in its own address space and the guest's.
const USER: u64 = 0x7000_0000_0000;
const GUEST: u64 = 0x1_0000;

/// What one message is made of.
#[derive(Clone, Copy, Debug, TypeGenerator)]
struct Step {
    kind: u8,
    queue: u8,
    a: u8,
    b: u8,
    wild: u64,
    mangle: u8,
}

/// What comes with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gift {
    Memory,
    Event,
    Pipe,
}

impl Step {
    fn region(self, n: u8) -> [u64; 4] {
        let pick = self.a.rotate_left(u32::from(n)) ^ self.b;
        let place = u64::from(n) * 0x4_0000;
        let (size, offset) = match pick % 8 {
            0..=3 => (0x4_0000, 0),
            4 => (0x2_0000, 0x2_0000),
            5 => (0x1000, 0x3000),
            6 => (0x4_1000, 0),
            _ => (self.wild, self.wild >> 7),
        };
        // At times over another.
        let place = if pick % 16 == 9 { 0 } else { place };
        [GUEST + place, size, USER + place, offset]
    }

    /// Code, payload and descriptors.
    fn message(self) -> (u32, Vec<u8>, Vec<Gift>) {
        let queue =
            if self.queue < 240 { u32::from(self.queue % 6) } else { u32::from(self.queue) };
        let state = |value: u32| [queue.to_le_bytes(), value.to_le_bytes()].concat();
        let longs = |words: &[u64]| -> Vec<u8> {
            words.iter().flat_map(|word| word.to_le_bytes()).collect()
        };
        let none = Vec::<u8>::new;
        let of_queue = |gift: Gift| {
            if self.a < 200 {
                (longs(&[queue.into()]), vec![gift])
            } else {
                (longs(&[0x100 | u64::from(queue)]), Vec::new())
            }
        };
        let (code, (payload, gifts)) = match self.kind % 20 {
            0 => (3, (none(), vec![])),
            1 => {
                let some =
                    [FEATURES, FEATURES & !(1 << 34), 1 << 32 | 1 << 30, FEATURES & self.wild];
                (2, (longs(&[some[usize::from(self.a % 4)]]), vec![]))
            }
            2 => (1, (none(), vec![])),
            3 => (15, (none(), vec![])),
            4 => (16, (longs(&[self.wild & 0x2_a00b]), vec![])),
            5 | 6 => {
                let n = 1 + self.a % 3;
                let regions: Vec<_> = (0..n).flat_map(|i| self.region(i)).collect();
                (
                    5,
                    (
                        longs(&[&[u64::from(n)], &regions[..]].concat()),
                        vec![Gift::Memory; n.into()],
                    ),
                )
            }
            7 => (8, (state(1 << (self.a % 14)), vec![])),
            8 | 9 => {
                let at = USER + 0x1_0000 * u64::from(self.a % 5) + 16 * u64::from(self.b);
                let rest = longs(&[at, at + 0x3000, at + 0x2000, self.wild]);
                (9, ([state(0), rest].concat(), vec![]))
            }
            10 => (10, (state(u32::from(self.a) << 8 | u32::from(self.b)), vec![])),
            11 => (11, (state(0), vec![])),
            12 => (12, of_queue(Gift::Event)),
            13 => (13, of_queue(if self.b == 0 { Gift::Pipe } else { Gift::Event })),
            14 => (14, of_queue(Gift::Event)),
            15 | 16 => (18, (state(u32::from(!self.a.is_multiple_of(8))), vec![])),
            17 => (37, (longs(&[&[0], &self.region(self.b % 4)[..]].concat()), vec![Gift::Memory])),
            18 => (38, (longs(&[&[0], &self.region(self.b % 4)[..]].concat()), vec![])),
            _ => (u32::from(self.a), (longs(&[self.wild]), vec![])),
        };
        (code, payload, gifts)
    }
}

/// A connection's worth of it.
#[derive(Clone, Debug, TypeGenerator)]
struct Story {
    /// A good start, as virtio-user makes it, before the steps.
    starts_well: bool,
    packed: bool,
    memory: Vec<u8>,
    steps: Vec<Step>,
    /// Takes its memory away before this step.
    shrinks: Option<u8>,
}

fn good_start(packed: bool) -> Vec<Step> {
    let step = |kind, queue, a, b| Step { kind, queue, a, b, wild: u64::MAX, mangle: 0 };
    let mut steps = vec![step(0, 0, 0, 0), step(1, 0, u8::from(!packed), 0), step(4, 0, 0, 0)];
    steps.push(step(5, 0, 0, 0));
    for queue in 0..4 {
        steps.extend([step(7, queue, 5, 0), step(10, queue, if packed { 0x80 } else { 0 }, 0)]);
        steps.extend([step(8, queue, queue, 0), step(13, queue, 0, 1), step(12, queue, 0, 0)]);
    }
    steps.extend((0..4).map(|queue| step(15, queue, 1, 0)));
    steps
}

/// The pod's end of its socket and what it hands out.
struct Pod {
    socket: UnixStream,
    memory: OwnedFd,
    event: EventFd,
    pipe: OwnedFd,
}

impl Pod {
    fn send(&self, step: Step) {
        let (mut code, mut payload, gifts) = step.message();
        let mut flags = if step.mangle & 1 != 0 { 9 } else { 1 };
        match step.mangle {
            250 => code ^= 1 << (step.wild % 32),
            251 => flags = u32::from(step.a),
            252 => payload.truncate(usize::from(step.b) % 40),
            253 => payload.extend([step.a; 9]),
            254 => payload.resize(MAX_PAYLOAD + 1 - usize::from(step.a % 2), step.b),
            255 => {
                if let Some(byte) = payload.get_mut(usize::from(step.a)) {
                    *byte ^= step.b;
                }
            }
            _ => {}
        }
        let fds: Vec<_> = gifts
            .iter()
            .map(|gift| match gift {
                Gift::Memory => self.memory.as_raw_fd(),
                Gift::Event => self.event.as_fd().as_raw_fd(),
                Gift::Pipe => self.pipe.as_raw_fd(),
            })
            .collect();
        let size = u32::try_from(payload.len()).unwrap();
        let bytes = [&Header { code, flags, size }.bytes()[..], &payload].concat();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
        let (to, parts) = (self.socket.as_raw_fd(), [IoSlice::new(&bytes)]);
        // A relay that has ended the connection reads no more.
        let _ = sendmsg::<()>(to, &parts, control, MsgFlags::MSG_NOSIGNAL, None);
    }
}

impl Pod {
    /// Waits until the daemon has handled everything: it answers in turn.
    fn settle(&self, relay: &mut Relay) {
        let question = Header { code: 17, flags: 1, size: 0 };
        let answer = Header { code: 17, flags: 5, size: 8 };
        (&self.socket).write_all(&question.bytes()).unwrap();
        relay.serve_pod().unwrap();
        let mut answers = Vec::new();
        while !answers.windows(12).any(|bytes| bytes == answer.bytes()) {
            relay.serve_daemon().unwrap();
            let mut more = [0; 4096];
            let n = (&self.socket).read(&mut more).unwrap();
            answers.extend_from_slice(&more[..n]);
        }
    }
}

/// Polls all queues as a worker does.
fn work(queues: &PortQueues, stop: &AtomicBool) {
    let (mut burst, mut scratch) = (TxBurst::new(), RxScratch::new());
    while !stop.load(Ordering::Relaxed) {
        for pair in 0..3 {
            if let Some(mut lease) = queues.tx(pair).lease_tx(&mut burst) {
                for i in 0..lease.fetch() {
                    let mut private = [0; HEAD_BYTES];
                    if let Ok(head) = lease.head(i, &mut private, |_| false) {
                        lease.body(i, head.copied.into()).read(&mut [0; 2048]);
                    }
                }
            }
            if let Some(mut lease) = queues.rx(pair).lease_rx(&mut scratch) {
                lease.prepare(2);
                for _ in 0..2 {
                    let _ = lease.push(&[0x5a; 100], Body::EMPTY, &Offload::NONE);
                }
            }
        }
        thread::yield_now();
    }
}

/// Serves the pod until nothing more of it is there.
fn serve(relay: &mut Relay) -> Result<(), End> {
    loop {
        let ready = |fd| {
            let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO).unwrap() > 0
        };
        if ready(relay.daemon()) {
            relay.serve_daemon()?;
        } else if ready(relay.pod()) {
            relay.serve_pod()?;
        } else {
            return Ok(());
        }
    }
}

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Returns how many queue pairs ran at the end, if the daemon was `settle`d before.
fn play(story: &Story, directory: &std::path::Path, settle: bool) -> u32 {
    let memory = memfd_create(c"pod", MFdFlags::MFD_CLOEXEC).unwrap();
    nix::unistd::ftruncate(&memory, FILE_BYTES).unwrap();
    let contents = File::from(memory.try_clone().unwrap());
    for place in 0..4 {
        // Rings and tables of all queues begin with the same bytes.
        std::os::unix::fs::FileExt::write_all_at(&contents, &story.memory, place * 0x1_0000)
            .unwrap();
    }
    let (socket, guards_end) = UnixStream::pair().unwrap();
    let (pipe, _) = nix::unistd::pipe().unwrap();
    let pod = Pod { socket, memory, event: EventFd::new().unwrap(), pipe };

    let wake = Arc::new(Wake::new().unwrap());
    let queues = Arc::new(PortQueues::new(Token(1), |_| Arc::clone(&wake)));
    let session = Arc::new(Session::new(Arc::clone(&queues), Box::new(|| {})));
    let backend = PortBackend::new(Arc::clone(&session));
    let atomic = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon =
        of_session(&session, || VhostUserDaemon::new("test".to_owned(), backend, atomic)).unwrap();
    let name = directory.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
    let listener = UnixListener::bind(&name).unwrap();
    let ours = UnixStream::connect(&name).unwrap();
    std::fs::remove_file(&name).unwrap();
    daemon.start(&mut Listener::from(listener)).unwrap();
    let mut relay = Relay::new(guards_end, ours, QUEUES).unwrap();

    let stop = AtomicBool::new(false);
    let good = if story.starts_well { good_start(story.packed) } else { Vec::new() };
    let running = thread::scope(|scope| {
        let worker = scope.spawn(|| work(&queues, &stop));
        let steps = good.iter().chain(story.steps.iter().take(40));
        for (n, step) in (0u8..).zip(steps) {
            if story.shrinks == Some(n) {
                nix::unistd::ftruncate(&pod.memory, 0x1000).unwrap();
            }
            pod.send(*step);
            if serve(&mut relay).is_err() {
                break;
            }
        }
        if settle {
            pod.settle(&mut relay);
        }
        let running = session.view().running_pairs;
        // As the port's thread ends a connection.
        daemon.request_shutdown();
        let waited = daemon.wait();
        let panicked = matches!(waited, Err(vhost_user_backend::Error::WaitDaemon(_)));
        assert!(!panicked, "the daemon's thread has panicked");
        session.end();
        stop.store(true, Ordering::Relaxed);
        worker.join().unwrap();
        running
    });
    assert_eq!(queues.sending(), 0);
    for index in 0..QUEUES {
        assert!(!queues.virtqueue(index).is_running());
    }
    running
}

#[test]
fn any_messages_in_any_order() {
    let directory = tempfile::tempdir().unwrap();
    bolero::check!().with_type::<Story>().for_each(|story| {
        play(story, directory.path(), false);
    });
}

/// The good start is one: all else would test little.
#[test]
fn a_good_start_runs_its_queues() {
    for packed in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let steps = good_start(packed);
        let story = Story { starts_well: false, packed, memory: vec![], steps, shrinks: None };
        assert_eq!(play(&story, directory.path(), true), 2, "packed: {packed}");
        let mut policy = Policy::new(QUEUES, Duration::ZERO);
        for step in &story.steps {
            let (code, payload, gifts) = step.message();
            let kinds: Vec<_> = gifts.iter().map(|gift| gift.kind()).collect();
            let header = Header { code, flags: 1, size: 0 };
            policy.judge(Duration::ZERO, header, &payload, &kinds).unwrap();
        }
    }
}

impl Gift {
    fn kind(self) -> Kind {
        match self {
            Self::Memory => Kind::Memory { size: FILE_BYTES.unsigned_abs(), page: 4096 },
            Self::Event => Kind::Event,
            Self::Pipe => Kind::Other,
        }
    }
}

/// One message after the other as they come over the wire, each behind a byte that says what descriptors it has.
#[test]
fn any_bytes_as_messages() {
    bolero::check!().for_each(|mut bytes: &[u8]| {
        let mut policy = Policy::new(QUEUES, Duration::ZERO);
        while let Some((gifts, rest)) = bytes.split_first() {
            let Some((head, rest)) = rest.split_first_chunk() else { break };
            let header = Header::parse(*head);
            let size = usize::try_from(header.size).unwrap();
            let Some((payload, rest)) = rest.split_at_checked(size.min(MAX_PAYLOAD)) else { break };
            bytes = rest;
            let gift = [Gift::Memory, Gift::Event, Gift::Pipe][usize::from(gifts >> 6) % 3];
            let kinds = vec![gift.kind(); usize::from(gifts & 63)];
            let Ok(decision) = policy.judge(Duration::ZERO, header, payload, &kinds) else {
                continue;
            };
            hold(&decision, header, payload, &kinds);
        }
    });
}

/// What every message that passes keeps to.
fn hold(decision: &Decision, header: Header, payload: &[u8], kinds: &[Kind]) {
    assert!(header.is_request() && kinds.len() <= 32);
    let word = |at: usize| u32::from_le_bytes(payload[at..at + 4].try_into().unwrap());
    match header.code {
        5 => {
            let table = match decision {
                Decision::Reordered { payload: sorted, order } => {
                    let mut all = order.clone();
                    all.sort_unstable();
                    assert!(all.into_iter().eq(0..kinds.len()), "no permutation");
                    sorted
                }
                decision => {
                    assert_eq!(*decision, Decision::Forward);
                    payload
                }
            };
            let regions: Vec<_> =
                table[8..].chunks(REGION_BYTES).map(|raw| Region::parse(raw).unwrap()).collect();
            assert_eq!(regions.len(), kinds.len());
            for region in &regions {
                assert!(
                    region.size > 0 && region.offset + region.size <= FILE_BYTES.unsigned_abs()
                );
                assert!((region.offset | region.size).is_multiple_of(4096));
            }
            assert!(regions.windows(2).all(|pair| pair[0].gpa + pair[0].size <= pair[1].gpa));
        }
        8..=11 | 18 => assert!((word(0) as usize) < QUEUES),
        12..=14 => {
            assert!(usize::from(payload[0]) < QUEUES);
            assert_eq!(kinds.len(), usize::from(payload[1] & 1 == 0));
            assert_eq!(
                matches!(decision, Decision::ReplaceCall { .. }),
                header.code == 13 && !kinds.is_empty()
            );
        }
        6 | 7 | 19..=33 | 35 | 39.. => panic!("{} is not supported", header.code),
        _ => {}
    }
}
