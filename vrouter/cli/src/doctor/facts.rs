//! What is there to be judged. Reads and runs, decides nothing; what cannot be read is absent.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use vrouter_api::v1::{Network, Port, Uplink};

use crate::args::DoctorArgs;
use crate::directory::names;
use crate::view;

/// All that the judge looks at.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub cpu_flags: BTreeSet<String>,
    pub nodes: Vec<Node>,
    pub nics: Vec<Nic>,
    /// The machine has an IOMMU that is on.
    pub iommu: bool,
    /// The driver vfio-pci is loaded.
    pub vfio: bool,
    pub cgroup: Cgroup,
    pub containerd: Containerd,
    /// Names of what lies where containerd looks for NRI plugins.
    pub nri_plugins: Vec<String>,
    /// The unit ringway-nri is enabled.
    pub nri_unit: bool,
    /// Policy of kubelet's CPU manager.
    pub kubelet_cpus: Option<String>,
    /// Process of the plugin that has the run directory.
    pub nri: Option<u32>,
    /// The plugin says that no runtime has taken it in.
    pub unregistered: bool,
    /// Containers that run without their interfaces.
    pub unserved: Vec<Unserved>,
    /// Names of the pods' directories below `run_dir`.
    pub pods: Vec<String>,
    /// What each vRouter says, or why it can't be asked; in the order in which they were asked.
    pub vrouters: Vec<Result<Served, String>>,
    /// Of the cgroups that ports name, those that are gone.
    pub dead_cgroups: BTreeSet<String>,
    /// Of them, those that are there without a process in them or below: a pod's own outlives its containers.
    pub idle_cgroups: BTreeSet<String>,
}

/// A container that runs without its interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unserved {
    /// containerd's id.
    pub id: String,
    /// `namespace/pod/container`.
    pub name: String,
    pub reason: String,
}

/// A NUMA node.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub id: u32,
    pub cpus: String,
    pub hugepages: Vec<Hugepages>,
}

/// Huge pages of one size on one node.
#[derive(Debug)]
pub(super) struct Hugepages {
    pub kib: u64,
    pub total: u64,
    pub free: u64,
}

/// A PCI device of the network class.
#[derive(Debug, Default)]
pub(super) struct Nic {
    pub address: String,
    /// The kernel's name, if the kernel has it.
    pub interface: Option<String>,
    pub driver: Option<String>,
    /// -1: the machine does not say.
    pub node: i32,
    pub iommu_group: bool,
}

#[derive(Debug, Default)]
pub(super) struct Cgroup {
    /// The unified hierarchy is the only one.
    pub unified: bool,
    pub controllers: BTreeSet<String>,
}

#[derive(Debug, Default)]
pub(super) struct Containerd {
    /// What `containerd --version` says.
    pub version: Option<String>,
    /// What `containerd config dump` says.
    pub config: Option<String>,
    /// Its socket.
    pub socket: PathBuf,
    /// That is there.
    pub runs: bool,
    /// Why it could not be asked which containers run.
    pub unasked: Option<String>,
    /// Its NRI socket is there.
    pub nri_socket: bool,
}

/// What the vRouter says.
#[derive(Debug)]
pub(super) struct Served {
    pub info: view::Info,
    pub networks: Vec<Network>,
    pub uplinks: Vec<Uplink>,
    pub ports: Vec<Port>,
}

impl Facts {
    /// `root` is `/`, but for tests; programs are run only there.
    pub fn gather(
        doctor: &DoctorArgs,
        run_dir: &Path,
        served: Vec<Result<Served, String>>,
    ) -> Self {
        let root = &doctor.root;
        let at = |path: &str| root.join(path.trim_start_matches('/'));
        let cgroup = cgroup(root);
        let run_dir = at(&run_dir.display().to_string());
        let status = status(&run_dir.join("nri-status.json"));
        let ports = served.iter().flatten().flat_map(|served| &served.ports);
        let named = ports.filter_map(|port| port.spec.as_ref()).flat_map(|spec| &spec.peer_cgroups);
        let (there, dead_cgroups): (BTreeSet<_>, _) =
            named.cloned().partition(|path| !cgroups(root, path).is_empty());
        let idle = |path: &String| !cgroups(root, path).iter().any(|it| has_process(it, DEPTH));
        let idle_cgroups = there.into_iter().filter(idle).collect();
        Self {
            cpu_flags: cpu_flags(&text(&at("/proc/cpuinfo")).unwrap_or_default()),
            nodes: nodes(&at("/sys/devices/system/node")),
            nics: nics(&at("/sys/bus/pci/devices")),
            iommu: !names(&at("/sys/class/iommu")).is_empty(),
            vfio: at("/sys/bus/pci/drivers/vfio-pci").exists(),
            cgroup,
            containerd: containerd(root, doctor.containerd_config.as_deref()),
            nri_plugins: names(&at("/opt/nri/plugins")),
            nri_unit: fs::symlink_metadata(at(
                "/etc/systemd/system/multi-user.target.wants/ringway-nri.service",
            ))
            .is_ok(),
            kubelet_cpus: kubelet_cpus(&at("/var/lib/kubelet/cpu_manager_state")),
            nri: holder(root, &run_dir.join("nri.lock")),
            unregistered: status.get("runtime").is_some_and(serde_json::Value::is_null),
            unserved: unserved(&status),
            pods: names(&run_dir.join("pods")),
            vrouters: served,
            dead_cgroups,
            idle_cgroups,
        }
    }
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// What the plugin says in its status file; null if there is none.
fn status(path: &Path) -> serde_json::Value {
    text(path).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// Containers without their interfaces, as the status names them (`unserved` in docs/operations.md).
fn unserved(status: &serde_json::Value) -> Vec<Unserved> {
    let word = |entry: &serde_json::Value, key: &str| {
        entry.get(key).and_then(serde_json::Value::as_str).unwrap_or("?").to_owned()
    };
    let list = status.get("unserved").and_then(serde_json::Value::as_array);
    let shown = |entry: &serde_json::Value| {
        let [id, namespace, pod, container, reason] =
            ["id", "namespace", "pod", "container", "reason"].map(|key| word(entry, key));
        Unserved { id, name: format!("{namespace}/{pod}/{container}"), reason }
    };
    list.into_iter().flatten().map(shown).collect()
}

fn cpu_flags(cpuinfo: &str) -> BTreeSet<String> {
    let line =
        cpuinfo.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"));
    let flags = line.and_then(|line| line.split_once(':')).map_or("", |(_, flags)| flags);
    flags.split_whitespace().map(str::to_owned).collect()
}

fn nodes(path: &Path) -> Vec<Node> {
    let node = |name: String| {
        let id = name.strip_prefix("node")?.parse().ok()?;
        let path = path.join(&name);
        let pages = path.join("hugepages");
        let hugepages = names(&pages).into_iter().filter_map(|size| {
            let number = |file| text(&pages.join(&size).join(file))?.parse().ok();
            let kib = size.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            Some(Hugepages { kib, total: number("nr_hugepages")?, free: number("free_hugepages")? })
        });
        let mut hugepages: Vec<_> = hugepages.collect();
        hugepages.sort_by_key(|pages| pages.kib);
        Some(Node { id, cpus: text(&path.join("cpulist")).unwrap_or_default(), hugepages })
    };
    let mut nodes: Vec<_> = names(path).into_iter().filter_map(node).collect();
    nodes.sort_by_key(|node| node.id);
    nodes
}

fn nics(path: &Path) -> Vec<Nic> {
    let nic = |address: String| {
        let device = path.join(&address);
        // Class 02: network controllers.
        text(&device.join("class"))?.starts_with("0x02").then_some(())?;
        let link = fs::read_link(device.join("driver")).ok();
        let driver = link.and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned()));
        // A virtio device's interface is that of the virtio device below.
        let below = names(&device).into_iter().filter(|name| name.starts_with("virtio"));
        let places = std::iter::once(device.clone()).chain(below.map(|name| device.join(name)));
        let interface = places.flat_map(|place| names(&place.join("net"))).next();
        let node = text(&device.join("numa_node")).and_then(|node| node.parse().ok());
        Some(Nic {
            iommu_group: device.join("iommu_group").exists(),
            node: node.unwrap_or(-1),
            address,
            interface,
            driver,
        })
    };
    names(path).into_iter().filter_map(nic).collect()
}

fn cgroup(root: &Path) -> Cgroup {
    let at = |path: &str| root.join(path);
    if let Some(list) = text(&at("sys/fs/cgroup/cgroup.controllers")) {
        let controllers = list.split_whitespace().map(str::to_owned).collect();
        return Cgroup { unified: true, controllers };
    }
    let controllers = names(&at("sys/fs/cgroup")).into_iter();
    Cgroup { unified: false, controllers: controllers.flat_map(joined).collect() }
}

/// Version 1 mounts some controllers together: `cpu,cpuacct`.
fn joined(name: String) -> Vec<String> {
    name.split(',').map(str::to_owned).collect()
}

/// A cgroup in every hierarchy that has it.
fn cgroups(root: &Path, path: &str) -> Vec<PathBuf> {
    let base = root.join("sys/fs/cgroup");
    let path = path.trim_start_matches('/');
    let hierarchies = names(&base).into_iter().map(|name| base.join(name));
    let found = std::iter::once(base.clone()).chain(hierarchies).map(|it| it.join(path));
    found.filter(|it| it.is_dir()).collect()
}

/// Cgroups that a container makes inside its own, at most so deep; who makes more counts as running.
const DEPTH: u32 = 32;

/// Whether a process is in it or below. Also true when that cannot be read.
fn has_process(directory: &Path, depth: u32) -> bool {
    let Some(own) = text(&directory.join("cgroup.procs")) else { return true };
    let children = || names(directory).into_iter().map(|name| directory.join(name));
    depth == 0
        || !own.is_empty()
        || children().filter(|it| it.is_dir()).any(|it| has_process(&it, depth - 1))
}

fn containerd(root: &Path, file: Option<&Path>) -> Containerd {
    let run = |arguments: &[&OsStr]| -> Option<String> {
        // Of another root nothing is run.
        (root == Path::new("/")).then_some(())?;
        let output = Command::new("containerd").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let mut dump: Vec<&OsStr> = Vec::new();
    if let Some(file) = file {
        dump.extend(["--config".as_ref(), file.as_os_str()]);
    }
    dump.extend::<[&OsStr; 2]>(["config".as_ref(), "dump".as_ref()]);
    let config = run(&dump);
    let socket = |section: &str, key: &str, usual: &str| {
        let said = config.as_deref().and_then(|config| containerd_key(config, section, key));
        let said = said.map(|text| text.trim_matches(['\'', '"'])).filter(|text| !text.is_empty());
        root.join(said.unwrap_or(usual).trim_start_matches('/'))
    };
    let own = socket("[grpc]", "address", "/run/containerd/containerd.sock");
    Containerd {
        version: run(&["--version".as_ref()]).map(|text| text.trim().to_owned()),
        runs: own.exists(),
        socket: own,
        unasked: None,
        nri_socket: socket(NRI, "socket_path", "/var/run/nri/nri.sock").exists(),
        config,
    }
}

/// The name of containerd's section about NRI.
pub(super) const NRI: &str = "io.containerd.nri.v1.nri";

/// A key of one of containerd's sections, as `containerd config dump` writes it: the sections in order, one key a line.
pub(super) fn containerd_key<'a>(config: &'a str, section: &str, key: &str) -> Option<&'a str> {
    let lines = config
        .lines()
        .map(str::trim)
        .skip_while(|line| !(line.starts_with('[') && line.contains(section)));
    let mut pairs = lines
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once('='));
    pairs.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim())
}

fn kubelet_cpus(path: &Path) -> Option<String> {
    let state: serde_json::Value = serde_json::from_str(&text(path)?).ok()?;
    Some(state.get("policyName")?.as_str()?.to_owned())
}

/// The plugin's process as its lock file names it, if it still runs.
fn holder(root: &Path, lock: &Path) -> Option<u32> {
    let pid: u32 = text(lock)?.parse().ok()?;
    (text(&root.join(format!("proc/{pid}/comm")))? == "ringway-nri").then_some(pid)
}
