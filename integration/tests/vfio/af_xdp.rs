//! An uplink by AF_XDP, which this kernel has.

use std::fs;

use anyhow::{Context, Result, ensure};
use integration::machine::program;
use integration::vrouter::VRouter;
use vrouter_api::v1::{Route, RouteKind, UplinkDriver, UplinkSpec};

use crate::rig::Rig;
use crate::traffic;

/// A vRouter of its own on one end of a veth pair; the other end is a Linux host.
pub fn on_veth(rig: &Rig) -> Result<()> {
    rig.node.ip(&format!("link add x0 type veth peer name e9 netns {}", rig.far.name()))?;
    rig.node.set("ipv6/conf/x0/disable_ipv6", "1")?;
    rig.node.ip("link set x0 up")?;
    rig.far.run("/usr/sbin/ethtool -K e9 tx off rx off tso off gso off gro off")?;
    rig.far.ip("link set e9 up")?;
    rig.far.ip("addr add 203.0.113.2/24 dev e9")?;
    // The vRouter that is there has none in its configuration, and so not the capability.
    let refused = rig.vrouter.create_uplink(UplinkSpec {
        name: "up9".to_owned(),
        device: "x0".to_owned(),
        driver: UplinkDriver::AfXdp.into(),
        network: "fabric".to_owned(),
        ..UplinkSpec::default()
    });
    let refused = format!("{:#}", refused.err().context("it was made")?);
    ensure!(refused.contains("CAP_BPF") && refused.contains("vrouter.toml"), "{refused}");

    let directory = rig.file("xdp");
    fs::create_dir_all(&directory)?;
    let (config, socket) = (directory.join("vrouter.toml"), directory.join("v.sock"));
    fs::write(
        &config,
        format!(
            "control_socket = \"{}\"\nrun_dir = \"{}\"\n[workers]\ncpus = [3]\n\
             [[networks]]\nname = \"fabric\"\nexternal = true\n\
             [[uplinks]]\nname = \"up9\"\ndevice = \"x0\"\ndriver = \"af_xdp\"\nnetwork = \"fabric\"\n\
             host_interface = \"host9\"\n",
            socket.display(),
            directory.display()
        ),
    )?;
    let command = rig.node.command(program("ringway-vrouter")?);
    let log = rig.file("vrouter-xdp.log");
    let vrouter = VRouter::start_as(command, &config, &socket, &log)?;
    let uplink = vrouter.uplink("up9")?;
    ensure!(uplink.driver == "net_af_xdp" && uplink.link, "{uplink:?}");
    rig.node.ip("addr add 203.0.113.1/24 dev host9")?;
    rig.node.ip("link set host9 up")?;
    let local = Route {
        prefix: "203.0.113.1/32".to_owned(),
        kind: RouteKind::Local.into(),
        ..Route::default()
    };
    vrouter.set_routes("fabric", vec![local])?;
    traffic::ping(&rig.far, "203.0.113.1", 56).context("the node, by AF_XDP")?;
    traffic::ping(&rig.far, "203.0.113.1", 1400).context("large ones")?;
    drop(vrouter);
    rig.node.ip("link delete x0")?;
    Ok(())
}
