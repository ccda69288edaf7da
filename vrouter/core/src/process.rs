//! The stages: classify, look up, resolve. Each is a loop over the batch.

mod slow;

use crate::fib::{HopIndex, NextHop};
use crate::tables::{Expect, Network, Port};
use crate::{DropReason, IcmpLimiter, Packet, PortIndex, Tables, Timestamp, Verdict};
use slow::Step;
use vrouter_net::{checksum, ethernet, ipv4};

/// Packets that go through the stages together; a longer batch goes in pieces. One bit each in a word.
const STAGE_PACKETS: usize = 64;
/// The part of a frame that the fast path reads and writes.
const FAST_BYTES: usize = ethernet::HEADER_BYTES + ipv4::HEADER_BYTES;

/// Decides about every packet of a batch that came from one port: sets all verdicts and rewrites the
/// headers of those that go on.
///
/// Safe with any bytes and any lengths. Verdicts that were there before do not matter. A packet that is
/// not forwarded or replied to keeps its header as received.
pub fn process(
    tables: &Tables,
    now: Timestamp,
    ingress: PortIndex,
    batch: &mut [Packet],
    limiter: &mut IcmpLimiter,
) {
    let Some((port, network)) = tables.ingress(ingress) else {
        for packet in batch {
            packet.verdict = Verdict::Drop(DropReason::UnknownIngress);
        }
        return;
    };
    for batch in batch.chunks_mut(STAGE_PACKETS) {
        let mut destinations = [0; STAGE_PACKETS];
        let mut hops = [HopIndex::default(); STAGE_PACKETS];
        let pending = classify(port, network, batch, &mut destinations);
        look_up(network, &destinations, &mut hops[..batch.len()]);
        for (i, (packet, hop)) in batch.iter_mut().zip(&hops).enumerate() {
            if pending & (1 << i) != 0 {
                let next_hop = network.fib().hop(*hop);
                resolve(port, network, next_hop, packet, now, limiter);
            }
        }
    }
}

/// Stage 1: checks the headers. Returns a bit for each packet that goes on to the next stage, with its
/// destination address; the others have their verdict.
fn classify(
    port: &Port,
    network: &Network,
    batch: &mut [Packet],
    destinations: &mut [u32; STAGE_PACKETS],
) -> u64 {
    let mut pending = 0;
    for (i, (packet, destination)) in batch.iter_mut().zip(destinations).enumerate() {
        let step = match common_case(port, packet) {
            Some(address) => Step::LookUp(address),
            None => slow::classify(port, network, packet),
        };
        match step {
            Step::LookUp(address) => {
                *destination = address;
                pending |= 1 << i;
            }
            Step::Done(verdict) => packet.verdict = verdict,
        }
    }
    pending
}

/// The destination address of a packet that is right in the most common way. `None` says nothing: the slow
/// path finds out what is the matter.
#[inline]
fn common_case(port: &Port, packet: &Packet) -> Option<u32> {
    let head = packet.header.first_chunk::<FAST_BYTES>()?;
    let header = head.last_chunk::<{ ipv4::HEADER_BYTES }>()?;
    let ip = ipv4::Header::of(header);
    let total = usize::from(ip.total_length());
    let right = Expect::of(head.first_chunk()?) == port.expect
        && ip.source() == port.policy.ipv4
        && usize::from(packet.header_len) >= FAST_BYTES
        && (ipv4::HEADER_BYTES..=packet.payload_bytes()).contains(&total)
        && checksum::verify(header);
    right.then(|| ip.destination().to_bits())
}

/// Stage 2: longest prefix match in the ingress port's network and no other. Packets without a destination
/// look up 0.0.0.0, which costs less than asking.
fn look_up(network: &Network, destinations: &[u32; STAGE_PACKETS], hops: &mut [HopIndex]) {
    let fib = network.fib();
    for (hop, destination) in hops.iter_mut().zip(destinations) {
        *hop = fib.lookup(*destination);
    }
}

/// Stage 3: the verdict, and the rewrite of what is forwarded.
#[inline]
fn resolve(
    port: &Port,
    network: &Network,
    next_hop: &NextHop,
    packet: &mut Packet,
    now: Timestamp,
    limiter: &mut IcmpLimiter,
) {
    // The whole frame counts, padding too: a receiver's buffers are sized for the MTU.
    let payload_bytes = packet.payload_bytes();
    if let NextHop::Port(hop) = next_hop
        && payload_bytes <= usize::from(hop.mtu)
        && hop.port != port.policy.index
        && let Some(head) = packet.header.first_chunk_mut::<FAST_BYTES>()
        && let Some(header) = head.last_chunk_mut()
    {
        let mut ip = ipv4::Header::of(header);
        let ttl = ip.ttl();
        if ttl > 1 {
            ip.set_ttl(ttl - 1);
            head[..12].copy_from_slice(&hop.rewrite);
            packet.verdict = Verdict::Forward(hop.port);
            return;
        }
    }
    packet.verdict = slow::resolve(port, network, next_hop, packet, now, limiter);
}

#[cfg(test)]
mod tests;
