//! ICMP errors about packets that cannot be forwarded.

use crate::process::{six, slow};
use crate::{DropReason, HEADER_BYTES, IcmpError, Packet, PortIndex, Tables};
use vrouter_net::ethernet::{self, EtherType};
use vrouter_net::ipv4::{self, Protocol};
use vrouter_net::{icmpv4, icmpv6, ipv6};

/// Bytes of the longest frame [`icmp_error`] writes.
pub const ICMP_ERROR_BYTES: usize =
    icmpv6::ERROR_OVERHEAD_BYTES + HEADER_BYTES - ethernet::HEADER_BYTES;
const _: () = assert!(icmpv4::ERROR_OVERHEAD_BYTES < icmpv6::ERROR_OVERHEAD_BYTES);

/// Writes the Ethernet frame that tells the pod behind `ingress` about `packet`, whose verdict was
/// [`crate::Verdict::Originate`] with this `kind`. Returns its bytes.
///
/// Quotes as much of the packet as the scratch holds: its IP header and at least 8 bytes more, if it has them.
///
/// `None`, and `out` in any state: the port is gone, the scratch does not hold an IP packet that may be
/// answered, or `out` is shorter than needed ([`ICMP_ERROR_BYTES`] always suffice).
pub fn icmp_error(
    tables: &Tables,
    ingress: PortIndex,
    packet: &Packet,
    kind: IcmpError,
    out: &mut [u8],
) -> Option<usize> {
    let (port, network) = tables.ingress(ingress)?;
    let policy = network.policy();
    let (from, to) = (policy.gateway_mac, port.policy.mac);
    if let Ok((header, bytes)) = ipv6_of(packet) {
        let source = header.source();
        if !six::may_be_reported(source, bytes) {
            return None;
        }
        let quote = bytes.get(..header.total_bytes()).unwrap_or(bytes);
        let from = (from, policy.ipv6?.gateway);
        return icmpv6::ErrorFrame { kind, from, to: (to, source), quote }.write(out).ok();
    }
    let (header, bytes) = ipv4_of(packet)?;
    if !may_be_reported(&header, bytes) {
        return None;
    }
    let quote = bytes.get(..usize::from(header.total_length())).unwrap_or(bytes);
    let (from, to) = ((from, policy.gateway), (to, header.source()));
    icmpv4::ErrorFrame { kind, from, to, quote }.write(out).ok()
}

/// The IPv6 header in the scratch, and the scratch from there on.
pub(crate) fn ipv6_of(
    packet: &Packet,
) -> Result<(ipv6::Header<&[u8; ipv6::HEADER_BYTES]>, &[u8]), DropReason> {
    let (link, bytes) =
        ethernet::Header::split(packet.head()).map_err(|_| DropReason::RuntFrame)?;
    if link.ether_type() != EtherType::IPV6 {
        return Err(DropReason::UnsupportedEthertype);
    }
    Ok((slow::read_ipv6(bytes, packet.payload_bytes())?, bytes))
}

type Ipv4Header<'a> = ipv4::Header<&'a [u8; ipv4::HEADER_BYTES]>;

/// The IPv4 header in the scratch, and the scratch from there on.
pub(crate) fn ipv4_of(packet: &Packet) -> Option<(Ipv4Header<'_>, &[u8])> {
    let (_, bytes) = ethernet::Header::split(packet.head()).ok()?;
    Some((ipv4::Header::check(bytes, packet.payload_bytes()).ok()?, bytes))
}

/// Whether an error about this packet may be sent at all (RFC 1122 section 3.2.2).
///
/// Its link-layer destination, source and destination address are no concern here: only packets to the
/// gateway's MAC address, from an address of the port and to unicast addresses get this far.
pub(crate) fn may_be_reported(header: &Ipv4Header<'_>, bytes: &[u8]) -> bool {
    if header.is_later_fragment() {
        return false;
    }
    if header.protocol() != Protocol::ICMP {
        return true;
    }
    // An ICMP message that cannot be seen might be an error.
    let start = usize::from(header.header_bytes());
    let packet = bytes.get(..usize::from(header.total_length())).unwrap_or(bytes);
    packet.get(start).is_some_and(|kind| !icmpv4::Type(*kind).is_error())
}
