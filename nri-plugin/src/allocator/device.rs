//! Devices: interfaces that are there before their container, and stay after it, until somebody deletes them.
//!
//! A device is its own sandbox, and the sandbox's name says what it is ([`nri_plugin_api::is_device`]). It has at most one container
//! at a time, the latest it was attached to.

use std::collections::BTreeMap;
use std::path::PathBuf;

use nri_plugin_api::{device_sandbox, is_device_name};
use nri_plugin_core::annotations::NETWORK;
use nri_plugin_core::paths::{SandboxId, Slot, slot_directory};
use nri_plugin_core::plan::{Interface, PodRecord};
use nri_plugin_proto::api::{Container, LinuxContainer, PodSandbox};

use super::{Allocator, Refusal};
use crate::liveness;

/// The namespace of devices, for limits and for people.
const NAMESPACE: &str = "cdi";
/// Every device has one container, whatever its runtime calls it.
const CONTAINER: &str = "device";

/// Why something cannot be done to a device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// As for a pod.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Not a name.
    #[error(
        "device name {0:?}: must be 1 to 63 letters, digits, '.', '_' and '-', the first a letter, the last a letter or digit"
    )]
    Name(String),
    /// There is one.
    #[error("device {0:?} exists already; delete it first or choose another name")]
    Exists(String),
    /// There is none.
    #[error("device {0:?} does not exist; make it with `ringway cdi add`")]
    Unknown(String),
    /// It asks for no interface that could be made now.
    #[error("device {0:?} has no network; name one")]
    Nothing(String),
    /// A container has it.
    #[error("device {name:?} is in use by the container in {cgroup}; end that first")]
    InUse {
        /// The device.
        name: String,
        /// Where the processes are.
        cgroup: String,
    },
}

impl Allocator {
    /// Makes a device; returns the directory to mount and the interfaces in it.
    pub async fn create_device(
        &self,
        name: &str,
        annotations: BTreeMap<String, String>,
    ) -> Result<(PathBuf, Vec<Interface>), DeviceError> {
        let _one = self.devices.lock().await;
        let sandbox = sandbox_of(name)?;
        if self.state.lock().await.node.pod(&sandbox).is_some() {
            return Err(DeviceError::Exists(name.to_owned()));
        }
        let nothing = || DeviceError::Nothing(name.to_owned());
        if !self.prepare(&pod(&sandbox, name, annotations)).await? {
            return Err(nothing());
        }
        let mut state = self.state.lock().await;
        // It waits for its container as long as it takes.
        state.prepared.remove(&sandbox);
        let record = state.node.pod(&sandbox).ok_or_else(nothing)?;
        let interfaces = record.slots.get(&Slot::POD).cloned().unwrap_or_default();
        Ok((slot_directory(self.files.run_dir(), &sandbox, Slot::POD), interfaces))
    }

    /// Lets the processes of a cgroup use a device, and nobody else.
    pub async fn attach_device(&self, name: &str, cgroup: &str) -> Result<(), DeviceError> {
        let _one = self.devices.lock().await;
        let sandbox = sandbox_of(name)?;
        let networks = {
            let state = self.state.lock().await;
            let record = state.node.pod(&sandbox);
            let record = record.ok_or_else(|| DeviceError::Unknown(name.to_owned()))?;
            free(record, name, Some(cgroup))?;
            let interfaces = record.slots.get(&Slot::POD).into_iter().flatten();
            interfaces.map(|interface| interface.network.as_str()).collect::<Vec<_>>().join(",")
        };
        // The interfaces are on record; what else they were asked to be does not matter any more.
        let pod = pod(&sandbox, name, BTreeMap::from([(NETWORK.to_owned(), networks)]));
        let linux = LinuxContainer { cgroups_path: cgroup.to_owned(), ..Default::default() };
        let container = Container {
            id: sandbox.to_string(),
            pod_sandbox_id: sandbox.to_string(),
            name: CONTAINER.to_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        self.create(&pod, &container).await?;
        Ok(())
    }

    /// Takes a device back. No error when there is none.
    pub async fn delete_device(&self, name: &str) -> Result<(), DeviceError> {
        let _one = self.devices.lock().await;
        let sandbox = sandbox_of(name)?;
        let mut state = self.state.lock().await;
        if let Some(record) = state.node.pod(&sandbox) {
            free(record, name, None)?;
        }
        self.release_pod(&mut state, &sandbox).await;
        Ok(())
    }
}

/// Checks that no process has the device, but for those in `cgroup`.
fn free(record: &PodRecord, name: &str, cgroup: Option<&str>) -> Result<(), DeviceError> {
    let container = record.containers.values().next();
    match container.filter(|it| Some(&*it.cgroup) != cgroup && liveness::is_populated(record)) {
        None => Ok(()),
        Some(other) => {
            Err(DeviceError::InUse { name: name.to_owned(), cgroup: other.cgroup.clone() })
        }
    }
}

fn sandbox_of(name: &str) -> Result<SandboxId, DeviceError> {
    if !is_device_name(name) {
        return Err(DeviceError::Name(name.chars().take(64).collect()));
    }
    Ok(SandboxId::new(&device_sandbox(name)).map_err(Refusal::from)?)
}

fn pod(sandbox: &SandboxId, name: &str, annotations: BTreeMap<String, String>) -> PodSandbox {
    PodSandbox {
        id: sandbox.to_string(),
        namespace: NAMESPACE.to_owned(),
        name: name.to_owned(),
        annotations,
        ..Default::default()
    }
}
