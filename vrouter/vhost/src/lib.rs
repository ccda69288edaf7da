//! The vhost-user backend of one pod port: guest memory, rings, and the session that sets them up.
//!
//! Protocol work is done by rust-vmm's `vhost-user-backend`; this crate adds rings that a worker polls
//! ([`queue`]), a [`guard`] between the pod's socket and that daemon, and the life of a port ([`port`]).
//! Does not parse packets, know networks or containers, or own worker threads. Used by `vrouterd` only.
//!
//! `unsafe` lives in `memory`, `ring`, `queue`, `truncation`, `numa` and, for descriptors the kernel hands over, `guard`.

#[cfg(target_endian = "big")]
compile_error!("rings are read as little endian (virtio 1.x) without conversion");

mod backend;
pub mod guard;
mod memory;
mod numa;
pub mod offload;
pub mod port;
pub mod queue;
pub mod queues;
mod ring;
mod session;
mod sync;
mod truncation;
mod vring;
pub mod wake;

pub use ring::MAX_QUEUE_SIZE;

#[cfg(test)]
mod tests;
