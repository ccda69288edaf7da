//! What a port is doing, as it is on the wire.

use vrouter_api::v1;
use vrouter_vhost::port::{State, Status};

use super::{PortRequest, limits};
use crate::assign::Owners;

/// Name of a port's state, as people see it.
pub fn port_state(state: State) -> &'static str {
    match state {
        State::Waiting => "waiting",
        State::Connected => "connected",
        State::Up => "up",
    }
}

/// A port with its state.
pub fn port(request: &PortRequest, status: &Status, owners: &Owners) -> v1::Port {
    let state = match status.state {
        State::Waiting => v1::PortState::Waiting,
        State::Connected => v1::PortState::Connected,
        State::Up => v1::PortState::Up,
    };
    v1::Port {
        spec: Some(request.spec.clone()),
        state: state.into(),
        reason: status.reason.clone(),
        features: status.features,
        active_queue_pairs: status.queue_pairs,
        memory_regions: u32::try_from(status.memory_regions).unwrap_or(u32::MAX),
        memory_bytes: status.memory_bytes,
        peer_pid: u32::try_from(status.peer_pid).unwrap_or(0),
        worker: u32::from(owners.of(0).0),
        workers: owners.iter().take(request.pairs).map(|(_, w)| u32::from(w.0)).collect(),
        numa_node: status.numa_node.and_then(|n| i32::try_from(n).ok()).unwrap_or(-1),
        policer: request.rates.and_then(limits::policer),
    }
}
