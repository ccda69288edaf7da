//! What the kernel says of its interfaces, and of PCI devices.

use std::fs;
use std::path::{Path, PathBuf};

use crate::place;

pub(super) fn interface_path(name: &str) -> PathBuf {
    Path::new("/sys/class/net").join(name)
}

pub(super) fn read(interface: &str, field: &str) -> Option<String> {
    let text = fs::read_to_string(interface_path(interface).join(field)).ok()?;
    Some(text.trim().to_owned())
}

/// What the kernel counts at an interface, sorted by name.
pub(super) fn kernel_counters(name: &str) -> Vec<(String, u64)> {
    let entries = fs::read_dir(interface_path(name).join("statistics")).into_iter().flatten();
    let counter = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path()).ok()?;
        Some((entry.file_name().into_string().ok()?, text.trim().parse().ok()?))
    };
    let mut counters: Vec<_> = entries.flatten().filter_map(counter).collect();
    counters.sort();
    counters
}

/// The kernel's number of an interface, if it is there.
pub(super) fn interface_number(name: &str) -> Option<u32> {
    read(name, "ifindex")?.parse().ok()
}

/// NUMA node of a NIC.
pub(super) fn pci_node(address: &str) -> Option<u32> {
    place::node_of(&pci_path(address))
}

/// Whether an interface is up and something is at its other end. One that is down does not say.
pub(super) fn has_carrier(name: &str) -> bool {
    read(name, "carrier").as_deref() == Some("1")
}

pub(super) fn check_interface(name: &str) -> Result<(), String> {
    if interface_number(name).is_none() {
        let there = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
        let mut there: Vec<_> =
            there.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        there.sort();
        return Err(format!(
            "there is no interface {name:?}; there are {}, and NICs by their PCI address",
            there.join(", ")
        ));
    }
    if let Ok(master) = fs::read_link(interface_path(name).join("master")) {
        let master = master.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Err(format!(
            "interface {name:?} is in use: it is a port of {master:?}; take it out there first \
             (ip link set {name} nomaster)"
        ));
    }
    Ok(())
}

pub(super) fn pci_path(address: &str) -> PathBuf {
    Path::new("/sys/bus/pci/devices").join(address)
}

pub(super) fn check_pci(address: &str) -> Result<(), String> {
    let device = pci_path(address);
    if !device.exists() {
        return Err(format!(
            "there is no PCI device {address}; `ringway uplink devices` lists NICs"
        ));
    }
    let driver = fs::read_link(device.join("driver")).ok();
    let driver = driver.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    // Those that leave the device to a process, and one that shares it.
    const FREE: [&str; 4] = ["vfio-pci", "uio_pci_generic", "igb_uio", "mlx5_core"];
    match driver {
        Some(driver) if !FREE.contains(&driver.as_str()) => Err(format!(
            "device {address} is in use by the kernel's driver {driver}; bind it to vfio-pci \
             (ringway uplink bind {address} --yes), or name its interface instead"
        )),
        Some(_) => Ok(()),
        None => Err(format!(
            "device {address} has no driver; bind it to vfio-pci (ringway uplink bind {address} --yes)"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_said_with_what_is() {
        let error = check_interface("rw-none").unwrap_err();
        assert!(
            error.contains("there is no interface \"rw-none\"; there are") && error.contains("lo")
        );
        let error = check_pci("ffff:ff:1f.7").unwrap_err();
        assert!(error.contains("there is no PCI device"), "{error}");
        assert_eq!(check_interface("lo"), Ok(()));
    }
}
