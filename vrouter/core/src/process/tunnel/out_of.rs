//! IPv4 packets that come out of VXLAN over IPv4 and are right in the most common way.
//!
//! Nearly all that such a packet must be is one comparison of 64 bytes with a pattern, the same for all packets of a tunnel.

use super::LINK_BYTES;
use crate::hops::{HopIndex, Hops, PortHop};
use crate::process::{Place, STAGE_PACKETS, Same, Targets, bits, fast};
use crate::tables::{Port, Sender};
use crate::{Network, Packet, Verdict};
use core::net::{IpAddr, Ipv4Addr};
use vrouter_net::ipv4;
use vrouter_net::vxlan::{self, OUTER4_BYTES, TUNNEL_BYTES, Vni};

/// Up to the end of the inner IPv4 header.
const FAST_BYTES: u16 = 84;
const _: () = assert!(FAST_BYTES as usize == OUTER4_BYTES + 14 + ipv4::HEADER_BYTES);
/// Bytes of the outer header over IPv4.
const OUTER4_LEN: u8 = 50;
const _: () = assert!(OUTER4_LEN as usize == OUTER4_BYTES);
/// Next hops of packets that go nowhere: no port's.
const NOBODY: [u32; STAGE_PACKETS] = [HopIndex::GATEWAY.0; STAGE_PACKETS];
/// Bytes of the UDP and the VXLAN header.
const TUNNEL: u32 = 16;
const _: () = assert!(TUNNEL as usize == TUNNEL_BYTES);

/// All stages at once, for a batch that has come through one tunnel as a whole and is right in the most common way: one look at outer and
/// inner headers, and no look-up of outer addresses. Returns a bit for each packet that is done; the others were not touched, and are for
/// this host itself. `None` for any other batch, of which nothing is changed.
#[inline(never)]
pub(in crate::process) fn all_at_once<S: Sender>(
    at: &Place<'_>,
    batch: &mut [Packet],
    targets: &mut Targets,
) -> Option<u64> {
    let [first, .., last] = batch else { return None };
    // A mixed batch mostly shows at its ends.
    if [&*first, &*last].iter().any(|packet| !is_for_port(packet)) || number(first) != number(last)
    {
        return None;
    }
    let way = Way::find(at, number(first))?;
    let mut inner = NOBODY;
    if at.network.fib().lookup(way.local.to_bits()) != HopIndex::GATEWAY
        || !way.all_in_common::<S>(at.port, batch, &mut inner)
    {
        return None;
    }
    fast::look_up(way.network.fib(), inner.get_mut(..batch.len())?);
    Some(unwrap_all(way.network.hops(), batch, &inner, targets))
}

/// Whether a packet seems to be for the port of VXLAN.
fn is_for_port(packet: &Packet) -> bool {
    packet.header.get(PORT..).is_some_and(|rest| rest.starts_with(&vxlan::PORT.to_be_bytes()))
}

/// A bit for each packet of `left` that was sent to this host itself.
#[inline]
pub(in crate::process) fn for_the_gateway(found: &[u32; STAGE_PACKETS], left: u64) -> u64 {
    bits(left).fold(0, |all, i| all | u64::from(found[i] == HopIndex::GATEWAY.0) << i)
}

/// Stage 5: those of the packets `waiting`, all for this host itself, that are inside VXLAN over IPv4 and go to a port of the inner
/// network. Returns a bit for each that is done; the others are not touched.
#[inline(never)]
pub(in crate::process) fn decapsulate(
    at: &Place<'_>,
    batch: &mut [Packet],
    mut waiting: u64,
    targets: &mut Targets,
) -> u64 {
    let mut done = 0;
    // Once for each network that packets are for and each end that sent them.
    while let Some(first) = batch.get(waiting.trailing_zeros() as usize) {
        let number = number(first);
        let way = Way::find(at, number);
        let mut inner = NOBODY;
        let group = way.as_ref().map_or(0, |way| way.common_cases(batch, &mut inner, waiting));
        // Nor are those looked at again that are no common case of the same tunnel.
        for i in bits(waiting & !group) {
            let same = batch.get(i).is_none_or(|packet| self::number(packet) == number);
            waiting &= !(u64::from(same) << i);
        }
        waiting &= !group;
        let Some(way) = way else { continue };
        for i in bits(group) {
            inner[i] = way.network.fib().lookup(inner[i]).0;
        }
        done |= unwrap_all(way.network.hops(), batch, &inner, targets);
    }
    done
}

/// Lets packets go on without their outer headers, each to the port in its slot of `inner`. Returns a bit for each that is done: not for
/// those whose slot is no port's. A loop of its own, so that what it needs stays in registers.
#[inline(never)]
fn unwrap_all(
    hops: &Hops,
    batch: &mut [Packet],
    inner: &[u32; STAGE_PACKETS],
    targets: &mut Targets,
) -> u64 {
    let ports = hops.ports();
    let mut done = 0_u64;
    let mut same = Same::default();
    for (i, (packet, inner)) in batch.iter_mut().zip(inner).enumerate() {
        if let Some(hop) = ports.get(*inner as usize)
            && unwrap_to(packet, hop)
        {
            same.add(hop.port);
            done |= 1 << i;
        }
    }
    targets.add_all(same, done.count_ones() as usize);
    done
}

/// Source address, and the bytes where a VXLAN header has its network identifier, whatever the packet is.
#[inline]
fn number(packet: &Packet) -> (u32, u32) {
    let [a, b, c] = [packet.header[46], packet.header[47], packet.header[48]];
    let [d, e, f, g] = [packet.header[26], packet.header[27], packet.header[28], packet.header[29]];
    (u32::from_be_bytes([d, e, f, g]), u32::from_be_bytes([0, a, b, c]))
}

/// Where the bytes lie in a frame that are compared with a pattern.
const START: usize = 8;
const WORDS: usize = 8;
const END: usize = START + 8 * WORDS;

/// Bytes of a frame, as little-endian words.
type Pattern = [u64; WORDS];

/// Which bits of the bytes from [`START`] on are compared.
const MASK: Pattern = pattern(&[
    // Version and length; the second congestion bit.
    (14, &[0xff, 0x01]),
    // No fragment.
    (20, &[0x3f, 0xff]),
    (PROTOCOL, &[0xff]),
    (SOURCE, &[0xff; 4]),
    (DESTINATION, &[0xff; 4]),
    (PORT, &[0xff; 2]),
    (FLAGS, &[0x08]),
    (VNI, &[0xff; 3]),
    (MAC, &[0xff; 6]),
    (INNER_TYPE, &[0xff; 2]),
    (INNER, &[0xff]),
]);
const PROTOCOL: usize = 23;
const SOURCE: usize = 26;
const DESTINATION: usize = 30;
const PORT: usize = 36;
const FLAGS: usize = 42;
const VNI: usize = 46;
const MAC: usize = 50;
const INNER_TYPE: usize = 62;
const INNER: usize = 64;

/// A pattern with these bytes at these places of a frame, and zeros elsewhere.
const fn pattern(parts: &[(usize, &[u8])]) -> Pattern {
    let mut words = [0; WORDS];
    let mut part = 0;
    while part < parts.len() {
        let (at, bytes) = parts[part];
        let mut i = 0;
        while i < bytes.len() {
            let byte = at + i - START;
            words[byte / 8] |= (bytes[i] as u64) << (byte % 8 * 8);
            i += 1;
        }
        part += 1;
    }
    words
}

/// What a packet must be that comes through one tunnel in the common way.
struct Way<'a> {
    network: &'a Network,
    /// This end's address.
    local: Ipv4Addr,
    /// Of each packet, where [`MASK`] has a bit.
    expected: Pattern,
}

impl<'a> Way<'a> {
    fn find(at: &Place<'a>, (remote, number): (u32, u32)) -> Option<Self> {
        let end = at.tunnels.with_vni(Vni::new(number)?)?;
        let remote = Ipv4Addr::from_bits(remote);
        let IpAddr::V4(local) = end.local else { return None };
        if !end.knows(remote.into()) {
            return None;
        }
        let network = at.tables.network(end.overlay)?;
        let [_, vni @ ..] = number.to_be_bytes();
        let expected = pattern(&[
            (14, &[0x45]),
            (PROTOCOL, &[17]),
            (SOURCE, &remote.octets()),
            (DESTINATION, &local.octets()),
            (PORT, &vxlan::PORT.to_be_bytes()),
            (FLAGS, &[0x08]),
            (VNI, &vni),
            (MAC, &network.policy().gateway_mac.octets()),
            (INNER_TYPE, &[0x08, 0x00]),
            (INNER, &[0x45]),
        ]);
        Some(Self { network, local, expected })
    }

    /// Fills in the inner destination addresses of those of the packets `waiting` that are right in the most common way, and
    /// returns a bit for each of them.
    #[inline(never)]
    fn common_cases(
        &self,
        batch: &[Packet],
        inner: &mut [u32; STAGE_PACKETS],
        waiting: u64,
    ) -> u64 {
        let mut group = 0;
        for (i, (packet, inner)) in batch.iter().zip(inner).enumerate() {
            if waiting >> i & 1 == 1
                && let Some(destination) = self.common_case(packet)
            {
                *inner = destination;
                group |= 1 << i;
            }
        }
        group
    }

    /// Fills in the inner destination addresses; whether all packets of a batch are right in the most common way, their outer headers
    /// too. It stops at the first that is not.
    #[inline(never)]
    fn all_in_common<S: Sender>(
        &self,
        port: &Port,
        batch: &[Packet],
        inner: &mut [u32; STAGE_PACKETS],
    ) -> bool {
        batch.iter().zip(inner).all(|(packet, inner)| {
            let outer = fast::common_case::<S>(port, packet);
            let destination = outer.and_then(|_| self.common_case(packet));
            *inner = destination.unwrap_or(0);
            destination.is_some()
        })
    }

    /// The inner destination address of a packet that is right in the most common way. Its outer IPv4 header was
    /// checked.
    #[inline(always)]
    fn common_case(&self, packet: &Packet) -> Option<u32> {
        let (compared, _) = packet.header[START..END].as_chunks::<8>();
        let mut wrong = 0;
        for ((word, mask), expected) in compared.iter().zip(&MASK).zip(&self.expected) {
            wrong |= (u64::from_le_bytes(*word) & mask) ^ expected;
        }
        let (words, _) = packet.header.as_chunks::<8>();
        let [_, _, w2, _, w4, _, _, _, w8, w9, w10, ..] = words else { return None };
        let [w2, w4] = [u64::from_le_bytes(*w2), u64::from_le_bytes(*w4)];
        let w8 = u64::from_le_bytes(*w8);
        let (w9, w10) = (u64::from_le_bytes(*w9), u64::from_le_bytes(*w10));
        let swapped = |word: u64| u32::from(((word & 0xffff) as u16).swap_bytes());
        let (outer, udp, total) = (swapped(w2), swapped(w4 >> 48), swapped(w8 >> 16));
        if wrong != 0
            || packet.header_len < FAST_BYTES
            || packet.segment_bytes != 0
            || udp + 20 > outer
            || total < 20
            || total + LINK_BYTES + TUNNEL > udp
        {
            return None;
        }
        // As in `fast::common_case`.
        let (sum, carry) = w8.overflowing_add(w9);
        let (sum, again) = sum.overflowing_add((w10 & 0xffff_ffff) + u64::from(carry));
        if !(sum + u64::from(again)).is_multiple_of(0xffff) {
            return None;
        }
        Some(((w10 & 0xffff_ffff) as u32).swap_bytes())
    }
}

/// Lets a packet go on without its outer header, if it is in the common case. What is no port has an MTU of zero.
#[inline(always)]
fn unwrap_to(packet: &mut Packet, hop: &PortHop) -> bool {
    let (words, _) = packet.header.as_chunks_mut::<8>();
    let [_, _, _, _, w4, _, w6, w7, _, w9, ..] = words else { return false };
    let frame_bytes = u32::from(u16::from_be_bytes([w4[6], w4[7]])).saturating_sub(TUNNEL);
    let ninth = u64::from_le_bytes(*w9);
    if frame_bytes.wrapping_sub(LINK_BYTES + 1) >= u32::from(hop.mtu) || ninth & 0xff <= 1 {
        return false;
    }
    let [to, from] = hop.words();
    *w6 = (u64::from_le_bytes(*w6) & 0xffff | to << 16).to_le_bytes();
    *w7 = (u64::from_le_bytes(*w7) & !0 << 48 | from << 16 | to >> 48).to_le_bytes();
    // As in `fast::forward`, with the words where they are here.
    let sum = ((ninth >> 16) & 0xffff) + 1;
    let sum = (sum + u64::from(sum >= 0xffff)) & 0xffff;
    *w9 = ((ninth - 1) & !0xffff_0000 | sum << 16).to_le_bytes();
    packet.frame_len = frame_bytes;
    packet.outer_len = OUTER4_LEN;
    packet.verdict = Verdict::Decapsulate(hop.port);
    true
}
