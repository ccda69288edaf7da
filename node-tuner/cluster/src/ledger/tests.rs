use super::*;
use crate::facts::tests::two_nodes;

const GIB: u64 = 1 << 30;

fn ledger(names: &[&str]) -> Ledger {
    let mut ledger = Ledger::default();
    names.iter().for_each(|name| ledger.set_node(name, Some(Offer::of(&two_nodes()))));
    ledger
}

/// Strict, in the network red.
fn demand(exclusive: u32, gib: u64) -> Demand {
    Demand {
        exclusive,
        hugepages: BTreeMap::from([(GIB, gib * GIB)]),
        ports: 1,
        networks: ["red".to_owned()].into(),
        numa: Want::Strict,
        ..Demand::default()
    }
}

fn refusal(ledger: &Ledger, node: &str, demand: &Demand) -> (String, bool) {
    match ledger.judge(node, demand) {
        Verdict::Refused { why, resolvable } => (why.to_string(), resolvable),
        fits @ Verdict::Fits { .. } => panic!("{fits:?}"),
    }
}

#[test]
fn two_pods_are_never_promised_the_same() {
    let mut ledger = ledger(&["n"]);
    // Twelve CPUs and sixteen pages of each NUMA node are for pods.
    let half = demand(8, 12);
    let first = ledger.reserve("a", "n", &half, 10).unwrap();
    let second = ledger.reserve("b", "n", &half, 10).unwrap();
    assert_eq!(BTreeSet::from([first, second]), BTreeSet::from([Some(0), Some(1)]));
    let why = "no NUMA node has all of it free: NUMA 0 has 4 of 8 CPUs; NUMA 1 has 4 of 8 CPUs";
    assert_eq!(ledger.reserve("c", "n", &half, 10).unwrap_err(), why);
    assert_eq!(refusal(&ledger, "n", &half), (why.to_owned(), true));
    // Asked again, the same pod may be promised another place.
    assert!(ledger.reserve("b", "n", &half, 10).is_ok());
    // A promise ends; a pod that is bound stays.
    let numa = first;
    ledger.set_pod("a", Placed { node: "n".into(), numa, demand: half.clone(), running: false });
    ledger.expire(10);
    assert_eq!(ledger.pods(), 1);
    assert!(ledger.reserve("c", "n", &half, 20).is_ok());
    assert!(ledger.reserve("d", "n", &half, 20).is_err());
    assert_eq!(ledger.reserve("a", "n", &half, 20).unwrap_err(), "the pod is on node n already");
    ledger.release("c");
    ledger.release("a");
    assert_eq!(ledger.pods(), 1);
    ledger.remove_pod("a");
    assert!(ledger.reserve("d", "n", &half, 20).is_ok());
    assert!(ledger.reserve("e", "n", &half, 20).is_ok());
}

#[test]
fn a_node_is_refused_in_words() {
    let mut ledger = ledger(&["n"]);
    let with = |change: &dyn Fn(&mut Demand)| {
        let mut demand = demand(2, 1);
        change(&mut demand);
        demand
    };
    for (demand, why, resolvable) in [
        (
            with(&|it| it.mode = Some(VrouterMode::Kernel)),
            "no vRouter of it runs in mode kernel",
            false,
        ),
        (
            with(&|it| it.networks = ["green".to_owned()].into()),
            "no vRouter of it has the network green",
            false,
        ),
        (
            with(&|it| it.exclusive = 13),
            "no NUMA node has all of it free: NUMA 0 has 12 of 13 CPUs; NUMA 1 has 12 of 13 CPUs",
            false,
        ),
        (
            with(&|it| (it.exclusive, it.shared) = (12, 1)),
            "no NUMA node has all of it free: NUMA 0 has 11 of 12 CPUs; NUMA 1 has 11 of 12 CPUs",
            false,
        ),
        (
            with(&|it| it.hugepages = BTreeMap::from([(2 << 20, 3 * GIB)])),
            "no NUMA node has all of it free: NUMA 0 has 2048 of 3072 MiB of 2 MiB pages; NUMA 1 has",
            false,
        ),
        (
            with(&|it| it.ports = 9),
            "no NUMA node has all of it free: NUMA 0 has 8 of 9 vRouter ports; NUMA 1 has 8 of 9",
            false,
        ),
        (with(&|it| it.numa = Want::Node(4)), "it has no NUMA node 4 with CPUs", false),
    ] {
        let (told, can) = refusal(&ledger, "n", &demand);
        assert!(told.starts_with(why), "{told}\n{why}");
        assert_eq!(can, resolvable, "{told}");
    }
    assert_eq!(refusal(&ledger, "x", &demand(1, 0)).0, "no ringway-tuner reports this node");
    let mut facts = two_nodes();
    facts.vrouters.truncate(1);
    ledger.set_node("n", Some(Offer::of(&facts)));
    ledger.reserve("a", "n", &demand(12, 0), 1).unwrap();
    let (told, can) = refusal(&ledger, "n", &demand(1, 1));
    assert_eq!(
        told,
        "no NUMA node has all of it free: NUMA 0 has 0 of 1 CPUs; NUMA 1 has no vRouter for it"
    );
    assert!(can);
    facts.vrouters.clear();
    ledger.set_node("n", Some(Offer::of(&facts)));
    assert_eq!(refusal(&ledger, "n", &demand(1, 0)).0, "no vRouter answers on this node");
}

#[test]
fn what_may_be_spread_is_and_what_is_not_known_counts_everywhere() {
    let mut ledger = ledger(&["n"]);
    let mut wide = demand(20, 20);
    assert!(matches!(ledger.judge("n", &wide), Verdict::Refused { .. }));
    wide.numa = Want::Preferred;
    assert_eq!(ledger.judge("n", &wide), Verdict::Fits { numa: None, score: 0 });
    // Somebody else has bound it: it may be on either.
    let placed = Placed { node: "n".into(), numa: None, demand: demand(10, 0), running: true };
    ledger.set_pod("foreign", placed);
    assert!(refusal(&ledger, "n", &demand(3, 0)).1);
    assert!(matches!(ledger.judge("n", &demand(2, 0)), Verdict::Fits { numa: Some(_), .. }));
}

#[test]
fn pages_that_others_use_and_pods_that_start_are_not_free() {
    let mut ledger = Ledger::default();
    let mut facts = two_nodes();
    facts.vrouters.iter_mut().for_each(|vrouter| vrouter.ports = 6);
    facts.numa.iter_mut().for_each(|numa| numa.hugepages[1].free = 10);
    ledger.set_node("n", Some(Offer::of(&facts)));
    assert_eq!(
        refusal(&ledger, "n", &demand(0, 11)).0,
        "no NUMA node has all of it free: NUMA 0 has 10240 of 11264 MiB of 1 GiB pages; NUMA 1 has 10240 of \
         11264 MiB of 1 GiB pages"
    );
    let on = |numa, running| Placed {
        node: "n".into(),
        numa: Some(numa),
        demand: demand(1, 4),
        running,
    };
    ledger.set_pod("a", on(0, false));
    let mut there = demand(0, 7);
    there.numa = Want::Node(0);
    assert!(refusal(&ledger, "n", &there).0.contains("has 6144 of 7168 MiB"));
    // What runs has taken its pages, as the node's numbers show.
    ledger.set_pod("a", on(0, true));
    assert!(matches!(ledger.judge("n", &there), Verdict::Fits { .. }));
    there.ports = 3;
    assert!(refusal(&ledger, "n", &there).0.contains("has 2 of 3 vRouter ports"));
}

#[test]
fn the_best_place_is_the_fullest_that_will_do_near_an_idle_vrouter() {
    let mut ledger = ledger(&["empty", "half"]);
    ledger.set_pod(
        "a",
        Placed { node: "half".into(), numa: Some(1), demand: demand(6, 8), running: true },
    );
    let small = demand(2, 2);
    let score = |node: &str| match ledger.judge(node, &small) {
        Verdict::Fits { numa, score } => (numa, score),
        refused @ Verdict::Refused { .. } => panic!("{refused:?}"),
    };
    let (numa, half) = score("half");
    assert_eq!(numa, Some(1));
    assert!(half > score("empty").1 && half <= BEST, "{half}");
    let mut loaded = two_nodes();
    loaded.vrouters.iter_mut().for_each(|vrouter| vrouter.ports = 7);
    ledger.set_node("loaded", Some(Offer::of(&loaded)));
    let Verdict::Fits { score: loaded, .. } = ledger.judge("loaded", &small) else { panic!() };
    let Verdict::Fits { score: empty, .. } = ledger.judge("empty", &small) else { panic!() };
    assert!(loaded < empty);
}

/// Whatever comes and goes, no NUMA node is promised more than it has.
#[test]
fn never_more_is_promised_than_there_is() {
    bolero::check!().with_type::<Vec<(u8, u8, u8, u8)>>().for_each(|turns| {
        let mut ledger = ledger(&["n", "m"]);
        let mut promised: BTreeMap<String, (String, u32, u32, u64)> = BTreeMap::new();
        for (what, uid, cpus, gib) in turns {
            let uid = format!("p{}", uid % 12);
            let node = if what & 1 == 0 { "n" } else { "m" };
            match what >> 1 & 3 {
                0 => {
                    ledger.remove_pod(&uid);
                    promised.remove(&uid);
                }
                _ => {
                    let (cpus, gib) = (u32::from(cpus % 14), u64::from(gib % 18));
                    let known = promised.contains_key(&uid);
                    match ledger.reserve(&uid, node, &demand(cpus, gib), 1) {
                        Ok(numa) => {
                            promised.insert(uid, (node.to_owned(), numa.unwrap(), cpus, gib));
                        }
                        Err(_) if known => {
                            promised.remove(&uid);
                        }
                        Err(_) => {}
                    }
                }
            }
            for (node, numa) in [("n", 0), ("n", 1), ("m", 0), ("m", 1)] {
                let here = promised.values().filter(|(at, id, ..)| at == node && *id == numa);
                let sum = here
                    .fold((0, 0, 0), |sum, (.., cpus, gib)| (sum.0 + cpus, sum.1 + gib, sum.2 + 1));
                assert!(sum.0 <= 12 && sum.1 <= 16 && sum.2 <= 8, "{node} {numa}: {sum:?}");
            }
        }
    });
}

#[test]
fn nodes_and_pods_that_are_gone_are_forgotten() {
    let mut ledger = ledger(&["a", "b"]);
    let placed = |node: &str| Placed {
        node: node.into(),
        numa: Some(0),
        demand: demand(1, 1),
        running: true,
    };
    ledger.set_pod("1", placed("a"));
    ledger.set_pod("2", placed("b"));
    ledger.reserve("3", "b", &demand(1, 1), 99).unwrap();
    ledger.retain_pods(&["1".to_owned()].into());
    assert_eq!(ledger.pods(), 2);
    ledger.retain_nodes(&["b".to_owned()].into());
    assert_eq!(refusal(&ledger, "a", &demand(1, 0)).0, "no ringway-tuner reports this node");
    // It is not forgotten while pods are on it: the agent may come back.
    assert_eq!(ledger.nodes(), 2);
    ledger.remove_pod("1");
    assert_eq!(ledger.nodes(), 1);
    // A pod may move in the books, as when it was deleted and made anew.
    ledger.set_pod("3", placed("a"));
    ledger.remove_pod("3");
    ledger.retain_nodes(&BTreeSet::new());
    assert_eq!((ledger.nodes(), ledger.pods()), (0, 0));
}

/// Whatever comes and goes in between: an answer that was kept is the one that would be found now.
#[test]
fn what_was_found_before_counts_only_as_long_as_it_is_so() {
    // More than are kept.
    let asked: Vec<Demand> = (0..).take(KEPT + 3).map(|cpus| demand(cpus, 1)).collect();
    bolero::check!().with_type::<Vec<(u8, u8, u8, u8)>>().for_each(|turns| {
        let mut ledger = ledger(&["n", "m"]);
        for (now, (what, uid, cpus, question)) in (0..).zip(turns) {
            let uid = format!("p{}", uid % 6);
            let node = ["n", "m"][usize::from(what & 1)];
            let wanted = demand(u32::from(cpus % 14), 1);
            match what >> 1 & 7 {
                0 => ledger.remove_pod(&uid),
                1 => ledger.expire(now),
                2 => ledger.set_node(node, None),
                3 | 4 => {
                    let mut facts = two_nodes();
                    facts.vrouters.iter_mut().for_each(|one| one.ports = u32::from(cpus % 10));
                    ledger.set_node(node, Some(Offer::of(&facts)));
                }
                5 => {
                    let (node, numa) = (node.to_owned(), Some(u32::from(cpus % 2)));
                    ledger.set_pod(&uid, Placed { node, numa, demand: wanted, running: false });
                }
                _ => drop(ledger.reserve(&uid, node, &wanted, now + 3)),
            }
            let question = &asked[usize::from(*question) % asked.len()];
            let names = ["n", "nobody", "m"];
            let found = names.map(|name| ledger.judge(name, question));
            assert_eq!(ledger.judge_all(names, question), found, "{turns:?}");
        }
    });
}

fn waiting(uid: &str) -> Waiting {
    Waiting { uid: uid.into(), namespace: "shop".into(), name: format!("pod-{uid}") }
}

/// Who is told of which node.
fn told(ledger: &mut Ledger) -> Vec<(String, String)> {
    ledger.found_room().into_iter().map(|room| (room.pod.uid, room.node)).collect()
}

#[test]
fn whoever_waits_is_told_of_a_change_that_makes_room_and_of_no_other() {
    let mut ledger = ledger(&["n", "m"]);
    let (large, small) = (demand(12, 1), demand(2, 1));
    for (uid, node) in [("a", "n"), ("b", "n"), ("c", "m"), ("d", "m")] {
        ledger.reserve(uid, node, &large, 10).unwrap();
    }
    assert_eq!(told(&mut ledger), []);
    ledger.wait(waiting("x"), &large);
    ledger.wait(waiting("y"), &small);
    ledger.wait(waiting("z"), &Demand { networks: ["green".to_owned()].into(), ..small.clone() });
    assert_eq!(told(&mut ledger), [], "what was before is known to who asked");
    // A change that makes no room.
    let numa = Some(0);
    ledger.set_pod("a", Placed { node: "n".into(), numa, demand: large.clone(), running: true });
    assert_eq!(told(&mut ledger), []);
    // A pod goes, a promise runs out, another is taken back.
    ledger.remove_pod("a");
    let mut first = told(&mut ledger);
    first.sort();
    assert_eq!(first, [("x".to_owned(), "n".to_owned()), ("y".to_owned(), "n".to_owned())]);
    assert_eq!(told(&mut ledger), [], "once");
    ledger.reserve("a", "n", &large, 20).unwrap();
    ledger.wait(waiting("x"), &large);
    ledger.expire(10);
    assert_eq!(told(&mut ledger).len(), 1);
    for (uid, node) in [("b", "n"), ("c", "m"), ("d", "m")] {
        ledger.reserve(uid, node, &large, 20).unwrap();
    }
    ledger.wait(waiting("x"), &large);
    ledger.release("c");
    let room = ledger.found_room().pop().unwrap();
    assert_eq!((room.pod.name.as_str(), room.node.as_str()), ("pod-x", "m"));
    ledger.wait_again(room);
    assert_eq!(told(&mut ledger), [("x".to_owned(), "m".to_owned())], "who could not be told");
    // Who has a place, or asks no more, is told nothing.
    ledger.wait(waiting("c"), &large);
    ledger.wait(waiting("x"), &large);
    ledger.leave("x");
    ledger.reserve("c", "m", &large, 20).unwrap();
    ledger.release("c");
    assert_eq!(told(&mut ledger), []);
    // A node reports what it had not.
    let mut facts = two_nodes();
    facts.vrouters.iter_mut().for_each(|vrouter| vrouter.networks.push("green".to_owned()));
    ledger.set_node("m", Some(Offer::of(&facts)));
    assert_eq!(told(&mut ledger), [("z".to_owned(), "m".to_owned())]);
}

#[test]
fn many_who_wait_are_told_some_at_once_and_those_who_waited_longest_first() {
    let mut ledger = ledger(&["n"]);
    let large = demand(12, 1);
    for uid in ["a", "b"] {
        ledger.reserve(uid, "n", &large, 10).unwrap();
    }
    (0..1100).for_each(|pod| ledger.wait(waiting(&pod.to_string()), &large));
    ledger.release("a");
    let told: Vec<String> = told(&mut ledger).into_iter().map(|(uid, _)| uid).collect();
    let first: Vec<String> = (76..92).map(|pod: u32| pod.to_string()).collect();
    assert_eq!(told, first, "a thousand are remembered");
    // No more kinds than are remembered.
    for cpus in 1..100 {
        ledger.wait(waiting(&format!("kind-{cpus}")), &demand(cpus, 2));
    }
    ledger.release("b");
    assert!(ledger.found_room().iter().all(|room| room.demand != large), "the oldest kind");
}
