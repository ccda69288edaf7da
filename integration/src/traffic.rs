//! One pod sends, others receive, and every packet is accounted for by three counters that know nothing of each other: the
//! sender's testpmd, the vRouter, the receiver's testpmd.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;
use vrouter_api::v1::PortStats;

use crate::node::{Node, RunningPod};
use crate::testpmd::{self, Counters, Role};
use crate::wait;

/// Time for EAL and the handshake in a pod; a second when the CPU is free.
pub const UP: Duration = Duration::from_secs(60);
/// Time to send the wanted number of packets; pods and vRouter may share two CPUs.
const SENDING: Duration = Duration::from_secs(60);
const SETTLING: Duration = Duration::from_secs(20);

/// How long a sender sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Until the vRouter has taken so many packets from it.
    Taken(u64),
    /// Until the vRouter has delivered so many packets to the others. A sender that shares its CPU with the receiver sends far
    /// more: while one runs the other does not, and the ring between them is full.
    Delivered(u64),
}

/// What happened to the packets of one sender.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Who sent.
    pub from: String,
    /// Destination address.
    pub to: String,
    /// Packets the sender's testpmd put into its ring.
    pub sent: u64,
    /// Packets the vRouter took from the sender's ring.
    pub vrouter_rx: u64,
    /// Packets the vRouter dropped, by reason.
    pub drops: BTreeMap<String, u64>,
    /// What each other pod got, by name.
    pub receivers: BTreeMap<String, Received>,
}

/// What one pod got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Received {
    /// Packets the vRouter put into its ring.
    pub vrouter_tx: u64,
    /// Packets its testpmd took out.
    pub received: u64,
}

impl Outcome {
    /// Checks that no packet is unaccounted for.
    pub fn check(&self) -> Result<()> {
        let delivered: u64 = self.receivers.values().map(|it| it.vrouter_tx).sum();
        let dropped: u64 = self.drops.values().sum();
        if self.sent != self.vrouter_rx {
            bail!("{} sent {} packets, the vRouter got {}", self.from, self.sent, self.vrouter_rx);
        }
        if self.vrouter_rx != delivered + dropped {
            bail!(
                "the vRouter got {} packets from {}, delivered {delivered} and dropped {dropped} ({:?})",
                self.vrouter_rx,
                self.from,
                self.drops
            );
        }
        for (name, it) in &self.receivers {
            if it.vrouter_tx != it.received {
                bail!(
                    "the vRouter delivered {} packets to {name}, which got {}",
                    it.vrouter_tx,
                    it.received
                );
            }
        }
        Ok(())
    }

    /// Packets that reached another pod.
    pub fn forwarded(&self) -> u64 {
        self.receivers.values().map(|it| it.vrouter_tx).sum()
    }
}

/// Makes a pod's application a receiver.
pub fn become_receiver(node: &Node, pod: &mut RunningPod) -> Result<()> {
    node.restart(pod, testpmd::command(&Role::Receive))?;
    node.vrouter()?.wait_up(&pod.sandbox, UP)?;
    Ok(())
}

/// Makes a pod's application a sender from its own address, or from a false one, to `to`.
pub fn become_sender(
    node: &Node,
    pod: &mut RunningPod,
    from: Option<&str>,
    to: &str,
) -> Result<()> {
    let (own, gateway_mac) = own_address(node, pod)?;
    let from = from.map_or(own, ToOwned::to_owned);
    node.restart(pod, testpmd::command(&Role::Send { from, to: to.to_owned(), gateway_mac }))?;
    node.vrouter()?.wait_up(&pod.sandbox, UP)?;
    Ok(())
}

/// Makes a pod's application ready to send one packet to `to`.
pub fn become_single_sender(node: &Node, pod: &mut RunningPod, to: &str) -> Result<()> {
    let (from, gateway_mac) = own_address(node, pod)?;
    node.restart(pod, testpmd::command(&Role::SendOne { from, to: to.to_owned(), gateway_mac }))?;
    node.vrouter()?.wait_up(&pod.sandbox, UP)?;
    Ok(())
}

/// The pod's address and its gateway's MAC address, as the vRouter has them.
fn own_address(node: &Node, pod: &RunningPod) -> Result<(String, String)> {
    let vrouter = node.vrouter()?;
    let spec = vrouter.port(&pod.sandbox)?.spec.unwrap_or_default();
    let network = vrouter.network(&spec.network)?;
    Ok((spec.ipv4, network.gateway_mac))
}

/// Lets `sender` send as long as `goal` says, stops it, waits until nothing moves any more, and reads all
/// counters. The applications of all pods end with it.
///
/// The order makes the counters comparable: the sender stops, its ring stays, so the vRouter empties it; only when the vRouter's counters
/// stand still are the receivers stopped, and only then do the applications close their ports.
pub fn measure(
    node: &Node,
    sender: &RunningPod,
    receivers: &[&RunningPod],
    to: &str,
    goal: Until,
) -> Result<Outcome> {
    let vrouter = node.vrouter()?;
    let port_of = |pod: &RunningPod| -> Result<String> {
        Ok(vrouter.port(&pod.sandbox)?.spec.unwrap_or_default().id)
    };
    let from_port = port_of(sender)?;
    let receiver_ports = receivers.iter().map(|it| port_of(it)).collect::<Result<Vec<_>>>()?;
    for receiver in receivers {
        node.tell(receiver, "start")?;
    }
    let before = vrouter.settled_stats(SETTLING)?;
    let had = find(&before, &from_port).rx_packets;
    node.tell(sender, "start")?;
    wait::until(&format!("{} sends to {to}: {goal:?}", sender.pod.name), SENDING, || {
        let now = vrouter.stats()?.ports;
        let taken = find(&now, &from_port).rx_packets - had;
        let delivered = |stats: &[PortStats]| -> u64 {
            receiver_ports.iter().map(|id| find(stats, id).tx_packets).sum()
        };
        Ok(match goal {
            Until::Taken(packets) => taken >= packets,
            Until::Delivered(packets) => delivered(&now) >= delivered(&before) + packets,
        }
        .then_some(()))
    })?;
    node.tell(sender, "stop")?;
    let after = vrouter.settled_stats(SETTLING)?;
    for receiver in receivers {
        node.tell(receiver, "stop")?;
    }

    let own = node.quit(sender)?;
    let mut outcome = Outcome {
        from: sender.pod.name.clone(),
        to: to.to_owned(),
        sent: own.tx_packets,
        vrouter_rx: find(&after, &from_port).rx_packets - had,
        drops: new_drops(&find(&before, &from_port), &find(&after, &from_port)),
        receivers: BTreeMap::new(),
    };
    for (receiver, port) in receivers.iter().zip(&receiver_ports) {
        let Counters { rx_packets, .. } = node.quit(receiver)?;
        let vrouter_tx = find(&after, port).tx_packets - find(&before, port).tx_packets;
        outcome
            .receivers
            .insert(receiver.pod.name.clone(), Received { vrouter_tx, received: rx_packets });
    }
    Ok(outcome)
}

fn find(stats: &[PortStats], id: &str) -> PortStats {
    stats.iter().find(|it| it.id == id).cloned().unwrap_or_default()
}

/// What a port has dropped in between, by reason.
pub fn new_drops(before: &PortStats, after: &PortStats) -> BTreeMap<String, u64> {
    after
        .drops
        .iter()
        .filter_map(|now| {
            let then =
                before.drops.iter().find(|it| it.reason == now.reason).map_or(0, |it| it.packets);
            (now.packets > then).then(|| (now.reason.clone(), now.packets - then))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use vrouter_api::v1::DropCount;

    use super::*;

    fn outcome() -> Outcome {
        Outcome {
            from: "a".to_owned(),
            to: "10.0.0.3".to_owned(),
            sent: 10,
            vrouter_rx: 10,
            drops: BTreeMap::from([("receiver_ring_full".to_owned(), 3)]),
            receivers: BTreeMap::from([("b".to_owned(), Received { vrouter_tx: 7, received: 7 })]),
        }
    }

    #[test]
    fn every_packet_must_be_accounted_for() {
        outcome().check().unwrap();
        type Spoil = fn(&mut Outcome);
        let cases: [(&str, Spoil); 4] = [
            ("a sent 11 packets, the vRouter got 10", |it| it.sent = 11),
            ("delivered 7 and dropped 0", |it| it.drops.clear()),
            ("delivered 0 and dropped 3", |it| it.receivers.clear()),
            ("delivered 7 packets to b, which got 6", |it| {
                it.receivers.insert("b".to_owned(), Received { vrouter_tx: 7, received: 6 });
            }),
        ];
        for (expected, spoil) in cases {
            let mut spoilt = outcome();
            spoil(&mut spoilt);
            let error = spoilt.check().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn only_what_was_added_counts_as_dropped() {
        let drop = |reason: &str, packets| DropCount { reason: reason.to_owned(), packets };
        let before = PortStats { drops: vec![drop("x", 5), drop("y", 1)], ..PortStats::default() };
        let after = PortStats {
            drops: vec![drop("x", 5), drop("y", 3), drop("z", 2)],
            ..PortStats::default()
        };
        assert_eq!(
            new_drops(&before, &after),
            BTreeMap::from([("y".to_owned(), 2), ("z".to_owned(), 2)])
        );
    }
}
