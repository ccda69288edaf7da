//! The routes of one network, and where they lead.

mod entries;
mod flush;

use super::event::{How, Path, Route, Via};
use super::paths::{PathId, Paths, UsedBy};
use super::world::World;
use super::{Change, NetworkSpec, Prefix, Source, Target};
use entries::{Entries, Entry, Placing, Sort, take_one};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Rank of routes of the `local` table: it is asked before `main`.
const BEFORE: u8 = 0;
/// Rank of all others.
const OWN: u8 = 1;

pub(super) struct Network {
    pub spec: NetworkSpec,
    /// The table it has now.
    table: Option<u32>,
    nodes: BTreeMap<Prefix, Node>,
    paths: Paths,
    /// How many prefixes of each length have routes, for IPv4 and for IPv6.
    lengths: [Vec<u32>; 2],
    /// Prefixes of several addresses with a route of the `local` table, which hides what `main` has below.
    covers: BTreeSet<Prefix>,
    dirty: Vec<Prefix>,
    /// Everything is dirty.
    all: bool,
    /// Of routes that are there twice, one has come or gone: how many are left is known only if nothing is said twice.
    doubtful: bool,
}

#[derive(Default)]
struct Node {
    entries: Entries,
    /// What was said last.
    out: Option<Arc<Target>>,
}

impl Node {
    fn is_empty(&self) -> bool {
        self.entries.as_slice().is_empty() && self.out.is_none()
    }
}

impl Network {
    pub fn new(spec: NetworkSpec) -> Self {
        Self {
            table: match spec.source {
                Source::Main => Some(super::MAIN),
                Source::Table(table) => Some(table),
                Source::Vrf(_) | Source::Rule(_) => None,
            },
            spec,
            nodes: BTreeMap::new(),
            paths: Paths::default(),
            lengths: [vec![0; 33], vec![0; 129]],
            covers: BTreeSet::new(),
            dirty: Vec::new(),
            all: false,
            doubtful: false,
        }
    }

    /// Takes over what `old`, the same network before, has said, so that only differences are said next.
    pub fn continue_from(&mut self, old: Self) {
        for (prefix, node) in old.nodes {
            if node.out.is_some() {
                self.nodes.entry(prefix).or_default().out = node.out;
            }
        }
        self.all = true;
    }

    /// Looks which table the network has now. Another one starts empty; whether it is another.
    pub fn follow(&mut self, world: &World) -> bool {
        let table = world.table(&self.spec.source);
        if table == self.table {
            return false;
        }
        self.table = table;
        self.remove_where(|_, _| true);
        true
    }

    pub fn routes(&self) -> usize {
        let entries = self.nodes.values().flat_map(|node| node.entries.as_slice());
        entries.map(Entry::routes).sum()
    }

    pub fn path_count(&self) -> usize {
        self.paths.len()
    }

    /// Where every prefix leads, as said last.
    pub fn table(&self) -> impl Iterator<Item = (Prefix, &Arc<Target>)> {
        self.nodes.iter().filter_map(|(prefix, node)| Some((*prefix, node.out.as_ref()?)))
    }

    fn rank(&self, table: u32) -> Option<u8> {
        if Some(table) == self.table {
            Some(OWN)
        } else if table == super::LOCAL && self.spec.source == Source::Main {
            Some(BEFORE)
        } else {
            None
        }
    }

    pub fn add(&mut self, route: &Route, how: How) {
        let Some(rank) = self.rank(route.table) else { return };
        let prefix = route.prefix;
        let path = self.paths.take(route.path.clone(), prefix);
        if !prefix.is_v6() {
            for link in &route.dead {
                self.paths.kill(path, *link);
            }
        }
        let dumped = how == How::Dumped;
        let entry = Entry { metric: route.metric, path, tos: route.tos, rank, twins: 0, dumped };
        let node = self.nodes.entry(prefix).or_default();
        let fresh = node.entries.as_slice().is_empty();
        let paths = &self.paths;
        let sort = |path: PathId| {
            let path = &paths.get(path)?.path;
            Some(Sort { from: path.from, joins: joins(path) })
        };
        let placing = Placing { sort, v6: prefix.is_v6() };
        // What makes room: a route that is replaced, or this one itself where it was there already.
        let out = node.entries.edit(|entries| placing.place(entries, entry, how));
        self.doubtful |=
            node.entries.as_slice().iter().any(|other| other.twins > 0 && other.is(&entry));
        if let Some(replaced) = out {
            self.paths.release(replaced.path, prefix);
        }
        if fresh {
            self.count(prefix, true);
        }
        if rank == BEFORE && !prefix.is_host() && self.covers.insert(prefix) {
            self.below(prefix);
        }
        self.mark(prefix);
    }

    pub fn remove(&mut self, route: &Route) {
        let Some(rank) = self.rank(route.table) else { return };
        let prefix = route.prefix;
        let Some(node) = self.nodes.get_mut(&prefix) else { return };
        let like = |entry: &Entry| {
            (entry.rank, entry.metric, entry.tos) == (rank, route.metric, route.tos)
        };
        let path = self.paths.find(&route.path);
        let same = node.entries.as_slice().iter();
        let same = same.copied().find(|entry| like(entry) && Some(entry.path) == path);
        if let Some(same) = same {
            node.entries.edit(|entries| {
                let at = entries.iter().position(|entry| *entry == same);
                at.map(|at| take_one(entries, at))
            });
            self.doubtful |= same.twins > 0;
            self.paths.release(same.path, prefix);
        } else if prefix.is_v6() && joins(&route.path) {
            // One way of several.
            let all = node.entries.as_slice().iter().copied();
            let mut all = all.filter(like).filter_map(|entry| {
                let path = &self.paths.get(entry.path)?.path;
                Some((entry, without(path, &route.path)?))
            });
            let Some((entry, rest)) = all.next() else { return };
            let rest = self.paths.take(rest, prefix);
            node.entries.edit(|entries| {
                let entries = entries.iter_mut().filter(|other| **other == entry);
                entries.for_each(|other| other.path = rest);
            });
            self.paths.release(entry.path, prefix);
        } else {
            return;
        }
        self.removed(prefix);
    }

    /// IPv4 ways over a link are out of use, and routes without another are gone (`fib_sync_down_dev`); with `all` also
    /// those to the host itself.
    pub fn ways_gone(&mut self, link: u32, all: bool) {
        let mut ids = self.paths.over(link);
        ids.retain(|id| {
            let slot = self.paths.get(*id);
            slot.is_some_and(|slot| !slot.path.v6 && (all || !slot.path.on_host))
                && self.paths.kill(*id, link)
        });
        self.remove_paths(ids, |_| true);
    }

    /// IPv4 ways over a link are in use again (`fib_sync_up`).
    pub fn ways_back(&mut self, link: u32) {
        self.paths.revive(link);
    }

    /// Takes away all routes over paths that `gone` says are gone, of those that `ids` names.
    pub fn remove_paths(&mut self, ids: Vec<PathId>, gone: impl Fn(&Path) -> bool) {
        let ids = ids.into_iter();
        let ids: BTreeSet<_> =
            ids.filter(|id| self.paths.get(*id).is_some_and(|slot| gone(&slot.path))).collect();
        let mut prefixes = Vec::new();
        for id in &ids {
            match self.paths.users(*id) {
                UsedBy::These(users) => prefixes.extend_from_slice(users),
                UsedBy::TooManyToName => return self.remove_where(|_, id| ids.contains(&id)),
            }
        }
        for prefix in prefixes {
            self.drop_entries(prefix, |entry| ids.contains(&entry.path));
        }
    }

    /// Takes away all routes whose path `gone` says is gone.
    pub fn remove_where(&mut self, gone: impl Fn(&Paths, PathId) -> bool) {
        let mut prefixes = Vec::new();
        for (prefix, node) in &self.nodes {
            if node.entries.as_slice().iter().any(|entry| gone(&self.paths, entry.path)) {
                prefixes.push(*prefix);
            }
        }
        for prefix in prefixes {
            let Some(node) = self.nodes.get(&prefix) else { continue };
            let entries = node.entries.as_slice().iter();
            let going: Vec<_> =
                entries.filter(|entry| gone(&self.paths, entry.path)).copied().collect();
            self.drop_entries(prefix, |entry| going.contains(entry));
        }
    }

    fn drop_entries(&mut self, prefix: Prefix, gone: impl Fn(&Entry) -> bool) {
        let Some(node) = self.nodes.get_mut(&prefix) else { return };
        let paths = &mut self.paths;
        let mut any = false;
        node.entries.edit(|entries| {
            entries.retain(|entry| {
                let gone = gone(entry);
                if gone {
                    (0..entry.routes()).for_each(|_| paths.release(entry.path, prefix));
                    any = true;
                }
                !gone
            });
        });
        if any {
            self.removed(prefix);
        }
    }

    fn removed(&mut self, prefix: Prefix) {
        let Some(node) = self.nodes.get(&prefix) else { return };
        let entries = node.entries.as_slice();
        let (empty, before) =
            (entries.is_empty(), entries.iter().any(|entry| entry.rank == BEFORE));
        if empty {
            self.count(prefix, false);
        }
        if !before && self.covers.remove(&prefix) {
            self.below(prefix);
        }
        self.mark(prefix);
    }

    fn count(&mut self, prefix: Prefix, more: bool) {
        let lengths = &mut self.lengths[usize::from(prefix.is_v6())];
        if let Some(count) = lengths.get_mut(usize::from(prefix.length())) {
            *count = if more { *count + 1 } else { count.saturating_sub(1) };
        }
    }

    /// Has everything below a prefix looked at.
    fn below(&mut self, prefix: Prefix) {
        let range = prefix..=Prefix::host(prefix.last());
        let below: Vec<_> = self.nodes.range(range).map(|(prefix, _)| *prefix).collect();
        below.into_iter().for_each(|prefix| self.mark(prefix));
    }

    /// Has a prefix looked at.
    pub fn mark(&mut self, prefix: Prefix) {
        if self.all {
            return;
        }
        self.dirty.push(prefix);
        // One look at all is cheaper then, and the list does not grow for ever.
        if self.dirty.len() > 4096.max(self.nodes.len() / 2) {
            self.all = true;
            self.dirty = Vec::new();
        }
    }

    /// Has ways over a link looked at.
    pub fn touch_link(&mut self, link: u32) {
        let ids = self.paths.over(link);
        self.paths.touch(ids);
    }

    /// Has ways of an object looked at.
    pub fn touch_object(&mut self, object: u32) {
        let ids = self.paths.of_object(object);
        self.paths.touch(ids);
    }

    pub fn paths_over(&self, link: u32) -> Vec<PathId> {
        self.paths.over(link)
    }

    pub fn paths_of_object(&self, object: u32) -> Vec<PathId> {
        self.paths.of_object(object)
    }

    /// Whether how many routes there are has been in doubt since this was asked last.
    pub fn take_doubt(&mut self) -> bool {
        std::mem::take(&mut self.doubtful)
    }

    pub fn is_dirty(&self) -> bool {
        self.all || !self.dirty.is_empty() || self.paths.is_dirty()
    }
}

/// Whether routes with this path and the same metric are one of several ways (IPv6 only; `rt6_qualify_for_ecmp`).
fn joins(path: &Path) -> bool {
    let gateways = match &path.via {
        Via::Hop(hop) => hop.gateway.is_some(),
        Via::Hops(_) => true,
        Via::Nothing | Via::Object(_) => false,
    };
    gateways && !path.advertised
}

/// A path with some ways less.
fn without(path: &Path, gone: &Path) -> Option<Path> {
    let Via::Hops(hops) = &path.via else { return None };
    let is_gone = |way| match &gone.via {
        Via::Hop(hop) => hop == way,
        Via::Hops(hops) => hops.iter().any(|(hop, _)| hop == way),
        Via::Nothing | Via::Object(_) => false,
    };
    let mut rest: Vec<_> = hops.iter().filter(|(hop, _)| !is_gone(hop)).cloned().collect();
    if rest.len() == hops.len() || rest.is_empty() || path.from != gone.from {
        return None;
    }
    let via = match rest.len() {
        1 => Via::Hop(rest.remove(0).0),
        _ => Via::Hops(rest.into()),
    };
    Some(Path { via, ..path.clone() })
}

/// What a network wants said.
pub(super) type Changes = Vec<Change>;
