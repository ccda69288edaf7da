//! What the daemons say about a configuration file that is wrong.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use integration::machine::program;

use integration::stage::Stage;

/// Starts a daemon with a configuration that it must refuse in one line that contains every one of `words`.
fn refused(daemon: &str, file: &Path, words: &[&str]) -> Result<()> {
    let output = Command::new(program(daemon)?).arg("--config").arg(file).output()?;
    let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    println!("    {error}");
    ensure!(!output.status.success(), "{daemon} started with {}", file.display());
    ensure!(error.lines().count() == 1, "{daemon}: more than one line: {error}");
    let name = file.display().to_string();
    for word in words.iter().copied().chain([name.as_str()]) {
        ensure!(error.contains(word), "{daemon}: {word:?} is not in: {error}");
    }
    Ok(())
}

fn with_file(content: &str, check: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let file = std::env::temp_dir().join(format!("ringway-settings-{}.toml", std::process::id()));
    std::fs::write(&file, content)?;
    let result = check(&file);
    std::fs::remove_file(&file)?;
    result
}

pub fn are_checked(_: &mut Stage) -> Result<()> {
    for daemon in ["ringway-vrouter", "ringway-nri"] {
        refused(daemon, Path::new("/nonexistent/ringway.toml"), &[])?;
        with_file("run_dri = \"/run/x\"\n", |file| refused(daemon, file, &["run_dri", "run_dir"]))?;
        with_file("run_dir = \"relative\"\n", |file| {
            refused(daemon, file, &["run_dir", "relative"])
        })?;
        with_file("run_dir =\n", |file| refused(daemon, file, &[]))?;
    }
    Ok(())
}

pub fn run_dir_too_long(_: &mut Stage) -> Result<()> {
    let long = format!("/run/{}", "x".repeat(60));
    with_file(&format!("run_dir = \"{long}\"\n"), |file| {
        refused("ringway-nri", file, &["run_dir", "socket path", "shorter"])
    })
}
