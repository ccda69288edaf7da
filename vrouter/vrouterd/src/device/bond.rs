//! Uplinks that are bonds: several devices, the first of which that has a link carries all packets. DPDK's bond moves the packets; what it
//! does not hear of is told here.

use vrouter_core::PortIndex;
use vrouter_dpdk::{BondKeeper, Ethdev, LinkReader};

use super::kernel::{check_pci, interface_number, pci_node, pci_path};
use super::{Device, Devices, State, plug, set_mtu, text, up_or_down};
use crate::convert::UplinkRequest;

/// What is known of a bond's devices.
pub struct Bond {
    keeper: BondKeeper,
    /// Those that are in it, the best first.
    members: Vec<Member>,
    /// Those that could not be had when it was made.
    missing: Vec<Missing>,
}

struct Member {
    device: String,
    link: LinkReader,
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
        let (keeper, links) = (bond.bond_keeper(), bond.member_links());
        let member = |(device, link): (String, LinkReader)| {
            let interface = interface_number(&device);
            Member { device, link, interface }
        };
        let members: Vec<_> = had.into_iter().zip(links).map(member).collect();
        let mut device = self.start(bond, request, None, port)?;
        for member in members.iter().filter(|member| member.interface.is_some()) {
            set_mtu(&member.device, request.mtu)?;
        }
        device.bond = Some(Bond { keeper, members, missing });
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
        up_or_down(self.keeper.tend().is_some())
    }

    /// Why one of the devices is not in it, in one line.
    pub fn missing(&self) -> Option<&str> {
        self.missing.first().map(|missing| missing.why.as_str())
    }

    /// What people should know of it, in one line.
    pub fn remark(&self) -> Option<String> {
        let carrier = self.carrier();
        let down = self.members.iter().filter(|member| !member.has_link());
        let down = down.map(|member| format!("{} has no link", member.device));
        let missing = self.missing.iter().map(|missing| missing.why.clone());
        let wrong: Vec<_> = down.chain(missing).collect();
        let carries = carrier.map(|member| format!("{} carries: ", member.device));
        (!wrong.is_empty()).then(|| format!("{}{}", carries.unwrap_or_default(), wrong.join(", ")))
    }

    /// Whether a device has a link, and whether packets go by it.
    pub fn state_of(&self, device: &str) -> (bool, bool) {
        let is_it = |member: &&Member| member.device == device;
        let Some(member) = self.members.iter().find(is_it) else { return (false, false) };
        let carries = self.carrier().is_some_and(|carrier| carrier.device == device);
        (member.has_link(), carries)
    }

    /// The device that packets go by, if it has a link.
    fn carrier(&self) -> Option<&Member> {
        self.members.get(self.keeper.active()?).filter(|member| member.has_link())
    }
}

impl Member {
    fn has_link(&self) -> bool {
        self.link.link().is_ok_and(|link| link.up)
    }

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
