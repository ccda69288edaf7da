//! `ringway cdi`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

pub(crate) const CDI_HELP: &str = "\
A device is an interface that is made now, belongs to one container at a time, and stays until it is deleted. The file tells a
runtime to mount its directory, to set $RINGWAY_INTERFACES and $RINGWAY_EAL_ARGS, and to run a hook that lets the container's
processes in, and no others.

What a file of CDI cannot carry, and annotations can: exclusive CPUs and memory nodes (cpuset), hugepage limits, and that the
interface goes with its container. Give those by the manager's own options (--cpuset-cpus, --cpuset-mems), and delete the device.

Examples:
  ringway cdi add web --network red
  podman run --device ringway.dev/interface=web IMAGE
  ringway cdi delete web";

#[derive(Debug, ClapArgs)]
pub(crate) struct CdiArgs {
    /// The directory of the pods' sockets, as in nri.toml.
    #[arg(long, value_name = "PATH", default_value = "/run/ringway")]
    pub(crate) run_dir: PathBuf,
    /// Where runtimes look for files of CDI.
    #[arg(long, value_name = "PATH", default_value = "/var/run/cdi")]
    pub(crate) spec_dir: PathBuf,
    #[command(subcommand)]
    pub(crate) action: CdiAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CdiAction {
    /// Makes a device and writes its file.
    Add(AddDevice),
    /// Takes a device back and removes its file. One that does not exist is no error, one that a container uses is.
    Delete {
        /// Its name.
        name: String,
    },
    /// Lets a container in whose state (OCI) is read from standard input; runtimes call it.
    #[command(hide = true)]
    Hook {
        /// Name of the device.
        name: String,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct AddDevice {
    /// Its name: at most 63 letters, digits, `.`, `_` and `-`; the first a letter, the last a letter or digit.
    pub(crate) name: String,
    /// The network to join.
    #[arg(long, value_name = "NETWORK")]
    pub(crate) network: String,
    /// Its IPv4 or IPv6 address, or one of each [default: the lowest that is free].
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip: Vec<String>,
    /// Its Ethernet address [default: by its IPv4 address].
    #[arg(long, value_name = "MAC")]
    pub(crate) mac: Option<String>,
    /// Queue pairs [default: 1].
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(crate) queues: Option<u32>,
    /// Who listens on the socket.
    #[arg(long, value_enum, default_value_t = Listener::Vrouter)]
    pub(crate) listen: Listener,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Listener {
    /// The vRouter; what is mounted is read-only.
    Vrouter,
    /// The application; it survives a restart of the vRouter.
    Pod,
}
