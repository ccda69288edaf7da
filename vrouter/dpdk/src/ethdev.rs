//! Ethernet devices: opened by name, started once with their queues, closed when nothing of them is left.

pub(crate) mod bond;
pub(crate) mod interface;
pub(crate) mod offload;
pub(crate) mod plug;
pub(crate) mod queue;
mod xdp;

use std::ffi::{CStr, CString};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use vrouter_dpdk_sys as sys;

use crate::eal::{Eal, Running};
use crate::pool::Pool;
use offload::{Offloads, vouches};
use queue::{RxQueue, TxQueue};

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EthdevError {
    /// EAL knows no device of that name.
    #[error("there is no Ethernet device {name:?}: name one that EAL found or that `--vdev` made")]
    Unknown {
        /// The name.
        name: String,
    },
    /// It could not be made.
    #[error("cannot make the Ethernet device {name:?} ({arguments}): what DPDK logged says why")]
    NotMade {
        /// Its name.
        name: String,
        /// What it was to be made with.
        arguments: String,
        /// DPDK's reason.
        #[source]
        errno: Errno,
    },
    /// It is open already, here or elsewhere in the process.
    #[error("Ethernet device {name:?} has an owner already")]
    Owned {
        /// The name.
        name: String,
    },
    /// Its driver passes on the sender's buffers instead of receiving into its own, which the queues here would
    /// return to the wrong pool.
    #[error(
        "Ethernet device {name:?}: driver {driver} is not supported: use net_memif between processes"
    )]
    Unsupported {
        /// The device.
        name: String,
        /// Its driver.
        driver: String,
    },
    /// It cannot be started as wanted. Nothing was changed.
    #[error("Ethernet device {name:?}: {field} {value}: use {min} to {max}")]
    OutOfRange {
        /// The device.
        name: String,
        /// Which value of [`EthdevConfig`].
        field: &'static str,
        /// What it was.
        value: u32,
        /// Least that works.
        min: u32,
        /// Most that works.
        max: u32,
    },
    /// A queue can't have an AF_XDP socket. Another one may have it: also one that was closed, until the kernel has cleared up after it,
    /// which takes some 50 ms and of which it tells nobody.
    #[error(
        "Ethernet device {name:?}: no AF_XDP socket for queue {queue} of its interface: somebody else has one there, or what DPDK \
         logged says why"
    )]
    NoSocket {
        /// The device.
        name: String,
        /// The queue.
        queue: u16,
    },
    /// DPDK or the driver refused.
    #[error("Ethernet device {name:?}: cannot {action}")]
    Refused {
        /// The device.
        name: String,
        /// What was tried.
        action: &'static str,
        /// DPDK's reason.
        #[source]
        errno: Errno,
    },
}

/// Drivers that receive the very buffers that were sent.
const PASSES_BUFFERS: [&str; 1] = ["net_ring"];

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What a device is and can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// DPDK's name of the driver, `net_virtio_user`.
    pub driver: String,
    /// Its address.
    pub mac: Mac,
    /// Receive queues it can have.
    pub max_rx_queues: u16,
    /// Send queues it can have.
    pub max_tx_queues: u16,
    /// Smallest MTU.
    pub min_mtu: u16,
    /// Largest MTU. The kernel's interface behind a device may have a larger one ([`interface::set_interface_mtu`]).
    pub max_mtu: u16,
    /// Fewest and most descriptors of a receive queue.
    pub rx_descriptors: (u16, u16),
    /// Fewest and most descriptors of a send queue.
    pub tx_descriptors: (u16, u16),
    /// What it can do with packets to be sent, with an MTU of 1500 bytes.
    pub offloads: Offloads,
    /// [`EthdevConfig::rx_checksums`] has no price.
    pub vouches: bool,
}

/// How a device is started.
#[derive(Debug, Clone)]
pub struct EthdevConfig {
    /// Receive queues.
    pub rx_queues: u16,
    /// Send queues.
    pub tx_queues: u16,
    /// Packets a receive queue holds at most; 0: the driver's choice.
    pub rx_descriptors: u16,
    /// Packets a send queue holds at most; 0: the driver's choice.
    pub tx_descriptors: u16,
    /// Where packets are received into. A buffer must hold a whole frame of this `mtu`.
    pub rx_pool: Pool,
    /// Bytes of an Ethernet payload at most.
    pub mtu: u16,
    /// Free descriptors below which a send queue takes sent buffers back, in some drivers the number of sent ones
    /// it keeps; 0: the driver's choice.
    pub tx_free_threshold: u16,
    /// Receive queues are to have a descriptor that tells of packets ([`RxQueue::interrupt`]), if the driver has that.
    pub interrupts: bool,
    /// Packets to be sent may leave work to the device ([`TxQueue::offloads`]).
    pub tx_offloads: bool,
    /// The device is to look at the checksums of what it receives ([`crate::Packet::checksum_is_good`]), if it can. Drivers for
    /// which [`Info::vouches`] is false may then hand over packets without a checksum.
    pub rx_checksums: bool,
}

/// State of a device's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Packets can pass.
    pub up: bool,
    /// Mbit/s; `None`: unknown.
    pub speed: Option<u32>,
}

/// A device's own counters since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets the device dropped for want of a receive buffer.
    pub rx_missed: u64,
    /// Packets received broken.
    pub rx_errors: u64,
    /// Packets not sent.
    pub tx_errors: u64,
    /// Times the pool had no receive buffer.
    pub rx_no_mbuf: u64,
}

/// The queues of a started device, in order. Each has one owner and may be polled by a thread of its own.
#[derive(Debug)]
pub struct Queues {
    /// Receive queues.
    pub rx: Vec<RxQueue>,
    /// Send queues.
    pub tx: Vec<TxQueue>,
}

/// An Ethernet device: a NIC, or one made by `--vdev`. This is its only owner in the process.
///
/// The device stops and closes when this and all its queues are gone.
#[derive(Debug)]
pub struct Ethdev {
    device: Arc<Device>,
    /// [`Ethdev::start`] was called. A second set-up would take the queues from under their owners.
    started: bool,
}

/// Reads the link of a device, from whatever thread. The device is not closed before this is gone.
#[derive(Debug)]
pub struct LinkReader(Arc<Device>);

/// The device behind an [`Ethdev`] and its queues; dropping it closes the device.
#[derive(Debug)]
pub(crate) struct Device {
    port: u16,
    owner: u64,
    name: String,
    /// What it is a bond of. They are closed after it, and before the pools go whose buffers they hold.
    members: Vec<Arc<Device>>,
    /// What its driver may forget to close.
    sockets: Mutex<xdp::Sockets>,
    /// Pools with buffers that the device may hold. They must outlive it: it gives the buffers back when closed.
    pools: Mutex<Vec<Pool>>,
    /// Who reads the link has it.
    asking: Mutex<()>,
    /// It was made by [`Ethdev::plug`] and goes when it is closed.
    plugged: Option<plug::Plugged>,
    /// After `pools`: everything goes before the environment it lies in.
    _eal: Arc<Running>,
}

impl Ethdev {
    /// Takes the device `name`: for `--vdev net_virtio_user0,path=...` that is `net_virtio_user0`, for a NIC its
    /// PCI address.
    ///
    /// # Errors
    /// `Unknown`, `Owned`, `Unsupported`, `Refused`.
    pub fn open(eal: &Eal, name: &str) -> Result<Self, EthdevError> {
        Self::take(eal, name, None)
    }

    fn take(eal: &Eal, name: &str, plugged: Option<plug::Plugged>) -> Result<Self, EthdevError> {
        let unknown = || EthdevError::Unknown { name: name.to_owned() };
        let c_name = CString::new(name).map_err(|_| unknown())?;
        let mut port = 0;
        // SAFETY: `eal` proves that the environment is up; a C string and a place for the number.
        let status = unsafe { sys::ringway_ethdev_by_name(c_name.as_ptr(), &raw mut port) };
        if status != 0 {
            return Err(unknown());
        }
        let mut owner = 0;
        // SAFETY: the number is a device's, and there is a place for the owner's.
        let status = unsafe { sys::ringway_ethdev_own(port, &raw mut owner) };
        if status != 0 {
            let name = name.to_owned();
            return Err(match Errno::from_raw(status.wrapping_neg()) {
                Errno::EPERM => EthdevError::Owned { name },
                errno => EthdevError::Refused { name, action: "become its owner", errno },
            });
        }
        let device = Device {
            port,
            owner,
            name: name.to_owned(),
            members: Vec::new(),
            sockets: Mutex::default(),
            pools: Mutex::default(),
            asking: Mutex::default(),
            plugged: plugged.map(|plugged| plugged.watch(port)),
            _eal: Arc::clone(eal.running()),
        };
        let ethdev = Self { device: Arc::new(device), started: false };
        let driver = ethdev.info()?.driver;
        if PASSES_BUFFERS.contains(&driver.as_str()) {
            return Err(EthdevError::Unsupported { name: name.to_owned(), driver });
        }
        Ok(ethdev)
    }

    /// What the device is and can do.
    ///
    /// # Errors
    /// `Refused`.
    pub fn info(&self) -> Result<Info, EthdevError> {
        self.info_with(1500)
    }

    fn info_with(&self, mtu: u16) -> Result<Info, EthdevError> {
        self.device.info(mtu)
    }

    /// Starts the device and hands out its queues. It can be started once; open it again for another set-up.
    ///
    /// # Errors
    /// `OutOfRange`, `NoSocket`, `Refused`; after the last two the device is of no use and should be dropped.
    pub fn start(&mut self, config: &EthdevConfig) -> Result<Queues, EthdevError> {
        self.check_range(config)?;
        let device = &self.device;
        if std::mem::replace(&mut self.started, true) {
            return Err(device.refused("start it twice", Errno::EBUSY));
        }
        device.keep(&config.rx_pool);
        let port = device.port;
        let Info { driver, offloads, .. } = self.info_with(config.mtu)?;
        let offloads = if config.tx_offloads { offloads } else { Offloads::NONE };
        // SAFETY: an open device without queues; DPDK checks the numbers.
        let status = unsafe {
            sys::ringway_ethdev_configure(
                port,
                config.rx_queues,
                config.tx_queues,
                u32::from(config.mtu),
                i32::from(config.interrupts),
                i32::from(config.tx_offloads),
                i32::from(config.rx_checksums),
            )
        };
        device.check("configure it", status)?;
        device.receive_by(config, &driver)?;
        for queue in 0..config.tx_queues {
            let (count, threshold) = (config.tx_descriptors, config.tx_free_threshold);
            // SAFETY: a configured device that is not started.
            let status = unsafe { sys::ringway_ethdev_tx_queue(port, queue, count, threshold) };
            device.check("set up a send queue", status)?;
        }
        // SAFETY: a device with all its queues set up.
        let status = unsafe { sys::rte_eth_dev_start(port) };
        device.check("start it", status)?;
        let rx = |queue| {
            let pool = config.rx_pool.clone();
            RxQueue::new(Arc::clone(device), port, queue, pool, config.interrupts, &driver)
        };
        let tx = |queue| TxQueue::new(Arc::clone(device), port, queue, offloads);
        Ok(Queues {
            rx: (0..config.rx_queues).map(rx).collect(),
            tx: (0..config.tx_queues).map(tx).collect(),
        })
    }

    fn check_range(&self, config: &EthdevConfig) -> Result<(), EthdevError> {
        let info = self.info()?;
        let room = config.rx_pool.data_room().saturating_sub(FRAME_OVERHEAD);
        // 0 leaves the number to the driver; a driver without limits says 0 as well.
        let descriptors = |(min, max), wanted| match (wanted, max) {
            (0, _) | (_, 0) => (0, u16::MAX),
            _ => (min, max),
        };
        let rx = descriptors(info.rx_descriptors, config.rx_descriptors);
        let tx = descriptors(info.tx_descriptors, config.tx_descriptors);
        for (field, value, (min, max)) in [
            ("receive queues", config.rx_queues, (1, info.max_rx_queues)),
            ("send queues", config.tx_queues, (1, info.max_tx_queues)),
            ("receive descriptors", config.rx_descriptors, rx),
            ("send descriptors", config.tx_descriptors, tx),
            ("MTU", config.mtu, (info.min_mtu, info.max_mtu.min(room))),
        ] {
            if !(min..=max).contains(&value) {
                let [value, min, max] = [value, min, max].map(u32::from);
                let name = self.device.name.clone();
                return Err(EthdevError::OutOfRange { name, field, value, min, max });
            }
        }
        Ok(())
    }

    /// Somebody wants the device back: it is being taken out of the machine, or another driver is to have it. Nothing goes on
    /// there before it is closed. Seen only of NICs of VFIO that were opened by [`Ethdev::plug`].
    pub fn is_wanted_back(&self) -> bool {
        self.device.is_wanted_back()
    }

    /// State of the link, without waiting for one that is being negotiated.
    ///
    /// # Errors
    /// `Refused`.
    pub fn link(&self) -> Result<Link, EthdevError> {
        self.device.link()
    }

    /// The same for another thread.
    pub fn link_reader(&self) -> LinkReader {
        LinkReader(Arc::clone(&self.device))
    }

    /// The device's counters.
    ///
    /// # Errors
    /// `Refused`.
    pub fn stats(&self) -> Result<Stats, EthdevError> {
        let mut stats = sys::ringway_ethdev_stats::default();
        // SAFETY: an open device, and a place for the answer.
        let status = unsafe { sys::ringway_ethdev_stats(self.device.port, &raw mut stats) };
        self.device.check("read its counters", status)?;
        Ok(Stats {
            rx_packets: stats.rx_packets,
            tx_packets: stats.tx_packets,
            rx_bytes: stats.rx_bytes,
            tx_bytes: stats.tx_bytes,
            rx_missed: stats.rx_missed,
            rx_errors: stats.rx_errors,
            tx_errors: stats.tx_errors,
            rx_no_mbuf: stats.rx_no_mbuf,
        })
    }

    /// The device's further counters, by the names its driver gives them.
    ///
    /// # Errors
    /// `Refused`.
    pub fn extended_stats(&self) -> Result<Vec<(String, u64)>, EthdevError> {
        let mut stats = Vec::new();
        // More than any driver in Debian's build has; one that has more tells how many, and is asked again.
        let mut room = 256;
        loop {
            stats.resize(room, sys::ringway_ethdev_xstat::default());
            let count = u32::try_from(room).unwrap_or(u32::MAX);
            // SAFETY: an open device, and `count` places for the answer.
            let there =
                unsafe { sys::ringway_ethdev_xstats(self.device.port, stats.as_mut_ptr(), count) };
            let Ok(there) = usize::try_from(there) else {
                return Err(self
                    .device
                    .refused("read its further counters", Errno::from_raw(there.wrapping_neg())));
            };
            if there <= room {
                stats.truncate(there);
                break;
            }
            room = there;
        }
        let named = |stat: &sys::ringway_ethdev_xstat| {
            let name: Vec<u8> =
                stat.name.as_flattened().iter().map(|c| c.cast_unsigned()).collect();
            let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
            (name.to_string_lossy().into_owned(), stat.value)
        };
        Ok(stats.iter().map(named).collect())
    }

    /// Changes the MTU of a device, running or not.
    ///
    /// # Errors
    /// `Refused`.
    pub fn set_mtu(&mut self, mtu: u16) -> Result<(), EthdevError> {
        // SAFETY: an open device; the driver checks the number.
        let status = unsafe { sys::rte_eth_dev_set_mtu(self.device.port, mtu) };
        self.device.check("set its MTU", status)
    }

    /// Changes the device's address.
    ///
    /// # Errors
    /// `Refused`.
    pub fn set_mac(&mut self, mac: Mac) -> Result<(), EthdevError> {
        // SAFETY: an open device, and six bytes.
        let status = unsafe { sys::ringway_ethdev_set_mac(self.device.port, mac.0.as_ptr()) };
        self.device.check("set its address", status)
    }

    /// Receives frames for other addresses too, or no longer.
    ///
    /// # Errors
    /// `Refused`: many virtual devices cannot choose.
    pub fn set_promiscuous(&mut self, on: bool) -> Result<(), EthdevError> {
        let port = self.device.port;
        let status = if on {
            // SAFETY: an open device.
            unsafe { sys::rte_eth_promiscuous_enable(port) }
        } else {
            // SAFETY: an open device.
            unsafe { sys::rte_eth_promiscuous_disable(port) }
        };
        self.device.check("change its promiscuous mode", status)
    }

    /// The name it was opened by.
    pub fn name(&self) -> &str {
        &self.device.name
    }
}

/// Bytes of a frame in a buffer beyond its MTU: Ethernet header and one VLAN tag.
const FRAME_OVERHEAD: u16 = 18;

impl LinkReader {
    /// See [`Ethdev::link`].
    ///
    /// # Errors
    /// `Refused`.
    pub fn link(&self) -> Result<Link, EthdevError> {
        self.0.link()
    }
}

impl Device {
    fn is_wanted_back(&self) -> bool {
        // SAFETY: reads a flag of a number that is a device's.
        unsafe { sys::ringway_ethdev_wanted_back(self.port) != 0 }
    }

    fn info(&self, mtu: u16) -> Result<Info, EthdevError> {
        let mut info = sys::ringway_ethdev_info::default();
        // SAFETY: an open device, and a place for the answer.
        let status = unsafe { sys::ringway_ethdev_info(self.port, &raw mut info) };
        self.check("describe it", status)?;
        let driver = info.driver.map(i8::cast_unsigned);
        let driver = CStr::from_bytes_until_nul(&driver).unwrap_or_default();
        let driver = driver.to_string_lossy().into_owned();
        let mut offloads = Offloads::of(&info, &driver, mtu);
        let mut vouching = vouches(&driver);
        // What a bond says of itself leaves out what is known of its members' drivers.
        for member in &self.members {
            let info = member.info(mtu)?;
            offloads = offloads.of_both(&info.offloads);
            vouching &= info.vouches;
        }
        Ok(Info {
            vouches: vouching,
            driver,
            mac: Mac(info.mac),
            max_rx_queues: info.max_rx_queues,
            max_tx_queues: info.max_tx_queues,
            min_mtu: info.min_mtu,
            max_mtu: info.max_mtu,
            rx_descriptors: (info.min_rx_descriptors, info.max_rx_descriptors),
            tx_descriptors: (info.min_tx_descriptors, info.max_tx_descriptors),
            offloads,
        })
    }

    fn link(&self) -> Result<Link, EthdevError> {
        // Drivers may write down what they find.
        let _alone = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let mut link = sys::ringway_ethdev_link::default();
        // SAFETY: an open device, and a place for the answer.
        let status = unsafe { sys::ringway_ethdev_link(self.port, &raw mut link) };
        self.check("read its link", status)?;
        let speed = (link.speed != u32::MAX).then_some(link.speed);
        Ok(Link { up: link.up != 0, speed })
    }

    fn check(&self, action: &'static str, status: i32) -> Result<(), EthdevError> {
        match status {
            0 => Ok(()),
            _ => Err(self.refused(action, Errno::from_raw(status.wrapping_neg()))),
        }
    }

    fn refused(&self, action: &'static str, errno: Errno) -> EthdevError {
        EthdevError::Refused { name: self.name.clone(), action, errno }
    }

    /// Keeps `pool` until the device is closed, and what it is a bond of.
    fn keep(&self, pool: &Pool) {
        self.members.iter().for_each(|member| member.keep(pool));
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if !pools.iter().any(|kept| kept.is(pool)) {
            pools.push(pool.clone());
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: the queues hold the device, so nobody polls it any more. One that was not started refuses.
        unsafe { sys::rte_eth_dev_stop(self.port) };
        // SAFETY: this was the owner.
        unsafe { sys::ringway_ethdev_disown(self.port, self.owner) };
        // SAFETY: stopped, and without users. The pools its buffers return to are dropped after this.
        unsafe { sys::rte_eth_dev_close(self.port) };
        let sockets = self.sockets.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the device is closed, and these came with it.
        unsafe { std::mem::take(sockets).close() };
        if let Some(plugged) = self.plugged.take() {
            plugged.remove();
        }
    }
}
