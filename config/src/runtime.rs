//! The schema of `runtime.toml`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::check::{self, Problem};
use crate::{ConfigError, locate};

/// Configuration of `ringway-runtime`. `RuntimeConfig::default()` is what runs without a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuntimeConfig {
    /// The real runtime: a name to look up in PATH, or an absolute path.
    pub runtime: PathBuf,
    /// Run directory of `ringway-nri`, whose socket for the wrapper is in it.
    pub run_dir: PathBuf,
    /// How long `ringway-nri` may take for one container, ms.
    pub timeout_ms: u32,
    /// Whether labels count as annotations do, where a container's manager keeps them to itself (nerdctl, Docker).
    pub labels: bool,
    /// Whether opted-in containers may place their memory (get_mempolicy, mbind, set_mempolicy), whatever their seccomp profile's
    /// default: EAL needs it, and the default profiles of container managers refuse it.
    pub allow_memory_policy: bool,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            runtime: "runc".into(),
            run_dir: "/run/ringway".into(),
            timeout_ms: 5000,
            labels: true,
            allow_memory_policy: true,
        }
    }
}

impl RuntimeConfig {
    /// Reads `text`, which came from `file`; the name is only for messages.
    ///
    /// # Errors
    /// [`ConfigError`] for text that is not TOML, an unknown key or a value that is not allowed.
    pub fn from_toml(text: &str, file: &Path) -> Result<Self, ConfigError> {
        locate::read(text, file, Self::check)
    }

    fn check(&self) -> Result<(), Problem> {
        let name = self.runtime.to_string_lossy();
        if name.is_empty() || (name.contains('/') && !self.runtime.is_absolute()) {
            return Err(Problem::new(
                "runtime",
                name,
                "must be the name of a program as \"runc\", or its absolute path",
            ));
        }
        check::directory("run_dir", &self.run_dir)?;
        check::range("timeout_ms", self.timeout_ms, 100, 60_000)
    }
}
