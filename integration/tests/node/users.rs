//! Images that name their own user: nobody asks for one, and the pod is served like any other.

use anyhow::{Result, ensure};
use integration::demo::{dpdk_pod, listening_pod};
use integration::leftovers::leftovers;
use integration::node::{Node, RunningPod};
use integration::pod::Pod;
use integration::{image, readback, traffic};

use crate::pods::one_way;
use integration::stage::Stage;

/// By numbers and by names, with either end listening on the socket; packets in both directions.
pub fn of_the_image(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let before = leftovers(node)?;
    for (name, user, ids) in image::WITH_USER {
        let archive = node.run().disk().join("user.tar");
        image::write_testpmd_of(&archive, name, user)?;
        node.containerd()?.import(name, &archive)?;
        let with = |mut pod: Pod| {
            (pod.image, pod.run_as) = (name, None);
            pod
        };
        let mut connects = node.start_pod(with(dpdk_pod("connects", "red")))?;
        let mut listens = node.start_pod(with(listening_pod("listens", "red")))?;
        for pod in [&connects, &listens] {
            node.vrouter()?.wait_up(&pod.sandbox, traffic::UP)?;
            is(node, pod, ids)?;
        }
        one_way(node, &mut connects, &mut listens)?;
        one_way(node, &mut listens, &mut connects)?;
        node.delete(&connects)?;
        node.delete(&listens)?;
    }
    ensure!(leftovers(node)? == before, "{:?} is left", leftovers(node)?);
    Ok(())
}

/// Its application runs as this user and group and may do nothing else.
fn is(node: &Node, pod: &RunningPod, (user, group): (u32, u32)) -> Result<()> {
    let pid = node.pid(pod)?;
    for (field, expected) in [("Uid", user), ("Gid", group)] {
        let all = readback::status_field(pid, field)?;
        let right = all.split_whitespace().all(|id| id == expected.to_string());
        ensure!(right, "{}: {field} is {all:?}, not {expected}", pod.pod.name);
    }
    let capabilities = readback::status_field(pid, "CapEff")?;
    ensure!(capabilities.chars().all(|digit| digit == '0'), "CapEff is {capabilities}");
    Ok(())
}
