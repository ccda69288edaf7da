//! Links to the other vRouters of this machine: uplinks that nobody asks for, and that wait for their other end.

use std::sync::Arc;

use ringway_config::LinkSettings;
use vrouter_api::v1::{self, event};
use vrouter_vhost::wake::Wake;

use super::Registry;
use super::uplinks::{UplinkRecord, WirePort};
use crate::convert::{Driver, Refusal, UplinkRequest};
use crate::counters::{PortCounts, since};
use crate::device::Device;
use crate::routes;

impl Registry {
    /// Makes a link, whether the vRouter at its other end runs or not, and the route to that one's end of tunnels.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn create_link(&mut self, link: &LinkSettings) -> Result<(), Refusal> {
        let mut request = UplinkRequest::link(link);
        let network = self.known_network(&link.network)?;
        request.join(&network.request)?;
        let network = network.index;
        let index = self.free_slot(&[])?;
        let Driver::Link(end) = &request.driver else { return Ok(()) };
        let mac = end.mac;
        let tables =
            self.tables.update(&self.policy(request.policies(network, mac, index, None)))?;
        let wake = self.any_wake();
        let (device, reason) = match self.devices.open(&request, &link.name, index, wake) {
            Ok(device) => (Some(device), "no link".to_owned()),
            // The other end may come yet, and is looked for.
            Err(error) if !link.listens => (None, error.to_string()),
            Err(error) => return Err(error),
        };
        let look = device.as_ref().map(Device::look);
        let driver = if link.listens { "vhost-user" } else { "net_virtio_user" }.to_owned();
        let start = since(&self.crew.tallies(), index, &PortCounts::default());
        let record = UplinkRecord {
            network,
            request,
            mac,
            driver,
            port: WirePort { index, device, start, retry: 0 },
            host: None,
            taken: None,
            link: false,
            reason,
            _claims: Vec::new(),
        };
        let wire = record.wire(&self.running());
        self.uplinks.insert(link.name.clone(), record);
        self.tables = tables.with_link_state(index, false);
        if let Some(look) = look {
            self.published.watch(index, false, look);
        }
        self.publish();
        self.tell(event::Event::UplinkAdded(wire));
        let length = if link.peer_address.is_ipv4() { 32 } else { 128 };
        let route = v1::Route {
            prefix: format!("{}/{length}", link.peer_address),
            kind: v1::RouteKind::Link.into(),
            uplink: link.name.clone(),
            mac: vrouter_net::Mac::new(link.peer_mac).to_string(),
            ..v1::Route::default()
        };
        let request = v1::ChangeRoutesRequest {
            network: link.network.clone(),
            set: vec![route],
            ..v1::ChangeRoutesRequest::default()
        };
        let changes = routes::read(&request, &self.uplink_slots())?;
        self.change_routes(&link.network, &changes, false)?;
        Ok(())
    }

    /// How some worker is woken.
    pub(super) fn any_wake(&self) -> Option<Arc<Wake>> {
        self.running().into_iter().find_map(|index| self.crew.wake(index))
    }
}
