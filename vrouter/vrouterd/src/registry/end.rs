//! What is at a port's other end: a pod's rings, or an interface in its network namespace.

use std::io;
use std::sync::Arc;

use vrouter_api::v1::event;
use vrouter_core::PortIndex;
use vrouter_vhost::port::{Peers, Port, PortConfig, State, Status};
use vrouter_vhost::wake::{Token, Wake};

use super::{Facts, Registry};
use crate::convert::{PortRequest, Refusal};
use crate::dataplane::Ends;
use crate::device::Device;

/// The other end.
pub enum End {
    /// Rings in the pod's memory.
    Rings(Port),
    /// An interface in the pod's network namespace.
    Link {
        /// It.
        device: Device,
        /// Whether it was there when it was looked at last.
        attached: bool,
    },
}

impl End {
    /// How it is.
    pub fn status(&self) -> Status {
        match self {
            Self::Rings(port) => port.status(),
            Self::Link { attached: true, .. } => {
                Status { state: State::Up, queue_pairs: 1, ..Status::default() }
            }
            Self::Link { attached: false, .. } => Status {
                reason: "its interface is gone: it was deleted, or the pod has ended".to_owned(),
                ..Status::default()
            },
        }
    }

    /// Lets other processes connect.
    pub fn set_cgroups(&self, cgroups: Vec<String>) {
        if let Self::Rings(port) = self {
            port.set_cgroups(cgroups);
        }
    }

    /// As the workers see it.
    pub fn ends(&self) -> Ends {
        match self {
            Self::Rings(port) => Ends::Pod(Arc::clone(port.queues())),
            Self::Link { device, .. } => device.ends.clone(),
        }
    }

    /// From now on packets of a queue pair wake this worker.
    ///
    /// # Errors
    /// What tells of them can't be watched.
    pub fn set_wake(&self, pair: usize, wake: &Arc<Wake>) -> io::Result<()> {
        match self {
            Self::Rings(port) => port.queues().set_wake(pair, Arc::clone(wake)),
            Self::Link { device, .. } => device.set_wake(pair, wake),
        }
    }

    /// Ends it. May take a while.
    pub fn close(self) {
        match self {
            Self::Rings(port) => port.close(),
            Self::Link { device, .. } => device.close(),
        }
    }
}

impl Registry {
    /// Opens the other end of a port. `wake`: who polls a pair.
    pub(super) fn open_end<'a>(
        &mut self,
        index: PortIndex,
        facts: &Facts,
        wake: impl Fn(usize) -> &'a Arc<Wake>,
    ) -> Result<End, Refusal> {
        let request = facts.request();
        if let Some(link) = &request.link {
            let device = self.devices.open_pod_link(&request, link, index)?;
            if let Err(error) = device.set_wake(0, wake(0)) {
                tracing::warn!(port = request.spec.id, %error, "a worker can't watch an interface");
            }
            return Ok(End::Link { device, attached: true });
        }
        let config = self.port_config(index, &request);
        let observer = self.observer(&request.spec.id, facts);
        let wake = |pair: usize| Arc::clone(wake(pair));
        Ok(End::Rings(Port::open(config, wake, observer)?))
    }

    fn port_config(&self, index: PortIndex, request: &PortRequest) -> PortConfig {
        PortConfig {
            id: request.spec.id.clone(),
            socket: request.socket.clone(),
            owner: request.owner,
            peers: Peers::Cgroups(request.spec.peer_cgroups.clone()),
            private_dir: self.private_dir.clone(),
            token: Token(u32::from(index.0)),
        }
    }

    /// Looks whether pods' interfaces are still there.
    pub(super) fn look_at_pods_links(&mut self) {
        let mut gone = Vec::new();
        for (id, record) in &mut self.ports {
            if let End::Link { device, attached } = &mut record.end
                && *attached
                && !device.is_attached()
            {
                *attached = false;
                // Nothing comes from there any more, but the descriptor would say so for ever.
                device.silence();
                tracing::warn!(port = id, "the interface of a port is gone");
                gone.push(record.wire());
            }
        }
        for port in gone {
            self.tell(event::Event::PortChanged(port));
        }
    }
}
