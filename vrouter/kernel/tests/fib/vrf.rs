//! What not every kernel has: VRF devices, and devices of tunnels that are the kernel's own.

use crate::bed::{Watch, ip, link, main_config, uplink};
use anyhow::Result;
use std::process::Command;
use vrouter_kernel::fib::reader::Config;
use vrouter_kernel::fib::{NetworkSpec, Source, Target};

/// Why this kernel can't have a device of these arguments to `ip link add`, if it can't.
pub fn lacks(device: &str) -> Option<String> {
    let words = ["-n", "ip", "link", "add", "probe", "type"].into_iter();
    let output = Command::new("unshare").args(words.chain(device.split(' '))).output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
            Some(format!("this kernel has no device of type {device}: {why}"))
        }
        Err(error) => Some(format!("unshare: {error}")),
    }
}

fn config(source: Source) -> Config {
    let mut config = main_config();
    let red = NetworkSpec { source, tunnel: None, device: None };
    config.networks.insert("red".to_owned(), red);
    config
}

/// An uplink in a VRF.
fn enslave() -> Result<()> {
    ip("link set u1 master red")?;
    // It was down for a moment, which costs neighbours, permanent ones as well.
    ip("neigh replace 10.0.1.2 lladdr 02:00:00:00:00:02 dev u1 nud permanent")
}

pub fn devices() -> Result<()> {
    uplink("u0", "10.0.0.1/24")?;
    uplink("u1", "10.0.1.1/24")?;
    ip("neigh add 10.0.0.2 lladdr 02:00:00:00:00:01 dev u0 nud permanent")?;
    let mut watch = Watch::start(config(Source::Vrf("red".to_owned())))?;
    ip("route add 192.0.2.0/24 via 10.0.0.2 table 100")?;
    watch.expect("red", "192.0.2.0/24", None)?;
    // The device comes, and the table is the network's with what is in it already.
    ip("link add red type vrf table 100")?;
    ip("link set red up")?;
    watch.expect("red", "192.0.2.0/24", Some(link("u0", 1)?))?;
    watch.expect("main", "192.0.2.0/24", None)?;
    enslave()?;
    ip("route add 198.51.100.0/24 via 10.0.1.2 vrf red")?;
    watch.expect("red", "198.51.100.0/24", Some(link("u1", 2)?))?;
    ip("addr add 2001:db8:1::1/64 dev u1 nodad")?;
    ip("neigh replace 2001:db8:1::2 lladdr 02:00:00:00:00:02 dev u1 nud permanent")?;
    ip("route add 2001:db8:a::/48 via 2001:db8:1::2 dev u1 vrf red")?;
    watch.expect("red", "2001:db8:a::/48", Some(link("u1", 2)?))?;
    // Out and in again: the kernel takes routes along without a word.
    ip("link set u1 nomaster")?;
    watch.expect("red", "198.51.100.0/24", None)?;
    enslave()?;
    ip("route add 198.51.100.0/24 via 10.0.1.2 vrf red")?;
    watch.expect("red", "198.51.100.0/24", Some(link("u1", 2)?))?;
    // The device goes, and another of its name has another table.
    ip("link del red")?;
    watch.expect("red", "192.0.2.0/24", None)?;
    ip("route add 203.0.113.0/24 via 10.0.0.2 table 101")?;
    ip("link add red type vrf table 101")?;
    ip("link set red up")?;
    watch.expect("red", "203.0.113.0/24", Some(link("u0", 1)?))?;
    watch.expect("red", "192.0.2.0/24", None)
}

/// Routes into a device of a tunnel are the kernel's, and end with the device.
pub fn tunnel(device: &str) -> Result<()> {
    uplink("u0", "10.0.0.1/24")?;
    ip("addr add 2001:db8::1/64 dev u0 nodad")?;
    ip(&format!("link add tun type {device}"))?;
    ip("link set tun up")?;
    let mut watch = Watch::start(config(Source::Table(100)))?;
    for prefix in ["10.20.0.0/16", "2001:db8:20::/48"] {
        // IPIP carries IPv4 only.
        if prefix.contains(':') && device.starts_with("ipip") {
            continue;
        }
        ip(&format!("route add {prefix} dev tun table 100"))?;
        watch.expect("red", prefix, Some(Target::Kernel))?;
    }
    ip("link set tun down")?;
    watch.expect("red", "10.20.0.0/16", None)?;
    ip("link set tun up")?;
    ip("route add 10.20.0.0/16 dev tun table 100")?;
    watch.expect("red", "10.20.0.0/16", Some(Target::Kernel))?;
    ip("link del tun")?;
    watch.expect("red", "10.20.0.0/16", None)
}
