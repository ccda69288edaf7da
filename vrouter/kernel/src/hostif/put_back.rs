//! Puts an interface back: when its vRouter has given it back or is gone, or when a later one finds it left over.

use super::keeper::chain;
use super::kernel::{Kernel, now};
use super::plan::{self, Step};
use super::protocol::Which;
use super::record::{Place, Record};
use super::take::kind_of;
use super::wire::{Message, attribute};
use super::{names, snapshot};

/// Gives the interface back all that is on record. What fails is said, tried once more when the rest is there, and left.
pub fn put_back(kernel: &mut Kernel, record: &Record) {
    let claim = &record.claim;
    let mut name = claim.name();
    make_room(kernel, record);
    if let Err(error) = kernel.take(&plan::rename_back(claim)) {
        let error = chain(&error);
        tracing::error!(interface = claim.away, name, error, "the interface keeps its other name");
        name = &claim.away;
    }
    let mut failed = Vec::new();
    for step in plan::restore(claim, &record.latest, name, now()) {
        if kernel.take(&step).is_err() {
            failed.push(step);
        }
    }
    for step in failed {
        if let Err(error) = kernel.take(&step) {
            tracing::warn!(interface = name, error = chain(&error), "not all is as it was");
        }
    }
    tracing::info!(interface = name, "the interface is the kernel's again");
}

/// Removes a TAP that has the interface's name, if there still is one.
fn make_room(kernel: &mut Kernel, record: &Record) {
    let index = record.claim.before.index;
    match kernel.link_by_name(record.claim.name()) {
        Ok(Some(link)) if link.word(4) != index && kind_of(&link).as_deref() == Some("tun") => {
            if let Err(error) = kernel.delete_link(link.word(4)) {
                tracing::warn!(%error, "cannot remove the TAP");
            }
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "cannot look for the TAP"),
    }
}

/// Puts back what is left over of an earlier uplink `name`. The caller has the lock of its record.
pub fn leftover(kernel: &mut Kernel, place: &Place, name: &str) -> bool {
    if let Some(record) = place.read() {
        tracing::warn!(interface = name, owner = record.owner, "left over by a vRouter that died");
        put_back(kernel, &record);
        place.remove();
        return true;
    }
    // Without a record only the mark is left. The name, and IPv6, can be put back; addresses and routes can't.
    match kernel.link_by_name(&names::mark(name)) {
        Ok(Some(link)) => {
            put_back_by_mark(kernel, &link, name);
            true
        }
        _ => false,
    }
}

fn put_back_by_mark(kernel: &mut Kernel, link: &Message, name: &str) {
    tracing::warn!(
        interface = name,
        "left over by a vRouter that died, and its record is lost: its addresses and routes have to be set again"
    );
    let index = link.word(4);
    let ipv6 = "ipv6/conf//disable_ipv6";
    let usual = super::settings::read("default").remove(ipv6).unwrap_or_else(|| "0".to_owned());
    for step in [
        Step::DropAltName(index, names::mark(name)),
        Step::Rename(index, name.to_owned()),
        Step::Unfilter { table: plan::table(name) },
        Step::Set { interface: name.to_owned(), key: ipv6.to_owned(), value: usual },
    ] {
        if let Err(error) = kernel.take(&step) {
            tracing::warn!(interface = name, error = chain(&error), "not all is as it was");
        }
    }
}

/// Puts back everything that nobody keeps; returns the names.
pub fn leftovers(kernel: &mut Kernel, which: &Which) -> Vec<String> {
    let mut names = if which.name.is_empty() {
        let mut names = Place::all(&which.records);
        names.extend(marked(kernel));
        names
    } else {
        vec![which.name.clone()]
    };
    names.sort_unstable();
    names.dedup();
    names.retain(|name| {
        let locked = Place::new(&which.records, name).and_then(|it| Ok((it.try_lock()?, it)));
        match locked {
            Ok((Some(_lock), place)) => leftover(kernel, &place, name),
            // Somebody keeps it.
            Ok((None, _)) => false,
            Err(error) => {
                tracing::warn!(interface = name, error = chain(&error), "cannot look after it");
                false
            }
        }
    });
    names
}

/// Names that interfaces bore before an uplink took them.
fn marked(kernel: &mut Kernel) -> Vec<String> {
    let links = kernel.links().unwrap_or_default();
    let marks = links.iter().filter(|link| link.get(attribute::IFLA_PROP_LIST).is_some());
    let names = marks.flat_map(snapshot::alt_names);
    names.filter_map(|name| names::marked(&name).map(str::to_owned)).collect()
}
