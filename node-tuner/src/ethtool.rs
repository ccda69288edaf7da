//! Rings, queues, offloads and firmware of network interfaces, over the kernel's generic netlink families `ethtool` and
//! `devlink`. Of captured machines the same comes from a file.

mod wire;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use node_tuner_core::knob::{QueueKind, RingKind};
use node_tuner_core::node::{EthtoolInfo, Offload, Queues, Rings};

use self::wire::{Attributes, Message};

/// What is known of one interface beyond its files, and what can be set there.
pub trait Ethtool {
    /// What is known; `pci` is its address, if it has one.
    fn get(&mut self, nic: &str, pci: Option<&str>) -> io::Result<EthtoolInfo>;

    /// Sets the size of rings.
    fn set_ring(&mut self, nic: &str, kind: RingKind, count: u32) -> io::Result<()>;

    /// Sets the number of queues.
    fn set_queues(&mut self, nic: &str, kind: QueueKind, count: u32) -> io::Result<()>;

    /// Switches an offload.
    fn set_offload(&mut self, nic: &str, name: &str, on: bool) -> io::Result<()>;
}

// === numbers of linux/genetlink.h, linux/ethtool_netlink.h, linux/devlink.h ===

const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

const LINKMODES_GET: u8 = 4;
const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
const RINGS_GET: u8 = 15;
const RINGS_SET: u8 = 16;
const CHANNELS_GET: u8 = 17;
const CHANNELS_SET: u8 = 18;

/// `ETHTOOL_A_*_HEADER`, the first attribute of every request, and the interface's name in it.
const HEADER: u16 = 1;
const HEADER_DEV_NAME: u16 = 2;

const LINKMODES_SPEED: u16 = 5;

const RINGS_RX_MAX: u16 = 2;
const RINGS_TX_MAX: u16 = 5;
const RINGS_RX: u16 = 6;
const RINGS_TX: u16 = 9;

const CHANNELS_RX_MAX: u16 = 2;
const CHANNELS_TX_MAX: u16 = 3;
const CHANNELS_COMBINED_MAX: u16 = 5;
const CHANNELS_RX: u16 = 6;
const CHANNELS_TX: u16 = 7;
const CHANNELS_COMBINED: u16 = 9;

const FEATURES_HW: u16 = 2;
const FEATURES_WANTED: u16 = 3;
const FEATURES_ACTIVE: u16 = 4;
const FEATURES_NOCHANGE: u16 = 5;
const BITSET_BITS: u16 = 3;
const BITSET_BITS_BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;

const DEVLINK_INFO_GET: u8 = 51;
const DEVLINK_BUS_NAME: u16 = 1;
const DEVLINK_DEV_NAME: u16 = 2;
const DEVLINK_VERSION_RUNNING: u16 = 101;
const DEVLINK_VERSION_NAME: u16 = 103;
const DEVLINK_VERSION_VALUE: u16 = 104;

/// The kernel answers at once; this bounds a wait for an answer that never comes.
const ANSWER_S: i64 = 5;
/// Answers come in datagrams of at most this size (the kernel's `NLMSG_GOODSIZE` is a page or 8 KiB).
const DATAGRAM: usize = 64 << 10;

/// The running machine's.
#[derive(Debug)]
pub struct Live {
    socket: OwnedFd,
    sequence: u32,
    ethtool: Option<u16>,
    devlink: Option<u16>,
}

impl Live {
    /// Opens a netlink socket and asks for the two families; a kernel may lack either.
    pub fn open() -> io::Result<Self> {
        let protocol = SockProtocol::NetlinkGeneric;
        let socket =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(ANSWER_S, 0))?;
        let mut live = Self { socket, sequence: 0, ethtool: None, devlink: None };
        live.ethtool = live.family("ethtool")?;
        live.devlink = live.family("devlink")?;
        Ok(live)
    }

    fn family(&mut self, name: &str) -> io::Result<Option<u16>> {
        let attributes = Attributes::new().text(CTRL_ATTR_FAMILY_NAME, name);
        let answers = match self.ask(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, &attributes) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            answers => answers?,
        };
        let answer = answers.first().map(Vec::as_slice).unwrap_or_default();
        let id = wire::find(answer, CTRL_ATTR_FAMILY_ID).map_err(io::Error::other)?;
        id.map(|id| wire::short(id).map_err(io::Error::other)).transpose()
    }

    /// Sends one request and returns the attributes of each message of the answer.
    fn ask(
        &mut self,
        family: u16,
        command: u8,
        attributes: &Attributes,
    ) -> io::Result<Vec<Vec<u8>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = wire::request(family, command, self.sequence, attributes);
        send(self.socket.as_raw_fd(), &request, MsgFlags::empty())?;
        let (mut answers, mut buffer) = (Vec::new(), vec![0; DATAGRAM]);
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let datagram = buffer.get(..length).unwrap_or_default();
            for message in wire::messages(datagram, self.sequence).map_err(io::Error::other)? {
                match message {
                    Message::Data(bytes) => answers.push(bytes.to_vec()),
                    Message::End(0) => return Ok(answers),
                    Message::End(error) => return Err(io::Error::from_raw_os_error(error)),
                }
            }
        }
    }

    fn ethtool(&mut self, command: u8, nic: &str, more: Attributes) -> io::Result<Option<Vec<u8>>> {
        let family = self.ethtool.ok_or(io::ErrorKind::Unsupported)?;
        let header = Attributes::new().text(HEADER_DEV_NAME, nic);
        let mut request = Attributes::new().nested(HEADER, header);
        request = request.then(more);
        Ok(self.ask(family, command, &request)?.into_iter().next())
    }

    /// Numbers of an answer by their attributes; nothing where the driver has none.
    fn numbers(&mut self, command: u8, nic: &str) -> io::Result<Option<BTreeMap<u16, u32>>> {
        let Some(answer) = supported(self.ethtool(command, nic, Attributes::new()))?.flatten()
        else {
            return Ok(None);
        };
        let mut numbers = BTreeMap::new();
        for (kind, value) in wire::attributes(&answer).map_err(io::Error::other)? {
            if value.len() == 4 {
                numbers.insert(kind, wire::number(value).map_err(io::Error::other)?);
            }
        }
        Ok(Some(numbers))
    }

    fn offloads(&mut self, nic: &str) -> io::Result<BTreeMap<String, Offload>> {
        let answer = supported(self.ethtool(FEATURES_GET, nic, Attributes::new()))?.flatten();
        let answer = answer.unwrap_or_default();
        let bits = |kind| {
            let set = wire::find(&answer, kind).map_err(io::Error::other)?.unwrap_or_default();
            bits(set).map_err(io::Error::other)
        };
        // All bits there are, with a value where one can be changed; then those that are set.
        let (changeable, active) = (bits(FEATURES_HW)?, bits(FEATURES_ACTIVE)?);
        let never = bits(FEATURES_NOCHANGE)?;
        let named = |bits: &[(String, bool)], name: &str| bits.iter().any(|(bit, _)| bit == name);
        let offload = |(name, changeable): (String, bool)| {
            let fixed = !changeable || named(&never, &name);
            let on = named(&active, &name);
            (name, Offload { on, fixed })
        };
        Ok(changeable.into_iter().map(offload).collect())
    }

    /// The running firmware's version, as far as the driver tells devlink: `fw`, or all that begin so.
    fn firmware(&mut self, pci: &str) -> io::Result<Option<String>> {
        let Some(family) = self.devlink else { return Ok(None) };
        let device = Attributes::new().text(DEVLINK_BUS_NAME, "pci").text(DEVLINK_DEV_NAME, pci);
        let answers = supported(self.ask(family, DEVLINK_INFO_GET, &device))?.unwrap_or_default();
        let mut versions = Vec::new();
        for (kind, value) in
            wire::attributes(answers.first().map(Vec::as_slice).unwrap_or_default())
                .map_err(io::Error::other)?
        {
            let part = |wanted| {
                let part = wire::find(value, wanted).map_err(io::Error::other)?;
                wire::text(part.unwrap_or_default()).map_err(io::Error::other)
            };
            if kind == DEVLINK_VERSION_RUNNING {
                versions.push((part(DEVLINK_VERSION_NAME)?, part(DEVLINK_VERSION_VALUE)?));
            }
        }
        let whole = versions.iter().find(|(name, _)| *name == "fw");
        let parts = versions.iter().filter(|(name, _)| name.starts_with("fw."));
        let parts: Vec<String> = parts.map(|(name, version)| format!("{name} {version}")).collect();
        let joined = (!parts.is_empty()).then(|| parts.join(", "));
        Ok(whole.map(|(_, version)| (*version).to_owned()).or(joined))
    }
}

/// Names of a bitset's bits, and whether each has a value.
fn bits(set: &[u8]) -> Result<Vec<(String, bool)>, wire::Malformed> {
    let list = wire::find(set, BITSET_BITS)?.unwrap_or_default();
    let mut bits = Vec::new();
    for (kind, bit) in wire::attributes(list)? {
        if kind == BITSET_BITS_BIT
            && let Some(name) = wire::find(bit, BIT_NAME)?
        {
            bits.push((wire::text(name)?.to_owned(), wire::find(bit, BIT_VALUE)?.is_some()));
        }
    }
    Ok(bits)
}

/// Nothing, where the driver or the kernel does not have what was asked for.
fn supported<T>(answer: io::Result<T>) -> io::Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error)
            if error.kind() == io::ErrorKind::Unsupported
                || error.raw_os_error() == Some(nix::errno::Errno::EOPNOTSUPP as i32)
                || error.raw_os_error() == Some(nix::errno::Errno::ENODEV as i32) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl Ethtool for Live {
    fn get(&mut self, nic: &str, pci: Option<&str>) -> io::Result<EthtoolInfo> {
        let of = |numbers: &BTreeMap<u16, u32>, kind| numbers.get(&kind).copied().unwrap_or(0);
        let rings = self.numbers(RINGS_GET, nic)?.map(|n| Rings {
            rx: of(&n, RINGS_RX),
            rx_max: of(&n, RINGS_RX_MAX),
            tx: of(&n, RINGS_TX),
            tx_max: of(&n, RINGS_TX_MAX),
        });
        let queues = self.numbers(CHANNELS_GET, nic)?.map(|n| Queues {
            combined: of(&n, CHANNELS_COMBINED),
            combined_max: of(&n, CHANNELS_COMBINED_MAX),
            rx: of(&n, CHANNELS_RX),
            rx_max: of(&n, CHANNELS_RX_MAX),
            tx: of(&n, CHANNELS_TX),
            tx_max: of(&n, CHANNELS_TX_MAX),
        });
        let speed = self.numbers(LINKMODES_GET, nic)?;
        // -1: unknown.
        let speed = speed.and_then(|n| n.get(&LINKMODES_SPEED).copied());
        Ok(EthtoolInfo {
            link_speed: speed.filter(|speed| *speed != u32::MAX),
            firmware: pci.map(|pci| self.firmware(pci)).transpose()?.flatten(),
            rings,
            queues,
            offloads: self.offloads(nic)?,
        })
    }

    fn set_ring(&mut self, nic: &str, kind: RingKind, count: u32) -> io::Result<()> {
        let attribute = match kind {
            RingKind::Rx => RINGS_RX,
            RingKind::Tx => RINGS_TX,
        };
        self.ethtool(RINGS_SET, nic, Attributes::new().u32(attribute, count)).map(|_| ())
    }

    fn set_queues(&mut self, nic: &str, kind: QueueKind, count: u32) -> io::Result<()> {
        let attribute = match kind {
            QueueKind::Combined => CHANNELS_COMBINED,
            QueueKind::Rx => CHANNELS_RX,
            QueueKind::Tx => CHANNELS_TX,
        };
        self.ethtool(CHANNELS_SET, nic, Attributes::new().u32(attribute, count)).map(|_| ())
    }

    fn set_offload(&mut self, nic: &str, name: &str, on: bool) -> io::Result<()> {
        let mut bit = Attributes::new().text(BIT_NAME, name);
        if on {
            bit = bit.flag(BIT_VALUE);
        }
        // Only the bits that are listed change.
        let list = Attributes::new().nested(BITSET_BITS_BIT, bit);
        let set = Attributes::new().nested(BITSET_BITS, list);
        self.ethtool(FEATURES_SET, nic, Attributes::new().nested(FEATURES_WANTED, set)).map(|_| ())
    }
}

/// A captured machine's: what was recorded, in a file beside its tree. Setting changes the file.
#[derive(Debug)]
pub struct Recorded(PathBuf);

/// Name of the file in a captured tree.
pub const RECORD: &str = "ethtool.json";

impl Recorded {
    /// Of the tree at `root`.
    pub fn of(root: &Path) -> Self {
        Self(root.join(RECORD))
    }

    fn all(&self) -> io::Result<BTreeMap<String, EthtoolInfo>> {
        match std::fs::read(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            bytes => serde_json::from_slice(&bytes?).map_err(io::Error::other),
        }
    }

    fn change(
        &self,
        nic: &str,
        change: impl FnOnce(&mut EthtoolInfo) -> Option<()>,
    ) -> io::Result<()> {
        let mut all = self.all()?;
        all.get_mut(nic).and_then(change).ok_or(io::ErrorKind::Unsupported)?;
        std::fs::write(&self.0, serde_json::to_vec_pretty(&all).map_err(io::Error::other)?)
    }
}

impl Ethtool for Recorded {
    fn get(&mut self, nic: &str, _pci: Option<&str>) -> io::Result<EthtoolInfo> {
        Ok(self.all()?.remove(nic).unwrap_or_default())
    }

    fn set_ring(&mut self, nic: &str, kind: RingKind, count: u32) -> io::Result<()> {
        self.change(nic, |info| {
            let rings = info.rings.as_mut()?;
            *match kind {
                RingKind::Rx => &mut rings.rx,
                RingKind::Tx => &mut rings.tx,
            } = count;
            Some(())
        })
    }

    fn set_queues(&mut self, nic: &str, kind: QueueKind, count: u32) -> io::Result<()> {
        self.change(nic, |info| {
            let queues = info.queues.as_mut()?;
            *match kind {
                QueueKind::Combined => &mut queues.combined,
                QueueKind::Rx => &mut queues.rx,
                QueueKind::Tx => &mut queues.tx,
            } = count;
            Some(())
        })
    }

    fn set_offload(&mut self, nic: &str, name: &str, on: bool) -> io::Result<()> {
        self.change(nic, |info| {
            info.offloads.get_mut(name)?.on = on;
            Some(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The loopback has offloads and neither rings nor queues; what it has fixed is said to be so.
    #[test]
    fn the_kernel_is_understood() {
        let info = Live::open().unwrap().get("lo", None).unwrap();
        assert_eq!((info.rings, info.queues), (None, None));
        let offload = |name: &str| info.offloads[name];
        assert!(offload("tx-tcp-segmentation").on);
        assert!(!offload("tx-tcp-segmentation").fixed);
        assert_eq!(offload("loopback"), Offload { on: true, fixed: true });
        assert!(info.offloads.len() > 30);
    }

    #[test]
    fn no_such_interface_is_nothing() {
        let info = Live::open().unwrap().get("rwtest-none", Some("ffff:00:00.0")).unwrap();
        assert_eq!(info, EthtoolInfo::default());
    }
}
