//! Pods as kubelet would ask for them: one sandbox, one application container.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use k8s_cri::v1::security_profile::ProfileType;
use k8s_cri::v1::{
    Capability, ContainerConfig, ContainerMetadata, HugepageLimit, IdMapping, ImageSpec,
    Int64Value, KeyValue, LinuxContainerConfig, LinuxContainerResources,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount,
    NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata, SecurityProfile,
    UserNamespace,
};

use crate::image;

/// The user of every application that asks for one: nobody.
pub const USER: i64 = 65534;
/// Kubernetes namespace of the test pods.
pub const NAMESPACE: &str = "demo";
/// Name of the one container.
pub const CONTAINER: &str = "app";

/// What a user writes.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Name, unique within a node.
    pub name: String,
    /// Annotations of the pod.
    pub annotations: BTreeMap<String, String>,
    /// Image of the container.
    pub image: &'static str,
    /// Command of the container.
    pub command: Vec<String>,
    /// Whole CPUs requested and limited; 0 for none.
    pub cpus: u32,
    /// CPUs that kubelet's CPU manager has chosen, as `0-1`; empty where it has not.
    pub cpuset: String,
    /// Limit of 2 MiB hugepages in bytes.
    pub hugepages_2mi: u64,
    /// Host directories mounted into the container, as a hostPath volume would be: host path, container path.
    pub host_paths: Vec<(PathBuf, String)>,
    /// It has a network namespace, which the node's CNI plugin sets up.
    pub own_network: bool,
    /// Its seccomp profile.
    pub seccomp: Seccomp,
    /// Whether the container may not write to its image.
    pub read_only: bool,
    /// The user it asks for; `None` leaves that to its image.
    pub run_as: Option<i64>,
    /// Whether its users are others on the host: the first of 65,536, as kubelet chooses them for a pod.
    pub host_users: Option<u32>,
}

/// What kubelet sends for `securityContext.seccompProfile`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seccomp {
    /// Where neither the pod nor the node asks for a profile.
    Unconfined,
    /// containerd's own.
    RuntimeDefault,
    /// A file of the node.
    Localhost(PathBuf),
}

impl Pod {
    /// A pod that runs a shell script on busybox.
    pub fn shell(name: &str, script: &str) -> Self {
        Self {
            name: name.to_owned(),
            annotations: BTreeMap::new(),
            image: image::BUSYBOX,
            command: vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()],
            cpus: 0,
            cpuset: String::new(),
            hugepages_2mi: 0,
            host_paths: Vec::new(),
            own_network: false,
            seccomp: Seccomp::Unconfined,
            read_only: false,
            run_as: Some(USER),
            host_users: None,
        }
    }

    /// With a network namespace of its own.
    #[must_use]
    pub fn own_network(mut self) -> Self {
        self.own_network = true;
        self
    }

    /// A pod that does nothing until it is stopped.
    pub fn idle(name: &str) -> Self {
        Self::shell(name, "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done")
    }

    /// With an annotation.
    #[must_use]
    pub fn annotate(mut self, key: &str, value: impl Into<String>) -> Self {
        self.annotations.insert(key.to_owned(), value.into());
        self
    }

    /// The uid kubelet would have been given by the API server.
    fn uid(&self) -> String {
        format!("00000000-0000-4000-8000-{}", self.name)
    }

    fn labels(&self) -> HashMap<String, String> {
        HashMap::from([
            ("io.kubernetes.pod.name".to_owned(), self.name.clone()),
            ("io.kubernetes.pod.namespace".to_owned(), NAMESPACE.to_owned()),
            ("io.kubernetes.pod.uid".to_owned(), self.uid()),
        ])
    }

    /// The sandbox, its cgroup below `/cgroup`, its logs below `logs`.
    pub fn sandbox(&self, cgroup: &str, logs: &Path, attempt: u32) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: self.name.clone(),
                uid: self.uid(),
                namespace: NAMESPACE.to_owned(),
                attempt,
            }),
            log_directory: logs.join(&self.name).display().to_string(),
            labels: self.labels(),
            annotations: self.annotations.clone().into_iter().collect(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/{cgroup}/pod{}", self.uid()),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(self.namespaces()),
                    seccomp: Some(self.profile()),
                    ..LinuxSandboxSecurityContext::default()
                }),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        }
    }

    /// The container: no root, no capability, no new privileges, no device.
    pub fn container(&self, attempt: u32) -> ContainerConfig {
        self.container_named(CONTAINER, attempt)
    }

    /// The same under another name, for a pod of several.
    pub fn container_named(&self, name: &str, attempt: u32) -> ContainerConfig {
        let mut labels = self.labels();
        labels.insert("io.kubernetes.container.name".to_owned(), name.to_owned());
        ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned(), attempt }),
            image: Some(ImageSpec { image: self.image.to_owned(), ..ImageSpec::default() }),
            command: self.command.clone(),
            envs: vec![KeyValue { key: "POD".to_owned(), value: self.name.clone() }],
            mounts: self
                .host_paths
                .iter()
                .map(|(host, inside)| Mount {
                    host_path: host.display().to_string(),
                    container_path: inside.clone(),
                    ..Mount::default()
                })
                .collect(),
            labels,
            annotations: HashMap::from([(
                "io.kubernetes.container.restartCount".to_owned(),
                attempt.to_string(),
            )]),
            log_path: format!("{name}/{attempt}.log"),
            linux: Some(LinuxContainerConfig {
                resources: Some(self.resources()),
                security_context: Some(LinuxContainerSecurityContext {
                    capabilities: Some(Capability {
                        drop_capabilities: vec!["ALL".to_owned()],
                        ..Capability::default()
                    }),
                    namespace_options: Some(self.namespaces()),
                    readonly_rootfs: self.read_only,
                    run_as_user: self.run_as.map(|value| Int64Value { value }),
                    run_as_group: self.run_as.map(|value| Int64Value { value }),
                    no_new_privs: true,
                    masked_paths: [
                        "/proc/kcore",
                        "/proc/keys",
                        "/proc/timer_list",
                        "/sys/firmware",
                    ]
                    .map(ToOwned::to_owned)
                    .to_vec(),
                    readonly_paths: ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"]
                        .map(ToOwned::to_owned)
                        .to_vec(),
                    seccomp: Some(self.profile()),
                    ..LinuxContainerSecurityContext::default()
                }),
            }),
            ..ContainerConfig::default()
        }
    }

    /// Usually a pod with host network (so without a hostname of its own): no CNI plugin is needed, and Ringway's interface is not
    /// a kernel one.
    fn namespaces(&self) -> NamespaceOption {
        let users = self.host_users.map(|host_id| {
            let all = || vec![IdMapping { host_id, container_id: 0, length: 65_536 }];
            UserNamespace { mode: NamespaceMode::Pod.into(), uids: all(), gids: all() }
        });
        let network = if self.own_network { NamespaceMode::Pod } else { NamespaceMode::Node };
        NamespaceOption {
            network: network.into(),
            pid: NamespaceMode::Container.into(),
            ipc: NamespaceMode::Pod.into(),
            userns_options: users,
            ..NamespaceOption::default()
        }
    }

    /// containerd's own default profile refuses get_mempolicy(2) and set_mempolicy(2) to processes without CAP_SYS_NICE; EAL cannot
    /// place hugepages without them.
    fn profile(&self) -> SecurityProfile {
        let (kind, file) = match &self.seccomp {
            Seccomp::Unconfined => (ProfileType::Unconfined, String::new()),
            Seccomp::RuntimeDefault => (ProfileType::RuntimeDefault, String::new()),
            Seccomp::Localhost(file) => (ProfileType::Localhost, file.display().to_string()),
        };
        SecurityProfile { profile_type: kind.into(), localhost_ref: file }
    }

    /// As kubelet computes them: shares from the CPU request, a quota from its limit, one hugepage limit for each size the
    /// node has, 0 where nothing was requested.
    fn resources(&self) -> LinuxContainerResources {
        let cpus = i64::from(self.cpus);
        LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: cpus * 100_000,
            cpu_shares: (cpus * 1024).max(2),
            oom_score_adj: 1000,
            cpuset_cpus: self.cpuset.clone(),
            hugepage_limits: vec![
                HugepageLimit { page_size: "2MB".to_owned(), limit: self.hugepages_2mi },
                HugepageLimit { page_size: "1GB".to_owned(), limit: 0 },
            ],
            ..LinuxContainerResources::default()
        }
    }
}

/// Log of one attempt, below the log directory of the sandbox.
pub fn log_name(attempt: u32) -> String {
    format!("{CONTAINER}/{attempt}.log")
}

/// The text of a CRI log file (`time stream tag text` per line; `P` continues on the next line).
pub fn log_text(raw: &str) -> String {
    let mut text = String::new();
    for line in raw.lines() {
        let mut parts = line.splitn(4, ' ').skip(2);
        let (Some(tag), Some(content)) = (parts.next(), parts.next()) else { continue };
        text.push_str(content);
        if !tag.starts_with('P') {
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_what_kubelet_sends() {
        let mut pod = Pod::idle("a");
        for (cpus, quota, shares) in [(0, 0, 2), (2, 200_000, 2048)] {
            pod.cpus = cpus;
            let got = pod.resources();
            assert_eq!((got.cpu_quota, got.cpu_shares), (quota, shares), "{cpus} CPUs");
            let sizes: Vec<&str> =
                got.hugepage_limits.iter().map(|limit| limit.page_size.as_str()).collect();
            assert_eq!(sizes, ["2MB", "1GB"]);
        }
    }

    #[test]
    fn reads_a_cri_log() {
        let raw = "2026-01-01T00:00:00.0Z stdout F hello there\n\
                   2026-01-01T00:00:00.0Z stdout P half \n\
                   2026-01-01T00:00:00.0Z stdout F line\n\
                   2026-01-01T00:00:00.0Z stderr F \n";
        assert_eq!(log_text(raw), "hello there\nhalf line\n\n");
    }
}
