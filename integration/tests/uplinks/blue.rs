//! A network with both families whose pod gives the tests' frames and leaves checksums and segmentation to its device, and a
//! plain Linux router at the other end of its tunnel.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use integration::frames::FramePod;
use integration::launch::{Cgroups, Side};
use integration::machine::program;
use integration::vrouter::VRouter;
use vrouter_api::v1::{Network, PortSpec, Tunnel};

use crate::rig::{link, vxlan};
use crate::space::Space;

const UP: Duration = Duration::from_secs(60);
/// The pod's port.
pub const PORT: &str = "blue/0/net0";
/// Addresses of the pod and of the far end.
pub const POD: (&str, &str) = ("10.67.0.2", "fd00:67::2");
/// See [`POD`].
pub const FAR: (&str, &str) = ("10.97.0.1", "fd00:97::1");
/// The pod's Ethernet address.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0x78, 1];
/// Bytes of the largest IP packet inside the tunnel.
const MTU: u32 = 1400;
const VNI: u32 = 78;

/// Where the tunnel runs.
pub struct Under<'a> {
    /// The external network, and its uplink.
    pub network: &'a str,
    /// See `network`.
    pub uplink: &'a str,
    /// This end's address, and the far end's.
    pub local: &'a str,
    /// See `local`.
    pub remote: &'a str,
    /// The far end's interface on the wire, and its Ethernet address.
    pub interface: &'a str,
    /// See `interface`.
    pub mac: &'a str,
}

/// The pod, with what it has to know.
pub struct Blue {
    /// Its application.
    pub app: FramePod,
    /// The Ethernet address of its gateway.
    pub gateway: [u8; 6],
}

impl Blue {
    /// Makes network, tunnel, far end and pod; files of the pod go to `directory`.
    pub fn start(
        vrouter: &VRouter,
        far: &Space,
        under: &Under<'_>,
        cgroups: &Cgroups,
        directory: &Path,
    ) -> Result<Self> {
        let Under { network, uplink, local, remote, mac, .. } = *under;
        let made = vrouter.create_network(Network {
            name: "blue".to_owned(),
            ipv4: "10.67.0.0/24".to_owned(),
            ipv6: "fd00:67::/64".to_owned(),
            mtu: MTU,
            tunnel: Some(Tunnel {
                vni: VNI,
                underlay: network.to_owned(),
                local: local.to_owned(),
                ..Tunnel::default()
            }),
            ..Network::default()
        })?;
        far_end(far, under, &made.gateway_mac)?;
        let bits = if remote.contains(':') { 128 } else { 32 };
        vrouter.set_routes(network, vec![link(&format!("{remote}/{bits}"), uplink, mac)])?;
        let router = far.mac("vxb")?;
        let routes = ["10.97.0.0/24", "fd00:97::/64"].map(|to| vxlan(to, remote, &router));
        vrouter.set_routes("blue", routes.into())?;
        let app = pod(vrouter, cgroups, directory)?;
        Ok(Self { app, gateway: octets(&made.gateway_mac)? })
    }
}

impl Blue {
    /// Takes it all away again.
    pub fn end(self, vrouter: &VRouter, far: &Space) -> Result<()> {
        drop(self.app);
        vrouter.delete_port(PORT)?;
        vrouter.delete_network("blue")?;
        far.ip("link delete vxb").map(drop)
    }
}

/// What a plain Linux router does to join the network by VXLAN.
fn far_end(far: &Space, under: &Under<'_>, gateway: &str) -> Result<()> {
    let Under { local, remote, interface, .. } = under;
    let checksum = if remote.contains(':') { " udp6zerocsumtx udp6zerocsumrx" } else { "" };
    far.ip(&format!(
        "link add vxb type vxlan id {VNI} local {remote} remote {local} dstport 4789 dev {interface}{checksum}"
    ))?;
    far.set("ipv6/conf/vxb/accept_ra", "0")?;
    far.set("ipv6/conf/vxb/router_solicitations", "0")?;
    far.ip(&format!("link set vxb mtu {MTU} up"))?;
    for (own, net, gate, pods) in [
        (FAR.0, "24", "10.97.0.254", "10.67.0.0/24"),
        (FAR.1, "64 nodad", "fd00:97::fe", "fd00:67::/64"),
    ] {
        far.ip(&format!("addr add {own}/{net} dev vxb"))?;
        far.ip(&format!("neigh add {gate} lladdr {gateway} dev vxb nud permanent"))?;
        far.ip(&format!("route add {pods} via {gate} dev vxb"))?;
    }
    Ok(())
}

fn pod(vrouter: &VRouter, cgroups: &Cgroups, directory: &Path) -> Result<FramePod> {
    let socket = directory.join("blue.sock");
    let mac = MAC.map(|byte| format!("{byte:02x}")).join(":");
    vrouter.create_port(PortSpec {
        id: PORT.to_owned(),
        network: "blue".to_owned(),
        mac: mac.clone(),
        ipv4: POD.0.to_owned(),
        ipv6: POD.1.to_owned(),
        socket_path: socket.display().to_string(),
        peer_cgroups: vec![cgroups.path(Side::Pods)],
        ..PortSpec::default()
    })?;
    let mut command = cgroups.command(Side::Pods, 0, program("ringway-frames")?);
    command.arg("--socket").arg(&socket).args(["--mac", &mac, "--cpu", "0", "--offloads"]);
    let app = FramePod::start("blue", command, &directory.join("blue.log"))?;
    vrouter.wait_up("blue", UP)?;
    Ok(app)
}

fn octets(mac: &str) -> Result<[u8; 6]> {
    let bytes: Result<Vec<u8>, _> =
        mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
    bytes?.try_into().ok().with_context(|| format!("{mac} is no Ethernet address"))
}
