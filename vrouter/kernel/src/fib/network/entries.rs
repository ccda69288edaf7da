//! The routes of one prefix, in the order in which the kernel tries them.

use super::How;
use super::{PathId, Prefix};
use std::cmp::Reverse;

/// One route of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Entry {
    pub metric: u32,
    pub path: PathId,
    pub tos: u8,
    /// Of the tables that are asked one after the other.
    pub rank: u8,
    /// How many more the kernel has that are the same in everything: `ip -6 route replace` makes them where the one it
    /// replaces is not the one that is like the new.
    pub twins: u8,
    /// Whether a dump has said it, so that the same said again by that dump is a twin; any other may have been heard before.
    pub dumped: bool,
}

impl Entry {
    /// Whether it is the same route.
    pub fn is(&self, other: &Self) -> bool {
        (self.class(), self.path) == (other.class(), other.path)
    }

    /// How many routes of the kernel it stands for.
    pub fn routes(&self) -> usize {
        1 + usize::from(self.twins)
    }

    /// Routes of one class are told apart by their paths only.
    fn class(&self) -> (u8, Reverse<u8>, u32) {
        (self.rank, Reverse(self.tos), self.metric)
    }
}

/// Few prefixes have more than one route, and there may be a million prefixes.
#[derive(Default)]
pub(super) enum Entries {
    #[default]
    None,
    One(Entry),
    // Not a boxed slice: its length would make all the others larger.
    #[expect(clippy::box_collection, reason = "8 bytes instead of 24 in each of a million nodes")]
    More(Box<Vec<Entry>>),
}

impl Entries {
    pub fn as_slice(&self) -> &[Entry] {
        match self {
            Self::None => &[],
            Self::One(entry) => std::slice::from_ref(entry),
            Self::More(entries) => entries,
        }
    }

    pub fn edit<T>(&mut self, edit: impl FnOnce(&mut Vec<Entry>) -> T) -> T {
        let mut entries = match std::mem::take(self) {
            Self::None => Vec::new(),
            Self::One(entry) => vec![entry],
            Self::More(entries) => *entries,
        };
        let result = edit(&mut entries);
        *self = match entries[..] {
            [] => Self::None,
            [entry] => Self::One(entry),
            _ => Self::More(Box::new(entries)),
        };
        result
    }
}

/// Takes one route away: an entry, or one of several that it stands for.
pub(super) fn take_one(entries: &mut Vec<Entry>, at: usize) -> Entry {
    let entry = &mut entries[at];
    match entry.twins.checked_sub(1) {
        Some(rest) => {
            entry.twins = rest;
            *entry
        }
        None => entries.remove(at),
    }
}

/// What of an IPv6 path decides which other one it joins or replaces.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Sort {
    /// Routes for other sources are in another tree.
    pub from: Option<Prefix>,
    /// Whether it is one of those that join into several ways.
    pub joins: bool,
}

/// How the kernel puts a route among the others of its prefix.
pub(super) struct Placing<S> {
    /// The sort of a path.
    pub sort: S,
    pub v6: bool,
}

impl<S: Fn(PathId) -> Option<Sort>> Placing<S> {
    /// Puts `new` among `entries`. Returns the route that made room for it: another one, or the very same that was
    /// there already, as what is dumped may be said again.
    pub fn place(&self, entries: &mut Vec<Entry>, new: Entry, how: How) -> Option<Entry> {
        let class = new.class();
        let start = entries.partition_point(|entry| entry.class() < class);
        let mut end = entries.partition_point(|entry| entry.class() <= class);
        let same = entries[start..end].iter().position(|entry| entry.is(&new));
        let replaced = if self.v6 {
            self.replaced6(&entries[start..end], new, how)
        } else {
            (how == How::Replaced && start < end).then_some(0)
        };
        if let Some(at) = same {
            let twin = match how {
                How::Dumped => entries[start + at].dumped,
                How::Replaced => self.v6 && replaced.is_some_and(|other| other != at),
                How::Added | How::Appended => false,
            };
            let entry = &mut entries[start + at];
            entry.dumped |= new.dumped;
            if twin {
                entry.twins = entry.twins.saturating_add(1);
            }
            // Dumped ones come in order: this one is the last so far.
            if how == How::Dumped {
                entries[start + at..end].rotate_left(1);
            }
            return match replaced {
                Some(other) if twin => Some(take_one(entries, start + other)),
                _ => (!twin).then_some(new),
            };
        }
        if let Some(at) = replaced {
            let replaced = take_one(entries, start + at);
            entries.insert(start + at, new);
            return Some(replaced);
        }
        // `fib_insert_alias` puts an IPv4 route before those like it unless it is appended, `fib6_add_rt2node` behind.
        if !self.v6 && matches!(how, How::Added | How::Replaced) {
            end = start;
        }
        entries.insert(end, new);
        None
    }

    /// Which of an IPv6 route's class it takes the place of. What is said of one of several ways says them all.
    fn replaced6(&self, class: &[Entry], new: Entry, how: How) -> Option<usize> {
        let sort = (self.sort)(new.path)?;
        let first = |like: &dyn Fn(Sort) -> bool| {
            class.iter().position(|entry| (self.sort)(entry.path).is_some_and(like))
        };
        let alike = first(&|other| other == sort);
        match how {
            How::Replaced => alike.or_else(|| first(&|other| other.from == sort.from)),
            How::Added | How::Appended => alike.filter(|_| sort.joins),
            How::Dumped => None,
        }
    }
}
