//! Pods without DPDK, which look for each other as any host does.

use anyhow::{Context, Result, ensure};
use integration::instances::instance_of;
use integration::kernel_pod::{ip, ping, set_up_cni};
use integration::pod::Pod;
use integration::stage::Stage;
use integration::{traffic, wait};

use crate::node;

const KEY: &str = "interfaces.ringway.dev";

/// One at each vRouter, in a routed network and in a bridged one: each asks on its link for the other, and gets an answer.
pub fn pods_find_each_other(stage: &mut Stage) -> Result<()> {
    let node = node(stage)?;
    set_up_cni(node)?;
    for network in ["red", "flat"] {
        let interface = format!(r#"[{{"network": "{network}", "kind": "kernel", "name": "k0"}}]"#);
        let pod = |name: &str| Pod::idle(name).own_network().annotate(KEY, &interface);
        let pods = [node.start_pod(pod("kernel-a"))?, node.start_pod(pod("kernel-b"))?];
        let homes = [instance_of(node, &pods[0])?, instance_of(node, &pods[1])?];
        ensure!(homes[0] != homes[1], "both have the same vRouter: {homes:?}");
        for (from, to) in [(0, 1), (1, 0)] {
            let there = node.instance(homes[to])?.wait_up(&pods[to].sandbox, traffic::UP)?;
            let there = there.spec.context("no specification")?;
            for address in [&there.ipv4, &there.ipv6] {
                // The plugin tells the other vRouter of a pod a moment after it was made.
                wait::until("the other pod answers", traffic::UP, || {
                    Ok(ping(node, &pods[from], address, 56).is_ok().then_some(()))
                })?;
                ping(node, &pods[from], address, 1300)
                    .with_context(|| format!("{network}, {address}"))?;
            }
            let neighbours = ip(node, &pods[from], "neigh show dev k0")?;
            let gateway = node.instance(homes[from])?.network(network)?.gateway_mac;
            for address in [&there.ipv4, &there.ipv6] {
                let mut lines = neighbours.lines();
                let found = lines.find(|line| line.starts_with(&format!("{address} ")));
                // Where frames cross, the other pod itself is asked until its vRouter's route is there.
                let answered = |line: &str| {
                    line.contains(&gateway) || network == "flat" && line.contains(&there.mac)
                };
                ensure!(found.is_some_and(answered), "{address} in {network}: {neighbours}");
            }
        }
        if network == "flat" {
            // What each kernel says to groups of its own accord has come to the other vRouter, too.
            for home in homes {
                wait::until("a station is heard through the tunnel", traffic::UP, || {
                    let stations = node.instance(home)?.network(network)?.stations;
                    Ok((stations > 0).then_some(()))
                })?;
            }
        }
        for pod in &pods {
            node.delete(pod)?;
        }
    }
    Ok(())
}
