//! What the API server has of one kind of objects, kept up to date; of each object only what is needed.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{Stream, StreamExt as _};
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
}

impl<V: PartialEq + Debug> Mirror<V> {
    /// Empty and not complete; `changed` is told of what comes.
    pub fn new(changed: &Arc<Notify>) -> Arc<Self> {
        let state = State { objects: BTreeMap::new(), listed: None, complete: false };
        Arc::new(Self { state: Mutex::new(state), changed: Arc::clone(changed) })
    }

    /// Follows `events` for ever; `keep` takes out of an object its name and what is needed.
    pub async fn follow<K: Debug>(
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

    fn take<K>(&self, event: Event<K>, keep: impl Fn(K) -> Option<(String, V)>) {
        let mut state = self.lock();
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

    /// A write has come back before the watch tells of it: it counts at once, unless something else came in between.
    pub fn wrote(&self, name: &str, before: impl FnOnce(&V) -> bool, after: V) {
        if let Some(there) = self.lock().objects.get_mut(name)
            && before(there)
        {
            *there = after;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(mirror: &Mirror<u32>) -> Vec<(String, u32)> {
        mirror.with(|objects| objects.iter().map(|(name, value)| (name.clone(), *value)).collect())
    }

    #[test]
    fn a_new_list_replaces_everything_at_its_end() {
        let changed = Arc::new(Notify::new());
        let mirror = Mirror::new(&changed);
        let keep = |(name, value): (&str, u32)| (value < 100).then(|| (name.to_owned(), value));
        for event in [
            Event::Init,
            Event::InitApply(("a", 1)),
            Event::InitApply(("b", 2)),
            Event::InitApply(("c", 100)),
        ] {
            mirror.take(event, keep);
            assert!(!mirror.is_complete() && names(&mirror).is_empty());
        }
        mirror.take(Event::InitDone, keep);
        assert!(mirror.is_complete());
        mirror.take(Event::Apply(("b", 3)), keep);
        mirror.take(Event::Delete(("a", 1)), keep);
        assert_eq!(names(&mirror), [("b".to_owned(), 3)]);
        mirror.wrote("b", |value| *value == 3, 4);
        mirror.wrote("b", |value| *value == 3, 5);
        mirror.take(Event::Init, keep);
        mirror.take(Event::InitApply(("d", 1)), keep);
        assert_eq!(names(&mirror), [("b".to_owned(), 4)]);
        mirror.take(Event::InitDone, keep);
        assert_eq!(names(&mirror), [("d".to_owned(), 1)]);
    }
}
