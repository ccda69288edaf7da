//! Pods of a Deployment come, talk and go.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::kubernetes::{PATIENCE, nothing_left, until};
use integration::testpmd::{self, Role};
use integration::{image, wait};
use serde_json::{Value, json};

use crate::bed::{Bed, Cluster, MANY, address};

const MANIFEST: &str = include_str!("deployment.yaml");
const LABEL: &str = "app=dpdk";
/// Enough for every ring to wrap several times.
const PACKETS: u64 = 10_000;

/// The Deployment with so many replicas, all of them ready and connected.
pub fn scale(cluster: &Cluster, replicas: usize) -> Result<Vec<Value>> {
    let kubernetes = &cluster.kubernetes;
    if kubernetes.find("deployment", "dpdk")?.is_none() {
        kubernetes.apply(MANIFEST)?;
    }
    kubernetes.run(&["scale", "deployment/dpdk", &format!("--replicas={replicas}")])?;
    let pods = kubernetes.wait_ready(LABEL, replicas)?;
    cluster.wait_ports(replicas)?;
    Ok(pods)
}

pub fn scales(bed: &mut Bed) -> Result<()> {
    let cluster = bed.cluster()?;
    let began = std::time::Instant::now();
    scale(cluster, MANY)?;
    println!("    {MANY} pods were there after {:?}", began.elapsed());
    scale(cluster, 0)?;
    nothing_left(&cluster.node)?;

    // The lowest address is free again, so all are.
    let pods = scale(cluster, 1)?;
    let ports = cluster.wait_ports(1)?;
    ensure!(address(&ports[0]) == "10.66.0.2", "{ports:?}");
    let name = pods[0]["metadata"]["name"].as_str().context("a pod without a name")?;
    let told = cluster.kubernetes.exec(name, "cat $RINGWAY_INTERFACES")?;
    ensure!(told.contains("10.66.0.2"), "{told}");
    scale(cluster, 0)?;
    nothing_left(&cluster.node)
}

/// A pod with one interface whose application is testpmd, and that stays when that ends.
pub fn pod(name: &str, annotations: &Value, command: &[String]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}, "annotations": annotations},
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 5,
            "containers": [{
                "name": "app", "image": image::TESTPMD, "imagePullPolicy": "Never",
                "command": command,
                "resources": {
                    "requests": {"cpu": "20m", "memory": "64Mi"},
                    "limits": {"cpu": "1", "memory": "256Mi", "hugepages-2Mi": "64Mi"},
                },
                "securityContext": {
                    "runAsUser": 65534, "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]},
                },
            }],
        },
    })
}

/// Tells the testpmd of a pod.
fn tell(cluster: &Cluster, pod: &str, line: &str) -> Result<()> {
    let script = testpmd::tell(line).pop().context("no script")?;
    cluster.kubernetes.exec(pod, &script).map(drop)
}

/// Deletes pods and waits until nothing is left of them.
pub fn delete(cluster: &Cluster, names: &[&str]) -> Result<()> {
    let mut words = vec!["delete", "pod", "--timeout=60s"];
    words.extend(names);
    cluster.kubernetes.run(&words)?;
    nothing_left(&cluster.node)
}

/// One pod sends to another; what arrives is what the vRouter says it gave.
pub fn pods_talk(bed: &mut Bed) -> Result<()> {
    let cluster = bed.cluster()?;
    let (from, to) = ("10.66.0.100", "10.66.0.101");
    let vrouter = cluster.node.vrouter()?;
    let gateway_mac = vrouter.network("red")?.gateway_mac;
    let at = |ip: &str| {
        let list = json!([{"network": "red", "ip": ip}]).to_string();
        json!({"network.ringway.dev": "red", "interfaces.ringway.dev": list})
    };
    let send = Role::Send { from: from.to_owned(), to: to.to_owned(), gateway_mac };
    let kubernetes = &cluster.kubernetes;
    kubernetes.create(&pod("receiver", &at(to), &testpmd::command(&Role::Receive)))?;
    kubernetes.create(&pod("sender", &at(from), &testpmd::command(&send)))?;
    kubernetes.wait_ready("app=receiver", 1)?;
    kubernetes.wait_ready("app=sender", 1)?;
    let ports = cluster.wait_ports(2)?;
    let id = |ip: &str| -> Result<String> {
        let port = ports.iter().find(|port| address(port) == ip).context("no port")?;
        Ok(port.spec.clone().unwrap_or_default().id)
    };
    let (sender, receiver) = (id(from)?, id(to)?);

    tell(cluster, "receiver", "start")?;
    tell(cluster, "sender", "start")?;
    wait::until("packets arrive", PATIENCE, || {
        Ok((vrouter.port_stats(&receiver)?.tx_packets >= PACKETS).then_some(()))
    })?;
    tell(cluster, "sender", "stop")?;
    vrouter.settled_stats(Duration::from_secs(30))?;
    let (sent, given) =
        (vrouter.port_stats(&sender)?.rx_packets, vrouter.port_stats(&receiver)?.tx_packets);
    tell(cluster, "receiver", "stop")?;
    // What it has printed leaves its buffer with its end.
    tell(cluster, "receiver", "quit")?;
    let counters = until("testpmd tells what it received", PATIENCE, || {
        Ok(testpmd::counters(&kubernetes.run(&["logs", "receiver"])?).ok())
    })?;
    println!("    {sent} sent, {given} given, {} received", counters.rx_packets);
    ensure!(counters.rx_packets == given && sent >= given, "{counters:?}");
    delete(cluster, &["receiver", "sender"])
}
