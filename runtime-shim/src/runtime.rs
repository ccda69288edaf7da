//! The real runtime: which it is, and becoming it.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use ringway_config::RuntimeConfig;

/// What links to this program are called that run another runtime than the configured one: `ringway-crun`.
const LINK: &str = "ringway-";
/// This program's own name.
const OWN: &str = "runtime";
/// Looked at after PATH, which a daemon may have without them.
const DIRECTORIES: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// There is no real runtime to become.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// Nowhere.
    #[error(
        "the real runtime {} is not there; install it, or set `runtime` in runtime.toml",
        name.display()
    )]
    Missing {
        /// As configured.
        name: PathBuf,
    },
    /// Running it would never end.
    #[error("the real runtime {} is ringway-runtime itself; set `runtime` in runtime.toml to runc or crun", path.display())]
    Loop {
        /// As configured.
        path: PathBuf,
    },
    /// The system said no.
    #[error("cannot run the real runtime {}: {source}", path.display())]
    Exec {
        /// What was found.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The real runtime's name or path: that of the link this program was started by, else the configured one.
pub fn name(own_name: &OsStr, settings: &RuntimeConfig) -> PathBuf {
    let own = Path::new(own_name).file_name().and_then(OsStr::to_str);
    match own.and_then(|own| own.strip_prefix(LINK)).filter(|name| !matches!(*name, OWN | "")) {
        Some(name) => name.into(),
        None => settings.runtime.clone(),
    }
}

/// Becomes the real runtime with the same arguments. Only its environment's and descriptors' owner changes: nothing of them.
pub fn exec(runtime: &Path, arguments: &[OsString]) -> Result<Infallible, RuntimeError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(DIRECTORIES.map(PathBuf::from));
    let own = std::fs::metadata("/proc/self/exe").ok();
    let path = find(runtime, directories, own.as_ref())?;
    let source = Command::new(&path).args(arguments).exec();
    Err(RuntimeError::Exec { path, source })
}

/// Where the runtime is. By name, one that is this program is passed over: it may stand before the real one in PATH, under its name.
fn find(
    runtime: &Path,
    directories: impl Iterator<Item = PathBuf>,
    own: Option<&Metadata>,
) -> Result<PathBuf, RuntimeError> {
    let is_own = |found: &Metadata| {
        own.is_some_and(|own| (own.dev(), own.ino()) == (found.dev(), found.ino()))
    };
    let missing = || RuntimeError::Missing { name: runtime.to_owned() };
    if runtime.is_absolute() {
        let found = runtime.metadata().map_err(|_| missing())?;
        let path = runtime.to_owned();
        return if is_own(&found) { Err(RuntimeError::Loop { path }) } else { Ok(path) };
    }
    let mut candidates = directories.map(|directory| directory.join(runtime));
    let fits = |path: &PathBuf| {
        path.metadata().is_ok_and(|found| {
            found.is_file() && found.permissions().mode() & 0o111 != 0 && !is_own(&found)
        })
    };
    candidates.find(fits).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn links_choose_the_runtime() {
        let settings = RuntimeConfig::default();
        for (own, expected) in [
            ("ringway-runtime", "runc"),
            ("/usr/bin/ringway-runtime", "runc"),
            ("/usr/bin/ringway-crun", "crun"),
            ("runc", "runc"),
            ("ringway-", "runc"),
            ("", "runc"),
        ] {
            assert_eq!(name(OsStr::new(own), &settings), Path::new(expected), "{own}");
        }
    }

    #[test]
    fn the_real_one_is_found_behind_this_one() {
        let directory = tempfile::tempdir().unwrap();
        let places = ["none", "own", "data", "real"].map(|name| directory.path().join(name));
        let (own, data, real) =
            (places[1].join("runc"), places[2].join("runc"), places[3].join("runc"));
        for path in [&own, &data, &real] {
            fs::create_dir(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        for path in [&own, &real] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        let me = fs::metadata(&own).unwrap();
        let find = |name: &Path| find(name, places.clone().into_iter(), Some(&me));
        assert_eq!(find(Path::new("runc")).unwrap(), real);
        assert_eq!(find(&real).unwrap(), real);
        assert!(matches!(find(&own), Err(RuntimeError::Loop { .. })));
        assert!(matches!(find(Path::new("/nonexistent/runc")), Err(RuntimeError::Missing { .. })));
        let error = find(Path::new("crun")).unwrap_err().to_string();
        assert!(error.contains("crun") && error.contains("runtime.toml"), "{error}");
    }
}
