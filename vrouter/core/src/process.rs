//! The stages: classify, look up, resolve. Each is a loop over the batch.

mod bridge;
mod fast;
mod nd;
pub(crate) mod six;
mod slow;

use crate::hops::HopIndex;
use crate::tables::Port;
use crate::{DropReason, Network, Packet, PortIndex, PortLimits, Tables, Timestamp, Verdict};
use slow::Step;

/// Packets that go through the stages together; a longer batch goes in pieces. One bit each in a word.
const STAGE_PACKETS: usize = 64;
/// What can be said about a batch as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The port that every packet is forwarded to; `None` if they differ, if one has another verdict, if there are
    /// none, or if one needed a longer look: then nobody has summed up.
    pub all_to: Option<PortIndex>,
}

/// Decides about every packet of a batch that came from one port: sets all verdicts and rewrites the
/// headers of those that go on. Last, the port's policer drops what is above its rates: it counts what would go on,
/// answers included.
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
    let at = Place { tables, port, network, now };
    let mut outcome = None;
    let whole = batch;
    for batch in whole.chunks_mut(STAGE_PACKETS) {
        let mut found = [0; STAGE_PACKETS];
        let mut decided = 0;
        let mut six = six::Targets::default();
        for i in bits(fast::classify(port, batch, &mut found)) {
            let packet = &mut batch[i];
            if let Some(to) = six::forward(&at, packet) {
                packet.verdict = Verdict::Forward(to);
                six.add(to);
                decided |= 1 << i;
                continue;
            }
            match slow::classify(&at, packet, limits) {
                Step::LookUp(address) => found[i] = address,
                Step::Done(verdict) => {
                    packet.verdict = verdict;
                    decided |= 1 << i;
                }
            }
        }
        fast::look_up(network.fib(), &mut found[..batch.len()]);
        let (left, mut all_to) = fast::forward(port, network.hops(), batch, &found);
        for i in bits(left & !decided) {
            let next_hop = network.hops().get(HopIndex(found[i]));
            batch[i].verdict = slow::resolve(&at, next_hop, &mut batch[i], limits);
        }
        all_to = all_to.or(six.all_to(batch.len()));
        let same = *outcome.get_or_insert(all_to) == all_to;
        outcome = Some(all_to.filter(|_| same));
    }
    let outcome = Outcome { all_to: outcome.flatten() };
    match &port.policer {
        Some(policer) if policer.police(now, whole) > 0 => Outcome::default(),
        _ => outcome,
    }
}

/// Where and when packets are decided about.
struct Place<'a> {
    tables: &'a Tables,
    port: &'a Port,
    network: &'a Network,
    now: Timestamp,
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
