//! What the node's administrator lets pods have.
//!
//! Annotations are written by whoever may create pods, and are not trusted: this is what they are held against. Every refusal is
//! one line that names the annotation or the value, the limit, and where the administrator set it.

use std::collections::BTreeMap;

use crate::annotations::{
    CPUS, HUGEPAGES_1GI, HUGEPAGES_2MI, INTERFACES, MAX_CPUS, MAX_INTERFACES, MAX_QUEUES, NETWORK,
    Request,
};
use crate::hugepages::show_bytes;

/// The node's rules. The default allows everything that the planner can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Namespaces whose pods may opt in.
    pub namespaces: Patterns,
    /// Namespaces whose pods may join a network, by network.
    pub networks: BTreeMap<String, Patterns>,
    /// Whether pods may join a network that is not in `networks`.
    pub unlisted_networks: bool,
    /// Interfaces of one pod at most.
    pub interfaces: usize,
    /// Queue pairs of one interface at most.
    pub queues: u32,
    /// Exclusive CPUs of one pod at most.
    pub cpus: usize,
    /// Bytes of hugepage limits that the annotations of one pod may ask for; `None` is no limit. A container's own requests are
    /// not counted: kubelet and quotas see to those.
    pub hugepages: Option<u64>,
    /// Whether pods may choose their Ethernet addresses.
    pub mac: bool,
    /// Whether pods may choose their IP addresses.
    pub ip: bool,
    /// Who sets the CPUs of opted-in containers.
    pub cpu_mode: CpuMode,
}

/// Who sets the CPUs of opted-in containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CpuMode {
    /// The planner.
    #[default]
    Own,
    /// Somebody else: kubelet's CPU manager, another NRI plugin, a DRA driver. The planner goes by what they choose and says
    /// whether it lies well.
    Follow,
    /// Somebody else, and it does not matter whom.
    Off,
}

/// A list of names; one that ends with `*` stands for all that start so. An empty list is everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns(Vec<String>);

/// What a pod holds of the things that are limited, its container that is being created not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Interfaces.
    pub interfaces: usize,
    /// Exclusive CPUs.
    pub cpus: usize,
    /// Bytes of hugepages by annotation.
    pub hugepages: u64,
}

/// The administrator does not allow it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Pods of this namespace may not opt in.
    #[error(
        "namespace {namespace:?} may not use {NETWORK} on this node; remove the annotation, or have the administrator add the namespace to limits.namespaces in nri.toml"
    )]
    Namespace {
        /// The pod's.
        namespace: String,
    },
    /// Pods of this namespace may not join the network.
    #[error(
        "namespace {namespace:?} may not join network {network:?} on this node; choose another, or have the administrator add the namespace to networks.{network}.namespaces in nri.toml"
    )]
    Network {
        /// The pod's.
        namespace: String,
        /// As asked for.
        network: String,
    },
    /// More than the administrator allows.
    #[error(
        "annotation {key}: {wanted} {what} wanted, but the administrator allows {most}; lower it, or have {limit} in nri.toml raised"
    )]
    TooMuch {
        /// Which annotations ask for it.
        key: &'static str,
        /// Of what, with its scope.
        what: &'static str,
        /// Asked for, with what the pod holds.
        wanted: String,
        /// Allowed.
        most: String,
        /// Key in the configuration.
        limit: &'static str,
    },
    /// Pods may not choose their addresses.
    #[error(
        "annotation {INTERFACES}: interface {interface} asks for {what} {address}, which pods may not choose on this node; leave {what} out, or have the administrator set limits.{what} in nri.toml"
    )]
    Address {
        /// The interface's name.
        interface: String,
        /// `ip` or `mac`.
        what: &'static str,
        /// As asked for.
        address: String,
    },
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            namespaces: Patterns::default(),
            networks: BTreeMap::new(),
            unlisted_networks: true,
            interfaces: MAX_INTERFACES,
            queues: MAX_QUEUES,
            cpus: MAX_CPUS as usize,
            hugepages: None,
            mac: true,
            ip: true,
            cpu_mode: CpuMode::Own,
        }
    }
}

impl Patterns {
    /// The list with these elements.
    #[must_use]
    pub fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    /// Whether `name` is meant.
    #[must_use]
    pub fn allow(&self, name: &str) -> bool {
        let meant = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        };
        self.0.is_empty() || self.0.iter().any(meant)
    }
}

impl Policy {
    /// Whether a pod of `namespace` that holds `held` may have what `request` asks for, `cpus` of its own among it.
    pub(crate) fn check(
        &self,
        namespace: &str,
        request: &Request,
        cpus: usize,
        held: Held,
    ) -> Result<(), PolicyError> {
        if !self.namespaces.allow(namespace) {
            return Err(PolicyError::Namespace { namespace: namespace.to_owned() });
        }
        for interface in &request.interfaces {
            let network = &interface.network;
            let allowed = match self.networks.get(network) {
                Some(namespaces) => namespaces.allow(namespace),
                None => self.unlisted_networks,
            };
            if !allowed {
                let (namespace, network) = (namespace.to_owned(), network.clone());
                return Err(PolicyError::Network { namespace, network });
            }
            let address = |what, address: String| PolicyError::Address {
                interface: interface.name.clone(),
                what,
                address,
            };
            let ip = interface.ip.map(|ip| ip.to_string());
            if let Some(ip) = ip.or_else(|| interface.ipv6.map(|ip| ip.to_string()))
                && !self.ip
            {
                return Err(address("ip", ip));
            }
            if let Some(mac) = interface.mac
                && !self.mac
            {
                return Err(address("mac", mac.to_string()));
            }
            if interface.queues > self.queues {
                return Err(PolicyError::TooMuch {
                    key: INTERFACES,
                    what: "queues of an interface",
                    wanted: interface.queues.to_string(),
                    most: self.queues.to_string(),
                    limit: "limits.queues",
                });
            }
        }
        let interfaces = held.interfaces.saturating_add(request.interfaces.len());
        if interfaces > self.interfaces {
            return Err(PolicyError::TooMuch {
                key: NETWORK,
                what: "interfaces in the pod",
                wanted: interfaces.to_string(),
                most: self.interfaces.to_string(),
                limit: "limits.interfaces",
            });
        }
        let all = held.cpus.saturating_add(cpus);
        if cpus > 0 && all > self.cpus {
            return Err(PolicyError::TooMuch {
                key: CPUS,
                what: "exclusive CPUs in the pod",
                wanted: all.to_string(),
                most: self.cpus.to_string(),
                limit: "limits.cpus",
            });
        }
        let own = annotated_hugepages(request);
        let all = held.hugepages.saturating_add(own);
        if let Some(most) = self.hugepages
            && own > 0
            && all > most
        {
            let small = request.hugepages.iter().all(|limit| limit.size.bytes() < 1 << 30);
            return Err(PolicyError::TooMuch {
                key: if small { HUGEPAGES_2MI } else { HUGEPAGES_1GI },
                what: "of hugepages in the pod",
                wanted: show_bytes(all),
                most: show_bytes(most),
                limit: "limits.hugepages",
            });
        }
        Ok(())
    }
}

/// Bytes of hugepages that annotations ask for.
pub(crate) fn annotated_hugepages(request: &Request) -> u64 {
    request.hugepages.iter().fold(0, |sum, limit| sum.saturating_add(limit.limit))
}

#[cfg(test)]
mod tests;
