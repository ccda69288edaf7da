//! `ringway uplinks`.

use std::path::PathBuf;

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
    /// NICs of this machine that could be uplinks: who drives them, where they are, what the kernel uses them for.
    #[command(after_help = DEVICES_JSON)]
    Devices(DevicesArgs),
    /// Takes a NIC from the kernel and gives it to a driver for DPDK. What is so already is no error.
    #[command(after_help = BIND_HELP)]
    Bind(BindArgs),
    /// Gives a NIC back to the kernel, which chooses a driver. What is so already is no error.
    Unbind(UnbindArgs),
}

impl UplinkAction {
    /// Whether it is about the machine: no vRouter is needed.
    pub(crate) fn is_about_machine(&self) -> bool {
        matches!(self, Self::Devices(_) | Self::Bind(_) | Self::Unbind(_))
    }
}

/// Where the machine's files are.
#[derive(Debug, ClapArgs)]
pub(crate) struct Root {
    #[arg(long, hide = true, default_value = "/")]
    pub(crate) root: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DevicesArgs {
    #[command(flatten)]
    pub(crate) root: Root,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BindArgs {
    /// Its PCI address, or the kernel's name of its interface.
    pub(crate) device: String,
    /// Who is to have it: vfio-pci, uio_pci_generic or igb_uio.
    #[arg(long, default_value = "vfio-pci")]
    pub(crate) driver: String,
    /// Do it; without, the steps are only shown.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Even if the kernel uses it: addresses and routes on its interface are lost.
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) root: Root,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct UnbindArgs {
    /// Its PCI address.
    pub(crate) device: String,
    /// Do it; without, the steps are only shown.
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) root: Root,
}

const BIND_HELP: &str = "\
Examples:
  ringway uplink devices                      which NICs there are
  ringway uplink bind eth1                    what would be done
  ringway uplink bind eth1 --yes              do it
  ringway uplink unbind 0000:01:00.0 --yes    eth1 is the kernel's again

Lasts until the machine restarts. Nothing is remembered: a NIC that is given back gets the driver that the kernel chooses.

JSON, of `unbind` too: {address, interface, driver, steps, done}; interface and driver as they are afterwards, or null; steps in
words, none where nothing had to be done; done is false where they were only shown.";

const DEVICES_JSON: &str = "\
USED BY is why `bind` refuses: routes of the kernel's, a bridge or bond, or a process that has it open.

JSON: an array of
  address                 string
  interface, driver       string or null
  numa_node, iommu_group  number or null
  default_route           true or false: it leads through this NIC, by itself or by a VLAN, bond or bridge on it
  used_by                 array of strings";

const ADD_EXAMPLES: &str = "\
Examples:
  ringway uplinks add up0 0000:01:00.0 --network fabric      a NIC that is bound to vfio-pci
  ringway uplinks add up1 eth1 --network fabric --host-interface host1
  ringway uplinks add up2 0000:01:00.0 --backup 0000:02:00.0 --network fabric    a bond of two NICs";

#[derive(Debug, ClapArgs)]
pub(crate) struct AddUplink {
    /// Its name: at most 15 letters, digits, `.`, `_` and `-`.
    pub(crate) name: String,
    /// A PCI address, or the name of a kernel interface.
    pub(crate) device: String,
    /// A further device, which makes an active-backup bond of it; may be given several times. The first with a link, from the uplink's own
    /// on, carries all packets.
    #[arg(long = "backup", value_name = "DEVICE")]
    pub(crate) backups: Vec<String>,
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
    /// AF_XDP sockets on a kernel interface; needs `af_xdp = true` under `dpdk` in the vRouter's configuration.
    AfXdp,
    /// A TAP that is made for it.
    Tap,
}
