//! Routes between the vRouters of one machine: each pod's addresses, on every vRouter but its own, by way of its own's end of the
//! network's tunnel.
//!
//! Such routes are told from an operator's by where they lead: nobody else has routes to single addresses by way of another
//! vRouter of the same machine.

use core::net::IpAddr;
use std::collections::BTreeMap;

use crate::plan::PodRecord;

/// Which addresses, by way of whom; by network.
pub type Routes = BTreeMap<String, BTreeMap<IpAddr, IpAddr>>;

/// The vRouters' ends of the networks' tunnels, as far as they have said so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends(BTreeMap<String, BTreeMap<String, IpAddr>>);

/// What has to change in one network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub network: String,
    /// Addresses, and by way of whom they are reached from now on.
    pub set: Vec<(IpAddr, IpAddr)>,
    /// Addresses whose routes go.
    pub remove: Vec<IpAddr>,
}

impl Ends {
    /// Takes over all that the vRouter known by `name` has; says whether that is news.
    pub fn learn(&mut self, name: &str, ends: BTreeMap<String, IpAddr>) -> bool {
        if self.0.get(name) == Some(&ends) {
            return false;
        }
        self.0.insert(name.to_owned(), ends);
        true
    }

    /// One's end in a network.
    #[must_use]
    pub fn of(&self, name: &str, network: &str) -> Option<IpAddr> {
        self.0.get(name)?.get(network).copied()
    }

    /// Whether an address is the end of another vRouter than `here`.
    fn is_others(&self, here: &str, network: &str, end: IpAddr) -> bool {
        let mut others = self.0.iter().filter(|(name, _)| *name != here);
        others.any(|(_, ends)| ends.get(network) == Some(&end))
    }
}

/// The routes that lead to one pod from the vRouters that do not serve it. None where its network has no tunnel there.
#[must_use]
pub fn to_pod(pod: &PodRecord, ends: &Ends) -> Routes {
    let mut routes = Routes::new();
    let Some(placement) = &pod.placement else { return routes };
    for interface in pod.slots.values().flatten() {
        let Some(end) = ends.of(&placement.vrouter, &interface.network) else { continue };
        let network = routes.entry(interface.network.clone()).or_default();
        network.extend(interface.addresses().map(|address| (address, end)));
    }
    routes
}

/// All that the vRouter known by `here` has to have.
#[must_use]
pub fn wanted<'a>(pods: impl Iterator<Item = &'a PodRecord>, here: &str, ends: &Ends) -> Routes {
    let mut routes = Routes::new();
    let elsewhere = |pod: &&PodRecord| pod.placement.as_ref().is_some_and(|it| it.vrouter != here);
    for pod in pods.filter(elsewhere) {
        for (network, more) in to_pod(pod, ends) {
            routes.entry(network).or_default().extend(more);
        }
    }
    routes
}

/// What leads from the routes that the vRouter `here` has to single addresses, whosever they are, to those that are `wanted`.
#[must_use]
pub fn changes(wanted: &Routes, there: &Routes, here: &str, ends: &Ends) -> Vec<Change> {
    let networks: std::collections::BTreeSet<_> = wanted.keys().chain(there.keys()).collect();
    let none = BTreeMap::new();
    let change = |network: &String| {
        let wanted = wanted.get(network).unwrap_or(&none);
        let there = there.get(network).unwrap_or(&none);
        let missing = wanted.iter().filter(|(address, end)| there.get(address) != Some(end));
        let surplus = there.iter().filter(|(address, end)| {
            !wanted.contains_key(address) && ends.is_others(here, network, **end)
        });
        Change {
            network: network.clone(),
            set: missing.map(|(address, end)| (*address, *end)).collect(),
            remove: surplus.map(|(address, _)| *address).collect(),
        }
    };
    let changes = networks.into_iter().map(change);
    changes.filter(|change| !change.set.is_empty() || !change.remove.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotations::NumaPolicy;
    use crate::cpuset::NodeId;
    use crate::plan::tests::{allocate, node, request, sandbox};
    use crate::plan::{Node, Vrouter};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn ends() -> Ends {
        let mut ends = Ends::default();
        for (name, end) in [("one", "169.254.82.1"), ("two", "169.254.82.2")] {
            assert!(ends.learn(name, BTreeMap::from([("red".to_owned(), ip(end))])));
        }
        ends
    }

    /// One pod on each of two vRouters.
    fn pods() -> Node {
        let mut node = node("4-nodes");
        // The one that tests begin with spans all nodes.
        node.set_away("", true);
        for (name, home) in [("one", 1), ("two", 2)] {
            let vrouter = Vrouter { node: Some(NodeId(home)), ..Vrouter::default() };
            node.set_vrouter(name, vrouter);
            let want = request(1, NumaPolicy::Node(NodeId(home)));
            allocate(&mut node, name, "app", &want).unwrap();
        }
        node
    }

    #[test]
    fn each_vrouter_has_routes_to_the_others_pods() {
        let node = pods();
        let red = |here| wanted(node.pods(), here, &ends()).remove("red").unwrap();
        let end = ip("169.254.82.2");
        assert_eq!(red("one"), BTreeMap::from([(ip("10.66.0.3"), end), (ip("fd00:66::3"), end)]));
        assert_eq!(red("two").len(), 2);
        assert_eq!(red("three").len(), 4);
        let one = to_pod(node.pod(&sandbox("one")).unwrap(), &ends());
        assert_eq!(one["red"][&ip("10.66.0.2")], ip("169.254.82.1"));
        // Nobody knows yet how to reach the other.
        assert!(wanted(node.pods(), "one", &Ends::default()).is_empty());
    }

    #[test]
    fn only_what_differs_changes_and_an_operators_routes_stay() {
        let red = |list: &[(&str, &str)]| {
            let list = list.iter().map(|(address, end)| (ip(address), ip(end)));
            Routes::from([("red".to_owned(), list.collect())])
        };
        let wanted = red(&[("10.66.0.2", "169.254.82.2"), ("10.66.0.3", "169.254.82.2")]);
        let there = red(&[
            ("10.66.0.2", "169.254.82.2"),
            // Of a pod that is gone.
            ("10.66.0.9", "169.254.82.2"),
            // To another host.
            ("10.66.0.8", "192.0.2.9"),
            // Our own end: not by us.
            ("10.66.0.7", "169.254.82.1"),
        ]);
        let expected = Change {
            network: "red".to_owned(),
            set: vec![(ip("10.66.0.3"), ip("169.254.82.2"))],
            remove: vec![ip("10.66.0.9")],
        };
        assert_eq!(changes(&wanted, &there, "one", &ends()), [expected]);
        assert_eq!(changes(&wanted, &wanted, "one", &ends()), []);
        // The other's end has changed.
        let before = red(&[("10.66.0.2", "169.254.82.9"), ("10.66.0.3", "169.254.82.2")]);
        let [change] = &changes(&wanted, &before, "one", &ends())[..] else { panic!("no change") };
        assert_eq!((change.set.len(), change.remove.len()), (1, 0));
    }

    #[test]
    fn news_are_told_once() {
        let mut ends = ends();
        assert!(!ends.learn("one", BTreeMap::from([("red".to_owned(), ip("169.254.82.1"))])));
        assert!(ends.learn("one", BTreeMap::new()));
        assert_eq!(ends.of("one", "red"), None);
    }
}
