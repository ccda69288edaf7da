//! Several vRouters on one machine: who serves a pod, how that is shown, and traffic from a pod of one to a pod of another.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vrouter_api::v1::{PortStats, Stats};

use crate::machine::program;
use crate::node::{Node, RunningPod};
use crate::testpmd::{self, Role};
use crate::traffic::{self, Outcome, Received, new_drops};
use crate::vrouter::VRouter;
use crate::wait;

/// What `ringway` prints as JSON.
pub fn ringway(node: &Node, words: &[&str]) -> Result<Value> {
    let mut command = Command::new(program("ringway")?);
    command.arg("--run-dir").arg(node.run().path()).args(words).arg("--json");
    let output = command.env_remove("RINGWAY_VROUTER_SOCKET").output()?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "ringway {words:?} ended with {}: {error}", output.status);
    serde_json::from_slice(&output.stdout).with_context(|| format!("ringway {words:?}"))
}

/// A pod as `ringway pods` shows it.
pub fn shown(node: &Node, pod: &RunningPod) -> Result<Value> {
    let pods = ringway(node, &["pods"])?;
    let list = pods.as_array().context("no list")?;
    let found = list.iter().find(|it| it["sandbox"] == pod.sandbox.as_str());
    found.cloned().with_context(|| format!("{} is not among {pods}", pod.pod.name))
}

/// The number of the vRouter that serves a pod, which has a port there and nowhere else.
pub fn instance_of(node: &Node, pod: &RunningPod) -> Result<u32> {
    let at =
        |number| Ok::<_, anyhow::Error>(node.instance(number)?.find_port(&pod.sandbox)?.is_some());
    match (at(0)?, at(1)?) {
        (true, false) => Ok(0),
        (false, true) => Ok(1),
        found => anyhow::bail!("{} has ports at {found:?}", pod.pod.name),
    }
}

/// What went from a pod of one vRouter to a pod of the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// Every packet of it; drops are those of both vRouters.
    pub outcome: Outcome,
    /// Packets that went into the link.
    pub linked: u64,
    /// Packets that were counted as crossing between NUMA nodes, at the sender's port.
    pub crossed: u64,
}

/// Sends until so many packets have arrived, and holds the counters of all against each other.
pub fn one_way(
    node: &Node,
    sender: &mut RunningPod,
    receiver: &mut RunningPod,
    packets: u64,
) -> Result<Passage> {
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
        Ok((arrived(&far.stats()?) >= arrived(&before[1]) + packets).then_some(()))
    })?;
    node.tell(sender, "stop")?;
    near.settled_stats(traffic::UP)?;
    far.settled_stats(traffic::UP)?;
    let after = [near.stats()?, far.stats()?];
    node.tell(receiver, "stop")?;
    let (sent, received) = (node.quit(sender)?.tx_packets, node.quit(receiver)?.rx_packets);

    let of = |at: usize, id: &str| (port(&before[at], id), port(&after[at], id));
    let (own_before, own_after) = of(0, &own.id);
    let [near_link, far_link] = [link(&after[0]), link(&after[1])];
    let taken = own_after.rx_packets - own_before.rx_packets;
    let lost_near = new_drops(&own_before, &own_after);
    let into = near_link.tx_packets - links[0].tx_packets;
    let lost: u64 = lost_near.values().sum();
    ensure!(taken == into + lost, "vRouter {from} took {taken}, passed on {into}, dropped {lost}");
    let out = far_link.rx_packets - links[1].rx_packets;
    ensure!(into == out, "{into} went into the link, {out} came out");
    let mut drops = lost_near;
    for (reason, count) in new_drops(&links[1], &far_link) {
        *drops.entry(reason).or_default() += count;
    }
    let given = arrived(&after[1]) - arrived(&before[1]);
    let outcome = Outcome {
        from: sender.pod.name.clone(),
        to: target.ipv4,
        sent,
        vrouter_rx: taken,
        drops,
        receivers: BTreeMap::from([(
            receiver.pod.name.clone(),
            Received { vrouter_tx: given, received },
        )]),
    };
    outcome.check()?;
    println!("    {from} -> {to}: sent {sent}, through the link {into}, received {received}");
    let crossed = own_after.numa_crossings - own_before.numa_crossings;
    Ok(Passage { outcome, linked: into, crossed })
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
