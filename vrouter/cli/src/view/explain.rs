//! What becomes of a packet, and why.

use serde::Serialize;
use vrouter_api::v1;

use super::filled;
use crate::routes::Route;

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Explanation {
    pub(crate) verdict: String,
    pub(crate) path: String,
    pub(crate) reason: Option<String>,
    pub(crate) why: Vec<String>,
    pub(crate) remedy: Option<String>,
    pub(crate) packet: Headers,
    pub(crate) from: Place,
    pub(crate) to: Option<Place>,
    pub(crate) lookups: Vec<Lookup>,
    pub(crate) outer: Option<Outer>,
    pub(crate) mtu: Option<u32>,
    pub(crate) larger: Vec<Larger>,
}

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Headers {
    pub(crate) source_mac: String,
    pub(crate) destination_mac: String,
    pub(crate) frame_bytes: u32,
    pub(crate) protocol: String,
    pub(crate) source: Option<String>,
    pub(crate) destination: Option<String>,
    pub(crate) source_port: Option<u32>,
    pub(crate) destination_port: Option<u32>,
    pub(crate) ttl: Option<u32>,
    pub(crate) bytes: Option<u32>,
}

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Place {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) network: String,
    pub(crate) pod: Option<String>,
    pub(crate) state: String,
    pub(crate) device: Option<String>,
}

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Lookup {
    pub(crate) asked: String,
    pub(crate) network: String,
    pub(crate) address: String,
    pub(crate) prefix: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) route: Option<Route>,
    pub(crate) way: String,
    pub(crate) ways: u32,
    pub(crate) share_percent: f64,
    pub(crate) mac: Option<String>,
}

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Outer {
    pub(crate) kind: String,
    /// `None`: IP in IP has none, nor ports.
    pub(crate) number: Option<u32>,
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) source_port: Option<u32>,
    pub(crate) destination_port: Option<u32>,
    pub(crate) ttl: u32,
    pub(crate) bytes: u32,
    pub(crate) source_mac: String,
    pub(crate) destination_mac: String,
}

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Larger {
    pub(crate) dont_fragment: bool,
    pub(crate) verdict: String,
    pub(crate) reason: Option<String>,
    pub(crate) what: String,
}

impl From<v1::Explanation> for Explanation {
    fn from(wire: v1::Explanation) -> Self {
        let larger = |larger: v1::LargerPacket| Larger {
            dont_fragment: larger.dont_fragment,
            verdict: larger.verdict,
            reason: filled(larger.reason),
            what: larger.what,
        };
        Self {
            verdict: wire.verdict,
            path: wire.path,
            reason: filled(wire.reason),
            why: wire.why,
            remedy: filled(wire.remedy),
            packet: wire.packet.unwrap_or_default().into(),
            from: wire.from.unwrap_or_default().into(),
            to: wire.to.map(Place::from),
            lookups: wire.lookups.into_iter().map(Lookup::from).collect(),
            outer: wire.outer.map(Outer::from),
            mtu: (wire.mtu != 0).then_some(wire.mtu),
            larger: wire.larger.into_iter().map(larger).collect(),
        }
    }
}

impl From<v1::PacketHeaders> for Headers {
    fn from(wire: v1::PacketHeaders) -> Self {
        let is_ip = !wire.source.is_empty();
        let has_ports = is_ip && matches!(wire.protocol.as_str(), "udp" | "tcp");
        Self {
            source_mac: wire.source_mac,
            destination_mac: wire.destination_mac,
            frame_bytes: wire.frame_bytes,
            protocol: wire.protocol,
            source: filled(wire.source),
            destination: filled(wire.destination),
            source_port: has_ports.then_some(wire.source_port),
            destination_port: has_ports.then_some(wire.destination_port),
            ttl: is_ip.then_some(wire.ttl),
            bytes: is_ip.then_some(wire.bytes),
        }
    }
}

impl From<v1::Place> for Place {
    fn from(wire: v1::Place) -> Self {
        let v1::Place { kind, name, network, pod, state, device } = wire;
        Self { kind, name, network, pod: filled(pod), state, device: filled(device) }
    }
}

impl From<v1::Lookup> for Lookup {
    fn from(wire: v1::Lookup) -> Self {
        Self {
            asked: wire.asked,
            network: wire.network,
            address: wire.address,
            prefix: filled(wire.prefix),
            source: filled(wire.source),
            route: wire.route.map(Route::from),
            way: wire.way,
            ways: wire.ways,
            share_percent: wire.share_percent,
            mac: filled(wire.mac),
        }
    }
}

impl From<v1::TunnelHeaders> for Outer {
    fn from(wire: v1::TunnelHeaders) -> Self {
        let has_udp = wire.kind != "ipip";
        Self {
            kind: wire.kind,
            number: has_udp.then_some(wire.number),
            source: wire.source,
            destination: wire.destination,
            source_port: has_udp.then_some(wire.source_port),
            destination_port: has_udp.then_some(wire.destination_port),
            ttl: wire.ttl,
            bytes: wire.bytes,
            source_mac: wire.source_mac,
            destination_mac: wire.destination_mac,
        }
    }
}
