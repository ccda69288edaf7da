//! Traffic from a pod of one vRouter to a pod of the other.

use anyhow::{Result, ensure};
use integration::demo::{dpdk_pod, listening_pod};
use integration::node::{Node, RunningPod};
use integration::stage::Stage;
use integration::testpmd::{self, Role};
use integration::vrouter::VRouter;
use integration::{traffic, wait};
use vrouter_api::v1::{PortStats, RouteKind, Stats};

use crate::node;
use crate::placed::instance_of;

/// Enough for every ring on the way to wrap many times.
const PACKETS: u64 = 20_000;

/// Both ways, every packet accounted for at each of the two vRouters.
pub fn both_ways(stage: &mut Stage) -> Result<()> {
    let node = node(stage)?;
    let mut one = node.start_pod(dpdk_pod("one", "red"))?;
    let mut two = node.start_pod(listening_pod("two", "red"))?;
    ensure!(instance_of(node, &one)? != instance_of(node, &two)?, "both have the same vRouter");
    routes_lead_there(node, &one, &two)?;
    one_way(node, &mut one, &mut two)?;
    one_way(node, &mut two, &mut one)?;
    node.delete(&one)?;
    node.delete(&two)
}

/// Each pod's addresses of both families have a route at the vRouter that does not serve it.
fn routes_lead_there(node: &Node, one: &RunningPod, two: &RunningPod) -> Result<()> {
    for pod in [one, two] {
        let home = instance_of(node, pod)?;
        let spec = node.instance(home)?.port(&pod.sandbox)?.spec.unwrap_or_default();
        let end = node.instance(home)?.network("red")?.tunnel.unwrap_or_default().local;
        let there = node.instance(1 - home)?.routes("red")?;
        for prefix in [format!("{}/32", spec.ipv4), format!("{}/128", spec.ipv6)] {
            let route = there.iter().find(|route| route.prefix == prefix);
            let leads = route.is_some_and(|it| it.kind() == RouteKind::Vxlan && it.via == end);
            ensure!(leads, "vRouter {} has no way to {prefix}: {there:?}", 1 - home);
        }
    }
    Ok(())
}

/// Sends until enough has arrived, and holds the counters of all against each other.
pub fn one_way(node: &Node, sender: &mut RunningPod, receiver: &mut RunningPod) -> Result<()> {
    let (from, to) = (instance_of(node, sender)?, instance_of(node, receiver)?);
    let (near, far) = (node.instance(from)?, node.instance(to)?);
    node.restart(receiver, testpmd::command(&Role::Receive))?;
    let target = far.wait_up(&receiver.sandbox, traffic::UP)?.spec.unwrap_or_default();
    let own = near.port(&sender.sandbox)?.spec.unwrap_or_default();
    let gateway_mac = near.network("red")?.gateway_mac;
    let role = Role::Send { from: own.ipv4, to: target.ipv4.clone(), gateway_mac };
    node.restart(sender, testpmd::command(&role))?;
    near.wait_up(&sender.sandbox, traffic::UP)?;
    linked(near, far)?;

    node.tell(receiver, "start")?;
    let before = [near.settled_stats(traffic::UP)?, far.settled_stats(traffic::UP)?];
    let before = before.map(|ports| Stats { ports, ..Stats::default() });
    let links = [link(&near.stats()?), link(&far.stats()?)];
    node.tell(sender, "start")?;
    let arrived = |stats: &Stats| port(stats, &target.id).tx_packets;
    wait::until("enough packets have crossed", traffic::UP, || {
        Ok((arrived(&far.stats()?) >= arrived(&before[1]) + PACKETS).then_some(()))
    })?;
    node.tell(sender, "stop")?;
    near.settled_stats(traffic::UP)?;
    far.settled_stats(traffic::UP)?;
    let after = [near.stats()?, far.stats()?];
    node.tell(receiver, "stop")?;
    let (sent, received) = (node.quit(sender)?.tx_packets, node.quit(receiver)?.rx_packets);

    let taken = port(&after[0], &own.id).rx_packets - port(&before[0], &own.id).rx_packets;
    ensure!(taken == sent, "{sent} were sent, vRouter {from} took {taken}");
    let lost = drops(&port(&after[0], &own.id)) - drops(&port(&before[0], &own.id));
    let [near_link, far_link] = [link(&after[0]), link(&after[1])];
    let into = near_link.tx_packets - links[0].tx_packets;
    ensure!(taken == into + lost, "vRouter {from} took {taken}, passed on {into}, dropped {lost}");
    let out = far_link.rx_packets - links[1].rx_packets;
    ensure!(into == out, "{into} went into the link, {out} came out");
    let lost = drops(&far_link) - drops(&links[1]);
    let given = arrived(&after[1]) - arrived(&before[1]);
    ensure!(out == given + lost, "vRouter {to} got {out}, delivered {given}, dropped {lost}");
    ensure!(given == received, "vRouter {to} delivered {given}, the pod got {received}");
    println!("    {from} -> {to}: sent {sent}, through the link {into}, received {received}");
    Ok(())
}

/// Waits until both ends of the link say so.
pub fn linked(near: &VRouter, far: &VRouter) -> Result<()> {
    wait::until("the link between the vRouters is up", traffic::UP, || {
        let up = [near, far].iter().all(|vrouter| {
            ["to-vrouter-0", "to-vrouter-1"]
                .iter()
                .any(|name| vrouter.uplink(name).is_ok_and(|uplink| uplink.link))
        });
        Ok(up.then_some(()))
    })
}

fn port(stats: &Stats, id: &str) -> PortStats {
    stats.ports.iter().find(|port| port.id == id).cloned().unwrap_or_default()
}

fn link(stats: &Stats) -> PortStats {
    let link = stats.uplinks.iter().find(|it| it.name.starts_with("to-vrouter-"));
    link.and_then(|it| it.port.clone()).unwrap_or_default()
}

fn drops(stats: &PortStats) -> u64 {
    stats.drops.iter().map(|drop| drop.packets).sum()
}
