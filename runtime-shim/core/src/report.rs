//! How a failure is written into the runtime's `--log` file, where containerd, Docker and podman look for it.

use std::time::Duration;

use serde_json::json;

use crate::command_line::LogFormat;

/// The line for one error, with its line end. `since_epoch` is the time since 1970 in UTC.
///
/// containerd takes the last object whose level is `error`; text has the form that runc writes.
#[must_use]
pub fn line(format: LogFormat, message: &str, since_epoch: Duration) -> String {
    let time = rfc3339(since_epoch);
    match format {
        LogFormat::Json => format!("{}\n", json!({"level": "error", "msg": message, "time": time})),
        LogFormat::Text => format!("time={} level=error msg={}\n", json!(time), json!(message)),
    }
}

/// RFC 3339, whole seconds, UTC.
fn rfc3339(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day, `days` after 1970-01-01: by years of 365 or 366 days, then by months.
fn date(mut days: u64) -> (u64, u64, u64) {
    // 400 years have 146 097 days.
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let mut month = 1;
    for length in [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_date() {
        // From `date -u -d @N +%FT%TZ`.
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_764_115_200, "2025-11-26T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (32_503_680_000, "3000-01-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn one_line_whatever_the_message() {
        let message = "ringway: \"quoted\"\nsecond line";
        let text = line(LogFormat::Json, message, Duration::ZERO);
        assert_eq!(text.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["level"], &value["msg"]), (&json!("error"), &json!(message)));
        assert_eq!(value["time"], "1970-01-01T00:00:00Z");
        let text = line(LogFormat::Text, message, Duration::ZERO);
        assert_eq!(
            text,
            "time=\"1970-01-01T00:00:00Z\" level=error msg=\"ringway: \\\"quoted\\\"\\nsecond line\"\n"
        );
    }
}
