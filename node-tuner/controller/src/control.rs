//! The controller: looks at everything whenever something has changed, and writes what differs.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, PartialObjectMeta, Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, Resource as _};
use node_tuner_cluster::reconcile::{self, Given, NodeTold, ProfileTold, Told};
use node_tuner_kubernetes::conditions::{self, condition};
use node_tuner_kubernetes::tuning::{RESOLVED, SELECTED};
use node_tuner_kubernetes::{
    CONTROLLER, NodeProfile, NodeProfileStatus, NodeTuning, NodeTuningSpec, written,
};
use serde_json::json;
use tokio::sync::Notify;

use crate::args::RunArguments;
use crate::leader::Leader;
use crate::mirror::Mirror;
use crate::publish::Publisher;

/// Changes that come together are looked at together.
const GATHER: Duration = Duration::from_millis(200);
/// What failed is tried again at least this often.
const AGAIN: Duration = Duration::from_secs(30);
/// Writes that are under way at once.
const AT_ONCE: usize = 16;
/// Of what people and other schedulers are told, so much at one look: the next nodes do not wait for all of it.
const TOLD_AT_ONCE: usize = 64;

/// All that is known.
#[derive(Debug)]
pub struct Known {
    pub profiles: Arc<Mirror<NodeProfile>>,
    pub tunings: Arc<Mirror<NodeTuning>>,
    /// Labels.
    pub nodes: Arc<Mirror<BTreeMap<String, String>>>,
}

struct Controller {
    known: Known,
    leader: Arc<Leader>,
    profiles: Api<NodeProfile>,
    tunings: Api<NodeTuning>,
    publisher: Publisher,
}

/// Runs until `ended`.
pub async fn run(
    client: Client,
    arguments: &RunArguments,
    ended: impl Future<Output = ()>,
) -> Result<()> {
    let changed = Arc::new(Notify::new());
    let leader = Leader::new(&client, arguments, &changed);
    let controller = Controller {
        known: watch(&client, &changed),
        leader: Arc::clone(&leader),
        profiles: Api::all(client.clone()),
        tunings: Api::all(client.clone()),
        publisher: Publisher::new(client),
    };
    tokio::spawn(Arc::clone(&leader).run());
    tokio::select! {
        () = ended => {}
        () = controller.work(&changed) => {}
    }
    tokio::time::timeout(AGAIN, leader.give_up()).await?
}

/// Objects without what only API servers need.
fn slim<K: kube::Resource>(mut object: K) -> Option<(String, K)> {
    object.meta_mut().managed_fields = None;
    let name = object.meta().name.clone()?;
    Some((name, object))
}

fn watch(client: &Client, changed: &Arc<Notify>) -> Known {
    let known = Known {
        profiles: Mirror::new(changed),
        tunings: Mirror::new(changed),
        nodes: Mirror::new(changed),
    };
    let config = watcher::Config::default;
    let profiles = watcher(Api::<NodeProfile>::all(client.clone()), config()).default_backoff();
    tokio::spawn(Arc::clone(&known.profiles).follow("NodeProfile", profiles, slim));
    let tunings = watcher(Api::<NodeTuning>::all(client.clone()), config()).default_backoff();
    tokio::spawn(Arc::clone(&known.tunings).follow("NodeTuning", tunings, slim));
    let nodes =
        watcher(Api::<PartialObjectMeta<Node>>::all(client.clone()), config()).default_backoff();
    let labels = |node: PartialObjectMeta<Node>| {
        Some((node.metadata.name?, node.metadata.labels.unwrap_or_default()))
    };
    tokio::spawn(Arc::clone(&known.nodes).follow("Node", nodes, labels));
    known
}

impl Controller {
    async fn work(&self, changed: &Notify) {
        loop {
            let _ = tokio::time::timeout(AGAIN, changed.notified()).await;
            tokio::time::sleep(GATHER).await;
            let complete = self.known.profiles.is_complete()
                && self.known.tunings.is_complete()
                && self.known.nodes.is_complete();
            if complete && self.leader.leads() && self.look().await {
                changed.notify_one();
            }
        }
    }

    /// Whether something is left for the next look.
    async fn look(&self) -> bool {
        let profiles: Vec<_> =
            self.known.profiles.with(|them| them.values().map(NodeProfile::to_core).collect());
        let labels = self.known.nodes.with(Clone::clone);
        let nodes: Vec<_> = self.known.tunings.with(|them| {
            let labels = |name: &String| labels.get(name).cloned().unwrap_or_default();
            them.iter().map(|(name, tuning)| tuning.to_core(labels(name))).collect()
        });
        let decisions = reconcile::decide(&profiles, &nodes);
        // What nodes are given comes first; what people are told may be late.
        self.each(decisions.give, |(name, given)| async move { self.give(&name, given).await })
            .await;
        self.each(decisions.profiles, |(name, told)| async move {
            self.tell_profile(&name, &told).await
        })
        .await;
        let mut due: Vec<_> =
            decisions.nodes.into_iter().filter(|(name, told)| self.is_due(name, told)).collect();
        let mut left = due.len() > TOLD_AT_ONCE;
        due.truncate(TOLD_AT_ONCE);
        self.each(due, |(name, told)| async move { self.tell_node(&name, &told).await }).await;
        let owner = |name: &str| self.known.tunings.with(|them| them.get(name)?.owner_ref(&()));
        let publish = self.publisher.due(&nodes, owner).await;
        match publish {
            Ok(mut due) => {
                left |= due.len() > TOLD_AT_ONCE;
                due.truncate(TOLD_AT_ONCE);
                self.each(due, |due| async move { self.publisher.publish(due).await }).await;
            }
            Err(error) => tracing::warn!("NodeResourceTopology: {error:#}"),
        }
        left
    }

    fn is_due(&self, name: &str, told: &NodeTold) -> bool {
        self.known.tunings.with(|them| {
            let Some(tuning) = them.get(name) else { return false };
            let there = tuning.status.as_ref().map_or(&[][..], |status| &status.conditions);
            let differs = |kind: &str, told: &Told| {
                let wanted = condition(kind, told, there);
                conditions::find(there, kind) != Some(&wanted)
            };
            let stale = told.resolved.is_none() && conditions::find(there, RESOLVED).is_some();
            let resolved = told.resolved.as_ref().is_some_and(|told| differs(RESOLVED, told));
            stale || resolved || differs(SELECTED, &told.selected)
        })
    }

    /// One after the other, some at once, as long as this instance leads. What fails is tried again with the next look.
    async fn each<T, F: Future<Output = Result<()>>>(
        &self,
        all: impl IntoIterator<Item = T>,
        act: impl Fn(T) -> F,
    ) {
        let act = &act;
        stream::iter(all)
            .for_each_concurrent(AT_ONCE, |one| async move {
                if !self.leader.leads() {
                    return;
                }
                if let Err(error) = act(one).await {
                    tracing::warn!("{error:#}");
                }
            })
            .await;
    }

    async fn give(&self, name: &str, given: Option<Given>) -> Result<()> {
        let found = self.known.tunings.with(|them| {
            let metadata = &them.get(name)?.metadata;
            Some((metadata.resource_version.clone(), metadata.uid.clone()))
        });
        let Some((version, uid)) = found else { return Ok(()) };
        tracing::info!(node = name, profile = given.as_ref().map(|given| &given.profile), "given");
        let spec = given.map_or_else(NodeTuningSpec::default, NodeTuningSpec::from);
        // With the uid, an object that has gone in between is not made anew.
        let patch = json!({
            "apiVersion": NodeTuning::api_version(&()),
            "kind": NodeTuning::kind(&()),
            "metadata": { "name": name, "uid": uid },
            "spec": written(&spec)?,
        });
        let parameters = PatchParams::apply(CONTROLLER).force();
        let after = self.tunings.patch(name, &parameters, &Patch::Apply(patch)).await?;
        self.wrote(version.as_ref(), after);
        Ok(())
    }

    async fn tell_node(&self, name: &str, told: &NodeTold) -> Result<()> {
        let found = self.known.tunings.with(|them| {
            let tuning = them.get(name)?;
            let conditions = tuning.status.as_ref().map(|status| status.conditions.clone());
            Some((tuning.metadata.resource_version.clone(), conditions.unwrap_or_default()))
        });
        let Some((version, there)) = found else { return Ok(()) };
        let mut wanted = vec![condition(SELECTED, &told.selected, &there)];
        wanted.extend(told.resolved.as_ref().map(|told| condition(RESOLVED, told, &there)));
        let patch = json!({
            "apiVersion": NodeTuning::api_version(&()),
            "kind": NodeTuning::kind(&()),
            "status": { "conditions": wanted },
        });
        let parameters = PatchParams::apply(CONTROLLER).force();
        let after = self.tunings.patch_status(name, &parameters, &Patch::Apply(patch)).await?;
        self.wrote(version.as_ref(), after);
        Ok(())
    }

    fn wrote(&self, version: Option<&String>, after: NodeTuning) {
        if let Some((name, after)) = slim(after) {
            let same = |there: &NodeTuning| there.metadata.resource_version.as_ref() == version;
            self.known.tunings.wrote(&name, same, after);
        }
    }

    async fn tell_profile(&self, name: &str, told: &ProfileTold) -> Result<()> {
        let Some(before) = self.known.profiles.with(|them| them.get(name).cloned()) else {
            return Ok(());
        };
        let there = before.status.clone().unwrap_or_default();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let status = NodeProfileStatus {
            observed_generation: before.metadata.generation.unwrap_or_default(),
            nodes: count(told.nodes),
            done: count(told.done),
            underway: told.underway.clone(),
            failed: told.failed.clone(),
            refused: told.refused.clone(),
            reboot_needed: told.reboot.clone(),
            conditions: vec![
                condition("Accepted", &told.accepted, &there.conditions),
                condition("Complete", &told.complete, &there.conditions),
            ],
        };
        if status == there {
            return Ok(());
        }
        let patch = json!({
            "apiVersion": NodeProfile::api_version(&()),
            "kind": NodeProfile::kind(&()),
            "status": status,
        });
        let parameters = PatchParams::apply(CONTROLLER).force();
        let after = self.profiles.patch_status(name, &parameters, &Patch::Apply(patch)).await?;
        let version = before.metadata.resource_version;
        if let Some((name, after)) = slim(after) {
            let same = |there: &NodeProfile| there.metadata.resource_version == version;
            self.known.profiles.wrote(&name, same, after);
        }
        Ok(())
    }
}
