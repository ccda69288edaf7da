//! `ringway explain` for people: one row for each thing that is known, then reasons in words.

use crate::table::plain;
use crate::view::explain::{Explanation, Headers, Larger, Lookup, Outer, Place};

/// Width of the names of rows.
const NAME: usize = 9;

pub(crate) fn explanations(all: &[Explanation]) -> String {
    let texts: Vec<_> = all.iter().map(one).collect();
    texts.join("\n")
}

fn one(told: &Explanation) -> String {
    let mut rows = vec![("from", place(&told.from)), ("packet", packet(&told.packet))];
    let reason = told.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let to = told.to.as_ref().map(|to| format!(", to {}", place(to))).unwrap_or_default();
    rows.push(("path", format!("{}: {}{reason}{to}", told.path, told.verdict)));
    for found in &told.lookups {
        let name = match found.asked.as_str() {
            "underlay" => "underlay",
            "inside" => "inside",
            _ => "route",
        };
        rows.push((name, lookup(found)));
    }
    rows.extend(told.outer.iter().map(|outer| ("outer", header(outer))));
    if let Some(mtu) = told.mtu {
        rows.push(("mtu", format!("{mtu} bytes{}", larger(&told.larger))));
    }
    rows.extend(told.why.iter().map(|why| ("why", why.clone())));
    rows.extend(told.remedy.iter().map(|remedy| ("remedy", remedy.clone())));
    let mut before = "";
    let mut text = String::new();
    for (name, value) in rows {
        let shown = if name == before { "" } else { name };
        text.push_str(&format!("{shown:<NAME$} {}\n", plain(&value)));
        before = name;
    }
    text
}

fn place(place: &Place) -> String {
    let Place { kind, name, network, pod, state, device } = place;
    let kind = match kind.as_str() {
        "pod" => "port",
        "host_interface" => "host interface",
        "kernel" => "kernel port",
        other => other,
    };
    let pod = pod.as_ref().map(|pod| format!("pod {pod}, ")).unwrap_or_default();
    let device = device.as_ref().map(|device| format!(", by {device}")).unwrap_or_default();
    format!("{pod}{kind} {name} of network {network} ({state}{device})")
}

fn packet(packet: &Headers) -> String {
    let Headers { source_mac, destination_mac, frame_bytes, protocol, .. } = packet;
    let (Some(source), Some(destination)) = (&packet.source, &packet.destination) else {
        return format!(
            "{protocol} {source_mac} > {destination_mac}, frame of {frame_bytes} bytes"
        );
    };
    let ports = match (packet.source_port, packet.destination_port) {
        (Some(from), Some(to)) => format!(", ports {from} > {to}"),
        _ => String::new(),
    };
    let ttl = packet.ttl.unwrap_or(0);
    let bytes = packet.bytes.unwrap_or(0);
    format!("{protocol} {source} > {destination}{ports}, {bytes} bytes, ttl {ttl}")
}

fn lookup(lookup: &Lookup) -> String {
    let Lookup { network, address, way, .. } = lookup;
    let (Some(prefix), Some(source)) = (&lookup.prefix, &lookup.source) else {
        return format!("{address} in network {network}: {way}");
    };
    let target = match &lookup.route {
        Some(route) if lookup.ways == 1 => format!(" {}", route.target()),
        _ => String::new(),
    };
    let choice = if lookup.ways > 1 {
        format!(", one of {} ways with {:.0} % of all flows", lookup.ways, lookup.share_percent)
    } else {
        String::new()
    };
    let mac = lookup.mac.as_ref().map(|mac| format!(", to MAC {mac}")).unwrap_or_default();
    let mac = if way.contains("neighbour") { String::new() } else { mac };
    format!("{prefix}{target} in network {network} (from {source}): {way}{mac}{choice}")
}

fn header(outer: &Outer) -> String {
    let Outer { kind, number, source, destination, source_port, destination_port, .. } = outer;
    let name = if kind == "mpls" { "label" } else { "vni" };
    let number = number.map(|number| format!(" {name} {number}")).unwrap_or_default();
    let udp = match (source_port, destination_port) {
        (Some(from), Some(to)) => format!(", udp {from} > {to}"),
        _ => String::new(),
    };
    format!(
        "{kind}{number}, {source} > {destination}{udp}, ttl {}, {} bytes more, MAC {} > {}",
        outer.ttl, outer.bytes, outer.source_mac, outer.destination_mac
    )
}

fn larger(larger: &[Larger]) -> String {
    match larger {
        [] => String::new(),
        [one] => format!("; larger packets are {}", one.what),
        all if all.iter().all(|it| Some(&it.what) == all.first().map(|it| &it.what)) => {
            format!("; larger packets are {}", all.first().map_or("", |it| it.what.as_str()))
        }
        all => {
            let one = |it: &Larger| {
                let may = if it.dont_fragment { "that must not" } else { "that may" };
                format!("{may} be fragmented are {}", it.what)
            };
            format!("; larger packets {}", all.iter().map(one).collect::<Vec<_>>().join(", those "))
        }
    }
}

#[cfg(test)]
mod tests {
    use vrouter_api::v1;

    use super::*;

    fn wire() -> v1::Explanation {
        let place = |kind: &str, name: &str, network: &str, pod: &str| v1::Place {
            kind: kind.into(),
            name: name.into(),
            network: network.into(),
            pod: pod.into(),
            state: "up".into(),
            device: if kind == "uplink" { "eth2".into() } else { String::new() },
        };
        let lookup = |asked: &str, prefix: &str, way: &str| v1::Lookup {
            asked: asked.into(),
            network: "red".into(),
            address: "10.1.0.9".into(),
            prefix: prefix.into(),
            source: "api".into(),
            way: way.into(),
            ways: 1,
            share_percent: 100.0,
            mac: "02:00:00:00:00:09".into(),
            ..v1::Lookup::default()
        };
        let larger = |dont_fragment, what: &str| v1::LargerPacket {
            dont_fragment,
            what: what.into(),
            ..v1::LargerPacket::default()
        };
        v1::Explanation {
            verdict: "encapsulate".into(),
            path: "dpdk".into(),
            why: vec!["First.".into(), "Second.".into()],
            packet: Some(v1::PacketHeaders {
                protocol: "udp".into(),
                source: "10.66.0.2".into(),
                destination: "10.1.0.9".into(),
                source_port: 1,
                destination_port: 2,
                ttl: 64,
                bytes: 28,
                ..v1::PacketHeaders::default()
            }),
            from: Some(place("pod", "a/0/net0", "red", "shop/cart")),
            to: Some(place("uplink", "up0", "fabric", "")),
            lookups: vec![
                v1::Lookup {
                    route: Some(v1::Route {
                        prefix: "10.1.0.0/16".into(),
                        kind: v1::RouteKind::Mpls.into(),
                        via: "192.0.2.2".into(),
                        label: 99,
                        ..v1::Route::default()
                    }),
                    ..lookup("destination", "10.1.0.0/16", "the tunnel")
                },
                v1::Lookup {
                    ways: 2,
                    share_percent: 33.3,
                    ..lookup("underlay", "192.0.2.0/24", "uplink up0, neighbour 02:00:00:00:00:09")
                },
            ],
            outer: Some(v1::TunnelHeaders {
                kind: "mpls".into(),
                number: 99,
                source: "192.0.2.1".into(),
                destination: "192.0.2.2".into(),
                source_port: 50_000,
                destination_port: 6635,
                ttl: 64,
                bytes: 32,
                source_mac: "a".into(),
                destination_mac: "b".into(),
            }),
            mtu: 1468,
            larger: vec![larger(true, "told"), larger(false, "dropped")],
            ..v1::Explanation::default()
        }
    }

    #[test]
    fn one_row_for_each_thing_that_is_known() {
        let text = explanations(&[wire().into()]);
        assert_eq!(
            text,
            "\
from      pod shop/cart, port a/0/net0 of network red (up)
packet    udp 10.66.0.2 > 10.1.0.9, ports 1 > 2, 28 bytes, ttl 64
path      dpdk: encapsulate, to uplink up0 of network fabric (up, by eth2)
route     10.1.0.0/16 mpls 192.0.2.2 label 99 in network red (from api): the tunnel, to MAC 02:00:00:00:00:09
underlay  192.0.2.0/24 in network red (from api): uplink up0, neighbour 02:00:00:00:00:09, one of 2 ways with 33 % of all flows
outer     mpls label 99, 192.0.2.1 > 192.0.2.2, udp 50000 > 6635, ttl 64, 32 bytes more, MAC a > b
mtu       1468 bytes; larger packets that must not be fragmented are told, those that may be fragmented are dropped
why       First.
          Second.
"
        );
        // IP in IP has neither number nor ports.
        let mut ipip = wire();
        let outer = ipip.outer.as_mut().unwrap();
        (outer.kind, outer.bytes) = ("ipip".into(), 20);
        let line = "\nouter     ipip, 192.0.2.1 > 192.0.2.2, ttl 64, 20 bytes more, MAC a > b\n";
        let text = explanations(&[ipip.into()]);
        assert!(text.contains(line), "{text}");
        // What is not known takes no row; several packets are apart.
        let drop = v1::Explanation {
            verdict: "drop".into(),
            path: "nobody".into(),
            reason: "runt_frame".into(),
            remedy: "do".into(),
            packet: Some(v1::PacketHeaders {
                source_mac: "a".into(),
                destination_mac: "b".into(),
                protocol: "0x88cc".into(),
                frame_bytes: 60,
                ..v1::PacketHeaders::default()
            }),
            from: wire().from,
            ..v1::Explanation::default()
        };
        let text = explanations(&[drop.clone().into(), drop.into()]);
        let expected = "\
from      pod shop/cart, port a/0/net0 of network red (up)
packet    0x88cc a > b, frame of 60 bytes
path      nobody: drop (runt_frame)
remedy    do
";
        assert_eq!(text, format!("{expected}\n{expected}"));
    }

    #[test]
    fn json_has_null_for_what_is_not_known() {
        let told = serde_json::to_value(Explanation::from(v1::Explanation::default())).unwrap();
        for field in ["reason", "remedy", "to", "outer", "mtu"] {
            assert!(told[field].is_null(), "{field}: {told}");
        }
        assert!(told["packet"]["source"].is_null() && told["packet"]["ttl"].is_null());
        let told = serde_json::to_value(Explanation::from(wire())).unwrap();
        assert_eq!(told["lookups"][0]["route"]["label"], 99);
        assert_eq!(told["packet"]["source_port"], 1);
        assert_eq!((&told["mtu"], &told["outer"]["number"]), (&1468.into(), &99.into()));
    }
}
