//! Results as text for a terminal.

use std::fmt::Write;

use crate::cells::{Cell, Kind};
use crate::report::{CellResult, Report, SubjectResult};
use crate::stats::Spread;
use integration::pktgen::Limit;

/// What `--list` shows.
pub fn list(cells: &[Cell]) -> String {
    let rows = cells.iter().map(|cell| {
        let subjects: Vec<_> = cell.subjects.iter().map(|it| it.name).collect();
        vec![cell.name.to_owned(), question(cell), subjects.join(", ")]
    });
    columns(&["cell", "question", "subjects"], rows.collect())
}

fn question(cell: &Cell) -> String {
    match cell.kind {
        Kind::Throughput => "packets that arrive when pods send all they can".to_owned(),
        Kind::Latency { share } => {
            format!("latency at {:.0} % of the slowest's greatest rate", share * 100.0)
        }
        Kind::Loss { share } => format!("loss at {:.0} % of its greatest rate", share * 100.0),
        Kind::FullTable(table) => {
            format!("a table of {} routes that fills under traffic", table.ipv4 + table.ipv6)
        }
        Kind::Idle { seconds } => format!("CPU time and memory without traffic, {seconds} s"),
    }
}

/// What a run ends with.
pub fn results(report: &Report) -> String {
    let mut text = String::new();
    let of = |kind: fn(&Kind) -> bool| -> Vec<&CellResult> {
        report.cells.iter().filter(|it| kind(&it.cell.kind)).collect()
    };
    let throughput = of(|kind| matches!(kind, Kind::Throughput));
    if !throughput.is_empty() {
        let head = [
            "cell",
            "switch",
            "Mpps",
            "min..max",
            "cycles/packet",
            "switch busy",
            "generator busy",
            "limit",
            "loss",
            "ringway/it",
            "min..max",
            "cycles",
        ];
        text += &columns(&head, rows(&throughput, throughput_row));
    }
    let latency = of(|kind| matches!(kind, Kind::Latency { .. }));
    if !latency.is_empty() {
        let head =
            ["cell", "switch", "p50 µs", "p99 µs", "p99.9 µs", "min..max", "of half", "loss"];
        text += &format!("\n{}", columns(&head, rows(&latency, latency_row)));
    }
    let loss = of(|kind| matches!(kind, Kind::Loss { .. }));
    if !loss.is_empty() {
        let head = ["cell", "switch", "Mpps", "loss", "max"];
        text += &format!("\n{}", columns(&head, rows(&loss, loss_row)));
    }
    let tables = of(|kind| matches!(kind, Kind::FullTable(_)));
    if !tables.is_empty() {
        let head = ["cell", "switch", "seconds", "behind", "MiB", "loss"];
        text += &format!("\n{}", columns(&head, rows(&tables, table_row)));
    }
    let idle = of(|kind| matches!(kind, Kind::Idle { .. }));
    if !idle.is_empty() {
        let head = ["cell", "switch", "CPU", "KiB per port", "of it private"];
        text += &format!("\n{}", columns(&head, rows(&idle, idle_row)));
    }
    remarks(report, &mut text);
    text
}

fn remarks(report: &Report, text: &mut String) {
    let mut line = |words: std::fmt::Arguments| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{words}");
    };
    line(format_args!(""));
    for result in &report.cells {
        for it in &result.targets {
            let bound = if it.what == "packets" { ">=" } else { "<=" };
            let got = it.got.map_or("nothing".to_owned(), |got| format!("{got:.2}"));
            line(format_args!(
                "{} {}: {} over {} {bound} {:.2}, got {got}",
                if it.reached { "reached" } else { "MISSED " },
                result.cell.name,
                it.what,
                it.against,
                it.wanted,
            ));
        }
    }
    for (subject, number) in report.repeats() {
        let counted = if report.settings().any_machine { "counted" } else { "not counted" };
        line(format_args!("{counted}, machine not fit: {number} samples of {subject}"));
    }
    for it in report.skipped() {
        line(format_args!("SKIP {} {}: {}", it.cell, it.subject, it.reason));
    }
    for it in report.failures() {
        line(format_args!("FAILED {} {} round {}: {}", it.cell, it.subject, it.round, it.reason));
    }
}

fn rows(cells: &[&CellResult], row: fn(&SubjectResult) -> Vec<String>) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for result in cells {
        for (index, it) in result.subjects.iter().enumerate() {
            // The cell's name once, above its subjects.
            let name = if index == 0 { result.cell.name } else { "" };
            let row = row(it);
            rows.push([vec![name.to_owned(), it.subject.name.to_owned()], row].concat());
        }
    }
    rows
}

fn throughput_row(it: &SubjectResult) -> Vec<String> {
    let limit = it.limit.map(|limit| match limit {
        Limit::Generator => "generator",
        Limit::Switch => "switch",
    });
    vec![
        number(it.pps, 1e-6, 2),
        range(it.pps, 1e-6, 2),
        number(it.cycles, 1.0, 1),
        percent(it.busy, 0),
        percent(it.generator_busy, 0),
        limit.unwrap_or("-").to_owned(),
        percent(it.loss, 4),
        number(it.ratio, 1.0, 2),
        range(it.ratio, 1.0, 2),
        number(it.cycles_ratio, 1.0, 2),
    ]
}

fn latency_row(it: &SubjectResult) -> Vec<String> {
    let percentile = |index: usize| it.latency.map(|all| all[index]);
    vec![
        number(percentile(0), 1e-3, 1),
        number(percentile(1), 1e-3, 1),
        number(percentile(2), 1e-3, 1),
        range(percentile(2), 1e-3, 1),
        number(it.latency_of_half, 1e-3, 1),
        percent(it.loss, 4),
    ]
}

fn loss_row(it: &SubjectResult) -> Vec<String> {
    let worst = it.loss.map_or("-".to_owned(), |loss| format!("{:.4} %", loss.max * 100.0));
    vec![number(it.pps, 1e-6, 2), percent(it.loss, 4), worst]
}

fn table_row(it: &SubjectResult) -> Vec<String> {
    let of = |index: usize| it.table.map(|all| all[index]);
    vec![number(of(0), 1.0, 1), number(of(1), 1.0, 2), number(of(2), 1.0, 0), percent(of(3), 4)]
}

fn idle_row(it: &SubjectResult) -> Vec<String> {
    let kib = |index: usize| it.kib_per_pod.map(|all| all[index]);
    vec![percent(it.idle_cpu, 2), number(kib(0), 1.0, 1), number(kib(1), 1.0, 1)]
}

fn number(value: Option<Spread>, factor: f64, digits: usize) -> String {
    value.map_or("-".to_owned(), |it| format!("{:.digits$}", it.median * factor))
}

fn range(value: Option<Spread>, factor: f64, digits: usize) -> String {
    value.map_or("-".to_owned(), |it| {
        format!("{:.digits$}..{:.digits$}", it.min * factor, it.max * factor)
    })
}

fn percent(value: Option<Spread>, digits: usize) -> String {
    value.map_or("-".to_owned(), |it| format!("{:.digits$} %", it.median * 100.0))
}

/// Aligned columns with a head.
fn columns(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let all: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let number = all.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        all.iter().filter_map(|row| row.get(column)).map(|text| text.chars().count()).max()
    };
    let widths: Vec<usize> = (0..number).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &all {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::all;
    use crate::report::tests::report;

    #[test]
    fn columns_are_aligned() {
        let rows = vec![vec!["a".to_owned(), "µs".to_owned(), "x".to_owned()]];
        assert_eq!(columns(&["long", "b", "c"], rows), "long  b   c\na     µs  x\n");
    }

    #[test]
    fn the_list_names_every_cell() {
        let text = list(&all());
        for cell in all() {
            assert!(text.lines().any(|line| line.starts_with(cell.name)), "{}", cell.name);
        }
    }

    #[test]
    fn results_show_medians_ratios_and_what_went_wrong() {
        let text = results(&report());
        let row = |name: &str| {
            let line = text.lines().find(|line| line.contains(name));
            line.unwrap_or_else(|| panic!("{name} is not in:\n{text}")).to_owned()
        };
        let io = row("  testpmd_io");
        assert!(io.contains("10.00") && io.contains("2.00") && io.contains("switch"), "{io}");
        assert!(row("reached pod_pod").contains("packets over testpmd_io >= 1.20, got 2.00"));
        assert!(row("FAILED").contains("ovs_normal round 2: 3 packets damaged"));
        assert!(text.contains("not counted, machine not fit: 1 samples of ringway"));
        assert!(row("SKIP").contains("l3fwd: not packaged"));
    }
}
