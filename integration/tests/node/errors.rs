//! Every error that users will meet: one clear line, and nothing left behind.

use anyhow::{Result, ensure};
use integration::containerd::Version;
use integration::demo::{dpdk_pod, isolation, report::Report};
use integration::leftovers::refused;
use integration::machine::Hugepages;
use integration::node::{PluginStart, Setup};
use integration::pod::Pod;
use integration::traffic;

use integration::stage::Stage;

pub fn unknown_network(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    refused(node, dpdk_pod("lost", "green"), &["\"green\"", "does not exist", "red", "blue"])
}

pub fn malformed_annotation(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let cases: [(&str, &str, &[&str]); 9] = [
        ("interfaces.ringway.dev", "{not json", &["interfaces.ringway.dev"]),
        ("interfaces.ringway.dev", r#"[{"colour": "red"}]"#, &["interfaces.ringway.dev", "colour"]),
        ("interfaces.ringway.dev", r#"[{"socket": "me"}]"#, &["interfaces.ringway.dev", "me"]),
        (
            "interfaces.ringway.dev",
            r#"[{"ip": "10.66.0"}]"#,
            &["interfaces.ringway.dev", "10.66.0"],
        ),
        ("interfaces.ringway.dev", r#"[{"ip": "10.99.0.1"}]"#, &["10.99.0.1", "10.66.0.0/24"]),
        ("cpus.ringway.dev", "many", &["cpus.ringway.dev", "many"]),
        ("numa.ringway.dev/pod", "left", &["numa.ringway.dev/pod", "left"]),
        (
            "hugepages-2mi.ringway.dev/container.app",
            "12 potatoes",
            &["hugepages-2mi.ringway.dev/container.app", "12 potatoes"],
        ),
        ("netwrok.ringway.dev", "red", &["netwrok.ringway.dev"]),
    ];
    for (key, value, words) in cases {
        refused(node, dpdk_pod("typo", "red").annotate(key, value), words)?;
    }
    Ok(())
}

pub fn more_cpus_than_there_are(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    refused(
        node,
        dpdk_pod("greedy", "red").annotate("cpus.ringway.dev", "99"),
        &["99", "cpus.ringway.dev"],
    )
}

pub fn more_hugepages_than_there_are(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    refused(
        node,
        dpdk_pod("greedy", "red").annotate("hugepages-2mi.ringway.dev", "4096Gi"),
        &["hugepages", "4096"],
    )
}

pub fn interface_name_too_long(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let name = "n".repeat(60);
    refused(
        node,
        dpdk_pod("long", "red")
            .annotate("interfaces.ringway.dev", format!(r#"[{{"name": "{name}"}}]"#)),
        &["interfaces.ringway.dev", "nnn"],
    )
}

pub fn no_hugepages_reserved(stage: &mut Stage) -> Result<()> {
    let mut setup = Setup::new(Version::V2_1, PluginStart::External);
    setup.hugepages = Hugepages::None;
    let node = stage.node(&setup)?;
    refused(node, dpdk_pod("poor", "red"), &["hugepages", "nr_hugepages"])?;
    let mut pod = dpdk_pod("poor", "red");
    pod.annotations.remove("hugepages-2mi.ringway.dev");
    refused(node, pod, &["no hugepages are reserved", "nr_hugepages"])
}

pub fn vrouter_not_running(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    node.stop_vrouter()?;
    refused(node, dpdk_pod("early", "red"), &["vRouter", "vrouter.sock", "start ringway-vrouter"])?;
    let plain = node.start_pod(Pod::idle("plain"))?;
    node.pid(&plain)?;
    node.delete(&plain)?;
    node.start_vrouter()?;
    // And it works as soon as the vRouter does.
    let late = node.start_pod(dpdk_pod("late", "red"))?;
    node.vrouter()?.wait_up(&late.sandbox, traffic::UP)?;
    node.delete(&late)
}

pub fn another_pods_socket(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let victim = node.start_pod(dpdk_pod("victim", "red"))?;
    let up = node.vrouter()?.wait_up(&victim.sandbox, traffic::UP)?;
    let mut report = Report::default();
    isolation::outside_process(node, &victim, &mut report)?;
    isolation::intruder(node, &victim, &mut report)?;
    for attempt in &report.isolation {
        ensure!(attempt.ok, "{}: {}", attempt.attempt, attempt.got);
    }
    // The rightful owner did not notice.
    let still = node.vrouter()?.port(&victim.sandbox)?;
    ensure!(
        still.state() == up.state() && still.peer_pid == up.peer_pid,
        "{still:?}, before {up:?}"
    );
    node.delete(&victim)
}
