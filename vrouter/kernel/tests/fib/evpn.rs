//! Tunnels that the kernel's tables express.

use crate::bed::{Watch, bridge, ip, link, mac, main_config, multipath, uplink};
use anyhow::Result;
use std::net::IpAddr;
use vrouter_kernel::fib::reader::Config;
use vrouter_kernel::fib::{NetworkSpec, Source, Target, Tunnel};

fn config() -> Config {
    let tunnel = Tunnel { vni: 5000, local: IpAddr::from([10, 0, 0, 1]), gateways: false };
    let red = NetworkSpec { source: Source::Table(100), tunnel: Some(tunnel), device: None };
    let mut config = main_config();
    config.networks.insert("red".to_owned(), red);
    config
}

fn vxlan(last: u8, mac: Option<u8>) -> Target {
    let remote = IpAddr::from([192, 0, 2, last]);
    Target::Vxlan { remote, mac: mac.map(crate::bed::mac) }
}

pub fn encapsulations() -> Result<()> {
    uplink("u0", "10.0.0.1/24")?;
    ip("addr add 2001:db8::1/64 dev u0 nodad")?;
    ip("neigh add 10.0.0.2 lladdr 02:00:00:00:00:01 dev u0 nud permanent")?;
    ip("neigh add 2001:db8::2 lladdr 02:00:00:00:00:01 dev u0 nud permanent")?;
    ip("link add vx type vxlan external dstport 4789")?;
    ip("link set vx up")?;
    ip("link add other type vxlan external dstport 8472")?;
    ip("link set other up")?;
    let mut watch = Watch::start(config())?;
    // SRv6 is the kernel's.
    ip(
        "route add 2001:db8:f::/48 encap seg6 mode encap segs 2001:db8:e::1 via 2001:db8::2 dev u0 table 100",
    )?;
    watch.expect("red", "2001:db8:f::/48", Some(Target::KernelTunnel))?;
    ip("route add 10.7.0.0/16 encap seg6 mode encap segs 2001:db8:e::1 dev u0 table 100")?;
    watch.expect("red", "10.7.0.0/16", Some(Target::KernelTunnel))?;
    ip("route replace 2001:db8:f::/48 via 2001:db8::2 dev u0 table 100")?;
    watch.expect("red", "2001:db8:f::/48", Some(link("u0", 1)?))?;
    // VXLAN by route: the network's own identifier and port only.
    ip("route add 10.1.0.0/16 encap ip id 5000 dst 192.0.2.7 dev vx table 100")?;
    watch.expect("red", "10.1.0.0/16", Some(vxlan(7, None)))?;
    ip("route add 10.2.0.0/16 encap ip id 5001 dst 192.0.2.7 dev vx table 100")?;
    watch.expect("red", "10.2.0.0/16", Some(Target::Kernel))?;
    ip("route add 10.3.0.0/16 encap ip id 5000 dst 192.0.2.7 dev other table 100")?;
    watch.expect("red", "10.3.0.0/16", Some(Target::Kernel))?;
    ip("route add 10.4.0.0/16 encap ip id 5000 dst 192.0.2.7 src 10.0.0.77 dev vx table 100")?;
    watch.expect("red", "10.4.0.0/16", Some(Target::Kernel))?;
    ip("route add 2001:db8:a::/48 encap ip id 5000 dst 192.0.2.7 dev vx table 100")?;
    watch.expect("red", "2001:db8:a::/48", Some(vxlan(7, None)))?;
    ip("route add 10.5.0.0/16 encap ip6 id 5000 dst 2001:db8::7 dev vx table 100")?;
    watch.expect("red", "10.5.0.0/16", Some(Target::Kernel))?;
    // The router behind it is known.
    ip("neigh add 172.31.0.1 lladdr 02:00:00:00:00:05 dev vx nud permanent")?;
    ip(
        "route add 10.6.0.0/16 encap ip id 5000 dst 192.0.2.8 via 172.31.0.1 dev vx onlink table 100",
    )?;
    watch.expect("red", "10.6.0.0/16", Some(vxlan(8, Some(5))))?;
    ip("nexthop add id 4 encap ip id 5000 dst 192.0.2.9 dev vx")?;
    ip("route add 10.8.0.0/16 nhid 4 table 100")?;
    watch.expect("red", "10.8.0.0/16", Some(vxlan(9, None)))?;
    ip("link set vx down")?;
    watch.expect("red", "10.8.0.0/16", None)?;
    watch.expect("red", "10.1.0.0/16", None)
}

/// Routes of a protocol that knows nothing of tunnels: its routers are the other ends.
pub fn gateways() -> Result<()> {
    uplink("u0", "10.0.0.1/24")?;
    ip("link add other type veth peer name other-far")?;
    ip("link set other up")?;
    ip("addr add 10.9.0.1/24 dev other")?;
    ip("addr add 2001:db8::1/64 dev u0 nodad")?;
    let mut config = config();
    for spec in config.networks.values_mut() {
        spec.tunnel = spec.tunnel.map(|tunnel| Tunnel { gateways: true, ..tunnel });
    }
    let mut watch = Watch::start(config)?;
    let end = |last: u8| Target::Vxlan { remote: IpAddr::from([10, 0, 0, last]), mac: None };
    // Whether the neighbour is known makes no difference.
    ip("route add 10.1.0.0/16 via 10.0.0.2 dev u0 table 100")?;
    watch.expect("red", "10.1.0.0/16", Some(end(2)))?;
    ip("neigh add 10.0.0.2 lladdr 02:00:00:00:00:01 dev u0 nud permanent")?;
    watch.expect("red", "10.1.0.0/16", Some(end(2)))?;
    ip(
        "route replace 10.1.0.0/16 table 100 nexthop via 10.0.0.2 dev u0 nexthop via 10.0.0.3 dev u0 weight 2",
    )?;
    watch.expect("red", "10.1.0.0/16", Some(multipath(vec![(end(2), 1), (end(3), 2)])))?;
    ip("nexthop add id 9 via 10.0.0.4 dev u0")?;
    ip("route replace 10.1.0.0/16 nhid 9 table 100")?;
    watch.expect("red", "10.1.0.0/16", Some(end(4)))?;
    // No router, none behind an uplink, and one of the other family.
    ip("route add 10.2.0.0/16 dev u0 table 100")?;
    watch.expect("red", "10.2.0.0/16", Some(Target::Kernel))?;
    ip("route add 10.3.0.0/16 via 10.9.0.2 dev other table 100")?;
    watch.expect("red", "10.3.0.0/16", Some(Target::Kernel))?;
    ip("route add 2001:db8:1::/48 via 2001:db8::2 dev u0 table 100")?;
    watch.expect("red", "2001:db8:1::/48", Some(Target::Kernel))?;
    // The node's own network goes there itself.
    ip("route add 10.4.0.0/16 via 10.0.0.2 dev u0")?;
    watch.expect("main", "10.4.0.0/16", Some(link("u0", 1)?))
}

/// As FRR's zebra leaves routes of type 5 in the kernel: a bridge for the VRF with the VXLAN device of its VNI as port.
pub fn evpn() -> Result<()> {
    uplink("u0", "10.0.0.1/24")?;
    ip("link add br100 type bridge")?;
    ip("link add vxlan100 type vxlan id 5000 local 10.0.0.1 dstport 4789 nolearning")?;
    ip("link set vxlan100 master br100")?;
    ip("link set vxlan100 up")?;
    ip("link set br100 up")?;
    ip("addr add 172.16.0.1/24 dev br100")?;
    let mut watch = Watch::start(config())?;
    let learned = |last: u8, via: u8| -> Result<()> {
        let mac = mac(via);
        ip(&format!("neigh replace 192.0.2.{last} lladdr {mac} dev br100 extern_learn nud noarp"))?;
        bridge(&format!("fdb replace {mac} dev vxlan100 master extern_learn"))?;
        bridge(&format!("fdb replace {mac} dev vxlan100 self dst 192.0.2.{last} extern_learn"))
    };
    ip("route add 10.1.0.0/16 via 192.0.2.7 dev br100 onlink proto bgp table 100")?;
    watch.expect("red", "10.1.0.0/16", Some(Target::Kernel))?;
    learned(7, 7)?;
    watch.expect("red", "10.1.0.0/16", Some(vxlan(7, Some(7))))?;
    learned(8, 8)?;
    ip(
        "route replace 10.1.0.0/16 proto bgp table 100 nexthop via 192.0.2.7 dev br100 onlink nexthop via 192.0.2.8 dev br100 onlink",
    )?;
    watch.expect(
        "red",
        "10.1.0.0/16",
        Some(multipath(vec![(vxlan(7, Some(7)), 1), (vxlan(8, Some(8)), 1)])),
    )?;
    // Another router takes the end over.
    ip("neigh replace 192.0.2.7 lladdr 02:00:00:00:00:09 dev br100 extern_learn nud noarp")?;
    watch.expect(
        "red",
        "10.1.0.0/16",
        Some(multipath(vec![(Target::Kernel, 1), (vxlan(8, Some(8)), 1)])),
    )?;
    bridge("fdb replace 02:00:00:00:00:09 dev vxlan100 self dst 192.0.2.7 extern_learn")?;
    watch.expect(
        "red",
        "10.1.0.0/16",
        Some(multipath(vec![(vxlan(7, Some(9)), 1), (vxlan(8, Some(8)), 1)])),
    )?;
    bridge("fdb del 02:00:00:00:00:09 dev vxlan100 self dst 192.0.2.7")?;
    watch.expect(
        "red",
        "10.1.0.0/16",
        Some(multipath(vec![(Target::Kernel, 1), (vxlan(8, Some(8)), 1)])),
    )?;
    // IPv6 through an end that has an IPv4 address, by an object, as FRR 8.4 was seen to write it.
    ip("neigh replace ::ffff:192.0.2.8 lladdr 02:00:00:00:00:08 dev br100 extern_learn nud noarp")?;
    ip("nexthop add id 15 via ::ffff:192.0.2.8 dev br100 onlink proto zebra")?;
    ip("route add fd00:9::/64 nhid 15 proto bgp table 100")?;
    watch.expect("red", "fd00:9::/64", Some(vxlan(8, Some(8))))?;
    ip("neigh del ::ffff:192.0.2.8 dev br100")?;
    watch.expect("red", "fd00:9::/64", Some(Target::Kernel))?;
    ip("neigh replace ::ffff:192.0.2.8 lladdr 02:00:00:00:00:08 dev br100 extern_learn nud noarp")?;
    watch.expect("red", "fd00:9::/64", Some(vxlan(8, Some(8))))?;
    ip("nexthop del id 15")?;
    watch.expect("red", "fd00:9::/64", None)?;
    // Type 2: a host of a prefix that is stretched.
    ip("route add 172.16.0.0/24 dev br100 table 100")?;
    ip("neigh replace 172.16.0.20 lladdr 02:00:00:00:00:20 dev br100 extern_learn nud noarp")?;
    bridge("fdb replace 02:00:00:00:00:20 dev vxlan100 self dst 192.0.2.8 extern_learn")?;
    watch.expect("red", "172.16.0.20", Some(vxlan(8, Some(32))))?;
    // It moves to another end.
    bridge("fdb replace 02:00:00:00:00:20 dev vxlan100 self dst 192.0.2.9 extern_learn")?;
    watch.expect("red", "172.16.0.20", Some(vxlan(9, Some(32))))?;
    ip("link set vxlan100 nomaster")?;
    watch.expect("red", "172.16.0.20", None)?;
    watch.expect("red", "10.1.0.0/16", Some(Target::Kernel))
}
