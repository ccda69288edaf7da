//! Kernel ports: TAPs by which the kernel routes for networks, and what keeps them in its tables.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use vrouter_api::v1;
use vrouter_core::{NetworkIndex, PortIndex, PortPolicy};
use vrouter_kernel::fib::NetworkSpec;
use vrouter_kernel::kernelport::{self, KernelPort};

use super::uplinks::{self, Interface, WirePort};
use super::{NetworkRecord, Registry};
use crate::convert::{NetworkRequest, Refusal, kernel, port_stats};
use crate::counters::{PortCounts, since};
use crate::device::{Device, Devices, cause};

/// Looks at the ports from one look at the kernel's tables to the next.
const TABLES_EVERY: u32 = 20;

/// The kernel port of a network.
pub struct KernelRecord {
    port: WirePort,
    /// What it has in the kernel's tables. `None`: there is no TAP.
    tables: Option<KernelPort>,
    /// Looks until the next one at those.
    wait: u32,
    /// What is wrong.
    pub reason: String,
}

impl KernelRecord {
    /// The slot it has.
    pub fn slot(&self) -> PortIndex {
        self.port.index
    }

    /// It and its owners.
    pub fn port(&self) -> &WirePort {
        &self.port
    }

    /// Whether there is a TAP.
    pub fn is_there(&self) -> bool {
        self.port.device.is_some()
    }

    /// Gives everything back.
    pub fn close(self) {
        self.port.device.into_iter().for_each(Device::close);
        drop(self.tables);
    }

    /// Sees to the kernel's tables.
    fn establish(&mut self, hosts: &BTreeSet<IpAddr>) {
        let Some(tables) = &mut self.tables else { return };
        let mut wrong = tables.obstacles();
        let done = tables.establish().and_then(|()| tables.set_hosts(hosts));
        if let Err(error) = done {
            wrong.insert(0, cause(&error));
        }
        self.wait = TABLES_EVERY;
        self.say(wrong.join("; "));
    }

    fn say(&mut self, reason: String) {
        if reason != self.reason && !reason.is_empty() {
            tracing::warn!(
                port = self.port.index.0,
                reason,
                "something is wrong with a kernel port"
            );
        }
        self.reason = reason;
    }

    /// Makes the TAP anew if it is gone, and now and then sees to the tables; says whether the device is another.
    fn look(
        &mut self,
        devices: &mut Devices,
        request: &NetworkRequest,
        hosts: &BTreeSet<IpAddr>,
    ) -> bool {
        let Some(name) = request.kernel.as_ref().map(|kernel| kernel.name.as_str()) else {
            return false;
        };
        let (mut reasons, mut changed) = (Vec::new(), false);
        let index = self.port.index;
        let tables = &mut self.tables;
        let mut made = None;
        // Nobody else looks at its link.
        let forget = || {};
        let shown = Interface::Kernels(name);
        uplinks::look(&mut self.port, &mut reasons, &mut changed, shown, forget, || {
            // What the one that is gone had in the tables goes first.
            *tables = None;
            let (device, tables) = devices.open_kernel(request, index)?;
            made = Some(tables);
            Ok(device)
        });
        if made.is_some() {
            *tables = made;
            self.wait = 0;
        }
        if !reasons.is_empty() {
            self.say(reasons.join("; "));
            return changed;
        }
        match self.wait.checked_sub(1) {
            Some(left) => self.wait = left,
            None => self.establish(hosts),
        }
        changed
    }
}

impl NetworkRecord {
    /// What the tables are to know of its kernel port.
    pub(super) fn kernel_policy(&self) -> Option<PortPolicy> {
        let record = self.kernel.as_ref()?;
        Some(self.request.kernel.as_ref()?.policy(record.slot(), self.index))
    }
}

/// Takes away rules of vRouters that were killed.
pub fn sweep() {
    match kernelport::sweep() {
        Ok(0) => {}
        Ok(rules) => tracing::warn!(rules, "rules of kernel ports were left over and are gone"),
        Err(error) => {
            tracing::warn!(
                error = cause(&error),
                "cannot look for left-over rules of kernel ports"
            );
        }
    }
}

impl Registry {
    /// Makes a network's kernel port, if it asks for one.
    pub(super) fn open_kernel(
        &mut self,
        request: &NetworkRequest,
    ) -> Result<Option<KernelRecord>, Refusal> {
        if request.kernel.is_none() {
            return Ok(None);
        }
        let index = self.free_slot(&[])?;
        let (device, tables) = self.devices.open_kernel(request, index)?;
        let start = since(&self.crew.tallies(), index, &PortCounts::default());
        let port = WirePort { index, device: Some(device), start, retry: 0 };
        let mut record =
            KernelRecord { port, tables: Some(tables), wait: 0, reason: String::new() };
        record.establish(&BTreeSet::new());
        Ok(Some(record))
    }

    /// Refuses a table that is another network's.
    pub(super) fn check_table(&self, request: &NetworkRequest) -> Result<(), Refusal> {
        let Some(table) = &request.table else { return Ok(()) };
        let same = |other: &&NetworkRecord| other.request.table.as_ref() == Some(table);
        match self.networks.values().find(same) {
            Some(other) => {
                let remedy = format!("network {:?} has it; choose another", other.request.name);
                Err(Refusal::Invalid { field: "kernel_table", value: kernel::show(table), remedy })
            }
            None => Ok(()),
        }
    }

    /// Networks that have a table of the kernel's, with the number of their creation: one that was made anew has to be told
    /// all of its routes.
    pub fn mirrored_networks(&self) -> BTreeMap<String, (u64, NetworkSpec)> {
        let spec = |(name, record): (&String, &NetworkRecord)| {
            Some((name.clone(), (record.creation, record.request.mirrored()?)))
        };
        self.networks.iter().filter_map(spec).collect()
    }

    pub(super) fn hosts(&self, network: NetworkIndex) -> BTreeSet<IpAddr> {
        let ports = self.ports.values().filter(|port| port.network == network);
        let addresses = ports.flat_map(|port| {
            port.facts
                .with(|request, _| [Some(IpAddr::V4(request.ipv4)), request.ipv6.map(IpAddr::V6)])
        });
        addresses.flatten().collect()
    }

    /// Tells the kernel which pods a network has, if it routes for it.
    pub(super) fn tell_hosts(&mut self, network: NetworkIndex) {
        let hosts = self.hosts(network);
        let mut networks = self.networks.values_mut().filter(|record| record.index == network);
        let Some(kernel) = networks.next().and_then(|record| record.kernel.as_mut()) else {
            return;
        };
        if let Some(Err(error)) = kernel.tables.as_mut().map(|tables| tables.set_hosts(&hosts)) {
            // Looked at again within a second.
            kernel.say(cause(&error));
        }
    }

    /// Looks at all kernel ports: one that was deleted is made anew, what was taken out of the kernel's tables is put back.
    pub(super) fn look_at_kernel_ports(&mut self) {
        let with = self.networks.iter().filter(|(_, record)| record.kernel.is_some());
        let names: Vec<_> = with.map(|(name, record)| (name.clone(), record.index)).collect();
        let mut changed = false;
        for (name, index) in names {
            let hosts = self.hosts(index);
            let Some(record) = self.networks.get_mut(&name) else { continue };
            if let Some(kernel) = &mut record.kernel {
                changed |= kernel.look(&mut self.devices, &record.request, &hosts);
            }
        }
        if changed {
            self.publish();
        }
    }

    /// Counters of all kernel ports.
    pub fn kernel_port_stats(&self) -> Vec<v1::KernelPortStats> {
        let tallies = self.crew.tallies();
        let running = self.running();
        let stats = |(network, record): (&String, &NetworkRecord)| {
            let port = record.kernel.as_ref()?.port();
            let name = record.request.kernel.as_ref()?.name.clone();
            let counts = since(&tallies, port.index, &port.start);
            let device = port.device.iter().flat_map(Device::counters);
            let device = device.map(|(name, value)| v1::Counter { name, value });
            Some(v1::KernelPortStats {
                network: network.clone(),
                port: Some(port_stats(&name, &counts, &uplinks::owners(&running, port))),
                name,
                device: device.collect(),
            })
        };
        self.networks.iter().filter_map(stats).collect()
    }
}
