//! What becomes of a packet.

use crate::{NetworkIndex, PortIndex, PuntClass};
use core::fmt;

/// An ICMP error the vRouter reports to the sender of a packet.
pub use vrouter_net::icmpv4::ErrorKind as IcmpError;

/// What becomes of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nowhere.
    Drop(DropReason),
    /// To another port; what comes in by an uplink may leave by it, too. The header in the scratch is the one to send.
    Forward(PortIndex),
    /// To another port, of the underlay of a tunnel: [`crate::Packet::outer`] goes in front of the frame, whose header
    /// in the scratch is the one to send. Into MPLS and IP in IP that begins with the end of the outer header; but a frame that
    /// is to be cut into segments keeps its Ethernet header, and it is each piece whose first bytes the outer header takes the place of
    /// ([`vrouter_net::vxlan::overlap`]).
    Encapsulate(PortIndex),
    /// To another port, out of a tunnel: without the first [`crate::Packet::removed`] bytes;
    /// [`crate::Packet::sent_head`] is the header to send.
    Decapsulate(PortIndex),
    /// To several ports of the bridged network that it is for, out of a tunnel as with [`Verdict::Decapsulate`]:
    /// [`crate::Tables::flood_inside`] names them. It never goes into a tunnel again.
    FloodInside(NetworkIndex, Flood),
    /// To the kernel, through a host interface or a kernel port. The header in the scratch is the one to send; the frame
    /// keeps its length. But for [`PuntClass::Kernel`] it is as received.
    Punt(PortIndex, PuntClass),
    /// Back to the port it came from. The header in the scratch is the one to send; the frame keeps its
    /// length.
    Reply,
    /// To several other ports of the network, as it is: [`crate::Tables::flood`] names them. And to other hosts, if the
    /// network stretches to some: [`crate::Tables::flood_into_tunnels`] makes the copies for them.
    Flood(Flood),
    /// Nowhere, but its sender is to get an ICMP error ([`crate::icmp_error`]). The scratch is as received.
    /// The packet itself counts as dropped for `DropReason::from` the error.
    Originate(IcmpError),
}

/// Which ports of a bridged network get a frame that is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// All: the frame goes to a group.
    All,
    /// The trunk ports: nobody here has the destination address, somebody behind them may, or on another host.
    Trunks,
}

/// Declares the reasons once; everything that lists them is made from this.
macro_rules! drop_reasons {
    ($($(#[$meta:meta])* $variant:ident = $name:literal, $describe:literal;)*) => {
        /// Why a packet is dropped. Closed: each reason is one counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[$meta])* #[doc = $describe] $variant,)*
        }

        impl DropReason {
            /// Every reason, in the order of its counters.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$variant),*];
            /// Number of reasons.
            pub const COUNT: usize = [$($name),*].len();

            /// Stable name in snake_case, for APIs.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for people.
            pub const fn describe(self) -> &'static str {
                match self { $(Self::$variant => $describe,)* }
            }
        }
    };
}

drop_reasons! {
    RuntFrame = "runt_frame",
        "The frame ends before its Ethernet, ARP or IP header does.";
    MalformedIpv4 = "malformed_ipv4",
        "The IPv4 version, header length or total length is impossible.";
    BadIpv4Checksum = "bad_ipv4_checksum",
        "The IPv4 header checksum does not add up.";
    SourceMac = "source_mac",
        "The frame's source MAC address is not the port's.";
    SourceIp = "source_ip",
        "The packet's source IP address is not the port's.";
    ArpSpoof = "arp_spoof",
        "The ARP sender claims a MAC or IPv4 address that is not the port's.";
    MalformedArp = "malformed_arp",
        "The ARP packet is not for IPv4 over Ethernet.";
    ArpUnanswered = "arp_unanswered",
        "The ARP packet needs no answer: a reply, a probe or an announcement of the pod's own address, or a question for an address nobody has.";
    UnsupportedEthertype = "unsupported_ethertype",
        "The frame carries what a routed network does not forward: neither ARP nor IPv4 nor, if the network has it, IPv6.";
    Multicast = "multicast",
        "The packet goes to a multicast, broadcast or network address, which a routed network does not forward.";
    NotForGatewayMac = "not_for_gateway_mac",
        "The frame's destination MAC address is not the gateway's, or at an uplink not the uplink's.";
    NoRoute = "no_route",
        "The network has no route or no port for the destination address.";
    TtlExceeded = "ttl_exceeded",
        "The packet's time to live or hop limit ran out.";
    TooBig = "too_big",
        "The packet is larger than the MTU of the network it would leave to.";
    GatewayUnhandled = "gateway_unhandled",
        "The packet is for the gateway address but is not a whole ICMP echo request.";
    Hairpin = "hairpin",
        "The packet is for the very port that sent it.";
    IcmpRateLimited = "icmp_rate_limited",
        "The packet deserved an ICMP error but the limit for those was reached.";
    UnknownIngress = "unknown_ingress",
        "The port that sent the packet is not, or no longer, in the tables.";
    ReceiverDown = "receiver_down",
        "The receiving port has no connected pod or its queues are off.";
    ReceiverRingFull = "receiver_ring_full",
        "The receiving pod offered no free buffer.";
    ReceiverBufferTooSmall = "receiver_buffer_too_small",
        "The buffers the receiving pod offered are too small for the frame.";
    ReceiverBadDescriptor = "receiver_bad_descriptor",
        "A receive buffer that the receiving pod offered is unusable.";
    BadDescriptor = "bad_descriptor",
        "A descriptor of the pod points outside its memory or contradicts itself.";
    ChainTooLong = "chain_too_long",
        "A descriptor chain of the pod is longer than allowed or loops.";
    UnsupportedOffload = "unsupported_offload",
        "The pod asked for an offload that was not agreed on.";
    NoMbuf = "no_mbuf",
        "The vRouter's packet pool is empty.";
    Blackhole = "blackhole",
        "A route says that packets to the destination are dropped.";
    MalformedIpv6 = "malformed_ipv6",
        "The IPv6 version or payload length is impossible.";
    MalformedNd = "malformed_nd",
        "The Neighbor Discovery message is cut off, does not add up, was forwarded or has an impossible option.";
    NdSpoof = "nd_spoof",
        "The Neighbor Discovery message claims a MAC or IPv6 address that is not the port's, or to come from a router.";
    NdUnanswered = "nd_unanswered",
        "The Neighbor Discovery message needs no answer: an advertisement, a router solicitation, a probe, or a question for an address nobody has.";
    UnknownMac = "unknown_mac",
        "No port of the bridged network has the destination MAC address.";
    FloodLimited = "flood_limited",
        "The port sent more broadcast, multicast or unknown unicast frames than a bridged network repeats.";
    Policed = "policed",
        "The port sent more than its policer lets pass.";
    MalformedVxlan = "malformed_vxlan",
        "The VXLAN packet is a fragment, its lengths or flags are impossible, or the frame inside was cut off.";
    UnknownVni = "unknown_vni",
        "No network has this VXLAN network identifier at the address the packet went to.";
    UnknownVtep = "unknown_vtep",
        "The packet through a tunnel comes from an endpoint that no route of its network leads to.";
    TunnelTransit = "tunnel_transit",
        "The packet came out of a tunnel and would go into one again.";
    TunnelCongestion = "tunnel_congestion",
        "The tunnel was congested and the packet inside cannot say so (RFC 6040).";
    KernelLoop = "kernel_loop",
        "The kernel sent the packet, and a route says that the kernel routes it: it would go round for ever.";
    PuntLimited = "punt_limited",
        "The packet is for the kernel, which has got as many of its class from this port as it may.";
    NoHostInterface = "no_host_interface",
        "The packet is for the kernel, but its uplink has no host interface.";
    MalformedMpls = "malformed_mpls",
        "The MPLS packet is a fragment, its lengths are impossible, it has more than one label, or what is inside is no IP packet.";
    UnknownLabel = "unknown_label",
        "No network has this MPLS label at the address the packet went to.";
    MalformedIpip = "malformed_ipip",
        "The IP packet with another inside is a fragment, or what is inside is none of the family that it says.";
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<IcmpError> for DropReason {
    /// What the packet that causes the error counts as.
    fn from(error: IcmpError) -> Self {
        match error {
            IcmpError::NetworkUnreachable | IcmpError::HostUnreachable => Self::NoRoute,
            IcmpError::FragmentationNeeded { .. } => Self::TooBig,
            IcmpError::TimeExceeded => Self::TtlExceeded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn reasons_are_named_once_in_order_and_described() {
        let mut names = BTreeSet::new();
        for (i, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, i);
            let name = reason.name();
            assert!(names.insert(name), "{name} twice");
            assert!(
                name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_'),
                "{name}"
            );
            let sentence = reason.describe();
            assert!(sentence.ends_with('.') && sentence.starts_with(char::is_uppercase), "{name}");
        }
        assert_eq!(names.len(), DropReason::COUNT);
    }

    /// Names are an interface: dashboards and the gRPC API carry them.
    #[test]
    fn names_are_stable() {
        let names = DropReason::ALL.map(DropReason::name).join(" ");
        assert_eq!(
            names,
            "runt_frame malformed_ipv4 bad_ipv4_checksum source_mac source_ip arp_spoof malformed_arp \
             arp_unanswered unsupported_ethertype multicast not_for_gateway_mac no_route ttl_exceeded \
             too_big gateway_unhandled hairpin icmp_rate_limited unknown_ingress receiver_down \
             receiver_ring_full receiver_buffer_too_small receiver_bad_descriptor bad_descriptor \
             chain_too_long unsupported_offload no_mbuf blackhole malformed_ipv6 \
             malformed_nd nd_spoof nd_unanswered unknown_mac flood_limited policed \
             malformed_vxlan unknown_vni unknown_vtep tunnel_transit tunnel_congestion \
             kernel_loop punt_limited no_host_interface malformed_mpls unknown_label \
             malformed_ipip"
        );
    }
}
