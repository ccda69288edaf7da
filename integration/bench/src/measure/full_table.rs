//! A full table: how long it takes the vRouter to have it, what memory that takes, and whether the packets that it forwards by that very
//! table meanwhile notice.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::memory::Resident;
use integration::space::Space;
use integration::wait;

use super::{PORTS_PER_ADDRESS, Stand, WARMUP, sleep};
use crate::cells::{Cell, FullTable, Subject, Traffic};
use crate::generator::{Generator, Order};
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
        let addresses = switch.addresses(cell.traffic.flows.min(1024));
        let flows = cell.traffic.flows.min(addresses * PORTS_PER_ADDRESS);
        let order = Order {
            traffic: Traffic { flows, ..cell.traffic },
            addresses,
            packed: subject.packed,
            rate: table.rate_per_pod,
            latency: true,
            warmup: WARMUP,
            seconds: table.seconds,
            cpu: self.generator_cpu,
        };
        let log = directory.join("pktgen.log");
        let mut generator = Generator::start(&self.cgroups, order, &switch.endpoints(), &log)?;
        generator.wait_ready()?;
        switch.attached()?;
        let before = (switch.routes()?, Resident::of(switch.pid())?);
        let routes = u64::from(table.ipv4) + u64::from(table.ipv6);
        let lines = [lines4(table.ipv4)?, lines6(table.ipv6)?].concat();
        generator.wait_start()?;
        let measured = Instant::now();
        wait::pause(MARGIN)?;
        switch.begin()?;
        let begun = Instant::now();
        let name = space.name().to_owned();
        let writer = thread::spawn(move || batch(&name, &lines).map(|()| begun.elapsed()));
        let whole = Duration::from_secs(table.seconds.into());
        let patience = whole.saturating_sub(measured.elapsed() + MARGIN);
        wait::until("the vRouter has all routes", patience, || {
            wait::pause(LOOK)?;
            Ok((switch.routes()? >= before.0 + routes).then_some(()))
        })?;
        let loaded = begun.elapsed();
        let window = switch.end()?;
        let written = writer.join().ok().context("the writer has panicked")??;
        let after = Resident::of(switch.pid())?;
        sleep(whole.saturating_sub(measured.elapsed()))?;
        let end = generator.finish()?;
        drop(switch);
        Ok(Reading::Table(Box::new(TableReading {
            routes,
            seconds: loaded.as_secs_f64(),
            seconds_behind: loaded.saturating_sub(written).as_secs_f64(),
            mib: (after.own as f64 - before.1.own as f64) / 1024.0,
            rate_per_pod: table.rate_per_pod,
            generator: end,
            switch: window,
        })))
    }
}

/// `ip -batch` in a network namespace.
fn batch(namespace: &str, lines: &str) -> Result<()> {
    let mut child = Command::new("/usr/sbin/ip")
        .args(["-n", namespace, "-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("/usr/sbin/ip")?;
    child.stdin.take().context("no stdin")?.write_all(lines.as_bytes())?;
    ensure!(child.wait()?.success(), "the kernel did not take the routes");
    Ok(())
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
