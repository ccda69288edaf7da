//! `[[instances]]` of `vrouter.toml`: several vRouters on one machine, one for each NUMA node, from one file.
//!
//! What they share is written once: networks above all. [`VrouterConfig::of_instance`] makes of it what one of them runs
//! with, the links between them included.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::check::{self, Problem};
use crate::tunnel::TunnelSettings;
use crate::{NetworkMode, NetworkSettings, VrouterConfig};

/// `[[instances]]`: one of several vRouters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceSettings {
    /// What `--instance` and the systemd unit call it, 0 to 15.
    pub number: u32,
    /// The NUMA node whose CPUs and memory it uses. Default: `number`.
    #[serde(default)]
    pub numa_node: Option<u32>,
    /// `workers.cpus` of this one: CPUs of its node. Empty: the last of them.
    #[serde(default)]
    pub cpus: Vec<u32>,
    /// `dpdk.memory_mb` of this one. Default: that.
    #[serde(default)]
    pub memory_mb: Option<u32>,
    /// Its address in each network that carries tunnels: `tunnel.local` of the networks over it.
    #[serde(default)]
    pub addresses: BTreeMap<String, IpAddr>,
}

/// A link from one vRouter to another on the same machine: an uplink of a network that carries tunnels, made of shared
/// memory. Nobody writes it; it follows from `[[instances]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSettings {
    /// The uplink's name.
    pub name: String,
    /// The network that it is a port of.
    pub network: String,
    /// Number of the vRouter at its other end.
    pub peer: u32,
    /// The NUMA node of that one.
    pub peer_node: u32,
    /// The tunnel address of that one in the network.
    pub peer_address: IpAddr,
    /// Where the two meet.
    pub socket: PathBuf,
    /// This end listens there.
    pub listens: bool,
    /// Ethernet address of this end.
    pub mac: [u8; 6],
    /// Ethernet address of the other.
    pub peer_mac: [u8; 6],
    /// Greatest IP packet, bytes.
    pub mtu: u32,
}

/// Greatest `number`.
const LAST: u32 = 15;
/// Greatest NUMA node that the distribution's DPDK can use (`RTE_MAX_NUMA_NODES` is 32).
pub(crate) const LAST_NODE: u32 = 31;
/// The network between vRouters that carries those that have no tunnel of their own.
pub const LINK_NETWORK: &str = "numa-link";
/// Addresses in it: 169.254.82.1 is instance 0's. Link-local, as nothing of them leaves the machine.
const LINK_ADDRESSES: [u8; 3] = [169, 254, 82];
/// Names of links: `to-vrouter-1`, and `to-vrouter-1.2` in the third network that has some.
const LINK_NAME: &str = "to-vrouter-";

impl InstanceSettings {
    /// The NUMA node it belongs to.
    pub fn node(&self) -> u32 {
        self.numa_node.unwrap_or(self.number)
    }

    fn address(&self, network: &str) -> Option<IpAddr> {
        if network == LINK_NETWORK {
            let [a, b, c] = LINK_ADDRESSES;
            let number = u8::try_from(self.number + 1).ok()?;
            return Some(Ipv4Addr::new(a, b, c, number).into());
        }
        self.addresses.get(network).copied()
    }
}

/// The number that a network has on [`LINK_NETWORK`]: the same whatever other networks there are, so that vRouters that read
/// the file at different times agree. FNV-1a, folded to 24 bits.
fn vni(network: &str) -> u32 {
    let hash = network
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash >> 24) ^ (hash & 0x00ff_ffff)
}

fn is_alone(network: &NetworkSettings) -> bool {
    !network.external && network.tunnel.is_none()
}

impl VrouterConfig {
    /// What the vRouter with this number runs with; `None`: there is no such.
    pub fn of_instance(&self, number: u32) -> Option<Self> {
        let instance = self.instances.iter().find(|it| it.number == number)?;
        let mut config = self.clone();
        config.instance = Some(number);
        config.control_socket = self.directory_of(number).join("api.sock");
        config.workers.cpus.clone_from(&instance.cpus);
        config.dpdk.memory_mb = instance.memory_mb.unwrap_or(self.dpdk.memory_mb);
        config.dpdk.numa_node = Some(instance.node());
        config.uplinks.retain(|uplink| uplink.instance == Some(number));
        if self.instances.len() > 1 {
            config.join_networks();
            config.links = config.links_of(instance);
            if config.links.iter().any(|link| !link.listens) {
                // The other end maps this one's memory, which has to be few files for that.
                config.dpdk.extra_args.push("--single-file-segments".to_owned());
            }
        }
        for network in &mut config.networks {
            let is_bridged = network.mode == NetworkMode::Bridged;
            let Some(tunnel) = network.tunnel.as_mut() else { continue };
            if let Some(address) = instance.address(&tunnel.underlay) {
                tunnel.local = address;
            }
            // The frames of a bridged network reach the others by themselves.
            let peers = self.instances.iter().filter(|it| is_bridged && it.number != number);
            tunnel.flood.extend(peers.filter_map(|peer| peer.address(&tunnel.underlay)));
        }
        Some(config)
    }

    /// What each of the vRouters runs with that this file is for.
    pub fn each(&self) -> Vec<Self> {
        if self.instances.is_empty() {
            return vec![self.clone()];
        }
        self.instances.iter().filter_map(|instance| self.of_instance(instance.number)).collect()
    }

    /// Where a vRouter of several has what is its own.
    pub fn directory_of(&self, number: u32) -> PathBuf {
        self.run_dir.join(format!("vrouter-{number}"))
    }

    /// Gives a tunnel to each network that has none, over a network that is there for that alone.
    fn join_networks(&mut self) {
        if !self.networks.iter().any(is_alone) {
            return;
        }
        let underlay = NetworkSettings {
            external: true,
            mtu: self.dpdk.buffer_bytes.saturating_sub(200).min(9216),
            ..NetworkSettings::named(LINK_NETWORK)
        };
        for network in self.networks.iter_mut().filter(|network| is_alone(network)) {
            network.tunnel = Some(TunnelSettings {
                underlay: LINK_NETWORK.to_owned(),
                local: Ipv4Addr::UNSPECIFIED.into(),
                vni: Some(vni(&network.name)),
                label: None,
                ipip: false,
                gateways: false,
                router_mac: None,
                flood: Vec::new(),
                kernel_bridge_port: None,
            });
        }
        self.networks.push(underlay);
    }

    /// The links that an instance has to the others, in each network that carries tunnels.
    fn links_of(&self, own: &InstanceSettings) -> Vec<LinkSettings> {
        let carries = |network: &&NetworkSettings| {
            let over = |it: &NetworkSettings| {
                it.tunnel.as_ref().is_some_and(|tunnel| tunnel.underlay == network.name)
            };
            network.external && self.networks.iter().any(over)
        };
        let mut links = Vec::new();
        for (at, network) in self.networks.iter().filter(carries).enumerate() {
            for peer in self.instances.iter().filter(|it| it.number != own.number) {
                let Some(peer_address) = peer.address(&network.name) else { continue };
                let byte = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
                let place = u8::try_from(at).unwrap_or(u8::MAX);
                let mac = |from, to| [0x02, 0x52, 0x4c, place, byte(from), byte(to)];
                let (low, high) = (own.number.min(peer.number), own.number.max(peer.number));
                let more = if at == 0 { String::new() } else { format!(".{at}") };
                links.push(LinkSettings {
                    name: format!("{LINK_NAME}{}{more}", peer.number),
                    network: network.name.clone(),
                    peer: peer.number,
                    peer_node: peer.node(),
                    peer_address,
                    socket: self.run_dir.join(format!("links/{low}-{high}{more}.sock")),
                    listens: own.number == low,
                    mac: mac(own.number, peer.number),
                    peer_mac: mac(peer.number, own.number),
                    mtu: network.mtu,
                });
            }
        }
        links
    }

    pub(crate) fn check_instances(&self) -> Result<(), Problem> {
        let there_are = !self.instances.is_empty();
        for (at, network) in self.networks.iter().enumerate() {
            let Some(tunnel) = &network.tunnel else { continue };
            let key = format!("networks[{at}].tunnel.local");
            match (there_are, tunnel.local.is_unspecified()) {
                (false, true) => {
                    let remedy = "is missing; name this end's address in the underlay";
                    return Err(Problem::new(key, "", remedy));
                }
                (true, false) => {
                    let remedy =
                        "must be left out: each of the `instances` has its own, in `addresses`";
                    return Err(Problem::new(key, tunnel.local, remedy));
                }
                _ => {}
            }
        }
        for (at, uplink) in self.uplinks.iter().enumerate() {
            let key = format!("uplinks[{at}].instance");
            let number = uplink.instance.map(|it| it.to_string()).unwrap_or_default();
            let known = |number| self.instances.iter().any(|it| it.number == number);
            if there_are && !uplink.instance.is_some_and(known) {
                let known = self.instances.iter().map(|it| it.number.to_string());
                let known = known.collect::<Vec<_>>().join(", ");
                let remedy = format!("must say which vRouter has it: one of {known}");
                return Err(Problem::new(key, number, remedy));
            }
            if !there_are && uplink.instance.is_some() {
                let remedy = "must be left out: there are no `instances`";
                return Err(Problem::new(key, number, remedy));
            }
            if there_are && uplink.name.starts_with(LINK_NAME) {
                let remedy = "must not begin so: links between vRouters are called so";
                return Err(Problem::new(format!("uplinks[{at}].name"), &uplink.name, remedy));
            }
        }
        if there_are {
            self.check_shared()?;
        }
        let checked = self.instances.iter().enumerate();
        checked.into_iter().try_for_each(|(at, instance)| self.check_instance(at, instance))
    }

    /// What would be said for all of them, and is each one's own.
    fn check_shared(&self) -> Result<(), Problem> {
        if let Some(cpu) = self.workers.cpus.first() {
            let remedy = "must be left out: each of the `instances` has its own `cpus`";
            return Err(Problem::new("workers.cpus[0]", cpu, remedy));
        }
        if let Some(node) = self.dpdk.numa_node {
            let remedy = "must be left out: each of the `instances` has its own `numa_node`";
            return Err(Problem::new("dpdk.numa_node", node, remedy));
        }
        let default = Self::default().control_socket;
        if self.control_socket != default {
            let remedy = "must be left out: each of the `instances` has its own, \
                          run_dir/vrouter-NUMBER/api.sock";
            return Err(Problem::new("control_socket", self.control_socket.display(), remedy));
        }
        for (at, network) in self.networks.iter().enumerate() {
            let key = |field: &str| format!("networks[{at}].{field}");
            if network.name == LINK_NETWORK {
                let remedy = "must be another: the network between the `instances` is called so";
                return Err(Problem::new(key("name"), &network.name, remedy));
            }
            let before = self.networks.get(..at).unwrap_or(&[]);
            let same = |other: &&NetworkSettings| {
                is_alone(other) && vni(&other.name) == vni(&network.name)
            };
            if let (true, Some(other)) = (is_alone(network), before.iter().find(same)) {
                let remedy = format!(
                    "has the same number between the `instances` as {:?}; rename one",
                    other.name
                );
                return Err(Problem::new(key("name"), &network.name, remedy));
            }
            if network.tunnel.as_ref().is_some_and(|tunnel| tunnel.vni.is_none()) {
                let remedy = "is missing; between the `instances` packets go by VXLAN";
                return Err(Problem::new(key("tunnel.vni"), "", remedy));
            }
            let underlay = network.tunnel.as_ref().map(|tunnel| tunnel.underlay.as_str());
            let external = |name| self.networks.iter().any(|it| it.external && it.name == name);
            if let Some(name) = underlay.filter(|name| !external(*name)) {
                let remedy = "must be one with `external = true`, as there are `instances`";
                return Err(Problem::new(key("tunnel.underlay"), name, remedy));
            }
        }
        Ok(())
    }

    fn check_instance(&self, at: usize, instance: &InstanceSettings) -> Result<(), Problem> {
        let key = |field: &str| format!("instances[{at}].{field}");
        let before = self.instances.get(..at).unwrap_or(&[]);
        check::range(&key("number"), instance.number, 0, LAST)?;
        if before.iter().any(|other| other.number == instance.number) {
            let remedy = "another of the `instances` has it";
            return Err(Problem::new(key("number"), instance.number, remedy));
        }
        check::range(&key("numa_node"), instance.node(), 0, LAST_NODE)?;
        for (index, cpu) in instance.cpus.iter().enumerate() {
            let key = key(&format!("cpus[{index}]"));
            check::range(&key, *cpu, 0, check::LAST_CPU)?;
            let here = instance.cpus.get(..index).is_some_and(|cpus| cpus.contains(cpu));
            if here || before.iter().any(|other| other.cpus.contains(cpu)) {
                return Err(Problem::new(key, cpu, "is there twice; each CPU has one worker"));
            }
        }
        if let Some(mib) = instance.memory_mb {
            check::range(&key("memory_mb"), mib, 16, 1 << 20)?;
        }
        let underlays = self.networks.iter().filter_map(|it| Some(&it.tunnel.as_ref()?.underlay));
        for name in underlays.clone() {
            if !instance.addresses.contains_key(name) {
                let remedy =
                    format!("needs `{name} = \"ADDRESS\"`: this vRouter's end of tunnels over it");
                return Err(Problem::new(key("addresses"), "", remedy));
            }
        }
        for (name, address) in &instance.addresses {
            let key = key(&format!("addresses.{name}"));
            if !underlays.clone().any(|underlay| underlay == name) {
                let remedy = "must be left out: no tunnel goes over a network of that name";
                return Err(Problem::new(key, address, remedy));
            }
            if before.iter().any(|other| other.addresses.get(name) == Some(address)) {
                return Err(Problem::new(key, address, "another of the `instances` has it"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
