//! What is to be done, in which order, when an interface goes and when it comes back. Pure.
//!
//! Each step may be taken twice, and a plan may stop anywhere: [`restore`] leads back from every state in between.

use serde::{Deserialize, Serialize};

use super::names;
use super::snapshot::{Snapshot, without_legs_by};
use super::wire::Message;

/// An interface that is, or is about to be, away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// What it was before.
    pub before: Snapshot,
    /// Its name while it is away.
    pub away: String,
    /// Offloads that are switched off meanwhile, by the names of `ethtool -k`.
    pub offloads: Vec<String>,
}

impl Claim {
    /// The name that the TAP carries on.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.before.name
    }
}

/// Name of the nftables table that keeps the kernel off the interface.
#[must_use]
pub fn table(name: &str) -> String {
    format!("ringway-{name}")
}

/// One change of the kernel's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Changes a property of an interface.
    Link(u32, Link),
    /// Gives an interface another name.
    Rename(u32, String),
    /// Gives an interface one more name.
    AddAltName(u32, String),
    /// Takes one of its other names from an interface.
    DropAltName(u32, String),
    /// Writes a file below `/proc/sys/net`, if it says something else.
    Set {
        /// Name of the interface at this point.
        interface: String,
        /// As in [`Snapshot::settings`].
        key: String,
        /// What is to be written.
        value: String,
    },
    /// Adds an address, nexthop, route or neighbour beside others of its kind.
    Add(Message),
    /// Adds a route, in place of one with the same destination and metric.
    Replace(Message),
    /// Takes an address, nexthop, route or neighbour away.
    Delete(Message),
    /// Switches offloads of an interface.
    Offloads(u32, Vec<String>, bool),
    /// Lets the kernel drop all that arrives on the interface; packet sockets and XDP still get it.
    Filter {
        /// Name of the nftables table.
        table: String,
        /// Name of the interface at this point.
        interface: String,
    },
    /// Takes the filter away.
    Unfilter {
        /// Name of the nftables table.
        table: String,
    },
}

/// A property of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Up, or down.
    Up(bool),
    /// Hardware address.
    Mac([u8; 6]),
    /// Bytes of an IP packet.
    Mtu(u32),
    /// Packets of its queue.
    QueueLength(u32),
    /// Group of interfaces.
    Group(u32),
    /// A line of text.
    Alias(String),
    /// The VRF it belongs to.
    Vrf(Option<u32>),
}

/// With it, IPv6 leaves an interface alone.
const DISABLE_IPV6: &str = "ipv6/conf//disable_ipv6";
/// Without it, an address is used at once. It was this node's a moment ago: nobody has to be asked.
const ACCEPT_DAD: &str = "ipv6/conf//accept_dad";
/// How link-local addresses are made.
const ADDR_GEN_MODE: &str = "ipv6/conf//addr_gen_mode";
/// [`ADDR_GEN_MODE`]: from the hardware address; not at all.
const FROM_MAC: &str = "0";
const NOT_AT_ALL: &str = "1";

/// Settings that are not copied as they are: the first ones have a step of their own; the others can't be written, or
/// mean the device that they belong to.
pub const NOT_COPIED: [&str; 5] = [
    DISABLE_IPV6,
    ACCEPT_DAD,
    ADDR_GEN_MODE,
    "ipv4/conf//mc_forwarding",
    "ipv6/conf//mc_forwarding",
];
/// As [`NOT_COPIED`]: a key that can be read only where one was set.
pub const SECRET: &str = "ipv6/conf//stable_secret";

/// Takes all from the interface that the TAP is to carry, gives it its other name, and shuts the kernel's ears.
///
/// It stays up: a network card that goes down and up again loses its link for seconds.
#[must_use]
pub fn release(claim: &Claim) -> Vec<Step> {
    let before = &claim.before;
    let index = before.index;
    let mut steps = Vec::new();
    for route in before.routes.iter().rev() {
        steps.push(match without_legs_by(route, index) {
            Some(rest) => Step::Replace(rest),
            None => Step::Delete(route.clone()),
        });
    }
    let others = [&before.nexthops, &before.neighbours, &before.addresses];
    steps.extend(others.into_iter().flat_map(|them| them.iter().rev().cloned().map(Step::Delete)));
    steps.push(set(&before.name, DISABLE_IPV6, "1"));
    if before.vrf.is_some() {
        steps.push(Step::Link(index, Link::Vrf(None)));
    }
    steps.extend(before.alt_names.iter().map(|name| Step::DropAltName(index, name.clone())));
    steps.push(Step::Rename(index, claim.away.clone()));
    steps.push(Step::AddAltName(index, names::mark(&before.name)));
    steps.push(filter(claim));
    if !claim.offloads.is_empty() {
        steps.push(Step::Offloads(index, claim.offloads.clone(), false));
    }
    steps.push(Step::Link(index, Link::Up(true)));
    steps
}

/// Lets the kernel drop what arrives on the interface that is away.
#[must_use]
pub fn filter(claim: &Claim) -> Step {
    Step::Filter { table: table(claim.name()), interface: claim.away.clone() }
}

/// Lets the TAP `name` with the number `tap` carry on what `latest` says: what the interface had, or an earlier TAP.
#[must_use]
pub fn install(latest: &Snapshot, tap: u32, name: &str, now: u64) -> Vec<Step> {
    let mut carried = latest.moved_to(tap, now);
    name.clone_into(&mut carried.name);
    // Nothing of a link-local address that was made before the hardware address was right may stay.
    let mut steps =
        vec![set(&carried.name, DISABLE_IPV6, "1"), Step::Link(tap, Link::Mac(carried.mac))];
    // Another way than from the hardware address would make another address here: the old one is copied instead.
    let mode = carried.settings.get(ADDR_GEN_MODE).map_or(FROM_MAC, String::as_str);
    let mode = if mode == FROM_MAC { FROM_MAC } else { NOT_AT_ALL };
    steps.push(set(&carried.name, ADDR_GEN_MODE, mode));
    steps.extend(carry(&carried));
    steps
}

/// Gives the interface its name back, or, if somebody else has that by now, all the rest under the name it has.
#[must_use]
pub fn rename_back(claim: &Claim) -> Step {
    Step::Rename(claim.before.index, claim.name().to_owned())
}

/// Gives the interface, which is called `name` again, back what `latest` says, which was read from it or from its TAP.
/// The TAP is gone by now.
#[must_use]
pub fn restore(claim: &Claim, latest: &Snapshot, name: &str, now: u64) -> Vec<Step> {
    let index = claim.before.index;
    let mut steps = Vec::new();
    if !claim.offloads.is_empty() {
        steps.push(Step::Offloads(index, claim.offloads.clone(), true));
    }
    steps.push(Step::DropAltName(index, names::mark(claim.name())));
    steps.push(Step::Unfilter { table: table(claim.name()) });
    let mut carried = latest.moved_to(index, now);
    name.clone_into(&mut carried.name);
    steps.extend(carry(&carried));
    steps
}

/// Puts everything of `carried` on the interface it names.
fn carry(carried: &Snapshot) -> Vec<Step> {
    let index = carried.index;
    let link = |change| Step::Link(index, change);
    let mut steps = vec![
        link(Link::Mtu(carried.mtu)),
        link(Link::QueueLength(carried.queue_length)),
        link(Link::Group(carried.group)),
        link(Link::Alias(carried.alias.clone())),
    ];
    steps.extend(carried.alt_names.iter().map(|name| Step::AddAltName(index, name.clone())));
    // Before addresses: whoever changes his VRF takes none along.
    steps.push(link(Link::Vrf(carried.vrf)));
    let copied = |(key, _): &(&String, &String)| !NOT_COPIED.contains(&key.as_str());
    let settings = carried.settings.iter().filter(copied);
    steps.extend(settings.map(|(key, value)| set(&carried.name, key, value)));
    let setting = |key: &str| carried.settings.get(key).map(String::as_str);
    if let Some(disabled) = setting(DISABLE_IPV6) {
        steps.push(set(&carried.name, ACCEPT_DAD, "0"));
        steps.push(set(&carried.name, DISABLE_IPV6, disabled));
    }
    steps.push(link(Link::Up(carried.up)));
    let records = [&carried.addresses, &carried.nexthops, &carried.routes, &carried.neighbours];
    for message in records.into_iter().flatten() {
        steps.push(match without_legs_by(message, index) {
            // What was left of it while the interface was away makes room for the whole.
            Some(_) => Step::Replace(message.clone()),
            None => Step::Add(message.clone()),
        });
    }
    if let Some(dad) = setting(ACCEPT_DAD) {
        steps.push(set(&carried.name, ACCEPT_DAD, dad));
    }
    steps
}

fn set(interface: &str, key: &str, value: &str) -> Step {
    Step::Set { interface: interface.to_owned(), key: key.to_owned(), value: value.to_owned() }
}

#[cfg(test)]
mod tests;
