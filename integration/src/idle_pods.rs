//! Pods that attach and then do nothing: their rings are set up and enabled, receive buffers are offered, nothing is sent.
//!
//! They live in a process of their own, because a switch must not find them among its own threads, and because a pod is let in
//! by the cgroup it is in. A silent pod needs no mapping of its memory: rings are written into the memory file.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::wait;
use anyhow::{Context, Result, ensure};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// What is printed when all are attached.
pub const ATTACHED: &str = "attached";

/// Entries of each ring, and buffers offered for receiving.
const RING: u16 = 256;
/// A pod's memory: rings and buffers.
const MEMORY: u64 = 1 << 20;
/// Where the pod claims to have mapped its memory; nobody looks there.
const BASE: u64 = 0x7f00_0000_0000;
/// Distance of the two rings in the memory; each takes 4 KiB of descriptors, then the available and the used ring.
const RING_STEP: u64 = 0x4000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
/// Where receive buffers begin, and how long each is.
const BUFFERS: u64 = 0x1_0000;
const BUFFER: u32 = 2048;
/// Offset bits of features: VIRTIO_F_VERSION_1 and VIRTIO_NET_F_MRG_RXBUF (virtio 1.2, sections 6 and 5.1.3).
const VERSION_1: u64 = 1 << 32;
const MRG_RXBUF: u64 = 1 << 15;
/// VIRTQ_DESC_F_WRITE (virtio 1.2, section 2.7.5).
const WRITE: u16 = 2;

/// Attaches a pod at each socket, says so, and stays until it is told to end.
pub fn serve(sockets: &[PathBuf]) -> Result<()> {
    wait::stop_on_signals()?;
    raise_file_limit()?;
    let mut attached = Vec::with_capacity(sockets.len());
    for socket in sockets {
        wait::check_stop()?;
        attached.push(Pod::attach(socket).with_context(|| format!("pod at {}", socket.display()))?);
    }
    println!("{ATTACHED} {}", attached.len());
    while wait::check_stop().is_ok() {
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Each pod takes seven descriptors here; the vRouter, which inherits the limit, takes more.
pub fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")
}

/// An attached pod; dropping it detaches.
struct Pod {
    _frontend: Frontend,
    _memory: File,
    _events: Vec<EventFd>,
}

impl Pod {
    fn attach(socket: &Path) -> Result<Self> {
        let memory = memory().context("cannot set its memory up")?;
        let mut frontend = Frontend::connect(socket, 2)?;
        frontend.set_owner()?;
        let offered = frontend.get_features()?;
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        let wanted = VERSION_1 | protocol;
        ensure!(offered & wanted == wanted, "features {offered:#x} lack some of {wanted:#x}");
        let known = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
        let both = frontend.get_protocol_features()? & known;
        frontend.set_protocol_features(both)?;
        frontend.set_features(offered & (wanted | MRG_RXBUF))?;
        frontend.set_mem_table(&[VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: MEMORY,
            userspace_addr: BASE,
            mmap_offset: 0,
            mmap_handle: memory.as_raw_fd(),
        }])?;
        let mut events = Vec::new();
        for (queue, ring) in (0..2).zip([BASE, BASE + RING_STEP]) {
            let (kick, call) = (EventFd::new(EFD_NONBLOCK)?, EventFd::new(EFD_NONBLOCK)?);
            frontend.set_vring_num(queue, RING)?;
            frontend.set_vring_base(queue, 0)?;
            frontend.set_vring_addr(
                queue,
                &VringConfigData {
                    queue_max_size: RING,
                    queue_size: RING,
                    flags: 0,
                    desc_table_addr: ring,
                    used_ring_addr: ring + USED,
                    avail_ring_addr: ring + AVAILABLE,
                    log_addr: None,
                },
            )?;
            frontend.set_vring_call(queue, &call)?;
            frontend.set_vring_kick(queue, &kick)?;
            events.extend([kick, call]);
        }
        for queue in 0..2 {
            frontend.set_vring_enable(queue, true)?;
        }
        Ok(Self { _frontend: frontend, _memory: memory, _events: events })
    }
}

/// A memory file with an empty sending ring and a receiving ring (queue 0) full of buffers.
fn memory() -> Result<File> {
    let file = File::from(memfd_create(c"idle-pod", MFdFlags::MFD_CLOEXEC)?);
    file.set_len(MEMORY)?;
    let (mut descriptors, mut available) = (Vec::new(), Vec::new());
    // Flags, then the index of the next entry, which equals their number.
    available.extend([0u16, RING].map(u16::to_le_bytes).concat());
    for index in 0..RING {
        let address = BUFFERS + u64::from(index) * u64::from(BUFFER);
        descriptors.extend(address.to_le_bytes());
        descriptors.extend(BUFFER.to_le_bytes());
        descriptors.extend([WRITE, 0].map(u16::to_le_bytes).concat());
        available.extend(index.to_le_bytes());
    }
    file.write_all_at(&descriptors, 0)?;
    file.write_all_at(&available, AVAILABLE)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_receive_buffer_is_inside_the_memory_and_apart_from_the_others() {
        let file = memory().unwrap();
        let read = |at: u64, length: usize| {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, at).unwrap();
            bytes
        };
        assert_eq!(read(AVAILABLE + 2, 2), RING.to_le_bytes());
        let mut next = BUFFERS;
        for index in 0..u64::from(RING) {
            let descriptor = read(index * 16, 16);
            let address = u64::from_le_bytes(descriptor[..8].try_into().unwrap());
            let length = u32::from_le_bytes(descriptor[8..12].try_into().unwrap());
            assert_eq!(address, next);
            next = address + u64::from(length);
            assert_eq!(descriptor[12..], [2, 0, 0, 0], "writable and alone");
            assert_eq!(read(AVAILABLE + 4 + index * 2, 2), index.to_le_bytes()[..2]);
        }
        assert!(next <= MEMORY);
        // The sending ring offers nothing, and neither ring was used yet.
        assert_eq!(read(RING_STEP + AVAILABLE, 4), [0; 4]);
        assert_eq!(read(USED, 4), [0; 4]);
    }
}
