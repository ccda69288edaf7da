//! What a packet costs in `process`: batches of 32 that are forwarded, by number of routes. `cargo bench -p
//! vrouter-core`; multiply the time by the clock for cycles.
//!
//! Heads are copied into the batch before each run, as the caller does; `copy` is that alone, to be subtracted.

#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use vrouter_core::{
    FloodLimit, Ipv6Network, Mode, MplsEnd, NetworkIndex, NetworkPolicy, Packet, Path, Paths,
    Policy, PortIndex, PortLimits, PortPolicy, PortRole, Rates, RouteChange, RouteTarget, Tables,
    Timestamp, Tunnel, Verdict, Vtep, process,
};
use vrouter_net::mpls::Label;
use vrouter_net::vxlan::{Encapsulation, Endpoint, Inner, OUTER_ROOM, Vni, flow_hash};
use vrouter_net::{Ipv4Prefix, Ipv6Prefix, Mac, checksum};

const BATCH: usize = 32;
const PORTS: u16 = 16;
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0xff, 0xfe];
/// Packets prepared for each case; each goes somewhere else.
const FLOWS: u32 = 65_536;

fn mac(index: u16) -> Mac {
    let [high, low] = index.to_be_bytes();
    Mac::new([2, 0, 0, 0, high, low])
}

fn address(index: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a42_0100 + u32::from(index))
}

fn tables() -> Tables {
    Tables::build(&policy()).unwrap()
}

fn policy() -> Policy {
    let network = NetworkPolicy {
        index: NetworkIndex(0),
        prefix: "10.66.0.0/16".parse().unwrap(),
        gateway: Ipv4Addr::new(10, 66, 0, 1),
        gateway_mac: Mac::new(GATEWAY_MAC),
        mtu: 1500,
        ipv6: Some(Ipv6Network {
            prefix: "fd00:66::/64".parse().unwrap(),
            gateway: Ipv6Addr::new(0xfd00, 0x66, 0, 0, 0, 0, 0, 1),
        }),
        mode: Mode::Routed,
        floods: FloodLimit::default(),
        tunnel: None,
        external: false,
        punts: Default::default(),
    };
    let port = |index| PortPolicy {
        index: PortIndex(index),
        network: NetworkIndex(0),
        mac: mac(index),
        ipv4: address(index),
        ipv6: Some(address6(index)),
        allowed: Vec::new(),
        trunk: false,
        rates: Rates::default(),
        role: Default::default(),
        mtu: None,
    };
    let ports = (0..PORTS).map(port).collect();
    Policy { networks: vec![network], ports }
}

/// Routes side by side, each via another port than port 0.
fn routes(count: u32, length: u8) -> Vec<RouteChange> {
    let prefix = |i: u32| {
        let bits = 0x1400_0000 + (i << (32 - length));
        Ipv4Prefix::containing(Ipv4Addr::from_bits(bits), length).into()
    };
    (0..count)
        .zip((1..PORTS).cycle())
        .map(|(i, port)| RouteChange {
            prefix: prefix(i),
            target: Some(RouteTarget::Via(address(port).into())),
        })
        .collect()
}

/// The first 64 bytes of a 60-byte UDP frame from port 0.
fn head(to: Ipv4Addr) -> [u8; 64] {
    let mut head = [0; 64];
    head[..6].copy_from_slice(&GATEWAY_MAC);
    head[6..12].copy_from_slice(&mac(0).octets());
    head[12..18].copy_from_slice(&[8, 0, 0x45, 0, 0, 46]);
    head[22..24].copy_from_slice(&[64, 17]);
    head[26..30].copy_from_slice(&address(0).octets());
    head[30..34].copy_from_slice(&to.octets());
    let sum = checksum::compute(&head[14..34]);
    head[24..26].copy_from_slice(&sum.to_be_bytes());
    head
}

fn address6(index: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x66, 0, 0, 0, 0, 1, index)
}

/// The first 64 bytes of a UDP frame over IPv6 from port 0, as short as the other.
fn head6(to: Ipv6Addr) -> [u8; 64] {
    let mut head = [0; 64];
    head[..6].copy_from_slice(&GATEWAY_MAC);
    head[6..12].copy_from_slice(&mac(0).octets());
    head[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
    head[19..22].copy_from_slice(&[6, 17, 64]);
    head[22..38].copy_from_slice(&address6(0).octets());
    head[38..54].copy_from_slice(&to.octets());
    head
}

fn fill(batch: &mut [Packet; BATCH], heads: &[[u8; 64]]) {
    for (packet, head) in batch.iter_mut().zip(heads) {
        packet.header[..64].copy_from_slice(head);
        packet.header_len = 60;
        packet.frame_len = 60;
    }
}

fn forward(c: &mut Criterion) {
    let mut group = c.benchmark_group("forward");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (count, length) in [(1_024, 32), (65_536, 32), (1_000_000, 32), (1_000_000, 24)] {
        let changes = routes(count, length);
        let tables = tables().with_routes(NetworkIndex(0), &changes).unwrap();
        // A stride without a pattern, so that look-ups are spread over all routes.
        let step = 0x9e37_79b1_u32;
        let heads: Vec<_> = (0..FLOWS)
            .map(|i| {
                let at = i.wrapping_mul(step) % count;
                head(Ipv4Addr::from_bits(0x1400_0000 + (at << (32 - length))))
            })
            .collect();
        let mut batch = [Packet::EMPTY; BATCH];
        let mut limits = PortLimits::default();
        let mut parts = heads.chunks_exact(BATCH).cycle();
        let name = format!("{count} routes of /{length}");
        group.bench_function(BenchmarkId::new("copy", &name), |b| {
            b.iter(|| fill(black_box(&mut batch), parts.next().unwrap()));
        });
        group.bench_function(BenchmarkId::new("copy and process", &name), |b| {
            b.iter(|| {
                fill(black_box(&mut batch), parts.next().unwrap());
                process(&tables, Timestamp::default(), PortIndex(0), &mut batch, &mut limits)
            });
        });
        fill(&mut batch, parts.next().unwrap());
        process(&tables, Timestamp::default(), PortIndex(0), &mut batch, &mut limits);
        assert!(batch.iter().all(|packet| matches!(packet.verdict, Verdict::Forward(_))));
    }
}

/// The same over IPv6, to ports and by many routes.
fn forward6(c: &mut Criterion) {
    let mut group = c.benchmark_group("forward IPv6");
    group.throughput(Throughput::Elements(BATCH as u64));
    let address = |bits: u32| Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(bits) << 80 | 1);
    for count in [0, 1_024, 1_000_000] {
        let via = |port| Some(RouteTarget::Via(address6(port).into()));
        let changes: Vec<_> = (0..count)
            .zip((1..PORTS).cycle())
            .map(|(i, port)| RouteChange {
                prefix: Ipv6Prefix::containing(address(i), 48).into(),
                target: via(port),
            })
            .collect();
        let tables = tables().with_routes(NetworkIndex(0), &changes).unwrap();
        let heads: Vec<_> = (0..FLOWS)
            .zip((1..PORTS).cycle())
            .map(|(i, port)| match count {
                0 => head6(address6(port)),
                count => head6(address(i.wrapping_mul(0x9e37_79b9) % count)),
            })
            .collect();
        let mut batch = [Packet::EMPTY; BATCH];
        let mut limits = PortLimits::default();
        let mut parts = heads.chunks_exact(BATCH).cycle();
        let name = if count == 0 { "ports".into() } else { format!("{count} routes of /48") };
        group.bench_function(BenchmarkId::new("copy and process", name), |b| {
            b.iter(|| {
                fill(black_box(&mut batch), parts.next().unwrap());
                process(&tables, Timestamp::default(), PortIndex(0), &mut batch, &mut limits)
            });
        });
        fill(&mut batch, parts.next().unwrap());
        process(&tables, Timestamp::default(), PortIndex(0), &mut batch, &mut limits);
        assert!(batch.iter().all(|packet| matches!(packet.verdict, Verdict::Forward(_))));
    }
}

/// Forwarding into a tunnel and out of one, beside plain forwarding of the same packets.
fn tunnel(c: &mut Criterion) {
    let mut group = c.benchmark_group("tunnel");
    group.throughput(Throughput::Elements(BATCH as u64));
    // The other network has the tunnel, and the first one carries it: its port 2 is the tunnel's other end.
    let (here, there) = (IpAddr::from([10, 66, 0, 1]), IpAddr::from(address(2)));
    let vni = Vni::new(7).unwrap();
    let mut policy = policy();
    let tunnel =
        Tunnel { vni: Some(vni), label: None, ipip: false, underlay: NetworkIndex(0), local: here };
    policy.networks.push(NetworkPolicy {
        index: NetworkIndex(1),
        tunnel: Some(tunnel),
        ..policy.networks[0]
    });
    let other = |port: &PortPolicy| PortPolicy {
        index: PortIndex(port.index.0 + PORTS),
        network: NetworkIndex(1),
        ..port.clone()
    };
    let others: Vec<_> = policy.ports.iter().map(other).collect();
    policy.ports.extend(others);
    let far = RouteChange {
        prefix: "20.0.0.0/8".parse().unwrap(),
        target: Some(RouteTarget::Vxlan(Vtep { address: there, mac: None })),
    };
    let tables = Tables::build(&policy).unwrap().with_routes(NetworkIndex(1), &[far]).unwrap();

    let plain: Vec<_> = (1..PORTS).cycle().take(1024).map(|port| head(address(port))).collect();
    let into: Vec<_> = (0..1024).map(|i| head(Ipv4Addr::from_bits(0x1400_0000 + i))).collect();
    let ends = [(2, there), (0, here)].map(|(last, address)| Endpoint {
        mac: if last == 0 { Mac::new(GATEWAY_MAC) } else { mac(last) },
        address,
    });
    let outer = Encapsulation::new(vni, ends[0], ends[1]).unwrap();
    let out_of: Vec<[u8; 128]> = plain
        .iter()
        .map(|inner| {
            let mut head = [0; 128];
            let mut room = [0; OUTER_ROOM];
            let what = Inner { frame_bytes: 60, flow: flow_hash(inner), ecn: 0, is_ipv6: false };
            let bytes = outer.write(&mut room, what).unwrap();
            head[..bytes].copy_from_slice(&room[..bytes]);
            head[bytes..bytes + 64].copy_from_slice(inner);
            head
        })
        .collect();

    let mut batch = [Packet::EMPTY; BATCH];
    let mut limits = PortLimits::default();
    for (name, ingress, heads) in [("plain", PORTS, &plain), ("into", PORTS, &into)] {
        let mut parts = heads.chunks_exact(BATCH).cycle();
        let mut step = |batch: &mut [Packet; BATCH]| {
            fill(batch, parts.next().unwrap());
            process(&tables, Timestamp::default(), PortIndex(ingress), batch, &mut limits)
        };
        group.bench_function(name, |b| b.iter(|| step(black_box(&mut batch))));
        step(&mut batch);
        let way = batch.map(|packet| packet.verdict);
        assert!(way.iter().all(|verdict| match verdict {
            Verdict::Encapsulate(to) => name == "into" && to.0 == 2,
            Verdict::Forward(_) => name == "plain",
            _ => false,
        }));
    }
    let mut parts = out_of.chunks_exact(BATCH).cycle();
    let mut step = |batch: &mut [Packet; BATCH]| {
        for (packet, head) in batch.iter_mut().zip(parts.next().unwrap()) {
            packet.header.copy_from_slice(head);
            packet.header_len = 110;
            packet.frame_len = 110;
        }
        process(&tables, Timestamp::default(), PortIndex(2), batch, &mut limits)
    };
    group.bench_function("out of", |b| b.iter(|| step(black_box(&mut batch))));
    step(&mut batch);
    assert!(batch.iter().all(|packet| matches!(packet.verdict, Verdict::Decapsulate(_))));
}

/// Frames between ports of a bridged network.
fn bridge(c: &mut Criterion) {
    let mut group = c.benchmark_group("bridge");
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut policy = policy();
    policy.networks[0].mode = Mode::Bridged;
    let tables = Tables::build(&policy).unwrap();
    let bridged = |head: [u8; 64], port| {
        let mut head = head;
        head[..6].copy_from_slice(&mac(port).octets());
        head
    };
    for (name, several, six) in
        [("one port", false, false), ("15 ports", true, false), ("one port, IPv6", false, true)]
    {
        let ports = (1..if several { PORTS } else { 2 }).cycle().take(1024);
        let heads: Vec<_> = ports
            .map(|port| {
                bridged(if six { head6(address6(port)) } else { head(address(port)) }, port)
            })
            .collect();
        let mut batch = [Packet::EMPTY; BATCH];
        let mut limits = PortLimits::default();
        let mut parts = heads.chunks_exact(BATCH).cycle();
        let mut step = |batch: &mut [Packet; BATCH]| {
            fill(batch, parts.next().unwrap());
            process(&tables, Timestamp::default(), PortIndex(0), batch, &mut limits)
        };
        group.bench_function(name, |b| b.iter(|| step(black_box(&mut batch))));
        step(&mut batch);
        assert!(batch.iter().all(|packet| matches!(packet.verdict, Verdict::Forward(_))));
    }
}

/// From wire to wire over one link and over four, and from a pod into MPLS over either.
fn uplinks(c: &mut Criterion) {
    const FABRIC: NetworkIndex = NetworkIndex(1);
    let mut group = c.benchmark_group("uplinks");
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut policy = policy();
    policy.networks.push(NetworkPolicy::external(FABRIC, 1600));
    let local = IpAddr::from([192, 0, 2, 1]);
    let tunnel = Tunnel { vni: None, label: Label::new(100), ipip: false, underlay: FABRIC, local };
    policy.networks[0].tunnel = Some(tunnel);
    let uplinks = 100..104_u16;
    policy.ports.extend(uplinks.clone().map(|index| PortPolicy {
        index: PortIndex(index),
        network: FABRIC,
        role: PortRole::Uplink { host: None },
        mac: mac(index),
        ipv4: Ipv4Addr::UNSPECIFIED,
        ipv6: None,
        allowed: Vec::new(),
        trunk: false,
        rates: Rates::default(),
        mtu: None,
    }));
    let link = |index| RouteTarget::Link { port: PortIndex(index), mac: mac(index + 100) };
    let paths = uplinks.map(|index| Path { target: link(index), weight: 1 });
    let several = RouteTarget::Multipath(Paths::new(paths.collect()));
    let route = |prefix: &str, target| RouteChange {
        prefix: prefix.parse().unwrap(),
        target: Some(target),
    };
    let far = |last| MplsEnd { address: [30, 0, last, 1].into(), label: Label::new(99).unwrap() };
    let tables = Tables::build(&policy).unwrap();
    let fabric = [
        route("20.0.0.0/8", link(101)),
        route("30.0.0.0/24", link(101)),
        route("21.0.0.0/8", several.clone()),
        route("30.0.1.0/24", several),
    ];
    let tables = tables.with_routes(FABRIC, &fabric).unwrap();
    let red = [
        route("20.0.0.0/8", RouteTarget::MplsUdp(far(0))),
        route("21.0.0.0/8", RouteTarget::MplsUdp(far(1))),
    ];
    let tables = tables.with_routes(NetworkIndex(0), &red).unwrap();
    for (name, ingress, net) in [
        ("wire to wire", 100, 20),
        ("wire to wire, 4 paths", 100, 21),
        ("into MPLS", 0, 20),
        ("into MPLS, 4 paths", 0, 21),
    ] {
        let heads: Vec<_> = (0..1024)
            .map(|i| {
                let mut head = head(Ipv4Addr::from_bits((net << 24) + i));
                if ingress != 0 {
                    head[..6].copy_from_slice(&mac(ingress).octets());
                }
                head
            })
            .collect();
        let mut batch = [Packet::EMPTY; BATCH];
        let mut limits = PortLimits::default();
        let mut parts = heads.chunks_exact(BATCH).cycle();
        let mut step = |batch: &mut [Packet; BATCH]| {
            fill(batch, parts.next().unwrap());
            process(&tables, Timestamp::default(), PortIndex(ingress), batch, &mut limits)
        };
        group.bench_function(name, |b| b.iter(|| step(black_box(&mut batch))));
        step(&mut batch);
        assert!(batch.iter().all(|packet| match packet.verdict {
            Verdict::Forward(to) => ingress != 0 && (net == 21 || to.0 == 101),
            Verdict::Encapsulate(to) => ingress == 0 && (net == 21 || to.0 == 101),
            _ => false,
        }));
    }
}

/// Loading many routes, and changing one of them afterwards.
fn change(c: &mut Criterion) {
    let mut group = c.benchmark_group("change");
    group.sample_size(10);
    for count in [1_024, 1_000_000] {
        let changes = routes(count, 32);
        group.bench_function(BenchmarkId::new("load routes", count), |b| {
            b.iter(|| tables().with_routes(NetworkIndex(0), black_box(&changes)).unwrap());
        });
        let mut tables = tables().with_routes(NetworkIndex(0), &changes).unwrap();
        let mut some = changes.iter().step_by(7919).cycle();
        group.bench_function(BenchmarkId::new("one of routes", count), |b| {
            b.iter(|| {
                let change = some.next().unwrap().clone();
                let gone = RouteChange { target: None, ..change };
                let without = tables.with_routes(NetworkIndex(0), &[gone]).unwrap();
                tables = without.with_routes(NetworkIndex(0), &[change]).unwrap();
            });
        });
    }
}

criterion_group!(benches, forward, forward6, tunnel, bridge, uplinks, change);
criterion_main!(benches);
