//! The whole run: every step of the schedule, repeated where the machine was not fit, and the report at the end.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::wait;
use nix::unistd::Uid;

use crate::args::Arguments;
use crate::cells::{self, Cell, Kind, Subject};
use crate::machine::Machine;
use crate::measure::{Load, Stand, WARMUP};
use crate::plot;
use crate::probe::Reference;
use crate::report::{Failure, Outcome, Report, Settings, Skipped};
use crate::sample::{Purpose, Reading, Sample, Spoiled};
use crate::schedule::{self, Pace, Step};
use crate::switch::unavailable;
use crate::table;

/// How often a sample is taken again because the machine was not fit.
const REPEATS: u32 = 6;
/// Probes at the start, four seconds in all, so that the first sample already has a good reference.
const FIRST_PROBES: u32 = 20;
const PROBE_PAUSE: Duration = Duration::from_millis(200);
/// How often the schedule is gone through again for samples that turned out not to count.
const MAKE_UPS: u32 = 2;
/// How long the usual phase is waited for before a sample is taken anyway; others last seconds.
const CALM: Duration = Duration::from_secs(15);
/// Starting and stopping a switch and a generator.
const OVERHEAD: Duration = Duration::from_secs(3);

/// Measures; whether everything was as it must be.
pub fn run(arguments: &Arguments) -> Result<bool> {
    wait::stop_on_signals()?;
    ensure!(Uid::effective().is_root(), "needs root: hugepages and vhost-user sockets");
    let (cells, skipped) =
        available(cells::select(&arguments.cells, &arguments.switches)?, unavailable);
    for it in &skipped {
        eprintln!("SKIP {} {}: {}", it.cell, it.subject, it.reason);
    }
    ensure!(!cells.is_empty(), "nothing of --cells {:?} can be measured here", arguments.cells);
    let out = &arguments.out;
    fs::create_dir_all(out).with_context(|| format!("cannot create {} (--out)", out.display()))?;
    // Results of an earlier run must not be taken for this one's.
    let mut stale: Vec<PathBuf> = plot::FILES.iter().map(|name| out.join(name)).collect();
    stale.push(out.join("report.json"));
    let failed_logs = out.join("failed");
    if failed_logs.exists() {
        fs::remove_dir_all(&failed_logs)?;
    }
    for file in &stale {
        match fs::remove_file(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    let machine = Machine::here()?;
    println!("{}", machine.line());
    let stand = Stand::set_up(
        (arguments.generator_cpu, arguments.switch_cpu),
        arguments.share_cpu,
        arguments.seconds(),
        machine.tsc_hz,
    )?;
    let mut bench = Bench {
        stand,
        cells,
        reference: Reference::default(),
        samples: Vec::new(),
        failures: Vec::new(),
        maxima: BTreeMap::new(),
        waited: Duration::ZERO,
        failed_logs,
        any_machine: arguments.any_machine,
    };
    let stopped = bench.all(arguments);
    // Sockets, processes and hugepages go before anything is written.
    let Bench { stand, cells, reference, samples, failures, waited, .. } = bench;
    drop(stand);
    let report = Report::build(Outcome {
        machine: Machine { probe_ns: reference.usual(), ..machine },
        settings: Settings {
            rounds: arguments.rounds(),
            seconds: arguments.seconds(),
            warmup: WARMUP,
            generator_cpu: arguments.generator_cpu,
            switch_cpu: arguments.switch_cpu,
            any_machine: arguments.any_machine,
            cpu_set_apart: !arguments.share_cpu,
        },
        complete: stopped.is_ok(),
        cells,
        skipped,
        failures,
        samples,
        reference,
        waited,
    });
    write(&report, out)?;
    println!("{}", table::results(&report));
    println!("report and plots: {}", out.display());
    stopped?;
    Ok(report.ok())
}

fn write(report: &Report, out: &Path) -> Result<()> {
    let put = |name: &str, text: &str| {
        let path = out.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    put("report.json", &serde_json::to_string_pretty(&report.json())?)?;
    for (name, text) in plot::all(report) {
        put(name, &text)?;
    }
    Ok(())
}

/// Leaves out what `unavailable` has a reason for. A cell without its first subject compares nothing.
fn available(
    cells: Vec<Cell>,
    unavailable: impl Fn(&Subject) -> Option<String>,
) -> (Vec<Cell>, Vec<Skipped>) {
    let mut skipped = Vec::new();
    let mut left = Vec::new();
    for mut cell in cells {
        let name = cell.name;
        let first = cell.subjects.first().map(|it| it.name);
        cell.subjects.retain(|subject| match unavailable(subject) {
            None => true,
            Some(reason) => {
                skipped.push(Skipped { cell: name, subject: subject.name, reason });
                false
            }
        });
        if cell.subjects.first().map(|it| it.name) == first {
            left.push(cell);
        }
    }
    (left, skipped)
}

struct Bench {
    stand: Stand,
    cells: Vec<Cell>,
    reference: Reference,
    samples: Vec<Sample>,
    failures: Vec<Failure>,
    /// The sample with the greatest rate of a subject in a cell, by their indexes.
    maxima: BTreeMap<(usize, usize), Sample>,
    /// Time spent waiting for the machine.
    waited: Duration,
    failed_logs: PathBuf,
    any_machine: bool,
}

impl Bench {
    /// Takes every sample; stops early on a signal, and at the first failure unless told to go on.
    fn all(&mut self, arguments: &Arguments) -> Result<()> {
        for _ in 0..FIRST_PROBES {
            wait::check_stop()?;
            let probe = self.stand.probe()?;
            self.reference.note(probe);
            std::thread::sleep(PROBE_PAUSE);
        }
        eprintln!("core to core: {:.0} ns", self.reference.usual());
        let schedule = schedule::steps(arguments.rounds(), &self.cells);
        let mut pace = Pace::default();
        self.steps(&schedule, &mut pace, arguments)?;
        // What is usual is only known in the end: some samples turn out not to count.
        for _ in 0..MAKE_UPS {
            let missing: Vec<_> =
                schedule.iter().copied().filter(|step| self.is_missing(*step)).collect();
            if !missing.is_empty() {
                eprintln!("{} samples are taken again", missing.len());
            }
            self.steps(&missing, &mut pace, arguments)?;
        }
        Ok(())
    }

    /// Whether a step has neither a sample that counts nor a failure.
    fn is_missing(&self, step: Step) -> bool {
        let (cell, subject) = self.names(step);
        let failed = |it: &Failure| (it.round, it.cell, it.subject) == (step.round, cell, subject);
        let counts = |it: &Sample| {
            (it.round, it.cell, it.subject, it.purpose)
                == (step.round, cell, subject, Purpose::Measure)
                && (self.any_machine || it.spoiled(&self.reference).is_none())
        };
        !self.failures.iter().any(failed) && !self.samples.iter().any(counts)
    }

    fn names(&self, step: Step) -> (&'static str, &'static str) {
        let cell = &self.cells[step.cell];
        (cell.name, cell.subjects[step.subject].name)
    }

    fn steps(&mut self, steps: &[Step], pace: &mut Pace, arguments: &Arguments) -> Result<()> {
        let guess = Duration::from_secs((arguments.seconds() + WARMUP).into()) + OVERHEAD;
        for (done, step) in steps.iter().enumerate() {
            let left = pace.left(&steps[done..], guess).as_secs();
            let (cell, subject) = self.names(*step);
            let place = format!(
                "[{}/{}, {}:{:02} left] round {} {cell} {subject}",
                done + 1,
                steps.len(),
                left / 60,
                left % 60,
                step.round,
            );
            let since = Instant::now();
            match self.step(*step) {
                Ok(said) => eprintln!("{place}: {said}"),
                Err(error) => {
                    wait::check_stop()?;
                    eprintln!("{place}: FAILED: {error:#}");
                    self.fail(*step, format!("{error:#}"));
                }
            }
            pace.note(step.cell, since.elapsed());
            if !self.failures.is_empty() && !arguments.keep_going {
                anyhow::bail!("stopped at the first failed cell; --keep-going measures the others");
            }
        }
        Ok(())
    }

    fn fail(&mut self, step: Step, reason: String) {
        let (cell, subject) = self.names(step);
        self.failures.push(Failure { round: step.round, cell, subject, reason });
    }

    /// Takes one sample; gives a line for people.
    fn step(&mut self, step: Step) -> Result<String> {
        let rate_per_pod = match self.cells[step.cell].kind {
            Kind::Throughput | Kind::Idle { .. } | Kind::FullTable(_) => 0,
            Kind::Latency { share } => {
                let number = self.cells[step.cell].subjects.len();
                let mut slowest = f64::INFINITY;
                for subject in 0..number {
                    slowest = slowest.min(self.maximum(Step { subject, ..step })?);
                }
                rate(slowest, share)
            }
            Kind::Loss { share } => {
                // So close to the greatest rate, it has to be that of this moment.
                self.maxima.remove(&(step.cell, step.subject));
                rate(self.maximum(step)?, share)
            }
        };
        let latency = matches!(self.cells[step.cell].kind, Kind::Latency { .. });
        let load = Load { rate_per_pod, latency };
        Ok(match self.accepted(step, load, Purpose::Measure)? {
            Some(sample) => describe(&sample),
            None => format!("the machine was not fit {} times: no sample", REPEATS + 1),
        })
    }

    /// Packets per second that a subject reaches, measured when it is first asked for, and again when that turned out not to
    /// count.
    fn maximum(&mut self, step: Step) -> Result<f64> {
        let key = (step.cell, step.subject);
        let (_, name) = self.names(step);
        let known = self.maxima.get(&key);
        let known = known.filter(|it| self.any_machine || it.spoiled(&self.reference).is_none());
        let sample = match known {
            Some(sample) => sample.clone(),
            None => {
                let load = Load { rate_per_pod: 0, latency: false };
                let sample = self.accepted(step, load, Purpose::Maximum)?;
                sample.with_context(|| {
                    format!("the machine was not fit, so the greatest rate of {name} is unknown")
                })?
            }
        };
        let Reading::Traffic(reading) = &sample.reading else {
            anyhow::bail!("{name} has no greatest rate in this cell")
        };
        let pps = reading.received_pps;
        self.maxima.insert(key, sample);
        Ok(pps)
    }

    /// Measures until the machine was fit.
    fn accepted(&mut self, step: Step, load: Load, purpose: Purpose) -> Result<Option<Sample>> {
        for attempt in 1..=REPEATS + 1 {
            let before = self.calm()?;
            let (cell, subject) =
                (&self.cells[step.cell], self.cells[step.cell].subjects[step.subject]);
            let reading = self.stand.measure(cell, &subject, load, &self.failed_logs)?;
            let after = self.stand.probe()?;
            self.reference.note(after);
            let mut sample = Sample {
                round: step.round,
                cell: cell.name,
                subject: subject.name,
                switch: subject.switch,
                purpose,
                attempt,
                probes_ns: [before, after],
                reading,
                faults: Vec::new(),
            };
            let spoiled = sample.spoiled(&self.reference);
            // The greatest rate is looked for at saturation, whatever the cell itself allows.
            let loss_limit = match purpose {
                Purpose::Measure => cell.loss_limit,
                Purpose::Maximum => cell.loss_limit.max(cells::SATURATED_LOSS),
            };
            if let Reading::Traffic(reading) = &sample.reading {
                sample.faults = reading.generator.damage();
                if spoiled.is_none() {
                    sample.faults.extend(reading.generator.oddities(loss_limit));
                }
            }
            if let Reading::Table(reading) = &sample.reading {
                sample.faults = reading.generator.damage();
                sample.faults.extend(reading.generator.oddities(loss_limit));
            }
            let faults = sample.faults.join(", ");
            self.samples.push(sample.clone());
            if !faults.is_empty() {
                anyhow::bail!("{faults}");
            }
            let Some(spoiled) = spoiled.filter(|_| !self.any_machine) else {
                return Ok(Some(sample));
            };
            eprintln!("  {} again: {}", subject.name, why(spoiled, &sample, &self.reference));
        }
        Ok(None)
    }

    /// Waits for the end of an unusual phase, and gives the last probe.
    fn calm(&mut self) -> Result<f64> {
        let since = Instant::now();
        loop {
            let probe = self.stand.probe()?;
            self.reference.note(probe);
            if self.any_machine || !self.reference.is_unusual(probe) || since.elapsed() > CALM {
                return Ok(probe);
            }
            wait::pause(Duration::from_millis(250))?;
            self.waited += Duration::from_millis(250);
        }
    }
}

/// Packets per second and pod at a share of what both pods together received.
fn rate(both: f64, share: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a measured rate is positive and far below 2^63"
    )]
    let rate = (both / 2.0 * share) as u64;
    rate.max(1)
}

fn why(spoiled: Spoiled, sample: &Sample, reference: &Reference) -> String {
    match (spoiled, &sample.reading) {
        (Spoiled::Disturbed, Reading::Traffic(it)) => format!(
            "others took {:.1} % of the generator's time, {:.1} % of the worker's, the host {:.1} %",
            it.disturbance.generator_waited * 100.0,
            it.disturbance.switch_waited * 100.0,
            it.disturbance.stolen * 100.0
        ),
        (Spoiled::Rate, Reading::Traffic(it)) => {
            it.generator.too_slow(it.rate_per_pod).unwrap_or_default()
        }
        _ => format!(
            "{:.0} and {:.0} ns core to core, {:.0} is usual",
            sample.probes_ns[0],
            sample.probes_ns[1],
            reference.usual()
        ),
    }
}

fn describe(sample: &Sample) -> String {
    match &sample.reading {
        Reading::Traffic(it) => {
            let latency = it.generator.latency_ns.map_or(String::new(), |latency| {
                format!(", p50 {:.1} p99.9 {:.1} µs", latency.p50 / 1e3, latency.p999 / 1e3)
            });
            format!(
                "{:.2} Mpps, {:.1} cycles/packet, generator {:.0} % busy, loss {:.4} %{latency}",
                it.received_pps / 1e6,
                it.switch.cycles_per_packet.unwrap_or(f64::NAN),
                it.generator.busy * 100.0,
                it.generator.loss * 100.0,
            )
        }
        Reading::Idle(it) => {
            format!("{:.2} % of a CPU, {:.1} KiB per pod", it.cpu_share * 100.0, it.kib_per_pod())
        }
        Reading::Table(it) => format!(
            "{} routes in {:.1} s, {:.2} s behind, {:.0} MiB, loss {:.4} %",
            it.routes,
            it.seconds,
            it.seconds_behind,
            it.mib,
            it.generator.loss * 100.0
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_split_between_the_pods() {
        assert_eq!(rate(20e6, 0.5), 5_000_000);
        assert_eq!(rate(0.0, 0.5), 1);
    }

    #[test]
    fn a_cell_that_cannot_be_compared_is_left_out_with_its_reason() {
        let no_ovs = |it: &Subject| {
            matches!(it.name, "ovs_normal" | "ovs_port").then(|| "not installed".to_owned())
        };
        let (left, skipped) = available(cells::all(), no_ovs);
        assert_eq!(left.len(), cells::all().len());
        assert!(left.iter().all(|cell| cell.subjects.iter().all(|it| no_ovs(it).is_none())));
        assert!(skipped.iter().all(|it| it.reason == "not installed"));
        assert_eq!(skipped.iter().filter(|it| it.cell == "pod_pod.64.1024").count(), 2);

        let no_packed = |it: &Subject| it.packed.then(|| "no packed rings".to_owned());
        let (left, skipped) = available(cells::all(), no_packed);
        assert_eq!(left.len(), cells::all().len() - 2);
        assert!(skipped.iter().all(|it| it.cell.starts_with("pod_pod.64.1024.packed")));
    }
}
