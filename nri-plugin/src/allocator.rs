//! The node's one allocator: what pods hold, in memory, on disk and in the vRouter, and how it changes.
//!
//! One lock around everything. It is held over calls of the vRouter, which all have a deadline, and over small files in
//! `run_dir`; never over anything else.

use std::collections::BTreeSet;
use std::time::Duration;

use nri_plugin_core::annotations::AnnotationError;
use nri_plugin_core::cgroup::CgroupError;
use nri_plugin_core::cpuset::{CpuSet, ListError};
use nri_plugin_core::paths::{PathError, SandboxId, Slot};
use nri_plugin_core::plan::{
    Alignment, Chosen, ContainerRecord, Cpus, Node, PlanError, PodRecord, SharedUpdate,
};
use nri_plugin_core::recovery::Port;
use nri_plugin_proto::api::{Container, LinuxResources, PodSandbox};
use ringway_config::NriConfig;
use tokio::sync::{Mutex, MutexGuard, Notify};

use crate::cgroups::PodLimit;
use crate::convert::{self, WireError};
use crate::files::{Files, FilesError, Found};
use crate::ipam::{Ipam, IpamError};
use crate::links::LinkError;
use crate::liveness;
use crate::sysfs::SysfsError;
use crate::unserved::{self, Unserved};
use crate::vrouter::{VRouter, VRouterError};

mod create;
mod device;
mod instances;
mod leases;
mod others;
mod prepare;
mod state;
mod wrapped;

pub use create::Granted;
pub use device::DeviceError;
use state::{Removed, State, forget_container};
pub use wrapped::WrappedError;

/// Why a container is not created. Each is one line for the author of the pod.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The pod is at fault.
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    /// The node has not got it.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The runtime's names are not ours.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Its annotations and its requests do not agree.
    #[error(transparent)]
    PodLimit(#[from] PodLimit),
    /// The run directory is too deep.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The vRouter is at fault.
    #[error(transparent)]
    VRouter(#[from] VRouterError),
    /// The vRouter is at fault.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The machine is at fault.
    #[error(transparent)]
    Sysfs(#[from] SysfsError),
    /// The machine is at fault.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The network's address plugin is at fault.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// An interface of the kernel's can't be had.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// The plugin cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// See there.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// See there.
    #[error(transparent)]
    Sysfs(#[from] SysfsError),
    /// See there.
    #[error("configuration key cpus.reserved: {0}")]
    Reserved(#[from] ListError),
}

/// See the module.
#[derive(Debug)]
pub struct Allocator {
    settings: NriConfig,
    files: Files,
    vrouters: Vec<VRouter>,
    ipam: Ipam,
    state: Mutex<State>,
    /// Held while a device is changed: one container at a time can have it.
    devices: Mutex<()>,
    /// Tells the watcher that there may be leases that no pod holds.
    pub stale_leases: Notify,
}

impl Allocator {
    /// Takes the run directory, looks at the machine, and takes over every pod that is on record. Which of them are gone is
    /// for [`Allocator::synchronize`] to say; NRI 0.6 (containerd 1.7.24) never says it to a plugin that it starts itself.
    pub async fn start(settings: NriConfig) -> Result<Self, StartError> {
        let files = Files::open(&settings.run_dir).await?;
        let timeout = Duration::from_millis(settings.vrouter_timeout_ms.into());
        let vrouters = settings.vrouters();
        // The runtime waits for all of them together.
        let timeout = timeout / u32::try_from(vrouters.len()).unwrap_or(1).max(1);
        let vrouters = vrouters.iter();
        let vrouters = vrouters.map(|socket| VRouter::new(socket.clone(), timeout)).collect();
        let found = files.read_all()?;
        let sandboxes = found.directories.iter().filter_map(|name| SandboxId::new(name).ok());
        let containers = found.records.iter().flat_map(|record| record.containers.values());
        let (sandboxes, containers) =
            (sandboxes.collect(), containers.map(|container| container.id.clone()).collect());
        let state = Mutex::new(State::restore(&settings, &files, found, sandboxes, containers)?);
        let ipam = Ipam::new(&settings);
        let (devices, stale_leases) = (Mutex::new(()), Notify::new());
        Ok(Self { settings, files, vrouters, ipam, state, devices, stale_leases })
    }

    /// How long the runtime is said to wait, ms.
    pub fn runtime_timeout_ms(&self) -> u32 {
        self.settings.runtime_timeout_ms
    }

    /// CPUs and memory nodes of one of our containers, and what has changed for others.
    pub async fn placement(
        &self,
        pod: &PodSandbox,
        container: &Container,
    ) -> (Option<ContainerRecord>, Vec<SharedUpdate>, Vec<(String, CpuSet)>) {
        let mut state = self.state.lock().await;
        let updates = self.rebalance(&mut state);
        let others = self.move_others(&mut state);
        let record = SandboxId::new(&pod.id).ok().and_then(|sandbox| {
            let containers = state.node.pod(&sandbox)?.containers.values();
            containers.into_iter().find(|record| record.id == container.id).cloned()
        });
        (record, updates, others)
    }

    /// Takes over CPUs that others have chosen anew for one of our containers, where those are followed; says how they lie.
    pub async fn follow(
        &self,
        pod: &PodSandbox,
        container: &Container,
        resources: &LinuxResources,
    ) -> Option<(CpuSet, Alignment)> {
        let (cpus, new) = convert::chosen_in(resources);
        // An update names only what it changes.
        let mems = if new.is_empty() { convert::chosen(container).1 } else { new };
        let chosen = Chosen { cpus: &cpus, mems: &mems };
        let sandbox = SandboxId::new(&pod.id).ok()?;
        let mut state = self.state.lock().await;
        let moved = state.node.followed(&sandbox, &container.id, chosen)?;
        if let Some(record) = state.node.pod(&sandbox)
            && let Err(error) = self.files.write_record(record)
        {
            tracing::warn!(%sandbox, %error, "cannot write a record");
        }
        Some(moved)
    }

    /// Containers on shared CPUs that have to be told their new ones.
    fn rebalance(&self, state: &mut MutexGuard<'_, State>) -> Vec<SharedUpdate> {
        let mut updates = std::mem::take(&mut state.untold);
        if state.known.len() >= self.vrouters.len() {
            let new = state.node.rebalance();
            self.keep(&state.node, &new);
            self.tell_wrapped(state, &new);
            updates.extend(new);
        }
        // Where a container is told twice, the later counts.
        updates.reverse();
        updates
    }

    /// Takes back what one container had for itself: its CPUs, its right to connect, its own interfaces. The pod keeps
    /// what its containers share.
    pub async fn remove_container(&self, pod: &PodSandbox, container: &Container) {
        let Ok(sandbox) = SandboxId::new(&pod.id) else { return };
        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        state.containers.remove(&container.id);
        self.forget_unserved(state, |unserved| unserved.id == container.id);
        let Some(removed) = forget_container(&mut state.node, &sandbox, &container.id) else {
            return;
        };
        let Removed { record, slot, narrower } = match removed {
            Ok(removed) => removed,
            Err(error) => {
                tracing::error!(%error, "cannot keep a pod without one of its containers");
                return;
            }
        };
        tracing::info!(pod = %name(pod), container = container.name, "released");
        if record.containers.is_empty() && state.inherited.contains(&sandbox) {
            // Its end may never be announced. Until a kubelet's pod ends, one of its containers is always there.
            self.release_pod(state, &sandbox).await;
            return;
        }
        if let Err(error) = self.files.write_record(&record) {
            tracing::warn!(%sandbox, %error, "cannot write a record");
        }
        if record.slots.contains_key(&slot) {
            // A pod's own cgroup lets its containers in as long as it is there.
            if narrower {
                let ports = ports_of(&self.files, &record, slot).unwrap_or_default();
                self.create_ports(ports, &record).await;
            }
        } else {
            // The slot was this container's own.
            self.stale();
            self.stale_leases.notify_one();
            if let Err(error) = self.files.remove_slot(&sandbox, slot) {
                tracing::warn!(%sandbox, %error, "cannot remove a directory");
            }
        }
    }

    /// Takes back everything a pod has. Doing it again does no harm.
    pub async fn release(&self, pod: &PodSandbox) {
        let Ok(sandbox) = SandboxId::new(&pod.id) else { return };
        let mut state = self.state.lock().await;
        self.release_pod(&mut state, &sandbox).await;
    }

    /// Takes back what pods have whose end nobody announced. To be called now and then: a pod is gone when it is found gone
    /// twice.
    pub async fn release_gone(&self) {
        // Looked at without the lock and beside everything else: it takes system calls for each, and pods that start shall not wait
        // for that.
        let suspects = self.state.lock().await.suspects();
        let dead = tokio::task::spawn_blocking(|| {
            let is_dead = |record: &PodRecord| {
                let wrapped = nri_plugin_api::is_wrapped(record.sandbox.as_str());
                !if wrapped { liveness::is_populated(record) } else { liveness::is_alive(record) }
            };
            suspects.into_iter().filter(is_dead).collect::<Vec<_>>()
        });
        let dead = dead.await.unwrap_or_default();
        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        let still = |record: &&PodRecord| {
            state.node.pod(&record.sandbox) == Some(record)
                && !state.callers.contains_key(&record.sandbox)
        };
        let gone: BTreeSet<_> =
            dead.iter().filter(still).map(|record| record.sandbox.clone()).collect();
        let before = std::mem::replace(&mut state.gone, gone.clone());
        let forsaken = state.forsaken();
        for sandbox in gone.intersection(&before).chain(&forsaken) {
            self.release_pod(state, sandbox).await;
        }
    }

    async fn release_pod(&self, state: &mut State, sandbox: &SandboxId) {
        let announced = !state.sandboxes.remove(sandbox);
        state.inherited.remove(sandbox);
        state.prepared.remove(sandbox);
        self.forget_unserved(state, |unserved| unserved.sandbox == sandbox.as_str());
        let Some(record) = state.node.release_pod(sandbox) else {
            // Nothing is known of it here; the vRouter may know more, unless this is the second time: every pod is stopped and removed.
            if !announced {
                self.stale();
                self.stale_leases.notify_one();
            }
            return;
        };
        if record.slots.values().flatten().any(|interface| interface.lease.is_some()) {
            self.stale_leases.notify_one();
        }
        // First the ports: the vRouter lets go of the sockets.
        self.delete_ports(record.ports().map(|(id, _)| id).collect(), &record).await;
        match self.files.remove_pod(sandbox) {
            Ok(()) => {
                let PodRecord { namespace, name, .. } = &record;
                tracing::info!(pod = format!("{namespace}/{name}"), %sandbox, "released");
            }
            Err(error) => tracing::warn!(%sandbox, %error, "cannot remove what a pod had"),
        }
    }

    /// A vRouter has other workers now: CPUs are not given before it has said which.
    pub async fn workers_changed(&self) {
        self.state.lock().await.looked = None;
    }

    /// A runtime has taken the plugin in, or has left it.
    pub async fn registered(&self, runtime: Option<String>) {
        let mut state = self.state.lock().await;
        state.runtime = runtime;
        self.write_status(&state);
    }

    /// Takes over what the runtime says exists, and says which other containers have to make way. Does not call the vRouter: an absent one must not delay the runtime.
    pub async fn synchronize(
        &self,
        pods: &[PodSandbox],
        containers: &[Container],
    ) -> Result<Vec<(String, CpuSet)>, StartError> {
        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        let found = self.files.read_all()?;
        let mut sandboxes = pods.iter().filter_map(|pod| SandboxId::new(&pod.id).ok()).collect();
        let mut ids = containers.iter().map(|container| container.id.clone()).collect();
        wrapped::add_recorded(&found, &mut sandboxes, &mut ids);
        let callers = std::mem::take(&mut state.callers);
        let runtime = state.runtime.take();
        *state = State::restore(&self.settings, &self.files, found, sandboxes, ids)?;
        state.callers = callers;
        state.runtime = runtime;
        state.unserved = unserved::find(self.files.run_dir(), &state.node, pods, containers);
        for Unserved { namespace, pod, container, id, reason, .. } in &state.unserved {
            tracing::error!(pod = format!("{namespace}/{pod}"), container, id, "{reason}");
        }
        self.write_status(state);
        self.adopt_others(state, containers);
        tracing::info!(
            pods = state.sandboxes.len(),
            containers = state.containers.len(),
            ours = state.node.pods().count(),
            unserved = state.unserved.len(),
            "synchronized"
        );
        self.stale();
        self.stale_leases.notify_one();
        Ok(self.move_others(state))
    }

    /// Forgets containers that are gone, if they were among those that run without their interfaces.
    fn forget_unserved(&self, state: &mut State, gone: impl Fn(&Unserved) -> bool) {
        let before = state.unserved.len();
        state.unserved.retain(|unserved| !gone(unserved));
        if state.unserved.len() != before {
            self.write_status(state);
        }
    }

    fn write_status(&self, state: &State) {
        let text = unserved::status(state.runtime.as_deref(), &state.node, &state.unserved);
        if let Err(error) = self.files.write_status(&text) {
            tracing::warn!(%error, "cannot write the status");
        }
    }

    /// Writes down the containers whose shared CPUs have changed.
    fn keep(&self, node: &Node, updates: &[SharedUpdate]) {
        let changed: BTreeSet<_> = updates.iter().map(|update| &update.sandbox).collect();
        for record in changed.into_iter().filter_map(|sandbox| node.pod(sandbox)) {
            if let Err(error) = self.files.write_record(record) {
                tracing::warn!(sandbox = %record.sandbox, %error, "cannot write a record");
            }
        }
    }
}

/// The vRouter's ports of one slot.
fn ports_of(files: &Files, record: &PodRecord, slot: Slot) -> Result<Vec<Port>, PathError> {
    record
        .ports()
        .filter(|(id, _)| id.slot == slot)
        .map(|(id, interface)| convert::wanted_port(files.run_dir(), record, &id, interface))
        .collect()
}

/// A pod's name for people.
pub fn name(pod: &PodSandbox) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

/// CPUs for people.
pub fn show(cpus: &Cpus) -> String {
    match cpus {
        Cpus::Exclusive(cpus) => format!("{cpus} exclusive"),
        Cpus::Shared(cpus) => format!("{cpus} shared"),
        Cpus::Followed { cpus, .. } => format!("{cpus} chosen by others"),
    }
}
