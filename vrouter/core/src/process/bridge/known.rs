//! The stage for what most frames of a bridged network are: an IP packet that a pod sends from its own addresses to the MAC
//! address of another port here.

use super::super::{Place, STAGE_PACKETS, Targets};
use super::{SEGMENT_HEADER_BYTES, is_kernel};
use crate::tables::Sender;
use crate::{Packet, PortIndex, Verdict};
use vrouter_net::ipv4::Protocol;
use vrouter_net::{Mac, ethernet, ipv4, ipv6};

/// A pod that sends to any MAC address: all else must be its own.
struct Neighbour;

/// The destination in the first word of a frame.
const TO: u64 = 0x0000_ffff_ffff_ffff;
/// Up to the end of the header without options.
const HEAD4: usize = ethernet::HEADER_BYTES + ipv4::HEADER_BYTES;
const HEAD6: usize = ethernet::HEADER_BYTES + ipv6::HEADER_BYTES;

impl Sender for Neighbour {
    const MASK: [u64; 3] = [!TO, u64::MAX >> 8, 0x0000_ffff_ffff_0000];
    const MASK6: [u64; 2] = [!TO, 0x00f0_ffff_ffff_ffff];
}

/// Decides about those frames of a batch that are right in the most common way, and leaves all others as they are. Returns a
/// bit for each that is decided.
#[inline(never)]
pub(in crate::process) fn forward(
    at: &Place<'_>,
    batch: &mut [Packet],
    targets: &mut Targets,
) -> u64 {
    let mtu = usize::from(at.network.policy().mtu);
    let gateway = at.network.policy().gateway_mac;
    // Frames that follow each other mostly go to one station.
    let mut last: Option<(u64, PortIndex)> = None;
    let mut done = 0;
    for (i, packet) in batch.iter_mut().enumerate().take(STAGE_PACKETS) {
        let [w0, w1, _, w3, _] = packet.words();
        if !is_own(at, packet, [w0, w1, w3]) {
            continue;
        }
        // Of a packet that is to be cut, a segment with its shortest headers counts.
        let bytes = match packet.segment_bytes {
            0 => packet.payload_bytes(),
            segment => usize::from(segment) + SEGMENT_HEADER_BYTES,
        };
        if bytes > mtu {
            continue;
        }
        let to = w0 & TO;
        let port = match last {
            Some((before, port)) if before == to => port,
            _ => {
                let [mac @ .., _, _] = to.to_le_bytes();
                let mac = Mac::new(mac);
                // What is for the gateway is routed, and no port has its address.
                let found = if mac == gateway { None } else { at.network.port_of(mac) };
                let Some(port) = found else { continue };
                if port == at.port.policy.index || is_kernel(at, port) {
                    continue;
                }
                last = Some((to, port));
                port
            }
        };
        packet.verdict = Verdict::Forward(port);
        targets.add(port, false);
        done |= 1 << i;
    }
    done
}

/// Whether a frame comes from the port's own MAC and IP address and needs no closer look: over IPv6 anything but TCP and UDP
/// may be Neighbor Discovery.
#[inline(always)]
fn is_own(at: &Place<'_>, packet: &Packet, [w0, w1, w3]: [u64; 3]) -> bool {
    if at.port.expect.agrees::<Neighbour>(w0, w1, w3) {
        return packet.head().len() >= HEAD4;
    }
    let Some(expect) = at.port.expect6.as_ref().filter(|it| it.agrees::<Neighbour>(w0, w1)) else {
        return false;
    };
    let head = packet.header.first_chunk::<HEAD6>();
    let Some(ip) = head.and_then(|head| head.last_chunk()) else { return false };
    let ip: ipv6::Header<&[u8; ipv6::HEADER_BYTES]> = ipv6::Header::of(ip);
    packet.head().len() >= HEAD6
        && Neighbour::may_send6(expect.source, ip.source())
        && matches!(ip.next_header(), Protocol::TCP | Protocol::UDP)
        && usize::from(ip.payload_length()) + ipv6::HEADER_BYTES <= packet.payload_bytes()
}
