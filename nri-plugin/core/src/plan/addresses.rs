//! Addresses and the other properties of new interfaces.

use core::net::Ipv4Addr;
use std::collections::{BTreeMap, BTreeSet};

use crate::annotations::InterfaceRequest;
use crate::net::{Mac, Network};

use super::{Interface, Node, PlanError, PodRecord};

/// Addresses in use in one network.
#[derive(Default)]
struct Used {
    addresses: BTreeSet<Ipv4Addr>,
    macs: BTreeSet<Mac>,
}

impl Node {
    /// Gives each interface what it asks for or the lowest that is free.
    pub(super) fn assign(
        &self,
        requests: &[InterfaceRequest],
        networks: &[Network],
    ) -> Result<Vec<Interface>, PlanError> {
        let mut used: BTreeMap<&str, Used> = BTreeMap::new();
        for network in networks {
            let entry = used.entry(&network.name).or_default();
            entry.addresses.extend(&network.used_addresses);
            entry.addresses.insert(network.gateway);
            entry.macs.extend(network.used_macs.iter().chain(&network.gateway_mac));
        }
        for (_, interface) in self.pods().flat_map(PodRecord::ports) {
            let entry = used.entry(&interface.network).or_default();
            entry.addresses.insert(interface.ip);
            entry.macs.insert(interface.mac);
        }
        let mut interfaces = Vec::new();
        for request in requests {
            let Some(network) = networks.iter().find(|network| network.name == request.network)
            else {
                let known = networks.iter().map(|network| network.name.clone()).collect();
                return Err(PlanError::UnknownNetwork { network: request.network.clone(), known });
            };
            let used = used.entry(&network.name).or_default();
            let ip = match request.ip {
                Some(ip) => check_address(network, ip, used)?,
                None => lowest_free(network, used)?,
            };
            let mac = match request.mac {
                Some(mac) if used.macs.contains(&mac) => {
                    return Err(PlanError::MacInUse { network: network.name.clone(), mac });
                }
                Some(mac) => mac,
                None => derive_mac(&network.name, ip, &used.macs),
            };
            let mtu = request.mtu.unwrap_or(network.mtu);
            if mtu > network.mtu {
                let (network, network_mtu) = (network.name.clone(), network.mtu);
                return Err(PlanError::MtuTooGreat { network, mtu, network_mtu });
            }
            used.addresses.insert(ip);
            used.macs.insert(mac);
            interfaces.push(Interface {
                name: request.name.clone(),
                network: network.name.clone(),
                ip,
                prefix_len: network.prefix.length(),
                gateway: network.gateway,
                mac,
                queues: request.queues,
                queue_size: self.defaults.queue_size,
                mtu,
                socket: request.socket.unwrap_or(self.defaults.socket),
            });
        }
        Ok(interfaces)
    }
}

fn check_address(network: &Network, ip: Ipv4Addr, used: &Used) -> Result<Ipv4Addr, PlanError> {
    let name = || network.name.clone();
    let (first, last) = network.prefix.hosts();
    if !network.prefix.contains(ip) {
        return Err(PlanError::AddressOutside { network: name(), prefix: network.prefix, ip });
    }
    if ip < first || ip > last || ip == network.gateway {
        return Err(PlanError::AddressReserved { network: name(), ip });
    }
    if used.addresses.contains(&ip) {
        return Err(PlanError::AddressInUse { network: name(), ip });
    }
    Ok(ip)
}

/// Looks at each address in use at most once, however large the network is.
fn lowest_free(network: &Network, used: &Used) -> Result<Ipv4Addr, PlanError> {
    let (first, last) = network.prefix.hosts();
    let mut candidate = u32::from(first);
    for taken in used.addresses.range(first..=last).map(|ip| u32::from(*ip)) {
        if taken != candidate {
            break;
        }
        // At most the broadcast address, so no overflow, except for the last address there is.
        candidate = candidate.saturating_add(1);
    }
    let found = Ipv4Addr::from(candidate);
    if found > last || used.addresses.contains(&found) {
        return Err(PlanError::NetworkFull {
            network: network.name.clone(),
            prefix: network.prefix,
        });
    }
    Ok(found)
}

/// A locally administered address (02:...) that says which IPv4 address it belongs to. Its second byte comes from the
/// network's name, so that the same address in two networks looks different to people; it moves on should a pod have
/// chosen that very address for itself.
fn derive_mac(network: &str, ip: Ipv4Addr, used: &BTreeSet<Mac>) -> Mac {
    let [a, b, c, d] = ip.octets();
    let start = network.bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
    let candidates = (0..=u8::MAX).map(|step| Mac([2, start.wrapping_add(step), a, b, c, d]));
    // All 256 taken means that one pod claims each; the vRouter then refuses the port.
    candidates.into_iter().find(|mac| !used.contains(mac)).unwrap_or(Mac([2, start, a, b, c, d]))
}

#[cfg(test)]
mod tests;
