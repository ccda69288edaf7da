//! The same wires by AF_XDP sockets, for which a program is loaded into the kernel.

use anyhow::{Context, Result, ensure};
use integration::process::tail;
use vrouter_api::v1::{UplinkDriver, UplinkSpec};

use crate::rig::Rig;
use crate::{bad_days, host, taken, tunnel, two_wires};

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
    bad_days::unplugged(rig).context("another interface with its name")?;
    ensure!(has_program(rig, "n1")?, "the new n1 has no program");
    two_wires::spread_and_fail_over(rig).context("two wires, once more")
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
