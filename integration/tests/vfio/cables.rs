//! Traffic over the NICs, and what becomes of it when a cable or a NIC is pulled.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::qemu::numa::{NIC_IDS, NIC_MACS, NICS};
use integration::wait;
use serde_json::json;

use crate::binding;
use crate::rig::{Rig, UP};
use crate::traffic;

/// Wire, uplink, pod, and back: inside a tunnel; and the node itself, by its host interfaces.
pub fn both_ways(rig: &Rig) -> Result<()> {
    for (n, mac) in NIC_MACS.iter().enumerate() {
        let uplink = rig.vrouter.uplink(&format!("up{n}"))?;
        ensure!(uplink.driver == "net_virtio" && uplink.link, "{uplink:?}");
        ensure!(uplink.mac == *mac, "{uplink:?}");
    }
    traffic::ping(&rig.far, "192.0.2.1", 56).context("the node, on the first wire")?;
    traffic::ping(&rig.far, "198.51.100.1", 1400).context("the node, on the second wire")?;
    traffic::ping(&rig.pod, "10.99.0.1", 56).context("ping from the pod")?;
    traffic::ping(&rig.pod, "10.99.0.1", 1472).context("a large ping from the pod")?;
    traffic::ping(&rig.far, "10.66.0.2", 1472).context("a large ping to the pod")?;
    traffic::tcp(&rig.pod, &rig.far, "10.99.0.1:5001").context("from the pod")?;
    traffic::tcp(&rig.far, &rig.pod, "10.66.0.2:5001").context("to the pod")?;
    traffic::udp(&rig.far, &rig.pod, "10.66.0.2:5002", 1472, 3).context("datagrams")?;
    let seen = rig.far.counter("vx0", "rx_packets")?;
    ensure!(seen > 100, "the far end's tunnel has seen {seen} packets");
    // The device's own books agree with ours.
    let stats = rig.uplink_stats("up0")?;
    let port = stats.port.context("no counters")?;
    let of = |name: &str| stats.device.iter().find(|it| it.name == name).map(|it| it.value);
    ensure!(of("rx_good_packets") >= Some(port.rx_packets), "{:?}", stats.device);
    ensure!(port.rx_packets > 100 && port.tx_packets > 100, "{port:?}");
    Ok(())
}

/// Interrupts that the kernel has handed to VFIO for the queues of a NIC. The first vector is the device's own.
fn vectors(nic: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/interrupts")?;
    let mine = text.lines().filter(|line| line.contains("vfio-msix") && line.contains(nic));
    let count = |line: &str| -> u64 {
        let words = line.split_whitespace().skip(1);
        words.map_while(|word| word.parse::<u64>().ok()).sum()
    };
    let all: Vec<_> = mine.collect();
    ensure!(all.len() > 1, "{nic} has {} vectors of VFIO: {text}", all.len());
    let queues = all.iter().filter(|line| !line.contains("vfio-msix[0]"));
    Ok(queues.map(|line| count(line)).sum())
}

/// With nothing to do the worker sleeps, and a packet on the wire wakes it by an interrupt of the NIC.
pub fn interrupts(rig: &Rig) -> Result<()> {
    let before = vectors(NICS[0])?;
    traffic::ping(&rig.pod, "10.99.0.1", 56)?;
    let pinged = vectors(NICS[0])? - before;
    ensure!(pinged >= 3, "3 answers came, {pinged} interrupts");
    Ok(())
}

fn cable(rig: &Rig, n: usize, plugged: bool) -> Result<()> {
    rig.monitor.borrow_mut().ask("set_link", &json!({"name": NIC_IDS[n], "up": plugged}))
}

pub fn pulled(rig: &Rig) -> Result<()> {
    cable(rig, 0, false)?;
    let reason = rig.wait_link("up0", false)?;
    ensure!(reason.contains("no link"), "{reason}");
    ensure!(rig.vrouter.uplink("up1")?.link, "the other link is down, too");
    cable(rig, 0, true)?;
    rig.wait_link("up0", true)?;
    traffic::ping(&rig.pod, "10.99.0.1", 56).context("over the wire that is back")
}

/// A NIC is taken out while the vRouter has it, and put in again.
pub fn taken_out(rig: &Rig) -> Result<()> {
    rig.monitor.borrow_mut().ask("device_del", &json!({"id": NIC_IDS[1]}))?;
    let reason = rig.wait_link("up1", false)?;
    ensure!(reason.contains(NICS[1]), "{reason}");
    let there = Path::new("/sys/bus/pci/devices").join(NICS[1]);
    wait::until("the kernel has let it go", UP, || Ok((!there.exists()).then_some(())))?;
    traffic::ping(&rig.pod, "10.99.0.1", 56).context("over the NIC that is left")?;
    ensure!(rig.vrouter.uplink("up0")?.link, "the other link is down, too");
    // QEMU takes it for gone a moment later.
    let again = json!({
        "driver": "virtio-net-pci", "id": NIC_IDS[1], "netdev": "near1", "bus": "slot1", "mac": NIC_MACS[1],
        "iommu_platform": true, "disable-legacy": "on", "romfile": "",
    });
    wait::until("QEMU takes it back", UP, || {
        let asked = rig.monitor.borrow_mut().ask("device_add", &again);
        thread::sleep(Duration::from_millis(500));
        Ok(asked.is_ok().then_some(()))
    })?;
    wait::until("the kernel has found it", UP, || Ok(there.join("driver").exists().then_some(())))?;
    binding::bind(NICS[1])?;
    rig.wait_link("up1", true)?;
    traffic::ping(&rig.far, "198.51.100.1", 1400).context("over the NIC that is back")
}
