//! Command line and configuration file.

use std::path::{Path, PathBuf};

use clap::Parser;
use ringway_config::{ConfigError, NRI_FILE, NriConfig};

/// NRI plugin of Ringway: gives pods annotated with network.ringway.dev a private vhost-user socket, CPUs and memory of
/// one NUMA node, and hugepage limits.
///
/// containerd starts it from /opt/nri/plugins/10-ringway, or it runs by itself and connects to containerd's NRI socket.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "ringway-nri", version)]
pub struct Arguments {
    /// Configuration file [default: /etc/ringway/nri.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// containerd's NRI socket (key `nri_socket`)
    #[arg(long, value_name = "PATH")]
    nri_socket: Option<PathBuf>,
    /// The vRouter's control socket (key `vrouter_socket`)
    #[arg(long, value_name = "PATH")]
    vrouter_socket: Option<PathBuf>,
    /// Directory of the pods' sockets and records (key `run_dir`)
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Name to register as (key `plugin_name`)
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Place among the plugins, two digits (key `plugin_index`)
    #[arg(long, value_name = "NN")]
    index: Option<String>,
    /// What to log: error, warn, info, debug, trace (key `log`)
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
}

/// Settings from the command line make no usable configuration.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// In a file, or on the command line.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A path that is not text.
    #[error("command line: a path is not valid UTF-8")]
    NotText(#[from] toml::ser::Error),
}

impl Arguments {
    /// The configuration file, or the defaults where there is none, with the command line over it.
    pub fn settings(&self) -> Result<NriConfig, SettingsError> {
        let file = self.config.as_deref().unwrap_or(Path::new(NRI_FILE));
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if self.config.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                String::new()
            }
            Err(source) => return Err(ConfigError::Unreadable { file: file.into(), source }.into()),
        };
        self.over(NriConfig::from_toml(&text, file)?)
    }

    /// The text containerd hands to a plugin it starts, in place of the file; the file where it hands none.
    pub fn settings_from(&self, text: &str) -> Result<NriConfig, SettingsError> {
        if text.trim().is_empty() {
            return self.settings();
        }
        // containerd does not say which of its files it was.
        self.over(NriConfig::from_toml(text, Path::new("configuration given by containerd"))?)
    }

    fn over(&self, mut config: NriConfig) -> Result<NriConfig, SettingsError> {
        fn set<T: Clone>(target: &mut T, value: Option<&T>) {
            if let Some(value) = value {
                *target = value.clone();
            }
        }
        set(&mut config.nri_socket, self.nri_socket.as_ref());
        set(&mut config.vrouter_socket, self.vrouter_socket.as_ref());
        set(&mut config.run_dir, self.run_dir.as_ref());
        set(&mut config.plugin_name, self.name.as_ref());
        set(&mut config.plugin_index, self.index.as_ref());
        set(&mut config.log, self.log.as_ref());
        // Once more as text, so that the command line is checked by the rules of the file.
        Ok(NriConfig::from_toml(&toml::to_string(&config)?, Path::new("command line"))?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_command_line_is_over_the_file_and_checked_like_it() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "run_dir = \"/run/a\"\nlog = \"debug\"\n[cpus]\nreserved = \"0\"").unwrap();
        let path = file.path().to_str().unwrap();
        let parse = |words: &[&str]| {
            let arguments =
                Arguments::try_parse_from([&["ringway-nri", "--config", path], words].concat());
            arguments.unwrap().settings()
        };
        let config = parse(&["--run-dir", "/run/b", "--nri-socket", "/n.sock"]).unwrap();
        assert_eq!(config.run_dir, PathBuf::from("/run/b"));
        assert_eq!(config.nri_socket, PathBuf::from("/n.sock"));
        assert_eq!((config.log.as_str(), config.cpus.reserved.as_str()), ("debug", "0"));

        let error = parse(&["--index", "7"]).unwrap_err().to_string();
        for part in ["command line", "plugin_index", "7"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_file_that_was_asked_for_must_exist() {
        let missing =
            Arguments { config: Some("/nonexistent/x.toml".into()), ..Default::default() };
        let error = missing.settings().unwrap_err().to_string();
        assert!(error.contains("/nonexistent/x.toml") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn containerds_text_replaces_the_file() {
        let arguments = Arguments { log: Some("trace".into()), ..Default::default() };
        let config = arguments.settings_from("run_dir = \"/run/c\"\n").unwrap();
        assert_eq!((config.run_dir, config.log.as_str()), (PathBuf::from("/run/c"), "trace"));
        let error = arguments.settings_from("run_dri = 1").unwrap_err().to_string();
        assert!(error.contains("containerd") && error.contains("run_dri"), "{error}");
    }
}
