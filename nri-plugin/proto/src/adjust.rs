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
