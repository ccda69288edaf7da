//! A hash table of which versions share what they have in common.

use alloc::sync::Arc;
use alloc::vec::Vec;

/// Slots of a page. A change copies one page (2 KiB with small values) and the list of the pages.
const PAGE_SLOTS: usize = 64;
const _: () = assert!(PAGE_SLOTS == 1 << 6);
/// Slots of a page that are taken on average before there are twice as many pages: so few that pages hardly ever
/// overflow.
const PAGE_FILL: usize = 32;

/// What a value is found by: bits, and a number that says what kind of bits they are (such as a prefix length).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub bits: u128,
    pub kind: u8,
}

#[derive(Clone, Copy, Debug)]
struct Entry<V> {
    key: Key,
    value: V,
}

type Page<V> = [Option<Entry<V>>; PAGE_SLOTS];

/// The table: pages of open addressing, chosen by a hash of the key. Only who may write to it chooses the keys in it;
/// what is looked up may be anything.
#[derive(Clone, Debug)]
pub(crate) struct Index<V> {
    /// A power of two, or none.
    pages: Vec<Arc<Page<V>>>,
    entries: usize,
}

impl Key {
    /// Multiplies the halves, each with bits of its own mixed in, and folds the product: every bit of the key
    /// decides about every bit of the hash.
    #[inline]
    fn hash(self) -> u64 {
        const LOW: u64 = 0x9e37_79b9_7f4a_7c15;
        const HIGH: u64 = 0xc2b2_ae3d_27d4_eb4f;
        let [low, high] = halves(self.bits);
        let kind = u64::from(self.kind).wrapping_mul(LOW);
        let [low, high] = halves(u128::from(low ^ HIGH) * u128::from(high ^ LOW ^ kind));
        let [low, high] = halves(u128::from(low ^ high) * u128::from(LOW));
        low ^ high
    }
}

#[inline]
fn halves(bits: u128) -> [u64; 2] {
    let bytes = bits.to_le_bytes();
    let [low, high] = *bytes.as_chunks().0 else { unreachable!("16 bytes") };
    [u64::from_le_bytes(low), u64::from_le_bytes(high)]
}

impl<V: Copy> Index<V> {
    pub fn new() -> Self {
        Self { pages: Vec::new(), entries: 0 }
    }

    /// The value of a key.
    #[inline]
    pub fn get(&self, key: Key) -> Option<V> {
        let (page, first) = self.place(key);
        let page = self.pages.get(page)?;
        for i in 0..PAGE_SLOTS {
            // The first free slot ends the search.
            let entry = page[(first + i) % PAGE_SLOTS].as_ref()?;
            if entry.key == key {
                return Some(entry.value);
            }
        }
        None
    }

    /// Sets the value of a key, or takes it away. Returns the old one.
    pub fn set(&mut self, key: Key, value: Option<V>) -> Option<V> {
        let old = self.get(key);
        match (old, value) {
            (None, None) => {}
            (_, Some(value)) => {
                if old.is_none() {
                    self.entries += 1;
                }
                while self.entries > self.pages.len() * PAGE_FILL || !self.put(Entry { key, value })
                {
                    self.grow();
                }
            }
            (Some(_), None) => {
                self.entries -= 1;
                let (page, _) = self.place(key);
                let page = &mut self.pages[page];
                let rest = page.iter().flatten().filter(|entry| entry.key != key).copied();
                let rest: Vec<_> = rest.collect();
                *page = Arc::new([None; PAGE_SLOTS]);
                for entry in rest {
                    self.put(entry);
                }
                if self.entries == 0 {
                    self.pages.clear();
                }
            }
        }
        old
    }

    /// How many keys have a value.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// The keys of some values. Looks through all.
    pub fn keys_of(&self, which: impl Fn(V) -> bool) -> Vec<Key> {
        let entries = self.pages.iter().flat_map(|page| page.iter().flatten());
        entries.filter(|entry| which(entry.value)).map(|entry| entry.key).collect()
    }

    /// Page, and first slot in it.
    #[inline]
    fn place(&self, key: Key) -> (usize, usize) {
        let hash = key.hash();
        let page = (hash >> 6) as usize & self.pages.len().wrapping_sub(1);
        (page, (hash & 0x3f) as usize)
    }

    /// Writes an entry where it belongs; false if its page is full.
    fn put(&mut self, entry: Entry<V>) -> bool {
        let (page, first) = self.place(entry.key);
        let Some(page) = self.pages.get_mut(page) else { return false };
        let slot = (0..PAGE_SLOTS)
            .map(|i| (first + i) % PAGE_SLOTS)
            .find(|at| page[*at].as_ref().is_none_or(|there| there.key == entry.key));
        let Some(slot) = slot else { return false };
        Arc::make_mut(page)[slot] = Some(entry);
        true
    }

    /// Spreads the entries over twice as many pages.
    fn grow(&mut self) {
        let old = core::mem::take(&mut self.pages);
        self.pages = (0..(old.len() * 2).max(1)).map(|_| Arc::new([None; PAGE_SLOTS])).collect();
        for entry in old.iter().flat_map(|page| page.iter().flatten()) {
            // Half of a page's entries come here, so that they have room.
            self.put(*entry);
        }
    }

    #[cfg(test)]
    pub fn shared_pages(&self, other: &Self) -> (usize, usize) {
        let same = self.pages.iter().zip(&other.pages).filter(|(a, b)| Arc::ptr_eq(a, b));
        (same.count(), self.pages.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn agrees_with_a_map_through_any_changes() {
        bolero::check!().with_type().for_each(|changes: &Vec<(u8, u8, u8, Option<u16>)>| {
            let mut index = Index::new();
            let mut map = HashMap::new();
            for (high, low, kind, value) in changes {
                let bits = u128::from(*high) << 120 | u128::from(low % 16);
                let kind = kind % 4;
                let old = match value {
                    Some(value) => map.insert((bits, kind), *value),
                    None => map.remove(&(bits, kind)),
                };
                assert_eq!(index.set(Key { bits, kind }, *value), old);
            }
            assert_eq!(index.entries, map.len());
            for (high, low, kind, _) in changes {
                for kind in [kind % 4, 4] {
                    let bits = u128::from(*high) << 120 | u128::from(low % 16);
                    assert_eq!(index.get(Key { bits, kind }), map.get(&(bits, kind)).copied());
                }
            }
        });
    }

    /// Keys as people choose them: counted up in some part of the address. Pages overflow so seldom that the table
    /// stays within twice what its fill says.
    #[test]
    fn spreads_what_is_counted_up() {
        for shift in [0, 16, 32, 48, 64, 80, 96, 104] {
            let mut index = Index::new();
            let key = |i: u32| Key { bits: u128::from(i) << shift | 0xfd << 120, kind: 128 };
            for i in 0..20_000 {
                index.set(key(i), Some(i));
            }
            assert!((0..20_000).all(|i| index.get(key(i)) == Some(i)), "shift {shift}");
            assert_eq!(index.get(key(20_000)), None);
            assert_eq!(index.pages.len(), 1024, "shift {shift}");
            let old = index.clone();
            index.set(key(7), Some(0));
            index.set(key(9), None);
            let (same, all) = index.shared_pages(&old);
            assert!(same + 2 >= all);
            assert_eq!((old.get(key(7)), old.get(key(9))), (Some(7), Some(9)));
            for i in 0..20_000 {
                index.set(key(i), None);
            }
            assert!(index.pages.is_empty());
        }
    }
}
