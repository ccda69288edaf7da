//! Which networks and ports there are. Each change ends in one new snapshot for the workers.

mod end;
mod explain;
mod kernel;
mod links;
mod mirrored;
mod named;
mod uplinks;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use ringway_config::Assignment;
use tokio::sync::broadcast;
use vrouter_api::v1::{self, event};
use vrouter_core::{NetworkIndex, Policy, PortIndex, PortPolicy, RouteChange, Tables, Timestamp};
use vrouter_net::IpPrefix;
use vrouter_vhost::port::{Observer, PortEvent, Status};

use crate::assign::{self, Balancer, Owners, WorkerIndex};
use crate::convert::{self, NetworkRequest, PortRequest, Refusal};
use crate::counters::{PortCounts, since};
use crate::crew::Crew;
use crate::dataplane::{DataPort, Dataplane, Layout, Slot};
use crate::device::Devices;
use crate::publish::Published;
use crate::routes::Routes;
use end::End;
use kernel::KernelRecord;
use named::Named;
use uplinks::UplinkRecord;

pub use kernel::sweep;

/// Events a slow watcher may lag behind before it has to start again.
pub const EVENT_BACKLOG: usize = 4096;

struct NetworkRecord {
    index: NetworkIndex,
    request: NetworkRequest,
    /// The operator's.
    routes: Routes,
    /// Those of them that the configuration file has.
    configured: Routes,
    /// The kernel's.
    mirrored: Routes,
    /// Its ends and stations by the kernel's forwarding database.
    named: Named,
    /// The kernel as a router of it.
    kernel: Option<KernelRecord>,
    /// Which creation of a network it was.
    creation: u64,
}

impl NetworkRecord {
    fn wire(&self, stations: usize) -> v1::Network {
        let mut wire = self.request.write(self.routes.len_with(&self.mirrored), stations);
        if let (Some(port), Some(kernel)) = (&mut wire.kernel_port, &self.kernel) {
            port.reason.clone_from(&kernel.reason);
        }
        wire.kernel_bridge = self.request.kernel_bridge().map(|_| self.named.write());
        wire
    }
}

struct PortRecord {
    index: PortIndex,
    network: NetworkIndex,
    facts: Facts,
    /// What its slot had counted when it got it.
    start: PortCounts,
    end: End,
}

/// What is known of a port besides its status, shared with its observer.
#[derive(Clone)]
struct Facts(Arc<Mutex<(PortRequest, Owners)>>);

impl Facts {
    fn new(request: PortRequest, owners: Owners) -> Self {
        Self(Arc::new(Mutex::new((request, owners))))
    }

    fn with<T>(&self, look: impl FnOnce(&mut PortRequest, &mut Owners) -> T) -> T {
        // Each of the two is replaced whole.
        let mut facts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (request, owners) = &mut *facts;
        look(request, owners)
    }

    fn request(&self) -> PortRequest {
        self.with(|request, _| request.clone())
    }

    fn owners(&self) -> Owners {
        self.with(|_, owners| *owners)
    }

    fn wire(&self, status: &Status) -> v1::Port {
        self.with(|request, owners| convert::port(request, status, owners))
    }
}

/// Networks and ports.
pub struct Registry {
    networks: BTreeMap<String, NetworkRecord>,
    ports: BTreeMap<String, PortRecord>,
    uplinks: BTreeMap<String, UplinkRecord>,
    devices: Devices,
    tables: Tables,
    published: Arc<Published>,
    crew: Crew,
    assignment: Assignment,
    balancer: Balancer,
    /// When the balancer looked last, in TSC ticks.
    looked: u64,
    limit: usize,
    private_dir: PathBuf,
    events: broadcast::Sender<v1::Event>,
    /// How many networks were made.
    creations: u64,
}

impl Registry {
    /// An empty one, whose snapshots go to `slot`, where the `crew` finds them. `limit`: how many ports there can be;
    /// `private_dir`: a root-only directory for the guard's sockets.
    pub fn new(
        tables: Tables,
        slot: Slot,
        crew: Crew,
        devices: Devices,
        assignment: Assignment,
        limit: usize,
        private_dir: PathBuf,
    ) -> Self {
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        Self {
            networks: BTreeMap::new(),
            ports: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            devices,
            tables,
            published: Arc::new(Published::new(slot)),
            crew,
            assignment,
            balancer: Balancer::default(),
            looked: 0,
            limit,
            private_dir,
            events,
            creations: 0,
        }
    }

    /// All that happens from now on, and everything there is at `time`, as the workers count it.
    pub fn watch(&self, time: Timestamp) -> (broadcast::Receiver<v1::Event>, Vec<v1::Event>) {
        let events = self.events.subscribe();
        let mut now: Vec<_> =
            self.networks(time).into_iter().map(event::Event::NetworkAdded).collect();
        now.extend(self.ports().into_iter().map(event::Event::PortAdded));
        now.extend(self.uplinks().into_iter().map(event::Event::UplinkAdded));
        now.push(event::Event::Synced(v1::Synced {}));
        (events, now.into_iter().map(|e| v1::Event { event: Some(e) }).collect())
    }

    /// All that happens from now on.
    pub fn events(&self) -> broadcast::Receiver<v1::Event> {
        self.events.subscribe()
    }

    /// The addresses of a network's ports.
    pub fn addresses(&self, network: &str) -> Vec<IpAddr> {
        let network = self.networks.get(network);
        network.into_iter().flat_map(|record| self.hosts(record.index)).collect()
    }

    fn tell(&self, event: event::Event) {
        // No watcher is no error.
        let _ = self.events.send(v1::Event { event: Some(event) });
    }

    /// All networks by name, with the stations known at `time`, as the workers count it.
    pub fn networks(&self, time: Timestamp) -> Vec<v1::Network> {
        let stations = |index| self.tables.network(index).map_or(0, |it| it.stations(time));
        self.networks.values().map(|record| record.wire(stations(record.index))).collect()
    }

    /// All ports by id.
    pub fn ports(&self) -> Vec<v1::Port> {
        self.ports.values().map(PortRecord::wire).collect()
    }

    /// Creates a network.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub fn create_network(&mut self, request: NetworkRequest) -> Result<v1::Network, Refusal> {
        if let Some(known) = self.networks.get(&request.name) {
            return if known.request == request {
                Ok(known.wire(0))
            } else {
                Err(Refusal::Exists { what: "network", name: request.name })
            };
        }
        if let Some(tunnel) = &request.tunnel {
            self.known_network(&tunnel.underlay)?;
            for (name, other) in &self.networks {
                other.request.tunnel.iter().try_for_each(|it| tunnel.beside(it, name))?;
            }
        }
        self.check_table(&request)?;
        let taken: Vec<_> = self.networks.values().map(|n| n.index.0).collect();
        let index = (0..u16::MAX)
            .find(|i| !taken.contains(i))
            .ok_or(Refusal::Full { limit: usize::from(u16::MAX) })?;
        let kernel = self.open_kernel(&request)?;
        self.creations += 1;
        let record = NetworkRecord {
            index: NetworkIndex(index),
            request: request.clone(),
            routes: Routes::default(),
            configured: Routes::default(),
            mirrored: Routes::default(),
            named: Named::default(),
            kernel,
            creation: self.creations,
        };
        let made = record.wire(0);
        let name = request.name.clone();
        self.networks.insert(name.clone(), record);
        let ends = request.tunnel.iter().flat_map(|it| it.flood.iter().copied());
        let ends: Vec<_> = ends.collect();
        if let Err(refusal) = self.rebuild().and_then(|()| self.bridge_to(index, &ends)) {
            self.networks
                .remove(&name)
                .and_then(|it| it.kernel)
                .into_iter()
                .for_each(KernelRecord::close);
            self.rebuild()?;
            return Err(refusal);
        }
        self.publish();
        tracing::info!(network = name, ipv4 = %request.prefix, "network created");
        self.tell(event::Event::NetworkAdded(made.clone()));
        Ok(made)
    }

    /// Deletes a network that has no ports and carries no other. That there is none of the name is fine.
    ///
    /// # Errors
    /// [`Refusal::NetworkInUse`] and [`Refusal::NetworkCarries`].
    pub fn delete_network(&mut self, name: &str) -> Result<(), Refusal> {
        let Some(record) = self.networks.get(name) else { return Ok(()) };
        let ports = self.ports.values().filter(|p| p.network == record.index).count()
            + self.uplinks.values().filter(|uplink| uplink.network == record.index).count();
        if ports > 0 {
            return Err(Refusal::NetworkInUse { name: name.to_owned(), ports });
        }
        let over =
            |n: &&NetworkRecord| n.request.tunnel.as_ref().is_some_and(|t| t.underlay == name);
        if let Some(carried) = self.networks.values().find(over) {
            let carried = carried.request.name.clone();
            return Err(Refusal::NetworkCarries { name: name.to_owned(), carried });
        }
        let kernel = self.networks.remove(name).and_then(|record| record.kernel);
        self.rebuild()?;
        self.publish();
        kernel.into_iter().for_each(KernelRecord::close);
        tracing::info!(network = name, "network deleted");
        self.tell(event::Event::NetworkRemoved(name.to_owned()));
        Ok(())
    }

    /// Changes a network's routes, all or none; returns how many it has then. `only_new`: none may replace another.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub fn change_routes(
        &mut self,
        network: &str,
        changes: &[RouteChange],
        only_new: bool,
    ) -> Result<usize, Refusal> {
        let known = self.known_network(network)?;
        if only_new && let Some(prefix) = known.routes.replaced(changes) {
            return Err(Refusal::Exists { what: "route", name: prefix.to_string() });
        }
        let index = known.index;
        self.tables = self.tables.with_routes(index, &self.uncovered(network, changes))?;
        self.publish_tables();
        let routes = self.networks.get_mut(network).map(|record| {
            record.routes.apply(changes);
            record.routes.len()
        });
        tracing::debug!(network, changes = changes.len(), routes, "routes changed");
        Ok(routes.unwrap_or(0))
    }

    /// A page of a network's routes, and whether there are more.
    ///
    /// # Errors
    /// [`Refusal::UnknownNetwork`].
    pub fn routes(
        &self,
        network: &str,
        after: Option<IpPrefix>,
        limit: usize,
    ) -> Result<(Vec<v1::Route>, bool), Refusal> {
        let uplinks = self.uplink_slots();
        let record = self.known_network(network)?;
        Ok(record.routes.page(&record.mirrored, after, limit, &uplinks))
    }

    fn known_network(&self, name: &str) -> Result<&NetworkRecord, Refusal> {
        self.networks.get(name).ok_or_else(|| {
            let known: Vec<_> = self.networks.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Refusal::UnknownNetwork { name: name.to_owned(), known }
        })
    }

    /// Creates a port, or changes who may connect to the one there is.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub fn create_port(&mut self, mut request: PortRequest) -> Result<v1::Port, Refusal> {
        let id = request.spec.id.clone();
        let pin = request.spec.worker.map(|worker| self.known_worker(worker)).transpose()?;
        let network = self.known_network(&request.spec.network)?;
        request.join(&network.request)?;
        let network = network.index;
        if let Some(known) = self.ports.get(&id) {
            if !known.facts.request().same_port(&request) {
                return Err(Refusal::Exists { what: "port", name: id });
            }
            known.end.set_cgroups(request.spec.peer_cgroups.clone());
            // Without a pin its queues stay where they are until the load says otherwise.
            let owners = pin.map_or_else(|| known.facts.owners(), Owners::one);
            known.facts.with(|known, _| *known = request);
            let moved = self.give(&id, owners);
            if moved {
                self.publish();
            }
            return self.ports.get(&id).map(PortRecord::wire).ok_or(Refusal::Full { limit: 0 });
        }
        let index = self.free_slot(&[])?;
        let owners = pin.map_or_else(|| assign::place(self.burdens(), request.pairs), Owners::one);

        // The tables first: they know whether the addresses are free.
        let policy = self.policy(vec![request.policy(index, network)]);
        let tables = self.tables.update(&policy)?;
        let wakes = self.crew.wakes();
        let wake = |pair: usize| wakes.get(owners.of(pair).slot()).and_then(Option::as_ref);
        let Some(first) = wake(0) else { return Err(Refusal::Full { limit: 0 }) };
        let facts = Facts::new(request, owners);
        let end = self.open_end(index, &facts, |pair| wake(pair).unwrap_or(first))?;
        let start = since(&self.crew.tallies(), index, &PortCounts::default());
        let record = PortRecord { index, network, facts, start, end };
        let wire = record.wire();
        self.ports.insert(id.clone(), record);
        self.tables = tables;
        self.publish();
        self.tell_hosts(network);
        tracing::info!(port = id, "port created");
        self.tell(event::Event::PortAdded(wire.clone()));
        Ok(wire)
    }

    /// A slot for a port, none of `others`.
    fn free_slot(&self, others: &[PortIndex]) -> Result<PortIndex, Refusal> {
        let uplinks = self.uplinks.values().flat_map(UplinkRecord::slots);
        let kernel = self.networks.values().filter_map(|record| record.kernel.as_ref());
        let taken: BTreeSet<_> = self
            .ports
            .values()
            .map(|port| port.index)
            .chain(uplinks)
            .chain(kernel.map(KernelRecord::slot))
            .collect();
        (0..self.limit)
            .filter_map(|slot| u16::try_from(slot).ok().map(PortIndex))
            .find(|slot| !taken.contains(slot) && !others.contains(slot))
            .ok_or(Refusal::Full { limit: self.limit })
    }

    /// Takes a port out of the tables; the caller closes it, which may take a while. That there is none of the id
    /// is fine.
    pub fn delete_port(&mut self, id: &str) -> Option<End> {
        let record = self.ports.remove(id)?;
        if let Err(error) = self.rebuild() {
            // Taking something away leaves a consistent policy.
            tracing::error!(%error, "tables can't be rebuilt without the port; it is unreachable anyway");
        }
        self.publish();
        self.tell_hosts(record.network);
        tracing::info!(port = id, "port deleted");
        self.tell(event::Event::PortRemoved(id.to_owned()));
        Some(record.end)
    }

    /// Closes every port, at the end of the process.
    pub fn close(&mut self) {
        let ids: Vec<_> = self.ports.keys().cloned().collect();
        for id in ids {
            self.delete_port(&id).into_iter().for_each(End::close);
        }
        let names: Vec<_> = self.uplinks.keys().cloned().collect();
        for name in names {
            self.delete_uplink(&name);
        }
        let kernel: Vec<_> = self.networks.values_mut().filter_map(|it| it.kernel.take()).collect();
        if !kernel.is_empty() {
            let _ = self.rebuild();
            self.publish();
            kernel.into_iter().for_each(KernelRecord::close);
        }
    }

    /// Counters of all ports.
    pub fn port_stats(&self) -> Vec<v1::PortStats> {
        let tallies = self.crew.tallies();
        let stats = |(id, p): (&String, &PortRecord)| {
            convert::port_stats(id, &since(&tallies, p.index, &p.start), &p.facts.owners())
        };
        self.ports.iter().map(stats).collect()
    }

    /// Counters of the workers that run. `hz`: TSC ticks in a second.
    pub fn worker_stats(&self, hz: u64) -> Vec<v1::WorkerStats> {
        let burdens = self.burdens();
        let queues = |index| burdens.get(&index).map_or(0, |burden| burden.queues);
        self.crew
            .counting()
            .map(|(index, cpu, tally)| {
                let worker = v1::Worker { index: index.0.into(), cpu: cpu.0.into() };
                convert::worker_stats(worker, tally, queues(index), hz)
            })
            .collect()
    }

    /// The workers that run.
    pub fn workers(&self) -> Vec<v1::Worker> {
        let worker = |(index, cpu): (WorkerIndex, vrouter_dpdk::CpuId)| v1::Worker {
            index: index.0.into(),
            cpu: cpu.0.into(),
        };
        self.crew.running().into_iter().map(worker).collect()
    }

    fn policy(&self, more: Vec<PortPolicy>) -> Policy {
        let find = |name: &str| self.networks.get(name).map(|network| network.index);
        let networks = self.networks.values().map(|n| n.request.policy(n.index, find));
        let ports = self
            .ports
            .values()
            .map(|p| p.facts.with(|request, _| request.policy(p.index, p.network)));
        let uplinks = self.uplinks.values().flat_map(UplinkRecord::policies);
        let kernel = self.networks.values().filter_map(NetworkRecord::kernel_policy);
        let ports = ports.chain(uplinks).chain(kernel).chain(more);
        Policy { networks: networks.collect(), ports: ports.collect() }
    }

    /// Stretches a network to other hosts.
    fn bridge_to(&mut self, network: u16, ends: &[IpAddr]) -> Result<(), Refusal> {
        if !ends.is_empty() {
            self.tables = self.tables.with_flood_ends(NetworkIndex(network), ends)?;
        }
        Ok(())
    }

    fn rebuild(&mut self) -> Result<(), Refusal> {
        self.tables = self.tables.update(&self.policy(Vec::new()))?;
        Ok(())
    }

    /// Hands the workers new tables. Those asleep find them when they wake.
    fn publish_tables(&mut self) {
        let layout = self.published.layout();
        self.published.replace(Dataplane { tables: self.tables.clone(), layout });
    }

    /// Where snapshots go to the workers from.
    pub fn published(&self) -> &Arc<Published> {
        &self.published
    }

    /// Hands the workers the new state. Those asleep are woken, so that they look at it.
    fn publish(&mut self) {
        let ports = self.ports.values().map(|p| {
            let port = DataPort { index: p.index, ends: p.end.ends() };
            (port, p.facts.owners())
        });
        let wires = self.wires();
        let layout = Arc::new(Layout::new(ports.chain(wires), self.crew.wakes()));
        let tables = self.tables.clone();
        self.published.replace(Dataplane { tables, layout: Arc::clone(&layout) });
        layout.nudge_all();
    }

    fn observer(&self, id: &str, facts: &Facts) -> Observer {
        let events = self.events.clone();
        let (id, facts) = (id.to_owned(), facts.clone());
        Box::new(move |event| {
            let event = match event {
                PortEvent::Changed(status) => event::Event::PortChanged(facts.wire(&status)),
                PortEvent::Refused { pid, why } => event::Event::PeerRefused(v1::PeerRefused {
                    port: id.clone(),
                    pid: u32::try_from(pid).unwrap_or(0),
                    why,
                }),
            };
            // No watcher is no error.
            let _ = events.send(v1::Event { event: Some(event) });
        })
    }
}

impl PortRecord {
    fn wire(&self) -> v1::Port {
        self.facts.wire(&self.end.status())
    }
}

#[cfg(test)]
mod tests;
