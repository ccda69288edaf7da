//! `ringway-agents`: makes nodes in a Kubernetes API and plays their agents: each reports the same characteristics, and answers
//! what the controller gives it. One process for all of them, so that a thousand fit on a test machine.
//!
//! Changes no machine. Only the tests of the controller use it.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Resource as _, ResourceExt as _};
use node_tuner_cluster::facts::Facts;
use node_tuner_cluster::reconcile::Told;
use node_tuner_kubernetes::conditions::condition;
use node_tuner_kubernetes::tuning::{APPLIED, REBOOT_NEEDED};
use node_tuner_kubernetes::{AGENT, NodeTuning, NodeTuningSpec, NodeTuningStatus, client};
use serde_json::json;

/// Calls that are under way at once.
const AT_ONCE: usize = 16;
/// Between two tries to tell something, as a real agent has it.
const AGAIN: Duration = Duration::from_secs(5);

/// Plays the agents of many nodes.
#[derive(Debug, Parser)]
struct Arguments {
    /// How to reach the API server.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// How many nodes.
    #[arg(long)]
    count: u32,
    /// Their names are this and a number of four digits.
    #[arg(long, default_value = "sim-")]
    prefix: String,
    /// What each of them is: the JSON of `status.characteristics`.
    #[arg(long)]
    facts: PathBuf,
    /// Label of the nodes, `key=value`.
    #[arg(long)]
    label: Vec<String>,
    /// Name of a node that fails to apply whatever it is given.
    #[arg(long)]
    fail: Vec<String>,
    /// Pods on each of them: JSON of one without a name and a node.
    #[arg(long)]
    pod: Option<PathBuf>,
    /// How many.
    #[arg(long, default_value_t = 0)]
    pods: u32,
    /// Says nothing about what it is given.
    #[arg(long)]
    silent: bool,
}

struct Agents {
    arguments: Arguments,
    facts: Facts,
    pod: Option<Pod>,
    nodes: Api<Node>,
    pods: Api<Pod>,
    tunings: Api<NodeTuning>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let client = client(Some(&arguments.kubeconfig)).await?;
    let facts = std::fs::read_to_string(&arguments.facts).context("--facts")?;
    let pod = match &arguments.pod {
        Some(file) => Some(
            serde_json::from_str(&std::fs::read_to_string(file).context("--pod")?)
                .context("--pod")?,
        ),
        None => None,
    };
    let agents = Arc::new(Agents {
        facts: serde_json::from_str(&facts).context("--facts")?,
        pod,
        nodes: Api::all(client.clone()),
        pods: Api::default_namespaced(client.clone()),
        tunings: Api::all(client),
        arguments,
    });
    let all: Vec<String> = (0..agents.arguments.count)
        .map(|index| format!("{}{index:04}", agents.arguments.prefix))
        .collect();
    let agents = &agents;
    stream::iter(all)
        .map(Ok)
        .try_for_each_concurrent(AT_ONCE, |name| async move { agents.start(&name).await })
        .await?;
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    out.flush()?;
    agents.answer().await
}

impl Agents {
    /// A node, its object, and what it is.
    async fn start(&self, name: &str) -> Result<()> {
        let labels = self.arguments.label.iter().filter_map(|label| label.split_once('='));
        let cpus = self.facts.cpu.cpus.to_string();
        let resources = json!({ "cpu": cpus, "memory": "64Gi", "pods": "250" });
        let node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": name, "labels": labels.collect::<std::collections::BTreeMap<_, _>>() },
            "status": {
                "capacity": resources,
                "allocatable": resources,
                "conditions": [{ "type": "Ready", "status": "True", "reason": "Played", "message": "" }],
            },
        });
        let node: Node = serde_json::from_value(node)?;
        let node = self.nodes.create(&PostParams::default(), &node).await?;
        // A new node has a taint until a controller that is not here takes it away.
        let patch = Patch::Merge(json!({ "spec": { "taints": null } }));
        self.nodes.patch(name, &PatchParams::default(), &patch).await?;
        let mut object = NodeTuning::new(name, NodeTuningSpec::default());
        object.metadata.owner_references =
            Some(vec![node.controller_owner_ref(&()).context("uid")?]);
        let object = self.tunings.create(&PostParams::default(), &object).await?;
        self.tell(&object).await?;
        let Some(pod) = &self.pod else { return Ok(()) };
        for index in 0..self.arguments.pods {
            let mut pod = pod.clone();
            pod.metadata.name = Some(format!("{name}-{index}"));
            pod.spec.get_or_insert_default().node_name = Some(name.to_owned());
            self.pods.create(&PostParams::default(), &pod).await?;
        }
        Ok(())
    }

    async fn answer(&self) -> Result<()> {
        let events = watcher(self.tunings.clone(), watcher::Config::default()).default_backoff();
        let tunings = events.try_filter_map(|event| async {
            Ok(match event {
                Event::Apply(tuning) | Event::InitApply(tuning) => Some(tuning),
                Event::Init | Event::InitDone | Event::Delete(_) => None,
            })
        });
        tunings
            .for_each_concurrent(AT_ONCE, |tuning| async move {
                match tuning {
                    Ok(tuning) if self.is_due(&tuning) => self.tell_again(&tuning).await,
                    Ok(_) => {}
                    Err(error) => complain(&format!("watch: {error}")),
                }
            })
            .await;
        Ok(())
    }

    /// Until it is told, or there is something newer to be told.
    async fn tell_again(&self, tuning: &NodeTuning) {
        let name = tuning.name_any();
        while let Err(error) = self.tell(tuning).await {
            complain(&format!("{name}: {error:#}"));
            tokio::time::sleep(AGAIN).await;
            match self.tunings.get_opt(&name).await {
                Ok(Some(now)) if now.metadata.generation == tuning.metadata.generation => {}
                Ok(_) => return,
                Err(error) => complain(&format!("{name}: {error:#}")),
            }
        }
    }

    fn is_due(&self, tuning: &NodeTuning) -> bool {
        let ours = tuning.name_any().starts_with(&self.arguments.prefix);
        let observed = tuning.status.as_ref().and_then(|status| status.observed_generation);
        ours && !self.arguments.silent && observed != tuning.metadata.generation
    }

    async fn tell(&self, tuning: &NodeTuning) -> Result<()> {
        let name = tuning.name_any();
        let before = tuning.status.clone().unwrap_or_default().conditions;
        let add = |kind: &str, holds, reason, message: &str| {
            condition(kind, &Told { holds, reason, message: message.to_owned() }, &before)
        };
        let conditions = match &tuning.spec.profile {
            None => vec![add(APPLIED, false, "NoProfile", "no profile is for this node")],
            Some(_) if self.arguments.fail.contains(&name) => {
                vec![add(APPLIED, false, "Failed", "this node fails whatever it is given")]
            }
            Some(_) => vec![
                add(APPLIED, true, "Applied", "played"),
                add(REBOOT_NEEDED, false, "Complete", "played"),
            ],
        };
        let status = NodeTuningStatus {
            observed_generation: tuning.metadata.generation,
            characteristics: Some(self.facts.clone()),
            conditions,
            ..NodeTuningStatus::default()
        };
        let patch = json!({
            "apiVersion": NodeTuning::api_version(&()),
            "kind": NodeTuning::kind(&()),
            "status": status,
        });
        let parameters = PatchParams::apply(AGENT).force();
        self.tunings.patch_status(&name, &parameters, &Patch::Apply(patch)).await?;
        Ok(())
    }
}

fn complain(what: &str) {
    // Nothing is left to be done if stderr is closed.
    let _ = writeln!(std::io::stderr(), "ringway-agents: {what}");
}
