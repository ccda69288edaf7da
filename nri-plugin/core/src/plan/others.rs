//! Containers that have not opted in, where the node is configured to move them off exclusively given CPUs.
//!
//! They keep the CPUs that others chose for them, less those that belong to a container of ours; and get them back.

use std::collections::{BTreeMap, BTreeSet};

use crate::cpuset::CpuSet;

use super::Node;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// CPUs that others chose for it; empty for all.
    pub chosen: CpuSet,
    /// CPUs that it was told instead, if it was.
    pub told: Option<CpuSet>,
}

/// All of them, by the runtime's id.
pub type Others = BTreeMap<String, Other>;

impl Node {
    /// A container that is not ours is being created, or given CPUs by others: what it has to be told instead, if anything.
    pub fn meet_other(&mut self, id: &str, chosen: CpuSet) -> Option<CpuSet> {
        let wanted = self.without_exclusive(&chosen);
        let told = (wanted != self.all_of(&chosen)).then_some(wanted);
        self.others.insert(id.to_owned(), Other { chosen, told: told.clone() });
        told
    }

    /// It is gone.
    pub fn forget_other(&mut self, id: &str) {
        self.others.remove(id);
    }

    /// Containers that have to be told other CPUs than they have, and which.
    pub fn move_others(&mut self) -> Vec<(String, CpuSet)> {
        let mut others = std::mem::take(&mut self.others);
        let mut updates = Vec::new();
        for (id, other) in &mut others {
            let wanted = self.without_exclusive(&other.chosen);
            let has = other.told.clone().unwrap_or_else(|| self.all_of(&other.chosen));
            if wanted != has {
                other.told = Some(wanted.clone());
                updates.push((id.clone(), wanted));
            }
        }
        self.others = others;
        updates
    }

    /// All of them, to be kept over a restart.
    #[must_use]
    pub fn others(&self) -> &Others {
        &self.others
    }

    /// Takes over what a runtime has after a restart: each container that is not ours with the CPUs it has now. One that has what it
    /// was told, as far as `kept` knows, had others before.
    pub fn adopt_others(&mut self, found: BTreeMap<String, CpuSet>, kept: &Others) {
        let ours: BTreeSet<&str> = self
            .pods
            .values()
            .flat_map(|pod| pod.containers.values().map(|container| container.id.as_str()))
            .collect();
        let strangers = found.into_iter().filter(|(id, _)| !ours.contains(id.as_str()));
        let adopted = strangers.map(|(id, has)| {
            let before = kept.get(&id).filter(|other| other.told.as_ref() == Some(&has));
            let other = before.cloned().unwrap_or(Other { chosen: has, told: None });
            (id, other)
        });
        self.others = adopted.collect();
    }

    fn all_of(&self, chosen: &CpuSet) -> CpuSet {
        if chosen.is_empty() { self.topology.online().clone() } else { chosen.clone() }
    }

    /// A container that would have none is left where it is: whoever chose these CPUs for it alone did not ask us.
    fn without_exclusive(&self, chosen: &CpuSet) -> CpuSet {
        let all = self.all_of(chosen);
        let left = all.difference(&self.exclusive_except(None));
        if left.is_empty() { all } else { left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotations::NumaPolicy;
    use crate::plan::tests::{allocate, node, request, sandbox};

    fn set(list: &str) -> CpuSet {
        if list.is_empty() { CpuSet::new() } else { list.parse().unwrap() }
    }

    fn shown(updates: Vec<(String, CpuSet)>) -> String {
        let shown = updates.iter().map(|(id, cpus)| format!("{id}={cpus}"));
        shown.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn others_make_way_and_come_back() {
        let mut node = node("4-nodes");
        assert_eq!(node.meet_other("everywhere", set("")), None);
        assert_eq!(node.meet_other("low", set("0-3")), None);
        assert_eq!(node.meet_other("high", set("12-15")), None);
        assert_eq!(shown(node.move_others()), "");
        let ours = allocate(&mut node, "p", "c", &request(2, NumaPolicy::Preferred)).unwrap();
        assert_eq!(ours.cpus.set(), &set("0-1"));
        assert_eq!(shown(node.move_others()), "everywhere=2-15 low=2-3");
        assert_eq!(shown(node.move_others()), "", "told once");
        // While ours runs: a new one, one that others give new CPUs, one that has no other CPUs, one that is gone.
        assert_eq!(node.meet_other("new", set("")), Some(set("2-15")));
        assert_eq!(node.meet_other("high", set("1-2")), Some(set("2")));
        assert_eq!(node.meet_other("only", set("0-1")), None);
        node.forget_other("low");
        assert_eq!(shown(node.move_others()), "");
        node.release_pod(&sandbox("p"));
        assert_eq!(shown(node.move_others()), "everywhere=0-15 high=1-2 new=0-15");
        assert_eq!(shown(node.move_others()), "");
    }

    #[test]
    fn what_was_chosen_before_outlives_a_restart() {
        let mut before = node("4-nodes");
        allocate(&mut before, "p", "c", &request(2, NumaPolicy::Preferred)).unwrap();
        before.meet_other("moved", set(""));
        before.meet_other("changed", set("0-3"));
        let kept = before.others().clone();

        let mut after = node("4-nodes");
        after.adopt(before.pod(&sandbox("p")).unwrap().clone()).unwrap();
        let found = [("moved", "2-15"), ("changed", "0-7"), ("new", ""), ("p-c-id", "0-1")];
        let found = found.map(|(id, cpus)| (id.to_owned(), set(cpus)));
        after.adopt_others(found.into(), &kept);
        assert_eq!(after.others().len(), 3, "ours is none of them: {:?}", after.others());
        assert_eq!(shown(after.move_others()), "changed=2-7 new=2-15");
        after.release_pod(&sandbox("p"));
        assert_eq!(shown(after.move_others()), "changed=0-7 moved=0-15 new=0-15");
    }
}
