//! A full table: how long it takes the vRouter to have it, what memory that takes, and whether the packets that it forwards by that very
//! table meanwhile notice.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration::memory::Resident;
use integration::process::{Daemon, tail};
use integration::space::Space;
use integration::wait;

use super::{Load, Stand, sleep};
use crate::cells::{Cell, FullTable, Subject};
use crate::sample::{Reading, TableReading};
use crate::switch::Switch;
use crate::switch::ringway::{KERNEL_TABLE, Ringway};

/// Before the first route and after the last one.
const MARGIN: Duration = Duration::from_millis(500);
/// How often it is asked how many routes there are.
const LOOK: Duration = Duration::from_millis(100);

impl Stand {
    /// Traffic at a rate far below what can be, while `ip -batch` fills the kernel's table of the pods' network.
    pub(super) fn full_table(
        &self,
        cell: &Cell,
        subject: &Subject,
        table: FullTable,
        directory: &Path,
    ) -> Result<Reading> {
        let space = Space::create(&self.run, "table")?;
        let mut place = self.place(directory);
        place.namespace = Some(space.name().to_owned());
        let mut switch = Ringway::start(subject, &cell.traffic, place)?;
        let load = Load { rate_per_pod: table.rate_per_pod, latency: true };
        let (mut generator, ..) =
            self.pods(cell, subject, &mut switch, (load, table.seconds), directory)?;
        let before = (switch.routes()?, Resident::of(switch.pid())?);
        let routes = u64::from(table.ipv4) + u64::from(table.ipv6);
        let batch = directory.join("routes");
        fs::write(&batch, [lines4(table.ipv4)?, lines6(table.ipv6)?].concat())?;
        generator.wait_start()?;
        let measured = Instant::now();
        wait::pause(MARGIN)?;
        switch.begin()?;
        let begun = Instant::now();
        let mut command = Command::new("/usr/sbin/ip");
        command.args(["-n", space.name(), "-batch"]).arg(&batch);
        let mut writer = Daemon::start("ip -batch", command, &directory.join("ip.log"))?;
        let mut written = None;
        let whole = Duration::from_secs(table.seconds.into());
        let patience = whole.saturating_sub(measured.elapsed() + MARGIN);
        wait::until("the vRouter has all routes", patience, || {
            wait::pause(LOOK)?;
            if written.is_none()
                && let Some(status) = writer.exited()?
            {
                ensure!(status.success(), "ip -batch: {}", tail(writer.log(), 5));
                written = Some(begun.elapsed());
            }
            Ok((switch.routes()? >= before.0 + routes).then_some(()))
        })?;
        let loaded = begun.elapsed();
        let window = switch.end()?;
        let after = Resident::of(switch.pid())?;
        sleep(whole.saturating_sub(measured.elapsed()))?;
        let end = generator.finish()?;
        drop(switch);
        Ok(Reading::Table(Box::new(TableReading {
            routes,
            seconds: loaded.as_secs_f64(),
            // All may be there before it is seen that the writer has ended.
            seconds_behind: written.map_or(0.0, |written| (loaded - written).as_secs_f64()),
            mib: (after.own as f64 - before.1.own as f64) / 1024.0,
            rate_per_pod: table.rate_per_pod,
            generator: end,
            switch: window,
        })))
    }
}

/// From 20.0.0.0/24 on. They lead nowhere, as the namespace has no interface: for the vRouter they are prefixes like others.
fn lines4(count: u32) -> Result<String> {
    let mut lines = String::new();
    for number in 0..count {
        let [_, high, middle, low] = number.to_be_bytes();
        let high = high + 20;
        writeln!(lines, "route add unreachable {high}.{middle}.{low}.0/24 table {KERNEL_TABLE}")?;
    }
    Ok(lines)
}

/// From 2a00::/48 on.
fn lines6(count: u32) -> Result<String> {
    let mut lines = String::new();
    for number in 0..count {
        let (high, low) = (number >> 16, number & 0xffff);
        writeln!(lines, "route add unreachable 2a00:{high:x}:{low:x}::/48 table {KERNEL_TABLE}")?;
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_another() {
        let lines = [lines4(70_000).unwrap(), lines6(70_000).unwrap()].concat();
        let all: std::collections::BTreeSet<_> = lines.lines().collect();
        assert_eq!(all.len(), 140_000);
        assert!(all.contains("route add unreachable 21.0.1.0/24 table 77"));
        assert!(all.contains("route add unreachable 2a00:1:1::/48 table 77"));
    }
}
