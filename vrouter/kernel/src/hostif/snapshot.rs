//! What an interface carries: everything that has to move when another device takes over its name. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::wire::{Attribute, Leg, Message, ONLINK, attribute, emit_all, emit_legs, kind, legs};

/// Address flags that somebody set (`linux/if_addr.h`): nodad, home, mngtmpaddr, noprefixroute, autojoin. The others
/// say what the kernel found, and it refuses or ignores them.
const ADDRESS_FLAGS: u32 = 0x02 | 0x10 | 0x100 | 0x200 | 0x400;
/// `RTPROT_REDIRECT` and `RTPROT_KERNEL`: routes that follow from what the kernel heard and from addresses.
const PROTOCOLS_OF_THE_KERNEL: [u8; 2] = [1, 2];
/// `AF_INET6`.
const INET6: u8 = 10;
/// `RTN_UNICAST`.
const UNICAST: u8 = 1;
/// Ticks of a route's lifetime per second: `USER_HZ` is 100 on every architecture that DPDK runs on.
const TICKS: u32 = 100;
/// `NUD_PERMANENT`, and `NTF_PROXY`, `NTF_EXT_LEARNED`: neighbours that nobody would learn again.
const NUD_PERMANENT: u32 = 0x80;
const NTF_KEPT: u8 = 0x08 | 0x10;
/// Lifetime without end, in seconds.
const FOREVER: u32 = u32::MAX;

/// Routes of routing daemons that are carried at most. Beyond it they are left to the daemon, which installs its routes
/// on the new interface anyway; moving a full table would take longer than that.
pub const DAEMON_ROUTES: usize = 4096;

/// An interface, with all that is to be found again on the device that takes over.
///
/// Addresses, routes, nexthops and neighbours are messages that the kernel takes as they are, for the interface
/// [`index`](Self::index).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// Its number in the kernel.
    pub index: u32,
    /// Second of the machine's life in which it was read; lifetimes count from there.
    pub read_at: u64,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Bytes of an IP packet.
    pub mtu: u32,
    /// Packets of its queue.
    pub queue_length: u32,
    /// Group of interfaces.
    pub group: u32,
    /// A line of text that an operator gave it.
    pub alias: String,
    /// Its other names.
    pub alt_names: Vec<String>,
    /// Whether it is up, as the operator wants it.
    pub up: bool,
    /// The VRF it belongs to.
    pub vrf: Option<u32>,
    /// In the order they are to be added: an IPv4 subnet's primary address is the first of them.
    pub addresses: Vec<Message>,
    /// Nexthop objects on it, then groups with such a member.
    pub nexthops: Vec<Message>,
    /// Routes by it in any table, and routes of others whose preferred source is one of its addresses.
    pub routes: Vec<Message>,
    /// Neighbours that are not learned.
    pub neighbours: Vec<Message>,
    /// Files below `/proc/sys/net` that belong to it, `ipv4/conf//rp_filter` with its name left out, and what they say.
    pub settings: BTreeMap<String, String>,
}

/// What the kernel was asked for an interface, unsorted.
#[derive(Clone, Debug, Default)]
pub struct Dump {
    /// Second of the machine's life.
    pub read_at: u64,
    /// Addresses of all interfaces, or of this one.
    pub addresses: Vec<Message>,
    /// All nexthop objects.
    pub nexthops: Vec<Message>,
    /// All routes, or at least those by this interface.
    pub routes: Vec<Message>,
    /// Neighbours of all interfaces, or of this one.
    pub neighbours: Vec<Message>,
    /// See [`Snapshot::settings`].
    pub settings: BTreeMap<String, String>,
}

/// Names, in `linux/if.h`.
const IFF_UP: u32 = 1;

impl Snapshot {
    /// Sorts out of `dump` what belongs to the interface that `link` describes; `vrf` is its master.
    ///
    /// Returns `None` if `link` is no description of an Ethernet interface.
    #[must_use]
    pub fn new(link: &Message, vrf: Option<u32>, dump: Dump) -> Option<Self> {
        let index = link.word(4);
        let text = |kind| link.get(kind).and_then(Attribute::as_text).map(str::to_owned);
        let mut addresses = dump.addresses;
        addresses.retain(|address| address.word(4) == index);
        addresses.iter_mut().for_each(clean_address);
        // Expired ones are about to go, and the kernel refuses them.
        addresses.retain(|address| lifetimes(address).is_none_or(|(_, valid)| valid > 0));
        // Of IPv4 the first one added comes first, of IPv6 the last.
        addresses.sort_by_key(|address| address.family() == INET6);
        let ipv6 = addresses.iter().take_while(|address| address.family() != INET6).count();
        if let Some(ipv6) = addresses.get_mut(ipv6..) {
            ipv6.reverse();
        }
        let nexthops = nexthops(dump.nexthops, index);
        let routes = routes(dump.routes, index, &addresses, &nexthops);
        let mut neighbours = dump.neighbours;
        neighbours.retain(|neighbour| is_kept_neighbour(neighbour, index));
        for neighbour in &mut neighbours {
            neighbour.kind = kind::NEWNEIGH;
            neighbour.remove(&[attribute::NDA_CACHEINFO, attribute::NDA_PROBES]);
        }
        Some(Self {
            name: text(attribute::IFLA_IFNAME)?,
            index,
            read_at: dump.read_at,
            mac: link.get(attribute::IFLA_ADDRESS)?.value.as_slice().try_into().ok()?,
            mtu: link.number(attribute::IFLA_MTU)?,
            queue_length: link.number(attribute::IFLA_TXQLEN).unwrap_or(0),
            group: link.number(attribute::IFLA_GROUP).unwrap_or(0),
            alias: text(attribute::IFLA_IFALIAS).unwrap_or_default(),
            alt_names: alt_names(link),
            up: link.word(8) & IFF_UP != 0,
            vrf,
            addresses,
            nexthops,
            routes,
            neighbours,
            settings: dump.settings,
        })
    }

    /// The same, on the interface `index`, `now` seconds into the machine's life: what has run out is left out.
    #[must_use]
    pub fn moved_to(&self, index: u32, now: u64) -> Self {
        let mut moved = self.clone();
        let age = u32::try_from(now.saturating_sub(self.read_at)).unwrap_or(FOREVER - 1);
        moved.index = index;
        moved.read_at = now;
        moved.addresses.retain_mut(|address| {
            address.set_word(4, index);
            age_address(address, age)
        });
        for nexthop in &mut moved.nexthops {
            if nexthop.number(attribute::NHA_OIF) == Some(self.index) {
                nexthop.set_number(attribute::NHA_OIF, index);
            }
        }
        moved.routes.retain_mut(|route| {
            move_route(route, self.index, index);
            age_route(route, age)
        });
        for neighbour in &mut moved.neighbours {
            neighbour.set_word(4, index);
        }
        moved
    }

    /// Takes over from an earlier one what is not asked again each time: routes of other interfaces that prefer one of
    /// the addresses here.
    pub fn keep_routes_of_others(&mut self, earlier: &Self) {
        let addresses: BTreeSet<_> = self.addresses.iter().filter_map(local).collect();
        let others = earlier.routes.iter().filter(|route| {
            !leaves_by(route, earlier.index)
                && !route.attributes.iter().any(|it| it.kind() == attribute::RTA_NH_ID)
                && preferred(route).is_some_and(|source| addresses.contains(&source))
        });
        for route in others {
            if !self.routes.contains(route) {
                self.routes.push(route.clone());
            }
        }
    }

    /// Its addresses, for people.
    #[must_use]
    pub fn addresses_as_text(&self) -> Vec<String> {
        let text =
            |address: &Message| local(address).map(|local| format!("{local}/{}", address.byte(1)));
        self.addresses.iter().filter_map(text).collect()
    }
}

/// Other names in the description of a link.
#[must_use]
pub fn alt_names(link: &Message) -> Vec<String> {
    let list = link.get(attribute::IFLA_PROP_LIST).map(Attribute::inner).unwrap_or_default();
    let names = list.iter().filter(|property| property.kind() == attribute::IFLA_ALT_IFNAME);
    names.filter_map(|name| name.as_text().map(str::to_owned)).collect()
}

// === addresses ===

/// Leaves of an address what the kernel takes as a wish.
fn clean_address(address: &mut Message) {
    address.kind = kind::NEWADDR;
    let flags = address.number(attribute::IFA_FLAGS).unwrap_or_else(|| address.byte(2).into());
    let flags = flags & ADDRESS_FLAGS;
    let [low, ..] = flags.to_le_bytes();
    address.set_byte(2, low);
    address.set_number(attribute::IFA_FLAGS, flags);
}

/// Seconds for which an address is preferred and valid (`struct ifa_cacheinfo`); `None`: for ever.
fn lifetimes(address: &Message) -> Option<(u32, u32)> {
    let info = &address.get(attribute::IFA_CACHEINFO)?.value;
    let word = |at: usize| Some(u32::from_ne_bytes(info.get(at..at + 4)?.try_into().ok()?));
    Some((word(0)?, word(4)?)).filter(|(_, valid)| *valid != FOREVER)
}

/// Counts `age` seconds down from the lifetimes; false if nothing is left.
fn age_address(address: &mut Message, age: u32) -> bool {
    let Some((preferred, valid)) = lifetimes(address) else { return true };
    let preferred = if preferred == FOREVER { FOREVER } else { preferred.saturating_sub(age) };
    let valid = valid.saturating_sub(age);
    let info = [preferred, valid, 0, 0].map(u32::to_ne_bytes).concat();
    address.remove(&[attribute::IFA_CACHEINFO]);
    address.attributes.push(Attribute::new(attribute::IFA_CACHEINFO, info));
    valid > 0
}

/// The address itself: of a point-to-point link, the near end.
fn local(address: &Message) -> Option<IpAddr> {
    let local = address.get(attribute::IFA_LOCAL).or_else(|| address.get(attribute::IFA_ADDRESS));
    ip(&local?.value)
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| Ipv4Addr::from(bytes).into());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).into())).ok()
}

// === nexthops ===

/// Objects on the interface, then groups that have one of them.
fn nexthops(mut all: Vec<Message>, index: u32) -> Vec<Message> {
    all.iter_mut().for_each(clean_nexthop);
    let (mut ours, rest): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|it| it.number(attribute::NHA_OIF) == Some(index));
    let numbers: BTreeSet<_> =
        ours.iter().filter_map(|nexthop| nexthop.number(attribute::NHA_ID)).collect();
    let has_one = |nexthop: &Message| {
        let group = nexthop.get(attribute::NHA_GROUP);
        group.is_some_and(|group| members(group).any(|member| numbers.contains(&member)))
    };
    ours.extend(rest.into_iter().filter(has_one));
    ours
}

/// Numbers of the nexthops in a group (`struct nexthop_grp`).
fn members(group: &Attribute) -> impl Iterator<Item = u32> {
    group
        .value
        .as_chunks::<8>()
        .0
        .iter()
        .map(|[a, b, c, d, ..]| u32::from_ne_bytes([*a, *b, *c, *d]))
}

fn clean_nexthop(nexthop: &mut Message) {
    nexthop.kind = kind::NEWNEXTHOP;
    nexthop.set_word(4, nexthop.word(4) & u32::from(ONLINK));
    // The scope follows from the gateway; the kernel wants to find it itself.
    nexthop.set_byte(1, 0);
    let wishes = [
        attribute::NHA_ID,
        attribute::NHA_GROUP,
        attribute::NHA_GROUP_TYPE,
        attribute::NHA_OIF,
        attribute::NHA_GATEWAY,
        attribute::NHA_ENCAP_TYPE,
        attribute::NHA_ENCAP,
        attribute::NHA_RES_GROUP,
    ];
    nexthop.attributes.retain(|attribute| wishes.contains(&attribute.kind()));
    for group in &mut nexthop.attributes {
        if group.kind() == attribute::NHA_RES_GROUP {
            let mut inner = group.inner();
            inner.retain(|it| it.kind() != attribute::NHA_RES_GROUP_UNBALANCED_TIME);
            group.value = emit_all(&inner);
        }
    }
}

// === routes ===

fn routes(
    all: Vec<Message>,
    index: u32,
    addresses: &[Message],
    nexthops: &[Message],
) -> Vec<Message> {
    let addresses: BTreeSet<_> = addresses.iter().filter_map(local).collect();
    let nexthops: BTreeSet<_> =
        nexthops.iter().filter_map(|nexthop| nexthop.number(attribute::NHA_ID)).collect();
    let is_ours = |route: &Message| {
        leaves_by(route, index)
            || route.number(attribute::RTA_NH_ID).is_some_and(|id| nexthops.contains(&id))
            || preferred(route).is_some_and(|source| addresses.contains(&source))
    };
    let mut ours: Vec<_> =
        all.into_iter().filter(|route| !is_the_kernels(route) && is_ours(route)).collect();
    let of_daemons = ours.iter().filter(|route| is_of_a_daemon(route)).count();
    if of_daemons > DAEMON_ROUTES {
        ours.retain(|route| !is_of_a_daemon(route));
    }
    ours.iter_mut().for_each(clean_route);
    // A gateway has to be reachable when a route names it.
    ours.sort_by_key(has_gateway);
    ours
}

/// Whether a route comes back by itself: from addresses and links, or as a clone of another one.
fn is_the_kernels(route: &Message) -> bool {
    const CLONED: u32 = 0x200;
    // A prefix that a router announced stays: only the next advertisement would bring it back.
    let announced = route.family() == INET6 && route.byte(7) == UNICAST && expiry(route).is_some();
    route.word(8) & CLONED != 0 || PROTOCOLS_OF_THE_KERNEL.contains(&route.byte(5)) && !announced
}

/// `rtm_protocol` of routing daemons in `linux/rtnetlink.h`: all that are not an operator, a DHCP client, or the kernel.
fn is_of_a_daemon(route: &Message) -> bool {
    const DHCP: u8 = 16;
    const KEEPALIVED: u8 = 18;
    let protocol = route.byte(5);
    (8..=255).contains(&protocol) && ![9, DHCP, KEEPALIVED].contains(&protocol)
}

/// Whether a route, or a leg of it, leaves by the interface.
#[must_use]
pub fn leaves_by(route: &Message, index: u32) -> bool {
    route.number(attribute::RTA_OIF) == Some(index)
        || legs_of(route).iter().any(|leg| leg.index == index)
}

/// The legs of a multipath route.
fn legs_of(route: &Message) -> Vec<Leg> {
    route.get(attribute::RTA_MULTIPATH).map(|it| legs(&it.value)).unwrap_or_default()
}

/// A multipath route without its legs by the interface; `None` if it has no other.
#[must_use]
pub fn without_legs_by(route: &Message, index: u32) -> Option<Message> {
    let mut rest = legs_of(route);
    rest.retain(|leg| leg.index != index);
    if rest.is_empty() {
        return None;
    }
    let mut route = route.clone();
    set_legs(&mut route, &rest);
    Some(route)
}

fn set_legs(route: &mut Message, legs: &[Leg]) {
    let attribute = Attribute::new(attribute::RTA_MULTIPATH, emit_legs(legs));
    for it in &mut route.attributes {
        if it.kind() == attribute::RTA_MULTIPATH {
            *it = attribute.clone();
        }
    }
}

fn preferred(route: &Message) -> Option<IpAddr> {
    ip(&route.get(attribute::RTA_PREFSRC)?.value)
}

fn has_gateway(route: &Message) -> bool {
    let names = [attribute::RTA_GATEWAY, attribute::RTA_VIA, attribute::RTA_MULTIPATH];
    route.attributes.iter().any(|attribute| names.contains(&attribute.kind()))
}

/// Seconds a route has left (`rta_expires` in `struct rta_cacheinfo`, or what replaced it here).
fn expiry(route: &Message) -> Option<u32> {
    if let Some(seconds) = route.number(attribute::RTA_EXPIRES) {
        return Some(seconds);
    }
    let info = &route.get(attribute::RTA_CACHEINFO)?.value;
    let ticks = i32::from_ne_bytes(info.get(8..12)?.try_into().ok()?);
    // Zero means never; what has just run out counts down below zero.
    (ticks != 0).then(|| u32::try_from(ticks).map_or(0, |ticks| (ticks / TICKS).max(1)))
}

fn clean_route(route: &mut Message) {
    route.kind = kind::NEWROUTE;
    route.set_word(8, route.word(8) & u32::from(ONLINK));
    let expires = expiry(route);
    route.remove(&[attribute::RTA_CACHEINFO, attribute::RTA_IIF]);
    if let Some(seconds) = expires {
        route.set_number(attribute::RTA_EXPIRES, seconds);
    }
    if route.number(attribute::RTA_NH_ID).is_some() {
        // The kernel spells the object out, and refuses to be told both.
        route.remove(&[
            attribute::RTA_OIF,
            attribute::RTA_GATEWAY,
            attribute::RTA_VIA,
            attribute::RTA_MULTIPATH,
            attribute::RTA_FLOW,
            attribute::RTA_ENCAP,
            attribute::RTA_ENCAP_TYPE,
        ]);
        route.set_word(8, 0);
    }
    let clean = legs_of(route);
    if !clean.is_empty() {
        set_legs(route, &clean);
    }
}

fn move_route(route: &mut Message, from: u32, to: u32) {
    if route.number(attribute::RTA_OIF) == Some(from) {
        route.set_number(attribute::RTA_OIF, to);
    }
    let mut legs = legs_of(route);
    if legs.iter().any(|leg| leg.index == from) {
        for leg in legs.iter_mut().filter(|leg| leg.index == from) {
            leg.index = to;
        }
        set_legs(route, &legs);
    }
}

/// Counts `age` seconds down from a route's lifetime; false if nothing is left.
fn age_route(route: &mut Message, age: u32) -> bool {
    let Some(seconds) = route.number(attribute::RTA_EXPIRES) else { return true };
    let left = seconds.saturating_sub(age);
    route.set_number(attribute::RTA_EXPIRES, left);
    left > 0
}

// === neighbours ===

fn is_kept_neighbour(neighbour: &Message, index: u32) -> bool {
    const MULTICAST_V6: u8 = 0xff;
    // `struct ndmsg`: the state is 16 bits at 8, the flags the byte at 10.
    let [state, _, flags, _] = neighbour.word(8).to_ne_bytes();
    let group = |address: &Attribute| match address.value.as_slice() {
        [first, _, _, _] => (224..240).contains(first),
        bytes => bytes.first() == Some(&MULTICAST_V6),
    };
    neighbour.word(4) == index
        && (u32::from(state) & NUD_PERMANENT != 0 || flags & NTF_KEPT != 0)
        && !neighbour.get(attribute::NDA_DST).is_some_and(group)
}

#[cfg(test)]
pub mod tests;
