//! `ringway uplinks`.

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum UplinkAction {
    /// Shows them, as without a subcommand.
    List,
    /// Opens an uplink. The same again is no error, the same name with other values is.
    #[command(after_help = ADD_EXAMPLES)]
    Add(AddUplink),
    /// Closes an uplink. One that does not exist is no error.
    Delete {
        /// Its name.
        name: String,
    },
}

const ADD_EXAMPLES: &str = "\
Examples:
  ringway uplinks add up0 0000:01:00.0 --network fabric      a NIC that is bound to vfio-pci
  ringway uplinks add up1 eth1 --network fabric --host-interface host1";

#[derive(Debug, ClapArgs)]
pub(crate) struct AddUplink {
    /// Its name: at most 15 letters, digits, `.`, `_` and `-`.
    pub(crate) name: String,
    /// A PCI address, or the name of a kernel interface.
    pub(crate) device: String,
    /// The external network it belongs to.
    #[arg(long, value_name = "NETWORK")]
    pub(crate) network: String,
    /// How DPDK serves it.
    #[arg(long, value_enum, default_value_t = Driver::Auto)]
    pub(crate) driver: Driver,
    /// Name of the kernel's side of it, a TAP with its address [default: none].
    #[arg(long, value_name = "NAME")]
    pub(crate) host_interface: Option<String>,
    /// Receive queues [default: 1].
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(crate) queues: Option<u32>,
    /// Greatest IP packet, bytes [default: that of its network].
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1280..=9216))]
    pub(crate) mtu: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Driver {
    /// The NIC's own for a PCI address, else `af-packet`.
    Auto,
    /// The NIC's own.
    Pci,
    /// A packet socket on a kernel interface.
    AfPacket,
    /// An AF_XDP socket on a kernel interface.
    AfXdp,
    /// A TAP that is made for it.
    Tap,
}
