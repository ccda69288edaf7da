//! An explanation as it is on the wire.

use std::collections::BTreeMap;

use vrouter_api::v1;
use vrouter_core::{
    Asked, DropReason, Explanation, IcmpError, Lookup, NetworkIndex, NextHop, OuterHeader, Packet,
    PortIndex, TunnelNumber, Verdict,
};
use vrouter_net::{IpPrefix, ethernet, mpls, vxlan};

use super::{headers, words};

/// What is called how. The tables know slots only.
pub struct Names<'a> {
    /// All ports.
    pub places: BTreeMap<PortIndex, v1::Place>,
    /// All networks.
    pub networks: BTreeMap<NetworkIndex, String>,
    /// Where an entry comes from that was given.
    pub known: &'a dyn Fn(NetworkIndex, IpPrefix) -> Known,
}

/// Where an entry comes from.
pub struct Known {
    /// `config`, `api` or `kernel`.
    pub source: &'static str,
    /// As it is listed.
    pub route: Option<v1::Route>,
}

impl Names<'_> {
    pub(super) fn place(&self, port: PortIndex) -> v1::Place {
        self.places.get(&port).cloned().unwrap_or_default()
    }
}

/// The answer but for what becomes of larger packets. `received`: the packet as it came in.
pub fn answer(
    ingress: PortIndex,
    received: &Packet,
    told: &Explanation,
    names: &Names<'_>,
) -> v1::Explanation {
    let lookups: Vec<_> = told.lookups.iter().map(|it| lookup(it, told, names)).collect();
    let verdict = &told.packet.verdict;
    let from = names.place(ingress);
    let to = receiver(verdict).map(|port| names.place(port));
    let said = words::Said { received, told, from: &from, to: to.as_ref(), lookups: &lookups };
    let (why, remedy) = said.why();
    v1::Explanation {
        verdict: name(verdict).to_owned(),
        path: path(verdict).to_owned(),
        reason: reason(verdict).to_owned(),
        why,
        remedy,
        packet: Some(headers::read(received)),
        from: Some(from.clone()),
        to: to.clone(),
        outer: told.outer.as_ref().map(|outer| tunnel(outer, received, told)),
        mtu: mtu(told).into(),
        lookups,
        larger: Vec::new(),
    }
}

/// Stable name of a verdict.
pub fn name(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Drop(_) => "drop",
        Verdict::Forward(_) => "forward",
        Verdict::Encapsulate(_) => "encapsulate",
        Verdict::Decapsulate(_) => "decapsulate",
        Verdict::Punt(..) => "punt",
        Verdict::Reply => "reply",
        Verdict::Flood(_) | Verdict::FloodInside(..) => "flood",
        Verdict::Originate(_) => "icmp_error",
    }
}

fn path(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Forward(_)
        | Verdict::Encapsulate(_)
        | Verdict::Decapsulate(_)
        | Verdict::Flood(_)
        | Verdict::FloodInside(..) => "dpdk",
        Verdict::Punt(..) => "kernel",
        Verdict::Reply | Verdict::Originate(_) => "vrouter",
        Verdict::Drop(_) => "nobody",
    }
}

/// Stable name of what more there is to a verdict.
pub fn reason(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Drop(reason) => reason.name(),
        Verdict::Punt(_, class) => class.name(),
        Verdict::Originate(error) => match error {
            IcmpError::NetworkUnreachable => "network_unreachable",
            IcmpError::HostUnreachable => "host_unreachable",
            IcmpError::FragmentationNeeded { .. } => "fragmentation_needed",
            IcmpError::TimeExceeded => "time_exceeded",
        },
        _ => "",
    }
}

fn receiver(verdict: &Verdict) -> Option<PortIndex> {
    match verdict {
        Verdict::Forward(port)
        | Verdict::Encapsulate(port)
        | Verdict::Decapsulate(port)
        | Verdict::Punt(port, _) => Some(*port),
        _ => None,
    }
}

/// Bytes of the largest IP packet that takes the same way; zero: it takes none.
pub fn mtu(told: &Explanation) -> u16 {
    let asked = |asked| told.lookups.iter().find(|lookup| lookup.asked == asked);
    // What comes out of a tunnel has to fit where it goes.
    let lookup = asked(Asked::Inside).or_else(|| asked(Asked::Destination));
    match lookup.map(|lookup| &lookup.way) {
        Some(NextHop::Port(hop) | NextHop::Kernel(hop)) => hop.mtu,
        Some(NextHop::Tunnel(hop)) => hop.inner.mtu,
        _ => 0,
    }
}

fn lookup(lookup: &Lookup, told: &Explanation, names: &Names<'_>) -> v1::Lookup {
    let known = lookup.found.filter(|found| !found.own);
    let known = known.map(|found| (names.known)(lookup.network, found.prefix));
    let (ways, share_percent) = match &lookup.next_hop {
        NextHop::Multipath(group) => {
            let shares: Vec<_> = group.shares().collect();
            let all: usize = shares.iter().map(|(_, share)| share).sum();
            let its = shares.iter().find(|(way, _)| **way == lookup.way);
            let its = its.map_or(0, |(_, share)| *share);
            // Both are a thousand at most.
            (shares.len(), 100.0 * its as f64 / all.max(1) as f64)
        }
        _ => (1, 100.0),
    };
    let asked = match lookup.asked {
        Asked::Destination => "destination",
        Asked::Inside => "inside",
        Asked::Underlay => "underlay",
    };
    v1::Lookup {
        asked: asked.to_owned(),
        network: names.networks.get(&lookup.network).cloned().unwrap_or_default(),
        address: lookup.address.to_string(),
        prefix: lookup.found.map(|found| found.prefix.to_string()).unwrap_or_default(),
        source: match (&known, lookup.found) {
            (Some(known), _) => known.source.to_owned(),
            (None, Some(_)) => "network".to_owned(),
            (None, None) => String::new(),
        },
        route: known.and_then(|known| known.route),
        way: way(&lookup.way, told, names),
        ways: u32::try_from(ways).unwrap_or(u32::MAX),
        share_percent,
        mac: match &lookup.way {
            NextHop::Port(hop) | NextHop::Kernel(hop) => hop.destination_mac().to_string(),
            NextHop::Tunnel(hop) => hop.inner.destination_mac().to_string(),
            _ => String::new(),
        },
    }
}

fn way(way: &NextHop, told: &Explanation, names: &Names<'_>) -> String {
    match way {
        NextHop::Port(hop) => {
            let place = names.place(hop.port);
            match place.kind.as_str() {
                "uplink" => format!("uplink {}, neighbour {}", place.name, hop.destination_mac()),
                kind => format!("{kind} {}", place.name),
            }
        }
        NextHop::Tunnel(hop) => {
            let end = told.outer.filter(|_| matches!(told.packet.verdict, Verdict::Encapsulate(_)));
            let end = end.map(|outer| format!(" to {}", outer.to)).unwrap_or_default();
            let place = names.place(hop.inner.port);
            format!("the tunnel{end}, out by {} {}", place.kind, place.name)
        }
        NextHop::Gateway => "the vRouter itself".to_owned(),
        NextHop::Local => "this host's kernel".to_owned(),
        NextHop::Kernel(hop) => {
            format!("the kernel, by kernel port {}", names.place(hop.port).name)
        }
        NextHop::Unreachable => "nobody".to_owned(),
        NextHop::NoRoute | NextHop::Drop(DropReason::NoRoute) => "no route".to_owned(),
        NextHop::Drop(reason) => format!("nowhere ({reason})"),
        NextHop::Multipath(_) => "several ways".to_owned(),
    }
}

fn tunnel(outer: &OuterHeader, received: &Packet, told: &Explanation) -> v1::TunnelHeaders {
    let (kind, number, port) = match outer.number {
        TunnelNumber::Vni(vni) => ("vxlan", vni.number(), vxlan::PORT),
        TunnelNumber::Label(label) => ("mpls", label.number(), mpls::PORT),
        TunnelNumber::Ipip => ("ipip", 0, 0),
    };
    let front = match told.packet.verdict {
        Verdict::Encapsulate(_) => told.packet.outer(),
        _ => received.head(),
    };
    let link = ethernet::Header::split(front).ok().map(|(link, _)| link);
    v1::TunnelHeaders {
        kind: kind.to_owned(),
        number,
        source: outer.from.to_string(),
        destination: outer.to.to_string(),
        source_port: outer.source_port.unwrap_or(0).into(),
        destination_port: port.into(),
        ttl: outer.ttl.into(),
        bytes: u32::try_from(outer.bytes).unwrap_or(u32::MAX),
        source_mac: link.as_ref().map(|link| link.source().to_string()).unwrap_or_default(),
        destination_mac: link.map(|link| link.destination().to_string()).unwrap_or_default(),
    }
}
