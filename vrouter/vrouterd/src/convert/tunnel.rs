//! Tunnels between the wire and the vRouter's own types.

use std::net::IpAddr;

use vrouter_api::v1;
use vrouter_net::mpls::Label;
use vrouter_net::vxlan::Vni;

use super::uplinks::interface;
use super::{Refusal, invalid};

/// A field of a tunnel.
pub(super) const KERNEL_BRIDGE_PORT: &str = "tunnel.kernel_bridge_port";

/// A tunnel as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelRequest {
    /// The network's number in VXLAN, if it speaks that.
    pub vni: Option<Vni>,
    /// The label of MPLS packets for it, if it takes those.
    pub label: Option<Label>,
    /// It speaks IP in IP.
    pub ipip: bool,
    /// Name of the network that carries its packets.
    pub underlay: String,
    /// This end's address there.
    pub local: IpAddr,
    /// Routers that the kernel's routes name are other ends of it.
    pub gateways: bool,
    /// The other ends that frames are bridged to.
    pub flood: Vec<IpAddr>,
    /// The device by which a bridge of the kernel's is told of ports, and found.
    pub kernel_bridge_port: Option<String>,
}

impl TunnelRequest {
    pub(super) fn read(wire: &v1::Tunnel) -> Result<Self, Refusal> {
        let v1::Tunnel { vni, underlay, local, label, no_vni, gateways, ipip, flood, .. } = wire;
        let kernel_bridge_port = Some(wire.kernel_bridge_port.clone()).filter(|it| !it.is_empty());
        if let Some(port) = &kernel_bridge_port {
            interface(KERNEL_BRIDGE_PORT, port)?;
            if *no_vni {
                return Err(invalid(
                    KERNEL_BRIDGE_PORT,
                    port,
                    "needs VXLAN: give the tunnel a vni",
                ));
            }
        }
        let vni = match (no_vni, Vni::new(*vni)) {
            (true, _) if *vni != 0 => {
                let remedy = "leave it out where `no_vni` says that there is none";
                return Err(invalid("tunnel.vni", vni, remedy));
            }
            (true, _) => None,
            (false, None) => return Err(invalid("tunnel.vni", vni, "use 0 to 16777215")),
            (false, vni) => vni,
        };
        let label = match label {
            0 => None,
            label => Some(
                Label::new(*label)
                    .ok_or_else(|| invalid("tunnel.label", label, "use 16 to 1048575"))?,
            ),
        };
        if vni.is_none() && label.is_none() && !ipip {
            return Err(invalid("tunnel.label", 0, "give it a VNI, a label, ipip or several"));
        }
        let local = local.parse().map_err(|_| {
            invalid("tunnel.local", local, "use an IPv4 or IPv6 address of the underlay")
        })?;
        let address = |text: &String| {
            let remedy = "use IPv4 or IPv6 addresses of hosts in the underlay";
            text.parse().map_err(|_| invalid("tunnel.flood", text, remedy))
        };
        let flood = flood.iter().map(address).collect::<Result<_, _>>()?;
        let (underlay, ipip, gateways) = (underlay.clone(), *ipip, *gateways);
        Ok(Self { vni, label, ipip, underlay, local, gateways, flood, kernel_bridge_port })
    }

    /// Whether another network's tunnel, of the network `other`, leaves this one its numbers.
    ///
    /// # Errors
    /// [`Refusal::NumberTaken`], and [`Refusal::Invalid`] for a device that is the other's.
    pub fn beside(&self, tunnel: &Self, other: &str) -> Result<(), Refusal> {
        let same = |what, ours: Option<String>, theirs: Option<String>| match ours.clone() {
            Some(number) if ours == theirs && self.underlay == tunnel.underlay => {
                let (other, underlay) = (other.to_owned(), self.underlay.clone());
                Err(Refusal::NumberTaken { what, number, other, underlay })
            }
            _ => Ok(()),
        };
        let vni = |it: &Self| it.vni.map(|vni| vni.to_string());
        let label = |it: &Self| it.label.map(|label| label.to_string());
        // It has no number but the address.
        let ipip = |it: &Self| it.ipip.then(|| it.local.to_string());
        let port = |it: &Self| it.kernel_bridge_port.clone();
        if port(self).is_some() && port(self) == port(tunnel) {
            let remedy = format!("network {other:?} has it; each VNI has a bridge of its own");
            let port = port(self).unwrap_or_default();
            return Err(invalid(KERNEL_BRIDGE_PORT, port, remedy));
        }
        same("vni", vni(self), vni(tunnel))?;
        same("label", label(self), label(tunnel))?;
        same("ipip at local address", ipip(self), ipip(tunnel))
    }

    pub(super) fn write(&self) -> v1::Tunnel {
        v1::Tunnel {
            vni: self.vni.map_or(0, Vni::number),
            no_vni: self.vni.is_none(),
            label: self.label.map_or(0, Label::number),
            ipip: self.ipip,
            underlay: self.underlay.clone(),
            local: self.local.to_string(),
            gateways: self.gateways,
            flood: self.flood.iter().map(IpAddr::to_string).collect(),
            kernel_bridge_port: self.kernel_bridge_port.clone().unwrap_or_default(),
        }
    }
}
