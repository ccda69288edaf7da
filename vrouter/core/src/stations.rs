//! Stations behind the trunk ports of a bridged network and behind the other ends of its tunnel: who was seen where, and when.
//!
//! One table for each network with either. All workers learn into it and read from it, as the pods that speak to a
//! station may be polled by other workers than the trunk that it is behind. There is no lock, and no line that is
//! written for each packet: an entry is two words, and a station that stays where it is writes one of them at most once
//! in [`REFRESH`].
//!
//! What is read is a hint that the tables confirm: that the port is a trunk of this network now, or that there is such an
//! end. A wrong hint can cost a frame a detour within its network, never lead it out of it.

use crate::{PortIndex, Timestamp};
use alloc::boxed::Box;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU64, fence};
use vrouter_net::Mac;

/// With the ways below: 4,096 stations of one network, in 64 KiB.
const BUCKETS: usize = 512;
/// Stations with the same hash: two cache lines of them.
const WAYS: usize = 8;

/// Time in units of 2^20 ns, some milliseconds.
type Ticks = u64;
const TICK_BITS: u32 = 20;
/// A station that was silent for so long is forgotten: the default of IEEE 802.1Q, 300 s (clause 8.8.3).
pub(crate) const AGEING: Ticks = 300_000_000_000 >> TICK_BITS;
/// How old the time in an entry may get before it is written again, some 1 s.
pub(crate) const REFRESH: Ticks = 1_000_000_000 >> TICK_BITS;

/// No station has these as its key: one is no MAC address of a station, the other that of all.
const EMPTY: u64 = 0;
const CHANGING: u64 = u64::MAX;

/// See the module.
#[derive(Debug)]
pub(crate) struct Stations(Box<[Bucket; BUCKETS]>);

#[derive(Debug)]
#[repr(align(64))]
struct Bucket([Entry; WAYS]);

/// A station. `value` belongs to `key` if `key` is the same before and after `value` was read.
#[derive(Debug)]
struct Entry {
    /// The MAC address.
    key: AtomicU64,
    /// What it is behind in the upper 17 bits, below it when the station was seen last.
    value: AtomicU64,
}

/// What a station is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Behind {
    /// A trunk port.
    Port(PortIndex),
    /// Another end of the network's tunnel.
    End(EndIndex),
}

/// Slot of another end of a network's tunnel, which it keeps as long as there is that end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EndIndex(pub u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    behind: Behind,
    at: Ticks,
}

const SEEN_BITS: u32 = 47;
/// The bit above a number that says that it is an end's and not a port's.
const END: u64 = 1 << 16;

impl Seen {
    fn word(self) -> u64 {
        let number = match self.behind {
            Behind::Port(port) => u64::from(port.0),
            Behind::End(end) => END | u64::from(end.0),
        };
        number << SEEN_BITS | (self.at & ((1 << SEEN_BITS) - 1))
    }

    fn of(word: u64) -> Self {
        let number = word >> SEEN_BITS;
        let [.., high, low] = number.to_be_bytes();
        let behind = if number & END == 0 {
            Behind::Port(PortIndex(u16::from_be_bytes([high, low])))
        } else {
            Behind::End(EndIndex(low))
        };
        Self { behind, at: word & ((1 << SEEN_BITS) - 1) }
    }

    /// A clock that jumps back makes nobody old.
    fn is_old(self, now: Ticks) -> bool {
        now.saturating_sub(self.at) > AGEING
    }
}

impl Entry {
    fn new() -> Self {
        Self { key: AtomicU64::new(EMPTY), value: AtomicU64::new(0) }
    }

    /// Key and value as they were at one moment; `None` while somebody changes them.
    fn read(&self) -> Option<(u64, u64)> {
        let key = self.key.load(Acquire);
        let value = self.value.load(Relaxed);
        fence(Acquire);
        (key != CHANGING && self.key.load(Relaxed) == key).then_some((key, value))
    }

    /// Makes it another one, unless somebody else is quicker.
    fn replace(&self, before: u64, key: u64, value: u64) {
        if self.key.compare_exchange(before, CHANGING, Acquire, Relaxed).is_ok() {
            fence(Release);
            self.value.store(value, Relaxed);
            self.key.store(key, Release);
        }
    }
}

fn ticks(now: Timestamp) -> Ticks {
    now.nanoseconds() >> TICK_BITS
}

fn key(mac: Mac) -> u64 {
    let [a, b, c, d, e, f] = mac.octets();
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

impl Stations {
    pub fn new() -> Self {
        let bucket = |_| Bucket(core::array::from_fn(|_| Entry::new()));
        let buckets: Box<[Bucket]> = (0..BUCKETS).map(bucket).collect();
        let Ok(buckets) = buckets.try_into() else { unreachable!("as many as were made") };
        Self(buckets)
    }

    /// Those that are known now, to be learned into apart.
    pub fn copy(&self) -> Self {
        let copy = Self::new();
        let pairs =
            self.0.iter().zip(copy.0.iter()).flat_map(|(from, to)| from.0.iter().zip(&to.0));
        for (from, to) in pairs {
            if let Some((key, value)) = from.read() {
                to.replace(EMPTY, key, value);
            }
        }
        copy
    }

    /// Whoever chooses addresses can choose them for one bucket. What that costs others, [`victim`] bounds.
    fn bucket(&self, key: u64) -> &[Entry; WAYS] {
        let at = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55) as usize;
        const _: () = assert!(BUCKETS == 1 << (64 - 55));
        &self.0[at % BUCKETS].0
    }

    /// What a station is behind, if it was seen of late.
    pub fn find(&self, now: Timestamp, mac: Mac) -> Option<Behind> {
        let key = key(mac);
        self.bucket(key)
            .iter()
            .filter_map(Entry::read)
            .find_map(|(there, value)| (there == key).then(|| Seen::of(value)))
            .filter(|seen| !seen.is_old(ticks(now)))
            .map(|seen| seen.behind)
    }

    /// A station, whose address is no group's, sent a frame from behind something.
    pub fn learn(&self, now: Timestamp, mac: Mac, behind: Behind) {
        let (key, now) = (key(mac), ticks(now));
        let new = Seen { behind, at: now };
        let bucket = self.bucket(key);
        let mut known = [(EMPTY, Seen::of(0)); WAYS];
        let mut is_known = false;
        for (entry, known) in bucket.iter().zip(&mut known) {
            let Some((there, value)) = entry.read() else {
                // Somebody else learns into this bucket right now; the station will be heard again.
                return;
            };
            *known = (there, Seen::of(value));
            if there == key && is_known {
                // Two workers have heard of the station at the same time.
                entry.replace(key, EMPTY, 0);
            } else if there == key {
                if known.1.behind == behind && now.saturating_sub(known.1.at) < REFRESH {
                    return;
                }
                // Fails if the entry has become another one meanwhile, or is newer already.
                let _ = entry.value.compare_exchange(value, new.word(), Relaxed, Relaxed);
                is_known = true;
            }
        }
        if is_known {
            return;
        }
        let at = victim(&known, new);
        if let (Some(entry), Some((before, _))) = (bucket.get(at), known.get(at)) {
            entry.replace(*before, key, new.word());
        }
    }

    /// Forgets all stations behind a port or an end.
    pub fn forget(&self, behind: Behind) {
        for entry in self.0.iter().flat_map(|bucket| &bucket.0) {
            if let Some((key, value)) = entry.read()
                && key != EMPTY
                && Seen::of(value).behind == behind
            {
                entry.replace(key, EMPTY, 0);
            }
        }
    }

    /// Forgets a station, if it was heard from behind an end.
    pub fn forget_behind_ends(&self, mac: Mac) {
        let key = key(mac);
        for entry in self.bucket(key) {
            if let Some((there, value)) = entry.read()
                && there == key
                && matches!(Seen::of(value).behind, Behind::End(_))
            {
                entry.replace(key, EMPTY, 0);
            }
        }
    }

    /// How many stations were seen of late.
    pub fn count(&self, now: Timestamp) -> usize {
        let entries = self.0.iter().flat_map(|bucket| &bucket.0).filter_map(Entry::read);
        entries.filter(|(key, value)| *key != EMPTY && !Seen::of(*value).is_old(ticks(now))).count()
    }
}

/// Which entry of a bucket makes room for a new one: a free or an old one, else the oldest of the port or end that has
/// most, and of several such rather that of the new one itself. So no trunk and no end can push the stations of another out
/// below an equal share of the bucket, whatever addresses it invents.
fn victim(known: &[(u64, Seen); WAYS], new: Seen) -> usize {
    let unused = known.iter().position(|(key, seen)| *key == EMPTY || seen.is_old(new.at));
    unused.unwrap_or_else(|| {
        let of = |behind| known.iter().filter(|(_, seen)| seen.behind == behind).count();
        let worst = |seen: &Seen| {
            (core::cmp::Reverse(of(seen.behind)), seen.behind != new.behind, seen.behind, seen.at)
        };
        (0..WAYS).min_by_key(|at| worst(&known[*at].1)).unwrap_or(0)
    })
}

#[cfg(test)]
mod tests;
