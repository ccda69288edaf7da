//! `tunnel` of a network.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::check::{self, Problem};
use crate::vrouter::{NetworkSettings, VrouterConfig};

/// `tunnel` of a network, over another one: VXLAN, MPLS over UDP or both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunnelSettings {
    /// Name of the network that carries the packets.
    pub underlay: String,
    /// This end's address in it. Left out where there are `instances`: each has its own.
    #[serde(default = "unspecified")]
    pub local: IpAddr,
    /// The network's number in VXLAN, below 2^24. Default: it does not speak VXLAN.
    #[serde(default)]
    pub vni: Option<u32>,
    /// The label of MPLS packets for the network (RFC 7510), 16 to 2^20 - 1. Default: it takes none. One of both is needed.
    #[serde(default)]
    pub label: Option<u32>,
    /// Routers behind uplinks that routes of the network's kernel table name are other ends of this tunnel: what a routing
    /// protocol writes that knows nothing of tunnels.
    #[serde(default)]
    pub gateways: bool,
    /// The MAC address that the network's gateway has, for its pods and as the router that the tunnel ends at. Default: one that follows from
    /// the network's name, the same on all hosts, so that routes need not name it. EVPN needs one for each host.
    #[serde(default)]
    pub router_mac: Option<String>,
}

fn unspecified() -> IpAddr {
    Ipv4Addr::UNSPECIFIED.into()
}

/// Labels below have a meaning of their own (RFC 3032 section 2.1).
pub(crate) fn label_range(key: &str, label: u32) -> Result<(), Problem> {
    check::range(key, label, 16, (1 << 20) - 1)
}

impl VrouterConfig {
    pub(crate) fn check_tunnel(
        &self,
        key: &impl Fn(&str) -> String,
        network: &NetworkSettings,
    ) -> Result<(), Problem> {
        let Some(tunnel) = &network.tunnel else { return Ok(()) };
        match (tunnel.vni, tunnel.label) {
            (None, None) => {
                let remedy =
                    "is missing; a tunnel has a `vni` (VXLAN), a `label` (MPLS over UDP) or both";
                return Err(Problem::new(key("tunnel.vni"), "", remedy));
            }
            (vni, label) => {
                vni.map_or(Ok(()), |vni| check::range(&key("tunnel.vni"), vni, 0, (1 << 24) - 1))?;
                label.map_or(Ok(()), |label| label_range(&key("tunnel.label"), label))?;
            }
        }
        let carries = |other: &NetworkSettings| {
            other.name == tunnel.underlay && other.tunnel.is_none() && other.name != network.name
        };
        if self.networks.iter().any(carries) {
            return self.check_numbers(key, network, tunnel);
        }
        let remedy = "must be another of the networks, one without a `tunnel`";
        Err(Problem::new(key("tunnel.underlay"), &tunnel.underlay, remedy))
    }

    /// No two networks have one number on one underlay.
    fn check_numbers(
        &self,
        key: &impl Fn(&str) -> String,
        network: &NetworkSettings,
        tunnel: &TunnelSettings,
    ) -> Result<(), Problem> {
        let before = self.networks.iter().take_while(|other| other.name != network.name);
        for other in before {
            let theirs = other.tunnel.iter().filter(|it| it.underlay == tunnel.underlay);
            for theirs in theirs {
                for (field, ours, theirs) in
                    [("vni", tunnel.vni, theirs.vni), ("label", tunnel.label, theirs.label)]
                {
                    if let Some(number) = ours.filter(|_| ours == theirs) {
                        let remedy = format!("network {:?} has it on that underlay", other.name);
                        return Err(Problem::new(key(&format!("tunnel.{field}")), number, remedy));
                    }
                }
            }
        }
        Ok(())
    }
}
