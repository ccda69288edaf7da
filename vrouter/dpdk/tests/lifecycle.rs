//! One environment from start to end, in a process of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers included")]

use std::collections::BTreeSet;
use std::fs;
use std::thread;

use vrouter_dpdk::{
    Eal, EalConfig, EalError, LogLevel, Memory, NumaNode, Pool, PoolConfig, allowed_cpus,
};

fn config(memory: Memory) -> EalConfig {
    EalConfig {
        file_prefix: "ringway-test-life".to_owned(),
        memory,
        log_level: LogLevel::Warning,
        extra: Vec::new(),
    }
}

/// Names in DPDK's runtime directory that belong to this test.
fn runtime_files() -> BTreeSet<String> {
    let entries = fs::read_dir("/var/run/dpdk").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("ringway-test-life")).collect()
}

#[test]
fn start_use_and_stop() {
    let ordinary = config(Memory::Ordinary { mib: 64 });

    // Refusals before EAL is reached leave the one attempt unused. 4 PiB and node 200 exist nowhere.
    for (memory, node) in [
        (Memory::Hugepages { mib: u32::MAX, numa_node: None }, None),
        (Memory::Hugepages { mib: 2, numa_node: Some(NumaNode(200)) }, Some(NumaNode(200))),
    ] {
        match Eal::init(&config(memory)) {
            Err(EalError::NoHugepages { numa_node, remedy, .. }) => {
                assert_eq!(numa_node, node);
                assert!(!remedy.is_empty());
            }
            other => panic!("{memory:?}: {other:?}"),
        }
    }
    let nul = EalConfig { extra: vec!["\0".to_owned()], ..ordinary.clone() };
    assert!(matches!(Eal::init(&nul), Err(EalError::BadOption { .. })));

    let cpus = allowed_cpus().unwrap();
    let eal = Eal::init(&ordinary).unwrap();
    assert_eq!(allowed_cpus().unwrap(), cpus, "the caller may run where it could before");
    let inherited = thread::spawn(|| allowed_cpus().unwrap()).join().unwrap();
    assert_eq!(inherited, cpus, "and so may the threads it starts");
    assert_eq!(eal.numa_node(), None);
    assert_eq!(runtime_files(), BTreeSet::new(), "nothing is left in the file system");

    // The environment outlives its token for as long as a buffer is out, and ends on whatever thread that is.
    let shape = PoolConfig { name: "life".to_owned(), mbufs: 7, cache: 0, data_room: 2048 };
    let pool = Pool::new(&eal, &shape).unwrap();
    let mut mbuf = pool.alloc().unwrap();
    drop((eal, pool));
    mbuf.append(4).unwrap().copy_from_slice(b"late");
    thread::spawn(move || {
        assert_eq!(mbuf.data(), b"late");
        assert!(mapped("nohuge"), "EAL's memory is there while a buffer is");
        drop(mbuf);
    })
    .join()
    .unwrap();

    assert!(!mapped("nohuge"), "EAL's memory is gone");
    assert!(fs::metadata("/proc/self/fd/2").is_ok(), "stderr is not EAL's to close");
    assert!(
        matches!(Eal::init(&ordinary), Err(EalError::AlreadyInitialised)),
        "not even afterwards"
    );
}

fn mapped(name: &str) -> bool {
    fs::read_to_string("/proc/self/maps").unwrap().contains(name)
}
