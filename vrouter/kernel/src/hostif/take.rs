//! Takes an interface away from the kernel, and gives what it had to its TAP.

use super::keeper::chain;
use super::kernel::{Depth, Kernel, now};
use super::plan::{self, Claim, Step};
use super::protocol::{Taken, Which};
use super::put_back;
use super::record::{Place, Record, boot};
use super::wire::{Attribute, Message, attribute, kind};
use super::{ethtool, names};

/// `ARPHRD_ETHER`.
const ETHERNET: u16 = 1;

/// Takes the interface away. The caller has the lock of its record.
///
/// # Errors
/// A line that says why it can't be; nothing has changed then.
pub fn take(kernel: &mut Kernel, place: &Place, which: &Which) -> Result<Record, String> {
    put_back::leftover(kernel, place, &which.name);
    let cannot = |error: &dyn std::error::Error| {
        format!("cannot read the state of interface {}: {}", which.name, chain(error))
    };
    let links = kernel.links().map_err(|error| cannot(&error))?;
    let vrf = check(&links, &which.name)?;
    let link = kernel.link_by_name(&which.name).map_err(|error| cannot(&error))?;
    let link = link.ok_or_else(|| missing(&which.name))?;
    let read = kernel.read(&link, Depth::All).map_err(|error| cannot(&error))?;
    let mut before =
        read.ok_or_else(|| format!("interface {} is just changing; try again", which.name))?;
    before.vrf = vrf;
    let offloads = ethtool::joining(before.index).unwrap_or_else(|error| {
        tracing::warn!(interface = which.name, %error, "its offloads are not known, and stay");
        Vec::new()
    });
    let taken_names: Vec<_> = links.iter().filter_map(name_of).collect();
    let away = names::away(&which.name, |name| taken_names.contains(&name));
    let claim = Claim { before: before.clone(), away, offloads };
    let record = Record {
        boot: boot(),
        owner: which.owner.clone(),
        pid: which.pid,
        claim,
        latest: before,
        tap: None,
    };
    place.write(&record).map_err(|error| chain(&error))?;
    for step in plan::release(&record.claim) {
        if let Err(error) = kernel.take(&step) {
            put_back::put_back(kernel, &record);
            place.remove();
            return Err(explain(&record.claim, &step, &error));
        }
    }
    Ok(record)
}

/// Goes on where another keeper stopped. The caller has the lock of the record.
///
/// # Errors
/// A line that says why it can't.
pub fn resume(kernel: &mut Kernel, place: &Place, which: &Which) -> Result<Record, String> {
    let record = place.read().ok_or_else(|| format!("nothing is known of {}", which.name))?;
    // The filter went with its owner where the kernel does not keep it.
    kernel.take(&plan::filter(&record.claim)).map_err(|error| chain(&error))?;
    Ok(record)
}

/// What the vRouter needs to know of it.
#[must_use]
pub fn describe(record: &Record) -> Taken {
    Taken {
        device: record.claim.away.clone(),
        mac: record.claim.before.mac,
        mtu: record.claim.before.mtu,
        addresses: record.claim.before.addresses_as_text(),
    }
}

/// Gives the TAP what is on record. Returns its number, and what it did not take of routes, neighbours and
/// settings.
///
/// # Errors
/// A line that says why the TAP can't carry the interface on.
pub fn install(
    kernel: &mut Kernel,
    record: &Record,
    tap: &str,
) -> Result<(u32, Vec<String>), String> {
    let link = kernel.link_by_name(tap).map_err(|error| chain(&error))?;
    let link = link.ok_or_else(|| format!("there is no TAP {tap}"))?;
    if kind_of(&link).as_deref() != Some("tun") {
        return Err(format!("{tap} is no TAP"));
    }
    let index = link.word(4);
    let mut missing = Vec::new();
    for step in plan::install(&record.latest, index, tap, now()) {
        let Err(error) = kernel.take(&step) else { continue };
        let is_vital = match &step {
            Step::Link(..) => true,
            Step::Add(message) => message.kind == kind::NEWADDR,
            _ => false,
        };
        let error = chain(&error);
        if is_vital {
            let name = record.claim.name();
            return Err(format!("the TAP {tap} cannot carry {name} on: {error}"));
        }
        tracing::warn!(tap, error, "the TAP has not all that the interface had");
        missing.push(error);
    }
    Ok((index, missing))
}

/// Says in a line why a step of the release failed.
fn explain(claim: &Claim, step: &Step, error: &super::kernel::StepError) -> String {
    let remedy = match step {
        Step::Filter { .. } => {
            " (the kernel is kept off the frames by an nftables chain of the netdev family; it needs \
             CONFIG_NF_TABLES_NETDEV: load nf_tables)"
        }
        Step::Set { .. } => {
            " (the unit's ProtectKernelTunables needs ReadWritePaths=/proc/sys/net beside it)"
        }
        _ => "",
    };
    format!("cannot take interface {} from the kernel: {}{remedy}", claim.name(), chain(error))
}

fn missing(name: &str) -> String {
    format!("there is no network interface {name}; `ip link` lists those of this machine")
}

/// Whether the interface can be taken at all; returns the VRF it belongs to.
fn check(links: &[Message], name: &str) -> Result<Option<u32>, String> {
    let link = links.iter().find(|link| name_of(link) == Some(name));
    let Some(link) = link else {
        let other =
            links.iter().find(|link| super::snapshot::alt_names(link).iter().any(|it| it == name));
        return Err(match other.and_then(name_of) {
            Some(other) => format!("{name} is another name of the interface {other}; use that"),
            None => missing(name),
        });
    };
    for mark in super::snapshot::alt_names(link) {
        if let Some(original) = names::marked(&mark) {
            return Err(format!(
                "{name} is what an uplink's interface {original} is called while it is away"
            ));
        }
    }
    let index = link.word(4);
    if u16::from_ne_bytes([link.byte(2), link.byte(3)]) != ETHERNET {
        return Err(format!("interface {name} is not Ethernet"));
    }
    let vrf = match link.number(attribute::IFLA_MASTER).filter(|index| *index != 0) {
        None => None,
        Some(master) => {
            let master = links.iter().find(|link| link.word(4) == master);
            match master.and_then(kind_of).as_deref() {
                Some("vrf") => master.map(|master| master.word(4)),
                kind => {
                    return Err(format!(
                        "interface {name} is a port of {} ({}); make that the uplink, or take {name} out of it",
                        master.and_then(name_of).unwrap_or("?"),
                        kind.unwrap_or("unknown kind"),
                    ));
                }
            }
        }
    };
    let above = links.iter().filter(|it| it.word(4) != index && rests_on(it, index));
    let above: Vec<_> = above.filter_map(name_of).collect();
    if !above.is_empty() {
        return Err(format!(
            "interfaces rest on {name} ({}) and cannot be moved to its TAP; remove them, and make them again on \
             {name} once it is an uplink",
            above.join(", ")
        ));
    }
    Ok(vrf)
}

/// Whether a VLAN, macvlan, VXLAN, ... has the interface below it.
fn rests_on(link: &Message, index: u32) -> bool {
    let kind = kind_of(link);
    let below = link.number(attribute::IFLA_LINK) == Some(index)
        && link.get(attribute::IFLA_LINK_NETNSID).is_none()
        // The other end of a pair.
        && kind.as_deref() != Some("veth");
    let info = link.get(attribute::IFLA_LINKINFO).map(Attribute::inner).unwrap_or_default();
    let data = info.iter().find(|it| it.kind() == attribute::IFLA_INFO_DATA);
    let vxlan = kind.as_deref() == Some("vxlan")
        && data.is_some_and(|data| {
            let inner = data.inner();
            let lower = inner.iter().find(|it| it.kind() == attribute::IFLA_VXLAN_LINK);
            lower.and_then(Attribute::u32) == Some(index)
        });
    below || vxlan
}

fn name_of(link: &Message) -> Option<&str> {
    link.get(attribute::IFLA_IFNAME)?.as_text()
}

/// `ip -d link` calls it the link's type.
pub fn kind_of(link: &Message) -> Option<String> {
    let info = link.get(attribute::IFLA_LINKINFO)?.inner();
    let kind = info.iter().find(|it| it.kind() == attribute::IFLA_INFO_KIND)?;
    kind.as_text().map(str::to_owned)
}
