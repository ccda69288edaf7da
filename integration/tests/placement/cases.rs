//! The tests.

use anyhow::{Context, Result, ensure};
use integration::demo::dpdk_pod;
use integration::instances::{instance_of, one_way, shown};
use integration::node::{Node, RunningPod};
use integration::pod::Pod;
use integration::testpmd::{self, Role};
use integration::{traffic, wait};

use crate::bed::{BEHIND, Bed, ENDS};

/// Packets delivered in each direction.
const PACKETS: u64 = 20_000;
/// Packets to the far end.
const FAR_PACKETS: u64 = 200;

fn pod(name: &str, numa: &str, cpus: u32) -> Pod {
    dpdk_pod(name, "red")
        .annotate("numa.ringway.dev", numa)
        .annotate("cpus.ringway.dev", cpus.to_string())
}

/// A node has one CPU to give. Two are had of both together by who only prefers a node, and that is recorded.
pub fn refused_or_spread(bed: &mut Bed) -> Result<()> {
    for (numa, cpus, expected) in [
        ("strict", 2, "no CPUs left: 2 exclusive wanted"),
        ("2", 1, "NUMA node 2"),
        ("1", 2, "CPUs"),
    ] {
        let got = match bed.node.start_pod(pod("nowhere", numa, cpus)) {
            Ok(running) => {
                bed.node.delete(&running)?;
                "it was created".to_owned()
            }
            Err(error) => format!("{error:#}"),
        };
        let ok = got.contains(expected) && got != "it was created";
        bed.report.add_attempt(
            &format!("numa.ringway.dev: {numa}, cpus.ringway.dev: {cpus}"),
            "the pod is refused",
            got.clone(),
            ok,
        );
        ensure!(ok, "{numa}, {cpus} CPUs: {got}");
    }
    let spread = bed.node.start_pod(pod("spread", "preferred", 2))?;
    let seen = bed.write_down(&spread, "preferred")?;
    ensure!(seen.cpu_nodes.len() == 2, "{seen:?}");
    ensure!(seen.aligned == Some(false) && seen.stored_aligned == Some(false), "{seen:?}");
    bed.node.delete(&spread)
}

fn both(bed: &mut Bed) -> Result<()> {
    if bed.pods.is_none() {
        let first = bed.node.start_pod(pod("on-node-0", "strict", 1))?;
        match bed.node.start_pod(pod("on-node-1", "1", 1)) {
            Ok(second) => bed.pods = Some([first, second]),
            Err(error) => {
                bed.node.delete(&first)?;
                return Err(error);
            }
        }
    }
    Ok(())
}

/// `strict` finds a node, a number pins to one.
pub fn placed(bed: &mut Bed) -> Result<()> {
    both(bed)?;
    let pods = bed.pods.take().context("no pods")?;
    let looked = look(bed, &pods);
    bed.pods = Some(pods);
    looked
}

fn look(bed: &mut Bed, pods: &[RunningPod; 2]) -> Result<()> {
    for (n, (pod, asked)) in (0..).zip(pods.iter().zip(["strict", "1"])) {
        bed.node.instance(instance_of(&bed.node, pod)?)?.wait_up(&pod.sandbox, traffic::UP)?;
        let seen = bed.write_down(pod, asked)?;
        ensure!(seen.is_all_on(n), "{seen:?}");
        let vrouter = bed.node.instance(n)?;
        let info = vrouter.info()?;
        ensure!(info.numa_node == i32::try_from(n)? && info.nic_nodes == [n], "{info:?}");
        let uplink = vrouter.uplink(&format!("up{n}"))?;
        ensure!(uplink.link && uplink.numa_node == i32::try_from(n)?, "{uplink:?}");
    }
    // Both nodes' CPUs are given away.
    let error = bed.node.start_pod(pod("late", "strict", 1)).err().context("a third CPU")?;
    ensure!(format!("{error:#}").contains("no CPUs left"), "{error:#}");
    Ok(())
}

/// Both ways; every packet crosses once, and is counted for who sent it.
pub fn between(bed: &mut Bed) -> Result<()> {
    both(bed)?;
    let [mut zero, mut one] = bed.pods.take().context("no pods")?;
    let there = one_way(&bed.node, &mut zero, &mut one, PACKETS);
    let back = there.and_then(|there| {
        let counted = crossings(&bed.node, &zero)?;
        let back = one_way(&bed.node, &mut one, &mut zero, PACKETS)?;
        ensure!(crossings(&bed.node, &zero)? == counted, "what was received was counted, too");
        Ok([there, back])
    });
    bed.pods = Some([zero, one]);
    for passage in back? {
        ensure!(passage.crossed == passage.linked, "{passage:?}");
        bed.report.add_traffic(passage.outcome);
    }
    Ok(())
}

/// What `ringway pods` says a pod's packets have crossed.
fn crossings(node: &Node, pod: &RunningPod) -> Result<u64> {
    shown(node, pod)?["numa_crossings"].as_u64().context("no numa_crossings")
}

/// To another host goes everything by the NIC of the pod's node, from that one's address; nothing crosses.
pub fn outside(bed: &mut Bed) -> Result<()> {
    both(bed)?;
    let mut pods = bed.pods.take().context("no pods")?;
    let sent = pods.iter_mut().zip(ENDS).zip(0..).try_for_each(|((pod, end), n)| {
        out(bed, pod, n, end).with_context(|| format!("from node {n}"))
    });
    bed.pods = Some(pods);
    sent
}

fn out(bed: &Bed, pod: &mut RunningPod, n: u32, end: &str) -> Result<()> {
    let vrouter = bed.node.instance(n)?;
    let own = vrouter.port(&pod.sandbox)?.spec.unwrap_or_default();
    let gateway_mac = vrouter.network("red")?.gateway_mac;
    let role = Role::Send { from: own.ipv4, to: BEHIND.to_owned(), gateway_mac };
    bed.node.restart(pod, testpmd::command(&role))?;
    vrouter.wait_up(&pod.sandbox, traffic::UP)?;
    let crossed = vrouter.port_stats(&own.id)?.numa_crossings;
    let other = format!("e{}", 1 - n);
    let before = bed.far.counter("vx0", "rx_packets")?;
    let by_other = bed.far.counter(&other, "rx_packets")?;
    bed.node.tell(pod, "start")?;
    wait::until("the far end gets packets", traffic::UP, || {
        Ok((bed.far.counter("vx0", "rx_packets")? >= before + FAR_PACKETS).then_some(()))
    })?;
    bed.node.tell(pod, "stop")?;
    bed.node.quit(pod)?;
    vrouter.settled_stats(traffic::UP)?;
    let learned = bed.far.run("/usr/sbin/bridge fdb show dev vx0")?;
    ensure!(learned.contains(&format!("dst {end} ")), "not from {end}: {learned}");
    // The kernels at the wire's ends say something of their own now and then.
    let strayed = bed.far.counter(&other, "rx_packets")? - by_other;
    ensure!(strayed < FAR_PACKETS / 2, "{strayed} packets came by {other}");
    let crossed = vrouter.port_stats(&own.id)?.numa_crossings - crossed;
    ensure!(crossed == 0, "{crossed} packets crossed between NUMA nodes");
    Ok(())
}
