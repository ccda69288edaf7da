//! Where one address leads, looked up the slow way.

use super::kernel::{Entry, Kernel, joins};
use crate::fib::{Hop, Kind, LOCAL, MAIN, Object, Prefix, Target, Via};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Where the kernel sends a packet to `address`; `None`: it has no route.
pub fn lookup(kernel: &Kernel, address: IpAddr) -> Option<Target> {
    [LOCAL, MAIN].into_iter().find_map(|table| in_table(kernel, table, address))
}

fn in_table(kernel: &Kernel, table: u32, address: IpAddr) -> Option<Target> {
    let matching =
        kernel.routes.iter().filter(|((of, prefix), _)| *of == table && prefix.contains(address));
    let mut matching: Vec<_> = matching.map(|((_, prefix), entries)| (*prefix, entries)).collect();
    matching.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.length()));
    matching.into_iter().find_map(|(prefix, entries)| of_prefix(kernel, prefix, entries, address))
}

fn of_prefix(kernel: &Kernel, _: Prefix, entries: &[Entry], address: IpAddr) -> Option<Target> {
    let usable: Vec<_> =
        entries.iter().filter(|entry| !ways(kernel, entry).is_empty() || says_all(entry)).collect();
    if usable.iter().any(|entry| entry.tos != 0) {
        // Only in front of others: which of them it is depends on the packet.
        return Some(Target::Kernel);
    }
    let best = usable.iter().map(|entry| entry.metric).min()?;
    let mut best: Vec<_> = usable.into_iter().filter(|entry| entry.metric == best).collect();
    // One that is there twice leads where it leads.
    best.dedup_by(|one, other| one.path == other.path);
    let first = best.first()?;
    if !first.path.v6 {
        return Some(lead(kernel, &[first], address));
    }
    let joined = best.iter().all(|entry| joins(&entry.path));
    if best.len() > 1 && !joined {
        return Some(Target::Kernel);
    }
    Some(lead(kernel, &best, address))
}

/// Whether the kind of a route says where it leads.
fn says_all(entry: &Entry) -> bool {
    entry.path.kind != Kind::Unicast
}

/// Ways that may be used.
fn ways(kernel: &Kernel, entry: &Entry) -> Vec<(Hop, u32)> {
    let hops = match &entry.path.via {
        Via::Nothing => Vec::new(),
        Via::Hop(hop) => vec![(hop.clone(), 1)],
        Via::Hops(hops) => hops.to_vec(),
        Via::Object(id) => match &kernel.objects[id] {
            Object::Hop(hop) => vec![(hop.clone(), 1)],
            Object::Group(members) => members
                .iter()
                .map(|(id, weight)| match &kernel.objects[id] {
                    Object::Hop(hop) => (hop.clone(), *weight),
                    other => panic!("{other:?} in a group"),
                })
                .collect(),
            other => panic!("a route over {other:?}"),
        },
    };
    let used =
        |hop: &Hop| !entry.dead.contains(&hop.link) && (!entry.path.v6 || kernel.up[&hop.link]);
    hops.into_iter().filter(|(hop, _)| used(hop)).collect()
}

fn lead(kernel: &Kernel, entries: &[&Entry], address: IpAddr) -> Target {
    match entries[0].path.kind {
        Kind::Local => return Target::Local,
        Kind::Blackhole => return Target::Blackhole,
        Kind::Unicast => {}
        kind => panic!("{kind:?} is not among the test's"),
    }
    let mut sums: BTreeMap<Target, u32> = BTreeMap::new();
    for (hop, weight) in entries.iter().flat_map(|entry| ways(kernel, entry)) {
        let next = hop.gateway.unwrap_or(address);
        let target = match kernel.neighbours.get(&(hop.link, next)) {
            Some(mac) if hop.link != 4 => Target::Link { uplink: hop.link, mac: *mac },
            _ => Target::Kernel,
        };
        *sums.entry(target).or_default() += weight;
    }
    let paths: Vec<_> = sums.into_iter().collect();
    if let [(target, _)] = &paths[..] { target.clone() } else { Target::Multipath(paths) }
}
