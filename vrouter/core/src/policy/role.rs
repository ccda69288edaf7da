//! What can be behind a port.

use super::{MIN_MTU, NetworkPolicy, PolicyError, PortIndex, PortPolicy};
use vrouter_net::ipv6;

/// What is behind a port, and so what is believed of what comes from there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortRole {
    /// A pod, which may use its own addresses.
    #[default]
    Pod,
    /// A wire to other hosts; a port of an external network.
    Uplink {
        /// The port that has what is for the kernel. `None`: that is dropped.
        host: Option<PortIndex>,
    },
    /// The kernel's side of an uplink: what it sends goes out there as it is.
    Host {
        /// The uplink, whose `host` is this port.
        uplink: PortIndex,
    },
    /// The kernel as a router of a network that is not external, at most one for each. It sends for others.
    Kernel,
}

impl PortRole {
    /// Whether it is the kernel's side of an uplink.
    pub(crate) fn is_host(self) -> bool {
        matches!(self, Self::Host { .. })
    }

    /// Whether it is of the external kind.
    fn is_external(self) -> bool {
        matches!(self, Self::Uplink { .. } | Self::Host { .. })
    }
}

impl PortPolicy {
    /// Checks what its role asks of the port alone.
    pub(super) fn check_role(&self, network: &NetworkPolicy) -> Result<(), PolicyError> {
        let port = self.index;
        if self.role.is_external() != network.external {
            return Err(PolicyError::Role { port, external: network.external });
        }
        let needed =
            if network.external || network.ipv6.is_some() { ipv6::MIN_MTU } else { MIN_MTU };
        if let Some(mtu) = self.mtu.filter(|mtu| !(needed..=network.mtu).contains(mtu)) {
            return Err(PolicyError::PortMtu { port, mtu, least: needed, most: network.mtu });
        }
        let plain = self.ipv4.is_unspecified()
            && self.ipv6.is_none()
            && self.allowed.is_empty()
            && !self.trunk;
        if network.external && !plain {
            return Err(PolicyError::ExternalPort { port });
        }
        if let Some(least) = self.rates.too_small_for(network.mtu) {
            return Err(PolicyError::Burst { port, least_bits: least });
        }
        Ok(())
    }
}

/// Checks that uplinks and host interfaces name each other, and that no network has two kernel ports. `ports` are sorted
/// by slot.
pub(super) fn check(ports: &[PortPolicy]) -> Result<(), PolicyError> {
    let find = |index: PortIndex| {
        ports.binary_search_by_key(&index, |port| port.index).ok().and_then(|at| ports.get(at))
    };
    for port in ports {
        let (other, wanted) = match port.role {
            PortRole::Pod | PortRole::Uplink { host: None } => continue,
            PortRole::Uplink { host: Some(host) } => (host, PortRole::Host { uplink: port.index }),
            PortRole::Host { uplink } => (uplink, PortRole::Uplink { host: Some(port.index) }),
            PortRole::Kernel => {
                let same = |other: &&PortPolicy| {
                    other.role == PortRole::Kernel
                        && other.network == port.network
                        && other.index < port.index
                };
                if let Some(first) = ports.iter().find(same) {
                    let (first, second) = (first.index, port.index);
                    return Err(PolicyError::DuplicateKernel { first, second });
                }
                continue;
            }
        };
        let is_twin = |twin: &&PortPolicy| {
            twin.role == wanted && twin.network == port.network && twin.mac == port.mac
        };
        if find(other).filter(is_twin).is_none() {
            return Err(PolicyError::Twin { port: port.index, other });
        }
    }
    Ok(())
}
