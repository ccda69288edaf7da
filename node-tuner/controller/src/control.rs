//! The controller: looks at everything whenever something has changed, and writes what differs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
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
    CONTROLLER, NodeProfile, NodeProfileStatus, NodeResourceTopology, NodeTuning, NodeTuningSpec,
    written,
};
use serde::Serialize;
use serde_json::json;
use tokio::sync::Notify;

use crate::args::RunArguments;
use crate::leader::Leader;
use crate::mirror::Mirror;
use crate::publish::{Due, Publisher, Zones};

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
struct Known {
    profiles: Arc<Mirror<NodeProfile>>,
    tunings: Arc<Mirror<NodeTuning>>,
    /// Labels.
    nodes: Arc<Mirror<BTreeMap<String, String>>>,
    /// What other schedulers read. Nothing else waits for these.
    zones: Arc<Mirror<Zones>>,
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
    /// Hashes of what was written last.
    last: Mutex<BTreeMap<Key, u64>>,
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
///
/// # Errors
/// When the lease cannot be given up.
pub async fn run(
    client: Client,
    arguments: &RunArguments,
    ended: impl Future<Output = ()>,
) -> Result<()> {
    let changed = Arc::new(Notify::new());
    let leader = Leader::new(&client, arguments, &changed);
    let known = watch(&client, &changed);
    let (zones, labels) = (Arc::clone(&known.zones), Arc::clone(&known.nodes));
    let controller = Controller {
        known,
        leader: Arc::clone(&leader),
        profiles: Api::all(client.clone()),
        tunings: Api::all(client.clone()),
        publisher: Publisher::new(client, zones, labels),
        backoff: Mutex::default(),
        last: Mutex::default(),
        started: Instant::now(),
    };
    let leading = tokio::spawn(Arc::clone(&leader).run());
    tokio::select! {
        () = ended => {}
        () = controller.work(&changed) => {}
    }
    // A renewal in between would be in the way.
    leading.abort();
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

/// Of what is written. What cannot be made text of is not written either.
fn hash(content: &impl Serialize) -> u64 {
    let mut hasher = DefaultHasher::new();
    serde_json::to_vec(content).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
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
        zones: Mirror::new(changed),
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
    let all = Api::<NodeResourceTopology>::all(client.clone());
    let topologies = watcher(all, config()).default_backoff();
    let zones = |mut it: NodeResourceTopology| Some((it.metadata.name.take()?, Zones::of(it)));
    tokio::spawn(Arc::clone(&known.zones).follow("NodeResourceTopology", topologies, zones));
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
        let due = self.publisher.due(&nodes, owner).into_iter().map(|due| {
            let what = if matches!(due, Due::Zones(_)) { What::Zones } else { What::Labels };
            ((what, due.node().to_owned()), due)
        });
        left |=
            self.each(self.may(due, TOLD_AT_ONCE), |_, due| async move {
                self.publisher.publish(due).await
            })
            .await;
        let names = nodes.iter().map(|node| node.name.as_str());
        let names = names.chain(profiles.iter().map(|profile| profile.name.as_str()));
        let there: BTreeSet<&str> = names.collect();
        self.last(|last| last.retain(|(_, name), _| there.contains(name.as_str())));
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
    /// later, and so is what does not stay as it was written.
    async fn each<T: Serialize, F: Future<Output = Result<()>>>(
        &self,
        (all, left): (Vec<(Key, T)>, bool),
        act: impl Fn(String, T) -> F,
    ) -> bool {
        let left = &AtomicBool::new(left);
        let act = &act;
        stream::iter(all)
            .for_each_concurrent(AT_ONCE, |(key, one)| async move {
                // What is under way by then is all that a server in trouble is asked at one look.
                if !self.leader.leads() || self.backoff(|backoff| backoff.troubles()) > 0 {
                    left.store(true, Ordering::Relaxed);
                    return;
                }
                let content = hash(&one);
                match act(key.1.clone(), one).await {
                    Ok(()) => {
                        let before = self.last(|last| last.insert(key.clone(), content));
                        let now = self.now_ms();
                        self.backoff(|backoff| match before == Some(content) {
                            true => backoff.repeated(key, now),
                            false => backoff.succeeded(&key),
                        });
                    }
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

    fn last<T>(&self, look: impl FnOnce(&mut BTreeMap<Key, u64>) -> T) -> T {
        look(&mut self.last.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn give(&self, name: &str, given: Option<Given>) -> Result<()> {
        let found = self.known.tunings.with(|them| Some(them.get(name)?.metadata.uid.clone()));
        let Some(uid) = found else { return Ok(()) };
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
        self.wrote(after);
        Ok(())
    }

    async fn tell_node(&self, name: &str, told: &NodeTold) -> Result<()> {
        let found = self.known.tunings.with(|them| {
            let tuning = them.get(name)?;
            let conditions = tuning.status.as_ref().map(|status| status.conditions.clone());
            Some(conditions.unwrap_or_default())
        });
        let Some(there) = found else { return Ok(()) };
        let mut wanted = vec![condition(SELECTED, &told.selected, &there)];
        wanted.extend(told.resolved.as_ref().map(|told| condition(RESOLVED, told, &there)));
        let patch = json!({
            "apiVersion": NodeTuning::api_version(&()),
            "kind": NodeTuning::kind(&()),
            "status": { "conditions": wanted },
        });
        let parameters = PatchParams::apply(CONTROLLER).force();
        let after = self.tunings.patch_status(name, &parameters, &Patch::Apply(patch)).await?;
        self.wrote(after);
        Ok(())
    }

    fn wrote(&self, after: NodeTuning) {
        let version = after.metadata.resource_version.clone();
        if let Some((name, after)) = slim(after) {
            self.known.tunings.wrote(&name, version.as_deref(), after);
        }
    }

    /// What is to be told about a profile; `None`: it says so already.
    fn profile_status(&self, name: &str, told: &ProfileTold) -> Option<NodeProfileStatus> {
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
        (status != there).then_some(status)
    }

    async fn tell_profile(&self, name: &str, status: NodeProfileStatus) -> Result<()> {
        let patch = json!({
            "apiVersion": NodeProfile::api_version(&()),
            "kind": NodeProfile::kind(&()),
            "status": status,
        });
        let parameters = PatchParams::apply(CONTROLLER).force();
        let after = self.profiles.patch_status(name, &parameters, &Patch::Apply(patch)).await?;
        let version = after.metadata.resource_version.clone();
        if let Some((name, after)) = slim(after) {
            self.known.profiles.wrote(&name, version.as_deref(), after);
        }
        Ok(())
    }
}
