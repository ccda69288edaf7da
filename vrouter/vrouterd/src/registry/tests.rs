//! Real workers on DPDK, real ports, and pods that are driven from here: what moves while packets flow.
//!
//! The pods live in this process, so their ports admit its cgroup. A process in no cgroup but the root can't be admitted
//! anywhere; the tests say so and end.

mod pod;

use std::fs;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tempfile::TempDir;
use vrouter_dpdk::{Eal, EalConfig, LogLevel, Memory, Pool, PoolConfig, allowed_cpus, tsc};

use super::*;
use crate::crew::Kit;
use crate::worker::Pace;
use pod::Pod;

const PATIENCE: Duration = Duration::from_secs(5);

/// The one environment of this process.
fn eal() -> Arc<Eal> {
    static EAL: OnceLock<Arc<Eal>> = OnceLock::new();
    let config = EalConfig {
        file_prefix: format!("ringway-test-{}", std::process::id()),
        memory: Memory::Ordinary { mib: 32 },
        log_level: LogLevel::Warning,
        extra: Vec::new(),
    };
    // On a thread of its own: it is pinned, and no test shall be.
    let start =
        move || Arc::new(thread::spawn(move || Eal::init(&config).unwrap()).join().unwrap());
    Arc::clone(EAL.get_or_init(start))
}

/// The cgroup this process is in, for ports to admit.
fn own_cgroup() -> Option<String> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap();
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.filter(|path| path.len() > 1).max_by_key(|path| path.len()).map(str::to_owned)
}

/// A vRouter without its API.
struct Node {
    registry: Registry,
    directory: TempDir,
    cgroup: String,
    gateway: [u8; 6],
    cpus: Vec<u32>,
}

impl Node {
    /// With one worker on the first CPU. `None`, with a word about it: it can't be tried here.
    fn new(assignment: Assignment) -> Option<Self> {
        let cpus: Vec<u32> = allowed_cpus().unwrap().iter().map(|cpu| cpu.0.into()).collect();
        let (Some(cgroup), true) = (own_cgroup(), cpus.len() > 1) else {
            eprintln!("SKIP: needs a cgroup besides the root, and two CPUs");
            return None;
        };
        static POOLS: AtomicU64 = AtomicU64::new(0);
        let eal = eal();
        let name = format!("test-{}", POOLS.fetch_add(1, Ordering::Relaxed));
        let config = PoolConfig { name, mbufs: 1023, cache: 32, data_room: 2048 };
        let pool = Pool::new(&eal, &config).unwrap();
        let tables = Tables::build(&Policy::default()).unwrap();
        let empty = Dataplane { tables: tables.clone(), layout: Arc::default() };
        let slot: Slot = Arc::new(ArcSwap::from_pointee(empty));
        let crew = Crew::new(Kit {
            eal: Arc::clone(&eal),
            allowed: allowed_cpus().unwrap(),
            // Asleep at once and for long: a kick that is lost stops everything.
            pace: Pace {
                spin: Duration::from_micros(5),
                sleep: Duration::from_secs(60),
                rest: Duration::from_micros(300),
                poll: Duration::from_micros(100),
            },
            ports: 8,
            pool,
            slot: Arc::clone(&slot),
            node: None,
        });
        let directory = tempfile::tempdir().unwrap();
        let private = directory.path().join("guard");
        fs::create_dir(&private).unwrap();
        // No device here is a kernel's.
        let (keeper, records) = (Vec::new(), PathBuf::new());
        let keepers = vrouter_kernel::hostif::Options { keeper, records, owner: String::new() };
        let devices = Devices::new(eal, (1023, 2048), keepers, private.clone(), false);
        let mut registry = Registry::new(tables, slot, crew, devices, assignment, 8, private);
        registry.set_workers(&cpus[..1]).unwrap();
        let network =
            v1::Network { name: "red".into(), ipv4: "10.66.0.0/24".into(), ..Default::default() };
        let made = registry.create_network(NetworkRequest::read(&network).unwrap()).unwrap();
        let gateway: vrouter_net::Mac = made.gateway_mac.parse().unwrap();
        Some(Self { registry, directory, cgroup, gateway: gateway.octets(), cpus })
    }

    fn spec(&self, number: u8, queue_pairs: u32, worker: Option<u32>) -> v1::PortSpec {
        v1::PortSpec {
            id: format!("p{number}"),
            network: "red".into(),
            mac: format!("02:00:00:00:00:{number:02x}"),
            ipv4: format!("10.66.0.{number}"),
            socket_path: self.directory.path().join(format!("p{number}")).display().to_string(),
            queue_pairs,
            peer_cgroups: vec![self.cgroup.clone()],
            worker,
            ..Default::default()
        }
    }

    fn port(
        &mut self,
        number: u8,
        queue_pairs: u32,
        worker: Option<u32>,
    ) -> Result<v1::Port, Refusal> {
        let spec = self.spec(number, queue_pairs, worker);
        self.registry.create_port(PortRequest::read(spec).unwrap())
    }

    /// A port and its pod, up.
    fn pod(&mut self, number: u8, queue_pairs: u32) -> Pod {
        self.port(number, queue_pairs, None).unwrap();
        let socket = self.directory.path().join(format!("p{number}"));
        let pod = Pod::attach(&socket, number, self.gateway, queue_pairs as usize);
        let start = Instant::now();
        while self.find(number).active_queue_pairs != queue_pairs {
            assert!(start.elapsed() < PATIENCE, "{:?}", self.find(number));
            thread::sleep(Duration::from_millis(5));
        }
        pod
    }

    /// Changes the workers, who must not sleep through it.
    fn work_on(&mut self, cpus: &[u32]) -> Vec<v1::Worker> {
        let start = Instant::now();
        let workers = self.registry.set_workers(cpus).unwrap();
        assert!(start.elapsed() < PATIENCE, "a worker was asleep");
        workers
    }

    fn find(&self, number: u8) -> v1::Port {
        let id = format!("p{number}");
        let mut ports = self.registry.ports().into_iter();
        ports.find(|port| port.spec.as_ref().is_some_and(|spec| spec.id == id)).unwrap()
    }

    fn stats(&self, number: u8) -> v1::PortStats {
        let id = format!("p{number}");
        self.registry.port_stats().into_iter().find(|stats| stats.id == id).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.registry.close();
        self.registry.dismiss();
    }
}

/// Sends from `from` to `to` on each of `pairs` queue pairs until it is stopped, and receives; every frame must arrive,
/// in its queue's order. Gives the number of frames.
fn traffic(
    from: &mut Pod,
    to: &mut Pod,
    pairs: usize,
    stop: &AtomicBool,
    arrived: &AtomicU64,
) -> u64 {
    let mut sent = vec![0u64; pairs];
    let mut got = vec![0u64; pairs];
    let mut progress = Instant::now();
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        for pair in 0..pairs {
            // Now and then one frame alone, so that the workers sleep in between; never more than there is room for.
            let room = if sent[pair] % 64 < 4 { 1 } else { 32 };
            if !stopping && sent[pair] - got[pair] < room {
                from.send(pair, to.number, sent[pair]);
                sent[pair] += 1;
            }
            while let Some((on, sequence)) = to.receive(pair) {
                assert_eq!(sequence, got[on], "queue pair {on}");
                got[on] += 1;
                arrived.fetch_add(1, Ordering::Relaxed);
                progress = Instant::now();
            }
        }
        if sent == got {
            if stopping {
                return got.iter().sum();
            }
        } else {
            assert!(progress.elapsed() < PATIENCE, "{got:?} of {sent:?} arrived");
        }
        thread::yield_now();
    }
}

/// Lets `frames` more frames arrive.
fn flow(arrived: &AtomicU64, frames: u64) {
    let (begun, start) = (arrived.load(Ordering::Relaxed), Instant::now());
    while arrived.load(Ordering::Relaxed) < begun + frames {
        assert!(start.elapsed() < 2 * PATIENCE, "packets have ceased to flow");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Ends the traffic when an assertion fails: the scope would wait for it for ever.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn workers_come_and_go_under_traffic_without_loss() {
    let Some(mut node) = Node::new(Assignment::RoundRobin) else { return };
    let (mut a, mut b) = (node.pod(2, 2), node.pod(3, 1));
    let (stop, arrived) = (AtomicBool::new(false), AtomicU64::new(0));
    let (first, both) = (node.cpus[..1].to_vec(), node.cpus[..2].to_vec());
    let second = both[1..].to_vec();
    let (stop_ref, arrived_ref) = (&stop, &arrived);
    let total = thread::scope(|scope| {
        let _end = Ends(&stop);
        let moving = scope.spawn(move || traffic(&mut a, &mut b, 2, stop_ref, arrived_ref));
        let pairs = |node: &Node| node.find(2).workers;
        flow(&arrived, 500);
        assert_eq!(pairs(&node), [0, 0]);
        for _ in 0..10 {
            let workers = node.work_on(&both);
            assert_eq!(workers.len(), 2);
            let mine = pairs(&node);
            assert!(mine.contains(&0) && mine.contains(&1), "{mine:?}");
            flow(&arrived, 300);
            // The one that stays keeps its number; its queues come back to it.
            assert_eq!(node.work_on(&first)[0].cpu, first[0]);
            assert_eq!(pairs(&node), [0, 0]);
            flow(&arrived, 300);
            // To the other CPU, by way of both.
            node.work_on(&both);
            node.work_on(&second);
            assert_eq!(pairs(&node), [1, 1]);
            flow(&arrived, 300);
            node.work_on(&both);
            node.work_on(&first);
        }
        // New tables reach a worker that is busy; the old ones are freed here once it has let go of them.
        for n in 0..20 {
            let ipv4 = format!("10.{n}.0.0/24");
            let network = v1::Network { name: format!("n{n}"), ipv4, ..Default::default() };
            node.registry.create_network(NetworkRequest::read(&network).unwrap()).unwrap();
            flow(&arrived, 50);
        }
        node.registry.balance(tsc());
        assert_eq!(node.registry.published.retired(), 0);
        stop.store(true, Ordering::Relaxed);
        moving.join().unwrap()
    });
    let (a, b) = (node.stats(2), node.stats(3));
    assert_eq!((a.rx_packets, b.tx_packets, a.drops.len()), (total, total, 0), "{a:?}");
    assert_eq!(a.queues.iter().map(|queue| queue.rx_packets).sum::<u64>(), total);
    assert!(a.busy_ticks > 0 && a.cycles_per_packet > 0.0);
    let bursts: u64 = a.burst_sizes.iter().sum();
    assert!(bursts > 0 && bursts <= total && a.burst_sizes[0] > 0, "{a:?}");
    assert!(a.latency.iter().sum::<u64>() <= bursts);
    // What a worker that has ended counted is not lost.
    let workers = node.registry.worker_stats(1);
    assert_eq!(workers.len(), 1);
    assert!(workers[0].packets < total && workers[0].sleeps > 0, "{workers:?}");
}

#[test]
fn a_queue_moves_to_and_fro_under_traffic_without_loss() {
    let Some(mut node) = Node::new(Assignment::Load) else { return };
    let (mut a, mut b) = (node.pod(2, 1), node.pod(3, 1));
    let both = node.cpus[..2].to_vec();
    node.work_on(&both);
    let (stop, arrived) = (AtomicBool::new(false), AtomicU64::new(0));
    let (stop_ref, arrived_ref) = (&stop, &arrived);
    thread::scope(|scope| {
        let _end = Ends(&stop);
        let moving = scope.spawn(move || traffic(&mut a, &mut b, 1, stop_ref, arrived_ref));
        for n in 0..300 {
            let port = node.port(2, 1, Some(n % 2)).unwrap();
            assert_eq!((port.worker, port.workers), (n % 2, vec![n % 2]));
            // At once again, or when the last move has shown that it left nobody asleep.
            if n % 3 != 0 {
                flow(&arrived, 1 + u64::from(n % 50));
            }
        }
        stop.store(true, Ordering::Relaxed);
        moving.join().unwrap()
    });
    let workers = node.registry.worker_stats(1);
    assert!(workers.iter().all(|w| w.packets > 0), "{workers:?}");
    assert!(node.stats(2).drops.is_empty());
}

#[test]
fn a_worker_with_too_much_to_do_gives_a_queue_away() {
    let Some(mut node) = Node::new(Assignment::Load) else { return };
    let (mut a, mut b) = (node.pod(2, 2), node.pod(3, 1));
    let both = node.cpus[..2].to_vec();
    node.work_on(&both);
    // Both queues to one worker, as if they had become busy only now.
    node.registry.give("p2", Owners::one(WorkerIndex(0)));
    node.registry.publish();
    let (stop, arrived) = (AtomicBool::new(false), AtomicU64::new(0));
    let (stop_ref, arrived_ref) = (&stop, &arrived);
    thread::scope(|scope| {
        let _end = Ends(&stop);
        let moving = scope.spawn(move || traffic(&mut a, &mut b, 2, stop_ref, arrived_ref));
        // Seen through a clock that is as slow as it takes for what these pods send to be a full load.
        let mut clock = 0;
        let mut busy = |node: &Node| {
            let ticks = node.registry.worker_stats(1).iter().map(|w| w.busy_ticks).sum::<u64>();
            clock = std::cmp::max(clock + 1, ticks);
            clock
        };
        for _ in 0..8 {
            flow(&arrived, 500);
            let now = busy(&node);
            node.registry.balance(now);
        }
        let mut workers = node.find(2).workers;
        workers.sort_unstable();
        assert_eq!(workers, [0, 1]);
        stop.store(true, Ordering::Relaxed);
        moving.join().unwrap()
    });
    assert!(node.stats(2).drops.is_empty());
}

#[test]
fn pins_are_kept_and_told() {
    let Some(mut node) = Node::new(Assignment::Load) else { return };
    let (cpus, both) = (node.cpus.clone(), node.cpus[..2].to_vec());
    let refused = node.port(2, 1, Some(1)).unwrap_err().to_string();
    assert_eq!(refused, "worker 1: no such worker; use one of 0, or leave it out");
    node.work_on(&both);
    let port = node.port(2, 3, Some(1)).unwrap();
    assert_eq!((port.worker, port.workers), (1, vec![1, 1, 1]));
    let refused = node.registry.set_workers(&cpus[..1]).unwrap_err().to_string();
    let expected = format!(
        "port \"p2\" is pinned to worker 1 on CPU {}; unpin it (ringway workers pin p2 auto) or keep that CPU",
        cpus[1]
    );
    assert_eq!(refused, expected);
    assert_eq!(node.registry.workers().len(), 2, "nothing has changed");
    let port = node.port(2, 3, None).unwrap();
    assert_eq!((port.worker, port.spec.unwrap().worker), (1, None), "it stays where it is");
    node.work_on(&cpus[..1]);
    assert_eq!(node.find(2).workers, [0, 0, 0]);
    let refused = node.registry.set_workers(&[8191]).unwrap_err().to_string();
    assert!(refused.starts_with("cpus \"8191\": offline or not allowed"), "{refused}");
    assert_eq!(node.registry.workers().len(), 1);
    node.registry.balance(tsc());
}
