//! A vRouter that is killed, and what becomes of its pods, of the other's, and of the link.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::demo::listening_pod;
use integration::instances::{instance_of, linked, one_way, shown};
use integration::stage::Stage;
use integration::{traffic, wait};

use crate::between::PACKETS;
use crate::node;

/// Time for what is left to notice, and for one that is started again to be told all.
const RECOVERY: Duration = Duration::from_secs(30);

/// Either end of the link: the one that listens and the one that calls.
pub fn and_back(stage: &mut Stage) -> Result<()> {
    let node = node(stage)?;
    let mut one = node.start_pod(listening_pod("one", "red"))?;
    let mut two = node.start_pod(listening_pod("two", "red"))?;
    one_way(node, &mut one, &mut two, PACKETS)?;
    for number in [0, 1] {
        let other = 1 - number;
        node.crash_instance(number)?;
        let link = format!("to-vrouter-{number}");
        wait::until("the other end notices", RECOVERY, || {
            Ok((!node.instance(other)?.uplink(&link)?.link).then_some(()))
        })?;
        // Pods go on being made, at the one that is left.
        let new = node.start_pod(listening_pod("new", "red"))?;
        ensure!(
            node.instance(other)?.find_port(&new.sandbox)?.is_some(),
            "the pod is not where a vRouter runs"
        );
        node.start_instance(number)?;
        for pod in [&one, &two] {
            wait::until("the ports are back", RECOVERY, || {
                let there = node.instance(0)?.find_port(&pod.sandbox)?.is_some()
                    || node.instance(1)?.find_port(&pod.sandbox)?.is_some();
                Ok(there.then_some(()))
            })?;
        }
        linked(node.instance(0)?, node.instance(1)?)?;
        // The one that was away has been told the way to the new pod, and forgets it with the pod.
        let address = node.instance(other)?.port(&new.sandbox)?.spec.unwrap_or_default().ipv4;
        let known = |node: &integration::node::Node| -> Result<bool> {
            let routes = node.instance(number)?.routes("red")?;
            Ok(routes.iter().any(|route| route.prefix == format!("{address}/32")))
        };
        wait::until(
            "the way to the new pod is known",
            RECOVERY,
            || Ok(known(node)?.then_some(())),
        )?;
        node.delete(&new)?;
        wait::until("the way to the pod that is gone is forgotten", RECOVERY, || {
            Ok((!known(node)?).then_some(()))
        })?;
        one_way(node, &mut two, &mut one, PACKETS)?;
        one_way(node, &mut one, &mut two, PACKETS)?;
    }
    // The plugin, too.
    let homes = [instance_of(node, &one)?, instance_of(node, &two)?];
    node.crash_plugin()?;
    node.start_plugin()?;
    for (pod, home) in [(&one, homes[0]), (&two, homes[1])] {
        node.instance(home)?
            .wait_up(&pod.sandbox, traffic::UP)
            .or_else(|_| node.instance(home)?.port(&pod.sandbox))?;
        ensure!(instance_of(node, pod)? == home, "{} has moved", pod.pod.name);
        ensure!(shown(node, pod)?["instance"] == home, "{} is shown elsewhere", pod.pod.name);
    }
    one_way(node, &mut one, &mut two, PACKETS)?;
    node.delete(&one)?;
    node.delete(&two)
}
