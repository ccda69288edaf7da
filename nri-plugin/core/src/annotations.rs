//! From a pod's annotations to what one container asks for.
//!
//! Annotations are written by whoever may create pods: every list is bounded, every value checked, and no value
//! reaches a path or a command line unchecked.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use crate::cpuset::NodeId;
use crate::hugepages::{HugepageLimit, PageSize, parse_bytes};
use crate::net::{AnyPrefix, Mac};
use crate::paths::is_interface_name;

/// `network.ringway.dev`: a network, or `a,b` for one interface each.
pub const NETWORK: &str = "network.ringway.dev";
/// `interfaces.ringway.dev`: the full form, a list of [`RawInterface`].
pub const INTERFACES: &str = "interfaces.ringway.dev";
/// `cpus.ringway.dev`: a number of exclusive CPUs, or `shared`.
pub const CPUS: &str = "cpus.ringway.dev";
/// `numa.ringway.dev`: `strict`, `preferred`, `off`, or a node's number.
pub const NUMA: &str = "numa.ringway.dev";
/// `hugepages-2mi.ringway.dev`: limit of 2 MiB pages.
pub const HUGEPAGES_2MI: &str = "hugepages-2mi.ringway.dev";
/// `hugepages-1gi.ringway.dev`: limit of 1 GiB pages.
pub const HUGEPAGES_1GI: &str = "hugepages-1gi.ringway.dev";
/// `mode.ringway.dev`: `dpdk` or `kernel`, how the vRouter of the node has to move packets. For placement.
pub const MODE: &str = "mode.ringway.dev";
/// All of them.
pub const ALL: [&str; 7] = [NETWORK, INTERFACES, CPUS, NUMA, HUGEPAGES_2MI, HUGEPAGES_1GI, MODE];
/// `placement.ringway.dev`: the NUMA node that the pod was promised, as `numa=1`. Written by Ringway's scheduler extender.
pub const PLACEMENT: &str = "placement.ringway.dev";

/// What all our keys end with.
const DOMAIN: &str = ".ringway.dev";

/// Interfaces of one container at most. DPDK's own limit is 32 ports (`RTE_MAX_ETHPORTS`); a pod with more than this
/// is a mistake.
pub const MAX_INTERFACES: usize = 16;
/// Queue pairs of one interface at most; the vRouter's control API says so too.
pub const MAX_QUEUES: u32 = 16;
/// Exclusive CPUs of one container at most: a DPDK process has 128 lcores (`RTE_MAX_LCORE`), and the main one is not
/// pinned.
pub const MAX_CPUS: u32 = 127;
/// Routes of one interface at most.
const MAX_ROUTES: usize = 16;
/// Longest value that is looked at, bytes.
const MAX_VALUE: usize = 8192;
/// Smallest MTU of IPv4 (RFC 791); the greatest is the network's.
const MIN_MTU: u32 = 68;

/// Whom a value was written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// `<key>` or `<key>/pod`: every container of the pod.
    Pod,
    /// `<key>/container.<name>`: this container.
    Container,
}

/// The value that counts for a container, and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective<'a> {
    /// The key as written, with its suffix.
    pub key: &'a str,
    /// The value as written.
    pub value: &'a str,
    /// Whom it was written for.
    pub scope: Scope,
}

/// One element of [`INTERFACES`] as written; the binary makes it from JSON. Every field is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawInterface {
    /// Lower case letters, digits, `-`, `_`; at most 15. Default: `net0` and so on.
    pub name: Option<String>,
    /// Network. Default: from [`NETWORK`].
    pub network: Option<String>,
    /// Addresses, at most one of each family. Default: the lowest free IPv4 one, and the IPv6 one that corresponds.
    pub ip: Vec<String>,
    /// Ethernet address. Default: made from network and address.
    pub mac: Option<String>,
    /// Queue pairs, 1 to 16. Default: 1.
    pub queues: Option<u64>,
    /// Bytes. Default: the network's.
    pub mtu: Option<u64>,
    /// Who listens: `vrouter` or `pod`. Default: as configured on the node.
    pub socket: Option<String>,
    /// `vhost-user` or `kernel`.
    pub kind: Option<String>,
    /// With the kind `kernel`: prefixes that are reached through the network's gateway. Default: none but the network's.
    pub routes: Vec<String>,
}

/// What a container asks for; every value is checked, nothing is looked up yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Whether the interfaces are the pod's or this container's own.
    pub scope: Scope,
    /// One or more.
    pub interfaces: Vec<InterfaceRequest>,
    /// CPUs.
    pub cpus: CpusRequest,
    /// NUMA node.
    pub numa: NumaPolicy,
    /// Hugepage limits asked for by annotation, by ascending size.
    pub hugepages: Vec<HugepageLimit>,
    /// The NUMA node to try first: the one that placement has promised.
    pub promised: Option<NodeId>,
}

/// One interface asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceRequest {
    /// Unique within the container.
    pub name: String,
    /// Network; whether it exists is not known here.
    pub network: String,
    /// The address the pod wants.
    pub ip: Option<Ipv4Addr>,
    /// The IPv6 address the pod wants.
    pub ipv6: Option<Ipv6Addr>,
    /// The Ethernet address the pod wants; unicast.
    pub mac: Option<Mac>,
    /// Queue pairs, 1 to [`MAX_QUEUES`].
    pub queues: u32,
    /// The MTU the pod wants.
    pub mtu: Option<u32>,
    /// Who listens; `None` is as configured on the node.
    pub socket: Option<SocketOwner>,
    /// Addresses that somebody else has chosen and keeps for it. No annotation says so.
    pub leased: Option<Leased>,
    /// It is an interface of the kernel's in the pod's network namespace.
    pub link: Option<Link>,
}

/// What only an interface of the kernel's has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Path of the pod's network namespace. No annotation says so: empty until the pod's runtime has.
    pub netns: String,
    /// What is reached through the network's gateway, beside the network.
    pub routes: Vec<AnyPrefix>,
}

/// Addresses that an address plugin gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leased {
    /// What they are given back by.
    pub id: String,
    /// Its IPv4 address.
    pub ip: Ipv4Addr,
    /// Its IPv6 address, if the plugin gave one.
    pub ipv6: Option<Ipv6Addr>,
}

/// Who creates a vhost-user socket and listens on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketOwner {
    /// The vRouter.
    Vrouter,
    /// The pod; the vRouter connects and keeps trying.
    Pod,
}

/// CPUs asked for by annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpusRequest {
    /// Nothing said: by the container's own request.
    Default,
    /// CPUs that other pods use too.
    Shared,
    /// That many CPUs that nobody else is given.
    Exclusive(NonZeroU32),
}

/// How a vRouter moves packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VrouterMode {
    /// By DPDK.
    Dpdk,
    /// By the kernel.
    Kernel,
}

/// NUMA node asked for by annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumaPolicy {
    /// CPUs, memory and hugepages on the vRouter's node (on one node where the vRouter spans all), or not at all.
    Strict,
    /// The vRouter's node, else one other node, else several.
    Preferred,
    /// Any CPU and any memory.
    Off,
    /// This node, or not at all.
    Node(NodeId),
}

/// An annotation that cannot be used. Names key, value and remedy in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    /// A key of ours that does not exist.
    #[error("unknown annotation {key}; known are {}, each also with /pod or /container.NAME", ALL.join(", "))]
    UnknownKey {
        /// As written.
        key: String,
    },
    /// A value that is not allowed.
    #[error("annotation {key}: {value:?} {remedy}")]
    BadValue {
        /// As written, with its suffix.
        key: String,
        /// The part of the value that is wrong.
        value: String,
        /// What is allowed.
        remedy: String,
    },
}

/// The value of `key` that counts for `container`.
#[must_use]
pub fn effective<'a>(
    annotations: &'a BTreeMap<String, String>,
    key: &str,
    container: &str,
) -> Option<Effective<'a>> {
    [
        (format!("{key}/container.{container}"), Scope::Container),
        (format!("{key}/pod"), Scope::Pod),
        (key.to_owned(), Scope::Pod),
    ]
    .into_iter()
    .find_map(|(key, scope)| {
        let (key, value) = annotations.get_key_value(&key)?;
        Some(Effective { key, value, scope })
    })
}

/// Whether the pod's annotations ask for a network for `container`: without it, nothing of ours concerns it.
#[must_use]
pub fn is_opted_in(annotations: &BTreeMap<String, String>, container: &str) -> bool {
    [NETWORK, INTERFACES].iter().any(|key| effective(annotations, key, container).is_some())
}

/// What `container` asks for, or `None` when the pod has not opted in for it.
///
/// `decode` makes [`RawInterface`]s from the JSON text of [`INTERFACES`]; its error is one line saying what is wrong.
///
/// # Errors
/// [`AnnotationError`] for the first annotation that cannot be used.
pub fn parse(
    annotations: &BTreeMap<String, String>,
    container: &str,
    decode: impl Fn(&str) -> Result<Vec<RawInterface>, String>,
) -> Result<Option<Request>, AnnotationError> {
    if !is_opted_in(annotations, container) {
        return Ok(None);
    }
    annotations.keys().try_for_each(|key| check_key(key))?;
    vrouter_mode(annotations, container)?;
    let find = |key| match effective(annotations, key, container) {
        Some(found) if found.value.len() > MAX_VALUE => {
            Err(found.bad(found.value, format!("is longer than {MAX_VALUE} bytes")))
        }
        found => Ok(found),
    };
    let network = find(NETWORK)?;
    let networks = network.as_ref().map(parse_networks).transpose()?.unwrap_or_default();
    // What was written for this container outweighs what was written for the pod, whichever key it uses.
    let full = find(INTERFACES)?
        .filter(|full| network.as_ref().is_none_or(|network| network.scope <= full.scope));
    let (scope, interfaces) = match (&full, &network) {
        (Some(full), _) => (full.scope, parse_interfaces(full, &networks, decode)?),
        (None, Some(network)) => {
            let plain = networks
                .iter()
                .enumerate()
                .map(|(index, name)| InterfaceRequest::plain(index, name));
            (network.scope, plain.collect())
        }
        (None, None) => return Ok(None),
    };
    let mut hugepages = Vec::new();
    for (key, size) in [(HUGEPAGES_2MI, PageSize::MIB_2), (HUGEPAGES_1GI, PageSize::GIB_1)] {
        if let Some(found) = find(key)? {
            hugepages.push(parse_hugepages(&found, size)?);
        }
    }
    Ok(Some(Request {
        scope,
        interfaces,
        cpus: find(CPUS)?.as_ref().map_or(Ok(CpusRequest::Default), parse_cpus)?,
        numa: find(NUMA)?.as_ref().map_or(Ok(NumaPolicy::Preferred), parse_numa)?,
        hugepages,
        promised: promised_node(annotations),
    }))
}

/// The mode that the vRouter of `container`'s node has to run in, if it matters.
///
/// # Errors
/// [`AnnotationError`] for any other word.
pub fn vrouter_mode(
    annotations: &BTreeMap<String, String>,
    container: &str,
) -> Result<Option<VrouterMode>, AnnotationError> {
    let Some(found) = effective(annotations, MODE, container) else { return Ok(None) };
    match found.value {
        "dpdk" => Ok(Some(VrouterMode::Dpdk)),
        "kernel" => Ok(Some(VrouterMode::Kernel)),
        other => Err(found.bad(other, "must be dpdk or kernel")),
    }
}

/// The NUMA node that placement has promised. It is a hint: one that says nothing is as good as none.
fn promised_node(annotations: &BTreeMap<String, String>) -> Option<NodeId> {
    let number = annotations.get(PLACEMENT)?.strip_prefix("numa=")?;
    number.parse().ok().map(NodeId)
}

/// What [`PLACEMENT`] says for that NUMA node.
#[must_use]
pub fn placement(node: NodeId) -> String {
    format!("numa={}", node.0)
}

impl Effective<'_> {
    fn bad(&self, value: &str, remedy: impl Into<String>) -> AnnotationError {
        bad(self.key, value, remedy)
    }
}

impl InterfaceRequest {
    fn plain(index: usize, network: &str) -> Self {
        Self {
            name: format!("net{index}"),
            network: network.to_owned(),
            ip: None,
            ipv6: None,
            mac: None,
            queues: 1,
            mtu: None,
            socket: None,
            leased: None,
            link: None,
        }
    }
}

fn bad(key: &str, value: &str, remedy: impl Into<String>) -> AnnotationError {
    // A hostile value shall not fill the event log.
    let value = value.chars().take(64).collect();
    AnnotationError::BadValue { key: key.to_owned(), value, remedy: remedy.into() }
}

/// A misspelt key would silently do nothing.
fn check_key(key: &str) -> Result<(), AnnotationError> {
    let (name, target) = key.split_once('/').unwrap_or((key, "pod"));
    if !name.ends_with(DOMAIN) || key == PLACEMENT {
        return Ok(());
    }
    let known_target =
        target == "pod" || target.strip_prefix("container.").is_some_and(|name| !name.is_empty());
    if ALL.contains(&name) && known_target {
        return Ok(());
    }
    Err(AnnotationError::UnknownKey { key: key.chars().take(128).collect() })
}

fn parse_networks(found: &Effective<'_>) -> Result<Vec<String>, AnnotationError> {
    let names: Vec<String> = found.value.split(',').map(|name| name.trim().to_owned()).collect();
    if let Some(wrong) = names.iter().find(|name| !is_network_name(name)) {
        return Err(found.bad(wrong, NETWORK_NAME));
    }
    if names.len() > MAX_INTERFACES {
        return Err(
            found.bad(found.value, format!("asks for more than {MAX_INTERFACES} interfaces"))
        );
    }
    Ok(names)
}

const NETWORK_NAME: &str = "is no network name: write 1 to 63 lower case letters, digits and `-`, several networks as \"a,b\"";

fn is_network_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let edge = name.starts_with('-') || name.ends_with('-');
    !name.is_empty() && name.len() <= 63 && name.chars().all(plain) && !edge
}

fn parse_interfaces(
    found: &Effective<'_>,
    networks: &[String],
    decode: impl Fn(&str) -> Result<Vec<RawInterface>, String>,
) -> Result<Vec<InterfaceRequest>, AnnotationError> {
    let raw = decode(found.value).map_err(|why| {
        found.bad(
            found.value,
            format!("cannot be read ({why}); write it as [{{\"network\":\"red\"}}]"),
        )
    })?;
    if raw.is_empty() || raw.len() > MAX_INTERFACES {
        return Err(found.bad(found.value, format!("must list 1 to {MAX_INTERFACES} interfaces")));
    }
    if networks.len() > 1 && networks.len() != raw.len() {
        let remedy = format!(
            "lists {} interfaces but {NETWORK} names {} networks: name one, or as many",
            raw.len(),
            networks.len()
        );
        return Err(found.bad(found.value, remedy));
    }
    let mut names = BTreeSet::new();
    let mut interfaces = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let default = if networks.len() == 1 { networks.first() } else { networks.get(index) };
        let interface = parse_interface(found.key, index, raw, default)?;
        if !names.insert(interface.name.clone()) {
            let key = format!("{}[{index}].name", found.key);
            return Err(bad(
                &key,
                &interface.name,
                "is the name of another interface: use each once",
            ));
        }
        interfaces.push(interface);
    }
    Ok(interfaces)
}

fn parse_interface(
    key: &str,
    index: usize,
    raw: RawInterface,
    default_network: Option<&String>,
) -> Result<InterfaceRequest, AnnotationError> {
    let wrong = |field: &str, value: &str, remedy: &str| {
        bad(&format!("{key}[{index}].{field}"), value, remedy)
    };
    let name = raw.name.unwrap_or_else(|| format!("net{index}"));
    if !is_interface_name(&name) {
        let remedy = "must be 1 to 15 lower case letters, digits, `-` and `_`, a letter first";
        return Err(wrong("name", &name, remedy));
    }
    let Some(network) = raw.network.or_else(|| default_network.cloned()) else {
        return Err(wrong("network", "", &format!("is missing: add it here or set {NETWORK}")));
    };
    if !is_network_name(&network) {
        return Err(wrong("network", &network, NETWORK_NAME));
    }
    let is_kernel = match raw.kind.as_deref() {
        None | Some("vhost-user") => false,
        Some("kernel") => true,
        Some(kind) => {
            return Err(wrong("kind", kind, "must be vhost-user, kernel, or be left out"));
        }
    };
    let no_kernel = "must be left out: an interface of the kind kernel has one queue and no socket";
    if let (true, Some(owner)) = (is_kernel, raw.socket.as_deref()) {
        return Err(wrong("socket", owner, no_kernel));
    }
    if let (true, Some(queues @ (0 | 2..))) = (is_kernel, raw.queues) {
        return Err(wrong("queues", &queues.to_string(), no_kernel));
    }
    let link = match (is_kernel, raw.routes.first()) {
        (true, _) => {
            let routes =
                parse_routes(&raw.routes).map_err(|(text, why)| wrong("routes", &text, why))?;
            Some(Link { netns: String::new(), routes })
        }
        (false, Some(route)) => {
            let remedy = "must be left out: only an interface of the kind kernel has routes";
            return Err(wrong("routes", route, remedy));
        }
        (false, None) => None,
    };
    let socket = match raw.socket.as_deref() {
        None => None,
        Some("vrouter") => Some(SocketOwner::Vrouter),
        Some("pod") => Some(SocketOwner::Pod),
        Some(owner) => return Err(wrong("socket", owner, "must be vrouter or pod")),
    };
    let (mut ip, mut ipv6) = (None, None);
    for text in raw.ip {
        let another = match text.parse() {
            Ok(IpAddr::V4(address)) => ip.replace(address).is_some(),
            Ok(IpAddr::V6(address)) => ipv6.replace(address).is_some(),
            Err(_) => {
                let remedy =
                    "must be an address as \"10.66.0.5\" or \"fd00:66::5\", without prefix length";
                return Err(wrong("ip", &text, remedy));
            }
        };
        if another {
            let remedy = "is the second of its family: write at most one of each, as [\"10.66.0.5\",\"fd00:66::5\"]";
            return Err(wrong("ip", &text, remedy));
        }
    }
    let mac = match raw.mac {
        None => None,
        Some(text) => {
            Some(text.parse().ok().filter(|mac: &Mac| mac.is_unicast()).ok_or_else(|| {
                wrong("mac", &text, "must be a unicast MAC address as \"02:00:0a:42:00:05\"")
            })?)
        }
    };
    let number = |field: &str, value: u64, least: u32, most: u32| {
        u32::try_from(value)
            .ok()
            .filter(|value| (least..=most).contains(value))
            .ok_or_else(|| wrong(field, &value.to_string(), &format!("must be {least} to {most}")))
    };
    Ok(InterfaceRequest {
        name,
        network,
        ip,
        ipv6,
        mac,
        queues: number("queues", raw.queues.unwrap_or(1), 1, MAX_QUEUES)?,
        mtu: raw.mtu.map(|mtu| number("mtu", mtu, MIN_MTU, 65_535)).transpose()?,
        socket,
        leased: None,
        link,
    })
}

fn parse_routes(texts: &[String]) -> Result<Vec<AnyPrefix>, (String, &'static str)> {
    if let Some(text) = texts.get(MAX_ROUTES) {
        return Err((text.clone(), "is one too many: write at most 16"));
    }
    let route = |text: &String| {
        let prefix = text.parse().map(AnyPrefix::V4);
        prefix
            .or_else(|_| text.parse().map(AnyPrefix::V6))
            .map_err(|_| (text.clone(), "must be a prefix as \"0.0.0.0/0\" or \"fd00::/16\""))
    };
    texts.iter().map(route).collect()
}

/// `None` unless it is all digits: `u32::from_str` would take a sign.
fn plain_number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn parse_cpus(found: &Effective<'_>) -> Result<CpusRequest, AnnotationError> {
    let value = found.value.trim();
    if value == "shared" {
        return Ok(CpusRequest::Shared);
    }
    plain_number(value)
        .and_then(NonZeroU32::new)
        .filter(|count| count.get() <= MAX_CPUS)
        .map(CpusRequest::Exclusive)
        .ok_or_else(|| {
            found.bad(value, format!("must be a number of CPUs, 1 to {MAX_CPUS}, or shared"))
        })
}

fn parse_numa(found: &Effective<'_>) -> Result<NumaPolicy, AnnotationError> {
    match found.value.trim() {
        "strict" => Ok(NumaPolicy::Strict),
        "preferred" => Ok(NumaPolicy::Preferred),
        "off" => Ok(NumaPolicy::Off),
        value => plain_number(value).map(|node| NumaPolicy::Node(NodeId(node))).ok_or_else(|| {
            found.bad(value, "must be strict, preferred, off, or the number of a NUMA node")
        }),
    }
}

fn parse_hugepages(
    found: &Effective<'_>,
    size: PageSize,
) -> Result<HugepageLimit, AnnotationError> {
    let value = found.value.trim();
    let limit = parse_bytes(value).ok_or_else(|| {
        found.bad(value, "must be a number of bytes, or one with Ki, Mi or Gi, as \"512Mi\"")
    })?;
    if !limit.is_multiple_of(size.bytes()) {
        return Err(found.bad(value, format!("must be a multiple of the page size, {size}")));
    }
    Ok(HugepageLimit { size, limit })
}

#[cfg(test)]
mod tests;
