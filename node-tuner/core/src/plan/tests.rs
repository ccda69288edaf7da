//! What profiles make of machines of several shapes, and what is refused.

use std::path::Path;

use super::*;
use crate::shapes::{self, SHAPES};

pub(crate) fn profile(text: &str) -> NodeProfile {
    let text = format!("version = 1\nname = \"x\"\n{text}");
    NodeProfile::from_toml(&text, Path::new("x.toml")).unwrap()
}

pub(crate) fn shipped(name: &str) -> NodeProfile {
    let (_, text) = ringway_config::PROFILES.iter().find(|(known, _)| *known == name).unwrap();
    NodeProfile::from_toml(text, Path::new(name)).unwrap()
}

/// The files of a shape that a plan for `profile` looks at are those of the shape.
pub(crate) fn planned(observed: &Observed, profile: &NodeProfile) -> Result<Plan, Refused> {
    plan(observed, &Node::parse(observed).unwrap(), profile, &BTreeMap::new())
}

fn of(shape: &str, text: &str) -> Plan {
    planned(&shapes::observed(shape), &profile(text)).unwrap()
}

/// Each item as `what: current -> wanted [state]`, the common prefix of paths left out.
fn lines(plan: &Plan) -> Vec<String> {
    let line = |item: &Item| {
        let state = match &item.state {
            State::Done => "done".to_owned(),
            State::Change => "change".to_owned(),
            State::ChangeForNextStart(who) => format!("for {who}"),
            State::WhileAgentRuns => "agent".to_owned(),
            State::NeedsReboot => "reboot".to_owned(),
            State::NotApplicable(why) => format!("not applicable: {why}"),
        };
        let what = item.what.replace("/sys/devices/system/", "");
        let current = item.current.as_deref().unwrap_or("-");
        format!("{what}: {current} -> {} [{state}]", item.wanted)
    };
    plan.items.iter().map(line).collect()
}

fn check(shape: &str, text: &str, expected: &[&str]) {
    assert_eq!(lines(&of(shape, text)), expected, "{shape}");
}

fn refused(shape: &str, text: &str) -> Vec<String> {
    let refusals = planned(&shapes::observed(shape), &profile(text)).unwrap_err().0;
    refusals.iter().map(ToString::to_string).collect()
}

#[test]
fn hugepages_by_formula() {
    let rule = "[[hugepages]]\nsize = \"2Mi\"\namount = \"10%\"";
    check(
        "two-sockets",
        rule,
        &[
            "node/node0/hugepages/hugepages-2048kB/nr_hugepages: 512 -> 6400 [change]",
            "node/node1/hugepages/hugepages-2048kB/nr_hugepages: 0 -> 6400 [change]",
        ],
    );
    // Memory-only nodes only when they are named.
    check("cxl", rule, &["node/node0/hugepages/hugepages-2048kB/nr_hugepages: 0 -> 3200 [change]"]);
    let named = "[[hugepages]]\nsize = \"1Gi\"\namount = \"8Gi\"\nnodes = \"1\"";
    check(
        "cxl",
        named,
        &["node/node1/hugepages/hugepages-1048576kB/nr_hugepages: 0 -> 8 [change]"],
    );
    check(
        "arm",
        "[[hugepages]]\nsize = \"32Mi\"\namount = \"100 pages\"",
        &["node/node0/hugepages/hugepages-32768kB/nr_hugepages: 0 -> 100 [change]"],
    );
    // The later rule wins; 3 pages of 4 are in use.
    let rules = "[[hugepages]]\nsize = \"1Gi\"\namount = \"1 pages\"\n\
                 [[hugepages]]\nsize = \"1Gi\"\namount = \"2 pages\"\nnodes = \"2\"";
    let plan = of("four-nodes", rules);
    assert_eq!(
        lines(&plan)[2],
        "node/node2/hugepages/hugepages-1048576kB/nr_hugepages: 8 -> 5 [change]"
    );
    assert_eq!(
        plan.notes,
        ["NUMA node 2 keeps 5 pages of 1Gi that are in use, although 2 are wanted"]
    );
    // Nothing of the kind.
    let plan = of("bare", rule);
    assert!(lines(&plan)[0].contains("does not say how much memory"), "{plan:?}");
    let plan = of("bare", "[[hugepages]]\nsize = \"2Mi\"\namount = \"4 pages\"");
    assert!(lines(&plan)[0].ends_with("[not applicable: this kernel or machine does not have it]"));
}

#[test]
fn too_many_hugepages_are_refused() {
    assert_eq!(
        refused("arm", "[[hugepages]]\nsize = \"2Mi\"\namount = \"60%\""),
        [
            "hugepages[0].amount = 60%: would make 19200 MiB of NUMA node 0's 32000 MiB hugepages, all sizes together; \
         at most 16000 MiB (limits.hugepage_percent = 50) may be"
        ]
    );
    // Each is little enough, together they are not; pages that no rule mentions count, too.
    let both = "[[hugepages]]\nsize = \"1Gi\"\namount = \"20%\"\n[[hugepages]]\nsize = \"2Mi\"\namount = \"40%\"";
    assert_eq!(refused("cxl", both).len(), 1);
    let few = "[limits]\nhugepage_percent = 1\n[[hugepages]]\nsize = \"2Mi\"\namount = \"64Mi\"\nnodes = \"2\"";
    assert_eq!(refused("four-nodes", few).len(), 1);
    assert_eq!(
        refused("vm", "[[hugepages]]\nsize = \"2Mi\"\namount = \"1%\"\nnodes = \"0-1\""),
        [
            "hugepages[0].nodes = 0-1: there is no NUMA node 1 here; name existing ones, or none for all"
        ]
    );
}

#[test]
fn memory_and_sysctls() {
    check(
        "two-sockets",
        "[memory]\ntransparent_hugepages = \"madvise\"\nnuma_balancing = false\n[sysctls]\n\"vm.swappiness\" = 60\n\
         \"net.core.netdev_max_backlog\" = 5000",
        &[
            "/sys/kernel/mm/transparent_hugepage/enabled: always -> madvise [change]",
            "/proc/sys/kernel/numa_balancing: 1 -> 0 [change]",
            "/proc/sys/net/core/netdev_max_backlog: 1000 -> 5000 [change]",
            "/proc/sys/vm/swappiness: 60 -> 60 [done]",
        ],
    );
    let absent = "[not applicable: this kernel or machine does not have it]";
    check(
        "bare",
        "[memory]\ntransparent_hugepages = \"never\"\nnuma_balancing = false",
        &[
            &format!("/sys/kernel/mm/transparent_hugepage/enabled: - -> never {absent}"),
            &format!("/proc/sys/kernel/numa_balancing: - -> 0 {absent}"),
        ],
    );
}

#[test]
fn interrupts_leave_data_cpus() {
    let cpus = "[cpus]\nreserved_cores = 1\nvrouter_cores = 1\n[irqs]\nkeep_off_data_cpus = true\n";
    let plan = of("two-sockets", cpus);
    let lines = lines(&plan);
    assert_eq!(lines[0], "/proc/irq/default_smp_affinity: 0-15 -> 0,4,8,12 [change]");
    assert_eq!(lines[1], "/proc/irq/9/smp_affinity_list: 0-15 -> 0,4,8,12 [change]");
    assert_eq!(lines.len(), 2 + 16);
    // An interrupt that is on data CPUs only goes to the reserved ones of its card's NUMA node.
    let mut observed = shapes::observed("two-sockets");
    observed.tree.file("proc/irq/120/smp_affinity_list", "2");
    observed.tree.file("proc/irq/140/smp_affinity_list", "2\n");
    observed.tree.file("proc/irq/141/smp_affinity_list", "4\n");
    let plan = planned(&observed, &profile(cpus)).unwrap();
    let wanted = |irq: &str| {
        let item = plan.items.iter().find(|item| item.what.contains(irq)).unwrap();
        (item.wanted.clone(), item.state.clone())
    };
    assert_eq!(wanted("/120/"), ("0,8".to_owned(), State::Change));
    assert_eq!(wanted("/140/"), ("4,12".to_owned(), State::Change));
    assert_eq!(wanted("/141/"), ("4".to_owned(), State::Done));
    // What the kernel has refused once is not asked again.
    let knob = Knob::attribute("proc/irq/9/smp_affinity_list", Form::List);
    let refused = BTreeMap::from([(knob, "managed".to_owned())]);
    let node = Node::parse(&observed).unwrap();
    let plan = super::plan(&observed, &node, &profile(cpus), &refused).unwrap();
    assert_eq!(plan.items[1].state, State::NotApplicable("managed".into()));
    assert!(plan.changes().all(|change| !change.knob.to_string().contains("/9/")));
}

#[test]
fn keeping_off_needs_cpus_that_are_kept_off_to() {
    let all = refused(
        "arm",
        "[irqs]\nkeep_off_data_cpus = true\n[steering]\nrps = \"reserved\"\n[kernel]\nisolate = \"data\"",
    );
    assert_eq!(
        all[0],
        "irqs.keep_off_data_cpus = set: needs CPUs for the system; set cpus.reserved_cores to 1 or more"
    );
    assert_eq!(all.len(), 3);
    let all = refused("arm", "[cpus]\nreserved_cores = 8");
    assert!(all[0].starts_with("cpus.reserved_cores = 8: NUMA node 0 has 8 cores"), "{all:?}");
}

#[test]
fn steering_and_workqueues() {
    let rules = "[cpus]\nreserved_cores = 2\n[irqs]\nworkqueues_off_data_cpus = true\n\
                 [steering]\nrps = \"reserved\"\nxps = \"off\"";
    let plan = of("bare", rules);
    let absent = "[not applicable: this kernel or machine does not have it]";
    assert_eq!(
        lines(&plan),
        [
            &format!("/sys/devices/virtual/workqueue/cpumask: - -> 0-1 {absent}"),
            &format!("/sys/devices/virtual/workqueue/writeback/cpumask: - -> 0-1 {absent}"),
            "/sys/class/net/eth0/queues/rx-0/rps_cpus:  -> 0-1 [change]",
            "/sys/class/net/eth0/queues/tx-0/xps_cpus: - ->  [not applicable: the interface has one send queue]",
        ]
    );
    // Interfaces without hardware only by name.
    let plan = of("four-nodes", &rules.replace("= 2", "= 1"));
    assert!(!plan.items.iter().any(|item| item.what.contains("vxlan0")));
    assert_eq!(plan.items.iter().filter(|item| item.what.contains("eno1")).count(), 4);
}

#[test]
fn rings_queues_and_offloads() {
    let rules = "[cpus]\nreserved_cores = 1\n[[nics]]\nrx_ring = 4096\nqueues = \"reserved\"\n\
                 [nics.offloads]\nrx-gro = false\nrx-lro = true\nrx-fcs = true\n\
                 [[nics]]\nnames = [\"ens1*\"]\nrx_ring = \"max\"\n[[nics]]\ndrivers = [\"igb\"]\ntx_ring = \"max\"";
    check(
        "two-sockets",
        rules,
        &[
            "ens1f0 combined queues: 8 -> 2 [change]",
            "ens1f0 rx ring: 2048 -> 8160 [change]",
            "ens1f0 rx-fcs: - -> on [not applicable: the interface does not have it]",
            "ens1f0 rx-gro: on -> off [change]",
            "ens1f0 rx-lro: - -> on [not applicable: the driver has fixed it to off]",
            "ens5f0 combined queues: 8 -> 2 [change]",
            "ens5f0 rx ring: - -> 4096 [not applicable: the driver has none that can be set]",
            "ens5f0 rx-fcs: - -> on [not applicable: the interface does not have it]",
            "ens5f0 rx-gro: on -> off [change]",
            "ens5f0 rx-lro: - -> on [not applicable: the driver has fixed it to off]",
        ],
    );
    assert_eq!(
        refused("two-sockets", "[[nics]]\nrx_ring = 9000"),
        [
            "nics[0].rx_ring = 9000: ens1f0 rx ring: the driver has at most 8160; say \"max\" or less"
        ]
    );
}

#[test]
fn a_ring_that_may_grow_is_right_within_its_bounds() {
    let rules = |ring: &str| format!("[[nics]]\nnames = [\"ens1f0\"]\n{ring}");
    for (ring, told, bounds) in [
        ("rx_ring = 512\nrx_ring_max = 4096", "2048 -> 2048 [done]", (512, 2048, 4096)),
        ("rx_ring = 4096\nrx_ring_max = \"max\"", "2048 -> 4096 [change]", (4096, 4096, 8160)),
        ("rx_ring = 512\nrx_ring_max = 1024", "2048 -> 1024 [change]", (512, 1024, 1024)),
    ] {
        let plan = of("two-sockets", &rules(ring));
        assert_eq!(lines(&plan), [format!("ens1f0 rx ring: {told}")]);
        let [Span { nic, now, least, most, drops: 17 }] = &plan.rings[..] else {
            panic!("{:?}", plan.rings)
        };
        assert_eq!((nic.as_str(), (*least, *now, *most)), ("ens1f0", bounds));
    }
    let told = refused("two-sockets", &rules("rx_ring = 512\nrx_ring_max = 9000"));
    assert!(told[0].starts_with("nics[0].rx_ring_max = 9000: ens1f0 rx ring: the driver has at"));
    // No rings, or no counter: nothing to follow.
    let other = "[[nics]]\nnames = [\"ens5f0\"]\nrx_ring = 512\nrx_ring_max = \"max\"";
    let plan = of("two-sockets", other);
    assert!(plan.rings.is_empty());
    assert_eq!(
        lines(&plan),
        ["ens5f0 rx ring: - -> 512 [not applicable: the driver has none that can be set]"]
    );
}

#[test]
fn frequencies_and_idle_states() {
    let plan = of(
        "two-sockets",
        "[power]\ngovernor = \"performance\"\nenergy_preference = \"performance\"\n\
                  min_frequency_percent = 100\nturbo = false\nmax_idle_exit_us = 30\nmax_latency_us = 5",
    );
    assert_eq!(
        lines(&plan)[..5],
        [
            "cpu/intel_pstate/no_turbo: 0 -> 1 [change]",
            "cpu/cpu0/cpufreq/energy_performance_preference: balance_performance -> performance [change]",
            "cpu/cpu0/cpufreq/scaling_governor: powersave -> performance [change]",
            "cpu/cpu0/cpufreq/scaling_min_freq: 800000 -> 3400000 [change]",
            "cpu/cpu1/cpufreq/energy_performance_preference: balance_performance -> performance [change]",
        ]
    );
    assert!(lines(&plan).contains(&"cpu/cpu7/cpuidle/state3/disable: 0 -> 1 [change]".to_owned()));
    assert!(!lines(&plan).iter().any(|line| line.contains("state2")));
    assert_eq!(lines(&plan).last().unwrap(), "/dev/cpu_dma_latency: - -> 5 µs [agent]");
    assert_eq!(plan.max_latency_us, Some(5));

    // Without cpufreq nothing is said to be done.
    for shape in ["vm", "arm", "bare"] {
        let plan = of(shape, "[power]\ngovernor = \"performance\"\nturbo = true");
        assert!(plan.changes().next().is_none());
        assert!(plan.items.iter().all(|item| matches!(item.state, State::NotApplicable(_))));
    }
    let plan = of("two-sockets", "[power]\ngovernor = \"ondemand\"");
    assert!(
        lines(&plan)[0].ends_with("[not applicable: intel_pstate offers performance, powersave]")
    );
    let told = refused(
        "two-sockets",
        "[power]\ngovernor = \"performance\"\nenergy_preference = \"power\"",
    );
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("change one of the two"), "{told:?}");
    // Data CPUs only; on the way up the upper limit goes first, on the way down the lower one.
    let limits = "[cpus]\nreserved_cores = 4\n[power]\ncpus = \"data\"\nmin_frequency_percent = 50\nmax_frequency_percent = 50";
    let down = of("hybrid", limits);
    assert_eq!(
        lines(&down)[..2],
        [
            "cpu/cpu0/cpufreq/scaling_min_freq: 400000 -> 2200000 [change]",
            "cpu/cpu0/cpufreq/scaling_max_freq: 4400000 -> 2200000 [change]",
        ]
    );
    assert!(!down.items.iter().any(|item| item.what.contains("cpu9")));
}

#[test]
fn the_command_line_is_proposed_with_the_whole_line() {
    let rules = "[cpus]\nreserved_cores = 1\n[[hugepages]]\nsize = \"1Gi\"\namount = \"10%\"\n\
                 [kernel]\nisolate = \"data\"\nnohz_full = true\nrcu_nocbs = true\nirqaffinity = true\n\
                 iommu_passthrough = true\nboot_hugepages = true\nextra = [\"skew_tick=1\"]";
    let plan = of("two-sockets", rules);
    let data = "1-3,5-7,9-11,13-15";
    let boot = plan.boot.clone().unwrap();
    assert_eq!(boot.file, "/etc/default/grub");
    assert_eq!(boot.command, "update-grub");
    assert_eq!(
        boot.line,
        format!(
            "GRUB_CMDLINE_LINUX=\"isolcpus=managed_irq,domain,{data} nohz_full={data} rcu_nocbs={data} \
             irqaffinity=0,4,8,12 intel_iommu=on iommu=pt hugepagesz=1G hugepages=0:12,1:12 skew_tick=1\""
        )
    );
    assert!(!boot.missing.contains(&"intel_iommu=on".to_owned()));
    // They are left to the next boot: nothing is tried now.
    assert!(plan.changes().next().is_none(), "{plan:?}");

    let boot = of(
        "arm",
        "[cpus]\nreserved_cores = 1\n[kernel]\nisolate = \"data\"\niommu_passthrough = true",
    )
    .boot
    .unwrap();
    assert_eq!(boot.file, "/boot/loader/entries/6.6.30.conf");
    assert_eq!(
        boot.line,
        "options root=PARTUUID=aa-02 rw console=ttyAMA0 isolcpus=managed_irq,domain,1-7 iommu.passthrough=1"
    );
    let plan = of("vm", "[kernel]\niommu_passthrough = true");
    assert_eq!(
        lines(&plan),
        ["command line iommu: - -> passthrough [not applicable: the machine has no IOMMU]"]
    );
    assert_eq!(plan.boot, None);
    // Another set than the kernel was started with; on a machine whose loader nobody knows.
    let plan = of(
        "four-nodes",
        "[cpus]\nreserved_cores = 1\n[kernel]\nisolate = \"data\"\niommu_passthrough = true",
    );
    assert_eq!(
        lines(&plan),
        [
            "command line isolcpus: isolcpus=managed_irq,domain,6-7 -> isolcpus=managed_irq,domain,2-3,6-7,10-11,14-15 [reboot]",
            "command line iommu: iommu=pt -> iommu=pt [done]",
        ]
    );
    assert_eq!(plan.boot.unwrap().file, "");
    // Slow cores are reserved here, so the boot CPU is a data CPU; it keeps its tick.
    let plan = of("hybrid", "[cpus]\nreserved_cores = 1\n[kernel]\nnohz_full = true");
    assert_eq!(plan.items[0].wanted, "nohz_full=1-7,9-11");
    // Those of the vRouter only, where it has any.
    let plan = of(
        "hybrid",
        "[cpus]\nreserved_cores = 1\nvrouter_cores = 1\n[kernel]\nisolate = \"vrouter\"",
    );
    assert_eq!(plan.items[0].wanted, "isolcpus=managed_irq,domain,0-1");
    let plan = of("hybrid", "[cpus]\nreserved_cores = 1\n[kernel]\nisolate = \"vrouter\"");
    assert!(plan.items.is_empty() && plan.boot.is_none());
    // All there: nothing to propose.
    let mut observed = shapes::observed("arm");
    observed.tree.file("proc/cmdline", "root=x isolcpus=managed_irq,domain,1-7\n");
    let plan =
        planned(&observed, &profile("[cpus]\nreserved_cores = 1\n[kernel]\nisolate = \"data\""))
            .unwrap();
    assert_eq!((plan.boot, &plan.items[0].state), (None, &State::Done));
}

#[test]
fn cpu_sets_are_handed_over() {
    let rules = "[cpus]\nreserved_cores = 1\nvrouter_cores = 1\n[handover]\nvrouter = true\nnri = true\nkubelet = true";
    let plan = of("two-sockets", rules);
    assert_eq!(
        lines(&plan),
        [
            "/etc/ringway/vrouter.toml workers.cpus: [1] -> [1, 5, 9, 13] [for ringway-vrouter]",
            "/etc/ringway/nri.toml cpus.reserved: - -> \"0,4,8,12\" [for ringway-nri]",
            "/etc/kubernetes/kubelet.conf.d/60-ringway.conf: - -> reservedSystemCPUs: \"0-1,4-5,8-9,12-13\" [for kubelet]",
        ]
    );
    let texts: Vec<&str> = plan.changes().map(|change| change.value.as_str()).collect();
    assert_eq!(
        texts[0],
        "# The operator's own words stay.\n[workers]\ncpus = [1, 5, 9, 13] # by hand\nidle_spin_us = 50\n"
    );
    assert_eq!(texts[1], "log = \"info\"\n\n[cpus]\nreserved = \"0,4,8,12\"\n");
    read_by_daemons(texts[0], texts[1]);
    // No file, no directory: nothing is made.
    let plan = of("arm", rules);
    assert!(plan.changes().next().is_none());
    assert_eq!(plan.items.len(), 3);
    // A file that the daemon would refuse is left to its owner.
    let mut observed = shapes::observed("two-sockets");
    observed.tree.file("etc/ringway/nri.toml", "[cpu]\n");
    let plan = planned(&observed, &profile(rules)).unwrap();
    assert!(
        lines(&plan)[1].contains("not applicable: /etc/ringway/nri.toml:1: unknown key `cpu`"),
        "{plan:?}"
    );
}

#[test]
fn kubelets_managers_are_set_where_a_profile_asks_and_its_state_is_the_operators() {
    let rules = "[cpus]\nreserved_cores = 1\n[handover]\nkubelet = true\n[handover.kubelet_managers]\n\
                 cpu = \"static\"\ntopology = \"single-numa-node\"\nmemory = \"static\"\nreserved_memory = \"1536Mi\"";
    let lines_of = "reservedSystemCPUs: \"0,4,8,12\"; cpuManagerPolicy: static; topologyManagerPolicy: single-numa-node; \
                    memoryManagerPolicy: Static; reservedMemory: [{numaNode: 0, limits: {memory: \"1536Mi\"}}]";
    let file = "etc/kubernetes/kubelet.conf.d/60-ringway.conf";
    let mut observed = shapes::observed("two-sockets");
    let plan = planned(&observed, &profile(rules)).unwrap();
    assert_eq!(lines(&plan), [format!("/{file}: - -> {lines_of} [for kubelet]")]);
    assert!(plan.notes.is_empty(), "a kubelet that was never started");
    let text = plan.changes().next().unwrap().value.clone();
    assert!(text.ends_with("limits: {memory: \"1536Mi\"}}]\n"), "{text}");
    // One that has given CPUs already would not start: that is said, and nothing is deleted.
    observed.tree.file("var/lib/kubelet/cpu_manager_state", "{}");
    let plan = planned(&observed, &profile(rules)).unwrap();
    assert_eq!(plan.changes().count(), 1);
    assert_eq!(plan.notes.len(), 1);
    assert!(plan.notes[0].contains("delete that file"), "{:?}", plan.notes);
    // As it is wanted: nothing to say.
    observed.tree.file(file, &text);
    let plan = planned(&observed, &profile(rules)).unwrap();
    assert_eq!(lines(&plan), [format!("/{file}: {lines_of} -> {lines_of} [done]")]);
    assert!(plan.notes.is_empty());
}

/// The daemons read what was written.
fn read_by_daemons(vrouter: &str, nri: &str) {
    let file = Path::new("x.toml");
    let vrouter = ringway_config::VrouterConfig::from_toml(vrouter, file).unwrap();
    assert_eq!(vrouter.workers.cpus, [1, 5, 9, 13]);
    let nri = ringway_config::NriConfig::from_toml(nri, file).unwrap();
    assert_eq!(nri.cpus.reserved, "0,4,8,12");
}

#[test]
fn shipped_profiles_fit_or_say_why_not() {
    for (name, _) in ringway_config::PROFILES {
        for (shape, _) in SHAPES {
            match planned(&shapes::observed(shape), &shipped(name)) {
                Ok(plan) => assert!(plan.items.len() > 2, "{name} on {shape}: {plan:?}"),
                Err(refused) => {
                    assert_eq!(shape, "vm", "{name}: {refused}");
                    assert!(refused.to_string().contains("split_cores = true"), "{refused}");
                }
            }
        }
    }
}

#[test]
fn files_beside_the_usual_ones() {
    let files = files(&profile(
        "[sysctls]\n\"net.ipv4.tcp_rmem\" = \"4096 87380 6291456\"\n[handover]\nnri_file = \"/srv/n.toml\"",
    ));
    assert_eq!(files[0], "proc/sys/net/ipv4/tcp_rmem");
    assert!(files.contains(&"srv/n.toml".to_owned()));
    assert!(files.contains(&"etc/kubernetes/kubelet.conf.d/60-ringway.conf".to_owned()));
}
