//! The receiving side: what came, and whether it is what was sent.

use vrouter_dpdk::{Mac, MbufBatch, tsc};

use crate::args::Settings;
use crate::frame::{self, Checker, Verdict};
use crate::latencies::Latencies;
use crate::order::Order;
use crate::pattern::Pattern;
use crate::port;
use crate::presence::Presence;
use crate::sample::Sampler;

/// Counters of one port.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Packets its rings took.
    pub sent: u64,
    /// Packets received.
    pub received: u64,
    /// Of the checked ones: behind a later one of their flow, or seen before.
    pub reordered: u64,
    /// Of the checked ones: not as sent.
    pub corrupt: u64,
    /// Packets looked into.
    pub checked: u64,
    /// Of the checked ones: not ours, or not for this port.
    pub foreign: u64,
}

/// Which packets are looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Samples.
    Some,
    /// Samples, and those with a time stamp.
    Stamped,
    /// All.
    All,
}

/// What the receiving side knows and counts.
#[derive(Debug)]
pub struct Books {
    checker: Checker,
    pattern: Pattern,
    /// By port.
    counters: Vec<Counters>,
    /// By port.
    samplers: Vec<Sampler>,
    /// Order in the flows of each sending port.
    orders: Vec<Order>,
    latency: Latencies,
    presence: Presence,
    /// Packets with a time stamp that were not seen coming.
    unseen: u64,
    len: usize,
    look: Look,
}

impl Books {
    /// Empty ones. The cycle counter has `hz` ticks per second.
    pub fn new(settings: &Settings, pattern: Pattern, hz: u64) -> Self {
        let macs: Vec<Mac> = settings.ports.iter().map(|port| port.mac).collect();
        let numbers = (0..=u8::MAX).take(macs.len());
        let flows = usize::try_from(settings.flows.count).unwrap_or(usize::MAX);
        Self {
            counters: vec![Counters::default(); macs.len()],
            samplers: numbers.map(|port| Sampler::new(settings.verify_every, port)).collect(),
            orders: macs.iter().map(|_| Order::new(flows)).collect(),
            checker: Checker::new(
                port::senders(settings),
                macs,
                port::tunnels(settings),
                settings.touch,
            ),
            pattern,
            latency: Latencies::new(hz),
            presence: Presence::new(hz),
            unseen: 0,
            len: usize::from(settings.len),
            look: match (settings.touch || settings.verify_every == 1, settings.latency) {
                (true, _) => Look::All,
                (false, true) => Look::Stamped,
                (false, false) => Look::Some,
            },
        }
    }

    /// The pattern of the payloads.
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// Counters by port.
    pub fn counters(&self) -> &[Counters] {
        &self.counters
    }

    /// Latencies in ticks.
    pub fn latency(&self) -> &Latencies {
        &self.latency
    }

    /// Whether the thread was there all the time.
    pub fn presence(&mut self) -> &mut Presence {
        &mut self.presence
    }

    /// How often the thread was away, and for how many ticks together.
    pub fn absences(&self) -> (u64, u64) {
        self.presence.absences()
    }

    /// Packets with a time stamp that are not among the latencies, as the thread was away while they were under way.
    pub fn unseen(&self) -> u64 {
        self.unseen
    }

    /// Counts from zero again. What is known of the order of flows stays.
    pub fn reset(&mut self) {
        self.counters.fill(Counters::default());
        self.latency.clear();
        self.presence.reset();
        self.unseen = 0;
    }

    /// Counts packets that `port` moved.
    #[inline]
    pub fn moved(&mut self, port: u8, received: u64, sent: u64) {
        if let Some(counters) = self.counters.get_mut(usize::from(port)) {
            counters.received += received;
            counters.sent += sent;
        }
    }

    /// Looks at a burst that `port` received.
    #[inline]
    pub fn look(&mut self, port: u8, batch: &MbufBatch) {
        // A packet's length is known without touching the packet.
        let len = self.len + self.checker.outer_bytes(port);
        if self.look != Look::Some || !batch.iter().all(|frame| frame.len() == len) {
            return self.look_at_each(port, batch);
        }
        let mut from = 0;
        while let Some(place) = self.sample(port, &mut from, batch.len()) {
            if let Some(frame) = batch.get(place) {
                // Nothing sent in such a run carries a time stamp.
                self.check(port, frame, 0);
            }
        }
    }

    #[inline]
    fn sample(&mut self, port: u8, from: &mut u16, count: u16) -> Option<u16> {
        self.samplers.get_mut(usize::from(port))?.next(from, count)
    }

    fn look_at_each(&mut self, port: u8, batch: &MbufBatch) {
        let now = tsc();
        let outer = self.checker.outer_bytes(port);
        let mut from = 0;
        let mut sample = self.sample(port, &mut from, batch.len());
        for (place, frame) in (0..).zip(batch.iter()) {
            let sampled = sample == Some(place);
            if sampled {
                sample = self.sample(port, &mut from, batch.len());
            }
            let asked = match self.look {
                Look::All => true,
                Look::Stamped => frame::is_stamped(frame.get(outer..).unwrap_or(&[])),
                Look::Some => false,
            };
            if asked || sampled || frame.len() != self.len + outer {
                self.check(port, frame, now);
            }
        }
    }

    /// Checks a packet received by `port` at `now`.
    fn check(&mut self, port: u8, frame: &[u8], now: u64) {
        let Some(counters) = self.counters.get_mut(usize::from(port)) else { return };
        counters.checked += 1;
        match self.checker.check(frame, port, &self.pattern) {
            Verdict::Good { from, flow, seq, stamp } => {
                let order = self.orders.get_mut(usize::from(from));
                if !order.is_some_and(|order| order.observe(flow, seq)) {
                    counters.reordered += 1;
                }
                match stamp {
                    Some(stamp) if self.presence.saw(stamp, now) => {
                        self.latency.record(now, now.saturating_sub(stamp));
                    }
                    Some(_) => self.unseen += 1,
                    None => {}
                }
            }
            Verdict::Corrupt => counters.corrupt += 1,
            Verdict::Foreign => counters.foreign += 1,
        }
    }
}
