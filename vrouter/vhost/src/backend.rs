//! What the vhost-user daemon asks the device: features, sizes, and where its memory went.

use std::io;
use std::sync::Arc;

use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::VhostUserBackend;
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use crate::memory::GuestMemory;
use crate::ring::MAX_QUEUE_SIZE;
use crate::session::Session;
use crate::vring::PortVring;

/// Virtio feature bits offered to pods (virtio 1.2, 5.1.3 and 6; bit 30 is vhost-user's own). No EVENT_IDX
/// (virtio-user has none, and polling does not need it), no UDP fragmentation.
pub const FEATURES: u64 = 1 // CSUM
    | (1 << 1) // GUEST_CSUM
    | (1 << 7) // GUEST_TSO4
    | (1 << 8) // GUEST_TSO6
    | (1 << 11) // HOST_TSO4
    | (1 << 12) // HOST_TSO6
    | (1 << 15) // MRG_RXBUF
    | (1 << 22) // MQ
    | (1 << 28) // INDIRECT_DESC
    | (1 << 30) // PROTOCOL_FEATURES
    | (1 << 32) // VERSION_1
    | (1 << 34) // RING_PACKED
    | (1 << 35); // IN_ORDER: used buffers come back in the order they were offered

#[derive(Clone)]
pub(crate) struct PortBackend {
    session: Arc<Session>,
}

impl PortBackend {
    pub(crate) fn new(session: Arc<Session>) -> Self {
        Self { session }
    }
}

impl VhostUserBackend for PortBackend {
    type Bitmap = ();
    type Vring = PortVring;

    fn num_queues(&self) -> usize {
        self.session.virtqueues()
    }

    fn max_queue_size(&self) -> usize {
        usize::from(MAX_QUEUE_SIZE)
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn acked_features(&self, features: u64) {
        self.session.set_features(features);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        // No STATUS, INFLIGHT_SHMFD, LOG_SHMFD, BACKEND_REQ: the crate has no handler for them.
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::RESET_DEVICE
    }

    fn set_event_idx(&self, _enabled: bool) {
        // Never: not offered.
    }

    fn update_memory(&self, mem: GuestMemoryAtomic<GuestMemoryMmap>) -> io::Result<()> {
        self.session.set_memory(GuestMemory::new(mem.memory().into_inner())?);
        Ok(())
    }

    /// None: the daemon starts no epoll threads, workers poll instead.
    fn queues_per_thread(&self) -> Vec<u64> {
        Vec::new()
    }

    fn handle_event(
        &self,
        _device_event: u16,
        _events: EventSet,
        _vrings: &[PortVring],
        _thread: usize,
    ) -> io::Result<()> {
        Err(io::Error::other("no queue is served by an epoll thread"))
    }
}
