//! Leases of address plugins: taken before a pod's interfaces are planned, given back when no pod holds them.

use std::net::IpAddr;

use nri_plugin_core::annotations::{Leased, Request};
use nri_plugin_core::net::Network;
use nri_plugin_core::paths::SandboxId;
use nri_plugin_proto::api::PodSandbox;

use super::{Allocator, Refusal};
use crate::ipam::{self, Holder, Lease};

impl Allocator {
    /// Takes a lease for each interface whose network has an address plugin. What was taken is written into `request`; what
    /// no pod holds in the end is found by [`Allocator::return_leases`].
    pub(super) async fn take_leases(
        &self,
        pod: &PodSandbox,
        sandbox: &SandboxId,
        request: &mut Request,
        networks: &[Network],
    ) -> Result<(), Refusal> {
        for interface in &mut request.interfaces {
            let Some(network) = networks.iter().find(|it| it.name == interface.network) else {
                continue;
            };
            let wanted: Vec<IpAddr> = interface
                .ip
                .map(IpAddr::from)
                .into_iter()
                .chain(interface.ipv6.map(IpAddr::from))
                .collect();
            let holder = Holder {
                namespace: &pod.namespace,
                pod: &pod.name,
                sandbox: sandbox.as_str(),
                interface: &interface.name,
                wanted: &wanted,
            };
            let Some(lease) = self.ipam.lease(network, holder)? else { continue };
            let id = self.files.lease_id(sandbox);
            self.files.write_lease(&id, &serde_json::to_string(&lease).unwrap_or_default())?;
            // Whatever comes of it, somebody has to look at it if no pod gets it.
            self.stale_leases.notify_one();
            let ipam::Addresses { ip, ipv6 } = self.ipam.add(&id, &lease).await?;
            interface.leased = Some(Leased { id, ip, ipv6 });
        }
        Ok(())
    }

    /// Gives back every lease that no pod holds; says whether all could be.
    pub async fn return_leases(&self) -> bool {
        // First what is written, then who holds what: a lease is written and held under the lock, so one that is written and
        // not held is nobody's.
        let written = match self.files.leases() {
            Ok(written) => written,
            Err(error) => {
                tracing::warn!(%error, "cannot read the leases");
                return false;
            }
        };
        if written.is_empty() {
            return true;
        }
        let forgotten: Vec<String> = {
            let state = self.state.lock().await;
            ipam::forgotten(written.keys(), &state.node.leases()).into_iter().cloned().collect()
        };
        let mut all = true;
        for id in forgotten {
            let text = written.get(&id).map_or("", String::as_str);
            // One that cannot be read was not written to its end: it was never asked for.
            if let Ok(lease) = serde_json::from_str::<Lease>(text)
                && let Err(error) = self.ipam.delete(&id, &lease).await
            {
                tracing::warn!(id, %error, "cannot give an address back now");
                all = false;
                continue;
            }
            if let Err(error) = self.files.remove_lease(&id) {
                tracing::warn!(id, %error, "cannot forget a lease");
                all = false;
            }
        }
        all
    }
}
