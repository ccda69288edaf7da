//! What of a pod's requests the device that a frame leaves by can do. Pure.
//!
//! What a device is given is a frame as it likes them: one TCP or UDP packet, whole, exactly as long as its IP header says, and
//! with what a driver is known to choke on left out. All else is done in software.

use vrouter_dpdk::{Offloads, TxWork};
use vrouter_net::ipv4::{self, Protocol};
use vrouter_net::{ethernet, ipip, ipv6, mpls, vxlan};
use vrouter_vhost::offload::{Offload, Segmentation};

use crate::software::MOST_PIECES;

/// Payload bytes of a piece that devices are asked for: some take less, or more, for an attack and stop (Intel's 700 series
/// below 256 bytes and above 9,674).
const PIECES: std::ops::RangeInclusive<usize> = 256..=9_000;
/// Bytes of a whole frame, a tunnel's header included, whose lengths fit their fields.
const LONGEST: usize = 65_535;
/// Where a TCP header has its length and its checksum, and a UDP header its checksum.
const TCP_LENGTH: usize = 12;
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const UDP_BYTES: usize = 8;
const TCP_LEAST: usize = 20;

/// A frame that is one whole TCP or UDP packet, without IPv6 extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Whole {
    is_ipv6: bool,
    is_udp: bool,
    ip_bytes: usize,
    /// Bytes of the packet, its IP header included, as that says.
    packet_bytes: usize,
}

/// What is in front of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Front {
    Nothing,
    /// VXLAN over IPv4 or IPv6, and then the frame's Ethernet header.
    Vxlan {
        is_ipv6: bool,
    },
    /// MPLS or IP, whose end is where the frame had its Ethernet header.
    NoLink,
}

impl Front {
    fn of(bytes: usize) -> Option<Self> {
        match bytes {
            0 => Some(Self::Nothing),
            vxlan::OUTER4_BYTES => Some(Self::Vxlan { is_ipv6: false }),
            vxlan::OUTER6_BYTES => Some(Self::Vxlan { is_ipv6: true }),
            mpls::FRONT4_BYTES | mpls::FRONT6_BYTES => Some(Self::NoLink),
            ipip::FRONT4_BYTES | ipip::FRONT6_BYTES => Some(Self::NoLink),
            _ => None,
        }
    }
}

impl Whole {
    /// Of a frame that begins so. `is_ethernet`: with an Ethernet header, or as many other bytes.
    fn of(head: &[u8], is_ethernet: bool) -> Option<Self> {
        let ip = head.get(ethernet::HEADER_BYTES..)?;
        let kind = if is_ethernet { *head.get(12..)?.first_chunk()? } else { kind(*ip.first()?) };
        let word = |at: usize| Some(u16::from_be_bytes([*ip.get(at)?, *ip.get(at + 1)?]));
        let (is_ipv6, ip_bytes, protocol, packet_bytes) = match (kind, ip.first()?) {
            ([0x08, 0x00], first) if first >> 4 == 4 => {
                // More fragments, or not the first.
                if word(6)? & 0x3fff != 0 {
                    return None;
                }
                (false, usize::from(first & 0xf) * 4, *ip.get(9)?, usize::from(word(2)?))
            }
            ([0x86, 0xdd], first) if first >> 4 == 6 => {
                let packet_bytes = ipv6::HEADER_BYTES + usize::from(word(4)?);
                (true, ipv6::HEADER_BYTES, *ip.get(6)?, packet_bytes)
            }
            _ => return None,
        };
        let is_udp = protocol == Protocol::UDP.0;
        let is_known = is_udp || protocol == Protocol::TCP.0;
        (is_known && ip_bytes >= ipv4::HEADER_BYTES).then_some(Self {
            is_ipv6,
            is_udp,
            ip_bytes,
            packet_bytes,
        })
    }
}

/// The ethertype of a packet that begins so.
fn kind(first: u8) -> [u8; 2] {
    if first >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] }
}

/// Whether a device's word on the checksum of a received frame is about all of what a pod takes from it: not so for
/// fragments, of which the rest may be anything.
pub fn is_vouched_for(head: &[u8]) -> bool {
    Whole::of(head, true).is_some()
}

/// What is left to a device that can do `can`, of a frame that begins with `head` and has `frame_bytes`, sent behind `front`,
/// the outer header of a tunnel or nothing, in buffers of `room` bytes. `None`: nothing; it is to be done in software.
pub fn plan(
    can: &Offloads,
    wanted: &Offload,
    front: &[u8],
    head: &[u8],
    frame_bytes: usize,
    room: usize,
) -> Option<TxWork> {
    let (start, at) = wanted.checksum().filter(|_| can.any())?;
    // For a checksum inside a tunnel the outer headers are part of what is in front of IP. Every device takes that, as the
    // outer UDP checksum is zero (DPDK's guide to packet buffers, "Meta Information").
    let tunnel = Front::of(front.len())?;
    let packet = Whole::of(head, tunnel != Front::NoLink)?;
    let transport = ethernet::HEADER_BYTES + packet.ip_bytes;
    // Padding would be summed up by some devices.
    if start != transport || ethernet::HEADER_BYTES + packet.packet_bytes != frame_bytes {
        return None;
    }
    let (is_able, field, transport_bytes) = if packet.is_udp {
        (can.udp_checksum, UDP_CHECKSUM, UDP_BYTES)
    } else {
        let words = usize::from(head.get(transport + TCP_LENGTH)? >> 4);
        (can.tcp_checksum, TCP_CHECKSUM, words * 4)
    };
    let headers = transport + transport_bytes;
    let least = if packet.is_udp { UDP_BYTES } else { TCP_LEAST };
    // Drivers write to headers, so these have to be in the first buffer.
    if !is_able || at != start + field || transport_bytes < least || headers > head.len() {
        return None;
    }
    let payload = frame_bytes.checked_sub(headers)?;
    let segment = wanted.segmentation().filter(|(_, size)| payload > *size);
    if let Some((kind, size)) = segment {
        let is_able = match kind {
            Segmentation::Tcp4 => can.tcp4_segmentation && !packet.is_ipv6,
            Segmentation::Tcp6 => can.tcp6_segmentation && packet.is_ipv6,
        };
        let is_able_inside = match tunnel {
            Front::Nothing => true,
            // Each piece has its own length in the outer header, too.
            Front::Vxlan { is_ipv6 } => can.vxlan_segmentation && (is_ipv6 || can.outer_checksum),
            Front::NoLink => false,
        };
        let pieces = payload.div_ceil(size);
        if !is_able
            || !is_able_inside
            || packet.is_udp
            || !PIECES.contains(&size)
            || pieces > MOST_PIECES.min(can.pieces.into())
            || front.len() + headers + size > usize::from(can.piece_bytes)
            || front.len() + frame_bytes > LONGEST
        {
            return None;
        }
    }
    if (front.len() + frame_bytes).div_ceil(room) > usize::from(can.buffers) {
        return None;
    }
    let short = |bytes: usize| u16::try_from(bytes).ok();
    let outer_is_ipv6 = match (tunnel, segment) {
        (Front::Vxlan { is_ipv6 }, Some(_)) => Some(is_ipv6),
        _ => None,
    };
    let outside = match outer_is_ipv6 {
        Some(_) => vxlan::TUNNEL_BYTES,
        None => front.len(),
    };
    Some(TxWork {
        link_bytes: short(outside + ethernet::HEADER_BYTES)?,
        ip_bytes: short(packet.ip_bytes)?,
        transport_bytes: short(transport_bytes)?,
        is_ipv6: packet.is_ipv6,
        is_udp: packet.is_udp,
        segment_bytes: segment.map_or(Some(0), |(_, size)| short(size))?,
        // Each piece has a length of its own. A device that can't do it can be a paravirtual one, whose other end does.
        ip_checksum: segment.is_some() && !packet.is_ipv6 && can.ipv4_checksum,
        outer_is_ipv6,
    })
}

#[cfg(test)]
mod tests;
