//! Raw bindings to the few libdpdk functions Ringway uses, and a C shim for those that DPDK keeps inline.
//!
//! It does not check, own or decide anything: every item has the meaning, the thread rules and the
//! preconditions of DPDK's own reference. `shim/ringway_shim.h` documents the shim.
//!
//! Only `vrouter-dpdk` may depend on it.

#[allow(
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    reason = "generated: the names and their documentation are DPDK's"
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use bindings::*;
