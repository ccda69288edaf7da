//! Bonds: several devices that are one, by DPDK's driver `net_bonding` in its mode "active backup". The first that has a link carries all
//! packets.

use std::sync::Arc;

use nix::errno::Errno;
use vrouter_dpdk_sys as sys;

use super::{Device, Ethdev, EthdevError};
use crate::eal::Eal;

/// What the name of a bond begins with, so that DPDK finds the driver.
const DRIVER: &str = "net_bonding";
/// How often DPDK looks at links whose drivers do not tell, ms.
const LOOK_EVERY_MS: u32 = 50;

/// Looks after a bond from whatever thread. The bond is not closed before this is gone.
#[derive(Debug)]
pub struct BondKeeper(Arc<Device>);

impl Ethdev {
    /// Makes a bond `name` of devices that are not started: starting and closing them is the bond's now. The best comes first.
    ///
    /// # Errors
    /// As [`Ethdev::plug`]; `Refused` for a device that can't be in one.
    pub fn bond(eal: &Eal, name: &str, members: Vec<Self>) -> Result<Self, EthdevError> {
        let mut bond = Self::plug_bond(eal, format!("{DRIVER}_{name}"))?;
        let port = bond.device.port;
        let refused = |device: &Device, action| device.refused(action, Errno::EINVAL);
        let Some(device) = Arc::get_mut(&mut bond.device) else {
            return Err(refused(&bond.device, "be a bond while others have it"));
        };
        // Kept before DPDK knows of them: it lets go of them when the bond is closed.
        device.members = members.into_iter().map(|member| member.device).collect();
        for member in &bond.device.members {
            // SAFETY: the number of a bond, and of an open device that nobody has started, and that outlives the bond.
            if unsafe { sys::ringway_bond_add(port, member.port) } != 0 {
                return Err(refused(member, "be in a bond"));
            }
        }
        // SAFETY: the number of a bond.
        if unsafe { sys::ringway_bond_look_every(port, LOOK_EVERY_MS) } != 0 {
            return Err(refused(&bond.device, "look at links"));
        }
        bond.bond_keeper().activate(0);
        Ok(bond)
    }

    /// What looks after the bond that this is.
    pub fn bond_keeper(&self) -> BondKeeper {
        BondKeeper(Arc::clone(&self.device))
    }
}

/// How the members of a bond were at one look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BondView {
    /// Which have a link, in order.
    pub links: Vec<bool>,
    /// Which one carries the packets, of those that have a link.
    pub active: Option<usize>,
}

impl BondKeeper {
    /// Looks at the links once, and has the first member that has one carry the packets. DPDK does the same as soon as a driver tells it;
    /// those of TAPs do not.
    pub fn tend(&self) -> BondView {
        let has_link = |member: &Arc<Device>| member.link().is_ok_and(|link| link.up);
        let links: Vec<_> = self.0.members.iter().map(has_link).collect();
        if let Some(first) = links.iter().position(|link| *link) {
            self.activate(first);
        }
        let active = self.active().filter(|at| links.get(*at) == Some(&true));
        BondView { links, active }
    }

    /// Whether somebody wants one of the members back ([`Ethdev::is_wanted_back`]).
    pub fn is_member_wanted_back(&self) -> bool {
        self.0.members.iter().any(|member| member.is_wanted_back())
    }

    fn active(&self) -> Option<usize> {
        // SAFETY: the number of a device; one that is no bond is refused.
        let port = unsafe { sys::ringway_bond_active(self.0.port) };
        self.0.members.iter().position(|member| i32::from(member.port) == port)
    }

    /// One that DPDK holds for dead stays without packets.
    fn activate(&self, member: usize) {
        if self.active() == Some(member) {
            return;
        }
        if let Some(member) = self.0.members.get(member) {
            // SAFETY: the numbers of a bond and of a member. Workers read the number of the one that carries packets, and go on with
            // either.
            unsafe { sys::ringway_bond_activate(self.0.port, member.port) };
        }
    }
}
