//! The tests.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::node::{Net, PROMISED, assert_same, ip, kill_process, wait};

pub const TESTS: &[(&str, fn())] = &[
    ("all_that_an_interface_had_is_on_its_tap_and_comes_back", round_trip),
    ("what_changed_on_the_tap_comes_back", changes_come_back),
    ("a_connection_outlives_the_vrouter", connection),
    ("the_kernel_does_not_hear_what_the_uplink_gets", deaf),
    ("an_interface_has_one_vrouter", double_claim),
    ("a_keeper_that_dies_is_replaced", keeper_killed),
    ("a_keeper_has_one_capability_and_gets_no_other", keepers_capabilities),
    ("what_both_left_behind_is_repaired", leftovers),
    ("a_tap_that_is_deleted_gives_the_interface_back", tap_deleted),
    ("a_tap_that_is_deleted_can_be_made_anew", tap_made_anew),
    ("interfaces_that_cannot_be_moved_are_refused", refusals),
];

/// All that an interface may have, on this kernel.
fn furnish(net: &Net) {
    for words in [
        // Their link-local addresses would come some time later.
        "link add eth2 type veth peer name p2",
        "link set eth2 addrgenmode none",
        "link set p2 addrgenmode none",
        "link set p2 up",
        "addr add 10.2.0.1/24 dev eth2",
        "link set eth2 up",
        "link set eth1 mtu 1400 txqueuelen 333 alias upstairs",
        "link property add dev eth1 altname enp99s0",
        "addr add 10.1.0.10/24 dev eth1",
        "addr add 10.1.0.11/24 dev eth1 label eth1:web",
        "addr add 172.16.9.1 peer 172.16.9.2/32 dev eth1",
        "addr add 10.9.9.1/32 dev eth1 scope link",
        "addr add fd09::1/128 dev eth1 nodad",
        "addr add fd08::1/64 dev eth1 noprefixroute nodad",
        "route add default via 10.1.0.2 metric 50",
        "route add 10.50.0.0/16 dev eth1 src 10.1.0.10",
        "route add 10.51.0.0/16 via 10.1.0.2 table 77 mtu 1300 proto bgp",
        "route add 10.52.0.0/16 nexthop via 10.1.0.2 dev eth1 weight 3 nexthop via 10.2.0.2 dev eth2",
        "route add 10.53.0.0/16 via 10.2.0.2 dev eth2 src 10.1.0.11",
        "route add 10.54.0.0/16 via 192.0.2.1 dev eth1 onlink",
        "route add 10.58.0.0/16 via inet6 fd01::2 dev eth1",
        "route append 10.50.0.0/16 via 10.1.0.2 dev eth1",
        "route add local 10.60.0.0/16 dev eth1",
        "route add blackhole 10.61.0.0/16",
        "-6 route add default via fd01::2 metric 60",
        "-6 route add fd50::/64 dev eth1 metric 7",
        "-6 route add fd51::/64 via fd01::2 table 78 src fd09::1",
        "-6 route add fd52::/64 nexthop via fd01::2 dev eth1 nexthop via fd01::3 dev eth1",
        "nexthop add id 11 via 10.1.0.2 dev eth1",
        "nexthop add id 12 via 10.2.0.2 dev eth2",
        "nexthop add id 13 via fd01::2 dev eth1 proto zebra",
        "nexthop add id 20 group 11/12,5",
        "route add 10.55.0.0/16 nhid 11",
        "route add 10.56.0.0/16 nhid 20",
        "-6 route add fd55::/64 nhid 13",
        "route add 10.57.0.0/16 encap seg6 mode encap segs fd01::2 dev eth1",
        "neigh add 10.1.0.77 lladdr 02:00:00:00:00:77 dev eth1 nud permanent",
        "neigh add fd01::77 lladdr 02:00:00:00:00:77 dev eth1 nud permanent",
        "neigh add proxy 10.1.0.99 dev eth1",
        "rule add iif eth1 lookup 77",
    ] {
        net.ip(words);
    }
    for (key, value) in [
        ("ipv4/conf/eth1/forwarding", "1"),
        ("ipv4/conf/eth1/rp_filter", "2"),
        ("ipv4/conf/eth1/arp_announce", "2"),
        ("ipv6/conf/eth1/accept_ra", "2"),
        ("ipv6/conf/eth1/forwarding", "1"),
        ("ipv4/neigh/eth1/gc_stale_time", "55"),
    ] {
        net.set(key, value);
    }
}

fn round_trip() {
    let net = Net::new();
    furnish(&net);
    let heard = |when| {
        for address in ["10.1.0.1", "fd01::1"] {
            assert!(net.is_heard(address), "{address} {when}");
        }
    };
    heard("before");
    let before = net.state("eth1");
    let mut router = net.vrouter("");
    assert_eq!(router.device, "rw-eth1");
    net.wait_for_link_local();
    let during = net.state("eth1");
    for (what, value) in &before {
        if what.starts_with("addr") {
            // It is another device; what it carries is the same.
            for key in ["addr_info", "mtu", "address", "txqlen", "ifalias", "altnames", "group"] {
                assert_eq!(during[what][0][key], value[0][key], "{what}: {key}");
            }
            assert_eq!(during[what][0]["linkinfo"]["info_kind"], "tun");
        } else {
            assert_same(what, &during[what], value);
        }
    }
    let away = net.ip("-d addr show dev rw-eth1");
    assert!(!away.contains("inet"), "{away}");
    assert!(away.contains("altname ringway-uplink-eth1"), "{away}");
    assert_eq!(
        net.ip("link show dev ringway-uplink-eth1").split(':').nth(1),
        away.split(':').nth(1)
    );
    heard("during");

    router.release();
    net.wait_for_state(&before);
    heard("after");
    assert_eq!(net.record(), None);
}

fn changes_come_back() {
    let net = Net::new();
    for is_killed in [false, true] {
        let mut router = net.vrouter("");
        for words in [
            "addr add 10.7.7.7/24 dev eth1",
            "addr del 10.1.0.1/24 dev eth1",
            "addr add 10.1.0.5/24 dev eth1",
            "route add 10.70.0.0/16 via 10.1.0.2",
            "-6 route add fd70::/64 via fd01::2",
            "link set eth1 mtu 1444",
        ] {
            net.ip(words);
        }
        net.wait_for_link_local();
        let during = net.state("eth1");
        if is_killed {
            // The last of it on record.
            wait("the keeper to see it", || {
                net.record().is_some_and(|it| it.contains("\"mtu\":1444"))
            });
            router.kill();
        } else {
            router.release();
        }
        net.wait_until_back();
        net.wait_for_link_local();
        let after = net.state("eth1");
        for (what, value) in &during {
            if what.starts_with("addr") {
                assert_eq!(after[what][0]["addr_info"], value[0]["addr_info"]);
                assert_eq!(after[what][0]["mtu"], 1444);
            } else {
                assert_same(what, &after[what], value);
            }
        }
        for words in [
            "route del 10.70.0.0/16",
            "-6 route del fd70::/64",
            "addr del 10.7.7.7/24 dev eth1",
            "addr del 10.1.0.5/24 dev eth1",
            "addr add 10.1.0.1/24 dev eth1",
            "link set eth1 mtu 1500",
        ] {
            net.ip(words);
        }
    }
}

/// The peer talks to the node all the time, over one connection.
fn connection() {
    let net = Net::new();
    net.ip("route add 10.99.0.0/16 via 10.1.0.2");
    net.ip("addr add 10.98.0.1/32 dev lo");
    ip(&net.peer(), "addr add 10.99.0.9/32 dev lo");
    ip(&net.peer(), "route add 10.98.0.0/16 via 10.1.0.1");
    // By a route that is not the interface's own prefix, with an address that is not the interface's.
    let listener = net.in_peer(|| TcpListener::bind("10.99.0.9:7000").unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
    });
    let mut stream = net.in_node(|| TcpStream::connect("10.99.0.9:7000").unwrap());
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut echo = |byte: u8| {
        stream.write_all(&[byte]).unwrap();
        let mut answer = [0];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [byte]);
    };
    echo(1);
    let before = net.state("eth1");
    let mut router = net.vrouter("");
    echo(2);
    router.kill();
    let killed = Instant::now();
    net.wait_until_back();
    assert!(killed.elapsed() < PROMISED, "back after {:?}", killed.elapsed());
    net.wait_for_state(&before);
    echo(3);
}

fn deaf() {
    let net = Net::new();
    assert!(net.is_heard("10.1.0.1") && net.is_heard("fd01::1"));
    let mut router = net.vrouter("deaf");
    // The address is the node's, on the TAP: a kernel that heard the request would answer by the real interface.
    assert!(!net.is_heard("10.1.0.1"));
    assert!(!net.is_heard("fd01::1"));
    let heard = router.release();
    assert!(heard >= 2, "the packet socket has got {heard} frames");
    assert!(net.is_heard("10.1.0.1"));
}

fn double_claim() {
    let net = Net::new();
    let mut first = net.vrouter("");
    let mut second = net.start_vrouter("eth1", "");
    let error = second.line("error");
    assert!(error.contains("already an uplink"), "{error}");
    assert!(error.contains(&format!("process {}", first.pid())), "{error}");
    let error = net.start_vrouter("rw-eth1", "").line("error");
    assert!(error.contains("while it is away"), "{error}");
    assert!(net.is_heard("10.1.0.1"));
    first.release();
    net.vrouter("").release();
    // Who comes while the keeper of a dead one is still at work waits for it.
    net.vrouter("").kill();
    net.vrouter("").release();
    assert!(net.is_heard("10.1.0.1"));
}

/// Also one whose vRouter has more to give, and cannot take it out of the bounding set.
fn keepers_capabilities() {
    const NET_ADMIN: u64 = 1 << 12;
    const SYS_ADMIN: u64 = 1 << 21;
    let net = Net::new();
    for mode in ["", "bound"] {
        let mut router = net.vrouter(mode);
        let status = fs::read_to_string(format!("/proc/{}/status", router.keeper)).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
        };
        for (set, wanted) in
            [("CapInh", 0), ("CapAmb", 0), ("CapPrm", NET_ADMIN), ("CapEff", NET_ADMIN)]
        {
            assert_eq!(field(set), wanted, "{mode}: {set}");
        }
        assert_eq!(field("CapBnd") & SYS_ADMIN != 0, mode == "bound", "{mode}: CapBnd");
        assert_eq!(field("NoNewPrivs"), 1, "{mode}");
        router.release();
    }
}

fn keeper_killed() {
    let net = Net::new();
    let before = net.state("eth1");
    let mut router = net.vrouter("");
    for _ in 0..2 {
        kill_process(router.keeper);
        router.line("event KeeperReplaced");
        let pid = router.pid();
        router.keeper = keeper_of(pid).expect("a new keeper");
        assert!(net.is_heard("10.1.0.1"), "the TAP goes on meanwhile");
    }
    // The kernel still does not hear what arrives: the new keeper has the filter.
    router.kill();
    let killed = Instant::now();
    net.wait_until_back();
    assert!(killed.elapsed() < PROMISED, "back after {:?}", killed.elapsed());
    net.wait_for_state(&before);

    // And one that gives back cleanly after the change.
    let mut router = net.vrouter("");
    kill_process(router.keeper);
    router.line("event KeeperReplaced");
    router.release();
    net.wait_for_state(&before);
}

/// The process that is a child of `pid`.
fn keeper_of(pid: u32) -> Option<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    children.collect::<String>().split_whitespace().next()?.parse().ok()
}

fn leftovers() {
    let net = Net::new();
    let before = net.state("eth1");
    let kill_both = || {
        let mut router = net.vrouter("");
        // Stopped, the vRouter can't start another one.
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(router.pid()).unwrap()),
            nix::sys::signal::Signal::SIGSTOP,
        )
        .unwrap();
        kill_process(router.keeper);
        router.kill();
        wait("the TAP to go", || !net.ip("link").contains(": eth1:"));
    };
    kill_both();
    assert!(net.ip("link").contains("rw-eth1"));
    assert_eq!(net.repair(), "eth1");
    net.wait_for_state(&before);
    assert_eq!(net.repair(), "");

    // Whoever takes it next repairs it, too.
    kill_both();
    let mut router = net.vrouter("");
    assert_eq!(router.device, "rw-eth1");
    router.release();
    net.wait_for_state(&before);

    // Without its record the name comes back, and IPv6.
    kill_both();
    for file in fs::read_dir(net.records()).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    assert_eq!(net.repair(), "eth1");
    assert_eq!(net.setting("ipv6/conf/eth1/disable_ipv6"), "0");
    assert!(!net.ip("-d link show dev eth1").contains("ringway"));
    net.ip("addr add 10.1.0.1/24 dev eth1");
    assert!(net.is_heard("10.1.0.1"), "the filter is gone");
}

fn tap_deleted() {
    let net = Net::new();
    let before = net.state("eth1");
    let mut router = net.vrouter("");
    net.ip("link del eth1");
    let deleted = Instant::now();
    router.line("event TapLost");
    net.wait_until_back();
    assert!(deleted.elapsed() < PROMISED, "back after {:?}", deleted.elapsed());
    net.wait_for_state(&before);
    assert!(net.is_heard("10.1.0.1"));
    drop(router);
    // Its end changes nothing any more.
    net.wait_for_state(&before);
}

fn tap_made_anew() {
    let net = Net::new();
    net.ip("route add 10.70.0.0/16 via 10.1.0.2");
    let before = net.state("eth1");
    let mut router = net.vrouter("again");
    net.ip("addr add 10.7.7.7/24 dev eth1");
    net.ip("link set eth1 mtu 1444");
    wait("the keeper to see it", || net.record().is_some_and(|it| it.contains("\"mtu\":1444")));
    net.ip("link del eth1");
    router.line("event TapLost");
    router.ready();
    let addresses = net.ip("addr show dev eth1");
    assert!(addresses.contains("10.7.7.7/24") && addresses.contains("mtu 1444"), "{addresses}");
    assert!(net.is_heard("10.1.0.1"));
    // Longer than the interface would have taken to go back.
    net.ip("addr del 10.7.7.7/24 dev eth1");
    net.ip("link set eth1 mtu 1500");
    wait("the keeper to see it", || net.record().is_some_and(|it| !it.contains("\"mtu\":1444")));
    router.kill();
    net.wait_until_back();
    net.wait_for_state(&before);
}

fn refusals() {
    let net = Net::new();
    let mut cases = vec![("eth9", "no network interface eth9"), ("lo", "not Ethernet")];
    for words in [
        "link add br0 type bridge",
        "link add eth2 type veth peer name p2",
        "link set eth2 master br0",
        "link add eth3 type veth peer name p3",
        "link add above3 link eth3 type macvlan",
        "link add eth4 type veth peer name p4",
        "link add vxlan4 type vxlan id 4 dstport 4789 dev eth4",
        "link property add dev eth1 altname other1",
    ] {
        net.ip(words);
    }
    cases.push(("eth2", "port of br0 (bridge)"));
    cases.push(("eth3", "rest on eth3 (above3)"));
    cases.push(("eth4", "rest on eth4 (vxlan4)"));
    cases.push(("other1", "another name of the interface eth1"));
    let before = net.state("eth2");
    for (name, why) in cases {
        let error = net.start_vrouter(name, "").line("error");
        assert!(error.contains(why), "{error}");
    }
    assert_eq!(net.state("eth2"), before);
    assert_eq!(net.record(), None);
}
