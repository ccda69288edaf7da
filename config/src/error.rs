//! The one error of this crate.

use std::path::PathBuf;

/// A configuration file cannot be used. Its text is one line: file, line, key, value and remedy.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read. Made by the binary, which does the reading.
    #[error(
        "cannot read configuration file {}: create it, correct the path, or start without --config to use the defaults",
        file.display()
    )]
    Unreadable {
        /// The file as it was given.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The text is not TOML.
    #[error("{}:{line}: not valid TOML: {why}", file.display())]
    Syntax {
        /// The file the text came from.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What the parser said, one line.
        why: String,
    },
    /// A key that does not exist.
    #[error("{}:{line}: unknown key `{key}`: {remedy}", file.display())]
    UnknownKey {
        /// The file the text came from.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Dotted path of the key, as `workers.idle_spin`.
        key: String,
        /// The nearest key, or all known ones.
        remedy: String,
    },
    /// A key whose value has the wrong type or is out of range, or that is missing.
    #[error("{}:{line}: bad value {value} for `{key}`: {remedy}", file.display())]
    BadValue {
        /// The file the text came from.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Dotted path of the key, as `networks[1].mtu`.
        key: String,
        /// The value as written.
        value: String,
        /// What is allowed.
        remedy: String,
    },
}
