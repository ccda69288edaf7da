//! A network's kernel port itself: how much it takes, loops, and what becomes of it on bad days.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration::machine::program;
use integration::vrouter::VRouter;
use integration::wait;
use vrouter_api::v1::{DropCount, KernelPort, Network, PortSpec, RouteKind};

use crate::packets::{self, Inner, ethernet};
use crate::rig::{self, Rig};
use integration::space::traffic;

const PATIENCE: Duration = Duration::from_secs(30);
/// Packets that are sent to a port that takes ten at once and one a second.
const MANY: u64 = 200;
const BURST: u64 = 10;

fn tan() -> Network {
    Network {
        name: "tan".to_owned(),
        ipv4: "10.67.0.0/24".to_owned(),
        kernel_table: 78,
        kernel_port: Some(KernelPort {
            name: "tan0".to_owned(),
            packets_per_second: 1,
            burst_packets: u32::try_from(BURST).unwrap_or(0),
            ..KernelPort::default()
        }),
        ..Network::default()
    }
}

/// A network by request whose port takes little: what is above is dropped and counted, and costs others nothing. What the kernel
/// sends back where it came from is dropped and counted, too.
pub fn limited(rig: &mut Rig) -> Result<()> {
    let network = rig.vrouter.create_network(tan())?;
    ensure!(rig.vrouter.create_network(tan())? == network, "the same again is another");
    // A mirror of what the kernel knows of the network: a way out, and one that leads back.
    for line in [
        "route add 10.80.0.0/12 via 192.0.2.2 dev host0 table 78",
        "route add 10.80.0.0/16 via 10.67.0.1 dev tan0 table 78 onlink",
    ] {
        rig.node.ip(line)?;
    }
    rig.wait_route("tan", "10.80.0.0/12", RouteKind::Kernel)?;
    let routes = rig.vrouter.routes("tan")?;
    ensure!(routes.len() == 1, "ways to the network itself are no routes: {routes:?}");

    let ipv4 = "10.67.0.2".to_owned();
    let (mut pod, mac) = rig.frame_pod("tan", 9, PortSpec { ipv4, ..PortSpec::default() })?;
    let gateway = packets::mac(&network.gateway_mac).context("no MAC address")?;
    let from: IpAddr = [10, 67, 0, 2].into();
    let base = Inner { number: 1, class: 0, hops: 64, extra: 0, protocol: 17, bytes: 100 };
    let frame = |to: [u8; 4]| ethernet(gateway, mac, &base.packet(from, to.into()));

    // In a loop: the kernel gives it back at once.
    pod.send(0, 3, &frame([10, 80, 0, 1]))?;
    let loops = wait::until("three packets in a loop", PATIENCE, || {
        let port = rig.kernel_stats("tan")?.port.unwrap_or_default();
        let all = |drop: &DropCount| drop.reason == "kernel_loop" && drop.packets == 3;
        let dropped = port.drops.iter().any(all);
        Ok(dropped.then_some(port))
    })
    .with_context(|| format!("{:?}", rig.kernel_stats("tan")))?;
    ensure!((loops.rx_packets, loops.tx_packets) == (3, 3), "each goes round once: {loops:?}");

    pod.send(0, MANY, &frame([10, 81, 0, 1]))?;
    // The way that is fast: the gateway answers all the same.
    let echo = Inner { protocol: 1, number: 2, ..base };
    pod.send(0, 1, &ethernet(gateway, mac, &echo.packet(from, [10, 67, 0, 1].into())))?;
    wait::until("the gateway's answer", PATIENCE, || {
        let got = pod.received()?;
        Ok(got.keys().any(|frame| packets::mark(frame) == Some(2)).then_some(()))
    })?;
    let stats = rig.vrouter.port_stats("tan-9/0/net0")?;
    let punted = stats.punts.iter().find(|it| it.name == "kernel").map_or(0, |it| it.value);
    let limited = stats.drops.iter().find(|it| it.reason == "punt_limited");
    let limited = limited.map_or(0, |it| it.packets);
    // Those of the loop are of the same bucket. A second or a few went by.
    ensure!((BURST..BURST + 60).contains(&punted), "{punted} packets were handed over");
    ensure!(punted + limited == MANY + 3, "{punted} handed over, {limited} dropped");
    let port = rig.kernel_stats("tan")?.port.context("no counters")?;
    ensure!(port.tx_packets == punted, "the kernel got {} packets", port.tx_packets);

    rig.vrouter.delete_port("tan-9/0/net0")?;
    refused(rig)?;
    rig.vrouter.delete_network("tan")?;
    ensure!(rig.node.ip("link show dev tan0").is_err(), "the TAP outlives its network");
    let rules = rig.node.ip("rule")?;
    ensure!(!rules.contains("tan0"), "rules outlive their network:\n{rules}");
    Ok(())
}

fn refused(rig: &Rig) -> Result<()> {
    let blue = |change: fn(&mut Network)| {
        let mut network = Network { name: "blue".to_owned(), kernel_table: 79, ..tan() };
        network.ipv4 = "10.68.0.0/24".to_owned();
        change(&mut network);
        network
    };
    for (network, expected) in [
        (blue(|_| {}), "an interface of that name exists already"),
        (blue(|it| it.kernel_table = 78), "network \"tan\" has it"),
        (blue(|it| it.kernel_table = 254), "only an external network"),
        (blue(|it| it.mtu = 9000), "set dpdk.buffer_bytes to 9200"),
    ] {
        match rig.vrouter.create_network(network) {
            Ok(made) => bail!("was made: {made:?}"),
            Err(error) => {
                let text = format!("{error:#}");
                ensure!(text.contains(expected), "{text}");
            }
        }
    }
    Ok(())
}

/// What the kernel has to know for the port is put back when somebody takes it away, the TAP itself included.
pub fn put_right(rig: &mut Rig) -> Result<()> {
    let node = &rig.node;
    let port = rig.network("red")?.kernel_port.context("no kernel port")?;
    ensure!(node.mac("red0")? == port.mac, "the TAP has another address");
    let whole = || -> Result<bool> {
        let rules = [node.ip("rule")?, node.ip("-6 rule")?].concat();
        let routes = [node.ip("route show table 77")?, node.ip("-6 route show table 77")?].concat();
        // Of both families.
        let neighbours = node.ip("neigh show dev red0")?;
        let reason = rig.network("red")?.kernel_port.unwrap_or_default().reason;
        Ok(rules.matches("from all iif red0 lookup 77").count() == 2
            && rules.matches("from all iif red0 unreachable").count() == 2
            && ["10.66.0.0/24 ", "10.66.0.2 ", "fd00:66::/64 ", "fd00:66::2 "]
                .iter()
                .all(|route| routes.contains(&format!("{route}via ")))
            && neighbours.matches("PERMANENT").count() == 2
            && reason.is_empty())
    };
    let restored = |what: &str| -> Result<()> {
        wait::until(&format!("all is there after {what}"), PATIENCE, || Ok(whole()?.then_some(())))
            .with_context(|| {
                rig.network("red").map(|it| format!("{:?}", it.kernel_port)).unwrap_or_default()
            })
    };
    restored("the start")?;
    for line in [
        "rule delete iif red0 lookup 77",
        "-6 rule delete iif red0 unreachable",
        "route flush table 77 proto 82",
        "-6 route flush table 77 proto 82",
        "neigh delete 10.66.0.1 dev red0",
    ] {
        node.ip(line)?;
        restored(line)?;
    }
    let number = || node.run("cat /sys/class/net/red0/ifindex");
    let before = number()?;
    node.ip("link delete red0")?;
    wait::until("the TAP is there again", PATIENCE, || {
        Ok(number().ok().filter(|now| *now != before))
    })?;
    restored("the TAP was deleted")?;
    ensure!(node.mac("red0")? == port.mac, "the new TAP has another address");

    // What only the operator can put right is told.
    node.set("ipv4/conf/all/rp_filter", "1")?;
    wait::until("what is wrong is told", PATIENCE, || {
        let reason = rig.network("red")?.kernel_port.unwrap_or_default().reason;
        Ok(reason.contains("rp_filter").then_some(()))
    })?;
    node.set("ipv4/conf/all/rp_filter", "0")?;
    restored("what was wrong was put right")?;
    // And packets pass: to the kernel itself, which has this address. (No pod should; see the threat model.)
    node.ip("route add 192.0.2.1/32 dev host0 table 77")?;
    rig.wait_route("red", "192.0.2.1/32", RouteKind::Kernel)?;
    node.ip("rule add iif lo to 10.66.0.0/24 lookup 77")?;
    traffic::ping(&rig.pod, "192.0.2.1", 56).context("through the new TAP")?;
    node.ip("rule delete iif lo to 10.66.0.0/24 lookup 77")?;
    node.ip("route delete 192.0.2.1/32 dev host0 table 77")?;

    let spec = PortSpec { ipv4: "10.66.0.77".to_owned(), ..PortSpec::default() };
    let pod = rig.frame_pod("red", 77, spec)?;
    let has =
        || -> Result<bool> { Ok(node.ip("route show table 77")?.contains("10.66.0.77 via ")) };
    ensure!(has()?, "there is no route to the new pod");
    drop(pod);
    rig.vrouter.delete_port("red-77/0/net0")?;
    ensure!(!has()?, "the route to a pod outlives it");
    Ok(())
}

/// Killed: the TAP goes at once; the rules, which match nothing then, with the next vRouter's start.
pub fn killed(rig: &mut Rig) -> Result<()> {
    rig.vrouter.process().crash()?;
    let node = &rig.node;
    wait::until("the TAP is gone", PATIENCE, || {
        Ok(node.ip("link show dev red0").is_err().then_some(()))
    })?;
    let routes = node.ip("route show table 77 proto 82").unwrap_or_default();
    ensure!(routes.is_empty(), "routes outlive the vRouter:\n{routes}");
    // Somebody's own, which is to stay.
    node.ip("rule add iif red0 lookup 99 priority 1600")?;
    let rules = node.ip("rule")?;
    ensure!(rules.contains("iif red0 [detached] lookup 77"), "{rules}");
    let (config, socket) = (rig.file("plain.toml"), VRouter::socket_of(&rig.run));
    let plain = "[[networks]]\nname = \"red\"\nipv4 = \"10.66.0.0/24\"\n";
    fs::write(&config, rig::text(&rig.run, plain))?;
    let command = node.command(program("ringway-vrouter")?);
    let next = VRouter::start_as(command, &config, &socket, &rig.file("plain.log"))?;
    let rules = [node.ip("rule")?, node.ip("-6 rule")?].concat();
    ensure!(!rules.contains("lookup 77 proto") && !rules.contains("unreachable"), "{rules}");
    ensure!(rules.contains("lookup 99"), "somebody's own rule is gone:\n{rules}");
    node.ip("rule delete iif red0 lookup 99 priority 1600")?;
    rig.vrouter = next;
    Ok(())
}
