//! A full table.

use crate::bed::{self, Watch, batch, ip, link, main_config, uplink};
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

const ROUTES4: u32 = 1_000_000;
const ROUTES6: u32 = 200_000;

pub fn table() -> Result<()> {
    uplink("u0", "10.0.0.1/24")?;
    ip("addr add 2001:db8::1/64 dev u0 nodad")?;
    for router in 2..10 {
        ip(&format!(
            "neigh add 10.0.0.{router} lladdr 02:00:00:00:00:0{router} dev u0 nud permanent"
        ))?;
    }
    ip("neigh add 2001:db8::2 lladdr 02:00:00:00:00:02 dev u0 nud permanent")?;
    let lines = lines()?;

    let mut watch = Watch::start(main_config())?;
    let began = Instant::now();
    let writer = std::thread::spawn(move || batch(&lines).map(|()| Instant::now()));
    let total = usize::try_from(ROUTES4 + ROUTES6)?;
    let small = watch.tables["main"].len();
    let mut last = Instant::now();
    while watch.tables["main"].len() < small + total {
        last = watch.next(Duration::from_secs(120))?.0;
    }
    let written = writer.join().ok().context("the writer has panicked")??;
    println!(
        "written by ip -batch in {} ms, followed in {} updates, the last of them {} ms after; {}",
        (written - began).as_millis(),
        watch.received,
        last.saturating_duration_since(written).as_millis(),
        overruns(&watch),
    );
    for round in 0..5 {
        let to = format!("203.0.113.{round}");
        let asked = Instant::now();
        ip(&format!("route add {to} via 10.0.0.2"))?;
        let added = asked.elapsed();
        let said = watch.wait("main", &to, Some(&link("u0", 2)?))?;
        println!("`ip route add` came back after {added:?}, the update after {:?}", said - asked);
    }

    let (took, used) = bed::first_update(main_config(), resident)?;
    println!("a new mirror dumps all in {} ms and has {} MiB", took.as_millis(), used >> 10);
    let new = Watch::start(main_config())?;
    ensure!(new.tables == watch.tables, "a new mirror has other routes");

    let began = Instant::now();
    ip("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:22 dev u0 nud permanent")?;
    let said = watch.wait("main", "20.0.0.0/24", Some(&link("u0", 0x22)?))?;
    println!("a router with an eighth of the routes changes its address: {:?}", said - began);
    let began = Instant::now();
    ip("link set u0 down")?;
    watch.wait("main", "20.0.0.0/24", None)?;
    println!(
        "the link goes down: all routes gone after {:?}, the kernel's own work included",
        began.elapsed()
    );
    Ok(())
}

fn overruns(watch: &Watch) -> String {
    let overruns = watch.counters.overruns.load(std::sync::atomic::Ordering::Relaxed);
    format!("{overruns} overruns")
}

fn lines() -> Result<String> {
    let mut lines = String::new();
    for number in 0..ROUTES4 {
        let [_, high, middle, low] = number.to_be_bytes();
        writeln!(
            lines,
            "route add {}.{middle}.{low}.0/24 via 10.0.0.{}",
            high + 20,
            number % 8 + 2
        )?;
    }
    for number in 0..ROUTES6 {
        writeln!(
            lines,
            "route add 2a00:{:x}:{:x}::/48 via 2001:db8::2",
            number >> 16,
            number & 0xffff
        )?;
    }
    Ok(lines)
}

/// Resident memory of this process, in KiB.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().next().context("no number")?.parse()?)
}
