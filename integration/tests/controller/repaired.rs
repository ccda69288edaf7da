//! What somebody else changes or deletes of what the controller and an agent have written: put right without anything new of the node.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::wait;
use serde_json::{Value, json};

use crate::api::{Api, CONTROLLER, PATIENCE, profile, says};
use crate::this_node::{NODE, Reverted, SYSCTL, interval, spec};

fn uid(object: &Value) -> Result<String> {
    Ok(object["metadata"]["uid"].as_str().context("uid")?.to_owned())
}

/// Whether the zones are this machine's, and go with that NodeTuning.
fn sound(zones: &Value, tuning: &str) -> bool {
    zones["zones"][0]["name"] == "node-0"
        && zones["zones"][0]["resources"][0]["name"] == "cpu"
        && zones["metadata"]["ownerReferences"].as_array().is_some_and(|owners| {
            owners.len() == 1 && owners.iter().all(|owner| owner["uid"] == tuning)
        })
}

fn applied(tuning: &Value) -> bool {
    says(tuning, "Applied", "True", "profile this is applied and read back")
        && says(tuning, "Selected", "True", "profile this")
        && tuning["status"]["observedGeneration"] == tuning["metadata"]["generation"]
        && tuning["spec"]["parameters"]["sysctls"]["vm.stat_interval"] == 7
}

fn labels(node: &Value) -> BTreeMap<String, String> {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let ours = labels.filter(|(key, _)| key.starts_with("tuning.ringway.dev/"));
    ours.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

/// Writes of the controller and of agents so far, but for the lease.
fn writes(api: &Api) -> Result<u64> {
    let ours = |user: &str| user == CONTROLLER || user == crate::api::AGENT;
    let writing = |asked: &str| {
        ["create", "patch", "update", "delete"].iter().any(|verb| asked.starts_with(verb))
            && !asked.contains("leases")
    };
    let all = api.requests()?;
    let counted = all.iter().filter(|((user, asked), _)| ours(user) && writing(asked));
    Ok(counted.map(|(_, count)| count).sum())
}

pub fn what_others_change_is_put_right(api: &mut Api) -> Result<()> {
    let before = interval()?;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": {"role": "this"}}});
    api.apply(&node)?;
    let state = api.run.path().join("tuner");
    let _reverted = Reverted(&state);
    let account = api.agent_of(NODE)?;
    let state_word = state.to_str().context("path")?;
    let words = ["run", "--kubernetes", "--node-name", NODE, "--state", state_word];
    let mut controller = api.controller("one")?;
    let mut agent = api.daemon("ringway-tuner", &account, &words)?;
    api.apply(&profile("this", &spec(7)))?;
    let tuning = api.wait("nodetuning", NODE, "the profile is applied", applied)?;
    let first = uid(&tuning)?;
    let zones =
        api.wait("noderesourcetopology", NODE, "zones are there", |it| sound(it, &first))?;
    let node = api.wait("node", NODE, "labels are there", |it| {
        labels(it).get("tuning.ringway.dev/profile").is_some_and(|name| name == "this")
    })?;

    // Zones are deleted, and edited.
    api.kubectl(&["delete", "noderesourcetopology", NODE])?;
    let gone = uid(&zones)?;
    api.wait("noderesourcetopology", NODE, "they come back", |it| {
        sound(it, &first) && it["metadata"]["uid"] != *gone
    })?;
    api.kubectl(&["patch", "noderesourcetopology", NODE, "--type=merge", "-p", r#"{"zones":[]}"#])?;
    api.wait("noderesourcetopology", NODE, "they are as before", |it| sound(it, &first))?;

    // Labels are taken away, changed and added.
    let theirs = [
        "tuning.ringway.dev/profile-",
        "tuning.ringway.dev/numa-nodes=99",
        "tuning.ringway.dev/other=x",
        "theirs=stays",
    ];
    api.kubectl(&[&["label", "node", NODE, "--overwrite"], &theirs[..]].concat())?;
    let wanted = labels(&node);
    api.wait("node", NODE, "labels are as before", |it| {
        labels(it) == wanted && it["metadata"]["labels"]["theirs"] == "stays"
    })?;

    // What the node is given, what is told of it, and what its agent has said.
    let given = r#"{"spec":{"parameters":{"sysctls":{"vm.stat_interval":11}}}}"#;
    api.kubectl(&["patch", "nodetuning", NODE, "--type=merge", "-p", given])?;
    api.wait("nodetuning", NODE, "it is given what it was given", |it| {
        applied(it) && it["metadata"]["generation"].as_i64() >= Some(3)
    })?;
    wait::until("the kernel has it", PATIENCE, || Ok((interval()? == "7").then_some(())))?;
    let status = r#"{"status":{"conditions":[],"characteristics":{"cpu":{"model":"another"}}}}"#;
    let words_of_status =
        ["patch", "nodetuning", NODE, "--type=merge", "--subresource=status", "-p", status];
    let model = &tuning["status"]["characteristics"]["cpu"]["model"];
    api.kubectl(&words_of_status)?;
    api.wait("nodetuning", NODE, "it says what it said", |it| {
        applied(it)
            && says(it, "Resolved", "True", "this")
            && it["status"]["characteristics"]["cpu"]["model"] == *model
    })?;

    // All of it is deleted: the agent reports anew, and the node is given the same.
    api.kubectl(&["delete", "nodetuning", NODE])?;
    let tuning = api.wait("nodetuning", NODE, "it comes back", |it| {
        applied(it) && it["metadata"]["uid"] != *first
    })?;
    let second = uid(&tuning)?;
    api.wait("noderesourcetopology", NODE, "its zones go with the new one", |it| {
        sound(it, &second)
    })?;
    ensure!(interval()? == "7", "{SYSCTL} is {}", interval()?);
    api.wait("nodeprofile", "this", "the profile is complete", |it| {
        it["status"]["done"] == 1 && says(it, "Complete", "True", "1 of 1 nodes done")
    })?;

    // Then nobody writes anything any more but what changes by itself, as free pages do.
    wait::until("it is quiet", PATIENCE, || {
        let before = writes(api)?;
        wait::pause(Duration::from_secs(5))?;
        Ok((writes(api)? <= before + 1).then_some(()))
    })?;
    ensure!(agent.stop(PATIENCE)?.success(), "the agent failed");
    ensure!(controller.stop(PATIENCE)?.success(), "the controller failed");
    drop(_reverted);
    ensure!(interval()? == before, "{SYSCTL} is {}, not {before}", interval()?);
    Ok(())
}
