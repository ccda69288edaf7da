//! A VXLAN tunnel whose far end is a pod: the network between the hosts is one of the vRouter's own.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::Result;
use vrouter_api::v1::{Network, NetworkMode, RouteKind, Tunnel};

use super::Api;
use integration::pktgen::{Endpoint, FarEnd};

const VNI: u32 = 4711;
/// The vRouter's end and the pod's.
const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
/// A host behind the far end.
const BEHIND: Ipv4Addr = Ipv4Addr::new(13, 0, 0, 1);

/// The two networks.
pub struct Far {
    fabric: Network,
    overlay: Network,
}

impl Far {
    /// Creates both; the underlay's packets may be as large as needed for inner ones of `mtu` bytes, but not for less
    /// than 1,500.
    pub fn create(api: &Api, mtu: u32) -> Result<Self> {
        let fabric = api.network("fabric", "192.0.2.0/24", mtu, NetworkMode::Routed, None)?;
        let (underlay, local) = (fabric.name.clone(), HERE.to_string());
        let tunnel = Some(Tunnel { vni: VNI, underlay, local, ..Tunnel::default() });
        let overlay = api.network("overlay", "10.66.0.0/16", mtu, NetworkMode::Routed, tunnel)?;
        Ok(Self { fabric, overlay })
    }

    /// The port and the routes of a pod: the first is inside, the second the far end. Both send to `count` addresses from
    /// `to_ip` on.
    #[expect(clippy::too_many_arguments, reason = "what a pod is, field by field")]
    pub fn endpoint(
        &self,
        api: &Api,
        index: usize,
        mac: String,
        ip: Ipv4Addr,
        socket: PathBuf,
        to_ip: Ipv4Addr,
        count: u32,
    ) -> Result<Endpoint> {
        let overlay = &self.overlay.name;
        let to_mac = self.overlay.gateway_mac.clone();
        if index == 0 {
            api.port(overlay, "inside", &mac, ip, &socket)?;
            api.vrouter.set_host_routes(overlay, to_ip, count, RouteKind::Vxlan, THERE)?;
            return Ok(Endpoint { socket, mac, ip, to_mac, to_ip, tunnel: None });
        }
        api.port(&self.fabric.name, "far", &mac, THERE, &socket)?;
        let inside = Ipv4Addr::new(10, 66, 0, 2);
        api.vrouter.set_host_routes(overlay, to_ip, count, RouteKind::Via, inside)?;
        let to = self.fabric.gateway_mac.clone();
        let tunnel = Some(FarEnd { vni: VNI, from: THERE, to: HERE, to_mac: to });
        Ok(Endpoint { socket, mac, ip: BEHIND, to_mac, to_ip, tunnel })
    }
}
