//! Ends and stations of a bridged network that the kernel's forwarding database names, beside the ends of the operator.
//!
//! [`Named`] decides what of them the tables get: it is pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use vrouter_api::v1;
use vrouter_core::{FloodEndError, NetworkIndex, StationChange, Tables, reserved_around};
use vrouter_kernel::fib::{BridgeSpec, BridgeState, BridgeUpdate};
use vrouter_net::{IpPrefix, Mac};

use super::{NetworkRecord, Registry};

/// What was heard of the kernel, and what of it the tables have.
#[derive(Debug, Default)]
pub struct Named {
    state: Option<BridgeState>,
    flood: BTreeSet<IpAddr>,
    stations: BTreeMap<Mac, IpAddr>,
    /// How many stations are behind each end.
    behind: BTreeMap<IpAddr, usize>,
    left_out: usize,
    /// What the tables have.
    ends: Ends,
    /// There are more ends.
    more_ends: bool,
    given: BTreeMap<Mac, IpAddr>,
    /// What was said last of what is wrong.
    told: String,
}

/// The ends of a network's tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// They get what is for everybody, too: first those of the operator, then the kernel's by address.
    pub flood: Vec<IpAddr>,
    /// They get what is for stations there.
    pub known: Vec<IpAddr>,
}

impl Ends {
    fn has(&self, end: IpAddr) -> bool {
        self.flood.contains(&end) || self.known.contains(&end)
    }
}

/// What changes in the tables, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// All ends, if others than before.
    pub ends: Option<Ends>,
    /// Stations.
    pub stations: Vec<StationChange>,
}

impl Named {
    /// Takes in what the kernel says. `own`: the ends that the operator names.
    pub fn take(&mut self, update: &BridgeUpdate, own: &[IpAddr]) -> Changes {
        self.state = Some(update.state.clone());
        self.left_out = update.left_out;
        if let Some(flood) = &update.flood {
            self.flood.clone_from(flood);
        }
        let was_full = self.stations.len() > FloodEndError::MOST_STATIONS;
        for (mac, end) in &update.stations {
            let mac = Mac::new(mac.0);
            let before = match end {
                Some(end) => self.stations.insert(mac, *end),
                None => self.stations.remove(&mac),
            };
            if let Some(end) = end {
                *self.behind.entry(*end).or_default() += 1;
            }
            if let Some(count) = before.and_then(|before| self.behind.get_mut(&before)) {
                *count -= 1;
            }
        }
        self.behind.retain(|_, count| *count > 0);
        let (ends, more_ends) = self.choose(own);
        self.more_ends = more_ends;
        let other_ends = ends != self.ends;
        if other_ends {
            // Stations go with their end.
            self.given.retain(|_, end| ends.has(*end));
            self.ends.clone_from(&ends);
        }
        let is_full = self.stations.len() > FloodEndError::MOST_STATIONS;
        let stations = if other_ends || was_full || is_full {
            self.all_stations()
        } else {
            let changed = update.stations.iter().map(|(mac, end)| (Mac::new(mac.0), *end));
            let usable = |end: Option<IpAddr>| end.filter(|end| self.ends.has(*end));
            changed.map(|(mac, end)| StationChange { mac, end: usable(end) }).collect()
        };
        for StationChange { mac, end } in &stations {
            match end {
                Some(end) => self.given.insert(*mac, *end),
                None => self.given.remove(mac),
            };
        }
        Changes { ends: other_ends.then_some(ends), stations }
    }

    /// The first that there is room for, as a frame is copied for each, and whether there are more.
    fn choose(&self, own: &[IpAddr]) -> (Ends, bool) {
        let can_be =
            |end: &IpAddr| reserved_around(IpPrefix::host(*end)).is_none() && !own.contains(end);
        let more = self.flood.iter().copied().filter(can_be);
        let mut flood: Vec<_> = own.iter().copied().chain(more).collect();
        let known = self.behind.keys().copied().filter(can_be);
        let mut known: Vec<_> = known.filter(|end| !self.flood.contains(end)).collect();
        let all = flood.len() + known.len();
        flood.truncate(FloodEndError::MOST);
        known.truncate(FloodEndError::MOST - flood.len());
        (Ends { flood, known }, all > FloodEndError::MOST)
    }

    /// How what the tables have differs from what they should: the first so many, by MAC address, of those behind ends that
    /// there are.
    fn all_stations(&self) -> Vec<StationChange> {
        let usable = self.stations.iter().filter(|(_, end)| self.ends.has(**end));
        let wanted: BTreeMap<_, _> = usable.take(FloodEndError::MOST_STATIONS).collect();
        let gone = self.given.keys().filter(|mac| !wanted.contains_key(mac));
        let gone = gone.map(|mac| StationChange { mac: *mac, end: None });
        let new = wanted.iter().filter(|(mac, end)| self.given.get(mac) != Some(end));
        let new = new.map(|(mac, end)| StationChange { mac: **mac, end: Some(**end) });
        // First what makes room.
        gone.chain(new).collect()
    }

    /// What is wrong, one line for each; empty: nothing.
    fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if let Some(state) = self.state.as_ref().filter(|state| state.device().is_none()) {
            wrong.push(state.to_string());
        }
        if self.more_ends {
            wrong.push(format!(
                "it names more ends than the {} that frames are bridged to: the others, and stations there, are left out",
                FloodEndError::MOST
            ));
        }
        if self.stations.len() > FloodEndError::MOST_STATIONS {
            wrong.push(format!(
                "it names more than {} stations: what is for the others is flooded",
                FloodEndError::MOST_STATIONS
            ));
        }
        wrong
    }

    /// What to show of it.
    pub fn write(&self) -> v1::KernelBridge {
        let device = self.state.as_ref().and_then(BridgeState::device).unwrap_or_default();
        let ends = self.flood.iter().filter(|end| self.ends.flood.contains(end));
        v1::KernelBridge {
            device: device.to_owned(),
            ends: ends.map(ToString::to_string).collect(),
            station_ends: self.ends.known.iter().map(ToString::to_string).collect(),
            stations: u64::try_from(self.given.len()).unwrap_or(u64::MAX),
            left_out: u64::try_from(self.left_out).unwrap_or(u64::MAX),
            reason: self.wrong().join("; "),
        }
    }

    /// Logs what is wrong when it is something else than before, and that nothing is any more.
    fn tell(&mut self, network: &str, port: &str) {
        let wrong = self.wrong().join("; ");
        if wrong == self.told {
            return;
        }
        if wrong.is_empty() {
            let device = self.state.as_ref().and_then(BridgeState::device);
            tracing::info!(
                network,
                port,
                device,
                "stations are read from the kernel's bridge again"
            );
        } else {
            tracing::warn!(
                network,
                port,
                reason = wrong,
                "stations can't be read from the kernel's bridge as they should (tunnel.kernel_bridge_port)"
            );
        }
        self.told = wrong;
    }
}

impl Registry {
    /// Bridged networks whose stations are in the kernel, with the number of their creation.
    pub fn bridged_networks(&self) -> BTreeMap<String, (u64, BridgeSpec)> {
        let spec = |(name, record): (&String, &NetworkRecord)| {
            Some((name.clone(), (record.creation, record.request.kernel_bridge()?)))
        };
        self.networks.iter().filter_map(spec).collect()
    }

    /// The devices by which the kernel's bridges are told of ports, each with the MAC addresses of those.
    pub fn bridge_ports(&self) -> BTreeMap<String, BTreeSet<Mac>> {
        let networks = self.networks.values();
        let ports = networks.filter_map(|record| {
            let of = self.ports.values().filter(|port| port.network == record.index);
            let macs = of.map(|port| port.facts.with(|request, _| request.mac));
            Some((record.request.kernel_bridge()?.port, macs.collect()))
        });
        ports.collect()
    }

    /// Takes in what has changed in the forwarding database of a network's VNI.
    pub fn name_stations(&mut self, network: &str, creation: u64, update: &BridgeUpdate) {
        let record = self.networks.get_mut(network).filter(|it| it.creation == creation);
        let Some(record) = record else { return };
        let Some(spec) = record.request.kernel_bridge() else { return };
        let own = record.request.tunnel.as_ref().map_or(&[][..], |tunnel| &tunnel.flood);
        let changes = record.named.take(update, own);
        record.named.tell(network, &spec.port);
        tracing::debug!(
            network,
            ends = changes.ends.is_some(),
            stations = changes.stations.len(),
            "a forwarding database of the kernel's has changed"
        );
        if changes == Changes::default() {
            return;
        }
        match changed(&self.tables, record.index, &changes) {
            Ok(tables) => {
                self.tables = tables;
                self.publish_tables();
            }
            // It is all looked at before.
            Err(error) => tracing::error!(network, %error, "stations of the kernel's are left out"),
        }
    }
}

fn changed(
    tables: &Tables,
    network: NetworkIndex,
    changes: &Changes,
) -> Result<Tables, FloodEndError> {
    let with_ends = match &changes.ends {
        Some(Ends { flood, known }) => tables.with_bridge_ends(network, flood, known)?,
        None => tables.clone(),
    };
    if changes.stations.is_empty() {
        return Ok(with_ends);
    }
    with_ends.with_stations(network, &changes.stations)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vrouter_kernel::fib::Mac as KernelMac;

    fn end(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn mac(number: u16) -> [u8; 6] {
        let [high, low] = number.to_be_bytes();
        [2, 0, 0, 0, high, low]
    }

    fn update(flood: Option<&[u8]>, stations: &[(u16, Option<u8>)]) -> BridgeUpdate {
        let station = |&(number, at): &(u16, Option<u8>)| (KernelMac(mac(number)), at.map(end));
        BridgeUpdate {
            state: BridgeState::Device("vxlan77".to_owned()),
            flood: flood.map(|ends| ends.iter().copied().map(end).collect()),
            stations: stations.iter().map(station).collect(),
            left_out: 0,
        }
    }

    fn station(number: u16, at: Option<u8>) -> StationChange {
        StationChange { mac: Mac::new(mac(number)), end: at.map(end) }
    }

    fn ends(flood: &[u8], known: &[u8]) -> Option<Ends> {
        let list = |ends: &[u8]| ends.iter().copied().map(end).collect();
        Some(Ends { flood: list(flood), known: list(known) })
    }

    #[test]
    fn the_operators_ends_come_first() {
        let mut named = Named::default();
        let own = [end(9), end(3)];
        let changes = named.take(&update(Some(&[2, 3]), &[(1, Some(2)), (2, Some(4))]), &own);
        assert_eq!(changes.ends, ends(&[9, 3, 2], &[4]));
        assert_eq!(changes.stations, [station(1, Some(2)), station(2, Some(4))]);
        let shown = named.write();
        assert_eq!(
            (shown.ends.as_slice(), shown.stations),
            (&["192.0.2.2", "192.0.2.3"].map(String::from)[..], 2)
        );
        assert_eq!((shown.device.as_str(), shown.reason.as_str()), ("vxlan77", ""));
        // Only what changes is said.
        let changes = named.take(&update(None, &[(1, Some(3))]), &own);
        assert_eq!(changes, Changes { ends: None, stations: vec![station(1, Some(3))] });
        // An end whose last station goes is none any more, one that gets copies stays.
        let changes = named.take(&update(None, &[(1, None), (2, None)]), &own);
        assert_eq!(changes.ends, ends(&[9, 3, 2], &[]));
        // The tables have dropped the other one with its end.
        assert_eq!(changes.stations, [station(1, None)]);
        // All is taken away.
        assert_eq!(named.take(&update(Some(&[]), &[]), &own).ends, ends(&[9, 3], &[]));
    }

    #[test]
    fn ends_beyond_what_can_be_are_left_out_with_their_stations() {
        let mut named = Named::default();
        let many: Vec<u8> = (10..=80).collect();
        let changes = named.take(&update(Some(&many), &[(1, Some(10)), (2, Some(80))]), &[end(5)]);
        let flood = changes.ends.unwrap().flood;
        assert_eq!((flood.len(), flood[0], flood[63]), (64, end(5), end(72)));
        assert_eq!(changes.stations, [station(1, Some(10))]);
        assert!(named.write().reason.contains("more ends than the 64"), "{}", named.write().reason);
        // There is room again.
        let changes = named.take(&update(Some(&many[60..]), &[]), &[end(5)]);
        assert_eq!(changes.stations, [station(2, Some(80))]);
        assert_eq!(changes.ends.unwrap().known, [end(10)]);
        assert_eq!(named.write().reason, "");
    }

    #[test]
    fn stations_beyond_what_can_be_are_left_out() {
        let mut named = Named::default();
        let most = u16::try_from(FloodEndError::MOST_STATIONS).unwrap();
        let all: Vec<_> = (1..=most).map(|number| (number, Some(2))).collect();
        let changes = named.take(&update(Some(&[2]), &all), &[]);
        assert_eq!(changes.stations.len(), usize::from(most));
        assert_eq!(named.write().reason, "");
        // One more, of a lower address: another makes room.
        let changes = named.take(&update(None, &[(0, Some(2))]), &[]);
        assert_eq!(changes.stations, [station(most, None), station(0, Some(2))]);
        assert!(named.write().reason.contains("more than 16384 stations"));
        assert_eq!(named.write().stations, 16_384);
        // And comes back.
        let changes = named.take(&update(None, &[(5, None)]), &[]);
        assert_eq!(changes.stations, [station(5, None), station(most, Some(2))]);
        assert_eq!(named.write().reason, "");
    }
}
