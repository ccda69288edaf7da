//! Container runtime, NRI, and vRouters.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Files;
use crate::modes::Mode;

/// What runs on the node that matters here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    /// Container runtimes whose socket is there.
    pub runtimes: Vec<Runtime>,
    /// Whether a runtime listens for NRI plugins.
    pub nri: bool,
    /// vRouters that answer.
    pub vrouters: Vec<Vrouter>,
}

/// A container runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// containerd.
    Containerd,
    /// CRI-O.
    Crio,
}

/// A vRouter that answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vrouter {
    /// Its control socket.
    pub socket: String,
    /// `dpdk`, `kernel`.
    pub mode: String,
    /// Of the program.
    pub version: String,
    /// The NUMA node it is for; `None`: all.
    pub numa: Option<u32>,
    /// CPU of each worker.
    pub workers: Vec<u32>,
    /// What they do when there is nothing to do.
    #[serde(default)]
    pub worker_mode: Mode,
    /// Ports that exist, by the NUMA node of the pod's memory; those where it is not known are only in `ports`.
    pub ports_by_numa: BTreeMap<u32, u32>,
    /// Ports that exist.
    pub ports: u32,
    /// Most that can exist, if its configuration could be read.
    pub ports_max: Option<u32>,
    /// Networks it has.
    #[serde(default)]
    pub networks: Vec<String>,
}

pub(super) fn parse(files: Files<'_>, vrouters: &[Vrouter]) -> Services {
    let sockets = [
        (Runtime::Containerd, "run/containerd/containerd.sock"),
        (Runtime::Crio, "run/crio/crio.sock"),
    ];
    let there = sockets.into_iter().filter(|(_, socket)| files.0.has(socket));
    Services {
        runtimes: there.map(|(runtime, _)| runtime).collect(),
        nri: files.0.has("run/nri/nri.sock") || files.0.has("var/run/nri/nri.sock"),
        vrouters: vrouters.to_vec(),
    }
}
