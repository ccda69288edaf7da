//! Gives up what the daemon does not need, before it starts any thread.

use std::collections::HashSet;

use caps::{CapSet, Capability};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

/// What stays: reaching sockets and directories that belong to a pod's user, and giving the control socket to a
/// group; and for uplinks, which can come at any time, packet sockets, TAPs and the MTU of interfaces.
const KEPT: [Capability; 4] = [
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_CHOWN,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
];

/// Lets this process lock as much memory as it likes: what a NIC reads and writes through an IOMMU is locked, and counted. Before
/// capabilities are dropped. Where that is not allowed (a service manager has its own setting for it), the limit stays.
pub fn allow_locked_memory() {
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        tracing::debug!(%error, "the limit of locked memory stays");
    }
}

/// Drops all other capabilities for this thread and the threads it will start. `bpf`: but for loading programs for interfaces,
/// which AF_XDP does.
///
/// # Errors
/// What capset(2) or prctl(2) said.
pub fn drop_unneeded(bpf: bool) -> Result<(), caps::errors::CapsError> {
    let held = caps::read(None, CapSet::Permitted)?;
    let wanted = KEPT.into_iter().chain(bpf.then_some(Capability::CAP_BPF));
    let kept: HashSet<_> = wanted.filter(|c| held.contains(c)).collect();
    // The bounding set first: changing it needs CAP_SETPCAP. Without that there is nothing to give up there.
    if held.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::read(None, CapSet::Bounding)?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    caps::set(None, CapSet::Inheritable, &HashSet::new())
}

/// Whether programs for interfaces can be loaded.
pub fn may_load_programs() -> bool {
    caps::has_cap(None, CapSet::Effective, Capability::CAP_BPF).unwrap_or(false)
}
