//! A small run made up of numbers that are easy to check.

use super::*;
use crate::cells::{self, SwitchKind};
use crate::disturbance::Disturbance;
use crate::switch::Window;
use integration::memory::Resident;
use integration::pktgen::{End, Latency, PortEnd};

fn machine() -> Machine {
    Machine {
        cpu_model: "Example CPU".to_owned(),
        cpus: 2,
        tsc_hz: 2e9,
        kernel: "6.1".to_owned(),
        dpdk: "DPDK 22.11.11".to_owned(),
        ovs: String::new(),
        rustc: "rustc 1.95.0".to_owned(),
        git_revision: "abc".to_owned(),
        date: "2026-01-01T00:00:00Z".to_owned(),
        probe_ns: 50.0,
    }
}

fn end(pps: f64, loss: f64) -> End {
    let port = PortEnd {
        sent: 1,
        received: 1,
        lost: 0,
        reordered: 0,
        corrupt: 0,
        checked: 1,
        foreign: 0,
        more: BTreeMap::new(),
    };
    End {
        seconds: 3.0,
        busy: 0.98,
        away: 0.0,
        ring_full: 0.0,
        limit: if pps > 15e6 { Limit::Generator } else { Limit::Switch },
        ports: vec![port.clone(), port],
        loss,
        latency_ns: Some(Latency {
            samples: 9,
            unseen: 1,
            min: 1.0,
            p50: 2e3,
            p90: 3e3,
            p99: 4e3,
            p999: 5e3,
            p999_of_half: Some(4e3),
            max: 6e3,
        }),
        more: BTreeMap::new(),
    }
}

fn sample(round: u32, cell: &Cell, subject: &Subject, pps: f64, probe: f64) -> Sample {
    Sample {
        round,
        cell: cell.name,
        subject: subject.name,
        switch: subject.switch,
        purpose: Purpose::Measure,
        attempt: 1,
        probes_ns: [50.0, probe],
        reading: Reading::Traffic(Box::new(TrafficReading {
            received_pps: pps,
            rate_per_pod: 0,
            flows: 1,
            addresses: 1,
            generator: end(pps, 0.0),
            switch: Window {
                packets: 7,
                cycles_per_packet: Some(1e9 / pps),
                busy: Some(0.5),
                burst: None,
                drops: BTreeMap::new(),
            },
            disturbance: Disturbance { generator_waited: 0.0, switch_waited: 0.0, stolen: 0.0 },
        })),
        faults: Vec::new(),
    }
}

fn cell(name: &str) -> Cell {
    cells::all().into_iter().find(|cell| cell.name == name).unwrap()
}

fn outcome(cells: Vec<Cell>, samples: Vec<Sample>) -> Outcome {
    let mut reference = Reference::default();
    reference.note(50.0);
    Outcome {
        machine: machine(),
        settings: Settings {
            rounds: 3,
            seconds: 3,
            warmup: 1,
            generator_cpu: 0,
            switch_cpu: 1,
            any_machine: false,
            cpu_set_apart: true,
        },
        complete: true,
        cells,
        skipped: Vec::new(),
        failures: Vec::new(),
        samples,
        reference,
        waited: Duration::ZERO,
    }
}

/// Three rounds at 64 bytes; in round 2 everything is half as fast. A repeated sample, a failed one, a skipped switch.
pub fn report() -> Report {
    let cell = cell("pod_pod.64.1024");
    let find = |name: &str| *cell.subjects.iter().find(|it| it.name == name).unwrap();
    let (ours, io, ovs) = (find("ringway"), find("testpmd_io"), find("ovs_normal"));
    let mut samples = Vec::new();
    for (round, factor) in [(1, 1.0), (2, 0.5), (3, 1.1)] {
        samples.push(sample(round, &cell, &ours, 20e6 * factor, 60.0));
        samples.push(sample(round, &cell, &io, 10e6 * factor, 60.0));
    }
    samples.push(sample(1, &cell, &ours, 1e6, 200.0));
    let mut disturbed = sample(1, &cell, &io, 1e6, 60.0);
    if let Reading::Traffic(reading) = &mut disturbed.reading {
        reading.disturbance.switch_waited = 0.2;
    }
    samples.push(disturbed);
    samples.push(Sample {
        faults: vec!["3 packets damaged".to_owned()],
        ..sample(2, &cell, &ovs, 99e6, 60.0)
    });
    let failures = vec![Failure {
        round: 2,
        cell: cell.name,
        subject: "ovs_normal",
        reason: "3 packets damaged".to_owned(),
    }];
    let skipped =
        vec![Skipped { cell: cell.name, subject: "l3fwd", reason: "not packaged".to_owned() }];
    Report::build(Outcome { failures, skipped, ..outcome(vec![cell], samples) })
}

/// Latencies of two switches, and an idle vRouter.
pub fn latency_and_idle() -> Report {
    let (latency, idle) = (cell("latency.half_load"), cell("idle.250_ports"));
    let resident = |own| Resident { own, file: 0, shared: 0 };
    let mut samples: Vec<_> =
        latency.subjects[..2].iter().map(|it| sample(1, &latency, it, 5e6, 60.0)).collect();
    samples.push(Sample {
        reading: Reading::Idle(IdleReading {
            pods: 250,
            seconds: 10.0,
            cpu_share: 0.01,
            before: resident(0),
            with_pods: resident(12_500),
        }),
        ..sample(1, &idle, &idle.subjects[0], 1.0, 60.0)
    });
    Report::build(outcome(vec![latency, idle], samples))
}

#[test]
fn a_table_that_filled_has_a_section_of_its_own_and_no_phase_spoils_it() {
    let cell = cell("full_table");
    let traffic = sample(1, &cell, &cell.subjects[0], 2e6, 200.0);
    let Reading::Traffic(reading) = &traffic.reading else { unreachable!("as it is made") };
    let table = TableReading {
        routes: 1_200_000,
        seconds: 9.0,
        seconds_behind: 0.5,
        mib: 300.0,
        rate_per_pod: 1_000_000,
        generator: end(2e6, 1e-6),
        switch: reading.switch.clone(),
    };
    let sample = Sample { reading: Reading::Table(Box::new(table)), ..traffic };
    let json = Report::build(outcome(vec![cell], vec![sample])).json();
    let ours = &json["tables"]["full_table"]["ringway"];
    assert_eq!((ours["ipv4"].as_u64(), ours["ipv6"].as_u64()), (Some(1_000_000), Some(200_000)));
    assert_eq!(ours["seconds"]["median"], 9.0);
    assert_eq!(ours["seconds_behind_the_writer"]["median"], 0.5);
    assert_eq!(ours["mib"]["median"], 300.0);
    assert_eq!(ours["loss"]["median"], 1e-6);
}

#[test]
fn ratios_are_medians_within_rounds() {
    let json = report().json();
    let ratio = &json["ratios"]["pod_pod.64.1024"]["vs_testpmd_io"];
    assert_eq!((&ratio["median"], &ratio["count"]), (&json!(2.0), &json!(3)));
    let cycles = &json["cycles_per_packet"]["pod_pod.64.1024"];
    assert_eq!(cycles["testpmd_io"]["median"], 100.0);
    assert_eq!(cycles["ratio_to_io"]["median"], 0.5);
    assert_eq!(json["targets"]["pod_pod.64.1024"][0]["reached"], true);
    assert_eq!(json["targets"]["pod_pod.64.1024"][1]["what"], "cycles");
    assert_eq!(json["machine"]["probe_ns"], 50.0);
}

#[test]
fn slow_and_faulty_samples_are_kept_but_do_not_count() {
    let report = report();
    let json = report.json();
    let rounds = json["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 9);
    assert_eq!(rounds.iter().filter(|it| it["spoiled"] == "phase").count(), 1);
    assert_eq!(rounds.iter().filter(|it| it["spoiled"] == "disturbed").count(), 1);
    assert_eq!(json["packets_per_second"]["pod_pod.64.1024"]["ringway"]["min"], 10e6);
    assert_eq!(json["packets_per_second"]["pod_pod.64.1024"]["ovs_normal"], Value::Null);
    assert_eq!(json["repeats"], json!({ "ringway": 1, "testpmd_io": 1 }));
    assert_eq!(json["ok"], false);
    assert!(!report.ok());
}

#[test]
fn each_cell_says_who_was_the_limit() {
    let json = report().json();
    let limits = &json["limits"]["pod_pod.64.1024"];
    assert_eq!(limits["ringway"]["limit"], "generator");
    assert_eq!(limits["testpmd_io"]["limit"], "switch");
    assert_eq!(limits["testpmd_io"]["generator_busy"], 0.98);
}

#[test]
fn latency_and_memory_have_sections_of_their_own() {
    let json = latency_and_idle().json();
    let ours = &json["latency"]["latency.half_load"]["ringway"];
    assert_eq!(ours["p999_ns"]["median"], 5e3);
    assert_eq!(ours["p999_of_half_the_periods_ns"]["median"], 4e3);
    assert_eq!(json["latency"]["latency.half_load"]["packets_per_second_and_pod"], 0);
    let memory = &json["memory"]["idle.250_ports"]["ringway"];
    assert_eq!(memory["rss_kib_per_port"]["median"], 50.0);
    assert_eq!(memory["cpu_share"]["median"], 0.01);
    assert_eq!(json["ratios"], json!({}), "a latency cell has no ratio of rates");
}

#[test]
fn the_median_loss_decides_the_loss_cell() {
    let cell = cell("loss.95");
    let run = |losses: [f64; 3]| {
        let samples = (1..).zip(losses).map(|(round, loss)| {
            let mut it = sample(round, &cell, &cell.subjects[0], 1e6, 60.0);
            if let Reading::Traffic(reading) = &mut it.reading {
                reading.generator = end(1e6, loss);
            }
            it
        });
        Report::build(outcome(vec![cell.clone()], samples.collect()))
    };
    assert!(run([0.0, 0.000_05, 0.000_9]).ok(), "one interruption");
    let lossy = run([0.0, 0.000_2, 0.000_3]);
    assert!(!lossy.ok());
    assert_eq!(
        lossy.failures()[0].reason,
        "0.0200 % lost in the median round, 0.01 % is the limit"
    );
}

#[test]
fn what_could_not_be_measured_at_all_is_a_failure() {
    let cell = cell("loss.95");
    let report = Report::build(outcome(vec![cell.clone()], Vec::new()));
    assert!(!report.ok());
    assert_eq!(report.failures().len(), 1);
    let slow = sample(1, &cell, &cell.subjects[0], 1e6, 500.0);
    // Two packets in three seconds are not a million in each.
    let mut rate = sample(2, &cell, &cell.subjects[0], 1e6, 60.0);
    if let Reading::Traffic(reading) = &mut rate.reading {
        reading.rate_per_pod = 1_000_000;
    }
    let report = Report::build(outcome(vec![cell], vec![slow, rate]));
    assert_eq!(report.failures()[0].reason, "not measured: the machine was never fit");
    let rounds = &report.json()["rounds"];
    assert_eq!((&rounds[0]["spoiled"], &rounds[1]["spoiled"]), (&json!("phase"), &json!("rate")));
}

#[test]
fn an_incomplete_run_is_not_ok() {
    let cell = cell("loss.95");
    let mut outcome = outcome(vec![cell], Vec::new());
    outcome.complete = false;
    let report = Report::build(outcome);
    assert!(!report.ok());
    assert_eq!(report.cells[0].subjects[0].subject.switch, SwitchKind::Ringway);
    assert_eq!(report.json()["complete"], false);
}
