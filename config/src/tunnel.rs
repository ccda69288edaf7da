//! `tunnel` of a network.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::check::{self, Problem};
use crate::uplink;
use crate::vrouter::{NetworkMode, NetworkSettings, VrouterConfig};

/// `tunnel` of a network, over another one: VXLAN, MPLS over UDP, IP in IP or several of them.
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
    /// The label of MPLS packets for the network (RFC 7510), 16 to 2^20 - 1. Default: it takes none.
    #[serde(default)]
    pub label: Option<u32>,
    /// It speaks IP in IP (RFC 2003, RFC 4213, RFC 2473): all such packets for `local` are its own. One of the three is needed.
    #[serde(default)]
    pub ipip: bool,
    /// Routers behind uplinks that routes of the network's kernel table name are other ends of this tunnel: what a routing
    /// protocol writes that knows nothing of tunnels.
    #[serde(default)]
    pub gateways: bool,
    /// The MAC address that the network's gateway has, for its pods and as the router that the tunnel ends at. Default: one that follows from
    /// the network's name, the same on all hosts, so that routes need not name it. EVPN needs one for each host.
    #[serde(default)]
    pub router_mac: Option<String>,
    /// Of a bridged network that speaks VXLAN: the other ends that its frames are bridged to and from, addresses in the underlay, 64 at most.
    /// What is for everybody or for nobody known goes to each of them. They need no routes. Default: it is bridged on this host alone.
    #[serde(default)]
    pub flood: Vec<IpAddr>,
    /// Of such a network: an interface that is a member of the bridge whose VXLAN device has this `vni`, and there for nothing else.
    /// More ends, and the stations behind them, come from the forwarding database of that VXLAN device, which FRR's EVPN fills;
    /// the MAC addresses of the network's pods go as entries of the interface into the bridge's, for FRR to announce. Default: neither.
    #[serde(default)]
    pub kernel_bridge_port: Option<String>,
}

/// Most addresses in `flood`.
const MOST_ENDS: usize = 64;

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
            (None, None) if !tunnel.ipip => {
                let remedy = "is missing; a tunnel has a `vni` (VXLAN), a `label` (MPLS over UDP), `ipip = true` or several";
                return Err(Problem::new(key("tunnel.vni"), "", remedy));
            }
            (vni, label) => {
                vni.map_or(Ok(()), |vni| check::range(&key("tunnel.vni"), vni, 0, (1 << 24) - 1))?;
                label.map_or(Ok(()), |label| label_range(&key("tunnel.label"), label))?;
            }
        }
        self.check_flood(key, network, tunnel)?;
        self.check_bridge_port(key, network, tunnel)?;
        let carries = |other: &NetworkSettings| {
            other.name == tunnel.underlay && other.tunnel.is_none() && other.name != network.name
        };
        if self.networks.iter().any(carries) {
            return self.check_numbers(key, network, tunnel);
        }
        let remedy = "must be another of the networks, one without a `tunnel`";
        Err(Problem::new(key("tunnel.underlay"), &tunnel.underlay, remedy))
    }

    fn check_flood(
        &self,
        key: &impl Fn(&str) -> String,
        network: &NetworkSettings,
        tunnel: &TunnelSettings,
    ) -> Result<(), Problem> {
        let Some(first) = tunnel.flood.first() else { return Ok(()) };
        let field = |at: usize| key(&format!("tunnel.flood[{at}]"));
        if network.mode != NetworkMode::Bridged {
            let remedy =
                "only a bridged network repeats frames; set `mode = \"bridged\"`, or leave it out";
            return Err(Problem::new(field(0), first, remedy));
        }
        if tunnel.vni.is_none() {
            let remedy = "frames cross by VXLAN; give the tunnel a `vni`, or leave it out";
            return Err(Problem::new(field(0), first, remedy));
        }
        // The other `instances` are ends, too.
        let most = MOST_ENDS.saturating_sub(self.instances.len().saturating_sub(1));
        if let Some(beyond) = tunnel.flood.get(most) {
            let remedy = format!("must be one of at most {most}: each gets a copy of its own");
            return Err(Problem::new(field(most), beyond, remedy));
        }
        let instances = self.instances.iter().filter_map(|it| it.addresses.get(&tunnel.underlay));
        let own: Vec<_> =
            instances.chain([&tunnel.local]).filter(|it| !it.is_unspecified()).collect();
        for (at, end) in tunnel.flood.iter().enumerate() {
            let problem = |remedy: &str| Err(Problem::new(field(at), end, remedy));
            if own.contains(&end) {
                return problem("must be another host's; this one's own ends are left out");
            }
            let is_host = !end.is_unspecified() && !end.is_multicast() && !end.is_loopback();
            if !is_host || own.iter().any(|own| own.is_ipv4() != end.is_ipv4()) {
                return problem("must be a host's address of the same family as this end's");
            }
            if tunnel.flood.iter().take(at).any(|before| before == end) {
                return problem("is there twice; each end gets one copy");
            }
        }
        Ok(())
    }

    fn check_bridge_port(
        &self,
        key: &impl Fn(&str) -> String,
        network: &NetworkSettings,
        tunnel: &TunnelSettings,
    ) -> Result<(), Problem> {
        let Some(port) = &tunnel.kernel_bridge_port else { return Ok(()) };
        let field = key("tunnel.kernel_bridge_port");
        uplink::interface(&field, port)?;
        let before = self.networks.iter().take_while(|other| other.name != network.name);
        let mut others = before.filter_map(|other| Some((&other.name, other.tunnel.as_ref()?)));
        let same = others.find(|(_, it)| it.kernel_bridge_port.as_ref() == Some(port));
        let remedy = if network.mode != NetworkMode::Bridged {
            "only a bridged network has stations; set `mode = \"bridged\"`, or leave it out"
                .to_owned()
        } else if tunnel.vni.is_none() {
            "stations are found by the VNI; give the tunnel a `vni`, or leave it out".to_owned()
        } else if !self.instances.is_empty() {
            "is of one vRouter, and EVPN for one on a machine; leave out `instances`, or this"
                .to_owned()
        } else if let Some((other, _)) = same {
            format!("network {other:?} has it; each VNI has a bridge of its own")
        } else {
            return Ok(());
        };
        Err(Problem::new(field, port, remedy))
    }

    /// No two networks have one number on one underlay, nor IP in IP, which has none, at one address.
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
                if tunnel.ipip && theirs.ipip && tunnel.local == theirs.local {
                    let remedy = format!(
                        "network {:?} has it at that `local` address, and nothing else tells such packets apart; \
                         use another address, a `vni` or a `label`",
                        other.name
                    );
                    return Err(Problem::new(key("tunnel.ipip"), true, remedy));
                }
            }
        }
        Ok(())
    }
}
