//! Gives up what the daemon does not need, before it starts any thread.

use std::collections::HashSet;

use caps::{CapSet, Capability};

/// What stays: reaching sockets and directories that belong to a pod's user, and giving the control socket to a
/// group; and for uplinks, which can come at any time, packet sockets, TAPs and the MTU of interfaces.
const KEPT: [Capability; 4] = [
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_CHOWN,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
];

/// Drops all other capabilities for this thread and the threads it will start.
///
/// # Errors
/// What capset(2) or prctl(2) said.
pub fn drop_unneeded() -> Result<(), caps::errors::CapsError> {
    let held = caps::read(None, CapSet::Permitted)?;
    let kept: HashSet<_> = KEPT.into_iter().filter(|c| held.contains(c)).collect();
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
