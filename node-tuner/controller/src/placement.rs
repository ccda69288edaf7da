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
use tokio::sync::Notify;

/// Nodes and pods as far as placement goes.
#[derive(Debug)]
pub struct Books {
    state: Mutex<State>,
    started: Instant,
    news: Notify,
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
        let books = Arc::new(Self::from(State::default()));
        let tunings = watcher(Api::<NodeTuning>::all(client.clone()), watcher::Config::default());
        tokio::spawn(Arc::clone(&books).follow(tunings.default_backoff()));
        // What has no node yet holds nothing, and what has ended holds nothing any more.
        let bound = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed";
        let config = watcher::Config::default().fields(bound);
        let pods = watcher(Api::<Pod>::all(client.clone()), config);
        tokio::spawn(Arc::clone(&books).follow(pods.default_backoff()));
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

    /// Returns when the API server has told of something since the last call.
    pub async fn changed(&self) {
        self.news.notified().await;
    }

    async fn follow<E: Entry>(
        self: Arc<Self>,
        events: impl Stream<Item = watcher::Result<Event<E>>>,
    ) {
        let mut events = std::pin::pin!(events);
        let mut listed = BTreeSet::new();
        while let Some(event) = events.next().await {
            let mut state = self.lock();
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(entry)) => {
                    listed.insert(entry.id().to_owned());
                    entry.enter(&mut state);
                }
                Ok(Event::InitDone) => E::retain(&mut state, &listed),
                Ok(Event::Apply(entry)) => entry.enter(&mut state),
                Ok(Event::Delete(entry)) => entry.strike(&mut state),
                Err(error) => tracing::warn!("watch of {}: {error}", E::KIND),
            }
            drop(state);
            self.news.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is in the books.
trait Entry: Sized {
    const KIND: &'static str;
    fn id(&self) -> &str;
    /// It is so now.
    fn enter(self, state: &mut State);
    /// It is gone.
    fn strike(self, state: &mut State);
    /// These are all there are.
    fn retain(state: &mut State, ids: &BTreeSet<String>);
}

impl Entry for NodeTuning {
    const KIND: &'static str = "NodeTunings";

    fn id(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    fn enter(self, state: &mut State) {
        let facts = self.status.as_ref().and_then(|status| status.characteristics.as_ref());
        state.ledger.set_node(self.id(), facts.map(Offer::of));
    }

    fn strike(self, state: &mut State) {
        state.ledger.set_node(self.id(), None);
    }

    fn retain(state: &mut State, names: &BTreeSet<String>) {
        state.ledger.retain_nodes(names);
        state.nodes_listed = true;
    }
}

impl Entry for Pod {
    const KIND: &'static str = "pods";

    fn id(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    fn enter(self, state: &mut State) {
        let node = self.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let (Some(node), false) = (node, pods::has_ended(&self)) else {
            return state.ledger.remove_pod(self.id());
        };
        // Annotations that can't be used got the pod nothing: its containers were refused.
        let Ok(Some(demand)) = pods::demand(&self) else { return };
        let (numa, running) = (pods::promised(&self), pods::is_running(&self));
        state.ledger.set_pod(self.id(), Placed { node, numa, demand, running });
    }

    fn strike(self, state: &mut State) {
        state.ledger.remove_pod(self.id());
    }

    fn retain(state: &mut State, uids: &BTreeSet<String>) {
        state.ledger.retain_pods(uids);
        state.pods_listed = true;
    }
}

/// Books of what is known, and does not change by itself.
impl From<Ledger> for Books {
    fn from(ledger: Ledger) -> Self {
        let state = State { ledger, nodes_listed: true, pods_listed: true };
        Self::from(state)
    }
}

impl From<State> for Books {
    fn from(state: State) -> Self {
        Self { state: Mutex::new(state), started: Instant::now(), news: Notify::new() }
    }
}
