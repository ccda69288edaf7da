//! `kernel_port` of a network in `vrouter.toml`: the kernel as a router of the network.

use serde::{Deserialize, Serialize};

use crate::check::{self, Problem};
use crate::uplink;
use crate::vrouter::{NetworkSettings, VrouterConfig};

/// `kernel_port` of a network: a TAP through which the kernel routes for it by the network's table, so that packets can take
/// tunnels that only the kernel speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelPortSettings {
    /// Name of the TAP, which is made: at most 15 letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// Greatest IP packet of a pod's that goes there, bytes: what the kernel's tunnels leave of the wire's. Greater ones are
    /// answered by the network's gateway. Default: the network's.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Packets that each worker hands over from each port, in the long run. Default: 500000.
    #[serde(default)]
    pub packets_per_second: Option<u32>,
    /// Packets at once after a rest. Default: 4096.
    #[serde(default)]
    pub burst_packets: Option<u32>,
}

pub(crate) fn check(
    config: &VrouterConfig,
    key: &dyn Fn(&str) -> String,
    index: usize,
    network: &NetworkSettings,
) -> Result<(), Problem> {
    let Some(port) = &network.kernel_port else { return Ok(()) };
    let name = key("kernel_port.name");
    uplink::interface(&name, &port.name)?;
    if network.external {
        let remedy = "must be left out: uplinks of an `external` network have a `host_interface`";
        return Err(Problem::new(name, &port.name, remedy));
    }
    if network.kernel_table.is_none() && network.kernel_vrf.is_none() {
        let remedy = "needs `kernel_table` or `kernel_vrf`: the table by which the kernel routes what comes from there";
        return Err(Problem::new(name, &port.name, remedy));
    }
    let before = config.networks.get(..index).unwrap_or(&[]);
    let same = |other: &NetworkSettings| {
        other.kernel_port.as_ref().is_some_and(|other| other.name == port.name)
    };
    let host = |it: &uplink::UplinkSettings| {
        it.host_interface.name() == Some(&port.name) || it.device == port.name
    };
    if before.iter().any(same) || config.uplinks.iter().any(host) {
        return Err(Problem::new(name, &port.name, "another network or an uplink has it"));
    }
    if let Some(mtu) = port.mtu {
        let least = if network.ipv6.is_some() { 1280 } else { 68 };
        check::range(&key("kernel_port.mtu"), mtu, least, network.mtu)?;
    }
    for (field, value) in
        [("packets_per_second", port.packets_per_second), ("burst_packets", port.burst_packets)]
    {
        if let Some(value) = value {
            check::range(&key(&format!("kernel_port.{field}")), value, 1, u32::MAX)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(text: &str) -> Result<VrouterConfig, String> {
        VrouterConfig::from_toml(text, Path::new("vrouter.toml")).map_err(|e| e.to_string())
    }

    const RED: &str = "[[networks]]\nname = 'red'\nipv4 = '10.66.0.0/24'\nkernel_table = 7\n";

    #[test]
    fn a_name_is_enough() {
        let config = read(&format!("{RED}kernel_port = {{ name = 'red0' }}")).unwrap();
        let expected = KernelPortSettings {
            name: "red0".into(),
            mtu: None,
            packets_per_second: None,
            burst_packets: None,
        };
        assert_eq!(config.networks[0].kernel_port, Some(expected));
        let by_name = RED.replace("kernel_table = 7", "kernel_vrf = 'red'");
        assert!(read(&format!("{by_name}kernel_port = {{ name = 'red0', mtu = 1400 }}")).is_ok());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let port = "kernel_port = { name = 'red0' }\n";
        let two = RED.replace("red", "two").replace('7', "8");
        let uplink = "[[networks]]\nname = 'fabric'\nexternal = true\n[[uplinks]]\nname = 'a'\n\
                      device = 'red0'\nnetwork = 'fabric'\n";
        let tableless = RED.replace("kernel_table = 7\n", "");
        for (text, expected) in [
            (format!("{tableless}{port}"), "needs `kernel_table` or `kernel_vrf`"),
            (format!("{RED}{port}{two}{port}"), "`networks[1].kernel_port.name`: another network"),
            (format!("{RED}{port}{uplink}"), "another network or an uplink has it"),
            (
                format!("[[networks]]\nname = 'f'\nexternal = true\nkernel_table = 9\n{port}"),
                "have a `host_interface`",
            ),
            (format!("{RED}kernel_port = {{ name = 'a/b' }}"), "`networks[0].kernel_port.name`"),
            (format!("{RED}kernel_port = {{ name = 'a', mtu = 1501 }}"), "must be 68 to 1500"),
            (
                format!("{RED}ipv6 = 'fd00::/64'\nkernel_port = {{ name = 'a', mtu = 1279 }}"),
                "must be 1280 to 1500",
            ),
            (format!("{RED}kernel_port = {{ name = 'a', burst_packets = 0 }}"), "must be 1 to"),
            (format!("{RED}kernel_port = 'red0'"), "kernel_port"),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
