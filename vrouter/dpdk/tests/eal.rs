//! DPDK running on ordinary memory, shared by the tests of this process: pools, buffers, workers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers included")]

use std::collections::HashSet;
use std::sync::{Arc, Barrier, OnceLock, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use vrouter_dpdk::{
    AllocError, CpuId, Eal, EalConfig, EalError, LcoreId, LogLevel, Mbuf, MbufBatch, Memory,
    NoRoom, Pool, PoolConfig, PoolError, WorkerError, allowed_cpus, pin_current_thread, tsc,
};

fn config() -> EalConfig {
    EalConfig {
        file_prefix: "ringway-test-eal".to_owned(),
        memory: Memory::Ordinary { mib: 64 },
        log_level: LogLevel::Warning,
        extra: Vec::new(),
    }
}

/// The one environment of this process. Started on a thread of its own, so that no test thread is lcore 0.
fn eal() -> &'static Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    EAL.get_or_init(|| thread::spawn(|| Eal::init(&config()).unwrap()).join().unwrap())
}

/// A pool that is too large takes all there is before it is refused: no other is made meanwhile.
static MEMORY: RwLock<()> = RwLock::new(());
const TOO_MANY: u32 = 1_000_000;

fn pool_of(name: &str, mbufs: u32, cache: u32) -> Result<Pool, PoolError> {
    let config = PoolConfig { name: name.to_owned(), mbufs, cache, data_room: 2048 };
    let new = || Pool::new(eal(), &config);
    if mbufs < TOO_MANY {
        let _others = MEMORY.read();
        new()
    } else {
        let _alone = MEMORY.write();
        new()
    }
}

fn pool(name: &str, mbufs: u32) -> Pool {
    pool_of(name, mbufs, 0).unwrap()
}

const _: () = {
    const fn send<T: Send>() {}
    const fn sync<T: Sync>() {}
    send::<Eal>();
    sync::<Eal>();
    send::<Pool>();
    sync::<Pool>();
    send::<Mbuf>();
    send::<MbufBatch>();
};

#[test]
fn the_environment_starts_once() {
    eal();
    assert!(matches!(Eal::init(&config()), Err(EalError::AlreadyInitialised)));
}

#[test]
fn cycles_are_convertible_to_time() {
    let hz = eal().tsc_hz() as f64;
    // The clock is read on both sides of the counter, so that being preempted widens the bounds.
    let read = || (Instant::now(), tsc(), Instant::now());
    let (before_start, start, after_start) = read();
    thread::sleep(Duration::from_millis(50));
    let (before_end, end, after_end) = read();
    let seconds = (end - start) as f64 / hz;
    let shortest = (before_end - after_start).as_secs_f64();
    let longest = (after_end - before_start).as_secs_f64();
    assert!(
        (shortest * 0.98..longest * 1.02).contains(&seconds),
        "{seconds} s by the counter at {hz} Hz, {shortest} to {longest} s by the clock"
    );
}

#[test]
fn a_pool_gives_out_exactly_what_it_has() {
    let pool = pool("exhaust", 127);
    assert_eq!((pool.capacity(), pool.available(), pool.in_use()), (127, 127, 0));

    let mut taken = Vec::new();
    while let Ok(mbuf) = pool.alloc() {
        taken.push(mbuf);
        assert!(taken.len() <= 127, "more than the pool has");
    }
    assert_eq!((taken.len(), pool.available(), pool.in_use()), (127, 0, 127));
    assert_eq!(pool.alloc().err(), Some(AllocError::Exhausted { wanted: 1 }));
    assert_eq!(pool.batch(8).alloc(2), Err(AllocError::Exhausted { wanted: 2 }));

    taken.truncate(27);
    assert_eq!((pool.available(), pool.in_use()), (100, 27));
    drop(taken);
    assert_eq!((pool.available(), pool.in_use()), (127, 0));
}

#[test]
fn a_batch_is_filled_all_or_nothing_and_returned_whole() {
    let pool = pool("batch", 63);
    let mut batch = pool.batch(64);
    assert!(batch.is_empty());
    batch.alloc(40).unwrap();
    assert_eq!(batch.alloc(25), Err(AllocError::Full { wanted: 25, len: 40 }), "65 of 64");
    assert_eq!(batch.alloc(24), Err(AllocError::Exhausted { wanted: 24 }), "64 of the pool's 63");
    assert_eq!((batch.len(), pool.in_use()), (40, 40), "nothing was taken by the refused calls");
    batch.alloc(23).unwrap();
    assert_eq!((batch.len(), pool.available()), (63, 0));

    batch.clear();
    assert_eq!((batch.len(), pool.in_use()), (0, 0));
    batch.clear();
    assert_eq!(pool.in_use(), 0, "clearing an empty batch returns nothing twice");
    batch.alloc(10).unwrap();
    drop(batch);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_packet_holds_what_was_appended() {
    let pool = pool("append", 7);
    let mut mbuf = pool.alloc().unwrap();
    assert_eq!(mbuf.data(), b"");
    mbuf.append(5).unwrap().copy_from_slice(b"hello");
    mbuf.append(6).unwrap().copy_from_slice(b" world");
    assert_eq!(mbuf.data(), b"hello world");
    assert_eq!(mbuf.append(2038).unwrap_err(), NoRoom { len: 2038 }, "2049 of 2048");
    assert_eq!(mbuf.data(), b"hello world", "a refused append changes nothing");
    assert_eq!(mbuf.append(2037).unwrap().len(), 2037);
    mbuf.packet().reset();
    assert_eq!(mbuf.data(), b"");
    assert_eq!(mbuf.packet().append(2048).unwrap().len(), 2048, "all of the data room is back");

    drop(mbuf);
    assert_eq!(pool.alloc().unwrap().data(), b"", "a buffer is empty when it is taken again");
}

#[test]
fn packets_of_a_batch_are_separate() {
    let pool = pool("separate", 31);
    let mut batch = pool.batch(31);
    batch.alloc(31).unwrap();
    for (value, mut packet) in (0u8..).zip(batch.packets()) {
        packet.append(100).unwrap().fill(value);
        assert_eq!(packet.data(), [value; 100]);
    }
    let seen: Vec<_> = batch.iter().map(<[u8]>::to_vec).collect();
    let expected: Vec<_> = (0u8..31).map(|value| vec![value; 100]).collect();
    assert_eq!(seen, expected);
    assert_eq!((batch.get(0), batch.get(30)), (Some(&[0; 100][..]), Some(&[30; 100][..])));
    batch.clear();
    assert_eq!(batch.get(0), None, "what was returned is not ours to read");
}

#[test]
fn packets_can_be_taken_as_they_were_left() {
    let pool = pool("left", 15);
    let mut batch = pool.batch(16);
    let full = AllocError::Full { wanted: 17, len: 0 };
    let too_long = AllocError::TooLong { len: 2049, room: 2048 };
    assert_eq!(batch.alloc_as_left(17, 60), Err(full));
    assert_eq!(batch.alloc_as_left(16, 60), Err(AllocError::Exhausted { wanted: 16 }));
    assert_eq!(batch.alloc_as_left(1, 2049), Err(too_long));
    assert_eq!((batch.len(), pool.in_use()), (0, 0), "a refused call takes nothing");

    batch.alloc_as_left(15, 2048).unwrap();
    for (value, mut packet) in (0u8..).zip(batch.packets()) {
        packet.data_mut().fill(value);
    }
    batch.clear();
    batch.alloc_as_left(15, 60).unwrap();
    let mut seen: Vec<_> = batch.iter().map(<[u8]>::to_vec).collect();
    seen.sort_unstable();
    let expected: Vec<_> = (0u8..15).map(|value| vec![value; 60]).collect();
    assert_eq!(seen, expected);

    batch.clear();
    batch.alloc(15).unwrap();
    assert!(batch.iter().all(<[u8]>::is_empty), "the other way still gives empty packets");
    for mut packet in batch.packets() {
        assert_eq!(packet.append(2048).unwrap().len(), 2048, "with all of their room");
    }
}

#[test]
fn bad_pools_are_refused_by_name() {
    let kept = pool("taken", 7);
    let long = "n".repeat(26);
    let refusal = |name: &str, mbufs, cache| pool_of(name, mbufs, cache).err().unwrap().to_string();
    for (got, expected) in [
        (refusal("", 7, 0), "packet pool name \"\": use 1 to 25 bytes without NUL".to_owned()),
        (refusal("a\0b", 7, 0), "packet pool name \"a\\0b\": use 1 to 25 bytes without NUL".to_owned()),
        (refusal(&long, 7, 0), format!("packet pool name {long:?}: use 1 to 25 bytes without NUL")),
        (refusal("taken", 7, 0), "packet pool \"taken\" exists already".to_owned()),
        (
            refusal("large", TOO_MANY, 0),
            "packet pool \"large\": no memory for 1000000 buffers of 2048 bytes: give DPDK more memory or \
             make the pool smaller"
                .to_owned(),
        ),
        (
            refusal("cache", 1023, 513),
            "packet pool \"cache\" of 1023 buffers, 513 cached per thread, was refused".to_owned(),
        ),
    ] {
        assert_eq!(got, expected);
    }
    let room = PoolConfig { name: "room".to_owned(), mbufs: 7, cache: 0, data_room: u16::MAX };
    assert_eq!(
        Pool::new(eal(), &room).err().unwrap().to_string(),
        "packet pool \"room\": data room of 65535 bytes: use at most 65407"
    );
    assert_eq!(pool(&long[..25], 7).available(), 7, "the longest name works");
    assert_eq!(kept.available(), 7);
}

#[test]
fn a_pool_lives_until_its_last_buffer_is_back() {
    let pool = pool("lives", 7);
    let mut mbuf = pool.alloc().unwrap();
    drop(pool);
    assert!(matches!(pool_of("lives", 7, 0), Err(PoolError::Exists { .. })), "still there");
    mbuf.append(9).unwrap().copy_from_slice(b"after all");
    assert_eq!(mbuf.data(), b"after all");
    drop(mbuf);
    assert_eq!(pool_of("lives", 7, 0).unwrap().available(), 7, "it went, so its name is free");
}

#[test]
fn buffers_move_between_threads() {
    let pool = pool("move", 63);
    let mut mbuf = pool.alloc().unwrap();
    mbuf.append(4).unwrap().copy_from_slice(b"gift");
    let mut batch = pool.batch(62);
    batch.alloc(62).unwrap();
    for mut packet in batch.packets() {
        packet.append(4).unwrap().copy_from_slice(b"many");
    }
    assert_eq!(pool.available(), 0);
    thread::spawn(move || {
        assert_eq!(mbuf.data(), b"gift");
        assert_eq!(batch.iter().filter(|data| data == b"many").count(), 62);
    })
    .join()
    .unwrap();
    assert_eq!((pool.available(), pool.in_use()), (63, 0));
}

/// Registered and unregistered threads take, mark, check and return buffers of one small pool all at once. A
/// buffer that two of them got would lose its mark.
#[test]
fn a_pool_serves_two_threads_at_once() {
    const THREADS: u8 = 4;
    let pool = pool_of("shared", 511, 32).unwrap();
    let start = Arc::new(Barrier::new(usize::from(THREADS)));
    let threads: Vec<_> = (0..THREADS)
        .map(|mark| {
            let (pool, start) = (pool.clone(), Arc::clone(&start));
            thread::spawn(move || {
                let _worker = (mark % 2 == 0).then(|| eal().register_worker().unwrap());
                let mut batch = pool.batch(32);
                start.wait();
                for round in 0..20_000u32 {
                    batch.alloc(32).unwrap();
                    for mut packet in batch.packets() {
                        packet.append(64).unwrap().fill(mark);
                    }
                    if round % 64 == 0 {
                        thread::yield_now();
                    }
                    assert!(
                        batch.iter().all(|data| data == [mark; 64]),
                        "shared with another thread"
                    );
                    batch.clear();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!((pool.available(), pool.in_use()), (511, 0));

    thread::spawn(move || drop(pool)).join().unwrap();
    pool_of("shared", 7, 0)
        .expect("the last handle freed the pool from a thread that did not make it");
}

#[test]
fn workers_get_a_number_each_and_give_it_back() {
    const WORKERS: usize = 4;
    let all_here = Arc::new(Barrier::new(WORKERS));
    let threads: Vec<_> = (0..WORKERS)
        .map(|_| {
            let all_here = Arc::clone(&all_here);
            thread::spawn(move || {
                let eal = eal();
                assert_eq!(LcoreId::current(), None, "a plain thread is unknown to DPDK");
                let worker = eal.register_worker().unwrap();
                assert_eq!(LcoreId::current(), Some(worker.lcore()));
                assert!(
                    matches!(eal.register_worker(), Err(WorkerError::AlreadyRegistered { lcore })
                        if lcore == worker.lcore())
                );
                all_here.wait();
                let id = worker.lcore().get();
                drop(worker);
                assert_eq!(LcoreId::current(), None);
                id
            })
        })
        .collect();
    let ids: HashSet<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(ids.len(), WORKERS, "each its own: {ids:?}");
    assert!(!ids.contains(&0), "0 is the thread that started DPDK");

    // DPDK has 128 numbers or so: without giving back, this would run out.
    for _ in 0..300 {
        thread::spawn(|| eal().register_worker().map(drop).unwrap()).join().unwrap();
    }
}

#[test]
fn a_registered_worker_keeps_its_pin() {
    let eal = eal();
    thread::spawn(move || {
        let cpu: CpuId = *allowed_cpus().unwrap().last().unwrap();
        pin_current_thread(cpu).unwrap();
        let worker = eal.register_worker().unwrap();
        assert_eq!(allowed_cpus().unwrap(), [cpu]);
        drop(worker);
        assert_eq!(allowed_cpus().unwrap(), [cpu]);
    })
    .join()
    .unwrap();
}

/// The reason to register workers at all: their buffers come from a cache of their own.
#[test]
fn a_registered_thread_has_a_cache() {
    let pool = pool_of("cached", 127, 32).unwrap();
    let take_and_return = |pool: &Pool| {
        let mut batch = pool.batch(16);
        batch.alloc(16).unwrap();
    };
    let after = |registered: bool| {
        let pool = pool.clone();
        thread::spawn(move || {
            let _worker = registered.then(|| eal().register_worker().unwrap());
            take_and_return(&pool);
            // What rests in this thread's cache is out of reach of a plain thread.
            let pool = pool.clone();
            thread::spawn(move || {
                std::iter::from_fn(|| pool.alloc().ok()).collect::<Vec<_>>().len()
            })
            .join()
            .unwrap()
        })
        .join()
        .unwrap()
    };
    assert_eq!(after(false), 127, "a plain thread keeps nothing");
    let reachable = after(true);
    assert!((64..127).contains(&reachable), "a worker keeps some, not too many: {reachable}");
    assert_eq!(pool.available(), 127, "and they are still counted as free");
}
