//! The node's vRouters, over their control sockets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use node_tuner_core::modes::Mode;
use node_tuner_core::node::Vrouter;
use node_tuner_core::workers::Sample;
use ringway_config::VrouterConfig;
use vrouter_api::v1::{
    GetInfoRequest, GetStatsRequest, ListNetworksRequest, ListPortsRequest, SetWorkerModeRequest,
    SetWorkersRequest, WorkerMode,
};
use vrouter_api::{Client, connect};

/// Every call is answered at once; a vRouter that hangs shall not hold up the node's tuning.
const ANSWER: Duration = Duration::from_secs(5);

/// Control sockets: those given, or that of the vRouter's configuration, or the default.
pub fn sockets(root: &Path, given: &[PathBuf]) -> Vec<PathBuf> {
    if !given.is_empty() {
        return given.to_vec();
    }
    configured(root).into_iter().map(|config| config.control_socket).collect()
}

/// The vRouters' configurations, or the defaults of one; none, if the file is there and can't be read.
fn configured(root: &Path) -> Vec<VrouterConfig> {
    let file = root.join(ringway_config::VROUTER_FILE.trim_start_matches('/'));
    let config = match std::fs::read_to_string(&file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Some(VrouterConfig::default())
        }
        text => text.ok().and_then(|text| VrouterConfig::from_toml(&text, &file).ok()),
    };
    config.map(|config| config.each()).unwrap_or_default()
}

async fn answer<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T> {
    let answer = tokio::time::timeout(ANSWER, call).await.context("no answer within 5 s")?;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| anyhow::anyhow!("{}", status.message()))
}

/// Those of `sockets` that answer.
pub async fn running(root: &Path, sockets: &[PathBuf]) -> Vec<Vrouter> {
    let mut running = Vec::new();
    for socket in sockets {
        if let Ok(vrouter) = describe(root, socket).await {
            running.push(vrouter);
        }
    }
    running
}

async fn describe(root: &Path, socket: &Path) -> Result<Vrouter> {
    let mut client = client(socket).await?;
    let info = answer(client.get_info(GetInfoRequest {})).await?;
    let ports = answer(client.list_ports(ListPortsRequest {})).await?.ports;
    let mut by_numa = BTreeMap::new();
    for numa in ports.iter().filter_map(|port| u32::try_from(port.numa_node).ok()) {
        *by_numa.entry(numa).or_insert(0) += 1;
    }
    let networks = answer(client.list_networks(ListNetworksRequest {})).await?.networks;
    let configured = configured(root).into_iter().find(|config| config.control_socket == socket);
    Ok(Vrouter {
        socket: socket.display().to_string(),
        // The only mode there is so far; the API has no field for it.
        mode: if info.dpdk_version.is_empty() { "kernel" } else { "dpdk" }.to_owned(),
        worker_mode: mode(info.worker_mode()),
        version: info.version,
        numa: u32::try_from(info.numa_node).ok(),
        workers: info.workers.iter().map(|worker| worker.cpu).collect(),
        ports_by_numa: by_numa,
        ports: u32::try_from(ports.len()).unwrap_or(u32::MAX),
        ports_max: configured.map(|config| config.limits.ports),
        networks: networks.into_iter().map(|network| network.name).collect(),
    })
}

async fn client(socket: &Path) -> Result<Client> {
    tokio::time::timeout(ANSWER, connect(socket))
        .await
        .context("no answer within 5 s")?
        .map_err(Into::into)
}

/// What the workers of the vRouter at `socket` have done by `now_ms`.
pub async fn sample(socket: &Path, now_ms: u64) -> Result<Sample> {
    let mut client = client(socket).await?;
    let info = answer(client.get_info(GetInfoRequest {})).await?;
    let stats = answer(client.get_stats(GetStatsRequest {})).await?;
    let workers = stats.workers.iter().map(|worker| (worker.cpu, worker.busy_ns)).collect();
    let mode = mode(info.worker_mode());
    Ok(Sample { at_ms: now_ms, instance: info.instance_id, workers, mode })
}

fn mode(wire: WorkerMode) -> Mode {
    match wire {
        WorkerMode::Adaptive => Mode::Adaptive,
        WorkerMode::Poll => Mode::Poll,
        WorkerMode::Sleep => Mode::Sleep,
    }
}

/// What workers do when there is nothing to do.
pub async fn set_mode(socket: &Path, mode: Mode) -> Result<()> {
    let mode = match mode {
        Mode::Adaptive => WorkerMode::Adaptive,
        Mode::Poll => WorkerMode::Poll,
        Mode::Sleep => WorkerMode::Sleep,
    };
    let mut client = client(socket).await?;
    let request = SetWorkerModeRequest { mode: mode.into() };
    answer(client.set_worker_mode(request)).await.map(|_| ())
}

/// One worker on each of `cpus`.
pub async fn set_workers(socket: &Path, cpus: &[u32]) -> Result<()> {
    let mut client = client(socket).await?;
    answer(client.set_workers(SetWorkersRequest { cpus: cpus.to_vec() })).await.map(|_| ())
}
