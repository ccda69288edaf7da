//! The controller: looks at everything whenever something has changed, and writes what differs.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, PartialObjectMeta, Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, Resource as _};
use node_tuner_cluster::backoff::{Backoff, Why};
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
use crate::publish::{Due, Publisher};

/// Changes that come together are looked at together.
const GATHER: Duration = Duration::from_millis(200);
/// Everything is looked at at least this often.
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

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Spec,
    Conditions,
    Profile,
    Zones,
    Labels,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Spec => "spec",
            Self::Conditions => "conditions",
            Self::Profile => "status of the profile",
            Self::Zones => "zones",
            Self::Labels => "labels",
        })
    }
}

/// And of which object.
type Key = (What, String);

struct Controller {
    known: Known,
    leader: Arc<Leader>,
    profiles: Api<NodeProfile>,
    tunings: Api<NodeTuning>,
    publisher: Publisher,
    backoff: Mutex<Backoff<Key>>,
    started: Instant,
}

/// When everything is looked at again.
struct Next {
    /// At the latest, also if nothing changes.
    within: Duration,
    /// Not before, whatever changes.
    rest: Duration,
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
        backoff: Mutex::default(),
        started: Instant::now(),
    };
    tokio::spawn(Arc::clone(&leader).run());
    tokio::select! {
        () = ended => {}
        () = controller.work(&changed) => {}
    }
    tokio::time::timeout(AGAIN, leader.give_up()).await?
}

/// Whether the next call is likely to fail as well.
fn why(error: &anyhow::Error) -> Why {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) if status.code != 429 && status.code < 500 => Why::Refused,
        Some(kube::Error::SerdeError(_)) | None => Why::Refused,
        Some(_) => Why::Trouble,
    }
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
        let later = || Next { within: AGAIN, rest: GATHER };
        let mut next = later();
        loop {
            let _ = tokio::time::timeout(next.within, changed.notified()).await;
            tokio::time::sleep(next.rest).await;
            let complete = self.known.profiles.is_complete()
                && self.known.tunings.is_complete()
                && self.known.nodes.is_complete();
            next = if complete && self.leader.leads() { self.look().await } else { later() };
        }
    }

    async fn look(&self) -> Next {
        let began = self.now_ms();
        let profiles: Vec<_> =
            self.known.profiles.with(|them| them.values().map(NodeProfile::to_core).collect());
        let labels = self.known.nodes.with(Clone::clone);
        let nodes: Vec<_> = self.known.tunings.with(|them| {
            let labels = |name: &String| labels.get(name).cloned().unwrap_or_default();
            them.iter().map(|(name, tuning)| tuning.to_core(labels(name))).collect()
        });
        let decisions = reconcile::decide(&profiles, &nodes);
        let give = decisions.give.into_iter().map(|(name, given)| ((What::Spec, name), given));
        let tell = decisions.profiles.iter().filter_map(|(name, told)| {
            Some(((What::Profile, name.clone()), self.profile_status(name, told)?))
        });
        let conditions = decisions.nodes.into_iter().filter(|(name, told)| self.is_due(name, told));
        let conditions = conditions.map(|(name, told)| ((What::Conditions, name), told));
        // What nodes are given comes first; what people are told may be late.
        let mut left =
            self.each(self.may(give, usize::MAX), |name, given| async move {
                self.give(&name, given).await
            })
            .await;
        left |= self
            .each(self.may(tell, usize::MAX), |name, status| async move {
                self.tell_profile(&name, status).await
            })
            .await;
        left |= self
            .each(self.may(conditions, TOLD_AT_ONCE), |name, told| async move {
                self.tell_node(&name, &told).await
            })
            .await;
        let owner = |name: &str| self.known.tunings.with(|them| them.get(name)?.owner_ref(&()));
        match self.publisher.due(&nodes, owner).await {
            Ok(due) => {
                let due = due.into_iter().map(|due| {
                    let what =
                        if matches!(due, Due::Zones(_)) { What::Zones } else { What::Labels };
                    ((what, due.node().to_owned()), due)
                });
                left |= self
                    .each(self.may(due, TOLD_AT_ONCE), |_, due| async move {
                        self.publisher.publish(due).await
                    })
                    .await;
            }
            Err(error) => tracing::warn!("NodeResourceTopology: {error:#}"),
        }
        self.next(began, left)
    }

    /// Of `all`, what has not failed lately, and whether more than `most` is left.
    fn may<T>(&self, all: impl Iterator<Item = (Key, T)>, most: usize) -> (Vec<(Key, T)>, bool) {
        let now = self.now_ms();
        let mut all: Vec<_> =
            self.backoff(|backoff| all.filter(|(key, _)| backoff.may(key, now)).collect());
        let left = all.len() > most;
        all.truncate(most);
        (all, left)
    }

    /// After a look that `began` then; `left`: something is left to be written at once.
    fn next(&self, began: u64, left: bool) -> Next {
        let now = self.now_ms();
        let (rest, next) = self.backoff(|backoff| (backoff.round(now), backoff.next(began)));
        let within = match (left, next) {
            (true, _) => Duration::ZERO,
            (false, Some(next)) => Duration::from_millis(next.saturating_sub(now)).min(AGAIN),
            (false, None) => AGAIN,
        };
        Next { within, rest: Duration::from_millis(rest).max(GATHER) }
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

    /// Some at once, as long as this instance leads and the server can; whether something is left. What fails is tried again
    /// later.
    async fn each<T, F: Future<Output = Result<()>>>(
        &self,
        (all, left): (Vec<(Key, T)>, bool),
        act: impl Fn(String, T) -> F,
    ) -> bool {
        let left = &AtomicBool::new(left);
        let act = &act;
        stream::iter(all)
            .for_each_concurrent(AT_ONCE, |(key, one)| async move {
                if !self.leader.leads() || self.backoff(|backoff| backoff.troubles()) >= AT_ONCE {
                    left.store(true, Ordering::Relaxed);
                    return;
                }
                match act(key.1.clone(), one).await {
                    Ok(()) => self.backoff(|backoff| backoff.succeeded(&key)),
                    Err(error) => {
                        tracing::warn!("{} of {}: {error:#}", key.0, key.1);
                        let (why, now) = (why(&error), self.now_ms());
                        self.backoff(|backoff| backoff.failed(key, why, now));
                    }
                }
            })
            .await;
        left.load(Ordering::Relaxed)
    }

    fn backoff<T>(&self, look: impl FnOnce(&mut Backoff<Key>) -> T) -> T {
        look(&mut self.backoff.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
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

    /// What is to be told about a profile, and of which version of it; `None`: it says so already.
    fn profile_status(
        &self,
        name: &str,
        told: &ProfileTold,
    ) -> Option<(Option<String>, NodeProfileStatus)> {
        let before = self.known.profiles.with(|them| them.get(name).cloned())?;
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
        (status != there).then_some((before.metadata.resource_version, status))
    }

    async fn tell_profile(
        &self,
        name: &str,
        (version, status): (Option<String>, NodeProfileStatus),
    ) -> Result<()> {
        let patch = json!({
            "apiVersion": NodeProfile::api_version(&()),
            "kind": NodeProfile::kind(&()),
            "status": status,
        });
        let parameters = PatchParams::apply(CONTROLLER).force();
        let after = self.profiles.patch_status(name, &parameters, &Patch::Apply(patch)).await?;
        if let Some((name, after)) = slim(after) {
            let same = |there: &NodeProfile| there.metadata.resource_version == version;
            self.known.profiles.wrote(&name, same, after);
        }
        Ok(())
    }
}
