//! What a node is, what a profile makes of it, and how that is done and undone: characteristics from the text of files,
//! the division of CPUs, the plan, the engine that carries it out over a journal, and the agent's decisions.
//!
//! Reads and writes nothing itself and knows no clock: files, time and answers are arguments, and what acts is behind the
//! two traits of [`engine`]. `ringway-tuner` depends on it, and whatever places pods may.
#![forbid(unsafe_code)]

pub mod cpus;
pub mod cpuset;
pub mod drift;
pub mod engine;
pub mod journal;
pub mod knob;
pub mod modes;
pub mod node;
pub mod plan;
pub mod rings;
pub mod tree;
pub mod workers;

#[cfg(test)]
mod shapes;
