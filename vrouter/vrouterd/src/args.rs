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

/// Reads the file that was asked for, or the usual one if there is one.
///
/// # Errors
/// [`ConfigError`]; that the usual file does not exist is none.
pub fn load(asked: Option<&Path>) -> Result<VrouterConfig, ConfigError> {
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
        let error = load(Some(Path::new("/no/such/vrouter.toml"))).unwrap_err().to_string();
        assert!(error.contains("/no/such/vrouter.toml") && error.contains("--config"), "{error}");
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
