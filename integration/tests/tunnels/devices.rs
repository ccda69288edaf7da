//! Tunnels that are a device of the kernel's.

use std::process::Command;

use anyhow::{Context, Result};
use vrouter_api::v1::RouteKind;

use crate::ipsec;
use crate::rig::Rig;
use crate::wireguard;
use integration::space::traffic;

/// A kind of device, and how it is made: `LOCAL` and `REMOTE` are the ends' addresses, `WIRE` is the interface.
pub struct Kind {
    /// What is behind `link add dev tk type`.
    device: &'static str,
    /// Next hop in front of the device, if it has any.
    via: Option<(&'static str, &'static str)>,
    /// IPv6 packets go through it, too.
    six: bool,
    /// What both ends, the node first, have to be told before they are up.
    set_up: fn(&Rig) -> Result<()>,
}

/// A VXLAN that the vRouter knows nothing of: another port than its own.
pub const VXLAN: Kind = Kind {
    device: "vxlan id 99 local LOCAL remote REMOTE dstport 4790 dev WIRE",
    via: Some(("10.97.255.1", "10.97.255.2")),
    ..IPIP
};
/// RFC 2784.
pub const GRE: Kind = Kind { device: "gre local LOCAL remote REMOTE", six: true, ..IPIP };
/// RFC 2003.
pub const IPIP: Kind =
    Kind { device: "ipip local LOCAL remote REMOTE", via: None, six: false, set_up: |_| Ok(()) };
/// Encrypted, in UDP.
pub const WIREGUARD: Kind =
    Kind { device: "wireguard", six: true, set_up: wireguard::exchange_keys, ..IPIP };
/// ESP in tunnel mode (RFC 4303), of what is routed to a device.
pub const IPSEC: Kind =
    Kind { device: "xfrm dev WIRE if_id 7", six: true, set_up: ipsec::agree, ..IPIP };

/// Why this machine can't have a device of that kind, or nothing when it can.
pub fn unfit(kind: &Kind) -> Option<String> {
    lacks(kind.device, ["127.0.0.1", "127.0.0.2"])
}

/// The same for what is behind `link add dev NAME type`, between two addresses of its family.
pub fn lacks(device: &str, ends: [&str; 2]) -> Option<String> {
    let mut words = device.split(' ');
    let kind = words.next().unwrap_or_default();
    if kind == "wireguard" && !wireguard::is_there() {
        return Some("wg is missing (package wireguard-tools)".to_owned());
    }
    let name = format!("rwprobe{}", std::process::id() % 10_000);
    let ip = |line: &str| Command::new("/usr/sbin/ip").args(line.split(' ')).output();
    let rest: Vec<_> = words.collect();
    let rest = rest.join(" ").replace("LOCAL", ends[0]).replace("REMOTE", ends[1]);
    let rest = rest.replace("WIRE", "lo");
    let made = ip(format!("link add {name} type {kind} {rest}").trim_end());
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
    }
    (kind.set_up)(rig)?;
    rig.node.ip("link set tk mtu 1400 up")?;
    rig.far.ip("link set tk mtu 1400 up")?;
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
    if kind.six {
        six(rig)?;
    }
    // For the next kind.
    rig.node.ip("rule delete iif tk lookup 77")?;
    rig.node.ip("link delete tk")?;
    rig.far.ip("link delete tk")?;
    rig.far.ip("addr delete 10.97.0.1/32 dev lo")?;
    Ok(())
}

/// The same for IPv6, without a next hop in front of the device.
fn six(rig: &Rig) -> Result<()> {
    let there = "2001:db8:97::1";
    rig.far.ip(&format!("addr add {there}/128 dev lo nodad"))?;
    rig.far.ip(&format!("-6 route replace fd00:66::/64 dev tk src {there}"))?;
    rig.node.ip("-6 route add 2001:db8:97::/64 dev tk table 77")?;
    rig.node.ip("-6 rule add iif tk lookup 77")?;
    rig.wait_route("red", "2001:db8:97::/64", RouteKind::Kernel)?;
    traffic::ping(&rig.pod, there, 56).context("IPv6 from the pod")?;
    traffic::ping(&rig.pod, there, 1300).context("large IPv6, from the pod")?;
    traffic::tcp(&rig.pod, &rig.far, &format!("[{there}]:5001")).context("TCP over IPv6")?;
    traffic::tcp(&rig.far, &rig.pod, "[fd00:66::2]:5001").context("TCP over IPv6 to the pod")?;
    rig.node.ip("-6 rule delete iif tk lookup 77")?;
    rig.far.ip(&format!("addr delete {there}/128 dev lo"))?;
    Ok(())
}
