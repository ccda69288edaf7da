//! The guard between a pod's socket and the vhost-user daemon.
//!
//! The pod never talks to the daemon: its messages are read here, judged by `policy`, and only then relayed.
//! Who may connect at all is decided by [`peer`].

pub(crate) mod descriptor;
pub(crate) mod message;
pub mod peer;
pub(crate) mod policy;
pub(crate) mod relay;
