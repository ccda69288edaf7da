//! Command line and configuration file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use ringway_config::{ConfigError, VROUTER_FILE, VrouterConfig};

/// The virtual router of one node: serves the vhost-user sockets of its pods on DPDK.
#[derive(Debug, Parser)]
#[command(
    name = "ringway-vrouter",
    version,
    about,
    after_help = "\
Without --config, /etc/ringway/vrouter.toml is read if it exists, else the defaults hold.
Look around with the `ringway` command: ringway ports, ringway networks, ringway stats, ringway drops."
)]
pub struct Args {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Be the one of the `[[instances]]` in the configuration that has this number.
    #[arg(long, value_name = "NUMBER")]
    pub instance: Option<u32>,
    /// Read the configuration, say whether it is right, and exit.
    #[arg(long)]
    pub check: bool,
    /// What else the binary is for.
    #[command(subcommand)]
    pub role: Option<Role>,
}

/// Roles that the vRouter gives to processes it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Role {
    /// Puts a network interface back when the vRouter is gone.
    #[command(hide = true)]
    Keeper,
}

impl Role {
    /// The word for [`Role::Keeper`].
    pub const KEEPER: &str = "keeper";
}

/// There is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// In the file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Which of several was not said.
    #[error(
        "{}: has `instances`; say which this is with --instance, one of {known} (systemctl start ringway-vrouter@{first})",
        file.display()
    )]
    Which {
        /// The file.
        file: PathBuf,
        /// Their numbers.
        known: String,
        /// The first of them.
        first: u32,
    },
    /// One that is not there was asked for.
    #[error(
        "{}: there is no instance {number}; there are: {known}. Add `[[instances]]` with `number = {number}`, or start \
         without --instance where only one vRouter runs",
        file.display()
    )]
    NoInstance {
        /// The file.
        file: PathBuf,
        /// As asked for.
        number: u32,
        /// Their numbers.
        known: String,
    },
}

/// What one vRouter runs with. `check`: it is only asked whether the file is right, so that none need be chosen.
///
/// # Errors
/// [`LoadError`].
pub fn load(args: &Args) -> Result<VrouterConfig, LoadError> {
    let config = read(args.config.as_deref())?;
    let file = || args.config.clone().unwrap_or_else(|| VROUTER_FILE.into());
    let known = || {
        let numbers: Vec<_> = config.instances.iter().map(|it| it.number.to_string()).collect();
        if numbers.is_empty() { "none".to_owned() } else { numbers.join(", ") }
    };
    match (args.instance, config.instances.first()) {
        (Some(number), _) => config.of_instance(number).ok_or_else(|| LoadError::NoInstance {
            file: file(),
            number,
            known: known(),
        }),
        (None, Some(first)) if !args.check => {
            Err(LoadError::Which { file: file(), known: known(), first: first.number })
        }
        _ => Ok(config),
    }
}

/// Reads the file that was asked for, or the usual one if there is one.
///
/// # Errors
/// [`ConfigError`]; that the usual file does not exist is none.
fn read(asked: Option<&Path>) -> Result<VrouterConfig, ConfigError> {
    let file = asked.unwrap_or(Path::new(VROUTER_FILE));
    match fs::read_to_string(file) {
        Ok(text) => VrouterConfig::from_toml(&text, file),
        Err(e) if asked.is_none() && e.kind() == io::ErrorKind::NotFound => {
            Ok(VrouterConfig::default())
        }
        Err(source) => Err(ConfigError::Unreadable { file: file.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_asked_for_must_exist() {
        let error = read(Some(Path::new("/no/such/vrouter.toml"))).unwrap_err().to_string();
        assert!(error.contains("/no/such/vrouter.toml") && error.contains("--config"), "{error}");
    }

    #[test]
    fn one_of_several_is_chosen() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        io::Write::write_all(&mut file, b"[[instances]]\nnumber = 0\n[[instances]]\nnumber = 4\n")
            .unwrap();
        let path = file.path().to_str().unwrap();
        let load = |words: &[&str]| {
            load(&Args::parse_from([&["ringway-vrouter", "--config", path], words].concat()))
        };
        assert_eq!(load(&["--instance", "4"]).unwrap().instance, Some(4));
        assert_eq!(load(&["--check"]).unwrap().instances.len(), 2);
        let error = load(&[]).unwrap_err().to_string();
        assert!(error.contains("one of 0, 4") && error.contains("ringway-vrouter@0"), "{error}");
        let error = load(&["--instance", "2"]).unwrap_err().to_string();
        assert!(error.contains("no instance 2; there are: 0, 4"), "{error}");
    }

    #[test]
    fn a_keeper_is_started_by_its_word() {
        let args = Args::parse_from(["ringway-vrouter", Role::KEEPER]);
        assert_eq!(args.role, Some(Role::Keeper));
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
