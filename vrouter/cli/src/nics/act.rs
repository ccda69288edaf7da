//! Takes the steps of a plan, looks whether they did what they should, and undoes them where not.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::facts::{Nic, link};
use super::plan::{End, Plan, Step};

/// # Errors
/// What went wrong, and in which state the NIC was left.
pub(super) fn carry_out(root: &Path, nic: &Nic, plan: &Plan) -> Result<(), String> {
    let taken = plan
        .steps
        .iter()
        .try_for_each(|step| take(root, nic, step).map_err(|why| format!("cannot {step}: {why}")));
    if plan.steps.is_empty() {
        return Ok(());
    }
    let has = link(&device(root, nic).join("driver"));
    let wrong = match (taken, &plan.end, has) {
        (Err(why), _, _) => why,
        (Ok(()), End::Driver(wanted), has) if has.as_ref() != Some(wanted) => {
            let has = has.unwrap_or_else(|| "no driver".to_owned());
            format!("{has} has it instead of {wanted}: the kernel's log (dmesg) says why")
        }
        (Ok(()), End::Kernel, Some(has)) if Some(&has) == nic.driver.as_ref() => {
            return Err(format!(
                "{has} took it again: its number is in {has}'s new_id; write it to remove_id there"
            ));
        }
        _ => return Ok(()),
    };
    // As it was: the kernel chooses again.
    let undo = [Step::Reserve(nic.driver_override.clone()), Step::Probe];
    let undone = undo.iter().try_for_each(|step| take(root, nic, step));
    let has = link(&device(root, nic).join("driver")).unwrap_or_else(|| "no driver".to_owned());
    Err(match undone {
        Ok(()) => format!("{wrong}; undone, {has} has it"),
        Err(why) => format!("{wrong}; undoing that failed, too: {why}; {has} has it"),
    })
}

fn device(root: &Path, nic: &Nic) -> std::path::PathBuf {
    root.join("sys/bus/pci/devices").join(&nic.address)
}

fn take(root: &Path, nic: &Nic, step: &Step) -> Result<(), String> {
    let device = device(root, nic);
    match step {
        Step::Load(module) => {
            let output = Command::new("modprobe").arg(module).output();
            let output = output.map_err(|error| format!("modprobe: {error}"))?;
            if output.status.success() {
                return Ok(());
            }
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
        // A line break clears it.
        Step::Reserve(driver) => {
            write(&device.join("driver_override"), driver.as_deref().unwrap_or("\n"))
        }
        Step::Release(driver) => {
            write(&root.join("sys/bus/pci/drivers").join(driver).join("unbind"), &nic.address)
        }
        Step::Probe => write(&root.join("sys/bus/pci/drivers_probe"), &nic.address),
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}
