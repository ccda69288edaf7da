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
                for config in now.after(&wanted) {
                    configs.send(config).await.context("the kernel's routes are read no more")?;
                }
                wanted = now;
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
        let networks = self.networks.iter();
        let networks = networks.map(|(name, (_, spec))| (name.clone(), spec.clone()));
        let bridges = self.bridges.iter();
        let bridges = bridges.map(|(name, (_, spec))| (name.clone(), spec.clone()));
        let (networks, bridges) = (networks.collect(), bridges.collect());
        Config { networks, bridges, uplinks: self.uplinks.clone() }
    }

    /// What the reader has to be told when this is wanted after something else. A network that was made anew knows none of
    /// the routes that were told of the last one: it has to be another one for the reader, too.
    fn after(&self, before: &Self) -> Vec<Config> {
        if self == before {
            return Vec::new();
        }
        let whole = self.config();
        let anew =
            anew(&before.networks, &self.networks).chain(anew(&before.bridges, &self.bridges));
        let anew: Vec<_> = anew.collect();
        if anew.is_empty() {
            return vec![whole];
        }
        let mut without = whole.clone();
        without.networks.retain(|name, _| !anew.contains(name));
        without.bridges.retain(|name, _| !anew.contains(name));
        vec![without, whole]
    }
}

/// Those that were there before, and are of another creation now.
fn anew<T>(
    before: &BTreeMap<String, (u64, T)>,
    now: &BTreeMap<String, (u64, T)>,
) -> impl Iterator<Item = String> {
    let other = |name: &String, creation: u64| {
        before.get(name).is_some_and(|(other, _)| *other != creation)
    };
    let anew = now.iter().filter(move |(name, (creation, _))| other(name, *creation));
    anew.map(|(name, _)| name.clone())
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
    for (network, changes) in &update.changes {
        registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .mirror_routes(network, changes, &links);
    }
    for (network, update) in &update.bridges {
        registry.lock().unwrap_or_else(PoisonError::into_inner).name_stations(network, update);
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
        let names = |configs: Vec<Config>| -> Vec<Vec<String>> {
            configs.into_iter().map(|it| it.networks.into_keys().collect()).collect()
        };
        let before = wanted(&[("blue", 1), ("red", 2)]);
        assert!(before.after(&wanted(&[("blue", 1), ("red", 2)])).is_empty());
        let anew = wanted(&[("blue", 1), ("red", 3)]);
        assert_eq!(names(anew.after(&before)), [vec!["blue"], vec!["blue", "red"]]);
        let more = wanted(&[("blue", 1), ("red", 2), ("tan", 3)]);
        assert_eq!(names(more.after(&before)), [["blue", "red", "tan"]]);
        // The same for bridged ones, which may have no table.
        let spec = BridgeSpec { port: "pods".to_owned(), vni: 7, local: [192, 0, 2, 1].into() };
        let bridged = |creation| Wanted {
            bridges: [("lan".to_owned(), (creation, spec.clone()))].into(),
            ..wanted(&[("blue", 1)])
        };
        let told: Vec<_> =
            bridged(5).after(&bridged(4)).into_iter().map(|it| it.bridges.len()).collect();
        assert_eq!(told, [0, 1]);
        let moved = Wanted { uplinks: Vec::new(), ..wanted(&[("blue", 1), ("red", 2)]) };
        assert_eq!(names(moved.after(&before)), [["blue", "red"]]);
    }
}
