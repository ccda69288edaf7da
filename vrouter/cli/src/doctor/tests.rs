use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use vrouter_api::v1::{
    BondMember, KernelBridge, KernelPort, Network, Port, PortSpec, PortState, Uplink, UplinkSpec,
};

use super::facts::{Facts, Served};
use super::judge::judge;
use super::{Finding, Status, text};
use crate::args::DoctorArgs;
use crate::view::{Info, Worker};

/// A root directory with these files; a path that ends in `/` is a directory.
fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if path.as_os_str().to_string_lossy().ends_with('/') {
            fs::create_dir_all(path).unwrap();
        } else {
            fs::write(path, text).unwrap();
        }
    }
    root
}

const CPU: (&str, &str) =
    ("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu sse4_2 avx2 constant_tsc\n");
const V2: (&str, &str) =
    ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids\n");

fn served(ports: Vec<Port>) -> Result<Served, String> {
    let info = Info {
        version: "0.1.0".into(),
        dpdk_version: "DPDK 22.11".into(),
        numa_node: None,
        pid: 1,
        instance_id: "x".into(),
        instance: None,
        worker_mode: crate::view::WorkerMode::Adaptive,
        nic_nodes: Vec::new(),
        workers: vec![Worker { index: 0, cpu: 1 }],
    };
    let networks = vec![Network { name: "red".into(), ..Network::default() }];
    Ok(Served { info, networks, uplinks: Vec::new(), ports })
}

fn port(id: &str, cgroup: &str, state: PortState) -> Port {
    let spec = PortSpec { id: id.into(), peer_cgroups: vec![cgroup.into()], ..PortSpec::default() };
    Port { spec: Some(spec), state: state.into(), ..Port::default() }
}

fn look(root: &Path, served: Result<Served, String>) -> Vec<Finding> {
    let doctor = DoctorArgs { repair: false, containerd_config: None, root: root.to_owned() };
    judge(&Facts::gather(&doctor, Path::new("/run/ringway"), vec![served]))
}

/// The findings of one check, as status and text.
fn of<'a>(findings: &'a [Finding], check: &str) -> Vec<(Status, &'a str)> {
    findings.iter().filter(|f| f.check == check).map(|f| (f.status, f.what.as_str())).collect()
}

#[test]
fn a_node_in_order_is_said_to_be() {
    let pages = "sys/devices/system/node/node0/hugepages/hugepages-2048kB";
    let root = machine(&[
        CPU,
        V2,
        ("sys/devices/system/node/node0/cpulist", "0-3\n"),
        (&format!("{pages}/nr_hugepages"), "1024\n"),
        (&format!("{pages}/free_hugepages"), "900\n"),
        ("sys/class/iommu/dmar0", ""),
        ("sys/bus/pci/drivers/vfio-pci/bind", ""),
        ("sys/bus/pci/devices/0000:01:00.0/class", "0x020000\n"),
        ("sys/bus/pci/devices/0000:01:00.0/numa_node", "0\n"),
        ("sys/bus/pci/devices/0000:01:00.0/net/eth0/mtu", "1500\n"),
        ("sys/bus/pci/devices/0000:02:00.0/class", "0x010802\n"),
        ("sys/fs/cgroup/kubepods/pod1/c1/cgroup.procs", "4711\n"),
        ("run/ringway/nri.lock", "77\n"),
        ("proc/77/comm", "ringway-nri\n"),
        ("run/ringway/pods/sandbox1/record.json", "{}"),
    ]);
    let driver = root.path().join("sys/bus/pci/devices/0000:01:00.0/driver");
    symlink("../../../bus/pci/drivers/ixgbe", driver).unwrap();
    let findings = look(
        root.path(),
        served(vec![port("sandbox1/0/net0", "/kubepods/pod1/c1", PortState::Up)]),
    );
    let wrong: Vec<_> = findings.iter().filter(|f| f.status > Status::Note).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(of(&findings, "cpu"), [(Status::Ok, "SSE4.2, AVX2, constant TSC")]);
    assert_eq!(
        of(&findings, "hugepages"),
        [(Status::Ok, "NUMA node 0 (CPUs 0-3): 900 of 1024 free (2 MiB)")]
    );
    assert_eq!(of(&findings, "nics"), [(Status::Ok, "0000:01:00.0 eth0: ixgbe, NUMA node 0")]);
    assert_eq!(of(&findings, "nri"), [(Status::Ok, "ringway-nri runs (process 77)")]);
    assert_eq!(of(&findings, "ports"), [(Status::Ok, "all 1 ports are up")]);
    assert_eq!(
        of(&findings, "leaks"),
        [(Status::Ok, "every port has its pod, every pod its port")]
    );
}

#[test]
fn what_is_wrong_is_named_with_a_remedy() {
    let root = machine(&[
        ("proc/cpuinfo", "flags : fpu sse2\n"),
        ("sys/fs/cgroup/cpu,cpuacct/tasks", ""),
        ("sys/fs/cgroup/cpuset/tasks", ""),
        ("sys/devices/system/node/node0/cpulist", "0-3\n"),
        ("sys/bus/pci/devices/0000:01:00.0/class", "0x020000\n"),
        ("opt/nri/plugins/10-ringway", ""),
        ("opt/nri/plugins/20-balloons", ""),
        ("opt/nri/plugins/README", ""),
        ("etc/systemd/system/multi-user.target.wants/ringway-nri.service", ""),
        ("var/lib/kubelet/cpu_manager_state", r#"{"policyName":"static","defaultCpuSet":"0-3"}"#),
        ("run/containerd/containerd.sock", ""),
        ("run/ringway/nri.lock", "77\n"),
        ("proc/77/comm", "bash\n"),
        ("run/ringway/pods/old/record.json", "{}"),
    ]);
    let driver = root.path().join("sys/bus/pci/devices/0000:01:00.0/driver");
    symlink("../../../bus/pci/drivers/vfio-pci", driver).unwrap();
    let findings =
        look(root.path(), served(vec![port("gone/0/net0", "/kubepods/gone", PortState::Waiting)]));
    let has = |check: &str, status: Status, part: &str| {
        let found = findings.iter().find(|f| f.check == check && f.what.contains(part));
        let found = found.unwrap_or_else(|| panic!("no {check} with {part:?} in {findings:#?}"));
        assert_eq!(found.status, status, "{found:?}");
        assert!(found.remedy.is_some(), "no remedy for {found:?}");
    };
    has("cpu", Status::Failure, "no SSE4.2");
    has("cpu", Status::Warning, "time stamp counter");
    has("hugepages", Status::Failure, "no huge pages");
    has("nics", Status::Failure, "0000:01:00.0: vfio-pci");
    has("cgroups", Status::Warning, "version 1 without the controllers hugetlb");
    has("nri", Status::Failure, "ringway-nri does not run");
    has("plugins", Status::Failure, "README");
    has("plugins", Status::Failure, "both start");
    has("plugins", Status::Note, "20-balloons");
    has("kubelet", Status::Warning, "static");
    has("ports", Status::Warning, "gone/0/net0 is not connected");
    has("leaks", Status::Warning, "port gone/0/net0 belongs");
    has("leaks", Status::Warning, "pod old");
}

#[test]
fn a_cgroup_without_a_process_is_of_a_pod_that_has_ended() {
    const POD: &str = "sys/fs/cgroup/kubepods/pod1";
    for (processes, expected) in [
        // Its own, where containers are below, is empty as a rule.
        ([("cgroup.procs", ""), ("c1/cgroup.procs", ""), ("c2/cgroup.procs", "")], Status::Warning),
        ([("cgroup.procs", ""), ("c1/cgroup.procs", ""), ("c2/cgroup.procs", "7\n")], Status::Ok),
        ([("cgroup.procs", "7\n"), ("c1/cgroup.procs", ""), ("c2/cgroup.procs", "")], Status::Ok),
        // Unreadable, as far as this goes.
        ([("cgroup.procs", ""), ("c1/cgroup.procs", ""), ("c2/tasks", "")], Status::Ok),
    ] {
        let files = processes.map(|(name, text)| (format!("{POD}/{name}"), text));
        let files = files.iter().map(|(name, text)| (name.as_str(), *text));
        let record = ("run/ringway/pods/sandbox1/record.json", "{}");
        let root = machine(&[CPU, V2, record].into_iter().chain(files).collect::<Vec<_>>());
        let port = port("sandbox1/0/net0", "/kubepods/pod1", PortState::Waiting);
        let findings = look(root.path(), served(vec![port]));
        let leaks = of(&findings, "leaks");
        assert_eq!(leaks.len(), 1, "{leaks:?}");
        assert_eq!(leaks[0].0, expected, "{processes:?}: {leaks:?}");
    }
}

#[test]
fn containers_without_their_interfaces_are_failures() {
    let status = r#"{"version": 1, "pods": 0, "unserved": [
        {"namespace": "demo", "pod": "a", "container": "app", "reason": "it has no interfaces"}]}"#;
    let lock = ("run/ringway/nri.lock", "77\n");
    let machine = |status| {
        machine(&[
            CPU,
            V2,
            lock,
            ("proc/77/comm", "ringway-nri\n"),
            ("run/ringway/nri-status.json", status),
        ])
    };
    let findings = look(machine(status).path(), served(Vec::new()));
    assert_eq!(
        of(&findings, "nri"),
        [
            (Status::Ok, "ringway-nri runs (process 77)"),
            (Status::Failure, "demo/a/app: it has no interfaces"),
        ]
    );
    for status in [r#"{"version": 1, "pods": 1, "unserved": []}"#, "{", ""] {
        let findings = look(machine(status).path(), served(Vec::new()));
        assert_eq!(of(&findings, "nri").len(), 1, "{status}");
    }
}

#[test]
fn a_plugin_that_no_runtime_has_taken_in_does_not_count() {
    let look = |status, socket: &'static [(&str, &str)]| {
        let files = [CPU, V2, ("run/ringway/nri.lock", "77\n"), ("proc/77/comm", "ringway-nri\n")];
        let status = [("run/ringway/nri-status.json", status)];
        look(machine(&[&files[..], &status, socket].concat()).path(), served(Vec::new()))
    };
    const RUNS: &[(&str, &str)] = &[("run/containerd/containerd.sock", "")];
    let left = look(r#"{"version": 1, "runtime": null, "unserved": []}"#, RUNS);
    assert_eq!(of(&left, "nri")[0].0, Status::Failure);
    for (status, socket) in [
        // Without containerd there is nobody to take it in.
        (r#"{"version": 1, "runtime": null, "unserved": []}"#, &[][..]),
        (r#"{"version": 1, "runtime": "containerd v2.1.9", "unserved": []}"#, RUNS),
        // As an older plugin writes it.
        (r#"{"version": 1, "unserved": []}"#, RUNS),
    ] {
        let found = look(status, socket);
        assert_eq!(of(&found, "nri"), [(Status::Ok, "ringway-nri runs (process 77)")], "{status}");
    }
}

#[test]
fn a_wire_without_a_link_is_a_failure_unless_its_bond_has_another() {
    let root = machine(&[CPU, V2]);
    let look = |links: &[bool], reason: &str| {
        let spec = UplinkSpec { name: "up0".into(), device: "eth1".into(), ..Default::default() };
        let member = |(number, link): (usize, &bool)| BondMember {
            device: format!("eth{}", number + 1),
            link: *link,
            active: false,
        };
        let uplink = Uplink {
            spec: Some(spec),
            link: links.contains(&true),
            reason: reason.into(),
            members: links.iter().enumerate().filter(|_| links.len() > 1).map(member).collect(),
            ..Uplink::default()
        };
        let mut served = served(Vec::new()).unwrap();
        served.uplinks.push(uplink);
        look(root.path(), Ok(served))
    };
    let says = |links: &[bool], reason: &str, expected: &[(Status, &str)]| {
        assert_eq!(of(&look(links, reason), "uplinks"), expected, "{links:?} {reason}");
    };
    says(&[true], "", &[(Status::Ok, "all 1 uplinks have a link")]);
    says(&[false], "no link", &[(Status::Failure, "uplink up0 (eth1): no link")]);
    says(&[true], "tap0 is gone", &[(Status::Warning, "uplink up0 (eth1): tap0 is gone")]);
    let other = "uplink up0 (eth2): no link; others of its bond have one";
    says(&[true, false], "", &[(Status::Warning, other)]);
    says(&[false, false], "no link", &[(Status::Failure, "uplink up0 (eth1): no link")]);
}

#[test]
fn what_a_network_lacks_of_the_kernel_is_said() {
    let root = machine(&[CPU, V2]);
    let look = |network: Network| {
        let mut served = served(Vec::new()).unwrap();
        served.networks.push(Network { name: "blue".into(), ..network });
        look(root.path(), Ok(served))
    };
    let bridge = |reason: &str, left_out| Network {
        kernel_bridge: Some(KernelBridge { reason: reason.into(), left_out, ..Default::default() }),
        ..Network::default()
    };
    assert_eq!(of(&look(bridge("", 0)), "networks"), []);
    let lacks = look(bridge("pods7: there is no such device", 2));
    let words = "network blue: stations of other hosts, by the kernel's bridge: pods7: there is no such device";
    let entries = "network blue: 2 entries of the kernel's bridge name no end to send to";
    assert_eq!(of(&lacks, "networks"), [(Status::Warning, words), (Status::Warning, entries)]);
    let port =
        KernelPort { name: "red0".into(), reason: "it is gone".into(), ..Default::default() };
    let lacks = look(Network { kernel_port: Some(port), ..Network::default() });
    let words = "network blue: its kernel port red0: it is gone";
    assert_eq!(of(&lacks, "networks"), [(Status::Warning, words)]);
}

#[test]
fn a_vrouter_that_cannot_be_reached_is_a_failure_and_nothing_more_is_claimed() {
    let root = machine(&[CPU, V2, ("run/ringway/pods/x/record.json", "")]);
    let findings = look(root.path(), Err("cannot reach the vRouter".into()));
    assert_eq!(of(&findings, "vrouter"), [(Status::Failure, "cannot reach the vRouter")]);
    assert_eq!(of(&findings, "leaks"), []);
}

#[test]
fn containerd_is_known_by_version_and_configuration() {
    let check = |version: &str, config: &str, runs| {
        let mut facts = Facts::default();
        facts.containerd.version = Some(version.to_owned());
        facts.containerd.config = Some(config.to_owned());
        facts.containerd.runs = runs;
        facts.containerd.nri_socket = true;
        judge(&facts)
    };
    let dump = "[plugins.'io.containerd.nri.v1.nri']\n  disable = true\n  x = 1\n[ttrpc]\n  disable = false\n";
    let off = check("containerd containerd.io 1.7.24 88bf19b", dump, true);
    assert_eq!(of(&off, "containerd"), [(Status::Ok, "containerd 1.7; it runs")]);
    assert!(
        of(&off, "nri")
            .iter()
            .any(|(status, what)| *status == Status::Failure && what.contains("switched off"))
    );
    let on = dump.replace("disable = true", "disable = false");
    let on = check("containerd github.com/containerd/containerd/v2 2.1.9 x", &on, false);
    assert_eq!(of(&on, "containerd"), [(Status::Warning, "containerd 2.1; it does not run")]);
    assert!(!of(&on, "nri").iter().any(|(_, what)| what.contains("switched off")));
    let old =
        check("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1", "", true);
    assert_eq!(of(&old, "containerd")[0].0, Status::Failure);
}

#[test]
fn remedies_stand_below_what_they_are_for() {
    let finding = |check, remedy: Option<&str>| Finding {
        check,
        status: Status::Warning,
        what: "something".into(),
        remedy: remedy.map(str::to_owned),
    };
    let shown = text(&[finding("cpu", Some("do that")), finding("hugepages", None)]);
    assert_eq!(
        shown,
        "WARNING  cpu        something\n                    -> do that\nWARNING  hugepages  something\n"
    );
}
