//! Routes, neighbours and links.

use crate::bed::{Peer, Watch, ip, link, mac, main_config, multipath, sysctl, uplink};
use anyhow::Result;
use vrouter_kernel::fib::reader::Config;
use vrouter_kernel::fib::{NetworkSpec, Source, Target};

/// Two uplinks, each with a neighbour `.2`, `::2` whose MAC address ends in 1 and 2.
fn two_uplinks() -> Result<()> {
    uplink("u0", "10.0.0.1/24")?;
    uplink("u1", "10.0.1.1/24")?;
    ip("addr add 2001:db8:0::1/64 dev u0 nodad")?;
    ip("addr add 2001:db8:1::1/64 dev u1 nodad")?;
    for (device, last) in [("u0", 0), ("u1", 1)] {
        let mac = mac(last + 1);
        ip(&format!("neigh add 10.0.{last}.2 lladdr {mac} dev {device} nud permanent"))?;
        ip(&format!("neigh add 2001:db8:{last}::2 lladdr {mac} dev {device} nud permanent"))?;
    }
    Ok(())
}

pub fn come_and_go() -> Result<()> {
    two_uplinks()?;
    ip("route add 192.0.2.0/24 via 10.0.0.2")?;
    let mut watch = Watch::start(main_config())?;
    watch.expect("main", "192.0.2.0/24", Some(link("u0", 1)?))?;
    watch.expect("main", "10.0.0.1", Some(Target::Local))?;
    watch.expect("main", "10.0.0.0/24", Some(Target::Kernel))?;
    watch.expect("main", "10.0.0.2", Some(link("u0", 1)?))?;
    watch.expect("main", "2001:db8:1::2", Some(link("u1", 2)?))?;

    for (other, far, gateway) in [
        ("198.51.100.0/24", "10.0.1.2", "10.0.0.2"),
        ("2001:db8:f::/48", "2001:db8:1::2", "2001:db8::2"),
    ] {
        ip(&format!("route add {other} via {far}"))?;
        watch.expect("main", other, Some(link("u1", 2)?))?;
        ip(&format!("route replace {other} via {gateway}"))?;
        watch.expect("main", other, Some(link("u0", 1)?))?;
        ip(&format!("route del {other}"))?;
        watch.expect("main", other, None)?;
    }
    // A gateway of the other family, and one that only the route says to be on the link.
    ip("route add 203.0.113.0/24 via inet6 2001:db8:1::2 dev u1")?;
    watch.expect("main", "203.0.113.0/24", Some(link("u1", 2)?))?;
    ip("neigh add 10.9.9.9 lladdr 02:00:00:00:00:09 dev u1 nud permanent")?;
    ip("route add 10.9.0.0/16 via 10.9.9.9 dev u1 onlink")?;
    watch.expect("main", "10.9.0.0/16", Some(link("u1", 9)?))?;
    // A neighbour is no route where its link has no such prefix.
    watch.expect("main", "10.9.9.9", None)?;
    // A host that is on the link.
    ip("neigh add 10.8.0.1 lladdr 02:00:00:00:00:08 dev u1 nud permanent")?;
    ip("route add 10.8.0.1 dev u1")?;
    watch.expect("main", "10.8.0.1", Some(link("u1", 8)?))?;
    ip("route add 10.8.0.2 dev u1")?;
    watch.expect("main", "10.8.0.2", Some(Target::Kernel))
}

pub fn of_one_prefix() -> Result<()> {
    two_uplinks()?;
    let mut watch = Watch::start(main_config())?;
    let (first, second) = (link("u0", 1)?, link("u1", 2)?);
    for (to, via) in [
        ("192.0.2.0/24", ["10.0.0.2", "10.0.1.2"]),
        ("2001:db8:f::/48", ["2001:db8::2", "2001:db8:1::2"]),
    ] {
        ip(&format!("route add {to} via {} metric 20", via[0]))?;
        watch.expect("main", to, Some(first.clone()))?;
        ip(&format!("route add {to} via {} metric 10", via[1]))?;
        watch.expect("main", to, Some(second.clone()))?;
        ip(&format!("route del {to} via {} metric 10", via[1]))?;
        watch.expect("main", to, Some(first.clone()))?;
        ip(&format!("route del {to}"))?;
        watch.expect("main", to, None)?;
    }
    // Of the same metric: the first, or the one that was put before it.
    ip("route add 192.0.2.0/24 via 10.0.0.2")?;
    ip("route append 192.0.2.0/24 via 10.0.1.2")?;
    watch.expect("main", "192.0.2.0/24", Some(first.clone()))?;
    ip("route prepend 192.0.2.0/24 dev u1")?;
    watch.expect("main", "192.0.2.0/24", Some(Target::Kernel))?;
    ip("route del 192.0.2.0/24 dev u1 scope link")?;
    watch.expect("main", "192.0.2.0/24", Some(first.clone()))?;
    ip("route del 192.0.2.0/24 via 10.0.0.2")?;
    watch.expect("main", "192.0.2.0/24", Some(second.clone()))?;
    // Which one is taken depends on more than the address.
    ip("route add 192.0.2.0/24 tos 0x10 via 10.0.0.2")?;
    watch.expect("main", "192.0.2.0/24", Some(Target::Kernel))?;
    ip("route del 192.0.2.0/24 tos 0x10")?;
    watch.expect("main", "192.0.2.0/24", Some(second.clone()))?;
    ip("route add 2001:db8:f::/48 via 2001:db8:1::2")?;
    ip("route add 2001:db8:f::/48 from 2001:db8:e::/48 via 2001:db8::2")?;
    watch.expect("main", "2001:db8:f::/48", Some(Target::Kernel))?;
    ip("route del 2001:db8:f::/48 from 2001:db8:e::/48 via 2001:db8::2")?;
    watch.expect("main", "2001:db8:f::/48", Some(second))
}

pub fn kinds() -> Result<()> {
    two_uplinks()?;
    let mut watch = Watch::start(main_config())?;
    for (kind, target) in [
        ("unreachable", Target::Unreachable),
        ("prohibit", Target::Unreachable),
        ("blackhole", Target::Blackhole),
        ("throw", Target::Kernel),
        ("local", Target::Local),
    ] {
        for (to, device) in [("192.0.2.0/24", "lo"), ("2001:db8:f::/48", "lo")] {
            let device =
                if kind == "local" { format!("dev {device} table main") } else { String::new() };
            ip(&format!("route add {kind} {to} {device}"))?;
            watch.expect("main", to, Some(target.clone()))?;
            ip(&format!("route del {kind} {to} {device}"))?;
            watch.expect("main", to, None)?;
        }
    }
    watch.expect("main", "10.0.0.255", Some(Target::Local))?;
    watch.expect("main", "ff00::/8", Some(Target::Kernel))?;
    // What is local hides what is below it.
    ip("route add 192.0.2.128/25 via 10.0.0.2")?;
    watch.expect("main", "192.0.2.128/25", Some(link("u0", 1)?))?;
    ip("route add local 192.0.2.0/24 dev lo")?;
    watch.expect("main", "192.0.2.128/25", None)?;
    ip("route del local 192.0.2.0/24 dev lo")?;
    watch.expect("main", "192.0.2.128/25", Some(link("u0", 1)?))?;
    // Entries of the cache are no routes.
    ip("route get 192.0.2.129")?;
    watch.same_as_new()
}

pub fn several_ways() -> Result<()> {
    two_uplinks()?;
    let mut watch = Watch::start(main_config())?;
    let (first, second) = (link("u0", 1)?, link("u1", 2)?);
    for (to, via) in [
        ("192.0.2.0/24", ["10.0.0.2", "10.0.1.2"]),
        ("2001:db8:f::/48", ["2001:db8::2", "2001:db8:1::2"]),
    ] {
        let both =
            |one: u32, two: u32| Some(multipath(vec![(first.clone(), one), (second.clone(), two)]));
        let hops = format!("nexthop via {} weight 3 nexthop via {} weight 200", via[0], via[1]);
        ip(&format!("route add {to} {hops}"))?;
        watch.expect("main", to, both(3, 200))?;
        ip(&format!("route replace {to} nexthop via {} nexthop via {}", via[0], via[1]))?;
        watch.expect("main", to, both(1, 1))?;
        ip(&format!("route replace {to} via {}", via[1]))?;
        watch.expect("main", to, Some(second.clone()))?;
        ip(&format!("route del {to}"))?;
        watch.expect("main", to, None)?;
    }
    // IPv6 has them one by one, too.
    ip("route add 2001:db8:f::/48 via 2001:db8::2")?;
    ip("route append 2001:db8:f::/48 via 2001:db8:1::2")?;
    watch.expect(
        "main",
        "2001:db8:f::/48",
        Some(multipath(vec![(first, 1), (second.clone(), 1)])),
    )?;
    ip("route del 2001:db8:f::/48 via 2001:db8::2")?;
    watch.expect("main", "2001:db8:f::/48", Some(second))?;
    // A neighbour that is not known is the kernel's to ask for.
    ip("route add 192.0.2.0/24 nexthop via 10.0.0.2 nexthop via 10.0.1.77")?;
    let one = Some(multipath(vec![(link("u0", 1)?, 1), (Target::Kernel, 1)]));
    watch.expect("main", "192.0.2.0/24", one)
}

pub fn nexthop_objects() -> Result<()> {
    two_uplinks()?;
    ip("nexthop add id 1 via 10.0.0.2 dev u0")?;
    ip("nexthop add id 2 via 10.0.1.2 dev u1")?;
    ip("nexthop add id 6 via 2001:db8:1::2 dev u1")?;
    ip("nexthop add id 9 blackhole")?;
    let mut watch = Watch::start(main_config())?;
    let (first, second) = (link("u0", 1)?, link("u1", 2)?);
    let to = "192.0.2.0/24";
    ip("route add 192.0.2.0/24 nhid 1")?;
    ip("route add 2001:db8:f::/48 nhid 6")?;
    watch.expect("main", to, Some(first.clone()))?;
    watch.expect("main", "2001:db8:f::/48", Some(second.clone()))?;
    ip("nexthop replace id 1 via 10.0.1.2 dev u1")?;
    watch.expect("main", to, Some(second.clone()))?;
    ip("nexthop replace id 1 via 10.0.0.2 dev u0")?;
    watch.expect("main", to, Some(first.clone()))?;
    ip("nexthop add id 10 group 1,5/2,7")?;
    ip("route replace 192.0.2.0/24 nhid 10")?;
    watch.expect("main", to, Some(multipath(vec![(first.clone(), 5), (second.clone(), 7)])))?;
    ip("route add 198.51.100.0/24 nhid 9")?;
    watch.expect("main", "198.51.100.0/24", Some(Target::Blackhole))?;
    // One member less, then none: the group and its routes are gone, and nobody says so of those of IPv4.
    ip("nexthop del id 1")?;
    watch.expect("main", to, Some(second))?;
    ip("nexthop del id 2")?;
    watch.expect("main", to, None)?;
    ip("nexthop del id 6")?;
    watch.expect("main", "2001:db8:f::/48", None)?;
    ip("nexthop del id 9")?;
    watch.expect("main", "198.51.100.0/24", None)?;
    // Objects go with their link.
    ip("nexthop add id 1 via 10.0.0.2 dev u0")?;
    ip("nexthop add id 2 via 10.0.1.2 dev u1")?;
    ip("nexthop add id 10 group 1/2")?;
    ip("route add 192.0.2.0/24 nhid 10")?;
    ip("route add 198.51.100.0/24 nhid 1")?;
    watch.expect("main", "198.51.100.0/24", Some(first))?;
    ip("link set u0-far down")?;
    watch.expect("main", "198.51.100.0/24", None)?;
    watch.expect("main", to, Some(link("u1", 2)?))?;
    ip("link set u1 down")?;
    watch.expect("main", to, None)
}

pub fn neighbours() -> Result<()> {
    let peer = Peer::start()?;
    let pid = peer.pid();
    ip(&format!("link add u0 type veth peer name far netns {pid}"))?;
    ip("link set u0 up")?;
    ip("addr add 10.0.0.1/24 dev u0")?;
    ip("addr add 2001:db8::1/64 dev u0 nodad")?;
    for arguments in [
        "link set far address 02:00:00:00:00:02",
        "link set far up",
        "addr add 10.0.0.2/24 dev far",
        "addr add 2001:db8::2/64 dev far nodad",
    ] {
        peer.ip(arguments)?;
    }
    ip("route add 192.0.2.0/24 via 10.0.0.2")?;
    ip("route add 2001:db8:f::/48 via 2001:db8::2")?;
    let mut watch = Watch::start(main_config())?;
    watch.expect("main", "192.0.2.0/24", Some(Target::Kernel))?;
    watch.expect("main", "10.0.0.2", None)?;
    // What the kernel is given to forward makes it ask.
    let (four, six) =
        (std::net::UdpSocket::bind("0.0.0.0:0")?, std::net::UdpSocket::bind("[::]:0")?);
    four.send_to(b"who is there", "192.0.2.1:9")?;
    six.send_to(b"who is there", "[2001:db8:f::1]:9")?;
    watch.wait("main", "192.0.2.0/24", Some(&link("u0", 2)?))?;
    watch.wait("main", "10.0.0.2", Some(&link("u0", 2)?))?;
    watch.wait("main", "2001:db8:f::/48", Some(&link("u0", 2)?))?;
    watch.same_as_new()?;
    // It moves.
    ip("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:03 dev u0 nud reachable")?;
    watch.expect("main", "192.0.2.0/24", Some(link("u0", 3)?))?;
    ip("neigh del 10.0.0.2 dev u0")?;
    watch.expect("main", "192.0.2.0/24", Some(Target::Kernel))?;
    watch.expect("main", "10.0.0.2", None)
}

pub fn link_goes_down() -> Result<()> {
    two_uplinks()?;
    let mut watch = Watch::start(main_config())?;
    ip("route add 192.0.2.0/24 via 10.0.0.2")?;
    ip("route add 192.0.2.0/24 via 10.0.1.2 metric 10")?;
    ip("route add 203.0.113.0/24 nexthop via 10.0.0.2 nexthop via 10.0.1.2")?;
    ip("route add 2001:db8:f::/48 via 2001:db8::2")?;
    ip("route add 2001:db8:e::/48 nexthop via 2001:db8::2 nexthop via 2001:db8:1::2")?;
    let both = multipath(vec![(link("u0", 1)?, 1), (link("u1", 2)?, 1)]);
    watch.expect("main", "2001:db8:e::/48", Some(both.clone()))?;
    watch.expect("main", "203.0.113.0/24", Some(both))?;
    watch.expect("main", "192.0.2.0/24", Some(link("u0", 1)?))?;
    ip("link set u0 down")?;
    watch.expect("main", "192.0.2.0/24", Some(link("u1", 2)?))?;
    watch.expect("main", "203.0.113.0/24", Some(link("u1", 2)?))?;
    watch.expect("main", "2001:db8:f::/48", None)?;
    watch.expect("main", "2001:db8:e::/48", Some(link("u1", 2)?))?;
    watch.expect("main", "10.0.0.0/24", None)?;
    watch.expect("main", "10.0.0.1", Some(Target::Local))?;
    // Neighbours are gone with it; the way comes back by itself.
    ip("link set u0 up")?;
    let back = multipath(vec![(link("u1", 2)?, 1), (Target::Kernel, 1)]);
    watch.expect("main", "203.0.113.0/24", Some(back.clone()))?;
    watch.wait("main", "2001:db8:e::/48", Some(&back))?;
    watch.expect("main", "192.0.2.0/24", Some(link("u1", 2)?))?;
    // Without a cable nothing changes yet: who sends is told by the port, and routes by who routes.
    ip("link set u1-far down")?;
    watch.same_as_new()?;
    ip("link set u1-far up")?;
    watch.same_as_new()?;
    ip("link del u1")?;
    watch.expect("main", "192.0.2.0/24", None)?;
    watch.expect("main", "10.0.1.1", None)?;
    // IPv4 routes of several ways go whole, though the other one is up.
    watch.expect("main", "203.0.113.0/24", None)?;
    watch.expect("main", "2001:db8:e::/48", Some(Target::Kernel))
}

/// Why this kernel can't give another name to a link that is up, if it can't: before Linux 6.2 all had to be down.
pub fn keeps_names() -> Option<String> {
    let script = "ip link add probe0 type veth peer name probe1 && ip link set probe0 up && ip link set probe0 name probe9";
    let output = std::process::Command::new("unshare").args(["-n", "sh", "-c", script]).output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
            Some(format!("this kernel gives no other name to a link that is up: {why}"))
        }
        Err(error) => Some(format!("unshare: {error}")),
    }
}

/// An uplink is known by its name.
pub fn link_is_renamed() -> Result<()> {
    two_uplinks()?;
    let mut watch = Watch::start(main_config())?;
    ip("route add 192.0.2.0/24 via 10.0.1.2")?;
    watch.expect("main", "192.0.2.0/24", Some(link("u1", 2)?))?;
    ip("link set u1 name u9")?;
    watch.expect("main", "192.0.2.0/24", Some(Target::Kernel))?;
    ip("link set u9 name u1")?;
    watch.expect("main", "192.0.2.0/24", Some(link("u1", 2)?))
}

pub fn addresses_go() -> Result<()> {
    two_uplinks()?;
    sysctl("ipv4/conf/u0/promote_secondaries", "0")?;
    ip("addr add 10.0.0.9/24 dev u0")?;
    ip("addr add 10.5.0.1/24 dev u0")?;
    let mut watch = Watch::start(main_config())?;
    ip("route add 192.0.2.0/24 via 10.0.1.2 src 10.5.0.1")?;
    ip("route add 198.51.100.0/24 via 10.0.0.2")?;
    watch.expect("main", "192.0.2.0/24", Some(link("u1", 2)?))?;
    ip("addr del 10.5.0.1/24 dev u0")?;
    watch.expect("main", "192.0.2.0/24", None)?;
    // The secondary goes with its primary, and with the last one all that was IPv4.
    watch.expect("main", "198.51.100.0/24", Some(link("u0", 1)?))?;
    ip("addr del 10.0.0.1/24 dev u0")?;
    watch.expect("main", "198.51.100.0/24", None)?;
    watch.expect("main", "10.0.0.9", None)?;
    // Neighbours are gone with it.
    ip("addr add 10.0.0.1/24 dev u0")?;
    watch.expect("main", "10.0.0.0/24", Some(Target::Kernel))?;
    ip("neigh add 10.0.0.2 lladdr 02:00:00:00:00:01 dev u0 nud permanent")?;
    watch.expect("main", "10.0.0.2", Some(link("u0", 1)?))?;
    ip("addr del 2001:db8:1::1/64 dev u1")?;
    watch.expect("main", "2001:db8:1::2", None)
}

pub fn tables() -> Result<()> {
    two_uplinks()?;
    uplink("red0", "172.16.0.1/24")?;
    let spec = |source, device: Option<&str>| NetworkSpec {
        source,
        tunnel: None,
        device: device.map(str::to_owned),
    };
    let mut config: Config = main_config();
    config.networks.insert("red".to_owned(), spec(Source::Table(100), Some("red0")));
    config.networks.insert("blue".to_owned(), spec(Source::Rule("u1-far".to_owned()), None));
    let mut watch = Watch::start(config)?;
    ip("route add 192.0.2.0/24 via 10.0.0.2 table 100")?;
    ip("route add 192.0.2.0/24 via 10.0.1.2 table 200")?;
    ip("route add default via 172.16.0.2 dev red0 table 100")?;
    watch.expect("red", "192.0.2.0/24", Some(link("u0", 1)?))?;
    // Back to the network it comes from: no route.
    watch.expect("red", "0.0.0.0/0", None)?;
    watch.expect("main", "192.0.2.0/24", None)?;
    watch.expect("blue", "192.0.2.0/24", None)?;
    ip("rule add iif u1-far table 200")?;
    watch.expect("blue", "192.0.2.0/24", Some(link("u1", 2)?))?;
    ip("rule add iif u1-far table 100 priority 5")?;
    watch.expect("blue", "192.0.2.0/24", Some(link("u0", 1)?))?;
    ip("rule del priority 5")?;
    watch.expect("blue", "192.0.2.0/24", Some(link("u1", 2)?))?;
    ip("rule del iif u1-far")?;
    watch.expect("blue", "192.0.2.0/24", None)
}
