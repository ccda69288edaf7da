//! EVPN by FRR: what it learns from a router that knows nothing of Ringway is forwarded by DPDK, and that router finds the pods.
//!
//! ```text
//!  pod a            node a                              a router with Linux and FRR alone
//!  eth0 (TAP)       host0 192.0.2.1                    192.0.2.2      .-- host: 10.66.9.2 (a prefix of its own, type 5)
//!   | testpmd        |                                     |          |
//!  net0.sock ------ vRouter -- up0: w0 ---- veth ---- w0 -- br77, hh -+
//!  10.66.1.2                                                          |
//!                                                          br88 ------'-- station: 10.66.8.20 (of layer 2 VNI 88, type 2)
//! ```

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use integration::launch::Cgroups;
use integration::machine;
use integration::rundir::RunDir;
use integration::space::{Space, traffic};
use integration::wait;
use vrouter_api::v1::{Route, RouteKind};

use crate::daemons::Frr;
use crate::rig::{HUGEPAGES, Node, PATIENCE, Which, documented, silence};
use crate::wire::{Capture, Dissected, dissect};

const POD6: &str = "fd00:66:1::2";
/// The far router's MAC address, after it was changed.
const OTHER_ROUTER: &str = "02:00:00:00:77:b3";
const STATION: &str = "02:00:00:00:88:20";

/// What the far router has for EVPN, as any Linux router would.
const FAR_DEVICES: [&str; 14] = [
    "link add br77 address 02:00:00:00:77:b2 type bridge",
    "link add vxlan77 type vxlan id 77 local 192.0.2.2 dstport 4789 nolearning",
    "link set vxlan77 master br77",
    "link set vxlan77 type bridge_slave learning off neigh_suppress on",
    "link set vxlan77 up",
    "link set br77 up",
    "link add br88 address 02:00:00:00:88:b2 type bridge",
    "link add vxlan88 type vxlan id 88 local 192.0.2.2 dstport 4789 nolearning",
    "link set vxlan88 master br88",
    "link set vxlan88 type bridge_slave learning off neigh_suppress on",
    "link set vxlan88 up",
    "link set br88 up",
    "addr add 10.66.8.1/24 dev br88",
    "addr add fd00:66:8::1/64 dev br88 nodad",
];

const FAR_FRR: &str = "\
frr defaults datacenter
hostname far
vni 77
router bgp 65002
 bgp router-id 192.0.2.2
 no bgp ebgp-requires-policy
 neighbor 192.0.2.1 remote-as 65001
 address-family ipv4 unicast
  network 10.66.9.0/24
  no neighbor 192.0.2.1 activate
 exit-address-family
 address-family ipv6 unicast
  network fd00:66:9::/64
 exit-address-family
 address-family l2vpn evpn
  neighbor 192.0.2.1 activate
  advertise-all-vni
  advertise ipv4 unicast
  advertise ipv6 unicast
 exit-address-family
";

/// Everything. Dropped in this order.
pub struct Bed {
    a: Node,
    far_frr: Frr,
    host: Space,
    station: Space,
    far: Space,
    far_dir: PathBuf,
    cgroups: Cgroups,
    _run: RunDir,
}

impl Bed {
    /// Builds it, FRR included.
    pub fn start() -> Result<Self> {
        let run = RunDir::create()?;
        Space::sweep()?;
        machine::prepare(&run.path(), HUGEPAGES)?;
        let cgroups = Cgroups::create(&run)?;
        let mut a = Node::create(&run, Which::A)?;
        let far_dir = run.path().join("far");
        std::fs::create_dir_all(&far_dir)?;
        let [far, host, station] = ["far", "host", "station"].map(|name| Space::create(&run, name));
        let (far, host, station) = (far?, host?, station?);
        wire(&a.space, &far)?;
        far_router(&far, &host, &station)?;

        a.start_vrouter(&configured()?)?;
        let gateway = a.vrouter()?.network("red")?.gateway_mac;
        let devices = documented("sh evpn")?;
        ensure!(devices.contains(&gateway), "the gateway of red has {gateway}");
        a.space.set("ipv6/conf/default/disable_ipv6", "0")?;
        for line in devices.lines() {
            a.space.run(line)?;
        }
        a.start_pod(&cgroups, POD6)?;
        a.pod.set("ipv6/conf/eth0/disable_ipv6", "0")?;
        for line in [
            format!("-6 addr add {POD6}/64 dev eth0 nodad"),
            format!("-6 neigh replace fd00:66:1::1 lladdr {gateway} dev eth0 nud permanent"),
            "-6 route add default via fd00:66:1::1".to_owned(),
        ] {
            a.pod.ip(&line)?;
        }
        a.frr = Some(Frr::start(&a.space, &a.file(""), &documented("frr evpn")?)?);
        let far_frr = Frr::start(&far, &far_dir, FAR_FRR)?;
        Ok(Self { a, far_frr, host, station, far, far_dir, cgroups, _run: run })
    }

    /// What the programs and the far router's kernel said last.
    pub fn story(&self) -> String {
        const QUESTIONS: [&str; 5] = [
            "show bgp summary",
            "show evpn vni",
            "show bgp l2vpn evpn",
            "show ip route",
            "show ip route table 77",
        ];
        let routers = [self.a.frr.as_ref(), Some(&self.far_frr)].into_iter().flatten();
        let routers: String = routers.map(|frr| frr.told(&QUESTIONS)).collect();
        let kernels = [&self.a.space, &self.far].map(|space| {
            let asked = ["route show table all", "-6 route show table all", "neigh", "-s link"];
            asked.map(|words| space.ip(words).unwrap_or_default()).concat()
        });
        format!("{}\n{routers}\n{}", self.a.story(), kernels.join("\n-- far\n"))
    }

    /// Waits until the far router's kernel has a route, or has not.
    fn wait_far(&self, prefix: &str, there: bool) -> Result<()> {
        let family = if prefix.contains(':') { "-6 " } else { "" };
        wait::until(&format!("{prefix} at the far router: {there}"), PATIENCE, || {
            let shown = self.far.ip(&format!("{family}route show {prefix} proto bgp"))?;
            Ok((shown.contains("br77") == there).then_some(()))
        })
    }
}

/// `docs/frr.md`: the pods' network as its part about EVPN has it, the rest as for plain routes.
fn configured() -> Result<String> {
    let whole = documented("toml")?;
    let at = whole.find("# The node's own network").context("the documented file has changed")?;
    Ok(documented("toml evpn")? + whole.get(at..).unwrap_or_default())
}

fn wire(a: &Space, far: &Space) -> Result<()> {
    let name = far.name();
    a.ip(&format!("link add w0 mtu 1600 type veth peer name w0 mtu 1600 netns {name}"))?;
    silence(a)?;
    far.run("/usr/sbin/ethtool -K w0 tx off rx off tso off gso off gro off")?;
    far.ip("link set w0 up")?;
    far.ip("addr add 192.0.2.2/24 dev w0").map(drop)
}

/// The router, and who is behind it.
fn far_router(far: &Space, host: &Space, station: &Space) -> Result<()> {
    for (key, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv6/conf/w0/disable_ipv6", "1"),
    ] {
        far.set(key, value)?;
    }
    for line in FAR_DEVICES {
        far.ip(line)?;
    }
    for (space, name, address, gateway) in [
        (host, "hh", ["10.66.9.2/24", "fd00:66:9::2/64"], ["10.66.9.1", "fd00:66:9::1"]),
        (station, "hs", ["10.66.8.20/24", "fd00:66:8::20/64"], ["10.66.8.1", "fd00:66:8::1"]),
    ] {
        let other = space.name();
        far.ip(&format!("link add {name} type veth peer name eth0 netns {other}"))?;
        far.ip(&format!("link set {name} up"))?;
        if name == "hs" {
            space.ip(&format!("link set eth0 address {STATION}"))?;
            far.ip("link set hs master br88")?;
        } else {
            far.ip(&format!("addr add {}/24 dev hh", gateway[0]))?;
            far.ip(&format!("addr add {}/64 dev hh nodad", gateway[1]))?;
        }
        space.ip("link set eth0 up")?;
        for (address, more) in address.into_iter().zip(["", " nodad"]) {
            space.ip(&format!("addr add {address} dev eth0{more}"))?;
        }
        for gateway in gateway {
            let family = if gateway.contains(':') { "-6 " } else { "" };
            space.ip(&format!("{family}route add default via {gateway}"))?;
        }
    }
    Ok(())
}

/// A route from the kernel's table, through the tunnel to the far router, which has this MAC address.
fn behind<'a>(mac: &'a str) -> impl Fn(Option<&Route>) -> bool + 'a {
    move |route| {
        route.is_some_and(|it| {
            it.mirrored
                && it.kind() == RouteKind::Vxlan
                && (it.via.as_str(), it.mac.as_str()) == ("192.0.2.2", mac)
        })
    }
}

fn gone(route: Option<&Route>) -> bool {
    route.is_none()
}

/// A prefix that the far router announces is reached from a pod and back, by DPDK; so until it is withdrawn.
pub fn prefixes(bed: &mut Bed) -> Result<()> {
    let Bed { a, far, host, .. } = &*bed;
    let router = far.mac("br77")?;
    for prefix in ["10.66.9.0/24", "fd00:66:9::/64"] {
        a.wait_route(prefix, behind(&router))?;
    }
    bed.wait_far("10.66.1.2", true)?;
    bed.wait_far("fd00:66:1::/64", true)?;
    for to in ["10.66.9.2", "fd00:66:9::2"] {
        traffic::ping(&a.pod, to, 56).with_context(|| format!("{to} from the pod"))?;
    }
    // 1,500 bytes of IP, the largest.
    traffic::ping(&a.pod, "10.66.9.2", 1472).context("a large ping")?;
    for to in ["10.66.1.2", POD6] {
        traffic::ping(host, to, 56).with_context(|| format!("{to} from the host"))?;
    }
    traffic::tcp(&a.pod, host, "10.66.9.2:5001").context("from the pod")?;
    traffic::tcp(host, &a.pod, "10.66.1.2:5001").context("to the pod")?;
    on_the_wire(bed)?;
    let told = a.ringway("explain --from shop/cart-a --to 10.66.9.2 --proto icmp")?;
    for part in ["10.66.9.0/24 vxlan 192.0.2.2", "from kernel", "vni 77", "(DPDK)"] {
        ensure!(told.contains(part), "{part} is not in\n{told}");
    }
    // The node's own device is there for FRR to read: the kernel has taken no packet out of a tunnel.
    let seen = a.space.counter("vxlan77", "rx_packets")?;
    ensure!(seen == 0, "the node's kernel has taken {seen} packets out of tunnels");

    // A pod that comes is told of, and one that goes.
    let socket = a.file("other.sock").display().to_string();
    a.create_pod_port("other/0/net0", "10.66.1.9", "02:00:00:00:77:09", &socket, &bed.cgroups)?;
    bed.wait_far("10.66.1.9", true)?;
    a.vrouter()?.delete_port("other/0/net0")?;
    bed.wait_far("10.66.1.9", false)?;

    // The far router gets another MAC address. FRR 8.4 writes it and deletes it at once, until it is told all anew.
    let router = OTHER_ROUTER;
    far.ip(&format!("link set br77 address {router}"))?;
    wait::until("the new address is told", PATIENCE, || {
        let known = a.frr()?.vtysh(&["-c", "show bgp l2vpn evpn"])?;
        Ok(known.contains(&format!("Rmac:{router}")).then_some(()))
    })?;
    a.frr()?.vtysh(&["-c", "clear bgp *"])?;
    for prefix in ["10.66.9.0/24", "fd00:66:9::/64"] {
        a.wait_route(prefix, behind(router))?;
    }
    bed.wait_far("10.66.1.2", true)?;
    bed.wait_far("fd00:66:1::/64", true)?;
    traffic::ping(&a.pod, "10.66.9.2", 56).context("after the router's address has changed")?;

    // Withdrawn, and announced again.
    let change = |line: &str| {
        let lines = ["configure", "router bgp 65002", "address-family ipv4 unicast", line];
        let lines: Vec<_> = lines.iter().flat_map(|it| ["-c", it]).collect();
        bed.far_frr.vtysh(&lines)
    };
    change("no network 10.66.9.0/24")?;
    a.wait_route("10.66.9.0/24", gone)?;
    ensure!(traffic::ping(&a.pod, "10.66.9.2", 56).is_err(), "without a route");
    change("network 10.66.9.0/24")?;
    a.wait_route("10.66.9.0/24", behind(router))?;
    traffic::ping(&a.pod, "10.66.9.2", 56).context("announced again")
}

/// A host that the far router has on a bridge: a route of type 2 to it alone, through the VNI of its router.
pub fn hosts(bed: &mut Bed) -> Result<()> {
    let Bed { a, far, station, .. } = &*bed;
    let router = far.mac("br77")?;
    let routes = ["10.66.8.20/32", "fd00:66:8::20/128"];
    let learn = || -> Result<()> {
        for gateway in ["10.66.8.1", "fd00:66:8::1"] {
            traffic::ping(station, gateway, 56).context("from the station to its gateway")?;
        }
        Ok(())
    };
    learn()?;
    for route in routes {
        a.wait_route(route, behind(&router))?;
    }
    bed.wait_far("10.66.1.2", true)?;
    for to in ["10.66.8.20", "fd00:66:8::20"] {
        traffic::ping(&a.pod, to, 56).with_context(|| format!("{to} from the pod"))?;
    }
    for to in ["10.66.1.2", POD6] {
        traffic::ping(station, to, 56).with_context(|| format!("{to} from the station"))?;
    }
    traffic::tcp(&a.pod, station, "10.66.8.20:5001").context("from the pod")?;
    // Its port goes, and what the bridge knew behind it.
    far.ip("link set hs down")?;
    for route in routes {
        a.wait_route(route, gone)?;
    }
    far.ip("link set hs up")?;
    learn()?;
    a.wait_route(routes[0], behind(&router))?;
    traffic::ping(&a.pod, "10.66.8.20", 56).context("the station is back")
}

/// Requests of the pod and answers of the host, as tshark reads them at the far router's end.
fn on_the_wire(bed: &Bed) -> Result<()> {
    let Bed { a, far, far_dir, .. } = bed;
    let capture = Capture::start_in(far, far_dir, "udp dst port 4789", 6)?;
    traffic::ping(&a.pod, "10.66.9.2", 56)?;
    let frames = dissect(&capture.finish()?)?;
    let gateway = a.vrouter()?.network("red")?.gateway_mac;
    let router = far.mac("br77")?;
    let macs = [a.space.mac("w0")?, far.mac("w0")?];
    let mut kinds = Vec::new();
    for frame in &frames {
        let field = |name: &str| frame.fields.get(name).map(String::as_str).unwrap_or_default();
        let there = field("ip.src") == "192.0.2.1";
        let turn = |one: &str, other: &str| {
            let [one, other] = [one, other].map(str::to_owned);
            if there { [one, other] } else { [other, one] }
        };
        let pairs = [
            ("eth", "eth", turn(&macs[0], &macs[1])),
            ("ip", "ip", turn("192.0.2.1", "192.0.2.2")),
            // Each end writes the MAC address that EVPN has told of the other: of the bridges, ours being the gateway's.
            ("inner Ethernet", "eth2", turn(&gateway, &router)),
            ("inner IP", "ip2", turn("10.66.1.2", "10.66.9.2")),
        ];
        for (what, protocol, [from, to]) in pairs {
            let seen = [format!("{protocol}.src"), format!("{protocol}.dst")];
            let seen = seen.map(|name| field(&name).to_owned());
            ensure!(seen == [from, to], "{what}: {seen:?} in {frame:#?}");
        }
        for (name, value) in [("udp.dstport", "4789"), ("vxlan.vni", "77")] {
            ensure!(field(name) == value, "{name} is {}: {frame:#?}", field(name));
        }
        let kind = field("icmp.type");
        ensure!((kind == "8") == there, "type {kind}: {frame:#?}");
        ensure!(sound(frame), "{frame:#?}");
        kinds.push(kind.to_owned());
    }
    kinds.sort();
    ensure!(kinds == ["0", "0", "0", "8", "8", "8"], "{kinds:?}");
    Ok(())
}

/// Whether tshark finds nothing to object to.
fn sound(frame: &Dissected) -> bool {
    frame.fields.keys().all(|name| !name.contains("malformed") && !name.contains("expert"))
}
