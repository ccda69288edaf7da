//! What would become of a packet, with the tables as they are.

use std::net::IpAddr;

use vrouter_api::v1;
use vrouter_core::{
    Mode, Network, NetworkIndex, NextHop, Packet, PortIndex, PortPolicy, PortRole, Timestamp,
};
use vrouter_net::{IpPrefix, Mac};

use super::Registry;
use super::uplinks::UplinkRecord;
use crate::convert::{Refusal, port_state};
use crate::explain::{self, Flow, Ingress, Known, Link, Names, Question, Wanted};

/// Where packets come from that are made for an uplink.
const NEIGHBOUR: Mac = Mac::new([0x02, 0x52, 0x57, 0xff, 0xff, 0xff]);
/// Whoever answers when a pod asks for an address that no port of its network has.
const STATION: Mac = Mac::new([0x02, 0x52, 0x57, 0xff, 0xff, 0xfe]);

impl Registry {
    /// Says what would become of a packet, and why.
    ///
    /// # Errors
    /// [`Refusal::UnknownIngress`], and [`Refusal::Invalid`] for a packet that can't be made.
    pub fn explain(&self, question: &Question, now: Timestamp) -> Result<v1::Explanation, Refusal> {
        let ingress = self.ingress(&question.ingress)?;
        let unknown = || Refusal::Full { limit: 0 };
        let port = self.tables.port(ingress).ok_or_else(unknown)?;
        let source = |network: NetworkIndex, prefix: IpPrefix| self.known(network, prefix);
        let names = Names {
            places: self.places(),
            networks: self.networks.iter().map(|(name, it)| (it.index, name.clone())).collect(),
            known: &source,
        };
        let ask = |packet: &Packet| {
            vrouter_core::explain(&self.tables, now, ingress, *packet).ok_or_else(unknown)
        };
        let (packet, made) = match &question.wanted {
            Wanted::Frame(frame) => (explain::received(frame, frame.len()), None),
            Wanted::Flow(flow) => {
                let (link, source) = (self.link(port, flow.destination), source_of(port, flow)?);
                (flow.packet(link, source, None, true)?, Some((flow, link, source)))
            }
        };
        let told = ask(&packet)?;
        let mut answer = explain::answer(ingress, &packet, &told, &names);
        let Some((flow, link, source)) = made else { return Ok(answer) };
        let Some(bytes) = flow.can_have(answer.mtu + 1).filter(|_| answer.mtu != 0) else {
            return Ok(answer);
        };
        let kinds: &[bool] = if flow.destination.is_ipv4() { &[true, false] } else { &[true] };
        for &dont_fragment in kinds {
            let larger = ask(&flow.packet(link, source, Some(bytes), dont_fragment)?)?;
            answer.larger.push(explain::larger(&larger.packet.verdict, dont_fragment));
        }
        Ok(answer)
    }

    fn ingress(&self, ingress: &Ingress) -> Result<PortIndex, Refusal> {
        let unknown = |what: &'static str, name: &str, known: Vec<&String>| {
            // Of many ports the first few say how they are called.
            let mut known: Vec<_> = known.into_iter().take(10).map(String::as_str).collect();
            if known.is_empty() {
                known.push("none");
            }
            let known = known.join(", ");
            Refusal::UnknownIngress { what, name: name.to_owned(), known }
        };
        let uplink = |name: &String| {
            let found = self.uplinks.get(name);
            found.ok_or_else(|| unknown("uplink", name, self.uplinks.keys().collect()))
        };
        match ingress {
            Ingress::Port(id) => match self.ports.get(id) {
                Some(port) => Ok(port.index),
                None => Err(unknown("port", id, self.ports.keys().collect())),
            },
            Ingress::Uplink(name) => {
                let slot = uplink(name)?.slots().next();
                slot.ok_or_else(|| unknown("uplink", name, Vec::new()))
            }
            Ingress::Host(name) => {
                let slot = uplink(name)?.slots().nth(1);
                slot.ok_or_else(|| unknown("host interface of uplink", name, Vec::new()))
            }
        }
    }

    /// The addresses that a sender would write: those of the gateway or the uplink; in a bridged network those of the port
    /// that has the destination, or of somebody on another host that it stretches to.
    fn link(&self, port: &PortPolicy, destination: IpAddr) -> Link {
        if !matches!(port.role, PortRole::Pod | PortRole::Kernel) {
            return Link { to: port.mac, from: NEIGHBOUR };
        }
        let has = |other: &&PortPolicy| {
            IpAddr::V4(other.ipv4) == destination || other.ipv6.map(IpAddr::V6) == Some(destination)
        };
        let network = self.tables.network(port.network);
        let bridged = network.filter(|it| it.policy().mode == Mode::Bridged);
        let direct = bridged.and_then(|network| network.ports().iter().find(has));
        let stretches = self.tables.flood_ends(port.network).next().is_some();
        if stretches && bridged.is_some_and(|network| is_asked_for(network, destination)) {
            return Link { to: STATION, from: port.mac };
        }
        let gateway = network.map_or(port.mac, |network| network.policy().gateway_mac);
        Link { to: direct.map_or(gateway, |other| other.mac), from: port.mac }
    }

    fn places(&self) -> std::collections::BTreeMap<PortIndex, v1::Place> {
        let network = |index| {
            let named = self.networks.iter().find(|(_, record)| record.index == index);
            named.map(|(name, _)| name.clone()).unwrap_or_default()
        };
        let pods = self.ports.iter().map(|(id, record)| {
            let pod = record.facts.with(|request, _| {
                let v1::PortSpec { pod_namespace, pod_name, .. } = &request.spec;
                if pod_name.is_empty() {
                    String::new()
                } else {
                    format!("{pod_namespace}/{pod_name}")
                }
            });
            let place = v1::Place {
                kind: "pod".to_owned(),
                name: id.clone(),
                network: network(record.network),
                pod,
                state: port_state(record.end.status().state).to_owned(),
                device: String::new(),
            };
            (record.index, place)
        });
        let wires = self.uplinks.iter().flat_map(|(name, record)| {
            let host = record.host_interface().map(|(host, _)| host).unwrap_or_default();
            let names = [("uplink", name.clone()), ("host_interface", host)];
            let state = if record.has_link() { "up" } else { "down" };
            let network = network(record.network);
            let carrier = record.carrier().unwrap_or_default();
            let place = move |(slot, (kind, name)): (PortIndex, (&str, String))| {
                let (kind, state) = (kind.to_owned(), state.to_owned());
                let device = if kind == "uplink" { carrier.clone() } else { String::new() };
                let network = network.clone();
                let place = v1::Place { kind, name, state, network, device, ..Default::default() };
                (slot, place)
            };
            UplinkRecord::slots(record).zip(names).map(place).collect::<Vec<_>>()
        });
        let kernel = self.networks.iter().filter_map(|(name, record)| {
            let (slot, up) =
                record.kernel.as_ref().map(|kernel| (kernel.slot(), kernel.is_there()))?;
            let place = v1::Place {
                kind: "kernel".to_owned(),
                name: record.request.kernel.as_ref()?.name.clone(),
                network: name.clone(),
                state: if up { "up" } else { "down" }.to_owned(),
                ..Default::default()
            };
            Some((slot, place))
        });
        pods.chain(wires).chain(kernel).collect()
    }

    fn known(&self, network: NetworkIndex, prefix: IpPrefix) -> Known {
        let record = self.networks.values().find(|record| record.index == network);
        let Some(record) = record else { return Known { source: "api", route: None } };
        let uplinks = self.uplink_slots();
        let own = record.routes.get(prefix);
        let source = match own {
            Some(target) if record.configured.get(prefix) == Some(target) => "config",
            Some(_) => "api",
            None => "kernel",
        };
        let target = own.or_else(|| record.mirrored.get(prefix));
        let route = target.map(|target| v1::Route {
            mirrored: own.is_none(),
            ..crate::routes::write(prefix, target, &uplinks)
        });
        Known { source, route }
    }

    /// From now on, the routes that a network has are known as those of the configuration file.
    pub fn note_configured(&mut self, network: &str) {
        if let Some(record) = self.networks.get_mut(network) {
            record.configured = record.routes.clone();
        }
    }
}

/// Whether an address is on a network's link without anybody here who has it, or says where it is.
fn is_asked_for(network: &Network, address: IpAddr) -> bool {
    let on_link = match address {
        IpAddr::V4(address) => network.policy().prefix.contains(address),
        IpAddr::V6(address) => network.policy().ipv6.is_some_and(|it| it.prefix.contains(address)),
    };
    on_link && *network.next_hop_ip(address) == NextHop::Unreachable
}

/// Where a packet comes from that is made.
fn source_of(port: &PortPolicy, flow: &Flow) -> Result<IpAddr, Refusal> {
    let is_ipv4 = flow.destination.is_ipv4();
    let own = if is_ipv4 {
        (!port.ipv4.is_unspecified()).then_some(IpAddr::V4(port.ipv4))
    } else {
        port.ipv6.map(IpAddr::V6)
    };
    flow.source.or(own).ok_or_else(|| Refusal::Invalid {
        field: "source",
        value: String::new(),
        remedy: format!(
            "name the {} address that the packet comes from: this port has none of its own",
            if is_ipv4 { "IPv4" } else { "IPv6" }
        ),
    })
}
