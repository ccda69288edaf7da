//! What is where, and where a pod fits: every node's offer, every pod that has been promised a part of it, and promises
//! that no pod shows yet.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;

use nri_plugin_core::annotations::VrouterMode;

use crate::demand::{Demand, Want};
use crate::offer::{NumaOffer, Offer, VrouterOffer};

mod waiting;

use waiting::Lobby;
pub use waiting::{Room, Waiting};

/// Greatest score, thousandths of the scheduler's 10.
pub const BEST: u32 = 10_000;
/// Demands whose verdicts are kept: a scheduler asks twice for each pod, and many pods want the same.
const KEPT: usize = 8;

/// A pod on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Where it is.
    pub node: String,
    /// The NUMA node it was promised; `None`: several, or not known. It then counts on each.
    pub numa: Option<u32>,
    /// What it was promised.
    pub demand: Demand,
    /// Whether it runs, so that the node's own numbers of what is free already show it.
    pub running: bool,
}

/// Whether a node will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It will.
    Fits {
        /// All of it on this NUMA node; `None`: over several, which the pod allows.
        numa: Option<u32>,
        /// How well, up to [`BEST`].
        score: u32,
    },
    /// It won't.
    Refused {
        /// In words for the pod's events; the same words for nodes that lack the same.
        why: Arc<str>,
        /// Whether it could, if other pods went away.
        resolvable: bool,
    },
}

/// All nodes and the pods on them.
#[derive(Debug, Default)]
pub struct Ledger {
    nodes: HashMap<String, NodeEntry>,
    pods: HashMap<String, Entry>,
    /// Of those, the promises that no pod shows yet.
    promises: BTreeSet<String>,
    questions: Questions,
    lobby: Lobby,
}

/// What was asked for of late, the latest last. Verdicts are kept with the nodes, and go when these change.
#[derive(Debug, Default)]
struct Questions {
    /// Each with a number that no other has had.
    of_late: VecDeque<(usize, Demand)>,
    next: usize,
}

#[derive(Debug)]
struct Entry {
    placed: Placed,
    /// A promise that no pod shows yet ends then, ms.
    until_ms: Option<u64>,
}

#[derive(Debug, Default)]
struct NodeEntry {
    offer: Option<Offer>,
    pods: BTreeSet<String>,
    /// By NUMA node, in the order of the offer.
    held: Vec<Held>,
    /// By vRouter, in the order of the offer.
    ports: Vec<Ports>,
    /// On the node as it is now, each with the number of its question.
    verdicts: [Option<(usize, Verdict)>; KEPT],
}

/// What pods have of one NUMA node.
#[derive(Clone, Debug, Default)]
struct Held {
    exclusive: u32,
    shared: u32,
    hugepages: BTreeMap<u64, Bytes>,
}

/// Promised bytes, and those of them whose pods do not run yet.
#[derive(Clone, Copy, Debug, Default)]
struct Bytes {
    all: u64,
    starting: u64,
}

/// Promised ports, and those of them whose pods do not run yet.
#[derive(Clone, Copy, Debug, Default)]
struct Ports {
    all: u32,
    starting: u32,
}

impl Ledger {
    /// Nodes that are known.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Pods and promises that are known.
    #[must_use]
    pub fn pods(&self) -> usize {
        self.pods.len()
    }

    /// What a node has now. `None`: it does not report any more.
    pub fn set_node(&mut self, name: &str, offer: Option<Offer>) {
        // Most of what a node reports changes nothing here.
        if self.nodes.get(name).is_some_and(|entry| entry.offer == offer) {
            return;
        }
        let entry = self.nodes.entry(name.to_owned()).or_default();
        entry.offer = offer;
        if entry.offer.is_none() && entry.pods.is_empty() {
            self.nodes.remove(name);
            return;
        }
        self.recount(name);
    }

    /// A pod that is bound; ends a promise of the same uid.
    pub fn set_pod(&mut self, uid: &str, placed: Placed) {
        let same = |entry: &Entry| entry.until_ms.is_none() && entry.placed == placed;
        if self.pods.get(uid).is_some_and(same) {
            return;
        }
        self.put(uid, Entry { placed, until_ms: None });
        self.lobby.leave(uid);
    }

    /// A pod that is gone or has ended.
    pub fn remove_pod(&mut self, uid: &str) {
        let Some(entry) = self.pods.remove(uid) else { return };
        self.promises.remove(uid);
        let name = entry.placed.node;
        if let Some(node) = self.nodes.get_mut(&name) {
            node.pods.remove(uid);
            if node.offer.is_none() && node.pods.is_empty() {
                self.nodes.remove(&name);
                return;
            }
        }
        self.recount(&name);
    }

    /// Pods that are not in `uids` are gone; promises stay.
    pub fn retain_pods(&mut self, uids: &BTreeSet<String>) {
        let gone = self
            .pods
            .iter()
            .filter(|(uid, entry)| entry.until_ms.is_none() && !uids.contains(*uid));
        let gone: Vec<String> = gone.map(|(uid, _)| uid.clone()).collect();
        gone.iter().for_each(|uid| self.remove_pod(uid));
    }

    /// Nodes that are not in `names` do not report any more.
    pub fn retain_nodes(&mut self, names: &BTreeSet<String>) {
        let gone: Vec<String> =
            self.nodes.keys().filter(|name| !names.contains(*name)).cloned().collect();
        gone.iter().for_each(|name| self.set_node(name, None));
    }

    /// Promises that nothing came of end.
    pub fn expire(&mut self, now_ms: u64) {
        let until = |uid: &String| self.pods.get(uid).and_then(|entry| entry.until_ms);
        let over = |uid: &&String| until(uid).is_some_and(|until| until <= now_ms);
        let gone: Vec<String> = self.promises.iter().filter(over).cloned().collect();
        gone.iter().for_each(|uid| self.remove_pod(uid));
    }

    /// Whether `node` will do for `demand`.
    #[must_use]
    pub fn judge(&self, node: &str, demand: &Demand) -> Verdict {
        self.nodes.get(node).map_or_else(unreported, |entry| entry.judge(demand))
    }

    /// The same for many nodes. What was found for the same demand of late counts for nodes that have not changed since.
    pub fn judge_all<'a>(
        &mut self,
        nodes: impl IntoIterator<Item = &'a str>,
        demand: &Demand,
    ) -> Vec<Verdict> {
        let question = self.questions.number(demand);
        let one = |name: &str| match self.nodes.get_mut(name) {
            Some(entry) => entry.answer(question, demand),
            None => unreported(),
        };
        nodes.into_iter().map(one).collect()
    }

    /// Promises `demand` a place on `node` until `until_ms`, if there is one at this very moment; then which NUMA node.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn reserve(
        &mut self,
        uid: &str,
        node: &str,
        demand: &Demand,
        until_ms: u64,
    ) -> Result<Option<u32>, String> {
        if let Some(before) = self.pods.get(uid) {
            if before.until_ms.is_none() {
                return Err(format!("the pod is on node {} already", before.placed.node));
            }
            self.remove_pod(uid);
        }
        match self.judge(node, demand) {
            Verdict::Fits { numa, .. } => {
                let placed =
                    Placed { node: node.to_owned(), numa, demand: demand.clone(), running: false };
                self.put(uid, Entry { placed, until_ms: Some(until_ms) });
                self.lobby.leave(uid);
                Ok(numa)
            }
            Verdict::Refused { why, .. } => Err(why.to_string()),
        }
    }

    /// A promise that is not needed; a pod that is bound stays.
    pub fn release(&mut self, uid: &str) {
        if self.pods.get(uid).is_some_and(|entry| entry.until_ms.is_some()) {
            self.remove_pod(uid);
        }
    }

    fn put(&mut self, uid: &str, entry: Entry) {
        let name = entry.placed.node.clone();
        if entry.until_ms.is_some() {
            self.promises.insert(uid.to_owned());
        } else {
            self.promises.remove(uid);
        }
        if let Some(before) = self.pods.insert(uid.to_owned(), entry)
            && before.placed.node != name
        {
            if let Some(node) = self.nodes.get_mut(&before.placed.node) {
                node.pods.remove(uid);
            }
            self.recount(&before.placed.node);
        }
        self.nodes.entry(name.clone()).or_default().pods.insert(uid.to_owned());
        self.recount(&name);
    }

    fn recount(&mut self, name: &str) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        node.verdicts = Default::default();
        self.lobby.changed(name);
        let Some(offer) = &node.offer else { return };
        let mut held = vec![Held::default(); offer.numa.len()];
        let mut ports = vec![Ports::default(); offer.vrouters.len()];
        for placed in
            node.pods.iter().filter_map(|uid| self.pods.get(uid)).map(|entry| &entry.placed)
        {
            let here = |id: u32| placed.numa.is_none_or(|numa| numa == id);
            for (_, held) in offer.numa.iter().zip(&mut held).filter(|(numa, _)| here(numa.id)) {
                held.add(placed);
            }
            for (vrouter, ports) in offer.vrouters.iter().zip(&mut ports) {
                if vrouter.numa.is_none_or(here) {
                    ports.all = ports.all.saturating_add(placed.demand.ports);
                    if !placed.running {
                        ports.starting = ports.starting.saturating_add(placed.demand.ports);
                    }
                }
            }
        }
        (node.held, node.ports) = (held, ports);
    }
}

impl Questions {
    fn number(&mut self, demand: &Demand) -> usize {
        let known = self.of_late.iter().position(|(_, asked)| asked == demand);
        let question = match known.and_then(|at| self.of_late.remove(at)) {
            Some(question) => question,
            None => {
                let number = self.next;
                self.next = self.next.wrapping_add(1);
                if self.of_late.len() >= KEPT {
                    self.of_late.pop_front();
                }
                (number, demand.clone())
            }
        };
        let number = question.0;
        self.of_late.push_back(question);
        number
    }
}

impl Held {
    fn add(&mut self, placed: &Placed) {
        self.exclusive = self.exclusive.saturating_add(placed.demand.exclusive);
        self.shared = self.shared.saturating_add(placed.demand.shared);
        for (size, bytes) in &placed.demand.hugepages {
            let held = self.hugepages.entry(*size).or_default();
            held.all = held.all.saturating_add(*bytes);
            if !placed.running {
                held.starting = held.starting.saturating_add(*bytes);
            }
        }
    }

    /// CPUs that can be made exclusive; one stays for those who share, if there are any.
    fn cpus(&self, numa: &NumaOffer, demand: &Demand) -> u32 {
        let sharing = u32::from(self.shared > 0 || demand.shared > 0);
        numa.cpus.saturating_sub(self.exclusive).saturating_sub(sharing)
    }

    fn hugepages(&self, numa: &NumaOffer, size: u64) -> u64 {
        let pool = numa.hugepages.get(&size).copied().unwrap_or_default();
        let held = self.hugepages.get(&size).copied().unwrap_or_default();
        // What runs shows in what is free, but perhaps has not touched all that it was promised.
        pool.total.saturating_sub(held.all).min(pool.free.saturating_sub(held.starting))
    }
}

impl Ports {
    fn free(self, vrouter: &VrouterOffer) -> u32 {
        let unused = vrouter.ports_max.saturating_sub(vrouter.ports).saturating_sub(self.starting);
        vrouter.ports_max.saturating_sub(self.all).min(unused)
    }
}

/// Indexes of the vRouters that have the networks and the mode.
fn able(vrouters: &[VrouterOffer], demand: &Demand) -> Result<Vec<usize>, String> {
    if vrouters.is_empty() {
        return Err("no vRouter answers on this node".to_owned());
    }
    let mode = demand.mode.map(|mode| match mode {
        VrouterMode::Dpdk => "dpdk",
        VrouterMode::Kernel => "kernel",
    });
    let of_mode: Vec<usize> = (0..)
        .zip(vrouters)
        .filter(|(_, vrouter)| mode.is_none_or(|mode| vrouter.mode == mode))
        .map(|(index, _)| index)
        .collect();
    if of_mode.is_empty() {
        return Err(format!("no vRouter of it runs in mode {}", mode.unwrap_or_default()));
    }
    let lacking = |index: usize| {
        let has = vrouters.get(index).map(|vrouter| &vrouter.networks);
        demand.networks.iter().find(|network| has.is_none_or(|has| !has.contains(*network)))
    };
    let able: Vec<usize> =
        of_mode.iter().copied().filter(|index| lacking(*index).is_none()).collect();
    if able.is_empty() {
        let network =
            of_mode.first().and_then(|index| lacking(*index)).cloned().unwrap_or_default();
        return Err(format!("no vRouter of it has the network {network}"));
    }
    Ok(able)
}

/// What a NUMA node lacks: in words, and whether it has enough but for other pods.
struct Lack {
    what: String,
    resolvable: bool,
}

fn unreported() -> Verdict {
    Verdict::Refused { why: "no ringway-tuner reports this node".into(), resolvable: false }
}

impl NodeEntry {
    fn answer(&mut self, question: usize, demand: &Demand) -> Verdict {
        let at = question % KEPT;
        if let Some(Some((of, verdict))) = self.verdicts.get(at)
            && *of == question
        {
            return verdict.clone();
        }
        let verdict = self.judge(demand);
        if let Some(kept) = self.verdicts.get_mut(at) {
            *kept = Some((question, verdict.clone()));
        }
        verdict
    }

    fn judge(&self, demand: &Demand) -> Verdict {
        let Some(offer) = &self.offer else { return unreported() };
        match able(&offer.vrouters, demand) {
            Ok(able) => self.judge_with(offer, &able, demand),
            Err(why) => Verdict::Refused { why: why.into(), resolvable: false },
        }
    }

    fn judge_with(&self, offer: &Offer, able: &[usize], demand: &Demand) -> Verdict {
        let mut best: Option<(u32, u32)> = None;
        let mut lacks: Vec<(u32, Lack)> = Vec::new();
        for (numa, held) in offer.numa.iter().zip(&self.held) {
            if matches!(demand.numa, Want::Node(wanted) if wanted != numa.id) {
                continue;
            }
            match self.judge_numa(offer, able, numa, held, demand) {
                Ok(score) if best.is_none_or(|(_, known)| score > known) => {
                    best = Some((numa.id, score))
                }
                Ok(_) => {}
                Err(lack) => lacks.push((numa.id, lack)),
            }
        }
        if let Some((numa, score)) = best {
            return Verdict::Fits { numa: Some(numa), score };
        }
        if let Want::Preferred | Want::Off = demand.numa
            && self.fits_spread(offer, able, demand)
        {
            return Verdict::Fits { numa: None, score: 0 };
        }
        if lacks.is_empty() {
            let why = match demand.numa {
                Want::Node(wanted) => format!("it has no NUMA node {wanted} with CPUs"),
                _ => "it reports no NUMA node with CPUs".to_owned(),
            };
            return Verdict::Refused { why: why.into(), resolvable: false };
        }
        let mut why = "no NUMA node has all of it free:".to_owned();
        for (index, (id, lack)) in lacks.iter().enumerate() {
            let separator = if index == 0 { "" } else { ";" };
            let _ = write!(why, "{separator} NUMA {id} {}", lack.what);
        }
        Verdict::Refused {
            why: why.into(),
            resolvable: lacks.iter().any(|(_, lack)| lack.resolvable),
        }
    }

    /// How well `demand` fits on one NUMA node.
    fn judge_numa(
        &self,
        offer: &Offer,
        able: &[usize],
        numa: &NumaOffer,
        held: &Held,
        demand: &Demand,
    ) -> Result<u32, Lack> {
        let near = |index: &&usize| {
            offer.vrouters.get(**index).is_some_and(|one| one.numa.is_none_or(|at| at == numa.id))
        };
        let local = able.iter().find(near).copied();
        let strict = matches!(demand.numa, Want::Strict);
        if strict && local.is_none() {
            return Err(Lack { what: "has no vRouter for it".to_owned(), resolvable: false });
        }
        let free = held.cpus(numa, demand);
        let needs_one = u32::from(demand.shared > 0 && demand.exclusive == 0);
        if free < demand.exclusive || numa.cpus.saturating_sub(held.exclusive) < needs_one {
            let wanted = demand.exclusive.max(needs_one);
            let what = format!("has {free} of {wanted} CPUs");
            return Err(Lack {
                what,
                resolvable: numa.cpus >= wanted + u32::from(demand.shared > 0 && needs_one == 0),
            });
        }
        for (size, bytes) in &demand.hugepages {
            let free = held.hugepages(numa, *size);
            if free < *bytes {
                let pool = numa.hugepages.get(size).copied().unwrap_or_default();
                let what = format!("has {} of {} MiB of {}", free >> 20, bytes >> 20, pages(*size));
                return Err(Lack { what, resolvable: pool.total >= *bytes });
            }
        }
        let Some(vrouter) = local.or(able.first().copied()) else {
            return Err(Lack { what: "has no vRouter for it".to_owned(), resolvable: false });
        };
        let (ports, most) = self.ports_of(offer, vrouter);
        if ports < demand.ports {
            let what = format!("has {ports} of {} vRouter ports", demand.ports);
            return Err(Lack { what, resolvable: most >= demand.ports });
        }
        Ok(score(numa, held, demand, local.is_some(), ports, most))
    }

    fn ports_of(&self, offer: &Offer, index: usize) -> (u32, u32) {
        let held = self.ports.get(index).copied().unwrap_or_default();
        offer.vrouters.get(index).map_or((0, 0), |vrouter| (held.free(vrouter), vrouter.ports_max))
    }

    /// Whether all NUMA nodes together have it, for pods that may be spread.
    fn fits_spread(&self, offer: &Offer, able: &[usize], demand: &Demand) -> bool {
        let both = || offer.numa.iter().zip(&self.held);
        let cpus = both().map(|(numa, held)| held.cpus(numa, demand)).fold(0, u32::saturating_add);
        let hugepages = demand.hugepages.iter().all(|(size, bytes)| {
            let free = both().map(|(numa, held)| held.hugepages(numa, *size));
            free.fold(0, u64::saturating_add) >= *bytes
        });
        let some = both().any(|(numa, held)| numa.cpus > held.exclusive);
        let ports = able.iter().any(|index| self.ports_of(offer, *index).0 >= demand.ports);
        cpus >= demand.exclusive && (demand.shared == 0 || some) && hugepages && ports
    }
}

/// Half for how full it leaves the NUMA node, so that large pods find others empty; three tenths for a vRouter on the same
/// NUMA node; two tenths for a vRouter with few ports.
fn score(
    numa: &NumaOffer,
    held: &Held,
    demand: &Demand,
    local: bool,
    ports: u32,
    most: u32,
) -> u32 {
    let (mut fills, mut count) = (0, 0);
    if demand.exclusive > 0 {
        let used = held.exclusive.saturating_add(demand.exclusive);
        fills += thousandths(u64::from(used), u64::from(numa.cpus));
        count += 1;
    }
    for (size, bytes) in &demand.hugepages {
        let total = numa.hugepages.get(size).copied().unwrap_or_default().total;
        let left = held.hugepages(numa, *size).saturating_sub(*bytes);
        fills += thousandths(total.saturating_sub(left), total);
        count += 1;
    }
    let fill = fills / count.max(1);
    let idle = thousandths(u64::from(ports), u64::from(most));
    fill * 5 + if local { 3000 } else { 0 } + idle * 2
}

fn thousandths(part: u64, whole: u64) -> u32 {
    if whole == 0 {
        return 0;
    }
    let share = u128::from(part.min(whole)) * 1000 / u128::from(whole);
    u32::try_from(share).unwrap_or(1000)
}

fn pages(size: u64) -> String {
    match size {
        size if size >= 1 << 30 => format!("{} GiB pages", size >> 30),
        size if size >= 1 << 20 => format!("{} MiB pages", size >> 20),
        size => format!("{} KiB pages", size >> 10),
    }
}

#[cfg(test)]
mod tests;
