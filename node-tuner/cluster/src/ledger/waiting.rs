//! Pods that no node has room for, and what has changed since they were told so.

use std::collections::{BTreeSet, VecDeque};
use std::mem;

use super::{Ledger, Verdict};
use crate::demand::Demand;

/// Kinds of demands that are remembered, and pods of each; those before them wait for what else has a scheduler ask again.
const DEMANDS: usize = 64;
const PODS: usize = 1024;
/// Pods of one demand that one change is told to: each that gets a place there is a change, too.
const AT_ONCE: usize = 16;

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its uid.
    pub uid: String,
    /// Where its name counts.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A node that has room for a pod that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// The pod.
    pub pod: Waiting,
    /// What it asks for.
    pub demand: Demand,
    /// The node.
    pub node: String,
}

/// Those who wait, those who have waited longest first.
#[derive(Debug, Default)]
pub(super) struct Lobby {
    demands: VecDeque<(Demand, VecDeque<Waiting>)>,
    changed: BTreeSet<String>,
}

impl Lobby {
    /// The node is not what it was.
    pub(super) fn changed(&mut self, node: &str) {
        if !self.demands.is_empty() {
            self.changed.insert(node.to_owned());
        }
    }

    pub(super) fn leave(&mut self, uid: &str) {
        for (_, pods) in &mut self.demands {
            pods.retain(|pod| pod.uid != uid);
        }
        self.demands.retain(|(_, pods)| !pods.is_empty());
    }

    fn enter(&mut self, pod: Waiting, demand: &Demand) {
        self.leave(&pod.uid);
        let known = self.demands.iter().position(|(known, _)| known == demand);
        let (demand, mut pods) = known
            .and_then(|at| self.demands.remove(at))
            .unwrap_or_else(|| (demand.clone(), VecDeque::new()));
        if pods.len() >= PODS {
            pods.pop_front();
        }
        pods.push_back(pod);
        if self.demands.len() >= DEMANDS {
            self.demands.pop_front();
        }
        self.demands.push_back((demand, pods));
    }
}

impl Ledger {
    /// The pod has been told that no node has room for it.
    pub fn wait(&mut self, pod: Waiting, demand: &Demand) {
        self.lobby.enter(pod, demand);
    }

    /// Nobody has to be told of room for it.
    pub fn leave(&mut self, uid: &str) {
        self.lobby.leave(uid);
    }

    /// Whoever was to be told of room was not: it is looked for again.
    pub fn wait_again(&mut self, room: Room) {
        let Room { pod, demand, node } = room;
        self.lobby.enter(pod, &demand);
        self.lobby.changed(&node);
    }

    /// Pods that waited and that a node has room for which has changed since the last call: they wait no more.
    pub fn found_room(&mut self) -> Vec<Room> {
        let mut found = Vec::new();
        let mut lobby = mem::take(&mut self.lobby);
        for node in mem::take(&mut lobby.changed) {
            for (demand, pods) in &mut lobby.demands {
                if pods.is_empty() || !matches!(self.judge(&node, demand), Verdict::Fits { .. }) {
                    continue;
                }
                let first = pods.drain(..pods.len().min(AT_ONCE));
                let room = |pod| Room { pod, demand: demand.clone(), node: node.clone() };
                found.extend(first.map(room));
            }
        }
        lobby.demands.retain(|(_, pods)| !pods.is_empty());
        self.lobby = lobby;
        found
    }
}
