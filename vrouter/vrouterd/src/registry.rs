//! Which networks and ports there are. Each change ends in one new snapshot for the workers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::broadcast;
use vrouter_api::v1::{self, event};
use vrouter_core::{Counters, NetworkIndex, NetworkPolicy, Policy, PortIndex, PortPolicy, Tables};
use vrouter_vhost::port::{Observer, Port, PortConfig, PortEvent};
use vrouter_vhost::wake::Wake;

use crate::convert::{self, NetworkRequest, PortRequest, Refusal};
use crate::counters::{WorkerTally, since};
use crate::dataplane::{DataPort, Dataplane, Slot};

/// Events a slow watcher may lag behind before it has to start again.
pub const EVENT_BACKLOG: usize = 4096;

struct NetworkRecord {
    index: NetworkIndex,
    request: NetworkRequest,
}

struct PortRecord {
    index: PortIndex,
    network: NetworkIndex,
    request: PortRequest,
    worker: usize,
    /// What its slot had counted when it got it.
    start: Counters,
    port: Port,
}

/// What the registry needs of a worker.
#[derive(Clone)]
pub struct WorkerHandle {
    /// Wakes it.
    pub wake: Arc<Wake>,
    /// What it counts.
    pub tally: Arc<WorkerTally>,
}

/// Networks and ports.
pub struct Registry {
    networks: BTreeMap<String, NetworkRecord>,
    ports: BTreeMap<String, PortRecord>,
    tables: Tables,
    slot: Slot,
    workers: Vec<WorkerHandle>,
    limit: usize,
    private_dir: PathBuf,
    events: broadcast::Sender<v1::Event>,
}

impl Registry {
    /// An empty one. `private_dir`: a root-only directory for the guard's sockets.
    pub fn new(
        tables: Tables,
        slot: Slot,
        workers: Vec<WorkerHandle>,
        limit: usize,
        private_dir: PathBuf,
    ) -> Self {
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        Self {
            networks: BTreeMap::new(),
            ports: BTreeMap::new(),
            tables,
            slot,
            workers,
            limit,
            private_dir,
            events,
        }
    }

    /// All that happens from now on, and everything there is now.
    pub fn watch(&self) -> (broadcast::Receiver<v1::Event>, Vec<v1::Event>) {
        let events = self.events.subscribe();
        let mut now: Vec<_> = self.networks().into_iter().map(event::Event::NetworkAdded).collect();
        now.extend(self.ports().into_iter().map(event::Event::PortAdded));
        now.push(event::Event::Synced(v1::Synced {}));
        (events, now.into_iter().map(|e| v1::Event { event: Some(e) }).collect())
    }

    fn tell(&self, event: event::Event) {
        // No watcher is no error.
        let _ = self.events.send(v1::Event { event: Some(event) });
    }

    /// All networks by name.
    pub fn networks(&self) -> Vec<v1::Network> {
        self.networks.values().map(|n| n.request.write()).collect()
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
                Ok(request.write())
            } else {
                Err(Refusal::Exists { what: "network", name: request.name })
            };
        }
        let taken: Vec<_> = self.networks.values().map(|n| n.index.0).collect();
        let index = (0..u16::MAX)
            .find(|i| !taken.contains(i))
            .ok_or(Refusal::Full { limit: usize::from(u16::MAX) })?;
        let record = NetworkRecord { index: NetworkIndex(index), request: request.clone() };
        let name = request.name.clone();
        self.networks.insert(name.clone(), record);
        if let Err(refusal) = self.rebuild() {
            self.networks.remove(&name);
            return Err(refusal);
        }
        self.publish();
        tracing::info!(network = name, ipv4 = %request.prefix, "network created");
        self.tell(event::Event::NetworkAdded(request.write()));
        Ok(request.write())
    }

    /// Deletes a network that has no ports. That there is none of the name is fine.
    ///
    /// # Errors
    /// [`Refusal::NetworkInUse`].
    pub fn delete_network(&mut self, name: &str) -> Result<(), Refusal> {
        let Some(record) = self.networks.get(name) else { return Ok(()) };
        let ports = self.ports.values().filter(|p| p.network == record.index).count();
        if ports > 0 {
            return Err(Refusal::NetworkInUse { name: name.to_owned(), ports });
        }
        self.networks.remove(name);
        self.rebuild()?;
        self.publish();
        tracing::info!(network = name, "network deleted");
        self.tell(event::Event::NetworkRemoved(name.to_owned()));
        Ok(())
    }

    /// Creates a port, or changes who may connect to the one there is.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub fn create_port(&mut self, request: PortRequest) -> Result<v1::Port, Refusal> {
        let id = request.spec.id.clone();
        if let Some(known) = self.ports.get_mut(&id) {
            if !known.request.same_port(&request) {
                return Err(Refusal::Exists { what: "port", name: id });
            }
            known.port.set_cgroups(request.spec.peer_cgroups.clone());
            known.request = request;
            return Ok(known.wire());
        }
        let network = match self.networks.get(&request.spec.network) {
            Some(network) => network.index,
            None => {
                let known: Vec<_> = self.networks.keys().map(String::as_str).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(Refusal::UnknownNetwork { name: request.spec.network, known });
            }
        };
        let taken: std::collections::BTreeSet<_> =
            self.ports.values().map(|p| usize::from(p.index.0)).collect();
        let index = (0..self.limit)
            .find(|i| !taken.contains(i))
            .and_then(|i| u16::try_from(i).ok())
            .map(PortIndex)
            .ok_or(Refusal::Full { limit: self.limit })?;
        let worker = self.least_loaded();

        // The tables first: they know whether the addresses are free.
        let policy =
            self.policy(Some(PortPolicy { index, network, mac: request.mac, ipv4: request.ipv4 }));
        let tables = self.tables.update(&policy)?;
        let config = PortConfig {
            id: id.clone(),
            socket: request.socket.clone(),
            owner: request.owner,
            cgroups: request.spec.peer_cgroups.clone(),
            private_dir: self.private_dir.clone(),
        };
        let wake = self.workers.get(worker).map(|w| Arc::clone(&w.wake));
        let wake = wake.ok_or(Refusal::Full { limit: 0 })?;
        let port = Port::open(config, wake, self.observer(&request.spec, worker))?;
        let start = since(&self.tallies(), index, &Counters::ZERO);
        let record = PortRecord { index, network, request, worker, start, port };
        let wire = record.wire();
        self.ports.insert(id.clone(), record);
        self.tables = tables;
        self.publish();
        tracing::info!(port = id, "port created");
        self.tell(event::Event::PortAdded(wire.clone()));
        Ok(wire)
    }

    /// Takes a port out of the tables; the caller closes it, which may take a while. That there is none of the id
    /// is fine.
    pub fn delete_port(&mut self, id: &str) -> Option<Port> {
        let record = self.ports.remove(id)?;
        if let Err(error) = self.rebuild() {
            // Taking something away leaves a consistent policy.
            tracing::error!(%error, "tables can't be rebuilt without the port; it is unreachable anyway");
        }
        self.publish();
        tracing::info!(port = id, "port deleted");
        self.tell(event::Event::PortRemoved(id.to_owned()));
        Some(record.port)
    }

    /// Closes every port, at the end of the process.
    pub fn close(&mut self) {
        let ids: Vec<_> = self.ports.keys().cloned().collect();
        for id in ids {
            self.delete_port(&id).into_iter().for_each(Port::close);
        }
    }

    /// Counters of all ports.
    pub fn port_stats(&self) -> Vec<v1::PortStats> {
        let tallies = self.tallies();
        self.ports
            .iter()
            .map(|(id, p)| convert::port_stats(id, &since(&tallies, p.index, &p.start)))
            .collect()
    }

    fn tallies(&self) -> Vec<Arc<WorkerTally>> {
        self.workers.iter().map(|w| Arc::clone(&w.tally)).collect()
    }

    /// The worker that polls the fewest ports.
    fn least_loaded(&self) -> usize {
        let load = |worker: usize| self.ports.values().filter(|p| p.worker == worker).count();
        (0..self.workers.len()).min_by_key(|&w| load(w)).unwrap_or(0)
    }

    fn policy(&self, more: Option<PortPolicy>) -> Policy {
        let networks = self.networks.values().map(|n| NetworkPolicy {
            index: n.index,
            prefix: n.request.prefix,
            gateway: n.request.gateway,
            gateway_mac: n.request.gateway_mac,
            mtu: n.request.mtu,
        });
        let ports = self.ports.values().map(|p| PortPolicy {
            index: p.index,
            network: p.network,
            mac: p.request.mac,
            ipv4: p.request.ipv4,
        });
        Policy { networks: networks.collect(), ports: ports.chain(more).collect() }
    }

    fn rebuild(&mut self) -> Result<(), Refusal> {
        self.tables = self.tables.update(&self.policy(None))?;
        Ok(())
    }

    /// Hands the workers the new state. Those asleep are woken, so that they look at it.
    fn publish(&self) {
        let ports = self.ports.values().map(|p| DataPort {
            index: p.index,
            queues: Arc::clone(p.port.queues()),
            worker: p.worker,
        });
        let plane = Dataplane::new(self.tables.clone(), ports, self.workers.len());
        self.slot.store(Arc::new(plane));
        for worker in &self.workers {
            worker.wake.wake();
        }
    }

    fn observer(&self, spec: &v1::PortSpec, worker: usize) -> Observer {
        let events = self.events.clone();
        let spec = spec.clone();
        Box::new(move |event| {
            let event = match event {
                PortEvent::Changed(status) => {
                    event::Event::PortChanged(convert::port(spec.clone(), &status, worker))
                }
                PortEvent::Refused { pid, why } => event::Event::PeerRefused(v1::PeerRefused {
                    port: spec.id.clone(),
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
        convert::port(self.request.spec.clone(), &self.port.status(), self.worker)
    }
}
