//! The kernel's routes, from the thread that reads them to the registry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use ringway_config::{MAIN_TABLE, NetworkSettings, VrouterConfig};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use vrouter_core::PortIndex;
use vrouter_kernel::fib::reader::{Config, Limits, Reader, Update};
use vrouter_kernel::fib::{NetworkSpec, Source, Tunnel};

use crate::registry::Registry;

/// How often it is looked which uplinks there are.
const LOOK_AT_UPLINKS_EVERY: Duration = Duration::from_millis(200);

/// Mirrors the kernel's tables into the networks that have one, for ever.
///
/// # Errors
/// The tables can't be read.
pub async fn run(config: &VrouterConfig, registry: Arc<Mutex<Registry>>) -> Result<()> {
    let networks: BTreeMap<_, _> = config.networks.iter().filter_map(spec).collect();
    if networks.is_empty() {
        return std::future::pending().await;
    }
    let mut names = names(&uplinks(&registry).await?);
    let wanted = |names: &[String]| Config { networks: networks.clone(), uplinks: names.to_vec() };
    let (configs, changes) = mpsc::channel(2);
    let (sink, mut updates) = mpsc::channel(1);
    let first = wanted(&names);
    let (ended, end) = tokio::sync::oneshot::channel();
    // A thread of its own: a full table takes it a second at a time.
    thread::Builder::new().name("kernel-routes".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let read = || -> Result<()> {
            runtime?.block_on(async {
                Reader::new(first, Limits::default(), changes, sink)?.run().await?;
                Ok(())
            })
        };
        // Nobody waits for it at the end of the process.
        let _ = ended.send(read());
    })?;
    let mut due = tokio::time::interval(LOOK_AT_UPLINKS_EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(end);
    loop {
        tokio::select! {
            update = updates.recv() => {
                let Some(update) = update else { break };
                // Not those of the last look: a host interface that was made anew has another number, and the kernel's
                // routes to it may be here before the next look.
                let (registry, uplinks) = (Arc::clone(&registry), uplinks(&registry).await?);
                tokio::task::spawn_blocking(move || take_in(&registry, &update, &uplinks)).await?;
            }
            _ = due.tick() => {
                let now = self::names(&uplinks(&registry).await?);
                if now != names {
                    configs.send(wanted(&now)).await.context("the kernel's routes are read no more")?;
                    names = now;
                }
            }
        }
    }
    end.await.context("the thread that reads the kernel's routes has panicked")?
}

/// An uplink with a host interface.
struct Known {
    /// The host interface's name.
    name: String,
    /// The kernel's number of it.
    number: u32,
    /// The uplink.
    port: PortIndex,
}

fn names(uplinks: &[Known]) -> Vec<String> {
    uplinks.iter().map(|uplink| uplink.name.clone()).collect()
}

async fn uplinks(registry: &Arc<Mutex<Registry>>) -> Result<Vec<Known>> {
    let registry = Arc::clone(registry);
    // Whoever holds the registry may do so for long.
    let look = move || registry.lock().unwrap_or_else(PoisonError::into_inner).host_interfaces();
    let names = tokio::task::spawn_blocking(look).await?;
    let known = names.into_iter().filter_map(|(name, port)| {
        let number = if_nametoindex(name.as_str()).ok()?;
        Some(Known { name, number, port })
    });
    Ok(known.collect())
}

fn take_in(registry: &Mutex<Registry>, update: &Update, uplinks: &[Known]) {
    let links: Vec<_> = uplinks.iter().map(|uplink| (uplink.number, uplink.port)).collect();
    for (network, changes) in &update.changes {
        registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .mirror_routes(network, changes, &links);
    }
}

/// What of a network has to be known to read its table; `None`: it has none.
fn spec(network: &NetworkSettings) -> Option<(String, NetworkSpec)> {
    let source = match (&network.kernel_vrf, network.kernel_table) {
        (Some(name), _) => Source::Vrf(name.clone()),
        (None, Some(table)) if table.number() == MAIN_TABLE => Source::Main,
        (None, Some(table)) => Source::Table(table.number()),
        (None, None) => return None,
    };
    let tunnel = network.tunnel.as_ref();
    // The kernel puts nothing into MPLS over UDP.
    let tunnel =
        tunnel.and_then(|it| Some(Tunnel { vni: it.vni?, local: it.local, gateways: it.gateways }));
    Some((network.name.clone(), NetworkSpec { source, tunnel, device: None }))
}
