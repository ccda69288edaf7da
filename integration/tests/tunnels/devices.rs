//! Tunnels that are a device of the kernel's.

use std::process::Command;

use anyhow::{Context, Result};
use vrouter_api::v1::RouteKind;

use crate::rig::Rig;
use integration::space::traffic;

/// A kind of device, and how it is made: `LOCAL` and `REMOTE` are the ends' addresses, `WIRE` is the interface.
pub struct Kind {
    /// What is behind `link add dev tk type`.
    device: &'static str,
    /// Next hop in front of the device, if it has any.
    via: Option<(&'static str, &'static str)>,
}

/// A VXLAN that the vRouter knows nothing of: another port than its own.
pub const VXLAN: Kind = Kind {
    device: "vxlan id 99 local LOCAL remote REMOTE dstport 4790 dev WIRE",
    via: Some(("10.97.255.1", "10.97.255.2")),
};
/// RFC 2784.
pub const GRE: Kind = Kind { device: "gre local LOCAL remote REMOTE", via: None };
/// RFC 2003.
pub const IPIP: Kind = Kind { device: "ipip local LOCAL remote REMOTE", via: None };

/// Why this kernel can't have a device of that kind, or nothing when it can.
pub fn unfit(kind: &str) -> Option<String> {
    let name = format!("rwprobe{}", std::process::id() % 10_000);
    let ip = |line: &str| Command::new("/usr/sbin/ip").args(line.split(' ')).output();
    let made = ip(&format!("link add {name} type {kind} local 127.0.0.1 remote 127.0.0.2"));
    let why = match made {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ")),
        Err(error) => Some(error.to_string()),
    };
    // It is not there if it could not be made.
    let _ = ip(&format!("link delete {name}"));
    why.map(|why| format!("this kernel has no {kind} devices (ip link add type {kind}: {why})"))
}

/// Between a pod and an address of the router's, behind a device on both ends. What comes out of it on the node has the network's
/// table by a rule.
pub fn both_ways(rig: &mut Rig, kind: &Kind) -> Result<()> {
    for (space, local, remote, wire) in
        [(&rig.node, "192.0.2.1", "192.0.2.2", "host0"), (&rig.far, "192.0.2.2", "192.0.2.1", "e0")]
    {
        let device = kind.device.replace("LOCAL", local).replace("REMOTE", remote);
        space.ip(&format!("link add tk type {}", device.replace("WIRE", wire)))?;
        space.ip("link set tk mtu 1400 up")?;
    }
    let (near, there) = match kind.via {
        Some((near, far)) => {
            rig.node.ip(&format!("addr add {near}/24 dev tk"))?;
            rig.far.ip(&format!("addr add {far}/24 dev tk"))?;
            (format!("via {near} dev tk onlink"), format!("via {far} dev tk onlink"))
        }
        None => ("dev tk".to_owned(), "dev tk".to_owned()),
    };
    rig.far.ip("addr add 10.97.0.1/32 dev lo")?;
    rig.far.ip(&format!("route replace 10.66.0.0/24 {near} src 10.97.0.1"))?;
    rig.node.ip(&format!("route add 10.97.0.0/24 {there} table 77"))?;
    rig.node.ip("rule add iif tk lookup 77")?;
    rig.wait_route("red", "10.97.0.0/24", RouteKind::Kernel)?;
    traffic::ping(&rig.pod, "10.97.0.1", 56).context("from the pod")?;
    traffic::ping(&rig.pod, "10.97.0.1", 1300).context("large, from the pod")?;
    traffic::tcp(&rig.pod, &rig.far, "10.97.0.1:5001").context("TCP from the pod")?;
    traffic::tcp(&rig.far, &rig.pod, "10.66.0.2:5001").context("TCP to the pod")?;
    traffic::udp(&rig.pod, &rig.far, "10.97.0.1:5002", 1200, 3).context("datagrams")?;
    // For the next kind.
    rig.node.ip("rule delete iif tk lookup 77")?;
    rig.node.ip("link delete tk")?;
    rig.far.ip("link delete tk")?;
    rig.far.ip("addr delete 10.97.0.1/32 dev lo")?;
    Ok(())
}
