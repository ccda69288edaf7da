//! The files below `/proc/sys/net` that belong to one interface.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Folders that have one folder for each interface.
const FOLDERS: [&str; 4] = ["ipv4/conf", "ipv6/conf", "ipv4/neigh", "ipv6/neigh"];
const ROOT: &str = "/proc/sys/net";

/// What an interface's files say, by `ipv4/conf//rp_filter`: with the interface's name left out. Files that can't be
/// read are left out.
#[must_use]
pub fn read(interface: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for folder in FOLDERS {
        let files = fs::read_dir(Path::new(ROOT).join(folder).join(interface));
        for file in files.into_iter().flatten().flatten() {
            let Ok(name) = file.file_name().into_string() else { continue };
            let key = format!("{folder}//{name}");
            if key == super::plan::SECRET {
                continue;
            }
            if let Ok(text) = fs::read_to_string(file.path()) {
                found.insert(key, text.trim().to_owned());
            }
        }
    }
    found
}

/// Writes one of those files, if it says something else. That it does not exist is no error where nothing else would
/// be said: a kernel without IPv6 has no such folder.
///
/// # Errors
/// What the file system answered.
pub fn write(interface: &str, key: &str, value: &str) -> io::Result<()> {
    let file = path(interface, key);
    match fs::read_to_string(&file) {
        Ok(text) if text.trim() == value => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        _ => {}
    }
    fs::write(file, value)
}

fn path(interface: &str, key: &str) -> PathBuf {
    let (folder, name) = key.split_once("//").unwrap_or((key, ""));
    Path::new(ROOT).join(folder).join(interface).join(name)
}
