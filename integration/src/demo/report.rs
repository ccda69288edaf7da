//! What the demo writes: a table for people and a JSON file for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::containerd::Version;
use crate::node::{Node, RunningPod};
use crate::readback;
use crate::traffic::Outcome;

/// Everything the demo found out.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Whether everything was as it should be.
    pub ok: bool,
    /// Version as the running containerd tells it.
    pub containerd: String,
    /// Version as the running libdpdk tells it.
    pub dpdk: String,
    /// The pods.
    pub pods: Vec<PodRow>,
    /// Packets that went from one pod to another.
    pub forwarded_packets: u64,
    /// Attempts at what must not be possible.
    pub isolation: Vec<Attempt>,
    /// Packets of each sender, from end to end.
    pub traffic: Vec<Outcome>,
    /// What was not as it should be.
    pub problems: Vec<String>,
}

/// A pod as the system shows it.
#[derive(Debug, Serialize)]
pub struct PodRow {
    /// Name.
    pub name: String,
    /// Network of its port at the vRouter, none for a plain pod.
    pub network: Option<String>,
    /// Sandbox id.
    pub sandbox: String,
    /// Socket on the host, as the vRouter has it.
    pub socket: Option<String>,
    /// Who listens: `vrouter` or `pod`.
    pub mode: Option<String>,
    /// cgroup: CPUs.
    pub cpuset_cpus: String,
    /// cgroup: memory nodes.
    pub cpuset_mems: String,
    /// cgroup: limit of 2 MiB hugepages, bytes.
    #[serde(rename = "hugetlb_2MB_limit")]
    pub hugetlb_2mb_limit: u64,
    /// Effective user id of the application.
    pub uid: u32,
    /// Effective capabilities of the application, as in /proc/PID/status.
    pub cap_eff: String,
    /// Packets its testpmd received, over all parts of the demo.
    pub rx_packets: u64,
    /// Packets its testpmd sent, over all parts of the demo.
    pub tx_packets: u64,
}

/// An attempt at what must not be possible.
#[derive(Debug, Serialize)]
pub struct Attempt {
    /// What was tried.
    pub attempt: String,
    /// What should happen.
    pub expected: String,
    /// What happened.
    pub got: String,
    /// Whether that is the same.
    pub ok: bool,
}

impl PodRow {
    /// Reads a running pod back from /proc, the cgroups and the vRouter.
    pub fn read(node: &Node, pod: &RunningPod) -> Result<Self> {
        let pid = node.pid(pod)?;
        let mut spec = None;
        for vrouter in node.vrouters() {
            spec = spec.or(vrouter.find_port(&pod.sandbox)?.and_then(|port| port.spec));
        }
        let uids = readback::status_field(pid, "Uid")?;
        let effective = uids.split_whitespace().nth(1).context("no effective uid")?;
        let limit = readback::hugetlb_2mb_limit(pid)?;
        Ok(Self {
            name: pod.pod.name.clone(),
            network: spec.as_ref().map(|spec| spec.network.clone()),
            sandbox: pod.sandbox.clone(),
            socket: spec.as_ref().map(|spec| spec.socket_path.clone()),
            mode: spec.as_ref().map(|spec| {
                let owner = spec.socket_owner().as_str_name();
                owner.trim_start_matches("SOCKET_OWNER_").to_lowercase()
            }),
            cpuset_cpus: readback::cpuset_cpus(pid)?,
            cpuset_mems: readback::cpuset_mems(pid)?,
            // cgroup v2 says "max" where v1 has a number that no machine reaches.
            hugetlb_2mb_limit: if limit == "max" { u64::MAX } else { limit.parse()? },
            uid: effective.parse()?,
            cap_eff: readback::status_field(pid, "CapEff")?,
            rx_packets: 0,
            tx_packets: 0,
        })
    }
}

impl Report {
    /// Takes versions from the running parts.
    pub fn begin(node: &Node) -> Result<Self> {
        Ok(Self {
            containerd: plain_version(&node.containerd()?.reported_version()?),
            dpdk: node
                .vrouters()
                .next()
                .context("no vRouter runs")?
                .info()?
                .dpdk_version
                .trim_start_matches("DPDK ")
                .to_owned(),
            ..Self::default()
        })
    }

    /// Adds the packets of one sender, and what is wrong with them.
    pub fn add_traffic(&mut self, outcome: Outcome) {
        if let Err(error) = outcome.check() {
            self.problems.push(format!("{error:#}"));
        }
        self.forwarded_packets += outcome.forwarded();
        for row in &mut self.pods {
            if row.name == outcome.from {
                row.tx_packets += outcome.sent;
            }
            row.rx_packets += outcome.receivers.get(&row.name).map_or(0, |it| it.received);
        }
        self.traffic.push(outcome);
    }

    /// Adds an attempt.
    pub fn add_attempt(&mut self, attempt: &str, expected: &str, got: String, ok: bool) {
        self.isolation.push(Attempt {
            attempt: attempt.to_owned(),
            expected: expected.to_owned(),
            got,
            ok,
        });
    }

    /// Decides whether all is well.
    pub fn conclude(&mut self, version: Version) {
        if !self.containerd.starts_with(&version.to_string()) {
            // Another release of the same major line may have replaced it in the distribution.
            println!("note: containerd {} was used for {version}", self.containerd);
        }
        for attempt in &self.isolation {
            if !attempt.ok {
                self.problems.push(format!("{}: {}", attempt.attempt, attempt.got));
            }
        }
        self.ok =
            self.problems.is_empty() && !self.isolation.is_empty() && !self.traffic.is_empty();
    }

    /// Writes the JSON form.
    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The form for people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let none = || "-".to_owned();
        let mut rows = vec![
            [
                "pod",
                "network",
                "socket",
                "CPUs",
                "nodes",
                "2 MiB pages",
                "uid",
                "capabilities",
                "received",
                "sent",
            ]
            .map(ToOwned::to_owned)
            .to_vec(),
        ];
        for pod in &self.pods {
            rows.push(vec![
                pod.name.clone(),
                pod.network.clone().unwrap_or_else(none),
                pod.mode.as_ref().map_or_else(none, |mode| format!("{mode} listens")),
                pod.cpuset_cpus.clone(),
                pod.cpuset_mems.clone(),
                format!("{} MiB", pod.hugetlb_2mb_limit >> 20),
                pod.uid.to_string(),
                pod.cap_eff
                    .trim_start_matches('0')
                    .chars()
                    .next()
                    .map_or("none".to_owned(), |_| pod.cap_eff.clone()),
                pod.rx_packets.to_string(),
                pod.tx_packets.to_string(),
            ]);
        }
        text.push_str(&columns(&rows));

        let mut rows = vec![
            [
                "from",
                "to",
                "sent",
                "vRouter in",
                "vRouter out",
                "received",
                "dropped by the vRouter",
            ]
            .map(ToOwned::to_owned)
            .to_vec(),
        ];
        for outcome in &self.traffic {
            let received: u64 = outcome.receivers.values().map(|it| it.received).sum();
            rows.push(vec![
                outcome.from.clone(),
                outcome.to.clone(),
                outcome.sent.to_string(),
                outcome.vrouter_rx.to_string(),
                outcome.forwarded().to_string(),
                received.to_string(),
                drops(&outcome.drops),
            ]);
        }
        text.push('\n');
        text.push_str(&columns(&rows));
        if self.traffic.iter().any(|it| it.drops.contains_key("receiver_ring_full")) {
            text.push_str(
                "\nreceiver_ring_full: the pods share what CPUs the vRouter's worker leaves, and while a sender runs, a receiver\n\
                 on the same CPU cannot empty its ring. The table shows that every packet is accounted for, not speed.\n",
            );
        }

        text.push('\n');
        for attempt in &self.isolation {
            let mark = if attempt.ok { "ok  " } else { "FAIL" };
            let _ = writeln!(text, "{mark} {}: {}", attempt.attempt, attempt.got);
        }
        for problem in &self.problems {
            let _ = writeln!(text, "PROBLEM {problem}");
        }
        text
    }
}

fn drops(drops: &BTreeMap<String, u64>) -> String {
    if drops.is_empty() {
        return "none".to_owned();
    }
    drops.iter().map(|(reason, count)| format!("{reason} {count}")).collect::<Vec<_>>().join(", ")
}

/// `v2.1.9+unknown` and `1.7.24~ds1` as a release number.
fn plain_version(reported: &str) -> String {
    reported
        .trim_start_matches('v')
        .chars()
        .take_while(|it| it.is_ascii_digit() || *it == '.')
        .collect()
}

/// Left-aligned columns, each as wide as its widest cell.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::Received;

    #[test]
    fn versions_are_reduced_to_the_release() {
        for (reported, expected) in
            [("v2.1.9+unknown", "2.1.9"), ("2.1.9+unknown", "2.1.9"), ("1.7.24~ds1", "1.7.24")]
        {
            assert_eq!(plain_version(reported), expected);
        }
    }

    #[test]
    fn one_wrong_number_or_attempt_makes_it_not_ok() {
        let good = Outcome {
            from: "a".to_owned(),
            to: "b".to_owned(),
            sent: 5,
            vrouter_rx: 5,
            drops: BTreeMap::new(),
            receivers: BTreeMap::from([("b".to_owned(), Received { vrouter_tx: 5, received: 5 })]),
        };
        let report = |outcome: Outcome, attempt_ok| {
            let mut report = Report { containerd: "2.1.9".to_owned(), ..Report::default() };
            report.add_traffic(outcome);
            report.add_attempt("x", "refused", "y".to_owned(), attempt_ok);
            report.conclude(Version::V2_1);
            report
        };
        let fine = report(good.clone(), true);
        assert!(fine.ok, "{fine:?}");
        assert_eq!(fine.forwarded_packets, 5);
        assert!(!report(good.clone(), false).ok);
        assert!(!report(Outcome { sent: 6, ..good }, true).ok);
        let mut empty = Report::default();
        empty.conclude(Version::V2_1);
        assert!(!empty.ok, "nothing was shown");
    }

    #[test]
    fn columns_line_up() {
        let rows = [["a", "bb"], ["ccc", "d"]].map(|row| row.map(ToOwned::to_owned).to_vec());
        assert_eq!(columns(&rows), "a    bb\nccc  d\n");
    }
}
