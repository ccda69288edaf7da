//! The other ends of a bridged network's tunnel: hosts that the network stretches to by VXLAN (RFC 7348).

use super::Network;
use crate::hops::{HopIndex, Neighbour};
use crate::routes::reserved_around;
use crate::stations::{Behind, EndIndex, Stations};
use crate::{Mode, NetworkIndex, NetworkPolicy, Vtep};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use vrouter_net::IpPrefix;

/// An end that frames are bridged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    address: IpAddr,
    /// Its slot among the next hops, which has the outer header.
    hop: HopIndex,
}

/// Ends by slot: one keeps its slot as long as it is there, so that what was learned of it stays true.
pub(super) type Ends = Vec<Option<End>>;

/// Ends of a tunnel that frames can't be bridged to.
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
}

impl FloodEndError {
    /// Most ends of one network: each flooded frame is copied once for each.
    pub const MOST: usize = 64;
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
    /// The same network with other ends that frames are bridged to, and no others.
    pub(crate) fn with_flood_ends(&self, ends: &[IpAddr]) -> Result<Self, FloodEndError> {
        check(&self.policy, ends)?;
        let mut network = self.clone();
        network.set_flood_ends(ends);
        Ok(network)
    }

    /// Takes all ends away, if the policy allows none any more.
    pub(super) fn check_flood_ends(&mut self) {
        let ends: Vec<_> = self.flood_ends().map(|(_, address)| address).collect();
        if check(&self.policy, &ends).is_err() {
            self.set_flood_ends(&[]);
        }
    }

    fn set_flood_ends(&mut self, ends: &[IpAddr]) {
        for (slot, there) in (0..).zip(&mut self.bridge.ends) {
            let Some(end) = there.filter(|end| !ends.contains(&end.address)) else { continue };
            *there = None;
            self.hops.release(end.hop);
            if let Some(stations) = &self.bridge.stations {
                // As when a trunk leaves.
                stations.forget(Behind::End(EndIndex(slot)));
            }
        }
        for address in ends {
            if self.flood_end(*address).is_some() {
                continue;
            }
            let vtep = Vtep { address: *address, mac: None };
            let end = End { address: *address, hop: self.hops.acquire(Neighbour::Vtep(vtep)) };
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

    /// The ends that frames are bridged to: those that are for everybody or for nobody known, and those for stations that
    /// were heard from there.
    pub(crate) fn flood_ends(&self) -> impl Iterator<Item = (EndIndex, IpAddr)> {
        let ends = (0..).zip(&self.bridge.ends);
        ends.filter_map(|(slot, end)| Some((EndIndex(slot), end.as_ref()?.address)))
    }

    /// Whether there is none.
    pub(crate) fn is_on_one_host(&self) -> bool {
        self.bridge.ends.is_empty()
    }

    /// The slot of the one with an address.
    pub(crate) fn flood_end(&self, address: IpAddr) -> Option<EndIndex> {
        self.flood_ends().find(|(_, there)| *there == address).map(|(slot, _)| slot)
    }

    /// The next hop to one. `None`: it is not there any more.
    pub(crate) fn hop_to_end(&self, end: EndIndex) -> Option<HopIndex> {
        self.bridge.ends.get(usize::from(end.0))?.map(|end| end.hop)
    }
}
