//! How a profile reaches many nodes, and what the API server makes of the manifests.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::machine::repository;
use integration::process::Daemon;
use integration::wait;
use serde_json::{Value, json};

use crate::api::{Api, PATIENCE, never, profile, says, server};

pub fn manifests_are_accepted_and_validated(api: &mut Api) -> Result<()> {
    let folder = repository().join("config/kubernetes/profiles");
    api.kubectl(&["apply", "--server-side", "-f", folder.to_str().context("path")?])?;
    ensure!(api.list("nodeprofiles")?.len() == 4, "not all profiles are there");
    let columns = api.kubectl(&["get", "nodeprofiles"])?;
    ensure!(columns.starts_with("NAME") && columns.contains("PRIORITY"), "{columns}");
    for (spec, told) in [
        (json!({"rollout": {"maxConcurrent": 0}}), "should be greater than or equal to 1"),
        (json!({"vrouterMode": "fast"}), "should match"),
        (json!({"parameters": {"power": {"turbo": "yes"}}}), "must be of type boolean"),
        (
            json!({"selector": {"characteristics": [{"key": "cpu.cores", "operator": "Near"}]}}),
            "Unsupported value: \"Near\"",
        ),
        (json!({"parameters": {"cpu": {}}}), "unknown field \"spec.parameters.cpu\""),
    ] {
        let words = match api.create(&profile("bad", &spec)) {
            Ok(()) => "accepted".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        ensure!(words.contains(told), "{spec}: {words}");
    }
    Ok(())
}

/// Names of the nodes that have been given something.
fn given(api: &Api) -> Result<Vec<String>> {
    let tunings = api.list("nodetunings")?;
    let named = tunings.iter().filter(|tuning| tuning["spec"]["profile"].is_string());
    Ok(named.filter_map(|tuning| Some(tuning["metadata"]["name"].as_str()?.to_owned())).collect())
}

fn rolled(seconds: u32, at_once: u32) -> Value {
    json!({
        "selector": {"matchLabels": {"role": "played"}},
        "parameters": {"sysctls": {"vm.stat_interval": seconds}},
        "rollout": {"maxConcurrent": at_once},
    })
}

pub fn a_node_that_fails_stops_the_rollout(api: &mut Api) -> Result<()> {
    let words = ["--count", "4", "--label", "role=played", "--fail", "sim-0001"];
    let _agents = api.agents(&server(24), &words)?;
    let mut controller = api.controller("one")?;
    api.apply(&profile("p", &rolled(5, 1)))?;
    let stopped = api.wait("nodeprofile", "p", "the rollout stops", |it| {
        says(
            it,
            "Complete",
            "False",
            "stopped: sim-0001 failed: this node fails whatever it is given",
        )
    })?;
    ensure!(stopped["status"]["done"] == 1, "{stopped:#}");
    ensure!(stopped["status"]["failed"] == json!(["sim-0001"]), "{stopped:#}");
    // Longer than the controller needs for several looks.
    wait::pause(Duration::from_secs(3))?;
    ensure!(given(api)? == ["sim-0000", "sim-0001"], "{:?}", given(api)?);
    // The node that fails is taken out: the rest goes on.
    api.kubectl(&["label", "node", "sim-0001", "role-"])?;
    api.wait("nodeprofile", "p", "the rest is done", |it| {
        it["status"]["done"] == 3 && says(it, "Complete", "True", "3 of 3 nodes done")
    })?;
    api.wait("nodetuning", "sim-0001", "it has nothing any more", |it| {
        it["spec"]["profile"].is_null()
            && says(it, "Selected", "False", "no profile is for this node")
    })?;
    ensure!(controller.stop(PATIENCE)?.success(), "the controller failed");
    Ok(())
}

fn holder(api: &Api) -> Result<Option<String>> {
    let words =
        ["get", "lease", "ringway-controller", "-n", "ringway", "-o", "json", "--ignore-not-found"];
    let text = api.kubectl(&words)?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    let lease: Value = serde_json::from_str(&text)?;
    Ok(lease["spec"]["holderIdentity"].as_str().filter(|name| !name.is_empty()).map(str::to_owned))
}

pub fn another_leads_when_the_leader_is_killed(api: &mut Api) -> Result<()> {
    let _agents = api.agents(&server(24), &["--count", "6", "--label", "role=played"])?;
    let mut two: Vec<(&str, Daemon)> = Vec::new();
    for name in ["alpha", "beta"] {
        two.push((name, api.controller(name)?));
    }
    api.apply(&profile("p", &rolled(5, 2)))?;
    api.wait("nodeprofile", "p", "all nodes are done", |it| it["status"]["done"] == 6)?;
    let first = holder(api)?.context("nobody leads")?;
    let at = two.iter().position(|(name, _)| *name == first).context("a stranger leads")?;
    // In the middle of a rollout.
    api.apply(&profile("p", &rolled(6, 1)))?;
    let (_, mut leader) = two.swap_remove(at);
    leader.crash()?;
    api.wait("nodeprofile", "p", "the other one finishes it", |it| {
        it["status"]["observedGeneration"] == it["metadata"]["generation"]
            && it["status"]["done"] == 6
            && says(it, "Complete", "True", "6 of 6")
    })?;
    let tunings = api.list("nodetunings")?;
    for tuning in &tunings {
        let value = &tuning["spec"]["parameters"]["sysctls"]["vm.stat_interval"];
        never(*value != 6, || format!("{tuning:#}"))?;
    }
    let second = holder(api)?.context("nobody leads")?;
    ensure!(second != first, "{first} is dead and leads");
    // One that ends by itself gives its lease up.
    let (_, mut other) = two.pop().context("no other")?;
    ensure!(other.stop(PATIENCE)?.success(), "the controller failed");
    ensure!(holder(api)?.is_none(), "{second} has ended and leads");
    Ok(())
}
