//! Uplinks between the wire and the vRouter's own types.

use std::path::PathBuf;

use ringway_config::LinkSettings;
use vrouter_api::v1;
use vrouter_core::{NetworkIndex, PortIndex, PortPolicy, PortRole, PuntClass, Rates};
use vrouter_net::Mac;

use super::{NetworkRequest, Refusal, invalid};
use crate::counters::PortCounts;
use crate::device::NO_ADDRESS;

/// Most receive queues of an uplink.
const MAX_QUEUES: u32 = 16;
const MAX_MTU: u32 = 9216;
/// Most devices of a bond beside its first.
const MAX_BACKUPS: usize = 7;

/// How DPDK serves an uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// By the NIC's own driver.
    Pci,
    /// By a packet socket on a kernel interface.
    AfPacket,
    /// By an AF_XDP socket on one.
    AfXdp,
    /// By a TAP that is made for it.
    Tap,
    /// By memory shared with another vRouter.
    Link(Link),
}

/// One end of a link to another vRouter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where the two meet.
    pub socket: PathBuf,
    /// This end listens there; the other's memory is shared.
    pub listens: bool,
    /// Ethernet address of this end.
    pub mac: Mac,
    /// Number of the vRouter at the other.
    pub peer: u32,
    /// The NUMA node of that one.
    pub peer_node: Option<u32>,
}

/// An uplink as asked for, checked on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkRequest {
    /// Its name.
    pub name: String,
    /// PCI address or kernel interface.
    pub device: String,
    /// Those that make a bond of it.
    pub backups: Vec<String>,
    /// How it is served.
    pub driver: Driver,
    /// Name of its network.
    pub network: String,
    /// Name of the kernel's side of it; the device's own: it is taken from the kernel, and carried on by a TAP.
    pub host: Option<String>,
    /// Receive queues.
    pub queues: u16,
    /// Bytes of the largest IP packet; 0 until it has joined its network.
    pub mtu: u16,
}

/// Checks the name of an interface of the kernel's.
pub(super) fn interface(field: &'static str, name: &str) -> Result<(), Refusal> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if (1..=15).contains(&name.len()) && name.chars().all(plain) && !matches!(name, "." | "..") {
        return Ok(());
    }
    Err(invalid(field, name, "use 1 to 15 letters, digits, `.`, `_` and `-`"))
}

impl UplinkRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// [`Refusal::Invalid`].
    pub fn read(wire: &v1::UplinkSpec) -> Result<Self, Refusal> {
        interface("name", &wire.name)?;
        let is_pci = ringway_config::is_pci(&wire.device);
        if !is_pci {
            interface("device", &wire.device)?;
        }
        let driver = match (wire.driver(), is_pci) {
            (v1::UplinkDriver::Unspecified | v1::UplinkDriver::Pci, true) => Driver::Pci,
            (v1::UplinkDriver::Unspecified | v1::UplinkDriver::AfPacket, false) => Driver::AfPacket,
            (v1::UplinkDriver::AfXdp, false) => Driver::AfXdp,
            (v1::UplinkDriver::Tap, false) => Driver::Tap,
            (v1::UplinkDriver::Pci, false) => {
                let remedy = "is no PCI address as 0000:01:00.0, which the driver pci needs";
                return Err(invalid("device", &wire.device, remedy));
            }
            (v1::UplinkDriver::Link, _) => {
                let remedy =
                    "links between vRouters follow from `[[instances]]` in the configuration";
                return Err(invalid("driver", "link", remedy));
            }
            (_, true) => {
                let remedy = "is a PCI address: use the driver pci, or name a kernel interface";
                return Err(invalid("device", &wire.device, remedy));
            }
        };
        let host = match wire.host_interface.as_str() {
            "" => None,
            name => {
                interface("host_interface", name)?;
                Some(name.to_owned())
            }
        };
        let can_be_taken = matches!(driver, Driver::AfPacket | Driver::AfXdp);
        if host.as_ref().is_some_and(|host| *host == wire.device) && !can_be_taken {
            let remedy = "is the device itself, which only the drivers af_packet and af_xdp can take from the \
                          kernel; choose another name";
            return Err(invalid("host_interface", &wire.host_interface, remedy));
        }
        let queues = wire.queues.max(1);
        let queues = u16::try_from(queues)
            .ok()
            .filter(|_| queues <= MAX_QUEUES)
            .ok_or_else(|| invalid("queues", queues, format!("use 1 to {MAX_QUEUES}")))?;
        let mtu = u16::try_from(wire.mtu)
            .ok()
            .filter(|_| wire.mtu <= MAX_MTU)
            .ok_or_else(|| invalid("mtu", wire.mtu, format!("use at most {MAX_MTU}")))?;
        let (name, device) = (wire.name.clone(), wire.device.clone());
        let (network, backups) = (wire.network.clone(), wire.backups.clone());
        let request = Self { name, device, backups, driver, network, host, queues, mtu };
        request.check_bond()?;
        Ok(request)
    }

    fn check_bond(&self) -> Result<(), Refusal> {
        if !self.is_bond() {
            return Ok(());
        }
        if self.backups.len() > MAX_BACKUPS {
            let remedy = format!("name {MAX_BACKUPS} devices at most");
            return Err(invalid("backups", self.backups.len(), remedy));
        }
        let pci = match self.driver {
            Driver::Pci => true,
            Driver::Tap => false,
            _ => return Err(invalid("backups", self.backups.join(" "), ringway_config::NO_BOND)),
        };
        for (at, device) in self.backups.iter().enumerate() {
            if !pci {
                interface("backups", device)?;
            }
            if ringway_config::is_pci(device) != pci {
                return Err(invalid("backups", device, "is of another kind than `device`"));
            }
            if self.devices().take(at + 1).any(|before| before == device) {
                return Err(invalid("backups", device, "is in the bond twice"));
            }
        }
        Ok(())
    }

    /// Whether it is several devices.
    pub fn is_bond(&self) -> bool {
        !self.backups.is_empty()
    }

    /// All its devices, the best first.
    pub fn devices(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.device).chain(&self.backups)
    }

    /// A link to another vRouter, as the configuration has it.
    pub fn link(link: &LinkSettings) -> Self {
        let end = Link {
            socket: link.socket.clone(),
            listens: link.listens,
            mac: Mac::new(link.mac),
            peer: link.peer,
            peer_node: Some(link.peer_node),
        };
        Self {
            name: link.name.clone(),
            // Nobody else has one of the name.
            device: link.name.clone(),
            backups: Vec::new(),
            driver: Driver::Link(end),
            network: link.network.clone(),
            host: None,
            queues: 1,
            // At most 9216: checked with the configuration.
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
        }
    }

    /// Whether the kernel's side of it carries on what the kernel had on the device: it has the same name.
    pub fn takes_over(&self) -> bool {
        self.host.as_ref() == Some(&self.device)
    }

    /// Takes over from its network what it leaves to it.
    ///
    /// # Errors
    /// [`Refusal::Invalid`].
    pub fn join(&mut self, network: &NetworkRequest) -> Result<(), Refusal> {
        if !network.external {
            let remedy =
                "uplinks belong to networks with `external = true`; make one, or choose one";
            return Err(invalid("network", &network.name, remedy));
        }
        if self.mtu == 0 {
            self.mtu = network.mtu;
        }
        if self.mtu < network.mtu {
            let remedy = format!(
                "network {:?} carries packets of {} bytes; use as many at least, or make the network with \
                 a smaller mtu",
                network.name, network.mtu
            );
            return Err(invalid("mtu", self.mtu, remedy));
        }
        Ok(())
    }

    /// What the tables are to know of it and its host interface.
    pub fn policies(
        &self,
        network: NetworkIndex,
        mac: Mac,
        uplink: PortIndex,
        host: Option<PortIndex>,
    ) -> Vec<PortPolicy> {
        let port = |index, role| PortPolicy {
            index,
            network,
            role,
            mac,
            ipv4: NO_ADDRESS,
            ipv6: None,
            allowed: Vec::new(),
            trunk: false,
            rates: Rates::default(),
            mtu: None,
        };
        let twin = host.map(|host| port(host, PortRole::Host { uplink }));
        std::iter::once(port(uplink, PortRole::Uplink { host })).chain(twin).collect()
    }

    /// Writes it with everything filled in.
    pub fn write(&self) -> v1::UplinkSpec {
        let driver = match self.driver {
            Driver::Pci => v1::UplinkDriver::Pci,
            Driver::AfPacket => v1::UplinkDriver::AfPacket,
            Driver::AfXdp => v1::UplinkDriver::AfXdp,
            Driver::Tap => v1::UplinkDriver::Tap,
            Driver::Link(_) => v1::UplinkDriver::Link,
        };
        v1::UplinkSpec {
            name: self.name.clone(),
            device: self.device.clone(),
            driver: driver.into(),
            network: self.network.clone(),
            host_interface: self.host.clone().unwrap_or_default(),
            queues: self.queues.into(),
            mtu: self.mtu.into(),
            backups: self.backups.clone(),
        }
    }
}

/// What was handed to the kernel, by class; only classes that occurred.
pub fn punts(counts: &PortCounts) -> Vec<v1::Counter> {
    let counted = PuntClass::ALL.into_iter().zip(counts.total.punts);
    counted
        .filter(|(_, value)| *value > 0)
        .map(|(class, value)| v1::Counter { name: class.name().to_owned(), value })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(device: &str) -> v1::UplinkSpec {
        v1::UplinkSpec {
            name: "up0".into(),
            device: device.into(),
            network: "fabric".into(),
            ..Default::default()
        }
    }

    #[test]
    fn the_driver_follows_from_the_device() {
        for (device, driver, expected) in [
            ("0000:01:00.0", v1::UplinkDriver::Unspecified, Some(Driver::Pci)),
            ("eth1", v1::UplinkDriver::Unspecified, Some(Driver::AfPacket)),
            ("eth1", v1::UplinkDriver::AfXdp, Some(Driver::AfXdp)),
            ("eth1", v1::UplinkDriver::Tap, Some(Driver::Tap)),
            ("eth1", v1::UplinkDriver::Pci, None),
            ("0000:01:00.0", v1::UplinkDriver::AfPacket, None),
        ] {
            let wire = v1::UplinkSpec { driver: driver.into(), ..spec(device) };
            assert_eq!(UplinkRequest::read(&wire).ok().map(|request| request.driver), expected);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (wire, text) in [
            (v1::UplinkSpec { name: "a b".into(), ..spec("eth1") }, "name \"a b\": use 1 to 15"),
            (spec("eth1,qpairs=9"), "device \"eth1,qpairs=9\": use 1 to 15"),
            (v1::UplinkSpec { queues: 17, ..spec("eth1") }, "queues \"17\": use 1 to 16"),
            (v1::UplinkSpec { mtu: 65_536, ..spec("eth1") }, "mtu \"65536\": use at most 9216"),
            (
                v1::UplinkSpec {
                    host_interface: "eth1".into(),
                    driver: v1::UplinkDriver::Tap.into(),
                    ..spec("eth1")
                },
                "host_interface \"eth1\": is the device itself",
            ),
            (
                v1::UplinkSpec { backups: vec!["eth2".into()], ..spec("eth1") },
                "backups \"eth2\": only PCI devices, or TAPs",
            ),
            (
                v1::UplinkSpec { backups: vec!["eth2".into()], ..spec("0000:01:00.0") },
                "backups \"eth2\": is of another kind",
            ),
            (
                v1::UplinkSpec { backups: vec!["0000:01:00.0".into()], ..spec("0000:01:00.0") },
                "backups \"0000:01:00.0\": is in the bond twice",
            ),
        ] {
            let error = UplinkRequest::read(&wire).unwrap_err().to_string();
            assert!(error.starts_with(text), "{error}");
        }
    }

    #[test]
    fn an_uplink_joins_an_external_network_and_carries_its_packets() {
        let network = |external, mtu| {
            let ipv4 = if external { String::new() } else { "10.66.0.0/24".to_owned() };
            let name = "fabric".to_owned();
            NetworkRequest::read(&v1::Network { name, external, mtu, ipv4, ..Default::default() })
                .unwrap()
        };
        let read = |mtu| UplinkRequest::read(&v1::UplinkSpec { mtu, ..spec("eth1") }).unwrap();
        let join = |mtu, network: &NetworkRequest| {
            let mut request = read(mtu);
            request.join(network).map(|()| request.mtu).map_err(|e| e.to_string())
        };
        assert_eq!(join(0, &network(true, 1500)), Ok(1500));
        assert_eq!(join(9000, &network(true, 1500)), Ok(9000));
        assert!(join(1400, &network(true, 1500)).unwrap_err().contains("carries packets of 1500"));
        assert!(join(0, &network(false, 1500)).unwrap_err().contains("external = true"));
    }
}
