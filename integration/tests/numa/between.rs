//! Traffic from a pod of one vRouter to a pod of the other.

use anyhow::{Result, ensure};
use integration::demo::{dpdk_pod, listening_pod};
use integration::instances::{instance_of, one_way};
use integration::node::{Node, RunningPod};
use integration::stage::Stage;
use vrouter_api::v1::RouteKind;

use crate::node;

/// Enough for every ring on the way to wrap many times.
pub const PACKETS: u64 = 20_000;

/// Both ways, every packet accounted for at each of the two vRouters.
pub fn both_ways(stage: &mut Stage) -> Result<()> {
    let node = node(stage)?;
    let mut one = node.start_pod(dpdk_pod("one", "red"))?;
    let mut two = node.start_pod(listening_pod("two", "red"))?;
    ensure!(instance_of(node, &one)? != instance_of(node, &two)?, "both have the same vRouter");
    routes_lead_there(node, &one, &two)?;
    one_way(node, &mut one, &mut two, PACKETS)?;
    one_way(node, &mut two, &mut one, PACKETS)?;
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
