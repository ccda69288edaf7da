//! Links between the vRouters of one machine: memory of one of them that both read and write, as between a vRouter and a pod.
//!
//! The end that listens is a port as pods have; the other is DPDK's virtio-user. So a packet is copied once into the memory of
//! the one, or once out of it, and neither asks the kernel for anything as long as both are awake.

use std::cell::Cell;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vrouter_core::PortIndex;
use vrouter_dpdk::{Bus, Ethdev, EthdevConfig, LinkReader, Plug};
use vrouter_vhost::port::{Peers, Port, PortConfig, PortEvent, SocketOwner, State};
use vrouter_vhost::wake::{Token, Wake};

use super::{DESCRIPTORS, Device, Devices, Kind, text};
use crate::convert::{Link, UplinkRequest};
use crate::dataplane::Ends;
use crate::wire::Wire;

/// What a driver's name begins with, so that DPDK finds the driver.
const DRIVER: &str = "net_virtio_user";
/// Entries of each of its rings.
const RING: u16 = 1024;

/// Whether the end that listens is still there. The driver starts to take its connection down each time it is asked and finds
/// it lost, so that it is asked no more then, by however many.
pub(super) struct Lifeline {
    link: LinkReader,
    lost: Mutex<bool>,
}

impl Lifeline {
    fn of(ethdev: &Ethdev) -> Self {
        Self { link: ethdev.link_reader(), lost: Mutex::new(false) }
    }

    /// Asks the driver, if it has not said no before.
    pub(super) fn is_up(&self) -> bool {
        // One assignment.
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        *lost = *lost || !self.link.link().is_ok_and(|link| link.up);
        !*lost
    }
}

impl Devices {
    /// One end of a link. The error is one line.
    pub(super) fn open_link(
        &mut self,
        request: &UplinkRequest,
        link: &Link,
        port: PortIndex,
        wake: Option<Arc<Wake>>,
    ) -> Result<Device, String> {
        let token = Token(u32::from(port.0));
        let (kind, ends, driver) = if link.listens {
            let wake = wake.ok_or("there is no worker")?;
            let config = PortConfig {
                id: request.name.clone(),
                socket: link.socket.clone(),
                owner: SocketOwner::Vrouter,
                // The directory is root's alone.
                peers: Peers::Root,
                private_dir: self.private_dir.clone(),
                token,
            };
            let name = request.name.clone();
            let up = Arc::new(AtomicBool::new(false));
            let seen = Arc::clone(&up);
            let observer = Box::new(move |event| match event {
                PortEvent::Changed(status) => {
                    seen.store(status.state == State::Up, Ordering::Relaxed);
                    tracing::debug!(link = name, state = ?status.state, "a link has changed");
                }
                PortEvent::Refused { pid, why } => {
                    tracing::warn!(link = name, pid, why, "refused at a link");
                }
            });
            let port = Port::open(config, |_| Arc::clone(&wake), observer)
                .map_err(|error| error.to_string())?;
            let ends = Ends::Pod(Arc::clone(port.queues()));
            (Kind::Listener(port, up), ends, "vhost-user".to_owned())
        } else {
            if !is_listened_to(&link.socket) {
                return Err(format!("vRouter {} does not listen", link.peer));
            }
            let pool = self.pool().map_err(|refusal| refusal.to_string())?;
            let plug = Plug {
                bus: Bus::Virtual,
                name: format!("{DRIVER}_{}", request.name),
                arguments: format!(
                    "path={},mac={},queues=1,queue_size={RING}",
                    link.socket.display(),
                    link.mac
                ),
            };
            let mut ethdev = Ethdev::plug(&self.eal, &plug).map_err(|error| text(&error))?;
            let config = EthdevConfig {
                rx_queues: 1,
                tx_queues: 1,
                rx_descriptors: DESCRIPTORS,
                tx_descriptors: DESCRIPTORS,
                rx_pool: pool.clone(),
                mtu: request.mtu,
                tx_free_threshold: 0,
                interrupts: true,
                // The other end takes frames as from a NIC: nothing is left to be done.
                tx_offloads: false,
                rx_checksums: false,
            };
            let driver = ethdev.info().map_err(|error| text(&error))?.driver;
            let queues = ethdev.start(&config).map_err(|error| text(&error))?;
            let wire = Wire::new(queues, &pool, token).at_node(link.peer_node);
            let ends = Ends::Wire(Arc::new(wire));
            let lifeline = Arc::new(Lifeline::of(&ethdev));
            (Kind::Caller(ethdev, lifeline), ends, driver)
        };
        let lost = Cell::new(false);
        Ok(Device {
            kind,
            bond: None,
            ends,
            mac: link.mac,
            driver,
            interface: None,
            made: true,
            lost,
        })
    }
}

/// Whether a process listens on a unix socket: calling one that nobody serves any more would make DPDK complain at each look.
fn is_listened_to(socket: &Path) -> bool {
    let Ok(sockets) = fs::read("/proc/net/unix") else { return true };
    listens(&sockets, socket)
}

/// The same by the text of `/proc/net/unix`: address, references, protocol, flags, type, state, inode, path.
fn listens(sockets: &[u8], socket: &Path) -> bool {
    /// `__SO_ACCEPTCON` (include/uapi/linux/net.h).
    const ACCEPTS: u32 = 1 << 16;
    sockets.split(|byte| *byte == b'\n').any(|line| {
        let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let flags = words.nth(3).and_then(|word| std::str::from_utf8(word).ok());
        let flags = flags.and_then(|word| u32::from_str_radix(word, 16).ok());
        flags.is_some_and(|flags| flags & ACCEPTS != 0)
            && words.nth(3) == Some(socket.as_os_str().as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn who_listens_is_told_from_who_did() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("0-1.sock");
        assert!(!is_listened_to(&socket));
        let listener = UnixListener::bind(&socket).unwrap();
        let _caller = UnixStream::connect(&socket).unwrap();
        assert!(is_listened_to(&socket));
        drop(listener);
        assert!(socket.exists() && !is_listened_to(&socket));
    }
}
