//! Has the kernel's tables say which pods are here, for routing daemons to tell others: routes for their addresses, and in
//! bridges entries for their MAC addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use ringway_config::{KernelTable, NetworkSettings, VrouterConfig};
use tokio::sync::{broadcast, oneshot};
use tokio::time::MissedTickBehavior;
use vrouter_api::v1;
use vrouter_kernel::announce::macs::MacAnnouncer;
use vrouter_kernel::announce::{Announced, Announcer, METRIC};
use vrouter_kernel::fib::Mac;

use crate::registry::Registry;

/// How often it is looked whether routes and entries are still there, and whether devices have come.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Where the routes of a network's pods go.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Where {
    Table(u32),
    Vrf(String),
}

/// The thread that does it.
pub struct Announcing {
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Announcing {
    /// Takes all routes away.
    pub fn end(self) {
        // It has ended already, or ends now.
        let _ = self.end.send(());
        if self.thread.join().is_err() {
            tracing::error!("the thread that announces pods has panicked");
        }
    }
}

/// Starts announcing the pods of the networks that are configured so. Routes that an earlier vRouter left are taken
/// over or away at once.
///
/// # Errors
/// The kernel can't be asked.
pub fn start(config: &VrouterConfig, registry: &Arc<Mutex<Registry>>) -> Result<Announcing> {
    let networks: BTreeMap<_, _> = config.networks.iter().filter_map(destination).collect();
    // Others on this machine have their own, and leave these alone.
    let metric = METRIC + config.instance.unwrap_or(0);
    let announcer = Announcer::open(metric).context("cannot look for routes that announce pods")?;
    let macs = MacAnnouncer::open().context("cannot look for entries that announce pods")?;
    let events = registry.lock().unwrap_or_else(PoisonError::into_inner).events();
    let (end, ended) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let registry = Arc::clone(registry);
    let work = move || {
        let mut state = State { networks, announcer, macs, registry, failed: [None, None] };
        runtime.block_on(state.run(events, ended));
    };
    let thread = thread::Builder::new().name("pod-routes".to_owned()).spawn(work)?;
    Ok(Announcing { end, thread })
}

fn destination(network: &NetworkSettings) -> Option<(String, Where)> {
    let to = match (&network.kernel_vrf, network.kernel_table.map(KernelTable::number)) {
        (Some(name), _) => Where::Vrf(name.clone()),
        (None, Some(table)) => Where::Table(table),
        (None, None) => return None,
    };
    network.announce_pods.then(|| (network.name.clone(), to))
}

struct State {
    networks: BTreeMap<String, Where>,
    announcer: Announcer,
    registry: Arc<Mutex<Registry>>,
    macs: MacAnnouncer,
    /// What was said last of what does not work, with routes and with entries.
    failed: [Option<String>; 2],
}

impl State {
    async fn run(
        &mut self,
        mut events: broadcast::Receiver<v1::Event>,
        mut end: oneshot::Receiver<()>,
    ) {
        let mut due = tokio::time::interval(LOOK_EVERY);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = true;
        loop {
            self.bring_in_line(look);
            look = tokio::select! {
                _ = &mut end => break,
                // Those that were missed count, too.
                _ = events.recv() => false,
                // However much there is to hear of.
                _ = due.tick() => true,
            };
            while events.try_recv().is_ok() {}
        }
        let done = self.announcer.set(&BTreeSet::new());
        self.tell(0, done.err().map(anyhow::Error::from));
        let done = self.set_macs(&BTreeMap::new(), false);
        self.tell(1, done.err());
    }

    /// `look`: at what the kernel has, first.
    fn bring_in_line(&mut self, look: bool) {
        let done = self.wanted(look).and_then(|wanted| Ok(self.announcer.set(&wanted)?));
        self.tell(0, done.err());
        let wanted = self.registry.lock().unwrap_or_else(PoisonError::into_inner).bridge_ports();
        let done = self.set_macs(&wanted, look);
        self.tell(1, done.err());
    }

    /// Entries of devices that belong to no network any more go.
    fn set_macs(
        &mut self,
        wanted: &BTreeMap<String, BTreeSet<vrouter_net::Mac>>,
        look: bool,
    ) -> Result<()> {
        let gone: Vec<_> =
            self.macs.ports().into_iter().filter(|port| !wanted.contains_key(port)).collect();
        let macs = |macs: &BTreeSet<vrouter_net::Mac>| -> BTreeSet<Mac> {
            macs.iter().map(|mac| Mac(mac.octets())).collect()
        };
        let mut failed = Ok(());
        for (port, macs) in wanted.iter().map(|(port, it)| (port, macs(it))) {
            let done = self.macs.set(port, &macs, look);
            failed = failed.and(done);
        }
        for port in gone {
            let done = self.macs.set(&port, &BTreeSet::new(), look);
            if done.is_ok() {
                // What others make of it is theirs.
                self.macs.forget(&port);
            }
            failed = failed.and(done);
        }
        Ok(failed?)
    }

    fn wanted(&mut self, look: bool) -> Result<BTreeSet<Announced>> {
        let mut wanted = BTreeSet::new();
        for (network, to) in &self.networks {
            let table = match to {
                Where::Table(table) => *table,
                Where::Vrf(name) => match self.announcer.table_of_vrf(name)? {
                    Some(table) => table,
                    // It may come yet.
                    None => continue,
                },
            };
            if look {
                self.announcer.look(table)?;
            }
            let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
            let addresses = registry.addresses(network);
            wanted.extend(addresses.into_iter().map(|address| Announced { table, address }));
        }
        Ok(wanted)
    }

    /// Says once what does not work, and that it works again.
    fn tell(&mut self, which: usize, error: Option<anyhow::Error>) {
        let error = error.map(|error| format!("{error:#}"));
        let Some(failed) = self.failed.get_mut(which).filter(|failed| **failed != error) else {
            return;
        };
        match &error {
            Some(error) => tracing::warn!(error, "pods can't be announced; tried again"),
            None => tracing::info!("pods are announced again"),
        }
        *failed = error;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn where_pods_are_announced() {
        let text = "[[networks]]\nname = 'a'\nipv4 = '10.1.0.0/24'\nkernel_table = 7\nannounce_pods = true\n\
                    [[networks]]\nname = 'b'\nipv4 = '10.1.0.0/24'\nkernel_vrf = 'red'\nannounce_pods = true\n\
                    [[networks]]\nname = 'c'\nipv4 = '10.1.0.0/24'\nkernel_table = 8\n\
                    [[networks]]\nname = 'd'\nipv4 = '10.1.0.0/24'\n";
        let config = VrouterConfig::from_toml(text, Path::new("x.toml")).unwrap();
        let found: Vec<_> = config.networks.iter().filter_map(destination).collect();
        let expected =
            [("a".to_owned(), Where::Table(7)), ("b".to_owned(), Where::Vrf("red".to_owned()))];
        assert_eq!(found, expected);
    }
}
