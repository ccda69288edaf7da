//! Plans on a model of the kernel: wherever they stop, `restore` leads back.

use std::collections::{BTreeMap, BTreeSet};

use super::super::snapshot::tests::{ETH1, TAP, furnished, with_legs};
use super::super::snapshot::{leaves_by, without_legs_by};
use super::super::wire::{attribute, kind};
use super::*;

/// What of a kernel the steps change. Order counts nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    names: BTreeMap<u32, String>,
    alt_names: BTreeSet<(u32, String)>,
    links: BTreeMap<(u32, u8), String>,
    /// By interface and key: as the kernel does, they follow a name.
    settings: BTreeMap<(String, String), String>,
    records: BTreeSet<Vec<u8>>,
    filters: BTreeSet<(String, String)>,
    offloads: BTreeMap<u32, bool>,
}

impl Model {
    /// A kernel with what `claim` says.
    fn new(claim: &Claim) -> Self {
        let mut model = Self::default();
        let before = &claim.before;
        model.names.insert(before.index, before.name.clone());
        model.offloads.insert(before.index, true);
        for (key, value) in &before.settings {
            model.settings.insert((before.name.clone(), key.clone()), value.clone());
        }
        for step in carry(before) {
            model.take(&step);
        }
        model
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Link(index, change) => {
                let what = match change {
                    Link::Up(_) => 0,
                    Link::Mac(_) => 1,
                    Link::Mtu(_) => 2,
                    Link::QueueLength(_) => 3,
                    Link::Group(_) => 4,
                    Link::Alias(_) => 5,
                    Link::Vrf(_) => 6,
                };
                self.links.insert((*index, what), format!("{change:?}"));
            }
            Step::Rename(index, name) => {
                let taken = self.names.iter().any(|(other, it)| other != index && it == name);
                assert!(!taken, "{name} is another's");
                let old = self.names.insert(*index, name.clone()).unwrap();
                let moved = std::mem::take(&mut self.settings).into_iter();
                self.settings = moved
                    .map(|((of, key), value)| {
                        ((if of == old { name.clone() } else { of }, key), value)
                    })
                    .collect();
            }
            Step::AddAltName(index, name) => {
                self.alt_names.retain(|(_, it)| it != name);
                self.alt_names.insert((*index, name.clone()));
            }
            Step::DropAltName(index, name) => {
                self.alt_names.remove(&(*index, name.clone()));
            }
            Step::Set { interface, key, value } => {
                assert!(self.names.values().any(|name| name == interface), "{interface} {key}");
                self.settings.insert((interface.clone(), key.clone()), value.clone());
            }
            Step::Add(message) => drop(self.records.insert(written(message))),
            Step::Replace(message) => {
                self.records.retain(|it| destination(it) != destination(&written(message)));
                self.records.insert(written(message));
            }
            Step::Delete(message) => drop(self.records.remove(&written(message))),
            Step::Offloads(index, _, on) => drop(self.offloads.insert(*index, *on)),
            Step::Filter { table, interface } => {
                self.filters.insert((table.clone(), interface.clone()));
            }
            Step::Unfilter { table } => self.filters.retain(|(it, _)| it != table),
        }
    }

    /// The TAP's process is gone, and the TAP with all that was on it.
    fn lose_tap(&mut self) {
        let Some(name) = self.names.remove(&TAP) else { return };
        self.alt_names.retain(|(index, _)| *index != TAP);
        self.links.retain(|(index, _), _| *index != TAP);
        self.settings.retain(|(of, _), _| *of != name);
        let of_tap = |it: &Message| match it.kind {
            kind::NEWROUTE => leaves_by(it, TAP),
            kind::NEWNEXTHOP => it.number(attribute::NHA_OIF) == Some(TAP),
            _ => it.word(4) == TAP,
        };
        let all = std::mem::take(&mut self.records);
        for message in all.iter().map(|it| read(it)) {
            if !of_tap(&message) {
                self.records.insert(written(&message));
            } else if let Some(rest) = without_legs_by(&message, TAP) {
                self.records.insert(written(&rest));
            }
        }
    }
}

fn written(message: &Message) -> Vec<u8> {
    [message.kind.to_ne_bytes().to_vec(), message.emit()].concat()
}

fn read(written: &[u8]) -> Message {
    let (kind, payload) = written.split_first_chunk::<2>().unwrap();
    Message::parse(u16::from_ne_bytes(*kind), payload).unwrap()
}

/// Type, family and first attribute: what a route of these tests replaces.
fn destination(written: &[u8]) -> (u16, u8, Vec<u8>) {
    let message = read(written);
    (message.kind, message.family(), message.attributes[0].value.clone())
}

fn claim() -> Claim {
    Claim { before: furnished(), away: "rw-eth1".to_owned(), offloads: vec!["rx-gro".to_owned()] }
}

fn back(model: &mut Model, claim: &Claim) {
    model.lose_tap();
    model.take(&rename_back(claim));
    for step in restore(claim, &claim.before, claim.name(), 100) {
        model.take(&step);
    }
}

#[test]
fn wherever_a_release_stops_all_comes_back() {
    let claim = claim();
    let before = Model::new(&claim);
    let steps = release(&claim);
    for taken in 0..=steps.len() {
        let mut model = before.clone();
        // Each twice: whoever resumes does not know which was the last.
        for step in steps[..taken].iter().flat_map(|step| [step, step]) {
            model.take(step);
        }
        back(&mut model, &claim);
        assert_eq!(model, before, "after {taken} steps");
    }
}

#[test]
fn wherever_an_installation_stops_all_comes_back() {
    let claim = claim();
    let before = Model::new(&claim);
    let mut released = before.clone();
    release(&claim).iter().for_each(|step| released.take(step));
    released.names.insert(TAP, "eth1".to_owned());
    let steps = install(&claim.before, TAP, "eth1", 100);
    for taken in 0..=steps.len() {
        let mut model = released.clone();
        for step in steps[..taken].iter().flat_map(|step| [step, step]) {
            model.take(step);
        }
        back(&mut model, &claim);
        assert_eq!(model, before, "after {taken} steps");
    }
}

#[test]
fn a_released_interface_has_nothing_and_hears_nothing() {
    let claim = claim();
    let mut model = Model::new(&claim);
    release(&claim).iter().for_each(|step| model.take(step));
    assert_eq!(model.names[&ETH1], "rw-eth1");
    assert_eq!(
        model.alt_names,
        BTreeSet::from([(ETH1, "ringway-uplink-eth1".to_owned())]),
        "names it had are free for the TAP"
    );
    assert_eq!(model.filters, BTreeSet::from([("ringway-eth1".to_owned(), "rw-eth1".to_owned())]));
    let ipv6 = &model.settings[&("rw-eth1".to_owned(), DISABLE_IPV6.to_owned())];
    assert_eq!(ipv6, "1");
    // The way over another interface is left, and what names another interface.
    let left: Vec<_> = model.records.iter().map(|it| read(it)).collect();
    assert_eq!(left, [with_legs(&[9])]);
}

#[test]
fn the_tap_gets_the_same_address_though_the_way_it_was_made_differs() {
    let mut claim = claim();
    claim.before.settings.insert(ADDR_GEN_MODE.to_owned(), "3".to_owned());
    let steps = install(&claim.before, TAP, "eth1", 0);
    assert!(steps.contains(&set("eth1", ADDR_GEN_MODE, NOT_AT_ALL)));
    let back = restore(&claim, &claim.before, "eth1", 0);
    assert!(!back.iter().any(|step| matches!(step, Step::Set { key, .. } if key == ADDR_GEN_MODE)));
}

#[test]
fn a_name_that_was_lost_loses_nothing_else() {
    let claim = claim();
    let steps = restore(&claim, &claim.before, "rw-eth1", 0);
    let named = steps.iter().filter_map(|step| match step {
        Step::Set { interface, .. } => Some(interface.as_str()),
        _ => None,
    });
    assert_eq!(named.collect::<BTreeSet<_>>(), BTreeSet::from(["rw-eth1"]));
}
