//! Workers that come and go while pods send.

use std::process::Command;

use anyhow::{Result, ensure};
use integration::machine::program;

use crate::bed::Bed;
use crate::exchange::{Exchange, USUAL};

/// How often the workers change at least while packets flow.
const ROUNDS: u32 = 10;

/// As an operator does it.
fn set_workers(bed: &Bed, cpus: &[u16]) -> Result<()> {
    let cpus: Vec<String> = cpus.iter().map(ToString::to_string).collect();
    let output = Command::new(program("ringway")?)
        .arg("--socket")
        .arg(bed.vrouter().socket())
        .args(["workers", "set", &cpus.join(",")])
        .output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ringway workers set: {error}");
    Ok(())
}

/// Two workers, the one, two, the other: queues change hands each time, and no flow may notice.
pub fn come_and_go(bed: &mut Bed) -> Result<()> {
    let (pods, usual) = (bed.pod_cpu, bed.worker_cpu);
    let order = Exchange {
        name: "workers",
        rings: ["packed=0,queue-size=256", "packed=1,queue-size=256"],
        pairs: [4, 4],
        flows: 1024,
        seconds: 6,
        // A worker on the pods' own CPU gets only what they leave of it.
        rate: 40_000,
        size: 256,
        ..USUAL
    };
    let running = order.start(bed)?;
    let before = bed.vrouter().stats()?;
    for _ in 0..ROUNDS {
        for cpus in [&[usual, pods][..], &[usual], &[pods, usual], &[pods], &[usual]] {
            set_workers(bed, cpus)?;
            let is = bed.vrouter().info()?.workers.len();
            ensure!(is == cpus.len(), "{is} workers on CPUs {cpus:?}");
        }
    }
    let sent = |stats: &[vrouter_api::v1::PortStats]| -> u64 {
        stats.iter().map(|port| port.rx_packets).sum()
    };
    let moved = sent(&bed.vrouter().stats()?.ports) - sent(&before.ports);
    ensure!(moved > 0, "no packet was sent while workers changed");
    println!("    {} changes of workers within {moved} packets", 5 * ROUNDS);
    running.finish(bed)?;
    Ok(())
}
