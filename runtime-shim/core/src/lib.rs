//! Decides what an OCI runtime's command line is about, whether a container asks for Ringway, and what to change in its
//! configuration.
//!
//! Does not read files, talk to anybody or start anything: arguments, JSON and an [`Adjustment`] come in as values, and edited JSON
//! or one clear error goes out. The binary `ringway-runtime` depends on it, and nobody else.
//!
//! Order of use: [`command_line::parse`] on the arguments, [`wish::read`] on the bundle's `config.json`, [`edit::plan`] and
//! [`edit::apply`] on what the node grants, [`report`] for whatever fails.
#![forbid(unsafe_code)]

pub mod command_line;
pub mod edit;
mod json;
pub mod report;
pub mod wish;

pub use edit::Adjustment;
pub use json::SpecError;

/// Where the interfaces' directory is mounted inside the container.
pub const MOUNT_POINT: &str = "/run/ringway";
/// Annotation that marks a configuration this program has edited: a bundle may be used again.
pub const MARK: &str = "ringway.dev/wrapped";
