//! The forwarding database of a layer 2 VNI: ends and stations that are read from it, and pods that it is told of.

use crate::bed::{Bridged, Watch, bridge, ip, mac};
use anyhow::{Result, ensure};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use vrouter_kernel::announce::macs::MacAnnouncer;
use vrouter_kernel::fib::reader::Config;
use vrouter_kernel::fib::{BridgeSpec, BridgeState, Mac};

const EVERYBODY: &str = "00:00:00:00:00:00";

fn end(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

fn config() -> Config {
    let spec = BridgeSpec { port: "pods77".to_owned(), vni: 77, local: end(1) };
    Config { bridges: [("lan".to_owned(), spec)].into(), ..Config::default() }
}

/// As `docs/frr.md` has them, but that not every kernel has dummies.
fn devices() -> Result<()> {
    ip("link add br77 type bridge")?;
    ip("link add vxlan77 type vxlan id 77 local 192.0.2.1 dstport 4789 nolearning")?;
    ip("link add pods77 type veth peer name unused")?;
    ip("link set vxlan77 master br77")?;
    ip("link set pods77 master br77")?;
    ip("link set vxlan77 up")
}

fn device() -> Option<BridgeState> {
    Some(BridgeState::Device("vxlan77".to_owned()))
}

fn heard(flood: &[u8], stations: &[(u8, u8)], left_out: usize) -> Bridged {
    Bridged {
        state: device(),
        flood: flood.iter().copied().map(end).collect(),
        stations: stations.iter().map(|(station, last)| (mac(*station), end(*last))).collect(),
        left_out,
    }
}

pub fn ends_and_stations() -> Result<()> {
    let mut watch = Watch::start(config())?;
    watch.expect_bridge(
        "lan",
        &Bridged { state: Some(BridgeState::NoPort), ..Bridged::default() },
    )?;
    devices()?;
    watch.expect_bridge("lan", &heard(&[], &[], 0))?;
    // Ends, as zebra writes them for routes of type 3.
    for last in [2, 3] {
        bridge(&format!("fdb append {EVERYBODY} dev vxlan77 dst 192.0.2.{last} self permanent"))?;
    }
    watch.expect_bridge("lan", &heard(&[2, 3], &[], 0))?;
    bridge(&format!("fdb del {EVERYBODY} dev vxlan77 dst 192.0.2.2 self"))?;
    watch.expect_bridge("lan", &heard(&[3], &[], 0))?;
    // Stations, for those of type 2.
    bridge("fdb add 02:00:00:00:00:07 dev vxlan77 dst 192.0.2.3 self extern_learn")?;
    bridge("fdb add 02:00:00:00:00:08 dev vxlan77 dst 192.0.2.9 self extern_learn")?;
    watch.expect_bridge("lan", &heard(&[3], &[(7, 3), (8, 9)], 0))?;
    bridge("fdb replace 02:00:00:00:00:07 dev vxlan77 dst 192.0.2.9 self extern_learn")?;
    watch.expect_bridge("lan", &heard(&[3], &[(7, 9), (8, 9)], 0))?;
    bridge("fdb del 02:00:00:00:00:08 dev vxlan77 self")?;
    // Elsewhere: another VNI, this end, the bridge's own entries.
    bridge("fdb add 02:00:00:00:00:09 dev vxlan77 dst 192.0.2.9 vni 78 self")?;
    bridge("fdb add 02:00:00:00:00:0a dev vxlan77 dst 192.0.2.1 self")?;
    bridge("fdb add 02:00:00:00:00:0b dev pods77 master static")?;
    bridge("fdb add 02:00:00:00:00:0c dev vxlan77 master static")?;
    watch.expect_bridge("lan", &heard(&[3], &[(7, 9)], 2))?;
    // It is another bridge's for a while, and down for a while: that takes what is not permanent.
    ip("link set vxlan77 nomaster")?;
    let state = Some(BridgeState::NoVxlan("br77".to_owned()));
    watch.expect_bridge("lan", &Bridged { state, ..Bridged::default() })?;
    ip("link set vxlan77 master br77")?;
    watch.expect_bridge("lan", &heard(&[3], &[(7, 9)], 2))?;
    ip("link set vxlan77 down")?;
    let state = Some(BridgeState::Down("vxlan77".to_owned()));
    watch.expect_bridge("lan", &Bridged { state, ..Bridged::default() })?;
    ip("link set vxlan77 up")?;
    watch.wait_bridge("lan", |it| it.state == device())?;
    watch.same_as_new()?;
    ip("link delete vxlan77")?;
    let state = Some(BridgeState::NoVxlan("br77".to_owned()));
    watch.expect_bridge("lan", &Bridged { state, ..Bridged::default() })
}

/// More than are said at once.
pub fn many_stations() -> Result<()> {
    const MANY: u16 = 10_000;
    devices()?;
    let mut watch = Watch::start(config())?;
    let batch = |change: &str| -> Result<()> {
        let mut lines = String::new();
        for number in 0..MANY {
            let [high, low] = number.to_be_bytes();
            writeln!(
                lines,
                "fdb {change} 02:00:00:01:{high:02x}:{low:02x} dev vxlan77 dst 192.0.2.2 self"
            )?;
        }
        let mut child =
            Command::new("bridge").args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(lines.as_bytes())?;
        }
        ensure!(child.wait()?.success(), "a batch has failed");
        Ok(())
    };
    batch("add")?;
    watch.wait_bridge("lan", |it| it.stations.len() == usize::from(MANY))?;
    watch.same_as_new()?;
    batch("del")?;
    watch.wait_bridge("lan", |it| it.stations.is_empty())?;
    watch.same_as_new()
}

fn static_entries(port: &str) -> Result<BTreeSet<String>> {
    let output = Command::new("bridge").args(["fdb", "show", "dev", port]).output()?;
    let text = String::from_utf8(output.stdout)?;
    let entries = text.lines().filter(|line| line.contains("master br77 static"));
    Ok(entries.filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect())
}

pub fn pods_are_announced() -> Result<()> {
    let set = |macs: &[u8]| -> BTreeSet<Mac> { macs.iter().map(|last| mac(*last)).collect() };
    let shown = |macs: &[u8]| -> BTreeSet<String> {
        macs.iter().map(|last| format!("02:00:00:00:00:{last:02x}")).collect()
    };
    let mut first = MacAnnouncer::open()?;
    // No device, and one without a bridge: nothing to do, and no error.
    first.set("pods77", &set(&[1, 2]), true)?;
    ip("link add pods77 type veth peer name unused")?;
    first.set("pods77", &set(&[1, 2]), true)?;
    ip("link delete pods77")?;
    devices()?;
    ip("link set pods77 up")?;
    first.set("pods77", &set(&[1, 2]), false)?;
    ensure!(static_entries("pods77")? == shown(&[1, 2]));
    first.set("pods77", &set(&[2, 3]), false)?;
    ensure!(static_entries("pods77")? == shown(&[2, 3]));
    // Taken away by somebody, and moved to another host by FRR.
    bridge("fdb del 02:00:00:00:00:02 dev pods77 master")?;
    bridge("fdb replace 02:00:00:00:00:03 dev vxlan77 master extern_learn")?;
    ensure!(static_entries("pods77")?.is_empty());
    first.set("pods77", &set(&[2, 3]), true)?;
    ensure!(static_entries("pods77")? == shown(&[2, 3]), "{:?}", static_entries("pods77")?);
    // A pod whose address has moved ends: the other host's entry stays.
    bridge("fdb replace 02:00:00:00:00:03 dev vxlan77 master extern_learn")?;
    first.set("pods77", &set(&[2]), false)?;
    ensure!(static_entries("vxlan77")?.contains("02:00:00:00:00:03"));
    // Somebody who starts after another was killed, without knowing more than what is there.
    let mut next = MacAnnouncer::open()?;
    next.set("pods77", &set(&[4]), false)?;
    ensure!(static_entries("pods77")? == shown(&[4]));
    // The device leaves the bridge and comes back, and is made anew.
    ip("link set pods77 nomaster")?;
    next.set("pods77", &set(&[4, 5]), true)?;
    ip("link set pods77 master br77")?;
    next.set("pods77", &set(&[4, 5]), true)?;
    ensure!(static_entries("pods77")? == shown(&[4, 5]));
    ip("link delete pods77")?;
    next.set("pods77", &set(&[4]), true)?;
    ip("link add pods77 type veth peer name unused")?;
    ip("link set pods77 master br77")?;
    next.set("pods77", &set(&[4]), false)?;
    ensure!(static_entries("pods77")? == shown(&[4]));
    next.set("pods77", &BTreeSet::new(), false)?;
    ensure!(static_entries("pods77")?.is_empty());
    ensure!(next.ports() == ["pods77"], "{:?}", next.ports());
    next.forget("pods77");
    ensure!(next.ports().is_empty(), "{:?}", next.ports());
    Ok(())
}
