//! Pods whose applications know nothing of DPDK: interfaces of the kind `kernel` in their network namespaces.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::demo::dpdk_pod;
use integration::kernel_pod::{inside, ip, ping, run, set_up_cni};
use integration::leftovers::{leftovers, refused};
use integration::node::{Node, RunningPod};
use integration::pod::Pod;
use integration::stage::Stage;
use integration::wait;
use vrouter_api::v1::{Port, PortState};

const PATIENCE: Duration = Duration::from_secs(60);
const KEY: &str = "interfaces.ringway.dev";
const KERNEL: &str = r#"[{"network": "red", "kind": "kernel", "name": "red0", "mtu": 1400, "routes": ["10.200.0.0/16"]}]"#;

/// Two pods without DPDK, one with; kills and restarts of everybody.
pub fn of_the_kernel(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    set_up_cni(node)?;
    let before = leftovers(node)?;
    let pod = |name: &str| Pod::idle(name).own_network().annotate(KEY, KERNEL);
    let mut a = node.start_pod(pod("kernel-a"))?;
    let b = node.start_pod(pod("kernel-b"))?;
    let [port_a, port_b] = [&a, &b].map(|pod| node.vrouter().and_then(|it| it.port(&pod.sandbox)));
    let (port_a, port_b) = (port_a?, port_b?);
    is_as_described(node, &a, &port_a)?;
    let (four, six) = addresses(&port_b)?;
    for to in [&four, &six] {
        ping(node, &a, to, 56)?;
        ping(node, &a, to, 1300)?;
    }
    iperf(node, &a, &b, &four)?;
    iperf(node, &a, &b, &six)?;

    // A pod of the usual kind, which answers pings by itself.
    let dpdk = node.start_pod(icmp_echo())?;
    let port = node.vrouter()?.wait_up(&dpdk.sandbox, PATIENCE)?;
    // Its rings are there before it looks at them.
    let dpdk_address = addresses(&port)?.0;
    wait::until("the DPDK pod answers", PATIENCE, || {
        Ok(ping(node, &a, &dpdk_address, 56).is_ok().then_some(()))
    })?;

    // The plugin is killed: nothing of it is needed for traffic, and it finds again what it made.
    node.crash_plugin()?;
    ping(node, &a, &four, 56).context("without the plugin")?;
    node.start_plugin()?;
    ping(node, &a, &four, 56).context("after the plugin's restart")?;

    // The vRouter is killed: the interfaces go with it, and come back with their addresses.
    node.crash_vrouter()?;
    wait::until("the interface is gone", PATIENCE, || {
        Ok(ip(node, &a, "link show dev red0").is_err().then_some(()))
    })?;
    node.start_vrouter()?;
    for pod in [&a, &b] {
        wait::until("the interface is back", PATIENCE, || {
            Ok(ip(node, pod, "route show dev red0")
                .is_ok_and(|it| it.contains("10.200"))
                .then_some(()))
        })?;
    }
    is_as_described(node, &a, &port_a)?;
    ping(node, &a, &four, 56).context("after the vRouter's restart")?;
    ping(node, &a, &six, 56).context("after the vRouter's restart")?;

    // Somebody in the pod deletes it: told, and mended when its container starts again.
    ip(node, &a, "link delete dev red0")?;
    wait::until("it is told that the interface is gone", PATIENCE, || {
        let port = node.vrouter()?.port(&a.sandbox)?;
        Ok((port.state() == PortState::Waiting && port.reason.contains("is gone")).then_some(()))
    })?;
    let command = a.pod.command.clone();
    node.restart(&mut a, command)?;
    is_as_described(node, &a, &port_a)?;
    ping(node, &a, &four, 56).context("after the container's restart")?;

    let text = |text: &str| Pod::idle("kernel-c").annotate(KEY, text);
    refused(node, text(KERNEL), &["\"red0\"", "kind kernel", "hostNetwork"])?;
    let clash = KERNEL.replace("red0", "eth0");
    refused(node, text(&clash).own_network(), &["\"eth0\"", "File exists"])?;
    refused(node, text(&KERNEL.replace("1400", "1501")).own_network(), &["1501", "red"])?;
    for pod in [&a, &b, &dpdk] {
        node.delete(pod)?;
    }
    ensure!(leftovers(node)? == before, "left: {:?}, before {before:?}", leftovers(node)?);
    Ok(())
}

/// A DPDK application that answers ARP and pings.
fn icmp_echo() -> Pod {
    let script = "exec dpdk-testpmd $RINGWAY_EAL_ARGS -- --auto-start --no-mlockall --total-num-mbufs=4096 \
                  --forward-mode=icmpecho --stats-period=3600";
    let mut pod = dpdk_pod("echo", "red");
    pod.command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    pod
}

fn addresses(port: &Port) -> Result<(String, String)> {
    let spec = port.spec.as_ref().context("no specification")?;
    Ok((spec.ipv4.clone(), spec.ipv6.clone()))
}

fn is_as_described(node: &Node, pod: &RunningPod, port: &Port) -> Result<()> {
    let spec = port.spec.as_ref().context("no specification")?;
    let link = ip(node, pod, "-o link show dev red0")?;
    ensure!(link.contains("mtu 1400") && link.contains("state UNKNOWN"), "{link}");
    ensure!(link.contains(&spec.mac), "{link} has not {}", spec.mac);
    let addresses = ip(node, pod, "-o addr show dev red0")?;
    ensure!(addresses.contains(&format!("inet {}/24", spec.ipv4)), "{addresses}");
    ensure!(addresses.contains(&format!("inet6 {}/64", spec.ipv6)), "{addresses}");
    // Not that of the link, which the kernel looks after by itself.
    let ours = |line: &&str| line.contains(&spec.ipv6);
    ensure!(
        !addresses.lines().any(|line| ours(&line) && line.contains("tentative")),
        "{addresses}"
    );
    let routes = ip(node, pod, "route show dev red0")?;
    ensure!(routes.contains("10.200.0.0/16 via 10.66.0.1"), "{routes}");
    // The pod's other network is left alone.
    let others = ip(node, pod, "route show dev eth0")?;
    ensure!(others.contains("10.123.0."), "{others}");
    Ok(())
}

/// Ended when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What people try first. Says how fast it was; that is no matter of the test.
fn iperf(node: &Node, from: &RunningPod, to: &RunningPod, address: &str) -> Result<()> {
    let mut server = inside(node, to, &format!("/usr/bin/iperf3 -s -1 -B {address}"))?;
    server.stdout(Stdio::null());
    let _server = Server(server.spawn().context("iperf3")?);
    wait::until("iperf3 listens", PATIENCE, || {
        let listening = run(node, to, "/usr/bin/ss -Htln sport = 5201")?;
        Ok((!listening.trim().is_empty()).then_some(()))
    })?;
    let said = run(node, from, &format!("/usr/bin/iperf3 -c {address} -n 8M -J"))?;
    let report: serde_json::Value = serde_json::from_str(&said)?;
    let received = &report["end"]["sum_received"];
    // The other end stops counting when it is told that all is sent, with some still on its way.
    ensure!(received["bytes"].as_u64().is_some_and(|bytes| bytes >= 4 << 20), "{received}");
    println!(
        "    iperf3 to {address}: {:.0} Mbit/s",
        received["bits_per_second"].as_f64().unwrap_or(0.0) / 1e6
    );
    Ok(())
}
