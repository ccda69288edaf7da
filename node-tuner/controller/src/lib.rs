//! What `ringway-controller` does: gives each node's tuner its parameters, and tells the scheduler where a pod fits.
//!
//! Acts by what `node-tuner-cluster` decides. Keeps nothing: all state is in Kubernetes. A library for the program of this crate
//! and its bench; nobody else depends on it.
#![forbid(unsafe_code)]

pub mod args;
pub mod control;
pub mod extender;
mod leader;
mod mirror;
pub mod offline;
pub mod placement;
mod publish;
mod room;
pub mod tls;
