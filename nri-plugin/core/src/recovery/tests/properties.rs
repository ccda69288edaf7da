//! The plugin is killed at any point of any pod's life: what it finds afterwards is enough to make everything agree again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bolero::TypeGenerator;

use super::super::{Action, Observed, Port, plan, wanted_ports};
use super::{record, sandbox};
use crate::paths::{PortId, SandboxId, Slot};
use crate::plan::{ContainerRecord, Cpus, PodRecord};

const RUN: &str = "/run/ringway";

/// One step of the plugin or of the world around it. The plugin's own are cut short by `kill`, counted in effects.
#[derive(Clone, Copy, Debug, TypeGenerator)]
enum Step {
    /// The sandbox starts, its interfaces are prepared.
    Prepare { pod: u8, kill: Option<u8> },
    /// A container is created, with interfaces of its own or the pod's.
    Create { pod: u8, container: u8, own: bool, kill: Option<u8> },
    /// The pod ends, and the plugin hears of it.
    Release { pod: u8, kill: Option<u8> },
    /// The pod ends, and nobody says so.
    Vanish { pod: u8 },
    /// The vRouter starts again, without ports.
    Forget,
    /// A record turns out to be unreadable.
    Spoil { pod: u8 },
}

/// Everything that outlives the plugin.
#[derive(Clone, Debug, Default)]
struct World {
    sandboxes: BTreeSet<SandboxId>,
    containers: BTreeSet<String>,
    directories: BTreeSet<SandboxId>,
    records: BTreeMap<SandboxId, PodRecord>,
    ports: BTreeMap<String, Port>,
}

/// What the plugin does to the world, in its order.
enum Effect {
    WriteRecord(PodRecord),
    CreatePort(Port),
    DeletePort(String),
    RemoveDirectory(SandboxId),
}

impl World {
    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::WriteRecord(record) => {
                self.directories.insert(record.sandbox.clone());
                self.records.insert(record.sandbox.clone(), record);
            }
            Effect::CreatePort(port) => {
                self.ports.insert(port.id.clone(), port);
            }
            Effect::DeletePort(id) => {
                self.ports.remove(&id);
            }
            Effect::RemoveDirectory(sandbox) => {
                self.directories.remove(&sandbox);
                self.records.remove(&sandbox);
            }
        }
    }

    /// Does as much as the plugin lives to do.
    fn apply_some(&mut self, effects: Vec<Effect>, kill: Option<u8>) {
        let count = kill.map_or(effects.len(), |kill| usize::from(kill % 4));
        effects.into_iter().take(count).for_each(|effect| self.apply(effect));
    }

    fn ports_of(&self, record: &PodRecord) -> Vec<Port> {
        let ports = wanted_ports(Path::new(RUN), record, &self.containers).unwrap();
        ports.into_iter().map(|(_, port)| port).collect()
    }

    fn observed(&self) -> Observed {
        Observed {
            directories: self.directories.iter().map(ToString::to_string).collect(),
            records: self.records.values().cloned().collect(),
            sandboxes: self.sandboxes.clone(),
            containers: self.containers.clone(),
            ports: Some(self.ports.values().cloned().collect()),
        }
    }

    /// What the plugin does when it has started again.
    fn recover(&mut self) -> Vec<PodRecord> {
        let mut adopted = Vec::new();
        for action in plan(Path::new(RUN), self.observed()) {
            match action {
                Action::DeletePort { id } => self.apply(Effect::DeletePort(id)),
                Action::RemovePodDirectory { sandbox } => {
                    self.apply(Effect::RemoveDirectory(sandbox));
                }
                Action::CreatePort { port, .. } => self.apply(Effect::CreatePort(port)),
                Action::Adopt { record } => adopted.push(record),
                Action::Report { .. } => {}
            }
        }
        adopted
    }

    fn step(&mut self, step: Step) {
        let id = |pod: u8| sandbox(&format!("p{}", pod % 4));
        match step {
            Step::Prepare { pod, kill } => {
                let sandbox = id(pod);
                if !self.sandboxes.insert(sandbox.clone()) {
                    return;
                }
                let mut new = record(sandbox.as_str(), 10 + pod % 4);
                new.containers.clear();
                let ports = self.ports_of(&new).into_iter().map(Effect::CreatePort);
                let effects = [Effect::WriteRecord(new)].into_iter().chain(ports).collect();
                self.apply_some(effects, kill);
            }
            Step::Create { pod, container, own, kill } => {
                let sandbox = id(pod);
                self.sandboxes.insert(sandbox.clone());
                let template = record(sandbox.as_str(), 10 + pod % 4);
                let bare = PodRecord {
                    containers: BTreeMap::new(),
                    slots: BTreeMap::new(),
                    ..template.clone()
                };
                let mut new = self.records.get(&sandbox).unwrap_or(&bare).clone();
                let slot = if own { Slot(u16::from(container % 3) + 1) } else { Slot::POD };
                new.slots.entry(slot).or_insert(template.slots[&Slot::POD].clone());
                let name = format!("c{}", container % 3);
                let container = ContainerRecord {
                    id: format!("{sandbox}-{name}-{}", self.containers.len()),
                    slot,
                    cpus: Cpus::Shared("0".parse().unwrap()),
                    ..template.containers["app"].clone()
                };
                // It exists only when the plugin has lived to answer.
                if kill.is_none() {
                    self.containers.insert(container.id.clone());
                }
                new.containers.insert(name, container);
                let mut ports = self.ports_of(&new);
                ports.retain(|port| PortId::parse(&port.id).unwrap().slot == slot);
                let ports = ports.into_iter().map(Effect::CreatePort);
                let effects = [Effect::WriteRecord(new)].into_iter().chain(ports).collect();
                self.apply_some(effects, kill);
            }
            Step::Release { pod, kill } => {
                let sandbox = id(pod);
                self.sandboxes.remove(&sandbox);
                let Some(known) = self.records.get(&sandbox) else { return };
                let ports = known.ports().map(|(id, _)| Effect::DeletePort(id.to_string()));
                let effects = ports.chain([Effect::RemoveDirectory(sandbox.clone())]).collect();
                self.apply_some(effects, kill);
            }
            Step::Vanish { pod } => {
                self.sandboxes.remove(&id(pod));
            }
            Step::Forget => self.ports.clear(),
            Step::Spoil { pod } => {
                self.records.remove(&id(pod));
            }
        }
    }
}

fn pod_of(port: &Port) -> SandboxId {
    PortId::parse(&port.id).unwrap().sandbox
}

fn run(steps: &Vec<Step>) {
    let mut world = World::default();
    for step in steps {
        world.step(*step);
        let mut after = world.clone();
        let adopted = after.recover();
        check(&world, &after, &adopted);
    }
}

fn check(before: &World, after: &World, adopted: &[PodRecord]) {
    // Nothing is left of what is gone.
    assert!(after.directories.is_subset(&after.sandboxes));
    assert!(after.ports.values().all(|port| after.sandboxes.contains(&pod_of(port))));
    // Nobody who is there has lost anything, or has more than is on record.
    let ids: BTreeSet<_> = adopted.iter().map(|record| record.sandbox.clone()).collect();
    assert_eq!(ids.len(), adopted.len());
    let mut recorded = before.records.keys().filter(|id| before.sandboxes.contains(id));
    assert!(recorded.all(|id| ids.contains(id)), "{before:?}");
    for record in adopted {
        assert_eq!(before.records.get(&record.sandbox), Some(record));
        let wanted = after.ports_of(record);
        let ports: Vec<_> =
            after.ports.values().filter(|port| pod_of(port) == record.sandbox).collect();
        assert_eq!(ports.len(), wanted.len(), "{ports:?} {wanted:?}");
        assert!(wanted.iter().all(|port| ports.contains(&port)), "{ports:?} {wanted:?}");
        // Only containers that exist may connect.
        let mut slots = record.slots.keys().map(|slot| {
            let mut users = record.containers.values().filter(|it| it.slot == *slot);
            (slot, users.any(|it| after.containers.contains(&it.id)))
        });
        let shut = |slot: &Slot| {
            let mut of_slot =
                ports.iter().filter(|port| PortId::parse(&port.id).unwrap().slot == *slot);
            of_slot.all(|port| port.peer_cgroups.is_empty())
        };
        assert!(slots.all(|(slot, used)| used || shut(slot)));
    }
    // A second time there is nothing to do: a kill during recovery does no harm either.
    let again = plan(Path::new(RUN), after.observed());
    let rest =
        again.iter().filter(|it| !matches!(it, Action::Adopt { .. } | Action::Report { .. }));
    assert_eq!(rest.count(), 0, "{again:?}");
}

#[test]
fn a_kill_at_any_point_leaves_nothing_behind() {
    bolero::check!().with_type::<Vec<Step>>().for_each(run);
}
