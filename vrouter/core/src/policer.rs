//! A limit on what a port sends.

use crate::{DropReason, Packet, Timestamp, Verdict};

/// What a port may send; `None`: no limit of this kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Packets per second; zero counts as one.
    pub packets: Option<Rate>,
    /// Bits per second of Ethernet frames without preamble and frame check sequence; zero counts as one.
    pub bits: Option<Rate>,
}

/// A rate and the burst above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units per second in the long run.
    pub per_second: u64,
    /// Units at once after a rest. Nothing larger ever passes.
    pub burst: u64,
}

/// Two token buckets of one port on one worker, for all its packets and bits. Time is an argument.
///
/// A burst that both buckets hold as a whole costs two additions and two compares. Divisions happen only when a
/// policer is made.
#[derive(Clone, Copy, Debug)]
pub struct Policer {
    packets: Bucket,
    bits: Bucket,
}

/// Time in units of 2^-32 nanoseconds, so that a bit at 100 Gbit/s (0.01 ns) is exact to eight digits.
type Fine = u128;

/// Kept as the moment at which it would be full again, as for [`crate::IcmpLimiter`].
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Time until one unit is back; zero without a limit.
    unit: Fine,
    /// Time until an empty bucket is full.
    depth: Fine,
    full_at: Fine,
}

impl Bucket {
    fn new(rate: Option<Rate>) -> Self {
        let unit = rate.map_or(0, |rate| {
            (Fine::from(1_000_000_000_u64) << 32) / Fine::from(rate.per_second.max(1))
        });
        let burst = rate.map_or(0, |rate| Fine::from(rate.burst));
        Self { unit, depth: unit.saturating_mul(burst), full_at: 0 }
    }

    /// When the bucket would be full again after these units more; `None`: it does not hold so many.
    #[inline]
    fn after(&self, now: Fine, units: u64) -> Option<Fine> {
        let cost = self.unit.saturating_mul(Fine::from(units));
        let full_at = self.full_at.max(now).saturating_add(cost);
        (full_at <= now.saturating_add(self.depth)).then_some(full_at)
    }
}

impl Policer {
    /// Both buckets are full at first.
    pub fn new(rates: Rates) -> Self {
        Self { packets: Bucket::new(rates.packets), bits: Bucket::new(rates.bits) }
    }

    /// Drops what is above the rates ([`DropReason::Policed`]), in the order of the batch: call it after
    /// [`crate::process`]. What was dropped before does not count. Returns how many it dropped; if any,
    /// [`crate::Outcome::all_to`] no longer holds.
    pub fn police(&mut self, now: Timestamp, batch: &mut [Packet]) -> usize {
        let now = Fine::from(now.nanoseconds()) << 32;
        let (mut packets, mut bytes) = (0, 0);
        for packet in &*batch {
            let goes = u64::from(!matches!(packet.verdict, Verdict::Drop(_)));
            packets += goes;
            bytes += goes * u64::from(packet.frame_len);
        }
        if self.take(now, packets, bytes) {
            return 0;
        }
        let mut dropped = 0;
        for packet in batch {
            let goes = !matches!(packet.verdict, Verdict::Drop(_));
            if goes && !self.take(now, 1, u64::from(packet.frame_len)) {
                packet.verdict = Verdict::Drop(DropReason::Policed);
                dropped += 1;
            }
        }
        dropped
    }

    /// Takes from both buckets or from none.
    #[inline]
    fn take(&mut self, now: Fine, packets: u64, bytes: u64) -> bool {
        let after = (self.packets.after(now, packets), self.bits.after(now, bytes * 8));
        let (Some(packets), Some(bits)) = after else { return false };
        (self.packets.full_at, self.bits.full_at) = (packets, bits);
        true
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

    fn passed(policer: &mut Policer, now: u64, packets: usize, frame_len: u32) -> usize {
        let mut batch = batch(packets, frame_len);
        let dropped = policer.police(Timestamp::from_nanoseconds(now), &mut batch);
        let policed = Verdict::Drop(DropReason::Policed);
        assert_eq!(batch.iter().filter(|packet| packet.verdict == policed).count(), dropped);
        packets - dropped
    }

    #[test]
    fn a_burst_then_the_rate() {
        let packets = Some(Rate { per_second: 1_000_000, burst: 64 });
        let mut policer = Policer::new(Rates { packets, bits: None });
        let start = 5_000_000_000;
        assert_eq!(passed(&mut policer, start, 100, 9000), 64);
        assert_eq!(passed(&mut policer, start + 999, 100, 60), 0);
        assert_eq!(passed(&mut policer, start + 1_000, 100, 60), 1);
        assert_eq!(passed(&mut policer, start + 33_000, 32, 60), 32);
        assert_eq!(passed(&mut policer, start + 3_600_000_000_000, 100, 60), 64);
        // A clock that jumps back gives nothing away.
        assert_eq!(passed(&mut policer, 0, 100, 60), 0);
    }

    #[test]
    fn bits_count_by_frame() {
        let bits = Some(Rate { per_second: 100_000_000_000, burst: 12_000 * 10 });
        let mut policer = Policer::new(Rates { packets: None, bits });
        assert_eq!(passed(&mut policer, 0, 20, 1500), 10);
        // 1500 bytes take 120 ns at 100 Gbit/s.
        assert_eq!(passed(&mut policer, 119, 1, 1500), 0);
        assert_eq!(passed(&mut policer, 120, 1, 1500), 1);
        // A smaller one still passes where a larger one did not.
        let mut mixed = [batch(1, 1500), batch(1, 60)].concat();
        assert_eq!(policer.police(Timestamp::from_nanoseconds(125), &mut mixed), 1);
        assert_eq!(mixed[1].verdict, Verdict::Forward(PortIndex(0)));
    }

    #[test]
    fn without_rates_all_passes_and_drops_are_free() {
        let mut policer = Policer::new(Rates::default());
        assert_eq!(passed(&mut policer, 0, 1000, u32::MAX), 1000);
        let packets = Some(Rate { per_second: 1, burst: 2 });
        let mut policer = Policer::new(Rates { packets, bits: None });
        let mut mixed = batch(5, 60);
        for packet in &mut mixed[1..4] {
            packet.verdict = Verdict::Drop(DropReason::NoRoute);
        }
        assert_eq!(policer.police(Timestamp::default(), &mut mixed), 0);
        assert_eq!(passed(&mut policer, 0, 1, 60), 0);
        let zero = Some(Rate { per_second: 0, burst: 0 });
        assert_eq!(passed(&mut Policer::new(Rates { packets: zero, bits: None }), 9, 3, 60), 0);
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
                let mut policer = Policer::new(Rates { packets, bits });
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
                    let got = passed(&mut policer, now, count, u32::from(*frame_len));
                    assert_eq!(got, expected);
                }
            },
        );
    }
}
