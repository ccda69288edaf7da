//! What the facts mean. Pure.

use nri_plugin_api::is_ours_alone;
use vrouter_api::v1::{Port, PortSpec, PortState};

use super::facts::{Facts, NRI, Nic, Served, Unserved, containerd_key};
use super::{Finding, Status};

/// Every check, in the order in which an operator would look.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let checks = [
        cpu, hugepages, iommu, nics, cgroups, runtime, nri, plugins, kubelet, vrouter, uplinks,
        networks, ports, leaks,
    ];
    checks.iter().flat_map(|check| check(facts)).collect()
}

fn finding(check: &'static str, status: Status, what: impl Into<String>) -> Finding {
    Finding { check, status, what: what.into(), remedy: None }
}

impl Finding {
    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

fn cpu(facts: &Facts) -> Vec<Finding> {
    let flag = |name: &str| facts.cpu_flags.contains(name);
    // Of another architecture than x86 nothing is asked here.
    if facts.cpu_flags.is_empty() || flag("asimd") {
        return vec![finding("cpu", Status::Note, "the CPU does not say what of x86 it can do")];
    }
    let mut findings = Vec::new();
    if !flag("sse4_2") {
        let what = "the CPU has no SSE4.2, without which the distribution's DPDK does not start";
        let remedy = "give the virtual machine a newer CPU model (x86-64-v2 or host)";
        findings.push(finding("cpu", Status::Failure, what).remedy(remedy));
    }
    if !flag("constant_tsc") && !flag("tsc_reliable") {
        let what = "the time stamp counter may change its rate: cycles, latencies and policers will be off";
        let remedy = "give the virtual machine an invariant TSC";
        findings.push(finding("cpu", Status::Warning, what).remedy(remedy));
    }
    if findings.is_empty() {
        let vectors = if flag("avx512f") {
            ", AVX-512"
        } else if flag("avx2") {
            ", AVX2"
        } else {
            ""
        };
        findings.push(finding("cpu", Status::Ok, format!("SSE4.2{vectors}, constant TSC")));
    }
    findings
}

fn hugepages(facts: &Facts) -> Vec<Finding> {
    let total = |node: &super::facts::Node| {
        node.hugepages.iter().map(|pages| pages.total * pages.kib).sum::<u64>()
    };
    if facts.nodes.iter().map(total).sum::<u64>() == 0 {
        let what = "no huge pages are reserved: the vRouter does not start with `hugepages = true`, and pods with \
                    hugepage limits get none";
        let remedy = "sysctl -w vm.nr_hugepages=1024, and hugepages=1024 on the kernel command line to have \
                      them before memory is fragmented";
        return vec![finding("hugepages", Status::Failure, what).remedy(remedy)];
    }
    let node = |node: &super::facts::Node| {
        let sizes = node.hugepages.iter().filter(|pages| pages.total > 0);
        let sizes: Vec<_> = sizes
            .map(|pages| format!("{} of {} free ({})", pages.free, pages.total, size(pages.kib)))
            .collect();
        let id = node.id;
        if sizes.is_empty() {
            let what = format!(
                "NUMA node {id} (CPUs {}) has no huge pages: pods with `numa.ringway.dev: strict` \
                                cannot be placed there",
                node.cpus
            );
            let remedy = format!(
                "echo N > /sys/devices/system/node/node{id}/hugepages/hugepages-2048kB/nr_hugepages"
            );
            return finding("hugepages", Status::Warning, what).remedy(remedy);
        }
        let what = format!("NUMA node {id} (CPUs {}): {}", node.cpus, sizes.join(", "));
        if node.hugepages.iter().all(|pages| pages.free == 0) {
            let remedy = "reserve more, or end pods that hold them";
            return finding("hugepages", Status::Warning, what).remedy(remedy);
        }
        finding("hugepages", Status::Ok, what)
    };
    // A node without CPUs is memory only.
    facts
        .nodes
        .iter()
        .filter(|found| !found.cpus.is_empty() || total(found) > 0)
        .map(node)
        .collect()
}

fn size(kib: u64) -> String {
    if kib >= 1 << 20 { format!("{} GiB", kib >> 20) } else { format!("{} MiB", kib >> 10) }
}

fn iommu(facts: &Facts) -> Vec<Finding> {
    if facts.iommu {
        return vec![finding("iommu", Status::Ok, "an IOMMU is on")];
    }
    let what = "there is no IOMMU: a NIC cannot be given to DPDK by vfio-pci in a safe way";
    let remedy = "for an uplink by PCI address: switch VT-d or AMD-Vi on in the firmware and boot with \
                  intel_iommu=on or amd_iommu=on; uplinks by kernel name do without";
    vec![finding("iommu", Status::Note, what).remedy(remedy)]
}

fn nics(facts: &Facts) -> Vec<Finding> {
    if facts.nics.is_empty() {
        return vec![finding("nics", Status::Note, "the machine has no PCI NIC")];
    }
    let nic = |nic: &Nic| {
        let driver = nic.driver.as_deref().unwrap_or("no driver");
        let node = if nic.node < 0 { String::new() } else { format!(", NUMA node {}", nic.node) };
        let name = nic.interface.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        let what = format!("{}{name}: {driver}{node}", nic.address);
        let found = finding("nics", Status::Ok, what);
        match driver {
            "vfio-pci" if !nic.iommu_group => Finding { status: Status::Failure, ..found }.remedy(
                "it has no IOMMU group, so DPDK cannot open it: switch the IOMMU on, or bind the kernel's driver again",
            ),
            "no driver" => Finding { status: Status::Note, ..found }
                .remedy("bind a driver: the kernel's own, or vfio-pci for an uplink"),
            "uio_pci_generic" | "igb_uio" => Finding { status: Status::Warning, ..found }
                .remedy("the NIC can write to all memory: use vfio-pci with an IOMMU"),
            _ => found,
        }
    };
    let mut findings: Vec<_> = facts.nics.iter().map(nic).collect();
    if facts.iommu && !facts.vfio {
        let what = "the driver vfio-pci is not loaded";
        findings.push(
            finding("nics", Status::Note, what)
                .remedy("for an uplink by PCI address: modprobe vfio-pci"),
        );
    }
    findings
}

fn cgroups(facts: &Facts) -> Vec<Finding> {
    let version = if facts.cgroup.unified { "version 2" } else { "version 1" };
    let has = |name: &&str| facts.cgroup.controllers.contains(*name);
    let missing: Vec<_> = ["cpuset", "hugetlb"].into_iter().filter(|name| !has(name)).collect();
    if missing.is_empty() {
        return vec![finding("cgroups", Status::Ok, format!("{version}, with cpuset and hugetlb"))];
    }
    let what = format!(
        "{version} without the controllers {}: pods cannot be given what those limit",
        missing.join(", ")
    );
    let remedy = if facts.cgroup.unified {
        "boot with a kernel that has them, and without cgroup_disable="
    } else {
        "mount them: mkdir /sys/fs/cgroup/hugetlb && mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb"
    };
    vec![finding("cgroups", Status::Warning, what).remedy(remedy)]
}

fn runtime(facts: &Facts) -> Vec<Finding> {
    let Some(version) = &facts.containerd.version else {
        let what = "containerd is not in the PATH";
        return vec![
            finding("containerd", Status::Note, what)
                .remedy("on a node of Kubernetes: install containerd 1.7 or newer"),
        ];
    };
    // "containerd github.com/containerd/containerd/v2 2.1.9 hash": the first word that is a version.
    let number = version.split_whitespace().find_map(|word| {
        let mut parts = word.trim_start_matches('v').split('.');
        Some((parts.next()?.parse::<u32>().ok()?, parts.next()?.parse::<u32>().ok()?))
    });
    let status = if facts.containerd.runs { "it runs" } else { "it does not run" };
    match number {
        Some(number @ (major, minor)) if number < (1, 7) => {
            let what =
                format!("containerd {major}.{minor} has no NRI that plugins can use; {status}");
            vec![
                finding("containerd", Status::Failure, what)
                    .remedy("update to 1.7 or newer, or use ringway-runtime"),
            ]
        }
        Some((major, minor)) => {
            let status = if facts.containerd.runs {
                (Status::Ok, status)
            } else {
                (Status::Warning, status)
            };
            let found = finding(
                "containerd",
                status.0,
                format!("containerd {major}.{minor}; {}", status.1),
            );
            vec![if facts.containerd.runs {
                found
            } else {
                found.remedy("systemctl start containerd")
            }]
        }
        None => vec![finding("containerd", Status::Note, format!("of unknown version: {version}"))],
    }
}

fn nri(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(config) = &facts.containerd.config {
        if containerd_key(config, NRI, "disable") == Some("true") {
            let what = "NRI is switched off in containerd: no pod gets an interface";
            let remedy = "see /usr/share/ringway/ringway-1.7.toml (or -2.x), put it into /etc/containerd/conf.d and restart containerd";
            findings.push(finding("nri", Status::Failure, what).remedy(remedy));
        } else if facts.containerd.runs && !facts.containerd.nri_socket {
            let what = "NRI is on, but its socket is not there";
            let remedy = "set disable_connections = false and socket_path, or have containerd start the plugin";
            findings.push(finding("nri", Status::Warning, what).remedy(remedy));
        }
    }
    match (facts.nri, facts.containerd.runs) {
        (Some(pid), true) if facts.unregistered => {
            let what = format!(
                "ringway-nri runs (process {pid}), and containerd has not taken it in: opted-in pods start without their interfaces"
            );
            let remedy = "see the log of ringway-nri; `nri_socket` in nri.toml and `socket_path` in containerd's section io.containerd.nri.v1.nri must be the same, and NRI on";
            findings.push(finding("nri", Status::Failure, what).remedy(remedy));
        }
        (Some(pid), _) => {
            findings.push(finding("nri", Status::Ok, format!("ringway-nri runs (process {pid})")))
        }
        (None, true) => {
            let what =
                "ringway-nri does not run: opted-in pods start without their interfaces, or wait";
            findings.push(
                finding("nri", Status::Failure, what).remedy("systemctl enable --now ringway-nri"),
            );
        }
        (None, false) => findings.push(finding(
            "nri",
            Status::Note,
            "ringway-nri does not run, nor does containerd",
        )),
    }
    findings.extend(facts.unserved.iter().map(|Unserved { name, reason, .. }| {
        let remedy = "create the pod again, or `ringway doctor --repair`, which ends the container so that kubelet starts it again; to have such containers refused, see required_plugins in /usr/share/ringway/ringway-2.x.toml";
        finding("nri", Status::Failure, format!("{name}: {reason}")).remedy(remedy)
    }));
    if let Some(why) = &facts.containerd.unasked {
        let what = format!("containerd cannot be asked whether these containers still run: {why}");
        findings.push(
            finding("nri", Status::Warning, what).remedy("run as root, with containerd running"),
        );
    }
    findings
}

/// Ports of a vRouter that were a pod's, of containers that are gone, and of which no record is left: nobody will ever use them.
pub(super) fn leaked<'a>(facts: &Facts, served: &'a Served) -> Vec<&'a str> {
    let gone = |path: &String| facts.dead_cgroups.contains(path);
    let leaked = |spec: &&PortSpec| {
        let sandbox = spec.id.split('/').next().unwrap_or_default();
        let ours = is_ours_alone(sandbox)
            || (sandbox.len() == 64 && sandbox.bytes().all(|it| it.is_ascii_hexdigit()));
        ours && !spec.peer_cgroups.is_empty()
            && spec.peer_cgroups.iter().all(gone)
            && !facts.pods.iter().any(|pod| pod == sandbox)
    };
    let specs = served.ports.iter().filter_map(|port| port.spec.as_ref());
    specs.filter(leaked).map(|spec| spec.id.as_str()).collect()
}

fn plugins(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (mut ours, mut others) = (false, Vec::new());
    for name in &facts.nri_plugins {
        let bytes = name.as_bytes();
        let right =
            matches!(bytes, [a, b, b'-', _, ..] if a.is_ascii_digit() && b.is_ascii_digit());
        if !right {
            let what = format!(
                "/opt/nri/plugins/{name} is not called NN-NAME: containerd's CRI does not start with it there"
            );
            findings.push(finding("plugins", Status::Failure, what).remedy("rename or remove it"));
        } else if name.ends_with("-ringway") {
            ours = true;
        } else {
            others.push(name.as_str());
        }
    }
    if ours && facts.nri_unit {
        let what = "containerd and systemd both start ringway-nri: two plugins that answer for one pod make the runtime refuse it";
        let remedy = "remove /opt/nri/plugins/NN-ringway, or systemctl disable --now ringway-nri";
        findings.push(finding("plugins", Status::Failure, what).remedy(remedy));
    }
    if !others.is_empty() {
        let what = format!("other plugins change containers, too: {}", others.join(", "));
        let remedy = "if one of them sets CPUs, a pod that both set is refused: leave opted-in pods out of its configuration";
        findings.push(finding("plugins", Status::Note, what).remedy(remedy));
    }
    if findings.is_empty() {
        findings.push(finding(
            "plugins",
            Status::Ok,
            "no other NRI plugin is started by containerd",
        ));
    }
    findings
}

fn kubelet(facts: &Facts) -> Vec<Finding> {
    match facts.kubelet_cpus.as_deref() {
        Some("static") => {
            let what = "kubelet's CPU manager gives out exclusive CPUs, too (policy static)";
            let remedy = "let ringway-nri go by kubelet's choice, `cpus.mode = \"follow\"` in nri.toml, or give it CPUs that kubelet does not: `cpus.reserved` against kubelet's reservedSystemCPUs";
            vec![finding("kubelet", Status::Warning, what).remedy(remedy)]
        }
        Some(policy) => {
            vec![finding("kubelet", Status::Ok, format!("CPU manager policy {policy}"))]
        }
        None => Vec::new(),
    }
}

fn vrouter(facts: &Facts) -> Vec<Finding> {
    facts.vrouters.iter().flat_map(one_vrouter).collect()
}

fn one_vrouter(vrouter: &Result<Served, String>) -> Vec<Finding> {
    match vrouter {
        Err(why) => {
            vec![
                finding("vrouter", Status::Failure, why.clone())
                    .remedy("systemctl status ringway-vrouter"),
            ]
        }
        Ok(Served { info, networks, ports, .. }) => {
            let workers: Vec<_> =
                info.workers.iter().map(|worker| worker.cpu.to_string()).collect();
            let number = info.instance.map(|number| format!("vRouter {number}: "));
            let node = info.numa_node.map(|node| format!(", NUMA node {node}"));
            let what = format!(
                "{}version {}, {}{}, workers on CPU {}, {} networks, {} ports",
                number.unwrap_or_default(),
                info.version,
                info.dpdk_version,
                node.unwrap_or_default(),
                workers.join(", "),
                networks.len(),
                ports.len()
            );
            let mut findings = vec![finding("vrouter", Status::Ok, what)];
            if networks.is_empty() {
                let remedy = "name some in /etc/ringway/vrouter.toml, or: ringway networks add red --ipv4 10.66.0.0/24";
                findings.push(
                    finding("vrouter", Status::Warning, "it has no network that a pod could join")
                        .remedy(remedy),
                );
            }
            findings
        }
    }
}

/// The wires, by which other hosts are reached.
fn uplinks(facts: &Facts) -> Vec<Finding> {
    const MEND: &str = "see cable, switch and driver of that device, and the log of ringway-vrouter; `ringway uplinks` shows what it has counted";
    let all: Vec<_> = facts.vrouters.iter().flatten().flat_map(|it| &it.uplinks).collect();
    let mut findings = Vec::new();
    for uplink in &all {
        let Some(spec) = &uplink.spec else { continue };
        let found = |status, device: &str, why: &str| {
            finding("uplinks", status, format!("uplink {} ({device}): {why}", spec.name))
                .remedy(MEND)
        };
        if !uplink.link {
            let why = if uplink.reason.is_empty() { "no link" } else { &uplink.reason };
            findings.push(found(Status::Failure, &spec.device, why));
            continue;
        }
        if !uplink.reason.is_empty() {
            findings.push(found(Status::Warning, &spec.device, &uplink.reason));
        }
        let down = uplink.members.iter().filter(|member| !member.link);
        findings.extend(
            down.map(|it| {
                found(Status::Warning, &it.device, "no link; others of its bond have one")
            }),
        );
    }
    if findings.is_empty() && !all.is_empty() {
        findings.push(finding(
            "uplinks",
            Status::Ok,
            format!("all {} uplinks have a link", all.len()),
        ));
    }
    findings
}

/// What networks want of the kernel.
fn networks(facts: &Facts) -> Vec<Finding> {
    let all = facts.vrouters.iter().flatten().flat_map(|it| &it.networks);
    let mut findings = Vec::new();
    for network in all {
        let found = |what: String, remedy: &str| {
            finding("networks", Status::Warning, format!("network {}: {what}", network.name))
                .remedy(remedy)
        };
        let port = network.kernel_port.as_ref().filter(|port| !port.reason.is_empty());
        findings.extend(port.map(|port| {
            let remedy = "see docs/frr.md; the vRouter tries again by itself, its log has more";
            found(format!("its kernel port {}: {}", port.name, port.reason), remedy)
        }));
        let bridge = network.kernel_bridge.as_ref().filter(|bridge| !bridge.reason.is_empty());
        findings.extend(bridge.map(|bridge| {
            let remedy = "see docs/frr.md, \"EVPN of a bridged network\", for the devices it takes; they may be made now";
            found(format!("stations of other hosts, by the kernel's bridge: {}", bridge.reason), remedy)
        }));
        let left_out = network.kernel_bridge.as_ref().filter(|bridge| bridge.left_out > 0);
        findings.extend(left_out.map(|bridge| {
            let remedy = "`bridge fdb show dev` that VXLAN device: such an entry has no `dst` (but a `nhid`, by EVPN multihoming), or another VNI, port or family than the network's tunnel";
            found(format!("{} entries of the kernel's bridge name no end to send to", bridge.left_out), remedy)
        }));
    }
    findings
}

/// The ports of all vRouters; `None` where none could be asked for.
fn served(facts: &Facts) -> Option<Vec<&Port>> {
    let vrouters: Vec<_> = facts.vrouters.iter().filter_map(|it| it.as_ref().ok()).collect();
    let all = vrouters.len() == facts.vrouters.len() && !vrouters.is_empty();
    all.then(|| vrouters.iter().flat_map(|served| &served.ports).collect())
}

/// Ports that carry nothing.
fn ports(facts: &Facts) -> Vec<Finding> {
    let Some(served) = served(facts) else { return Vec::new() };
    let mut findings = Vec::new();
    for port in &served {
        let Some(spec) = &port.spec else { continue };
        if port.state() == PortState::Up {
            continue;
        }
        let pod = if spec.pod_name.is_empty() {
            spec.id.clone()
        } else {
            format!("{}/{} {}", spec.pod_namespace, spec.pod_name, spec.interface)
        };
        let why =
            if port.reason.is_empty() { String::new() } else { format!(" ({})", port.reason) };
        let (state, remedy) = match port.state() {
            PortState::Connected => {
                ("has not switched its queues on", "see the application's own log")
            }
            _ => (
                "is not connected",
                "see the application's own log; after a restart of the vRouter, restart the container unless it listens itself",
            ),
        };
        findings.push(
            finding("ports", Status::Warning, format!("the application of {pod} {state}{why}"))
                .remedy(remedy),
        );
    }
    if findings.is_empty() && !served.is_empty() {
        findings.push(finding("ports", Status::Ok, format!("all {} ports are up", served.len())));
    }
    findings
}

/// What nobody uses any more.
fn leaks(facts: &Facts) -> Vec<Finding> {
    let Some(served) = served(facts) else { return Vec::new() };
    const MEND: &str = "systemctl restart ringway-nri: at its start the plugin mends what differs; `ringway doctor --repair` deletes ports of pods that are gone";
    let mut findings = Vec::new();
    let specs = || served.iter().filter_map(|port| port.spec.as_ref());
    for spec in specs() {
        let gone = |path: &String| facts.dead_cgroups.contains(path);
        if !spec.peer_cgroups.is_empty() && spec.peer_cgroups.iter().all(gone) {
            let what = format!("port {} belongs to containers that are gone", spec.id);
            findings.push(finding("leaks", Status::Warning, what).remedy(MEND));
            continue;
        }
        // A pod whose containers have ended for now still has its sandbox's process in there.
        let ended = |path: &String| gone(path) || facts.idle_cgroups.contains(path);
        if !spec.peer_cgroups.is_empty() && spec.peer_cgroups.iter().all(ended) {
            let what = format!(
                "port {} belongs to a cgroup without a process: its pod has ended",
                spec.id
            );
            findings.push(finding("leaks", Status::Warning, what).remedy(MEND));
        }
    }
    for pod in &facts.pods {
        if !specs().any(|spec| spec.id.split('/').next() == Some(pod)) {
            let what = format!("pod {pod} has a directory and a record, but no port");
            findings.push(finding("leaks", Status::Warning, what).remedy(MEND));
        }
    }
    if findings.is_empty() {
        findings.push(finding("leaks", Status::Ok, "every port has its pod, every pod its port"));
    }
    findings
}
