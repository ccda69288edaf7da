//! From text to a checked type, with the place of whatever is wrong.

use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::ConfigError;
use crate::check::Problem;

/// Longest value repeated in a message.
const SHOWN_CHARS: usize = 80;

/// Deserialises `text` and runs `check` over the result.
pub(crate) fn read<T: DeserializeOwned>(
    text: &str,
    file: &Path,
    check: impl FnOnce(&T) -> Result<(), Problem>,
) -> Result<T, ConfigError> {
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        file: file.into(),
        line: line_of(text, error.span().map_or(0, |span| span.start)),
        why: one_line(error.message()),
    })?;
    let config: T =
        toml::from_str(text).map_err(|error| schema_error(text, file, table.get_ref(), &error))?;
    match check(&config) {
        Ok(()) => Ok(config),
        Err(problem) => {
            let line =
                span_of(table.get_ref(), &problem.key).map_or(1, |at| line_of(text, at.start));
            Err(ConfigError::BadValue {
                file: file.into(),
                line,
                value: quoted(&problem.value),
                key: problem.key,
                remedy: problem.remedy,
            })
        }
    }
}

/// Turns what serde says about a well-formed text into our words.
fn schema_error(
    text: &str,
    file: &Path,
    table: &DeTable<'_>,
    error: &toml::de::Error,
) -> ConfigError {
    let span = error.span().unwrap_or(0..0);
    let line = line_of(text, span.start);
    let (key, value) = path_at(table, &span);
    let message = one_line(error.message());
    if let Some((unknown, known)) = unknown_field(&message) {
        let parent = key.rsplit_once('.').map_or("", |(parent, _)| parent);
        let key = if parent.is_empty() { unknown.clone() } else { format!("{parent}.{unknown}") };
        return ConfigError::UnknownKey {
            file: file.into(),
            line,
            key,
            remedy: nearest(&unknown, &known),
        };
    }
    if let Some(missing) = message.strip_prefix("missing field `").and_then(|m| m.strip_suffix('`'))
    {
        let key = if key.is_empty() { missing.to_owned() } else { format!("{key}.{missing}") };
        let remedy = "it is required; add it".to_owned();
        return ConfigError::BadValue {
            file: file.into(),
            line,
            key,
            value: "(none)".into(),
            remedy,
        };
    }
    let value = value.and_then(|at| text.get(at)).map_or_else(|| "(none)".into(), shortened);
    ConfigError::BadValue { file: file.into(), line, key, value, remedy: message }
}

/// The unknown field and the known ones, from serde's message.
fn unknown_field(message: &str) -> Option<(String, Vec<String>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (unknown, rest) = rest.split_once('`')?;
    let known = rest.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    Some((unknown.to_owned(), known))
}

fn nearest(unknown: &str, known: &[String]) -> String {
    let all = known.join(", ");
    let near = known.iter().map(|k| (distance(unknown, k), k)).min().filter(|(d, _)| *d <= 2);
    match near {
        Some((_, key)) => format!("did you mean `{key}`? known here: {all}"),
        None => format!("remove it; known here: {all}"),
    }
}

/// Number of single-character edits between two keys (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Dotted path of the innermost key whose name or value covers the start of `span`, and where its value is.
fn path_at(table: &DeTable<'_>, span: &Range<usize>) -> (String, Option<Range<usize>>) {
    let mut best = (String::new(), None);
    visit_table(table, "", &mut |path, key, value| {
        if covers(key, span.start) || covers(value, span.start) {
            best = (path.to_owned(), Some(value.clone()));
        }
    });
    best
}

/// Where the value of the dotted path `wanted` is; that of the nearest enclosing key if it is not there.
fn span_of(table: &DeTable<'_>, wanted: &str) -> Option<Range<usize>> {
    let mut found: Option<(usize, Range<usize>)> = None;
    visit_table(table, "", &mut |path, _, value| {
        let encloses = wanted
            .strip_prefix(path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        if encloses && found.as_ref().is_none_or(|(length, _)| *length < path.len()) {
            found = Some((path.len(), value.clone()));
        }
    });
    found.map(|(_, span)| span)
}

/// Calls `seen` with path, span of the key and span of the value: parents before children.
type Seen<'a> = dyn FnMut(&str, &Range<usize>, &Range<usize>) + 'a;

fn visit_table(table: &DeTable<'_>, parent: &str, seen: &mut Seen<'_>) {
    for (key, value) in table {
        let path = match parent {
            "" => key.get_ref().to_string(),
            _ => format!("{parent}.{}", key.get_ref()),
        };
        visit_value(&path, &key.span(), value, seen);
    }
}

fn visit_value(path: &str, key: &Range<usize>, value: &Spanned<DeValue<'_>>, seen: &mut Seen<'_>) {
    seen(path, key, &value.span());
    match value.get_ref() {
        DeValue::Table(table) => visit_table(table, path, seen),
        DeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                visit_value(&format!("{path}[{index}]"), &item.span(), item, seen);
            }
        }
        _ => {}
    }
}

fn covers(range: &Range<usize>, at: usize) -> bool {
    range.start <= at && at < range.end
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

fn one_line(message: &str) -> String {
    message
        .split('\n')
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

fn shortened(value: &str) -> String {
    let line = one_line(value);
    if line.chars().count() <= SHOWN_CHARS {
        return line;
    }
    line.chars().take(SHOWN_CHARS).chain("...".chars()).collect()
}

/// Numbers as they are, anything else in quotes.
fn quoted(value: &str) -> String {
    if value.parse::<i64>().is_ok() { value.into() } else { shortened(&format!("{value:?}")) }
}
