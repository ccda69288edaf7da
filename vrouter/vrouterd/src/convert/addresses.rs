//! Addresses that follow from what is asked for. Pure.

use std::net::Ipv6Addr;

use vrouter_core::Ipv6Network;
use vrouter_net::{Ipv6Prefix, Mac};

use super::{Refusal, invalid};

/// Without a gateway: the address after the first, which is every router's.
pub(super) fn ipv6_network(prefix: &str, gateway: &str) -> Result<Option<Ipv6Network>, Refusal> {
    if prefix.is_empty() {
        let remedy =
            "is set but ipv6 is not; set ipv6 to a prefix as fd00:66::/64, or leave it out";
        return if gateway.is_empty() {
            Ok(None)
        } else {
            Err(invalid("gateway6", gateway, remedy))
        };
    }
    let parsed: Ipv6Prefix = prefix
        .parse()
        .map_err(|e| invalid("ipv6", prefix, format!("{e}; for example fd00:66::/64")))?;
    let gateway = match gateway {
        "" => Ipv6Addr::from_bits(parsed.network().to_bits() | 1),
        text => text.parse().map_err(|_| {
            invalid("gateway6", text, "use an IPv6 address inside the network's prefix")
        })?,
    };
    Ok(Some(Ipv6Network { prefix: parsed, gateway }))
}

/// The vRouter's MAC address in a network. Unless one is asked for, a function of the name alone (FNV-1a, 24 bits), so that it is the
/// same after a restart: pods keep it in their neighbour tables.
pub(super) fn gateway_mac(network: &str, asked: &str) -> Result<Mac, Refusal> {
    if asked.is_empty() {
        return Ok(named_mac(0x57, network));
    }
    let mac = asked.parse::<Mac>().ok().filter(|mac| mac.is_station());
    mac.ok_or_else(|| invalid("gateway_mac", asked, "use the form 02:00:00:00:00:01, no group's"))
}

/// The same for other things that a name gives an address; `third`: what they are.
pub(super) fn named_mac(third: u8, name: &str) -> Mac {
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    let [_, a, b, c] = (hash ^ (hash >> 24)).to_be_bytes();
    Mac::new([0x02, 0x52, third, a, b, c])
}
