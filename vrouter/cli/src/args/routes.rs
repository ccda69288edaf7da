//! `ringway routes`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use crate::routes::{Prefix, Target};

#[derive(Debug, ClapArgs)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
pub(crate) struct RoutesArgs {
    /// Lists the routes of this network.
    #[arg(required = true)]
    pub(crate) network: Option<String>,
    #[command(subcommand)]
    pub(crate) action: Option<RouteAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RouteAction {
    /// Lists the routes of a network, whatever its name.
    List {
        /// The network.
        network: String,
    },
    /// Adds a route. The same again is no error; one for the same prefix that leads elsewhere is.
    Add(SetRoute),
    /// Adds a route in the place of the one there may be for the same prefix.
    Replace(SetRoute),
    /// Takes a route away. One that is not there is no error.
    Delete {
        /// The network.
        network: String,
        /// Its destinations, as 10.1.0.0/16, an address or `default`.
        prefix: Prefix,
    },
    /// Adds routes from a file, in the place of those there may be for the same prefixes.
    #[command(after_help = LOAD_HELP)]
    Load {
        /// The network.
        network: String,
        /// The file; `-` is standard input.
        file: PathBuf,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SetRoute {
    /// The network.
    pub(crate) network: String,
    /// Its destinations, as 10.1.0.0/16, an address or `default`.
    pub(crate) prefix: Prefix,
    /// Where it leads: `via ADDRESS` (a pod of the network), `vxlan ADDRESS [mac MAC]` (through the network's tunnel to the
    /// end with that address in the underlay, and the router behind it with that MAC address), `mpls ADDRESS label N` (the
    /// same by MPLS over UDP, with the label that the other end knows the network by), `ipip ADDRESS` (the same by IP in IP,
    /// the address alone), `unreachable` (nowhere, with an
    /// ICMP error) or `drop` (nowhere, silently). In an external network: `local` (this host's kernel) or `link UPLINK mac
    /// MAC` (a neighbour behind an uplink).
    #[arg(required = true, num_args = 1..=4, value_name = "TARGET")]
    pub(crate) target: Vec<String>,
}

impl SetRoute {
    /// Where it leads, in one word of ours.
    pub(crate) fn target(&self) -> Result<Target, String> {
        Target::from_words(&self.target)
    }
}

pub(crate) const ROUTES_HELP: &str = "\
Routes lead to what is no pod's own address: to a pod that knows the way, through the
network's tunnel, or nowhere. Listed, each is one line, which
`ringway routes load` reads. Those with `# kernel's` behind them come from the kernel's routing table and are not loaded.

Examples:
  ringway routes red                                        all of network red
  ringway routes add red 10.1.0.0/16 via 10.66.0.7          to the pod with that address
  ringway routes replace red default unreachable
  ringway routes add far 10.2.0.0/16 vxlan 192.0.2.2        through the tunnel of network far
  ringway routes add far 10.3.0.0/16 mpls 192.0.2.3 label 1000   the same by MPLS over UDP
  ringway routes add far 10.4.0.0/16 ipip 192.0.2.4         the same by IP in IP
  ip route show table 7 | ringway routes load red -         a million in seconds

JSON: an array of {prefix, kind: \"via\", \"vxlan\", \"mpls\", \"ipip\", \"unreachable\", \"drop\", \"local\", \"link\", \"kernel\" or \"multipath\",
via, mac, uplink: string or null, label: number or null, paths: array of {route, weight}, mirrored: from the kernel's
routing table}; several paths are only shown. `add`, `replace`, `delete` and `load` print {network, changed, routes}: how many were asked for and how many the network has now.";

const LOAD_HELP: &str = "\
One route on each line, as `ip route` and `ringway routes` print them: PREFIX via ADDRESS, PREFIX vxlan ADDRESS,
PREFIX vxlan ADDRESS mac MAC, PREFIX mpls ADDRESS label N, PREFIX ipip ADDRESS, PREFIX unreachable, PREFIX drop, also `unreachable PREFIX` and `blackhole PREFIX`; dev, proto, scope, src, metric, pref and onlink are read over.
`default` and addresses without a length are prefixes, too. Empty lines and what follows a # count for nothing.

The file is read whole first: one with a mistake changes nothing. Routes are then loaded in parts of 20000, each at once;
traffic does not wait.";
