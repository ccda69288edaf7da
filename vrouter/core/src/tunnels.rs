//! The ends of tunnels, as whoever takes packets out of them needs them.

use crate::{Network, NetworkIndex, NetworkPolicy};
use alloc::vec::Vec;
use core::net::IpAddr;
use vrouter_net::vxlan::Vni;

/// One end of a tunnel of one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TunnelEnd {
    pub underlay: NetworkIndex,
    pub vni: Vni,
    /// Where packets have to go to.
    pub local: IpAddr,
    /// The network they are for.
    pub overlay: NetworkIndex,
    /// Who may send them, sorted: the ends that the network's routes lead to.
    pub remotes: Vec<IpAddr>,
}

impl TunnelEnd {
    /// Whether packets may come from an address.
    pub fn knows(&self, remote: IpAddr) -> bool {
        self.remotes.binary_search(&remote).is_ok()
    }
}

/// All ends of tunnels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tunnels {
    /// Sorted by underlay, then by VNI, each pair once.
    ends: Vec<TunnelEnd>,
}

impl Tunnels {
    pub fn new<'a>(networks: impl Iterator<Item = &'a Network>) -> Self {
        let end = |network: &Network| {
            let tunnel = network.policy().tunnel?;
            let mut remotes: Vec<_> =
                network.hops().vteps().map(|(vtep, _)| vtep.address).collect();
            // They are sorted by address already; one can have several MAC addresses.
            remotes.dedup();
            Some(TunnelEnd {
                underlay: tunnel.underlay,
                vni: tunnel.vni,
                local: tunnel.local,
                overlay: network.policy().index,
                remotes,
            })
        };
        let mut ends: Vec<_> = networks.filter_map(end).collect();
        ends.sort_unstable_by_key(|end| (end.underlay, end.vni));
        Self { ends }
    }

    /// Those that a network carries, sorted by VNI.
    #[inline]
    pub fn over(&self, underlay: NetworkIndex) -> &[TunnelEnd] {
        if self.ends.is_empty() {
            return &[];
        }
        let start = self.ends.partition_point(|end| end.underlay < underlay);
        let end = self.ends.partition_point(|end| end.underlay <= underlay);
        self.ends.get(start..end).unwrap_or(&[])
    }
}

/// The addresses in one network at which tunnels of others end, sorted, each once.
pub(crate) fn ends_in(underlay: NetworkIndex, policies: &[NetworkPolicy]) -> Vec<IpAddr> {
    let tunnels = policies.iter().filter_map(|policy| policy.tunnel);
    let mut ends: Vec<_> =
        tunnels.filter(|tunnel| tunnel.underlay == underlay).map(|tunnel| tunnel.local).collect();
    ends.sort_unstable();
    ends.dedup();
    ends
}
