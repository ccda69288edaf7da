//! The mirror against a small kernel that looks everything up the slow way, and the messages against captured ones.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers included"
)]

mod bridge;
mod kernel;
mod model;
mod reference;
mod vrf;
mod wire;
