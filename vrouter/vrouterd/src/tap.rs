//! A TAP: a network interface of the kernel's whose other end is here.
//!
//! Not through DPDK's driver for them (22.11): that one sends nothing above 1,522 bytes whatever the MTU is, and learns of packets by
//! a signal. Each packet costs a system call and a copy either way; this carries what the kernel's own traffic needs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use tappers::Interface;
use vrouter_dpdk::{Mac, MbufBatch, Pool, set_interface_mac, set_interface_mtu};

/// An open TAP. The kernel removes it with the last handle, however the process ends.
#[derive(Clone)]
pub struct Tap {
    device: Arc<tappers::Tap>,
    name: String,
}

/// Takes what the kernel sends.
pub struct TapReader {
    tap: Tap,
    pool: Pool,
    /// The last frame. A byte larger than a buffer, so that one that was cut is too long for it.
    frame: Box<[u8]>,
    drained: bool,
}

impl Tap {
    /// Makes an interface and brings it up.
    ///
    /// # Errors
    /// The name is taken or none, or this process may not do that.
    pub fn create(name: &str, mac: Mac, mtu: u16) -> io::Result<Self> {
        Self::create_prepared(name, mac, mtu, || Ok(()))
    }

    /// The same, and does something with the interface before that is up.
    ///
    /// # Errors
    /// Those of `prepare`, too; the interface is gone again then.
    pub fn create_prepared(
        name: &str,
        mac: Mac,
        mtu: u16,
        prepare: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Self> {
        let mut device = make(name, mac, mtu)?;
        prepare()?;
        device.set_up()?;
        Ok(Self { device: Arc::new(device), name: name.to_owned() })
    }

    /// Makes an interface and hands it to somebody who brings it up. What [`Self::set_mac`] needs is its name here.
    ///
    /// # Errors
    /// Those of `hand_over`, too; the interface is gone again then.
    pub fn create_for(
        name: &str,
        mac: Mac,
        mtu: u16,
        hand_over: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Self> {
        let device = make(name, mac, mtu)?;
        hand_over()?;
        Ok(Self { device: Arc::new(device), name: name.to_owned() })
    }

    /// Whether the interface is still there, wherever it is.
    pub fn is_attached(&self) -> bool {
        self.device.name().is_ok()
    }

    /// Gives it another address.
    ///
    /// # Errors
    /// The interface is gone, or can't have it.
    pub fn set_mac(&self, mac: Mac) -> io::Result<()> {
        Ok(set_interface_mac(&self.name, mac)?)
    }

    /// For the one that takes what the kernel sends, into buffers of `pool`.
    pub fn reader(&self, pool: &Pool) -> TapReader {
        let frame = vec![0; usize::from(pool.data_room()) + 1].into();
        TapReader { tap: self.clone(), pool: pool.clone(), frame, drained: false }
    }

    /// Gives all frames to the kernel; returns number and bytes of those that it did not take.
    pub fn send(&self, batch: &mut MbufBatch) -> (u64, u64) {
        // One that is refused says nothing of the next, but of an interface that is down or was deleted.
        let refused = batch.iter().filter(|frame| self.device.send(frame).is_err());
        let lost = refused.fold((0, 0), |(n, bytes), frame| (n + 1, bytes + frame.len() as u64));
        batch.clear();
        lost
    }
}

fn make(name: &str, mac: Mac, mtu: u16) -> io::Result<tappers::Tap> {
    let mut device = tappers::Tap::new_named(Interface::new(name)?)?;
    device.set_nonblocking(true)?;
    set_interface_mac(name, mac)?;
    set_interface_mtu(name, mtu)?;
    Ok(device)
}

impl TapReader {
    /// An empty batch for frames from here.
    pub fn batch(&self, capacity: u16) -> MbufBatch {
        self.pool.batch(capacity)
    }

    /// Adds to `batch` what has arrived, as far as there is room.
    pub fn receive(&mut self, batch: &mut MbufBatch) {
        self.drained = false;
        // Frames that are lost count, or a flood of them would hold the worker here.
        for _ in batch.len()..batch.capacity() {
            let Ok(bytes) = self.tap.device.recv(&mut self.frame) else {
                self.drained = true;
                break;
            };
            let frame = self.frame.get(..bytes).unwrap_or(&[]);
            let Ok(len) = u16::try_from(bytes) else { continue };
            // One without a buffer, or too long for it, is lost, as at a NIC.
            if let Ok(room) = batch.push(len) {
                room.copy_from_slice(frame);
            }
        }
    }

    /// Whether the last look found the end of what has arrived, so that the descriptor tells of the next frame.
    pub fn drained(&self) -> bool {
        self.drained
    }

    /// Becomes readable when a frame arrives; to be watched edge-triggered.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.tap.device.as_fd()
    }
}
