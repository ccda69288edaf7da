use super::*;
use crate::facts::tests::two_nodes;

fn profile(name: &str, priority: i32) -> Profile {
    Profile {
        name: name.into(),
        priority,
        selector: Selector::default(),
        parameters: ProfileParameters::default(),
        formulas: BTreeMap::new(),
        vrouter_mode: None,
        at_once: 1,
        paused: false,
    }
}

fn nodes(count: usize) -> Vec<Node> {
    let node =
        |index| Node { name: format!("n{index:03}"), facts: Some(two_nodes()), ..Node::default() };
    (0..count).map(node).collect()
}

/// Carries decisions out, and lets agents answer as `answer` says.
fn carry_out(
    nodes: &mut [Node],
    decisions: &Decisions,
    answer: impl Fn(&str) -> Option<Result<(), String>>,
) {
    for (name, given) in &decisions.give {
        let node = nodes.iter_mut().find(|node| node.name == *name).unwrap();
        node.given.clone_from(given);
        node.applied = answer(name);
        node.answered = node.applied.is_some();
    }
}

fn started(decisions: &Decisions) -> Vec<&str> {
    decisions.give.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn a_profile_is_rolled_through_some_at_once() {
    let mut profile = profile("p", 0);
    profile.at_once = 2;
    let profiles = [profile];
    let mut nodes = nodes(5);
    let mut turns = Vec::new();
    loop {
        let decisions = decide(&profiles, &nodes);
        if decisions.give.is_empty() {
            let told = &decisions.profiles["p"];
            assert!(told.complete.holds, "{told:?}");
            assert_eq!((told.nodes, told.done), (5, 5));
            assert_eq!(told.complete.message, "5 of 5 nodes done, 0 underway, 0 waiting");
            break;
        }
        turns.push(started(&decisions).len());
        carry_out(&mut nodes, &decisions, |_| Some(Ok(())));
    }
    assert_eq!(turns, [2, 2, 1]);
    // A change goes through them all again.
    let mut changed = profiles;
    changed[0].parameters.agent.interval_s = 20;
    assert_eq!(started(&decide(&changed, &nodes)), ["n000", "n001"]);
    changed[0].paused = true;
    let decisions = decide(&changed, &nodes);
    assert_eq!(decisions.give, []);
    assert_eq!(decisions.profiles["p"].complete.reason, "Paused");
    assert_eq!(
        decisions.profiles["p"].complete.message,
        "0 of 5 nodes done, 0 underway, 5 waiting"
    );
}

#[test]
fn a_node_that_fails_stops_it_until_something_changes() {
    let mut profiles = [profile("p", 0)];
    let mut nodes = nodes(3);
    let first = decide(&profiles, &nodes);
    carry_out(&mut nodes, &first, |_| None);
    // Nothing more while it is at it.
    let waiting = decide(&profiles, &nodes);
    assert_eq!(waiting.give, []);
    assert_eq!(waiting.profiles["p"].underway, ["n000"]);
    nodes[0].applied = Some(Err("vm.stat_interval: refused".into()));
    nodes[0].answered = true;
    let stopped = decide(&profiles, &nodes);
    assert_eq!(stopped.give, []);
    assert_eq!(stopped.profiles["p"].failed, ["n000"]);
    assert_eq!(
        stopped.profiles["p"].complete.message,
        "stopped: n000 failed: vm.stat_interval: refused; 2 nodes wait; correct the profile or the node"
    );
    // A corrected profile is tried again, one node first.
    profiles[0].parameters.agent.interval_s = 30;
    assert_eq!(started(&decide(&profiles, &nodes)), ["n000"]);
}

#[test]
fn overlaps_conflicts_and_refusals_are_told_in_plain_words() {
    let mut greedy = profile("greedy", 20);
    greedy.formulas.insert("hugepages.1Gi".into(), "memory".into());
    greedy.selector.match_labels.insert("role".into(), "router".into());
    let mut nodes = nodes(2);
    nodes[1].labels.insert("role".into(), "router".into());
    let decisions = decide(&[profile("a", 0), greedy.clone()], &nodes);
    assert_eq!(started(&decisions), ["n000"]);
    let told = &decisions.nodes["n001"];
    assert_eq!(told.selected.message, "profile greedy; a would fit with less priority");
    let resolved = told.resolved.as_ref().unwrap();
    assert!(!resolved.holds && resolved.reason == "Refused");
    assert!(
        resolved
            .message
            .starts_with("profile greedy can't be had here: hugepages: 67584 MiB of NUMA node 0's"),
        "{}",
        resolved.message
    );
    let told = &decisions.profiles["greedy"];
    assert_eq!(told.refused, ["n001"]);
    assert!(!told.complete.holds);
    assert!(told.complete.message.ends_with("it can't be had on n001, see there"), "{told:?}");

    // What was given stays while two fight over a node.
    nodes[0].given = Some(Given {
        profile: "a".into(),
        parameters: ProfileParameters::default(),
        vrouter_mode: None,
    });
    let decisions = decide(&[profile("a", 0), profile("b", 0)], &nodes[..1]);
    assert_eq!(decisions.give, []);
    assert_eq!(decisions.nodes["n000"].selected.reason, "Conflict");
    // It is taken away when no profile is for the node any more.
    let decisions = decide(&[greedy], &nodes[..1]);
    assert_eq!(decisions.give, [("n000".to_owned(), None)]);
    assert_eq!(decisions.nodes["n000"].selected.reason, "NoProfile");
}

#[test]
fn a_profile_that_cannot_be_used_counts_for_no_node() {
    let mut bad = profile("bad", 100);
    bad.selector.characteristics.push(select::Requirement {
        key: "cpu.colour".into(),
        operator: select::Operator::Exists,
        values: Vec::new(),
    });
    let mut worse = profile("worse", 50);
    worse.vrouter_mode = Some("fast".into());
    let decisions = decide(&[bad, worse, profile("p", 0)], &nodes(1));
    assert_eq!(decisions.give[0].1.as_ref().unwrap().profile, "p");
    let told = |name: &str| decisions.profiles[name].accepted.message.as_str();
    assert!(told("bad").starts_with("not used: there is no characteristic \"cpu.colour\""));
    assert_eq!(told("worse"), "not used: vrouterMode must be dpdk or kernel");
}

#[test]
fn reboots_are_listed_and_a_node_that_says_nothing_is_waited_for() {
    let mut nodes = nodes(2);
    nodes[1].facts = None;
    let profiles = [profile("p", 0)];
    let first = decide(&profiles, &nodes);
    assert_eq!(started(&first), ["n000"]);
    assert_eq!(first.nodes["n001"].resolved.as_ref().unwrap().reason, "NoReport");
    carry_out(&mut nodes, &first, |_| Some(Ok(())));
    nodes[0].reboot = true;
    let decisions = decide(&profiles, &nodes);
    assert_eq!(decisions.profiles["p"].reboot, ["n000"]);
    assert!(decisions.profiles["p"].complete.message.contains("to be rebooted by somebody: n000"));
}
