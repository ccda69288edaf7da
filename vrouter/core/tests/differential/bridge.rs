//! A bridged network beside a slow and plain switch: a list of who is where, a list of who was heard where and when,
//! and tokens that are counted one by one. Frames of any port in any order, with time passing, while ports come, go and
//! become trunks, while the network stretches to other hosts and no more, and while somebody says who is there. Verdicts must be the same, and so must who gets a copy.

use bolero::TypeGenerator;
use core::net::{IpAddr, Ipv4Addr};
use std::collections::BTreeMap;
use vrouter_core::{
    DropReason, Flood, FloodLimit, Mode, NetworkIndex, NetworkPolicy, Packet, Policy, PortIndex,
    PortLimits, PortPolicy, Rates, StationChange, Tables, Timestamp, Tunnel, Verdict, process,
};
use vrouter_net::Mac;
use vrouter_net::vxlan::{Encapsulation, Endpoint, Inner, OUTER_ROOM, Vni};

const SECOND: u64 = 1_000_000_000;
/// What a port may repeat: few enough to meet it.
const FLOODS: FloodLimit = FloodLimit { per_second: 1, burst: 20 };
/// Slots of the ports; the last two may be trunks.
const SLOTS: [u16; 4] = [6, 2, 9, 4];
/// Slots of the hosts that the network can stretch to: ports of its underlay.
const HOSTS: [u16; 2] = [20, 21];
const LAN: NetworkIndex = NetworkIndex(0);
const UNDERLAY: NetworkIndex = NetworkIndex(1);
const VNI: Vni = Vni::new(7).unwrap();
/// The MAC address of the underlay's gateway, and this end.
const OUTSIDE: Mac = Mac::new([2, 0, 0, 0, 8, 99]);
const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

fn host_mac(host: u8) -> Mac {
    Mac::new([2, 0, 0, 0, 8, host])
}

fn host_address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 10 + host)
}

fn mac(last: u8) -> [u8; 6] {
    [2, 0, 0, 0, 7, last]
}

/// Addresses of the ports (0 to 3), the gateway (4), groups (5, 6), and stations.
fn address(number: u8) -> [u8; 6] {
    match number % 14 {
        5 => [0xff; 6],
        6 => [1, 0, 0x5e, 0, 0, 1],
        number => mac(number),
    }
}

#[derive(Clone, Copy, Debug, TypeGenerator)]
enum Step {
    Send {
        port: u8,
        from: u8,
        to: u8,
        count: u8,
    },
    /// Tenths of a second.
    Wait(u16),
    /// Bit n: port n is there, and bits 6 and 7: port 2 and 3 are trunks.
    Change(u8),
    /// Bit n: the network stretches to host n; bit n + 2: only for stations that are known to be there.
    Stretch(u8),
    /// Somebody says that a station is behind a host, or withdraws it.
    Name {
        station: u8,
        host: Option<bool>,
    },
    /// Through the tunnel.
    Arrive {
        host: u8,
        from: u8,
        to: u8,
        count: u8,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Trunk(u16),
    Host(u8),
}

/// The plain switch.
#[derive(Default)]
struct Switch {
    /// By slot: number of the port, and whether it is a trunk.
    ports: BTreeMap<u16, (u8, bool)>,
    /// Which hosts the network stretches to, and whether they get what is for everybody.
    hosts: BTreeMap<u8, bool>,
    /// Which host somebody says that a station is behind.
    named: BTreeMap<[u8; 6], u8>,
    /// Where a station was heard, and when, in 2^20 ns.
    heard: BTreeMap<[u8; 6], (Place, u64)>,
    /// Nanoseconds of credit by slot, and when it was counted last. Credit survives its port, as the workers' does.
    credit: BTreeMap<u16, (u64, u64)>,
}

impl Switch {
    fn trunks(&self) -> impl Iterator<Item = u16> {
        self.ports.iter().filter(|(_, (_, trunk))| *trunk).map(|(slot, _)| *slot)
    }

    fn decide(&mut self, now: u64, slot: u16, from: [u8; 6], to: [u8; 6]) -> Verdict {
        use DropReason::{FloodLimited, Hairpin, SourceMac, UnknownIngress, UnknownMac};
        let Some((number, trunk)) = self.ports.get(&slot).copied() else {
            return Verdict::Drop(UnknownIngress);
        };
        let gateway = mac(4);
        if to == gateway {
            // Nothing that is sent here is for the gateway to answer.
            let reason =
                if from == mac(number) { DropReason::UnsupportedEthertype } else { SourceMac };
            return Verdict::Drop(reason);
        }
        if from != mac(number) && (!trunk || self.is_foreign(from)) {
            return Verdict::Drop(SourceMac);
        }
        if from != mac(number) {
            self.hear(now, from, Place::Trunk(slot));
        }
        let flood = if to[0] & 1 == 1 {
            Flood::All
        } else {
            match self.find(now, to) {
                Some(Place::Trunk(there)) if there == slot => return Verdict::Drop(Hairpin),
                Some(Place::Trunk(there)) => return Verdict::Forward(PortIndex(there)),
                Some(Place::Host(host)) => {
                    return Verdict::Encapsulate(PortIndex(HOSTS[usize::from(host)]));
                }
                None => Flood::Trunks,
            }
        };
        let alone = self.flooded().next().is_none() && self.trunks().all(|trunk| trunk == slot);
        if flood == Flood::Trunks && alone {
            return Verdict::Drop(UnknownMac);
        }
        if self.spend(now, slot) { Verdict::Flood(flood) } else { Verdict::Drop(FloodLimited) }
    }

    /// The same for what a host sends through the tunnel.
    fn decide_inside(&mut self, now: u64, host: u8, from: [u8; 6], to: [u8; 6]) -> Verdict {
        use DropReason::{
            FloodLimited, SourceMac, TunnelTransit, UnknownMac, UnknownVtep, UnsupportedEthertype,
        };
        if !self.hosts.contains_key(&host) {
            return Verdict::Drop(UnknownVtep);
        }
        if to == mac(4) {
            return Verdict::Drop(UnsupportedEthertype);
        }
        if self.is_foreign(from) {
            return Verdict::Drop(SourceMac);
        }
        if !self.named.contains_key(&from) {
            self.hear(now, from, Place::Host(host));
        }
        let flood = if to[0] & 1 == 1 {
            Flood::All
        } else {
            match self.find(now, to) {
                Some(Place::Trunk(there)) => return Verdict::Decapsulate(PortIndex(there)),
                Some(Place::Host(_)) => return Verdict::Drop(TunnelTransit),
                None => Flood::Trunks,
            }
        };
        if flood == Flood::Trunks && self.trunks().next().is_none() {
            return Verdict::Drop(UnknownMac);
        }
        let enough = self.spend(now, HOSTS[usize::from(host)]);
        if enough { Verdict::FloodInside(LAN, flood) } else { Verdict::Drop(FloodLimited) }
    }

    /// A port's, the gateway's, or no station's.
    fn is_foreign(&self, from: [u8; 6]) -> bool {
        self.port_of(from).is_some() || from == mac(4) || from[0] & 1 == 1
    }

    fn port_of(&self, address: [u8; 6]) -> Option<u16> {
        let mut ports = self.ports.iter();
        ports.find(|(_, (number, _))| mac(*number) == address).map(|(slot, _)| *slot)
    }

    fn hear(&mut self, now: u64, from: [u8; 6], place: Place) {
        let ticks = now >> 20;
        let known = self.heard.get(&from).copied();
        // Within a second the time is not noted again.
        if known.is_none_or(|(there, at)| there != place || ticks - at >= SECOND >> 20) {
            self.heard.insert(from, (place, ticks));
        }
    }

    /// The port that has an address is where a trunk would be.
    fn find(&self, now: u64, to: [u8; 6]) -> Option<Place> {
        let heard = self.heard.get(&to).filter(|(_, at)| (now >> 20) - at <= (300 * SECOND) >> 20);
        let named = self.named.get(&to).map(|host| Place::Host(*host));
        self.port_of(to).map(Place::Trunk).or(named).or(heard.map(|(place, _)| *place))
    }

    fn forget(&mut self) {
        let (trunks, hosts): (Vec<_>, _) = (self.trunks().collect(), self.hosts.clone());
        self.named.retain(|_, host| hosts.contains_key(host));
        self.heard.retain(|_, (place, _)| match place {
            Place::Trunk(slot) => trunks.contains(slot),
            Place::Host(host) => hosts.contains_key(host),
        });
    }

    /// The hosts that get what is for everybody.
    fn flooded(&self) -> impl Iterator<Item = u8> {
        self.hosts.iter().filter(|(_, floods)| **floods).map(|(host, _)| *host)
    }

    /// What is said of a station; what cannot be is no change.
    fn name(&mut self, station: [u8; 6], host: Option<u8>) -> Option<StationChange> {
        let is_there = host.is_none_or(|host| self.hosts.contains_key(&host));
        if station[0] & 1 == 1 || !is_there {
            return None;
        }
        let before = match host {
            Some(host) => self.named.insert(station, host),
            None => self.named.remove(&station),
        };
        // What was heard of it from a host is of the past.
        if before != host && matches!(self.heard.get(&station), Some((Place::Host(_), _))) {
            self.heard.remove(&station);
        }
        let end = host.map(|host| host_address(host).into());
        Some(StationChange { mac: Mac::new(station), end })
    }

    /// Takes a token of a port's, if it has one.
    fn spend(&mut self, now: u64, slot: u16) -> bool {
        let full = u64::from(FLOODS.burst) * SECOND;
        let (credit, counted) = self.credit.get(&slot).copied().unwrap_or((full, now));
        let credit = (credit + now - counted).min(full);
        let enough = credit >= SECOND;
        self.credit.insert(slot, (if enough { credit - SECOND } else { credit }, now));
        enough
    }

    fn change(&mut self, bits: u8) -> Policy {
        let before = std::mem::take(&mut self.ports);
        for (number, slot) in (0..).zip(SLOTS) {
            if bits >> number & 1 == 1 {
                let trunk = number >= 2 && bits >> (number + 4) & 1 == 1;
                self.ports.insert(slot, (number, trunk));
            }
        }
        // What was heard behind a trunk goes with it.
        self.heard.retain(|_, (place, _)| match place {
            Place::Trunk(slot) => before.get(slot) == self.ports.get(slot),
            Place::Host(_) => true,
        });
        self.forget();
        policy(&self.ports)
    }

    /// The hosts that get what is for everybody, and the others.
    fn stretch(&mut self, bits: u8) -> [Vec<IpAddr>; 2] {
        let hosts = (0..2).filter(|host| bits >> host & 1 == 1);
        self.hosts = hosts.map(|host| (host, bits >> (host + 2) & 1 == 0)).collect();
        self.forget();
        [true, false].map(|which| {
            let hosts = self.hosts.iter().filter(|(_, floods)| **floods == which);
            hosts.map(|(host, _)| host_address(*host).into()).collect()
        })
    }
}

fn policy(ports: &BTreeMap<u16, (u8, bool)>) -> Policy {
    let network = NetworkPolicy {
        index: LAN,
        prefix: "10.66.0.0/24".parse().unwrap(),
        gateway: Ipv4Addr::new(10, 66, 0, 1),
        gateway_mac: Mac::new(mac(4)),
        mtu: 1500,
        ipv6: None,
        mode: Mode::Bridged,
        floods: FLOODS,
        tunnel: Some(Tunnel {
            vni: Some(VNI),
            label: None,
            ipip: false,
            underlay: UNDERLAY,
            local: LOCAL.into(),
        }),
        external: false,
        punts: Default::default(),
    };
    let port = |(slot, (number, trunk)): (&u16, &(u8, bool))| PortPolicy {
        index: PortIndex(*slot),
        network: LAN,
        mac: Mac::new(mac(*number)),
        ipv4: Ipv4Addr::new(10, 66, 0, 10 + number),
        ipv6: None,
        allowed: Vec::new(),
        trunk: *trunk,
        rates: Rates::default(),
        role: Default::default(),
        mtu: None,
    };
    let underlay = NetworkPolicy {
        index: UNDERLAY,
        prefix: "192.0.2.0/24".parse().unwrap(),
        gateway: Ipv4Addr::new(192, 0, 2, 1),
        gateway_mac: OUTSIDE,
        mode: Mode::Routed,
        tunnel: None,
        ..network
    };
    let host = |(slot, host): (u16, u8)| PortPolicy {
        network: UNDERLAY,
        mac: host_mac(host),
        ipv4: host_address(host),
        ..port((&slot, &(0, false)))
    };
    let ports = ports.iter().map(port).chain(HOSTS.into_iter().zip(0..).map(host));
    Policy { networks: vec![network, underlay], ports: ports.collect() }
}

/// A frame that only its addresses decide about (LLDP's type).
fn frame(from: [u8; 6], to: [u8; 6]) -> Packet {
    let mut packet = Packet::EMPTY;
    (packet.header_len, packet.frame_len) = (60, 60);
    packet.header[..6].copy_from_slice(&to);
    packet.header[6..12].copy_from_slice(&from);
    packet.header[12..14].copy_from_slice(&[0x88, 0xcc]);
    packet
}

/// The same from a host, in a packet through the tunnel.
fn arriving(host: u8, from: [u8; 6], to: [u8; 6]) -> Packet {
    let end = |mac, address: Ipv4Addr| Endpoint { mac, address: address.into() };
    let (near, far) = (end(OUTSIDE, LOCAL), end(host_mac(host), host_address(host)));
    let outer = Encapsulation::new(VNI, far, near).unwrap();
    let (mut front, inner) = ([0; OUTER_ROOM], frame(from, to));
    let bytes = outer
        .write(&mut front, Inner { frame_bytes: 60, flow: 1, ecn: 0, is_ipv6: false })
        .unwrap();
    let mut packet = Packet::EMPTY;
    packet.header[..bytes].copy_from_slice(&front[..bytes]);
    packet.header[bytes..bytes + 60].copy_from_slice(&inner.header[..60]);
    (packet.header_len, packet.frame_len) = (110, 110);
    packet
}

fn run(steps: &[Step]) {
    let mut switch = Switch::default();
    let mut tables = Tables::build(&switch.change(0xff)).unwrap();
    let mut limits: BTreeMap<u16, PortLimits> = BTreeMap::new();
    let mut now = 1000 * SECOND;
    for step in steps {
        match *step {
            Step::Wait(tenths) => now += u64::from(tenths) * SECOND / 10,
            Step::Change(bits) => tables = tables.update(&switch.change(bits)).unwrap(),
            Step::Stretch(bits) => {
                let [flood, known] = switch.stretch(bits);
                tables = tables.with_bridge_ends(LAN, &flood, &known).unwrap();
            }
            Step::Name { station, host } => {
                if let Some(change) = switch.name(address(station), host.map(u8::from)) {
                    tables = tables.with_stations(LAN, &[change]).unwrap();
                }
                let named = tables.network(LAN).unwrap().named_stations();
                assert_eq!(named, switch.named.len());
            }
            Step::Arrive { host, from, to, count } => {
                let (host, from, to) = (host % 2, address(from), address(to));
                let slot = HOSTS[usize::from(host)];
                let mut batch = vec![arriving(host, from, to); usize::from(count % 4) + 1];
                let before = batch[0].header;
                let limits = limits.entry(slot).or_default();
                let time = Timestamp::from_nanoseconds(now);
                process(&tables, time, PortIndex(slot), &mut batch, limits);
                for packet in &batch {
                    let expected = switch.decide_inside(now, host, from, to);
                    assert_eq!(packet.verdict, expected, "{host}: {from:02x?} to {to:02x?}");
                    assert_eq!(packet.header, before);
                    if !matches!(expected, Verdict::Drop(_)) {
                        assert_eq!((packet.removed(), packet.frame_len), (50, 60));
                    }
                }
            }
            Step::Send { port, from, to, count } => {
                let number = port % 4;
                let slot = SLOTS[usize::from(number)];
                // Half of the time who it is.
                let from = if from < 128 { mac(number) } else { address(from) };
                let to = address(to);
                let mut batch = vec![frame(from, to); usize::from(count % 4) + 1];
                let before = batch[0].header;
                let limits = limits.entry(slot).or_default();
                let time = Timestamp::from_nanoseconds(now);
                process(&tables, time, PortIndex(slot), &mut batch, limits);
                for packet in &batch {
                    let expected = switch.decide(now, slot, from, to);
                    assert_eq!(packet.verdict, expected, "{slot}: {from:02x?} to {to:02x?}");
                    assert_eq!(packet.header, before);
                }
            }
        }
        for (slot, flood) in
            SLOTS.into_iter().flat_map(|slot| [(slot, Flood::All), (slot, Flood::Trunks)])
        {
            let mut copies: Vec<_> = tables.flood(PortIndex(slot), flood).map(|to| to.0).collect();
            copies.sort_unstable();
            let here = switch.ports.contains_key(&slot);
            let all = switch
                .ports
                .iter()
                .filter(|(to, (_, trunk))| here && **to != slot && (flood == Flood::All || *trunk));
            assert_eq!(copies, all.map(|(to, _)| *to).collect::<Vec<_>>());
            let packet = frame(mac(0), address(5));
            let copies = tables.flood_into_tunnels(PortIndex(slot), &packet);
            let copies: Vec<_> = copies.map(|copy| copy.verdict).collect();
            let hosts = switch.flooded().filter(|_| here).map(|host| HOSTS[usize::from(host)]);
            let hosts: Vec<_> = hosts.map(|slot| Verdict::Encapsulate(PortIndex(slot))).collect();
            assert!(copies.len() == hosts.len() && hosts.iter().all(|it| copies.contains(it)));
        }
    }
}

#[test]
fn the_bridge_agrees_with_a_slow_switch() {
    let input = bolero::check!().with_type::<Vec<Step>>().with_iterations(3000);
    input.for_each(|steps| run(steps));
}

/// Everybody to everybody, at the edges of time, with both trunks, one and none.
#[test]
fn every_pair_of_stations() {
    let mut steps = Vec::new();
    for (change, hosts) in
        [(0xff, 0), (0xbf, 0), (0x3f, 0), (0xf7, 3), (0x3f, 2), (0xff, 1), (0x3f, 7), (0xff, 15)]
    {
        steps.push(Step::Change(change));
        steps.push(Step::Stretch(hosts));
        // Somebody says it of a port, of who speaks from the other host, and of one who is silent.
        let name = |(station, host)| Step::Name { station, host: Some(host) };
        steps.extend([(2, true), (7, true), (8, false), (9, true)].map(name));
        steps.push(Step::Name { station: 9, host: None });
        for wait in [0, 1, 9, 11, 2990, 3000, 3002] {
            for port in 0..4 {
                for from in [0].into_iter().chain(140..154) {
                    steps.push(Step::Send { port, from, to: from.wrapping_add(port), count: 0 });
                }
                steps.extend((0..14).map(|to| Step::Send { port, from: 0, to, count: 1 }));
            }
            for host in [0, 1] {
                let pairs = (0..14).flat_map(|from| (0..14).map(move |to| (from, to)));
                let arrive = |(from, to)| Step::Arrive { host, from, to, count: 0 };
                steps.extend(pairs.map(arrive));
            }
            steps.push(Step::Wait(wait));
        }
    }
    run(&steps);
}
