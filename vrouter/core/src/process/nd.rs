//! Neighbor Discovery: who may say what, and what the gateway answers.

use super::Place;
use crate::hops::NextHop;
use crate::icmp::ipv6_of;
use crate::routes::LINK_LOCAL;
use crate::{DropReason, Packet, Verdict};
use core::net::{IpAddr, Ipv6Addr};
use vrouter_net::ipv4::Protocol;
use vrouter_net::nd::{self, Advertisement, Message};
use vrouter_net::{Mac, icmpv6, ipv6};

/// What a sound message wants that does not lie.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wish {
    /// To know where an address is. An unspecified source probes whether it is free (RFC 4862 section 5.4).
    Know { target: Ipv6Addr, source: Ipv6Addr },
    /// To tell what everybody knows, or to find a router that advertises.
    Nothing,
}

/// Reads a Neighbor Discovery message and checks all it claims. `None`: the packet is something else.
pub(super) fn check(at: &Place<'_>, packet: &Packet) -> Result<Option<Wish>, DropReason> {
    let (header, bytes) = ipv6_of(packet)?;
    if header.next_header() != Protocol::ICMPV6 {
        return Ok(None);
    }
    let message = bytes.get(ipv6::HEADER_BYTES..).unwrap_or(&[]);
    if !message.first().is_some_and(|kind| (133..=137).contains(kind)) {
        return Ok(None);
    }
    // Messages are short. One that was not copied whole cannot be believed.
    let (source, destination) = (header.source(), header.destination());
    let whole = message.get(..usize::from(header.payload_length()));
    let whole = whole.ok_or(DropReason::MalformedNd)?;
    let sound = header.hop_limit() == nd::HOP_LIMIT && icmpv6::verify(source, destination, whole);
    let message = Message::parse(whole).ok().flatten().filter(|_| sound);
    let message = message.ok_or(DropReason::MalformedNd)?;

    let policy = &at.port.policy;
    let may_be = |address: Ipv6Addr| {
        policy.ipv6 == Some(address)
            || LINK_LOCAL.contains(address) && address != ipv6::link_local(gateway_mac(at))
            || policy.allows(IpAddr::V6(address))
    };
    let is_own = |mac: Option<Mac>| mac.is_none_or(|mac| mac == policy.mac);
    let honest = match message {
        // A probe tells nothing, so that it must not name a MAC address (RFC 4861 section 7.1.1).
        Message::NeighborSolicitation(_, mac) | Message::RouterSolicitation(mac)
            if source.is_unspecified() =>
        {
            mac.is_none()
        }
        Message::NeighborSolicitation(_, mac) | Message::RouterSolicitation(mac) => {
            may_be(source) && is_own(mac)
        }
        Message::NeighborAdvertisement(target, mac) => {
            may_be(source) && may_be(target) && is_own(mac)
        }
        Message::FromRouter => false,
    };
    if !honest {
        return Err(DropReason::NdSpoof);
    }
    Ok(Some(match message {
        Message::NeighborSolicitation(target, _) => Wish::Know { target, source },
        _ => Wish::Nothing,
    }))
}

/// Whether an address is one of the gateway's.
pub(super) fn is_gateway(at: &Place<'_>, address: Ipv6Addr) -> bool {
    *at.network.next_hop_ip(address.into()) == NextHop::Gateway
}

/// Whether an address on the network's link is behind a tunnel. Frames are not carried there, so that the gateway answers for it.
pub(super) fn is_far(at: &Place<'_>, address: IpAddr) -> bool {
    let policy = at.network.policy();
    let on_link = match address {
        IpAddr::V4(address) => policy.prefix.contains(address),
        IpAddr::V6(address) => policy.ipv6.is_some_and(|six| six.prefix.contains(address)),
    };
    on_link && at.network.next_hop_ip(address).is_tunnel()
}

/// Answers for the gateway and, as a proxy, for the ports of a routed network and what is behind tunnels: pods reach those through the
/// gateway only. The packet is only changed when it is answered.
pub(super) fn answer(at: &Place<'_>, packet: &mut Packet, wish: Wish) -> Verdict {
    let unanswered = Verdict::Drop(DropReason::NdUnanswered);
    let Wish::Know { target, source } = wish else { return unanswered };
    let is_probe = source.is_unspecified();
    let is_gateway = is_gateway(at, target);
    let is_known = match at.network.next_hop_ip(target.into()) {
        NextHop::Gateway => true,
        // Only what is on the pod's link is asked for, and not the pod itself.
        next_hop => {
            let on_link = at.network.policy().ipv6.is_some_and(|six| six.prefix.contains(target));
            on_link && !is_probe && next_hop.is_somebody(|hop| hop.port != at.port.policy.index)
        }
    };
    if !is_known {
        return unanswered;
    }
    // RFC 4861 section 7.2.4; a proxy does not override (section 7.2.8).
    let to = if is_probe {
        (ipv6::group_mac(ipv6::ALL_NODES), ipv6::ALL_NODES)
    } else {
        (at.port.policy.mac, source)
    };
    let advertisement = Advertisement {
        target,
        mac: gateway_mac(at),
        to,
        is_router: is_gateway,
        is_solicited: !is_probe,
        is_override: is_gateway,
    };
    // The frame keeps its length. A shorter answer is followed by what there was: the pod's own options.
    match advertisement.write(packet.head_mut()) {
        Some(_) => Verdict::Reply,
        None => Verdict::Drop(DropReason::MalformedNd),
    }
}

fn gateway_mac(at: &Place<'_>) -> Mac {
    at.network.policy().gateway_mac
}
