//! Devices that are made, or found, while DPDK runs, and go again when they are closed.

use std::ffi::CString;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use vrouter_dpdk_sys as sys;

use super::{Ethdev, EthdevError};
use crate::eal::Eal;

/// Where DPDK looks for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// It is software: DPDK makes it.
    Virtual,
    /// It is a NIC, named by its PCI address. Only if DPDK was started with `-a`, see [`crate::EalConfig::extra`].
    Pci,
}

/// A device to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plug {
    /// Where.
    pub bus: Bus,
    /// Its name for DPDK. That of a virtual one begins with its driver's: `net_tap0`.
    pub name: String,
    /// What its driver is told: `iface=eth0,qpairs=2`.
    pub arguments: String,
}

/// A device that DPDK has and nobody opened yet, or has closed.
#[derive(Debug)]
pub(super) struct Plugged {
    bus: CString,
    name: CString,
    /// Its number, if it is watched for somebody who wants it back.
    watched: Option<u16>,
}

/// DPDK's lists of devices are not made for two threads that change them.
static CHANGING: Mutex<()> = Mutex::new(());

impl Plugged {
    /// Has it seen, from now on, when somebody wants the device back. What can't be watched is not seen to go: its link is.
    pub(super) fn watch(mut self, port: u16) -> Self {
        if self.bus.as_bytes() == b"pci" {
            // SAFETY: the number of an open device, and a C string, which DPDK copies.
            let status = unsafe { sys::ringway_ethdev_watch(port, self.name.as_ptr()) };
            self.watched = (status == 0).then_some(port);
        }
        self
    }

    /// Takes the device away. The last act of whoever had opened it.
    pub(super) fn remove(self) {
        if let Some(port) = self.watched {
            // SAFETY: the number it was watched by, and a C string.
            unsafe { sys::ringway_ethdev_unwatch(port, self.name.as_ptr()) };
        }
        let _changing = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        // A device that can't be taken away stays without a user, and its name with it: nothing to be done here.
        // SAFETY: two C strings; the environment is up, for the device holds it. Nobody uses the device any more.
        unsafe { sys::rte_eal_hotplug_remove(self.bus.as_ptr(), self.name.as_ptr()) };
    }
}

impl Ethdev {
    /// Makes a device and takes it. It is gone when this and all its queues are: a NIC is its driver's in the kernel again, and
    /// can be taken out, or given to another process. A NIC that DPDK has found when it started is taken as it is.
    ///
    /// What can't be made can take a while to fail, and DPDK's log says why.
    ///
    /// # Errors
    /// `NotMade`, and those of [`Ethdev::open`].
    pub fn plug(eal: &Eal, plug: &Plug) -> Result<Self, EthdevError> {
        let not_made = |errno| EthdevError::NotMade {
            name: plug.name.clone(),
            arguments: plug.arguments.clone(),
            errno,
        };
        let text = |text: &str| CString::new(text).map_err(|_| not_made(Errno::EINVAL));
        let bus = match plug.bus {
            Bus::Virtual => "vdev",
            Bus::Pci => "pci",
        };
        let (bus, name, arguments) = (text(bus)?, text(&plug.name)?, text(&plug.arguments)?);
        let plugged = || Plugged { bus: bus.clone(), name: name.clone(), watched: None };
        if plug.bus == Bus::Pci {
            match Self::take(eal, &plug.name, Some(plugged())) {
                Err(EthdevError::Unknown { .. }) => {}
                taken => return taken,
            }
        }
        let status = {
            let _changing = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: `eal` proves that the environment is up; three C strings, which DPDK copies.
            unsafe { sys::rte_eal_hotplug_add(bus.as_ptr(), name.as_ptr(), arguments.as_ptr()) }
        };
        if status != 0 {
            return Err(not_made(Errno::from_raw(status.wrapping_neg())));
        }
        let opened = Self::take(eal, &plug.name, Some(plugged()));
        if let Err(EthdevError::Unknown { .. }) = &opened {
            // Made, but no Ethernet device.
            plugged().remove();
        }
        opened
    }
}
