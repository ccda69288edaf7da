//! Daemons of the node restart below pods that run.

use anyhow::{Result, ensure};
use integration::kubernetes::nothing_left;
use serde_json::Value;
use vrouter_api::v1::Port;

use crate::bed::{Bed, Cluster};
use crate::deployment::scale;

/// What must not change: the pods, how often their containers were started, their ports and who is connected there.
#[derive(Debug, PartialEq)]
struct Seen {
    pods: Vec<(Value, Value)>,
    ports: Vec<(Option<vrouter_api::v1::PortSpec>, u32)>,
}

fn seen(pods: &[Value], ports: Vec<Port>) -> Seen {
    let pod = |pod: &Value| {
        let container = &pod["status"]["containerStatuses"][0];
        (pod["metadata"]["uid"].clone(), container["restartCount"].clone())
    };
    let mut pods: Vec<_> = pods.iter().map(pod).collect();
    pods.sort_by_key(|(uid, _)| uid.to_string());
    Seen { pods, ports: ports.into_iter().map(|port| (port.spec, port.peer_pid)).collect() }
}

fn restart(bed: &mut Bed, restart: fn(&mut Cluster) -> Result<()>) -> Result<()> {
    let cluster = bed.cluster()?;
    let before = seen(&scale(cluster, 2)?, cluster.wait_ports(2)?);
    restart(cluster)?;
    let after = seen(&scale(cluster, 2)?, cluster.wait_ports(2)?);
    ensure!(before == after, "before {before:#?}, after {after:#?}");
    // Everything goes on: more pods, and the end of those that are older than the restart.
    scale(cluster, 3)?;
    scale(cluster, 0)?;
    nothing_left(&cluster.node)
}

pub fn kubelet(bed: &mut Bed) -> Result<()> {
    restart(bed, |cluster| {
        cluster.kubernetes.stop_kubelet()?;
        cluster.kubernetes.start_kubelet(&cluster.node)
    })
}

pub fn containerd(bed: &mut Bed) -> Result<()> {
    restart(bed, |cluster| cluster.node.restart_containerd())
}
