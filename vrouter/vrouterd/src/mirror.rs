//! The kernel's routes, from the thread that reads them to the registry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use vrouter_core::PortIndex;
use vrouter_kernel::fib::reader::{Config, Limits, Reader, Update};
use vrouter_kernel::fib::{BridgeSpec, NetworkSpec};

use crate::registry::Registry;

/// How often it is looked which networks and uplinks there are.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Mirrors the kernel's tables into the networks that have one, for ever.
///
/// # Errors
/// The tables can't be read.
pub async fn run(registry: Arc<Mutex<Registry>>) -> Result<()> {
    let mut due = tokio::time::interval(LOOK_EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut wanted = Wanted::default();
    while wanted.networks.is_empty() && wanted.bridges.is_empty() {
        due.tick().await;
        wanted = look(&registry).await?;
    }
    let (configs, changes) = mpsc::channel(2);
    let (sink, mut updates) = mpsc::channel(1);
    let first = wanted.config();
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
                let now = look(&registry).await?;
                if now != wanted {
                    let config = now.config();
                    configs.send(config).await.context("the kernel's routes are read no more")?;
                    wanted = now;
                }
            }
        }
    }
    end.await.context("the thread that reads the kernel's routes has panicked")?
}

/// What is to be mirrored.
#[derive(Default, PartialEq)]
struct Wanted {
    /// Networks, each with the number of its creation.
    networks: BTreeMap<String, (u64, NetworkSpec)>,
    /// Bridged networks whose stations are in the kernel, the same.
    bridges: BTreeMap<String, (u64, BridgeSpec)>,
    /// Host interfaces.
    uplinks: Vec<String>,
}

impl Wanted {
    fn config(&self) -> Config {
        Config {
            networks: named(&self.networks),
            bridges: named(&self.bridges),
            uplinks: self.uplinks.clone(),
        }
    }
}

/// As the reader calls them.
fn named<T: Clone>(wanted: &BTreeMap<String, (u64, T)>) -> BTreeMap<String, T> {
    let named = wanted.iter();
    named.map(|(name, (creation, spec))| (to_reader(name, *creation), spec.clone())).collect()
}

/// A network that was made anew knows nothing that was told of the last one of its name, and what is told of that yet is none of
/// its business: for the reader it is another one.
fn to_reader(name: &str, creation: u64) -> String {
    format!("{creation} {name}")
}

/// Creation and name of a network that the reader tells of.
fn from_reader(name: &str) -> Option<(u64, &str)> {
    let (creation, name) = name.split_once(' ')?;
    Some((creation.parse().ok()?, name))
}

async fn look(registry: &Arc<Mutex<Registry>>) -> Result<Wanted> {
    let names = names(&uplinks(registry).await?);
    let registry = Arc::clone(registry);
    // Whoever holds the registry may do so for long.
    let look = move || {
        let registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
        (registry.mirrored_networks(), registry.bridged_networks())
    };
    let (networks, bridges) = tokio::task::spawn_blocking(look).await?;
    Ok(Wanted { networks, bridges, uplinks: names })
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
    let registry = || registry.lock().unwrap_or_else(PoisonError::into_inner);
    for (network, changes) in &update.changes {
        if let Some((creation, name)) = from_reader(network) {
            registry().mirror_routes(name, creation, changes, &links);
        }
    }
    for (network, update) in &update.bridges {
        if let Some((creation, name)) = from_reader(network) {
            registry().name_stations(name, creation, update);
        }
    }
}

#[cfg(test)]
mod tests {
    use vrouter_kernel::fib::Source;

    use super::*;

    fn wanted(networks: &[(&str, u64)]) -> Wanted {
        let spec = |table| NetworkSpec { source: Source::Table(table), tunnel: None, device: None };
        let networks = networks.iter().zip(1..);
        let networks = networks
            .map(|((name, creation), table)| ((*name).to_owned(), (*creation, spec(table))));
        let bridges = BTreeMap::new();
        Wanted { networks: networks.collect(), bridges, uplinks: vec!["host0".to_owned()] }
    }

    #[test]
    fn a_network_that_was_made_anew_is_told_as_another() {
        let names =
            |wanted: &Wanted| -> Vec<String> { wanted.config().networks.into_keys().collect() };
        let before = wanted(&[("blue", 1), ("red", 2)]);
        let after = wanted(&[("blue", 1), ("red", 3)]);
        assert!(before != after);
        assert_eq!(names(&before), ["1 blue", "2 red"]);
        assert_eq!(names(&after), ["1 blue", "3 red"]);
        // The same for bridged ones, which may have no table.
        let spec = BridgeSpec { port: "pods".to_owned(), vni: 7, local: [192, 0, 2, 1].into() };
        let bridges = [("lan".to_owned(), (4, spec))].into();
        let bridged = Wanted { bridges, ..wanted(&[]) };
        assert_eq!(bridged.config().bridges.into_keys().collect::<Vec<_>>(), ["4 lan"]);
        assert_eq!(from_reader(&to_reader("lan", 4)), Some((4, "lan")));
        assert_eq!(from_reader("lan"), None);
    }
}
