//! Which tunnels can be.

use super::{Carrier, MIN_MTU, NetworkPolicy, PolicyError, PortPolicy};
use crate::routes::reserved_around;
use alloc::vec::Vec;
use core::net::IpAddr;
use vrouter_net::{IpPrefix, ipv6};

/// Checks every network's tunnel. `networks` are sorted by slot.
pub(super) fn check(networks: &[NetworkPolicy], ports: &[PortPolicy]) -> Result<(), PolicyError> {
    let (mut numbers, mut labels, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
    for network in networks {
        let Some(tunnel) = network.tunnel else { continue };
        let index = network.index;
        let underlay = networks
            .binary_search_by_key(&tunnel.underlay, |network| network.index)
            .ok()
            .and_then(|at| networks.get(at))
            .filter(|underlay| underlay.tunnel.is_none())
            .ok_or(PolicyError::Underlay { network: index, underlay: tunnel.underlay })?;
        // The one that takes most.
        let carrier = match (tunnel.vni, tunnel.label, tunnel.ipip) {
            (None, None, false) => return Err(PolicyError::TunnelKind { network: index }),
            (None, None, true) => Carrier::Ipip,
            (None, Some(_), _) => Carrier::Mpls,
            (Some(_), ..) => Carrier::Vxlan,
        };
        let local = tunnel.local;
        let is_host = reserved_around(IpPrefix::host(local)).is_none();
        let possible = if underlay.external {
            is_host
        } else {
            underlay.may_have(local) || underlay.is_gateway(local)
        };
        if !possible {
            return Err(PolicyError::TunnelAddress { network: index, local });
        }
        let has = |port: &&PortPolicy| {
            let own =
                IpAddr::from(port.ipv4) == local || port.ipv6.map(IpAddr::from) == Some(local);
            port.network == underlay.index && own
        };
        if let Some(port) = ports.iter().find(has) {
            return Err(PolicyError::TunnelAddressTaken {
                network: index,
                local,
                port: port.index,
            });
        }
        let smallest = if network.ipv6.is_some() { ipv6::MIN_MTU } else { MIN_MTU };
        let needed = smallest + tunnel.overhead(carrier);
        let carriers = ports.iter().filter(|port| port.network == underlay.index);
        let mtu = carriers.map(|port| port.mtu_in(underlay)).min().unwrap_or(underlay.mtu);
        if mtu < needed {
            return Err(PolicyError::UnderlayMtu { network: index, mtu, needed });
        }
        numbers.extend(tunnel.vni.map(|vni| (tunnel.underlay, vni, index)));
        labels.extend(tunnel.label.map(|label| (tunnel.underlay, label, index)));
        addresses.extend(tunnel.ipip.then_some((tunnel.underlay, local, index)));
    }
    numbers.sort_unstable();
    for pair in numbers.windows(2) {
        if let [(a, vni, first), (b, other, second)] = *pair
            && (a, vni) == (b, other)
        {
            return Err(PolicyError::DuplicateVni { first, second, vni });
        }
    }
    labels.sort_unstable();
    for pair in labels.windows(2) {
        if let [(a, label, first), (b, other, second)] = *pair
            && (a, label) == (b, other)
        {
            return Err(PolicyError::DuplicateLabel { first, second, label });
        }
    }
    addresses.sort_unstable();
    for pair in addresses.windows(2) {
        if let [(a, local, first), (b, other, second)] = *pair
            && (a, local) == (b, other)
        {
            return Err(PolicyError::DuplicateIpip { first, second, local });
        }
    }
    Ok(())
}

impl NetworkPolicy {
    /// Whether an address is the gateway's.
    fn is_gateway(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address == self.gateway,
            IpAddr::V6(address) => self.ipv6.is_some_and(|ipv6| ipv6.gateway == address),
        }
    }
}
