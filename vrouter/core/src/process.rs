//! The stages: classify, look up, resolve. Each is a loop over the batch.

mod bridge;
mod fast;
mod ingress;
mod nd;
pub(crate) mod six;
pub(crate) mod slow;
mod tunnel;
mod uplink;

use crate::hops::HopIndex;
use crate::tables::Port;
use crate::tunnels::Ends;
use crate::{
    DropReason, Mode, Network, Packet, PortIndex, PortLimits, PortRole, Tables, Timestamp, Verdict,
};
pub(crate) use bridge::into_tunnel;
use ingress::Ingress;
use slow::Step;
pub(crate) use tunnel::path;

/// Packets that go through the stages together; a longer batch goes in pieces. One bit each in a word.
const STAGE_PACKETS: usize = 64;
/// What can be said about a batch as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The port that every packet is forwarded to, through tunnels or not; `None` if they differ, if one has another
    /// verdict, if there are none, or if one needed a longer look: then nobody has summed up.
    pub all_to: Option<PortIndex>,
    /// Whether some of them go into a tunnel or come out of one.
    pub tunnelled: bool,
}

/// Decides about every packet of a batch that came from one port: sets all verdicts and rewrites the
/// headers of those that go on. Last, the port's policer drops what is above its rates: it counts what would go on,
/// answers included.
///
/// What comes from the kernel's side of an uplink goes there as it is; what comes in by an uplink and is not forwarded is
/// the kernel's, if it is for this host.
///
/// Safe with any bytes and any lengths. Verdicts that were there before do not matter. A packet that is
/// not forwarded or replied to keeps its header as received, unless it was for the policer alone to drop.
pub fn process(
    tables: &Tables,
    now: Timestamp,
    ingress: PortIndex,
    batch: &mut [Packet],
    limits: &mut PortLimits,
) -> Outcome {
    let Some((port, network)) = tables.ingress(ingress) else {
        for packet in batch {
            packet.verdict = Verdict::Drop(DropReason::UnknownIngress);
        }
        return Outcome::default();
    };
    let at = Place { tables, port, network, tunnels: tables.tunnels(port.policy.network), now };
    let outcome = match port.policy.role {
        PortRole::Pod => stages::<ingress::Pod>(&at, batch, limits),
        PortRole::Kernel => stages::<ingress::Kernel>(&at, batch, limits),
        PortRole::Uplink { .. } => stages::<ingress::Uplink>(&at, batch, limits),
        PortRole::Host { uplink } => uplink::cross(batch, uplink),
    };
    match &port.policer {
        Some(policer) if policer.police(now, batch) > 0 => Outcome::default(),
        _ => outcome,
    }
}

/// The stages for packets from one kind of sender.
#[inline]
fn stages<I: Ingress>(at: &Place<'_>, whole: &mut [Packet], limits: &mut PortLimits) -> Outcome {
    let Place { port, network, .. } = *at;
    let mut outcome = None;
    let mut tunnelled = false;
    for batch in whole.chunks_mut(STAGE_PACKETS) {
        let mut found = [0; STAGE_PACKETS];
        let mut targets = Targets::default();
        let (mut left, mut all_to) = (everything(batch), None);
        if network.policy().mode == Mode::Bridged {
            left &= !I::bridge(at, batch, &mut targets);
        }
        if left == 0 {
            // All were neighbours'.
        } else if !at.tunnels.is_empty()
            && let Some(done) = tunnel::all_at_once::<I>(at, batch, &mut targets)
        {
            left &= !done;
            if left != 0 {
                // Those were sent to this host itself.
                found = [HopIndex::GATEWAY.0; STAGE_PACKETS];
            }
        } else {
            for i in bits(fast::classify::<I>(port, batch, &mut found) & left) {
                let packet = &mut batch[i];
                if let Some(to) = I::forward6(at, packet) {
                    targets.add(to, !matches!(packet.verdict, Verdict::Forward(_)));
                    left &= !(1 << i);
                    continue;
                }
                match I::classify(at, packet, limits) {
                    Step::LookUp(address) => found[i] = address,
                    Step::Done(verdict) => {
                        packet.verdict = verdict;
                        left &= !(1 << i);
                    }
                }
            }
            fast::look_up(network.fib(), &mut found[..batch.len()]);
            // Where the first one goes into a tunnel, most do, and a look for others is for the rest.
            if network.hops().get(HopIndex(found[0])).is_tunnel() {
                left &= !tunnel::encapsulate(at, batch, &found, left, &mut targets);
            }
            if left != 0 {
                let rest;
                (rest, all_to) = fast::forward(port, network.hops(), batch, &found);
                left &= rest;
            }
            if left != 0 && !at.tunnels.is_empty() {
                let ours = tunnel::for_the_gateway(&found, left);
                left &= !tunnel::decapsulate(at, batch, ours, &mut targets);
            }
            if left != 0 {
                left &= !tunnel::encapsulate(at, batch, &found, left, &mut targets);
            }
        }
        for i in bits(left) {
            let next_hop = network.hops().get(HopIndex(found[i]));
            batch[i].verdict = I::resolve(at, next_hop, &mut batch[i], limits);
        }
        all_to = all_to.or(targets.all_to(batch.len()));
        tunnelled |= targets.tunnelled;
        let same = *outcome.get_or_insert(all_to) == all_to;
        outcome = Some(all_to.filter(|_| same));
    }
    Outcome { all_to: outcome.flatten(), tunnelled }
}

/// Where and when packets are decided about.
struct Place<'a> {
    tables: &'a Tables,
    port: &'a Port,
    network: &'a Network,
    /// The ends of tunnels that the network carries.
    tunnels: Ends<'a>,
    now: Timestamp,
}

/// Sums up where the packets of a batch go that take a way of their own.
#[derive(Default)]
struct Targets {
    to: Same,
    packets: usize,
    /// One goes into a tunnel or comes out of one.
    tunnelled: bool,
}

/// Whether some ports are one.
#[derive(Default)]
struct Same {
    first: Option<PortIndex>,
    differ: bool,
}

impl Same {
    #[inline]
    fn add(&mut self, port: PortIndex) {
        self.differ |= *self.first.get_or_insert(port) != port;
    }
}

impl Targets {
    #[inline]
    fn add(&mut self, to: PortIndex, tunnelled: bool) {
        self.tunnelled |= tunnelled;
        self.to.add(to);
        self.packets += 1;
    }

    /// Adds so many that go into a tunnel or come out of one.
    fn add_all(&mut self, to: Same, packets: usize) {
        if let Some(port) = to.first {
            self.to.add(port);
            self.to.differ |= to.differ;
            self.tunnelled = true;
            self.packets += packets;
        }
    }

    /// The port that all packets go to, if so many were added.
    fn all_to(&self, packets: usize) -> Option<PortIndex> {
        self.to.first.filter(|_| self.packets == packets && !self.to.differ)
    }
}

/// A bit for each packet of a batch of at most [`STAGE_PACKETS`].
fn everything(batch: &[Packet]) -> u64 {
    let missing = u32::try_from(STAGE_PACKETS.saturating_sub(batch.len())).unwrap_or(u64::BITS);
    u64::MAX.checked_shr(missing).unwrap_or(0)
}

/// The places of the bits that are set.
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let at = word.trailing_zeros() as usize;
        word &= word.wrapping_sub(1);
        (at < STAGE_PACKETS).then_some(at)
    })
}

#[cfg(test)]
mod tests;
