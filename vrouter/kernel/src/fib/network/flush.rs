//! What is different now.

use super::{Change, Changes, Entry, Network, Node, OWN, Prefix, Target, UsedBy, World};
use crate::fib::paths::{self, PathId};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// Which of a prefix's routes a packet takes.
enum Choice {
    /// None: a shorter prefix decides.
    Nothing,
    /// This one.
    Path(PathId),
    /// It depends on more than the destination.
    Kernel,
}

impl Network {
    /// What leads elsewhere than was said last, ascending.
    pub fn flush(&mut self, world: &World) -> Changes {
        self.resolve_paths(world);
        let mut changes = Vec::new();
        let mut hosts = BTreeSet::new();
        let all = std::mem::take(&mut self.all);
        let mut dirty = std::mem::take(&mut self.dirty);
        if all {
            dirty = Vec::new();
            for (prefix, node) in &self.nodes {
                self.compare(world, *prefix, Some(node), &mut changes);
            }
            hosts.extend(world.neighbours.keys().map(|(address, _)| Prefix::host(*address)));
            hosts.retain(|prefix| !self.nodes.contains_key(prefix));
        } else {
            dirty.sort_unstable();
            dirty.dedup();
            for prefix in &dirty {
                self.compare(world, *prefix, self.nodes.get(prefix), &mut changes);
                let range = (prefix.address(), 0)..=(prefix.last(), u32::MAX);
                let below = world.neighbours.range(range);
                hosts.extend(below.map(|((address, _), _)| Prefix::host(*address)));
            }
            hosts.retain(|prefix| dirty.binary_search(prefix).is_err());
        }
        for prefix in hosts {
            self.compare(world, prefix, self.nodes.get(&prefix), &mut changes);
        }
        changes.sort_unstable_by_key(|change| change.prefix);
        for change in &changes {
            self.nodes.entry(change.prefix).or_default().out.clone_from(&change.target);
        }
        if all {
            self.nodes.retain(|_, node| !node.is_empty());
        }
        for prefix in dirty.iter().chain(changes.iter().map(|change| &change.prefix)) {
            if self.nodes.get(prefix).is_some_and(Node::is_empty) {
                self.nodes.remove(prefix);
            }
        }
        changes
    }

    fn resolve_paths(&mut self, world: &World) {
        let mut many = BTreeSet::new();
        let mut prefixes = Vec::new();
        for id in self.paths.resolve(world, &self.spec) {
            match self.paths.users(id) {
                UsedBy::These(users) => prefixes.extend_from_slice(users),
                UsedBy::TooManyToName => {
                    many.insert(id);
                }
            }
        }
        if !many.is_empty() && !self.all {
            for (prefix, node) in &self.nodes {
                if node.entries.as_slice().iter().any(|entry| many.contains(&entry.path)) {
                    prefixes.push(*prefix);
                }
            }
        }
        prefixes.into_iter().for_each(|prefix| self.mark(prefix));
    }

    fn compare(&self, world: &World, prefix: Prefix, node: Option<&Node>, changes: &mut Changes) {
        let target = self.target(world, prefix, node);
        if target.as_ref() != node.and_then(|node| node.out.as_ref()) {
            changes.push(Change { prefix, target });
        }
    }

    /// Where a prefix leads.
    fn target(&self, world: &World, prefix: Prefix, node: Option<&Node>) -> Option<Arc<Target>> {
        match node.map_or(Choice::Nothing, |node| self.choose(prefix, node)) {
            Choice::Kernel => Some(Arc::new(Target::Kernel)),
            Choice::Path(id) => {
                let slot = self.paths.get(id)?;
                if slot.now.connected && prefix.is_host() {
                    let to = Some(prefix.address());
                    return paths::resolve(world, &self.spec, slot, to).target;
                }
                slot.now.target.clone()
            }
            Choice::Nothing if prefix.is_host() => self.neighbour(world, prefix.address()),
            Choice::Nothing => None,
        }
    }

    /// Where a neighbour without a route of its own is: a prefix that it shares with a link leads to it there.
    fn neighbour(&self, world: &World, address: IpAddr) -> Option<Arc<Target>> {
        world.neighbours.range((address, 0)..=(address, u32::MAX)).next()?;
        let Choice::Path(id) = self.longest(address) else { return None };
        let slot = self.paths.get(id).filter(|slot| slot.now.connected)?;
        let target = paths::resolve(world, &self.spec, slot, Some(address)).target;
        target.filter(|target| **target != Target::Kernel)
    }

    /// What the longest prefix that `address` shares with others decides.
    fn longest(&self, address: IpAddr) -> Choice {
        let lengths = &self.lengths[usize::from(address.is_ipv6())];
        let host = Prefix::host(address).length();
        for length in (0..host).rev() {
            if lengths[usize::from(length)] == 0 {
                continue;
            }
            let Some(prefix) = Prefix::new(address, length) else { continue };
            let Some(node) = self.nodes.get(&prefix) else { continue };
            match self.choose(prefix, node) {
                Choice::Nothing => {}
                choice => return choice,
            }
        }
        Choice::Nothing
    }

    fn choose(&self, prefix: Prefix, node: &Node) -> Choice {
        let usable = node.entries.as_slice().iter().filter_map(|entry| {
            let slot = self.paths.get(entry.path)?;
            slot.now.target.is_some().then_some((entry, slot))
        });
        let mut first: Option<&Entry> = None;
        for (entry, slot) in usable {
            // The tables are asked one after the other.
            let asked = first.is_some_and(|first| first.rank < entry.rank);
            if asked || (entry.rank == OWN && self.is_hidden(prefix)) {
                break;
            }
            if entry.tos != 0 || slot.path.from.is_some() {
                return Choice::Kernel;
            }
            match first {
                None => first = Some(entry),
                // Of equal ones the kernel takes the router that it thinks reachable.
                Some(first) if prefix.is_v6() => {
                    if first.metric == entry.metric {
                        return Choice::Kernel;
                    }
                }
                Some(_) => {}
            }
        }
        first.map_or(Choice::Nothing, |entry| Choice::Path(entry.path))
    }

    /// Whether the `local` table has something for all of a prefix.
    fn is_hidden(&self, prefix: Prefix) -> bool {
        // Those that start behind it can't; a handful is usual.
        let before = self.covers.range(..prefix);
        before.into_iter().any(|cover| *cover != prefix && cover.covers(&prefix))
    }
}
