//! The books of placement, kept up to date: what nodes have, and which pods have what.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use node_tuner_cluster::ledger::{Ledger, Placed};
use node_tuner_cluster::offer::Offer;
use node_tuner_kubernetes::{NodeTuning, pods};

/// The books.
#[derive(Debug)]
pub struct Books {
    state: Mutex<State>,
    started: Instant,
}

#[derive(Debug, Default)]
struct State {
    ledger: Ledger,
    nodes_listed: bool,
    pods_listed: bool,
}

impl Books {
    /// Empty books that are filled from now on.
    pub fn open(client: &Client) -> Arc<Self> {
        let books = Arc::new(Self { state: Mutex::default(), started: Instant::now() });
        let tunings = watcher(Api::<NodeTuning>::all(client.clone()), watcher::Config::default());
        tokio::spawn(Arc::clone(&books).nodes(tunings.default_backoff()));
        // What has no node yet holds nothing, and what has ended holds nothing any more.
        let bound = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed";
        let config = watcher::Config::default().fields(bound);
        let pods = watcher(Api::<Pod>::all(client.clone()), config);
        tokio::spawn(Arc::clone(&books).pods(pods.default_backoff()));
        books
    }

    /// The ledger, without promises that have run out; `None` as long as nodes or pods have not been listed.
    pub fn with<T>(&self, look: impl FnOnce(&mut Ledger, u64) -> T) -> Option<T> {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut state = self.lock();
        if !state.nodes_listed || !state.pods_listed {
            return None;
        }
        state.ledger.expire(now);
        Some(look(&mut state.ledger, now))
    }

    async fn nodes(
        self: Arc<Self>,
        events: impl Stream<Item = watcher::Result<Event<NodeTuning>>>,
    ) {
        let mut events = std::pin::pin!(events);
        let mut listed = BTreeSet::new();
        while let Some(event) = events.next().await {
            let mut state = self.lock();
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(tuning)) => {
                    listed.insert(tuning.metadata.name.clone().unwrap_or_default());
                    state.node(tuning);
                }
                Ok(Event::InitDone) => {
                    state.ledger.retain_nodes(&listed);
                    state.nodes_listed = true;
                }
                Ok(Event::Apply(tuning)) => state.node(tuning),
                Ok(Event::Delete(tuning)) => {
                    state.ledger.set_node(&tuning.metadata.name.unwrap_or_default(), None);
                }
                Err(error) => tracing::warn!("watch of NodeTunings: {error}"),
            }
        }
    }

    async fn pods(self: Arc<Self>, events: impl Stream<Item = watcher::Result<Event<Pod>>>) {
        let mut events = std::pin::pin!(events);
        let mut listed = BTreeSet::new();
        while let Some(event) = events.next().await {
            let mut state = self.lock();
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(pod)) => {
                    listed.insert(pod.metadata.uid.clone().unwrap_or_default());
                    state.pod(&pod);
                }
                Ok(Event::InitDone) => {
                    state.ledger.retain_pods(&listed);
                    state.pods_listed = true;
                }
                Ok(Event::Apply(pod)) => state.pod(&pod),
                Ok(Event::Delete(pod)) => {
                    state.ledger.remove_pod(&pod.metadata.uid.unwrap_or_default());
                }
                Err(error) => tracing::warn!("watch of pods: {error}"),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn node(&mut self, tuning: NodeTuning) {
        let facts = tuning.status.and_then(|status| status.characteristics);
        let offer = facts.map(|facts| Offer::of(&facts));
        self.ledger.set_node(&tuning.metadata.name.unwrap_or_default(), offer);
    }

    fn pod(&mut self, pod: &Pod) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let (Some(node), false) = (node, pods::has_ended(pod)) else {
            return self.ledger.remove_pod(uid);
        };
        // Annotations that can't be used got the pod nothing: its containers were refused.
        let Ok(Some(demand)) = pods::demand(pod) else { return };
        let placed =
            Placed { node, numa: pods::promised(pod), demand, running: pods::is_running(pod) };
        self.ledger.set_pod(uid, placed);
    }
}
