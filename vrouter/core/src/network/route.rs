//! Routes of the operator and of the kernel: which ones can be, and what they change.

use super::Network;
use crate::routes::{Path, RouteChange, RouteError, RouteTarget, reserved_around};
use crate::{Paths, Vtep};
use alloc::vec::Vec;
use core::net::IpAddr;
use vrouter_net::IpPrefix;

impl Network {
    /// The same network with other routes; all changes or none.
    pub(crate) fn with_routes(&self, changes: &[RouteChange]) -> Result<Self, RouteError> {
        // Routes by the thousand have equal sets of paths, one after the other.
        let mut known: Option<&Paths> = None;
        for change in changes {
            match &change.target {
                Some(RouteTarget::Multipath(paths)) if known == Some(paths) => {
                    Self::check_prefix(change.prefix)?;
                }
                Some(RouteTarget::Multipath(paths)) => {
                    self.check_route(change)?;
                    known = Some(paths);
                }
                _ => self.check_route(change)?,
            }
        }
        let mut network = self.clone();
        // In order of the prefixes a route comes before those inside it and neighbours are painted together.
        // Changes of one prefix keep their order, so that the last one holds.
        let mut sorted: Vec<_> = changes.iter().collect();
        sorted.sort_by_key(|change| change.prefix);
        for change in sorted {
            network.change_route(change);
        }
        Ok(network)
    }

    fn check_prefix(prefix: IpPrefix) -> Result<(), RouteError> {
        match reserved_around(prefix) {
            Some(reserved) => Err(RouteError::Reserved { prefix, reserved }),
            None => Ok(()),
        }
    }

    fn check_route(&self, change: &RouteChange) -> Result<(), RouteError> {
        Self::check_prefix(change.prefix)?;
        match &change.target {
            Some(target) => self.check_target(change.prefix, target),
            None => Ok(()),
        }
    }

    fn check_target(&self, prefix: IpPrefix, target: &RouteTarget) -> Result<(), RouteError> {
        let (network, external) = (self.policy.index, self.policy.external);
        let kind =
            |fine: bool| if fine { Ok(()) } else { Err(RouteError::Kind { prefix, external }) };
        match target {
            RouteTarget::Unreachable | RouteTarget::Drop => Ok(()),
            RouteTarget::Local => kind(external),
            RouteTarget::Link { mac, .. } => {
                kind(external)?;
                let mac = *mac;
                if mac.is_station() { Ok(()) } else { Err(RouteError::LinkMac { prefix, mac }) }
            }
            RouteTarget::Kernel => kind(!external),
            RouteTarget::Via(via) => {
                kind(!external)?;
                let (via, possible) = (*via, self.policy.may_have(*via));
                if possible { Ok(()) } else { Err(RouteError::Via { prefix, via, network }) }
            }
            RouteTarget::Vxlan(Vtep { address, mac }) => {
                kind(!external)?;
                self.check_end(prefix, *address)?;
                if self.policy.tunnel.is_some_and(|tunnel| tunnel.vni.is_none()) {
                    return Err(RouteError::TunnelKind { prefix, network, needs: "a vni" });
                }
                match *mac {
                    Some(mac) if !mac.is_station() => Err(RouteError::VtepMac { prefix, mac }),
                    _ => Ok(()),
                }
            }
            RouteTarget::MplsUdp(end) => {
                kind(!external)?;
                self.check_end(prefix, end.address)
            }
            RouteTarget::Ipip(end) => {
                kind(!external)?;
                self.check_end(prefix, *end)?;
                if self.policy.tunnel.is_some_and(|tunnel| !tunnel.ipip) {
                    return Err(RouteError::TunnelKind { prefix, network, needs: "ipip" });
                }
                Ok(())
            }
            RouteTarget::Multipath(paths) => self.check_paths(prefix, paths.paths()),
        }
    }

    fn check_paths(&self, prefix: IpPrefix, paths: &[Path]) -> Result<(), RouteError> {
        let single = |path: &Path| {
            let ends = matches!(
                path.target,
                RouteTarget::Via(_)
                    | RouteTarget::Vxlan(_)
                    | RouteTarget::MplsUdp(_)
                    | RouteTarget::Ipip(_)
                    | RouteTarget::Link { .. }
                    | RouteTarget::Kernel
            );
            ends && path.weight != 0
        };
        if !(1..=Paths::MAX).contains(&paths.len()) || !paths.iter().all(single) {
            return Err(RouteError::Paths { prefix, count: paths.len() });
        }
        paths.iter().try_for_each(|path| self.check_target(prefix, &path.target))
    }

    fn check_end(&self, prefix: IpPrefix, address: IpAddr) -> Result<(), RouteError> {
        let network = self.policy.index;
        let tunnel = self.policy.tunnel.ok_or(RouteError::NoTunnel { prefix, network })?;
        let local = tunnel.local;
        let is_host = reserved_around(IpPrefix::host(address)).is_none();
        if address == local || address.is_ipv4() != local.is_ipv4() || !is_host {
            return Err(RouteError::Vtep { prefix, address, local });
        }
        Ok(())
    }

    fn change_route(&mut self, change: &RouteChange) {
        let hop = change.target.as_ref().map(|target| self.hops.acquire_target(target));
        let old = match change.prefix {
            IpPrefix::V4(prefix) => self.fib.set_fixed(&mut self.hops, prefix, hop),
            IpPrefix::V6(prefix) => self.fib6.set_fixed(prefix, hop),
        };
        if let Some(old) = old {
            self.hops.release(old);
        }
    }
}
