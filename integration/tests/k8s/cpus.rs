//! kubelet's static CPU manager gives a pod CPUs of its own; the plugin goes by them.

use anyhow::{Context, Result, ensure};
use integration::kubernetes::{NODE, RESERVED_CPU};
use integration::readback;
use integration::testpmd::{self, Role};
use serde_json::json;

use crate::bed::Bed;
use crate::deployment;

pub fn exclusive(bed: &mut Bed) -> Result<()> {
    let cluster = bed.cluster()?;
    let kubernetes = &cluster.kubernetes;
    let node = kubernetes.find("node", NODE)?.context("no node")?;
    let all: u32 =
        node["status"]["capacity"]["cpu"].as_str().context("no number of CPUs")?.parse()?;
    let annotations = json!({"network.ringway.dev": "red"});
    let mut pod = deployment::pod("own", &annotations, &testpmd::command(&Role::Receive));
    // Equal requests and limits, a whole CPU: of the class "Guaranteed".
    let resources = json!({"cpu": "1", "memory": "256Mi", "hugepages-2Mi": "64Mi"});
    pod["spec"]["containers"][0]["resources"] = json!({"requests": resources, "limits": resources});
    kubernetes.create(&pod)?;
    kubernetes.wait_ready("app=own", 1)?;
    let port = cluster.wait_ports(1)?.remove(0);
    let pid = port.peer_pid;
    let (cpus, mems) = (readback::cpuset_cpus(pid)?, readback::cpuset_mems(pid)?);
    println!("    kubelet gave CPU {cpus} of {all}, memory node {mems}");
    let own: u16 = cpus.parse().with_context(|| format!("{cpus:?} is not one CPU"))?;
    ensure!(own != RESERVED_CPU, "kubelet gave away CPU {own}, which it keeps");
    let environment = readback::environment(pid)?;
    let lcores = format!("@({own})");
    let told = environment.iter().find(|it| it.starts_with("RINGWAY_EAL_ARGS="));
    ensure!(told.is_some_and(|it| it.contains(&lcores)), "no {lcores} in {told:?}");
    ensure!(readback::hugetlb_2mb_limit(pid)? == (64 << 20).to_string(), "another limit");
    deployment::delete(cluster, &["own"])
}
