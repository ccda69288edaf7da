//! Devices that are TAPs: the kernel's side of uplinks, kernel ports of networks, interfaces of pods.

use std::cell::Cell;
use std::io;
use std::sync::Arc;

use vrouter_core::PortIndex;
use vrouter_dpdk::Pool;
use vrouter_kernel::handover;
use vrouter_kernel::kernelport::KernelPort;
use vrouter_net::Mac;
use vrouter_vhost::wake::Token;

use super::{Device, Devices, Kind, cause, interface_number};
use crate::convert::{
    KernelRequest, LinkRequest, NetworkRequest, PortRequest, Refusal, UplinkRequest,
};
use crate::dataplane::Ends;
use crate::tap::Tap;
use crate::wire::Wire;

impl Devices {
    /// Makes the kernel's side of an uplink: a TAP with its address.
    ///
    /// # Errors
    /// [`Refusal`] that says what to do.
    pub fn open_host(
        &mut self,
        request: &UplinkRequest,
        host: &str,
        mac: Mac,
        port: PortIndex,
    ) -> Result<Device, Refusal> {
        let refuse = |why: String| Refusal::Uplink { name: request.name.clone(), why };
        if interface_number(host).is_some() {
            return Err(refuse(format!(
                "host interface {host:?} exists already; choose another name, or take that interface away"
            )));
        }
        let pool = self.pool()?;
        let tap = Tap::create(host, vrouter_dpdk::Mac(mac.octets()), request.mtu)
            .map_err(|error| refuse(format!("host interface {host:?} can't be made: {error}")))?;
        Ok(Device::of_tap(tap, host, mac, &pool, port))
    }

    /// Makes a network's kernel port, and what it says in the kernel's tables before it is up.
    ///
    /// # Errors
    /// [`Refusal`] that says what to do.
    pub fn open_kernel(
        &mut self,
        network: &NetworkRequest,
        port: PortIndex,
    ) -> Result<(Device, KernelPort), Refusal> {
        let (Some(request), Some(spec)) = (&network.kernel, network.kernel_spec()) else {
            return Err(Refusal::Full { limit: 0 });
        };
        let KernelRequest { name, mac, .. } = request;
        let refuse = |why: String| Refusal::KernelPort {
            name: name.clone(),
            network: network.name.clone(),
            why,
        };
        self.fits(network.mtu).map_err(refuse)?;
        if interface_number(name).is_some() {
            let why = "an interface of that name exists already; choose another name, or take that interface away";
            return Err(refuse(why.to_owned()));
        }
        let pool = self.pool()?;
        let mut tables = None;
        let prepare = || {
            tables = Some(KernelPort::prepare(spec).map_err(|e| io::Error::other(cause(&e)))?);
            Ok(())
        };
        let made =
            Tap::create_prepared(name, vrouter_dpdk::Mac(mac.octets()), network.mtu, prepare);
        let tap = made.map_err(|error| refuse(format!("the TAP can't be made: {error}")))?;
        let tables = tables.ok_or_else(|| refuse("it is in no table".to_owned()))?;
        Ok((Device::of_tap(tap, name, *mac, &pool, port), tables))
    }

    /// Makes the interface of a pod and hands it over.
    ///
    /// # Errors
    /// [`Refusal`] that says what is wrong.
    pub fn open_pod_link(
        &mut self,
        request: &PortRequest,
        link: &LinkRequest,
        port: PortIndex,
    ) -> Result<Device, Refusal> {
        let refuse = |why: String| Refusal::Link {
            link: link.name.clone(),
            port: request.spec.id.clone(),
            why,
        };
        self.fits(link.mtu).map_err(refuse)?;
        let pool = self.pool()?;
        // For a moment only. No other process has this one's number, no other port its slot.
        let name = format!("rp{:x}.{:x}", std::process::id(), port.0);
        let hand_over = || {
            handover::hand_over(&name, &link.netns, &link.name)
                .map_err(|error| io::Error::other(cause(&error)))
        };
        let mac = vrouter_dpdk::Mac(request.mac.octets());
        let tap = Tap::create_for(&name, mac, link.mtu, hand_over)
            .map_err(|error| refuse(error.to_string()))?;
        let mut device = Device::of_tap(tap, &name, request.mac, &pool, port);
        // It is none of this namespace's.
        device.interface = None;
        Ok(device)
    }
}

impl Device {
    /// Whether a pod's interface is still there.
    pub fn is_attached(&self) -> bool {
        match &self.kind {
            Kind::Tap(tap) => tap.is_attached(),
            Kind::Ethdev(_) | Kind::Listener(..) | Kind::Caller(..) => true,
        }
    }

    fn of_tap(tap: Tap, name: &str, mac: Mac, pool: &Pool, port: PortIndex) -> Self {
        Self {
            ends: Ends::Wire(Arc::new(Wire::of_tap(tap.clone(), pool, Token(u32::from(port.0))))),
            kind: Kind::Tap(tap),
            bond: None,
            mac,
            driver: "tap".to_owned(),
            interface: Some((name.to_owned(), interface_number(name).unwrap_or(0))),
            made: true,
            lost: Cell::new(false),
        }
    }
}
