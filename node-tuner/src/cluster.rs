//! `ringway-tuner run --kubernetes`: the node's `NodeTuning` object says what the node shall be, and is told what it is and how
//! that went. Everything else is as with a profile in a file.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, watcher};
use kube::{Client, Resource as _};
use node_tuner_cluster::facts::Facts;
use node_tuner_cluster::reconcile::Told;
use node_tuner_core::cpuset::CpuSet;
use node_tuner_core::node::Node;
use node_tuner_core::plan::{Plan, Refused};
use node_tuner_kubernetes::conditions::{self, Condition, condition};
use node_tuner_kubernetes::tuning::{APPLIED, DRIFTING, REBOOT_NEEDED, VROUTER_MODE};
use node_tuner_kubernetes::{AGENT, NodeTuning, NodeTuningSpec, NodeTuningStatus, client};
use ringway_config::{AgentRules, NodeProfile};
use serde_json::json;
use tokio::sync::watch;

use crate::agent::{Agent, End, Standing};
use crate::allocator;
use crate::args::ClusterArguments;
use crate::node::Target;

/// Between two tries to reach the API server.
const RETRY: Duration = Duration::from_secs(5);

/// What the object says.
#[derive(Clone, Debug, Default, PartialEq)]
struct Wanted {
    generation: Option<i64>,
    version: Option<String>,
    spec: NodeTuningSpec,
    /// Times of conditions are kept where they do not change.
    status: NodeTuningStatus,
}

/// What was told last.
struct Sent {
    status: NodeTuningStatus,
    /// Version of the object at that time.
    version: Option<String>,
}

impl Sent {
    /// Whether there is nothing to be told: the object says so, or has not changed since it was told so.
    fn stands(&self, wanted: &Wanted, status: &NodeTuningStatus) -> bool {
        let there = &wanted.status;
        let told = |one: &Condition| conditions::find(&there.conditions, &one.kind) == Some(one);
        let says = there.observed_generation == status.observed_generation
            && there.characteristics == status.characteristics
            && there.missing_arguments == status.missing_arguments
            && there.boot_line == status.boot_line
            && status.conditions.iter().all(told);
        self.status == *status && (says || self.version == wanted.version)
    }
}

/// What became of the profile.
enum Outcome {
    /// There is none.
    Nothing,
    /// It is not applied: one word, and why.
    Not(&'static str, String),
    /// It was applied as far as `Standing` says.
    Looked(Standing, Box<Plan>),
}

/// Runs until a signal.
pub async fn run(
    target: &mut Target,
    arguments: &ClusterArguments,
    out: &mut impl Write,
) -> Result<()> {
    let name = node_name(arguments)?;
    let client = client(arguments.kubeconfig.as_deref()).await?;
    let mut end = End::on_signals()?;
    // The lock is taken before anything is said: two agents would contradict each other.
    let idle =
        NodeProfile::from_parameters("none", Default::default()).map_err(anyhow::Error::msg)?;
    let mut agent = Agent::open(target, idle, out)?;
    let (teller, mut told) = watch::channel(None);
    let watching = tokio::spawn(follow(client.clone(), name.clone(), teller));
    let outcome = tokio::select! {
        signal = end.wait() => agent.ended(signal),
        never = tend(target, &mut agent, &client, &name, &mut told) => never,
    };
    watching.abort();
    outcome
}

async fn tend(
    target: &mut Target,
    agent: &mut Agent<impl Write>,
    client: &Client,
    name: &str,
    told: &mut watch::Receiver<Option<Wanted>>,
) -> Result<()> {
    let mut sent: Option<Sent> = None;
    let mut given = None;
    loop {
        let wanted = told.borrow_and_update().clone();
        if let Some(wanted) = &wanted {
            let outcome = act(target, agent, wanted, &mut given).await?;
            // As it is after what was done.
            match target.node(&[]).await {
                Ok((_, node)) => {
                    let taken = allocator::taken(target.root()).await;
                    let status = status(&node, &taken, wanted, &outcome);
                    if !sent.as_ref().is_some_and(|sent| sent.stands(wanted, &status)) {
                        match send(client, name, &status).await {
                            Ok(()) => {
                                sent = Some(Sent { status, version: wanted.version.clone() });
                            }
                            Err(error) => {
                                agent.trouble(&error.context("telling the API server"))?
                            }
                        }
                    }
                }
                Err(error) => agent.trouble(&error)?,
            }
        }
        let interval = match (&wanted, &sent) {
            (Some(_), Some(_)) if given.is_some() => agent.interval(),
            (Some(_), Some(_)) => Duration::from_secs(u64::from(AgentRules::default().interval_s)),
            _ => RETRY,
        };
        tokio::select! {
            changed = told.changed() => changed.context("the watch has ended")?,
            () = tokio::time::sleep(interval) => {}
        }
    }
}

/// Does what the object says, and keeps it so.
async fn act(
    target: &mut Target,
    agent: &mut Agent<impl Write>,
    wanted: &Wanted,
    given: &mut Option<NodeTuningSpec>,
) -> Result<Outcome> {
    let (Some(name), Some(parameters)) = (&wanted.spec.profile, &wanted.spec.parameters) else {
        *given = None;
        return Ok(Outcome::Nothing);
    };
    let profile = match NodeProfile::from_parameters(name, parameters.clone()) {
        Ok(profile) => profile,
        Err(why) => return Ok(Outcome::Not("Refused", why)),
    };
    if given.as_ref() != Some(&wanted.spec) {
        *given = Some(wanted.spec.clone());
        if *agent.profile() != profile {
            agent.follow(profile)?;
        }
    }
    let planned = target.plan(&agent.profile().clone(), &agent.unwritable().clone()).await;
    match planned {
        Ok((node, plan)) => {
            agent.look(target, &node, &plan).await?;
            Ok(Outcome::Looked(agent.standing().clone(), Box::new(plan)))
        }
        Err(error) => {
            agent.trouble(&error)?;
            let reason = if error.is::<Refused>() { "Refused" } else { "Unreadable" };
            Ok(Outcome::Not(reason, format!("{error:#}")))
        }
    }
}

/// What is told, all of it.
fn status(node: &Node, taken: &CpuSet, wanted: &Wanted, outcome: &Outcome) -> NodeTuningStatus {
    let plan = match outcome {
        Outcome::Looked(_, plan) => Some(plan.as_ref()),
        Outcome::Nothing | Outcome::Not(..) => None,
    };
    let facts = Facts::of(node, plan.map(|plan| &plan.cpus), taken);
    let boot = plan.and_then(|plan| plan.boot.as_ref());
    let mut conditions = Vec::new();
    let mut add = |kind: &str, holds, reason, message: String| {
        let told = Told { holds, reason, message };
        conditions.push(condition(kind, &told, &wanted.status.conditions));
    };
    match outcome {
        Outcome::Nothing => {
            let message = "no profile is for this node; what an earlier one has set stays until `ringway-tuner revert`";
            add(APPLIED, false, "NoProfile", message.to_owned());
        }
        Outcome::Not(reason, why) => add(APPLIED, false, reason, why.clone()),
        Outcome::Looked(Standing { failed: Some(why), .. }, _) => {
            add(APPLIED, false, "Failed", format!("{why}; what was done was turned back"));
        }
        Outcome::Looked(standing, plan) => {
            add(
                APPLIED,
                true,
                "Applied",
                format!("profile {} is applied and read back", plan.profile),
            );
            let drifting = standing.drifting.join(", ");
            let reason = if drifting.is_empty() { "Steady" } else { "GaveUp" };
            let message = match drifting.as_str() {
                "" => "nobody changes what was set".to_owned(),
                _ => format!("somebody else keeps changing {drifting}"),
            };
            add(DRIFTING, !drifting.is_empty(), reason, message);
        }
    }
    if let Some(boot) = boot {
        let message = format!("the kernel was started without {}", boot.missing.join(" "));
        add(REBOOT_NEEDED, true, "KernelArguments", message);
    } else if plan.is_some() {
        add(
            REBOOT_NEEDED,
            false,
            "Complete",
            "the kernel was started with all arguments".to_owned(),
        );
    }
    if let Some(mode) = &wanted.spec.vrouter_mode {
        let others: Vec<&str> = facts
            .vrouters
            .iter()
            .map(|vrouter| vrouter.mode.as_str())
            .filter(|is| is != mode)
            .collect();
        let (holds, reason, message) = match (facts.vrouters.is_empty(), others.first()) {
            (true, _) => (false, "NoVrouter", "no vRouter answers".to_owned()),
            (_, Some(is)) => {
                (false, "OtherMode", format!("a vRouter runs in mode {is}, {mode} is wanted"))
            }
            (_, None) => (true, "AsWanted", format!("every vRouter runs in mode {mode}")),
        };
        add(VROUTER_MODE, holds, reason, message);
    }
    NodeTuningStatus {
        observed_generation: wanted.generation,
        characteristics: Some(facts),
        missing_arguments: boot.map(|boot| boot.missing.clone()).unwrap_or_default(),
        boot_line: boot.map(|boot| format!("{}: {}", boot.file, boot.line)),
        conditions,
    }
}

async fn send(client: &Client, name: &str, status: &NodeTuningStatus) -> Result<()> {
    let objects: Api<NodeTuning> = Api::all(client.clone());
    let patch = json!({
        "apiVersion": NodeTuning::api_version(&()),
        "kind": NodeTuning::kind(&()),
        "status": status,
    });
    objects.patch_status(name, &PatchParams::apply(AGENT).force(), &Patch::Apply(patch)).await?;
    Ok(())
}

/// Makes the object if there is none, and tells what it says, again and again.
async fn follow(client: Client, name: String, teller: watch::Sender<Option<Wanted>>) {
    let objects: Api<NodeTuning> = Api::all(client.clone());
    make(&client, &objects, &name).await;
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = watcher(objects.clone(), config).boxed();
    let mut listed = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                listed = true;
                let wanted = Wanted {
                    generation: object.metadata.generation,
                    version: object.metadata.resource_version,
                    spec: object.spec,
                    status: object.status.unwrap_or_default(),
                };
                // Our own reports come back as changes, too.
                teller.send_if_modified(|last| {
                    let same = |last: &Wanted| {
                        last.generation == wanted.generation && last.spec == wanted.spec
                    };
                    let news = !last.as_ref().is_some_and(same);
                    *last = Some(wanted);
                    news
                });
            }
            // Somebody has deleted it, perhaps while nobody watched.
            Ok(watcher::Event::Delete(_)) => make(&client, &objects, &name).await,
            Ok(watcher::Event::InitDone) if !listed => make(&client, &objects, &name).await,
            Ok(watcher::Event::Init) => listed = false,
            Ok(watcher::Event::InitDone) => {}
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// Until there is one.
async fn make(client: &Client, objects: &Api<NodeTuning>, name: &str) {
    while let Err(error) = try_to_make(client, objects, name).await {
        let _ = writeln!(
            std::io::stderr(),
            "ringway-tuner: NodeTuning {name}: {error:#}; trying again"
        );
        tokio::time::sleep(RETRY).await;
    }
}

/// The object goes with its node.
async fn try_to_make(client: &Client, objects: &Api<NodeTuning>, name: &str) -> Result<()> {
    if objects.get_opt(name).await?.is_some() {
        return Ok(());
    }
    let nodes: Api<v1::Node> = Api::all(client.clone());
    let node = nodes.get_opt(name).await?;
    let Some(node) = node else { bail!("there is no Node of that name; give --node-name") };
    let mut object = NodeTuning::new(name, NodeTuningSpec::default());
    object.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.to_owned(),
        uid: node.metadata.uid.unwrap_or_default(),
        ..OwnerReference::default()
    }]);
    objects.create(&PostParams::default(), &object).await?;
    Ok(())
}

fn node_name(arguments: &ClusterArguments) -> Result<String> {
    if let Some(name) = &arguments.node_name {
        return Ok(name.clone());
    }
    let file = "/proc/sys/kernel/hostname";
    let name = std::fs::read_to_string(file).context(file)?;
    // As kubelet does by default.
    Ok(name.trim().to_lowercase())
}
