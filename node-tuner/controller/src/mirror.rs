//! What the API server has of one kind of objects, kept up to date; of each object only what is needed.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{Stream, StreamExt as _};
use kube::Resource;
use kube::runtime::watcher::{Error, Event};
use tokio::sync::Notify;

/// Objects by name.
#[derive(Debug)]
pub struct Mirror<V> {
    state: Mutex<State<V>>,
    /// Told of everything that matters.
    changed: Arc<Notify>,
}

#[derive(Debug)]
struct State<V> {
    objects: BTreeMap<String, V>,
    /// The objects of a list that has begun and not ended.
    listed: Option<BTreeMap<String, V>>,
    complete: bool,
    /// The latest version of any object that has been told.
    told: u64,
}

/// Versions of objects of one kind can be compared (Kubernetes says so since 1.35, and has had it so with etcd always); 0: not known.
fn version(version: Option<&str>) -> u64 {
    version.and_then(|version| version.parse().ok()).unwrap_or(0)
}

impl<V: PartialEq + Debug> Mirror<V> {
    /// Empty and not complete; `changed` is told of what comes.
    pub fn new(changed: &Arc<Notify>) -> Arc<Self> {
        let state = State { objects: BTreeMap::new(), listed: None, complete: false, told: 0 };
        Arc::new(Self { state: Mutex::new(state), changed: Arc::clone(changed) })
    }

    /// Follows `events` for ever; `keep` takes out of an object its name and what is needed.
    pub async fn follow<K: Resource>(
        self: Arc<Self>,
        kind: &'static str,
        events: impl Stream<Item = Result<Event<K>, Error>>,
        keep: impl Fn(K) -> Option<(String, V)>,
    ) {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.take(event, &keep),
                // The stream goes on by itself, and waits in between.
                Err(error) => tracing::warn!(kind, "watch: {error}"),
            }
        }
    }

    fn take<K: Resource>(&self, event: Event<K>, keep: impl Fn(K) -> Option<(String, V)>) {
        let mut state = self.lock();
        if let Event::Apply(object) | Event::InitApply(object) | Event::Delete(object) = &event {
            state.told = state.told.max(version(object.meta().resource_version.as_deref()));
        }
        let news = match event {
            Event::Init => {
                state.listed = Some(BTreeMap::new());
                false
            }
            Event::InitApply(object) => {
                if let (Some((name, value)), Some(listed)) = (keep(object), &mut state.listed) {
                    listed.insert(name, value);
                }
                false
            }
            Event::InitDone => {
                let listed = state.listed.take().unwrap_or_default();
                let news = !state.complete || listed != state.objects;
                state.objects = listed;
                state.complete = true;
                news
            }
            Event::Apply(object) => match keep(object) {
                Some((name, value)) => {
                    let news = state.objects.get(&name) != Some(&value);
                    state.objects.insert(name, value);
                    news
                }
                None => false,
            },
            Event::Delete(object) => {
                keep(object).is_some_and(|(name, _)| state.objects.remove(&name).is_some())
            }
        };
        drop(state);
        if news {
            self.changed.notify_one();
        }
    }

    /// Whether everything has been listed once.
    pub fn is_complete(&self) -> bool {
        self.lock().complete
    }

    /// What is there, while it is looked at.
    pub fn with<T>(&self, look: impl FnOnce(&BTreeMap<String, V>) -> T) -> T {
        look(&self.lock().objects)
    }

    /// What a write has made of an object counts at once, unless the watch is past that already.
    pub fn wrote(&self, name: &str, made: Option<&str>, after: V) {
        let mut state = self.lock();
        if version(made) > state.told {
            state.objects.insert(name.to_owned(), after);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn names(mirror: &Mirror<u32>) -> Vec<(String, u32)> {
        mirror.with(|objects| objects.iter().map(|(name, value)| (name.clone(), *value)).collect())
    }

    fn object(name: &str, value: u32, version: u32) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.into());
        object.metadata.resource_version = Some(version.to_string());
        object.data = Some([("value".to_owned(), value.to_string())].into());
        object
    }

    /// Not what is 100 or more.
    fn keep(object: ConfigMap) -> Option<(String, u32)> {
        let value: u32 = object.data?.get("value")?.parse().ok()?;
        Some((object.metadata.name?, value)).filter(|_| value < 100)
    }

    #[test]
    fn a_new_list_replaces_everything_at_its_end() {
        let changed = Arc::new(Notify::new());
        let mirror = Mirror::new(&changed);
        for event in [
            Event::Init,
            Event::InitApply(object("a", 1, 1)),
            Event::InitApply(object("b", 2, 2)),
            Event::InitApply(object("c", 100, 3)),
        ] {
            mirror.take(event, keep);
            assert!(!mirror.is_complete() && names(&mirror).is_empty());
        }
        mirror.take(Event::InitDone::<ConfigMap>, keep);
        assert!(mirror.is_complete());
        mirror.take(Event::Apply(object("b", 3, 4)), keep);
        mirror.take(Event::Delete(object("a", 1, 5)), keep);
        assert_eq!(names(&mirror), [("b".to_owned(), 3)]);
        mirror.take(Event::Init::<ConfigMap>, keep);
        mirror.take(Event::InitApply(object("d", 1, 6)), keep);
        assert_eq!(names(&mirror), [("b".to_owned(), 3)]);
        mirror.take(Event::InitDone::<ConfigMap>, keep);
        assert_eq!(names(&mirror), [("d".to_owned(), 1)]);
    }

    /// Whichever comes first: the answer to a write, or what the watch tells of it and of what came after.
    #[test]
    fn what_was_written_counts_until_the_watch_knows_better() {
        let mirror = Mirror::new(&Arc::new(Notify::new()));
        mirror.take(Event::Apply(object("a", 1, 10)), keep);
        mirror.wrote("a", Some("12"), 2);
        mirror.wrote("b", Some("13"), 5);
        assert_eq!(names(&mirror), [("a".to_owned(), 2), ("b".to_owned(), 5)]);
        // Somebody deletes it, and the answer to the write before comes late.
        mirror.take(Event::Apply(object("a", 3, 14)), keep);
        mirror.take(Event::Delete(object("a", 3, 16)), keep);
        mirror.wrote("a", Some("15"), 4);
        mirror.wrote("a", None, 4);
        assert_eq!(names(&mirror), [("b".to_owned(), 5)]);
    }
}
