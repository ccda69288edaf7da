//! What differs between packets by who sent them: a pod, the kernel or another host. Chosen once for each burst.

use super::slow::{self, Step};
use super::{Place, Targets, bridge, six, uplink};
use crate::hops::NextHop;
use crate::routes::LINK_LOCAL;
use crate::tables::Sender;
use crate::{Packet, PortIndex, PortLimits, Verdict};
use core::net::Ipv6Addr;

/// The parts of the stages that know who sent a packet.
pub(super) trait Ingress: Sender {
    /// Forwards an IPv6 packet that is right in the most common way. `None`: it is not, and nothing is changed.
    fn forward6(at: &Place<'_>, packet: &mut Packet) -> Option<PortIndex>;

    /// Bridges the frames of a batch to ports here that are right in the most common way. Returns a bit for each that is
    /// decided about.
    fn bridge(_: &Place<'_>, _: &mut [Packet], _: &mut Targets) -> u64 {
        0
    }

    /// The first stage for what is not right in the most common way.
    fn classify(at: &Place<'_>, packet: &mut Packet, limits: &mut PortLimits) -> Step;

    /// The verdict on an IPv4 packet that is not simply forwarded. Its header was checked.
    fn resolve(
        at: &Place<'_>,
        next_hop: &NextHop,
        packet: &mut Packet,
        limits: &mut PortLimits,
    ) -> Verdict;
}

/// A pod: everything must be its own.
pub(super) struct Pod;
/// The kernel as a router of the network: source addresses may be anybody's.
pub(super) struct Kernel;
/// Another host or a router on the wire: MAC addresses may be anybody's, too.
pub(super) struct Uplink;

/// The version and the header length, behind the ethertype; bytes in front of them that are the sender's.
const KIND: u64 = 0x00ff_ffff_0000_0000;
const DESTINATION: u64 = 0x0000_ffff_ffff_ffff;
const KIND6: u64 = 0x00f0_ffff_0000_0000;

impl Sender for Pod {
    const MASK: [u64; 3] = [u64::MAX, u64::MAX >> 8, 0x0000_ffff_ffff_0000];
    const MASK6: [u64; 2] = [u64::MAX, 0x00f0_ffff_ffff_ffff];
}

impl Ingress for Pod {
    #[inline(always)]
    fn bridge(at: &Place<'_>, batch: &mut [Packet], targets: &mut Targets) -> u64 {
        bridge::forward(at, batch, targets)
    }

    #[inline(always)]
    fn forward6(at: &Place<'_>, packet: &mut Packet) -> Option<PortIndex> {
        six::forward::<Self>(at, packet)
    }

    #[inline(always)]
    fn classify(at: &Place<'_>, packet: &mut Packet, limits: &mut PortLimits) -> Step {
        slow::classify(at, packet, limits)
    }

    #[inline(always)]
    fn resolve(
        at: &Place<'_>,
        next_hop: &NextHop,
        packet: &mut Packet,
        limits: &mut PortLimits,
    ) -> Verdict {
        slow::resolve(at, next_hop, packet, limits)
    }
}

impl Sender for Kernel {
    const MASK: [u64; 3] = [u64::MAX, u64::MAX >> 8, 0];
    const MASK6: [u64; 2] = Pod::MASK6;

    #[inline(always)]
    fn may_send6(_: Ipv6Addr, source: Ipv6Addr) -> bool {
        is_routed6(source)
    }
}

impl Ingress for Kernel {
    fn forward6(at: &Place<'_>, packet: &mut Packet) -> Option<PortIndex> {
        six::forward::<Self>(at, packet)
    }

    fn classify(at: &Place<'_>, packet: &mut Packet, limits: &mut PortLimits) -> Step {
        slow::classify(at, packet, limits)
    }

    fn resolve(
        at: &Place<'_>,
        next_hop: &NextHop,
        packet: &mut Packet,
        limits: &mut PortLimits,
    ) -> Verdict {
        slow::resolve(at, next_hop, packet, limits)
    }
}

impl Sender for Uplink {
    const MASK: [u64; 3] = [DESTINATION, KIND, 0];
    const MASK6: [u64; 2] = [DESTINATION, KIND6];

    #[inline(always)]
    fn may_send4(fourth: u64) -> bool {
        is_routed4(fourth.to_le_bytes()[2])
    }

    #[inline(always)]
    fn may_send6(_: Ipv6Addr, source: Ipv6Addr) -> bool {
        is_routed6(source)
    }
}

impl Ingress for Uplink {
    fn forward6(at: &Place<'_>, packet: &mut Packet) -> Option<PortIndex> {
        uplink::forward6(at, packet)
    }

    fn classify(at: &Place<'_>, packet: &mut Packet, limits: &mut PortLimits) -> Step {
        Step::Done(uplink::decide(at, packet, limits))
    }

    fn resolve(
        at: &Place<'_>,
        next_hop: &NextHop,
        packet: &mut Packet,
        limits: &mut PortLimits,
    ) -> Verdict {
        uplink::resolve4(at, next_hop, packet, limits)
    }
}

/// Whether a router forwards packets from an address with this first byte (RFC 1812 section 5.3.7).
#[inline(always)]
pub(super) fn is_routed4(first: u8) -> bool {
    first != 0 && first != 127 && first < 224
}

/// The same for IPv6 (RFC 4291 sections 2.5.2, 2.5.3, 2.5.6 and 2.7).
#[inline(always)]
pub(super) fn is_routed6(source: Ipv6Addr) -> bool {
    source.to_bits() >> 32 != 0 && !source.is_multicast() && !LINK_LOCAL.contains(source)
}
