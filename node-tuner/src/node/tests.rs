//! Real files, a real journal: captured machines are changed, cut off at every step, and come back.

use node_tuner_core::engine::{Fault, Log, Machine};
use node_tuner_core::journal::Record;
use tempfile::TempDir;

use super::*;
use crate::observe::tests::shape;
use crate::store;

fn target(directory: &TempDir) -> Target {
    let arguments =
        NodeArguments { root: directory.path().to_owned(), state: None, vrouter: Vec::new() };
    Target::open(arguments).unwrap()
}

fn machine(name: &str) -> (TempDir, Target) {
    let directory = tempfile::tempdir().unwrap();
    shape(name, directory.path());
    let target = target(&directory);
    (directory, target)
}

fn thorough() -> NodeProfile {
    let text = "version = 1\nname = \"x\"\n[cpus]\nreserved_cores = 1\nvrouter_cores = 1\n\
                [irqs]\nkeep_off_data_cpus = true\n[[hugepages]]\nsize = \"2Mi\"\namount = \"1%\"\n\
                [memory]\ntransparent_hugepages = \"never\"\n[sysctls]\n\"vm.swappiness\" = 7\n\
                [steering]\nrps = \"reserved\"\n[power]\ngovernor = \"performance\"\ncpus = \"vrouter\"\n\
                [handover]\nvrouter = true\nnri = true\nkubelet = true";
    NodeProfile::from_toml(text, Path::new("x.toml")).unwrap()
}

/// What the node is, and the texts of the files of others.
async fn picture(target: &mut Target) -> (Node, Vec<Option<String>>) {
    let (observed, node) = target.node(&files(&thorough())).await.unwrap();
    let texts = ["etc/ringway/vrouter.toml", "etc/ringway/nri.toml"]
        .iter()
        .map(|file| observed.tree.whole(file).map(str::to_owned))
        .chain([target.kubelet()])
        .collect();
    (node, texts)
}

impl Target {
    fn kubelet(&self) -> Option<String> {
        let file = self.arguments.root.join("etc/kubernetes/kubelet.conf.d/60-ringway.conf");
        std::fs::read_to_string(file).ok()
    }
}

#[tokio::test]
async fn a_machine_is_changed_and_comes_back() {
    let (_directory, mut target) = machine("two-sockets");
    let before = picture(&mut target).await;
    let mut out = Vec::new();
    target.apply(&thorough(), &mut out).await.unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with("profile x: "), "{text}");
    let (node, texts) = picture(&mut target).await;
    assert_eq!(node.numa[1].hugepages[&(2 << 20)].total, 640);
    assert_eq!(node.power.frequencies[&13].governor, "performance");
    assert_eq!(node.irqs[1].affinity.to_string(), "0,4,8,12");
    assert_eq!(node.memory.transparent_hugepages.as_deref(), Some("never"));
    assert!(texts[0].as_deref().unwrap().contains("cpus = [1, 5, 9, 13] # by hand"));
    assert!(texts[2].as_deref().unwrap().contains("reservedSystemCPUs: \"0-1,4-5,8-9,12-13\""));
    // Again: nothing left to do.
    let mut out = Vec::new();
    target.apply(&thorough(), &mut out).await.unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "profile x: 0 values changed and read back\n");
    let journal = store::read(target.state()).unwrap();
    assert_eq!(journal.profile(), "x");
    target.revert(&mut Vec::new()).await.unwrap();
    assert_eq!(picture(&mut target).await, before);
    assert!(!target.state().join("journal.jsonl").exists());
}

#[tokio::test]
async fn people_read_reports_and_plans() {
    let (_directory, mut target) = machine("two-sockets");
    let (_, text) = ringway_config::PROFILES[0];
    let profile = NodeProfile::from_toml(text, Path::new("x.toml")).unwrap();
    let (_, plan) = target.plan(&profile, &BTreeMap::new()).await.unwrap();
    let shown = text::plan(&plan, false, false).unwrap();
    for line in [
        "profile dpdk-router: CPUs reserved 0,4,8,12, vRouter 1,5,9,13, pods 2-3,6-7,10-11,14-15",
        "    /proc/irq/*/smp_affinity_list (17 times): 0-15 -> 0,4,8,12",
        "    /etc/ringway/vrouter.toml workers.cpus: [1] -> [1, 5, 9, 13]  (read by ringway-vrouter when it starts)",
        "In /etc/default/grub:",
        "then run update-grub, and reboot",
        "    ens1f0 rx ring: - -> max  (the driver has none that can be set)",
    ] {
        assert!(shown.lines().any(|other| other == line), "{line:?} is missing in\n{shown}");
    }
    assert!(!shown.contains("as it should be:"));
    assert!(text::plan(&plan, false, true).unwrap().contains("as it should be:"));
    target.apply(&profile, &mut Vec::new()).await.unwrap();
    let (_, node) = target.node(&[]).await.unwrap();
    let journal = store::read(target.state()).unwrap();
    let shown = text::report(&node, &journal, false).unwrap();
    for line in [
        "topology     2 sockets, 2 dies, 8 cores, CPUs 0-15, SMT on",
        "frequencies  CPUs 0,4,8,12: intel_pstate, powersave, 800 to 3400 MHz, preference balance_performance",
        "frequencies  turbo on",
        "idle         CPUs 1-3,5-7,9-11,13-15: intel_idle, POLL 0 µs, C1 1 µs, C1E 2 µs, C6 290 µs off",
    ] {
        assert!(shown.lines().any(|other| other == line), "{line:?} is missing in\n{shown}");
    }
    assert!(shown.ends_with("profile      dpdk-router, 98 values changed\n"), "{shown}");
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_anything_is_done() {
    let (_directory, mut target) = machine("vm");
    let before = picture(&mut target).await;
    let error = target.apply(&thorough(), &mut Vec::new()).await.unwrap_err();
    assert!(error.is::<node_tuner_core::plan::Refused>());
    assert!(error.to_string().starts_with("cpus.reserved_cores = 1: NUMA node 0 has 1"), "{error}");
    assert_eq!(picture(&mut target).await, before);
}

/// Machine and log stop working at one step, as if the program were killed there.
struct Cut<T>(T, std::rc::Rc<std::cell::Cell<usize>>);

impl<T> Cut<T> {
    fn step(&self) -> Result<(), Fault> {
        let left = self.1.get();
        self.1.set(left.saturating_sub(1));
        if left == 0 { Err(Fault::Failed("cut off".into())) } else { Ok(()) }
    }
}

impl<T: Machine> Machine for Cut<T> {
    fn read(&mut self, knob: &Knob) -> Result<Option<String>, Fault> {
        self.step()?;
        self.0.read(knob)
    }

    fn write(&mut self, knob: &Knob, value: Option<&str>) -> Result<(), Fault> {
        self.step()?;
        self.0.write(knob, value)
    }
}

impl<T: Log> Log for Cut<T> {
    fn append(&mut self, record: &Record) -> Result<(), Fault> {
        self.step()?;
        self.0.append(record)
    }
}

#[tokio::test]
async fn a_cut_at_every_step_is_mended_from_the_files() {
    let (_directory, mut target) = machine("two-sockets");
    let before = picture(&mut target).await;
    let profile = thorough();
    let (node, plan) = target.plan(&profile, &BTreeMap::new()).await.unwrap();
    // The rare and the frequent kinds: the first of each area.
    let mut areas = std::collections::BTreeSet::new();
    let items = plan.items.iter().filter(|item| item.area == "handover" || areas.insert(item.area));
    let changes: Vec<Change> = items.filter_map(|item| item.change.clone()).collect();
    assert!(changes.len() > 6);
    let mut finished = false;
    for at in 0.. {
        let left = std::rc::Rc::new(std::cell::Cell::new(at));
        let (store, mut journal) = Store::open(target.state()).unwrap();
        let mut log = Cut(store, std::rc::Rc::clone(&left));
        let mut knobs = Cut(target.knobs(), left);
        let outcome =
            engine::apply(&changes, &boot_id(&node), "x", &mut journal, &mut knobs, &mut log);
        finished = outcome.is_good();
        drop((knobs, log));
        // Every other time it is applied once more before it is reverted.
        if at % 2 == 0 {
            target.apply(&profile, &mut Vec::new()).await.unwrap();
            let (_, plan) = target.plan(&profile, &BTreeMap::new()).await.unwrap();
            assert_eq!(plan.changes().count(), 0, "{at}");
        }
        target.revert(&mut Vec::new()).await.unwrap();
        assert_eq!(picture(&mut target).await, before, "{at}");
        if finished {
            break;
        }
    }
    assert!(finished);
}
