//! Who polls what.

use super::*;

const A: WorkerIndex = WorkerIndex(0);
const B: WorkerIndex = WorkerIndex(1);
const C: WorkerIndex = WorkerIndex(2);

fn burdens(list: &[(WorkerIndex, u8, usize)]) -> BTreeMap<WorkerIndex, Burden> {
    list.iter().map(|&(w, busy, queues)| (w, Burden { busy, queues })).collect()
}

fn owners(list: &[WorkerIndex]) -> Owners {
    let mut owners = Owners::one(list[0]);
    for pair in 0..QUEUE_PAIRS {
        owners.set(pair, list[pair % list.len()]);
    }
    owners
}

#[test]
fn new_queues_go_to_whoever_has_least() {
    for (workers, pairs, expected) in [
        (burdens(&[(A, 0, 0)]), 4, owners(&[A])),
        (burdens(&[(A, 0, 0), (B, 0, 0)]), 1, owners(&[A])),
        (burdens(&[(A, 0, 1), (B, 0, 0)]), 1, owners(&[B])),
        (burdens(&[(A, 0, 0), (B, 0, 0)]), 4, owners(&[A, B, A, B])),
        (burdens(&[(A, 0, 3), (B, 0, 0), (C, 0, 3)]), 3, owners(&[B, B, B])),
        (burdens(&[(A, 9, 0), (B, 2, 5)]), 2, owners(&[B, B])),
        (burdens(&[(C, 0, 0)]), 16, owners(&[C])),
        (burdens(&[]), 2, owners(&[A])),
        (burdens(&[(B, 0, 0)]), 0, owners(&[B])),
    ] {
        assert_eq!(place(workers.clone(), pairs), expected, "{workers:?} {pairs}");
    }
}

#[test]
fn masks_name_a_workers_pairs() {
    let owners = owners(&[A, B, B, A]);
    assert_eq!((owners.pairs_of(0) & 0xff, owners.pairs_of(1) & 0xff), (0b1001_1001, 0b0110_0110));
    assert_eq!(owners.pairs_of(2), 0);
    assert_eq!(Owners::one(B).pairs_of(1), 0xffff);
}

fn port(list: &[WorkerIndex], pairs: usize, pinned: bool) -> Assigned {
    Assigned { owners: owners(list), pairs, pinned }
}

/// Queues of each worker, of pairs that are meant to be used.
fn counts(ports: &[Assigned]) -> BTreeMap<WorkerIndex, usize> {
    let mut counts = BTreeMap::new();
    for port in ports {
        for (_, owner) in port.owners.iter().take(port.pairs) {
            *counts.entry(owner).or_default() += 1;
        }
    }
    counts
}

#[test]
fn queues_of_a_worker_that_goes_are_taken_over_evenly() {
    let mut ports = [port(&[A, B], 4, false), port(&[B], 1, false), port(&[A], 1, false)];
    spread(&mut ports, &[A, C]);
    assert_eq!(counts(&ports), BTreeMap::from([(A, 3), (C, 3)]));
    // Not one pair is left to somebody who is gone, whether it is used or not.
    for port in &ports {
        assert!(port.owners.iter().all(|(_, owner)| [A, C].contains(&owner)));
    }
    assert_eq!(ports[0].owners.of(0), A, "what need not move stays");
}

#[test]
fn a_worker_that_comes_gets_its_share_but_no_pins() {
    let mut ports: Vec<_> = (0..6).map(|n| port(&[A], 1, n < 2)).collect();
    spread(&mut ports, &[A, B]);
    assert_eq!(counts(&ports), BTreeMap::from([(A, 3), (B, 3)]));
    assert!(ports[..2].iter().all(|p| p.owners == Owners::one(A)));
    let before: Vec<_> = ports.iter().map(|p| p.owners).collect();
    spread(&mut ports, &[A, B]);
    assert_eq!(ports.iter().map(|p| p.owners).collect::<Vec<_>>(), before, "even is even");
    spread(&mut ports, &[]);
}

/// Loads of queues by owner and per cent; ports are numbered.
fn loads(list: &[(WorkerIndex, u64)]) -> Vec<QueueLoad> {
    let queue = |n: usize| QueueKey { port: PortIndex(u16::try_from(n).unwrap()), pair: 0 };
    list.iter()
        .enumerate()
        .map(|(n, &(owner, ticks))| QueueLoad { queue: queue(n), owner, ticks })
        .collect()
}

#[test]
fn the_queue_that_evens_out_most_moves_if_it_is_worth_it() {
    for (busy, queues, moved) in [
        // Two halves.
        (&[(A, 100), (B, 0)][..], &[(A, 50), (A, 50)][..], Some((0, A, B))),
        // The one that fits best.
        (&[(A, 100), (B, 20)], &[(A, 60), (A, 30), (A, 10), (B, 20)], Some((1, A, B))),
        // One queue alone only takes its load along.
        (&[(A, 100), (B, 0)], &[(A, 100)], None),
        // Not busy enough to hurt.
        (&[(A, 49), (B, 0)], &[(A, 25), (A, 24)], None),
        // Nearly even.
        (&[(A, 90), (B, 80)], &[(A, 45), (A, 5), (B, 80)], None),
        // Gains less than it should.
        (&[(A, 100), (B, 82)], &[(A, 9), (A, 91), (B, 82)], None),
        // To the idlest of three.
        (&[(A, 60), (B, 95), (C, 10)], &[(B, 40), (B, 55), (A, 60)], Some((0, B, C))),
        (&[(A, 100)], &[(A, 50), (A, 50)], None),
        (&[], &[], None),
    ] {
        let busy = busy.iter().copied().collect();
        let expected = moved.map(|(n, from, to)| Move {
            queue: QueueKey { port: PortIndex(n), pair: 0 },
            from,
            to,
        });
        assert_eq!(relieve(&busy, &loads(queues), 100), expected, "{busy:?} {queues:?}");
    }
}

/// What a simulated node does for some intervals of 100 ticks: queues with constant demands, one per cent each tick.
struct Simulation {
    balancer: Balancer,
    busy: BTreeMap<WorkerIndex, u64>,
    queues: Vec<QueueLoad>,
    moves: usize,
}

impl Simulation {
    fn new(workers: &[WorkerIndex], queues: &[(WorkerIndex, u64)]) -> Self {
        let busy = workers.iter().map(|w| (*w, 0)).collect();
        let queues = queues.iter().map(|&(w, _)| (w, 0)).collect::<Vec<_>>();
        Self { balancer: Balancer::default(), busy, queues: loads(&queues), moves: 0 }
    }

    /// One interval; a worker that is asked for too much gives to each what it can.
    fn interval(&mut self, demand: &[u64]) {
        for (worker, busy) in &mut self.busy {
            let mine: u64 = (self.queues.iter().zip(demand))
                .filter(|(q, _)| q.owner == *worker)
                .map(|(_, d)| d)
                .sum();
            for (queue, demand) in self.queues.iter_mut().zip(demand) {
                if queue.owner == *worker {
                    queue.ticks += demand * 100 / mine.max(100);
                }
            }
            *busy += mine.min(100);
        }
        if let Some(moved) = self.balancer.look(&self.busy, &self.queues, 100) {
            self.moves += 1;
            let queue = self.queues.iter_mut().find(|q| q.queue == moved.queue).unwrap();
            assert_eq!(queue.owner, moved.from);
            queue.owner = moved.to;
        }
    }

    fn load(&self, worker: WorkerIndex, demand: &[u64]) -> u64 {
        let mine = self.queues.iter().zip(demand).filter(|(q, _)| q.owner == worker);
        mine.map(|(_, d)| d).sum()
    }
}

#[test]
fn uneven_load_becomes_even_and_stays_where_it_is() {
    let demand = [40, 40, 30, 30, 20, 20];
    let mut node = Simulation::new(&[A, B], &demand.map(|d| (A, d)));
    for _ in 0..30 {
        node.interval(&demand);
    }
    let (a, b) = (node.load(A, &demand), node.load(B, &demand));
    assert!(a <= 100 && b <= 100, "{a} and {b}");
    let moves = node.moves;
    assert!((2..=4).contains(&moves), "{moves} moves");
    for _ in 0..100 {
        node.interval(&demand);
    }
    assert_eq!(node.moves, moves, "queues go to and fro");
    assert_eq!((node.balancer.tenths(A), node.balancer.tenths(B)), (10, 8));
}

#[test]
fn a_short_burst_moves_nothing() {
    let mut node = Simulation::new(&[A, B], &[(A, 0), (A, 0)]);
    for n in 0..60 {
        let demand = if n % 4 < 2 { [50, 50] } else { [5, 5] };
        node.interval(&demand);
    }
    assert_eq!(node.moves, 0);
    for _ in 0..PATIENCE {
        node.interval(&[50, 50]);
    }
    assert_eq!(node.moves, 1);
}

/// Whatever the demands, moves come to an end.
#[test]
fn constant_demands_settle() {
    bolero::check!().with_type().for_each(|demand: &[u8; 9]| {
        let demand = demand.map(u64::from);
        let mut node = Simulation::new(&[A, B, C], &demand.map(|d| (A, d)));
        (0..200).for_each(|_| node.interval(&demand));
        let moves = node.moves;
        (0..50).for_each(|_| node.interval(&demand));
        assert_eq!(node.moves, moves, "{demand:?}");
    });
}
