//! Forwarding databases: what the mirror says adds up to what a slow look at the kernel's entries finds, and to what a
//! mirror says that was started after all of them.

use crate::fib::{
    BridgeSpec, BridgeState, BridgeUpdate, Event, Link, LinkKind, Mac, Mirror, Remote,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const PORT: u32 = 5;
const BRIDGE: u32 = 6;
const OTHER_BRIDGE: u32 = 7;
const VXLAN: u32 = 8;
const OTHER_VXLAN: u32 = 9;
const LOCAL: [u8; 4] = [192, 0, 2, 1];

fn end(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

fn spec() -> BridgeSpec {
    BridgeSpec { port: "pods77".to_owned(), vni: 77, local: LOCAL.into() }
}

fn mirror() -> Mirror {
    Mirror::new([], []).with_bridges([("lan".to_owned(), spec())])
}

fn link(index: u32, name: &str, kind: LinkKind, master: Option<u32>) -> Link {
    Link { index, name: name.to_owned(), up: true, running: true, master, kind }
}

fn vxlan(vni: u32) -> LinkKind {
    LinkKind::Vxlan { vni: Some(vni), port: 4789, local: Some(LOCAL.into()) }
}

/// As `docs/frr.md` has the operator make them.
fn devices() -> [Link; 3] {
    [
        link(BRIDGE, "br77", LinkKind::Bridge, None),
        link(VXLAN, "vxlan77", vxlan(77), Some(BRIDGE)),
        link(PORT, "pods77", LinkKind::Other, Some(BRIDGE)),
    ]
}

fn remote(link: u32, mac: u8, last: u8) -> Remote {
    let mac = if mac == 0 { Mac([0; 6]) } else { Mac([2, 0, 0, 0, 0, mac]) };
    Remote { link, mac, of: None, address: Some(end(last)), vni: None, port: None }
}

/// All that was said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    state: Option<BridgeState>,
    flood: BTreeSet<IpAddr>,
    stations: BTreeMap<Mac, IpAddr>,
    left_out: usize,
}

impl Heard {
    fn take(&mut self, mirror: &mut Mirror) {
        while mirror.is_dirty() {
            for (name, update) in mirror.flush_bridges() {
                assert_eq!(name, "lan");
                let BridgeUpdate { state, flood, stations, left_out } = update;
                assert!(stations.is_sorted_by_key(|(mac, _)| *mac) && stations.len() <= 4096);
                (self.state, self.left_out) = (Some(state), left_out);
                if let Some(flood) = flood {
                    assert_ne!(flood, self.flood, "no change");
                    self.flood = flood;
                }
                for (mac, end) in stations {
                    let before = match end {
                        Some(end) => self.stations.insert(mac, end),
                        None => self.stations.remove(&mac),
                    };
                    assert_ne!(before, end, "{mac:?}: no change");
                }
            }
        }
    }
}

fn told(events: impl IntoIterator<Item = Event>) -> Heard {
    let (mut mirror, mut heard) = (mirror(), Heard::default());
    events.into_iter().for_each(|event| mirror.apply(event));
    heard.take(&mut mirror);
    heard
}

#[test]
fn ends_and_stations_come_from_the_vni_s_device() {
    let entries = [
        remote(VXLAN, 0, 2),
        remote(VXLAN, 0, 3),
        remote(VXLAN, 1, 2),
        // Replaced by the next: a station is behind one end.
        remote(VXLAN, 2, 2),
        remote(VXLAN, 2, 3),
        // Another device's.
        remote(OTHER_VXLAN, 3, 2),
    ];
    let events = devices().map(Event::Link).into_iter().chain(entries.map(Event::Remote));
    let heard = told(events);
    assert_eq!(heard.state, Some(BridgeState::Device("vxlan77".to_owned())));
    assert_eq!(heard.flood, [end(2), end(3)].into());
    let mac = |last| Mac([2, 0, 0, 0, 0, last]);
    assert_eq!(heard.stations, [(mac(1), end(2)), (mac(2), end(3))].into());
    assert_eq!(heard.left_out, 0);
}

/// Entries that the kernel would send elsewhere, or nowhere.
#[test]
fn entries_without_an_end_to_send_to_are_counted() {
    let six: IpAddr = "2001:db8::2".parse().unwrap();
    let base = remote(VXLAN, 1, 2);
    let group = Mac([1, 0, 0x5e, 0, 0, 1]);
    for (entry, left_out) in [
        (Remote { address: Some(six), ..base }, 1),
        (Remote { address: Some(LOCAL.into()), ..base }, 1),
        (Remote { address: Some([239, 1, 1, 1].into()), ..base }, 1),
        (Remote { address: None, ..base }, 1),
        (Remote { vni: Some(78), ..base }, 1),
        (Remote { port: Some(8472), ..base }, 1),
        (Remote { address: None, ..remote(VXLAN, 0, 2) }, 1),
        (Remote { mac: group, ..base }, 0),
    ] {
        let events = devices().map(Event::Link).into_iter().chain([Event::Remote(entry)]);
        let heard = told(events);
        assert!(heard.flood.is_empty() && heard.stations.is_empty(), "{entry:?}: {heard:?}");
        assert_eq!(heard.left_out, left_out, "{entry:?}");
    }
    let own = Remote { vni: Some(77), port: Some(4789), ..base };
    let events = devices().map(Event::Link).into_iter().chain([Event::Remote(own)]);
    assert_eq!(told(events).stations.len(), 1);
}

/// In whatever order the operator makes them.
#[test]
fn what_is_missing_is_said() {
    let [bridge, device, port] = devices();
    let unlike = |kind| Link { kind, ..device.clone() };
    let other_port = LinkKind::Vxlan { vni: Some(77), port: 8472, local: None };
    let other_local = LinkKind::Vxlan { vni: Some(77), port: 4789, local: Some(end(9)) };
    let alone = Link { master: None, ..port.clone() };
    let down = Link { up: false, running: false, ..device.clone() };
    let no_vxlan = BridgeState::NoVxlan("br77".to_owned());
    let unlike_state = BridgeState::Unlike("vxlan77".to_owned());
    for (links, state) in [
        (vec![], BridgeState::NoPort),
        (vec![bridge.clone(), device.clone()], BridgeState::NoPort),
        (vec![bridge.clone(), device.clone(), alone], BridgeState::NoBridge),
        (vec![bridge.clone(), Link { kind: vxlan(77), ..port.clone() }], BridgeState::Vxlan),
        (vec![bridge.clone(), port.clone()], no_vxlan.clone()),
        (vec![bridge.clone(), port.clone(), unlike(vxlan(78))], no_vxlan),
        (vec![bridge.clone(), port.clone(), unlike(other_port)], unlike_state.clone()),
        (vec![bridge.clone(), port.clone(), unlike(other_local)], unlike_state),
        (vec![bridge.clone(), port.clone(), down], BridgeState::Down("vxlan77".to_owned())),
        (vec![port, device, bridge], BridgeState::Device("vxlan77".to_owned())),
    ] {
        // Entries may be there before.
        let entry = Event::Remote(remote(VXLAN, 1, 2));
        let heard = told([entry].into_iter().chain(links.iter().cloned().map(Event::Link)));
        assert_eq!(heard.state, Some(state.clone()), "{links:?}");
        assert_eq!(heard.stations.len(), usize::from(state.device().is_some()), "{links:?}");
    }
}

#[test]
fn very_many_stations_are_said_in_parts() {
    let mut mirror = mirror();
    devices().map(Event::Link).into_iter().for_each(|event| mirror.apply(event));
    for number in 0..10_000_u16 {
        let [high, low] = number.to_be_bytes();
        let mac = Mac([2, 0, 0, 0, high, low]);
        mirror.apply(Event::Remote(Remote { mac, ..remote(VXLAN, 1, 2) }));
    }
    let parts: Vec<_> = std::iter::from_fn(|| mirror.flush_bridges().pop()).collect();
    let sizes: Vec<_> = parts.iter().map(|(_, update)| update.stations.len()).collect();
    assert_eq!(sizes, [4096, 4096, 1808]);
    assert!(!mirror.is_dirty());
}

/// The kernel's links and entries, looked at the slow way.
#[derive(Clone, Debug, Default)]
struct Kernel {
    links: BTreeMap<u32, Link>,
    entries: Vec<Remote>,
}

impl Kernel {
    fn events(&self) -> impl Iterator<Item = Event> {
        let links = self.links.values().cloned().map(Event::Link);
        links.chain(self.entries.iter().copied().map(Event::Remote))
    }

    /// What changes, and the events that say so.
    fn step(&mut self, (what, which, how): (u8, u8, u8)) -> Vec<Event> {
        match what % 8 {
            0 => {
                let master = [None, Some(BRIDGE), Some(OTHER_BRIDGE)][usize::from(how % 3)];
                let other = how & 0x40 == 0;
                let link = match which % 5 {
                    0 => link(PORT, "pods77", LinkKind::Other, master),
                    1 => link(BRIDGE, "br77", LinkKind::Bridge, None),
                    2 => link(OTHER_BRIDGE, "br78", LinkKind::Bridge, None),
                    3 => link(VXLAN, "vxlan77", vxlan(77), master),
                    _ => link(OTHER_VXLAN, "vxlan78", vxlan(if other { 78 } else { 77 }), master),
                };
                let link = Link { up: how & 0x80 == 0, ..link };
                self.links.insert(link.index, link.clone());
                vec![Event::Link(link)]
            }
            1 => {
                let index =
                    [PORT, BRIDGE, OTHER_BRIDGE, VXLAN, OTHER_VXLAN][usize::from(which % 5)];
                if self.links.remove(&index).is_none() {
                    return Vec::new();
                }
                self.entries.retain(|entry| entry.link != index);
                for link in self.links.values_mut().filter(|link| link.master == Some(index)) {
                    link.master = None;
                }
                // Its ports leave before it goes.
                let links = self.links.values().cloned().map(Event::Link);
                links.chain([Event::LinkGone(index)]).collect()
            }
            2..=5 => {
                let device = if how & 0x20 == 0 { VXLAN } else { OTHER_VXLAN };
                if !self.links.contains_key(&device) {
                    return Vec::new();
                }
                let entry = remote(device, which % 6, how % 4);
                let key = |entry: &Remote| (entry.link, entry.mac);
                self.entries
                    .retain(|there| key(there) != key(&entry) || which % 6 == 0 && *there != entry);
                self.entries.push(entry);
                vec![Event::Remote(entry)]
            }
            _ => {
                if self.entries.is_empty() {
                    return Vec::new();
                }
                let at = usize::from(which) % self.entries.len();
                vec![Event::RemoteGone(self.entries.remove(at))]
            }
        }
    }

    fn expected(&self) -> (BTreeSet<IpAddr>, BTreeMap<Mac, IpAddr>) {
        let bridge = self.links.get(&PORT).and_then(|port| port.master);
        let bridge = bridge.filter(|bridge| self.links.contains_key(bridge));
        let is_it = |link: &&Link| link.kind == vxlan(77) && link.up && link.master == bridge;
        let device = bridge.and_then(|_| self.links.values().rfind(is_it));
        let entries = self.entries.iter().filter(|it| device.is_some_and(|d| d.index == it.link));
        let (mut flood, mut stations) = (BTreeSet::new(), BTreeMap::new());
        for entry in entries {
            // .0 is a host like any other; .1 is this end.
            let Some(end) = entry.address.filter(|address| *address != IpAddr::from(LOCAL)) else {
                continue;
            };
            if entry.mac == Mac([0; 6]) {
                flood.insert(end);
            } else {
                stations.insert(entry.mac, end);
            }
        }
        (flood, stations)
    }
}

#[test]
fn any_changes_add_up_to_what_is_there() {
    let input = bolero::check!().with_type::<Vec<(u8, u8, u8)>>().with_iterations(3000);
    input.for_each(|steps| {
        let (mut kernel, mut mirror, mut heard) = (Kernel::default(), mirror(), Heard::default());
        for device in devices() {
            kernel.links.insert(device.index, device);
        }
        kernel.events().for_each(|event| mirror.apply(event));
        for step in steps {
            kernel.step(*step).into_iter().for_each(|event| mirror.apply(event));
            // Some are said together.
            if step.0 & 0x80 == 0 {
                heard.take(&mut mirror);
                assert_eq!((heard.flood.clone(), heard.stations.clone()), kernel.expected());
            }
            // A dump begins anew, now and then.
            if step.0 & 0x70 == 0x70 {
                let mut anew = mirror.anew();
                kernel.events().for_each(|event| anew.apply(event));
                anew.continue_from(mirror);
                mirror = anew;
            }
        }
        heard.take(&mut mirror);
        assert_eq!(heard, told(kernel.events()));
    });
}
