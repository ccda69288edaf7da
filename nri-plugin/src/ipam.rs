//! Addresses from a CNI address plugin (`host-local`, or any other), by the CNI specification 1.0.
//!
//! Each lease is written down before the plugin is asked for it, under an identity that is used once. So whatever happens,
//! a lease that no pod holds is found by comparing the two, and is given back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nri_plugin_core::net::Network;
use ringway_config::NriConfig;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The version of the specification that we speak; plugins for 1.1 know it, too.
const CNI_VERSION: &str = "1.0.0";
/// Longest answer that is looked at.
const MAX_ANSWER: usize = 64 << 10;

/// A network's address plugin does not do its work.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// No such program.
    #[error(
        "address plugin {plugin} of network {network} is in none of {}; install it (Debian: containernetworking-plugins), or correct ipam.directories in nri.toml",
        list(directories)
    )]
    Missing {
        /// Its name.
        plugin: String,
        /// Whose.
        network: String,
        /// Where it was looked for.
        directories: Vec<PathBuf>,
    },
    /// It cannot be started, or its files cannot be read.
    #[error("address plugin {plugin} of network {network}: {source}")]
    Io {
        /// Its name.
        plugin: String,
        /// Whose.
        network: String,
        /// Why not.
        source: io::Error,
    },
    /// It takes too long.
    #[error("address plugin {plugin} of network {network} did not answer within {} ms; it was ended", timeout.as_millis())]
    Silent {
        /// Its name.
        plugin: String,
        /// Whose.
        network: String,
        /// How long it was given.
        timeout: Duration,
    },
    /// It says no.
    #[error("address plugin {plugin} of network {network}: {text}")]
    Refused {
        /// Its name.
        plugin: String,
        /// Whose.
        network: String,
        /// What it said, on one line.
        text: String,
    },
    /// What it says is no result of the specification.
    #[error("address plugin {plugin} of network {network} gave no IPv4 address")]
    NoAddress {
        /// Its name.
        plugin: String,
        /// Whose.
        network: String,
    },
    /// The settings of the plugin are not JSON.
    #[error("networks.{network}.ipam_file {}: {text}", file.display())]
    Settings {
        /// Whose.
        network: String,
        /// Where they are.
        file: PathBuf,
        /// What is wrong.
        text: String,
    },
}

/// A lease: all that is needed to ask for it and to give it back, whatever the configuration says by then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// Name of the program.
    pub plugin: String,
    /// The vRouter's network.
    pub network: String,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// `CNI_ARGS`.
    pub arguments: String,
    /// What the program reads.
    pub input: Value,
}

/// Whom a lease is for.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod's name.
    pub pod: &'a str,
    /// Its sandbox.
    pub sandbox: &'a str,
    /// The interface.
    pub interface: &'a str,
    /// Addresses that the pod wants.
    pub wanted: &'a [IpAddr],
}

/// Addresses of one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Always there.
    pub ip: Ipv4Addr,
    /// If the plugin gives one.
    pub ipv6: Option<Ipv6Addr>,
}

/// The programs and how to run them.
#[derive(Clone, Debug)]
pub struct Ipam {
    directories: Vec<PathBuf>,
    timeout: Duration,
    /// By network: the program, and the file with its settings.
    networks: BTreeMap<String, (String, Option<PathBuf>)>,
    /// Where `host-local` keeps its books: beside ours, so that both go with a start of the machine.
    data: PathBuf,
}

/// The answer of a plugin, success or not, as far as it matters here.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    ips: Vec<Ip>,
    msg: Option<String>,
    details: Option<String>,
}

#[derive(Deserialize)]
struct Ip {
    address: String,
}

impl Ipam {
    /// As configured.
    pub fn new(config: &NriConfig) -> Self {
        let networks = config.networks.iter().filter_map(|(name, network)| {
            let plugin = network.ipam.clone()?;
            Some((name.clone(), (plugin, network.ipam_file.clone())))
        });
        Self {
            directories: config.ipam.directories.clone(),
            timeout: Duration::from_millis(config.ipam.timeout_ms.into()),
            networks: networks.collect(),
            data: config.run_dir.join("ipam"),
        }
    }

    /// What to ask the network's plugin for; `None` for a network without one.
    pub fn lease(&self, network: &Network, holder: Holder<'_>) -> Result<Option<Lease>, IpamError> {
        let Some((plugin, file)) = self.networks.get(&network.name) else { return Ok(None) };
        let mut settings = match file {
            Some(file) => read_settings(&network.name, file)?,
            None => ranges(network, &self.data),
        };
        if let Some(settings) = settings.as_object_mut() {
            settings.insert("type".to_owned(), json!(plugin));
        }
        let mut input = json!({
            "cniVersion": CNI_VERSION,
            "name": format!("ringway-{}", network.name),
            "type": "ringway",
            "ipam": settings,
        });
        if !holder.wanted.is_empty()
            && let Some(input) = input.as_object_mut()
        {
            let wanted: Vec<_> = holder.wanted.iter().map(ToString::to_string).collect();
            input.insert("args".to_owned(), json!({"cni": {"ips": wanted}}));
        }
        let Holder { namespace, pod, sandbox, interface, .. } = holder;
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod};K8S_POD_INFRA_CONTAINER_ID={sandbox}"
        );
        Ok(Some(Lease {
            plugin: plugin.clone(),
            network: network.name.clone(),
            interface: interface.to_owned(),
            arguments,
            input,
        }))
    }

    /// Takes a lease.
    pub async fn add(&self, id: &str, lease: &Lease) -> Result<Addresses, IpamError> {
        let answer = self.run("ADD", id, lease).await?;
        addresses(&answer.ips).ok_or_else(|| IpamError::NoAddress {
            plugin: lease.plugin.clone(),
            network: lease.network.clone(),
        })
    }

    /// Gives a lease back. One that was never taken is no error.
    pub async fn delete(&self, id: &str, lease: &Lease) -> Result<(), IpamError> {
        self.run("DEL", id, lease).await.map(drop)
    }

    async fn run(&self, command: &str, id: &str, lease: &Lease) -> Result<Answer, IpamError> {
        let (plugin, network) = (|| lease.plugin.clone(), || lease.network.clone());
        let program = self.directories.iter().map(|directory| directory.join(&lease.plugin));
        let Some(program) = program.into_iter().find(|program| program.is_file()) else {
            let directories = self.directories.clone();
            return Err(IpamError::Missing { plugin: plugin(), network: network(), directories });
        };
        let io = |source| IpamError::Io { plugin: plugin(), network: network(), source };
        let path = std::env::join_paths(&self.directories).unwrap_or_default();
        let mut process = Command::new(program)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", id)
            .env("CNI_IFNAME", &lease.interface)
            .env("CNI_ARGS", &lease.arguments)
            .env("CNI_PATH", path)
            // Addresses are given by name; no plugin of this kind goes into the namespace, but the specification wants one,
            // and a pod on the host's network has no other.
            .env("CNI_NETNS", "/proc/self/ns/net")
            .env("CNI_NETNS_OVERRIDE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(io)?;
        let input = lease.input.to_string();
        let talk = async {
            if let Some(mut stdin) = process.stdin.take() {
                stdin.write_all(input.as_bytes()).await?;
            }
            process.wait_with_output().await
        };
        let output = match tokio::time::timeout(self.timeout, talk).await {
            Ok(output) => output.map_err(io)?,
            Err(_) => {
                let timeout = self.timeout;
                return Err(IpamError::Silent { plugin: plugin(), network: network(), timeout });
            }
        };
        let text = output.stdout.get(..output.stdout.len().min(MAX_ANSWER)).unwrap_or_default();
        let answer: Option<Answer> = serde_json::from_slice(text).ok();
        if output.status.success() {
            // The answer to DEL is empty.
            return Ok(answer.unwrap_or(Answer { ips: Vec::new(), msg: None, details: None }));
        }
        let said = answer.map(|answer| {
            [answer.msg, answer.details].into_iter().flatten().collect::<Vec<_>>().join(": ")
        });
        let text = said.filter(|said| !said.trim().is_empty());
        let text = text.unwrap_or_else(|| format!("{command} ended with {}", output.status));
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Err(IpamError::Refused { plugin: plugin(), network: network(), text })
    }
}

/// Settings for `host-local` where none are given: the vRouter's network, both families.
fn ranges(network: &Network, data: &Path) -> Value {
    let mut ranges = vec![json!([{
        "subnet": network.prefix.to_string(),
        "gateway": network.gateway.to_string(),
    }])];
    if let Some(ipv6) = &network.ipv6 {
        ranges.push(json!([{
            "subnet": ipv6.prefix.to_string(),
            "gateway": ipv6.gateway.to_string(),
        }]));
    }
    json!({"ranges": ranges, "dataDir": data})
}

fn read_settings(network: &str, file: &Path) -> Result<Value, IpamError> {
    let wrong = |text: String| IpamError::Settings {
        network: network.to_owned(),
        file: file.to_path_buf(),
        text,
    };
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if value.is_object() { Ok(value) } else { Err(wrong("is no JSON object".to_owned())) }
}

/// The first address of each family.
fn addresses(ips: &[Ip]) -> Option<Addresses> {
    let all = ips.iter().filter_map(|ip| {
        ip.address.split_once('/').map_or(ip.address.as_str(), |(address, _)| address).parse().ok()
    });
    let (mut four, mut six) = (None, None);
    for address in all {
        match address {
            IpAddr::V4(address) => four = four.or(Some(address)),
            IpAddr::V6(address) => six = six.or(Some(address)),
        }
    }
    Some(Addresses { ip: four?, ipv6: six })
}

/// The leases that nobody holds.
pub fn forgotten<'a>(
    written: impl IntoIterator<Item = &'a String>,
    held: &BTreeSet<&str>,
) -> Vec<&'a String> {
    written.into_iter().filter(|id| !held.contains(id.as_str())).collect()
}

fn list(directories: &[PathBuf]) -> String {
    let shown = directories.iter().map(|directory| directory.display().to_string());
    shown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
