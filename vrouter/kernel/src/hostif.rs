//! Host interfaces: a TAP that carries on what the kernel had on an uplink.
