//! Pods that cannot be served: `kubectl describe pod` says why.

use anyhow::{Context, Result, ensure};
use integration::kubernetes::{PATIENCE, until};
use integration::testpmd::{self, Role};
use serde_json::{Value, json};

use crate::bed::{Bed, Cluster};
use crate::deployment;

/// Waits until `kubectl describe pod` has a line with all the words; gives it.
fn described(cluster: &Cluster, pod: &str, words: &[&str]) -> Result<String> {
    let mut last = String::new();
    until(&format!("{pod} is described with {words:?}"), PATIENCE, || {
        last = cluster.kubernetes.run(&["describe", "pod", pod])?;
        let line = last.lines().find(|line| words.iter().all(|word| line.contains(word)));
        Ok(line.map(|line| line.trim().to_owned()))
    })
    .with_context(|| last.clone())
}

fn pod(name: &str, annotations: &Value) -> Value {
    deployment::pod(name, annotations, &testpmd::command(&Role::Receive))
}

pub fn are_described(bed: &mut Bed) -> Result<()> {
    let cluster = bed.cluster()?;
    let cases: [(&str, Value, &[&str]); 4] = [
        ("lost", json!({"network.ringway.dev": "green"}), &["\"green\"", "does not exist", "red"]),
        (
            "typo",
            json!({"network.ringway.dev": "red", "interfaces.ringway.dev": "{not json"}),
            &["interfaces.ringway.dev"],
        ),
        (
            "elsewhere",
            json!({
                "network.ringway.dev": "red",
                "interfaces.ringway.dev": r#"[{"network": "red", "ip": "10.99.0.1"}]"#,
            }),
            &["10.99.0.1", "10.66.0.0/24"],
        ),
        // kubelet keeps a pod from hugepages that it does not request, whatever its annotations say.
        (
            "unrequested",
            json!({"network.ringway.dev": "red", "hugepages-2mi.ringway.dev": "64Mi"}),
            &["hugepages-2mi.ringway.dev", "64 MiB", "0 MiB", "request hugepages-2Mi"],
        ),
    ];
    for (name, annotations, words) in cases {
        let mut pod = pod(name, &annotations);
        if name == "unrequested" {
            let resources = &mut pod["spec"]["containers"][0]["resources"]["limits"];
            resources.as_object_mut().context("no limits")?.remove("hugepages-2Mi");
        }
        cluster.kubernetes.create(&pod)?;
        let line = described(cluster, name, words)?;
        println!("    {line}");
        let state = cluster.kubernetes.find("pod", name)?.context("the pod is gone")?;
        ensure!(state["status"]["phase"] == "Pending", "{state:#}");
        deployment::delete(cluster, &[name])?;
    }
    Ok(())
}

/// kubelet tries again by itself, so a pod that came too early runs as soon as the vRouter does.
pub fn pods_wait_for_the_vrouter(bed: &mut Bed) -> Result<()> {
    let cluster = bed.cluster()?;
    cluster.node.stop_vrouter()?;
    cluster.kubernetes.create(&pod("early", &json!({"network.ringway.dev": "red"})))?;
    let line = described(cluster, "early", &["vRouter", "vrouter.sock", "start ringway-vrouter"])?;
    println!("    {line}");
    cluster.node.start_vrouter()?;
    cluster.kubernetes.wait_ready("app=early", 1)?;
    cluster.wait_ports(1)?;
    deployment::delete(cluster, &["early"])
}
