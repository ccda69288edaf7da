//! OVS-DPDK from its loose pieces: a database, a switch daemon, one bridge, two `dpdkvhostuser` ports.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use integration::process::{Daemon, run, tail};

use crate::cells::Traffic;
use crate::switch::{Place, Switch, Window, mtu, neighbours, per_packet};
use integration::launch::Side;
use integration::pktgen::Endpoint;

/// From the package `openvswitch-switch-dpdk`.
pub const PROGRAM: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// Hugepages for its buffers, MiB.
const MEMORY_MB: u32 = 512;
/// Time for EAL, and for a command to be carried out.
const PATIENCE: Duration = Duration::from_secs(20);

/// How it forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// It learns MAC addresses.
    Normal,
    /// What comes from one port goes to the other.
    Port,
}

/// A running OVS-DPDK. Fields are dropped in this order: the switch before its database.
pub struct Ovs {
    switch: Daemon,
    _database: Daemon,
    tools: Tools,
}

/// Its command line tools, on this instance.
struct Tools {
    directory: PathBuf,
    control: PathBuf,
}

impl Ovs {
    /// Starts both daemons and sets the bridge up.
    pub fn start(rules: Rules, traffic: &Traffic, place: Place) -> Result<Self> {
        let directory = place.directory.clone();
        let tools = Tools { control: directory.join("vswitchd.ctl"), directory };
        let file = |name: &str| tools.directory.join(name).display().to_string();
        run("ovsdb-tool", &[OsStr::new("create"), file("conf.db").as_ref(), SCHEMA.as_ref()])?;
        let daemon = |program: &str, name: &str, first: String, second: String| -> Result<Daemon> {
            let mut command = place.cgroups.command(Side::Switch, place.control_cpu, program);
            command.args([first, second, format!("--unixctl={}", file(&format!("{name}.ctl")))]);
            // Everything it would put into system directories; ports listen in OVS_RUNDIR.
            command.arg(format!("--pidfile={}", file(&format!("{name}.pid"))));
            command.env("OVS_RUNDIR", &tools.directory).env("OVS_LOGDIR", &tools.directory);
            command.env("OVS_DBDIR", &tools.directory).env("OVS_SYSCONFDIR", &tools.directory);
            Daemon::start(name, command, &place.log(name))
        };
        let socket = file("db.sock");
        let mut database =
            daemon("ovsdb-server", "ovsdb", file("conf.db"), format!("--remote=punix:{socket}"))?;
        let listening = || Ok(Path::new(&socket).exists().then_some(()));
        database.wait_for("its socket is there", PATIENCE, listening)?;
        // A pool for each port, of some 25,000 buffers. The one that ports share by default is made when the first pod attaches, of 262,144
        // buffers or as often half of that as it takes: while it tries, no memory is left for another pod's rings, which loses its connection.
        tools.vsctl(&format!(
            "--no-wait init -- set Open_vSwitch . other_config:dpdk-init=true \
             other_config:dpdk-lcore-mask={:#x} other_config:pmd-cpu-mask={:#x} \
             other_config:dpdk-socket-mem={MEMORY_MB} other_config:dpdk-socket-limit={MEMORY_MB} \
             other_config:per-port-memory=true \
             other_config:dpdk-extra=\"--no-pci --in-memory\"",
            mask(place.control_cpu)?,
            mask(place.worker_cpu)?,
        ))?;
        let mut switch =
            daemon(PROGRAM, "vswitchd", format!("unix:{socket}"), "--no-chdir".to_owned())?;
        let control = tools.control.clone();
        switch.wait_for("it answers", PATIENCE, || Ok(control.exists().then_some(())))?;
        let it = Self { switch, _database: database, tools };
        it.bridge(rules, traffic).with_context(|| {
            format!("end of {}:\n{}", it.switch.log().display(), tail(it.switch.log(), 20))
        })?;
        Ok(it)
    }

    fn bridge(&self, rules: Rules, traffic: &Traffic) -> Result<()> {
        // vsctl returns when the switch has done it.
        self.tools.vsctl(&format!(
            "add-br br0 -- set bridge br0 datapath_type=netdev other_config:disable-in-band=true \
             -- add-port br0 p0 -- set interface p0 type=dpdkvhostuser ofport_request=1 \
             mtu_request={mtu} -- add-port br0 p1 \
             -- set interface p1 type=dpdkvhostuser ofport_request=2 mtu_request={mtu}",
            mtu = mtu(traffic)
        ))?;
        for name in ["p0", "p1"] {
            let error = self.tools.vsctl(&format!("get interface {name} error"))?;
            if !self.tools.directory.join(name).exists() {
                bail!("OVS has no port {name}: {}", error.trim());
            }
        }
        let flows: &[&str] = match rules {
            Rules::Normal => &["actions=NORMAL"],
            Rules::Port => &["in_port=1,actions=output:2", "in_port=2,actions=output:1"],
        };
        let bridge = format!("unix:{}", self.tools.directory.join("br0.mgmt").display());
        run("ovs-ofctl", &["del-flows".as_ref(), OsStr::new(&bridge)])?;
        for flow in flows {
            run("ovs-ofctl", &["add-flow".as_ref(), OsStr::new(&bridge), flow.as_ref()])?;
        }
        Ok(())
    }
}

impl Tools {
    /// Runs ovs-vsctl with `words`, of which one in quotes stays whole.
    fn vsctl(&self, words: &str) -> Result<String> {
        let script = format!("exec ovs-vsctl --db=\"$1\" --timeout=20 {words}");
        let socket = format!("unix:{}", self.directory.join("db.sock").display());
        let output = Command::new("/bin/sh").args(["-c", &script, "sh", &socket]).output()?;
        if !output.status.success() {
            bail!("ovs-vsctl {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn appctl(&self, command: &str) -> Result<String> {
        let target = self.control.as_os_str();
        run("ovs-appctl", &["--timeout=10".as_ref(), "-t".as_ref(), target, command.as_ref()])
    }
}

impl Switch for Ovs {
    fn endpoints(&self) -> [Endpoint; 2] {
        neighbours(["p0", "p1"].map(|name| self.tools.directory.join(name)))
    }

    fn begin(&mut self) -> Result<()> {
        self.tools.appctl("dpif-netdev/pmd-stats-clear").map(|_| ())
    }

    fn end(&mut self) -> Result<Window> {
        let output = self.tools.appctl("dpif-netdev/pmd-stats-show")?;
        pmd_stats(&output).with_context(|| format!("unexpected pmd-stats-show: {output}"))
    }

    fn pid(&self) -> u32 {
        self.switch.pid()
    }
}

fn mask(cpu: u16) -> Result<u64> {
    1u64.checked_shl(cpu.into()).with_context(|| format!("CPU {cpu}: OVS takes a mask of 64"))
}

/// Reads the first polling thread of `dpif-netdev/pmd-stats-show`.
fn pmd_stats(output: &str) -> Option<Window> {
    let (_, thread) = output.split_once("pmd thread ")?;
    let thread = thread.split("main thread:").next()?;
    let field = |name: &str| {
        thread.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "))
    };
    let packets: u64 = field("packets received")?.parse().ok()?;
    let count = |name| -> Option<f64> { field(name)?.split(' ').next()?.parse().ok() };
    let (idle, processing) = (count("idle cycles")?, count("processing cycles")?);
    Some(Window {
        packets,
        cycles_per_packet: per_packet(processing, packets),
        busy: Some(processing / (idle + processing)),
        burst: None,
        drops: BTreeMap::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_real_output() {
        let window = pmd_stats(include_str!("../../testdata/ovs_pmd_stats.txt")).unwrap();
        assert_eq!(window.packets, 2_603_680);
        assert!((window.cycles_per_packet.unwrap() - 774.27).abs() < 0.01, "{window:?}");
        assert!((window.busy.unwrap() - 0.9991).abs() < 0.0001, "{window:?}");
        assert_eq!(pmd_stats("main thread:\n  packets received: 7\n"), None);
        let nothing = "pmd thread numa_id 0 core_id 1:\n  packets received: 0\n  idle cycles: 5 (1%)\n  processing cycles: 0 (0%)\n";
        assert_eq!(pmd_stats(nothing).unwrap().cycles_per_packet, None);
    }

    #[test]
    fn cpus_become_masks() {
        assert_eq!(mask(0).unwrap(), 1);
        assert_eq!(mask(63).unwrap(), 1 << 63);
        assert!(mask(64).is_err());
    }
}
