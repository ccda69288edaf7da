//! The routes of a network in order, in a form that versions of a table share.

use super::HopIndex;
use alloc::sync::Arc;
use alloc::vec::Vec;
use vrouter_net::Ipv4Prefix;

/// Most routes of a chunk. A change copies one chunk (32 KiB) and the list of the chunks: about a thousand for a
/// million routes.
const CHUNK_ROUTES: usize = 2048;

/// A prefix and where it leads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub prefix: Ipv4Prefix,
    /// What the network itself says: its ports, its gateway, what is never routed. Comes first.
    pub own: Option<HopIndex>,
    /// What the operator says.
    pub fixed: Option<HopIndex>,
}

impl Route {
    /// Where the prefix leads.
    pub fn hop(&self) -> HopIndex {
        self.own.or(self.fixed).unwrap_or_default()
    }
}

#[derive(Clone, Debug)]
struct Chunk {
    /// Prefix of its first route; what is smaller belongs to the chunk before.
    first: Ipv4Prefix,
    /// Never empty.
    routes: Arc<Vec<Route>>,
}

/// Routes with unique prefixes, sorted: those inside a prefix follow it without a gap.
#[derive(Clone, Debug)]
pub(super) struct Rib {
    chunks: Vec<Chunk>,
    /// How many routes have each length, so that looking for a cover skips lengths nobody has.
    lengths: [u32; 33],
    fixed: usize,
}

/// Where a route is: chunk, and place in it.
type Place = (usize, usize);

impl Rib {
    pub fn new() -> Self {
        Self { chunks: Vec::new(), lengths: [0; 33], fixed: 0 }
    }

    /// Routes the operator gave.
    pub fn fixed(&self) -> usize {
        self.fixed
    }

    pub fn get(&self, prefix: Ipv4Prefix) -> Option<&Route> {
        let (chunk, at) = self.find(prefix).ok()?;
        self.chunks[chunk].routes.get(at)
    }

    /// Changes the route of a prefix; one that then leads nowhere is gone. Returns it as it was before.
    pub fn change(&mut self, prefix: Ipv4Prefix, change: impl FnOnce(&mut Route)) -> Route {
        let (place, old) = match self.find(prefix) {
            Ok((chunk, at)) => (Ok((chunk, at)), self.chunks[chunk].routes[at]),
            Err(place) => (Err(place), Route { prefix, own: None, fixed: None }),
        };
        let mut new = old;
        change(&mut new);
        new.prefix = prefix;
        self.fixed += usize::from(new.fixed.is_some());
        self.fixed -= usize::from(old.fixed.is_some());
        let empty = new.own.is_none() && new.fixed.is_none();
        match place {
            Ok((chunk, at)) if empty => self.remove((chunk, at)),
            Ok((chunk, at)) => Arc::make_mut(&mut self.chunks[chunk].routes)[at] = new,
            Err(_) if empty => (),
            Err(place) => self.insert(place, new),
        }
        old
    }

    /// The longest route that is shorter than `prefix` and contains it; not the default route.
    pub fn cover(&self, prefix: Ipv4Prefix) -> Option<&Route> {
        let lengths = (1..prefix.length()).rev();
        lengths
            .filter(|length| self.lengths[usize::from(*length)] != 0)
            .find_map(|length| self.get(Ipv4Prefix::containing(prefix.network(), length)))
    }

    /// All routes from a prefix on, in order: a route comes after all that contain it.
    pub fn from(&self, prefix: Ipv4Prefix) -> impl Iterator<Item = &Route> {
        let (Ok((chunk, at)) | Err((chunk, at))) = self.find(prefix);
        let rest = self.chunks.get(chunk).and_then(|chunk| chunk.routes.get(at..)).unwrap_or(&[]);
        let others = self.chunks.get(chunk + 1..).unwrap_or(&[]);
        rest.iter().chain(others.iter().flat_map(|chunk| chunk.routes.iter()))
    }

    fn find(&self, prefix: Ipv4Prefix) -> Result<Place, Place> {
        let after = self.chunks.partition_point(|chunk| chunk.first <= prefix);
        let chunk = after.saturating_sub(1);
        let routes = self.chunks.get(chunk).map_or(&[][..], |chunk| &chunk.routes);
        let at = routes.binary_search_by_key(&prefix, |route| route.prefix);
        at.map(|at| (chunk, at)).map_err(|at| (chunk, at))
    }

    fn insert(&mut self, (chunk, at): Place, route: Route) {
        self.lengths[usize::from(route.prefix.length())] += 1;
        let Some(found) = self.chunks.get_mut(chunk) else {
            self.chunks.push(Chunk { first: route.prefix, routes: Arc::new([route].into()) });
            return;
        };
        let routes = Arc::make_mut(&mut found.routes);
        routes.insert(at, route);
        found.first = routes[0].prefix;
        if routes.len() > CHUNK_ROUTES {
            // Routes often come in order: then the new chunk takes what follows.
            let half = if at == CHUNK_ROUTES { CHUNK_ROUTES } else { CHUNK_ROUTES / 2 };
            let rest = routes.split_off(half);
            let new = Chunk { first: rest[0].prefix, routes: Arc::new(rest) };
            self.chunks.insert(chunk + 1, new);
        }
    }

    fn remove(&mut self, (chunk, at): Place) {
        let found = &mut self.chunks[chunk];
        let routes = Arc::make_mut(&mut found.routes);
        let route = routes.remove(at);
        self.lengths[usize::from(route.prefix.length())] -= 1;
        match routes.first() {
            Some(first) => found.first = first.prefix,
            None => {
                self.chunks.remove(chunk);
            }
        }
    }

    #[cfg(test)]
    pub fn shared_chunks(&self, other: &Self) -> (usize, usize) {
        let all = other.chunks.iter().map(|chunk| Arc::as_ptr(&chunk.routes));
        let all: std::collections::BTreeSet<_> = all.collect();
        let same = self.chunks.iter().filter(|chunk| all.contains(&Arc::as_ptr(&chunk.routes)));
        (same.count(), self.chunks.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;
    use std::collections::BTreeMap;

    /// Enough routes for several chunks, in orders that split and empty them.
    #[test]
    fn agrees_with_a_sorted_map() {
        for step in [1, 7919, 9999] {
            let mut rib = Rib::new();
            let mut map = BTreeMap::new();
            let prefix = |i: u32| {
                let bits = i.wrapping_mul(step) % 10_000;
                let length = [24, 32, 30][(i % 3) as usize];
                Ipv4Prefix::containing(Ipv4Addr::from_bits(0x0a00_0000 | bits << 4), length)
            };
            for i in 0..10_000 {
                let hop = HopIndex(i);
                let old = rib.change(prefix(i), |route| route.fixed = Some(hop));
                assert_eq!(old.fixed, map.insert(prefix(i), hop));
            }
            let check = |rib: &Rib, map: &BTreeMap<Ipv4Prefix, HopIndex>| {
                let all = rib.from(Ipv4Prefix::ALL).map(|route| (route.prefix, route.hop()));
                assert!(all.eq(map.iter().map(|(prefix, hop)| (*prefix, *hop))));
                assert_eq!(rib.fixed(), map.len());
                let lengths = |n| map.keys().filter(|prefix| prefix.length() == n).count();
                assert!((0..=32).all(|n| rib.lengths[usize::from(n)] as usize == lengths(n)));
                for i in (0..10_000).step_by(97) {
                    let from = prefix(i);
                    assert_eq!(rib.get(from).map(Route::hop), map.get(&from).copied());
                    let next = rib.from(from).next().map(|route| route.prefix);
                    assert_eq!(next, map.range(from..).next().map(|(prefix, _)| *prefix));
                    let cover = (1..from.length())
                        .rev()
                        .find_map(|n| map.get(&Ipv4Prefix::containing(from.network(), n)));
                    assert_eq!(rib.cover(from).map(Route::hop), cover.copied());
                }
            };
            check(&rib, &map);
            let kept = rib.clone();
            for i in (0..10_000).filter(|i| i % 5 != 0) {
                rib.change(prefix(i), |route| route.fixed = None);
                map.remove(&prefix(i));
            }
            check(&rib, &map);
            assert!(kept.fixed() > rib.fixed());
            for i in 0..10_000 {
                rib.change(prefix(i), |route| route.fixed = None);
            }
            assert!(rib.chunks.is_empty());
        }
    }

    #[test]
    fn one_change_copies_one_chunk() {
        let mut rib = Rib::new();
        for i in 0..20_000 {
            let prefix = Ipv4Prefix::host(Ipv4Addr::from_bits(i));
            rib.change(prefix, |route| route.own = Some(HopIndex(1)));
        }
        let old = rib.clone();
        let prefix = Ipv4Prefix::host(Ipv4Addr::from_bits(9_999));
        rib.change(prefix, |route| route.fixed = Some(HopIndex(2)));
        let (same, all) = rib.shared_chunks(&old);
        assert_eq!(same + 1, all);
        assert!(all < 20, "{all} chunks");
        assert_eq!(rib.get(prefix).unwrap().hop(), HopIndex(1));
    }
}
