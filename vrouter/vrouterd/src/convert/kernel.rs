//! Which of the kernel's tables a network has, and the kernel as a router of it: as they are on the wire, and as the tables want
//! them. Pure.

use std::net::IpAddr;

use ringway_config::MAIN_TABLE;
use vrouter_api::v1;
use vrouter_core::{NetworkIndex, PortIndex, PortPolicy, PortRole, PuntRate, PuntRates, Rates};
use vrouter_kernel::fib::{
    BridgeSpec, LOCAL, Mac as KernelMac, NetworkSpec, Prefix, Source, Tunnel,
};
use vrouter_kernel::kernelport::{Spec, Table};
use vrouter_net::{Mac, ipv6};

use super::tunnel::KERNEL_BRIDGE_PORT;
use super::uplinks::interface;
use super::{NetworkRequest, Refusal, invalid, named_mac};
use crate::device::NO_ADDRESS;

/// A kernel port as asked for, checked on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRequest {
    /// Name of the TAP.
    pub name: String,
    /// Its MAC address: a function of the network's name, as the gateway's.
    pub mac: Mac,
    /// Greatest IP packet of a pod's that goes there.
    mtu: u16,
    /// How many go there.
    rate: PuntRate,
}

/// Reads which table a network has.
///
/// # Errors
/// [`Refusal::Invalid`].
pub(super) fn table(wire: &v1::Network) -> Result<Option<Source>, Refusal> {
    let number = wire.kernel_table;
    match (number, wire.kernel_vrf.as_str()) {
        (0, "") => Ok(None),
        (0, vrf) => {
            interface("kernel_vrf", vrf)?;
            Ok(Some(Source::Vrf(vrf.to_owned())))
        }
        (_, vrf) if !vrf.is_empty() => {
            Err(invalid("kernel_vrf", vrf, "leave one of kernel_table and kernel_vrf out"))
        }
        (LOCAL, _) => Err(invalid("kernel_table", number, "belongs to 254 (main); use another")),
        (MAIN_TABLE, _) if wire.external => Ok(Some(Source::Main)),
        (MAIN_TABLE, _) => {
            let remedy = "only an external network can have the node's own table; give this one a table of its own";
            Err(invalid("kernel_table", number, remedy))
        }
        _ => Ok(Some(Source::Table(number))),
    }
}

/// The number of a table, as it is on the wire.
pub(super) fn table_number(table: Option<&Source>) -> u32 {
    match table {
        Some(Source::Main) => MAIN_TABLE,
        Some(Source::Table(number)) => *number,
        Some(Source::Vrf(_) | Source::Rule(_)) | None => 0,
    }
}

/// A table for people.
pub fn show(table: &Source) -> String {
    match table {
        Source::Vrf(name) => name.clone(),
        table => table_number(Some(table)).to_string(),
    }
}

/// The name of a VRF device, as it is on the wire.
pub(super) fn vrf(table: Option<&Source>) -> String {
    match table {
        Some(Source::Vrf(name)) => name.clone(),
        _ => String::new(),
    }
}

/// Reads a kernel port of a network with this MTU.
///
/// # Errors
/// [`Refusal::Invalid`].
pub(super) fn read(
    wire: &v1::Network,
    network_mtu: u16,
    has_table: bool,
) -> Result<Option<KernelRequest>, Refusal> {
    let Some(port) = &wire.kernel_port else { return Ok(None) };
    interface("kernel_port.name", &port.name)?;
    if !has_table {
        let remedy = "needs kernel_table or kernel_vrf: the table by which the kernel routes what comes from there";
        return Err(invalid("kernel_port.name", &port.name, remedy));
    }
    let mtu = if port.mtu == 0 { u32::from(network_mtu) } else { port.mtu };
    let mtu = u16::try_from(mtu).ok().filter(|mtu| *mtu <= network_mtu).ok_or_else(|| {
        let remedy = format!("is more than the network's; use at most {network_mtu}");
        invalid("kernel_port.mtu", port.mtu, remedy)
    })?;
    let PuntRate { per_second, burst } = PuntRates::default().kernel;
    let or = |number, default| if number == 0 { default } else { number };
    Ok(Some(KernelRequest {
        name: port.name.clone(),
        mac: named_mac(0x4b, &wire.name),
        mtu,
        rate: PuntRate {
            per_second: or(port.packets_per_second, per_second),
            burst: or(port.burst_packets, burst),
        },
    }))
}

impl KernelRequest {
    /// Writes it with everything filled in.
    pub(super) fn write(&self) -> v1::KernelPort {
        v1::KernelPort {
            name: self.name.clone(),
            mtu: u32::from(self.mtu),
            packets_per_second: self.rate.per_second,
            burst_packets: self.rate.burst,
            mac: self.mac.to_string(),
            reason: String::new(),
        }
    }

    /// How many packets the network's ports hand to the kernel.
    pub(super) fn punts(&self) -> PuntRates {
        PuntRates { kernel: self.rate, ..PuntRates::default() }
    }

    /// What the tables are to know of it.
    pub fn policy(&self, index: PortIndex, network: NetworkIndex) -> PortPolicy {
        PortPolicy {
            index,
            network,
            role: PortRole::Kernel,
            mac: self.mac,
            ipv4: NO_ADDRESS,
            ipv6: None,
            allowed: Vec::new(),
            trunk: false,
            rates: Rates::default(),
            mtu: Some(self.mtu),
        }
    }
}

impl NetworkRequest {
    /// What has to be known of it to mirror its table; `None`: it has none.
    pub fn mirrored(&self) -> Option<NetworkSpec> {
        let tunnel = self.tunnel.as_ref();
        Some(NetworkSpec {
            source: self.table.clone()?,
            // The kernel puts nothing into MPLS over UDP, and what it puts into IP in IP takes the kernel's way.
            tunnel: tunnel.and_then(|it| {
                let vni = it.vni?.number();
                Some(Tunnel { vni, local: it.local, gateways: it.gateways })
            }),
            device: self.kernel.as_ref().map(|kernel| kernel.name.clone()),
        })
    }

    /// What has to be known of it to find its stations in the kernel; `None`: they are not looked for.
    pub fn kernel_bridge(&self) -> Option<BridgeSpec> {
        let tunnel = self.tunnel.as_ref()?;
        let port = tunnel.kernel_bridge_port.clone()?;
        Some(BridgeSpec { port, vni: tunnel.vni?.number(), local: tunnel.local })
    }

    /// Whether a vRouter can have it that is one of several on the machine.
    ///
    /// # Errors
    /// [`Refusal`]: the kernel's entries for its ports would be taken for leftovers by the others.
    pub fn fits_one_of_several(&self) -> Result<(), Refusal> {
        match self.kernel_bridge() {
            Some(BridgeSpec { port, .. }) => {
                let remedy = "is of one vRouter, and EVPN for one on a machine; leave it out here, where several run";
                Err(invalid(KERNEL_BRIDGE_PORT, port, remedy))
            }
            None => Ok(()),
        }
    }

    /// What the kernel has to know of it to route for it; `None`: it does not.
    pub fn kernel_spec(&self) -> Option<Spec> {
        let table = match self.table.as_ref()? {
            Source::Vrf(name) => Table::Vrf(name.clone()),
            table => Table::Number(table_number(Some(table))),
        };
        let four = (IpAddr::V4(self.prefix.network()), self.prefix.length());
        let six = self.ipv6.map(|six| (IpAddr::V6(six.prefix.network()), six.prefix.length()));
        let prefixes = [Some(four), six].into_iter().flatten();
        // IPv6 asks for a next hop on the link, and the gateway's own is known by its MAC address.
        let six = self.ipv6.map(|_| IpAddr::V6(ipv6::link_local(self.gateway_mac)));
        let gateways = [Some(IpAddr::V4(self.gateway)), six];
        Some(Spec {
            interface: self.kernel.as_ref()?.name.clone(),
            table,
            prefixes: prefixes.filter_map(|(to, length)| Prefix::new(to, length)).collect(),
            gateways: gateways.into_iter().flatten().collect(),
            gateway_mac: KernelMac(self.gateway_mac.octets()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> v1::Network {
        v1::Network {
            name: "red".into(),
            ipv4: "10.66.0.0/24".into(),
            ipv6: "fd00:66::/64".into(),
            kernel_table: 77,
            kernel_port: Some(v1::KernelPort { name: "red0".into(), ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn what_is_left_out_is_filled_in() {
        let request = NetworkRequest::read(&wire()).unwrap();
        let port = request.write(0, 0).kernel_port.unwrap();
        assert_eq!((port.name.as_str(), port.mtu), ("red0", 1500));
        assert_eq!((port.packets_per_second, port.burst_packets), (500_000, 4096));
        assert_ne!(port.mac, request.gateway_mac.to_string());
        // What is shown can be asked for again.
        assert_eq!(NetworkRequest::read(&request.write(0, 0)).unwrap(), request);
        let spec = request.mirrored().unwrap();
        assert_eq!((spec.source, spec.device.as_deref()), (Source::Table(77), Some("red0")));
        let spec = request.kernel_spec().unwrap();
        assert_eq!((spec.table, spec.prefixes.len()), (Table::Number(77), 2));
        assert_eq!(spec.gateways[0], "10.66.0.1".parse::<IpAddr>().unwrap());
        assert!(spec.gateways[1].to_string().starts_with("fe80::"));
    }

    #[test]
    fn a_port_lets_pass_what_was_said() {
        let mut wire = wire();
        let port = wire.kernel_port.as_mut().unwrap();
        (port.mtu, port.packets_per_second, port.burst_packets) = (1400, 7, 9);
        let request = NetworkRequest::read(&wire).unwrap();
        let policy = request.policy(NetworkIndex(1), |_| None);
        assert_eq!(policy.punts.kernel, PuntRate { per_second: 7, burst: 9 });
        assert_eq!(policy.punts.local, PuntRates::default().local);
        let port = request.kernel.as_ref().unwrap().policy(PortIndex(3), NetworkIndex(1));
        assert_eq!((port.role, port.mtu), (PortRole::Kernel, Some(1400)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let change = |change: fn(&mut v1::Network)| {
            let mut wire = wire();
            change(&mut wire);
            NetworkRequest::read(&wire).unwrap_err().to_string()
        };
        for (error, expected) in [
            (change(|it| it.kernel_table = 0), "kernel_port.name \"red0\": needs kernel_table"),
            (change(|it| it.kernel_table = 255), "kernel_table \"255\": belongs to 254"),
            (change(|it| it.kernel_table = 254), "kernel_table \"254\": only an external"),
            (change(|it| it.kernel_vrf = "red".into()), "kernel_vrf \"red\": leave one of"),
            (change(|it| it.kernel_port.as_mut().unwrap().mtu = 1501), "kernel_port.mtu \"1501\""),
            (
                change(|it| it.kernel_port.as_mut().unwrap().name = "a/b".into()),
                "kernel_port.name \"a/b\"",
            ),
            (change(|it| it.external = true), "external \"true\""),
        ] {
            assert!(error.starts_with(expected), "{error}");
        }
        let external = v1::Network {
            name: "fabric".into(),
            external: true,
            kernel_table: 254,
            ..Default::default()
        };
        let request = NetworkRequest::read(&external).unwrap();
        assert_eq!(request.mirrored().unwrap().source, Source::Main);
        assert_eq!(request.write(0, 0).kernel_table, 254);
    }
}
