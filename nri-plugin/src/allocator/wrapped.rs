//! Containers of the runtime wrapper: they come by the node API, and nobody announces their end.
//!
//! Such a container is its own sandbox, and the sandbox's name says what it is ([`nri_plugin_api::is_wrapped`]): records need no
//! mark. It ends when the last process leaves its cgroup: to run again it has to be created again. Before there is a process in it,
//! the caller of the node API stands for it.

use std::collections::BTreeSet;
use std::path::Path;

use nri_plugin_api::{is_ours_alone, is_wrapped};
use nri_plugin_core::paths::SandboxId;
use nri_plugin_core::plan::{PodRecord, SharedUpdate};
use nri_plugin_proto::api::{Container, PodSandbox};

use super::{Allocator, Found, Granted, Refusal, State};
use crate::liveness;

/// Why a container of the wrapper is not served.
#[derive(Debug, thiserror::Error)]
pub enum WrappedError {
    /// As for a pod.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Its processes would be served twice.
    #[error("container {id:?} runs already; delete it first or choose another id")]
    Running {
        /// The runtime's id.
        id: String,
    },
}

/// A container and what it holds.
#[derive(Debug)]
pub struct Held {
    /// Everything.
    pub record: PodRecord,
    /// Whether a process is in its cgroup.
    pub running: bool,
}

impl Allocator {
    /// Where everything is.
    pub fn run_dir(&self) -> &Path {
        self.files.run_dir()
    }

    /// Gives a container what its annotations ask for, in place of whatever an earlier one of its id has left. `None` when nothing
    /// is meant for it. Until [`Allocator::caller_ended`] is told of it, it counts as alive.
    ///
    /// # Errors
    /// [`WrappedError`]; nothing is held then.
    pub async fn create_wrapped(
        &self,
        sandbox: &SandboxId,
        pod: &PodSandbox,
        container: &Container,
    ) -> Result<Option<Granted>, WrappedError> {
        {
            let mut guard = self.state.lock().await;
            let state = &mut *guard;
            if let Some(record) = state.node.pod(sandbox) {
                if state.callers.contains_key(sandbox) || liveness::is_populated(record) {
                    return Err(WrappedError::Running { id: container.id.clone() });
                }
                self.release_pod(state, sandbox).await;
            }
            state.called(sandbox);
        }
        match self.create(pod, container).await {
            Ok(Some(granted)) => {
                let mut state = self.state.lock().await;
                // Only an answer to the runtime can tell its containers.
                state.untold.extend(granted.allocation.updates.iter().cloned());
                state.untold_others.extend(granted.others.iter().cloned());
                Ok(Some(granted))
            }
            other => {
                self.state.lock().await.uncalled(sandbox);
                Ok(other?)
            }
        }
    }

    /// Whether something is held for a container; then its deletion has begun, and [`Allocator::caller_ended`] has to be told when
    /// that is over.
    pub async fn deleting_wrapped(&self, sandbox: &SandboxId) -> bool {
        let mut state = self.state.lock().await;
        let known = state.node.pod(sandbox).is_some();
        if known {
            state.called(sandbox);
        }
        known
    }

    /// The process that created or deleted a container is gone: without any other in the container's cgroup, so is the container.
    pub async fn caller_ended(&self, sandbox: &SandboxId) {
        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        state.uncalled(sandbox);
        let alive = |record| state.callers.contains_key(sandbox) || liveness::is_populated(record);
        if state.node.pod(sandbox).is_some_and(|record| !alive(record)) {
            self.release_pod(state, sandbox).await;
        }
    }

    /// All of them.
    pub async fn wrapped(&self) -> Vec<Held> {
        let state = self.state.lock().await;
        let records = state.node.pods().filter(|record| is_wrapped(record.sandbox.as_str()));
        let held = |record: &PodRecord| Held {
            record: record.clone(),
            running: liveness::is_populated(record),
        };
        records.map(held).collect()
    }

    /// Tells containers of the wrapper their new shared CPUs: NRI does not know them.
    pub(super) fn tell_wrapped(&self, state: &State, updates: &[SharedUpdate]) {
        for update in updates.iter().filter(|update| is_wrapped(update.sandbox.as_str())) {
            let container = state
                .node
                .pod(&update.sandbox)
                .and_then(|record| record.containers.get(&update.container));
            if let Some(container) = container {
                liveness::set_cpus(&container.cgroup, &update.cpus);
            }
        }
    }
}

impl State {
    fn called(&mut self, sandbox: &SandboxId) {
        *self.callers.entry(sandbox.clone()).or_default() += 1;
    }

    fn uncalled(&mut self, sandbox: &SandboxId) {
        if let Some(number) = self.callers.get_mut(sandbox) {
            *number -= 1;
            if *number == 0 {
                self.callers.remove(sandbox);
            }
        }
    }

    /// Those whose end nobody announces: containers of the wrapper that nobody is just creating or deleting, and pods that are older
    /// than the plugin's connection.
    pub(super) fn suspects(&self) -> Vec<PodRecord> {
        let is_suspect = |record: &&PodRecord| {
            let sandbox = &record.sandbox;
            if is_wrapped(sandbox.as_str()) {
                return !self.callers.contains_key(sandbox);
            }
            self.inherited.contains(sandbox) && !is_ours_alone(sandbox.as_str())
        };
        self.node.pods().filter(is_suspect).cloned().collect()
    }
}

/// Adds what the runtime does not list, because it does not know of it: every container of the wrapper and every device that is on
/// record.
pub(super) fn add_recorded(
    found: &Found,
    sandboxes: &mut BTreeSet<SandboxId>,
    containers: &mut BTreeSet<String>,
) {
    for record in found.records.iter().filter(|record| is_ours_alone(record.sandbox.as_str())) {
        sandboxes.insert(record.sandbox.clone());
        containers.extend(record.containers.values().map(|container| container.id.clone()));
    }
}
