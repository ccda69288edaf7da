//! An uplink on the interface that the node itself lives on: taken from the kernel, carried on by a TAP, and given back, whether
//! the vRouter is asked or killed.
//!
//! ```text
//!  node                                      far
//!  t0: 10.7.0.1 -- (vRouter, on rw-t0) ----- e2: 10.7.0.2, behind it 10.8.0.9
//! ```

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::machine::program;
use integration::vrouter::VRouter;
use integration::wait;
use vrouter_api::v1::{UplinkDriver, UplinkSpec};

use crate::rig::{self, Rig};
use integration::space::traffic;

const PATIENCE: Duration = Duration::from_secs(30);
/// What is promised.
const BACK: Duration = Duration::from_secs(2);

const CONFIG: &str = r#"
[dpdk]
hugepages = false
memory_mb = 64
buffers = 2047
af_xdp = true
[[networks]]
name = "fabric"
external = true
mtu = 1600
"#;

/// The wire, and a vRouter of its own.
fn start(rig: &Rig, name: &str) -> Result<VRouter> {
    rig::wire(&rig.node, &rig.far, "t0", "e2")?;
    for (key, value) in [("ipv6/conf/t0/disable_ipv6", "0"), ("ipv4/conf/t0/arp_ignore", "0")] {
        rig.node.set(key, value)?;
    }
    rig.node.ip("addr add 10.7.0.1/24 dev t0")?;
    rig.node.ip("route add 10.8.0.0/16 via 10.7.0.2 metric 50")?;
    rig.far.ip("addr add 10.7.0.2/24 dev e2")?;
    rig.far.ip("addr replace 10.8.0.9/32 dev lo")?;
    run(rig, name)
}

/// A vRouter of its own.
fn run(rig: &Rig, name: &str) -> Result<VRouter> {
    let (config, socket) = (rig.file("taken.toml"), rig.file("taken.sock"));
    let run_dir = rig.file("taken");
    let text = format!(
        "control_socket = \"{}\"\nrun_dir = \"{}\"\n{CONFIG}",
        socket.display(),
        run_dir.display()
    );
    fs::write(&config, text)?;
    let command = rig.node.command(program("ringway-vrouter")?);
    VRouter::start_as(command, &config, &socket, &rig.file(name))
}

fn spec(driver: UplinkDriver) -> UplinkSpec {
    UplinkSpec {
        driver: driver.into(),
        name: "up7".to_owned(),
        device: "t0".to_owned(),
        network: "fabric".to_owned(),
        host_interface: "t0".to_owned(),
        ..UplinkSpec::default()
    }
}

/// Addresses and routes of the interface, without what tells one device from another.
fn state(rig: &Rig) -> Result<String> {
    let addresses = rig.node.ip("-o addr show dev t0")?;
    let addresses = addresses
        .lines()
        .map(|line| line.split_once("t0").map_or(line, |(_, rest)| rest).trim().to_owned());
    let mut lines: Vec<_> = addresses.collect();
    lines.push(rig.node.ip("route show table all dev t0")?);
    lines.push(rig.node.ip("-6 route show table all dev t0")?);
    Ok(lines.join("\n"))
}

fn wait_for_state(rig: &Rig, wanted: &str) -> Result<()> {
    wait::until("the interface to be as it was", PATIENCE, || {
        Ok((state(rig).unwrap_or_default() == wanted).then_some(()))
    })
    .with_context(|| format!("wanted:\n{wanted}\nfound:\n{}", state(rig).unwrap_or_default()))
}

fn is_the_wire(rig: &Rig) -> bool {
    rig.node.ip("-d link show dev t0").is_ok_and(|text| text.contains("veth"))
}

fn settled(rig: &Rig) -> Result<String> {
    wait::until("addresses that are no more tentative", PATIENCE, || {
        let text = rig.node.ip("addr show dev t0")?;
        Ok((text.contains("fe80:") && !text.contains("tentative")).then_some(()))
    })?;
    state(rig)
}

/// Keepers that have ended leave no file.
fn no_record_is_left(rig: &Rig) -> Result<()> {
    let namespace = fs::metadata(format!("/run/netns/{}", rig.node.name()))?.ino();
    let mark = format!("{namespace}-");
    wait::until("the keepers' files are gone", PATIENCE, || {
        let files = fs::read_dir("/run/ringway/uplinks")?.flatten();
        let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
        Ok((!names.into_iter().any(|name| name.starts_with(&mark))).then_some(()))
    })
}

/// Attached and detached: the node talks all the time, and in the end nothing is different.
pub fn and_given_back(rig: &Rig) -> Result<()> {
    given_back(rig, UplinkDriver::AfPacket)
}

/// The same by this driver.
pub fn given_back(rig: &Rig, driver: UplinkDriver) -> Result<()> {
    let mut vrouter = start(rig, "taken.log")?;
    let before = settled(rig)?;
    for _ in 0..2 {
        let uplink = vrouter.create_uplink(spec(driver))?;
        ensure!(uplink.link && uplink.reason.is_empty(), "{uplink:?}");
        ensure!(!is_the_wire(rig), "t0 is still the wire");
        ensure!(uplink.mac == rig.node.mac("t0")?, "the TAP has another address");
        wait_for_state(rig, &before)?;
        traffic::ping(&rig.node, "10.8.0.9", 56).context("by a route that was carried on")?;
        traffic::ping(&rig.far, "10.7.0.1", 1572).context("to the host")?;
        traffic::tcp(&rig.far, &rig.node, "10.7.0.1:5001").context("to the host")?;
        vrouter.delete_uplink("up7")?;
        ensure!(is_the_wire(rig), "t0 is not the wire again");
        wait_for_state(rig, &before)?;
        traffic::ping(&rig.node, "10.8.0.9", 56).context("without the vRouter")?;
    }
    // One that is asked to end gives back, too.
    vrouter.create_uplink(spec(driver))?;
    vrouter.process().stop(PATIENCE)?;
    wait::until("t0 is the wire again", BACK, || Ok(is_the_wire(rig).then_some(())))?;
    wait_for_state(rig, &before)?;
    no_record_is_left(rig)?;
    rig.node.ip("link delete t0")?;
    Ok(())
}

/// Killed: the interface is back within what is promised, and a connection that was open goes on.
pub fn killed(rig: &Rig) -> Result<()> {
    killed_with(rig, UplinkDriver::AfPacket)
}

/// The same with this driver.
pub fn killed_with(rig: &Rig, driver: UplinkDriver) -> Result<()> {
    let mut vrouter = start(rig, "killed.log")?;
    let before = settled(rig)?;
    vrouter.create_uplink(spec(driver))?;
    wait_for_state(rig, &before)?;

    let address: SocketAddr = "10.8.0.9:7000".parse()?;
    let listener = rig.far.inside(move || TcpListener::bind(address).context("listen"))?;
    let server = rig.far.start(move || {
        let (mut stream, _) = listener.accept()?;
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() {
            stream.write_all(&byte)?;
        }
        Ok(())
    });
    let mut stream = rig.node.inside(move || {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    })?;
    let mut echo = |byte: u8| -> Result<()> {
        stream.write_all(&[byte])?;
        let mut answer = [0];
        stream.read_exact(&mut answer)?;
        ensure!(answer == [byte], "{answer:?} for {byte}");
        Ok(())
    };
    echo(1).context("through the vRouter")?;
    vrouter.process().crash()?;
    let killed = Instant::now();
    wait::until("t0 is the wire again", PATIENCE, || Ok(is_the_wire(rig).then_some(())))?;
    wait_for_state(rig, &before)?;
    let back = killed.elapsed();
    ensure!(back < BACK, "back after {back:?}");
    echo(2).context("after the vRouter")?;
    drop(stream);
    server.finish()?;
    // The next one takes it again, whatever the kernel has kept of the first.
    drop(vrouter);
    let mut again = run(rig, "again.log")?;
    again.create_uplink(spec(driver))?;
    traffic::ping(&rig.node, "10.8.0.9", 56).context("through the next vRouter")?;
    again.process().stop(PATIENCE)?;
    wait_for_state(rig, &before)?;
    no_record_is_left(rig)?;
    rig.node.ip("link delete t0")?;
    Ok(())
}
