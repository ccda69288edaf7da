//! `ringway explain`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgGroup, Args as ClapArgs, ValueEnum};

#[derive(Debug, ClapArgs)]
#[command(
    group(ArgGroup::new("ingress").required(true).args(["from", "uplink", "host_interface"])),
    group(ArgGroup::new("packet").required(true).args(["to", "pcap"]))
)]
pub(crate) struct ExplainArgs {
    /// The packet comes from this pod or port: NAMESPACE/NAME or NAME of a pod, with several interfaces also
    /// NAMESPACE/NAME/INTERFACE, an address that one port has, or a port's id.
    #[arg(long, value_name = "POD|PORT")]
    pub(crate) from: Option<String>,
    /// The packet comes in by this uplink.
    #[arg(long, value_name = "UPLINK")]
    pub(crate) uplink: Option<String>,
    /// The packet comes from the kernel, by the host interface of this uplink.
    #[arg(long, value_name = "UPLINK")]
    pub(crate) host_interface: Option<String>,
    /// Where the packet goes to.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) to: Option<IpAddr>,
    /// Where it says it comes from [default: the port's own address; an uplink has none].
    #[arg(long, value_name = "ADDRESS", requires = "to", conflicts_with = "pcap")]
    pub(crate) source: Option<IpAddr>,
    /// What it carries.
    #[arg(long, value_enum, default_value_t = Protocol::Udp, conflicts_with = "pcap")]
    pub(crate) proto: Protocol,
    /// Source port, of UDP and TCP [default: 49152].
    #[arg(long, value_name = "PORT", requires = "to", conflicts_with = "pcap")]
    pub(crate) sport: Option<u16>,
    /// Destination port, of UDP and TCP [default: 9].
    #[arg(long, value_name = "PORT", requires = "to", conflicts_with = "pcap")]
    pub(crate) dport: Option<u16>,
    /// Bytes of the IP packet [default: as few as it can have].
    #[arg(long, value_name = "NUMBER", requires = "to", conflicts_with = "pcap")]
    pub(crate) bytes: Option<u16>,
    /// Time to live or hop limit [default: 64].
    #[arg(long, value_name = "NUMBER", requires = "to", conflicts_with = "pcap", value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) ttl: Option<u8>,
    /// Explains the Ethernet frames of this capture file instead, one after the other; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) pcap: Option<PathBuf>,
    /// Of the capture file, so many frames at most.
    #[arg(long, value_name = "NUMBER", requires = "pcap", default_value_t = 100)]
    pub(crate) count: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    Udp,
    Tcp,
    /// An echo request
    Icmp,
}

impl Protocol {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Icmp => "icmp",
        }
    }
}

pub(crate) const EXPLAIN_HELP: &str = "\
The data plane's own stages decide about a packet that is made for it, with the tables as they are now. Nothing is sent,
counted or learned. Limits (policers, floods, punts, ICMP errors) are taken as not reached.

Examples:
  ringway explain --from shop/cart-0 --to 10.99.0.7 --proto tcp --dport 443
  ringway explain --uplink up0 --source 198.51.100.9 --to 192.0.2.1 --proto icmp
  tcpdump -i e0 -c 10 -w - | ringway explain --uplink up0 --pcap -

Rows:
  path    dpdk: the vRouter moves it; kernel: it is handed to the kernel; vrouter: the vRouter answers it; nobody: dropped
  route   the entry that the destination is found by, and whether it is the network's own (its ports, its gateway), from
          the configuration file, the control API or the kernel's tables
  outer   the header of a tunnel: what is put in front, or what the packet came with
  mtu     the largest IP packet that takes this way, and what becomes of larger ones

JSON: an array with one object for each packet
  verdict         \"forward\", \"encapsulate\", \"decapsulate\", \"punt\", \"reply\", \"flood\", \"icmp_error\" or \"drop\"
  path            \"dpdk\", \"kernel\", \"vrouter\" or \"nobody\"
  reason          the drop's reason, the punt's class or the ICMP error; else null
  why             array of strings; remedy: string or null
  packet          {source_mac, destination_mac, frame_bytes, protocol, source, destination, source_port, destination_port,
                  ttl, bytes}
  from, to        {kind: \"pod\", \"uplink\", \"host_interface\" or \"kernel\", name, network, pod, state, device};
                  `device` is that of a bond that packets go by, else null; `to` null for nobody
  lookups         array of {asked: \"destination\", \"inside\" or \"underlay\", network, address, prefix, source: \"network\",
                  \"config\", \"api\" or \"kernel\", route: as in `ringway routes` or null, way, ways, share_percent, mac}
  outer           null, or {kind: \"vxlan\", \"mpls\" or \"ipip\", number, source, destination, source_port, destination_port,
                  ttl, bytes, source_mac, destination_mac}; number and ports of \"ipip\" are null
  mtu             number or null
  larger          array of {dont_fragment, verdict, reason, what}";
