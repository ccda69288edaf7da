//! An uplink that is a TAP of DPDK's, with a kernel at its other end: its device has interrupts, two queues, and does checksums.
//!
//! A vRouter of its own whose workers, once asleep, look at nothing for a minute: what they do not hear of is lost to the tests.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::launch::Cgroups;
use integration::machine::{self, Hugepages, program};
use integration::process::tail;
use integration::rundir::RunDir;
use integration::vrouter::VRouter;
use integration::wait;
use vrouter_api::v1::UplinkStats;

use crate::blue::{self, Blue, Under};
use crate::offloads;
use crate::space::Space;

/// Of 2 MiB: 32 for the vRouter, 16 for the pod, and some to spare.
const HUGEPAGES: Hugepages = Hugepages::Free(64);
/// Shorter than a worker sleeps.
const PATIENCE: Duration = Duration::from_secs(20);
const ROUNDS: u64 = 20;
const FLOWS: u16 = 64;
const PODS_PORT: u16 = 7;

const CONFIG: &str = r#"
[workers]
cpus = [0, 1]
max_sleep_ms = 60000
uplink_poll_us = 60000000
[[networks]]
name = "wire"
external = true
mtu = 1500
[[uplinks]]
name = "up0"
device = "t0"
driver = "tap"
network = "wire"
queues = 2
"#;

/// Dropped in this order.
struct Rig {
    blue: Blue,
    vrouter: VRouter,
    _cgroups: Cgroups,
    space: Space,
    run: RunDir,
}

impl Rig {
    fn start() -> Result<Self> {
        let run = RunDir::create()?;
        Space::sweep()?;
        machine::prepare(&run.path(), HUGEPAGES)?;
        let cgroups = Cgroups::create(&run)?;
        let space = Space::create(&run, "tap")?;
        // Of its own accord the kernel would send on the TAP.
        space.set("ipv6/conf/default/disable_ipv6", "1")?;
        let socket = VRouter::socket_of(&run);
        let config = run.path().join("vrouter.toml");
        let text = format!(
            "control_socket = \"{}\"\nrun_dir = \"{}\"\n{CONFIG}",
            socket.display(),
            run.path().display()
        );
        fs::write(&config, text)?;
        let command = space.command(program("ringway-vrouter")?);
        let vrouter =
            VRouter::start_as(command, &config, &socket, &run.path().join("vrouter.log"))?;
        space.set("ipv6/conf/default/disable_ipv6", "0")?;
        // Both ends of a TAP have one Ethernet address.
        let mac = vrouter.uplink("up0")?.mac;
        space.ip("addr add 198.18.2.2/24 dev t0")?;
        space.ip(&format!("neigh add 198.18.2.1 lladdr {mac} dev t0 nud permanent"))?;
        let under = Under {
            network: "wire",
            uplink: "up0",
            local: "198.18.2.1",
            remote: "198.18.2.2",
            interface: "t0",
            mac: &mac,
        };
        let blue = Blue::start(&vrouter, &space, &under, &cgroups, &run.path())?;
        Ok(Self { blue, vrouter, _cgroups: cgroups, space, run })
    }

    fn uplink_stats(&self) -> Result<UplinkStats> {
        let found = self.vrouter.stats()?.uplinks.into_iter().find(|it| it.name == "up0");
        found.context("no counters of the uplink")
    }

    /// How often workers went to sleep so far.
    fn sleeps(&self) -> Result<u64> {
        Ok(self.vrouter.stats()?.workers.iter().map(|worker| worker.sleeps).sum())
    }

    /// Waits until the pod has got so many datagrams with this mark.
    fn wait_got(&mut self, mark: u8, count: u64) -> Result<()> {
        let mut got = 0;
        let app = &mut self.blue.app;
        let waited = wait::until("the datagrams arrive", PATIENCE, || {
            let marked = |frame: &[u8]| frame.ends_with(&[mark; 32]);
            let frames = app.received()?;
            got += frames.iter().filter(|(frame, _)| marked(frame)).map(|it| it.1).sum::<u64>();
            Ok((got >= count).then_some(()))
        });
        waited.with_context(|| format!("{got} of {count} came"))?;
        ensure!(got == count, "{got} of {count} came");
        Ok(())
    }
}

/// Why this machine can't run it, or nothing when it can.
pub fn unfit() -> Option<String> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    (cpus < 2).then(|| "two workers need two CPUs".to_owned())
}

/// All of it.
pub fn carries() -> Result<()> {
    let mut rig = Rig::start()?;
    let done = woken(&mut rig)
        .context("a sleeping worker")
        .and_then(|()| spread(&mut rig).context("two queues"))
        .and_then(|()| left_to_the_device(&mut rig).context("offloads"));
    done.with_context(|| tail(&rig.run.path().join("vrouter.log"), 25))
}

fn sender(rig: &Rig, port: u16, six: bool) -> Result<(UdpSocket, SocketAddr)> {
    let (own, pod) = if six { (blue::FAR.1, blue::POD.1) } else { (blue::FAR.0, blue::POD.0) };
    let own = SocketAddr::new(own.parse()?, port);
    let socket = rig.space.inside(move || UdpSocket::bind(own).context("bind"))?;
    Ok((socket, SocketAddr::new(pod.parse()?, PODS_PORT)))
}

/// Datagram by datagram, each to workers that sleep: nothing but the device tells them.
fn woken(rig: &mut Rig) -> Result<()> {
    let (socket, pod) = sender(rig, 6000, false)?;
    for round in 0..ROUNDS {
        let asleep = rig.sleeps()?;
        socket.send_to(&[u8::try_from(round)?; 32], pod)?;
        rig.wait_got(u8::try_from(round)?, 1).with_context(|| format!("datagram {round}"))?;
        wait::until("its worker sleeps again", PATIENCE, || {
            Ok((rig.sleeps()? > asleep).then_some(()))
        })?;
    }
    Ok(())
}

/// Flows of both families go to both queues, each of which another worker has.
fn spread(rig: &mut Rig) -> Result<()> {
    for six in [false, true] {
        let before = by_queue(rig)?;
        let mark = if six { 0xa6 } else { 0xa4 };
        for flow in 0..FLOWS {
            let (socket, pod) = sender(rig, 20_000 + flow, six)?;
            socket.send_to(&[mark; 32], pod)?;
        }
        rig.wait_got(mark, FLOWS.into())?;
        let after = by_queue(rig)?;
        let more: Vec<_> = after.iter().zip(before).map(|(now, then)| now.1 - then.1).collect();
        ensure!(more.iter().all(|more| *more > 0), "by queue: {more:?}");
        ensure!(more.iter().sum::<u64>() >= FLOWS.into(), "by queue: {more:?}");
        let workers: Vec<_> = after.iter().map(|queue| queue.0).collect();
        ensure!(workers.len() == 2 && workers[0] != workers[1], "workers {workers:?}");
    }
    Ok(())
}

/// Worker and packets of each of the uplink's queues.
fn by_queue(rig: &Rig) -> Result<[(u32, u64); 2]> {
    let queues = rig.uplink_stats()?.port.context("no counters")?.queues;
    let of = |pair: u32| {
        let found = queues.iter().find(|queue| queue.pair == pair);
        found.map_or((pair, 0), |queue| (queue.worker, queue.rx_packets))
    };
    Ok([of(0), of(1)])
}

/// The same packets as over a device that can do nothing, and the checksums are the device's work.
fn left_to_the_device(rig: &mut Rig) -> Result<()> {
    let left = |rig: &Rig| anyhow::Ok(offloads::left_to_device(&rig.uplink_stats()?.device));
    let before = left(rig)?;
    let could = offloads::arrive(&mut rig.blue, &rig.space)?;
    let done = left(rig)? - before;
    ensure!(done == could, "{done} packets were left to the device, {could} could be");
    Ok(())
}
