//! What people see.

use std::time::Duration;

use vrouter_api::v1;

use super::{drops, event, info, networks, p99, ports, rates, scaled, stats, workers};
use crate::view::tests::{stats as sample, wire_port};
use crate::view::{self, Event, Info, Latency, Rates, Worker, WorkerMode};

#[test]
fn ports_table() {
    let mut waiting = wire_port("fedcba9876543210/0/net0", "red-b");
    waiting.state = v1::PortState::Waiting.into();
    waiting.active_queue_pairs = 0;
    waiting.reason = "refused\npid 9".into();
    if let Some(spec) = &mut waiting.spec {
        spec.socket_owner = v1::SocketOwner::Vrouter.into();
    }
    let list = view::ports(vec![waiting, wire_port("0123456789abcdef/0/net0", "red-a")]);
    assert_eq!(
        ports(&list),
        "\
SANDBOX       POD            INTERFACE  NETWORK  IP         IPV6        MAC                MODE     STATE    QUEUES  POLICER                  REASON
0123456789ab  default/red-a  net0       red      10.66.0.2  fd00:66::2  02:2a:0a:42:00:02  pod      up          1/2  1.00M pps, 10.00G bit/s  -
fedcba987654  default/red-b  net0       red      10.66.0.2  fd00:66::2  02:2a:0a:42:00:02  vrouter  waiting     0/2  1.00M pps, 10.00G bit/s  refused\\npid 9
"
    );
}

#[test]
fn networks_table() {
    let network = v1::Network {
        name: "red".into(),
        ipv4: "10.66.0.0/24".into(),
        gateway: "10.66.0.1".into(),
        mtu: 1500,
        gateway_mac: "02:00:00:00:00:01".into(),
        ..Default::default()
    };
    let lan = v1::Network {
        name: "lan".into(),
        mode: v1::NetworkMode::Bridged.into(),
        ipv6: "fd00:66::/64".into(),
        gateway6: "fd00:66::1".into(),
        routes: 7,
        stations: 3,
        policer: Some(v1::Policer { bits_per_second: 1_000_000, ..Default::default() }),
        ..network.clone()
    };
    let (vni, underlay, local) = (7, "red".into(), "10.66.0.9".into());
    let tunnel = Some(v1::Tunnel { vni, underlay, local, ..v1::Tunnel::default() });
    let far = v1::Network { name: "far".into(), tunnel, ..network.clone() };
    let (name, reason) = ("red0".into(), "gone".into());
    let kernel_port = Some(v1::KernelPort { name, reason, ..Default::default() });
    let red = v1::Network { kernel_table: 77, kernel_port, ..network };
    assert_eq!(
        networks(&view::networks(vec![far, red, lan])),
        "\
NAME  MODE     IPV4          GATEWAY    IPV6          GATEWAY6    GATEWAY MAC         MTU  ROUTES  STATIONS  POLICER      TUNNEL                         KERNEL
far   routed   10.66.0.0/24  10.66.0.1  -             -           02:00:00:00:00:01  1500       0         -  -            vni 7 from 10.66.0.9 over red  -
lan   bridged  10.66.0.0/24  10.66.0.1  fd00:66::/64  fd00:66::1  02:00:00:00:00:01  1500       7         3  1.00M bit/s  -                              -
red   routed   10.66.0.0/24  10.66.0.1  -             -           02:00:00:00:00:01  1500       0         -  -            -                              table 77 by red0 (gone)
"
    );
}

#[test]
fn ends_of_a_stretched_network() {
    let flood = ["10.66.0.7", "10.66.0.8"].map(String::from).to_vec();
    let (vni, underlay, local) = (7, "red".into(), "10.66.0.9".into());
    let tunnel = v1::Tunnel { vni, underlay, local, flood, ..v1::Tunnel::default() };
    let network = v1::Network { tunnel: Some(tunnel), ..v1::Network::default() };
    let shown = networks(&view::networks(vec![network]));
    let expected = "vni 7 from 10.66.0.9 over red, bridged to 10.66.0.7, 10.66.0.8 ";
    assert!(shown.contains(expected), "{shown}");
    let by_kernel = |kernel_bridge| {
        let (underlay, local) = ("red".into(), "10.66.0.9".into());
        let tunnel = Some(v1::Tunnel { vni, underlay, local, ..v1::Tunnel::default() });
        let kernel_bridge = Some(kernel_bridge);
        let network = v1::Network { tunnel, kernel_bridge, ..v1::Network::default() };
        networks(&view::networks(vec![network]))
    };
    let ends = ["10.66.0.7", "10.66.0.8"].map(String::from).to_vec();
    let (device, stations, left_out) = ("vxlan7".into(), 5, 1);
    let works = v1::KernelBridge { device, ends, stations, left_out, ..Default::default() };
    let reason = "there is no such device: make it".to_owned();
    let missing = v1::KernelBridge { reason, ..Default::default() };
    for (bridge, expected) in [
        (
            works,
            "red, 5 stations by vxlan7, by it bridged to 10.66.0.7, 10.66.0.8 (1 entries left out) ",
        ),
        (missing, "red (there is no such device: make it) "),
    ] {
        let shown = by_kernel(bridge);
        assert!(shown.contains(expected), "{shown}");
    }
}

#[test]
fn info_lines() {
    let wire = v1::Info {
        version: "0.1.0".into(),
        dpdk_version: "DPDK 22.11.11".into(),
        numa_node: -1,
        pid: 42,
        workers: vec![v1::Worker { index: 1, cpu: 3 }, v1::Worker { index: 0, cpu: 2 }],
        instance_id: "abc".into(),
        instance: None,
        nic_nodes: Vec::new(),
        worker_mode: v1::WorkerMode::Poll.into(),
    };
    assert_eq!(
        info(&Info::from(wire)),
        "version    0.1.0\nDPDK       DPDK 22.11.11\nNUMA node  all\nprocess    42\ninstance   abc\n\
         workers    0 on CPU 2, 1 on CPU 3\nwhen idle  poll\n"
    );
}

#[test]
fn stats_and_drops_tables() {
    assert_eq!(
        stats(&sample()),
        "\
POD            INTERFACE  NETWORK  RX PACKETS  RX BYTES  TX PACKETS  TX BYTES  DROPS  CYCLES     P99     FULL
default/red-b  net0       red             100      6400          50      3200      6    50.0  512 ns  0.012 s
unknown        -          -                 7       448           3       224      0    50.0  512 ns  0.012 s

WORKER  CPU  QUEUES  PACKETS  BURSTS  SLEEPS     BUSY  CYCLES  P99  FORWARDED  REPLIED  ORIGINATED  FLOODED  DROPS
     0    1       3      107       9       2  1.234 s   100.0    -         90       10           1        0      5
"
    );
    assert_eq!(
        workers(&sample().workers(WorkerMode::Sleep)),
        "WORKER  CPU  QUEUES  MODE\n     0    1       3  sleep\n"
    );
    assert_eq!(
        drops(&sample().drops()),
        "\
POD            INTERFACE  NETWORK  REASON        PACKETS
default/red-b  net0       red      no_route            1
default/red-b  net0       red      ttl_exceeded        5

WORKER  REASON        PACKETS
     0  ttl_exceeded        5
"
    );
}

#[test]
fn rates_table() {
    let (before, mut after) = (sample(), sample());
    after.ports[0].rx_packets += 1_000_000;
    after.ports[0].rx_bytes += 64_000_000;
    after.ports[0].busy_ticks += 64_000_000;
    after.ports[0].burst_sizes[5] += 31_250;
    after.ports[0].ring_full_ns += 50_000_000;
    after.workers[0].busy_ns += 990_000_000;
    let text = rates(&Rates::new(&before, &after, Duration::from_secs(1)));
    assert!(
        text.contains(
            "default/red-b  net0       red      1000000   512.00M       0         0        0    64.0   32.0    5%\n"
        ),
        "{text}"
    );
    assert!(text.contains("0    1    0         0   99%       -      -        0\n"), "{text}");
}

#[test]
fn event_lines() {
    for (shown, line) in [
        (Event::Synced, "synced\n"),
        (Event::PortRemoved { id: "a/0/net0".into() }, "port a/0/net0 removed\n"),
        (
            Event::PortAdded { port: Box::new(wire_port("a/0/net0", "red-a").into()) },
            "port default/red-a net0 added: up, red 10.66.0.2, queues 1/2\n",
        ),
        (
            Event::WorkersChanged {
                workers: vec![Worker { index: 1, cpu: 3 }],
                mode: WorkerMode::Adaptive,
            },
            "workers now: 1 on CPU 3; when idle: adaptive\n",
        ),
        (
            Event::PeerRefused { id: "a/0/net0".into(), pid: 9, why: "\u{1b}[31mno".into() },
            "port a/0/net0 refused process 9: \\u{1b}[31mno\n",
        ),
    ] {
        assert_eq!(event(&shown), line);
    }
}

#[test]
fn scaled_numbers() {
    for (value, text) in [
        (0, "0"),
        (999, "999"),
        (1000, "1.00k"),
        (9_876_543, "9.87M"),
        (12_345_678_901, "12.34G"),
        (u64::MAX, "18446744.07T"),
    ] {
        assert_eq!(scaled(value), text);
    }
}

#[test]
fn percentiles_are_readable() {
    for (latency, text) in [
        (vec![], ""),
        (vec![1, 0], "128 ns"),
        (vec![0, 0, 0, 1, 0], "1 us"),
        (vec![0; 14].into_iter().chain([1, 0]).collect(), "2097 us"),
        (vec![0, 1], "long"),
    ] {
        assert_eq!(p99(&Latency(latency)), text);
    }
}
