//! The node of this very machine: a profile goes in, its values are read back from the kernel.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use integration::machine::program;
use integration::wait;
use serde_json::{Value, json};

use crate::api::{Api, PATIENCE, profile, says};

pub const NODE: &str = "this-node";
/// Harmless, and of no use to anybody else's tests: how often memory statistics are folded, s.
pub const SYSCTL: &str = "/proc/sys/vm/stat_interval";

pub fn interval() -> Result<String> {
    Ok(fs::read_to_string(SYSCTL)?.trim().to_owned())
}

pub fn spec(seconds: u32) -> Value {
    json!({
        "priority": 5,
        "selector": {
            "matchLabels": {"role": "this"},
            "characteristics": [{"key": "cpu.cpus", "operator": "AtLeast", "values": ["2"]}],
        },
        "parameters": {
            "cpus": {"split_cores": true},
            "sysctls": {"vm.stat_interval": seconds},
            "agent": {"interval_s": 1, "repairs": 2},
        },
        "formulas": {"cpus.reserved_cores": "min(1, cpus / 2)"},
    })
}

/// Takes back what a failed test has left.
pub struct Reverted<'a>(pub &'a Path);

impl Drop for Reverted<'_> {
    fn drop(&mut self) {
        let reverted = program("ringway-tuner")
            .map(|tuner| Command::new(tuner).args(["revert", "--state"]).arg(self.0).output());
        if !matches!(&reverted, Ok(Ok(output)) if output.status.success()) {
            eprintln!("not reverted: {reverted:?}");
        }
    }
}

pub fn this_node_becomes_what_its_profile_says(api: &mut Api) -> Result<()> {
    let before = interval()?;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": {"role": "this"}}});
    api.apply(&node)?;
    let state = api.run.path().join("tuner");
    let _reverted = Reverted(&state);
    let state_word = state.to_str().context("path")?.to_owned();
    let account = api.agent_of(NODE)?;
    let words = ["run", "--kubernetes", "--node-name", NODE, "--state", &state_word];
    let mut controller = api.controller("one")?;
    let mut agent = api.daemon("ringway-tuner", &account, &words)?;

    // What the machine is, without any profile.
    let tuning = api.wait("nodetuning", NODE, "the node is reported", |it| {
        says(it, "Applied", "False", "no profile") && says(it, "Selected", "False", "no profile")
    })?;
    let cpus = std::thread::available_parallelism()?.get();
    let facts = &tuning["status"]["characteristics"];
    ensure!(facts["cpu"]["cpus"] == json!(cpus), "{facts:#}");
    ensure!(facts["numa"][0]["id"] == 0, "{facts:#}");
    ensure!(interval()? == before, "something was changed without a profile");

    // A profile goes in, the kernel has its value; two CPUs of one NUMA node leave one to the system.
    api.apply(&profile("this", &spec(7)))?;
    let tuning = api.wait("nodetuning", NODE, "the profile is applied", |it| {
        says(it, "Applied", "True", "profile this is applied and read back")
            && it["status"]["observedGeneration"] == it["metadata"]["generation"]
    })?;
    ensure!(interval()? == "7", "{SYSCTL} is {}", interval()?);
    ensure!(tuning["spec"]["parameters"]["cpus"]["reserved_cores"] == 1, "{:#}", tuning["spec"]);
    ensure!(
        says(&tuning, "Resolved", "True", "this")
            && says(&tuning, "Selected", "True", "profile this")
    );
    api.wait("nodeprofile", "this", "the profile is complete", |it| {
        it["status"]["done"] == 1 && says(it, "Complete", "True", "1 of 1 nodes done")
    })?;
    let topology = api.wait("noderesourcetopology", NODE, "its zones are there", |it| {
        it["zones"][0]["resources"][0]["name"] == "cpu"
    })?;
    let cpu = &topology["zones"][0]["resources"][0];
    ensure!(cpu["capacity"] != cpu["allocatable"], "{topology:#}");
    api.wait("node", NODE, "its labels are there", |it| {
        it["metadata"]["labels"]["tuning.ringway.dev/profile"] == "this"
            && it["metadata"]["labels"]["role"] == "this"
    })?;

    // Drift is repaired, a change of the profile rolled through.
    fs::write(SYSCTL, "3")?;
    wait::until("drift is repaired", PATIENCE, || Ok((interval()? == "7").then_some(())))?;
    api.apply(&profile("this", &spec(9)))?;
    wait::until("the change has come", PATIENCE, || Ok((interval()? == "9").then_some(())))?;

    // Both are killed and started again: nothing changes, and they go on from where they were.
    agent.crash()?;
    controller.crash()?;
    let mut controller = api.controller("two")?;
    let mut agent = api.daemon("ringway-tuner", &account, &words)?;
    api.apply(&profile("this", &spec(11)))?;
    wait::until("the change has come after a restart", PATIENCE, || {
        Ok((interval()? == "11").then_some(()))
    })?;

    // What can't be is refused in words, and what was there stays.
    let mut greedy = spec(13);
    greedy["formulas"]["hugepages.2Mi"] = json!("memory");
    api.apply(&profile("this", &greedy))?;
    api.wait("nodetuning", NODE, "it is refused", |it| {
        says(it, "Resolved", "False", "profile this can't be had here: hugepages: ")
            && says(it, "Applied", "True", "applied")
    })?;
    api.wait("nodeprofile", "this", "the profile says so", |it| {
        it["status"]["refused"] == json!([NODE])
            && says(it, "Complete", "False", "it can't be had on this-node")
    })?;
    ensure!(interval()? == "11", "{SYSCTL} is {}", interval()?);

    // Two of one priority: neither, and it says why.
    api.apply(&profile("this", &spec(15)))?;
    api.apply(&profile("other", &spec(17)))?;
    api.wait("nodetuning", NODE, "the conflict is told", |it| {
        says(it, "Selected", "False", "profiles other, this are all for this node with priority 5")
    })?;
    api.kubectl(&["delete", "nodeprofile", "other"])?;
    wait::until("the other one counts", PATIENCE, || Ok((interval()? == "15").then_some(())))?;

    ensure!(agent.stop(PATIENCE)?.success(), "the agent failed");
    ensure!(controller.stop(PATIENCE)?.success(), "the controller failed");
    drop(_reverted);
    ensure!(interval()? == before, "{SYSCTL} is {}, not {before}", interval()?);
    Ok(())
}
