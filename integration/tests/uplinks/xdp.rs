//! The same wires by AF_XDP sockets, for which a program is loaded into the kernel.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use integration::process::{Daemon, tail};
use integration::wait;
use vrouter_api::v1::{UplinkDriver, UplinkSpec};

use crate::rig::Rig;
use crate::{bad_days, host, taken, tunnel, two_wires};

/// Something that has not happened by then does not happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why this can't run here.
pub fn unfit() -> Option<String> {
    // Its own name for what it has.
    let is_there =
        std::fs::read_to_string("/proc/net/protocols").is_ok_and(|text| text.contains("\nXDP "));
    (!is_there).then(|| "this kernel has no AF_XDP sockets".to_owned())
}

/// All of it.
pub fn carries() -> Result<()> {
    let rig = Rig::with_af_xdp()?;
    traffic(&rig)
        .and_then(|()| {
            taken::given_back(&rig, UplinkDriver::AfXdp)
                .with_context(|| tail(&rig.file("taken.log"), 10))
        })
        .and_then(|()| {
            taken::killed_with(&rig, UplinkDriver::AfXdp)
                .with_context(|| tail(&rig.file("killed.log"), 10))
        })
        .and_then(|()| nothing_is_left(&rig))
        .with_context(|| rig.story())
}

/// What the other drivers are asked, too.
fn traffic(rig: &Rig) -> Result<()> {
    for name in ["up0", "up1"] {
        let driver = rig.vrouter.uplink(name)?.driver;
        ensure!(driver == "net_af_xdp", "{name} has {driver}");
    }
    for interface in ["n0", "n1"] {
        ensure!(has_program(rig, interface)?, "{interface} has no program");
    }
    host::both_ways(rig).context("the host")?;
    tunnel::both_ways(rig).context("a tunnel")?;
    two_wires::spread_and_fail_over(rig).context("two wires")
}

fn has_program(rig: &Rig, interface: &str) -> Result<bool> {
    Ok(rig.node.ip(&format!("-d link show dev {interface}"))?.contains("prog/xdp"))
}

/// Program and socket go with the uplink and come with it, as often as one likes; also with an interface that is deleted.
fn nothing_is_left(rig: &Rig) -> Result<()> {
    for _ in 0..3 {
        rig.vrouter.delete_uplink("up1")?;
        ensure!(!has_program(rig, "n1")?, "n1 has a program still");
        rig.vrouter.create_uplink(spec("up1", "n1"))?;
        ensure!(has_program(rig, "n1")?, "n1 has no program");
    }
    let refused = rig.vrouter.create_uplink(spec("up2", "n1"));
    ensure!(refused.is_err(), "n1 can't be two uplinks: {refused:?}");
    rig.vrouter.delete_uplink("up1")?;
    taken_queue(rig).context("a queue that somebody else has")?;
    rig.vrouter.create_uplink(spec("up1", "n1"))?;
    bad_days::unplugged(rig).context("another interface with its name")?;
    ensure!(has_program(rig, "n1")?, "the new n1 has no program");
    two_wires::spread_and_fail_over(rig).context("two wires, once more")
}

/// What may be a queue that the kernel has not cleared up yet is waited for, and others are served meanwhile.
fn taken_queue(rig: &Rig) -> Result<()> {
    let mut command = rig.node.command("dpdk-testpmd");
    command.args(["--no-huge", "-m", "64", "--no-pci", "--no-shconf", "--lcores=0@0,1@0"]);
    command.args(["--vdev=net_af_xdp0,iface=n1,force_copy=1", "--", "--no-mlockall"]);
    // With statistics now and then it does not want any input.
    command.args(["--total-num-mbufs=8192", "--stats-period=60"]);
    let log = rig.file("testpmd.log");
    let mut holder = Daemon::start("testpmd", command, &log)?;
    wait::until("testpmd has the queue", PATIENCE, || Ok(has_program(rig, "n1")?.then_some(())))
        .with_context(|| tail(&log, 10))?;

    let refused = AtomicBool::new(false);
    let begun = Instant::now();
    let longest = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let answer = rig.vrouter.create_uplink(spec("up1", "n1"));
            refused.store(true, Ordering::Release);
            answer
        });
        let mut longest = Duration::ZERO;
        while !refused.load(Ordering::Acquire) {
            let asked = Instant::now();
            rig.vrouter.network("red")?;
            longest = longest.max(asked.elapsed());
        }
        let answer = asking.join().map_err(|_| anyhow!("the request panicked"))?;
        ensure!(answer.is_err(), "the queue was not taken: {answer:?}");
        Ok(longest)
    })?;
    let waited = begun.elapsed();
    ensure!(waited >= Duration::from_secs(1), "refused after {waited:?} already");
    ensure!(longest < waited / 2, "another waited for {longest:?} of {waited:?}");
    println!("a taken queue kept others waiting for {longest:?} of {waited:?}");
    holder.stop(PATIENCE)?;
    Ok(())
}

fn spec(name: &str, device: &str) -> UplinkSpec {
    UplinkSpec {
        name: name.to_owned(),
        device: device.to_owned(),
        driver: UplinkDriver::AfXdp.into(),
        network: "fabric".to_owned(),
        ..UplinkSpec::default()
    }
}
