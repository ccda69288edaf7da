//! Attempts at what must not be possible, each with what really happened.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Pods;
use super::report::Report;
use crate::image;
use crate::node::{Node, RunningPod};
use crate::pod::Pod;
use crate::readback;
use crate::traffic::{self, Outcome, Until};

/// Where the intruder has the other pod's directory.
const STOLEN: &str = "/stolen";
/// What testpmd says when its virtio-user device could not be set up; it goes on without any, and ends.
const NO_DEVICE: &str = "No probed ethernet devices";
const REFUSAL: Duration = Duration::from_secs(20);
/// A packet must be tried often enough to be caught if it could pass.
const PACKETS: Until = Until::Taken(20_000);

/// Runs all attempts and adds them to the report.
pub fn run(node: &mut Node, pods: &mut Pods, report: &mut Report) -> Result<()> {
    plain_is_untouched(node, &pods.plain, report)?;

    let blue = node.vrouter()?.port(&pods.blue_a.sandbox)?.spec.unwrap_or_default().ipv4;
    let own = node.vrouter()?.port(&pods.red_a.sandbox)?.spec.unwrap_or_default().ipv4;
    let partner = node.vrouter()?.port(&pods.red_b.sandbox)?.spec.unwrap_or_default().ipv4;

    let outcome = send(node, pods, None, &blue)?;
    let (got, ok) = dropped_by(&outcome, "no_route");
    report.add_attempt(
        "red-a sends to the address of blue-a",
        "every packet dropped as no_route, blue-a receives none",
        got,
        ok,
    );
    report.add_traffic(outcome);

    let false_source = neighbour(&own, &partner);
    let outcome = send(node, pods, Some(&false_source), &partner)?;
    let (got, ok) = dropped_by(&outcome, "source_ip");
    report.add_attempt(
        "red-a sends from an address that is not its own",
        "every packet dropped as source_ip, nobody receives any",
        got,
        ok,
    );
    report.add_traffic(outcome);

    outside_process(node, &pods.red_a, report)?;
    intruder(node, &pods.red_a, report)
}

fn send(node: &Node, pods: &mut Pods, from: Option<&str>, to: &str) -> Result<Outcome> {
    traffic::become_receiver(node, &mut pods.red_b)?;
    traffic::become_receiver(node, &mut pods.blue_a)?;
    traffic::become_sender(node, &mut pods.red_a, from, to)?;
    traffic::measure(node, &pods.red_a, &[&pods.red_b, &pods.blue_a], to, PACKETS)
}

/// What happened, and whether every packet was dropped for `reason` alone.
fn dropped_by(outcome: &Outcome, reason: &str) -> (String, bool) {
    let dropped = outcome.drops.get(reason).copied().unwrap_or(0);
    let received: u64 = outcome.receivers.values().map(|it| it.received).sum();
    let got = format!(
        "{} sent, {dropped} dropped as {reason}, {received} received by other pods",
        outcome.sent
    );
    let only = outcome.drops.len() == 1 && dropped == outcome.sent;
    (got, only && outcome.sent > 0 && received == 0)
}

/// An address of the same network that neither of two pods has.
fn neighbour(own: &str, partner: &str) -> String {
    let prefix = own.rsplit_once('.').map_or(own, |(prefix, _)| prefix);
    (100..=250)
        .map(|last| format!("{prefix}.{last}"))
        .find(|candidate| candidate != own && candidate != partner)
        .unwrap_or_default()
}

fn plain_is_untouched(node: &Node, plain: &RunningPod, report: &mut Report) -> Result<()> {
    let pid = node.pid(plain)?;
    let variables: Vec<String> = readback::environment(pid)?
        .into_iter()
        .filter(|line| line.starts_with("RINGWAY"))
        .collect();
    let mounts: Vec<String> = readback::mounts(Some(pid))?
        .into_iter()
        .map(|mount| mount.target.display().to_string())
        .filter(|target| target.contains("ringway"))
        .collect();
    let ports = node.vrouter()?.find_port(&plain.sandbox)?.map_or(0, |_| 1);
    report.add_attempt(
        "plain, without an annotation, looks for anything of Ringway",
        "no mount, no variable, no port",
        format!("mounts {mounts:?}, variables {variables:?}, {ports} ports"),
        mounts.is_empty() && variables.is_empty() && ports == 0,
    );
    Ok(())
}

/// This very process is root on the host and can reach the socket; it is in no pod's cgroup.
pub fn outside_process(node: &Node, victim: &RunningPod, report: &mut Report) -> Result<()> {
    let port = node.vrouter()?.port(&victim.sandbox)?.spec.unwrap_or_default();
    let stream = UnixStream::connect(&port.socket_path)
        .with_context(|| format!("cannot connect to {}", port.socket_path))?;
    stream.set_read_timeout(Some(REFUSAL))?;
    let mut byte = [0];
    let closed = match (&stream).read(&mut byte) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    };
    let own = std::process::id();
    let event = node.vrouter()?.wait_refused(&port.id, REFUSAL, |event| event.pid == own);
    let (got, refused) = match event {
        Ok(event) => (format!("refused: {}", event.why), true),
        Err(error) => (format!("{error:#}"), false),
    };
    report.add_attempt(
        "a root process outside every pod connects to red-a's socket",
        "the vRouter closes the connection and names the process",
        format!("connection {}; {got}", if closed { "closed" } else { "open" }),
        closed && refused,
    );
    Ok(())
}

/// A pod that was given red-a's directory by a hostPath volume, as a careless cluster would allow.
pub fn intruder(node: &mut Node, victim: &RunningPod, report: &mut Report) -> Result<()> {
    let port = node.vrouter()?.port(&victim.sandbox)?.spec.unwrap_or_default();
    let socket = Path::new(&port.socket_path);
    let directory = socket.parent().context("the socket has no directory")?.to_owned();
    let name = socket.file_name().unwrap_or_default().display().to_string();
    let mut pod = Pod::shell(
        "intruder",
        &format!(
            "exec dpdk-testpmd --in-memory --single-file-segments --iova-mode=va --no-pci --no-telemetry \
             --lcores=0,1@0 --vdev=net_virtio_user0,path={STOLEN}/{name},mac={} -- \
             --no-mlockall --total-num-mbufs=4096 --forward-mode=rxonly",
            port.mac
        ),
    );
    pod.image = image::TESTPMD;
    pod.hugepages_2mi = 64 << 20;
    pod.host_paths = vec![(directory, STOLEN.to_owned())];
    let running = node.start_pod(pod)?;
    node.wait_end(&running)?;
    let log = node.log(&running)?;
    let event =
        node.vrouter()?.wait_refused(&port.id, REFUSAL, |event| event.pid != std::process::id());
    let (got, refused) = match event {
        Ok(event) => (format!("refused: {}", event.why), true),
        Err(error) => (format!("{error:#}; its log ends:\n{log}"), false),
    };
    node.delete(&running)?;
    let device = if log.contains(NO_DEVICE) { "no device" } else { "a device" };
    report.add_attempt(
        "another pod with red-a's directory as a hostPath uses its socket",
        "the vRouter refuses it, its application has no device",
        format!("application has {device}; {got}"),
        device == "no device" && refused,
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::traffic::Received;

    #[test]
    fn only_a_complete_drop_for_the_one_reason_is_good() {
        let good = Outcome {
            sent: 5,
            vrouter_rx: 5,
            drops: BTreeMap::from([("no_route".to_owned(), 5)]),
            receivers: BTreeMap::from([("b".to_owned(), Received::default())]),
            ..Outcome::default()
        };
        assert!(dropped_by(&good, "no_route").1);
        assert!(!dropped_by(&good, "source_ip").1);
        let mut leaky = good.clone();
        leaky.receivers.insert("b".to_owned(), Received { vrouter_tx: 1, received: 1 });
        assert!(!dropped_by(&leaky, "no_route").1);
        let mut mixed = good.clone();
        mixed.drops.insert("no_mbuf".to_owned(), 1);
        assert!(!dropped_by(&mixed, "no_route").1);
        assert!(!dropped_by(&Outcome { sent: 0, ..good }, "no_route").1);
    }

    #[test]
    fn the_false_address_is_nobodys() {
        assert_eq!(neighbour("10.66.0.2", "10.66.0.3"), "10.66.0.100");
        assert_eq!(neighbour("10.66.0.100", "10.66.0.101"), "10.66.0.102");
    }
}
