//! More changes than the kernel has room to say.

use crate::bed::{Watch, batch, ip, limits, main_config, uplink};
use anyhow::{Result, ensure};
use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use vrouter_kernel::fib::Target;
use vrouter_kernel::fib::reader::Limits;

pub fn floods() -> Result<()> {
    uplink("u0", "10.0.0.1/24")?;
    ip("neigh add 10.0.0.2 lladdr 02:00:00:00:00:01 dev u0 nud permanent")?;
    // Room for a handful of messages, for ever.
    let small = Limits { receive_buffer: 8 << 10, receive_buffer_max: 8 << 10, ..limits() };
    let mut watch = Watch::with(main_config(), small)?;
    let mut lines = String::new();
    for number in 0..20_000_u32 {
        let [_, _, high, low] = number.to_be_bytes();
        writeln!(lines, "route add 100.{high}.{low}.0/24 via 10.0.0.2")?;
        if number % 3 == 0 {
            writeln!(lines, "route replace blackhole 100.{high}.{low}.0/24")?;
        }
        if number % 5 == 0 {
            writeln!(lines, "route del 100.{high}.{low}.0/24")?;
        }
    }
    let (first, rest) = lines.split_at(lines.find("route add 100.1.").unwrap_or(0));
    {
        let stall = watch.stall.clone();
        let _stalled = stall.lock();
        batch(first)?;
    }
    batch(rest)?;
    // Of the last, nobody may have heard.
    ip("route add 203.0.113.0/24 via 10.0.0.2")?;
    watch.wait("main", "203.0.113.0/24", Some(&crate::bed::link("u0", 1)?))?;
    watch.same_as_new()?;
    let overruns = watch.counters.overruns.load(Ordering::Relaxed);
    println!("{overruns} overruns, {} updates", watch.received);
    ensure!(overruns > 0, "nothing was lost: the flood is too small to show anything");
    ensure!(
        watch.tables["main"].values().any(|target| *target == Target::Blackhole),
        "no blackhole"
    );
    Ok(())
}
