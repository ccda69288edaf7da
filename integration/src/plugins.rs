//! Programs in Go that `integration/setup/plugins.sh` builds for tests.

use std::fs;
use std::path::PathBuf;

use crate::machine::repository;

/// One of them.
///
/// # Errors
/// Why there is none, as the set-up said.
pub fn built(name: &str) -> Result<PathBuf, String> {
    let directory = repository().join("target/plugins");
    let path = directory.join(name);
    if path.is_file() {
        return Ok(path);
    }
    let why = fs::read_to_string(directory.join(format!("no-{name}")));
    Err(why.map_or_else(
        |_| format!("{} is not built; run `integration/setup/plugins.sh {name}`", path.display()),
        |why| format!("no {name}: {}", why.trim()),
    ))
}
