//! Pods whose memory is in several regions, and pods whose memory changes while packets flow.

use anyhow::{Context, Result, ensure};

use crate::bed::Bed;
use crate::exchange::{Exchange, USUAL};

/// 2 MiB pages: as many as virtio-user can have regions.
const PAGES_MB: u32 = 16;

/// Without `--single-file-segments` each hugepage is a file and so a region of its own.
pub fn several_files(bed: &mut Bed) -> Result<()> {
    let order = Exchange {
        name: "files",
        rings: ["packed=0,queue-size=256", "packed=1,queue-size=256"],
        size: 1024,
        memory_mb: PAGES_MB,
        more: &["--file-per-page"],
        ..USUAL
    };
    let (ports, _) = order.play(bed)?;
    for port in ports {
        ensure!(port.memory_regions > 1, "only {} region", port.memory_regions);
        println!("    {} regions, {} bytes", port.memory_regions, port.memory_bytes);
    }
    Ok(())
}

/// How often memory has to change at least for the test to have tested something.
const CHANGES: u64 = 20;

/// While virtio-user changes its memory it switches its queues off: nobody is there to receive for that moment.
fn changes(bed: &mut Bed, name: &str, rings: [&str; 2]) -> Result<()> {
    let order = Exchange {
        name,
        rings,
        pairs: [2, 1],
        size: 512,
        seconds: 4,
        memory_mb: 64,
        more: &["--churn-mb", "32"],
        may_drop: &["receiver_ring_full", "receiver_down"],
        ..USUAL
    };
    let end = order.play(bed)?.1;
    let changes = end.more.get("memory_changes").and_then(serde_json::Value::as_u64);
    let changes = changes.context("the generator did not count its changes of memory")?;
    println!("    memory was allocated and freed {changes} times");
    ensure!(changes >= CHANGES, "memory changed only {changes} times");
    Ok(())
}

pub fn changes_split(bed: &mut Bed) -> Result<()> {
    changes(bed, "changes-split", ["packed=0", "packed=0,mrg-rxbuf=0,in-order=0"])
}

pub fn changes_packed(bed: &mut Bed) -> Result<()> {
    changes(bed, "changes-packed", ["packed=1", "packed=1,mrg-rxbuf=0,in-order=0"])
}
