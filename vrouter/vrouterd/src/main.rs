//! `ringway-vrouter`: DPDK, workers, ports and the control API, wired together.
//!
//! Decides nothing: configuration comes from `ringway-config`, packets from `vrouter-core`, rings from
//! `vrouter-vhost`. Nobody depends on it.
#![forbid(unsafe_code)]

mod announce;
mod args;
mod assign;
mod claim;
mod configured;
mod convert;
mod counters;
mod crew;
mod dataplane;
mod device;
mod explain;
mod forward;
mod kicks;
mod mirror;
mod offload;
mod place;
mod privileges;
mod publish;
mod registry;
mod rota;
mod routes;
mod service;
mod socket;
mod software;
mod tap;
mod wire;
mod worker;

use std::fs::{self, DirBuilder};
use std::io::IsTerminal;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use arc_swap::ArcSwap;
use clap::Parser;
use ringway_config::{UplinkSettings, VrouterConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;
use vrouter_api::v1;
use vrouter_api::v1::v_router_server::VRouterServer;
use vrouter_core::{Policy, Tables};
use vrouter_dpdk::{
    CpuId, Eal, EalConfig, LogLevel, Memory, NumaNode, Pool, PoolConfig, allowed_cpus, tsc,
};
use vrouter_kernel::hostif;

use crate::args::{Args, Role};
use crate::convert::{NetworkRequest, UplinkRequest};
use crate::crew::{Crew, Kit};
use crate::dataplane::{Dataplane, Slot};
use crate::device::{Devices, patiently};
use crate::registry::Registry;
use crate::service::Service;
use crate::worker::Pace;

/// Buffers for packets made here (ICMP errors), for all workers; each worker may keep 1.5 x the cache.
const MBUFS: u32 = 4095;
const MBUF_CACHE: u32 = 128;
/// How often links are looked at, and then what else has become of uplinks. Traffic goes round a link that is lost at the
/// next look.
const LOOK_AT_LINKS_EVERY: Duration = Duration::from_millis(50);
/// How often the load of the workers is looked at: one queue moves in that time at most.
const BALANCE_EVERY: Duration = Duration::from_secs(1);
/// Bytes of a request at most: a million routes in a few of them.
const REQUEST_BYTES: usize = 64 << 20;
/// Bytes of such a packet at most; the usual size, as NIC ports will share the pool.
const MBUF_BYTES: u16 = 2048;

/// Records of interfaces that are away. One place for all vRouters of a machine: an interface belongs to one of them.
const HOST_INTERFACES: &str = "/run/ringway/uplinks";

/// The end of the process as seen by systemd and scripts.
#[derive(Clone, Copy)]
enum Exit {
    /// It could not start, or failed later.
    Failed = 1,
    /// The configuration is wrong.
    Configuration = 2,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.role == Some(Role::Keeper) {
        return keep();
    }
    let config = match args::load(&args) {
        Ok(config) => config,
        Err(error) => return end(&error.into(), Exit::Configuration),
    };
    if args.check {
        println!("the configuration is right");
        return ExitCode::SUCCESS;
    }
    // Levels without a target are meant for us, not for the HTTP/2 library below the control API.
    log_to_stderr(&format!("h2=warn,hyper=warn,tower=warn,tonic=warn,{}", config.log));
    match run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(&error, Exit::Failed),
    }
}

/// Puts back interfaces that a vRouter and its keeper, dead both, have left away.
fn put_back_what_is_left(config: &VrouterConfig, keepers: &hostif::Options) {
    if config.uplinks.is_empty() && !keepers.records.exists() {
        return;
    }
    match hostif::repair(keepers) {
        Ok(names) if names.is_empty() => {}
        Ok(names) => tracing::warn!(?names, "interfaces were left over and are the kernel's again"),
        Err(error) => {
            tracing::warn!(error = device::cause(&error), "cannot look for left-over interfaces")
        }
    }
}

/// The keeper of a host interface. It knows no configuration: the vRouter tells it all.
fn keep() -> ExitCode {
    log_to_stderr("info");
    match hostif::keeper::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(&error.into(), Exit::Failed),
    }
}

fn log_to_stderr(filter: &str) {
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

fn end(error: &anyhow::Error, exit: Exit) -> ExitCode {
    eprintln!("ringway-vrouter: {error:#}");
    ExitCode::from(exit as u8)
}

fn run(config: &VrouterConfig) -> Result<()> {
    let keepers = hostif::Options {
        keeper: vec!["/proc/self/exe".into(), Role::KEEPER.into()],
        records: HOST_INTERFACES.into(),
        owner: config.control_socket.display().to_string(),
    };
    put_back_what_is_left(config, &keepers);
    registry::sweep();
    privileges::allow_locked_memory();
    privileges::drop_unneeded(config.dpdk.af_xdp).context("cannot drop privileges")?;
    if let Some(node) = config.dpdk.numa_node {
        // Before there is any other thread.
        place::keep_to(node)?;
    }
    let private_dir = directories(config)?;
    let eal = Arc::new(start_dpdk(config)?);
    let pool = Pool::new(
        &eal,
        &PoolConfig {
            name: "originated".to_owned(),
            mbufs: MBUFS,
            cache: MBUF_CACHE,
            data_room: MBUF_BYTES,
        },
    )?;

    let limit = usize::try_from(config.limits.ports)?;
    let tables = Tables::build(&Policy::default())?;
    let empty = Dataplane { tables: tables.clone(), layout: Arc::default() };
    let slot: Slot = Arc::new(ArcSwap::from_pointee(empty));
    let allowed = allowed_cpus().context("cannot read the CPUs this process may use")?;
    let cpus = worker_cpus(config, &allowed)?;
    let crew = Crew::new(Kit {
        eal: Arc::clone(&eal),
        allowed,
        pace: Pace {
            spin: Duration::from_micros(config.workers.idle_spin_us.into()),
            sleep: Duration::from_millis(config.workers.max_sleep_ms.into()),
            rest: Duration::from_micros(config.workers.max_rest_us.into()),
            poll: Duration::from_micros(config.workers.uplink_poll_us.into()),
        },
        ports: limit,
        pool: pool.clone(),
        slot: Arc::clone(&slot),
        node: config.dpdk.numa_node,
    });
    let assignment = config.workers.assignment;
    let buffers = (config.dpdk.buffers, u16::try_from(config.dpdk.buffer_bytes)?);
    let devices =
        Devices::new(Arc::clone(&eal), buffers, keepers, private_dir.clone(), config.dpdk.af_xdp);
    let mut registry = Registry::new(tables, slot, crew, devices, assignment, limit, private_dir);
    registry.set_workers(&cpus).context("cannot start the workers (workers.cpus)")?;
    // First those that carry tunnels.
    let mut networks: Vec<_> = config.networks.iter().collect();
    networks.sort_by_key(|network| network.tunnel.is_some());
    for network in networks {
        let request = NetworkRequest::read(&configured::network(network));
        request
            .and_then(|request| registry.create_network(request))
            .with_context(|| format!("configured network {:?}", network.name))?;
        routes::read(&configured::routes(network), &[])
            .and_then(|changes| registry.change_routes(&network.name, &changes, false))
            .with_context(|| format!("routes of the configured network {:?}", network.name))?;
        registry.note_configured(&network.name);
    }
    for link in &config.links {
        registry.create_link(link).with_context(|| format!("link to vRouter {}", link.peer))?;
    }
    for uplink in &config.uplinks {
        UplinkRequest::read(&configured::uplink(uplink))
            // What a vRouter before this one had may not be cleared up yet.
            .and_then(|request| patiently(|| registry.create_uplink(request.clone())))
            .with_context(|| format!("configured uplink {:?}", uplink.name))?;
    }
    let registry = Arc::new(Mutex::new(registry));

    let announcing = announce::start(config, &registry)?;
    let served = serve(config, &eal, &registry);
    announcing.end();

    // In this order: ports close while workers still run, so that what pods have sent is forwarded.
    let mut registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
    registry.close();
    registry.dismiss();
    served
}

/// Creates what is needed below `run_dir`; returns the guard's private directory.
fn directories(config: &VrouterConfig) -> Result<PathBuf> {
    // The pods' directories and the guard's are root's alone; those above only hold control sockets.
    let run_dir = &config.run_dir;
    directory(run_dir, 0o755)?;
    let own = match config.instance {
        Some(number) => config.directory_of(number),
        None => run_dir.clone(),
    };
    directory(&own, 0o755)?;
    for link in &config.links {
        link.socket.parent().map_or(Ok(()), private_directory)?;
    }
    let private_dir = own.join("guard");
    private_directory(&private_dir)?;
    Ok(private_dir)
}

fn directory(path: &Path, mode: u32) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.with_context(|| format!("cannot create {} (run_dir)", path.display()))
}

/// Root's alone, even if it was there already and was not.
fn private_directory(path: &Path) -> Result<()> {
    directory(path, 0o700)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("cannot keep others out of {} (run_dir)", path.display()))
}

fn start_dpdk(config: &VrouterConfig) -> Result<Eal> {
    let mib = config.dpdk.memory_mb;
    let memory = if config.dpdk.hugepages {
        // At most 31: checked with the configuration.
        let node = config.dpdk.numa_node.and_then(|node| u8::try_from(node).ok());
        Memory::Hugepages { mib, numa_node: node.map(NumaNode) }
    } else {
        Memory::Ordinary { mib }
    };
    // DPDK looks only for those it was told of.
    let nics = config.uplinks.iter().flat_map(UplinkSettings::devices);
    let nics = nics.filter(|device| ringway_config::is_pci(device));
    let nics = nics.flat_map(|device| ["-a".to_owned(), device.clone()]);
    Eal::init(&EalConfig {
        file_prefix: format!("ringway-{}", std::process::id()),
        memory,
        log_level: LogLevel::Warning,
        extra: config.dpdk.extra_args.iter().cloned().chain(nics).collect(),
    })
    .context("cannot start DPDK ([dpdk] in the configuration)")
}

/// The configured CPUs, or the last one we may run on: the first ones have the machine's interrupts.
fn worker_cpus(config: &VrouterConfig, allowed: &[CpuId]) -> Result<Vec<u32>> {
    if config.workers.cpus.is_empty() {
        let last = allowed.last().context("this process may use no CPU")?;
        return Ok(vec![last.0.into()]);
    }
    Ok(config.workers.cpus.clone())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn serve(
    config: &VrouterConfig,
    eal: &Arc<Eal>,
    registry: &Arc<Mutex<Registry>>,
) -> Result<()> {
    let control = socket::Control::listen(&config.control_socket, config.control_group.as_deref())?;
    let (connections, _file) = control.connections();
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let info = v1::Info {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        dpdk_version: vrouter_dpdk::version(),
        numa_node: config.dpdk.numa_node.and_then(|n| i32::try_from(n).ok()).unwrap_or(-1),
        pid: std::process::id(),
        workers: Vec::new(),
        worker_mode: 0,
        instance: config.instance,
        nic_nodes: Vec::new(),
        instance_id: format!("{}-{}", std::process::id(), started.as_nanos()),
    };
    let service = Service::new(Arc::clone(registry), info, eal.tsc_hz());
    let balanced = tokio::spawn(regularly(Arc::clone(registry), BALANCE_EVERY, |registry| {
        registry.balance(tsc());
    }));
    let published = Arc::clone(registry.lock().unwrap_or_else(PoisonError::into_inner).published());
    let _links = publish::Watch::start(published, LOOK_AT_LINKS_EVERY)
        .context("cannot start the thread that looks at links")?;
    let links = Arc::clone(registry);
    let looked = tokio::spawn(regularly(links, LOOK_AT_LINKS_EVERY, Registry::look_at_links));
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // What the kernel sends a process that has too many signals of its TAPs to handle; unhandled it would end it.
    let _too_many = signal(SignalKind::io())?;
    let asked_to_end = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("ending");
    };
    tracing::info!(
        socket = %config.control_socket.display(),
        dpdk = vrouter_dpdk::version(),
        workers = registry.lock().unwrap_or_else(PoisonError::into_inner).workers().len(),
        "ready"
    );
    let server = tonic::transport::Server::builder()
        .add_service(VRouterServer::new(service).max_decoding_message_size(REQUEST_BYTES))
        .serve_with_incoming(connections);
    // Watchers hold their connections open for ever, so the end does not wait for them.
    tokio::select! {
        served = server => served.context("the control API failed"),
        () = asked_to_end => Ok(()),
        _ = balanced => Err(anyhow!("the task that balances workers has ended")),
        mirrored = mirror::run(Arc::clone(registry)) => {
            mirrored.context("the kernel's routing tables can't be mirrored")?;
            Err(anyhow!("the task that mirrors the kernel's routing tables has ended"))
        }
        _ = looked => Err(anyhow!("the task that looks at links has ended")),
    }
}

/// Has something done with the registry every so often, for ever.
async fn regularly(registry: Arc<Mutex<Registry>>, every: Duration, work: fn(&mut Registry)) {
    let mut due = tokio::time::interval(every);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let registry = Arc::clone(&registry);
        let look = move || work(&mut registry.lock().unwrap_or_else(PoisonError::into_inner));
        if tokio::task::spawn_blocking(look).await.is_err() {
            tracing::error!("a regular task has panicked");
            return;
        }
    }
}
