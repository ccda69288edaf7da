//! Building the answer to `CreateContainer`.
//!
//! The runtime records an owner for every entry of every answer, and a second claim of the same entry fails the
//! container, even by the same plugin. So an answer that names something twice is refused here, where the plugin
//! can say what it was.

use std::collections::BTreeSet;

use crate::api;

/// A checked adjustment of a container that is being created.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Adjustment(api::ContainerAdjustment);

/// Collects an [`Adjustment`].
///
/// What a runtime does not know it ignores silently; each method says since when it is known.
///
/// ```
/// use nri_plugin_proto::AdjustmentBuilder;
/// use nri_plugin_proto::api::Mount;
///
/// # fn main() -> Result<(), nri_plugin_proto::adjust::Duplicate> {
/// let mut builder = AdjustmentBuilder::new();
/// builder
///     .env("GREETING", "hello")?
///     .cpuset_cpus("2-3")?
///     .mount(Mount {
///         destination: "/run/greeting".into(),
///         r#type: "bind".into(),
///         source: "/srv/greeting".into(),
///         options: vec!["rbind".into(), "ro".into()],
///     })?;
/// // A runtime would fail the container for this, and nobody would know why.
/// assert!(builder.env("GREETING", "good bye").is_err());
/// let adjustment = builder.build();
/// assert_eq!(adjustment.as_wire().env.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct AdjustmentBuilder {
    adjustment: api::ContainerAdjustment,
    claimed: BTreeSet<(&'static str, String)>,
}

/// Something was set twice in one answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {key:?} is adjusted twice")]
pub struct Duplicate {
    /// What kind of entry.
    pub kind: &'static str,
    /// Which one; empty where a container has only one.
    pub key: String,
}

// === impl Adjustment ===

impl Adjustment {
    /// The message for the wire.
    #[must_use]
    pub fn into_wire(self) -> api::ContainerAdjustment {
        self.0
    }

    /// The message for the wire.
    #[must_use]
    pub fn as_wire(&self) -> &api::ContainerAdjustment {
        &self.0
    }
}

// === impl AdjustmentBuilder ===

/// Each method fails with [`Duplicate`] when the same entry was set before. A key that starts with `-` removes an
/// entry, or takes it over from a plugin with a lower index, and is an entry of its own.
#[allow(clippy::missing_errors_doc)]
impl AdjustmentBuilder {
    /// Nothing adjusted yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An annotation of the OCI bundle.
    pub fn annotation(&mut self, key: &str, value: &str) -> Result<&mut Self, Duplicate> {
        self.claim("annotation", key)?;
        self.adjustment.annotations.insert(key.to_owned(), value.to_owned());
        Ok(self)
    }

    /// A mount; it replaces one with the same destination. The source must exist.
    pub fn mount(&mut self, mount: api::Mount) -> Result<&mut Self, Duplicate> {
        let destination = mount.destination.trim_end_matches('/');
        self.claim("mount", destination)?;
        self.adjustment.mounts.push(mount);
        Ok(self)
    }

    /// An environment variable.
    pub fn env(&mut self, key: &str, value: &str) -> Result<&mut Self, Duplicate> {
        self.claim("environment variable", key)?;
        self.adjustment.env.push(api::KeyValue { key: key.to_owned(), value: value.to_owned() });
        Ok(self)
    }

    /// A device node; the runtime lets the container's cgroup use it.
    pub fn device(&mut self, device: api::LinuxDevice) -> Result<&mut Self, Duplicate> {
        self.claim("device", &device.path)?;
        self.linux().devices.push(device);
        Ok(self)
    }

    /// The CPUs the container may run on, a list as in `cpuset.cpus`.
    pub fn cpuset_cpus(&mut self, cpus: &str) -> Result<&mut Self, Duplicate> {
        self.claim("cpuset.cpus", "")?;
        self.resources().cpu.get_or_insert_default().cpus = cpus.to_owned();
        Ok(self)
    }

    /// The NUMA nodes whose memory the container may use, a list as in `cpuset.mems`.
    pub fn cpuset_mems(&mut self, mems: &str) -> Result<&mut Self, Duplicate> {
        self.claim("cpuset.mems", "")?;
        self.resources().cpu.get_or_insert_default().mems = mems.to_owned();
        Ok(self)
    }

    /// The memory limit, bytes, without hugepages. The runtime sets the swap limit to the same.
    pub fn memory_limit(&mut self, bytes: i64) -> Result<&mut Self, Duplicate> {
        self.claim("memory limit", "")?;
        self.resources().memory.get_or_insert_default().limit =
            Some(api::OptionalInt64 { value: bytes });
        Ok(self)
    }

    /// The limit, bytes, of hugepages of one size; `page_size` like `2MB` or `1GB`.
    pub fn hugepage_limit(&mut self, page_size: &str, bytes: u64) -> Result<&mut Self, Duplicate> {
        self.claim("hugepage limit", page_size)?;
        let limit = api::HugepageLimit { page_size: page_size.to_owned(), limit: bytes };
        self.resources().hugepage_limits.push(limit);
        Ok(self)
    }

    /// A cgroup v2 file and its content.
    pub fn unified(&mut self, key: &str, value: &str) -> Result<&mut Self, Duplicate> {
        self.claim("cgroup file", key)?;
        self.resources().unified.insert(key.to_owned(), value.to_owned());
        Ok(self)
    }

    /// A resource limit, like `RLIMIT_MEMLOCK`.
    pub fn rlimit(&mut self, kind: &str, soft: u64, hard: u64) -> Result<&mut Self, Duplicate> {
        self.claim("rlimit", kind)?;
        self.adjustment.rlimits.push(api::PosixRlimit { r#type: kind.to_owned(), hard, soft });
        Ok(self)
    }

    /// The command line, in place of what the image or the pod says (NRI 0.10).
    pub fn args(&mut self, args: &[&str]) -> Result<&mut Self, Duplicate> {
        self.claim("args", "")?;
        self.adjustment.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Ok(self)
    }

    /// OCI hooks, added to those of others. They have no owner: nothing of them is ever refused.
    pub fn hooks(&mut self, hooks: api::Hooks) -> &mut Self {
        let all = self.adjustment.hooks.get_or_insert_default();
        all.prestart.extend(hooks.prestart);
        all.create_runtime.extend(hooks.create_runtime);
        all.create_container.extend(hooks.create_container);
        all.start_container.extend(hooks.start_container);
        all.poststart.extend(hooks.poststart);
        all.poststop.extend(hooks.poststop);
        self
    }

    /// Weight of the container's CPU time, 1024 for each CPU.
    pub fn cpu_shares(&mut self, shares: u64) -> Result<&mut Self, Duplicate> {
        self.claim("CPU shares", "")?;
        let cpu = self.resources().cpu.get_or_insert_default();
        cpu.shares = Some(api::OptionalUInt64 { value: shares });
        Ok(self)
    }

    /// CPU time in each period, both in µs.
    pub fn cpu_quota(&mut self, quota: i64, period: u64) -> Result<&mut Self, Duplicate> {
        self.claim("CPU quota", "")?;
        let cpu = self.resources().cpu.get_or_insert_default();
        cpu.quota = Some(api::OptionalInt64 { value: quota });
        cpu.period = Some(api::OptionalUInt64 { value: period });
        Ok(self)
    }

    /// Processes and threads at most (NRI 0.7).
    pub fn pids_limit(&mut self, limit: i64) -> Result<&mut Self, Duplicate> {
        self.claim("pids limit", "")?;
        self.resources().pids = Some(api::LinuxPids { limit });
        Ok(self)
    }

    /// A class of block I/O that the runtime knows.
    pub fn blockio_class(&mut self, name: &str) -> Result<&mut Self, Duplicate> {
        self.claim("block I/O class", "")?;
        self.resources().blockio_class = Some(api::OptionalString { value: name.to_owned() });
        Ok(self)
    }

    /// A class of cache and memory bandwidth that the runtime knows.
    pub fn rdt_class(&mut self, name: &str) -> Result<&mut Self, Duplicate> {
        self.claim("RDT class", "")?;
        self.resources().rdt_class = Some(api::OptionalString { value: name.to_owned() });
        Ok(self)
    }

    /// Cache and memory bandwidth (NRI 0.11).
    pub fn rdt(&mut self, rdt: api::LinuxRdt) -> Result<&mut Self, Duplicate> {
        self.claim("RDT", "")?;
        self.linux().rdt = Some(rdt);
        Ok(self)
    }

    /// Where the container's cgroup is.
    pub fn cgroups_path(&mut self, path: &str) -> Result<&mut Self, Duplicate> {
        self.claim("cgroups path", "")?;
        self.linux().cgroups_path = path.to_owned();
        Ok(self)
    }

    /// How soon the kernel kills it when memory runs out, -1000 to 1000 (NRI 0.7).
    pub fn oom_score_adj(&mut self, score: i64) -> Result<&mut Self, Duplicate> {
        self.claim("OOM score", "")?;
        self.linux().oom_score_adj = Some(api::OptionalInt { value: score });
        Ok(self)
    }

    /// Its I/O priority (NRI 0.10).
    pub fn io_priority(&mut self, priority: api::LinuxIoPriority) -> Result<&mut Self, Duplicate> {
        self.claim("I/O priority", "")?;
        self.linux().io_priority = Some(priority);
        Ok(self)
    }

    /// Its seccomp policy, in place of the one it has (NRI 0.10).
    pub fn seccomp_policy(&mut self, policy: api::LinuxSeccomp) -> Result<&mut Self, Duplicate> {
        self.claim("seccomp policy", "")?;
        self.linux().seccomp_policy = Some(policy);
        Ok(self)
    }

    /// A namespace by its type, like `network`; an empty path is a new one (NRI 0.10).
    pub fn namespace(&mut self, kind: &str, path: &str) -> Result<&mut Self, Duplicate> {
        self.claim("namespace", kind)?;
        let namespace = api::LinuxNamespace { r#type: kind.to_owned(), path: path.to_owned() };
        self.linux().namespaces.push(namespace);
        Ok(self)
    }

    /// A kernel parameter of its namespaces (NRI 0.11).
    pub fn sysctl(&mut self, key: &str, value: &str) -> Result<&mut Self, Duplicate> {
        self.claim("sysctl", key)?;
        self.linux().sysctl.insert(key.to_owned(), value.to_owned());
        Ok(self)
    }

    /// A network interface of the host, moved into the container under another name (NRI 0.11).
    pub fn net_device(&mut self, host: &str, inside: &str) -> Result<&mut Self, Duplicate> {
        self.claim("network device", host)?;
        let device = api::LinuxNetDevice { name: inside.to_owned() };
        self.linux().net_devices.insert(host.to_owned(), device);
        Ok(self)
    }

    /// How its first process is scheduled (NRI 0.11).
    pub fn scheduler(&mut self, scheduler: api::LinuxScheduler) -> Result<&mut Self, Duplicate> {
        self.claim("scheduler", "")?;
        self.linux().scheduler = Some(scheduler);
        Ok(self)
    }

    /// Where its memory comes from (NRI 0.12, with an OCI runtime that knows `linux.memoryPolicy`).
    pub fn memory_policy(
        &mut self,
        policy: api::LinuxMemoryPolicy,
    ) -> Result<&mut Self, Duplicate> {
        self.claim("memory policy", "")?;
        self.linux().memory_policy = Some(policy);
        Ok(self)
    }

    /// A device by its CDI name. containerd 2.0 ignores it silently.
    pub fn cdi_device(&mut self, name: &str) -> Result<&mut Self, Duplicate> {
        self.claim("CDI device", name)?;
        self.adjustment.cdi_devices.push(api::CdiDevice { name: name.to_owned() });
        Ok(self)
    }

    /// The finished adjustment.
    #[must_use]
    pub fn build(self) -> Adjustment {
        Adjustment(self.adjustment)
    }

    fn claim(&mut self, kind: &'static str, key: &str) -> Result<(), Duplicate> {
        if self.claimed.insert((kind, key.to_owned())) {
            Ok(())
        } else {
            Err(Duplicate { kind, key: key.to_owned() })
        }
    }

    fn linux(&mut self) -> &mut api::LinuxContainerAdjustment {
        self.adjustment.linux.get_or_insert_default()
    }

    fn resources(&mut self) -> &mut api::LinuxResources {
        self.linux().resources.get_or_insert_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Step = fn(&mut AdjustmentBuilder) -> Result<&mut AdjustmentBuilder, Duplicate>;

    fn mount(destination: &str) -> api::Mount {
        api::Mount { destination: destination.into(), ..Default::default() }
    }

    const STEPS: &[(&str, Step)] = &[
        ("annotation", |b| b.annotation("a", "1")),
        ("mount", |b| b.mount(mount("/run/x"))),
        ("environment variable", |b| b.env("A", "1")),
        ("device", |b| b.device(api::LinuxDevice { path: "/dev/x".into(), ..Default::default() })),
        ("cpuset.cpus", |b| b.cpuset_cpus("1-2")),
        ("cpuset.mems", |b| b.cpuset_mems("0")),
        ("memory limit", |b| b.memory_limit(1)),
        ("hugepage limit", |b| b.hugepage_limit("2MB", 4)),
        ("cgroup file", |b| b.unified("memory.high", "1")),
        ("rlimit", |b| b.rlimit("RLIMIT_MEMLOCK", 1, 2)),
        ("CDI device", |b| b.cdi_device("vendor.com/class=dev")),
        ("args", |b| b.args(&["a", "b"])),
        ("CPU shares", |b| b.cpu_shares(2)),
        ("CPU quota", |b| b.cpu_quota(1, 2)),
        ("pids limit", |b| b.pids_limit(3)),
        ("block I/O class", |b| b.blockio_class("gold")),
        ("RDT class", |b| b.rdt_class("gold")),
        ("RDT", |b| b.rdt(api::LinuxRdt::default())),
        ("cgroups path", |b| b.cgroups_path("/x")),
        ("OOM score", |b| b.oom_score_adj(-5)),
        ("I/O priority", |b| b.io_priority(api::LinuxIoPriority::default())),
        ("seccomp policy", |b| b.seccomp_policy(api::LinuxSeccomp::default())),
        ("namespace", |b| b.namespace("network", "/proc/1/ns/net")),
        ("sysctl", |b| b.sysctl("net.core.somaxconn", "7")),
        ("network device", |b| b.net_device("eth1", "net1")),
        ("scheduler", |b| b.scheduler(api::LinuxScheduler::default())),
        ("memory policy", |b| b.memory_policy(api::LinuxMemoryPolicy::default())),
    ];

    #[test]
    fn nothing_can_be_set_twice() {
        let mut builder = AdjustmentBuilder::new();
        for (_, step) in STEPS {
            step(&mut builder).unwrap();
        }
        for (kind, step) in STEPS {
            assert_eq!(step(&mut builder).unwrap_err().kind, *kind);
        }
        // The refused ones left no trace.
        let mut once = AdjustmentBuilder::new();
        for (_, step) in STEPS {
            step(&mut once).unwrap();
        }
        assert_eq!(builder.build(), once.build());
    }

    #[test]
    fn neighbours_are_not_duplicates() {
        let mut builder = AdjustmentBuilder::new();
        builder.env("A", "1").unwrap().env("B", "2").unwrap().env("-A", "").unwrap();
        builder.hugepage_limit("2MB", 1).unwrap().hugepage_limit("1GB", 2).unwrap();
        builder.annotation("A", "1").unwrap();
        let wire = builder.build().into_wire();
        assert_eq!(wire.env.len(), 3);
        assert_eq!(wire.linux.unwrap().resources.unwrap().hugepage_limits.len(), 2);
    }

    #[test]
    fn a_trailing_slash_is_the_same_mount() {
        let mut builder = AdjustmentBuilder::new();
        builder.mount(mount("/run/x/")).unwrap();
        assert!(builder.mount(mount("/run/x")).is_err());
    }

    #[test]
    fn hooks_add_up() {
        let hook = |path: &str| api::Hook { path: path.into(), ..Default::default() };
        let mut builder = AdjustmentBuilder::new();
        builder.hooks(api::Hooks { prestart: vec![hook("/a")], ..Default::default() });
        let more = api::Hooks {
            prestart: vec![hook("/b")],
            create_runtime: vec![hook("/c")],
            create_container: vec![hook("/d")],
            start_container: vec![hook("/e")],
            poststart: vec![hook("/f")],
            poststop: vec![hook("/g")],
        };
        builder.hooks(more);
        let hooks = builder.build().into_wire().hooks.unwrap();
        let all = [
            hooks.prestart,
            hooks.create_runtime,
            hooks.create_container,
            hooks.start_container,
            hooks.poststart,
            hooks.poststop,
        ];
        let paths: Vec<_> = all.iter().flatten().map(|hook| hook.path.as_str()).collect();
        assert_eq!(paths, ["/a", "/b", "/c", "/d", "/e", "/f", "/g"]);
    }

    #[test]
    fn only_what_was_set_is_sent() {
        assert_eq!(
            AdjustmentBuilder::new().build().into_wire(),
            api::ContainerAdjustment::default()
        );
        let mut builder = AdjustmentBuilder::new();
        builder.cpuset_cpus("3").unwrap();
        let resources = builder.build().into_wire().linux.unwrap().resources.unwrap();
        assert_eq!(resources.cpu.unwrap().cpus, "3");
        assert_eq!((resources.memory, resources.hugepage_limits.len()), (None, 0));
    }
}
