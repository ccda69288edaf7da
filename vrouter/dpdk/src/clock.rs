//! The CPU's cycle counter, for measuring short spans on one CPU.

use vrouter_dpdk_sys as sys;

/// Cycles of this CPU's constant-rate counter. [`crate::Eal::tsc_hz`] converts them to time.
///
/// Not ordered against surrounding memory accesses: good for spans of at least a few hundred cycles.
pub fn tsc() -> u64 {
    // SAFETY: reading the counter has no precondition and touches no memory.
    unsafe { sys::ringway_tsc() }
}

#[cfg(test)]
mod tests {
    use super::tsc;

    #[test]
    fn the_counter_advances() {
        let start = tsc();
        std::thread::sleep(std::time::Duration::from_millis(2));
        // The slowest counter DPDK knows (generic timer of arm64) ticks at 1 MHz.
        assert!(tsc() - start >= 2_000, "2 ms are at least 2000 ticks");
    }
}
