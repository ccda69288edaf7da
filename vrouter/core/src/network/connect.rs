//! Next hops that depend on more than the network's own ports: links that go up and down, networks that carry tunnels,
//! and sets of both.

use super::Network;
use crate::group::{Group, Way, identity};
use crate::hops::{Neighbour, NextHop, Outer, PortHop, TunnelHop};
use crate::policy::Carrier;
use crate::{PortIndex, PortRole};
use alloc::vec::Vec;
use core::net::IpAddr;
use vrouter_net::vxlan::Endpoint;
use vrouter_net::{Mac, ipip, mpls, vxlan};

impl Network {
    /// The network as the links and the network that carries its tunnel are now. `None`: it is so already. `down`: ports
    /// without a link, sorted.
    pub(crate) fn connected(&self, down: &[PortIndex], underlay: Option<&Self>) -> Option<Self> {
        let mut changes = Vec::new();
        let mut several = Vec::new();
        for (neighbour, index) in self.hops.neighbours() {
            let old = self.hops.get(index);
            let hop = match neighbour {
                Neighbour::Port(_) | Neighbour::Kernel => continue,
                Neighbour::Paths(_) => {
                    several.push(index);
                    continue;
                }
                Neighbour::Link(port, mac) => self.over_link(*port, *mac, down),
                Neighbour::Vtep(vtep) => self.through(underlay, vtep.address, old, |from, to| {
                    let outer = vxlan::Encapsulation::new(self.policy.tunnel?.vni?, from, to)?;
                    Some((Outer::Vxlan(outer), vtep.mac))
                }),
                Neighbour::Mpls(end) => self.through(underlay, end.address, old, |from, to| {
                    let outer = mpls::Encapsulation::new(end.label, from, to)?;
                    Some((Outer::Mpls(outer), None))
                }),
                Neighbour::Ipip(end) => self.through(underlay, *end, old, |from, to| {
                    Some((Outer::Ipip(ipip::Encapsulation::new(from, to)?), None))
                }),
            };
            if *old != hop {
                changes.push((index, hop));
            }
        }
        let mut changed: Option<Self> = None;
        for (index, hop) in changes {
            changed.get_or_insert_with(|| self.clone()).hops.set(index, hop);
        }
        for index in several {
            let now = changed.as_ref().unwrap_or(self);
            let hop = now.hops.over_paths(index);
            if *now.hops.get(index) != hop {
                changed.get_or_insert_with(|| self.clone()).hops.set(index, hop);
            }
        }
        changed
    }

    /// A neighbour behind an uplink.
    fn over_link(&self, port: PortIndex, mac: Mac, down: &[PortIndex]) -> NextHop {
        let uplink = |other: &&crate::PortPolicy| {
            other.index == port && matches!(other.role, PortRole::Uplink { .. })
        };
        match self.members.iter().find(uplink) {
            Some(uplink) if down.binary_search(&port).is_err() => {
                let mtu = uplink.mtu_in(&self.policy);
                NextHop::Port(PortHop::new(port, mac, uplink.mac, mtu))
            }
            _ => NextHop::Unreachable,
        }
    }

    /// The other end of a tunnel: over each way that the underlay has to it. `make`: the outer header between two ends,
    /// and the MAC address of the router behind the tunnel.
    fn through(
        &self,
        underlay: Option<&Self>,
        address: IpAddr,
        old: &NextHop,
        make: impl Fn(Endpoint, Endpoint) -> Option<(Outer, Option<Mac>)>,
    ) -> NextHop {
        let (Some(tunnel), Some(underlay)) = (self.policy.tunnel, underlay) else {
            return NextHop::Unreachable;
        };
        let over = |hop: &NextHop| {
            let NextHop::Port(port) = hop else { return None };
            let from = Endpoint { mac: port.source_mac(), address: tunnel.local };
            let to = Endpoint { mac: port.destination_mac(), address };
            let (outer, router) = make(from, to)?;
            let carrier = match outer {
                Outer::Vxlan(_) => Carrier::Vxlan,
                Outer::Mpls(_) => Carrier::Mpls,
                Outer::Ipip(_) => Carrier::Ipip,
            };
            let gateway = self.policy.gateway_mac;
            let room = port.mtu.saturating_sub(tunnel.overhead(carrier));
            let mtu = room.min(self.policy.mtu);
            let inner = PortHop::new(port.port, router.unwrap_or(gateway), gateway, mtu);
            Some(NextHop::Tunnel(TunnelHop { inner, room, outer }))
        };
        match underlay.next_hop_ip(address) {
            NextHop::Multipath(group) => {
                let ways = group.ways().iter().filter_map(|way| {
                    let who = identity(&(address, way.who));
                    Some(Way { who, weight: way.weight, hop: over(&way.hop)? })
                });
                Group::next_hop(ways.collect(), old)
            }
            hop => over(hop).unwrap_or(NextHop::Unreachable),
        }
    }
}
