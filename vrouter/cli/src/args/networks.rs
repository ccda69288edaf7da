//! `ringway networks`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use clap::{ArgGroup, Args as ClapArgs, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkAction {
    /// Creates a network. The same again is no error, the same name with other values is.
    #[command(after_help = ADD_EXAMPLES)]
    Add(Box<AddNetwork>),
    /// Deletes a network, which must have no ports. One that does not exist is no error.
    Delete {
        /// Its name.
        name: String,
    },
}

const ADD_EXAMPLES: &str = "\
Examples:
  ringway networks add red --ipv4 10.66.0.0/24 --ipv6 fd00:66::/64
  ringway networks add lan --ipv4 10.67.0.0/24 --mode bridged --flood-limit 500
  ringway networks add slow --ipv4 10.68.0.0/24 --packets-per-second 100k --bits-per-second 1G
  ringway networks add fabric --external --mtu 1600
  ringway networks add blue --ipv4 10.70.0.0/24 --kernel-table 70 --kernel-port blue0 --kernel-mtu 1400
  ringway networks add far --ipv4 10.69.0.0/24 --vni 7 --underlay red --local 10.66.0.9
  ringway networks add wide --ipv4 10.71.0.0/24 --mode bridged --vni 8 --underlay red --local 10.66.0.9 --flood 10.66.0.7,10.66.0.8";

#[derive(Debug, ClapArgs)]
#[command(group(ArgGroup::new("tunnel").multiple(true).args(["vni", "label", "ipip"])))]
pub(crate) struct AddNetwork {
    /// Its name: lower case letters, digits and `-`, at most 63. What annotations say.
    pub(crate) name: String,
    /// Where its pods' addresses come from, as 10.66.0.0/24.
    #[arg(long, value_name = "PREFIX", required_unless_present = "external")]
    pub(crate) ipv4: Option<String>,
    /// It connects this host to others: its addresses are the kernel's, and its ports are uplinks.
    #[arg(long, conflicts_with = "ipv4")]
    pub(crate) external: bool,
    /// The address at which the vRouter answers [default: the first of the prefix].
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) gateway: Option<Ipv4Addr>,
    /// Where its pods' IPv6 addresses come from, as fd00:66::/64 [default: no IPv6].
    #[arg(long, value_name = "PREFIX")]
    pub(crate) ipv6: Option<String>,
    /// The IPv6 address at which the vRouter answers [default: the one after the prefix's first].
    #[arg(long, value_name = "ADDRESS", requires = "ipv6")]
    pub(crate) gateway6: Option<Ipv6Addr>,
    /// Greatest IP packet, bytes [default: 1500].
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(68..=65535))]
    pub(crate) mtu: Option<u32>,
    /// What happens to frames that are not for the gateway.
    #[arg(long, value_enum, default_value_t = Mode::Routed)]
    pub(crate) mode: Mode,
    /// In a bridged network: broadcast, multicast and unknown unicast frames per second of each pod that each worker
    /// repeats; 0: none [default: 1000].
    #[arg(long, value_name = "FRAMES")]
    pub(crate) flood_limit: Option<u32>,
    /// Of those, how many at once after a rest [default: 100].
    #[arg(long, value_name = "FRAMES")]
    pub(crate) flood_burst: Option<u32>,
    /// What each of its pods may send, packets per second, as 100k [default: any number].
    #[arg(long, value_name = "PACKETS")]
    pub(crate) packets_per_second: Option<Number>,
    /// Packets at once after a rest [default: those of 10 ms, 64 at least].
    #[arg(long, value_name = "PACKETS", requires = "packets_per_second")]
    pub(crate) burst_packets: Option<Number>,
    /// What each of its pods may send, bits of Ethernet frames per second, as 1G [default: any number].
    #[arg(long, value_name = "BITS")]
    pub(crate) bits_per_second: Option<Number>,
    /// Bits at once after a rest [default: those of 10 ms, 2^20 at least].
    #[arg(long, value_name = "BITS", requires = "bits_per_second")]
    pub(crate) burst_bits: Option<Number>,
    /// Number of the network in VXLAN packets to and from other hosts.
    #[arg(long, requires = "underlay", requires = "local", value_parser = clap::value_parser!(u32).range(0..=0xff_ffff))]
    pub(crate) vni: Option<u32>,
    /// Label of MPLS packets for the network from other hosts (MPLS over UDP).
    #[arg(long, requires = "underlay", requires = "local", value_parser = clap::value_parser!(u32).range(16..=0xf_ffff))]
    pub(crate) label: Option<u32>,
    /// It speaks IP in IP, which has no number: all such packets for `--local` are its own.
    #[arg(long, requires = "underlay", requires = "local")]
    pub(crate) ipip: bool,
    /// The network that carries those packets.
    #[arg(long, value_name = "NETWORK", requires = "tunnel")]
    pub(crate) underlay: Option<String>,
    /// This end's address in that network, IPv4 or IPv6: its gateway's, or one that no pod has.
    #[arg(long, value_name = "ADDRESS", requires = "tunnel")]
    pub(crate) local: Option<IpAddr>,
    /// Addresses of the other hosts that a bridged network stretches to by VXLAN: what is for everybody or for nobody known
    /// goes to each of them.
    #[arg(long, value_name = "ADDRESS,...", value_delimiter = ',', requires = "vni")]
    pub(crate) flood: Vec<IpAddr>,
    /// An interface of this host in the bridge whose VXLAN device has the VNI: more such hosts, and who is behind them, come from the
    /// forwarding database of that device (FRR's EVPN), and the network's pods are announced there.
    #[arg(long, value_name = "INTERFACE", requires = "vni")]
    pub(crate) kernel_bridge_port: Option<String>,
    /// The MAC address of the network's gateway, at which the tunnel ends; EVPN needs one for each host [default: one that
    /// follows from the network's name].
    #[arg(long, value_name = "MAC", requires = "tunnel")]
    pub(crate) router_mac: Option<String>,
    /// The kernel's routing table that its routes come from, 254 (`main`) for external networks only.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) kernel_table: Option<u32>,
    /// The same by the name of the VRF device that has it.
    #[arg(long, value_name = "DEVICE", conflicts_with = "kernel_table")]
    pub(crate) kernel_vrf: Option<String>,
    /// Name of a TAP by which the kernel routes for it by that table, for tunnels that only the kernel speaks.
    #[arg(long, value_name = "NAME")]
    pub(crate) kernel_port: Option<String>,
    /// Greatest IP packet that goes there, bytes: what those tunnels leave of the wire's [default: the network's].
    #[arg(long, value_name = "BYTES", requires = "kernel_port", value_parser = clap::value_parser!(u32).range(68..=65535))]
    pub(crate) kernel_mtu: Option<u32>,
    /// Packets per second that each worker hands over from each port [default: 500000].
    #[arg(long, value_name = "PACKETS", requires = "kernel_port", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) kernel_packets_per_second: Option<u32>,
    /// Of those, how many at once after a rest [default: 4096].
    #[arg(long, value_name = "PACKETS", requires = "kernel_port", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) kernel_burst_packets: Option<u32>,
}

/// What happens to frames that are not for the gateway. Those that are, are routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// They are dropped: pods reach each other through the gateway
    Routed,
    /// They go to the pod with their MAC address, groups to all pods
    Bridged,
}

/// A number that may end in k, M, G or T: thousands, millions and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Number(pub(crate) u64);

impl FromStr for Number {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let units =
            [("k", 1_000), ("M", 1_000_000), ("G", 1_000_000_000), ("T", 1_000_000_000_000)];
        let split = units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)));
        let (digits, unit): (_, u64) = split.unwrap_or((text, 1));
        let plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
        let number = digits.parse::<u64>().ok().filter(|_| plain);
        number
            .and_then(|number| number.checked_mul(unit))
            .map(Self)
            .ok_or("use a whole number, which may end in k, M, G or T")
    }
}

#[cfg(test)]
mod tests {
    use super::Number;

    #[test]
    fn numbers() {
        for (text, number) in [
            ("0", Some(0)),
            ("100k", Some(100_000)),
            ("25G", Some(25_000_000_000)),
            ("1T", Some(1_000_000_000_000)),
            ("k", None),
            ("+1", None),
            ("1.5M", None),
            ("1K", None),
            ("99999999999T", None),
        ] {
            assert_eq!(text.parse().ok(), number.map(Number), "{text}");
        }
    }
}
