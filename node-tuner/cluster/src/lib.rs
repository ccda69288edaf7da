//! What is decided for many nodes: which profile a node gets and what its formulas come to there, which nodes are tuned
//! when, who of several controllers acts, and on which node, and which NUMA node of it, a pod fits.
//!
//! Does not talk to Kubernetes or look at a clock: what is known comes in as plain values, and decisions go out. The
//! types of [`facts`] and of profiles are those of the objects in Kubernetes, so they can be serialised and described.
//! `ringway-controller` and the tuner's agent depend on it.
#![forbid(unsafe_code)]

pub mod backoff;
pub mod demand;
pub mod facts;
pub mod formula;
pub mod lease;
pub mod ledger;
pub mod offer;
pub mod reconcile;
pub mod resolve;
pub mod rollout;
pub mod select;
pub mod zones;
