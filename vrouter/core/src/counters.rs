//! Counters of one port, kept by one worker.

use crate::{DropReason, PuntClass};

/// Plain counters. Each worker keeps its own; whoever reads adds them up with [`Counters::merge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Packets the pod sent.
    pub rx_packets: u64,
    /// Bytes of the frames the pod sent.
    pub rx_bytes: u64,
    /// Packets delivered to the pod.
    pub tx_packets: u64,
    /// Bytes of the frames delivered to the pod.
    pub tx_bytes: u64,
    /// Packets the pod sent that were dropped, by `DropReason as usize`.
    pub drops: [u64; DropReason::COUNT],
    /// Packets the port sent that were handed to the kernel, by `PuntClass as usize`.
    pub punts: [u64; PuntClass::COUNT],
}

impl Counters {
    /// Nothing happened.
    pub const ZERO: Self = Self {
        rx_packets: 0,
        rx_bytes: 0,
        tx_packets: 0,
        tx_bytes: 0,
        drops: [0; _],
        punts: [0; _],
    };

    /// Counts one frame the pod sent.
    #[inline]
    pub fn received(&mut self, frame_bytes: u32) {
        self.rx_packets += 1;
        self.rx_bytes += u64::from(frame_bytes);
    }

    /// Counts one frame delivered to the pod.
    #[inline]
    pub fn sent(&mut self, frame_bytes: u32) {
        self.tx_packets += 1;
        self.tx_bytes += u64::from(frame_bytes);
    }

    /// Counts one packet of the pod that was dropped.
    #[inline]
    pub fn dropped(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }

    /// Counts one packet of the port that was handed to the kernel.
    #[inline]
    pub fn punted(&mut self, class: PuntClass) {
        self.punts[class as usize] += 1;
    }

    /// Adds what another worker counted.
    pub fn merge(&mut self, other: &Self) {
        self.rx_packets += other.rx_packets;
        self.rx_bytes += other.rx_bytes;
        self.tx_packets += other.tx_packets;
        self.tx_bytes += other.tx_bytes;
        for (mine, theirs) in self.drops.iter_mut().zip(&other.drops) {
            *mine += theirs;
        }
        for (mine, theirs) in self.punts.iter_mut().zip(&other.punts) {
            *mine += theirs;
        }
    }

    /// The reasons that occurred, with their packets.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.into_iter().zip(self.drops).filter(|(_, packets)| *packets != 0)
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn counts_and_merges() {
        let mut a = Counters::ZERO;
        a.received(60);
        a.received(1514);
        a.sent(100);
        a.dropped(DropReason::NoRoute);
        let mut b = Counters::ZERO;
        b.received(1);
        b.sent(2);
        b.sent(3);
        b.dropped(DropReason::NoRoute);
        b.dropped(DropReason::NoMbuf);
        a.punted(PuntClass::Control);
        b.punted(PuntClass::Control);
        b.punted(PuntClass::Kernel);
        a.merge(&b);
        assert_eq!((a.rx_packets, a.rx_bytes, a.tx_packets, a.tx_bytes), (3, 1575, 3, 105));
        assert_eq!(a.punts, [0, 2, 0, 1]);
        assert_eq!(
            a.drops().collect::<Vec<_>>(),
            [(DropReason::NoRoute, 2), (DropReason::NoMbuf, 1)]
        );
    }

    #[test]
    fn every_reason_has_its_own_counter() {
        for reason in DropReason::ALL {
            let mut counters = Counters::ZERO;
            counters.dropped(reason);
            assert_eq!(counters.drops().collect::<Vec<_>>(), [(reason, 1)]);
        }
    }
}
