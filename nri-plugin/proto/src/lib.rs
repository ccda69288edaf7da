//! The NRI wire protocol for plugins: multiplexing, ttrpc both ways, handshake, events and adjustments.
//!
//! Speaks NRI 0.6 (containerd 1.7.24) to 0.12 (containerd 2.4) and skips what it does not know. Does not decide
//! anything about a container, touches no file, and knows nothing of Ringway: any NRI plugin may depend on it.
//!
//! Implement [`Plugin`], then run it with [`runner::serve_launched`] when the runtime started the process, or with
//! [`runner::run_external`] against the runtime's `nri.sock`:
//!
//! ```no_run
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use nri_plugin_proto::api::{Container, PodSandbox};
//! use nri_plugin_proto::runner::{self, Launched};
//! use nri_plugin_proto::{AdjustmentBuilder, Creation, Event, EventSet, Identity, Plugin, Status};
//!
//! struct Greeter;
//!
//! impl Plugin for Greeter {
//!     fn events(&self) -> EventSet {
//!         EventSet::of(&[Event::CreateContainer])
//!     }
//!
//!     async fn create_container(&self, pod: PodSandbox, _: Container) -> Result<Creation, Status> {
//!         if pod.namespace == "kube-system" {
//!             return Ok(Creation::default());
//!         }
//!         let mut builder = AdjustmentBuilder::new();
//!         // The text of an error is what `kubectl describe pod` shows.
//!         builder.env("GREETING", "hello").map_err(Status::refused)?;
//!         Ok(Creation { adjustment: builder.build(), updates: Vec::new() })
//!     }
//! }
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let (plugin, never) = (Arc::new(Greeter), std::future::pending());
//!     match Launched::from_env(std::env::var_os)? {
//!         // From /opt/nri/plugins/20-greeter: ends with the runtime, which starts another one.
//!         Some(launched) => drop(runner::serve_launched(plugin, launched, never).await?),
//!         // By hand or by systemd: stays, and connects again whenever the runtime comes back.
//!         None => {
//!             let identity = Identity::new("greeter", "20")?;
//!             runner::run_external(plugin, Path::new("/var/run/nri/nri.sock"), &identity, never).await;
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! `examples/logger.rs` is a whole plugin: `cargo run -p nri-plugin-proto --example logger -- /var/run/nri/nri.sock`.
//!
//! What a plugin need not care about, because this crate does: which version the runtime speaks (an event that it does not
//! know is not asked for; events come by `StateChange` before 0.12 and by calls of their own since, and reach the same
//! method); a `Synchronize` in several parts; frames that the runtime's reader can take; answers before the runtime's
//! deadline, so that a slow method fails one container and does not cost the plugin its place; entries that are set twice.
//!
//! For other transports and for tests: [`session::serve`] over any byte stream, and below it [`mux`] and [`ttrpc`], which do
//! no IO:
//!
//! ```
//! use nri_plugin_proto::mux::{self, Connection, Demux};
//!
//! let mut bytes = Vec::new();
//! mux::frame(Connection::Plugin, b"a ttrpc message", &mut bytes);
//! let (mut demux, mut input) = (Demux::default(), &bytes[..]);
//! let chunk = demux.next(&mut input)?.expect("one frame");
//! assert_eq!((chunk.connection, chunk.bytes), (Connection::Plugin, &b"a ttrpc message"[..]));
//! assert!(demux.next(&mut input)?.is_none() && demux.at_boundary());
//! # Ok::<(), nri_plugin_proto::mux::MuxError>(())
//! ```
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
