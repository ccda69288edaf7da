//! NICs of this machine, and who drives them: `ringway uplinks bind`, `unbind` and `devices`.
//!
//! [`facts`] reads, [`plan`] decides, [`act`] writes. Nothing is kept: which driver a NIC had is what the kernel chooses for it
//! when it is left to choose.

mod act;
mod facts;
mod plan;

use std::io::Write;

use serde::Serialize;

use crate::args::{BindArgs, DevicesArgs, UnbindArgs};
use crate::failure::Failure;
use crate::run::show;
use crate::table::Align::{Left, Right};
use crate::table::Table;
use facts::{Machine, Nic};
use plan::{Plan, Step};

/// What was done to a NIC, or would be.
#[derive(Debug, Serialize)]
struct Done {
    address: String,
    /// The kernel's name of it now; `None` when the kernel does not have it.
    interface: Option<String>,
    driver: Option<String>,
    /// Steps in words, in order; none when it was so already.
    steps: Vec<String>,
    /// They were taken. Without `--yes` they are only shown.
    done: bool,
}

pub(crate) fn bind(args: &BindArgs, json: bool, out: &mut impl Write) -> Result<(), Failure> {
    let machine = Machine::gather(&args.root.root);
    let nic = find(&machine, &args.device)?;
    let plan = plan::bind(&machine, nic, &args.driver, args.force)
        .map_err(|why| Failure::Refused { what: format!("{} not bound", args.device), why })?;
    carry_out(&machine, nic, &plan, args.yes, json, out)
}

pub(crate) fn unbind(args: &UnbindArgs, json: bool, out: &mut impl Write) -> Result<(), Failure> {
    let machine = Machine::gather(&args.root.root);
    let nic = find(&machine, &args.device)?;
    let plan = plan::unbind(&machine, nic)
        .map_err(|why| Failure::Refused { what: format!("{} not unbound", args.device), why })?;
    carry_out(&machine, nic, &plan, args.yes, json, out)
}

pub(crate) fn devices(args: &DevicesArgs, json: bool, out: &mut impl Write) -> Result<(), Failure> {
    let machine = Machine::gather(&args.root.root);
    show(out, json, &machine.nics, |nics| text(nics))
}

fn find<'a>(machine: &'a Machine, device: &str) -> Result<&'a Nic, Failure> {
    machine.find(device).ok_or_else(|| {
        let name = |nic: &Nic| match &nic.interface {
            Some(interface) => format!("{} ({interface})", nic.address),
            None => nic.address.clone(),
        };
        let there: Vec<_> = machine.nics.iter().map(name).collect();
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        Failure::Refused {
            what: device.to_owned(),
            why: format!("no NIC on the PCI bus has this address or interface; there are: {there}"),
        }
    })
}

fn carry_out(
    machine: &Machine,
    nic: &Nic,
    plan: &Plan,
    yes: bool,
    json: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    if yes {
        act::carry_out(&machine.root, nic, plan)
            .map_err(|why| Failure::Refused { what: nic.address.clone(), why })?;
    }
    let now = Machine::gather(&machine.root);
    let now = now.find(&nic.address).unwrap_or(nic);
    let done = Done {
        address: nic.address.clone(),
        interface: now.interface.clone(),
        driver: now.driver.clone(),
        steps: plan.steps.iter().map(Step::to_string).collect(),
        done: yes || plan.steps.is_empty(),
    };
    show(out, json, &done, told)
}

fn told(done: &Done) -> String {
    let Done { address, interface, driver, steps, done } = done;
    let driver = driver.as_deref().unwrap_or("no driver");
    let interface =
        interface.as_ref().map(|name| format!(", interface {name}")).unwrap_or_default();
    let is = format!("{address}: {driver}{interface}\n");
    if steps.is_empty() {
        return format!("{is}nothing had to be done\n");
    }
    let steps: String = steps.iter().map(|step| format!("  {step}\n")).collect();
    if *done {
        return format!("{steps}{is}");
    }
    format!("{is}would do:\n{steps}nothing was changed; --yes does it\n")
}

fn text(nics: &[Nic]) -> String {
    let mut table = Table::new(&[
        ("ADDRESS", Left),
        ("INTERFACE", Left),
        ("DRIVER", Left),
        ("NODE", Right),
        ("IOMMU GROUP", Right),
        ("USED BY", Left),
    ]);
    for nic in nics {
        table.row([
            nic.address.clone(),
            nic.interface.clone().unwrap_or_default(),
            nic.driver.clone().unwrap_or_default(),
            nic.numa_node.map(|node| node.to_string()).unwrap_or_default(),
            nic.iommu_group.map(|group| group.to_string()).unwrap_or_default(),
            nic.used_by.join("; "),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests;
