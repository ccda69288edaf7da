//! The ends of tunnels, as whoever takes packets out of them needs them.

use crate::{Network, NetworkIndex, NetworkPolicy};
use alloc::vec::Vec;
use core::net::IpAddr;
use vrouter_net::mpls::Label;
use vrouter_net::vxlan::Vni;

/// One end of a tunnel of one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TunnelEnd {
    pub underlay: NetworkIndex,
    /// The network's number in VXLAN.
    pub vni: Option<Vni>,
    /// The label that packets for it have.
    pub label: Option<Label>,
    /// All packets of IP in IP are for it.
    pub ipip: bool,
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
    /// Sorted by underlay, then by VNI; each pair once, but for those without a VNI.
    ends: Vec<TunnelEnd>,
    /// The places of those with a label, sorted by underlay and label.
    labels: Vec<(NetworkIndex, Label, usize)>,
}

/// The ends of tunnels that one network carries.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ends<'a> {
    underlay: NetworkIndex,
    /// Of all networks.
    all: &'a [TunnelEnd],
    /// Of this one.
    ends: &'a [TunnelEnd],
    labels: &'a [(NetworkIndex, Label, usize)],
}

impl<'a> Ends<'a> {
    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whether one has this address.
    pub fn are_at(&self, address: IpAddr) -> bool {
        self.ends.iter().any(|end| end.local == address)
    }

    /// The one that takes IP in IP at an address.
    pub fn with_ipip(&self, local: IpAddr) -> Option<&'a TunnelEnd> {
        self.ends.iter().find(|end| end.ipip && end.local == local)
    }

    /// The one with a VNI.
    pub fn with_vni(&self, vni: Vni) -> Option<&'a TunnelEnd> {
        let at = self.ends.binary_search_by_key(&Some(vni), |end| end.vni).ok()?;
        self.ends.get(at)
    }

    /// The one with a label.
    pub fn with_label(&self, label: Label) -> Option<&'a TunnelEnd> {
        let key = (self.underlay, label);
        let at = self.labels.binary_search_by_key(&key, |(network, label, _)| (*network, *label));
        self.all.get(self.labels.get(at.ok()?)?.2)
    }
}

impl Tunnels {
    pub fn new<'a>(networks: impl Iterator<Item = &'a Network>) -> Self {
        let end = |network: &Network| {
            let tunnel = network.policy().tunnel?;
            let mut remotes: Vec<_> = network.hops().tunnel_ends().collect();
            // One can have several MAC addresses and labels.
            remotes.sort_unstable();
            remotes.dedup();
            Some(TunnelEnd {
                underlay: tunnel.underlay,
                vni: tunnel.vni,
                label: tunnel.label,
                ipip: tunnel.ipip,
                local: tunnel.local,
                overlay: network.policy().index,
                remotes,
            })
        };
        let mut ends: Vec<_> = networks.filter_map(end).collect();
        ends.sort_unstable_by_key(|end| (end.underlay, end.vni));
        let labels = ends.iter().zip(0..);
        let labels = labels.filter_map(|(end, at)| Some((end.underlay, end.label?, at)));
        let mut labels: Vec<_> = labels.collect();
        labels.sort_unstable();
        Self { ends, labels }
    }

    /// Those that a network carries.
    #[inline]
    pub fn over(&self, underlay: NetworkIndex) -> Ends<'_> {
        if self.ends.is_empty() {
            return Ends::default();
        }
        let start = self.ends.partition_point(|end| end.underlay < underlay);
        let end = self.ends.partition_point(|end| end.underlay <= underlay);
        let ends = self.ends.get(start..end).unwrap_or(&[]);
        Ends { underlay, all: &self.ends, ends, labels: &self.labels }
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
