//! Network interfaces, network cards and interrupts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Files, NodeError};
use crate::cpuset::CpuSet;

/// A network interface, or a card that no kernel driver has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Interface name. `None`: user space has the card (vfio-pci) or nobody.
    pub name: Option<String>,
    /// Whether there is hardware behind it, virtual machines' included.
    pub physical: bool,
    /// `0000:81:00.0`.
    pub pci: Option<String>,
    /// PCI vendor and device, `8086:1592`.
    pub model: Option<String>,
    /// Kernel driver.
    pub driver: Option<String>,
    /// NUMA node, where the machine says.
    pub numa: Option<u32>,
    /// Mbit/s, where there is a link that has a speed.
    pub speed: Option<u32>,
    /// Bytes of an IP packet.
    pub mtu: Option<u32>,
    /// `up`, `down`, `unknown`, ...
    pub state: Option<String>,
    /// Packets that it has dropped so far as no descriptor was free, by either name that drivers count them by; `None`: it does not say.
    pub rx_starved: Option<u64>,
    /// Virtual functions that exist.
    pub virtual_functions: Option<u32>,
    /// Most that there can be; `None`: no SR-IOV.
    pub virtual_functions_max: Option<u32>,
    /// CPUs that handle what a receive queue gets (RPS), by queue.
    pub rps: BTreeMap<u32, CpuSet>,
    /// CPUs that use a send queue (XPS), by queue.
    pub xps: BTreeMap<u32, CpuSet>,
    /// Its interrupts.
    pub irqs: Vec<u32>,
    /// What ethtool's netlink interface says.
    #[serde(flatten)]
    pub ethtool: EthtoolInfo,
}

/// What ethtool's netlink interface says of one interface. A value that a driver does not have is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EthtoolInfo {
    /// Mbit/s.
    pub link_speed: Option<u32>,
    /// Version of the card's firmware.
    pub firmware: Option<String>,
    /// Ring sizes.
    pub rings: Option<Rings>,
    /// Numbers of queues.
    pub queues: Option<Queues>,
    /// Offloads by the kernel's names.
    pub offloads: BTreeMap<String, Offload>,
}

/// Ring sizes in descriptors; 0: the driver has no such ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rings {
    /// Of a receive ring.
    pub rx: u32,
    /// Greatest.
    pub rx_max: u32,
    /// Of a send ring.
    pub tx: u32,
    /// Greatest.
    pub tx_max: u32,
}

/// Numbers of queues; 0: the driver does not count them so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queues {
    /// Pairs of a receive and a send queue.
    pub combined: u32,
    /// Most.
    pub combined_max: u32,
    /// Receive queues alone.
    pub rx: u32,
    /// Most.
    pub rx_max: u32,
    /// Send queues alone.
    pub tx: u32,
    /// Most.
    pub tx_max: u32,
}

/// One offload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offload {
    /// Whether it works now.
    pub on: bool,
    /// Whether it can't be changed.
    pub fixed: bool,
}

/// One interrupt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Irq {
    /// Its number.
    pub number: u32,
    /// What `/proc/interrupts` says behind the counters: chip, hardware number, names.
    pub name: String,
    /// The CPUs it may go to.
    pub affinity: CpuSet,
    /// The CPUs it does go to.
    pub effective: Option<CpuSet>,
}

/// `ARPHRD_LOOPBACK` of `linux/if_arp.h`.
const LOOPBACK: u32 = 772;

pub(super) fn parse(
    files: Files<'_>,
    ethtool: &BTreeMap<String, EthtoolInfo>,
    irqs: &[Irq],
) -> Result<Vec<Nic>, NodeError> {
    let mut nics = Vec::new();
    for name in files.0.names("sys/class/net") {
        let folder = format!("sys/class/net/{name}");
        // Some files there are no interfaces (bonding_masters).
        let Some(target) = files.0.link(&folder) else { continue };
        if files.number(&format!("{folder}/type"))? == Some(LOOPBACK) {
            continue;
        }
        let pci = target.split('/').rev().find(|part| is_pci_address(part)).map(str::to_owned);
        let bus = pci.as_ref().map(|pci| format!("sys/bus/pci/devices/{pci}"));
        let own = files.known(&format!("{folder}/device/numa_node"))?;
        let numa = match &bus {
            Some(bus) => own.or(files.known(&format!("{bus}/numa_node"))?),
            None => own,
        };
        let driver = files.0.link(&format!("{folder}/device/driver")).and_then(last_part);
        let info = ethtool.get(name).cloned().unwrap_or_default();
        nics.push(Nic {
            name: Some(name.to_owned()),
            physical: !target.contains("devices/virtual/"),
            model: bus.as_ref().and_then(|bus| model(files, bus)),
            driver,
            numa,
            // -1 or an error where there is no link.
            speed: files.known(&format!("{folder}/speed"))?.or(info.link_speed),
            mtu: files.number(&format!("{folder}/mtu"))?,
            state: files.owned(&format!("{folder}/operstate")),
            rx_starved: starved(files, &folder)?,
            virtual_functions: files.number(&format!("{folder}/device/sriov_numvfs"))?,
            virtual_functions_max: files.number(&format!("{folder}/device/sriov_totalvfs"))?,
            rps: masks(files, &format!("{folder}/queues"), "rx-", "rps_cpus")?,
            xps: masks(files, &format!("{folder}/queues"), "tx-", "xps_cpus")?,
            irqs: irqs_of(files, name, bus.as_deref(), irqs),
            ethtool: info,
            pci,
        });
    }
    nics.extend(cards_of_nobody(files, &nics)?);
    Ok(nics)
}

/// Ethernet cards without an interface: DPDK has them, or could.
fn cards_of_nobody(files: Files<'_>, nics: &[Nic]) -> Result<Vec<Nic>, NodeError> {
    let mut found = Vec::new();
    for pci in files.0.names("sys/bus/pci/devices") {
        let bus = format!("sys/bus/pci/devices/{pci}");
        // Class 02: network, subclass 00: Ethernet.
        let ethernet =
            files.text(&format!("{bus}/class")).is_some_and(|class| class.starts_with("0x0200"));
        if !ethernet || nics.iter().any(|nic| nic.pci.as_deref() == Some(pci)) {
            continue;
        }
        found.push(Nic {
            name: None,
            physical: true,
            pci: Some(pci.to_owned()),
            model: model(files, &bus),
            driver: files.0.link(&format!("{bus}/driver")).and_then(last_part),
            numa: files.known(&format!("{bus}/numa_node"))?,
            speed: None,
            mtu: None,
            state: None,
            rx_starved: None,
            virtual_functions: None,
            virtual_functions_max: None,
            rps: BTreeMap::new(),
            xps: BTreeMap::new(),
            irqs: files.0.numbered(&format!("{bus}/msi_irqs"), ""),
            ethtool: EthtoolInfo::default(),
        });
    }
    Ok(found)
}

/// `rx_missed_errors` is what the kernel's documentation (`struct rtnl_link_stats64`) wants them counted as, `rx_fifo_errors` what older
/// drivers do.
fn starved(files: Files<'_>, folder: &str) -> Result<Option<u64>, NodeError> {
    let count = |name: &str| files.number::<u64>(&format!("{folder}/statistics/{name}"));
    let (missed, fifo) = (count("rx_missed_errors")?, count("rx_fifo_errors")?);
    Ok(missed.map(|missed| missed.max(fifo.unwrap_or(0))).or(fifo))
}

fn masks(
    files: Files<'_>,
    folder: &str,
    prefix: &str,
    file: &str,
) -> Result<BTreeMap<u32, CpuSet>, NodeError> {
    let mut masks = BTreeMap::new();
    for queue in files.0.numbered(folder, prefix) {
        // A device with one send queue refuses to say its XPS mask (ENOENT): the file has no text then.
        if let Some(cpus) = files.mask(&format!("{folder}/{prefix}{queue}/{file}"))? {
            masks.insert(queue, cpus);
        }
    }
    Ok(masks)
}

/// Those of its PCI function, or those named after it.
fn irqs_of(files: Files<'_>, name: &str, bus: Option<&str>, irqs: &[Irq]) -> Vec<u32> {
    let known = |number: &u32| irqs.iter().any(|irq| irq.number == *number);
    let of_bus = bus.map(|bus| files.0.numbered(&format!("{bus}/msi_irqs"), ""));
    let of_bus: Vec<u32> = of_bus.unwrap_or_default().into_iter().filter(known).collect();
    if !of_bus.is_empty() {
        return of_bus;
    }
    let named = |irq: &&Irq| {
        irq.name.split([' ', ',', '-', '@', ':']).any(|word| !word.is_empty() && word == name)
    };
    irqs.iter().filter(named).map(|irq| irq.number).collect()
}

fn model(files: Files<'_>, bus: &str) -> Option<String> {
    let id = |file: &str| files.text(&format!("{bus}/{file}"))?.strip_prefix("0x");
    Some(format!("{}:{}", id("vendor")?, id("device")?))
}

pub(super) fn irqs(files: Files<'_>) -> Result<Vec<Irq>, NodeError> {
    let names = names(files.text("proc/interrupts").unwrap_or_default());
    let mut irqs = Vec::new();
    for number in files.0.numbered("proc/irq", "") {
        let folder = format!("proc/irq/{number}");
        let Some(affinity) = files.cpus(&format!("{folder}/smp_affinity_list"))? else { continue };
        irqs.push(Irq {
            name: names.get(&number).cloned().unwrap_or_default(),
            effective: files.cpus(&format!("{folder}/effective_affinity_list"))?,
            number,
            affinity,
        });
    }
    Ok(irqs)
}

/// ` 24:   1   0  IO-APIC   5-edge      ACPI:Ged`: behind one counter for each column of the heading.
fn names(interrupts: &str) -> BTreeMap<u32, String> {
    let mut lines = interrupts.lines();
    let cpus = lines.next().unwrap_or_default().split_whitespace().count();
    let name = |line: &str| {
        let (number, rest) = line.split_once(':')?;
        let words: Vec<&str> = rest.split_whitespace().skip(cpus).collect();
        Some((number.trim().parse().ok()?, words.join(" ")))
    };
    lines.filter_map(name).collect()
}

/// `0000:81:00.0`.
fn is_pci_address(text: &str) -> bool {
    let hex = |part: &str, digits: usize| {
        part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let mut parts = text.split([':', '.']);
    let lengths = [4, 2, 2, 1];
    lengths.iter().all(|digits| parts.next().is_some_and(|part| hex(part, *digits)))
        && parts.next().is_none()
        && text.contains('.')
}

fn last_part(path: &str) -> Option<String> {
    path.rsplit('/').next().map(str::to_owned)
}
