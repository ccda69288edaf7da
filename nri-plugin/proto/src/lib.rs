//! The NRI wire protocol for plugins: multiplexing, ttrpc both ways, handshake, events and adjustments.
//!
//! Speaks NRI 0.6 (containerd 1.7.24) to 0.12 (containerd 2.3) and skips what it does not know. Does not decide
//! anything about a container, touches no file, and knows nothing of Ringway: any NRI plugin may depend on it.
//!
//! Implement [`Plugin`], then run it with [`runner::serve_launched`] when the runtime started the process, or with
//! [`runner::run_external`] against the runtime's `nri.sock`. See `examples/logger.rs` for a whole plugin.
//!
//! Absent on purpose: the unsolicited `UpdateContainers` call. It can deadlock all of NRI in containerd 1.7 to 2.3.4
//! (containerd issue 13733); updates belong in the answers to events.
#![forbid(unsafe_code)]

pub mod adjust;
mod dispatch;
pub mod event;
pub mod mux;
pub mod plugin;
pub mod runner;
pub mod session;
pub mod status;
pub mod ttrpc;

pub use adjust::{Adjustment, AdjustmentBuilder};
pub use event::{Event, EventSet};
pub use plugin::{Creation, Plugin, Verdict};
pub use session::Identity;
pub use status::{Code, Status};

/// Messages of NRI, generated from `proto/nri.proto`, where every field is described.
#[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications)]
pub mod api {
    include!(concat!(env!("OUT_DIR"), "/nri.pkg.api.v1alpha1.rs"));
}

/// The envelopes of ttrpc, generated from `proto/ttrpc.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications)]
mod envelope {
    include!(concat!(env!("OUT_DIR"), "/ttrpc.rs"));
}
