//! A bridged network beside a slow and plain switch: a list of who is where, a list of who was heard where and when,
//! and tokens that are counted one by one. Frames of any port in any order, with time passing, while ports come, go and
//! become trunks. Verdicts must be the same, and so must who gets a copy.

use bolero::TypeGenerator;
use core::net::Ipv4Addr;
use std::collections::BTreeMap;
use vrouter_core::{
    DropReason, Flood, FloodLimit, Mode, NetworkIndex, NetworkPolicy, Packet, Policy, PortIndex,
    PortLimits, PortPolicy, Rates, Tables, Timestamp, Verdict, process,
};
use vrouter_net::Mac;

const SECOND: u64 = 1_000_000_000;
/// What a port may repeat: few enough to meet it.
const FLOODS: FloodLimit = FloodLimit { per_second: 1, burst: 20 };
/// Slots of the ports; the last two may be trunks.
const SLOTS: [u16; 4] = [6, 2, 9, 4];

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
}

/// The plain switch.
#[derive(Default)]
struct Switch {
    /// By slot: number of the port, and whether it is a trunk.
    ports: BTreeMap<u16, (u8, bool)>,
    /// Where a station was heard, and when, in 2^20 ns.
    heard: BTreeMap<[u8; 6], (u16, u64)>,
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
        let at = |address: [u8; 6]| {
            let mut ports = self.ports.iter();
            ports.find(|(_, (number, _))| mac(*number) == address).map(|(slot, _)| *slot)
        };
        let gateway = mac(4);
        if to == gateway {
            // Nothing that is sent here is for the gateway to answer.
            let reason =
                if from == mac(number) { DropReason::UnsupportedEthertype } else { SourceMac };
            return Verdict::Drop(reason);
        }
        if from != mac(number) {
            let foreign = at(from).is_some() || from == gateway || from[0] & 1 == 1;
            if !trunk || foreign {
                return Verdict::Drop(SourceMac);
            }
        }
        let (port, ticks) = (at(to), now >> 20);
        if from != mac(number) {
            let known = self.heard.get(&from).copied();
            // Within a second the time is not noted again.
            if known.is_none_or(|(there, at)| there != slot || ticks - at >= SECOND >> 20) {
                self.heard.insert(from, (slot, ticks));
            }
        }
        let flood = if to[0] & 1 == 1 {
            Flood::All
        } else {
            let heard = self.heard.get(&to).filter(|(there, at)| {
                ticks - at <= (300 * SECOND) >> 20 && self.trunks().any(|trunk| trunk == *there)
            });
            match port.or(heard.map(|(there, _)| *there)) {
                Some(there) if there == slot => return Verdict::Drop(Hairpin),
                Some(there) => return Verdict::Forward(PortIndex(there)),
                None => Flood::Trunks,
            }
        };
        if flood == Flood::Trunks && self.trunks().all(|trunk| trunk == slot) {
            return Verdict::Drop(UnknownMac);
        }
        let full = u64::from(FLOODS.burst) * SECOND;
        let (credit, counted) = self.credit.get(&slot).copied().unwrap_or((full, now));
        let credit = (credit + now - counted).min(full);
        let enough = credit >= SECOND;
        self.credit.insert(slot, (if enough { credit - SECOND } else { credit }, now));
        if enough { Verdict::Flood(flood) } else { Verdict::Drop(FloodLimited) }
    }

    fn change(&mut self, bits: u8) -> Policy {
        let before = std::mem::take(&mut self.ports);
        for (number, slot) in (0..).zip(SLOTS) {
            if bits >> number & 1 == 1 {
                let trunk = number >= 2 && bits >> (number + 4) & 1 == 1;
                self.ports.insert(slot, (number, trunk));
            }
        }
        // What was heard behind a trunk goes with it, and all of it with the last one.
        let trunks: Vec<_> = self.trunks().collect();
        let unchanged = |slot: &u16| before.get(slot) == self.ports.get(slot);
        self.heard.retain(|_, (slot, _)| trunks.contains(slot) && unchanged(slot));
        policy(&self.ports)
    }
}

fn policy(ports: &BTreeMap<u16, (u8, bool)>) -> Policy {
    let network = NetworkPolicy {
        index: NetworkIndex(0),
        prefix: "10.66.0.0/24".parse().unwrap(),
        gateway: Ipv4Addr::new(10, 66, 0, 1),
        gateway_mac: Mac::new(mac(4)),
        mtu: 1500,
        ipv6: None,
        mode: Mode::Bridged,
        floods: FLOODS,
        tunnel: None,
        external: false,
        punts: Default::default(),
    };
    let port = |(slot, (number, trunk)): (&u16, &(u8, bool))| PortPolicy {
        index: PortIndex(*slot),
        network: NetworkIndex(0),
        mac: Mac::new(mac(*number)),
        ipv4: Ipv4Addr::new(10, 66, 0, 10 + number),
        ipv6: None,
        allowed: Vec::new(),
        trunk: *trunk,
        rates: Rates::default(),
        role: Default::default(),
        mtu: None,
    };
    Policy { networks: vec![network], ports: ports.iter().map(port).collect() }
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

fn run(steps: &[Step]) {
    let mut switch = Switch::default();
    let mut tables = Tables::build(&switch.change(0xff)).unwrap();
    let mut limits: BTreeMap<u16, PortLimits> = BTreeMap::new();
    let mut now = 1000 * SECOND;
    for step in steps {
        match *step {
            Step::Wait(tenths) => now += u64::from(tenths) * SECOND / 10,
            Step::Change(bits) => tables = tables.update(&switch.change(bits)).unwrap(),
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
    for change in [0xff, 0xbf, 0x3f, 0xf7, 0xff] {
        steps.push(Step::Change(change));
        for wait in [0, 1, 9, 11, 2990, 3000, 3002] {
            for port in 0..4 {
                for from in [0].into_iter().chain(140..154) {
                    steps.push(Step::Send { port, from, to: from.wrapping_add(port), count: 0 });
                }
                steps.extend((0..14).map(|to| Step::Send { port, from: 0, to, count: 1 }));
            }
            steps.push(Step::Wait(wait));
        }
    }
    run(&steps);
}
