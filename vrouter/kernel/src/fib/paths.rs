//! The ways of a network's routes, each kept once however many routes have it.

use super::event::{Kind, Path, Via};
use super::world::World;
use super::{NetworkSpec, Prefix, Target};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// So many prefixes of a path are remembered; for more, all of the network's are looked through when it changes.
/// A look at a million takes some 50 ms, a list of them as much memory as they have themselves.
const FEW: usize = 32;

/// A path's number.
pub(super) type PathId = u32;

/// What is known of a path now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    /// Where it leads; `None`: the kernel does not use it, or it leads to the network itself.
    pub target: Option<Arc<Target>>,
    /// Links on which the packet's own destination is the neighbour.
    pub connected: bool,
}

pub(super) struct Slot {
    pub path: Path,
    users: Users,
    /// Links of IPv4 ways that the kernel does not use for now.
    dead: Vec<u32>,
    pub now: Resolved,
}

enum Users {
    Few(Vec<Prefix>),
    Many(u32),
}

/// Who uses a path.
pub(super) enum UsedBy<'a> {
    These(&'a [Prefix]),
    TooManyToName,
}

#[derive(Default)]
pub(super) struct Paths {
    slots: Vec<Option<Slot>>,
    free: Vec<PathId>,
    ids: HashMap<Path, PathId>,
    by_link: BTreeMap<u32, BTreeSet<PathId>>,
    by_object: BTreeMap<u32, BTreeSet<PathId>>,
    /// To be resolved anew.
    dirty: BTreeSet<PathId>,
}

impl Paths {
    pub fn get(&self, id: PathId) -> Option<&Slot> {
        self.slots.get(usize::try_from(id).ok()?)?.as_ref()
    }

    fn slot(&mut self, id: PathId) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(id).ok()?)?.as_mut()
    }

    pub fn find(&self, path: &Path) -> Option<PathId> {
        self.ids.get(path).copied()
    }

    /// The number of `path`, which a route of `prefix` has from now on.
    pub fn take(&mut self, path: Path, prefix: Prefix) -> PathId {
        if let Some(id) = self.find(&path) {
            if let Some(slot) = self.slot(id) {
                slot.users.add(prefix);
            }
            return id;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            PathId::try_from(self.slots.len() - 1).unwrap_or(PathId::MAX)
        });
        for link in links(&path.via) {
            self.by_link.entry(link).or_default().insert(id);
        }
        if let Via::Object(object) = path.via {
            self.by_object.entry(object).or_default().insert(id);
        }
        self.ids.insert(path.clone(), id);
        self.dirty.insert(id);
        let now = Resolved { target: None, connected: false };
        let slot = Slot { path, users: Users::Few(vec![prefix]), dead: Vec::new(), now };
        if let Some(place) = usize::try_from(id).ok().and_then(|at| self.slots.get_mut(at)) {
            *place = Some(slot);
        }
        id
    }

    /// A route of `prefix` has it no more.
    pub fn release(&mut self, id: PathId, prefix: Prefix) {
        let Some(slot) = self.slot(id) else { return };
        if slot.users.remove(prefix) {
            return;
        }
        let place = usize::try_from(id).ok().and_then(|at| self.slots.get_mut(at));
        let Some(slot) = place.and_then(Option::take) else { return };
        for link in links(&slot.path.via) {
            remove(&mut self.by_link, link, id);
        }
        if let Via::Object(object) = slot.path.via {
            remove(&mut self.by_object, object, id);
        }
        self.ids.remove(&slot.path);
        self.dirty.remove(&id);
        self.free.push(id);
    }

    pub fn users(&self, id: PathId) -> UsedBy<'_> {
        match self.get(id).map(|slot| &slot.users) {
            Some(Users::Few(prefixes)) => UsedBy::These(prefixes),
            Some(Users::Many(_)) => UsedBy::TooManyToName,
            None => UsedBy::These(&[]),
        }
    }

    /// Paths with a way of their own over `link`; those of objects are not among them.
    pub fn over(&self, link: u32) -> Vec<PathId> {
        self.by_link.get(&link).into_iter().flatten().copied().collect()
    }

    /// Paths of a nexthop object.
    pub fn of_object(&self, object: u32) -> Vec<PathId> {
        self.by_object.get(&object).into_iter().flatten().copied().collect()
    }

    /// Takes ways of a path over a link out of use. Whether it has no other left.
    pub fn kill(&mut self, id: PathId, link: u32) -> bool {
        let Some(slot) = self.slot(id) else { return false };
        if !slot.dead.contains(&link) {
            slot.dead.push(link);
        }
        let none_left = links(&slot.path.via).all(|link| slot.dead.contains(&link));
        self.dirty.insert(id);
        none_left
    }

    /// Takes ways over a link into use again.
    pub fn revive(&mut self, link: u32) {
        for id in self.over(link) {
            if let Some(slot) = self.slot(id)
                && slot.dead.contains(&link)
            {
                slot.dead.retain(|dead| *dead != link);
                self.dirty.insert(id);
            }
        }
    }

    /// Has paths resolved anew.
    pub fn touch(&mut self, ids: impl IntoIterator<Item = PathId>) {
        self.dirty.extend(ids);
    }

    /// Resolves what has to be; returns the paths that lead elsewhere now.
    pub fn resolve(&mut self, world: &World, spec: &NetworkSpec) -> Vec<PathId> {
        let mut changed = Vec::new();
        for id in std::mem::take(&mut self.dirty) {
            let Some(slot) = self.slot(id) else { continue };
            let now = resolve(world, spec, slot, None);
            if now != slot.now {
                slot.now = now;
                changed.push(id);
            }
        }
        changed
    }

    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }
}

impl Users {
    fn add(&mut self, prefix: Prefix) {
        match self {
            Self::Few(prefixes) if prefixes.len() < FEW => prefixes.push(prefix),
            Self::Few(prefixes) => {
                *self = Self::Many(u32::try_from(prefixes.len()).unwrap_or(u32::MAX) + 1);
            }
            Self::Many(count) => *count += 1,
        }
    }

    /// Whether there are others.
    fn remove(&mut self, prefix: Prefix) -> bool {
        match self {
            Self::Few(prefixes) => {
                if let Some(at) = prefixes.iter().position(|user| *user == prefix) {
                    prefixes.swap_remove(at);
                }
                !prefixes.is_empty()
            }
            Self::Many(count) => {
                *count -= 1;
                *count > 0
            }
        }
    }
}

fn remove(index: &mut BTreeMap<u32, BTreeSet<PathId>>, key: u32, id: PathId) {
    if let Some(ids) = index.get_mut(&key) {
        ids.remove(&id);
        if ids.is_empty() {
            index.remove(&key);
        }
    }
}

/// Links that ways name themselves.
fn links(via: &Via) -> impl Iterator<Item = u32> {
    let (one, many) = match via {
        Via::Hop(hop) => (Some(hop.link), &[][..]),
        Via::Hops(hops) => (None, &hops[..]),
        Via::Nothing | Via::Object(_) => (None, &[][..]),
    };
    one.into_iter().chain(many.iter().map(|(hop, _)| hop.link))
}

/// Where a path leads; `to` is the destination where that is one address.
pub(super) fn resolve(
    world: &World,
    spec: &NetworkSpec,
    slot: &Slot,
    to: Option<IpAddr>,
) -> Resolved {
    let path = &slot.path;
    let certain = |target| Resolved { target: Some(Arc::new(target)), connected: false };
    match path.kind {
        Kind::Local | Kind::Broadcast | Kind::Anycast => return certain(Target::Local),
        // What the vRouter does with groups is not a matter of routes.
        Kind::Multicast | Kind::Other => return certain(Target::Kernel),
        Kind::Unreachable | Kind::Prohibit => return certain(Target::Unreachable),
        Kind::Blackhole => return certain(Target::Blackhole),
        Kind::Unicast => {}
    }
    let Some(ways) = world.hops(&path.via) else { return certain(Target::Kernel) };
    if ways.blackhole {
        return certain(Target::Blackhole);
    }
    if ways.hops.is_empty() {
        return certain(Target::Kernel);
    }
    let mut connected = false;
    let mut targets: BTreeMap<Target, u32> = BTreeMap::new();
    for (hop, weight) in &ways.hops {
        let name = world.links.get(&hop.link).map(|link| &link.name);
        if slot.dead.contains(&hop.link)
            || !world.alive(hop.link, path.v6)
            || name == spec.device.as_ref()
        {
            continue;
        }
        connected |= hop.gateway.is_none();
        let sum = targets.entry(world.resolve(spec, hop, to)).or_default();
        *sum = sum.saturating_add(*weight);
    }
    let target = if targets.len() > 1 {
        Some(Target::Multipath(targets.into_iter().collect()))
    } else {
        targets.into_keys().next()
    };
    Resolved { target: target.map(Arc::new), connected }
}
