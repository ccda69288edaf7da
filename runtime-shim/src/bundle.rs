//! The file with a container's configuration.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Name of the configuration in a bundle (OCI runtime specification, "Filesystem Bundle").
const CONFIG: &str = "config.json";

/// A configuration and where it came from.
#[derive(Debug)]
pub struct Bundle {
    /// As it was read; changed by whoever has to.
    pub config: Value,
    file: PathBuf,
}

/// The file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The system said no.
    #[error("cannot {what} {}: {source}", file.display())]
    Io {
        /// What was to be done.
        what: &'static str,
        /// With what.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Not JSON.
    #[error("{} is not JSON: {source}", file.display())]
    Json {
        /// Which file.
        file: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

impl BundleError {
    /// Whether the real runtime will meet the same, and say so in its own words.
    pub fn is_for_runtime(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == ErrorKind::NotFound,
            Self::Json { .. } => true,
        }
    }
}

/// Where the configuration of a container is. A relative `config` (crun) is in the working directory.
pub fn file(bundle: Option<&Path>, config: Option<&Path>) -> PathBuf {
    match config {
        Some(config) => config.to_owned(),
        None => bundle.unwrap_or(Path::new(".")).join(CONFIG),
    }
}

impl Bundle {
    /// Reads it.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn read(file: &Path) -> Result<Self, BundleError> {
        let text = fs::read(file).map_err(|source| BundleError::Io {
            what: "read",
            file: file.into(),
            source,
        })?;
        let config = serde_json::from_slice(&text)
            .map_err(|source| BundleError::Json { file: file.into(), source })?;
        Ok(Self { config, file: file.to_owned() })
    }

    /// Puts the changed configuration in its place: whole or not at all, with the same owner and mode.
    ///
    /// # Errors
    /// [`BundleError`]; the old one is still there then.
    pub fn replace(&self) -> Result<(), BundleError> {
        let new = self.file.with_extension(format!("ringway-{}", std::process::id()));
        self.write(&new).map_err(|source| {
            // Ours, if it is there at all.
            let _ = fs::remove_file(&new);
            BundleError::Io { what: "replace", file: self.file.clone(), source }
        })
    }

    fn write(&self, new: &Path) -> io::Result<()> {
        let old = fs::metadata(&self.file)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
        file.write_all(self.config.to_string().as_bytes())?;
        let made = file.metadata()?;
        if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
        fs::rename(new, &self.file)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_configuration_is_found_as_runtimes_find_it() {
        for (bundle, config, expected) in [
            (None, None, "./config.json"),
            (Some("/b"), None, "/b/config.json"),
            (Some("/b"), Some("other.json"), "other.json"),
        ] {
            assert_eq!(file(bundle.map(Path::new), config.map(Path::new)), Path::new(expected));
        }
    }

    #[test]
    fn replacing_keeps_the_mode_and_leaves_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(CONFIG);
        fs::write(&file, r#"{"b": 1, "a": [2]}"#).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        let mut bundle = Bundle::read(&file).unwrap();
        bundle.config["c"] = json!(3);
        bundle.replace().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), r#"{"b":1,"a":[2],"c":3}"#);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_the_runtime_will_say_is_left_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(CONFIG);
        assert!(Bundle::read(&file).unwrap_err().is_for_runtime());
        fs::write(&file, "{").unwrap();
        assert!(Bundle::read(&file).unwrap_err().is_for_runtime());
        let error = Bundle::read(directory.path()).unwrap_err();
        assert!(!error.is_for_runtime(), "{error}");
    }
}
