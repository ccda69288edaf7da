//! The machines under `testdata/sysfs`, and files that make no sense.

use std::fs;
use std::path::Path;

use super::{SYSFS_FILES, SysfsText, Topology, TopologyError, component_matches};
use crate::cpuset::{CpuId, NodeId};
use crate::hugepages::PageSize;

/// Expands [`SYSFS_FILES`] below `root` as the binary does.
fn read(root: &Path) -> SysfsText {
    fn expand(root: &Path, done: &str, pattern: &[&str], out: &mut SysfsText) {
        let [part, rest @ ..] = pattern else {
            if let Ok(text) = fs::read_to_string(root.join(done)) {
                out.insert(done, text);
            }
            return;
        };
        let Ok(entries) = fs::read_dir(root.join(done)) else { return };
        for entry in entries {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if component_matches(part, &name) {
                let path = if done.is_empty() { name } else { format!("{done}/{name}") };
                expand(root, &path, rest, out);
            }
        }
    }
    let mut out = SysfsText::new();
    for pattern in SYSFS_FILES {
        let parts: Vec<&str> = pattern.split('/').collect();
        expand(root, "", &parts, &mut out);
    }
    out
}

fn sysfs(machine: &str) -> SysfsText {
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/sysfs").join(machine))
}

pub(crate) fn machine(name: &str) -> Topology {
    Topology::parse(&sysfs(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Nodes as "id:cpus:MiB of 2 MiB pages total/free".
fn summary(topology: &Topology) -> String {
    let node = |node: &super::NumaNode| {
        let mib = |bytes| bytes >> 20;
        let (total, free) =
            (node.hugepage_bytes(PageSize::MIB_2), node.free_hugepage_bytes(PageSize::MIB_2));
        format!("{}:{}:{}/{}", node.id, node.cpus, mib(total), mib(free))
    };
    topology.nodes().map(node).collect::<Vec<_>>().join(" ")
}

#[test]
fn machines() {
    for (name, online, nodes) in [
        ("1-node-2-cpus", "0-1", "0:0-1:512/512"),
        ("1-cpu", "0", "0:0:256/256"),
        ("no-hugepages", "0-1", "0:0-1:0/0"),
        ("no-numa", "0-3", "0:0-3:128/64"),
        ("2-nodes-smt-offline", "0-10,12-14", "0:0-3,8-10:2048/2048 1:4-7,12-14:1024/200"),
        ("4-nodes", "0-15", "0:0-3:512/512 1:4-7:512/512 2:8-11:512/512 3:12-15:512/512"),
        (
            "8-nodes-smt",
            "0-31",
            "0:0-3:256/256 1:4-7:512/512 2:8-11:768/768 3:12-15:1024/1024 4:16-19:1280/1280 \
             5:20-23:1536/1536 6:24-27:1792/1792 7:28-31:2048/2048",
        ),
        (
            "memory-only-nodes",
            "0-7",
            "0:0-1,4-5:1024/1024 1:2-3,6-7:1024/1024 2::2048/2048 3::8192/8192",
        ),
        ("sparse-memoryless", "0-15", "0:0-7:0/0 8:8-15:512/512 252::0/0"),
    ] {
        let topology = machine(name);
        assert_eq!(topology.online().to_string(), online, "{name}");
        assert_eq!(summary(&topology), nodes, "{name}");
    }
}

#[test]
fn cores_have_only_online_cpus() {
    let topology = machine("2-nodes-smt-offline");
    for (cpu, core) in [(0, "0,8"), (8, "0,8"), (3, "3"), (7, "7"), (14, "6,14"), (4096, "4096")] {
        assert_eq!(topology.core_of(CpuId(cpu)).to_string(), core, "{cpu}");
    }
    assert_eq!(machine("sparse-memoryless").core_of(CpuId(6)).to_string(), "4-7");
}

#[test]
fn memory_and_distances() {
    let topology = machine("2-nodes-smt-offline");
    let node = topology.node(NodeId(0)).unwrap();
    assert_eq!(node.memory, Some(64 << 30));
    assert_eq!((node.distances[&NodeId(0)], node.distances[&NodeId(1)]), (10, 21));
    assert_eq!(node.hugepage_bytes(PageSize::GIB_1), 4 << 30);
    assert_eq!(node.free_hugepage_bytes(PageSize::GIB_1), 2 << 30);
    assert_eq!(machine("no-numa").node(NodeId(0)).unwrap().memory, None);
    // Distances are listed by online node, not by number.
    let sparse = machine("sparse-memoryless");
    assert_eq!(sparse.node(NodeId(8)).unwrap().distances[&NodeId(252)], 80);
    assert_eq!(sparse.node(NodeId(0)).unwrap().memory, Some(0));
}

#[test]
fn nearest_nodes() {
    let near = |name: &str, from: u32| {
        let nodes = machine(name).nearest_with_cpus(NodeId(from));
        nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    for (name, from, nodes) in [
        ("1-cpu", 0, "0"),
        ("4-nodes", 3, "3 2 0 1"),
        ("8-nodes-smt", 5, "5 4 6 7 0 1 2 3"),
        ("memory-only-nodes", 1, "1 0"),
        ("sparse-memoryless", 8, "8 0"),
    ] {
        assert_eq!(near(name, from), nodes, "{name}");
    }
}

#[test]
fn where_memory_comes_from() {
    for (name, node, memory, all) in [
        ("no-numa", 0, 0, "0"),
        ("4-nodes", 2, 2, "0-3"),
        // Not the HBM and CXL nodes, though they are nearer than the other socket.
        ("memory-only-nodes", 0, 0, "0-1"),
        ("sparse-memoryless", 0, 8, "8"),
    ] {
        let topology = machine(name);
        assert_eq!(topology.memory_for(NodeId(node)), NodeId(memory), "{name}");
        assert_eq!(topology.memory_nodes().to_string(), all, "{name}");
    }
}

#[test]
fn components() {
    for (pattern, name, matches) in [
        ("cpu*", "cpu12", true),
        ("cpu*", "cpufreq", false),
        ("cpu*", "cpu", false),
        ("node*", "node0", true),
        ("hugepages-*kB", "hugepages-2048kB", true),
        ("hugepages-*kB", "hugepages-kB", false),
        ("online", "online", true),
        ("online", "offline", false),
    ] {
        assert_eq!(component_matches(pattern, name), matches, "{pattern} {name}");
    }
}

#[test]
fn files_that_make_no_sense() {
    let good = || sysfs("1-cpu");
    let node = "devices/system/node/node0";
    for (file, text, parts) in [
        (
            "devices/system/cpu/online",
            "x",
            &["devices/system/cpu/online", "\"x\"", "list of CPUs"][..],
        ),
        ("devices/system/cpu/online", "", &["names no CPU"]),
        ("devices/system/node/online", "0-", &["devices/system/node/online", "list of nodes"]),
        ("devices/system/node/online", "1", &["node1/cpulist is missing"]),
        (&format!("{node}/cpulist"), "all", &["node0/cpulist", "\"all\""]),
        (&format!("{node}/distance"), "10 20", &["node0/distance", "one distance per online node"]),
        (&format!("{node}/distance"), "near", &["node0/distance"]),
        (&format!("{node}/meminfo"), "Node 0 MemFree: 1 kB", &["node0/meminfo", "MemTotal"]),
        (
            &format!("{node}/hugepages/hugepages-2048kB/nr_hugepages"),
            "-1",
            &["nr_hugepages", "number of pages"],
        ),
        (&format!("{node}/hugepages/hugepages-3kB/nr_hugepages"), "1", &["hugepages-3kB"]),
        (
            &format!("{node}/hugepages/hugepages-64kB/nr_hugepages"),
            "1",
            &["hugepages-64kB/free_hugepages is missing"],
        ),
    ] {
        let mut sysfs = good();
        sysfs.insert(file, text);
        let error = Topology::parse(&sysfs).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }
    let empty = Topology::parse(&SysfsText::new()).unwrap_err();
    assert!(
        matches!(empty, TopologyError::Missing { .. }) && empty.to_string().contains("sysfs_root")
    );
}
