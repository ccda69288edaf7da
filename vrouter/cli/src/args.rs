//! The command line.

mod cdi;
mod explain;
mod networks;
mod routes;
mod uplinks;

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args as ClapArgs, Parser, Subcommand};
use clap_complete::Shell;

pub(crate) use cdi::{AddDevice, CdiAction, CdiArgs, Listener};
pub(crate) use explain::{ExplainArgs, Protocol};
pub(crate) use networks::{AddNetwork, Mode, NetworkAction, Number};
pub(crate) use routes::{RouteAction, RoutesArgs, SetRoute};
pub(crate) use uplinks::{AddUplink, BindArgs, DevicesArgs, Driver, UnbindArgs, UplinkAction};

use crate::view::WorkerMode;

/// Shows and changes what this node's vRouter does.
#[derive(Debug, Parser)]
#[command(name = "ringway", version, propagate_version = true, after_help = EXAMPLES, after_long_help = LONG_HELP)]
pub(crate) struct Args {
    /// The vRouter's control socket [default: that of `--instance`, or of the vRouters that run here]
    #[arg(long, global = true, value_name = "PATH", env = "RINGWAY_VROUTER_SOCKET")]
    pub(crate) socket: Option<PathBuf>,

    /// Which of several vRouters on this node, by its number. Without it, lists are of all of them.
    #[arg(long, global = true, value_name = "NUMBER")]
    pub(crate) instance: Option<u32>,

    /// The directory of the sockets, as in nri.toml and vrouter.toml.
    #[arg(long, global = true, value_name = "PATH", default_value = "/run/ringway")]
    pub(crate) run_dir: PathBuf,

    /// Print JSON instead of tables. See `ringway COMMAND --help` for its fields.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ringway ports                                 who is connected, and who is not and why
  ringway networks add red --ipv4 10.66.0.0/24  a network for pods with `network.ringway.dev: red`
  ringway routes add red 10.1.0.0/16 via 10.66.0.7   to a pod that knows the way
  ringway stats --watch 1                       packets per second
  ringway drops                                 what was thrown away and why
  ringway explain --from shop/cart --to 10.1.0.9   which way a packet would take, and why
  ringway workers set 2,3                       two CPUs for packets, from now on
  ringway doctor                                what is wrong with this node";

const LONG_HELP: &str = "\
Examples:
  ringway ports                                 who is connected, and who is not and why
  ringway networks add red --ipv4 10.66.0.0/24  a network for pods with `network.ringway.dev: red`
  ringway routes add red 10.1.0.0/16 via 10.66.0.7   to a pod that knows the way
  ringway stats --watch 1                       packets per second
  ringway drops                                 what was thrown away and why
  ringway explain --from shop/cart --to 10.1.0.9   which way a packet would take, and why
  ringway workers set 2,3                       two CPUs for packets, from now on
  ringway doctor                                what is wrong with this node
  ringway ports --json | jq -r '.[] | select(.state != \"up\") | .pod'

Counters are seen from the vRouter: rx is what a pod sent, tx is what was delivered to it.

Several vRouters on one node: lists are of all of them, in JSON with the field `instance` in each object; `info`,
`stats` and `drops` are arrays of one object for each then. `networks add` and `delete` are carried out on all, all
other changes on the one that --instance or --socket names.

JSON: lists are arrays, sorted as the tables are. Fields are only ever added. What is not known is null.

Exit codes:
  0  done
  1  the vRouter refused, doctor found a failure, or the output cannot be written
  2  wrong usage, or a file with a mistake
  3  the vRouter cannot be reached";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Versions, NUMA node and workers.
    #[command(after_long_help = INFO_JSON)]
    Info,

    /// The pods' ports: who is connected, and why not.
    #[command(after_long_help = PORTS_HELP)]
    Ports,

    /// The pods of this node: which vRouter serves them, and where all that they have lies.
    #[command(after_long_help = PODS_HELP)]
    Pods,

    /// Virtual networks. Without a subcommand: list them.
    #[command(after_long_help = NETWORKS_JSON)]
    Networks {
        #[command(subcommand)]
        action: Option<NetworkAction>,
    },

    /// Ways out of this host, and the NICs for them. Without a subcommand: list them.
    #[command(visible_alias = "uplink", after_long_help = UPLINKS_JSON)]
    Uplinks {
        #[command(subcommand)]
        action: Option<UplinkAction>,
    },

    /// Routes of a network, beside those to its pods.
    #[command(after_long_help = routes::ROUTES_HELP)]
    Routes(RoutesArgs),

    /// What would become of a packet, and why: its path, route, next hop, tunnel and MTU.
    #[command(after_long_help = explain::EXPLAIN_HELP)]
    Explain(Box<ExplainArgs>),

    /// The threads that move packets. Without a subcommand: list them.
    #[command(after_long_help = WORKERS_HELP)]
    Workers {
        #[command(subcommand)]
        action: Option<WorkerAction>,
    },

    /// Packets and bytes of every port and worker.
    #[command(after_long_help = STATS_HELP)]
    Stats(StatsArgs),

    /// Packets that were dropped, by port and reason and by worker and reason.
    #[command(after_long_help = DROPS_HELP)]
    Drops,

    /// Looks at this node: what stands in the way of pods and their interfaces, and what to do about it.
    #[command(after_long_help = DOCTOR_HELP)]
    Doctor(DoctorArgs),

    /// Interfaces for `--device` of podman, Docker, nerdctl and ctr, told to them by files of the Container Device Interface.
    #[command(after_long_help = cdi::CDI_HELP)]
    Cdi(CdiArgs),

    /// What there is, and then every change, until interrupted.
    #[command(after_long_help = WATCH_HELP)]
    Watch,

    /// Prints a completion script for a shell.
    #[command(after_help = "Example: ringway completions bash > /etc/bash_completion.d/ringway")]
    Completions {
        /// For which shell.
        shell: Shell,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DoctorArgs {
    /// Mends what can be mended from here: ends opted-in containers that run without their interfaces, so that kubelet starts them
    /// again with them, and deletes ports whose containers and records are gone.
    #[arg(long)]
    pub(crate) repair: bool,
    /// containerd's configuration, where it is not where containerd looks by itself (k3s, a second one).
    #[arg(long, value_name = "FILE")]
    pub(crate) containerd_config: Option<PathBuf>,
    /// Where the machine's files are.
    #[arg(long, hide = true, default_value = "/")]
    pub(crate) root: PathBuf,
}

const DOCTOR_HELP: &str = "\
Changes nothing without --repair. Ends with 1 if something that was asked for does not work (FAILURE).

JSON: an array of {check, status, what, remedy}; status is ok, note, warning or failure, remedy null where nothing has to
be done.";

#[derive(Debug, Subcommand)]
pub(crate) enum WorkerAction {
    /// Changes which CPUs have workers, while packets flow. Queues of a worker that ends go to the others first.
    Set {
        /// The CPUs, as 1,2.
        #[arg(value_name = "CPUS", value_delimiter = ',', required = true)]
        cpus: Vec<u32>,
    },
    /// What workers do when there is nothing to do, until the vRouter ends: vrouter.toml stays as it is.
    Mode {
        /// `adaptive` polls for `workers.idle_spin_us`, then sleeps; `poll` never sleeps; `sleep` sleeps at once.
        mode: WorkerMode,
    },
    /// Lets one worker poll all queues of a port, whatever the load.
    Pin {
        /// The port's id, as `ringway ports --json` shows it.
        port: String,
        /// The worker's number, or `auto` to let the vRouter choose.
        worker: Pin,
    },
}

/// Who polls a port: one worker, or whoever the vRouter chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pin(pub(crate) Option<u32>);

impl FromStr for Pin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self(None)),
            number => number.parse().map(|n| Self(Some(n))).map_err(|_| "use a number or `auto`"),
        }
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct StatsArgs {
    /// Print rates over this many seconds, again and again, until interrupted.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) watch: Option<u32>,
    /// With --watch: end after that many times.
    #[arg(long, value_name = "TIMES", requires = "watch")]
    pub(crate) count: Option<u32>,
}

const INFO_JSON: &str = "\
JSON: one object
  version, dpdk_version  strings
  numa_node              number; null when the vRouter spans all nodes
  nic_nodes              [number]: NUMA nodes of its uplinks' devices
  instance               number; null where only one vRouter runs
  pid                    number
  instance_id            string, new with every start
  workers                [{index, cpu}]
  worker_mode            adaptive, poll or sleep: what workers do when there is nothing to do";

const PORTS_HELP: &str = "\
Columns:
  SANDBOX  first 12 characters of the pod's sandbox id, as crictl shows it
  MODE     who listens on the socket: `vrouter` (the pod connects) or `pod` (the vRouter connects, and keeps trying)
  STATE    waiting: nobody is connected; connected: the handshake is under way or the queues are off;
           up: packets can flow
  QUEUES   queue pairs in use / allowed
  POLICER  what the pod may send: packets and bits per second; `ringway drops` counts what is more as `policed`
  REASON   why it is not up: the last refusal or disconnect

JSON: an array of
  id                           string, the vRouter's: <sandbox id>/<slot>/<interface>
  sandbox, slot                string and number; null for ports that are no pod's
  namespace, pod, interface, network, ip, mac, socket_path  strings
  ipv6                         string or null
  allowed_sources              array of strings: prefixes the pod may send from beside its own addresses
  trunk                        whether stations that are no pods are behind it
  policer                      null, or as in `ringway networks`; the one that holds
  mode                         \"vrouter\" or \"pod\": who listens on the socket; \"kernel\": an interface of the kernel's
  state                        \"waiting\", \"connected\" or \"up\"
  reason                       string or null
  queue_pairs, active_queue_pairs, memory_regions, memory_bytes, worker  numbers
  workers                      array of numbers: who polls queue pairs 0, 1, ...
  pinned_worker                number; null when the vRouter chooses
  numa_node                    number, of the pod's memory; null while unknown
  features                     virtio features the pod accepted, \"0x...\"
  peer_pid                     number; null when nobody is connected
  peer_cgroups                 array of strings: whose processes may connect";

const PODS_HELP: &str = "\
Asks ringway-nri what pods have, and their vRouters what has crossed between NUMA nodes.

Columns:
  SANDBOX    first 12 characters of the pod's sandbox id, as crictl shows it
  VROUTER    who serves it: the number of an instance, or the name of its control socket
  CPU NODE, MEM NODE, VROUTER NODE, NIC NODE  the NUMA nodes of each
  ALIGNED    whether all of these are one node, as far as they are known
  CROSSED    packets the pod sent that went from one NUMA node to another

JSON: an array of
  sandbox, namespace, pod                   strings
  numa_node                                 number, the one that its containers keep; or null
  vrouter                                   string, its control socket; null before the first container
  instance, vrouter_node                    number or null
  cpu_nodes, memory_nodes, nic_nodes        strings, lists as \"0-1\"; empty when unknown
  aligned                                   true or false; null before the first container
  containers                                [{name, id, cpus, exclusive, mems}]
  interfaces                                [{name, network, mac, ip, ipv6}]
  numa_crossings                            number; null if its vRouter can't be asked";

const NETWORKS_JSON: &str = "\
POLICER is what each pod may send that has no policer of its own. KERNEL is the table that its routes come from, the TAP by which
the kernel routes for it, and what is wrong with that; `ringway stats` and `drops` have the TAP's counters. STATIONS were heard behind trunk ports and through the tunnel of late.

JSON: an array of
  name, ipv4, gateway, mode    strings
  gateway_mac, ipv6, gateway6  string or null
  mtu, routes, stations        numbers
  flood_limit                  null, or {frames_per_second, burst_frames}
  policer                      null, or {packets_per_second, burst_packets, bits_per_second, burst_bits}; null is any number
  tunnel                       null, or {vni, label: number or null, ipip: true or false, underlay, local, flood: the ends it is bridged to,
                               kernel_bridge_port: string or null}
  external                     true or false; an external one has no addresses of its own
  kernel_table, kernel_vrf     the kernel's table that its routes come from: number or null, string or null
  kernel_port                  null, or {name, mtu, packets_per_second, burst_packets, mac, reason}; reason may be null
  kernel_bridge                null, or what the kernel's forwarding database adds: {device: string or null, ends, station_ends: those
                               that get only what is for stations there, stations, left_out, reason: string or null}
`add` prints one such object, `delete` prints {deleted: name}.";

const UPLINKS_JSON: &str = "\
PUNTED is what was handed to the kernel, DROPPED what came from the wire or from the kernel and went nowhere. DEVICE of a bond is the
one that packets go by, and its others in brackets.

JSON: an array of
  name, device, driver, network, mac    strings
  host_interface, reason                string or null
  mtu, queues                           numbers
  workers                               an array of numbers: who polls each queue
  link                                  true or false
  speed_mbit, numa_node                 number or null
  members                               [{device, link, active}] of a bond, the best first; else empty
  counters                              {rx_packets, rx_bytes, tx_packets, tx_bytes, drops, host_drops, punts, device,
                                        host_device}; the last five are objects of numbers by reason, class or name
`add` prints one such object without counters, `delete` prints {deleted: name}.";

const WORKERS_HELP: &str = "\
QUEUES are the queues that pods send on and this worker polls. [workers] assignment in vrouter.toml says how they are
shared out. MODE is what a worker does when there is nothing to do: every vRouter starts as `adaptive`.

JSON: an array of {index, cpu, queues, mode}; `set` and `mode` print it as it is then, `pin` prints the port as in `ringway ports`.";

const STATS_HELP: &str = "\
rx is what a pod sent, tx is what was delivered to it. Drops are counted at the port that sent the packet.

Columns:
  CYCLES  TSC ticks for each packet: of what a pod sent, of what a worker moved
  P99     time in the vRouter that 99 of 100 sampled bursts did not exceed
  FULL    time in which the pod offered no buffer for what it was to get
  BUSY    time a worker spent on iterations that moved packets

JSON: one object
  ports    [{id, namespace, pod, interface, network, rx_packets, rx_bytes, tx_packets, tx_bytes,
            drops: {reason: packets}, busy_ticks, cycles_per_packet, ring_full_ns, numa_crossings,
            burst_sizes: number of bursts of 1, 2, 3-4, 5-8, 9-16, 17-32 packets,
            latency: [{below_ns, bursts}] of sampled bursts, below_ns null for longer than all others,
            queues: [{pair, worker, rx_packets, busy_ticks}],
            punts: {class: packets handed to the kernel}}]
  workers  [{index, cpu, packets, bursts, sleeps, busy_ns, forwarded, replied, originated,
            flooded, flooded_into_tunnels, drops: {reason: packets}, busy_ticks, cycles_per_packet, burst_sizes, latency, queues: number}]
  ticks_per_second  number
With --watch one object of rates per line and interval: {seconds, ports: [{id, namespace, pod, interface, network,
  rx_packets_per_second, rx_bits_per_second, tx_packets_per_second, tx_bits_per_second, drops_per_second,
  cycles_per_packet, packets_per_burst, ring_full_percent}],
  workers: [{index, cpu, packets_per_second, sleeps_per_second, drops_per_second, busy_percent, cycles_per_packet,
  packets_per_burst}]}; numbers of an interval without packets are null.";

const DROPS_HELP: &str = "\
Every drop is counted at the port that sent the packet and at the worker that handled it, so the two lists show the
same packets from two sides; a port's counters end with the port, a worker's do not.

JSON: {ports: [{id, namespace, pod, interface, network, reason, packets}], workers: [{worker, reason, packets}]}";

const WATCH_HELP: &str = "\
First one line per network and port that is there, then `synced`, then every change as it happens.

JSON: one object per line, {\"event\": NAME, ...}
  network_added {network}  network_removed {name}  port_added {port}  port_changed {port}  port_removed {id}
  synced  peer_refused {id, pid, why}  workers_changed {workers: [{index, cpu}], mode}
  `network` and `port` have the fields of `ringway networks` and `ringway ports`.";

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::{
        Args, Command, Mode, NetworkAction, Number, RouteAction, RoutesArgs, WorkerAction,
    };
    use crate::routes::{Prefix, Target};

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn usage() {
        let parse = |line: &str| Args::try_parse_from(line.split(' '));
        for good in [
            "ringway info",
            "ringway ports --json",
            "ringway pods --json",
            "ringway --instance 1 stats",
            "ringway doctor --run-dir /run/x",
            "ringway cdi --run-dir /run/x hook web",
            "ringway --json --socket /x ports",
            "ringway networks",
            "ringway networks --json",
            "ringway networks delete red",
            "ringway routes red",
            "ringway routes red --json",
            "ringway routes list add",
            "ringway routes add red default via 10.66.0.7",
            "ringway routes replace red fd00:1::/32 unreachable",
            "ringway routes delete red 10.1.0.0/16",
            "ringway routes load red -",
            "ringway stats --watch 1 --count 3",
            "ringway completions zsh",
            "ringway workers",
            "ringway workers set 1,2",
            "ringway workers pin a/0/net0 1",
            "ringway workers mode poll",
            "ringway workers pin a/0/net0 auto",
            "ringway uplink devices",
            "ringway uplink bind eth1 --yes",
            "ringway uplinks bind 0000:01:00.0 --driver uio_pci_generic --force",
            "ringway uplink unbind 0000:01:00.0",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in [
            "ringway",
            "ringway port",
            "ringway networks add red",
            "ringway networks add red --ipv4 10.0.0.0/24 --gateway x",
            "ringway networks add red --ipv4 10.0.0.0/24 --mtu 67",
            "ringway networks add red --ipv4 10.0.0.0/24 --label 15 --underlay f --local ::1",
            "ringway networks add red --ipv4 10.0.0.0/24 --vni 7 --underlay fabric",
            "ringway networks add red --ipv4 10.0.0.0/24 --ipip --underlay fabric",
            "ringway networks add red --ipv4 10.0.0.0/24 --local 192.0.2.1",
            "ringway networks add red --ipv4 10.0.0.0/24 --vni 16777216 --underlay f --local ::1",
            "ringway networks add red --ipv4 10.0.0.0/24 --mode switched",
            "ringway networks add red --ipv4 10.0.0.0/24 --gateway6 fd00::1",
            "ringway networks add red --ipv4 10.0.0.0/24 --burst-bits 5",
            "ringway networks add red --ipv4 10.0.0.0/24 --bits-per-second 1K",
            "ringway routes",
            "ringway routes red blue",
            "ringway routes add red 10.1.0.0/16",
            "ringway routes add red 10.1.0.0/16 vxlan 192.0.2.2 mac 02:00:00:00:00:01 x",
            "ringway routes delete red 10.1.0.0/x",
            "ringway routes load red",
            "ringway stats --watch 0",
            "ringway stats --count 2",
            "ringway completions basic",
            "ringway workers set",
            "ringway workers set 1-2",
            "ringway workers pin a/0/net0",
            "ringway workers mode",
            "ringway workers mode busy",
            "ringway workers pin a/0/net0 any",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let args =
            parse("ringway networks add red --ipv4 10.0.0.0/24 --gateway 10.0.0.9 --mtu 9000")
                .unwrap();
        let Command::Networks { action: Some(NetworkAction::Add(add)) } = args.command else {
            panic!("{args:?}")
        };
        assert_eq!(
            (add.name.as_str(), add.ipv4.as_deref().unwrap_or_default(), add.mtu),
            ("red", "10.0.0.0/24", Some(9000))
        );
        assert_eq!(add.gateway, Some([10, 0, 0, 9].into()));
        let over =
            "ringway networks add b --ipv4 10.0.0.0/24 --vni 7 --underlay f --local 192.0.2.1";
        let Command::Networks { action: Some(NetworkAction::Add(add)) } =
            parse(over).unwrap().command
        else {
            panic!("{over}")
        };
        assert_eq!((add.vni, add.underlay.as_deref()), (Some(7), Some("f")));
        assert_eq!(add.local, Some([192, 0, 2, 1].into()));
        assert_eq!((add.mode, add.ipv6.is_none(), add.bits_per_second), (Mode::Routed, true, None));
        let line = "ringway networks add lan --ipv4 10.0.0.0/24 --ipv6 fd00::/64 --gateway6 fd00::9 --mode bridged \
                    --flood-limit 5 --bits-per-second 10G --burst-bits 1M";
        let Command::Networks { action: Some(NetworkAction::Add(add)) } =
            parse(line).unwrap().command
        else {
            panic!("{line}")
        };
        assert_eq!((add.mode, add.flood_limit, add.flood_burst), (Mode::Bridged, Some(5), None));
        assert_eq!(add.bits_per_second, Some(Number(10_000_000_000)));
        let routes = |line| match parse(line).unwrap().command {
            Command::Routes(routes) => routes,
            other => panic!("{other:?}"),
        };
        assert_eq!(routes("ringway routes red").network.as_deref(), Some("red"));
        let RoutesArgs { action: Some(RouteAction::Add(set)), .. } =
            routes("ringway routes add red default via 10.66.0.7")
        else {
            panic!("no route is added")
        };
        assert_eq!((set.network.as_str(), &set.prefix), ("red", &Prefix::Default));
        assert_eq!(set.target(), Ok(Target::Via([10, 66, 0, 7].into())));
        let args = parse("ringway workers set 3,1").unwrap();
        let Command::Workers { action: Some(WorkerAction::Set { cpus }) } = args.command else {
            panic!("{args:?}")
        };
        assert_eq!(cpus, [3, 1]);
    }
}
