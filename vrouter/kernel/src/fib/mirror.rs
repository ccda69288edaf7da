//! What an event changes.

use super::bridge::{Bridge, BridgeSpec, BridgeUpdate};
use super::event::{Event, Link, LinkKind, Via};
use super::network::Network;
use super::paths::PathId;
use super::world::World;
use super::{Change, NetworkSpec, Prefix, Target};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// A network, as its user calls it.
pub type NetworkName = String;

/// How far what is known may differ from what the kernel has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// Nothing has happened that the kernel would not have said.
    #[default]
    None,
    /// The kernel has taken routes away without saying so, and which ones is known by rules taken from its source text;
    /// or one of several routes that are the same in everything has come or gone, which might have been said twice. A dump
    /// some time later makes sure.
    Check,
    /// There is something that was not listened to before: a dump is needed.
    Dump,
}

/// The kernel's tables, and what was said of them.
pub struct Mirror {
    world: World,
    networks: BTreeMap<NetworkName, Network>,
    bridges: BTreeMap<NetworkName, Bridge>,
    doubt: Doubt,
}

impl Mirror {
    /// One that has heard nothing yet. `uplinks` are the names of the uplinks' host interfaces.
    pub fn new(
        networks: impl IntoIterator<Item = (NetworkName, NetworkSpec)>,
        uplinks: impl IntoIterator<Item = String>,
    ) -> Self {
        let networks = networks.into_iter().map(|(name, spec)| (name, Network::new(spec)));
        let mut world = World::default();
        world.uplinks.extend(uplinks);
        let (networks, bridges) = (networks.collect(), BTreeMap::new());
        Self { world, networks, bridges, doubt: Doubt::None }
    }

    /// With these bridged networks, too, whose stations are in forwarding databases.
    #[must_use]
    pub fn with_bridges(
        mut self,
        bridges: impl IntoIterator<Item = (NetworkName, BridgeSpec)>,
    ) -> Self {
        let bridges = bridges.into_iter().map(|(name, spec)| (name, Bridge::new(spec)));
        self.bridges.extend(bridges);
        self
    }

    /// One for the same networks that has heard nothing yet: what a dump goes into.
    pub fn anew(&self) -> Self {
        let networks = self.networks.iter();
        let networks = networks.map(|(name, network)| (name.clone(), network.spec.clone()));
        let bridges = self.bridges.iter();
        let bridges = bridges.map(|(name, bridge)| (name.clone(), bridge.spec.clone()));
        Self::new(networks, self.world.uplinks.iter().cloned()).with_bridges(bridges)
    }

    /// Takes the place of `old`: what is said next is how this one differs. Networks that only `old` has are the caller's
    /// to forget.
    pub fn continue_from(&mut self, old: Self) {
        for (name, old) in old.networks {
            if let Some(network) = self.networks.get_mut(&name) {
                network.continue_from(old);
            }
        }
        for (name, old) in old.bridges {
            if let Some(bridge) = self.bridges.get_mut(&name) {
                bridge.continue_from(old);
            }
        }
    }

    /// What has been in doubt since this was asked last.
    pub fn take_doubt(&mut self) -> Doubt {
        std::mem::take(&mut self.doubt)
    }

    /// Whether there may be something to say.
    pub fn is_dirty(&self) -> bool {
        self.networks.values().any(Network::is_dirty) || self.bridges.values().any(Bridge::is_dirty)
    }

    /// What has changed since this was asked last, of those networks where something has; prefixes ascend.
    pub fn flush(&mut self) -> Vec<(NetworkName, Vec<Change>)> {
        let mut all = Vec::new();
        for (name, network) in &mut self.networks {
            let changes = network.flush(&self.world);
            if !changes.is_empty() {
                all.push((name.clone(), changes));
            }
        }
        all
    }

    /// The same of the stations of bridged networks. Of very many only some are said, and there is more to say then.
    pub fn flush_bridges(&mut self) -> Vec<(NetworkName, BridgeUpdate)> {
        let world = &self.world;
        let flush = |(name, bridge): (&NetworkName, &mut Bridge)| {
            Some((name.clone(), bridge.flush(world)?))
        };
        self.bridges.iter_mut().filter_map(flush).collect()
    }

    /// Where every prefix of a network leads, as said last; `None`: no such network.
    pub fn table(&self, network: &str) -> Option<impl Iterator<Item = (Prefix, &Arc<Target>)>> {
        Some(self.networks.get(network)?.table())
    }

    /// Kernel routes and different paths that a network has.
    pub fn size(&self, network: &str) -> Option<(usize, usize)> {
        let network = self.networks.get(network)?;
        Some((network.routes(), network.path_count()))
    }

    /// Takes in one event.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Link(link) => self.link(link),
            Event::LinkGone(link) => self.link_gone(link),
            Event::Address { link, address } => self.address(link, address),
            Event::AddressGone { link, address } => self.address_gone(link, address),
            Event::Neighbour { link, address, mac } => {
                if self.world.set_neighbour(link, address, mac) {
                    self.touch_link(link);
                    self.mark([address]);
                }
            }
            Event::Remote(remote) => {
                self.world.set_remote(remote);
                self.touch_remote(remote.link, remote.mac);
            }
            Event::RemoteGone(remote) => {
                self.world.remove_remote(remote);
                self.touch_remote(remote.link, remote.mac);
            }
            Event::Object { id, object } => {
                self.world.objects.insert(id, object);
                self.touch_object(id);
            }
            Event::ObjectGone(id) => {
                self.objects_gone(vec![id]);
                self.suspect(Doubt::Check);
            }
            Event::Route(route, how) => self.routes(|network| network.add(&route, how)),
            Event::RouteGone(route) => self.routes(|network| network.remove(&route)),
            Event::Rule(rule) => {
                self.world.set_rule(rule);
                self.follow();
            }
            Event::RuleGone(rule) => {
                self.world.remove_rule(&rule);
                self.follow();
            }
        }
    }

    fn suspect(&mut self, doubt: Doubt) {
        self.doubt = self.doubt.max(doubt);
    }

    // === links ===

    fn link(&mut self, link: Link) {
        let index = link.index;
        let before = self.world.links.get(&index).cloned();
        if before.as_ref() == Some(&link) {
            return;
        }
        let goes_up = link.up && before.as_ref().is_some_and(|before| !before.up);
        let goes_down = before.as_ref().is_some_and(|before| before.up && !link.up);
        let stops = before.as_ref().is_some_and(|before| before.running && !link.running);
        let masters = [before.as_ref().and_then(|before| before.master), link.master];
        self.world.set_link(link);
        if before.is_some() && masters[0] != masters[1] && self.is_vrf(masters) {
            // Into a VRF or out of it: as if all its addresses were gone for a moment.
            self.ways_gone(index, true);
            self.suspect(Doubt::Check);
        }
        if goes_down {
            self.ways_gone(index, false);
        }
        if goes_up {
            self.ways_back(index);
        }
        if goes_down || stops {
            // `nh_netdev_event`
            self.objects_gone(self.world.objects_over(index));
            self.suspect(Doubt::Check);
        }
        self.touch_link(index);
        for master in masters.into_iter().flatten() {
            self.touch_link(master);
            self.mark_neighbours(master);
        }
        self.mark_neighbours(index);
        self.follow();
    }

    fn is_vrf(&self, masters: [Option<u32>; 2]) -> bool {
        let links = masters.into_iter().flatten().filter_map(|index| self.world.links.get(&index));
        let mut links = links.map(|link| link.kind);
        links.any(|kind| matches!(kind, LinkKind::Vrf { .. }))
    }

    fn link_gone(&mut self, index: u32) {
        let Some(link) = self.world.links.get(&index) else { return };
        let master = link.master;
        // IPv4 routes with a way over it go, even those with others (`fib_sync_down_dev`). Those of IPv6 are said.
        for network in self.networks.values_mut() {
            let ids = network.paths_over(index);
            network.remove_paths(ids, |path| !path.v6);
        }
        self.objects_gone(self.world.objects_over(index));
        self.mark_neighbours(index);
        self.world.remove_link(index);
        self.touch_link(index);
        if let Some(master) = master {
            self.touch_link(master);
            self.mark_neighbours(master);
        }
        self.suspect(Doubt::Check);
        self.follow();
    }

    fn ways_gone(&mut self, link: u32, all: bool) {
        self.networks.values_mut().for_each(|network| network.ways_gone(link, all));
    }

    fn ways_back(&mut self, link: u32) {
        self.networks.values_mut().for_each(|network| network.ways_back(link));
    }

    // === addresses ===

    fn address(&mut self, link: u32, address: IpAddr) {
        self.world.set_address(link, address);
        if address.is_ipv4() && self.world.links.get(&link).is_some_and(|link| link.up) {
            self.ways_back(link);
        }
    }

    fn address_gone(&mut self, link: u32, address: IpAddr) {
        if address.is_ipv6() {
            return;
        }
        self.world.remove_address(link, address);
        self.suspect(Doubt::Check);
        if !self.world.has_address(address) {
            // `fib_sync_down_addr`
            for network in self.networks.values_mut() {
                network.remove_where(|paths, id| {
                    let slot = paths.get(id);
                    slot.is_some_and(|slot| !slot.path.v6 && slot.path.source == Some(address))
                });
            }
        }
        if !self.world.has_ipv4(link) {
            // `fib_disable_ip`
            self.ways_gone(link, true);
        }
    }

    // === routes ===

    fn routes(&mut self, change: impl Fn(&mut Network)) {
        let mut doubtful = false;
        for network in self.networks.values_mut() {
            change(network);
            doubtful |= network.take_doubt();
        }
        if doubtful {
            self.suspect(Doubt::Check);
        }
    }

    /// Routes through an object go when it goes (`remove_nexthop`).
    fn objects_gone(&mut self, ids: Vec<u32>) {
        let mut gone = BTreeSet::new();
        let mut touched = BTreeSet::new();
        for id in ids {
            touched.extend(self.world.object_users(id));
            gone.extend(self.world.remove_object(id));
        }
        for network in self.networks.values_mut() {
            let ids: Vec<PathId> =
                gone.iter().flat_map(|id| network.paths_of_object(*id)).collect();
            network.remove_paths(ids, |path| matches!(path.via, Via::Object(_)));
        }
        touched.into_iter().for_each(|id| self.touch_object(id));
    }

    /// Tables of VRF devices and rules may be others now.
    fn follow(&mut self) {
        let mut other = false;
        for network in self.networks.values_mut() {
            other |= network.follow(&self.world);
        }
        if other {
            self.suspect(Doubt::Dump);
        }
        self.bridges.values_mut().for_each(|bridge| bridge.follow(&self.world));
    }

    // === what to look at ===

    fn touch_link(&mut self, link: u32) {
        let objects: BTreeSet<_> = self.world.objects_over(link).into_iter().collect();
        let users: BTreeSet<_> =
            objects.into_iter().flat_map(|id| self.world.object_users(id)).collect();
        for network in self.networks.values_mut() {
            network.touch_link(link);
            users.iter().for_each(|id| network.touch_object(*id));
        }
    }

    fn touch_object(&mut self, id: u32) {
        let users = self.world.object_users(id);
        for network in self.networks.values_mut() {
            users.iter().for_each(|id| network.touch_object(*id));
        }
    }

    fn touch_remote(&mut self, device: u32, mac: super::Mac) {
        self.bridges.values_mut().for_each(|bridge| bridge.touch(device, mac));
        let master = self.world.links.get(&device).and_then(|link| link.master);
        for link in master.into_iter().chain([device]) {
            self.touch_link(link);
            let addresses: Vec<_> = self.world.addresses_of(link, mac).collect();
            self.mark(addresses);
        }
    }

    fn mark_neighbours(&mut self, link: u32) {
        let keys = self.world.neighbours.keys();
        let addresses: Vec<_> =
            keys.filter(|(_, of)| *of == link).map(|(address, _)| *address).collect();
        self.mark(addresses);
    }

    fn mark(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        for address in addresses {
            for network in self.networks.values_mut() {
                network.mark(Prefix::host(address));
            }
        }
    }
}
