//! An API server that cannot for a while: it answers 429, or 5xx as its store is gone.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration::wait;
use serde_json::{Value, json};

use crate::api::{Api, CONTROLLER, PATIENCE, profile, says, server};

/// More than one look's worth.
const NODES: u32 = 60;
/// Writes that are under way at once.
const AT_ONCE: usize = 16;
const NAME: &str = "no-writes";
/// Long enough to tell pauses that double from a steady rhythm.
const TROUBLE: Duration = Duration::from_secs(16);

/// A priority level without seats for the controller's writes. Priority and fairness lets one of them in at a time nevertheless, and
/// answers all others with 429 and Retry-After.
struct Throttled<'a>(&'a Api);

impl<'a> Throttled<'a> {
    fn new(api: &'a Api) -> Result<Self> {
        let group = "flowcontrol.apiserver.k8s.io/v1";
        api.apply(&json!({
            "apiVersion": group, "kind": "PriorityLevelConfiguration", "metadata": {"name": NAME},
            "spec": {"type": "Limited", "limited": {
                "nominalConcurrencyShares": 0, "lendablePercent": 0, "borrowingLimitPercent": 0,
                "limitResponse": {"type": "Reject"},
            }},
        }))?;
        let account = json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "ringway", "name": CONTROLLER}});
        api.apply(&json!({
            "apiVersion": group, "kind": "FlowSchema", "metadata": {"name": NAME},
            "spec": {
                "priorityLevelConfiguration": {"name": NAME}, "matchingPrecedence": 2,
                "rules": [{
                    "subjects": [account],
                    "resourceRules": [{
                        "verbs": ["patch"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"],
                    }],
                }],
            },
        }))?;
        Ok(Self(api))
    }
}

impl Drop for Throttled<'_> {
    fn drop(&mut self) {
        for kind in ["flowschema", "prioritylevelconfiguration"] {
            if let Err(error) = self.0.kubectl(&["delete", kind, NAME]) {
                eprintln!("clean-up: {error:#}");
            }
        }
    }
}

fn rolled(seconds: u32) -> Value {
    json!({
        "selector": {"matchLabels": {"role": "played"}},
        "parameters": {"sysctls": {"vm.stat_interval": seconds}},
        "rollout": {"maxConcurrent": NODES},
    })
}

/// Waits until every node has what the profile says now.
fn done(api: &Api) -> Result<Value> {
    api.wait("nodeprofile", "p", "all nodes are done", |it| {
        it["status"]["observedGeneration"] == it["metadata"]["generation"]
            && says(it, "Complete", "True", &format!("{NODES} of {NODES} nodes done"))
    })
}

pub fn a_server_that_throttles_is_asked_less_and_less(api: &mut Api) -> Result<()> {
    let count = NODES.to_string();
    let _agents = api.agents(&server(24), &["--count", &count, "--label", "role=played"])?;
    let mut controller = api.controller("one")?;
    api.apply(&profile("p", &rolled(5)))?;
    done(api)?;
    let refused = || api.answered(CONTROLLER, 429);
    ensure!(refused()?.is_empty(), "the server throttles before the test does");

    let throttled = Throttled::new(api)?;
    // A server takes a moment until it counts.
    let began = Instant::now();
    api.apply(&profile("p", &rolled(6)))?;
    wait::until("the server throttles", PATIENCE, || Ok((!refused()?.is_empty()).then_some(())))?;
    wait::pause(TROUBLE)?;
    // Each object by itself after 1, 2, 4 s and so on, so in `n` s no more than log2(n + 1) times after the first one.
    let (mut tries, most) = (refused()?, u64::from((began.elapsed().as_secs() + 2).ilog2()) + 2);
    // What is told of the profile changes with each node that is done.
    tries.retain(|address, _| address.contains("/nodetunings/"));
    ensure!(tries.values().all(|times| *times <= most), "more than {most}: {tries:#?}");
    ensure!(tries.len() > AT_ONCE, "hardly anything was refused: {tries:#?}");
    // It still leads, and says why nothing comes.
    let log = fs::read_to_string(controller.log())?;
    ensure!(!log.contains("lease: "), "it could not renew its lease:\n{log}");
    ensure!(
        log.contains("Too many requests") || log.contains("429"),
        "it does not say why:\n{log}"
    );

    drop(throttled);
    done(api)?;
    ensure!(controller.stop(PATIENCE)?.success(), "the controller failed");
    Ok(())
}

pub fn a_server_without_its_store_is_waited_for(api: &mut Api) -> Result<()> {
    let count = NODES.to_string();
    let mut controller = api.controller("one")?;
    {
        let _agents = api.agents(&server(24), &["--count", &count, "--label", "role=played"])?;
        api.apply(&profile("p", &rolled(5)))?;
        done(api)?;
        // In the middle of a rollout.
        api.apply(&profile("p", &rolled(6)))?;
        api.crash_store()?;
        let log = controller.log().to_owned();
        wait::until("the controller can't renew its lease", PATIENCE, || {
            Ok(fs::read_to_string(&log)?.contains("lease: ").then_some(()))
        })?;
        api.start_store()?;
        done(api)?;
    }
    let tunings = api.list("nodetunings")?;
    ensure!(tunings.len() == NODES as usize, "{} are left", tunings.len());
    for tuning in &tunings {
        let value = &tuning["spec"]["parameters"]["sysctls"]["vm.stat_interval"];
        ensure!(*value == 6, "{tuning:#}");
    }
    ensure!(controller.stop(PATIENCE)?.success(), "the controller failed");
    Ok(())
}
