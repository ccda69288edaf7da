//! A kernel of two uplinks and another link: it has the objects, says what the real one says, and is silent where
//! that is. IPv6 ways are routes of their own in it, joined when they are told, as in the real one.

use crate::fib::{
    Encap, Event, Hop, How, Kind, LOCAL, Link, LinkKind, MAIN, Mac, Object, Path, Prefix, Route,
    Via,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

pub const LINKS: [(u32, &str); 3] = [(2, "u0"), (3, "u1"), (4, "eth9")];

/// A route of the kernel's. For IPv6 it has one way.
#[derive(Clone, Debug)]
pub struct Entry {
    pub tos: u8,
    pub metric: u32,
    pub path: Path,
    pub dead: BTreeSet<u32>,
}

#[derive(Default)]
pub struct Kernel {
    pub up: BTreeMap<u32, bool>,
    pub addresses: BTreeSet<(IpAddr, u32)>,
    pub neighbours: BTreeMap<(u32, IpAddr), Mac>,
    pub objects: BTreeMap<u32, Object>,
    pub routes: BTreeMap<(u32, Prefix), Vec<Entry>>,
    pub said: Vec<Event>,
}

pub fn gateway(v6: bool, link: u32, host: u8) -> IpAddr {
    let link = u8::try_from(link).unwrap();
    if v6 {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, link.into(), 0, 0, 0, 0, host.into()))
    } else {
        IpAddr::from([10, 0, link, host])
    }
}

pub fn joins(path: &Path) -> bool {
    path.v6 && matches!(&path.via, Via::Hop(hop) if hop.gateway.is_some())
}

/// Links that a path names itself.
pub fn links(path: &Path) -> Vec<u32> {
    match &path.via {
        Via::Hop(hop) => vec![hop.link],
        Via::Hops(hops) => hops.iter().map(|(hop, _)| hop.link).collect(),
        Via::Nothing | Via::Object(_) => Vec::new(),
    }
}

impl Kernel {
    pub fn new() -> Self {
        let mut kernel = Self::default();
        for (link, _) in LINKS {
            kernel.up.insert(link, true);
            kernel.said.push(kernel.link(link));
            kernel.set_address(gateway(false, link, 1), link, true);
        }
        kernel
    }

    fn link(&self, index: u32) -> Event {
        let up = self.up[&index];
        let name = LINKS.iter().find(|(link, _)| *link == index).unwrap().1.to_owned();
        Event::Link(Link { index, name, up, running: up, master: None, kind: LinkKind::Other })
    }

    pub fn set_up(&mut self, link: u32, up: bool) {
        if self.up[&link] == up {
            return;
        }
        self.up.insert(link, up);
        self.said.push(self.link(link));
        if up {
            self.revive(link);
            return;
        }
        self.ways_gone(link, false);
        let over: Vec<_> = self
            .objects
            .iter()
            .filter(|(_, object)| matches!(object, Object::Hop(hop) if hop.link == link))
            .map(|(id, _)| *id)
            .collect();
        over.into_iter().for_each(|id| self.object_gone(id, false));
        // IPv6 says what goes; of several ways those that are left stay, and nothing is said.
        for ((table, prefix), entries) in &mut self.routes {
            let siblings = entries.clone();
            entries.retain(|entry| {
                let group = siblings.iter().filter(|other| {
                    joins(&other.path) && joins(&entry.path) && other.metric == entry.metric
                });
                let goes = entry.path.v6
                    && links(&entry.path) == [link]
                    && group.flat_map(|other| links(&other.path)).all(|link| !self.up[&link]);
                if goes {
                    self.said.push(Event::RouteGone(told(*table, *prefix, entry)));
                }
                !goes
            });
            // The rest of a group whose last way went.
            let siblings = entries.clone();
            entries.retain(|entry| {
                let group: Vec<_> = siblings
                    .iter()
                    .filter(|other| {
                        joins(&other.path) && joins(&entry.path) && other.metric == entry.metric
                    })
                    .collect();
                let goes = !group.is_empty()
                    && group
                        .iter()
                        .flat_map(|other| links(&other.path))
                        .all(|link| !self.up[&link]);
                if goes {
                    self.said.push(Event::RouteGone(told(*table, *prefix, entry)));
                }
                !goes
            });
        }
        self.neighbours_gone(link);
    }

    fn neighbours_gone(&mut self, link: u32) {
        let gone: Vec<_> = self.neighbours.keys().filter(|(of, _)| *of == link).copied().collect();
        for (link, address) in gone {
            self.set_neighbour(link, address, None);
        }
    }

    fn revive(&mut self, link: u32) {
        for entry in self.routes.values_mut().flatten() {
            entry.dead.remove(&link);
        }
    }

    fn ways_gone(&mut self, link: u32, all: bool) {
        for entries in self.routes.values_mut() {
            entries.retain_mut(|entry| {
                let links = links(&entry.path);
                if entry.path.v6 || !links.contains(&link) || (entry.path.on_host && !all) {
                    return true;
                }
                entry.dead.insert(link);
                !links.iter().all(|link| entry.dead.contains(link))
            });
        }
    }

    pub fn set_address(&mut self, address: IpAddr, link: u32, there: bool) {
        if there == self.addresses.contains(&(address, link)) {
            return;
        }
        let prefix = Prefix::new(address, 24).unwrap();
        let hop = Hop { link, gateway: None, encap: Encap::None };
        let path = |kind, on_host| Path {
            v6: false,
            kind,
            on_host,
            advertised: false,
            from: None,
            source: Some(address),
            via: Via::Hop(hop.clone()),
        };
        let routes = [
            (LOCAL, Prefix::host(address), path(Kind::Local, true)),
            (MAIN, prefix, path(Kind::Unicast, false)),
        ];
        if there {
            self.addresses.insert((address, link));
            self.said.push(Event::Address { link, address });
            for (table, prefix, path) in routes {
                self.add(table, prefix, 0, 0, path, How::Added);
            }
            if self.up[&link] {
                self.revive(link);
            }
            return;
        }
        self.addresses.remove(&(address, link));
        self.said.push(Event::AddressGone { link, address });
        for (table, prefix, path) in routes {
            let entries = self.routes.get(&(table, prefix)).cloned().unwrap_or_default();
            if let Some(at) = entries.iter().position(|entry| entry.path == path) {
                self.remove(table, prefix, at, false);
            }
        }
        if !self.addresses.iter().any(|(other, _)| *other == address) {
            for entries in self.routes.values_mut() {
                entries.retain(|entry| entry.path.v6 || entry.path.source != Some(address));
            }
        }
        if !self.addresses.iter().any(|(_, of)| *of == link) {
            self.ways_gone(link, true);
        }
    }

    pub fn set_neighbour(&mut self, link: u32, address: IpAddr, mac: Option<Mac>) {
        match mac {
            Some(mac) => self.neighbours.insert((link, address), mac),
            None => self.neighbours.remove(&(link, address)),
        };
        self.said.push(Event::Neighbour { link, address, mac });
    }

    pub fn set_object(&mut self, id: u32, object: Object) {
        // The kernel takes only what is there, and does not make a group of what was none.
        let members_there = match &object {
            Object::Group(members) => {
                members.iter().all(|(id, _)| matches!(self.objects.get(id), Some(Object::Hop(_))))
            }
            Object::Hop(hop) => self.up[&hop.link],
            _ => true,
        };
        let is_group = matches!(object, Object::Group(_));
        let was_group = self.objects.get(&id).map(|object| matches!(object, Object::Group(_)));
        if !members_there || was_group.is_some_and(|was| was != is_group) {
            return;
        }
        self.objects.insert(id, object.clone());
        self.said.push(Event::Object { id, object });
    }

    pub fn object_gone(&mut self, id: u32, loud: bool) {
        if self.objects.remove(&id).is_none() {
            return;
        }
        if loud {
            self.said.push(Event::ObjectGone(id));
        }
        let mut empty = Vec::new();
        for (group, object) in &mut self.objects {
            let Object::Group(members) = object else { continue };
            let before = members.len();
            members.retain(|(member, _)| *member != id);
            if members.is_empty() {
                empty.push(*group);
            } else if loud && members.len() < before {
                self.said.push(Event::Object { id: *group, object: object.clone() });
            }
        }
        for ((table, prefix), entries) in &mut self.routes {
            entries.retain(|entry| {
                let goes = entry.path.via == Via::Object(id);
                if goes && entry.path.v6 {
                    self.said.push(Event::RouteGone(told(*table, *prefix, entry)));
                }
                !goes
            });
        }
        empty.into_iter().for_each(|group| self.object_gone(group, loud));
    }

    /// Adds a route as the kernel would; it refuses what it has, and ways that are out of use.
    pub fn add(&mut self, table: u32, prefix: Prefix, tos: u8, metric: u32, path: Path, how: How) {
        if let Via::Object(id) = path.via
            && !self.objects.contains_key(&id)
        {
            return;
        }
        if links(&path).iter().any(|link| !self.up[link]) && !path.on_host {
            return;
        }
        if path.v6 {
            self.add6(table, prefix, metric, path, how)
        } else {
            self.add4(table, prefix, tos, metric, path, how)
        }
    }

    fn add4(&mut self, table: u32, prefix: Prefix, tos: u8, metric: u32, path: Path, how: How) {
        // One that is like another but for prefix and metric shares what is known of its ways.
        let twin = self.routes.values().flatten().find(|entry| entry.path == path);
        let dead = twin.map(|entry| entry.dead.clone()).unwrap_or_default();
        let entries = self.routes.entry((table, prefix)).or_default();
        let new = Entry { tos, metric, path, dead };
        let alike = |entry: &Entry| (entry.tos, entry.metric) == (tos, metric);
        if entries.iter().any(|entry| alike(entry) && entry.path == new.path) {
            return;
        }
        let first = entries.iter().position(alike);
        let behind = |entry: &Entry| (entry.tos, metric) < (tos, entry.metric) || entry.tos < tos;
        let behind = |entry: &Entry| {
            if entry.tos == tos { entry.metric > metric } else { behind(entry) && entry.tos < tos }
        };
        let end = entries.iter().position(behind).unwrap_or(entries.len());
        match (how, first) {
            (How::Replaced, Some(at)) => entries[at] = new.clone(),
            (How::Added, Some(at)) => entries.insert(at, new.clone()),
            _ => entries.insert(end, new.clone()),
        }
        self.said.push(Event::Route(told(table, prefix, &new), how));
    }

    fn add6(&mut self, table: u32, prefix: Prefix, metric: u32, path: Path, how: How) {
        let ways = match &path.via {
            Via::Hops(hops) => hops.iter().map(|(hop, _)| Via::Hop(hop.clone())).collect(),
            via => vec![via.clone()],
        };
        let ways: Vec<_> = ways.into_iter().map(|via| Path { via, ..path.clone() }).collect();
        let entries = self.routes.entry((table, prefix)).or_default();
        let new_joins = joins(&ways[0]);
        if how == How::Replaced {
            let first = entries
                .iter()
                .position(|entry| entry.metric == metric && joins(&entry.path) == new_joins);
            let first = first.or_else(|| entries.iter().position(|entry| entry.metric == metric));
            if let Some(first) = first {
                let all = joins(&entries.remove(first).path);
                entries.retain(|entry| !(all && entry.metric == metric && joins(&entry.path)));
            }
        } else if entries.iter().any(|entry| entry.metric == metric && ways.contains(&entry.path)) {
            return;
        }
        for path in ways {
            entries.push(Entry { tos: 0, metric, path, dead: BTreeSet::new() });
        }
        let at = entries.len() - 1;
        let said = self.joined(table, prefix, at);
        self.said.push(Event::Route(said, how));
    }

    /// A route with all the ways that it is joined with.
    fn joined(&self, table: u32, prefix: Prefix, at: usize) -> Route {
        let entries = &self.routes[&(table, prefix)];
        let entry = &entries[at];
        let mut route = told(table, prefix, entry);
        if joins(&entry.path) {
            let group =
                entries.iter().filter(|other| joins(&other.path) && other.metric == entry.metric);
            let mut hops: Vec<_> = group
                .map(|entry| match &entry.path.via {
                    Via::Hop(hop) => (hop.clone(), 1),
                    _ => unreachable!("only those join"),
                })
                .collect();
            hops.sort();
            if hops.len() > 1 {
                route.path.via = Via::Hops(hops.into());
            }
        }
        route
    }

    /// How many routes there are like this one in all.
    pub fn alike(&self, route: &Route) -> usize {
        let entries = self.routes.get(&(route.table, route.prefix)).into_iter().flatten();
        let alike = |entry: &&Entry| {
            (entry.tos, entry.metric, &entry.path) == (route.tos, route.metric, &route.path)
        };
        entries.filter(alike).count()
    }

    /// Takes a route away; with `whole` all the ways that it is joined with.
    pub fn remove(&mut self, table: u32, prefix: Prefix, at: usize, whole: bool) {
        let said = if whole {
            self.joined(table, prefix, at)
        } else {
            told(table, prefix, &self.routes[&(table, prefix)][at])
        };
        let entries = self.routes.get_mut(&(table, prefix)).unwrap();
        let gone = entries.remove(at);
        if whole && joins(&gone.path) {
            entries.retain(|entry| !(joins(&entry.path) && entry.metric == gone.metric));
        }
        self.said.push(Event::RouteGone(said));
    }

    /// All there is, as a dump says it.
    pub fn dump(&self) -> Vec<Event> {
        let mut all: Vec<_> = LINKS.iter().map(|(link, _)| self.link(*link)).collect();
        all.extend(
            self.addresses
                .iter()
                .map(|(address, link)| Event::Address { link: *link, address: *address }),
        );
        all.extend(self.neighbours.iter().map(|((link, address), mac)| Event::Neighbour {
            link: *link,
            address: *address,
            mac: Some(*mac),
        }));
        all.extend(
            self.objects
                .iter()
                .map(|(id, object)| Event::Object { id: *id, object: object.clone() }),
        );
        for ((table, prefix), entries) in &self.routes {
            for (at, entry) in entries.iter().enumerate() {
                let first = entries.iter().position(|other| {
                    joins(&other.path) && joins(&entry.path) && other.metric == entry.metric
                });
                if first.is_none_or(|first| first == at) {
                    all.push(Event::Route(self.joined(*table, *prefix, at), How::Dumped));
                }
            }
        }
        all
    }
}

fn told(table: u32, prefix: Prefix, entry: &Entry) -> Route {
    Route {
        table,
        prefix,
        tos: entry.tos,
        metric: entry.metric,
        path: entry.path.clone(),
        dead: entry.dead.iter().copied().collect(),
    }
}
