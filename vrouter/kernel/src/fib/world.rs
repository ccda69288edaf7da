//! All that is not a route: links, addresses, neighbours, nexthop objects, rules.

use super::event::{Encap, Hop, Link, LinkKind, Object, Remote, Rule, Via};
use super::{Mac, NetworkSpec, Source, Target, Tunnel};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// The UDP port of VXLAN (RFC 7348 section 5), the only one that the vRouter sends to.
pub(super) const VXLAN_PORT: u16 = 4789;

/// Nexthop groups have no groups in them; a few levels cost nothing and end what should not be.
const GROUP_DEPTH: u8 = 4;

/// What the kernel has beside routes.
#[derive(Default)]
pub(super) struct World {
    /// Names of the uplinks' host interfaces.
    pub uplinks: BTreeSet<String>,
    pub links: HashMap<u32, Link>,
    /// VXLAN devices of each bridge.
    members: BTreeMap<u32, BTreeSet<u32>>,
    /// IPv4 addresses, and the links that have them.
    addresses: BTreeMap<IpAddr, BTreeSet<u32>>,
    /// Neighbours whose MAC address is known.
    pub neighbours: BTreeMap<(IpAddr, u32), Mac>,
    stations: BTreeMap<(u32, Mac), BTreeSet<IpAddr>>,
    remotes: HashMap<(u32, Mac), Vec<Remote>>,
    pub objects: BTreeMap<u32, Object>,
    rules: BTreeSet<Rule>,
}

impl World {
    pub fn set_link(&mut self, link: Link) {
        self.unlist(link.index);
        if let (Some(master), LinkKind::Vxlan { .. }) = (link.master, link.kind) {
            self.members.entry(master).or_default().insert(link.index);
        }
        self.links.insert(link.index, link);
    }

    pub fn remove_link(&mut self, index: u32) {
        self.unlist(index);
        self.links.remove(&index);
        self.members.remove(&index);
        for links in self.addresses.values_mut() {
            links.remove(&index);
        }
        self.addresses.retain(|_, links| !links.is_empty());
        self.neighbours.retain(|(_, link), _| *link != index);
        self.stations.retain(|(link, _), _| *link != index);
        self.remotes.retain(|(link, _), _| *link != index);
    }

    fn unlist(&mut self, index: u32) {
        let master = self.links.get(&index).and_then(|link| link.master);
        if let Some(members) = master.and_then(|master| self.members.get_mut(&master)) {
            members.remove(&index);
        }
    }

    /// IPv6 is not asked for: there the kernel says what goes with an address.
    pub fn set_address(&mut self, link: u32, address: IpAddr) {
        if address.is_ipv4() {
            self.addresses.entry(address).or_default().insert(link);
        }
    }

    pub fn remove_address(&mut self, link: u32, address: IpAddr) {
        if let Some(links) = self.addresses.get_mut(&address) {
            links.remove(&link);
            if links.is_empty() {
                self.addresses.remove(&address);
            }
        }
    }

    pub fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.contains_key(&address)
    }

    pub fn has_ipv4(&self, link: u32) -> bool {
        self.addresses.values().any(|links| links.contains(&link))
    }

    /// Whether anything is different afterwards.
    pub fn set_neighbour(&mut self, link: u32, address: IpAddr, mac: Option<Mac>) -> bool {
        let before = match mac {
            Some(mac) => self.neighbours.insert((address, link), mac),
            None => self.neighbours.remove(&(address, link)),
        };
        if before == mac {
            return false;
        }
        if let Some(before) = before
            && let Some(addresses) = self.stations.get_mut(&(link, before))
        {
            addresses.remove(&address);
            if addresses.is_empty() {
                self.stations.remove(&(link, before));
            }
        }
        if let Some(mac) = mac {
            self.stations.entry((link, mac)).or_default().insert(address);
        }
        true
    }

    /// Addresses that `mac` has behind `link`.
    pub fn addresses_of(&self, link: u32, mac: Mac) -> impl Iterator<Item = IpAddr> {
        self.stations.get(&(link, mac)).into_iter().flatten().copied()
    }

    pub fn set_remote(&mut self, remote: Remote) {
        let entries = self.remotes.entry((remote.link, remote.mac)).or_default();
        // One takes the place of another, but what is for everybody goes to all that are named.
        let for_all = remote.mac.0 == [0; 6] || remote.mac.0[0] & 1 == 1;
        entries.retain(|entry| if for_all { *entry != remote } else { entry.of != remote.of });
        entries.push(remote);
    }

    /// The entries of a VXLAN device for a MAC address.
    pub fn remotes(&self, device: u32, mac: Mac) -> &[Remote] {
        self.remotes.get(&(device, mac)).map_or(&[], Vec::as_slice)
    }

    /// All MAC addresses that a VXLAN device has entries for. Looks through those of all devices.
    pub fn macs_behind(&self, device: u32) -> impl Iterator<Item = Mac> {
        self.remotes.keys().filter(move |(of, _)| *of == device).map(|(_, mac)| *mac)
    }

    /// VXLAN devices of a bridge.
    pub fn vxlan_members(&self, bridge: u32) -> impl Iterator<Item = &Link> {
        let members = self.members.get(&bridge).into_iter().flatten();
        members.filter_map(|index| self.links.get(index))
    }

    pub fn remove_remote(&mut self, remote: Remote) {
        let key = (remote.link, remote.mac);
        if let Some(entries) = self.remotes.get_mut(&key) {
            entries.retain(|entry| *entry != remote);
            if entries.is_empty() {
                self.remotes.remove(&key);
            }
        }
    }

    pub fn set_rule(&mut self, rule: Rule) {
        self.rules.insert(rule);
    }

    pub fn remove_rule(&mut self, rule: &Rule) {
        self.rules.remove(rule);
    }

    /// Takes an object away, and those groups that have no other. Returns the numbers of all that went.
    pub fn remove_object(&mut self, id: u32) -> Vec<u32> {
        let mut gone = Vec::new();
        let mut next = vec![id];
        while let Some(id) = next.pop() {
            if self.objects.remove(&id).is_some() || gone.is_empty() {
                gone.push(id);
            }
            for (&group, object) in &mut self.objects {
                if let Object::Group(members) = object {
                    let before = members.len();
                    members.retain(|(member, _)| *member != id);
                    if members.is_empty() && before > 0 {
                        next.push(group);
                    }
                }
            }
        }
        gone
    }

    /// Objects whose own way is over a link.
    pub fn objects_over(&self, link: u32) -> Vec<u32> {
        let over = |object: &Object| matches!(object, Object::Hop(hop) if hop.link == link);
        self.objects.iter().filter(|(_, object)| over(object)).map(|(&id, _)| id).collect()
    }

    /// `id`, and the groups it is in.
    pub fn object_users(&self, id: u32) -> Vec<u32> {
        let with = |object: &Object| match object {
            Object::Group(members) => members.iter().any(|(member, _)| *member == id),
            _ => false,
        };
        let groups = self.objects.iter().filter(|(_, object)| with(object)).map(|(&id, _)| id);
        std::iter::once(id).chain(groups).collect()
    }

    /// The number of the table that a network has now.
    pub fn table(&self, source: &Source) -> Option<u32> {
        match source {
            Source::Main => Some(super::MAIN),
            Source::Table(table) => Some(*table),
            Source::Vrf(name) => self.links.values().find_map(|link| match link.kind {
                LinkKind::Vrf { table } if link.name == *name => Some(table),
                _ => None,
            }),
            // IPv4 and IPv6 have rules of their own; a network has one table.
            Source::Rule(device) => {
                self.rules.iter().find(|rule| rule.device == *device).map(|rule| rule.table)
            }
        }
    }

    /// All ways of a route with their weights; `None`: not known yet.
    pub fn hops(&self, via: &Via) -> Option<Ways> {
        let mut ways = Ways::default();
        match via {
            Via::Nothing => {}
            Via::Hop(hop) => ways.hops.push((hop.clone(), 1)),
            Via::Hops(hops) => ways.hops.extend(hops.iter().cloned()),
            Via::Object(id) => self.expand(*id, 1, GROUP_DEPTH, &mut ways)?,
        }
        Some(ways)
    }

    fn expand(&self, id: u32, weight: u32, depth: u8, ways: &mut Ways) -> Option<()> {
        match self.objects.get(&id)? {
            Object::Hop(hop) => ways.hops.push((hop.clone(), weight)),
            Object::Blackhole => ways.blackhole = true,
            Object::Other => return None,
            Object::Group(members) => {
                let depth = depth.checked_sub(1)?;
                for (member, weight) in members {
                    self.expand(*member, *weight, depth, ways)?;
                }
            }
        }
        Some(())
    }

    /// Whether there is such a link and, for IPv6, the kernel would use ways over it; for IPv4 that is known of each path.
    pub fn alive(&self, link: u32, v6: bool) -> bool {
        self.links.get(&link).is_some_and(|link| !v6 || link.up)
    }

    /// Where a hop leads, for packets to `to` if that is known to be one address.
    pub fn resolve(&self, spec: &NetworkSpec, hop: &Hop, to: Option<IpAddr>) -> Target {
        self.known(spec, hop, to).unwrap_or(Target::Kernel)
    }

    fn known(&self, spec: &NetworkSpec, hop: &Hop, to: Option<IpAddr>) -> Option<Target> {
        let link = self.links.get(&hop.link)?;
        let next = hop.gateway.or(to);
        let mac = next.and_then(|next| self.neighbours.get(&(next, hop.link))).copied();
        match &hop.encap {
            Encap::None if self.uplinks.contains(&link.name) => {
                let end = hop.gateway.filter(|gateway| {
                    let same = |it: Tunnel| it.gateways && it.local.is_ipv4() == gateway.is_ipv4();
                    spec.tunnel.is_some_and(same)
                });
                match end {
                    Some(remote) => Some(Target::Vxlan { remote, mac: None }),
                    None => Some(Target::Link { uplink: hop.link, mac: mac? }),
                }
            }
            Encap::None => self.behind_vxlan(spec, link, mac?),
            Encap::Ip { id, remote, local } => {
                let tunnel = spec.tunnel?;
                let ours = matches!(link.kind, LinkKind::Vxlan { vni: None, port: VXLAN_PORT, .. })
                    && *id == u64::from(tunnel.vni)
                    && local.is_none_or(|local| local == tunnel.local)
                    && link.up
                    && remote.is_ipv4() == tunnel.local.is_ipv4();
                // A router that nobody has told of answers to the gateway's own MAC address, if it is a vRouter's;
                // none would answer an ARP request through the tunnel.
                ours.then_some(Target::Vxlan { remote: *remote, mac })
            }
            Encap::Other(..) => Some(Target::KernelTunnel),
        }
    }

    /// The tunnel end behind which `mac` is, as EVPN leaves it: in the forwarding database of a VXLAN device that
    /// `link` is, or that is a port of the bridge that `link` is.
    fn behind_vxlan(&self, spec: &NetworkSpec, link: &Link, mac: Mac) -> Option<Target> {
        let tunnel = spec.tunnel?;
        let members = match link.kind {
            LinkKind::Bridge => self.members.get(&link.index),
            _ => None,
        };
        let devices = members.into_iter().flatten().copied().chain([link.index]);
        for device in devices {
            let Some(link) = self.links.get(&device) else { continue };
            let LinkKind::Vxlan { vni, port, .. } = link.kind else { continue };
            for remote in self.remotes.get(&(device, mac)).into_iter().flatten() {
                let of = vni.or(remote.of).or(remote.vni);
                let to = remote.vni.or(of);
                let ours = of == Some(tunnel.vni)
                    && to == of
                    && remote.port.unwrap_or(port) == VXLAN_PORT
                    && link.up;
                if let (true, Some(address)) = (ours, remote.address)
                    && address.is_ipv4() == tunnel.local.is_ipv4()
                {
                    return Some(Target::Vxlan { remote: address, mac: Some(mac) });
                }
            }
        }
        None
    }
}

/// Ways of a route.
#[derive(Default)]
pub(super) struct Ways {
    pub hops: Vec<(Hop, u32)>,
    /// One of them is silence.
    pub blackhole: bool,
}
