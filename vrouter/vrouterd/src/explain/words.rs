//! Sentences.

use vrouter_api::v1;
use vrouter_core::{
    Asked, DropReason, Explanation, Flood, IcmpError, NextHop, Packet, PuntClass, TunnelNumber,
    Verdict,
};

/// All that can be said of.
pub struct Said<'a> {
    pub received: &'a Packet,
    pub told: &'a Explanation,
    pub from: &'a v1::Place,
    pub to: Option<&'a v1::Place>,
    /// Those of `told`, in words.
    pub lookups: &'a [v1::Lookup],
}

impl Said<'_> {
    /// Why the packet takes its way, and what to do about it if there is something.
    pub fn why(&self) -> (Vec<String>, String) {
        let mut why = Vec::new();
        let is_host = self.from.kind == "host_interface";
        for (lookup, wire) in self.told.lookups.iter().zip(self.lookups) {
            why.push(entry(lookup.found.map(|found| found.own), &lookup.next_hop, wire));
        }
        let mut remedy = String::new();
        match self.told.packet.verdict {
            Verdict::Forward(_) if is_host => why.push(
                "What the kernel sends by a host interface was routed by the kernel: it leaves by the uplink as it is."
                    .to_owned(),
            ),
            Verdict::Forward(_) if self.lookups.is_empty() => why.push(
                "The network is bridged: the frame goes as it is to the port that has its MAC address.".to_owned(),
            ),
            Verdict::Forward(_) => why.push(format!(
                "The vRouter moves it itself (DPDK): the next hop is {}, and the packet needs no more than other MAC \
                 addresses and a smaller time to live.",
                if self.kind_of_receiver() == "uplink" { "behind one of its uplinks" } else { "one of its ports" }
            )),
            Verdict::Encapsulate(_) if self.is_bridged() => why.push(format!(
                "The network is bridged: the frame is bridged into the tunnel to {} as it is, because {}.",
                self.told.outer.map(|outer| outer.to.to_string()).unwrap_or_default(),
                if self.told.is_named {
                    "the kernel's forwarding database says that a station with its MAC address is there"
                } else {
                    "a station with its MAC address was heard from there"
                }
            )),
            Verdict::Encapsulate(_) => why.push(format!(
                "The vRouter puts it into the tunnel itself (DPDK): {}.",
                self.tunnel().unwrap_or("it speaks this encapsulation")
            )),
            Verdict::Decapsulate(_) if self.is_bridged() => why.push(format!(
                "The vRouter takes it out of the tunnel itself (DPDK): {}, and the network is bridged to who sent it. The frame \
                 inside goes as it is to the port that has its MAC address.",
                self.tunnel().unwrap_or("it speaks this encapsulation")
            )),
            Verdict::FloodInside(_, flood) => why.push(format!(
                "The vRouter takes it out of the tunnel itself (DPDK): {}, and the network is bridged to who sent it. {} gets a \
                 copy, but no other end of the tunnel: who sent it reaches those itself.",
                self.tunnel().unwrap_or("it speaks this encapsulation"),
                match flood {
                    Flood::All => "The frame inside goes to a group: each port of the network",
                    Flood::Trunks => "Nobody here was heard of with the inner MAC address: each trunk port of the network",
                }
            )),
            Verdict::Decapsulate(_) => why.push(format!(
                "The vRouter takes it out of the tunnel itself (DPDK): {}, and routes lead to who sent it.",
                self.tunnel().unwrap_or("it speaks this encapsulation")
            )),
            Verdict::Punt(_, class) => why.push(self.punt(class)),
            Verdict::Reply => {
                why.push("The vRouter answers it itself, as the network's gateway.".to_owned());
            }
            Verdict::Flood(Flood::All) => why.push(
                format!("The network is bridged and the frame goes to a group: all its other ports get a copy.{}", self.copies()),
            ),
            Verdict::Flood(Flood::Trunks) => why.push(
                format!("The network is bridged and nobody in it was heard of with that MAC address: the trunk ports get a copy.{}", self.copies()),
            ),
            Verdict::Originate(error) => {
                why.push(icmp(error).to_owned());
                remedy = self.remedy(error.into());
            }
            Verdict::Drop(reason) => {
                why.push(format!("It is dropped, and counted as {reason}: {}", reason.describe()));
                remedy = self.remedy(reason);
            }
        }
        if let Some(place) = self.to.filter(|place| !place.device.is_empty()) {
            why.push(format!(
                "Uplink {} is a bond: {} is the first of its devices that has a link, and carries its packets.",
                place.name, place.device
            ));
        }
        if let Some(place) = self.to.filter(|place| place.kind == "pod" && place.state != "up") {
            why.push(format!(
                "But no application reads port {} now (it is {}): packets for it are dropped and counted as receiver_down.",
                place.name, place.state
            ));
            remedy = "start the application of that pod, or see `ringway ports` for why it is not connected".to_owned();
        }
        (why, remedy)
    }

    /// Whether a frame crosses a tunnel as it is: nobody asked where its addresses lead.
    fn is_bridged(&self) -> bool {
        let asked = |asked| self.told.lookups.iter().any(|lookup| lookup.asked == asked);
        match self.told.packet.verdict {
            Verdict::Encapsulate(_) => !asked(Asked::Destination),
            _ => !asked(Asked::Inside),
        }
    }

    /// Where a frame that is flooded goes besides.
    fn copies(&self) -> String {
        let ends: Vec<_> = self.told.flooded_to.iter().map(ToString::to_string).collect();
        if ends.is_empty() {
            return String::new();
        }
        format!(" One each is bridged into the tunnel to {}.", ends.join(", "))
    }

    fn kind_of_receiver(&self) -> &str {
        self.to.map_or("", |place| place.kind.as_str())
    }

    fn tunnel(&self) -> Option<&'static str> {
        Some(match self.told.outer?.number {
            TunnelNumber::Vni(_) => "it speaks VXLAN",
            TunnelNumber::Label(_) => "it speaks MPLS over UDP",
            TunnelNumber::Ipip => "it speaks IP in IP",
        })
    }

    /// Why a packet is the kernel's.
    fn punt(&self, class: PuntClass) -> String {
        let why = match class {
            PuntClass::Local => "it is for an address that this host's kernel has".to_owned(),
            PuntClass::Control => {
                "ARP, Neighbor Discovery, groups and everything that is no unicast IP packet are the kernel's at an \
                 uplink: one stack answers there"
                    .to_owned()
            }
            PuntClass::Kernel if self.lookups.is_empty() => {
                "the frame's MAC address is the kernel port's".to_owned()
            }
            PuntClass::Kernel => {
                "its route says that the kernel routes it on: to an address or an interface of the kernel's, or into an \
                 encapsulation that the vRouter does not speak"
                    .to_owned()
            }
            PuntClass::Exception => self.exception(),
        };
        format!("The kernel gets it (punt class {}): {why}.", class.name())
    }

    /// What a packet would need beyond being forwarded.
    fn exception(&self) -> String {
        let header = super::headers::read(self.received);
        let options =
            self.received.head().get(14).is_some_and(|first| first >> 4 == 4 && *first != 0x45);
        let hop = match self.told.lookups.first().map(|lookup| &lookup.way) {
            Some(NextHop::Port(hop)) => hop,
            Some(NextHop::NoRoute | NextHop::Drop(_)) => {
                return "there is no route for it here; the kernel knows one, or sends the ICMP error".to_owned();
            }
            _ => {
                return "its next hop is not known here; the kernel asks for the neighbour, or sends the ICMP error"
                    .to_owned();
            }
        };
        if header.ttl <= 1 {
            "its time to live ends here; the kernel sends the ICMP error".to_owned()
        } else if header.bytes > hop.mtu.into() {
            format!(
                "it has {} bytes and the next link takes {}; the kernel cuts it into fragments or sends the ICMP error",
                header.bytes, hop.mtu
            )
        } else if options {
            "it has IPv4 options, which a router has to look at".to_owned()
        } else {
            "it has options that a router has to look at, or more behind it than the next link takes".to_owned()
        }
    }

    /// What can be done about packets that are dropped for a reason or reported to their senders.
    fn remedy(&self, reason: DropReason) -> String {
        let network =
            self.lookups.last().map_or(self.from.network.as_str(), |it| it.network.as_str());
        let last = self.lookups.last();
        let address = last.map_or("ADDRESS", |lookup| lookup.address.as_str());
        let kind = last.and_then(|lookup| lookup.route.as_ref()).map(v1::Route::kind);
        match reason {
            DropReason::NoRoute => match kind {
                Some(v1::RouteKind::Via | v1::RouteKind::Unspecified) => "no port has the address that the route leads to; create it, or change the route".to_owned(),
                Some(v1::RouteKind::Link) => "the uplink of the route has no link or is not there; see `ringway uplinks`".to_owned(),
                Some(v1::RouteKind::Vxlan | v1::RouteKind::Mpls | v1::RouteKind::Ipip) => format!("the network that carries the tunnel of {network} has no way to its other end; see its routes with `ringway routes`, and `ringway uplinks`"),
                Some(v1::RouteKind::Kernel) => format!("network {network} has no kernel port"),
                Some(v1::RouteKind::Multipath) => "none of the route's ways can be used now; see `ringway uplinks` and `ringway ports`".to_owned(),
                Some(_) => format!("a route says so on purpose; `ringway routes {network}` lists it"),
                None => format!("create a port with that address, or add a route: `ringway routes add {network} {address} ...`"),
            },
            DropReason::SourceMac if self.from.kind == "uplink" => "a host at another end of the tunnel sends from the MAC address of a port here, or of the gateway".to_owned(),
            DropReason::SourceMac => "the pod has to send from the MAC address in its interfaces.json".to_owned(),
            DropReason::SourceIp if self.from.kind == "pod" => "the pod has to send from its own address; a pod that routes for others needs `allowed_sources`".to_owned(),
            DropReason::SourceIp => "no router forwards packets from such an address; look for who sends them".to_owned(),
            DropReason::ArpSpoof | DropReason::NdSpoof => "the pod has to claim its own addresses only".to_owned(),
            DropReason::NotForGatewayMac => "the sender's neighbour table is wrong: in a routed network the gateway answers for everybody, and at an uplink only its own MAC address is taken".to_owned(),
            DropReason::UnsupportedEthertype => "use IPv4, or give the network IPv6, or make it bridged".to_owned(),
            DropReason::Multicast => "a routed network carries no groups and broadcasts; a bridged one does".to_owned(),
            DropReason::TtlExceeded => "send with a larger time to live, or look for a routing loop".to_owned(),
            DropReason::TooBig => format!("send smaller packets (`mtu` of this answer), or raise the MTU of network {network} and of what carries it"),
            DropReason::GatewayUnhandled => "the gateway answers pings only".to_owned(),
            DropReason::Hairpin => "the route leads back to the port that sent the packet; change it".to_owned(),
            DropReason::Blackhole => format!("a route of network {network} says so; `ringway routes {network}` lists it"),
            DropReason::UnknownMac => "create the port, or make a trunk of the port that it is behind".to_owned(),
            DropReason::UnknownVni => "give a network this VNI, or correct the sender's".to_owned(),
            DropReason::UnknownLabel => "give a network this label, or correct the sender's".to_owned(),
            DropReason::UnknownVtep => "add a route through the tunnel to who sent it: only ends that routes lead to may send".to_owned(),
            DropReason::TunnelTransit => "a tunnel's end is no router between tunnels; send to the other end directly".to_owned(),
            DropReason::KernelLoop => "the kernel and the vRouter each say that the other has the way; change one of the routes".to_owned(),
            DropReason::NoHostInterface => "give the uplink a `host_interface`".to_owned(),
            DropReason::PuntLimited | DropReason::FloodLimited => "its limit is zero".to_owned(),
            DropReason::RuntFrame
            | DropReason::MalformedIpv4
            | DropReason::BadIpv4Checksum
            | DropReason::MalformedArp
            | DropReason::MalformedIpv6
            | DropReason::MalformedNd
            | DropReason::MalformedVxlan
            | DropReason::MalformedMpls
            | DropReason::MalformedIpip => "its sender makes broken packets".to_owned(),
            // What needs no answer is no fault, and rings and buffers are not asked.
            _ => String::new(),
        }
    }
}

/// The entry of a table that an address is found by. `own`: it is the network's own; `None`: there is none.
fn entry(own: Option<bool>, next_hop: &NextHop, lookup: &v1::Lookup) -> String {
    let v1::Lookup { network, address, prefix, way, .. } = lookup;
    let what = match lookup.asked.as_str() {
        "inside" => format!("Inside, {address}"),
        "underlay" => format!("The tunnel's other end, {address},"),
        _ => address.clone(),
    };
    let Some(own) = own else {
        return format!("{what} is in no prefix of network {network}.");
    };
    if !own {
        let source = match lookup.source.as_str() {
            "config" => "the configuration file",
            "kernel" => "the kernel's routing table",
            _ => "the control API",
        };
        let choice = if lookup.ways > 1 {
            let (ways, share) = (lookup.ways, lookup.share_percent);
            format!("{ways} ways, of which this flow takes, with {share:.0} % of all, {way}")
        } else {
            way.clone()
        };
        return format!(
            "{what} is found in network {network} by {prefix}, a route from {source}, which leads to {choice}."
        );
    }
    match next_hop {
        NextHop::Port(_) => format!("{what} is the address of {way} in network {network}."),
        NextHop::Kernel(_) => format!("{what} is the address of network {network}'s kernel port."),
        NextHop::Gateway => format!(
            "{what} is an address of the vRouter in network {network}: its gateway's, or a tunnel's end."
        ),
        NextHop::Unreachable => {
            format!("{what} is in network {network}'s own prefix {prefix}, and no port has it.")
        }
        _ => format!("{what} is in {prefix}, which no router forwards to."),
    }
}

fn icmp(error: IcmpError) -> &'static str {
    match error {
        IcmpError::NetworkUnreachable => {
            "It goes nowhere, and the vRouter tells its sender so: ICMP, no route to the destination (counted as no_route)."
        }
        IcmpError::HostUnreachable => {
            "It goes nowhere, and the vRouter tells its sender so: ICMP, host unreachable (counted as no_route)."
        }
        IcmpError::FragmentationNeeded { .. } => {
            "It is too large for its way, and the vRouter tells its sender the MTU: ICMP, fragmentation needed or packet \
             too big (counted as too_big)."
        }
        IcmpError::TimeExceeded => {
            "Its time to live ends here, and the vRouter tells its sender so: ICMP, time exceeded (counted as ttl_exceeded)."
        }
    }
}

/// What becomes of a packet that is larger than its way takes.
pub fn larger(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Originate(IcmpError::FragmentationNeeded { mtu }) => {
            format!("dropped, and its sender is told the MTU {mtu} (ICMP)")
        }
        Verdict::Drop(DropReason::TooBig) => {
            "dropped, counted as too_big; nobody is told".to_owned()
        }
        Verdict::Drop(reason) => format!("dropped, counted as {reason}"),
        Verdict::Punt(_, class) => format!(
            "handed to the kernel (punt class {}), which cuts it into fragments or sends the ICMP error",
            class.name()
        ),
        other => format!("the same as this one ({})", super::answer::name(other)),
    }
}
