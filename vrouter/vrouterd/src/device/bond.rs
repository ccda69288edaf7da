//! Uplinks that are bonds: several devices, the first of which that has a link carries all packets. DPDK's bond moves the packets; what it
//! does not hear of is told here.

use std::cell::RefCell;

use vrouter_core::PortIndex;
use vrouter_dpdk::{BondKeeper, BondView, Ethdev};

use super::kernel::{check_pci, interface_number, pci_node, pci_path};
use super::{Device, Devices, State, plug, set_mtu, text, up_or_down};
use crate::convert::UplinkRequest;

/// What is known of a bond's devices. All that is told of them is of one look, so that it does not contradict itself.
pub struct Bond {
    keeper: BondKeeper,
    /// Those that are in it, the best first.
    members: Vec<Member>,
    /// Those that could not be had when it was made.
    missing: Vec<Missing>,
    /// How it was when last looked at.
    seen: RefCell<BondView>,
}

struct Member {
    device: String,
    /// The kernel's number of the interface that it is, if it is one.
    interface: Option<u32>,
}

struct Missing {
    device: String,
    why: String,
    /// It was not there; one that could not be used although it was is not tried again.
    absent: bool,
}

impl Devices {
    /// Opens those devices of a bond that can be had, one at least. The error is one line.
    pub(super) fn open_bond(
        &mut self,
        request: &UplinkRequest,
        port: PortIndex,
    ) -> Result<Device, String> {
        let (mut ethdevs, mut had, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        for (at, device) in request.devices().enumerate() {
            let mut miss = |why, absent| {
                let why = format!("{device} can't be in the bond: {why}");
                missing.push(Missing { device: device.clone(), why, absent });
            };
            match plug(request, device, &format!("{}.{at}", request.name)) {
                Err(why) => miss(why, true),
                Ok(plug) => match Ethdev::plug(&self.eal, &plug) {
                    Err(error) => miss(text(&error), false),
                    Ok(ethdev) => {
                        ethdevs.push(ethdev);
                        had.push(device.clone());
                    }
                },
            }
        }
        if let (true, Some(missing)) = (ethdevs.is_empty(), missing.first()) {
            return Err(missing.why.clone());
        }
        let bond = Ethdev::bond(&self.eal, &request.name, ethdevs).map_err(|error| text(&error))?;
        let keeper = bond.bond_keeper();
        let member = |device: String| Member { interface: interface_number(&device), device };
        let members: Vec<_> = had.into_iter().map(member).collect();
        let pool = self.pool().map_err(|refusal| refusal.to_string())?;
        let started = self.start(bond, request, None, port, &pool);
        let mut device = started.map_err(|failure| failure.why)?;
        for member in members.iter().filter(|member| member.interface.is_some()) {
            set_mtu(&member.device, request.mtu)?;
        }
        let seen = RefCell::new(keeper.tend());
        device.bond = Some(Bond { keeper, members, missing, seen });
        Ok(device)
    }
}

impl Bond {
    /// How it is with its link: with that of any of its devices. It is to be made anew when one of them is gone, or there again.
    pub(super) fn state(&self) -> State {
        let there = |missing: &Missing| missing.absent && is_there(&missing.device);
        if self.members.iter().any(Member::is_gone)
            || self.keeper.is_member_wanted_back()
            || self.missing.iter().any(there)
        {
            return State::Gone;
        }
        let seen = self.keeper.tend();
        let has_link = seen.links.contains(&true);
        self.seen.replace(seen);
        up_or_down(has_link)
    }

    /// Why one of the devices is not in it, in one line.
    pub fn missing(&self) -> Option<&str> {
        self.missing.first().map(|missing| missing.why.as_str())
    }

    /// What people should know of it, in one line.
    pub fn remark(&self) -> Option<String> {
        let seen = self.seen.borrow();
        let links = self.members.iter().zip(&seen.links);
        let down = links.filter(|(_, link)| !**link);
        let down = down.map(|(member, _)| format!("{} has no link", member.device));
        let missing = self.missing.iter().map(|missing| missing.why.clone());
        let wrong: Vec<_> = down.chain(missing).collect();
        let carrier = seen.active.and_then(|at| self.members.get(at));
        let carries = carrier.map(|member| format!("{} carries: ", member.device));
        (!wrong.is_empty()).then(|| format!("{}{}", carries.unwrap_or_default(), wrong.join(", ")))
    }

    /// Whether a device had a link, and whether packets went by it.
    pub fn state_of(&self, device: &str) -> (bool, bool) {
        let seen = self.seen.borrow();
        let at = self.members.iter().position(|member| member.device == device);
        let link = at.and_then(|at| seen.links.get(at)).copied();
        (link.unwrap_or(false), at.is_some() && at == seen.active)
    }
}

impl Member {
    fn is_gone(&self) -> bool {
        match self.interface {
            Some(number) => interface_number(&self.device) != Some(number),
            None => !pci_path(&self.device).exists(),
        }
    }
}

/// Whether a device can be had that could not be.
fn is_there(device: &str) -> bool {
    if ringway_config::is_pci(device) {
        check_pci(device).is_ok()
    } else {
        // A TAP is made: nobody may have one of its name.
        interface_number(device).is_none()
    }
}

/// The NUMA node of devices that are all of one.
pub(super) fn node<'a>(devices: impl Iterator<Item = &'a String>) -> Option<u32> {
    let mut nodes = devices.map(|device| pci_node(device));
    let first = nodes.next()??;
    nodes.all(|node| node == Some(first)).then_some(first)
}
