//! Opening the devices of uplinks, and asking the kernel about their interfaces.

mod bond;
mod kernel;
mod link;
mod taps;
mod xdp;

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vrouter_core::PortIndex;
use vrouter_dpdk::{
    Bus, Eal, Ethdev, EthdevConfig, EthdevError, Link, Plug, Pool, PoolConfig, set_interface_mtu,
};
use vrouter_kernel::hostif::{self, HostInterface};
use vrouter_net::Mac;
use vrouter_vhost::port::{Port, State as PortState};
use vrouter_vhost::wake::{Token, Wake};

use crate::assign::Owners;
use crate::claim::{self, Claim};
use crate::convert::{Driver, Refusal, UplinkRequest};
use crate::dataplane::Ends;
use crate::place;
use crate::privileges;
use crate::publish::Look;
use crate::tap::Tap;
use crate::wire::Wire;
pub use bond::Bond;
use kernel::{
    check_interface, check_pci, has_carrier, interface_number, interface_path, kernel_counters,
    pci_node, pci_path, read,
};
use link::Lifeline;
pub use xdp::{patiently, retry};

/// Packets a queue of a device holds. What a driver can't have is its own choice.
const DESCRIPTORS: u16 = 512;
/// The same for a TAP, whose driver keeps a buffer for each.
const TAP_DESCRIPTORS: u16 = 128;
/// Frames in the kernel's ring of a packet socket.
const SOCKET_FRAMES: u32 = 1024;
/// Bytes of a frame in it that are not the packet's: `TPACKET2_HDRLEN`, the Ethernet header, a tag, and alignment.
const SOCKET_OVERHEAD: u32 = 128;
/// Bytes of a packet buffer that are not the packet's: headers of the link and of tunnels.
const HEADROOM: u32 = 200;
/// Packet buffers each worker keeps to itself.
const CACHE: u32 = 256;

/// Makes devices.
pub struct Devices {
    eal: Arc<Eal>,
    /// Buffers of all devices together, and their bytes.
    buffers: (u32, u16),
    /// Made with the first device.
    pool: Option<Pool>,
    /// How interfaces are taken from the kernel.
    keepers: hostif::Options,
    /// Where links to other vRouters may keep their sockets.
    private_dir: PathBuf,
    /// Programs may be loaded into the kernel.
    af_xdp: bool,
}

/// An open device.
pub struct Device {
    /// For its counters and its link.
    kind: Kind,
    /// What is known of the devices that it is, if they are several.
    bond: Option<Bond>,
    /// Its queues.
    pub ends: Ends,
    /// Its address.
    pub mac: Mac,
    /// Its driver, as DPDK calls it.
    pub driver: String,
    /// The kernel's interface that it is, if it is one, and the interface's number when it was opened.
    interface: Option<(String, u32)>,
    /// The interface is there because of the device.
    made: bool,
    /// It was without a link when last looked at, and does not find one by itself again.
    lost: Cell<bool>,
}

/// What moves a device's packets.
enum Kind {
    Ethdev(Ethdev),
    Tap(Tap),
    /// The end of a link that listens.
    Listener(Port, Arc<AtomicBool>),
    /// The other end.
    Caller(Ethdev, Arc<Lifeline>),
}

/// How an interface is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Packets can pass.
    Up,
    /// They can't.
    Down,
    /// The interface is gone, or another one has its name: the device has to be made anew.
    Gone,
}

/// Why a device can't be started, in one line.
struct Failure {
    why: String,
    /// It may be otherwise in a moment.
    may_pass: bool,
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self { why, may_pass: false }
    }
}

impl From<EthdevError> for Failure {
    fn from(error: EthdevError) -> Self {
        Self { may_pass: matches!(error, EthdevError::NoSocket { .. }), why: text(&error) }
    }
}

impl Devices {
    /// `buffers`: how many for all devices together, and bytes of each; `private_dir`: as for the registry; `af_xdp`: whether
    /// that driver may be used.
    pub fn new(
        eal: Arc<Eal>,
        buffers: (u32, u16),
        keepers: hostif::Options,
        private_dir: PathBuf,
        af_xdp: bool,
    ) -> Self {
        Self { eal, buffers, pool: None, keepers, private_dir, af_xdp }
    }

    /// Keeps other vRouters off an uplink's devices.
    ///
    /// # Errors
    /// [`Refusal`] that says who has one.
    pub fn claim(&self, request: &UplinkRequest) -> Result<Vec<Claim>, Refusal> {
        let directory = self.keepers.records.with_file_name("devices");
        let claim = |device: &String| claim::claim(&directory, device, &self.keepers.owner);
        let claims: Result<Vec<_>, _> = request.devices().map(claim).collect();
        claims.map_err(|why| Refusal::Uplink { name: request.name.clone(), why })
    }

    /// Takes an uplink's interface from the kernel, for a TAP that carries it on.
    ///
    /// # Errors
    /// [`Refusal`] that says what to do.
    pub fn take(&self, request: &UplinkRequest) -> Result<HostInterface, Refusal> {
        let device = request.device.clone();
        let events = move |event| tracing::warn!(device, ?event, "a host interface");
        HostInterface::take(&request.device, &self.keepers, events)
            .map_err(|error| Refusal::Uplink { name: request.name.clone(), why: cause(&error) })
    }

    fn pool(&mut self) -> Result<Pool, Refusal> {
        if let Some(pool) = &self.pool {
            return Ok(pool.clone());
        }
        let (mbufs, data_room) = self.buffers;
        let config = PoolConfig { name: "uplinks".to_owned(), mbufs, cache: CACHE, data_room };
        let pool = Pool::new(&self.eal, &config)?;
        self.pool = Some(pool.clone());
        Ok(pool)
    }

    /// Whether packets of this size, with a tunnel's headers in front, fit the buffers. The error is one line.
    fn fits(&self, mtu: u16) -> Result<(), String> {
        let (needed, room) = (u32::from(mtu) + HEADROOM, u32::from(self.buffers.1));
        if needed <= room {
            return Ok(());
        }
        Err(format!(
            "mtu {mtu} does not fit packet buffers of {room} bytes; lower it, or set dpdk.buffer_bytes to {needed} or more and \
             restart the vRouter"
        ))
    }

    /// Opens an uplink's device, which the kernel calls `device` just now if it knows it. `wake`: of the worker that has it at
    /// first.
    ///
    /// # Errors
    /// [`Refusal`] that says what to do.
    pub fn open(
        &mut self,
        request: &UplinkRequest,
        device: &str,
        port: PortIndex,
        wake: Option<Arc<Wake>>,
    ) -> Result<Device, Refusal> {
        let UplinkRequest { name, mtu, .. } = request;
        let refuse = |why: String| Refusal::Uplink { name: name.clone(), why };
        self.fits(*mtu).map_err(refuse)?;
        if let Driver::Link(link) = &request.driver {
            return self.open_link(request, link, port, wake).map_err(refuse);
        }
        if request.is_bond() {
            return self.open_bond(request, port).map_err(refuse);
        }
        if request.driver == Driver::AfXdp {
            return self.open_xdp(request, device, port).map_err(|failure| {
                let Failure { why, may_pass } = failure;
                if may_pass { Refusal::UplinkBusy { name: name.clone(), why } } else { refuse(why) }
            });
        }
        let plug = plug(request, device, name).map_err(refuse)?;
        let ethdev = Ethdev::plug(&self.eal, &plug).map_err(|error| refuse(text(&error)))?;
        let interface = (request.driver != Driver::Pci).then(|| device.to_owned());
        let pool = self.pool()?;
        self.start(ethdev, request, interface, port, &pool).map_err(|failure| refuse(failure.why))
    }

    /// Starts the device of an uplink; `interface`: the kernel's that it is.
    fn start(
        &self,
        mut ethdev: Ethdev,
        request: &UplinkRequest,
        interface: Option<String>,
        port: PortIndex,
        pool: &Pool,
    ) -> Result<Device, Failure> {
        let (queues, mtu, is_bond) = (request.queues, request.mtu, request.is_bond());
        let made = request.driver == Driver::Tap;
        let info = ethdev.info()?;
        let descriptors = |(least, most): (u16, u16)| {
            let wanted = if info.driver == "net_tap" { TAP_DESCRIPTORS } else { DESCRIPTORS };
            if most == 0 { wanted } else { wanted.clamp(least, most) }
        };
        let config = EthdevConfig {
            rx_queues: queues.min(info.max_rx_queues),
            tx_queues: queues.min(info.max_tx_queues),
            rx_descriptors: descriptors(info.rx_descriptors),
            tx_descriptors: descriptors(info.tx_descriptors),
            rx_pool: pool.clone(),
            mtu: mtu.clamp(info.min_mtu, info.max_mtu.max(info.min_mtu)),
            tx_free_threshold: 0,
            // A socket on an interface has none, nor has a bond, and DPDK complains of being asked.
            interrupts: !is_bond && (made || interface.is_none()),
            tx_offloads: true,
            rx_checksums: info.vouches,
        };
        if queues > info.max_rx_queues {
            let most = info.max_rx_queues;
            return Err(
                format!("queues {queues}: the device has {most}; use as many at most").into()
            );
        }
        let started = ethdev.start(&config)?;
        match &interface {
            Some(name) => set_mtu(name, mtu)?,
            // Who knows which TAPs it is made of sets theirs.
            None if made => {}
            None => ethdev.set_mtu(mtu).map_err(|error| format!("mtu {mtu}: {}", text(&error)))?,
        }
        let interface = interface.map(|name| {
            let number = interface_number(&name).unwrap_or(0);
            (name, number)
        });
        let node = match &interface {
            Some((name, _)) => place::node_of(&interface_path(name).join("device")),
            None if is_bond => bond::node(request.devices()),
            None => pci_node(ethdev.name()),
        };
        let wire = Wire::new(started, pool, Token(u32::from(port.0))).at_node(node);
        Ok(Device {
            ends: Ends::Wire(Arc::new(wire)),
            kind: Kind::Ethdev(ethdev),
            bond: None,
            mac: Mac::new(info.mac.0),
            driver: info.driver,
            interface,
            made,
            lost: Cell::new(false),
        })
    }
}

impl Device {
    /// How it is with its link. That of an interface is the kernel's word: a packet socket always says yes.
    pub fn state(&self) -> State {
        match &self.kind {
            Kind::Listener(port, _) => return up_or_down(port.status().state == PortState::Up),
            Kind::Caller(_, lifeline) => {
                // Its driver ends a lost connection on a thread of its own, and has until the next look for that.
                if self.lost.get() {
                    return State::Gone;
                }
                let is_up = lifeline.is_up();
                self.lost.set(!is_up);
                return up_or_down(is_up);
            }
            Kind::Ethdev(_) | Kind::Tap(_) => {}
        }
        if let Some(bond) = &self.bond {
            return bond.state();
        }
        if self.interface.is_none() && self.is_taken_out() {
            return State::Gone;
        }
        let of_device = || self.link().is_some_and(|link| link.up);
        state(self.interface.as_ref(), self.made, of_device)
    }

    /// Says whether its link is up, to whoever looks. It has to be gone before the device is closed.
    pub fn look(&self) -> Look {
        let (interface, made) = (self.interface.clone(), self.made);
        let link = match &self.kind {
            Kind::Ethdev(ethdev) if self.bond.is_some() => {
                let keeper = ethdev.bond_keeper();
                return Box::new(move || keeper.tend().links.contains(&true));
            }
            Kind::Ethdev(ethdev) => Some(ethdev.link_reader()),
            Kind::Tap(_) => None,
            Kind::Listener(_, up) => {
                let up = Arc::clone(up);
                return Box::new(move || up.load(Ordering::Relaxed));
            }
            Kind::Caller(_, lifeline) => {
                let lifeline = Arc::clone(lifeline);
                return Box::new(move || lifeline.is_up());
            }
        };
        Box::new(move || {
            let of_device = || link.as_ref().is_some_and(|it| it.link().is_ok_and(|link| link.up));
            state(interface.as_ref(), made, of_device) == State::Up
        })
    }

    /// What is known of its devices, if it is several.
    pub fn bond(&self) -> Option<&Bond> {
        self.bond.as_ref()
    }

    /// A NIC that is no longer there, or that the kernel takes away as soon as it is closed here.
    fn is_taken_out(&self) -> bool {
        match &self.kind {
            Kind::Ethdev(ethdev) => ethdev.is_wanted_back() || !pci_path(ethdev.name()).exists(),
            Kind::Tap(_) | Kind::Listener(..) | Kind::Caller(..) => false,
        }
    }

    /// Mbit/s, if they are known.
    pub fn speed(&self) -> Option<u32> {
        match &self.interface {
            Some((name, _)) => read(name, "speed")?.parse().ok(),
            None => self.link()?.speed,
        }
    }

    fn link(&self) -> Option<Link> {
        match &self.kind {
            Kind::Ethdev(ethdev) => ethdev.link().ok(),
            Kind::Tap(_) | Kind::Listener(..) | Kind::Caller(..) => None,
        }
    }

    /// NUMA node of the device, or of the other end of a link; `None` while unknown.
    pub fn numa_node(&self) -> Option<u32> {
        match (&self.kind, &self.ends) {
            (Kind::Listener(port, _), _) => port.queues().node(),
            (_, Ends::Wire(wire)) => wire.node(),
            _ => None,
        }
    }

    /// Lets its descriptors wake those who poll it from now on. `wake`: how a worker is woken, if it runs.
    pub fn wake(
        &self,
        owners: &Owners,
        port: PortIndex,
        wake: impl Fn(usize) -> Option<Arc<Wake>>,
    ) {
        let failed = |queue: usize, error: std::io::Error| {
            tracing::warn!(port = port.0, queue, %error, "a worker can't watch a device");
        };
        let queues: Vec<_> = match &self.ends {
            Ends::Wire(wire) => (0..wire.queues()).collect(),
            Ends::Pod(_) => owners.iter().map(|(queue, _)| queue).collect(),
        };
        for queue in queues {
            let Some(wake) = wake(queue) else { continue };
            self.set_wake(queue, &wake).unwrap_or_else(|error| failed(queue, error));
        }
    }

    /// From now on packets of a queue wake this worker.
    ///
    /// # Errors
    /// What tells of them can't be watched.
    pub fn set_wake(&self, queue: usize, wake: &Arc<Wake>) -> std::io::Result<()> {
        match &self.ends {
            Ends::Wire(wire) => wire.set_wake(queue, wake),
            Ends::Pod(queues) => queues.set_wake(queue, Arc::clone(wake)),
        }
    }

    /// Ends what comes from it; it stays open.
    pub fn silence(&self) {
        if let Ends::Wire(wire) = &self.ends {
            wire.close();
        }
    }

    /// The device's own counters, with that of packets that left work to it; or the kernel's of a TAP.
    pub fn counters(&self) -> Vec<(String, u64)> {
        match (&self.kind, &self.interface) {
            (Kind::Ethdev(ethdev), _) => {
                let mut counters = ethdev.extended_stats().unwrap_or_default();
                if let Ends::Wire(wire) = &self.ends {
                    counters.push(("tx_offloaded_packets".to_owned(), wire.left_to_device()));
                }
                counters
            }
            (Kind::Caller(ethdev, _), _) => ethdev.extended_stats().unwrap_or_default(),
            (Kind::Tap(_), Some((name, _))) => kernel_counters(name),
            (Kind::Tap(_), None) | (Kind::Listener(..), _) => Vec::new(),
        }
    }

    /// Gives it another address.
    ///
    /// # Errors
    /// What the driver said.
    pub fn set_mac(&mut self, mac: Mac) -> Result<(), String> {
        let address = vrouter_dpdk::Mac(mac.octets());
        match &mut self.kind {
            Kind::Ethdev(ethdev) => ethdev.set_mac(address).map_err(|error| text(&error))?,
            Kind::Tap(tap) => tap.set_mac(address).map_err(|error| error.to_string())?,
            // It was made with the one it has.
            Kind::Listener(..) | Kind::Caller(..) => {}
        }
        self.mac = mac;
        Ok(())
    }

    /// Gives the device back.
    pub fn close(self) {
        drop(self.bond);
        privileges::with_programs(self.driver == xdp::DRIVER, || match (self.ends, self.kind) {
            (_, Kind::Listener(port, _)) => port.close(),
            (Ends::Wire(wire), ethdev) => {
                wire.close();
                drop(ethdev);
            }
            (Ends::Pod(_), _) => {}
        });
    }
}

/// How it is with the link of a device that is an interface with this number, or none.
fn state(interface: Option<&(String, u32)>, made: bool, of_device: impl Fn() -> bool) -> State {
    match interface {
        Some((name, number)) if interface_number(name) != Some(*number) => State::Gone,
        Some((name, _)) if !made => up_or_down(has_carrier(name)),
        // A TAP always has somebody at its other end: us.
        Some(_) => State::Up,
        None => up_or_down(of_device()),
    }
}

fn up_or_down(up: bool) -> State {
    if up { State::Up } else { State::Down }
}

/// Gives an interface its MTU, which may be more than DPDK believes of it.
fn set_mtu(name: &str, mtu: u16) -> Result<(), String> {
    set_interface_mtu(name, mtu)
        .map_err(|errno| format!("interface {name:?} can't have an mtu of {mtu}: {}", errno.desc()))
}

/// How one device of an uplink is made, or found; `name` is DPDK's for it.
fn plug(request: &UplinkRequest, device: &str, name: &str) -> Result<Plug, String> {
    match &request.driver {
        Driver::Pci => {
            check_pci(device)?;
            Ok(Plug { bus: Bus::Pci, name: device.to_owned(), arguments: String::new() })
        }
        Driver::Tap if interface_number(device).is_some() => {
            Err(format!("interface {device:?} exists already; choose another name for the tap"))
        }
        Driver::Tap => Ok(virtual_device("net_tap", name, format!("iface={device}"))),
        Driver::AfPacket => {
            check_interface(device)?;
            let socket = packet_socket(device, request.queues, request.mtu);
            Ok(virtual_device("net_af_packet", name, socket))
        }
        Driver::AfXdp | Driver::Link(_) => Err("this driver is no plain device's".to_owned()),
    }
}

fn virtual_device(driver: &str, name: &str, arguments: String) -> Plug {
    Plug { bus: Bus::Virtual, name: format!("{driver}_{name}"), arguments }
}

/// A packet socket with frames that hold the MTU.
fn packet_socket(device: &str, queues: u16, mtu: u16) -> String {
    let frame = (u32::from(mtu) + SOCKET_OVERHEAD).next_power_of_two().max(2048);
    // A block holds whole frames and is a multiple of a page.
    let block = frame.max(4096);
    format!(
        "iface={device},qpairs={queues},blocksz={block},framesz={frame},framecnt={SOCKET_FRAMES}"
    )
}

/// An error with what caused it.
fn text(error: &EthdevError) -> String {
    cause(error)
}

/// An error with what caused it.
pub fn cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// The address of ports that have none.
pub const NO_ADDRESS: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_has_room_for_its_frames() {
        assert_eq!(
            packet_socket("eth1", 2, 1500),
            "iface=eth1,qpairs=2,blocksz=4096,framesz=2048,framecnt=1024"
        );
        assert_eq!(
            packet_socket("eth1", 1, 9000),
            "iface=eth1,qpairs=1,blocksz=16384,framesz=16384,framecnt=1024"
        );
    }
}
