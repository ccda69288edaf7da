//! `[[uplinks]]` of `vrouter.toml`: the ways out of this host.

use serde::{Deserialize, Serialize};

use crate::VrouterConfig;
use crate::check::{self, Problem};

/// `[[uplinks]]`: a NIC, or a kernel interface, that DPDK serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UplinkSettings {
    /// What commands and counters call it: at most 15 letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// Which one: a PCI address, bound to a driver of DPDK's, or the name of a kernel interface.
    pub device: String,
    /// Further devices, which make an active-backup bond of it: the first, from `device` on, that has a link carries all packets. PCI
    /// addresses, or names of TAPs as `device` is then.
    #[serde(default)]
    pub backups: Vec<String>,
    /// How DPDK serves it.
    #[serde(default)]
    pub driver: UplinkDriver,
    /// The `external` network that it belongs to.
    pub network: String,
    /// Name of the kernel's side of it, a TAP that has its address and gets what is for this host; `false`: there is none,
    /// and what is for this host is dropped. With the name of `device` itself, the TAP carries on its addresses and routes.
    #[serde(default)]
    pub host_interface: HostInterface,
    /// Receive queues, which workers share out.
    #[serde(default = "one")]
    pub queues: u32,
    /// Greatest IP packet, bytes; the device is set to it. Default: that of its network, which it may not be below.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Which of the `instances` has it, if there are some.
    #[serde(default)]
    pub instance: Option<u32>,
}

/// How DPDK serves an uplink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UplinkDriver {
    /// By the NIC's own driver if `device` is a PCI address, by `af_packet` otherwise.
    #[default]
    Auto,
    /// By the NIC's own driver in DPDK.
    Pci,
    /// By a packet socket on a kernel interface: with any of them, and slowest.
    AfPacket,
    /// By AF_XDP sockets on a kernel interface, one for each queue. Needs `dpdk.af_xdp`.
    AfXdp,
    /// By a TAP that is made for it: `device` is its name.
    Tap,
}

/// The kernel's side of an uplink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HostInterface {
    /// `false`: none.
    Enabled(bool),
    /// Its name.
    Name(String),
}

impl Default for HostInterface {
    fn default() -> Self {
        Self::Enabled(false)
    }
}

impl HostInterface {
    /// Its name, if there is one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Enabled(_) => None,
            Self::Name(name) => Some(name),
        }
    }
}

impl UplinkSettings {
    /// All its devices, the best first.
    pub fn devices(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.device).chain(&self.backups)
    }
}

fn one() -> u32 {
    1
}

/// Receive queues an uplink has at most: as many as a pod's port has pairs.
const MAX_QUEUES: u32 = 16;
/// Devices that a bond has at most (`RTE_MAX_ETHPORTS` is 32, for all uplinks).
const MAX_DEVICES: usize = 8;
/// Why kernel interfaces can't be in a bond of DPDK's.
pub const NO_BOND: &str = "only PCI devices, or TAPs with `driver = \"tap\"`, can be in a bond of DPDK's: its driver of packet sockets does not \
                           see a link go; make a bond of the kernel's and name that as the device";

pub(crate) fn check(config: &VrouterConfig) -> Result<(), Problem> {
    for (index, uplink) in config.uplinks.iter().enumerate() {
        let key = |field: &str| format!("uplinks[{index}].{field}");
        interface(&key("name"), &uplink.name)?;
        device(&key("device"), &uplink.device)?;
        let before = config.uplinks.get(..index).unwrap_or(&[]);
        let has =
            |device: &String| before.iter().any(|other| other.devices().any(|it| it == device));
        for (field, value, taken) in [
            ("name", &uplink.name, before.iter().any(|other| other.name == uplink.name)),
            ("device", &uplink.device, has(&uplink.device)),
        ] {
            if taken {
                return Err(Problem::new(key(field), value, "another uplink has it"));
            }
        }
        backups(uplink, &key, has)?;
        if uplink.driver == UplinkDriver::AfXdp && !config.dpdk.af_xdp {
            let remedy = "needs `af_xdp = true` in [dpdk]: the vRouter then keeps CAP_SYS_ADMIN for it; or use af_packet";
            return Err(Problem::new(key("driver"), "af_xdp", remedy));
        }
        match &uplink.host_interface {
            HostInterface::Name(name) => {
                interface(&key("host_interface"), name)?;
                let same = |other: &UplinkSettings| other.host_interface.name() == Some(name);
                if before.iter().any(same) {
                    let remedy = "another uplink has it";
                    return Err(Problem::new(key("host_interface"), name, remedy));
                }
            }
            HostInterface::Enabled(false) => {}
            HostInterface::Enabled(true) => {
                let remedy = "must be the name of an interface, or false";
                return Err(Problem::new(key("host_interface"), true, remedy));
            }
        }
        check::range(&key("queues"), uplink.queues, 1, MAX_QUEUES)?;
        let network = config.networks.iter().find(|it| it.name == uplink.network && it.external);
        let Some(network) = network else {
            let remedy = "must be one of the networks with `external = true`";
            return Err(Problem::new(key("network"), &uplink.network, remedy));
        };
        if let Some(mtu) = uplink.mtu {
            check::range(&key("mtu"), mtu, network.mtu, 9216)?;
        }
        // Room for the Ethernet header, tags, and what drivers want.
        let room = config.dpdk.buffer_bytes.saturating_sub(200);
        let mtu = uplink.mtu.unwrap_or(network.mtu);
        if mtu > room {
            let remedy = format!(
                "must be at most {room} with these `dpdk.buffer_bytes`; raise them to {} or more",
                mtu + 200
            );
            return Err(Problem::new(key("mtu"), mtu, remedy));
        }
    }
    Ok(())
}

fn backups(
    uplink: &UplinkSettings,
    key: &impl Fn(&str) -> String,
    has: impl Fn(&String) -> bool,
) -> Result<(), Problem> {
    if uplink.backups.is_empty() {
        return Ok(());
    }
    let most = MAX_DEVICES - 1;
    if uplink.backups.len() > most {
        let remedy = format!("are too many: a bond has {most} beside its first device at most");
        return Err(Problem::new(key("backups"), uplink.backups.len(), remedy));
    }
    for (at, name) in uplink.devices().enumerate() {
        let key = if at == 0 { key("device") } else { key(&format!("backups[{}]", at - 1)) };
        device(&key, name)?;
        let can_be = match uplink.driver {
            UplinkDriver::Auto | UplinkDriver::Pci => is_pci(name),
            UplinkDriver::Tap => !is_pci(name),
            UplinkDriver::AfPacket | UplinkDriver::AfXdp => false,
        };
        if !can_be {
            return Err(Problem::new(key, name, NO_BOND));
        }
        if at > 0 && has(name) {
            return Err(Problem::new(key, name, "another uplink has it"));
        }
        if uplink.devices().take(at).any(|before| before == name) {
            return Err(Problem::new(key, name, "is in the bond twice"));
        }
    }
    Ok(())
}

/// What a kernel interface can be called (`dev_valid_name` in the kernel), without what ends a word of DPDK's.
pub(crate) fn interface(key: &str, name: &str) -> Result<(), Problem> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let dots = matches!(name, "." | "..");
    if (1..=15).contains(&name.len()) && name.chars().all(plain) && !dots {
        return Ok(());
    }
    Err(Problem::new(key, name, "must be 1 to 15 letters, digits, `.`, `_` and `-`"))
}

fn device(key: &str, name: &str) -> Result<(), Problem> {
    if is_pci(name) {
        return Ok(());
    }
    let remedy = "must be a PCI address as \"0000:01:00.0\", or the name of a kernel interface, at \
                  most 15 letters, digits, `.`, `_` and `-`";
    interface(key, name).map_err(|_| Problem::new(key, name, remedy))
}

/// Whether a device is named by its PCI address: domain, bus, device and function in hexadecimal digits.
pub fn is_pci(name: &str) -> bool {
    let hex = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let Some((address, function)) = name.split_once('.') else { return false };
    let mut parts = address.split(':');
    hex(function, 1)
        && parts.next().is_some_and(|domain| hex(domain, 4))
        && parts.next().is_some_and(|bus| hex(bus, 2))
        && parts.next().is_some_and(|device| hex(device, 2))
        && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(uplinks: &str) -> Result<VrouterConfig, String> {
        let text = format!("[[networks]]\nname = 'fabric'\nexternal = true\n{uplinks}");
        VrouterConfig::from_toml(&text, Path::new("vrouter.toml")).map_err(|e| e.to_string())
    }

    #[test]
    fn an_uplink_has_defaults() {
        let config =
            read("[[uplinks]]\nname = 'up0'\ndevice = 'eth1'\nnetwork = 'fabric'").unwrap();
        let expected = UplinkSettings {
            name: "up0".into(),
            device: "eth1".into(),
            backups: Vec::new(),
            driver: UplinkDriver::Auto,
            network: "fabric".into(),
            host_interface: HostInterface::Enabled(false),
            queues: 1,
            mtu: None,
            instance: None,
        };
        assert_eq!(config.uplinks, [expected]);
        let named = read(
            "[[uplinks]]\nname = 'a'\ndevice = '0000:01:00.0'\ndriver = 'pci'\nnetwork = 'fabric'\n\
             host_interface = 'eth7'\nmtu = 1800",
        );
        assert_eq!(named.unwrap().uplinks[0].host_interface.name(), Some("eth7"));
    }

    #[test]
    fn an_uplink_may_be_a_bond() {
        let text = "[[uplinks]]\nname = 'a'\ndevice = '0000:01:00.0'\nnetwork = 'fabric'\n\
                    backups = ['0000:02:00.0', '0000:03:00.0']";
        let devices: Vec<_> = read(text).unwrap().uplinks[0].devices().cloned().collect();
        assert_eq!(devices, ["0000:01:00.0", "0000:02:00.0", "0000:03:00.0"]);
    }

    #[test]
    fn a_network_may_have_a_table_of_the_kernel() {
        use crate::vrouter::{KernelTable, NamedTable, VrouterConfig};
        use std::path::Path;
        let read = |text: &str| VrouterConfig::from_toml(text, Path::new("vrouter.toml"));
        let red = "[[networks]]\nname = 'red'\nipv4 = '10.66.0.0/24'\n";
        let fabric = "[[networks]]\nname = 'fabric'\nexternal = true\n";
        let both = format!("{red}kernel_table = 100\n{fabric}kernel_table = 'main'");
        let tables: Vec<_> =
            read(&both).unwrap().networks.iter().map(|it| it.kernel_table).collect();
        let main = KernelTable::Named(NamedTable::Main);
        assert_eq!(tables, [Some(KernelTable::Number(100)), Some(main)]);
        assert_eq!(main.number(), 254);
        for (text, error) in [
            (format!("{red}kernel_table = 'mian'"), "use the number of a table, or \"main\""),
            (format!("{red}kernel_table = 'main'"), "`networks[0].kernel_table`: only an external"),
            (format!("{red}kernel_table = 254"), "`networks[0].kernel_table`: only an external"),
            (format!("{red}kernel_table = 255"), "which belongs to \"main\""),
            (
                format!("{fabric}kernel_table = 7\n{red}kernel_table = 7"),
                "`networks[1].kernel_table`: another network",
            ),
            (format!("{red}kernel_table = 7\nkernel_vrf = 'red'"), "leave one of"),
            (format!("{red}kernel_vrf = 'a/b'"), "`networks[0].kernel_vrf`"),
        ] {
            let said = read(&text).unwrap_err().to_string();
            assert!(said.contains(error), "{text}: {said}");
        }
    }

    #[test]
    fn what_is_wrong_with_an_uplink_is_named() {
        let one = "[[uplinks]]\nname = 'a'\ndevice = 'eth1'\nnetwork = 'fabric'\n";
        for (text, expected) in [
            (one.replace("'a'", "'sixteen-letters-'"), "`uplinks[0].name`"),
            (one.replace("eth1", "a/b"), "`uplinks[0].device`"),
            (one.replace("eth1", "eth1,x=1"), "`uplinks[0].device`"),
            (one.replace("'fabric'", "'red'"), "with `external = true`"),
            (format!("{one}{one}"), "`uplinks[1].name`: another uplink"),
            (format!("{one}{}", one.replace("'a'", "'b'")), "`uplinks[1].device`: another uplink"),
            (format!("{one}host_interface = true"), "or false"),
            (format!("{one}queues = 17"), "must be 1 to 16"),
            (format!("{one}mtu = 1400"), "must be 1500 to 9216"),
            (format!("{one}mtu = 9000"), "raise them to 9200 or more"),
            (format!("{one}driver = 'e1000'"), "driver"),
            (format!("{one}backups = ['eth2']"), "`uplinks[0].device`: only PCI devices, or TAPs"),
            (format!("{one}driver = 'tap'\nbackups = ['0000:01:00.0']"), "`uplinks[0].backups[0]`"),
            (format!("{one}driver = 'tap'\nbackups = ['eth2', 'eth2']"), "is in the bond twice"),
            (format!("{one}driver = 'tap'\nbackups = ['a/b']"), "`uplinks[0].backups[0]`: must be"),
            (
                format!("{one}driver = 'tap'\nbackups = ['1', '2', '3', '4', '5', '6', '7', '8']"),
                "7 beside its first",
            ),
            (
                format!(
                    "{one}driver = 'tap'\nbackups = ['eth2']\n{}",
                    one.replace("'a'", "'b'").replace("eth1", "eth2")
                ),
                "`uplinks[1].device`: another uplink",
            ),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn an_external_network_is_the_kernels() {
        for (field, value) in
            [("ipv4", "'10.0.0.0/24'"), ("gateway6", "'fd00::1'"), ("mode", "'bridged'")]
        {
            let error = read(&format!("{field} = {value}")).unwrap_err();
            let expected = format!("`networks[0].{field}`: must be left out");
            assert!(error.contains(&expected), "{error}");
        }
        assert!(read("mtu = 1000").unwrap_err().contains("must be 1280 to 9216"));
    }

    #[test]
    fn pci_addresses_are_told_from_names() {
        assert!(is_pci("0000:01:00.0") && is_pci("abcd:ff:1f.7"));
        for name in ["eth0.1", "0000:01:00", "01:00.0", "0000:01:00.10", "0000:01:00:0.0", ""] {
            assert!(!is_pci(name), "{name}");
        }
    }
}
