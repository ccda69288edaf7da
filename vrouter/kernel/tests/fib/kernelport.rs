//! The kernel as a router of a network: what a kernel port has in the tables, and what becomes of it.

use crate::bed::{Peer, Watch, ip};
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use tappers::{Interface, Tap};
use vrouter_kernel::fib::reader::Config;
use vrouter_kernel::fib::{Mac, NetworkSpec, Source, Target};
use vrouter_kernel::handover::hand_over;
use vrouter_kernel::kernelport::{KernelPort, Spec, Table, sweep};

fn show(arguments: &str) -> Result<String> {
    let output = Command::new("ip").args(arguments.split_whitespace()).output()?;
    // A table that never had a route is an error to `ip`.
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn spec() -> Result<Spec> {
    Ok(Spec {
        interface: "red0".to_owned(),
        table: Table::Number(1077),
        prefixes: vec!["10.66.0.0/24".parse()?, "fd00:66::/64".parse()?],
        gateways: vec!["10.66.0.1".parse()?, "fe80::52:57ff:fe00:1".parse()?],
        gateway_mac: Mac([2, 0x52, 0x57, 0, 0, 1]),
    })
}

/// What should be in the tables, with routes to these pods.
fn is_whole(hosts: &[&str]) -> Result<()> {
    let rules = [show("rule")?, show("-6 rule")?].concat();
    for rule in ["iif red0 lookup 1077 proto 82", "iif red0 unreachable proto 82"] {
        ensure!(rules.matches(rule).count() == 2, "{rule} in:\n{rules}");
    }
    let routes = [show("route show table 1077")?, show("-6 route show table 1077")?].concat();
    for route in ["10.66.0.0/24", "fd00:66::/64"].iter().chain(hosts) {
        ensure!(routes.contains(&format!("{route} via ")), "no {route} in:\n{routes}");
    }
    ensure!(routes.lines().count() == 2 + hosts.len(), "more than that:\n{routes}");
    let neighbours = show("neigh show dev red0")?;
    ensure!(neighbours.matches("02:52:57:00:00:01 PERMANENT").count() == 2, "{neighbours}");
    Ok(())
}

pub fn kept() -> Result<()> {
    let mut tap = Tap::new_named(Interface::new("red0")?)?;
    let mut port = KernelPort::prepare(spec()?)?;
    tap.set_up()?;
    port.establish()?;
    is_whole(&[])?;
    let pods: BTreeSet<IpAddr> = ["10.66.0.2".parse()?, "fd00:66::2".parse()?].into();
    port.set_hosts(&pods)?;
    let hosts = ["10.66.0.2", "fd00:66::2"];
    is_whole(&hosts)?;
    // Said again, nothing changes; taken away, it comes back.
    for line in [
        "addr show",
        "rule delete iif red0 lookup 1077",
        "-6 rule delete iif red0 unreachable",
        "route flush table 1077",
        "-6 route flush table 1077",
        "neigh delete 10.66.0.1 dev red0",
    ] {
        ip(line)?;
        port.establish()?;
        is_whole(&hosts)?;
    }
    port.set_hosts(&["10.66.0.2".parse()?].into())?;
    is_whole(&["10.66.0.2"])?;

    // The mirror knows nothing of ways to the network itself; what the kernel encapsulates is told from what it may not know.
    let network =
        NetworkSpec { source: Source::Table(1077), tunnel: None, device: Some("red0".to_owned()) };
    let networks = BTreeMap::from([("red".to_owned(), network)]);
    let mut watch = Watch::start(Config { networks, ..Config::default() })?;
    for prefix in ["10.66.0.0/24", "10.66.0.2"] {
        watch.expect("red", prefix, None)?;
    }
    crate::bed::uplink("u0", "2001:db8::1/64")?;
    ip("route add 10.99.0.0/16 encap seg6 mode encap segs 2001:db8:e::1 dev u0 table 1077")?;
    watch.expect("red", "10.99.0.0/16", Some(Target::KernelTunnel))?;
    ip("route add 10.98.0.0/16 via 10.66.0.1 dev red0 onlink table 1077")?;
    watch.expect("red", "10.98.0.0/16", None)?;

    drop(port);
    let rules = [show("rule")?, show("-6 rule")?].concat();
    ensure!(!rules.contains("red0"), "rules outlive the port:\n{rules}");
    Ok(())
}

pub fn swept() -> Result<()> {
    let tap = Tap::new_named(Interface::new("red0")?)?;
    let port = KernelPort::prepare(spec()?)?;
    ip("rule add iif red0 lookup 99 priority 1600")?;
    ensure!(sweep()? == 0, "rules of a port that is there were taken away");
    // As by kill -9.
    std::mem::forget(port);
    drop(tap);
    ensure!(show("rule")?.contains("iif red0 [detached] lookup 1077"), "{}", show("rule")?);
    ensure!(sweep()? == 4, "{}", show("rule")?);
    let rules = [show("rule")?, show("-6 rule")?].concat();
    ensure!(!rules.contains("proto 82") && rules.contains("lookup 99"), "{rules}");
    // Without the TAP, or the VRF device, it says so.
    let error = KernelPort::prepare(spec()?).err().context("it was made")?.to_string();
    ensure!(error.contains("no interface \"red0\""), "{error}");
    let mut tap = Tap::new_named(Interface::new("red0")?)?;
    let spec = Spec { table: Table::Vrf("red".to_owned()), ..spec()? };
    let mut port = KernelPort::prepare(spec)?;
    tap.set_up()?;
    let error = port.establish().err().context("it was established")?.to_string();
    ensure!(error.contains("no VRF device \"red\""), "{error}");
    // Nowhere until then, and not in the node's own table.
    port.set_hosts(&["10.66.0.2".parse()?].into())?;
    ensure!(!show("route")?.contains("10.66"), "{}", show("route")?);
    ensure!(show("rule")?.contains("iif red0 unreachable"), "{}", show("rule")?);
    Ok(())
}

pub fn handed_over() -> Result<()> {
    let peer = Peer::start()?;
    let netns = PathBuf::from(format!("/proc/{}/ns/net", peer.pid()));
    let tap = Tap::new_named(Interface::new("rp1.1")?)?;
    hand_over("rp1.1", &netns, "eth7")?;
    // Others may be: kernels with tunnels have devices of theirs in every network namespace.
    let links = show("link")?;
    ensure!(!links.contains("rp1.1") && !links.contains("eth7"), "it is still here:\n{links}");
    peer.ip("addr add 10.66.0.2/24 dev eth7")?;
    peer.ip("link set eth7 up")?;
    ensure!(tap.name().is_ok(), "the descriptor is gone");
    // A name that is taken there is an error; the kernel has moved it by then, and it goes with its descriptor.
    let other = Tap::new_named(Interface::new("rp1.2")?)?;
    let error = hand_over("rp1.2", &netns, "eth7").err().context("it was handed over")?;
    let why = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    ensure!(
        error.to_string().contains("\"eth7\"") && why.contains("File exists"),
        "{error}: {why}"
    );
    drop(other);
    ensure!(peer.ip("link show dev rp1.2").is_err(), "it is left there");
    ensure!(hand_over("lo", "/proc/self/status".as_ref(), "x").is_err(), "no namespace");
    peer.ip("link delete dev eth7")?;
    ensure!(tap.name().is_err(), "it is told to be there and is not");
    Ok(())
}
