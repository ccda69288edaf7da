use std::collections::BTreeMap;

use nri_plugin_core::paths::Slot;
use nri_plugin_core::plan::{Alignment, Cpus};

use super::*;
use crate::record::tests::sample;

fn container(cpu: Option<api::LinuxCpu>, hugepages: &[(&str, u64)]) -> api::Container {
    let limit = |(size, limit): &(&str, u64)| api::HugepageLimit {
        page_size: (*size).into(),
        limit: *limit,
    };
    let resources = api::LinuxResources {
        cpu,
        hugepage_limits: hugepages.iter().map(limit).collect(),
        ..Default::default()
    };
    let linux = api::LinuxContainer {
        resources: Some(resources),
        cgroups_path: "/kubepods/c1".into(),
        ..Default::default()
    };
    api::Container { linux: Some(linux), ..Default::default() }
}

fn allocation(slot: u16) -> Allocation {
    let record = sample("abc");
    Allocation {
        slot: Slot(slot),
        cpus: Cpus::Exclusive("2-3".parse().unwrap()),
        mems: "1".parse().unwrap(),
        node: record.node,
        hugepages: vec![HugepageLimit { size: "2MB".parse().unwrap(), limit: 64 << 20 }],
        interfaces: record.slots[&Slot(slot)].clone(),
        eal_args: "--in-memory".into(),
        placement: Default::default(),
        alignment: Alignment::Aligned,
        notes: Vec::new(),
        updates: Vec::new(),
    }
}

#[test]
fn only_opted_in_pods_are_looked_at() {
    for (key, expected) in [
        ("network.ringway.dev", true),
        ("network.ringway.dev/pod", true),
        ("network.ringway.dev/container.app", true),
        ("interfaces.ringway.dev/pod", true),
        ("network.ringway.devil", false),
        ("cpus.ringway.dev", false),
        ("x/network.ringway.dev", false),
    ] {
        let annotations = BTreeMap::from([(key.to_owned(), "red".to_owned())]);
        let pod = api::PodSandbox { annotations, ..Default::default() };
        assert_eq!(pod_opted_in(&pod), expected, "{key}");
    }
    assert!(!pod_opted_in(&api::PodSandbox::default()));
}

#[test]
fn what_others_chose_is_read_and_left() {
    let cpu = |cpus: &str, mems: &str| {
        let (cpus, mems) = (cpus.to_owned(), mems.to_owned());
        container(Some(api::LinuxCpu { cpus, mems, ..Default::default() }), &[])
    };
    for (cpus, mems, expected) in [
        ("2-3", "1", ("2-3", "1")),
        ("", "0", ("", "0")),
        ("x", "1-", ("", "")),
        ("", "", ("", "")),
    ] {
        let (got_cpus, got_mems) = chosen(&cpu(cpus, mems));
        assert_eq!((got_cpus.to_string().as_str(), got_mems.to_string().as_str()), expected);
    }
    assert_eq!(chosen(&api::Container::default()), Default::default());

    let followed = Allocation {
        cpus: Cpus::Followed { cpus: "2-3".parse().unwrap(), whole: true },
        hugepages: Vec::new(),
        ..allocation(0)
    };
    let wire = adjustment(&cpu("4", "1"), &followed, PathBuf::from("/x")).unwrap().into_wire();
    assert_eq!(wire.linux, None, "nothing is set where others choose");
    assert_eq!((wire.mounts.len(), wire.env.len()), (1, 2));
}

/// The configuration's check and the planner have a parser each; what passes the one is a set for the other.
#[test]
fn reserved_cpus_that_pass_the_check_are_a_set() {
    let parts = [
        "",
        "0",
        "+0",
        "-1",
        "8191",
        "8192",
        "3-5",
        "5-3",
        "1-+2",
        " 1",
        "1 ",
        "0x3",
        "4294967296",
    ];
    let lists = parts.iter().flat_map(|a| parts.iter().map(move |b| [*a, *b].join(",")));
    let mut passed = 0;
    for list in lists.chain(parts.map(str::to_owned)) {
        let text = format!("cpus.reserved = '{list}'");
        if let Ok(config) = NriConfig::from_toml(&text, Path::new("nri.toml")) {
            assert!(reserved(&config).is_ok(), "{list:?}");
            passed += 1;
        }
    }
    // Nothing, three parts, and any two of those.
    assert_eq!(passed, 1 + 3 + 9);
}

#[test]
fn the_policy_is_what_the_file_says() {
    let text = "cpus.mode = 'off'\nlimits = { namespaces = ['a'], unlisted_networks = false, interfaces = 2, queues = 3, \
                cpus = 4, hugepages = '1Gi', mac = false, ip = false }\n[networks.red]\nnamespaces = ['b']";
    let config = NriConfig::from_toml(text, Path::new("nri.toml")).unwrap();
    let names = |name: &str| Patterns::new(vec![name.to_owned()]);
    let expected = Policy {
        namespaces: names("a"),
        networks: BTreeMap::from([("red".to_owned(), names("b"))]),
        unlisted_networks: false,
        interfaces: 2,
        queues: 3,
        cpus: 4,
        hugepages: Some(1 << 30),
        mac: false,
        ip: false,
        cpu_mode: CpuMode::Off,
    };
    assert_eq!(policy(&config), expected);
    assert_eq!(policy(&NriConfig::default()), Policy::default());
}

#[test]
fn a_containers_own_request() {
    let cpu = api::LinuxCpu {
        shares: Some(api::OptionalUInt64 { value: 2048 }),
        quota: Some(api::OptionalInt64 { value: 200_000 }),
        period: None,
        ..Default::default()
    };
    let asked = container(Some(cpu), &[("2MB", 1 << 30), ("1GB", 0), ("3MB", 7), ("", 7)]);
    assert_eq!(cpu_quota(&asked), CpuQuota { shares: 2048, quota: 200_000, period: 0 });
    let limits = hugepage_limits(&asked);
    let limits: Vec<_> = limits.iter().map(|it| (it.size.to_string(), it.limit)).collect();
    assert_eq!(limits, [("2MB".to_owned(), 1 << 30), ("1GB".to_owned(), 0)]);
    assert_eq!(cgroups_path(&asked), "/kubepods/c1");

    let silent = api::Container::default();
    assert_eq!(cpu_quota(&silent), CpuQuota::default());
    assert!(hugepage_limits(&silent).is_empty());
    assert_eq!(cgroups_path(&silent), "");
}

#[test]
fn an_adjustment_says_everything_that_is_new() {
    let bare = container(None, &[("2MB", 0)]);
    let directory = PathBuf::from("/run/ringway/pods/abc/0");
    let wire = adjustment(&bare, &allocation(0), directory).unwrap().into_wire();
    let [mount] = &wire.mounts[..] else { panic!("{wire:?}") };
    assert_eq!(mount.destination, "/run/ringway");
    assert_eq!(mount.source, "/run/ringway/pods/abc/0");
    assert_eq!(mount.options, ["rbind", "rprivate", "ro", "nosuid", "nodev", "noexec"]);
    let env: Vec<_> = wire.env.iter().map(|it| (it.key.as_str(), it.value.as_str())).collect();
    assert_eq!(
        env,
        [
            ("RINGWAY_INTERFACES", "/run/ringway/interfaces.json"),
            ("RINGWAY_EAL_ARGS", "--in-memory")
        ]
    );
    let resources = wire.linux.unwrap().resources.unwrap();
    let cpu = resources.cpu.unwrap();
    assert_eq!((cpu.cpus.as_str(), cpu.mems.as_str()), ("2-3", "1"));
    assert_eq!((cpu.shares, cpu.quota, resources.memory), (None, None, None));
    assert_eq!(
        resources.hugepage_limits,
        [api::HugepageLimit { page_size: "2MB".into(), limit: 64 << 20 }]
    );
}

#[test]
fn an_adjustment_leaves_alone_what_is_right() {
    let cpu = api::LinuxCpu { cpus: "2-3".into(), mems: "1".into(), ..Default::default() };
    let right = container(Some(cpu), &[("2MB", 64 << 20)]);
    let wire = adjustment(&right, &allocation(1), PathBuf::from("/x")).unwrap().into_wire();
    assert_eq!(wire.linux, None);
    // One of its interfaces is the pod's to listen on.
    assert!(wire.mounts[0].options.contains(&"rw".to_owned()));
}

#[test]
fn what_the_vrouter_is() {
    let mut info = v1::Info {
        numa_node: 1,
        workers: vec![v1::Worker { index: 0, cpu: 5 }, v1::Worker { index: 1, cpu: 4 }],
        ..Default::default()
    };
    let workers = "4-5".parse().unwrap();
    let expected = Vrouter { workers, node: Some(NodeId(1)), ..Vrouter::default() };
    assert_eq!(vrouter(&info), expected);
    info.numa_node = -1;
    assert_eq!(vrouter(&info).node, None);
}

#[test]
fn networks_and_what_is_taken_of_them() {
    let red = v1::Network {
        name: "red".into(),
        ipv4: "10.66.0.0/24".into(),
        gateway: "10.66.0.1".into(),
        mtu: 1500,
        gateway_mac: "02:00:00:00:00:01".into(),
        ipv6: "fd00:66::/64".into(),
        gateway6: "fd00:66::1".into(),
        ..Default::default()
    };
    let port = |network: &str, ipv4: &str, mac: &str| v1::Port {
        spec: Some(v1::PortSpec {
            network: network.into(),
            ipv4: ipv4.into(),
            ipv6: ipv4.replace("10.66.0.", "fd00:66::"),
            mac: mac.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let ports = [
        port("red", "10.66.0.9", "02:00:00:00:00:09"),
        port("blue", "10.66.0.8", "02:00:00:00:00:08"),
        v1::Port::default(),
    ];
    let list = networks(std::slice::from_ref(&red), &ports).unwrap();
    let [network] = &list[..] else { panic!("{list:?}") };
    assert_eq!((network.prefix.to_string().as_str(), network.mtu), ("10.66.0.0/24", 1500));
    assert_eq!(network.gateway_mac, Some("02:00:00:00:00:01".parse().unwrap()));
    assert_eq!(network.used_addresses, BTreeSet::from(["10.66.0.9".parse().unwrap()]));
    assert_eq!(network.used_macs, BTreeSet::from(["02:00:00:00:00:09".parse().unwrap()]));

    let ipv6 = network.ipv6.as_ref().unwrap();
    assert_eq!(
        (ipv6.prefix.to_string(), ipv6.gateway.to_string()),
        (red.ipv6.clone(), red.gateway6.clone())
    );
    assert_eq!(ipv6.used_addresses, BTreeSet::from(["fd00:66::9".parse().unwrap()]));
    let four = v1::Network { ipv6: String::new(), gateway6: String::new(), ..red.clone() };
    assert_eq!(networks(&[four], &[]).unwrap()[0].ipv6, None);

    for (change, expected) in [
        (v1::Network { ipv6: "fd00::/x".into(), ..red.clone() }, "\"fd00::/x\" is no IPv6 prefix"),
        (v1::Network { gateway6: "x".into(), ..red.clone() }, "\"x\" is no IPv6 address"),
        (v1::Network { ipv4: "10.66".into(), ..red.clone() }, "\"10.66\""),
        (v1::Network { gateway: String::new(), ..red.clone() }, "\"\" is no IPv4"),
        (v1::Network { gateway_mac: "x".into(), ..red.clone() }, "\"x\""),
    ] {
        let error = networks(&[change], &[]).unwrap_err().to_string();
        assert!(error.contains("network red") && error.contains(expected), "{error}");
    }
}

#[test]
fn a_port_comes_back_as_it_was_made() {
    let record = sample("abc");
    let run_dir = Path::new("/run/ringway");
    let mut count = 0;
    for (id, interface) in record.ports() {
        let wanted = wanted_port(run_dir, &record, &id, interface).unwrap();
        let spec = port_spec(wanted.clone(), "demo", "red-a");
        assert_eq!(spec.interface, interface.name);
        assert_eq!(spec.peer_cgroups.len(), 1);
        assert_eq!((spec.pod_namespace.as_str(), spec.pod_name.as_str()), ("demo", "red-a"));
        assert_eq!(port(v1::Port { spec: Some(spec), ..Default::default() }), Some(wanted));
        count += 1;
    }
    assert_eq!(count, 3);
    let (id, interface) = record.ports().next().unwrap();
    let long = PathBuf::from(format!("/{}", "x".repeat(100)));
    let error = wanted_port(&long, &record, &id, interface).unwrap_err().to_string();
    assert!(error.contains("run_dir"), "{error}");
    assert_eq!(port(v1::Port::default()), None);
}

#[test]
fn an_operators_ports_are_none_of_ours() {
    let hex = "0f".repeat(32);
    for (id, expected) in [
        (format!("{hex}/0/net0"), true),
        (format!("{hex}/12/wan"), true),
        (format!("{hex}/0"), false),
        (format!("{}/0/net0", &hex[1..]), false),
        (format!("{}/0/net0", hex.to_uppercase()), false),
        ("test/0/net0".to_owned(), false),
        ("uplink".to_owned(), false),
    ] {
        let spec = v1::PortSpec {
            id: id.clone(),
            mac: "02:00:00:00:00:01".into(),
            ipv4: "10.0.0.1".into(),
            ..Default::default()
        };
        let wire = v1::Port { spec: Some(spec), ..Default::default() };
        assert_eq!(own_port(wire).is_some(), expected, "{id}");
    }
}

#[test]
fn updates_carry_cpus_only_and_each_container_once() {
    let update = cpuset_update("c1", &"2-3".parse().unwrap(), Some(&"0".parse().unwrap()));
    assert_eq!(update.container_id, "c1");
    let resources = update.linux.unwrap().resources.unwrap();
    let cpu = resources.cpu.unwrap();
    assert_eq!((cpu.cpus.as_str(), cpu.mems.as_str(), cpu.shares), ("2-3", "0", None));
    assert_eq!((resources.memory, resources.hugepage_limits.len()), (None, 0));

    let shared = |id: &str| SharedUpdate {
        sandbox: sample("abc").sandbox,
        container: "app".into(),
        container_id: id.into(),
        cpus: "0".parse().unwrap(),
    };
    let updates = shared_updates(&[shared("a"), shared("b"), shared("a"), shared("me")], "me");
    let ids: Vec<_> = updates.iter().map(|update| update.container_id.as_str()).collect();
    assert_eq!(ids, ["a", "b"]);
}

/// The planner may not depend on `ringway-config`, so both name the keys.
#[test]
fn planner_and_contract_name_the_same_annotations() {
    assert_eq!(nri_plugin_core::annotations::ALL, ringway_config::annotations::ALL);
}
