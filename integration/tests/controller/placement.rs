//! Where an unmodified kube-scheduler puts pods, with the extender at its side.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::process::Daemon;
use integration::wait;
use serde_json::{Value, json};

use crate::api::{Api, PATIENCE, SCHEDULER, free_port, server};

/// As config/kubernetes/controller/scheduler-config.yaml has it, for an extender of this test.
fn scheduler_config(api: &Api, url: &str, tls: Option<&Value>) -> Value {
    let mut extender = json!({
        "urlPrefix": url, "filterVerb": "filter", "prioritizeVerb": "prioritize", "bindVerb": "bind", "weight": 10,
        "nodeCacheCapable": true, "httpTimeout": "15s",
    });
    if let Some(tls) = tls {
        extender["enableHTTPS"] = json!(true);
        extender["tlsConfig"] = tls.clone();
    }
    json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": api.kubeconfig(SCHEDULER)},
        "leaderElection": {"leaderElect": false},
        "profiles": [{"schedulerName": "ringway"}],
        "extenders": [extender],
    })
}

/// An extender that listens, with these words besides.
pub fn extender(api: &Api, port: u16, words: &[&str]) -> Result<Daemon> {
    let address = format!("127.0.0.1:{port}");
    let words = [&["extender", "--listen", &address], words].concat();
    let mut extender = api.daemon("ringway-controller", SCHEDULER, &words)?;
    let log = extender.log().to_owned();
    extender.wait_for("the extender listens", PATIENCE, || {
        Ok(fs::read_to_string(&log)?.contains("listening").then_some(()))
    })?;
    Ok(extender)
}

/// A kube-scheduler that asks the extender at `url`.
pub fn scheduler(api: &Api, url: &str, tls: Option<&Value>) -> Result<Daemon> {
    let config = api.run.path().join("scheduler.json");
    fs::write(&config, scheduler_config(api, url, tls).to_string())?;
    let config = format!("--config={}", config.display());
    api.daemon("kube-scheduler", SCHEDULER, &[&config, "--secure-port=0"])
}

pub fn pod(name: &str, annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "annotations": annotations},
        "spec": {
            "schedulerName": "ringway", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "app", "image": "none.example.org/none"}],
        },
    })
}

/// CPUs, hugepages, strictly on one NUMA node.
pub fn strict(cpus: u32, gib: u32) -> Value {
    json!({
        "network.ringway.dev": "red", "numa.ringway.dev": "strict", "cpus.ringway.dev": cpus.to_string(),
        "hugepages-1gi.ringway.dev": format!("{gib}Gi"),
    })
}

/// Node and NUMA node that a pod was given.
fn place(pod: &Value) -> Option<(String, String)> {
    let node = pod["spec"]["nodeName"].as_str()?;
    let numa = pod["metadata"]["annotations"]["placement.ringway.dev"].as_str().unwrap_or("-");
    Some((node.to_owned(), numa.to_owned()))
}

pub fn placed(api: &Api, name: &str) -> Result<(String, String)> {
    let pod = api.wait("pod", name, "the pod has a node", |pod| place(pod).is_some())?;
    place(&pod).context("no node")
}

/// The words by which the scheduler refuses a pod.
fn refused(api: &Api, name: &str, part: &str) -> Result<()> {
    let told = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|it| {
            it["type"] == "PodScheduled"
                && it["message"].as_str().is_some_and(|text| text.contains(part))
        })
    };
    api.wait("pod", name, "the pod is refused in words", told)?;
    // The same in its events, where people look.
    let selector = format!("involvedObject.name={name}");
    wait::until("the event is there", PATIENCE, || {
        let events =
            api.kubectl(&["get", "events", "--field-selector", &selector, "-o", "json"])?;
        Ok(events.contains(part).then_some(()))
    })
}

pub fn pods_go_where_one_numa_node_has_all_of_it(api: &mut Api) -> Result<()> {
    // Two small nodes and a large one.
    let small = api.agents(&server(8), &["--count", "2", "--prefix", "small-"])?;
    let large = api.agents(&server(24), &["--count", "1", "--prefix", "large-"])?;
    let port = free_port()?;
    let mut first = extender(api, port, &[])?;
    let scheduler = scheduler(api, &format!("http://127.0.0.1:{port}"), None)?;

    // Only the large node has twelve CPUs on one NUMA node, strictly; each of its NUMA nodes has them once.
    let apply = |name: &str, annotations: &Value| api.apply(&pod(name, annotations));
    apply("a", &strict(20, 2))?;
    apply("b", &strict(20, 2))?;
    let (a, b) = (placed(api, "a")?, placed(api, "b")?);
    ensure!(a.0 == "large-0000" && b.0 == "large-0000", "{a:?} {b:?}");
    ensure!(a.1 != b.1, "two pods were promised {}", a.1);
    apply("c", &strict(20, 2))?;
    refused(api, "c", "NUMA 0 has 4 of 20 CPUs; NUMA 1 has 4 of 20 CPUs")?;
    refused(api, "c", "NUMA 0 has 8 of 20 CPUs; NUMA 1 has 8 of 20 CPUs")?;

    // Hugepages decide as well, and a network or a mode that nobody has.
    apply("d", &strict(2, 17))?;
    refused(api, "d", "NUMA 0 has 16384 of 17408 MiB of 1 GiB pages")?;
    let with = |key: &str, value: &str| {
        let mut annotations = strict(1, 1);
        annotations[key] = json!(value);
        annotations
    };
    apply("e", &with("network.ringway.dev", "green"))?;
    refused(api, "e", "no vRouter of it has the network green")?;
    apply("f", &with("mode.ringway.dev", "kernel"))?;
    refused(api, "f", "no vRouter of it runs in mode kernel")?;
    apply("g", &with("cpus.ringway.dev", "many"))?;
    refused(api, "g", "annotation cpus.ringway.dev")?;

    // Many at once: as many as there is room for, no NUMA node twice.
    for index in 0..6 {
        apply(&format!("many-{index}"), &strict(6, 4))?;
    }
    let mut places = Vec::new();
    wait::until("four are placed", PATIENCE, || {
        places = api
            .list("pods")?
            .iter()
            .filter(|pod| {
                pod["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("many-"))
            })
            .filter_map(place)
            .collect();
        Ok((places.len() == 4).then_some(()))
    })?;
    places.sort_unstable();
    places.dedup();
    ensure!(places.len() == 4, "a NUMA node was promised twice: {places:?}");
    ensure!(places.iter().all(|(node, _)| node.starts_with("small-")), "{places:?}");
    wait::pause(Duration::from_secs(2))?;
    let still = api.list("pods")?.iter().filter_map(place).count();
    ensure!(still == 6, "{still} pods have nodes");

    // Those that wait would take the room of the next one that goes.
    for pod in api.list("pods")?.iter().filter(|pod| place(pod).is_none()) {
        let name = pod["metadata"]["name"].as_str().context("name")?;
        if name != "c" {
            api.kubectl(&["delete", "pod", name, "--now"])?;
        }
    }

    // One that goes makes room; the extender's own restart forgets nothing.
    first.crash()?;
    let _second = extender(api, port, &[])?;
    api.kubectl(&["delete", "pod", "a", "--force", "--grace-period=0"])?;
    let c = placed(api, "c")?;
    ensure!(c == a, "{c:?} is not where {a:?} was");

    // Room of which only a node's own report tells: a scheduler hears nothing of that, and would ask again after five minutes. Its own words in
    // the status are a change of the pod, for which it asks a second time at once; that is to be over.
    apply("e", &with("network.ringway.dev", "green"))?;
    refused(api, "e", "no vRouter of it has the network green")?;
    wait::pause(Duration::from_secs(3))?;
    let more = r#"[{"op": "add", "path": "/status/characteristics/vrouters/0/networks/-", "value": "green"}]"#;
    let words =
        ["patch", "nodetuning", "small-0001", "--subresource=status", "--type=json", "-p", more];
    api.kubectl(&words)?;
    let e = placed(api, "e")?;
    ensure!(e == ("small-0001".to_owned(), "numa=0".to_owned()), "{e:?}");

    // A pod that is not ours goes anywhere, and is promised nothing.
    apply("plain", &json!({"example.org/x": "y"}))?;
    let plain = placed(api, "plain")?;
    ensure!(plain.1 == "-", "{plain:?}");
    drop((scheduler, small, large));
    Ok(())
}
