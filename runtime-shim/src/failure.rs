//! Says what went wrong where the caller looks for it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use runtime_shim_core::command_line::CommandLine;
use runtime_shim_core::report;

/// In the runtime's log file, where containerd, Docker and podman read it, and on standard error, as runc does.
pub fn tell(line: &CommandLine, error: &anyhow::Error) {
    let message = format!("ringway: {error:#}");
    if let Some(log) = &line.log {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let text = report::line(line.log_format, &message, now);
        let opened = OpenOptions::new().append(true).create(true).open(log);
        // In one piece, so that nobody reads half of it. If it cannot be written, standard error is all there is.
        let _ = opened.and_then(|mut file| file.write_all(text.as_bytes()));
    }
    eprintln!("{message}");
}
