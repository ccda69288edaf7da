//! What NICs there are. Reads /sys and /proc below a root, decides nothing; what cannot be read is absent.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Class 02 of PCI: network controllers. 06: bridges, which may share a NIC's IOMMU group.
const NETWORK_CLASS: &str = "0x02";
const BRIDGE_CLASS: &str = "0x06";
/// Interfaces on top of each other that are followed at most.
const DEPTH: usize = 8;

/// A network controller on the PCI bus.
#[derive(Debug, Serialize)]
pub(crate) struct Nic {
    pub address: String,
    /// The kernel's name of it, if the kernel has it. Of a card with several ports in one function, the first.
    pub interface: Option<String>,
    pub driver: Option<String>,
    /// `driver_override` in /sys: who alone may have it.
    #[serde(skip)]
    pub driver_override: Option<String>,
    /// `None`: the machine does not say.
    pub numa_node: Option<u32>,
    pub iommu_group: Option<u32>,
    /// The default route leads through it, by itself or by what is on top of it.
    pub default_route: bool,
    /// Reasons for which it should stay the kernel's, and processes that have it open; in words.
    pub used_by: Vec<String>,
    /// Other devices of its IOMMU group that are no bridges, with their drivers.
    #[serde(skip)]
    pub companions: Vec<(String, Option<String>)>,
    /// Processes that have its IOMMU group open, with their names.
    #[serde(skip)]
    pub holders: Vec<(u32, String)>,
}

/// What there is to decide on.
#[derive(Debug)]
pub(crate) struct Machine {
    /// `/`, but for tests.
    pub root: PathBuf,
    /// By address.
    pub nics: Vec<Nic>,
    /// PCI drivers that are loaded.
    pub drivers: BTreeSet<String>,
    /// VFIO without an IOMMU was switched on by whoever owns the machine.
    pub no_iommu_mode: bool,
}

/// Routes of the main table and addresses, by interface.
struct Routes {
    /// Interfaces with a default route.
    default: BTreeSet<String>,
    /// Interfaces with a route that the kernel did not make by itself for a link-local address.
    any: BTreeSet<String>,
}

impl Machine {
    pub(crate) fn gather(root: &Path) -> Self {
        let devices = root.join("sys/bus/pci/devices");
        let routes = Routes::read(root);
        let nic = |address: String| Nic::read(root, &devices.join(&address), address, &routes);
        Self {
            root: root.to_owned(),
            nics: names(&devices).into_iter().filter_map(nic).collect(),
            drivers: names(&root.join("sys/bus/pci/drivers")).into_iter().collect(),
            no_iommu_mode: text(
                &root.join("sys/module/vfio/parameters/enable_unsafe_noiommu_mode"),
            )
            .as_deref()
                == Some("Y"),
        }
    }

    /// By PCI address, with or without its domain, or by the kernel's name of its interface.
    pub(crate) fn find(&self, device: &str) -> Option<&Nic> {
        let full = format!("0000:{device}");
        let is = |nic: &&Nic| {
            nic.interface.as_deref() == Some(device)
                || nic.address.eq_ignore_ascii_case(device)
                || nic.address.eq_ignore_ascii_case(&full)
        };
        self.nics.iter().find(is)
    }
}

impl Nic {
    fn read(root: &Path, device: &Path, address: String, routes: &Routes) -> Option<Self> {
        text(&device.join("class"))?.starts_with(NETWORK_CLASS).then_some(())?;
        // A virtio device's interface is that of the virtio device below.
        let below = names(device).into_iter().filter(|name| name.starts_with("virtio"));
        let places = std::iter::once(device.to_owned()).chain(below.map(|name| device.join(name)));
        let interfaces: Vec<_> = places.flat_map(|place| names(&place.join("net"))).collect();
        let group = link(&device.join("iommu_group")).and_then(|group| group.parse().ok());
        let on_top = with_upper(root, &interfaces);
        let default_route = on_top.iter().any(|name| routes.default.contains(name));
        let holders = group.map(|group| holders(root, group)).unwrap_or_default();
        let mut used_by = Vec::new();
        for name in &on_top {
            let what = match (routes.default.contains(name), routes.any.contains(name)) {
                (true, _) => "the default route",
                (false, true) => "routes or addresses",
                (false, false) => continue,
            };
            used_by.push(format!("{what} on {name}"));
        }
        for interface in &interfaces {
            if let Some(master) = link(&root.join("sys/class/net").join(interface).join("master")) {
                used_by.push(format!("{master}, of which {interface} is a port"));
            }
        }
        used_by.extend(holders.iter().map(|(pid, name)| format!("process {pid} ({name})")));
        let own_override = text(&device.join("driver_override"));
        Some(Self {
            interface: interfaces.into_iter().next(),
            driver: link(&device.join("driver")),
            driver_override: own_override.filter(|name| !name.is_empty() && name != "(null)"),
            numa_node: text(&device.join("numa_node")).and_then(|node| node.parse().ok()),
            iommu_group: group,
            default_route,
            used_by,
            companions: companions(device, &address),
            holders,
            address,
        })
    }
}

fn companions(device: &Path, address: &str) -> Vec<(String, Option<String>)> {
    let group = device.join("iommu_group/devices");
    let others = names(&group).into_iter().filter(|other| other != address);
    let others = others.filter(|other| {
        let class = text(&group.join(other).join("class")).unwrap_or_default();
        !class.starts_with(BRIDGE_CLASS)
    });
    others
        .map(|other| (link(&group.join(&other).join("driver")), other))
        .map(|(d, o)| (o, d))
        .collect()
}

/// Who has the group's device file open. Of other users' processes only root is told.
fn holders(root: &Path, group: u32) -> Vec<(u32, String)> {
    let file = PathBuf::from(format!("/dev/vfio/{group}"));
    let processes = names(&root.join("proc")).into_iter().filter_map(|name| name.parse().ok());
    let holds = |pid: &u32| {
        let open = root.join(format!("proc/{pid}/fd"));
        let mut links = names(&open).into_iter().filter_map(|fd| fs::read_link(open.join(fd)).ok());
        links.any(|target| target == file)
    };
    let named = |pid: u32| {
        let name = text(&root.join(format!("proc/{pid}/comm"))).unwrap_or_default();
        (pid, name)
    };
    let mut holders: Vec<_> = processes.filter(holds).map(named).collect();
    holders.sort_unstable();
    holders
}

/// The interfaces, and those on top of them: VLANs, bonds, bridges.
fn with_upper(root: &Path, interfaces: &[String]) -> Vec<String> {
    let mut all = interfaces.to_vec();
    let mut begin = 0;
    for _ in 0..DEPTH {
        let last = all.get(begin..).unwrap_or(&[]).to_vec();
        begin = all.len();
        for name in last {
            let entries = names(&root.join("sys/class/net").join(name));
            let upper = entries.iter().filter_map(|entry| entry.strip_prefix("upper_"));
            for name in upper.map(str::to_owned) {
                if !all.contains(&name) {
                    all.push(name);
                }
            }
        }
    }
    all
}

impl Routes {
    fn read(root: &Path) -> Self {
        let mut routes = Self { default: BTreeSet::new(), any: BTreeSet::new() };
        // Interface, destination and mask in hexadecimal; a heading first.
        for line in text(&root.join("proc/net/route")).unwrap_or_default().lines().skip(1) {
            let words: Vec<_> = line.split_whitespace().collect();
            let (Some(&name), Some(&to), Some(&mask)) = (words.first(), words.get(1), words.get(7))
            else {
                continue;
            };
            routes.add(name, to == "00000000" && mask == "00000000");
        }
        // Destination, its length, source, its length, gateway, metric, references, uses, flags, interface.
        for line in text(&root.join("proc/net/ipv6_route")).unwrap_or_default().lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let (Some(&to), Some(&length), Some(&name)) =
                (words.first(), words.get(1), words.get(9))
            else {
                continue;
            };
            // Every interface has those: fe80::/10 and ff00::/8.
            let own = ["fe8", "fe9", "fea", "feb", "ff"].iter().any(|head| to.starts_with(head));
            if name != "lo" && !own {
                routes.add(name, length == "00" && to.bytes().all(|digit| digit == b'0'));
            }
        }
        routes
    }

    fn add(&mut self, name: &str, default: bool) {
        self.any.insert(name.to_owned());
        if default {
            self.default.insert(name.to_owned());
        }
    }
}

pub(super) fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The last part of what a symbolic link leads to.
pub(super) fn link(path: &Path) -> Option<String> {
    Some(fs::read_link(path).ok()?.file_name()?.to_string_lossy().into_owned())
}

/// What is in a directory, sorted; nothing if there is none.
fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
