//! What only the kernel can change of the interfaces behind devices.

use std::ffi::CString;

use nix::errno::Errno;
use vrouter_dpdk_sys as sys;

use super::Mac;

/// Sets the MTU of one of the kernel's interfaces. Drivers of such interfaces pass on what fits their buffers, whatever
/// MTU DPDK would let them have.
///
/// # Errors
/// `ENODEV`, `EINVAL` for one that it can't have, `EPERM`.
pub fn set_interface_mtu(name: &str, mtu: u16) -> Result<(), Errno> {
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    // SAFETY: a C string for the whole call.
    done(unsafe { sys::ringway_interface_mtu(name.as_ptr(), mtu) })
}

/// Sets the address of one of the kernel's interfaces.
///
/// # Errors
/// `ENODEV`, `EADDRNOTAVAIL` for one that no station can have, `EPERM`.
pub fn set_interface_mac(name: &str, mac: Mac) -> Result<(), Errno> {
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    // SAFETY: a C string and six bytes for the whole call.
    done(unsafe { sys::ringway_interface_mac(name.as_ptr(), mac.0.as_ptr()) })
}

fn done(status: i32) -> Result<(), Errno> {
    match status {
        0 => Ok(()),
        status => Err(Errno::from_raw(status.wrapping_neg())),
    }
}
