//! Uplinks: devices that are opened and closed, and whose links come and go.

use vrouter_api::v1::{self, event};
use vrouter_core::{NetworkIndex, PortIndex, PortPolicy};
use vrouter_kernel::hostif::{HostInterface, Releasing};

use super::Registry;
use super::kernel::KernelRecord;
use crate::assign::{Owners, WorkerIndex};
use crate::claim::Claim;
use crate::convert::uplinks::punts;
use crate::convert::{Driver, Refusal, UplinkRequest, port_stats};
use crate::counters::{PortCounts, since};
use crate::dataplane::DataPort;
use crate::device::{Bond, Device, Devices, State, cause, patiently};
use crate::publish::Published;

/// Looks at a device that can't be made anew before the next attempt.
const RETRY: u32 = 20;

/// A port that is a device: one of an uplink's two, or a network's kernel port.
pub struct WirePort {
    /// Its slot.
    pub index: PortIndex,
    /// `None`: it is gone and could not be made anew yet.
    pub device: Option<Device>,
    /// What its slot had counted when it got it.
    pub start: PortCounts,
    /// Looks until the next attempt to make it anew.
    pub retry: u32,
}

/// An uplink.
pub struct UplinkRecord {
    /// Its network.
    pub network: NetworkIndex,
    pub(super) request: UplinkRequest,
    pub(super) mac: vrouter_net::Mac,
    pub(super) driver: String,
    pub(super) port: WirePort,
    pub(super) host: Option<WirePort>,
    /// The interface, if it was taken from the kernel. After the devices: they have to be closed when it goes back.
    pub(super) taken: Option<HostInterface>,
    pub(super) link: bool,
    pub(super) reason: String,
    /// Keep other vRouters off. After all else; a link has none.
    pub(super) _claims: Vec<Claim>,
}

impl UplinkRecord {
    fn ports(&self) -> impl Iterator<Item = &WirePort> {
        std::iter::once(&self.port).chain(&self.host)
    }

    /// The slots it has.
    pub fn slots(&self) -> impl Iterator<Item = PortIndex> + '_ {
        self.ports().map(|port| port.index)
    }

    /// The name of its host interface, and its own slot.
    pub fn host_interface(&self) -> Option<(String, PortIndex)> {
        Some((self.request.host.clone()?, self.port.index))
    }

    /// Whether packets can pass.
    pub fn has_link(&self) -> bool {
        self.link
    }

    /// What the tables are to know of it.
    pub fn policies(&self) -> Vec<PortPolicy> {
        let host = self.host.as_ref().map(|host| host.index);
        self.request.policies(self.network, self.mac, self.port.index, host)
    }

    /// Takes over the address of a device that has replaced another, with the host interface, and says whether there is
    /// one.
    fn follow_device(&mut self) -> bool {
        let Some(device) = &self.port.device else { return false };
        if device.mac == self.mac {
            return false;
        }
        self.mac = device.mac;
        self.driver.clone_from(&device.driver);
        let host = self.host.as_mut().and_then(|host| host.device.as_mut());
        if let Some(Err(error)) = host.map(|host| host.set_mac(self.mac)) {
            tracing::warn!(uplink = self.request.name, %error, "its host interface keeps the old address");
        }
        true
    }

    pub(super) fn wire(&self, running: &[WorkerIndex]) -> v1::Uplink {
        let owners = owners(running, &self.port);
        let queues = usize::from(self.request.queues);
        v1::Uplink {
            spec: Some(self.request.write()),
            mac: self.mac.to_string(),
            link: self.link,
            speed: self.port.device.as_ref().and_then(Device::speed).unwrap_or(0),
            driver: self.driver.clone(),
            reason: self.reason.clone(),
            workers: owners.iter().take(queues).map(|(_, worker)| worker.0.into()).collect(),
            numa_node: self.numa_node().and_then(|node| i32::try_from(node).ok()).unwrap_or(-1),
            members: self.members(),
        }
    }

    /// The devices of a bond.
    fn members(&self) -> Vec<v1::BondMember> {
        if !self.request.is_bond() {
            return Vec::new();
        }
        let bond = self.port.device.as_ref().and_then(Device::bond);
        let member = |device: &String| {
            let (link, active) = bond.map_or((false, false), |bond| bond.state_of(device));
            v1::BondMember { device: device.clone(), link, active }
        };
        self.request.devices().map(member).collect()
    }

    /// The device of a bond that packets go by now.
    pub(super) fn carrier(&self) -> Option<String> {
        self.members().into_iter().find(|member| member.active).map(|member| member.device)
    }

    fn numa_node(&self) -> Option<u32> {
        self.port.device.as_ref().and_then(Device::numa_node)
    }

    /// Whether it leads to another vRouter of this machine.
    pub(super) fn is_link(&self) -> bool {
        matches!(self.request.driver, Driver::Link(_))
    }
}

/// Who polls a device: its queues go round, each device's from another worker on.
pub(super) fn owners(running: &[WorkerIndex], port: &WirePort) -> Owners {
    let mut owners = Owners::one(WorkerIndex::default());
    let pairs: Vec<_> = owners.iter().map(|(pair, _)| pair).collect();
    for pair in pairs {
        let at = (pair + usize::from(port.index.0)) % running.len().max(1);
        if let Some(worker) = running.get(at) {
            owners.set(pair, *worker);
        }
    }
    owners
}

impl Registry {
    pub(super) fn running(&self) -> Vec<WorkerIndex> {
        self.crew.running().into_keys().collect()
    }

    /// All uplinks by name.
    pub fn uplinks(&self) -> Vec<v1::Uplink> {
        let running = self.running();
        self.uplinks.values().map(|record| record.wire(&running)).collect()
    }

    /// NUMA nodes of the devices that lead out of this machine, each once.
    pub fn nic_nodes(&self) -> Vec<u32> {
        let nics = self.uplinks.values().filter(|record| !record.is_link());
        let nodes: std::collections::BTreeSet<_> =
            nics.filter_map(UplinkRecord::numa_node).collect();
        nodes.into_iter().collect()
    }

    /// The slot of an uplink, by its name.
    pub fn uplink_slots(&self) -> Vec<(String, PortIndex)> {
        self.uplinks.iter().map(|(name, record)| (name.clone(), record.port.index)).collect()
    }

    /// Opens an uplink.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then. [`crate::device::retry`] says whether to try again.
    pub fn create_uplink(&mut self, mut request: UplinkRequest) -> Result<v1::Uplink, Refusal> {
        let network = self.known_network(&request.network)?;
        request.join(&network.request)?;
        let network = network.index;
        let name = request.name.clone();
        if let Some(known) = self.uplinks.get(&name) {
            return if known.request == request {
                Ok(known.wire(&self.running()))
            } else {
                Err(Refusal::Exists { what: "uplink", name })
            };
        }
        for device in request.devices() {
            let has = |it: &&UplinkRecord| it.request.devices().any(|other| other == device);
            if let Some(other) = self.uplinks.values().find(has) {
                let (device, uplink) = (device.clone(), other.request.name.clone());
                return Err(Refusal::DeviceTaken { device, uplink });
            }
        }
        let claims = self.devices.claim(&request)?;
        let index = self.free_slot(&[])?;
        let host = request.host.clone();
        let host_index = host.as_ref().map(|_| self.free_slot(&[index])).transpose()?;
        let taken = request.takes_over().then(|| self.devices.take(&request)).transpose()?;
        let name_now = kernel_name(&request, taken.as_ref());
        let device = match &taken {
            // To let others at the registry, it would go back and be taken once more for each try, and the host be without its
            // address as often.
            Some(_) => patiently(|| self.devices.open(&request, name_now, index, None))?,
            None => self.devices.open(&request, name_now, index, None)?,
        };
        if let Some(why) = device.bond().and_then(|bond| bond.missing()) {
            return Err(Refusal::Uplink { name, why: why.to_owned() });
        }
        let (mac, driver) = (device.mac, device.driver.clone());
        // What can be refused still leaves devices behind that go with these.
        let host = match (host, host_index) {
            (Some(host), Some(index)) => {
                let device = self.devices.open_host(&request, &host, mac, index)?;
                install(taken.as_ref(), &request, &host)?;
                Some((index, device))
            }
            _ => None,
        };
        let policies = request.policies(network, mac, index, host_index);
        self.tables = self.tables.update(&self.policy(policies))?;
        let tallies = self.crew.tallies();
        let port = |index, device| WirePort {
            index,
            device: Some(device),
            start: since(&tallies, index, &PortCounts::default()),
            retry: 0,
        };
        let link = device.state() == State::Up;
        let look = device.look();
        let reason = match device.bond().and_then(Bond::remark) {
            Some(remark) => remark,
            None if link => String::new(),
            None => "no link".to_owned(),
        };
        let record = UplinkRecord {
            network,
            mac,
            driver,
            port: port(index, device),
            host: host.map(|(index, device)| port(index, device)),
            taken,
            link,
            reason,
            request,
            _claims: claims,
        };
        let wire = record.wire(&self.running());
        self.uplinks.insert(name.clone(), record);
        self.tables = self.tables.with_link_state(index, link);
        self.published.watch(index, link, look);
        self.publish();
        tracing::info!(uplink = name, %mac, link, "uplink created");
        self.tell(event::Event::UplinkAdded(wire.clone()));
        Ok(wire)
    }

    /// Closes an uplink. That there is none of the name is fine.
    pub fn delete_uplink(&mut self, name: &str) {
        let Some(record) = self.uplinks.remove(name) else { return };
        self.published.forget(record.port.index);
        // Before the devices close: what the TAP has goes back. It can't be refused; the keeper puts back what it knows.
        let released = record.taken.map(HostInterface::release);
        self.tables = self.tables.with_link_state(record.port.index, true);
        if let Err(error) = self.rebuild() {
            // Taking something away leaves a consistent policy.
            tracing::error!(%error, "tables can't be rebuilt without the uplink; it is closed anyway");
        }
        self.publish();
        for port in [Some(record.port), record.host].into_iter().flatten() {
            port.device.into_iter().for_each(Device::close);
        }
        if let Some(Err(error)) = released.map(|it| it.and_then(Releasing::wait)) {
            tracing::error!(
                uplink = name,
                error = cause(&error),
                "its interface may not be back yet"
            );
        }
        tracing::info!(uplink = name, "uplink deleted");
        self.tell(event::Event::UplinkRemoved(name.to_owned()));
    }

    /// The devices as the workers are to see them; their descriptors wake who polls them from now on.
    pub(super) fn wires(&self) -> Vec<(DataPort, Owners)> {
        let running = self.running();
        let wire = |port: &WirePort| {
            let device = port.device.as_ref()?;
            let owners = owners(&running, port);
            device.wake(&owners, port.index, |queue| self.crew.wake(owners.of(queue)));
            Some((DataPort { index: port.index, ends: device.ends.clone() }, owners))
        };
        let kernel = self.networks.values().filter_map(|record| record.kernel.as_ref());
        let ports = self.uplinks.values().flat_map(UplinkRecord::ports);
        ports.chain(kernel.map(KernelRecord::port)).filter_map(wire).collect()
    }

    /// Looks at all uplinks and kernel ports, and tells what has changed. Packets take other ways than over a lost link before
    /// that already ([`crate::publish`]). An interface that was taken away is made anew, or found again.
    pub fn look_at_links(&mut self) {
        self.look_at_kernel_ports();
        self.look_at_pods_links();
        let names: Vec<_> = self.uplinks.keys().cloned().collect();
        let wake = self.any_wake();
        for name in names {
            let Some(mut record) = self.uplinks.remove(&name) else { continue };
            let mut changed = false;
            let mut reasons = Vec::new();
            let request = record.request.clone();
            let devices = &mut self.devices;
            let published = &self.published;
            if request.takes_over() {
                changed |= take_again(devices, published, &request, &mut record);
            }
            let taken = record.taken.as_ref();
            let away = request.takes_over() && taken.is_none();
            let link = {
                let index = record.port.index;
                let interface = kernel_name(&request, taken);
                let shown = match request.driver {
                    Driver::Link(_) => Interface::Link(interface),
                    _ => Interface::Kernels(interface),
                };
                let mut opened = false;
                let gone = || published.forget(index);
                let open = || {
                    if away {
                        return Err(not_taken(&request));
                    }
                    let device = devices.open(&request, interface, index, wake.clone())?;
                    opened = true;
                    Ok(device)
                };
                let state = look(&mut record.port, &mut reasons, &mut changed, shown, gone, open);
                let up = state == State::Up;
                if let (true, Some(device)) = (opened, &record.port.device) {
                    published.watch(index, up, device.look());
                }
                up
            };
            reasons
                .extend(record.port.device.as_ref().and_then(Device::bond).and_then(Bond::remark));
            let replaced = record.follow_device();
            let taken = record.taken.as_ref();
            if let (Some(host), Some(interface)) = (&mut record.host, &request.host) {
                let (index, mac) = (host.index, record.mac);
                let open = || {
                    if away {
                        return Err(not_taken(&request));
                    }
                    let device = devices.open_host(&request, interface, mac, index)?;
                    install(taken, &request, interface)?;
                    Ok(device)
                };
                let shown = Interface::Kernels(interface);
                look(host, &mut reasons, &mut changed, shown, || (), open);
            }
            if !link && reasons.is_empty() {
                reasons.push("no link".to_owned());
            }
            let reason = reasons.join("; ");
            let index = record.port.index;
            let turned = link != record.link;
            let differs = turned || reason != record.reason;
            (record.link, record.reason) = (link, reason);
            let wire = record.wire(&self.running());
            self.uplinks.insert(name.clone(), record);
            if replaced && let Err(error) = self.rebuild() {
                tracing::error!(uplink = name, %error, "the tables can't have an uplink's new address");
            }
            if turned || replaced {
                // Before anybody is told: who looks for it here sees it before the links' own thread may have.
                self.published.look();
                self.tables = self.tables.with_link_state(index, link);
                tracing::warn!(uplink = name, link, "the link of an uplink has changed");
            }
            if changed {
                self.publish();
            } else if turned || replaced {
                self.publish_tables();
            }
            if differs || changed {
                self.tell(event::Event::UplinkChanged(wire));
            }
        }
    }

    /// Counters of all uplinks.
    pub fn uplink_stats(&self) -> Vec<v1::UplinkStats> {
        let tallies = self.crew.tallies();
        let running = self.running();
        let counts = |port: &WirePort| since(&tallies, port.index, &port.start);
        let own = |port: &WirePort| {
            let counters = port.device.iter().flat_map(Device::counters);
            counters.map(|(name, value)| v1::Counter { name, value }).collect()
        };
        let stats = |(name, record): (&String, &UplinkRecord)| {
            let of = |name: &str, port| port_stats(name, &counts(port), &owners(&running, port));
            let host = record.host.as_ref().zip(record.request.host.as_ref());
            v1::UplinkStats {
                name: name.clone(),
                port: Some(of(name, &record.port)),
                host: host.map(|(port, name)| of(name, port)),
                device: own(&record.port),
                host_device: record.host.as_ref().map(own).unwrap_or_default(),
                punts: punts(&counts(&record.port)),
            }
        };
        self.uplinks.iter().map(stats).collect()
    }
}

/// What the kernel calls an uplink's device just now.
fn kernel_name<'a>(request: &'a UplinkRequest, taken: Option<&'a HostInterface>) -> &'a str {
    taken.map_or(&request.device, HostInterface::device)
}

/// Gives the TAP what the interface had, if one was taken.
fn install(
    taken: Option<&HostInterface>,
    request: &UplinkRequest,
    tap: &str,
) -> Result<(), Refusal> {
    let Some(taken) = taken else { return Ok(()) };
    let missing = taken
        .install(tap)
        .map_err(|error| Refusal::Uplink { name: request.name.clone(), why: cause(&error) })?;
    for what in missing {
        tracing::warn!(uplink = request.name, what, "the host interface lacks something");
    }
    Ok(())
}

fn not_taken(request: &UplinkRequest) -> Refusal {
    let why = format!("interface {:?} went back to the kernel", request.device);
    Refusal::Uplink { name: request.name.clone(), why }
}

/// Closes the devices of an uplink whose interface went back to the kernel, as its TAP was deleted and could not be made
/// anew in time; then takes it again as soon as that can be. Says whether the devices changed.
fn take_again(
    devices: &Devices,
    published: &Published,
    request: &UplinkRequest,
    record: &mut UplinkRecord,
) -> bool {
    if record.taken.as_ref().is_some_and(HostInterface::is_back) {
        tracing::warn!(uplink = request.name, "its interface went back to the kernel");
        published.forget(record.port.index);
        for port in std::iter::once(&mut record.port).chain(&mut record.host) {
            port.device.take().into_iter().for_each(Device::close);
            port.retry = RETRY;
        }
        record.taken = None;
        return true;
    }
    if record.taken.is_none() && record.port.retry <= 1 {
        match devices.take(request) {
            Ok(taken) => record.taken = Some(taken),
            Err(error) => tracing::debug!(uplink = request.name, %error, "not taken yet"),
        }
    }
    false
}

/// What a device is to people.
pub(super) enum Interface<'a> {
    Kernels(&'a str),
    Link(&'a str),
}

/// Looks at one port's device, and makes it anew if it is gone; says why it is not there if it is not. `forget`: done before
/// the device is closed.
pub(super) fn look(
    port: &mut WirePort,
    reasons: &mut Vec<String>,
    changed: &mut bool,
    interface: Interface<'_>,
    forget: impl FnOnce(),
    open: impl FnOnce() -> Result<Device, Refusal>,
) -> State {
    let interface = match interface {
        Interface::Kernels(name) => format!("interface {name:?}"),
        Interface::Link(name) => format!("the other end of {name:?}"),
    };
    let state = port.device.as_ref().map_or(State::Gone, Device::state);
    if state != State::Gone {
        return state;
    }
    if let Some(gone) = port.device.take() {
        tracing::warn!("{interface} is gone");
        forget();
        gone.close();
        *changed = true;
        port.retry = 0;
    }
    reasons.push(format!("{interface} is gone"));
    port.retry = port.retry.saturating_sub(1);
    if port.retry > 0 {
        return State::Down;
    }
    port.retry = RETRY;
    match open() {
        Ok(device) => {
            tracing::info!("{interface} is there again");
            reasons.pop();
            *changed = true;
            let state = device.state();
            port.device = Some(device);
            state
        }
        Err(error) => {
            tracing::debug!(%error, "{interface} can't be had yet");
            State::Down
        }
    }
}
