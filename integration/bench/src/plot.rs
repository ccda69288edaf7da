//! Results as pictures: horizontal bars in SVG, readable on light and on dark pages, without any font or script.

use std::fmt::Write;

use crate::cells::Kind;
use crate::report::{CellResult, Report, SubjectResult};
use crate::stats::Spread;

/// Names of the pictures' files.
pub const FILES: [&str; 3] = ["throughput.svg", "cycles.svg", "latency.svg"];

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 24.0;
/// Where bars begin, and the longest bar.
const BAR_X: f64 = 190.0;
const BAR_MAX: f64 = 560.0;
const BAR_HEIGHT: f64 = 16.0;
const ROW: f64 = 22.0;
const GROUP_HEAD: f64 = 30.0;
const HEAD: f64 = 74.0;
const FOOT_LINE: f64 = 16.0;
/// Characters of the machine's line that fit into the picture.
const FOOT_WIDTH: usize = 130;

/// One picture.
#[derive(Debug, Clone, PartialEq)]
struct Chart {
    title: String,
    /// What a bar's length is, with its unit.
    unit: String,
    groups: Vec<Group>,
    scale: Scale,
    foot: String,
}

/// What the longest bar is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    /// The greatest value of the whole picture: all bars can be compared, and grid lines help.
    Common,
    /// That of its group: frames of all sizes fit into one picture.
    PerGroup,
}

/// Bars that belong together.
#[derive(Debug, Clone, PartialEq)]
struct Group {
    name: String,
    bars: Vec<Bar>,
}

/// One bar: the median, with a line from the least to the greatest value.
#[derive(Debug, Clone, PartialEq)]
struct Bar {
    name: String,
    value: Spread,
    /// The vRouter's bars stand out.
    ours: bool,
    digits: usize,
}

/// Every picture that has something to show: name of the file and its text.
pub fn all(report: &Report) -> Vec<(&'static str, String)> {
    let settings = report.settings();
    let foot = format!(
        "{} · median of {} rounds of {} s, line from least to greatest · one worker on one CPU, one generator on another",
        report.machine().line(),
        settings.rounds,
        settings.seconds
    );
    let chart = |title: &str, unit: &str, scale, groups| Chart {
        title: title.to_owned(),
        unit: unit.to_owned(),
        groups,
        scale,
        foot: foot.clone(),
    };
    let charts = [
        chart(
            "Packets delivered",
            "million packets per second, both directions; more is better; bars compare within a cell",
            Scale::PerGroup,
            groups(report, |it| bar(it, it.pps, 1e-6, 2)),
        ),
        chart(
            "Worker cycles per packet",
            "TSC ticks of the switch's worker while it has packets; less is better; bars compare within a cell",
            Scale::PerGroup,
            groups(report, |it| bar(it, it.cycles, 1.0, 1)),
        ),
        chart(
            "One-way latency at half load",
            "microseconds that 50, 99 and 99.9 % of the packets stay below; less is better",
            Scale::Common,
            latency_groups(report),
        ),
    ];
    let shown = FILES.into_iter().zip(charts).filter(|(_, chart)| !chart.groups.is_empty());
    shown.map(|(name, chart)| (name, svg(&chart))).collect()
}

fn groups(report: &Report, bar: impl Fn(&SubjectResult) -> Option<Bar>) -> Vec<Group> {
    let shown = |it: &&CellResult| matches!(it.cell.kind, Kind::Throughput);
    let group = |it: &CellResult| {
        let bars: Vec<_> = it.subjects.iter().filter_map(&bar).collect();
        (!bars.is_empty()).then(|| Group { name: it.cell.name.to_owned(), bars })
    };
    report.cells.iter().filter(shown).filter_map(group).collect()
}

fn latency_groups(report: &Report) -> Vec<Group> {
    let shown = |it: &&CellResult| matches!(it.cell.kind, Kind::Latency { .. });
    let subjects = report.cells.iter().filter(shown).flat_map(|it| &it.subjects);
    let group = |it: &SubjectResult| {
        let names = ["50 %", "99 %", "99.9 %"];
        let bars = names.into_iter().zip(it.latency?);
        let bars = bars.filter_map(|(name, value)| {
            Some(Bar { name: name.to_owned(), ..bar(it, Some(value), 1e-3, 1)? })
        });
        Some(Group { name: it.subject.name.to_owned(), bars: bars.collect() })
    };
    subjects.filter_map(group).collect()
}

fn bar(it: &SubjectResult, value: Option<Spread>, factor: f64, digits: usize) -> Option<Bar> {
    let value = value?;
    let value = Spread {
        median: value.median * factor,
        min: value.min * factor,
        max: value.max * factor,
        ..value
    };
    let name = it.subject.name.to_owned();
    let ours = it.subject.name.starts_with("ringway");
    Some(Bar { name, value, ours, digits })
}

const STYLE: &str = "\
text{font-family:system-ui,sans-serif;font-size:13px;fill:#1f2937}\
.title{font-size:20px;font-weight:600}.unit,.foot{fill:#6b7280;font-size:12px}\
.group{font-weight:600}.name{text-anchor:end}.page{fill:#ffffff}.grid{stroke:#e5e7eb}\
.ours{fill:#2563eb}.other{fill:#9ca3af}.range{stroke:#111827;stroke-width:1.5}\
@media(prefers-color-scheme:dark){text{fill:#e5e7eb}.unit,.foot{fill:#9ca3af}.page{fill:#111827}\
.grid{stroke:#374151}.ours{fill:#60a5fa}.other{fill:#6b7280}.range{stroke:#f9fafb}}";

fn svg(chart: &Chart) -> String {
    let greatest = |group: &Group| group.bars.iter().map(|bar| bar.value.max).fold(0.0, f64::max);
    let top = chart.groups.iter().map(greatest).fold(0.0, f64::max);
    let step = if chart.scale == Scale::Common { grid_step(top) } else { 0.0 };
    let length = |value: f64, top: f64| if top > 0.0 { value / top * BAR_MAX } else { 0.0 };
    let foot = wrap(&chart.foot, FOOT_WIDTH);
    let rows: f64 = chart.groups.iter().map(|it| GROUP_HEAD + ROW * count(it.bars.len())).sum();
    let body = HEAD + rows;
    let height = body + MARGIN + FOOT_LINE * count(foot.len()) + MARGIN / 2.0;

    let mut out = String::new();
    let mut put = |words: std::fmt::Arguments| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{words}");
    };
    put(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">"
    ));
    put(format_args!("<title>{}</title><style>{STYLE}</style>", escape(&chart.title)));
    put(format_args!("<rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>"));
    put(format_args!("{}", label("title", MARGIN, 36.0, &chart.title)));
    put(format_args!("{}", label("unit", MARGIN, 56.0, &chart.unit)));
    let mut mark = 0.0;
    while step > 0.0 && mark <= top {
        let x = BAR_X + length(mark, top);
        put(format_args!(
            "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{HEAD}\" x2=\"{x:.1}\" y2=\"{body:.1}\"/>"
        ));
        put(format_args!("{}", label("unit", x - 4.0, body + 14.0, &trim(mark))));
        mark += step;
    }
    let mut y = HEAD;
    for group in &chart.groups {
        put(format_args!("{}", label("group", MARGIN, y + 20.0, &group.name)));
        y += GROUP_HEAD;
        let top = if chart.scale == Scale::Common { top } else { greatest(group) };
        let scale = |value: f64| length(value, top);
        for bar in &group.bars {
            let (middle, base) = (y + BAR_HEIGHT / 2.0, y + BAR_HEIGHT - 3.5);
            let class = if bar.ours { "ours" } else { "other" };
            let (from, to) = (BAR_X + scale(bar.value.min), BAR_X + scale(bar.value.max));
            put(format_args!("{}", label("name", BAR_X - 8.0, base, &bar.name)));
            put(format_args!(
                "<rect class=\"{class}\" x=\"{BAR_X}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR_HEIGHT}\" rx=\"2\"/>",
                scale(bar.value.median)
            ));
            put(format_args!(
                "<line class=\"range\" x1=\"{from:.1}\" y1=\"{middle:.1}\" x2=\"{to:.1}\" y2=\"{middle:.1}\"/>"
            ));
            let number = format!("{:.*}", bar.digits, bar.value.median);
            put(format_args!("{}", label("value", to + 8.0, base, &number)));
            y += ROW;
        }
    }
    for (index, line) in foot.iter().enumerate() {
        let y = body + MARGIN + FOOT_LINE * (count(index) + 0.8);
        put(format_args!("{}", label("foot", MARGIN, y, line)));
    }
    put(format_args!("</svg>"));
    out
}

fn label(class: &str, x: f64, y: f64, text: &str) -> String {
    format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(text))
}

fn count(number: usize) -> f64 {
    number as f64
}

/// A round distance between grid lines, so that there are at least two and at most five below `top`.
fn grid_step(top: f64) -> f64 {
    if !(top > 0.0 && top.is_finite()) {
        return 0.0;
    }
    let power = 10f64.powf(top.log10().floor());
    let steps = [0.2, 0.5, 1.0, 2.0, 5.0].map(|part| part * power);
    steps.into_iter().find(|step| top / step <= 5.0).unwrap_or(power)
}

fn trim(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Lines of at most `width` characters, broken between words.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{latency_and_idle, report};

    #[test]
    fn a_bar_is_as_long_as_its_value() {
        let pictures = all(&report());
        let names: Vec<_> = pictures.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["throughput.svg", "cycles.svg"]);
        let throughput = &pictures[0].1;
        // Greatest value 22 Mpps; medians 20 and 10.
        let width = |class: &str| {
            let rect =
                throughput.lines().find(|line| line.contains(&format!("class=\"{class}\" x")));
            let (_, rest) = rect.unwrap().split_once("width=\"").unwrap();
            rest.split_once('"').unwrap().0.parse::<f64>().unwrap()
        };
        assert!((width("ours") - 20.0 / 22.0 * BAR_MAX).abs() < 0.1);
        assert!((width("other") - 10.0 / 22.0 * BAR_MAX).abs() < 0.1);
        for part in ["Packets delivered", "million packets per second", ">20.00<", "Example CPU"] {
            assert!(throughput.contains(part), "{part} is not in:\n{throughput}");
        }
    }

    #[test]
    fn latency_has_three_bars_for_each_switch() {
        let pictures = all(&latency_and_idle());
        let [(name, text)] = &pictures[..] else { panic!("{pictures:?}") };
        assert_eq!(*name, "latency.svg");
        for part in ["50 %", "99 %", "99.9 %"] {
            assert_eq!(text.matches(&format!(">{part}<")).count(), 2, "{part}");
        }
        assert!(text.contains(">5.0<"), "99.9 % in µs");
    }

    #[test]
    fn texts_cannot_break_the_picture() {
        let chart = Chart {
            title: "a < b & \"c\"".to_owned(),
            unit: String::new(),
            groups: Vec::new(),
            scale: Scale::Common,
            foot: String::new(),
        };
        let text = svg(&chart);
        assert!(text.contains("a &lt; b &amp; &quot;c&quot;"), "{text}");
    }

    #[test]
    fn grid_lines_are_few_and_round() {
        for (top, expected) in [(0.0, 0.0), (22.0, 5.0), (9.0, 2.0), (1.0, 0.2), (450.0, 100.0)] {
            assert!((grid_step(top) - expected).abs() < 1e-9, "{top}: {}", grid_step(top));
        }
        assert_eq!((trim(0.2), trim(20.0)), ("0.2".to_owned(), "20".to_owned()));
    }

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrap("aa bb cc", 5), ["aa bb", "cc"]);
        assert_eq!(wrap("longer", 3), ["longer"]);
        assert!(wrap("", 3).is_empty());
    }
}
