//! Segment routing over IPv6 (RFC 8986): the kernels put packets into it and take them out.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vrouter_api::v1::{DropCount, RouteKind};

use crate::rig::Rig;
use integration::space::Space;
use integration::space::traffic;

/// What the node's kernel has to know: a site by H.Encaps, and segments of its own at which packets for pods come out.
///
/// The far segments are in the network's table, as the kernel looks for them there. This kernel has no VRF devices and so no
/// End.DT4, for which End.DX4 and a rule stand.
pub fn node(node: &Space, wire: &str) -> Result<()> {
    node.ip("sr tunsrc set 2001:db8:1::1")?;
    for line in [
        "route add 10.99.0.0/24 encap seg6 mode encap segs 2001:db8:b::4 dev WIRE table 77",
        "-6 route add 2001:db8:99::/64 encap seg6 mode encap segs 2001:db8:b::6 dev WIRE table 77",
        "-6 route add 2001:db8:b::/64 via 2001:db8:1::2 dev WIRE table 77",
        "-6 route add 2001:db8:a::4/128 encap seg6local action End.DX4 nh4 10.66.0.1 dev WIRE",
        "-6 route add 2001:db8:a::6/128 encap seg6local action End.DT6 table 77 dev WIRE",
        "rule add iif WIRE to 10.66.0.0/24 lookup 77",
    ] {
        node.ip(&line.replace("WIRE", wire))?;
    }
    Ok(())
}

/// The same of the router at the other end.
fn far(far: &Space) -> Result<()> {
    far.ip("sr tunsrc set 2001:db8:1::2")?;
    for line in [
        "-6 route add 2001:db8:a::/64 via 2001:db8:1::1 dev e0",
        "route add 10.66.0.0/24 encap seg6 mode encap segs 2001:db8:a::4 dev e0",
        "-6 route add fd00:66::/64 encap seg6 mode encap segs 2001:db8:a::6 dev e0",
        "-6 route add 2001:db8:b::4/128 encap seg6local action End.DX4 nh4 10.99.0.1 dev e0",
        "-6 route add 2001:db8:b::6/128 encap seg6local action End.DT6 table 254 dev e0",
    ] {
        far.ip(line)?;
    }
    Ok(())
}

/// `ringway explain` knows the kernel port and why a packet takes it.
fn explained(rig: &Rig) -> Result<()> {
    let told = rig.ringway("--json explain --from pod/0/net0 --to 10.99.0.1")?;
    let told: Value = serde_json::from_str(&told)?;
    let told = told.get(0).context("no answer")?;
    ensure!(told["path"] == "kernel" && told["reason"] == "kernel", "{told:#}");
    ensure!(told["to"]["kind"] == "kernel" && told["to"]["name"] == "red0", "{told:#}");
    ensure!(told["to"]["network"] == "red" && told["mtu"] == 1400, "{told:#}");
    let route = &told["lookups"][0];
    ensure!(route["prefix"] == "10.99.0.0/24" && route["source"] == "kernel", "{told:#}");
    let said = rig.ringway("explain --from pod/0/net0 --to 10.99.0.1")?;
    ensure!(said.contains("to kernel port red0 of network red (up)"), "{said}");
    Ok(())
}

/// Between a pod and a host behind a router that knows nothing of Ringway; small and large packets, both families, started from
/// either side.
pub fn both_ways(rig: &mut Rig) -> Result<()> {
    node(&rig.node, "host0")?;
    far(&rig.far)?;
    rig.wait_route("red", "10.99.0.0/24", RouteKind::Kernel)?;
    rig.wait_route("red", "2001:db8:99::/64", RouteKind::Kernel)?;
    // A segment of the node's is no exception, of which there may be few.
    rig.wait_route("fabric", "2001:db8:a::6/128", RouteKind::Local)?;
    explained(rig)?;
    let before = rig.vrouter.port_stats("pod/0/net0")?;
    for (here, there) in [("10.66.0.2", "10.99.0.1"), ("fd00:66::2", "2001:db8:99::1")] {
        traffic::ping(&rig.pod, there, 56).with_context(|| format!("from the pod to {there}"))?;
        traffic::ping(&rig.site, here, 56).with_context(|| format!("to the pod {here}"))?;
        traffic::ping(&rig.pod, there, 1300).context("large, from the pod")?;
        traffic::ping(&rig.site, here, 1300).context("large, to the pod")?;
        let (here, there) = if here.contains(':') {
            (format!("[{here}]:5001"), format!("[{there}]:5001"))
        } else {
            (format!("{here}:5001"), format!("{there}:5001"))
        };
        // Its segments are larger than what the kernel port takes: the gateway says so, and the pod's kernel believes it.
        traffic::tcp(&rig.pod, &rig.site, &there).context("TCP from the pod")?;
        traffic::tcp(&rig.site, &rig.pod, &here).context("TCP to the pod")?;
    }
    let after = rig.vrouter.port_stats("pod/0/net0")?;
    let punts = |stats: &vrouter_api::v1::PortStats| {
        let kernel = stats.punts.iter().find(|punt| punt.name == "kernel");
        kernel.map_or(0, |punt| punt.value)
    };
    let punted = punts(&after) - punts(&before);
    ensure!(punted > 100, "the pod's packets were handed to the kernel: {punted}");
    ensure!(after.punts.iter().all(|punt| punt.name == "kernel"), "{:?}", after.punts);
    let port = rig.kernel_stats("red")?.port.context("no counters")?;
    ensure!(port.tx_packets >= punted && port.rx_packets > 100, "{port:?}");
    // The pod's application may be slower than a burst of TCP, and the kernel tells groups that it is there.
    let fine = |drop: &DropCount| ["receiver_ring_full", "multicast"].contains(&&*drop.reason);
    ensure!(port.drops.iter().all(fine), "{:?}", port.drops);
    let network = rig.network("red")?;
    let reason = network.kernel_port.context("no kernel port")?.reason;
    ensure!(reason.is_empty(), "{reason}");
    Ok(())
}
