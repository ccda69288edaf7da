//! Tables for people.

pub(crate) mod explain;

use crate::table::Align::{Left, Right};
use crate::table::{Table, plain};
use crate::view::pods::Pod;
use crate::view::uplinks::{Uplink, UplinkCounters};
use crate::view::{
    Drops, Event, Info, KernelBridge, KernelPort, Latency, Mode, Network, NetworkMode, Owner,
    Policer, Port, Rates, State, Stats, Tunnel, Worker, WorkerQueues,
};

/// Characters of a sandbox id that crictl shows, and people compare.
const SHORT_ID: usize = 12;

pub(crate) fn pods(pods: &[Pod]) -> String {
    let mut table = Table::new(&[
        ("SANDBOX", Left),
        ("POD", Left),
        ("VROUTER", Left),
        ("CPUS", Left),
        ("CPU NODE", Left),
        ("MEM NODE", Left),
        ("VROUTER NODE", Left),
        ("NIC NODE", Left),
        ("ALIGNED", Left),
        ("CROSSED", Right),
    ]);
    for it in pods {
        let cpus: Vec<_> = it.containers.iter().map(|container| container.cpus.as_str()).collect();
        let number = |number: Option<u32>| number.map(|number| number.to_string());
        table.row([
            it.sandbox.chars().take(SHORT_ID).collect(),
            pod(&it.namespace, &it.pod),
            number(it.instance).or_else(|| it.vrouter.clone()).unwrap_or_default(),
            cpus.join(" "),
            it.cpu_nodes.clone(),
            it.memory_nodes.clone(),
            number(it.vrouter_node).unwrap_or_default(),
            it.nic_nodes.clone(),
            it.aligned.map(|it| if it { "yes" } else { "no" }.to_owned()).unwrap_or_default(),
            it.numa_crossings.map(|it| it.to_string()).unwrap_or_default(),
        ]);
    }
    table.render()
}

pub(crate) fn info(info: &Info) -> String {
    let node = info.numa_node.map_or_else(|| "all".to_owned(), |node| node.to_string());
    let Info { version, dpdk_version, pid, instance_id, .. } = info;
    [
        ("version", version.clone()),
        ("DPDK", dpdk_version.clone()),
        ("NUMA node", node),
        ("process", pid.to_string()),
        ("instance", instance_id.clone()),
        ("workers", on_cpus(&info.workers)),
        ("when idle", info.worker_mode.to_string()),
    ]
    .iter()
    .map(|(name, value)| format!("{name:<11}{}\n", plain(value)))
    .collect()
}

fn on_cpus(workers: &[Worker]) -> String {
    let on_cpu = |worker: &Worker| format!("{} on CPU {}", worker.index, worker.cpu);
    workers.iter().map(on_cpu).collect::<Vec<_>>().join(", ")
}

pub(crate) fn networks(networks: &[Network]) -> String {
    let columns = [
        ("NAME", Left),
        ("MODE", Left),
        ("IPV4", Left),
        ("GATEWAY", Left),
        ("IPV6", Left),
        ("GATEWAY6", Left),
        ("GATEWAY MAC", Left),
        ("MTU", Right),
        ("ROUTES", Right),
        ("STATIONS", Right),
        ("POLICER", Left),
        ("TUNNEL", Left),
        ("KERNEL", Left),
    ];
    let tunnel = |Tunnel { vni, label, ipip, underlay, local, flood, .. }: &Tunnel| {
        let numbers = [
            vni.map(|vni| format!("vni {vni}")),
            label.map(|it| format!("label {it}")),
            ipip.then(|| "ipip".to_owned()),
        ];
        let numbers: Vec<_> = numbers.into_iter().flatten().collect();
        let flood = match flood.as_slice() {
            [] => String::new(),
            ends => format!(", bridged to {}", ends.join(", ")),
        };
        format!("{} from {local} over {underlay}{flood}", numbers.join(", "))
    };
    let mut table = Table::new(&columns);
    for network in networks {
        let is_bridged = network.mode == NetworkMode::Bridged;
        table.row([
            network.name.clone(),
            match (network.external, is_bridged) {
                (true, _) => "external".to_owned(),
                (false, true) => "bridged".to_owned(),
                (false, false) => "routed".to_owned(),
            },
            network.ipv4.clone(),
            network.gateway.clone(),
            network.ipv6.clone().unwrap_or_default(),
            network.gateway6.clone().unwrap_or_default(),
            network.gateway_mac.clone().unwrap_or_default(),
            network.mtu.to_string(),
            network.routes.to_string(),
            if is_bridged { network.stations.to_string() } else { String::new() },
            policer(network.policer),
            network.tunnel.as_ref().map(tunnel).unwrap_or_default()
                + &network.kernel_bridge.as_ref().map(kernel_bridge).unwrap_or_default(),
            kernel(network),
        ]);
    }
    table.render()
}

/// What the kernel's forwarding database adds to a tunnel's ends.
fn kernel_bridge(bridge: &KernelBridge) -> String {
    let mut said = match &bridge.device {
        Some(device) => format!(", {} stations by {device}", bridge.stations),
        None => String::new(),
    };
    if !bridge.ends.is_empty() {
        said += &format!(", by it bridged to {}", bridge.ends.join(", "));
    }
    let left_out = (bridge.left_out > 0).then(|| format!("{} entries left out", bridge.left_out));
    let wrong: Vec<_> = bridge.reason.clone().into_iter().chain(left_out).collect();
    if wrong.is_empty() { said } else { format!("{said} ({})", wrong.join("; ")) }
}

/// The table that its routes come from, and the TAP by which the kernel routes for it.
fn kernel(network: &Network) -> String {
    let table = match (&network.kernel_vrf, network.kernel_table) {
        (Some(vrf), _) => format!("vrf {vrf}"),
        (None, Some(table)) => format!("table {table}"),
        (None, None) => return String::new(),
    };
    let Some(KernelPort { name, reason, .. }) = &network.kernel_port else { return table };
    let reason = reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    format!("{table} by {name}{reason}")
}

/// Packets and bits per second, as far as they are limited.
fn policer(policer: Option<Policer>) -> String {
    let Some(policer) = policer else { return String::new() };
    let packets = policer.packets_per_second.map(|rate| format!("{} pps", scaled(rate)));
    let bits = policer.bits_per_second.map(|rate| format!("{} bit/s", scaled(rate)));
    [packets, bits].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

pub(crate) fn ports(ports: &[Port]) -> String {
    let mut table = Table::new(&[
        ("SANDBOX", Left),
        ("POD", Left),
        ("INTERFACE", Left),
        ("NETWORK", Left),
        ("IP", Left),
        ("IPV6", Left),
        ("MAC", Left),
        ("MODE", Left),
        ("STATE", Left),
        ("QUEUES", Right),
        ("POLICER", Left),
        ("REASON", Left),
    ]);
    for port in ports {
        table.row([
            short_id(port),
            pod(&port.namespace, &port.pod),
            port.interface.clone(),
            port.network.clone(),
            port.ip.clone(),
            port.ipv6.clone().unwrap_or_default(),
            port.mac.clone(),
            mode(port.mode).to_owned(),
            state(port.state).to_owned(),
            format!("{}/{}", port.active_queue_pairs, port.queue_pairs),
            policer(port.policer),
            port.reason.clone().unwrap_or_default(),
        ]);
    }
    table.render()
}

pub(crate) fn uplinks(uplinks: &[Uplink]) -> String {
    let mut table = Table::new(&[
        ("NAME", Left),
        ("DEVICE", Left),
        ("DRIVER", Left),
        ("NETWORK", Left),
        ("HOST INTERFACE", Left),
        ("MAC", Left),
        ("MTU", Right),
        ("LINK", Left),
        ("RX PACKETS", Right),
        ("TX PACKETS", Right),
        ("DROPPED", Right),
        ("PUNTED", Right),
        ("REASON", Left),
    ]);
    for uplink in uplinks {
        let count = |of: fn(&UplinkCounters) -> u64| {
            uplink.counters.as_ref().map(|counters| of(counters).to_string()).unwrap_or_default()
        };
        table.row([
            uplink.name.clone(),
            uplink.devices(),
            uplink.driver.clone(),
            uplink.network.clone(),
            uplink.host_interface.clone().unwrap_or_default(),
            uplink.mac.clone(),
            uplink.mtu.to_string(),
            if uplink.link { "up".to_owned() } else { "down".to_owned() },
            count(|counters| counters.rx_packets),
            count(|counters| counters.tx_packets),
            count(|counters| counters.drops.values().chain(counters.host_drops.values()).sum()),
            count(|counters| counters.punts.values().sum()),
            uplink.reason.clone().unwrap_or_default(),
        ]);
    }
    table.render()
}

pub(crate) fn workers(workers: &[WorkerQueues]) -> String {
    let columns = [("WORKER", Right), ("CPU", Right), ("QUEUES", Right), ("MODE", Left)];
    let mut table = Table::new(&columns);
    for WorkerQueues { index, cpu, queues, mode } in workers {
        table.row([index.to_string(), cpu.to_string(), queues.to_string(), mode.to_string()]);
    }
    table.render()
}

pub(crate) fn stats(stats: &Stats) -> String {
    let mut ports = Table::new(&[
        ("POD", Left),
        ("INTERFACE", Left),
        ("NETWORK", Left),
        ("RX PACKETS", Right),
        ("RX BYTES", Right),
        ("TX PACKETS", Right),
        ("TX BYTES", Right),
        ("DROPS", Right),
        ("CYCLES", Right),
        ("P99", Right),
        ("FULL", Right),
    ]);
    for port in &stats.ports {
        let [pod, interface, network] = owner_cells(&port.owner, &port.id);
        ports.row([
            pod,
            interface,
            network,
            port.rx_packets.to_string(),
            port.rx_bytes.to_string(),
            port.tx_packets.to_string(),
            port.tx_bytes.to_string(),
            sum(port.drops.values()).to_string(),
            figure(some(port.cycles_per_packet)),
            p99(&port.latency),
            seconds(port.ring_full_ns),
        ]);
    }
    let mut workers = Table::new(&[
        ("WORKER", Right),
        ("CPU", Right),
        ("QUEUES", Right),
        ("PACKETS", Right),
        ("BURSTS", Right),
        ("SLEEPS", Right),
        ("BUSY", Right),
        ("CYCLES", Right),
        ("P99", Right),
        ("FORWARDED", Right),
        ("REPLIED", Right),
        ("ORIGINATED", Right),
        ("FLOODED", Right),
        ("DROPS", Right),
    ]);
    for worker in &stats.workers {
        workers.row([
            worker.index.to_string(),
            worker.cpu.to_string(),
            worker.queues.to_string(),
            worker.packets.to_string(),
            worker.bursts.to_string(),
            worker.sleeps.to_string(),
            seconds(worker.busy_ns),
            figure(some(worker.cycles_per_packet)),
            p99(&worker.latency),
            worker.forwarded.to_string(),
            worker.replied.to_string(),
            worker.originated.to_string(),
            worker.flooded.to_string(),
            sum(worker.drops.values()).to_string(),
        ]);
    }
    format!("{}\n{}", ports.render(), workers.render())
}

pub(crate) fn rates(rates: &Rates) -> String {
    let mut ports = Table::new(&[
        ("POD", Left),
        ("INTERFACE", Left),
        ("NETWORK", Left),
        ("RX PPS", Right),
        ("RX BIT/S", Right),
        ("TX PPS", Right),
        ("TX BIT/S", Right),
        ("DROPS/S", Right),
        ("CYCLES", Right),
        ("BURST", Right),
        ("FULL", Right),
    ]);
    for port in &rates.ports {
        let [pod, interface, network] = owner_cells(&port.owner, &port.id);
        ports.row([
            pod,
            interface,
            network,
            port.rx_packets_per_second.to_string(),
            scaled(port.rx_bits_per_second),
            port.tx_packets_per_second.to_string(),
            scaled(port.tx_bits_per_second),
            port.drops_per_second.to_string(),
            figure(port.cycles_per_packet),
            figure(port.packets_per_burst),
            format!("{}%", port.ring_full_percent),
        ]);
    }
    let columns = [
        ("WORKER", Right),
        ("CPU", Right),
        ("PPS", Right),
        ("SLEEPS/S", Right),
        ("BUSY", Right),
        ("CYCLES", Right),
        ("BURST", Right),
        ("DROPS/S", Right),
    ];
    let mut workers = Table::new(&columns);
    for worker in &rates.workers {
        workers.row([
            worker.index.to_string(),
            worker.cpu.to_string(),
            worker.packets_per_second.to_string(),
            worker.sleeps_per_second.to_string(),
            format!("{}%", worker.busy_percent),
            figure(worker.cycles_per_packet),
            figure(worker.packets_per_burst),
            worker.drops_per_second.to_string(),
        ]);
    }
    format!("{}\n{}", ports.render(), workers.render())
}

/// A figure that only exists once there were packets.
fn figure(value: Option<f64>) -> String {
    value.map(|value| format!("{value:.1}")).unwrap_or_default()
}

/// The wire says 0 for a figure that does not exist yet.
fn some(value: f64) -> Option<f64> {
    (value > 0.0).then_some(value)
}

fn seconds(nanoseconds: u64) -> String {
    format!("{}.{:03} s", nanoseconds / 1_000_000_000, nanoseconds / 1_000_000 % 1000)
}

/// What 99 of 100 bursts stayed below.
fn p99(latency: &Latency) -> String {
    match latency.percentile(99) {
        None => String::new(),
        Some(None) => "long".to_owned(),
        Some(Some(ns)) if ns < 1000 => format!("{ns} ns"),
        Some(Some(ns)) => format!("{} us", ns / 1000),
    }
}

pub(crate) fn drops(drops: &Drops) -> String {
    let columns = [
        ("POD", Left),
        ("INTERFACE", Left),
        ("NETWORK", Left),
        ("REASON", Left),
        ("PACKETS", Right),
    ];
    let mut ports = Table::new(&columns);
    for drop in &drops.ports {
        let [pod, interface, network] = owner_cells(&drop.owner, &drop.id);
        ports.row([pod, interface, network, drop.reason.clone(), drop.packets.to_string()]);
    }
    let mut workers = Table::new(&[("WORKER", Right), ("REASON", Left), ("PACKETS", Right)]);
    for drop in &drops.workers {
        workers.row([drop.worker.to_string(), drop.reason.clone(), drop.packets.to_string()]);
    }
    format!("{}\n{}", ports.render(), workers.render())
}

pub(crate) fn event(event: &Event) -> String {
    let line = match event {
        Event::NetworkAdded { network } => {
            let Network { name, ipv4, gateway, mtu, .. } = &**network;
            let ipv6 = network.ipv6.as_deref().map(|ipv6| format!(" {ipv6}")).unwrap_or_default();
            if network.external {
                format!("network {name} added: external, mtu {mtu}")
            } else {
                format!("network {name} added: {ipv4} gateway {gateway}{ipv6} mtu {mtu}")
            }
        }
        Event::NetworkRemoved { name } => format!("network {name} removed"),
        Event::PortAdded { port } => format!("port {} added: {}", name(port), describe(port)),
        Event::PortChanged { port } => format!("port {} changed: {}", name(port), describe(port)),
        Event::PortRemoved { id } => format!("port {id} removed"),
        Event::Synced => "synced".to_owned(),
        Event::PeerRefused { id, pid, why } => format!("port {id} refused process {pid}: {why}"),
        Event::UplinkAdded { uplink } => {
            format!("uplink {} added: {}", uplink.name, link_of(uplink))
        }
        Event::UplinkChanged { uplink } => {
            format!("uplink {} changed: {}", uplink.name, link_of(uplink))
        }
        Event::UplinkRemoved { name } => format!("uplink {name} removed"),
        Event::WorkersChanged { workers, mode } => {
            format!("workers now: {}; when idle: {mode}", on_cpus(workers))
        }
    };
    format!("{}\n", plain(&line))
}

fn name(port: &Port) -> String {
    match port.pod.as_str() {
        "" => port.id.clone(),
        _ => format!("{} {}", pod(&port.namespace, &port.pod), port.interface),
    }
}

fn link_of(uplink: &Uplink) -> String {
    let reason = uplink.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    format!(
        "link {}{reason}, {} {}",
        if uplink.link { "up" } else { "down" },
        uplink.network,
        uplink.devices()
    )
}

fn describe(port: &Port) -> String {
    let Port { network, ip, active_queue_pairs, queue_pairs, .. } = port;
    let reason = port.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let state = state(port.state);
    format!("{state}{reason}, {network} {ip}, queues {active_queue_pairs}/{queue_pairs}")
}

fn short_id(port: &Port) -> String {
    port.sandbox.as_ref().unwrap_or(&port.id).chars().take(SHORT_ID).collect()
}

fn pod(namespace: &str, pod: &str) -> String {
    if namespace.is_empty() { pod.to_owned() } else { format!("{namespace}/{pod}") }
}

/// A port whose owner is not known is shown by its id.
fn owner_cells(owner: &Owner, id: &str) -> [String; 3] {
    let pod = pod(&owner.namespace, &owner.pod);
    let pod = if pod.is_empty() { id.to_owned() } else { pod };
    [pod, owner.interface.clone(), owner.network.clone()]
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Vrouter => "vrouter",
        Mode::Pod => "pod",
        Mode::Kernel => "kernel",
    }
}

fn state(state: State) -> &'static str {
    match state {
        State::Waiting => "waiting",
        State::Connected => "connected",
        State::Up => "up",
    }
}

fn sum<'a>(counts: impl Iterator<Item = &'a u64>) -> u64 {
    counts.fold(0, |sum, count| sum.saturating_add(*count))
}

/// Three digits or so, with a decimal prefix: 9.87G.
fn scaled(value: u64) -> String {
    let units = [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
    match units.iter().find(|(unit, _)| value >= *unit) {
        None => value.to_string(),
        Some((unit, name)) => {
            let hundredths = value / (unit / 100);
            format!("{}.{:02}{name}", hundredths / 100, hundredths % 100)
        }
    }
}

#[cfg(test)]
mod tests;
