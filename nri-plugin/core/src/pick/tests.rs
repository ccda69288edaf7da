//! Which CPUs exactly, on the machines under `testdata/sysfs`.

use super::{Owned, exclusive, shared_pool};
use crate::cpuset::{CpuSet, NodeId};
use crate::topology::tests::machine;

struct Case {
    machine: &'static str,
    group: &'static [u32],
    reserved: &'static str,
    workers: &'static str,
    taken: &'static str,
    count: usize,
    expected: Option<&'static str>,
}

fn sets(case: &Case) -> [CpuSet; 3] {
    [case.reserved, case.workers, case.taken].map(|text| text.parse().unwrap())
}

#[test]
fn exclusive_cpus() {
    let case = |machine, group, [reserved, workers, taken]: [&'static str; 3], count, expected| {
        Case { machine, group, reserved, workers, taken, count, expected }
    };
    let smt = "2-nodes-smt-offline";
    for case in [
        // Whole cores: 0 and 8 are one.
        case(smt, &[0], ["", "", ""], 2, Some("0,8")),
        case(smt, &[0], ["", "", ""], 4, Some("0-1,8-9")),
        // A single one comes from a core that is alone (3, as 11 is offline).
        case(smt, &[0], ["", "", ""], 1, Some("3")),
        case(smt, &[0], ["", "", ""], 3, Some("0,3,8")),
        // Else from a core that is split already, rather than by splitting another.
        case(smt, &[0], ["", "", "3,8"], 1, Some("0")),
        case(smt, &[0], ["3", "", "8"], 3, Some("0-1,9")),
        // A hyperthread beside the vRouter's worker is the last of those.
        case(smt, &[0], ["3", "0", "9"], 1, Some("1")),
        case(smt, &[0], ["3", "0", "9"], 2, Some("2,10")),
        case(smt, &[0], ["3", "0", "9"], 4, Some("1-2,8,10")),
        // All there is, and one more than that.
        case(smt, &[0], ["0", "8", "1"], 4, Some("2-3,9-10")),
        case(smt, &[0], ["0", "8", "1"], 5, None),
        case(smt, &[1], ["", "", ""], 7, Some("4-7,12-14")),
        case(smt, &[1], ["", "", ""], 8, None),
        // The first node of a group is filled first.
        case(smt, &[1, 0], ["", "", ""], 8, Some("3-7,12-14")),
        case("8-nodes-smt", &[2], ["", "8", ""], 2, Some("10-11")),
        case("4-nodes", &[1], ["", "", ""], 2, Some("4-5")),
        case("1-cpu", &[0], ["", "0", ""], 1, None),
        case("memory-only-nodes", &[2], ["", "", ""], 1, None),
    ] {
        let [reserved, workers, taken] = &sets(&case);
        let owned = Owned { reserved, workers, exclusive: taken };
        let group: Vec<NodeId> = case.group.iter().copied().map(NodeId).collect();
        let cpus = exclusive(&machine(case.machine), &group, owned, case.count);
        let Case { machine, count, .. } = case;
        let found = cpus.map(|cpus| cpus.to_string());
        assert_eq!(found.as_deref(), case.expected, "{machine} {count} {owned:?}");
    }
}

#[test]
fn shared_cpus() {
    for (name, group, [reserved, workers, taken], expected) in [
        ("1-node-2-cpus", &[0][..], ["", "1", ""], "0"),
        ("1-node-2-cpus", &[0], ["", "0-1", ""], "0-1"),
        ("1-cpu", &[0], ["", "0", ""], "0"),
        ("1-cpu", &[0], ["0", "", ""], ""),
        ("4-nodes", &[1], ["4", "5", "6"], "7"),
        // Exclusive CPUs took the rest: no falling back to the workers'.
        ("4-nodes", &[1], ["4", "5", "6-7"], ""),
        ("4-nodes", &[0, 3], ["", "", "1"], "0,2-3,12-15"),
    ] {
        let [reserved, workers, taken] =
            [reserved, workers, taken].map(|text| text.parse().unwrap());
        let owned = Owned { reserved: &reserved, workers: &workers, exclusive: &taken };
        let nodes = group.iter().copied().map(NodeId).collect();
        assert_eq!(
            shared_pool(&machine(name), &nodes, owned).to_string(),
            expected,
            "{name} {owned:?}"
        );
    }
}
