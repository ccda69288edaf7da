//! From samples to results: spreads per subject, ratios within rounds, what was reached and what failed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::cells::{Cell, FullTable, Kind, LOSS_95_MEDIAN, OURS, Subject};
use crate::machine::Machine;
use crate::probe::Reference;
use crate::sample::{IdleReading, Purpose, Reading, Sample, TableReading, TrafficReading};
use crate::stats::{Spread, ratio, spread};
use integration::pktgen::Limit;

/// How a run was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// Rounds.
    pub rounds: u32,
    /// Seconds of each measurement.
    pub seconds: u32,
    /// Seconds of traffic before it.
    pub warmup: u32,
    /// CPU of the generator.
    pub generator_cpu: u16,
    /// CPU of the switch's worker.
    pub switch_cpu: u16,
    /// Samples count whatever the machine was like.
    pub any_machine: bool,
    /// Other threads stayed away from the switch's CPU.
    pub cpu_set_apart: bool,
}

/// Something that cannot be measured here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Cell.
    pub cell: &'static str,
    /// Subject; the cell's first one means the whole cell.
    pub subject: &'static str,
    /// Why.
    pub reason: String,
}

/// Something that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Round; 0: all of them together.
    pub round: u32,
    /// Cell.
    pub cell: &'static str,
    /// Subject.
    pub subject: &'static str,
    /// What.
    pub reason: String,
}

/// Everything a run leaves.
#[derive(Debug)]
pub struct Outcome {
    /// Where.
    pub machine: Machine,
    /// How.
    pub settings: Settings,
    /// Whether the whole schedule was carried out.
    pub complete: bool,
    /// What was to be measured.
    pub cells: Vec<Cell>,
    /// What was not.
    pub skipped: Vec<Skipped>,
    /// What went wrong.
    pub failures: Vec<Failure>,
    /// Every sample, also those that do not count.
    pub samples: Vec<Sample>,
    /// All probes.
    pub reference: Reference,
    /// Time spent waiting for unusual phases to end.
    pub waited: Duration,
}

/// Results.
#[derive(Debug)]
pub struct Report {
    outcome: Outcome,
    /// One per cell, in the order of measurement.
    pub cells: Vec<CellResult>,
}

/// Results of one cell.
#[derive(Debug, Clone, PartialEq)]
pub struct CellResult {
    /// The cell.
    pub cell: Cell,
    /// Its subjects, the vRouter first.
    pub subjects: Vec<SubjectResult>,
    /// What should be reached.
    pub targets: Vec<TargetResult>,
}

/// Results of one subject in one cell.
#[derive(Debug, Clone, PartialEq)]
pub struct SubjectResult {
    /// The subject.
    pub subject: Subject,
    /// Received packets per second.
    pub pps: Option<Spread>,
    /// Worker cycles per packet.
    pub cycles: Option<Spread>,
    /// Share of lost packets.
    pub loss: Option<Spread>,
    /// Share of the worker's time with packets.
    pub busy: Option<Spread>,
    /// Share of the generator's time with packets.
    pub generator_busy: Option<Spread>,
    /// Who was the limit in most samples.
    pub limit: Option<Limit>,
    /// 50, 99 and 99.9 % of the packets took less, ns.
    pub latency: Option<[Spread; 3]>,
    /// 99.9 % of the packets took less in half of all periods of 100 ms, ns.
    pub latency_of_half: Option<Spread>,
    /// The vRouter's received packets over this subject's, within rounds.
    pub ratio: Option<Spread>,
    /// The vRouter's cycles per packet over this subject's, within rounds.
    pub cycles_ratio: Option<Spread>,
    /// Share of a CPU without traffic.
    pub idle_cpu: Option<Spread>,
    /// Resident memory per idle pod, KiB: all of it, and the private part.
    pub kib_per_pod: Option<[Spread; 2]>,
    /// Of a table that was filled: seconds until it was there, how far behind the writer, MiB, share of lost packets.
    pub table: Option<[Spread; 4]>,
    /// Samples that do not count because the machine was not fit; each was taken again, up to a limit.
    pub repeats: usize,
}

/// Whether a target was reached.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TargetResult {
    /// Compared with this subject.
    pub against: &'static str,
    /// `packets` (at least) or `cycles` (at most).
    pub what: &'static str,
    /// The quotient that is wanted.
    pub wanted: f64,
    /// The median quotient.
    pub got: Option<f64>,
    /// Whether it is as wanted.
    pub reached: bool,
}

impl Report {
    /// Computes everything.
    pub fn build(mut outcome: Outcome) -> Self {
        let cells: Vec<_> = outcome.cells.iter().map(|cell| cell_result(cell, &outcome)).collect();
        for (result, subject) in
            cells.iter().flat_map(|it| it.subjects.iter().map(move |s| (it, s)))
        {
            let (cell, name) = (result.cell.name, subject.subject.name);
            let failed = outcome.failures.iter().any(|it| (it.cell, it.subject) == (cell, name));
            let measured =
                subject.pps.is_some() || subject.idle_cpu.is_some() || subject.table.is_some();
            if outcome.complete && !measured && !failed {
                let reason = "not measured: the machine was never fit".to_owned();
                outcome.failures.push(Failure { round: 0, cell, subject: name, reason });
            }
        }
        for result in &cells {
            // One interruption spoils one sample's loss; the middle one is the switch's own.
            if let Kind::Loss { .. } = result.cell.kind {
                for it in &result.subjects {
                    if let Some(loss) = it.loss.filter(|loss| loss.median > LOSS_95_MEDIAN) {
                        outcome.failures.push(Failure {
                            round: 0,
                            cell: result.cell.name,
                            subject: it.subject.name,
                            reason: format!(
                                "{:.4} % lost in the median round, {} % is the limit",
                                loss.median * 100.0,
                                LOSS_95_MEDIAN * 100.0
                            ),
                        });
                    }
                }
            }
        }
        Self { outcome, cells }
    }

    /// Whether everything was measured and nothing failed.
    pub fn ok(&self) -> bool {
        self.outcome.complete && self.outcome.failures.is_empty()
    }

    /// Where it was made.
    pub fn machine(&self) -> &Machine {
        &self.outcome.machine
    }

    /// How it was made.
    pub fn settings(&self) -> Settings {
        self.outcome.settings
    }

    /// What went wrong.
    pub fn failures(&self) -> &[Failure] {
        &self.outcome.failures
    }

    /// What was not measured.
    pub fn skipped(&self) -> &[Skipped] {
        &self.outcome.skipped
    }

    /// Samples taken again, by subject, without those that were never taken again.
    pub fn repeats(&self) -> BTreeMap<&'static str, usize> {
        let mut repeats = BTreeMap::new();
        for it in self.cells.iter().flat_map(|cell| &cell.subjects).filter(|it| it.repeats > 0) {
            *repeats.entry(it.subject.name).or_default() += it.repeats;
        }
        repeats
    }

    /// The report's file.
    pub fn json(&self) -> Value {
        let rounds: Vec<Value> = self.outcome.samples.iter().map(|it| self.sample(it)).collect();
        json!({
            "machine": self.outcome.machine,
            "settings": self.outcome.settings,
            "complete": self.outcome.complete,
            "ok": self.ok(),
            "ratios": self.section(|it| match it.cell.kind {
                Kind::Throughput => Some(ratios(it)),
                _ => None,
            }),
            "packets_per_second": self.section(|it| match it.cell.kind {
                Kind::Throughput => Some(by_subject(it, |subject| json!(subject.pps?).into())),
                _ => None,
            }),
            "cycles_per_packet": self.section(|it| match it.cell.kind {
                Kind::Throughput => Some(cycles(it)),
                _ => None,
            }),
            "limits": self.section(|it| Some(by_subject(it, |subject| json!({
                "limit": subject.limit?,
                "generator_busy": subject.generator_busy?.median,
                "switch_busy": subject.busy.map(|busy| busy.median),
            }).into()))),
            "loss": self.section(|it| Some(by_subject(it, |subject| json!(subject.loss?).into()))),
            "latency": self.section(|it| match it.cell.kind {
                Kind::Latency { .. } => Some(latency(it, &self.outcome.samples)),
                _ => None,
            }),
            "scale": self.section(|it| {
                let changed = |name: &str| it.cell.name.starts_with(name);
                (changed("scale.") || changed("routes.")).then(|| ratios(it))
            }),
            "memory": self.section(|it| match it.cell.kind {
                Kind::Idle { .. } => Some(by_subject(it, |subject| {
                    let [all, own] = subject.kib_per_pod?;
                    json!({
                        "ports": subject.subject.idle_pods,
                        "cpu_share": subject.idle_cpu,
                        "rss_kib_per_port": all,
                        "own_kib_per_port": own,
                    }).into()
                })),
                _ => None,
            }),
            "tables": self.section(|it| match it.cell.kind {
                Kind::FullTable(FullTable { ipv4, ipv6, .. }) => Some(by_subject(it, |subject| {
                    let [seconds, behind, mib, loss] = subject.table?;
                    json!({
                        "ipv4": ipv4,
                        "ipv6": ipv6,
                        "seconds": seconds,
                        "seconds_behind_the_writer": behind,
                        "mib": mib,
                        "loss": loss,
                    }).into()
                })),
                _ => None,
            }),
            "targets": self.section(|it| {
                (!it.targets.is_empty()).then(|| json!(it.targets))
            }),
            "cells": self.section(|it| Some(json!(it.cell))),
            "repeats": self.repeats(),
            "waited_seconds": self.outcome.waited.as_secs_f64(),
            "failures": self.outcome.failures,
            "skipped": self.outcome.skipped,
            "rounds": rounds,
        })
    }

    fn section(&self, of: impl Fn(&CellResult) -> Option<Value>) -> Value {
        let pairs = self.cells.iter().filter_map(|it| Some((it.cell.name.to_owned(), of(it)?)));
        Value::Object(pairs.filter(|(_, value)| *value != json!({})).collect())
    }

    fn sample(&self, sample: &Sample) -> Value {
        let mut value = json!(sample);
        value["spoiled"] = json!(sample.spoiled(&self.outcome.reference));
        value
    }
}

fn by_subject(result: &CellResult, of: impl Fn(&SubjectResult) -> Option<Value>) -> Value {
    let pairs = result.subjects.iter().filter_map(|it| Some((it.subject.name.to_owned(), of(it)?)));
    Value::Object(pairs.collect())
}

fn ratios(result: &CellResult) -> Value {
    let others = result.subjects.iter().skip(1);
    let pairs = others.filter_map(|it| Some((format!("vs_{}", it.subject.name), json!(it.ratio?))));
    Value::Object(pairs.collect())
}

fn cycles(result: &CellResult) -> Value {
    let mut all = Map::new();
    for it in &result.subjects {
        if let Some(cycles) = it.cycles {
            all.insert(it.subject.name.to_owned(), json!(cycles));
        }
    }
    let to_io = result.subjects.iter().find(|it| it.subject.name == "testpmd_io");
    if let Some(ratio) = to_io.and_then(|it| it.cycles_ratio) {
        all.insert("ratio_to_io".to_owned(), json!(ratio));
    }
    Value::Object(all)
}

fn latency(result: &CellResult, samples: &[Sample]) -> Value {
    let mut all = by_subject(result, |it| {
        let [p50, p99, p999] = it.latency?;
        json!({
            "p50_ns": p50, "p99_ns": p99, "p999_ns": p999,
            "p999_of_half_the_periods_ns": it.latency_of_half,
        })
        .into()
    });
    let rate = samples
        .iter()
        .filter(|it| it.cell == result.cell.name && it.purpose == Purpose::Measure)
        .find_map(|it| traffic(it).map(|reading| reading.rate_per_pod));
    if let (Some(rate), Some(all)) = (rate, all.as_object_mut()) {
        all.insert("packets_per_second_and_pod".to_owned(), json!(rate));
    }
    all
}

fn traffic(sample: &Sample) -> Option<&TrafficReading> {
    match &sample.reading {
        Reading::Traffic(reading) => Some(reading),
        Reading::Idle(_) | Reading::Table(_) => None,
    }
}

fn table(sample: &Sample) -> Option<&TableReading> {
    match &sample.reading {
        Reading::Table(reading) => Some(reading),
        _ => None,
    }
}

fn idle(sample: &Sample) -> Option<&IdleReading> {
    match &sample.reading {
        Reading::Traffic(_) | Reading::Table(_) => None,
        Reading::Idle(reading) => Some(reading),
    }
}

/// The samples of a subject that count: for the cell's question, on a fit machine, without faults.
struct Counted<'a>(Vec<&'a Sample>);

impl<'a> Counted<'a> {
    fn of(cell: &Cell, subject: &Subject, outcome: &'a Outcome) -> Self {
        Self(
            outcome
                .samples
                .iter()
                .filter(|it| it.cell == cell.name && it.subject == subject.name)
                .filter(|it| it.purpose == Purpose::Measure && it.faults.is_empty())
                .filter(|it| {
                    outcome.settings.any_machine || it.spoiled(&outcome.reference).is_none()
                })
                .collect(),
        )
    }

    fn per_round(&self, of: impl Fn(&TrafficReading) -> Option<f64>) -> Vec<(u32, f64)> {
        self.0.iter().filter_map(|it| Some((it.round, of(traffic(it)?)?))).collect()
    }

    fn traffic(&self, of: impl Fn(&TrafficReading) -> Option<f64>) -> Option<Spread> {
        spread(self.per_round(of).into_iter().map(|(_, value)| value))
    }

    fn idle(&self, of: impl Fn(&IdleReading) -> f64) -> Option<Spread> {
        spread(self.0.iter().filter_map(|it| idle(it)).map(of))
    }

    fn table(&self, of: impl Fn(&TableReading) -> f64) -> Option<Spread> {
        spread(self.0.iter().filter_map(|it| table(it)).map(of))
    }

    fn limit(&self) -> Option<Limit> {
        let limits: Vec<_> =
            self.0.iter().filter_map(|it| Some(traffic(it)?.generator.limit)).collect();
        let generator = limits.iter().filter(|it| **it == Limit::Generator).count();
        match limits.len() {
            0 => None,
            all if generator * 2 > all => Some(Limit::Generator),
            _ => Some(Limit::Switch),
        }
    }
}

fn cell_result(cell: &Cell, outcome: &Outcome) -> CellResult {
    let counted: Vec<_> =
        cell.subjects.iter().map(|subject| Counted::of(cell, subject, outcome)).collect();
    let pps = |it: &TrafficReading| Some(it.received_pps);
    let cycles = |it: &TrafficReading| it.switch.cycles_per_packet;
    let subjects: Vec<_> = cell
        .subjects
        .iter()
        .zip(&counted)
        .enumerate()
        .map(|(index, (subject, counted_here))| {
            let over = |of: fn(&TrafficReading) -> Option<f64>| {
                let ours = cell.subjects.first().is_some_and(|it| it.name == OURS);
                let first = counted.first().filter(|_| ours && index > 0)?;
                ratio(&first.per_round(of), &counted_here.per_round(of))
            };
            let latency = |of: fn(&integration::pktgen::Latency) -> f64| {
                counted_here.traffic(|it| it.generator.latency_ns.as_ref().map(of))
            };
            let latency = [latency(|it| it.p50), latency(|it| it.p99), latency(|it| it.p999)];
            let kib = [
                counted_here.idle(IdleReading::kib_per_pod),
                counted_here.idle(IdleReading::own_kib_per_pod),
            ];
            SubjectResult {
                subject: *subject,
                pps: counted_here.traffic(pps),
                cycles: counted_here.traffic(cycles),
                loss: counted_here.traffic(|it| Some(it.generator.loss)),
                busy: counted_here.traffic(|it| it.switch.busy),
                generator_busy: counted_here.traffic(|it| Some(it.generator.busy)),
                limit: counted_here.limit(),
                latency: whole(latency),
                latency_of_half: counted_here.traffic(|it| it.generator.latency_ns?.p999_of_half),
                ratio: over(pps),
                cycles_ratio: over(cycles),
                idle_cpu: counted_here.idle(|it| it.cpu_share),
                kib_per_pod: whole(kib),
                table: whole([
                    counted_here.table(|it| it.seconds),
                    counted_here.table(|it| it.seconds_behind),
                    counted_here.table(|it| it.mib),
                    counted_here.table(|it| it.generator.loss),
                ]),
                repeats: outcome
                    .samples
                    .iter()
                    .filter(|it| it.cell == cell.name && it.subject == subject.name)
                    .filter(|it| it.spoiled(&outcome.reference).is_some())
                    .count(),
            }
        })
        .collect();
    CellResult { cell: cell.clone(), targets: targets(cell, &subjects), subjects }
}

fn targets(cell: &Cell, subjects: &[SubjectResult]) -> Vec<TargetResult> {
    let mut results = Vec::new();
    for target in &cell.targets {
        let Some(other) = subjects.iter().find(|it| it.subject.name == target.against) else {
            continue;
        };
        if let Some(wanted) = target.packets {
            let got = other.ratio.map(|ratio| ratio.median);
            let reached = got.is_some_and(|got| got >= wanted);
            results.push(TargetResult {
                against: target.against,
                what: "packets",
                wanted,
                got,
                reached,
            });
        }
        if let Some(wanted) = target.cycles {
            let got = other.cycles_ratio.map(|ratio| ratio.median);
            let reached = got.is_some_and(|got| got <= wanted);
            results.push(TargetResult {
                against: target.against,
                what: "cycles",
                wanted,
                got,
                reached,
            });
        }
    }
    results
}

/// All values or none.
fn whole<const N: usize>(values: [Option<Spread>; N]) -> Option<[Spread; N]> {
    let present: Vec<Spread> = values.into_iter().flatten().collect();
    present.try_into().ok()
}

#[cfg(test)]
pub mod tests;
