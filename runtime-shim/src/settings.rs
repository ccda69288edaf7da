//! The configuration file.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ringway_config::{ConfigError, RUNTIME_FILE, RuntimeConfig};

/// Names another configuration file. Whoever starts a runtime cannot add options to its command line.
const VARIABLE: &str = "RINGWAY_RUNTIME_CONFIG";

/// The file, or the defaults where there is none.
pub fn load() -> Result<RuntimeConfig, ConfigError> {
    let asked = std::env::var_os(VARIABLE).map(PathBuf::from);
    let file = asked.as_deref().unwrap_or(Path::new(RUNTIME_FILE));
    match std::fs::read_to_string(file) {
        Ok(text) => RuntimeConfig::from_toml(&text, file),
        Err(error) if asked.is_none() && error.kind() == ErrorKind::NotFound => {
            Ok(RuntimeConfig::default())
        }
        Err(source) => Err(ConfigError::Unreadable { file: file.into(), source }),
    }
}
