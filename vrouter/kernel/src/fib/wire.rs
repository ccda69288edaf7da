//! rtnetlink messages, read as far as forwarding depends on them, and the requests for dumps.
//!
//! They are read here and not by netlink-packet-route: it has no nexthop objects (0.34), and it makes a list of all
//! attributes of each of a million routes of which six are asked for.

use super::event::{
    Encap, Event, Hop, How, Kind, Link, LinkKind, Object, Path, Remote, Route, Rule, Via,
};
use super::{Mac, Prefix};
use netlink_packet_core::{DecodeError, NlaBuffer, NlasIterator};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

// linux/rtnetlink.h
pub(super) const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
pub(super) const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
pub(super) const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
pub(super) const NEWNEIGH: u16 = 28;
const DELNEIGH: u16 = 29;
pub(super) const NEWRULE: u16 = 32;
const DELRULE: u16 = 33;
pub(super) const NEWNEXTHOP: u16 = 104;
const DELNEXTHOP: u16 = 105;

// linux/netlink.h
const NLM_F_REQUEST: u16 = 1;
pub(super) const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_APPEND: u16 = 0x800;
const HEADER: usize = 16;

// sys/socket.h
pub(super) const AF_UNSPEC: u8 = 0;
pub(super) const AF_INET: u8 = 2;
pub(super) const AF_BRIDGE: u8 = 7;
pub(super) const AF_INET6: u8 = 10;

/// The header of a message.
pub(super) struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// Whom it answers.
    pub port: u32,
    pub body: &'a [u8],
}

impl Message<'_> {
    /// What went wrong, in the message that ends a dump.
    pub fn error(&self) -> Option<io::Error> {
        let number = u32_at(self.body, 0)?.cast_signed();
        (number < 0).then(|| io::Error::from_raw_os_error(number.saturating_neg()))
    }
}

/// Takes the first message off a datagram. `None`: no whole one is left.
pub(super) fn next_message<'a>(datagram: &mut &'a [u8]) -> Option<Message<'a>> {
    let length = usize::try_from(u32_at(datagram, 0)?).ok()?;
    let body = datagram.get(HEADER..length)?;
    let message = Message {
        kind: u16_at(datagram, 4)?,
        flags: u16_at(datagram, 6)?,
        sequence: u32_at(datagram, 8)?,
        port: u32_at(datagram, 12)?,
        body,
    };
    *datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some(message)
}

/// A request to dump all objects of a kind (`NEW...`) and family.
pub(super) fn dump_request(kind: u16, family: u8, sequence: u32) -> Vec<u8> {
    // The header that each kind of object starts with; nothing in it but the family says: all.
    let body = match kind {
        NEWLINK => 16,
        NEWADDR | NEWNEXTHOP => 8,
        _ => 12,
    };
    let length = HEADER + body;
    let mut request = Vec::with_capacity(length);
    request.extend_from_slice(&u32::try_from(length).unwrap_or(0).to_ne_bytes());
    request.extend_from_slice(&(kind + 2).to_ne_bytes());
    request.extend_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    request.extend_from_slice(&sequence.to_ne_bytes());
    request.extend_from_slice(&[0; 4]);
    request.push(family);
    request.resize(length, 0);
    request
}

/// What a message says; `None`: nothing that forwarding depends on.
///
/// # Errors
/// It is cut short.
pub(super) fn event(message: &Message<'_>, dumped: bool) -> Result<Option<Event>, DecodeError> {
    let body = message.body;
    Ok(match message.kind {
        NEWLINK => link(body)?.map(Event::Link),
        DELLINK => link(body)?.map(|link| Event::LinkGone(link.index)),
        NEWADDR => address(body)?.map(|(link, address)| Event::Address { link, address }),
        DELADDR => address(body)?.map(|(link, address)| Event::AddressGone { link, address }),
        NEWROUTE => {
            let how = if dumped {
                How::Dumped
            } else if message.flags & NLM_F_REPLACE != 0 {
                How::Replaced
            } else if message.flags & NLM_F_APPEND != 0 {
                How::Appended
            } else {
                How::Added
            };
            route(body)?.map(|route| Event::Route(route, how))
        }
        DELROUTE => route(body)?.map(Event::RouteGone),
        NEWNEIGH => neighbour(body, false)?,
        DELNEIGH => neighbour(body, true)?,
        NEWRULE => rule(body)?.map(Event::Rule),
        DELRULE => rule(body)?.map(Event::RuleGone),
        NEWNEXTHOP => object(body)?.map(|(id, object)| Event::Object { id, object }),
        DELNEXTHOP => object(body)?.map(|(id, _)| Event::ObjectGone(id)),
        _ => None,
    })
}

// === objects ===

fn link(body: &[u8]) -> Result<Option<Link>, DecodeError> {
    const IFF_UP: u32 = 1;
    const IFF_RUNNING: u32 = 0x40;
    const IFF_LOWER_UP: u32 = 0x10000;
    // What a bridge says of a port of its own; the link has not gone when it left the bridge.
    if body.first() != Some(&AF_UNSPEC) {
        return Ok(None);
    }
    let (Some(index), Some(flags)) = (u32_at(body, 4), u32_at(body, 8)) else { return Ok(None) };
    let up = flags & IFF_UP != 0;
    let mut link = Link {
        index,
        name: String::new(),
        up,
        running: up && flags & (IFF_RUNNING | IFF_LOWER_UP) != 0,
        master: None,
        kind: LinkKind::Other,
    };
    for attribute in attributes(body, 16) {
        let attribute = attribute?;
        match attribute.kind() {
            3 => link.name = text(attribute.value()),
            10 => link.master = u32_at(attribute.value(), 0).filter(|master| *master != 0),
            18 => link.kind = link_kind(attribute.value())?,
            _ => {}
        }
    }
    Ok(Some(link))
}

fn link_kind(info: &[u8]) -> Result<LinkKind, DecodeError> {
    let (mut kind, mut data) = (String::new(), &[][..]);
    for attribute in NlasIterator::new(info) {
        let attribute = attribute?;
        match attribute.kind() {
            1 => kind = text(attribute.value()),
            2 => data = within(info, attribute),
            _ => {}
        }
    }
    Ok(match kind.as_str() {
        "bridge" => LinkKind::Bridge,
        "vrf" => {
            let table = find(data, 1)?.and_then(|value| u32_at(value, 0));
            table.map_or(LinkKind::Other, |table| LinkKind::Vrf { table })
        }
        "vxlan" => {
            let several = find(data, 25)?.is_some_and(|value| value.first() == Some(&1));
            let vni = find(data, 1)?.and_then(|value| u32_at(value, 0));
            let port = find(data, 15)?.and_then(be16).unwrap_or(0);
            // Either may be there, and all zeros where there is none.
            let local = find(data, 4)?.and_then(ip).filter(|local| !local.is_unspecified());
            let local6 = find(data, 17)?.and_then(ip).filter(|local| !local.is_unspecified());
            LinkKind::Vxlan { vni: vni.filter(|_| !several), port, local: local.or(local6) }
        }
        _ => LinkKind::Other,
    })
}

fn address(body: &[u8]) -> Result<Option<(u32, IpAddr)>, DecodeError> {
    let Some(link) = u32_at(body, 4) else { return Ok(None) };
    let (mut own, mut peer) = (None, None);
    for attribute in attributes(body, 8) {
        let attribute = attribute?;
        match attribute.kind() {
            1 => peer = ip(attribute.value()),
            2 => own = ip(attribute.value()),
            _ => {}
        }
    }
    Ok(own.or(peer).map(|address| (link, address)))
}

fn neighbour(body: &[u8], gone: bool) -> Result<Option<Event>, DecodeError> {
    /// PERMANENT, NOARP, REACHABLE, PROBE, STALE, DELAY
    const NUD_VALID: u16 = 0x80 | 0x40 | 0x02 | 0x10 | 0x04 | 0x08;
    const NTF_PROXY: u8 = 8;
    let (Some(&family), Some(link), Some(state), Some(flags)) =
        (body.first(), u32_at(body, 4), u16_at(body, 8), body.get(10))
    else {
        return Ok(None);
    };
    if flags & NTF_PROXY != 0 {
        return Ok(None);
    }
    let (mut to, mut mac, mut several) = (None, None, false);
    let (mut port, mut vni, mut of) = (None, None, None);
    for attribute in attributes(body, 12) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            1 => to = ip(value),
            2 => mac = <[u8; 6]>::try_from(value).ok().map(Mac),
            6 => port = be16(value),
            7 => vni = u32_at(value, 0),
            11 => of = u32_at(value, 0),
            13 => several = true,
            _ => {}
        }
    }
    if family == AF_BRIDGE {
        let (Some(mac), true) = (mac, to.is_some() || several) else { return Ok(None) };
        let remote = Remote { link, mac, of, address: to.filter(|_| !several), vni, port };
        return Ok(Some(if gone { Event::RemoteGone(remote) } else { Event::Remote(remote) }));
    }
    let Some(address) = to else { return Ok(None) };
    let mac = mac.filter(|_| !gone && state & NUD_VALID != 0);
    Ok(Some(Event::Neighbour { link, address, mac }))
}

fn object(body: &[u8]) -> Result<Option<(u32, Object)>, DecodeError> {
    let (mut id, mut link, mut gateway) = (None, None, None);
    let (mut encap_kind, mut encap) = (0, &[][..]);
    let (mut group, mut blackhole, mut other) = (None, false, false);
    for attribute in attributes(body, 8) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            1 => id = u32_at(value, 0),
            2 => group = Some(members(value)),
            4 => blackhole = true,
            5 => link = u32_at(value, 0),
            6 => gateway = ip(value),
            7 => encap_kind = u16_at(value, 0).unwrap_or(0),
            8 => encap = within(body, attribute),
            11 => other = true,
            _ => {}
        }
    }
    let object = match (group, link) {
        _ if other => Object::Other,
        _ if blackhole => Object::Blackhole,
        (Some(group), _) => Object::Group(group),
        (None, Some(link)) => {
            Object::Hop(Hop { link, gateway, encap: encapsulation(encap_kind, encap)? })
        }
        (None, None) => Object::Other,
    };
    Ok(id.map(|id| (id, object)))
}

/// `struct nexthop_grp`: number, weight less one in two parts.
fn members(value: &[u8]) -> Vec<(u32, u32)> {
    let members = value.chunks_exact(8);
    let members = members.filter_map(|member| {
        let weight = u32::from(*member.get(4)?) + (u32::from(*member.get(5)?) << 8) + 1;
        Some((u32_at(member, 0)?, weight))
    });
    members.collect()
}

fn rule(body: &[u8]) -> Result<Option<Rule>, DecodeError> {
    const TO_TABLE: u8 = 1;
    /// Attributes that neither narrow a rule nor matter here: priority, table, iif, suppress, protocol.
    const HARMLESS: [u16; 6] = [6, 15, 3, 13, 14, 21];
    let [family, 0, 0, 0, table, _, _, TO_TABLE, ..] = *body else { return Ok(None) };
    let (mut device, mut priority, mut table) = (None, 0, u32::from(table));
    for attribute in attributes(body, 12) {
        let attribute = attribute?;
        match attribute.kind() {
            3 => device = Some(text(attribute.value())),
            6 => priority = u32_at(attribute.value(), 0).unwrap_or(0),
            15 => table = u32_at(attribute.value(), 0).unwrap_or(table),
            // Suppressors are there with the value that says: none.
            kind if HARMLESS.contains(&kind) => {}
            _ => return Ok(None),
        }
    }
    Ok(device.map(|device| Rule { priority, v6: family == AF_INET6, device, table }))
}

// === routes ===

fn route(body: &[u8]) -> Result<Option<Route>, DecodeError> {
    const RTM_F_CLONED: u32 = 0x200;
    const HOST: u8 = 254;
    const ADVERTISED: u8 = 9;
    let [family, length, from_length, tos, table, protocol, scope, kind, ..] = *body else {
        return Ok(None);
    };
    let Some(flags) = u32_at(body, 8) else { return Ok(None) };
    // Those that announce pods lead nowhere; where the pods are, the vRouter knows.
    let announces = protocol == crate::announce::PROTOCOL;
    if flags & RTM_F_CLONED != 0 || !matches!(family, AF_INET | AF_INET6) || announces {
        return Ok(None);
    }
    let v6 = family == AF_INET6;
    let (mut to, mut from) = (None, None);
    let (mut table, mut metric) = (u32::from(table), 0);
    let (mut link, mut gateway, mut several, mut id) = (None, None, None, None);
    let (mut encap_kind, mut encap, mut source) = (0, &[][..], None);
    for attribute in attributes(body, 12) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            1 => to = ip(value),
            2 => from = ip(value),
            4 => link = u32_at(value, 0),
            5 => gateway = ip(value),
            6 => metric = u32_at(value, 0).unwrap_or(0),
            7 => source = ip(value),
            9 => several = Some(within(body, attribute)),
            15 => table = u32_at(value, 0).unwrap_or(table),
            18 => gateway = via(value),
            21 => encap_kind = u16_at(value, 0).unwrap_or(0),
            22 => encap = within(body, attribute),
            30 => id = u32_at(value, 0),
            _ => {}
        }
    }
    let all = Prefix::all(v6).address();
    let Some(prefix) = Prefix::new(to.unwrap_or(all), length) else { return Ok(None) };
    let from = match from_length {
        0 => None,
        _ => Prefix::new(from.unwrap_or(all), from_length),
    };
    let mut dead = Vec::new();
    let via = match (id, several, link) {
        (Some(id), ..) => Via::Object(id),
        (None, Some(several), _) => ways(several, v6, &mut dead)?,
        (None, None, Some(link)) => {
            if flags & RTNH_F_DEAD != 0 {
                dead.push(link);
            }
            Via::Hop(Hop { link, gateway, encap: encapsulation(encap_kind, encap)? })
        }
        (None, None, None) => Via::Nothing,
    };
    let kind = match kind {
        1 => Kind::Unicast,
        2 => Kind::Local,
        3 => Kind::Broadcast,
        4 => Kind::Anycast,
        5 => Kind::Multicast,
        // Said of the object it has now, which may become another.
        6 if id.is_some() => Kind::Unicast,
        6 => Kind::Blackhole,
        7 => Kind::Unreachable,
        8 => Kind::Prohibit,
        _ => Kind::Other,
    };
    // The kernel gives IPv6 routes that lead nowhere a loopback device.
    let nowhere = matches!(kind, Kind::Blackhole | Kind::Unreachable | Kind::Prohibit);
    let path = Path {
        v6,
        kind,
        on_host: scope == HOST,
        advertised: v6 && protocol == ADVERTISED,
        from,
        source,
        via: if nowhere { Via::Nothing } else { via },
    };
    Ok(Some(Route { table, prefix, tos, metric, path, dead }))
}

const RTNH_F_DEAD: u32 = 1;

/// `struct rtnexthop` and its attributes, one after the other.
fn ways(mut bytes: &[u8], v6: bool, dead: &mut Vec<u32>) -> Result<Via, DecodeError> {
    let mut ways = Vec::new();
    while let (Some(length), Some(&[flags, weight]), Some(link)) =
        (u16_at(bytes, 0), bytes.get(2..4).and_then(|two| two.first_chunk()), u32_at(bytes, 4))
    {
        let length = usize::from(length);
        let Some(attributes) = bytes.get(8..length) else { break };
        let (mut gateway, mut encap_kind, mut encap) = (None, 0, &[][..]);
        for attribute in NlasIterator::new(attributes) {
            let attribute = attribute?;
            match attribute.kind() {
                5 => gateway = ip(attribute.value()),
                18 => gateway = via(attribute.value()),
                21 => encap_kind = u16_at(attribute.value(), 0).unwrap_or(0),
                22 => encap = within(attributes, attribute),
                _ => {}
            }
        }
        if u32::from(flags) & RTNH_F_DEAD != 0 {
            dead.push(link);
        }
        let hop = Hop { link, gateway, encap: encapsulation(encap_kind, encap)? };
        ways.push((hop, u32::from(weight) + 1));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    if v6 {
        // The kernel starts with any of them.
        ways.sort_unstable();
    }
    Ok(match <[_; 1]>::try_from(ways) {
        Ok([(hop, _)]) => Via::Hop(hop),
        Err(ways) => Via::Hops(ways.into()),
    })
}

/// `struct rtvia`: a gateway of the other family.
fn via(value: &[u8]) -> Option<IpAddr> {
    let family = u16_at(value, 0)?;
    let known = [AF_INET, AF_INET6].map(u16::from).contains(&family);
    ip(value.get(2..)?).filter(|_| known)
}

fn encapsulation(kind: u16, attributes: &[u8]) -> Result<Encap, DecodeError> {
    const IP: u16 = 2;
    const IP6: u16 = 4;
    const OPTIONS: u16 = 8;
    if kind == 0 {
        return Ok(Encap::None);
    }
    let other = || Encap::Other(kind, attributes.into());
    if kind != IP && kind != IP6 {
        return Ok(other());
    }
    let (mut id, mut remote, mut local) = (0, None, None);
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            1 => id = value.first_chunk().map_or(0, |id| u64::from_be_bytes(*id)),
            2 => remote = ip(value),
            3 => local = ip(value).filter(|local| !local.is_unspecified()),
            OPTIONS if !value.is_empty() => return Ok(other()),
            _ => {}
        }
    }
    Ok(remote.map_or_else(other, |remote| Encap::Ip { id, remote, local }))
}

// === bytes ===

fn attributes(
    body: &[u8],
    header: usize,
) -> impl Iterator<Item = Result<NlaBuffer<&[u8]>, DecodeError>> {
    NlasIterator::new(body.get(header..).unwrap_or_default())
}

/// The value of the first attribute of a kind.
fn find(bytes: &[u8], kind: u16) -> Result<Option<&[u8]>, DecodeError> {
    for attribute in NlasIterator::new(bytes) {
        let attribute = attribute?;
        if attribute.kind() == kind {
            return Ok(Some(within(bytes, attribute)));
        }
    }
    Ok(None)
}

/// The value of an attribute of `_whole`, which lives as long as that.
fn within<'a>(_whole: &'a [u8], attribute: NlaBuffer<&'a [u8]>) -> &'a [u8] {
    let length = attribute.value_length();
    let bytes = attribute.into_inner();
    bytes.get(4..4 + length).unwrap_or_default()
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(value) {
        return Some(IpAddr::V4(Ipv4Addr::from(bytes)));
    }
    <[u8; 16]>::try_from(value).ok().map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes)))
}

fn text(value: &[u8]) -> String {
    let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value).into_owned()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn be16(value: &[u8]) -> Option<u16> {
    value.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}
