//! Decides which CPUs, NUMA memory, hugepage limits, addresses and vhost-user sockets a pod gets, and what has to be
//! done after a restart.
//!
//! Does not read files, talk to anybody, know NRI, JSON or gRPC, or look at a clock: everything comes in as plain
//! values and goes out as plain values or one clear error. The binary `ringway-nri` depends on it; so does
//! `node-tuner-cluster`, which reads a pod's annotations as the allocator of its node will.
//!
//! Order of use: [`topology::Topology::parse`] on what sysfs says, [`annotations::parse`] on a container's
//! annotations, [`plan::Node::allocate`] to decide within the administrator's [`policy`], [`paths`] and [`cgroup`] to carry it out, [`recovery::plan`] after
//! a restart.
#![forbid(unsafe_code)]

pub mod annotations;
pub mod cgroup;
pub mod cpuset;
pub mod eal;
pub mod hugepages;
pub mod net;
pub mod paths;
mod pick;
pub mod plan;
pub mod policy;
pub mod recovery;
pub mod topology;
