//! What the forwarding database of a layer 2 VNI says of a bridged network: the other ends of its tunnel, and who is behind
//! which. That is how EVPN's routes of type 3 and 2 are in the kernel.

use super::Mac;
use super::event::{Link, LinkKind, Remote};
use super::world::{VXLAN_PORT, World};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

/// So many stations are said at once at most: whoever takes them in has other things to do between.
const BATCH: usize = 4096;

/// The MAC address of the entries that say who gets what is for everybody.
const EVERYBODY: Mac = Mac([0; 6]);

/// What has to be known of a bridged network to find its stations in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BridgeSpec {
    /// Name of a device that is a member of the bridge whose VXLAN device has the network's identifier.
    pub port: String,
    /// The network's VXLAN network identifier.
    pub vni: u32,
    /// This end's address.
    pub local: IpAddr,
}

/// Where the kernel has the stations of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BridgeState {
    /// In the forwarding database of this VXLAN device.
    Device(String),
    /// Nowhere: there is no such port.
    #[default]
    NoPort,
    /// Nowhere: the port is no member of a bridge.
    NoBridge,
    /// Nowhere: the port is a VXLAN device itself.
    Vxlan,
    /// Nowhere: no VXLAN device of this bridge has the network's identifier.
    NoVxlan(String),
    /// Nowhere: this VXLAN device has the identifier, but another UDP port or another address of its own.
    Unlike(String),
    /// Nowhere: this VXLAN device is the one, but it is not set up.
    Down(String),
}

impl BridgeState {
    /// The VXLAN device, while its entries count.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        match self {
            Self::Device(name) => Some(name),
            _ => None,
        }
    }
}

/// In words, with what to do.
impl fmt::Display for BridgeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(device) => write!(f, "{device} is read"),
            Self::NoPort => f.write_str("there is no such device: make it, and set it into the bridge"),
            Self::NoBridge => f.write_str(
                "it is in no bridge: set it into the one that has the VXLAN device (ip link set DEVICE master BRIDGE)",
            ),
            Self::Vxlan => f.write_str(
                "it is a VXLAN device itself: name another device of its bridge, such as a dummy",
            ),
            Self::NoVxlan(bridge) => write!(
                f,
                "its bridge {bridge} has no VXLAN device with the tunnel's vni: set one into it"
            ),
            Self::Unlike(device) => write!(
                f,
                "{device} has the tunnel's vni, but not UDP port 4789 (dstport) or not the tunnel's local address"
            ),
            Self::Down(device) => write!(f, "{device} is down: set it up"),
        }
    }
}

/// What has changed of a network's stations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BridgeUpdate {
    /// Where they are.
    pub state: BridgeState,
    /// The ends that get what is for everybody or for nobody known; `None`: the same as before.
    pub flood: Option<BTreeSet<IpAddr>>,
    /// Behind which end each of these is from now on; `None`: none that is known. At most 4,096; addresses ascend.
    pub stations: Vec<(Mac, Option<IpAddr>)>,
    /// How many entries there are by now that name no end to send to: one of another family, this end itself, several.
    pub left_out: usize,
}

/// The stations of one network.
pub(super) struct Bridge {
    pub spec: BridgeSpec,
    device: Option<u32>,
    state: BridgeState,
    /// What was said last: state and how many entries are left out; `flood` with how many of its entries name no end.
    said: Option<(BridgeState, usize)>,
    flood: (BTreeSet<IpAddr>, usize),
    stations: BTreeMap<Mac, IpAddr>,
    unusable: BTreeSet<Mac>,
    /// To be looked at.
    dirty: BTreeSet<Mac>,
}

impl Bridge {
    pub fn new(spec: BridgeSpec) -> Self {
        Self {
            spec,
            device: None,
            state: BridgeState::default(),
            said: None,
            flood: Default::default(),
            stations: BTreeMap::new(),
            unusable: BTreeSet::new(),
            dirty: BTreeSet::new(),
        }
    }

    /// Takes over what `old`, the same network before, has said, so that only differences are said next.
    pub fn continue_from(&mut self, old: Self) {
        self.dirty.insert(EVERYBODY);
        self.dirty.extend(old.stations.keys());
        (self.said, self.flood, self.stations) = (old.said, old.flood, old.stations);
    }

    /// Looks which device the stations are in now. Another one has none of the last one's.
    pub fn follow(&mut self, world: &World) {
        let (device, state) = find(&self.spec, world);
        if device != self.device {
            self.device = device;
            self.unusable.clear();
            self.dirty.insert(EVERYBODY);
            self.dirty.extend(self.stations.keys());
            self.dirty.extend(device.into_iter().flat_map(|device| world.macs_behind(device)));
        }
        self.state = state;
    }

    /// Has an entry looked at.
    pub fn touch(&mut self, device: u32, mac: Mac) {
        if self.device == Some(device) {
            self.dirty.insert(mac);
        }
    }

    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || self.said.as_ref().is_none_or(|(state, _)| *state != self.state)
    }

    /// What has changed since this was asked last, or a part of it.
    pub fn flush(&mut self, world: &World) -> Option<BridgeUpdate> {
        let mut update = BridgeUpdate { state: self.state.clone(), ..BridgeUpdate::default() };
        while update.stations.len() < BATCH
            && let Some(mac) = self.dirty.pop_first()
        {
            if mac == EVERYBODY {
                let now = self.ends(world, mac);
                if now.0 != self.flood.0 {
                    update.flood = Some(now.0.clone());
                }
                self.flood = now;
                continue;
            }
            // A group is no station.
            if mac.0[0] & 1 == 1 {
                continue;
            }
            let (ends, unusable) = self.ends(world, mac);
            if unusable > 0 && ends.is_empty() {
                self.unusable.insert(mac);
            } else {
                self.unusable.remove(&mac);
            }
            // The kernel has one for each.
            let now = ends.first().copied();
            let old = match now {
                Some(end) => self.stations.insert(mac, end),
                None => self.stations.remove(&mac),
            };
            if old != now {
                update.stations.push((mac, now));
            }
        }
        update.left_out = self.left_out();
        let said = self.said.replace((self.state.clone(), update.left_out));
        let changed = update.flood.is_some() || !update.stations.is_empty() || said != self.said;
        changed.then_some(update)
    }

    fn left_out(&self) -> usize {
        self.unusable.len() + self.flood.1
    }

    /// The ends that the entries of a MAC address name, and how many entries name none.
    fn ends(&self, world: &World, mac: Mac) -> (BTreeSet<IpAddr>, usize) {
        let Some(device) = self.device else { return Default::default() };
        let entries = world.remotes(device, mac);
        let ends: Vec<_> = entries.iter().filter_map(|entry| end(&self.spec, entry)).collect();
        let unusable = entries.len() - ends.len();
        (ends.into_iter().collect(), unusable)
    }
}

/// The end that an entry names, if frames can be bridged there.
fn end(spec: &BridgeSpec, entry: &Remote) -> Option<IpAddr> {
    let address = entry.address?;
    let same = |number: Option<u32>| number.is_none_or(|number| number == spec.vni);
    let is_host = !address.is_unspecified() && !address.is_multicast() && !address.is_loopback();
    let usable = is_host
        && address != spec.local
        && address.is_ipv4() == spec.local.is_ipv4()
        && same(entry.of)
        && same(entry.vni)
        && entry.port.is_none_or(|port| port == VXLAN_PORT);
    usable.then_some(address)
}

fn find(spec: &BridgeSpec, world: &World) -> (Option<u32>, BridgeState) {
    let Some(port) = world.links.values().find(|link| link.name == spec.port) else {
        return (None, BridgeState::NoPort);
    };
    if matches!(port.kind, LinkKind::Vxlan { .. }) {
        return (None, BridgeState::Vxlan);
    }
    let bridge = port.master.and_then(|master| world.links.get(&master));
    let Some(bridge) = bridge.filter(|bridge| bridge.kind == LinkKind::Bridge) else {
        return (None, BridgeState::NoBridge);
    };
    let fits = |link: &Link| match link.kind {
        LinkKind::Vxlan { vni, port, local } if vni == Some(spec.vni) => {
            Some(port == VXLAN_PORT && local.is_none_or(|local| local == spec.local))
        }
        _ => None,
    };
    let devices = world.vxlan_members(bridge.index).filter_map(|link| Some((fits(link)?, link)));
    // Of several the one that fits, and of those one that is up.
    match devices.max_by_key(|(fits, link)| (*fits, link.up)) {
        None => (None, BridgeState::NoVxlan(bridge.name.clone())),
        Some((false, link)) => (None, BridgeState::Unlike(link.name.clone())),
        Some((true, link)) if !link.up => (None, BridgeState::Down(link.name.clone())),
        Some((true, link)) => (Some(link.index), BridgeState::Device(link.name.clone())),
    }
}
