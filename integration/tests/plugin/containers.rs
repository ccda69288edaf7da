//! Pods of several containers, and pods that come again.

use anyhow::{Result, ensure};
use integration::leftovers::leftovers;
use integration::node::Node;
use integration::pod::Pod;
use integration::readback;
use vrouter_api::v1::PortSpec;

use integration::stage::Stage;

fn ports(node: &Node, sandbox: &str) -> Result<Vec<PortSpec>> {
    let specs = node.vrouter()?.ports()?.into_iter().filter_map(|port| port.spec);
    let mut specs: Vec<_> = specs.filter(|spec| spec.id.starts_with(sandbox)).collect();
    specs.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(specs)
}

fn is_mounted(pid: u32) -> Result<bool> {
    Ok(readback::mounts(Some(pid))?.iter().any(|mount| mount.target.ends_with("run/ringway")))
}

/// An init container, two that share the pod's interfaces, one with its own, one that has none.
pub fn several(stage: &mut Stage) -> Result<()> {
    several_on(stage.usual()?)
}

pub fn several_on(node: &mut Node) -> Result<()> {
    let before = leftovers(node)?;
    let pod = Pod::idle("many")
        .annotate("network.ringway.dev/container.init", "red")
        .annotate("network.ringway.dev/container.a", "red")
        .annotate("network.ringway.dev/container.b", "blue");
    let many = node.start_sandbox(pod)?;
    let cri = node.containerd()?.cri.clone();
    let init = node.add_container(&many, "init", 0)?;
    cri.stop(&init, 10)?;
    let a = node.add_container(&many, "a", 0)?;
    let b = node.add_container(&many, "b", 0)?;
    let plain = node.add_container(&many, "plain", 0)?;
    ensure!(!is_mounted(cri.status(&plain)?.pid)?, "a container that did not opt in has a mount");
    let all = ports(node, &many.sandbox)?;
    let networks: Vec<_> = all.iter().map(|spec| spec.network.as_str()).collect();
    ensure!(networks == ["red", "red", "blue"], "{all:?}");
    let peers = |all: &[PortSpec], id: &str| {
        all.iter().filter(|spec| spec.peer_cgroups.iter().any(|it| it.contains(id))).count()
    };
    ensure!(peers(&all, &a) == 1 && peers(&all, &b) == 1 && peers(&all, &plain) == 0, "{all:?}");

    // A restart in place keeps the address; the dead one loses its right to connect.
    let address = all[1].ipv4.clone();
    cri.stop(&a, 10)?;
    let again = node.add_container(&many, "a", 1)?;
    cri.remove(&a)?;
    let all = ports(node, &many.sandbox)?;
    ensure!(all[1].ipv4 == address && peers(&all, &again) == 1 && peers(&all, &a) == 0, "{all:?}");

    // What was a container's own goes with it.
    cri.remove(&init)?;
    cri.stop(&b, 10)?;
    cri.remove(&b)?;
    let all = integration::wait::until("the ports go", std::time::Duration::from_secs(10), || {
        let all = ports(node, &many.sandbox)?;
        Ok((all.len() == 1).then_some(all))
    })?;
    ensure!(all[0].ipv4 == address, "{all:?}");
    node.delete(&many)?;
    ensure!(leftovers(node)? == before, "left: {:?}, before {before:?}", leftovers(node)?);

    // What all share: one port, that every container of the pod may use.
    let shared = node.start_sandbox(Pod::idle("shared").annotate("network.ringway.dev", "red"))?;
    let prepared = ports(node, &shared.sandbox)?;
    // Nobody else is in the pod's cgroup, so all of it is let in at once.
    let of_the_pod = |specs: &[PortSpec]| {
        let peers = specs.iter().flat_map(|spec| &spec.peer_cgroups);
        specs.len() == 1 && peers.eq([&shared.cgroup().to_owned()])
    };
    ensure!(of_the_pod(&prepared), "{prepared:?}");
    let one = node.add_container(&shared, "one", 0)?;
    let two = node.add_container(&shared, "two", 0)?;
    let all = ports(node, &shared.sandbox)?;
    ensure!(of_the_pod(&all), "{all:?}");
    for id in [&one, &two] {
        let cgroup = readback::cgroup_directory(cri.status(id)?.pid, "pids")?;
        let inside = cgroup.display().to_string().contains(&format!("{}/", shared.cgroup()));
        ensure!(inside, "{} is not below {}", cgroup.display(), shared.cgroup());
    }
    ensure!(all[0].ipv4 == prepared[0].ipv4, "{all:?}, prepared {prepared:?}");
    ensure!(is_mounted(cri.status(&one)?.pid)? && is_mounted(cri.status(&two)?.pid)?, "no mount");
    node.delete(&shared)?;
    ensure!(leftovers(node)? == before, "left: {:?}, before {before:?}", leftovers(node)?);
    Ok(())
}

/// As a StatefulSet does it, and as kubelet does when a sandbox has changed: the old sandbox is stopped and still there.
pub fn same_name_again(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let before = leftovers(node)?;
    let pod = || Pod::idle("again").annotate("network.ringway.dev", "red");
    let first = node.start_pod(pod())?;
    let address = ports(node, &first.sandbox)?[0].ipv4.clone();
    let cri = node.containerd()?.cri.clone();
    cri.stop(&first.container, 10)?;
    cri.stop_pod(&first.sandbox)?;
    ensure!(ports(node, &first.sandbox)?.is_empty(), "a stopped pod keeps its port");
    let second = node.start_sandbox(pod())?;
    node.add_container(&second, "app", 1)?;
    ensure!(ports(node, &second.sandbox)?[0].ipv4 == address, "the address was not given again");
    // The plugin hears of both when it connects again, and which is which.
    node.stop_plugin()?;
    node.start_plugin()?;
    node.delete(&first)?;
    ensure!(ports(node, &second.sandbox)?.len() == 1, "the end of the old pod took the new one's");
    node.delete(&second)?;
    ensure!(leftovers(node)? == before, "left: {:?}, before {before:?}", leftovers(node)?);
    Ok(())
}
