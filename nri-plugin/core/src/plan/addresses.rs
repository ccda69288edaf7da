//! Addresses and the other properties of new interfaces.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::{BTreeMap, BTreeSet};

use crate::annotations::{InterfaceRequest, Leased, SocketOwner};
use crate::net::{AnyPrefix, Mac, Network, Network6};

use super::{Interface, Ipv6, Node, PlanError};

/// Addresses in use in one network.
#[derive(Default)]
struct Used {
    addresses: BTreeSet<Ipv4Addr>,
    addresses6: BTreeSet<Ipv6Addr>,
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
        let asked = |name: &str| requests.iter().any(|request| request.network == name);
        for network in networks.iter().filter(|network| asked(&network.name)) {
            let entry = used.entry(&network.name).or_default();
            entry.addresses.extend(&network.used_addresses);
            entry.addresses.insert(network.gateway);
            if let Some(ipv6) = &network.ipv6 {
                entry.addresses6.extend(&ipv6.used_addresses);
                entry.addresses6.insert(ipv6.gateway);
            }
            entry.macs.extend(network.used_macs.iter().chain(&network.gateway_mac));
        }
        let held = self.pods().flat_map(|pod| pod.slots.values().flatten());
        for interface in held.filter(|interface| asked(&interface.network)) {
            let entry = used.entry(&interface.network).or_default();
            entry.addresses.insert(interface.ip);
            entry.addresses6.extend(interface.ipv6.map(|ipv6| ipv6.address));
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
            let (ip, ipv6) = match &request.leased {
                Some(leased) => self::leased(network, leased, used)?,
                None => {
                    let ip = match request.ip {
                        Some(ip) => check_address(network, ip, used)?,
                        None => lowest_free(network, used)?,
                    };
                    (ip, ipv6(network, request.ipv6, ip, used)?)
                }
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
            used.addresses6.extend(ipv6.map(|ipv6| ipv6.address));
            used.macs.insert(mac);
            interfaces.push(Interface {
                name: request.name.clone(),
                network: network.name.clone(),
                ip,
                prefix_len: network.prefix.length(),
                gateway: network.gateway,
                ipv6,
                mac,
                queues: request.queues,
                queue_size: self.defaults.queue_size,
                mtu,
                // Nobody listens for one of the kernel's.
                socket: match request.link {
                    Some(_) => SocketOwner::Vrouter,
                    None => request.socket.unwrap_or(self.defaults.socket),
                },
                lease: request.leased.as_ref().map(|leased| leased.id.clone()),
                link: request.link.clone(),
            });
        }
        Ok(interfaces)
    }
}

/// Addresses that an address plugin gave: as they are, if the vRouter can serve them.
fn leased(
    network: &Network,
    leased: &Leased,
    used: &Used,
) -> Result<(Ipv4Addr, Option<Ipv6>), PlanError> {
    let unfit = |ip: IpAddr, prefix: AnyPrefix| PlanError::Leased {
        network: network.name.clone(),
        prefix,
        ip,
    };
    let prefix = AnyPrefix::V4(network.prefix);
    let ip =
        check_address(network, leased.ip, used).map_err(|_| unfit(leased.ip.into(), prefix))?;
    // Without an address of the plugin's there is none: nobody else knows which are free.
    let Some(address) = leased.ipv6 else { return Ok((ip, None)) };
    let prefix = network.ipv6.as_ref().map_or(prefix, |side| AnyPrefix::V6(side.prefix));
    let ipv6 = ipv6(network, Some(address), ip, used);
    Ok((ip, ipv6.map_err(|_| unfit(address.into(), prefix))?))
}

fn check_address(network: &Network, ip: Ipv4Addr, used: &Used) -> Result<Ipv4Addr, PlanError> {
    let name = || network.name.clone();
    let (first, last) = network.prefix.hosts();
    if !network.prefix.contains(ip) {
        let prefix = AnyPrefix::V4(network.prefix);
        return Err(PlanError::AddressOutside { network: name(), prefix, ip: ip.into() });
    }
    if ip < first || ip > last || ip == network.gateway {
        return Err(PlanError::AddressReserved { network: name(), ip: ip.into() });
    }
    if used.addresses.contains(&ip) {
        return Err(PlanError::AddressInUse { network: name(), ip: ip.into() });
    }
    Ok(ip)
}

/// The IPv6 side of an interface with the IPv4 address `ip`: what it asks for; else, where it is free, the address with
/// the same number in the IPv6 prefix as `ip` has in its own, which people recognize; else the lowest that is free.
fn ipv6(
    network: &Network,
    wanted: Option<Ipv6Addr>,
    ip: Ipv4Addr,
    used: &Used,
) -> Result<Option<Ipv6>, PlanError> {
    let name = || network.name.clone();
    let Some(side) = &network.ipv6 else {
        return wanted.map_or(Ok(None), |ip| Err(PlanError::NoIpv6 { network: name(), ip }));
    };
    let address = match wanted {
        Some(address) => check_address6(network, side, address, used)?,
        None => corresponding(network, side, ip, used)
            .map_or_else(|| lowest_free6(network, side, used), Ok)?,
    };
    let (prefix_len, gateway) = (side.prefix.length(), side.gateway);
    Ok(Some(Ipv6 { address, prefix_len, gateway }))
}

fn check_address6(
    network: &Network,
    side: &Network6,
    address: Ipv6Addr,
    used: &Used,
) -> Result<Ipv6Addr, PlanError> {
    let (name, ip) = (|| network.name.clone(), IpAddr::V6(address));
    if !side.prefix.contains(address) {
        let prefix = AnyPrefix::V6(side.prefix);
        return Err(PlanError::AddressOutside { network: name(), prefix, ip });
    }
    if address < side.prefix.hosts().0 || address == side.gateway {
        return Err(PlanError::AddressReserved { network: name(), ip });
    }
    if used.addresses6.contains(&address) {
        return Err(PlanError::AddressInUse { network: name(), ip });
    }
    Ok(address)
}

/// The address with the number that `ip` has in its prefix, if a machine may have it and nobody has.
fn corresponding(
    network: &Network,
    side: &Network6,
    ip: Ipv4Addr,
    used: &Used,
) -> Option<Ipv6Addr> {
    let number = u32::from(ip).checked_sub(u32::from(network.prefix.network()))?;
    let address = u128::from(side.prefix.network()).checked_add(number.into())?;
    let (first, last) = side.prefix.hosts();
    let fits = (u128::from(first)..=u128::from(last)).contains(&address);
    let address = Ipv6Addr::from(address);
    (fits && !used.addresses6.contains(&address)).then_some(address)
}

/// As [`lowest_free`].
fn lowest_free6(network: &Network, side: &Network6, used: &Used) -> Result<Ipv6Addr, PlanError> {
    let (first, last) = side.prefix.hosts();
    let mut candidate = u128::from(first);
    for taken in used.addresses6.range(first..=last).map(|ip| u128::from(*ip)) {
        if taken != candidate {
            break;
        }
        candidate = candidate.saturating_add(1);
    }
    let found = Ipv6Addr::from(candidate);
    if found > last || used.addresses6.contains(&found) {
        let prefix = AnyPrefix::V6(side.prefix);
        return Err(PlanError::NetworkFull { network: network.name.clone(), prefix });
    }
    Ok(found)
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
        let prefix = AnyPrefix::V4(network.prefix);
        return Err(PlanError::NetworkFull { network: network.name.clone(), prefix });
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
