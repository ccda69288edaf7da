//! `ringway-pktgen`: both pods of a pair in one process, and what it says at the end.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use integration::launch::{Cgroups, Side};
use integration::machine::program;
use integration::pktgen::{End, Endpoint, Pktgen};

use crate::cells::Traffic;

/// The fastest driver for split rings: vector code for receiving, and sent buffers taken back whenever 64 have gone, where the
/// driver by itself waits until the ring is full and then takes back one for each packet.
const FASTEST: [&str; 4] =
    ["--vectorized", "--mrg-rxbuf=0", "--in-order=0", "--tx-free-threshold=960"];

/// The same for packed rings.
const FASTEST_PACKED: [&str; 2] = ["--vectorized", "--mrg-rxbuf=0"];

/// Memory of the generator, MiB: rings and buffers of two ports, for the longest frames too.
pub const MEMORY_MB: u32 = 512;

/// What the generator is asked to do.
#[derive(Debug, Clone)]
pub struct Order {
    /// Packets.
    pub traffic: Traffic,
    /// Destination addresses the flows are spread over.
    pub addresses: u32,
    /// Pods use packed rings.
    pub packed: bool,
    /// Packets per second and pod; 0: as many as the rings take.
    pub rate: u64,
    /// Timestamps in some packets.
    pub latency: bool,
    /// Seconds before the measurement.
    pub warmup: u32,
    /// Seconds of the measurement.
    pub seconds: u32,
    /// CPU.
    pub cpu: u16,
}

/// Its command line.
fn arguments(order: &Order, endpoints: &[Endpoint]) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut option = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
    option("cpu", order.cpu.to_string());
    for end in endpoints {
        option("port", end.option());
    }
    option("size", order.traffic.size.to_string());
    option("flows", order.traffic.flows.to_string());
    option("addresses", order.addresses.to_string());
    option("rate", order.rate.to_string());
    option("warmup", order.warmup.to_string());
    option("seconds", order.seconds.to_string());
    option("memory-mb", MEMORY_MB.to_string());
    for (wanted, flags) in [
        (order.packed, &["--packed"][..]),
        (order.traffic.touch, &["--touch"]),
        (order.traffic.vectorized && !order.packed, &FASTEST),
        (order.traffic.vectorized && order.packed, &FASTEST_PACKED),
        (order.latency, &["--latency"]),
    ] {
        if wanted {
            arguments.extend(flags.iter().map(ToString::to_string));
        }
    }
    arguments
}

/// A running generator; dropping it stops it.
#[derive(Debug)]
pub struct Generator {
    process: Pktgen,
    order: Order,
}

impl Generator {
    /// Starts it.
    pub fn start(
        cgroups: &Cgroups,
        order: Order,
        endpoints: &[Endpoint],
        log: &Path,
    ) -> Result<Self> {
        let mut command = cgroups.command(Side::Pods, order.cpu, program("ringway-pktgen")?);
        command.args(arguments(&order, endpoints));
        Ok(Self { process: Pktgen::start(command, log)?, order })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Returns when both pods are attached and begin to send.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.process.wait_ready()
    }

    /// Returns when the measurement has begun.
    pub fn wait_start(&mut self) -> Result<()> {
        self.process.wait_start(Duration::from_secs(self.order.warmup.into()))
    }

    /// Waits for the result and for the end of the process.
    pub fn finish(self) -> Result<End> {
        let end = self.process.finish(Duration::from_secs(self.order.seconds.into()))?;
        if end.ports.len() != 2 {
            bail!("unexpected result of the generator: {} ports", end.ports.len());
        }
        Ok(end)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::path::PathBuf;

    use super::*;
    use integration::pktgen::FarEnd;

    #[test]
    fn the_command_line_says_what_was_ordered() {
        let order = Order {
            traffic: Traffic { size: 64, flows: 8, touch: true, vectorized: true },
            addresses: 4,
            packed: true,
            rate: 9,
            latency: true,
            warmup: 1,
            seconds: 3,
            cpu: 0,
        };
        let end = Endpoint {
            socket: PathBuf::from("/run/a.sock"),
            mac: "02:00:00:00:00:0a".to_owned(),
            ip: Ipv4Addr::new(10, 0, 0, 2),
            to_mac: "02:00:00:00:00:01".to_owned(),
            to_ip: Ipv4Addr::new(10, 0, 0, 3),
            tunnel: None,
        };
        let (from, to) = (Ipv4Addr::new(192, 0, 2, 3), Ipv4Addr::new(192, 0, 2, 1));
        let far = FarEnd { vni: 7, from, to, to_mac: "02:00:00:00:00:02".to_owned() };
        let far = Endpoint { tunnel: Some(far), ..end.clone() };
        let all = arguments(&order, &[end, far]).join(" ");
        for part in [
            "--cpu 0",
            "--port socket=/run/a.sock,mac=02:00:00:00:00:0a,ip=10.0.0.2,to-mac=02:00:00:00:00:01,to-ip=10.0.0.3",
            "to-ip=10.0.0.3,vni=7,vtep=192.0.2.3,to-vtep=192.0.2.1,vtep-mac=02:00:00:00:00:02",
            "--size 64 --flows 8 --addresses 4 --rate 9 --warmup 1 --seconds 3",
            "--packed --touch --vectorized --mrg-rxbuf=0 --latency",
        ] {
            assert!(all.contains(part), "{part:?} is not in {all}");
        }
        assert_eq!(all.matches("--port").count(), 2);
        let split = arguments(&Order { packed: false, ..order }, &[]).join(" ");
        let fastest = "--touch --vectorized --mrg-rxbuf=0 --in-order=0 --tx-free-threshold=960";
        assert!(split.contains(fastest), "{split}");
    }
}
