//! From the wire to what is documented.

use serde_json::json;
use vrouter_api::v1;

use super::{Event, Info, Mode, Network, Port, State, Stats, WorkerMode, networks, ports};

pub(crate) fn wire_port(id: &str, pod: &str) -> v1::Port {
    v1::Port {
        spec: Some(v1::PortSpec {
            id: id.into(),
            network: "red".into(),
            mac: "02:2a:0a:42:00:02".into(),
            ipv4: "10.66.0.2".into(),
            ipv6: "fd00:66::2".into(),
            allowed_sources: vec!["10.9.0.0/16".into()],
            trunk: true,
            policer: None,
            socket_path: format!("/run/ringway/pods/{id}.sock"),
            socket_owner: v1::SocketOwner::Pod.into(),
            queue_pairs: 2,
            peer_cgroups: vec!["/pods/a".into()],
            pod_namespace: "default".into(),
            pod_name: pod.into(),
            interface: "net0".into(),
            worker: Some(0),
            ..v1::PortSpec::default()
        }),
        state: v1::PortState::Up.into(),
        reason: String::new(),
        features: 0x1_3000_8000,
        active_queue_pairs: 1,
        memory_regions: 1,
        memory_bytes: 1 << 29,
        peer_pid: 4711,
        worker: 0,
        workers: vec![0, 0],
        numa_node: -1,
        policer: Some(v1::Policer {
            packets_per_second: 1_000_000,
            burst_packets: 10_000,
            bits_per_second: 10_000_000_000,
            burst_bits: 100_000_000,
        }),
    }
}

pub(crate) fn stats() -> Stats {
    let port = |id: &str, rx: u64, drops: &[(&str, u64)]| v1::PortStats {
        id: id.into(),
        rx_packets: rx,
        rx_bytes: rx * 64,
        tx_packets: rx / 2,
        tx_bytes: rx * 32,
        drops: drops.iter().map(|(reason, packets)| drop(reason, *packets)).collect(),
        burst_sizes: vec![rx, 0, 0, 0, 0, 0],
        busy_ticks: rx * 50,
        cycles_per_packet: 50.0,
        ring_full_ns: 12_000_000,
        latency: vec![0, 0, rx, 0],
        numa_crossings: 1,
        queues: vec![v1::QueueStats { pair: 0, worker: 0, rx_packets: rx, busy_ticks: rx * 50 }],
        punts: vec![v1::Counter { name: "kernel".into(), value: 4 }],
    };
    let wire = v1::Stats {
        uplinks: Vec::new(),
        kernel_ports: Vec::new(),
        ports: vec![
            port("unknown", 7, &[]),
            port("b/0/net0", 100, &[("ttl_exceeded", 3), ("no_route", 1), ("ttl_exceeded", 2)]),
        ],
        workers: vec![v1::WorkerStats {
            index: 0,
            cpu: 1,
            packets: 107,
            bursts: 9,
            sleeps: 2,
            busy_ns: 1_234_567_890,
            forwarded: 90,
            replied: 10,
            originated: 1,
            flooded: 0,
            flooded_into_tunnels: 0,
            drops: vec![drop("ttl_exceeded", 5)],
            busy_ticks: 10_700,
            cycles_per_packet: 100.0,
            burst_sizes: vec![9, 0, 0, 0, 0, 0],
            latency: Vec::new(),
            queues: 3,
        }],
        ticks_per_second: 2_600_000_000,
    };
    let mut stats = Stats::new(wire, &ports(vec![wire_port("b/0/net0", "red-b")]));
    // Known owners first, for the sake of the tests that index.
    stats.ports.reverse();
    stats
}

fn drop(reason: &str, packets: u64) -> v1::DropCount {
    v1::DropCount { reason: reason.into(), packets }
}

#[test]
fn a_port_as_documented() {
    let port = Port::from(wire_port("0123456789abcdef/0/net0", "red-a"));
    assert_eq!(
        serde_json::to_value(&port).unwrap(),
        json!({
            "id": "0123456789abcdef/0/net0", "sandbox": "0123456789abcdef", "slot": 0,
            "namespace": "default", "pod": "red-a", "interface": "net0", "network": "red",
            "ip": "10.66.0.2", "ipv6": "fd00:66::2", "allowed_sources": ["10.9.0.0/16"], "trunk": true,
            "policer": {"packets_per_second": 1_000_000, "burst_packets": 10_000,
                        "bits_per_second": 10_000_000_000_u64, "burst_bits": 100_000_000},
            "mac": "02:2a:0a:42:00:02", "mode": "pod", "state": "up", "reason": null,
            "queue_pairs": 2, "active_queue_pairs": 1, "features": "0x130008000", "memory_regions": 1,
            "memory_bytes": 536_870_912, "peer_pid": 4711, "worker": 0, "workers": [0, 0], "pinned_worker": 0,
            "numa_node": null,
            "socket_path": "/run/ringway/pods/0123456789abcdef/0/net0.sock", "peer_cgroups": ["/pods/a"],
        })
    );
}

#[test]
fn what_the_wire_leaves_out() {
    let port = Port::from(v1::Port { reason: "refused".into(), ..v1::Port::default() });
    assert_eq!((port.mode, port.state, port.queue_pairs), (Mode::Vrouter, State::Waiting, 1));
    assert_eq!(
        (port.sandbox, port.peer_pid, port.reason.as_deref()),
        (None, None, Some("refused"))
    );
    for (id, sandbox) in [
        ("a/1/net0", Some("a")),
        ("a/x/net0", None),
        ("a/1", None),
        ("a/1/net0/x", None),
        ("hand", None),
    ] {
        let port = Port::from(wire_port(id, "p"));
        assert_eq!(
            (port.sandbox.as_deref(), port.slot.is_some()),
            (sandbox, sandbox.is_some()),
            "{id}"
        );
    }
    let info = Info::from(v1::Info { numa_node: -1, ..v1::Info::default() });
    assert_eq!(serde_json::to_value(&info).unwrap()["numa_node"], json!(null));
    assert_eq!(Info::from(v1::Info { numa_node: 1, ..v1::Info::default() }).numa_node, Some(1));
    let network = Network::from(v1::Network { name: "red".into(), ..v1::Network::default() });
    assert_eq!(network.gateway_mac, None);
}

#[test]
fn lists_are_sorted() {
    let list = ports(vec![
        wire_port("b/0/net0", "zoe"),
        wire_port("c/0/net0", "adam"),
        wire_port("a/0/net0", "zoe"),
    ]);
    let shown: Vec<_> = list.iter().map(|port| format!("{} {}", port.pod, port.id)).collect();
    assert_eq!(shown, ["adam c/0/net0", "zoe a/0/net0", "zoe b/0/net0"]);
    let network = |name: &str| v1::Network { name: name.into(), ..v1::Network::default() };
    let list = networks(vec![network("red"), network("blue")]);
    assert_eq!(
        list.iter().map(|network| network.name.as_str()).collect::<Vec<_>>(),
        ["blue", "red"]
    );
}

#[test]
fn stats_know_their_owners_and_add_up_reasons() {
    let stats = stats();
    let value = serde_json::to_value(&stats).unwrap();
    assert_eq!(
        value["ports"][0],
        json!({
            "id": "b/0/net0", "namespace": "default", "pod": "red-b", "interface": "net0", "network": "red",
            "rx_packets": 100, "rx_bytes": 6400, "tx_packets": 50, "tx_bytes": 3200,
            "drops": {"no_route": 1, "ttl_exceeded": 5},
            "busy_ticks": 5000, "cycles_per_packet": 50.0, "ring_full_ns": 12_000_000, "numa_crossings": 1,
            "burst_sizes": [100, 0, 0, 0, 0, 0],
            "latency": [
                {"below_ns": 128, "bursts": 0}, {"below_ns": 256, "bursts": 0}, {"below_ns": 512, "bursts": 100},
                {"below_ns": null, "bursts": 0},
            ],
            "queues": [{"pair": 0, "worker": 0, "rx_packets": 100, "busy_ticks": 5000}],
            "punts": {"kernel": 4},
        })
    );
    assert_eq!(value["ports"][1]["pod"], json!(""));
    assert_eq!(value["workers"][0]["busy_ns"], json!(1_234_567_890));
    assert_eq!(value["ticks_per_second"], json!(2_600_000_000_u64));
    assert_eq!(
        serde_json::to_value(stats.workers(WorkerMode::Poll)).unwrap(),
        json!([{"index": 0, "cpu": 1, "queues": 3, "mode": "poll"}])
    );
    assert_eq!(
        serde_json::to_value(stats.drops()).unwrap(),
        json!({
            "ports": [
                {"id": "b/0/net0", "namespace": "default", "pod": "red-b", "interface": "net0", "network": "red",
                 "reason": "no_route", "packets": 1},
                {"id": "b/0/net0", "namespace": "default", "pod": "red-b", "interface": "net0", "network": "red",
                 "reason": "ttl_exceeded", "packets": 5},
            ],
            "workers": [{"worker": 0, "reason": "ttl_exceeded", "packets": 5}],
        })
    );
}

#[test]
fn events_as_documented() {
    use v1::event::Event as Wire;
    let refused =
        v1::PeerRefused { port: "a/0/net0".into(), pid: 9, why: "not in its cgroup".into() };
    for (wire, expected) in [
        (Wire::Synced(v1::Synced {}), json!({"event": "synced"})),
        (
            Wire::WorkersChanged(v1::WorkersChanged {
                workers: vec![v1::Worker { index: 1, cpu: 3 }, v1::Worker { index: 0, cpu: 2 }],
                mode: v1::WorkerMode::Sleep.into(),
            }),
            json!({"event": "workers_changed", "workers": [{"index": 0, "cpu": 2}, {"index": 1, "cpu": 3}],
                   "mode": "sleep"}),
        ),
        (Wire::NetworkRemoved("red".into()), json!({"event": "network_removed", "name": "red"})),
        (Wire::PortRemoved("a/0/net0".into()), json!({"event": "port_removed", "id": "a/0/net0"})),
        (
            Wire::PeerRefused(refused),
            json!({"event": "peer_refused", "id": "a/0/net0", "pid": 9, "why": "not in its cgroup"}),
        ),
        (
            Wire::NetworkAdded(v1::Network {
                name: "red".into(),
                ipv4: "10.66.0.0/24".into(),
                mtu: 1500,
                ipv6: "fd00:66::/64".into(),
                mode: v1::NetworkMode::Bridged.into(),
                routes: 5,
                flood_limit: Some(v1::FloodLimit { frames_per_second: 1000, burst_frames: 100 }),
                policer: Some(v1::Policer {
                    packets_per_second: 9,
                    burst_packets: 64,
                    ..Default::default()
                }),
                ..v1::Network::default()
            }),
            json!({"event": "network_added", "network":
                {"name": "red", "ipv4": "10.66.0.0/24", "gateway": "", "gateway_mac": null, "mtu": 1500,
                 "ipv6": "fd00:66::/64", "gateway6": null, "mode": "bridged", "routes": 5, "stations": 0, "tunnel": null,
                 "flood_limit": {"frames_per_second": 1000, "burst_frames": 100},
                 "policer": {"packets_per_second": 9, "burst_packets": 64, "bits_per_second": null, "burst_bits": null},
                 "external": false, "kernel_table": null, "kernel_vrf": null, "kernel_port": null,
                 "kernel_bridge": null}}),
        ),
    ] {
        let event = Event::from_wire(v1::Event { event: Some(wire) }).unwrap();
        assert_eq!(serde_json::to_value(&event).unwrap(), expected);
    }
    let changed = v1::Event { event: Some(Wire::PortChanged(wire_port("a/0/net0", "p"))) };
    let value = serde_json::to_value(Event::from_wire(changed).unwrap()).unwrap();
    assert_eq!((&value["event"], &value["port"]["pod"]), (&json!("port_changed"), &json!("p")));
    assert_eq!(Event::from_wire(v1::Event { event: None }), None);
}
