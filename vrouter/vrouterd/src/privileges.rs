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

/// What loading programs into the kernel takes, and what giving it memory does where its locked memory is limited. CAP_BPF and CAP_PERFMON are
/// not enough: libxdp looks loaded programs up by number.
const PROGRAMS: [Capability; 2] = [Capability::CAP_SYS_ADMIN, Capability::CAP_IPC_LOCK];

/// Lets this process lock as much memory as it likes: what a NIC reads and writes through an IOMMU is locked, and counted. Before
/// capabilities are dropped. Where that is not allowed (a service manager has its own setting for it), the limit stays.
pub fn allow_locked_memory() {
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        tracing::debug!(%error, "the limit of locked memory stays");
    }
}

/// Drops all other capabilities for this thread and the threads it will start. `programs`: what [`with_programs`] needs stays at hand, but
/// not in use.
///
/// # Errors
/// What capset(2) or prctl(2) said.
pub fn drop_unneeded(programs: bool) -> Result<(), caps::errors::CapsError> {
    let held = caps::read(None, CapSet::Permitted)?;
    let used: HashSet<_> = KEPT.into_iter().filter(|c| held.contains(c)).collect();
    let at_hand = PROGRAMS.into_iter().filter(|c| programs && held.contains(c));
    let kept: HashSet<_> = used.iter().copied().chain(at_hand).collect();
    // The bounding set first: changing it needs CAP_SETPCAP. Without that there is nothing to give up there.
    if held.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::read(None, CapSet::Bounding)?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Effective, &used)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    caps::set(None, CapSet::Inheritable, &HashSet::new())
}

/// Does something with what loading programs into the kernel takes, if it is `needed` and at hand; on this thread only.
pub fn with_programs<T>(needed: bool, act: impl FnOnce() -> T) -> T {
    let change = |change: fn(Option<i32>, CapSet, Capability) -> Result<(), _>| {
        for capability in PROGRAMS.into_iter().filter(|_| needed) {
            if let Err(error) = change(None, CapSet::Effective, capability) {
                tracing::debug!(%capability, %error, "a capability stays as it is");
            }
        }
    };
    change(caps::raise);
    let done = act();
    change(caps::drop);
    done
}
