//! What the administrator does not allow: one line that kubelet shows.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::containerd::Version;
use integration::leftovers::refused;
use integration::node::{PluginStart, Setup};
use integration::pod::Pod;

use integration::stage::Stage;
use integration::vrouter::NetworkSpec;
use integration::wait;

const LIMITS: &str = "
[limits]
namespaces = ['other', 'dem*']
unlisted_networks = false
interfaces = 2
queues = 2
cpus = 0
hugepages = '16Mi'
mac = false
ip = false
[networks.red]
namespaces = ['demo']
[networks.blue]
namespaces = ['other']
[networks.leased]
ipam = 'host-local'
";

/// The node of these tests.
fn setup() -> Setup {
    let mut setup = Setup::new(Version::V2_1, PluginStart::External);
    setup.plugin_settings = LIMITS;
    setup.networks.push(NetworkSpec {
        name: "leased",
        ipv4: "10.88.0.0/28",
        ipv6: Some("fd00:88::/64"),
    });
    setup
}

pub fn refuse(stage: &mut Stage) -> Result<()> {
    let node = stage.node(&setup())?;
    let pod = |network: &str| Pod::idle("greedy").annotate("network.ringway.dev", network);
    let full = |text: &str| pod("red").annotate("interfaces.ringway.dev", text);
    let cases: [(Pod, &[&str]); 8] = [
        (pod("blue"), &["\"demo\"", "\"blue\"", "networks.blue.namespaces"]),
        (pod("green"), &["\"green\"", "networks.green.namespaces"]),
        (pod("red,red,red"), &["3 interfaces", "allows 2", "limits.interfaces"]),
        (full(r#"[{"queues": 3}]"#), &["3 queues", "allows 2", "limits.queues"]),
        (full(r#"[{"mac": "02:00:00:00:00:07"}]"#), &["02:00:00:00:00:07", "limits.mac"]),
        (full(r#"[{"ip": "10.66.0.77"}]"#), &["10.66.0.77", "limits.ip"]),
        (pod("red").annotate("cpus.ringway.dev", "1"), &["1 exclusive", "allows 0", "limits.cpus"]),
        (
            pod("red").annotate("hugepages-2mi.ringway.dev", "18Mi"),
            &["18Mi", "allows 16Mi", "limits.hugepages"],
        ),
    ];
    for (pod, words) in cases {
        refused(node, pod, words)?;
    }
    let modest = node.start_pod(
        pod("red,red")
            .annotate("hugepages-2mi.ringway.dev", "16Mi")
            .annotate("cpus.ringway.dev", "shared"),
    )?;
    node.vrouter()?.port(&modest.sandbox)?;
    node.delete(&modest)
}

/// Names of files below a directory that are addresses: how `host-local` keeps its books.
fn booked(directory: &Path) -> Result<BTreeSet<String>> {
    let mut booked = BTreeSet::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.contains(['.', ':']) && !name.starts_with("last_reserved_ip") {
            booked.insert(name);
        }
    }
    Ok(booked)
}

/// An address plugin gives addresses, and gets every one of them back: after an orderly end, after a kill of ringway-nri, and of a
/// container that was refused in the end.
pub fn address_plugin(stage: &mut Stage) -> Result<()> {
    let node = stage.node(&setup())?;
    let books = node.run().path().join("ipam/ringway-leased");
    let leases = node.run().path().join("leases");
    let pod = |name: &str| Pod::idle(name).annotate("network.ringway.dev", "leased,red");
    let one = node.start_pod(pod("one"))?;
    let two = node.start_pod(pod("two"))?;
    let ports = node.vrouter()?.ports()?;
    let specs: Vec<_> = ports.iter().filter_map(|port| port.spec.as_ref()).collect();
    let given: BTreeSet<_> = specs
        .iter()
        .filter(|spec| spec.network == "leased")
        .flat_map(|spec| [spec.ipv4.clone(), spec.ipv6.clone()])
        .collect();
    ensure!(specs.len() == 4 && given.len() == 4, "{specs:?}");
    ensure!(booked(&books)? == given, "given {given:?}, booked {:?}", booked(&books)?);

    refused(node, pod("greedy").annotate("cpus.ringway.dev", "1"), &["limits.cpus"])?;
    refused(node, pod("far").annotate("numa.ringway.dev", "7"), &["NUMA node 7"])?;
    let back = |node: &integration::node::Node, what: &str, expected: &BTreeSet<String>| {
        wait::until(what, Duration::from_secs(30), || {
            let count = std::fs::read_dir(&leases).context("no directory of leases")?.count();
            ensure!(node.run().path().exists(), "the run has ended");
            Ok((booked(&books)? == *expected && count == expected.len() / 2).then_some(()))
        })
    };
    back(node, "the refused pod's addresses come back", &given)?;

    node.crash_plugin()?;
    node.delete(&one)?;
    node.start_plugin()?;
    let spec = node.vrouter()?.ports()?.into_iter().filter_map(|port| port.spec);
    let kept: BTreeSet<_> = spec
        .filter(|spec| spec.network == "leased" && spec.id.starts_with(&two.sandbox))
        .flat_map(|spec| [spec.ipv4, spec.ipv6])
        .collect();
    back(node, "the addresses of the pod that is gone come back", &kept)?;
    node.delete(&two)?;
    back(node, "all addresses come back", &BTreeSet::new())
}
