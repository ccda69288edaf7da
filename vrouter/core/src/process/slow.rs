//! What the fast path leaves over: everything wrong, and everything right but rare.

use super::{Place, bridge, nd, six, tunnel};
use crate::hops::{NextHop, PortHop, TunnelHop};
use crate::icmp::{ipv4_of, may_be_reported};
use crate::{
    DropReason, IcmpError, Mode, NetworkPolicy, Packet, PortLimits, PortPolicy, PortRole,
    PuntClass, Timestamp, Verdict,
};
use core::net::Ipv4Addr;
use vrouter_net::ethernet::{self, EtherType};
use vrouter_net::ipv4::{self, Protocol};
use vrouter_net::{Mac, arp, icmpv4, ipv6};

/// Result of the first stage for one packet.
pub(super) enum Step {
    /// Look up this address.
    LookUp(u32),
    /// Decided.
    Done(Verdict),
}

impl From<DropReason> for Step {
    fn from(reason: DropReason) -> Self {
        Self::Done(Verdict::Drop(reason))
    }
}

/// Checks the headers of any frame.
#[cold]
pub(super) fn classify(at: &Place<'_>, packet: &mut Packet, limits: &mut PortLimits) -> Step {
    let Ok((link, payload)) = ethernet::Header::split(packet.head()) else {
        return DropReason::RuntFrame.into();
    };
    let network = at.network.policy();
    let to = link.destination();
    if network.mode == Mode::Bridged && to != network.gateway_mac {
        return Step::Done(bridge::decide(at, packet, limits));
    }
    if link.source() != at.port.policy.mac {
        return DropReason::SourceMac.into();
    }
    match link.ether_type() {
        EtherType::IPV4 => {
            let bytes = packet.payload_bytes();
            let address = addressed_to_gateway(to, network)
                .and_then(|()| check_ipv4(&at.port.policy, payload, bytes));
            address.map_or_else(Step::from, |address| Step::LookUp(address.to_bits()))
        }
        EtherType::ARP => {
            let allowed = match to {
                Mac::BROADCAST => Ok(()),
                to => addressed_to_gateway(to, network),
            };
            let asked = allowed.and_then(|()| check_arp(at, payload));
            asked.map_or_else(Step::from, |(target, asker)| answer_arp(at, packet, target, asker))
        }
        EtherType::IPV6 if network.ipv6.is_some() => {
            let verdict = ipv6(at, packet, to, limits);
            Step::Done(verdict.unwrap_or_else(Verdict::Drop))
        }
        _ => DropReason::UnsupportedEthertype.into(),
    }
}

pub(super) fn addressed_to_gateway(to: Mac, network: &NetworkPolicy) -> Result<(), DropReason> {
    if to == network.gateway_mac {
        Ok(())
    } else if to.is_multicast() {
        Err(DropReason::Multicast)
    } else {
        Err(DropReason::NotForGatewayMac)
    }
}

/// IPv6 is decided about at once. Only Neighbor Discovery may go to a group.
fn ipv6(
    at: &Place<'_>,
    packet: &mut Packet,
    to: Mac,
    limits: &mut PortLimits,
) -> Result<Verdict, DropReason> {
    let allowed = addressed_to_gateway(to, at.network.policy());
    if allowed == Err(DropReason::NotForGatewayMac) {
        return Err(DropReason::NotForGatewayMac);
    }
    if let Some(wish) = nd::check(at, packet)? {
        return Ok(nd::answer(at, packet, wish));
    }
    allowed?;
    Ok(six::resolve(at, packet, limits))
}

/// The destination of a packet with a sound header that comes from an address of the port.
fn check_ipv4(port: &PortPolicy, bytes: &[u8], frame_bytes: usize) -> Result<Ipv4Addr, DropReason> {
    let header = read_ipv4(bytes, frame_bytes)?;
    let source = header.source();
    if source != port.ipv4 && !port.allows(source.into()) {
        return Err(DropReason::SourceIp);
    }
    Ok(header.destination())
}

/// A sound IPv4 header.
pub(super) fn read_ipv4(
    bytes: &[u8],
    frame_bytes: usize,
) -> Result<ipv4::Header<&[u8; ipv4::HEADER_BYTES]>, DropReason> {
    ipv4::Header::check(bytes, frame_bytes).map_err(|error| match error {
        ipv4::Error::Truncated(_) => DropReason::RuntFrame,
        ipv4::Error::Version(_)
        | ipv4::Error::HeaderLength(_)
        | ipv4::Error::TotalLength { .. } => DropReason::MalformedIpv4,
        ipv4::Error::Checksum(_) => DropReason::BadIpv4Checksum,
    })
}

/// A sound IPv6 header.
pub(crate) fn read_ipv6(
    bytes: &[u8],
    frame_bytes: usize,
) -> Result<ipv6::Header<&[u8; ipv6::HEADER_BYTES]>, DropReason> {
    ipv6::Header::check(bytes, frame_bytes).map_err(|error| match error {
        ipv6::Error::Truncated(_) => DropReason::RuntFrame,
        ipv6::Error::Version(_) | ipv6::Error::PayloadLength { .. } => DropReason::MalformedIpv6,
    })
}

/// The ARP packet a frame carries.
pub(super) fn read_arp(
    payload: &[u8],
) -> Result<arp::Packet<&[u8; arp::PACKET_BYTES]>, DropReason> {
    arp::Packet::parse(payload).map_err(|error| match error {
        arp::Error::Truncated(_) => DropReason::RuntFrame,
        arp::Error::NotIpv4OverEthernet => DropReason::MalformedArp,
    })
}

/// The address a pod may be told the MAC address of, and the address it asks from.
fn check_arp(at: &Place<'_>, payload: &[u8]) -> Result<(Ipv4Addr, Ipv4Addr), DropReason> {
    let packet = read_arp(payload)?;
    let port = &at.port.policy;
    let is_request = packet.operation() == arp::Operation::REQUEST;
    let sender = packet.sender_ip();
    // RFC 5227 section 2.1.1: a probe claims no address. An answer would say that the address is taken.
    let is_probe = is_request && sender.is_unspecified();
    let claims_own = is_probe || sender == port.ipv4 || port.allows(sender.into());
    if packet.sender_mac() != port.mac || !claims_own {
        return Err(DropReason::ArpSpoof);
    }
    let target = packet.target_ip();
    if !is_request || is_probe || target == sender || target == port.ipv4 {
        return Err(DropReason::ArpUnanswered);
    }
    // Only what is on the pod's link is asked for; a route from elsewhere is no reason to answer.
    let next_hop = at.network.next_hop(target);
    let is_known = *next_hop == NextHop::Gateway || next_hop.is_somebody(|_| true);
    if is_known && at.network.policy().prefix.contains(target) {
        Ok((target, sender))
    } else {
        Err(DropReason::ArpUnanswered)
    }
}

/// Answers for the gateway, in a routed network for every pod too, and in any for those behind tunnels: they are reached through the
/// gateway only.
pub(super) fn answer_arp(
    at: &Place<'_>,
    packet: &mut Packet,
    target: Ipv4Addr,
    asker: Ipv4Addr,
) -> Step {
    let Some(frame) = packet.header.first_chunk_mut::<{ arp::FRAME_BYTES }>() else {
        return DropReason::RuntFrame.into();
    };
    let gateway_mac = at.network.policy().gateway_mac;
    arp::write_reply(frame, gateway_mac, target, at.port.policy.mac, asker);
    Step::Done(Verdict::Reply)
}

/// The verdict on an IPv4 packet that is not simply forwarded. Its header was checked.
#[cold]
pub(super) fn resolve(
    at: &Place<'_>,
    next_hop: &NextHop,
    packet: &mut Packet,
    limits: &mut PortLimits,
) -> Verdict {
    // The first stage has checked the header, so this cannot fail; and if a mistake made it fail, one packet
    // would be lost, not the process.
    let Some((header, bytes)) = ipv4_of(packet) else {
        return Verdict::Drop(DropReason::MalformedIpv4);
    };
    let next_hop = next_hop.of_flow(|| tunnel::path(packet));
    let error = match next_hop {
        NextHop::Drop(reason) => return Verdict::Drop(*reason),
        NextHop::Gateway => {
            return tunnel::open(at, packet, limits).unwrap_or_else(|| answer_gateway(at, packet));
        }
        // The kernel's addresses are in external networks, and there is no way through several sets.
        NextHop::Unreachable | NextHop::Local | NextHop::Multipath(_) => IcmpError::HostUnreachable,
        NextHop::Kernel(_) if at.port.policy.role == PortRole::Kernel => {
            return Verdict::Drop(DropReason::KernelLoop);
        }
        NextHop::Kernel(hop) if fits(&header, bytes, packet, hop.mtu) => {
            return to_kernel(at, packet, hop, limits);
        }
        NextHop::NoRoute => IcmpError::NetworkUnreachable,
        // A pod's own stack keeps what it sends to itself. Anything else is a mistake or a try to make the
        // vRouter hold both rings of a port at once.
        NextHop::Port(hop) if hop.port == at.port.policy.index => {
            return Verdict::Drop(DropReason::Hairpin);
        }
        NextHop::Port(_) | NextHop::Tunnel(_) if header.ttl() <= 1 => IcmpError::TimeExceeded,
        NextHop::Port(hop) | NextHop::Tunnel(TunnelHop { inner: hop, .. })
            if fits(&header, bytes, packet, hop.mtu) =>
        {
            let (ecn, verdict) = (header.ecn(), forward(packet, hop));
            return match next_hop {
                NextHop::Tunnel(hop) => tunnel::wrap(packet, hop, ecn),
                _ => verdict,
            };
        }
        NextHop::Port(hop)
        | NextHop::Kernel(hop)
        | NextHop::Tunnel(TunnelHop { inner: hop, .. })
            if header.dont_fragment() && header.total_length() > hop.mtu =>
        {
            IcmpError::FragmentationNeeded { mtu: hop.mtu }
        }
        NextHop::Port(_) | NextHop::Kernel(_) | NextHop::Tunnel(_) => {
            return Verdict::Drop(DropReason::TooBig);
        }
    };
    report(error, may_be_reported(&header, bytes), at.now, limits)
}

/// The verdict on a packet whose sender deserves an error.
pub(super) fn report(
    error: IcmpError,
    may_be_reported: bool,
    now: Timestamp,
    limits: &mut PortLimits,
) -> Verdict {
    if !may_be_reported {
        Verdict::Drop(error.into())
    } else if limits.errors.allow(now) {
        Verdict::Originate(error)
    } else {
        Verdict::Drop(DropReason::IcmpRateLimited)
    }
}

/// Hands a packet to the kernel to route it, if that has not got too many. It is the kernel that routes, and so the
/// kernel that takes one from the time to live: the vRouter would count the same router twice.
pub(super) fn to_kernel(
    at: &Place<'_>,
    packet: &mut Packet,
    hop: &PortHop,
    limits: &mut PortLimits,
) -> Verdict {
    if !limits.punts.allow(at.now, PuntClass::Kernel, at.network.punts()) {
        return Verdict::Drop(DropReason::PuntLimited);
    }
    let Ok((mut link, _)) = ethernet::Header::split_mut(packet.head_mut()) else {
        return Verdict::Drop(DropReason::RuntFrame);
    };
    link.set_addresses(hop.destination_mac(), hop.source_mac());
    Verdict::Punt(hop.port, PuntClass::Kernel)
}

/// Whether a packet, or each of the segments that it is to be cut into, has at most `mtu` bytes.
pub(super) fn fits(
    header: &ipv4::Header<&[u8; ipv4::HEADER_BYTES]>,
    bytes: &[u8],
    packet: &Packet,
    mtu: u16,
) -> bool {
    packet.payload_bytes() <= usize::from(mtu)
        || segments_fit(header, bytes, packet.segment_bytes, mtu)
}

/// Whether a TCP packet that is to be cut makes segments of at most `mtu` bytes.
fn segments_fit(
    header: &ipv4::Header<&[u8; ipv4::HEADER_BYTES]>,
    bytes: &[u8],
    segment_bytes: u16,
    mtu: u16,
) -> bool {
    let ip = usize::from(header.header_bytes());
    // The data offset of RFC 9293 section 3.1, in words of 4 bytes.
    let Some(offset) = bytes.get(ip + 12) else { return false };
    let tcp = usize::from(offset >> 4) * 4;
    let cut = segment_bytes != 0 && header.protocol() == Protocol::TCP && !header.is_fragment();
    cut && tcp >= 20 && ip + tcp + usize::from(segment_bytes) <= usize::from(mtu)
}

/// Forwards a packet whose TTL allows it.
pub(super) fn forward(packet: &mut Packet, hop: &PortHop) -> Verdict {
    let Ok((mut link, bytes)) = ethernet::Header::split_mut(packet.head_mut()) else {
        return Verdict::Drop(DropReason::RuntFrame);
    };
    link.set_addresses(hop.destination_mac(), hop.source_mac());
    if let Some(bytes) = bytes.first_chunk_mut() {
        let mut header = ipv4::Header::of(bytes);
        header.set_ttl(header.ttl().saturating_sub(1));
    }
    Verdict::Forward(hop.port)
}

/// Answers a ping for the gateway's address; nothing else is answered.
fn answer_gateway(at: &Place<'_>, packet: &mut Packet) -> Verdict {
    let policy = at.network.policy();
    if packet.payload_bytes() > usize::from(policy.mtu) {
        return Verdict::Drop(DropReason::TooBig);
    }
    if echo_reply(packet.head_mut(), at.port.policy.mac, policy.gateway_mac).is_some() {
        Verdict::Reply
    } else {
        Verdict::Drop(DropReason::GatewayUnhandled)
    }
}

/// Turns the frame of an echo request into that of its reply. `None`: it is not one; nothing is changed.
fn echo_reply(head: &mut [u8], to: Mac, from: Mac) -> Option<()> {
    let (mut link, bytes) = ethernet::Header::split_mut(head).ok()?;
    let header = ipv4::Header::of(bytes.first_chunk::<{ ipv4::HEADER_BYTES }>()?);
    // Fragments are not put together.
    if header.protocol() != Protocol::ICMP || header.is_fragment() {
        return None;
    }
    let start = usize::from(header.header_bytes());
    let end = bytes.len().min(usize::from(header.total_length()));
    let message = bytes.get_mut(start..end)?;
    let request = icmpv4::Header::parse(message).ok()?;
    if request.kind() != icmpv4::Type::ECHO_REQUEST || request.code() != 0 {
        return None;
    }
    icmpv4::echo_reply(message).ok()?;
    let mut header = ipv4::Header::of(bytes.first_chunk_mut()?);
    header.set_ttl(ipv4::DEFAULT_TTL);
    header.swap_addresses();
    link.set_addresses(to, from);
    Some(())
}
