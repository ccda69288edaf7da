//! How much memory a process holds.

use crate::readback::status_field;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Resident memory of a process, KiB. Hugepages are not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resident {
    /// Private memory: heap and stacks.
    pub own: u64,
    /// Pages of programs and libraries.
    pub file: u64,
    /// Pages of shared memory it has touched: those of pods.
    pub shared: u64,
}

impl Resident {
    /// What process `pid` holds now.
    pub fn of(pid: u32) -> Result<Self> {
        let field = |name: &str| -> Result<u64> { kib(&status_field(pid, name)?) };
        Ok(Self { own: field("RssAnon")?, file: field("RssFile")?, shared: field("RssShmem")? })
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.own + self.file + self.shared
    }
}

/// `1234 kB`, as in /proc/PID/status.
fn kib(text: &str) -> Result<u64> {
    let number = text.strip_suffix(" kB").unwrap_or(text).trim();
    number.parse().with_context(|| format!("unexpected size {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_sizes() {
        assert_eq!(kib("1234 kB").unwrap(), 1234);
        assert!(kib("lots").is_err());
        let it = Resident::of(std::process::id()).unwrap();
        assert!(it.own > 0 && it.total() >= it.own, "{it:?}");
    }
}
