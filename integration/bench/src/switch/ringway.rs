//! The vRouter as it is installed: its own program and configuration, networks and ports over its control API.

mod tunnel;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use integration::machine::program;
use integration::process::Daemon;
use integration::vrouter::VRouter;
use integration::wait;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use vrouter_api::v1::{Network, NetworkMode, PortSpec, PortState, RouteKind, Tunnel, WorkerStats};

use crate::cells::{Subject, Traffic};
use crate::switch::{Place, Switch, Window, mtu, per_packet};
use integration::idle_pods::ATTACHED;
use integration::launch::Side;
use integration::memory::Resident;
use integration::pktgen::Endpoint;

/// The pods' network.
const NETWORK: &str = "bench";
/// Its table of the kernel's, where it has one.
pub const KERNEL_TABLE: u32 = 77;
/// Time for many handshakes.
const ATTACH: Duration = Duration::from_secs(60);

/// Where each pod's flows go: addresses that lead to the other pod by a route of their own.
const DESTINATIONS: [Ipv4Addr; 2] = [Ipv4Addr::new(11, 0, 0, 0), Ipv4Addr::new(12, 0, 0, 0)];
/// Routes of the two pods together, unless the subject says otherwise: one for each flow of the usual cells.
const ROUTES: u32 = 2 * 1024;

/// A running vRouter. Fields are dropped in this order: pods leave before it ends.
pub struct Ringway {
    idle: Option<Daemon>,
    vrouter: VRouter,
    endpoints: [Endpoint; 2],
    control_cpu: u16,
    tsc_hz: f64,
    begun: Option<(Instant, WorkerStats)>,
    before_pods: Resident,
    /// Destinations of a pod that have a route.
    addresses: u32,
}

impl Ringway {
    /// Starts it with one worker, two ports and the subject's idle pods.
    pub fn start(subject: &Subject, traffic: &Traffic, place: Place) -> Result<Self> {
        let socket = place.directory.join("control.sock");
        let config = place.directory.join("vrouter.toml");
        let text = format!(
            "control_socket = \"{}\"\nrun_dir = \"{}\"\n[workers]\ncpus = [{}]\n",
            socket.display(),
            place.directory.display(),
            place.worker_cpu
        );
        fs::write(&config, text)?;
        let command = match &place.namespace {
            None => Command::new(program("ringway-vrouter")?),
            Some(name) => {
                let mut command = Command::new("/usr/sbin/ip");
                command.args(["netns", "exec", name]).arg(program("ringway-vrouter")?);
                command
            }
        };
        let vrouter = VRouter::start_as(command, &config, &socket, &place.log("vrouter"))?;
        let api = Api { vrouter: &vrouter, cgroup: place.cgroups.path(Side::Pods) };

        let mtu = mtu(traffic).into();
        let mode = if subject.bridged { NetworkMode::Bridged } else { NetworkMode::Routed };
        let network = match place.namespace {
            None => api.network(NETWORK, "10.66.0.0/16", mtu, mode, None)?,
            // Its own kernel has a table for it.
            Some(_) => vrouter.create_network(Network {
                name: NETWORK.to_owned(),
                ipv4: "10.66.0.0/16".to_owned(),
                ipv6: "fd00:66::/64".to_owned(),
                mtu,
                mode: mode.into(),
                kernel_table: KERNEL_TABLE,
                ..Network::default()
            })?,
        };
        let far = subject.tunnel.then(|| tunnel::Far::create(&api, mtu)).transpose()?;
        let ips = [2, 3].map(|last| Ipv4Addr::new(10, 66, 0, last));
        let mut endpoints = Vec::new();
        for (index, ip) in ips.into_iter().enumerate() {
            let socket = place.directory.join(format!("pod{index}.sock"));
            let mac_of = |index: usize| format!("02:00:00:00:00:{:02x}", 0x0a + index);
            let mac = mac_of(index);
            let [a, b] = ips;
            let other = if ip == a { b } else { a };
            let to_ip = DESTINATIONS[index];
            let routes = subject.routes.unwrap_or(ROUTES) / 2;
            if let Some(far) = &far {
                endpoints.push(far.endpoint(&api, index, mac, ip, socket, to_ip, routes)?);
                continue;
            }
            api.port(&network.name, &format!("pod{index}"), &mac, ip, &socket)?;
            vrouter.set_host_routes(&network.name, to_ip, routes, RouteKind::Via, other)?;
            let to_mac =
                if subject.bridged { mac_of(1 - index) } else { network.gateway_mac.clone() };
            endpoints.push(Endpoint { socket, mac, ip, to_mac, to_ip, tunnel: None });
        }
        let [a, b] = <[Endpoint; 2]>::try_from(endpoints).map_err(|_| anyhow!("not two pods"))?;
        let before_pods = Resident::of(vrouter.pid())?;
        let mut it = Self {
            idle: None,
            vrouter,
            endpoints: [a, b],
            control_cpu: place.control_cpu,
            tsc_hz: place.tsc_hz,
            begun: None,
            before_pods,
            addresses: subject.routes.unwrap_or(ROUTES) / 2,
        };
        if subject.idle_pods > 0 {
            let api = Api { vrouter: &it.vrouter, cgroup: place.cgroups.path(Side::Pods) };
            let sockets = api.idle_ports(&place.directory, subject.idle_pods)?;
            it.idle = Some(it.attach_idle(&place, &sockets)?);
        }
        it.confine_control()?;
        Ok(it)
    }

    fn attach_idle(&self, place: &Place, sockets: &[PathBuf]) -> Result<Daemon> {
        let own = std::env::current_exe().context("cannot find this program")?;
        let mut command: Command = place.cgroups.command(Side::Pods, place.control_cpu, own);
        command.arg("idle-pods");
        for socket in sockets {
            command.arg("--socket").arg(socket);
        }
        let mut pods = Daemon::start("idle pods", command, &place.log("idle-pods"))?;
        let log = pods.log().to_owned();
        let said = format!("{ATTACHED} {}\n", sockets.len());
        let all = || Ok(fs::read_to_string(&log)?.contains(&said).then_some(()));
        pods.wait_for("all are attached", ATTACH, all)?;
        let wanted = sockets.len();
        wait::until(&format!("{wanted} ports are up"), ATTACH, || {
            let ports = self.vrouter.ports()?;
            let up = ports.iter().filter(|port| port.state() == PortState::Up).count();
            Ok((up >= wanted).then_some(()))
        })?;
        Ok(pods)
    }

    /// Everything but the worker leaves the worker's CPU, as on a node where the kubelet has set that CPU apart.
    fn confine_control(&self) -> Result<()> {
        let mut cpus = CpuSet::new();
        cpus.set(usize::from(self.control_cpu))?;
        for task in fs::read_dir(format!("/proc/{}/task", self.vrouter.pid()))? {
            let task = task?.path();
            // A thread may end between the look and the change.
            let Ok(name) = fs::read_to_string(task.join("comm")) else { continue };
            let id = task.file_name().and_then(|it| it.to_str()).and_then(|it| it.parse().ok());
            if let Some(id) = id
                && !name.starts_with("worker-")
            {
                let _gone = sched_setaffinity(Pid::from_raw(id), &cpus);
            }
        }
        Ok(())
    }

    /// Routes of the pods' network, the kernel's included.
    pub fn routes(&self) -> Result<u64> {
        Ok(self.vrouter.network(NETWORK)?.routes)
    }

    fn worker(&self) -> Result<WorkerStats> {
        let mut workers = self.vrouter.stats()?.workers;
        match workers.len() {
            1 => Ok(workers.remove(0)),
            number => bail!("the vRouter has {number} workers, 1 was configured"),
        }
    }
}

impl Switch for Ringway {
    fn endpoints(&self) -> [Endpoint; 2] {
        self.endpoints.clone()
    }

    fn addresses(&self, wanted: u32) -> u32 {
        wanted.min(self.addresses)
    }

    /// Sessions start threads of their own.
    fn attached(&mut self) -> Result<()> {
        self.confine_control()
    }

    fn begin(&mut self) -> Result<()> {
        self.begun = Some((Instant::now(), self.worker()?));
        Ok(())
    }

    fn end(&mut self) -> Result<Window> {
        let (since, before) = self.begun.take().context("the window was not begun")?;
        let after = self.worker()?;
        window(&before, &after, since.elapsed(), self.tsc_hz)
            .context("the vRouter's worker counts backwards")
    }

    fn pid(&self) -> u32 {
        self.vrouter.pid()
    }

    fn resident_before_pods(&self) -> Option<Resident> {
        Some(self.before_pods)
    }
}

/// What a worker did between two readings.
fn window(
    before: &WorkerStats,
    after: &WorkerStats,
    elapsed: Duration,
    tsc_hz: f64,
) -> Option<Window> {
    let packets = after.packets.checked_sub(before.packets)?;
    let bursts = after.bursts.checked_sub(before.bursts)?;
    let busy = after.busy_ns.checked_sub(before.busy_ns)? as f64 / 1e9;
    Some(Window {
        packets,
        cycles_per_packet: per_packet(busy * tsc_hz, packets),
        busy: Some(busy / elapsed.as_secs_f64()),
        burst: (bursts > 0).then(|| packets as f64 / bursts as f64),
        drops: drops(before, after),
    })
}

/// What was discarded between two readings, without the reasons that did not occur.
fn drops(before: &WorkerStats, after: &WorkerStats) -> BTreeMap<String, u64> {
    let then = |reason: &str| {
        before.drops.iter().find(|it| it.reason == reason).map_or(0, |it| it.packets)
    };
    let changes = after
        .drops
        .iter()
        .map(|it| (it.reason.clone(), it.packets.saturating_sub(then(&it.reason))));
    changes.filter(|(_, packets)| *packets > 0).collect()
}

/// The networks and ports of one vRouter.
struct Api<'a> {
    vrouter: &'a VRouter,
    /// Where pods are.
    cgroup: String,
}

impl Api<'_> {
    fn network(
        &self,
        name: &str,
        ipv4: &str,
        mtu: u32,
        mode: NetworkMode,
        tunnel: Option<Tunnel>,
    ) -> Result<Network> {
        let (name, ipv4, mode) = (name.to_owned(), ipv4.to_owned(), mode.into());
        self.vrouter.create_network(Network { name, ipv4, mtu, mode, tunnel, ..Network::default() })
    }

    fn port(
        &self,
        network: &str,
        id: &str,
        mac: &str,
        ipv4: Ipv4Addr,
        socket: &Path,
    ) -> Result<()> {
        self.vrouter.create_port(PortSpec {
            id: id.to_owned(),
            network: network.to_owned(),
            mac: mac.to_owned(),
            ipv4: ipv4.to_string(),
            socket_path: socket.display().to_string(),
            queue_pairs: 1,
            peer_cgroups: vec![self.cgroup.clone()],
            ..PortSpec::default()
        })?;
        Ok(())
    }

    /// Ports for idle pods, in a network of their own; gives their sockets.
    fn idle_ports(&self, directory: &Path, number: u16) -> Result<Vec<PathBuf>> {
        let network = self.network("idle", "10.80.0.0/16", 1500, NetworkMode::Routed, None)?;
        let mut sockets = Vec::new();
        for index in 0..number {
            let [high, low] = index.to_be_bytes();
            // The first addresses are the network's and the gateway's.
            let ip = Ipv4Addr::new(10, 80, 1 + high, low);
            let socket = directory.join(format!("idle{index}.sock"));
            let mac = format!("02:00:00:01:{high:02x}:{low:02x}");
            self.port(&network.name, &format!("idle{index}"), &mac, ip, &socket)?;
            sockets.push(socket);
        }
        Ok(sockets)
    }
}

#[cfg(test)]
mod tests {
    use vrouter_api::v1::DropCount;

    use super::*;

    #[test]
    fn busy_time_becomes_cycles_per_packet() {
        let drop = |packets| DropCount { reason: "rx_ring_full".to_owned(), packets };
        let before = WorkerStats {
            packets: 100,
            bursts: 50,
            busy_ns: 1_000,
            drops: vec![drop(3)],
            ..WorkerStats::default()
        };
        let after = WorkerStats {
            packets: 10_000_100,
            bursts: 400_050,
            busy_ns: 500_001_000,
            drops: vec![drop(8), DropCount { reason: "ttl".to_owned(), packets: 0 }],
            ..WorkerStats::default()
        };
        let expected = Window {
            packets: 10_000_000,
            cycles_per_packet: Some(100.0),
            busy: Some(0.5),
            burst: Some(25.0),
            drops: BTreeMap::from([("rx_ring_full".to_owned(), 5)]),
        };
        assert_eq!(window(&before, &after, Duration::from_secs(1), 2e9), Some(expected));
        let nothing = window(&after, &after, Duration::from_secs(1), 2e9).unwrap();
        assert_eq!((nothing.packets, nothing.cycles_per_packet), (0, None));
        assert_eq!(window(&after, &before, Duration::from_secs(1), 2e9), None);
    }
}
