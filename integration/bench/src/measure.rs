//! Takes one sample: a fresh switch, two pods, a measurement, everything stopped again.

mod full_table;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use integration::machine::{self, Hugepages};
use integration::rundir::RunDir;
use integration::wait;

use crate::apart::Apart;
use crate::cells::{Cell, Kind, Subject, Traffic};
use crate::disturbance::Watch;
use crate::generator::{Generator, Order};
use crate::probe;
use crate::sample::{IdleReading, Reading, TrafficReading};
use crate::switch::{self, Place, Switch};
use crate::threads;
use integration::idle_pods::raise_file_limit;
use integration::launch::Cgroups;
use integration::memory::Resident;

/// 2 MiB pages: the generator's 512 MiB, OVS-DPDK's 512 MiB or less of another switch, and some to spare.
const HUGEPAGES: u64 = 640;
/// Seconds of traffic before anything is counted.
pub const WARMUP: u32 = 1;
/// The same for frames above 1,518 bytes: OVS makes a pool for them when the pods are already attached.
const LONG_WARMUP: u32 = 3;
/// The switch's own counters are read this long after the measurement began and before it ends, so that they only see the
/// steady state.
const MARGIN: Duration = Duration::from_millis(150);
/// Source ports the generator uses to tell flows to one address apart.
const PORTS_PER_ADDRESS: u32 = 50_000;
/// After the last pod attached, before a machine is called idle.
const SETTLING: Duration = Duration::from_secs(2);

/// The machine, prepared for samples; dropping it puts everything back.
#[derive(Debug)]
pub struct Stand {
    run: RunDir,
    cgroups: Cgroups,
    generator_cpu: u16,
    switch_cpu: u16,
    seconds: u32,
    tsc_hz: f64,
    taken: u32,
    _apart: Option<Apart>,
}

/// The traffic of one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Packets per second and pod; 0: as many as possible.
    pub rate_per_pod: u64,
    /// Whether latency is wanted.
    pub latency: bool,
}

impl Stand {
    /// Takes the machine's lock, removes what earlier runs left and reserves hugepages.
    /// Others leave the switch's CPU unless `shared`.
    pub fn set_up(
        (generator_cpu, switch_cpu): (u16, u16),
        shared: bool,
        seconds: u32,
        tsc_hz: f64,
    ) -> Result<Self> {
        let run = RunDir::create()?;
        machine::prepare(&run.path(), Hugepages::Free(HUGEPAGES))?;
        raise_file_limit()?;
        let cgroups = Cgroups::create(&run)?;
        let apart = (!shared).then(|| Apart::set(switch_cpu));
        if let Some(apart) = &apart {
            println!(
                "CPU {switch_cpu} is set apart: {} threads stay away until the end",
                apart.count()
            );
        }
        Ok(Self {
            run,
            cgroups,
            generator_cpu,
            switch_cpu,
            seconds,
            tsc_hz,
            taken: 0,
            _apart: apart,
        })
    }

    /// Core-to-core latency now, ns.
    pub fn probe(&self) -> Result<f64> {
        probe::measure(self.generator_cpu, self.switch_cpu)
    }

    /// Measures a subject once. When that fails, or packets were damaged, the logs are copied to a directory below `failed`.
    pub fn measure(
        &mut self,
        cell: &Cell,
        subject: &Subject,
        load: Load,
        failed: &Path,
    ) -> Result<Reading> {
        self.taken += 1;
        let directory = self.run.path().join(format!("s{}", self.taken));
        fs::create_dir(&directory).with_context(|| directory.display().to_string())?;
        // What is started here may use these two CPUs only, wherever it does not choose itself.
        probe::pin_all(&[self.generator_cpu, self.switch_cpu])?;
        let reading = match cell.kind {
            Kind::Idle { seconds } => self.idle(cell, subject, seconds, &directory),
            Kind::FullTable(table) => self.full_table(cell, subject, table, &directory),
            Kind::Throughput | Kind::Latency { .. } | Kind::Loss { .. } => {
                self.traffic(cell, subject, load, &directory)
            }
        };
        let name = format!("{}-{}-{}", cell.name, subject.name, self.taken);
        let reading = reading.or_else(|error| {
            keep_logs(&directory, &failed.join(&name))?;
            Err(error.context(format!("logs: failed/{name}")))
        });
        if let Ok(Reading::Traffic(reading)) = &reading
            && !reading.generator.damage().is_empty()
        {
            keep_logs(&directory, &failed.join(&name))?;
        }
        fs::remove_dir_all(&directory)?;
        reading
    }

    fn place(&self, directory: &Path) -> Place {
        Place {
            directory: directory.to_owned(),
            cgroups: self.cgroups.clone(),
            control_cpu: self.generator_cpu,
            worker_cpu: self.switch_cpu,
            tsc_hz: self.tsc_hz,
            namespace: None,
        }
    }

    /// Starts the pods at a switch, and gives them with their flows and addresses when both are attached. From then on nothing that
    /// is started here, or was, uses the worker's CPU.
    fn pods(
        &self,
        cell: &Cell,
        subject: &Subject,
        switch: &mut dyn Switch,
        (load, seconds): (Load, u32),
        directory: &Path,
    ) -> Result<(Generator, u32, u32)> {
        let addresses = switch.addresses(cell.traffic.flows.min(1024));
        // Few addresses cannot tell that many flows apart.
        let flows = cell.traffic.flows.min(addresses * PORTS_PER_ADDRESS);
        let order = Order {
            traffic: Traffic { flows, ..cell.traffic },
            addresses,
            packed: subject.packed,
            rate: load.rate_per_pod,
            latency: load.latency,
            warmup: if cell.traffic.size > 1518 { LONG_WARMUP } else { WARMUP },
            seconds,
            cpu: self.generator_cpu,
        };
        let log = directory.join("pktgen.log");
        let mut generator = Generator::start(&self.cgroups, order, &switch.endpoints(), &log)?;
        generator.wait_ready()?;
        switch.attached()?;
        // A worker that slept for a moment would find these threads on its CPU for the rest of the sample.
        probe::pin_all(&[self.generator_cpu])?;
        Ok((generator, flows, addresses))
    }

    fn traffic(
        &self,
        cell: &Cell,
        subject: &Subject,
        load: Load,
        directory: &Path,
    ) -> Result<Reading> {
        let mut switch = switch::start(subject, &cell.traffic, self.place(directory))?;
        let (mut generator, flows, addresses) =
            self.pods(cell, subject, &mut *switch, (load, self.seconds), directory)?;
        generator.wait_start()?;
        // Nobody looks at anything in between: each look takes time from the generator or the switch.
        let length = Duration::from_secs(self.seconds.into());
        wait::pause(MARGIN)?;
        let begun = Instant::now();
        let watch =
            Watch::begin(generator.pid(), switch.pid(), [self.generator_cpu, self.switch_cpu])?;
        switch.begin()?;
        sleep(length.saturating_sub(MARGIN * 2).saturating_sub(begun.elapsed()))?;
        let disturbance = watch.end(generator.pid(), switch.pid())?;
        let window = switch.end()?;
        let end = generator.finish()?;
        Ok(Reading::Traffic(Box::new(TrafficReading {
            received_pps: end.received_pps(),
            rate_per_pod: load.rate_per_pod,
            flows,
            addresses,
            generator: end,
            switch: window,
            disturbance,
        })))
    }

    fn idle(
        &self,
        cell: &Cell,
        subject: &Subject,
        seconds: u32,
        directory: &Path,
    ) -> Result<Reading> {
        let switch = switch::start(subject, &cell.traffic, self.place(directory))?;
        let before = switch.resident_before_pods().context("this switch has no idle pods")?;
        wait::pause(SETTLING)?;
        let (since, before_idle) = (Instant::now(), threads::of(switch.pid())?);
        sleep(Duration::from_secs(seconds.into()))?;
        let (elapsed, after) = (since.elapsed().as_secs_f64(), threads::of(switch.pid())?);
        let ran: u64 = threads::changes(&before_idle, &after).iter().map(|it| it.ran).sum();
        Ok(Reading::Idle(IdleReading {
            pods: subject.idle_pods,
            seconds: elapsed,
            cpu_share: ran as f64 / 1e9 / elapsed,
            before,
            with_pods: Resident::of(switch.pid())?,
        }))
    }
}

/// Sleeps without looking around more than four times a second, but not past a signal for long.
fn sleep(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    loop {
        wait::check_stop()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(250)));
    }
}

fn keep_logs(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in fs::read_dir(from)? {
        let path: PathBuf = entry?.path();
        if let Some(name) = path.file_name()
            && path.extension().is_some_and(|it| it == "log")
        {
            fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}
