//! Whom an agent may report for.

use anyhow::{Result, ensure};
use integration::wait;
use serde_json::{Value, json};

use crate::api::{AGENT, Api, CONTROLLER, PATIENCE};

const APPLY: [&str; 4] = ["apply", "--server-side", "--field-manager=it", "--validate=ignore"];
/// As agents report.
const REPORT: [&str; 5] =
    ["apply", "--server-side", "--field-manager=it", "--validate=ignore", "--subresource=status"];

fn tuning(name: &str) -> Value {
    json!({"apiVersion": "tuning.ringway.dev/v1alpha1", "kind": "NodeTuning", "metadata": {"name": name}, "spec": {}})
}

fn report(name: &str) -> Value {
    json!({
        "apiVersion": "tuning.ringway.dev/v1alpha1", "kind": "NodeTuning", "metadata": {"name": name},
        "status": {"observedGeneration": 1},
    })
}

pub fn an_agent_reports_for_its_own_node_only(api: &mut Api) -> Result<()> {
    for node in ["mine", "other"] {
        api.apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}))?;
    }
    let agent = api.agent_of("mine")?;
    let create = ["create", "--validate=ignore"];
    let not_other = "an agent on node mine writes the NodeTuning of that name only, not other";
    let told = |who: &str, words: &[&str], object: &Value, part: &str| -> Result<()> {
        let words_of = api.refusal(who, words, object)?;
        let words_of = words_of.unwrap_or_else(|| "done".to_owned());
        ensure!(words_of.contains(part), "{who} {words:?} {object}: {words_of}");
        Ok(())
    };
    // An API server takes a moment until it acts by a policy.
    wait::until("the policy counts", PATIENCE, || {
        Ok(api.refusal(&agent, &create, &tuning("other"))?.map(|_| ()))
    })?;
    told(&agent, &create, &tuning("other"), not_other)?;
    told(&agent, &create, &tuning("mine"), "done")?;
    let mut bold = tuning("mine");
    bold["spec"] = json!({"profile": "p", "parameters": {}});
    told(&agent, &create, &bold, "spec is the controller's")?;
    // The same for what is there, and whose spec the controller has set.
    for node in ["mine", "other"] {
        let mut object = tuning(node);
        object["spec"] = json!({"profile": "p", "parameters": {}});
        api.apply(&object)?;
    }
    told(&agent, &REPORT, &report("other"), not_other)?;
    told(&agent, &REPORT, &report("mine"), "done")?;
    told(&agent, &APPLY, &tuning("mine"), "cannot patch resource \"nodetunings\"")?;
    // A token that is of no pod.
    told(AGENT, &REPORT, &report("mine"), "the token names no node")?;
    told(AGENT, &create, &tuning("third"), "the token names no node")?;
    told(CONTROLLER, &REPORT, &report("other"), "done")?;
    told(CONTROLLER, &APPLY, &tuning("other"), "done")?;
    Ok(())
}
