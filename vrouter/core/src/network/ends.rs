//! The other ends of a bridged network's tunnel: hosts that the network stretches to by VXLAN (RFC 7348), and the stations that
//! are known to be behind them.

use super::{Network, key};
use crate::hops::{HopIndex, Neighbour};
use crate::index::Key;
use crate::routes::reserved_around;
use crate::stations::{Behind, EndIndex, Stations};
use crate::{Mode, NetworkIndex, NetworkPolicy, Vtep};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use vrouter_net::{IpPrefix, Mac};

/// An end that frames are bridged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    address: IpAddr,
    /// Whether it gets what is for everybody and for nobody known.
    floods: bool,
    /// Its slot among the next hops, which has the outer header.
    hop: HopIndex,
}

/// Ends by slot: one keeps its slot as long as it is there, so that what was learned of it stays true.
pub(super) type Ends = Vec<Option<End>>;

/// Where a station is that is known without having been heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StationChange {
    /// The station.
    pub mac: Mac,
    /// The end that it is behind from now on; `None`: nobody says any more.
    pub end: Option<IpAddr>,
}

/// Ends of a tunnel that frames can't be bridged to, and stations that can't be behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the texts below say what each field is")]
pub enum FloodEndError {
    /// No such network.
    UnknownNetwork { network: NetworkIndex },
    /// A routed network bridges nothing.
    NotBridged { network: NetworkIndex },
    /// A network that does not speak VXLAN.
    NoVni { network: NetworkIndex },
    /// An end that can never be: of another family than this end, this end itself, or no host.
    Address { address: IpAddr, local: IpAddr },
    /// One end twice.
    Duplicate { address: IpAddr },
    /// More ends than one frame is repeated to.
    TooMany { count: usize },
    /// A station behind an end that the network has not.
    NotBehind { station: Mac, end: IpAddr },
    /// An address that no station can have.
    NoStation { station: Mac },
    /// More stations than are looked up.
    TooManyStations { count: usize },
}

impl FloodEndError {
    /// Most ends of one network: each flooded frame is copied once for each.
    pub const MOST: usize = 64;
    /// Most stations of one network that are known without having been heard: some 3 MiB of tables.
    pub const MOST_STATIONS: usize = 16_384;
}

impl fmt::Display for FloodEndError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tunnel.flood ")?;
        match self {
            Self::UnknownNetwork { network } => {
                write!(f, "of network slot {}, which does not exist: create it first", network.0)
            }
            Self::NotBridged { .. } => f.write_str(
                "is of a routed network, which repeats nothing: leave it out, or make the network bridged",
            ),
            Self::NoVni { .. } => f.write_str(
                "needs VXLAN, which the tunnel does not speak: give the tunnel a vni, or leave it out",
            ),
            Self::Address { address, local } if address == local => {
                write!(f, "{address} is this end itself: name the others only")
            }
            Self::Address { address, local } => write!(
                f,
                "{address} is no host that {local} can reach: name unicast addresses of its family"
            ),
            Self::Duplicate { address } => write!(f, "{address} is named twice: name it once"),
            Self::TooMany { count } => {
                write!(f, "has {count} ends: name at most {}", Self::MOST)
            }
            Self::NotBehind { station, end } => {
                write!(f, "lacks {end}, where {station} is to be: name that end, too")
            }
            Self::NoStation { station } => {
                write!(f, "can't have {station} behind an end: use a station's MAC address")
            }
            Self::TooManyStations { count } => {
                write!(f, "has {count} stations: use at most {}", Self::MOST_STATIONS)
            }
        }
    }
}

impl core::error::Error for FloodEndError {}

fn check(policy: &NetworkPolicy, ends: &[IpAddr]) -> Result<(), FloodEndError> {
    if ends.is_empty() {
        return Ok(());
    }
    let network = policy.index;
    if policy.mode != Mode::Bridged {
        return Err(FloodEndError::NotBridged { network });
    }
    let tunnel = policy.tunnel.filter(|tunnel| tunnel.vni.is_some());
    let local = tunnel.ok_or(FloodEndError::NoVni { network })?.local;
    if ends.len() > FloodEndError::MOST {
        return Err(FloodEndError::TooMany { count: ends.len() });
    }
    for (at, address) in ends.iter().copied().enumerate() {
        let is_host = reserved_around(IpPrefix::host(address)).is_none();
        if address == local || address.is_ipv4() != local.is_ipv4() || !is_host {
            return Err(FloodEndError::Address { address, local });
        }
        if ends.iter().take(at).any(|before| *before == address) {
            return Err(FloodEndError::Duplicate { address });
        }
    }
    Ok(())
}

impl Network {
    /// The same network with other ends that frames are bridged to, and no others: `flood` gets what is for everybody and for
    /// nobody known, `known` only what is for stations there.
    pub(crate) fn with_ends(
        &self,
        flood: &[IpAddr],
        known: &[IpAddr],
    ) -> Result<Self, FloodEndError> {
        check(&self.policy, &[flood, known].concat())?;
        let mut network = self.clone();
        network.set_ends(flood, known);
        Ok(network)
    }

    /// The same network with these stations behind other ends.
    pub(crate) fn with_stations(&self, changes: &[StationChange]) -> Result<Self, FloodEndError> {
        let mut network = self.clone();
        for &StationChange { mac, end } in changes {
            let slot = |end| {
                let not_there = FloodEndError::NotBehind { station: mac, end };
                network.end(end).ok_or(not_there)
            };
            let end = end.map(slot).transpose()?;
            if !mac.is_station() {
                return Err(FloodEndError::NoStation { station: mac });
            }
            network.name_station(key(mac), mac, end);
        }
        match network.bridge.named.len() {
            count if count > FloodEndError::MOST_STATIONS => {
                Err(FloodEndError::TooManyStations { count })
            }
            _ => Ok(network),
        }
    }

    fn name_station(&mut self, key: Key, mac: Mac, end: Option<EndIndex>) {
        if self.bridge.named.set(key, end) != end
            && let Some(stations) = &self.bridge.stations
        {
            // What was heard before is of the past, and must not count again when the station is withdrawn.
            stations.forget_behind_ends(mac);
        }
    }

    /// Takes all ends away, if the policy allows none any more.
    pub(super) fn check_flood_ends(&mut self) {
        let ends: Vec<_> = self.bridge.ends.iter().flatten().map(|end| end.address).collect();
        if check(&self.policy, &ends).is_err() {
            self.set_ends(&[], &[]);
        }
    }

    fn set_ends(&mut self, flood: &[IpAddr], known: &[IpAddr]) {
        for (slot, there) in (0..).zip(&mut self.bridge.ends) {
            let Some(end) = there else { continue };
            end.floods = flood.contains(&end.address);
            if end.floods || known.contains(&end.address) {
                continue;
            }
            self.hops.release(end.hop);
            *there = None;
            for gone in self.bridge.named.keys_of(|behind| behind == EndIndex(slot)) {
                self.bridge.named.set(gone, None);
            }
            if let Some(stations) = &self.bridge.stations {
                // As when a trunk leaves.
                stations.forget(Behind::End(EndIndex(slot)));
            }
        }
        let flood = flood.iter().map(|address| (*address, true));
        let known = known.iter().map(|address| (*address, false));
        for (address, floods) in flood.chain(known) {
            if self.end(address).is_some() {
                continue;
            }
            let vtep = Vtep { address, mac: None };
            let end = End { address, floods, hop: self.hops.acquire(Neighbour::Vtep(vtep)) };
            match self.bridge.ends.iter_mut().find(|there| there.is_none()) {
                Some(free) => *free = Some(end),
                None => self.bridge.ends.push(Some(end)),
            }
        }
        while self.bridge.ends.pop_if(|last| last.is_none()).is_some() {}
        self.set_stations();
    }

    /// There is a table of stations as long as there is somewhere where they can be.
    pub(super) fn set_stations(&mut self) {
        if self.bridge.trunks.is_empty() && self.bridge.ends.is_empty() {
            self.bridge.stations = None;
        } else if self.bridge.stations.is_none() {
            self.bridge.stations = Some(Arc::new(Stations::new()));
        }
    }

    /// The ends that get frames that are for everybody or for nobody known.
    pub(crate) fn flood_ends(&self) -> impl Iterator<Item = (EndIndex, IpAddr)> {
        let ends = (0..).zip(&self.bridge.ends);
        let ends = ends.filter_map(|(slot, end)| Some((EndIndex(slot), end.as_ref()?)));
        ends.filter(|(_, end)| end.floods).map(|(slot, end)| (slot, end.address))
    }

    /// Whether there is none of those.
    pub(crate) fn is_on_one_host(&self) -> bool {
        !self.bridge.ends.iter().flatten().any(|end| end.floods)
    }

    /// The slot of the end with an address, one that gets such frames or one that has stations only.
    pub(crate) fn end(&self, address: IpAddr) -> Option<EndIndex> {
        let is_it = |end: &Option<End>| end.is_some_and(|end| end.address == address);
        (0..).zip(&self.bridge.ends).find(|(_, end)| is_it(end)).map(|(slot, _)| EndIndex(slot))
    }

    /// The end that a station is known to be behind, whether it was heard or not.
    #[inline]
    pub(crate) fn named(&self, mac: Mac) -> Option<EndIndex> {
        self.bridge.named.get(key(mac))
    }

    /// How many stations are known without having been heard.
    pub fn named_stations(&self) -> usize {
        self.bridge.named.len()
    }

    /// The next hop to one. `None`: it is not there any more.
    pub(crate) fn hop_to_end(&self, end: EndIndex) -> Option<HopIndex> {
        self.bridge.ends.get(usize::from(end.0))?.map(|end| end.hop)
    }
}
