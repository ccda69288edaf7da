//! What has to be done so that a driver has a NIC, or why it must not be.

use std::fmt;

use super::facts::{Machine, Nic};

/// Drivers that leave a device to a process.
const FOR_PROCESSES: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];
/// Drivers that share a NIC with DPDK: such a NIC stays bound to them.
const SHARED: [&str; 2] = ["mlx4_core", "mlx5_core"];
const VFIO: &str = "vfio-pci";

/// Something that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Load a module of the kernel.
    Load(String),
    /// Only this driver may have the NIC from now on; `None`: any that fits.
    Reserve(Option<String>),
    /// The driver that has it gives it up.
    Release(String),
    /// The kernel looks for a driver.
    Probe,
}

/// Steps, and who has the NIC when they are done.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub steps: Vec<Step>,
    pub end: End,
}

/// Who is to have the NIC.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// This driver.
    Driver(String),
    /// One of the kernel's, or none if the kernel has none for it.
    Kernel,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(module) => write!(f, "load module {module}"),
            Self::Reserve(Some(driver)) => write!(f, "reserve it for {driver} (driver_override)"),
            Self::Reserve(None) => f.write_str("reserve it for no driver (driver_override)"),
            Self::Release(driver) => write!(f, "take it from {driver} (unbind)"),
            Self::Probe => f.write_str("have the kernel look for a driver (drivers_probe)"),
        }
    }
}

/// Gives a NIC to `driver`.
///
/// # Errors
/// Why that must not be, and what to do about it.
pub(super) fn bind(
    machine: &Machine,
    nic: &Nic,
    driver: &str,
    force: bool,
) -> Result<Plan, String> {
    if !FOR_PROCESSES.contains(&driver) {
        let drivers = FOR_PROCESSES.join(", ");
        return Err(format!(
            "driver {driver:?} does not leave a NIC to DPDK; use one of {drivers}"
        ));
    }
    let end = End::Driver(driver.to_owned());
    let has = nic.driver.as_deref();
    if has == Some(driver) && nic.driver_override.as_deref() == Some(driver) {
        return Ok(Plan { steps: Vec::new(), end });
    }
    if let Some(shared) = has.filter(|has| SHARED.contains(has)) {
        return Err(format!(
            "DPDK serves it beside the kernel's driver {shared}; leave it as it is, and name its address as the uplink's \
             device"
        ));
    }
    refuse_if_held(nic)?;
    if !force && !nic.used_by.is_empty() {
        return Err(format!(
            "the kernel uses it: {}; move that elsewhere, or say --force and lose it until `ringway uplinks unbind {}`",
            nic.used_by.join("; "),
            nic.address
        ));
    }
    if driver == VFIO {
        check_group(machine, nic)?;
    }
    let mut steps = Vec::new();
    if !machine.drivers.contains(driver) {
        steps.push(Step::Load(driver.to_owned()));
    }
    steps.push(Step::Reserve(Some(driver.to_owned())));
    if let Some(has) = has.filter(|has| *has != driver) {
        steps.push(Step::Release(has.to_owned()));
    }
    if has != Some(driver) {
        steps.push(Step::Probe);
    }
    Ok(Plan { steps, end })
}

/// Gives a NIC back to the kernel.
///
/// # Errors
/// Why that must not be, and what to do about it.
pub(super) fn unbind(_: &Machine, nic: &Nic) -> Result<Plan, String> {
    let reserved = nic.driver_override.as_deref().is_some_and(|name| FOR_PROCESSES.contains(&name));
    let has = nic.driver.as_deref().filter(|name| FOR_PROCESSES.contains(name));
    refuse_if_held(nic)?;
    let mut steps = Vec::new();
    if reserved {
        steps.push(Step::Reserve(None));
    }
    if let Some(has) = has {
        steps.push(Step::Release(has.to_owned()));
    }
    if has.is_some() || (reserved && nic.driver.is_none()) {
        steps.push(Step::Probe);
    }
    Ok(Plan { steps, end: End::Kernel })
}

/// The kernel waits, without an end, for a process that has a device of VFIO open.
fn refuse_if_held(nic: &Nic) -> Result<(), String> {
    let holders = nic.holders.iter().map(|(pid, name)| format!("process {pid} ({name})"));
    let holders: Vec<_> = holders.collect();
    if holders.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{} has it open; end that first (of a vRouter: `ringway uplinks delete NAME`)",
        holders.join(", ")
    ))
}

/// VFIO gives out whole groups of devices that the IOMMU can't keep apart.
fn check_group(machine: &Machine, nic: &Nic) -> Result<(), String> {
    if nic.iommu_group.is_none() {
        if machine.no_iommu_mode {
            return Ok(());
        }
        return Err(
            "it has no IOMMU group, so that vfio-pci can't have it; switch the IOMMU on in the firmware and on the \
             kernel's command line (intel_iommu=on, amd_iommu=on), or use --driver uio_pci_generic, which lets the NIC \
             write all memory"
                .to_owned(),
        );
    }
    let kept = |(address, driver): &(String, Option<String>)| {
        let driver = driver.as_deref().filter(|driver| *driver != VFIO)?;
        Some(format!("{address} ({driver})"))
    };
    let kept: Vec<_> = nic.companions.iter().filter_map(kept).collect();
    if kept.is_empty() {
        return Ok(());
    }
    Err(format!(
        "the IOMMU can't keep it apart from {}, which the kernel has; bind all devices of the group, or put the NIC into \
         another slot",
        kept.join(", ")
    ))
}
