//! An API server that refuses what the controller writes, again and again.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration::wait;
use serde_json::json;

use crate::api::{Api, CONTROLLER, PATIENCE, server};

/// More than the controller writes at one look.
const NODES: u32 = 100;
const POLICY: &str = "no-zones";

/// Takes the policy away.
struct Refused<'a>(&'a Api);

impl Drop for Refused<'_> {
    fn drop(&mut self) {
        for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
            if let Err(error) = self.0.kubectl(&["delete", kind, POLICY]) {
                eprintln!("clean-up: {error:#}");
            }
        }
    }
}

pub fn what_is_refused_is_tried_less_and_less(api: &mut Api) -> Result<()> {
    let group = "admissionregistration.k8s.io/v1";
    api.apply(&json!({
        "apiVersion": group, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": POLICY},
        "spec": {
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["topology.node.k8s.io"], "apiVersions": ["*"], "operations": ["*"],
                "resources": ["noderesourcetopologies"],
            }]},
            "validations": [{"expression": "request.userInfo.username == 'admin'", "message": "not today"}],
        },
    }))?;
    api.apply(&json!({
        "apiVersion": group, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": POLICY},
        "spec": {"policyName": POLICY, "validationActions": ["Deny"]},
    }))?;
    let zones = json!({
        "apiVersion": "topology.node.k8s.io/v1alpha2", "kind": "NodeResourceTopology", "metadata": {"name": "any"},
    });
    wait::until("the policy counts", PATIENCE, || {
        Ok(api.refusal(CONTROLLER, &["apply", "--server-side"], &zones)?.map(|_| ()))
    })?;
    let refused = Refused(api);
    let before = api.asked(CONTROLLER, "patch noderesourcetopologies")?;
    let count = NODES.to_string();
    let _agents = api.agents(&server(24), &["--count", &count, "--label", "role=played"])?;
    let began = Instant::now();
    let mut controller = api.controller("one")?;
    let tries = || -> Result<Vec<u64>> {
        let mut now = api.asked(CONTROLLER, "patch noderesourcetopologies")?;
        now.retain(|name, _| name.starts_with("sim-"));
        Ok(now.iter().map(|(name, count)| count - before.get(name).copied().unwrap_or(0)).collect())
    };
    // Each comes to its turn, although the first ones fail again and again.
    wait::until("every node was tried three times", PATIENCE, || {
        let tries = tries()?;
        Ok((tries.len() == NODES as usize && tries.iter().all(|times| *times >= 3)).then_some(()))
    })?;
    wait::pause(Duration::from_secs(5))?;
    // After 1, 2, 4 s and so on, so in `n` s no more than log2(n + 1) times after the first one.
    let tries = tries()?;
    let most = u64::from((began.elapsed().as_secs() + 2).ilog2()) + 2;
    ensure!(tries.iter().all(|times| *times <= most), "more than {most}: {tries:?}");
    // Everything else was written meanwhile; and once it is allowed, this too.
    for node in api.list("nodes")? {
        let zones = &node["metadata"]["labels"]["tuning.ringway.dev/numa-nodes"];
        ensure!(*zones == "2", "{node:#}");
    }
    drop(refused);
    wait::until("all zones are there", PATIENCE, || {
        Ok((api.list("noderesourcetopologies")?.len() == NODES as usize).then_some(()))
    })?;
    ensure!(controller.stop(PATIENCE)?.success(), "the controller failed");
    Ok(())
}
