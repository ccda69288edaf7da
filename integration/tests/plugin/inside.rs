//! What a pod of CRI may be and still work, checked from inside: any user, no capability, a root file system that it cannot write, a
//! seccomp profile, users of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context, Result, ensure};
use integration::containerd::Version;
use integration::demo::dpdk_pod;
use integration::node::{Node, PluginStart, RunningPod, Setup};
use integration::pod::{Pod, Seccomp};
use integration::process;
use integration::traffic;

use integration::stage::Stage;

/// What EAL needs to place memory, and containerd's profile keeps from processes without CAP_SYS_NICE. They act on the caller's own
/// memory only.
const NEEDED: [&str; 3] = ["get_mempolicy", "mbind", "set_mempolicy"];

/// Runs a command in a pod.
fn inside(node: &Node, pod: &RunningPod, command: &[&str]) -> Result<String> {
    let output = node.containerd()?.cri.exec(&pod.container, command, 10)?;
    ensure!(output.code == 0, "{command:?}: {output:?}");
    Ok(output.stdout)
}

/// A line of /proc/self/status, as a process in the pod reads it.
fn status(node: &Node, pod: &RunningPod, key: &str) -> Result<String> {
    let text = inside(node, pod, &["cat", "/proc/self/status"])?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    Ok(value.with_context(|| format!("no {key} in {text}"))?.trim().to_owned())
}

/// Nobody, without a capability, under a profile, and nothing of its image or of ours can be written.
fn is_confined(node: &Node, pod: &RunningPod) -> Result<()> {
    for (key, expected) in [
        ("Uid", "65534\t65534\t65534\t65534"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("NoNewPrivs", "1"),
        // A filter is in force.
        ("Seccomp", "2"),
    ] {
        let value = status(node, pod, key)?;
        ensure!(value == expected, "{key} is {value:?}, not {expected:?}");
    }
    let cri = &node.containerd()?.cri;
    for file in ["/x", "/run/ringway/x"] {
        let script = format!("echo >{file}");
        let output = cri.exec(&pod.container, &["/bin/sh", "-c", &script], 10)?;
        ensure!(output.code != 0 && output.stderr.contains("Read-only"), "{file}: {output:?}");
    }
    let interfaces = inside(node, pod, &["cat", "/run/ringway/interfaces.json"])?;
    let interfaces: serde_json::Value = serde_json::from_str(&interfaces)?;
    ensure!(interfaces[0]["network"] == "red", "{interfaces}");
    Ok(())
}

/// A pod whose image cannot be written, with a /tmp of its own.
fn read_only(node: &Node, name: &str, seccomp: Seccomp) -> Result<Pod> {
    let tmp = node.run().disk().join("tmp").join(name);
    fs::create_dir_all(&tmp)?;
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777))?;
    let mut pod = dpdk_pod(name, "red");
    pod.read_only = true;
    pod.seccomp = seccomp;
    pod.host_paths.push((tmp, "/tmp".to_owned()));
    Ok(pod)
}

/// The profile that containerd gave a container, as it is in its configuration.
fn profile_of(node: &Node, container: &str) -> Result<serde_json::Value> {
    let containerd = node.containerd()?;
    let text = process::run(
        containerd.version().program("ctr"),
        &[
            "--address".as_ref(),
            containerd.socket().as_os_str(),
            "--namespace".as_ref(),
            "k8s.io".as_ref(),
            "containers".as_ref(),
            "info".as_ref(),
            container.as_ref(),
        ],
    )?;
    let info: serde_json::Value = serde_json::from_str(&text)?;
    let profile = &info["Spec"]["linux"]["seccomp"];
    ensure!(profile["defaultAction"] == "SCMP_ACT_ERRNO", "no profile: {profile}");
    Ok(profile.clone())
}

pub fn of_a_confined_pod(stage: &mut Stage, version: Version) -> Result<()> {
    let node = stage.node(&Setup::new(version, PluginStart::External))?;
    // Under containerd's own profile a pod is served like any other.
    let mut idle = Pod::idle("default-profile").annotate("network.ringway.dev", "red");
    (idle.read_only, idle.seccomp) = (true, Seccomp::RuntimeDefault);
    let idle = node.start_pod(idle)?;
    is_confined(node, &idle)?;
    let mut profile = profile_of(node, &idle.container)?;
    node.delete(&idle)?;

    // The same profile with three more calls runs DPDK: what docs/operations.md tells operators to do.
    let calls = profile["syscalls"].as_array_mut().context("no calls in the profile")?;
    calls.push(serde_json::json!({"names": NEEDED, "action": "SCMP_ACT_ALLOW"}));
    let file = node.run().path().join("seccomp.json");
    fs::write(&file, profile.to_string())?;
    let pod = read_only(node, "own-profile", Seccomp::Localhost(file.clone()))?;
    let mut receiver = node.start_pod(pod)?;
    node.vrouter()?.wait_up(&receiver.sandbox, traffic::UP)?;
    is_confined(node, &receiver)?;
    let mut sender = node.start_pod(read_only(node, "tells", Seccomp::Localhost(file))?)?;
    let to = node.vrouter()?.port(&receiver.sandbox)?.spec.unwrap_or_default().ipv4;
    fs::remove_file(node.run().disk().join("tmp/own-profile/testpmd"))?;
    traffic::become_receiver(node, &mut receiver)?;
    fs::remove_file(node.run().disk().join("tmp/tells/testpmd"))?;
    traffic::become_sender(node, &mut sender, None, &to)?;
    let goal = traffic::Until::Delivered(20_000);
    let outcome = traffic::measure(node, &sender, &[&receiver], &to, goal)?;
    println!("    {outcome:?}");
    outcome.check()?;
    node.delete(&sender)?;
    node.delete(&receiver)
}

/// Why this machine cannot give a pod users of its own: containerd has mounts mapped for such pods.
pub fn unmet_for_own_users() -> Option<String> {
    let features = process::run("runc", &["features".as_ref()]).unwrap_or_default();
    let features: serde_json::Value = serde_json::from_str(&features).unwrap_or_default();
    let maps = features["linux"]["mountExtensions"]["idmap"]["enabled"] == true;
    (!maps).then(|| "this runc cannot map the users of mounts; runc 1.2 can".to_owned())
}

pub fn of_a_pod_with_its_own_users(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let mut pod = Pod::idle("own-users").annotate("network.ringway.dev", "red");
    pod.host_users = Some(100_000);
    let pod = node.start_pod(pod)?;
    let map = inside(node, &pod, &["cat", "/proc/self/uid_map"])?;
    ensure!(map.split_whitespace().eq(["0", "100000", "65536"]), "{map}");
    let interfaces = inside(node, &pod, &["cat", "/run/ringway/interfaces.json"])?;
    ensure!(interfaces.contains("\"red\""), "{interfaces}");
    node.delete(&pod)
}
