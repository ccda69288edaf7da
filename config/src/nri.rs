//! The schema of `nri.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::check::{self, Problem};
use crate::{ConfigError, locate};

/// Configuration of `ringway-nri`. `NriConfig::default()` is what runs without a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NriConfig {
    /// Directory of the pods' sockets and records, on the host; at most 25 bytes, so that a pod's socket path stays
    /// below the 108 bytes of a unix address.
    pub run_dir: PathBuf,
    /// Control socket of the vRouter.
    pub vrouter_socket: PathBuf,
    /// Control sockets of the vRouters, where there are several; `vrouter_socket` does not count then.
    pub vrouter_sockets: Vec<PathBuf>,
    /// containerd's NRI socket, for the plugin that is not started by containerd.
    pub nri_socket: PathBuf,
    /// Name under which the plugin registers itself.
    pub plugin_name: String,
    /// Order among plugins, two digits.
    pub plugin_index: String,
    /// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or `target=level,...`.
    pub log: String,
    /// How long containerd waits for the plugin's answer to one request, ms: its `plugin_request_timeout`.
    pub runtime_timeout_ms: u32,
    /// How long the calls of the vRouter for one request may take together, ms; of several vRouters each has its part.
    pub vrouter_timeout_ms: u32,
    /// Where sysfs is.
    pub sysfs_root: PathBuf,
    /// CPUs and who may have them.
    pub cpus: CpuSettings,
    /// What an interface gets when its annotation does not say.
    pub defaults: InterfaceDefaults,
    /// What pods may ask for.
    pub limits: Limits,
    /// CNI plugins that give addresses.
    pub ipam: IpamSettings,
    /// Who may join a network and where its addresses come from, by network.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<String, NetworkRules>,
}

/// `[cpus]`: CPUs and who may have them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CpuSettings {
    /// Who sets the CPUs of opted-in containers.
    pub mode: CpuMode,
    /// Whether containers that have not opted in are kept off CPUs that a pod was given for itself; with `mode = "own"` only.
    pub move_others: bool,
    /// CPUs that no pod is given, in the kernel's list form `0-1,8`.
    pub reserved: String,
}

/// Who sets the CPUs of opted-in containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CpuMode {
    /// The plugin does, over what kubelet's CPU manager says.
    #[default]
    Own,
    /// kubelet's CPU manager, another NRI plugin or a DRA driver does; the plugin goes by it and says whether it lies well.
    Follow,
    /// As `Follow`, and how it lies does not matter.
    Off,
}

/// `[limits]`: what pods may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Namespaces whose pods may opt in; `team-*` is every one that starts so. Empty is every namespace.
    pub namespaces: Vec<String>,
    /// Whether pods may join networks that have no section `[networks.NAME]`.
    pub unlisted_networks: bool,
    /// Interfaces of one pod at most.
    pub interfaces: u32,
    /// Queue pairs of one interface at most.
    pub queues: u32,
    /// Exclusive CPUs of one pod at most; 0 for none.
    pub cpus: u32,
    /// Hugepages that the annotations of one pod may ask for at most, as `4Gi`; empty is no limit.
    pub hugepages: String,
    /// Whether pods may choose their Ethernet addresses.
    pub mac: bool,
    /// Whether pods may choose their IP addresses.
    pub ip: bool,
}

/// `[networks.NAME]`: who may join a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkRules {
    /// Namespaces whose pods may join, as in `limits.namespaces`. Empty is every namespace.
    pub namespaces: Vec<String>,
    /// CNI plugin that gives addresses, as `host-local`; absent: the node's own allocator does.
    pub ipam: Option<String>,
    /// JSON file with the plugin's settings: the object `ipam` of a CNI configuration, without `type`. Absent: what `host-local`
    /// needs, from the vRouter's network.
    pub ipam_file: Option<PathBuf>,
}

/// `[ipam]`: CNI plugins that give addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IpamSettings {
    /// Where they are; the first that has a program of the name.
    pub directories: Vec<PathBuf>,
    /// How long one may take, ms.
    pub timeout_ms: u32,
}

impl Default for IpamSettings {
    fn default() -> Self {
        Self { directories: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()], timeout_ms: 400 }
    }
}

/// `[defaults]`: what an interface gets when its annotation does not say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InterfaceDefaults {
    /// Descriptors of each virtqueue; a power of two.
    pub queue_size: u16,
    /// Who listens on the sockets.
    pub socket: SocketOwner,
}

/// Who creates a vhost-user socket and listens on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SocketOwner {
    /// The vRouter listens; the pod's directory is read-only. The pod must start again after the vRouter has.
    Vrouter,
    /// The pod listens, the vRouter connects and keeps trying: survives a start of the vRouter.
    Pod,
}

impl Default for NriConfig {
    fn default() -> Self {
        Self {
            run_dir: "/run/ringway".into(),
            vrouter_socket: "/run/ringway/vrouter.sock".into(),
            vrouter_sockets: Vec::new(),
            nri_socket: "/var/run/nri/nri.sock".into(),
            plugin_name: "ringway".into(),
            plugin_index: "10".into(),
            log: "info".into(),
            runtime_timeout_ms: 2000,
            vrouter_timeout_ms: 1000,
            sysfs_root: "/sys".into(),
            cpus: CpuSettings::default(),
            defaults: InterfaceDefaults::default(),
            limits: Limits::default(),
            ipam: IpamSettings::default(),
            networks: BTreeMap::new(),
        }
    }
}

impl Default for InterfaceDefaults {
    fn default() -> Self {
        Self { queue_size: 1024, socket: SocketOwner::Vrouter }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            namespaces: Vec::new(),
            unlisted_networks: true,
            interfaces: MAX_INTERFACES,
            queues: MAX_QUEUES,
            cpus: MAX_CPUS,
            hugepages: String::new(),
            mac: true,
            ip: true,
        }
    }
}

impl Limits {
    /// `hugepages` in bytes; `None` is no limit.
    #[must_use]
    pub fn hugepage_bytes(&self) -> Option<u64> {
        check::bytes(&self.hugepages)
    }
}

/// What annotations can ask for at all.
const MAX_INTERFACES: u32 = 16;
const MAX_QUEUES: u32 = 16;
const MAX_CPUS: u32 = 127;

/// Longest `run_dir`: 107 bytes of a unix address less `/pods/`, a sandbox id of 64, `/0/` and `net0.sock`.
const RUN_DIR_BYTES: usize = 107 - "/pods/".len() - 64 - "/0/".len() - "net0.sock".len();

impl NriConfig {
    /// The control sockets of all vRouters; one at least.
    pub fn vrouters(&self) -> &[PathBuf] {
        if self.vrouter_sockets.is_empty() {
            std::slice::from_ref(&self.vrouter_socket)
        } else {
            &self.vrouter_sockets
        }
    }

    /// Reads `text`, which came from `file`; the name is only for messages.
    ///
    /// # Errors
    /// [`ConfigError`] for text that is not TOML, an unknown key or a value that is not allowed.
    pub fn from_toml(text: &str, file: &Path) -> Result<Self, ConfigError> {
        locate::read(text, file, Self::check)
    }

    fn check(&self) -> Result<(), Problem> {
        check::directory("run_dir", &self.run_dir)?;
        if self.run_dir.as_os_str().len() > RUN_DIR_BYTES {
            return Err(Problem::new(
                "run_dir",
                self.run_dir.display(),
                format!(
                    "is longer than {RUN_DIR_BYTES} bytes, which makes a pod's socket path too long for a unix \
                     address; choose a shorter one"
                ),
            ));
        }
        check::socket("vrouter_socket", &self.vrouter_socket)?;
        for (index, socket) in self.vrouter_sockets.iter().enumerate() {
            let key = format!("vrouter_sockets[{index}]");
            check::socket(&key, socket)?;
            if self.vrouter_sockets.get(..index).is_some_and(|before| before.contains(socket)) {
                return Err(Problem::new(key, socket.display(), "is there twice"));
            }
        }
        check::socket("nri_socket", &self.nri_socket)?;
        check::plugin_name("plugin_name", &self.plugin_name)?;
        check::plugin_index("plugin_index", &self.plugin_index)?;
        check::log("log", &self.log)?;
        check::range("runtime_timeout_ms", self.runtime_timeout_ms, 1000, 60_000)?;
        self.check_vrouter_timeout()?;
        check::directory("sysfs_root", &self.sysfs_root)?;
        check::cpu_list("cpus.reserved", &self.cpus.reserved)?;
        let size = self.defaults.queue_size;
        if !size.is_power_of_two() || !(64..=4096).contains(&size) {
            return Err(Problem::new(
                "defaults.queue_size",
                size,
                "must be a power of two from 64 to 4096",
            ));
        }
        self.check_limits()
    }

    /// How long the plugin may wait for others within one request, ms: three quarters of what containerd waits. After four fifths the
    /// request is answered with an error (`nri_plugin_proto::plugin::answer_budget`); what is in between is for the plugin itself.
    #[must_use]
    pub fn waiting_ms(&self) -> u32 {
        self.runtime_timeout_ms / 4 * 3
    }

    /// containerd drops a plugin that needs longer than it waits, and the pod would start without its adjustment.
    fn check_vrouter_timeout(&self) -> Result<(), Problem> {
        let most = self.waiting_ms();
        if (10..=most).contains(&self.vrouter_timeout_ms) {
            return Ok(());
        }
        let remedy = format!(
            "must be 10 to {most}, as containerd waits {} ms (runtime_timeout_ms)",
            self.runtime_timeout_ms
        );
        Err(Problem::new("vrouter_timeout_ms", self.vrouter_timeout_ms, remedy))
    }

    fn check_limits(&self) -> Result<(), Problem> {
        let limits = &self.limits;
        check::namespaces("limits.namespaces", &limits.namespaces)?;
        check::range("limits.interfaces", limits.interfaces, 1, MAX_INTERFACES)?;
        check::range("limits.queues", limits.queues, 1, MAX_QUEUES)?;
        check::range("limits.cpus", limits.cpus, 0, MAX_CPUS)?;
        if !limits.hugepages.is_empty() && limits.hugepage_bytes().is_none() {
            return Err(Problem::new(
                "limits.hugepages",
                &limits.hugepages,
                "must be a number of bytes, or one with Ki, Mi or Gi, as \"4Gi\"; leave it empty for no limit",
            ));
        }
        for (name, network) in &self.networks {
            check::network_name(&format!("networks.{name}"), name)?;
            check::namespaces(&format!("networks.{name}.namespaces"), &network.namespaces)?;
            if let Some(plugin) = &network.ipam {
                check::plugin_name(&format!("networks.{name}.ipam"), plugin)?;
                // A name of dots would be a directory.
                if plugin.starts_with('.') {
                    let remedy = "must be the name of a CNI plugin, as \"host-local\"";
                    return Err(Problem::new(format!("networks.{name}.ipam"), plugin, remedy));
                }
            }
            if let Some(file) = &network.ipam_file {
                check::directory(&format!("networks.{name}.ipam_file"), file)?;
            }
        }
        for directory in &self.ipam.directories {
            check::directory("ipam.directories", directory)?;
        }
        check::range("ipam.timeout_ms", self.ipam.timeout_ms, 10, 1000)?;
        let leased = self.networks.values().any(|network| network.ipam.is_some());
        let both = self.vrouter_timeout_ms.saturating_add(self.ipam.timeout_ms);
        let (waits, most) = (self.runtime_timeout_ms, self.waiting_ms());
        if leased && both > most {
            let remedy = format!(
                "makes {both} with vrouter_timeout_ms, and containerd waits {waits} ms (runtime_timeout_ms) for both: lower one until they are at most {most}"
            );
            return Err(Problem::new("ipam.timeout_ms", self.ipam.timeout_ms, remedy));
        }
        Ok(())
    }
}
