//! The vRouter that the tests share, and its ports.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use integration::idle_pods::raise_file_limit;
use integration::launch::{Cgroups, Side};
use integration::machine::{self, Hugepages};
use integration::process::tail;
use integration::rundir::RunDir;
use integration::vrouter::VRouter;
use integration::wait;
use nix::sched::sched_getaffinity;
use nix::unistd::Pid;
use vrouter_api::v1::{Port, PortSpec, PortState, SocketOwner};

/// 2 MiB pages: 512 MiB of pods, 256 MiB of memory that comes and goes, and the vRouter's own.
const HUGEPAGES: u64 = 512;
/// Time for a port to follow its pod.
const FOLLOW: Duration = Duration::from_secs(20);

/// A CPU for pods and one for the vRouter's worker; the first and the last this process may use.
pub fn cpus() -> Result<[u16; 2]> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    let mut all = (0..u16::MAX).filter(|&cpu| set.is_set(cpu.into()).unwrap_or(false));
    match (all.next(), all.next_back()) {
        (Some(first), Some(last)) => Ok([first, last]),
        _ => bail!("needs two CPUs"),
    }
}

/// A port to be made.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Name, also of the socket.
    pub id: &'a str,
    /// Its network.
    pub network: &'a str,
    /// Its address, which its MAC address is made from.
    pub ip: Ipv4Addr,
    /// Queue pairs.
    pub pairs: u32,
    /// The pod listens.
    pub server: bool,
}

impl Wanted<'_> {
    /// The MAC address of a port with this address.
    pub fn mac(ip: Ipv4Addr) -> String {
        let [_, b, c, d] = ip.octets();
        format!("02:00:00:{b:02x}:{c:02x}:{d:02x}")
    }
}

/// A running vRouter. Fields are dropped in this order.
#[derive(Debug)]
pub struct Bed {
    vrouter: VRouter,
    cgroups: Cgroups,
    run: RunDir,
    /// CPU of pods.
    pub pod_cpu: u16,
    /// CPU of the worker.
    pub worker_cpu: u16,
    /// Ports of the test that runs.
    ports: Vec<String>,
    /// Runs of programs, for the names of their logs.
    started: u32,
}

impl Bed {
    /// Prepares the machine and starts the vRouter.
    pub fn make() -> Result<Self> {
        let run = RunDir::create()?;
        machine::prepare(&run.path(), Hugepages::Free(HUGEPAGES))?;
        raise_file_limit()?;
        let cgroups = Cgroups::create(&run)?;
        let [pod_cpu, worker_cpu] = cpus().or_else(|_| cpus_of_one())?;
        let (config, socket) = (config_of(&run), VRouter::socket_of(&run));
        let text = format!(
            "control_socket = \"{}\"\nrun_dir = \"{}\"\n[workers]\ncpus = [{worker_cpu}]\n",
            socket.display(),
            run.path().display(),
        );
        fs::write(&config, text)?;
        let vrouter = start(&run)?;
        Ok(Self { vrouter, cgroups, run, pod_cpu, worker_cpu, ports: Vec::new(), started: 0 })
    }

    /// Ends the vRouter as a crash would and starts it again; it knows no ports then.
    pub fn restart(&mut self) -> Result<()> {
        self.vrouter.process().crash()?;
        self.ports.clear();
        self.vrouter = start(&self.run)?;
        Ok(())
    }

    /// The vRouter.
    pub fn vrouter(&self) -> &VRouter {
        &self.vrouter
    }

    /// Cgroups of pods.
    pub fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// A new log file.
    pub fn log(&mut self, program: &str) -> PathBuf {
        self.started += 1;
        self.run.path().join(format!("{program}-{}.log", self.started))
    }

    /// The socket of a port.
    pub fn socket(&self, id: &str) -> PathBuf {
        self.run.path().join(format!("{id}.sock"))
    }

    /// Makes a port; it goes with the test.
    pub fn port(&mut self, wanted: Wanted<'_>) -> Result<Port> {
        let owner = if wanted.server { SocketOwner::Pod } else { SocketOwner::Vrouter };
        let port = self.vrouter.create_port(PortSpec {
            id: wanted.id.to_owned(),
            network: wanted.network.to_owned(),
            mac: Wanted::mac(wanted.ip),
            ipv4: wanted.ip.to_string(),
            socket_path: self.socket(wanted.id).display().to_string(),
            socket_owner: owner.into(),
            queue_pairs: wanted.pairs,
            peer_cgroups: vec![self.cgroups.path(Side::Pods)],
            ..PortSpec::default()
        })?;
        self.ports.push(wanted.id.to_owned());
        Ok(port)
    }

    /// What the vRouter says of a port now.
    pub fn find(&self, id: &str) -> Result<Port> {
        let ports = self.vrouter.ports()?;
        let is = |port: &Port| port.spec.as_ref().is_some_and(|spec| spec.id == id);
        ports.into_iter().find(is).with_context(|| format!("there is no port {id}"))
    }

    /// Waits until a port is as wanted.
    pub fn wait_port(&self, id: &str, what: &str, which: impl Fn(&Port) -> bool) -> Result<Port> {
        wait::until(&format!("port {id} {what}"), FOLLOW, || {
            Ok(Some(self.find(id)?).filter(|port| which(port)))
        })
        .with_context(|| format!("last seen: {:?}", self.find(id)))
    }

    /// Waits until a port carries traffic on `pairs` queue pairs.
    pub fn wait_up(&self, id: &str, pairs: u32) -> Result<Port> {
        self.wait_port(id, &format!("runs with {pairs} queue pairs"), |port| {
            port.state() == PortState::Up && port.active_queue_pairs == pairs
        })
    }

    /// Removes the ports of a test that has passed.
    pub fn clear(&mut self) -> Result<()> {
        for id in std::mem::take(&mut self.ports) {
            self.vrouter.delete_port(&id)?;
        }
        Ok(())
    }

    /// The ends of all logs, for a person.
    pub fn log_ends(&self) -> String {
        let Ok(entries) = fs::read_dir(self.run.path()) else { return String::new() };
        let mut logs: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|it| it == "log"))
            .collect();
        logs.sort_by_key(|path| fs::metadata(path).and_then(|it| it.modified()).ok());
        // The latest, and the vRouter's in any case.
        let latest = logs.len().saturating_sub(3);
        let is_shown = |(at, path): &(usize, &PathBuf)| {
            *at >= latest || path.file_name().is_some_and(|name| name == "vrouter.log")
        };
        let show = |path: &Path| format!("--- {}\n{}\n", path.display(), tail(path, 25));
        logs.iter().enumerate().filter(is_shown).map(|(_, path)| show(path)).collect()
    }
}

fn config_of(run: &RunDir) -> PathBuf {
    run.path().join("vrouter.toml")
}

fn start(run: &RunDir) -> Result<VRouter> {
    let log = run.path().join("vrouter.log");
    VRouter::start_with(&config_of(run), &VRouter::socket_of(run), &log)
}

/// The only CPU twice.
fn cpus_of_one() -> Result<[u16; 2]> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    let first = (0..u16::MAX).find(|&cpu| set.is_set(cpu.into()).unwrap_or(false));
    first.map(|cpu| [cpu, cpu]).context("this process may use no CPU")
}
