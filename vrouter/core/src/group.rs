//! Several ways to one destination, and which of them a flow takes.

use crate::NextHop;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};

/// Flows are told apart by so many buckets. A way's share of them is right but for chance: of 16 ways each has 64 with a
/// standard deviation of 8, of two 512 with one of 16.
const BUCKETS: usize = 1 << BUCKET_BITS;
const BUCKET_BITS: u32 = 10;
/// Most ways, so that each has a number of one byte. What is above is left out.
const MOST: usize = 256;

/// One way of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// Who it leads over, whatever comes and goes beside it.
    pub who: u64,
    /// Its share beside the others'; not zero.
    pub weight: u32,
    /// A port or a tunnel.
    pub hop: NextHop,
}

/// Several ways to one destination, two at least. Each bucket of flows belongs to one of them.
///
/// Rendezvous hashing: to each bucket every way makes a bid that depends on nothing but the two and the way's weight, and
/// the lowest has it. So the buckets of a way that goes are the only ones that move, and they move back when it comes
/// back; nobody has to remember anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Sorted by who they are, each once.
    ways: Vec<Way>,
    /// For each bucket the way.
    buckets: [u8; BUCKETS],
}

impl Group {
    /// The next hop over all these ways. `old`: what it was before, which is kept if it is the same.
    pub(crate) fn next_hop(mut ways: Vec<Way>, old: &NextHop) -> NextHop {
        ways.sort_by_key(|way| way.who);
        ways.dedup_by(|way, before| {
            let same = way.who == before.who;
            if same {
                before.weight = before.weight.saturating_add(way.weight);
            }
            same
        });
        ways.truncate(MOST);
        match (ways.as_slice(), old) {
            ([], _) => NextHop::Unreachable,
            ([way], _) => way.hop.clone(),
            (ways, NextHop::Multipath(old)) if old.ways == ways => NextHop::Multipath(old.clone()),
            _ => NextHop::Multipath(Arc::new(Self::new(ways))),
        }
    }

    fn new(ways: Vec<Way>) -> Self {
        let mut buckets = [0; BUCKETS];
        for (bucket, chosen) in buckets.iter_mut().zip(0..) {
            let bucket: &mut u8 = bucket;
            let number: u64 = chosen;
            let mut best: Option<(u8, u64, u64)> = None;
            for (way, at) in ways.iter().zip(0..=u8::MAX) {
                let (bid, weight) = (bid(number, way.who), u64::from(way.weight));
                // The lowest bid for its weight; without fractions.
                if best.is_none_or(|(_, least, its)| bid * its < least * weight) {
                    best = Some((at, bid, weight));
                }
            }
            *bucket = best.map_or(0, |(at, ..)| at);
        }
        Self { ways, buckets }
    }

    /// The ways.
    pub(crate) fn ways(&self) -> &[Way] {
        &self.ways
    }

    /// The way that a flow takes: a port or a tunnel.
    #[inline]
    pub fn choose(&self, flow: u32) -> &NextHop {
        let bucket = (flow >> (u32::BITS - BUCKET_BITS)) as usize;
        let way = self.buckets.get(bucket).and_then(|way| self.ways.get(usize::from(*way)));
        way.map_or(&NextHop::Unreachable, |way| &way.hop)
    }

    /// How many buckets each way has, in the order of its next hops here.
    pub fn shares(&self) -> impl Iterator<Item = (&NextHop, usize)> {
        self.ways.iter().zip(0..=u8::MAX).map(|(way, at)| {
            (&way.hop, self.buckets.iter().filter(|bucket| **bucket == at).count())
        })
    }
}

/// What a way bids for a bucket: an exponentially distributed number, so that the lowest of those divided by weights is
/// each one's as often as its weight says. Below 2^23.
fn bid(bucket: u64, who: u64) -> u64 {
    const FRACTION_BITS: u32 = 16;
    let random = mix(who ^ mix(bucket.wrapping_add(0x9e37_79b9_7f4a_7c15))) | 1;
    // The negative logarithm to base 2 of `random` / 2^64: the whole part is the leading zeros, the bits of the fraction
    // come from squaring what is behind them, which lies between 1 and 2.
    let whole = u64::from(random.leading_zeros());
    let mut mantissa = (random << random.leading_zeros()) >> 32;
    let mut fraction = 0;
    for _ in 0..FRACTION_BITS {
        let square = (mantissa * mantissa) >> 31;
        let bit = square >> 32;
        fraction = fraction << 1 | bit;
        mantissa = square >> bit;
    }
    ((whole + 1) << FRACTION_BITS) - fraction
}

/// Every bit of the result depends on every bit of the argument (the finalizer of SplitMix64).
fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// The same number for the same thing, in every process: FNV-1a, mixed.
pub(crate) fn identity(of: &impl Hash) -> u64 {
    struct Fnv(u64);
    impl Hasher for Fnv {
        fn finish(&self) -> u64 {
            mix(self.0)
        }

        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    of.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
