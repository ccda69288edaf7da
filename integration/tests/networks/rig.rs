//! The vRouter on this machine with pods beside it: no containerd, the pods are plain processes in a cgroup of their own.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::frames::FramePod;
use integration::launch::{Cgroups, Side};
use integration::machine::{self, Hugepages, program};
use integration::rundir::RunDir;
use integration::vrouter::VRouter;
use vrouter_api::v1::{Network, PortSpec, PortStats};

use crate::frames::Mac;

/// Of 2 MiB: 32 for the vRouter, 16 for each of at most four pods, and some to spare.
const HUGEPAGES: Hugepages = Hugepages::Free(128);
const UP: Duration = Duration::from_secs(60);
const SETTLED: Duration = Duration::from_secs(20);

/// Dropped in this order: the vRouter ends before what belongs to the run is taken away.
pub struct Rig {
    vrouter: VRouter,
    cgroups: Cgroups,
    run: RunDir,
}

/// A pod and its port.
pub struct Pod {
    /// The application.
    pub app: FramePod,
    /// Its Ethernet address.
    pub mac: Mac,
    id: String,
}

/// What the vRouter counts for a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames the pod sent.
    pub sent: u64,
    /// Frames delivered to it.
    pub delivered: u64,
    /// Frames it sent that were dropped, by reason.
    pub drops: BTreeMap<String, u64>,
}

impl Rig {
    /// Starts it with a worker on each of two CPUs, or on the one there is.
    pub fn start() -> Result<Self> {
        let run = RunDir::create()?;
        machine::prepare(&run.path(), HUGEPAGES)?;
        let cgroups = Cgroups::create(&run)?;
        let socket = VRouter::socket_of(&run);
        let config = run.path().join("vrouter.toml");
        let cpus = std::thread::available_parallelism()?.get();
        let text = format!(
            "control_socket = \"{}\"\nrun_dir = \"{}\"\n[workers]\ncpus = {}\nassignment = \"round-robin\"\n",
            socket.display(),
            run.path().display(),
            if cpus > 1 { "[0, 1]" } else { "[0]" }
        );
        fs::write(&config, text)?;
        let vrouter = VRouter::start_with(&config, &socket, &run.path().join("vrouter.log"))?;
        Ok(Self { vrouter, cgroups, run })
    }

    /// The vRouter.
    pub fn vrouter(&self) -> &VRouter {
        &self.vrouter
    }

    /// Makes a network; gives the Ethernet address of its gateway.
    pub fn network(&self, network: Network) -> Result<Mac> {
        mac(&self.vrouter.create_network(network)?.gateway_mac)
    }

    /// Starts a pod with a port of its own. The specification needs a network, addresses and what is special.
    pub fn pod(&self, name: &str, number: u8, spec: PortSpec) -> Result<Pod> {
        let mac = [2, 0, 0, 0, 0x77, number];
        let text: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = text.join(":");
        let id = format!("{}-{name}/0/net0", spec.network);
        let socket = self.file(&format!("{}-{name}.sock", spec.network));
        let queues = spec.queue_pairs.max(1).to_string();
        self.vrouter.create_port(PortSpec {
            id: id.clone(),
            mac: text.clone(),
            socket_path: socket.display().to_string(),
            peer_cgroups: vec![self.cgroups.path(Side::Pods)],
            ..spec
        })?;
        let mut command = self.cgroups.command(Side::Pods, 0, program("ringway-frames")?);
        command.arg("--socket").arg(&socket).args(["--mac", &text, "--cpu", "0"]);
        command.args(["--queues", &queues]);
        let app = FramePod::start(name, command, &self.file(&format!("{name}.log")))?;
        let (sandbox, _) = id.split_once('/').context("no sandbox")?;
        self.vrouter.wait_up(sandbox, UP)?;
        Ok(Pod { app, mac, id })
    }

    /// Waits until nothing moves any more, and tells what was counted for a pod since it is there.
    pub fn counts(&self, pod: &Pod) -> Result<Counts> {
        let all = self.vrouter.settled_stats(SETTLED)?;
        let stats: PortStats = all.into_iter().find(|it| it.id == pod.id).context("no port")?;
        Ok(Counts {
            sent: stats.rx_packets,
            delivered: stats.tx_packets,
            drops: stats.drops.into_iter().map(|drop| (drop.reason, drop.packets)).collect(),
        })
    }

    /// The operator's command; it must succeed.
    pub fn ringway(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(program("ringway")?);
        command.arg("--socket").arg(self.vrouter.socket()).args(arguments);
        let output = command.output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ringway {arguments:?}: {errors}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A file of the run.
    pub fn file(&self, name: &str) -> PathBuf {
        self.run.path().join(name)
    }
}

impl Counts {
    /// Drops for a reason.
    pub fn dropped(&self, reason: &str) -> u64 {
        self.drops.get(reason).copied().unwrap_or(0)
    }
}

fn mac(text: &str) -> Result<Mac> {
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    Mac::try_from(bytes).ok().with_context(|| format!("{text} is no Ethernet address"))
}
