//! The fixture of the integration tests and of the demo: a real containerd, the real daemons, real DPDK pods.
//!
//! It knows the daemons only from outside: their programs, their configuration files, the vRouter's control API, and what the kernel
//! shows. It is not used by any other crate. Errors are for a person who reads a failed run, therefore `anyhow`.
#![forbid(unsafe_code)]

pub mod containerd;
pub mod cri;
pub mod demo;
pub mod device;
pub mod frames;
pub mod idle_pods;
pub mod image;
pub mod instances;
pub mod kernel_pod;
pub mod kubernetes;
pub mod launch;
pub mod leftovers;
pub mod machine;
pub mod memory;
pub mod node;
pub mod pktgen;
pub mod plugins;
pub mod pod;
pub mod process;
pub mod qemu;
pub mod readback;
pub mod recorder;
pub mod rundir;
pub mod space;
pub mod stage;
pub mod stopwatch;
pub mod suite;
pub mod testpmd;
pub mod traffic;
pub mod vrouter;
pub mod wait;
pub mod wrapper;
