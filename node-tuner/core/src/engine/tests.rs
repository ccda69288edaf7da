//! Applying, failing, crashing and taking back, at every step, on machines of every shape.

use std::collections::BTreeMap;

use ringway_config::{NodeProfile, PROFILES};

use super::*;
use crate::knob::{Form, QueueKind, RingKind};
use crate::node::{Node, Observed};
use crate::plan::tests::{profile, shipped};
use crate::plan::{Plan, plan};
use crate::shapes::{self, SHAPES};
use crate::tree::Entry;

/// A machine made of a shape's files, that can be broken at one step.
#[derive(Clone)]
struct Bench {
    observed: Observed,
    /// Steps so far: reads, writes and records.
    step: usize,
    trouble: Option<(usize, Trouble)>,
    records: Vec<Record>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    /// That step fails, later ones do not.
    Fail,
    /// That write is accepted and has no effect.
    Ignore,
    /// The power is gone before that step.
    Crash,
    /// The power is gone after that step.
    CrashAfter,
}

enum Step {
    Go,
    Ignore,
    Stop,
    GoAndStop,
}

impl Bench {
    fn new(shape: &str) -> Self {
        let mut observed = shapes::observed(shape);
        // What a profile may set beside the usual.
        observed.tree.file("proc/sys/vm/dirty_writeback_centisecs", "500\n");
        Self { observed, step: 0, trouble: None, records: Vec::new() }
    }

    fn next(&mut self) -> Step {
        self.step += 1;
        match self.trouble {
            Some((at, trouble)) if at == self.step => match trouble {
                Trouble::Ignore => Step::Ignore,
                Trouble::CrashAfter => Step::GoAndStop,
                Trouble::Fail | Trouble::Crash => Step::Stop,
            },
            Some((at, Trouble::Crash | Trouble::CrashAfter)) if self.step > at => Step::Stop,
            _ => Step::Go,
        }
    }

    fn plan(&self, profile: &NodeProfile, journal: &Journal) -> Option<Plan> {
        let node = Node::parse(&self.observed).unwrap();
        plan(&self.observed, &node, profile, journal.unwritable()).ok()
    }

    fn value(&self, knob: &Knob) -> Result<Option<String>, Fault> {
        let info = |nic: &String| self.observed.ethtool.get(nic).ok_or(Fault::Gone);
        let number = |number: u32| Ok(Some(number.to_string()));
        match knob {
            Knob::Attribute { path, form } => {
                let text = self.observed.tree.text(path).ok_or(Fault::Gone)?;
                Ok(Some(form.normalise(text)))
            }
            Knob::Config { path } => Ok(self.observed.tree.whole(path).map(str::to_owned)),
            Knob::Ring { nic, kind } => {
                let rings = info(nic)?.rings.ok_or(Fault::Gone)?;
                number(if *kind == RingKind::Rx { rings.rx } else { rings.tx })
            }
            Knob::Queues { nic, kind } => {
                assert_eq!(*kind, QueueKind::Combined);
                number(info(nic)?.queues.ok_or(Fault::Gone)?.combined)
            }
            Knob::Offload { nic, name } => {
                let offload = info(nic)?.offloads.get(name).ok_or(Fault::Gone)?;
                Ok(Some(if offload.on { "on" } else { "off" }.to_owned()))
            }
        }
    }

    fn set(&mut self, knob: &Knob, value: Option<&str>) {
        let text = value.unwrap_or_default();
        match knob {
            Knob::Attribute { path, form: Form::Choice } => {
                let now = self.observed.tree.text(path).unwrap().replace(['[', ']'], "");
                let words = now
                    .split(' ')
                    .map(|word| if word == text { format!("[{word}]") } else { word.to_owned() });
                let now = words.collect::<Vec<_>>().join(" ");
                self.observed.tree.file(path.clone(), now);
            }
            Knob::Attribute { path, form } => {
                // The kernel pads masks.
                let pad = if *form == Form::Mask { "00000000," } else { "" };
                let text = format!("{pad}{}\n", form.written(text));
                self.observed.tree.file(path.clone(), text);
            }
            Knob::Config { path } => match value {
                Some(text) => self.observed.tree.file(path.clone(), text),
                None => self.observed.tree.remove(path),
            },
            Knob::Ring { nic, kind } => {
                let rings = self.observed.ethtool.get_mut(nic).unwrap().rings.as_mut().unwrap();
                let ring = if *kind == RingKind::Rx { &mut rings.rx } else { &mut rings.tx };
                *ring = text.parse().unwrap();
            }
            Knob::Queues { nic, .. } => {
                let queues = &mut self.observed.ethtool.get_mut(nic).unwrap().queues;
                queues.as_mut().unwrap().combined = text.parse().unwrap();
            }
            Knob::Offload { nic, name } => {
                let info = self.observed.ethtool.get_mut(nic).unwrap();
                info.offloads.get_mut(name).unwrap().on = text == "on";
            }
        }
    }

    /// The whole machine, in values that do not depend on padding.
    fn picture(&self) -> BTreeMap<String, String> {
        let mut picture = BTreeMap::new();
        for (path, entry) in self.observed.tree.entries() {
            let Entry::File(text) = entry else { continue };
            let is_mask = ["rps_cpus", "xps_cpus", "cpumask", "default_smp_affinity"]
                .iter()
                .any(|name| path.ends_with(name));
            let config = path.starts_with("etc/");
            let text = if is_mask { Form::Mask.normalise(text) } else { text.clone() };
            let text = if config { text } else { text.trim().to_owned() };
            picture.insert(path.to_owned(), text);
        }
        for (nic, info) in &self.observed.ethtool {
            picture.insert(nic.clone(), format!("{info:?}"));
        }
        picture
    }

    fn changes(&self, profile: &NodeProfile, journal: &Journal) -> Option<Vec<Change>> {
        Some(self.plan(profile, journal)?.changes().cloned().collect())
    }

    fn apply(&mut self, profile: &NodeProfile, journal: &mut Journal) -> Option<Outcome> {
        let changes = self.changes(profile, journal)?;
        Some(self.make(&changes, journal))
    }

    fn make(&mut self, changes: &[Change], journal: &mut Journal) -> Outcome {
        self.run(|machine, log| apply(changes, "boot", "x", journal, machine, log))
    }

    fn revert(&mut self, journal: &mut Journal) -> Outcome {
        self.run(|machine, log| revert("boot", journal, machine, log))
    }

    /// Machine and log are two sides of one bench, as power fails for both.
    fn run(&mut self, action: impl FnOnce(&mut Side<'_>, &mut Side<'_>) -> Outcome) -> Outcome {
        let bench = std::cell::RefCell::new(self);
        action(&mut Side(&bench), &mut Side(&bench))
    }

    /// The power comes back: what was recorded is read again.
    fn reboot_of_the_program(&mut self) -> Journal {
        self.trouble = None;
        self.step = 0;
        Journal::from_records(self.records.clone())
    }
}

struct Side<'a>(&'a std::cell::RefCell<&'a mut Bench>);

fn trouble() -> Fault {
    Fault::Failed("trouble".into())
}

impl Machine for Side<'_> {
    fn read(&mut self, knob: &Knob) -> Result<Option<String>, Fault> {
        let mut bench = self.0.borrow_mut();
        match bench.next() {
            Step::Stop => Err(trouble()),
            _ => bench.value(knob),
        }
    }

    fn write(&mut self, knob: &Knob, value: Option<&str>) -> Result<(), Fault> {
        let mut bench = self.0.borrow_mut();
        if knob.to_string() == "/proc/irq/9/smp_affinity_list" {
            return Err(Fault::Refused("EIO".into()));
        }
        match bench.next() {
            Step::Stop => return Err(trouble()),
            Step::Ignore => return Ok(()),
            Step::Go | Step::GoAndStop => {}
        }
        bench.set(knob, value);
        Ok(())
    }
}

impl Log for Side<'_> {
    fn append(&mut self, record: &Record) -> Result<(), Fault> {
        let mut bench = self.0.borrow_mut();
        match bench.next() {
            Step::Stop => return Err(trouble()),
            // A record that is lost without anybody noticing is not what is tested here.
            Step::Go | Step::GoAndStop | Step::Ignore => {}
        }
        bench.records.push(record.clone());
        Ok(())
    }
}

/// Everything that can be changed anywhere, with values that no shape has.
fn thorough() -> NodeProfile {
    profile(
        "[cpus]\nreserved_cores = 1\nvrouter_cores = 1\n[irqs]\nkeep_off_data_cpus = true\n\
         workqueues_off_data_cpus = true\n[[hugepages]]\nsize = \"2Mi\"\namount = \"1%\"\n\
         [memory]\ntransparent_hugepages = \"never\"\ntransparent_hugepages_defrag = \"never\"\n\
         [steering]\nrps = \"reserved\"\nxps = \"reserved\"\n[power]\nturbo = false\n\
         governor = \"performance\"\nmin_frequency_percent = 60\nmax_frequency_percent = 60\nmax_idle_exit_us = 1\n\
         cpus = \"vrouter\"\n[[nics]]\nrx_ring = \"max\"\nqueues = \"reserved\"\noffloads = { rx-gro = false }\n\
         [sysctls]\n\"vm.swappiness\" = 7\n[handover]\nvrouter = true\nnri = true\nkubelet = true",
    )
}

#[test]
fn applying_leaves_nothing_to_do_and_reverting_restores() {
    let shipped = PROFILES.iter().map(|(name, _)| shipped(name));
    for profile in shipped.chain([thorough()]) {
        for (shape, _) in SHAPES {
            let mut bench = Bench::new(shape);
            let (before, mut journal) = (bench.picture(), Journal::default());
            let Some(outcome) = bench.apply(&profile, &mut journal) else { continue };
            assert!(outcome.is_good(), "{} on {shape}: {outcome:?}", profile.name);
            assert!(!outcome.turned.is_empty());
            let again = bench.plan(&profile, &journal).unwrap();
            assert_eq!(again.changes().next(), None, "{} on {shape}", profile.name);
            // Idempotent.
            let records = bench.records.len();
            assert_eq!(bench.apply(&profile, &mut journal), Some(Outcome::default()));
            assert_eq!(bench.records.len(), records + 2);
            let outcome = bench.revert(&mut journal);
            assert!(outcome.is_good(), "{} on {shape}: {outcome:?}", profile.name);
            assert_eq!(bench.picture(), before, "{} on {shape}", profile.name);
            assert!(journal.turned().is_empty() && !journal.is_open());
        }
    }
}

#[test]
fn a_failure_at_any_step_takes_all_back() {
    for (shape, kind) in [
        ("two-sockets", Trouble::Fail),
        ("two-sockets", Trouble::Ignore),
        ("hybrid", Trouble::Fail),
        ("bare", Trouble::Ignore),
    ] {
        let mut failed = 0;
        let fresh = Bench::new(shape);
        let before = fresh.picture();
        let changes = fresh.changes(&thorough(), &Journal::default()).unwrap();
        for at in 1.. {
            let (mut bench, mut journal) = (fresh.clone(), Journal::default());
            bench.trouble = Some((at, kind));
            let outcome = bench.make(&changes, &mut journal);
            if at > bench.step {
                break;
            }
            if outcome.failed.is_none() {
                // A read or a record cannot be ignored; it is the writes that count.
                assert_eq!(kind, Trouble::Ignore);
                continue;
            }
            failed += 1;
            // The end's own record is the only step that may fail when all is done.
            if bench.step > at {
                assert!(outcome.turned.is_empty(), "{shape} {kind:?} {at}");
                assert_eq!(outcome.left, [], "{shape} {kind:?} {at}");
                assert_eq!(bench.picture(), before, "{shape} {kind:?} {at}");
            }
            let mut journal = bench.reboot_of_the_program();
            assert!(bench.revert(&mut journal).is_good());
            assert_eq!(bench.picture(), before, "{shape} {kind:?} {at}");
        }
        assert!(failed > 3, "{shape} {kind:?} {failed}");
    }
}

#[test]
fn a_crash_at_any_step_is_mended_by_applying_or_reverting() {
    for shape in ["two-sockets", "cxl"] {
        let fresh = Bench::new(shape);
        let before = fresh.picture();
        let changes = fresh.changes(&thorough(), &Journal::default()).unwrap();
        let mut uncut = fresh.clone();
        uncut.make(&changes, &mut Journal::default());
        let applied = uncut.picture();
        for (kind, at) in [Trouble::Crash, Trouble::CrashAfter].into_iter().flat_map(|kind| {
            let steps = (1..).map(move |at| (kind, at));
            let beyond = |(kind, at): &(Trouble, usize)| {
                let mut bench = Bench { trouble: Some((*at, *kind)), ..fresh.clone() };
                bench.make(&changes, &mut Journal::default());
                *at <= bench.step
            };
            steps.take_while(beyond).collect::<Vec<_>>()
        }) {
            let (mut bench, mut journal) = (fresh.clone(), Journal::default());
            bench.trouble = Some((at, kind));
            bench.make(&changes, &mut journal);
            let journal = bench.reboot_of_the_program();

            let (mut reverted, mut its_journal) = (bench.clone(), journal.clone());
            let outcome = reverted.revert(&mut its_journal);
            assert!(outcome.is_good(), "{shape} {kind:?} {at}: {outcome:?}");
            assert_eq!(reverted.picture(), before, "{shape} {kind:?} {at}");

            let (mut resumed, mut its_journal) = (bench, journal);
            let outcome = resumed.apply(&thorough(), &mut its_journal).unwrap();
            assert!(outcome.is_good(), "{shape} {kind:?} {at}: {outcome:?}");
            assert!(!its_journal.is_open());
            assert_eq!(resumed.picture(), applied, "{shape} {kind:?} {at}");
            assert!(resumed.revert(&mut its_journal).is_good());
            assert_eq!(resumed.picture(), before, "{shape} {kind:?} {at}");
        }
    }
}

#[test]
fn a_crash_while_reverting_is_mended_by_reverting() {
    let mut tuned = Bench::new("two-sockets");
    let (before, mut tuned_journal) = (tuned.picture(), Journal::default());
    tuned.apply(&thorough(), &mut tuned_journal).unwrap();
    for kind in [Trouble::Crash, Trouble::CrashAfter] {
        for at in 1.. {
            let (mut bench, mut journal) = (tuned.clone(), tuned_journal.clone());
            let steps = bench.step;
            bench.trouble = Some((steps + at, kind));
            bench.revert(&mut journal);
            if steps + at > bench.step {
                break;
            }
            let mut journal = bench.reboot_of_the_program();
            let outcome = bench.revert(&mut journal);
            assert!(outcome.is_good(), "{kind:?} {at}: {outcome:?}");
            assert_eq!(bench.picture(), before, "{kind:?} {at}");
        }
    }
}

/// Any profiles one after the other, each cut off anywhere: the first state comes back.
#[test]
fn any_history_can_be_undone() {
    let profiles: Vec<NodeProfile> =
        PROFILES.iter().map(|(name, _)| shipped(name)).chain([thorough()]).collect();
    bolero::check!().with_type::<(u8, Vec<(u8, u16, u8)>)>().for_each(|(shape, history)| {
        let mut bench = Bench::new(SHAPES[usize::from(*shape) % SHAPES.len()].0);
        let (before, mut journal) = (bench.picture(), Journal::default());
        for (which, at, kind) in history.iter().take(4) {
            let kinds = [Trouble::Fail, Trouble::Ignore, Trouble::Crash, Trouble::CrashAfter];
            let kind = kinds[usize::from(*kind) % kinds.len()];
            bench.trouble = Some((usize::from(*at) % 500, kind));
            let profile = &profiles[usize::from(*which) % profiles.len()];
            bench.apply(profile, &mut journal);
            journal = bench.reboot_of_the_program();
        }
        assert!(bench.revert(&mut journal).is_good());
        assert_eq!(bench.picture(), before);
    });
}

#[test]
fn what_is_gone_or_edited_since_is_left_alone() {
    let mut bench = Bench::new("two-sockets");
    let mut journal = Journal::default();
    bench.apply(&thorough(), &mut journal).unwrap();
    assert_eq!(journal.unwritable().len(), 1);
    // A card is pulled, an operator edits a file, somebody writes another sysctl.
    bench.observed.ethtool.remove("ens1f0");
    bench.observed.tree.file("etc/ringway/nri.toml", "log = \"debug\"\n");
    bench.observed.tree.file("proc/sys/vm/swappiness", "33\n");
    let outcome = bench.revert(&mut journal);
    assert_eq!(outcome.gone.len(), 3, "{outcome:?}");
    let [(knob, why)] = outcome.left.as_slice() else { panic!("{outcome:?}") };
    assert_eq!(knob.to_string(), "/etc/ringway/nri.toml");
    assert!(why.to_string().contains("somebody has edited it since"), "{why}");
    assert_eq!(bench.observed.tree.whole("etc/ringway/nri.toml"), Some("log = \"debug\"\n"));
    assert_eq!(bench.observed.tree.text("proc/sys/vm/swappiness"), Some("60"));
    assert_eq!(journal.turned().len(), 1);
    // As soon as it is as it was, nothing is left.
    bench.observed.tree.file("etc/ringway/nri.toml", "log = \"info\"\n");
    assert!(bench.revert(&mut journal).is_good());
    assert!(journal.turned().is_empty());
}

#[test]
fn a_short_pool_says_what_to_do() {
    let mut bench = Bench::new("arm");
    bench.trouble = Some((4, Trouble::Ignore));
    let rule = profile("[[hugepages]]\nsize = \"2Mi\"\namount = \"4 pages\"");
    let outcome = bench.apply(&rule, &mut Journal::default()).unwrap();
    let (what, fault) = outcome.failed.unwrap();
    assert!(what.ends_with("nr_hugepages"));
    assert_eq!(
        fault.to_string(),
        "4 was written and 0 is there; memory is too fragmented, used up, or the pages are in use: free some, or \
         reserve them at boot"
    );
}
