//! Machines of several shapes are understood, and nonsense is named.

use super::*;
use crate::shapes::{SHAPES, node, observed};

#[test]
fn processors() {
    let of = |name: &str| {
        let cpu = node(name).cpu;
        (cpu.vendor.unwrap(), cpu.sockets, cpu.dies, cpu.cores.len(), cpu.online.len(), cpu.smt)
    };
    assert_eq!(of("vm"), ("AuthenticAMD".into(), 1, 1, 1, 2, true));
    assert_eq!(of("two-sockets"), ("GenuineIntel".into(), 2, 2, 8, 16, true));
    assert_eq!(of("four-nodes"), ("AuthenticAMD".into(), 1, 1, 8, 16, true));
    assert_eq!(of("arm"), ("ARM".into(), 1, 1, 8, 8, false));
    assert_eq!(of("hybrid"), ("GenuineIntel".into(), 1, 1, 8, 12, true));
    assert_eq!(of("bare"), ("ARM".into(), 1, 1, 4, 4, false));

    let cpu = node("bare").cpu;
    assert_eq!(cpu.model.as_deref(), Some("Single Board Rev 1.4"));
    assert!(cpu.flags.contains(&"crc32".to_owned()));
    let cpu = node("two-sockets").cpu;
    assert_eq!(cpu.cores[5].cpus.to_string(), "5,13");
    assert_eq!((cpu.cores[5].socket, cpu.cores[5].numa), (1, 1));
    assert_eq!(cpu.cores[5].last_cache.to_string(), "4-7,12-15");
    // Eight cores with a cache of their own at levels 1 and 2, two caches at level 3.
    assert_eq!(cpu.caches.iter().filter(|cache| cache.level == 3).count(), 2);
    assert_eq!(cpu.caches.len(), 8 + 8 + 2);
    let slow: Vec<_> =
        node("hybrid").cpu.cores.into_iter().filter(|core| core.kind == CoreKind::Slow).collect();
    assert_eq!(slow.len(), 4);
    assert_eq!(slow[0].cpus.to_string(), "8");
}

#[test]
fn memory_and_hugepages() {
    let numa = node("two-sockets").numa;
    assert_eq!(numa[0].cpus.to_string(), "0-3,8-11");
    assert_eq!(numa[1].distances, BTreeMap::from([(0, 21), (1, 10)]));
    assert_eq!(numa[0].memory, Some(131_072_000 * 1024));
    assert_eq!(numa[0].hugepages[&(2 << 20)], HugepagePool { total: 512, free: 512 });
    let numa = node("four-nodes").numa;
    assert_eq!(numa[2].hugepages[&(1 << 30)], HugepagePool { total: 8, free: 3 });
    assert_eq!(node("arm").numa[0].hugepages.len(), 4);
    let numa = node("cxl").numa;
    assert!(numa[1].cpus.is_empty() && numa[1].memory.unwrap() > numa[0].memory.unwrap());
    let bare = node("bare");
    assert_eq!((bare.numa.len(), bare.numa[0].memory, bare.numa[0].cpus.len()), (1, None, 4));
    assert_eq!(bare.memory.transparent_hugepages, None);
    assert_eq!(node("vm").memory.transparent_hugepages.as_deref(), Some("madvise"));
    assert_eq!(node("cxl").memory.numa_balancing.as_deref(), Some("2"));
}

#[test]
fn network_cards_and_interrupts() {
    let nics = node("two-sockets").nics;
    let nic = &nics[0];
    assert_eq!(nic.name.as_deref(), Some("ens1f0"));
    assert_eq!((nic.pci.as_deref(), nic.numa), (Some("0000:18:00.0"), Some(0)));
    assert_eq!((nic.driver.as_deref(), nic.speed), (Some("ice"), Some(100_000)));
    assert_eq!(nic.model.as_deref(), Some("8086:1592"));
    assert_eq!((nic.virtual_functions, nic.virtual_functions_max), (Some(0), Some(256)));
    assert_eq!(nic.irqs, (120..128).collect::<Vec<_>>());
    assert_eq!((nic.rps.len(), nic.xps.len()), (8, 8));
    assert_eq!(nic.ethtool.rings.unwrap().rx_max, 8160);

    // virtio: the PCI function is the parent's, -1 is no NUMA node and no speed; the loopback is left out.
    let vm = node("vm");
    let [nic] = vm.nics.as_slice() else { panic!("{:?}", vm.nics) };
    assert_eq!((nic.pci.as_deref(), nic.numa, nic.speed), (Some("0000:00:03.0"), None, None));
    assert_eq!(nic.irqs, [38]);
    assert_eq!(vm.irqs[0].name, "IR-PCI-MSIX-0000:18:00.0 0-edge ACPI:Ged");

    let nics = node("four-nodes").nics;
    let names: Vec<_> = nics.iter().map(|nic| nic.name.as_deref()).collect();
    assert_eq!(names, [Some("eno1"), Some("vxlan0"), None]);
    assert_eq!((nics[2].driver.as_deref(), nics[2].numa), (Some("vfio-pci"), Some(2)));
    assert!(!nics[1].physical && nics[2].physical);

    // Not on PCI: its interrupt is known by its name.
    let nics = node("bare").nics;
    assert_eq!((nics[0].irqs.as_slice(), nics[0].pci.as_deref()), (&[41][..], None));
    // A device with one send queue has no XPS.
    assert_eq!((nics[0].rps.len(), nics[0].xps.len()), (1, 0));
}

#[test]
fn kernel_power_and_services() {
    let four = node("four-nodes");
    assert_eq!(four.kernel.isolated.to_string(), "6-7");
    assert_eq!(four.kernel.rcu_nocbs.to_string(), "6-7");
    assert_eq!(four.kernel.iommu, "passthrough");
    assert_eq!(four.kernel.boot_loader, BootLoader::Unknown);
    assert_eq!(four.services.runtimes, [Runtime::Crio]);
    let two = node("two-sockets");
    assert_eq!(two.kernel.iommu, "translated");
    assert_eq!(two.kernel.cgroup_version, Some(2));
    assert_eq!(two.kernel.boot_loader, BootLoader::Grub { arguments: "intel_iommu=on".into() });
    assert!(two.services.nri && two.services.runtimes == [Runtime::Containerd]);
    assert_eq!(two.power.turbo, Some(true));
    assert_eq!(two.power.frequencies[&3].hardware_max, 3_400_000);
    assert_eq!(two.power.idle_states[&3][3].exit_us, 290);
    assert_eq!(two.sysctls["vm.swappiness"], "60");
    let arm = node("arm").kernel.boot_loader;
    let BootLoader::SystemdBoot { file, arguments } = arm else { panic!("{arm:?}") };
    assert_eq!(file, "boot/loader/entries/6.6.30.conf");
    assert_eq!(arguments, "root=PARTUUID=aa-02 rw console=ttyAMA0");
    let vm = node("vm");
    assert_eq!((vm.kernel.iommu.as_str(), vm.kernel.cgroup_version), ("none", Some(1)));
    assert!(vm.power.frequencies.is_empty() && vm.power.turbo.is_none());
    assert_eq!(vm.power.idle_driver.as_deref(), Some("haltpoll"));
    assert_eq!(words("a \"b c\"=d  e\n"), ["a", "\"b c\"=d", "e"]);
}

#[test]
fn a_node_comes_back_from_json() {
    for (name, _) in SHAPES {
        let node = node(name);
        let text = serde_json::to_string(&node).unwrap();
        assert_eq!(serde_json::from_str::<Node>(&text).unwrap(), node);
    }
}

#[test]
fn nonsense_is_named() {
    for (file, text, told) in [
        ("sys/devices/system/cpu/online", "x", "/sys/devices/system/cpu/online says \"x\""),
        ("sys/devices/system/cpu/online", "", "not at least one CPU"),
        ("sys/devices/system/node/node0/distance", "10", "one distance for each"),
        ("sys/devices/system/node/node0/meminfo", "?", "a node's meminfo"),
        ("sys/class/net/ens1f0/queues/rx-0/rps_cpus", "q", "a mask of CPUs"),
        ("sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages", "-1", "a number"),
        ("proc/irq/120/smp_affinity_list", "7-3", "a list of CPUs"),
    ] {
        let mut observed = observed("two-sockets");
        observed.tree.file(file, text);
        let error = Node::parse(&observed).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
    let error = Node::parse(&Observed::default()).unwrap_err().to_string();
    assert!(error.contains("online is missing; is the root directory right?"), "{error}");
}

/// Whatever stands in any one file, the answer is a node or one bounded line.
#[test]
fn any_text_in_any_file() {
    let whole = observed("four-nodes");
    let paths: Vec<String> = whole.tree.entries().map(|(path, _)| path.to_owned()).collect();
    bolero::check!().with_type::<(u16, String)>().for_each(|(index, text)| {
        let mut observed = whole.clone();
        observed.tree.file(paths[usize::from(*index) % paths.len()].clone(), text.clone());
        if let Err(error) = Node::parse(&observed) {
            assert!(error.to_string().len() < 1000, "{error}");
        }
    });
}
