//! The manifests of `config/kubernetes`: Ringway's daemons run as a pod and serve another.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::kubernetes::{Kubernetes, PATIENCE, until};
use integration::machine::{hide, repository, show};
use integration::process::run;
use integration::testpmd::{self, Role};
use integration::{image, wait};
use serde_json::{Value, json};

use crate::bed::{Bed, Cluster};
use crate::deployment;

/// What the daemons of a node work in.
const RUN_DIRECTORY: &str = "/run/ringway";
/// More than two looks of the plugin at pods whose end nobody announces.
const LOOKS: Duration = Duration::from_secs(10);

/// What differs from the sample: the image, kubelet sets CPUs, containerd's socket of this run, and a node of two CPUs, one of which
/// kubelet keeps.
fn overlay(nri: &Path) -> String {
    let (name, tag) = image::RINGWAY.rsplit_once(':').unwrap_or((image::RINGWAY, "latest"));
    let patch = json!([
        {"op": "replace", "path": "/spec/template/spec/containers/0/resources/requests/cpu", "value": "200m"},
        {"op": "replace", "path": "/spec/template/spec/volumes/1/hostPath/path", "value": nri},
    ]);
    json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "resources": ["../../base"],
        "images": [{"name": "ringway", "newName": name, "newTag": tag}],
        "configMapGenerator": [{
            "name": "ringway", "namespace": "ringway", "behavior": "merge",
            "files": ["vrouter.toml", "nri.toml"],
        }],
        "patches": [
            {"target": {"kind": "DaemonSet", "name": "ringway"}, "patch": patch.to_string()},
        ],
    })
    .to_string()
}

fn ports(kubernetes: &Kubernetes) -> Result<Vec<Value>> {
    let command = ["exec", "--namespace=ringway", "daemonset/ringway", "--container=vrouter", "--"];
    let text = kubernetes.run(&[&command[..], &["ringway", "ports", "--json"]].concat())?;
    Ok(serde_json::from_str(&text)?)
}

fn is_up(ports: &[Value]) -> bool {
    ports.len() == 1 && ports[0]["state"] == "up"
}

/// Ends the plugin's container, and waits until kubelet has started the next.
fn restart_plugin(cluster: &Cluster) -> Result<()> {
    let status = || -> Result<Value> {
        let get = ["get", "pods", "--namespace=ringway", "--output=json"];
        let pods: Value = serde_json::from_str(&cluster.kubernetes.run(&get)?)?;
        let all = pods["items"][0]["status"]["containerStatuses"].as_array();
        let it = all.and_then(|all| all.iter().find(|it| it["name"] == "nri"));
        Ok(it.context("no plugin")?.clone())
    };
    let before = status()?;
    let id = before["containerID"].as_str().and_then(|id| id.strip_prefix("containerd://"));
    cluster.node.containerd()?.cri.stop(id.context("no id")?, 10)?;
    until("kubelet starts the plugin again", PATIENCE, || {
        let now = status()?;
        Ok((now["ready"] == true && now["restartCount"] != before["restartCount"]).then_some(()))
    })
}

pub fn serves_a_pod(bed: &mut Bed) -> Result<()> {
    let cluster = bed.cluster()?;
    // The daemons of the other tests make way.
    cluster.node.stop_plugin()?;
    cluster.node.stop_vrouter()?;
    let (archive, stripped) =
        (cluster.node.run().disk().join("ringway.tar"), cluster.node.run().disk().join("bin"));
    image::write_ringway(&archive, &stripped)?;
    cluster.node.containerd()?.import(image::RINGWAY, &archive)?;

    hide(&cluster.node.run().path(), Path::new(RUN_DIRECTORY))?;
    let copy = cluster.node.run().path().join("manifests");
    run(
        "cp",
        &["-r".as_ref(), repository().join("config/kubernetes").as_os_str(), copy.as_os_str()],
    )?;
    let site = copy.join("overlays/test");
    fs::create_dir(&site)?;
    fs::write(site.join("kustomization.yaml"), overlay(&cluster.node.run().path()))?;
    fs::write(site.join("nri.toml"), "[cpus]\nmode = \"follow\"\n")?;
    fs::write(
        site.join("vrouter.toml"),
        "[[networks]]\nname = \"red\"\nipv4 = \"10.66.0.0/24\"\n",
    )?;
    let site = site.display().to_string();
    let kubernetes = &cluster.kubernetes;
    kubernetes.run(&["apply", "--kustomize", &site])?;
    until("the daemons are ready", PATIENCE, || {
        let get = ["get", "daemonset", "ringway", "--namespace=ringway", "--output=json"];
        let it: Value = serde_json::from_str(&kubernetes.run(&get)?)?;
        Ok((it["status"]["numberReady"] == 1).then_some(()))
    })
    .with_context(|| {
        kubernetes.run(&["describe", "pods", "--namespace=ringway"]).unwrap_or_default()
    })?;

    let annotations = json!({"network.ringway.dev": "red"});
    let pod = deployment::pod("served", &annotations, &testpmd::command(&Role::Receive));
    kubernetes.create(&pod)?;
    kubernetes.wait_ready("app=served", 1)?;
    until("the port is up", PATIENCE, || Ok(is_up(&ports(kubernetes)?).then_some(())))
        .with_context(|| format!("{:?}", ports(kubernetes)))?;
    // A pod that is older than the plugin is served on: the plugin sees that it lives.
    restart_plugin(cluster)?;
    wait::pause(LOOKS)?;
    let ports_now = ports(kubernetes)?;
    ensure!(is_up(&ports_now), "after a restart of the plugin: {ports_now:?}");
    kubernetes.run(&["delete", "pod", "served", "--timeout=60s"])?;
    until("the port goes with its pod", PATIENCE, || {
        Ok(ports(kubernetes)?.is_empty().then_some(()))
    })?;
    let left = fs::read_dir(Path::new(RUN_DIRECTORY).join("pods"))?.count();
    ensure!(left == 0, "{left} directories of pods are left");

    kubernetes.run(&["delete", "--kustomize", &site, "--timeout=90s", "--request-timeout=100s"])?;
    // What they work in is the node's and stays; the next test has daemons of the run again.
    show(&cluster.node.run().path())?;
    cluster.node.start_vrouter()?;
    cluster.node.start_plugin()
}
