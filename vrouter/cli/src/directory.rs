//! Directories of the machine, `/sys` above all.

use std::fs;
use std::path::Path;

/// What is in a directory, sorted; nothing if there is none.
pub(crate) fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
