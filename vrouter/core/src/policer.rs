//! A limit on what a port sends.

use crate::{DropReason, Packet, Timestamp, Verdict};
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

/// What a port may send; `None`: no limit of this kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Packets per second; zero counts as one.
    pub packets: Option<Rate>,
    /// Bits per second of Ethernet frames without preamble and frame check sequence; zero counts as one.
    pub bits: Option<Rate>,
}

impl Rates {
    /// Whether there is no limit at all.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// If frames with the largest packet of a network never pass: the smallest burst of bits that lets them.
    pub fn too_small_for(&self, mtu: u16) -> Option<u64> {
        // IEEE 802.1Q tags count, too.
        let frame = (u64::from(mtu) + 18) * 8;
        let small = self.packets.is_some_and(|rate| rate.burst == 0)
            || self.bits.is_some_and(|rate| rate.burst < frame);
        small.then_some(frame)
    }
}

/// A rate and the burst above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units per second in the long run.
    pub per_second: u64,
    /// Units at once after a rest. Nothing larger ever passes.
    pub burst: u64,
}

/// Two token buckets of one port, for all its packets and bits. Time is an argument.
///
/// All workers that take packets from the port share them, so that the rates are the port's, however many queues it
/// has and whoever polls them. There is no lock: each bucket is one word, changed once for each burst that it holds as
/// a whole, and again for each packet of a burst that it does not. Where one worker polls the port, as is usual, the
/// line with the words stays in its cache.
///
/// A worker whose clock is behind another's takes from the same buckets; what it is behind by is not given twice.
#[derive(Debug)]
#[repr(align(64))]
pub struct Policer {
    packets: Bucket,
    bits: Bucket,
}

/// Time in units of 2^-6 nanoseconds: 9 years in a word. A bit at 100 Gbit/s takes less than one, but what is taken at
/// once, a frame at least, is rounded as a whole, to less than 0.4 % of the shortest.
type Fine = u64;
const FINE_BITS: u32 = 6;

/// Kept as the moment at which it would be full again, as for [`crate::IcmpLimiter`].
#[derive(Debug)]
struct Bucket {
    /// Time until one unit is back, in units of 2^-32 nanoseconds; zero without a limit.
    unit: u64,
    /// Time until an empty bucket is full.
    depth: Fine,
    full_at: AtomicU64,
}

impl Bucket {
    fn new(rate: Option<Rate>) -> Self {
        const SECOND: u64 = 1_000_000_000 << 32;
        let unit = rate.map_or(0, |rate| SECOND.div_ceil(rate.per_second.max(1)));
        let depth = rate.map_or(0, |rate| u128::from(unit) * u128::from(rate.burst));
        let depth = depth.div_ceil(1 << (32 - FINE_BITS));
        Self { unit, depth: Fine::try_from(depth).unwrap_or(Fine::MAX), full_at: AtomicU64::new(0) }
    }

    #[inline]
    fn cost(&self, units: u64) -> Fine {
        let cost = (u128::from(self.unit) * u128::from(units)) >> (32 - FINE_BITS);
        Fine::try_from(cost).unwrap_or(Fine::MAX)
    }

    /// Takes these units if it holds so many.
    #[inline]
    fn take(&self, now: Fine, units: u64) -> bool {
        let cost = self.cost(units);
        let latest = now.saturating_add(self.depth);
        let take = |full_at: Fine| {
            let after = full_at.max(now).saturating_add(cost);
            (after <= latest).then_some(after)
        };
        self.unit == 0 || self.full_at.fetch_update(Relaxed, Relaxed, take).is_ok()
    }

    /// Gives back what has just been taken.
    #[cold]
    fn give_back(&self, units: u64) {
        let cost = self.cost(units);
        let give = |full_at: Fine| Some(full_at.saturating_sub(cost));
        let _ = self.full_at.fetch_update(Relaxed, Relaxed, give);
    }
}

impl Policer {
    /// Both buckets are full at first.
    pub fn new(rates: Rates) -> Self {
        Self { packets: Bucket::new(rates.packets), bits: Bucket::new(rates.bits) }
    }

    /// Drops what is above the rates ([`DropReason::Policed`]), in the order of the batch, after all else is decided:
    /// what was dropped before does not count. Returns how many it dropped; if any, [`crate::Outcome::all_to`] no
    /// longer holds.
    pub fn police(&self, now: Timestamp, batch: &mut [Packet]) -> usize {
        let now = now.nanoseconds() << FINE_BITS;
        let (mut packets, mut bytes) = (0, 0);
        for packet in &*batch {
            let goes = u64::from(!matches!(packet.verdict, Verdict::Drop(_)));
            packets += goes;
            bytes += goes * u64::from(packet.received_bytes());
        }
        if self.take(now, packets, bytes) {
            return 0;
        }
        let mut dropped = 0;
        for packet in batch {
            let goes = !matches!(packet.verdict, Verdict::Drop(_));
            if goes && !self.take(now, 1, u64::from(packet.received_bytes())) {
                packet.verdict = Verdict::Drop(DropReason::Policed);
                dropped += 1;
            }
        }
        dropped
    }

    /// Takes from both buckets or from none.
    #[inline]
    fn take(&self, now: Fine, packets: u64, bytes: u64) -> bool {
        if !self.packets.take(now, packets) {
            return false;
        }
        let taken = self.bits.take(now, bytes * 8);
        if !taken {
            self.packets.give_back(packets);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PortIndex;
    use std::vec;
    use std::vec::Vec;

    fn batch(packets: usize, frame_len: u32) -> Vec<Packet> {
        let verdict = Verdict::Forward(PortIndex(0));
        vec![Packet { frame_len, verdict, ..Packet::EMPTY }; packets]
    }

    fn passed(policer: &Policer, now: u64, packets: usize, frame_len: u32) -> usize {
        let mut batch = batch(packets, frame_len);
        let dropped = policer.police(Timestamp::from_nanoseconds(now), &mut batch);
        let policed = Verdict::Drop(DropReason::Policed);
        assert_eq!(batch.iter().filter(|packet| packet.verdict == policed).count(), dropped);
        packets - dropped
    }

    #[test]
    fn a_burst_then_the_rate() {
        let packets = Some(Rate { per_second: 1_000_000, burst: 64 });
        let policer = Policer::new(Rates { packets, bits: None });
        let start = 5_000_000_000;
        assert_eq!(passed(&policer, start, 100, 9000), 64);
        assert_eq!(passed(&policer, start + 999, 100, 60), 0);
        assert_eq!(passed(&policer, start + 1_000, 100, 60), 1);
        assert_eq!(passed(&policer, start + 33_000, 32, 60), 32);
        assert_eq!(passed(&policer, start + 3_600_000_000_000, 100, 60), 64);
        // A clock that jumps back gives nothing away.
        assert_eq!(passed(&policer, 0, 100, 60), 0);
    }

    #[test]
    fn bits_count_by_frame() {
        let bits = Some(Rate { per_second: 100_000_000_000, burst: 12_000 * 10 });
        let policer = Policer::new(Rates { packets: None, bits });
        assert_eq!(passed(&policer, 0, 20, 1500), 10);
        // 1500 bytes take 120 ns at 100 Gbit/s.
        assert_eq!(passed(&policer, 119, 1, 1500), 0);
        assert_eq!(passed(&policer, 120, 1, 1500), 1);
        // A smaller one still passes where a larger one did not.
        let mut mixed = [batch(1, 1500), batch(1, 60)].concat();
        assert_eq!(policer.police(Timestamp::from_nanoseconds(125), &mut mixed), 1);
        assert_eq!(mixed[1].verdict, Verdict::Forward(PortIndex(0)));
    }

    #[test]
    fn without_rates_all_passes_and_drops_are_free() {
        let policer = Policer::new(Rates::default());
        assert_eq!(passed(&policer, 0, 1000, u32::MAX), 1000);
        let packets = Some(Rate { per_second: 1, burst: 2 });
        let policer = Policer::new(Rates { packets, bits: None });
        let mut mixed = batch(5, 60);
        for packet in &mut mixed[1..4] {
            packet.verdict = Verdict::Drop(DropReason::NoRoute);
        }
        assert_eq!(policer.police(Timestamp::default(), &mut mixed), 0);
        assert_eq!(passed(&policer, 0, 1, 60), 0);
        let zero = Some(Rate { per_second: 0, burst: 0 });
        assert_eq!(passed(&Policer::new(Rates { packets: zero, bits: None }), 9, 3, 60), 0);
    }

    /// Beside buckets that are refilled step by step.
    #[test]
    fn agrees_with_buckets_of_tokens() {
        bolero::check!().with_type().for_each(
            |(burst, big, waits): &(u8, u16, Vec<(u16, u8, u8)>)| {
                let (burst, big) = (u64::from(*burst), u64::from(*big));
                // A packet takes 1000 ns and a bit 1 ns.
                let packets = Some(Rate { per_second: 1_000_000, burst });
                let bits = Some(Rate { per_second: 1_000_000_000, burst: big });
                let policer = Policer::new(Rates { packets, bits });
                let (mut now, mut credit, mut bit_credit) = (1_000_000, burst * 1000, big);
                for (wait, count, frame_len) in waits {
                    now += u64::from(*wait);
                    credit = (credit + u64::from(*wait)).min(burst * 1000);
                    bit_credit = (bit_credit + u64::from(*wait)).min(big);
                    let cost = u64::from(*frame_len) * 8;
                    let mut expected = 0;
                    for _ in 0..*count {
                        if credit >= 1000 && bit_credit >= cost {
                            (credit, bit_credit) = (credit - 1000, bit_credit - cost);
                            expected += 1;
                        }
                    }
                    let count = usize::from(*count);
                    let got = passed(&policer, now, count, u32::from(*frame_len));
                    assert_eq!(got, expected);
                }
            },
        );
    }

    /// Workers that share the port pass no more than one would, and no less.
    #[test]
    fn the_rate_is_the_ports_however_many_workers_there_are() {
        let packets = Some(Rate { per_second: 1_000_000, burst: 100 });
        let bits = Some(Rate { per_second: 480_000_000, burst: 48_000 });
        let policer = Policer::new(Rates { packets, bits });
        let work = |start: u64| {
            // 10 ms in steps of 1 us, far more than may pass.
            (0..10_000).map(|i| passed(&policer, start + i * 1000, 8, 60)).sum::<usize>()
        };
        let all = std::thread::scope(|scope| {
            let workers =
                [0, 1, 500, 999].map(|start| scope.spawn(move || work(1_000_000 + start)));
            workers.map(|worker| worker.join().unwrap()).into_iter().sum::<usize>()
        });
        // 10,000 by the rate and 100 at once; who takes a token first is chance, that it is taken is not.
        assert!((9_990..=10_100).contains(&all), "{all}");
    }
}
