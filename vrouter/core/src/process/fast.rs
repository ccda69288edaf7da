//! The stages for packets that are right in the most common way and simply forwarded.
//!
//! Each is a loop without calls that leaves the rest to others, as bits of a word: so that everything it needs
//! stays in registers. They work on whole words of the head, which are read as they were written by copies of 16
//! bytes or more, so that the processor can hand them over from its store buffer.

use super::STAGE_PACKETS;
use crate::fib::Fib;
use crate::hops::{HopIndex, Hops};
use crate::tables::{Port, Sender};
use crate::{Packet, PortIndex, Verdict};
use vrouter_net::{ethernet, ipv4};

/// The part of a frame that is needed here.
const FAST_BYTES: u16 = 34;
/// Bytes in front of the IPv4 header, which do not count for the MTU.
const LINK_BYTES: u32 = 14;
const _: () = assert!(LINK_BYTES as usize == ethernet::HEADER_BYTES);
const _: () = assert!(FAST_BYTES as usize == ethernet::HEADER_BYTES + ipv4::HEADER_BYTES);

/// Stage 1: checks the headers. Fills in the destination addresses of the packets that are right; returns a bit for
/// each of the others, whose places in `found` stay zero.
#[inline(never)]
pub(super) fn classify<S: Sender>(
    port: &Port,
    batch: &[Packet],
    found: &mut [u32; STAGE_PACKETS],
) -> u64 {
    let mut rest = 0;
    for (i, (packet, found)) in batch.iter().zip(found).enumerate() {
        match common_case::<S>(port, packet) {
            Some(address) => *found = address,
            None => rest |= 1 << i,
        }
    }
    rest
}

/// The destination address of a packet that is right in the most common way. `None` says nothing: the slow
/// path finds out what is the matter.
#[inline]
pub(super) fn common_case<S: Sender>(port: &Port, packet: &Packet) -> Option<u32> {
    let [w0, w1, w2, w3, w4] = packet.words();
    let total = u32::from(((w2 & 0xffff) as u16).swap_bytes());
    if !port.expect.agrees::<S>(w0, w1, w3)
        || !S::may_send4(w3)
        || packet.header_len < FAST_BYTES
        || total < 20
        || total + LINK_BYTES > packet.frame_len
    {
        return None;
    }
    // RFC 1071 sections 1 and 2: the header adds up if the one's complement sum of its words is all ones, in any
    // order of the bytes and over words of any width: if it is a multiple of 0xffff. It is not zero.
    let (sum, carry) = w2.overflowing_add(w3);
    let (sum, again) = sum.overflowing_add((w1 >> 48) + (w4 & 0xffff) + u64::from(carry));
    if !(sum + u64::from(again)).is_multiple_of(0xffff) {
        return None;
    }
    let destination = (((w3 >> 48) | (w4 << 16)) & 0xffff_ffff) as u32;
    Some(destination.swap_bytes())
}

/// Stage 2: longest prefix match in the ingress port's network and no other. Replaces each address by its
/// [`HopIndex`]. Packets without a destination look up 0.0.0.0, which costs less than asking.
///
/// A loop of its own, so that the processor has many look-ups in flight when tables are larger than its caches.
#[inline(never)]
pub(super) fn look_up(fib: &Fib, found: &mut [u32]) {
    for found in found {
        *found = fib.lookup(*found).0;
    }
}

/// Stage 3: the verdict on packets that are simply forwarded, and their rewrite. Returns a bit for each of the
/// others, which are not touched, and the port that all packets go to, if it is one and there are no others.
///
/// Packets that stage 1 decided about are never forwarded: 0.0.0.0 leads to no port.
#[inline(never)]
pub(super) fn forward(
    port: &Port,
    hops: &Hops,
    batch: &mut [Packet],
    found: &[u32; STAGE_PACKETS],
) -> (u64, Option<PortIndex>) {
    let ingress = port.policy.index;
    let ports = hops.ports();
    let mut rest = 0;
    let mut differ = 0;
    let mut before = hops.port(HopIndex(found[0])).port;
    for (i, (packet, found)) in batch.iter_mut().zip(found).enumerate() {
        let Some(hop) = ports.get(*found as usize) else {
            rest |= 1 << i;
            continue;
        };
        let [_, w1, w2, w3, _] = packet.words();
        // The whole frame counts, padding too: a receiver's buffers are sized for the MTU. What is no port has an
        // MTU of zero, which nothing passes.
        if packet.frame_len.wrapping_sub(LINK_BYTES + 1) >= u32::from(hop.mtu)
            || (w2 >> 48) & 0xff <= 1
            || hop.port == ingress
        {
            rest |= 1 << i;
            continue;
        }
        // RFC 1624 for a TTL that is one less: one more in the (swapped) checksum, with its carry.
        let sum = (w3 & 0xffff) + 1;
        let sum = (sum + u64::from(sum >= 0xffff)) & 0xffff;
        let [to, from] = hop.words();
        packet.set_words([
            to,
            from | (w1 & !u64::from(u32::MAX)),
            w2 - (1 << 48),
            (w3 & !0xffff) | sum,
        ]);
        packet.verdict = Verdict::Forward(hop.port);
        differ |= hop.port.0 ^ before.0;
        before = hop.port;
    }
    (rest, (rest == 0 && differ == 0 && !batch.is_empty()).then_some(before))
}
