//! What the environment is started with, and the argument vector made from it.

use std::ffi::CString;

use super::EalError;
use crate::cpu::{self, CpuId, NumaNode};

/// How DPDK's environment is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EalConfig {
    /// Names this instance among the DPDK processes of the machine: letters, digits, `-`, `_`, `.`.
    pub file_prefix: String,
    /// Where packet buffers live.
    pub memory: Memory,
    /// Least important messages of DPDK that still reach stderr.
    pub log_level: LogLevel,
    /// More EAL options, one word each, after ours: `--vdev`, `net_tap0,iface=up0`. Without a NIC among them, `-a` and
    /// its PCI address, DPDK does not look at the PCI bus at all.
    pub extra: Vec<String>,
}

/// Memory that DPDK takes at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Hugepages by anonymous mapping: no hugetlbfs mount, no files.
    Hugepages {
        /// MiB taken at start.
        mib: u32,
        /// The only node to take them from; `None`: any.
        numa_node: Option<NumaNode>,
    },
    /// Ordinary pages: slower, needs no reservation. For tests and very small machines.
    Ordinary {
        /// MiB; this is also the limit.
        mib: u32,
    },
}

impl Memory {
    pub(crate) fn numa_node(self) -> Option<NumaNode> {
        match self {
            Self::Hugepages { numa_node, .. } => numa_node,
            Self::Ordinary { .. } => None,
        }
    }
}

/// Importance of DPDK's messages, most important first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogLevel {
    /// Something does not work.
    Error,
    /// Something is not as it should be.
    #[default]
    Warning,
    /// Normal but unusual.
    Notice,
    /// What was found and done.
    Info,
    /// Everything.
    Debug,
}

impl LogLevel {
    fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

impl EalConfig {
    /// EAL's argument vector, checked. `allowed` are the CPUs the caller may run on.
    ///
    /// # Errors
    /// `EalError::BadOption`.
    pub(crate) fn argv(&self, allowed: &[CpuId]) -> Result<Vec<CString>, EalError> {
        check_prefix(&self.file_prefix)?;
        let mut words = vec![
            "ringway".to_owned(),
            "--no-telemetry".to_owned(),
            // Physical addresses would need CAP_SYS_ADMIN, and nothing here does DMA without an IOMMU.
            "--iova-mode=va".to_owned(),
            format!("--file-prefix={}", self.file_prefix),
            format!("--log-level={}", self.log_level.word()),
            // One lcore that may run everywhere: the default pins the calling thread to a single CPU, and
            // every thread started later inherits that.
            format!("--lcores=0@({})", cpu::list(allowed)),
        ];
        let names_nic = |word: &String| word.starts_with("-a") || word.starts_with("--allow");
        if !self.extra.iter().any(names_nic) {
            words.push("--no-pci".to_owned());
        }
        // In memory or without shared configuration: no files under /var/run/dpdk and no secondary processes,
        // which registered threads require. EAL refuses the first together with --no-huge.
        words.push(match self.memory {
            Memory::Hugepages { .. } => "--in-memory".to_owned(),
            Memory::Ordinary { .. } => "--no-shconf".to_owned(),
        });
        match self.memory {
            Memory::Hugepages { mib, numa_node } => {
                let mib = check_size("memory", mib)?;
                match numa_node {
                    None => words.extend(["-m".to_owned(), mib]),
                    Some(node) => {
                        let others = "0,".repeat(usize::from(node.0));
                        words.push(format!("--socket-mem={others}{mib}"));
                    }
                }
            }
            Memory::Ordinary { mib } => {
                let mib = check_size("memory", mib)?;
                words.extend(["--no-huge".to_owned(), "-m".to_owned(), mib]);
            }
        }
        words.extend(self.extra.iter().cloned());
        words.into_iter().map(c_string).collect()
    }
}

fn check_prefix(prefix: &str) -> Result<(), EalError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if prefix.is_empty() || prefix.len() > 64 || !prefix.chars().all(plain) {
        return Err(EalError::BadOption {
            field: "file prefix",
            value: prefix.to_owned(),
            remedy: "use 1 to 64 letters, digits, `-`, `_` or `.`",
        });
    }
    Ok(())
}

fn check_size(field: &'static str, mib: u32) -> Result<String, EalError> {
    if mib == 0 {
        return Err(EalError::BadOption {
            field,
            value: "0 MiB".to_owned(),
            remedy: "give it at least 1 MiB",
        });
    }
    Ok(mib.to_string())
}

fn c_string(word: String) -> Result<CString, EalError> {
    CString::new(word).map_err(|source| EalError::BadOption {
        field: "extra option",
        value: String::from_utf8_lossy(&source.into_vec()).into_owned(),
        remedy: "remove the NUL byte",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(memory: Memory) -> EalConfig {
        EalConfig {
            file_prefix: "ringway-0".to_owned(),
            memory,
            log_level: LogLevel::default(),
            extra: vec!["--vdev".to_owned(), "net_null0".to_owned()],
        }
    }

    fn argv(config: &EalConfig) -> String {
        let words = config.argv(&[CpuId(0), CpuId(1), CpuId(4)]).unwrap();
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn memory_decides_the_memory_options() {
        let head = "ringway --no-telemetry --iova-mode=va \
                    --file-prefix=ringway-0 --log-level=warning --lcores=0@(0-1,4) --no-pci";
        let node = |n| Some(NumaNode(n));
        for (memory, options) in [
            (Memory::Hugepages { mib: 256, numa_node: None }, "--in-memory -m 256"),
            (Memory::Hugepages { mib: 256, numa_node: node(0) }, "--in-memory --socket-mem=256"),
            (
                Memory::Hugepages { mib: 256, numa_node: node(2) },
                "--in-memory --socket-mem=0,0,256",
            ),
            (Memory::Ordinary { mib: 64 }, "--no-shconf --no-huge -m 64"),
        ] {
            assert_eq!(argv(&config(memory)), format!("{head} {options} --vdev net_null0"));
        }
    }

    #[test]
    fn the_pci_bus_is_looked_at_for_a_named_nic_only() {
        let with = |words: &[&str]| EalConfig {
            extra: words.iter().copied().map(str::to_owned).collect(),
            ..config(Memory::Ordinary { mib: 64 })
        };
        assert!(argv(&with(&["--vdev", "net_null0"])).contains(" --no-pci "));
        for words in [&["-a", "0000:01:00.0"][..], &["--allow=0000:01:00.0"]] {
            let argv = argv(&with(words));
            assert!(!argv.contains("--no-pci") && argv.ends_with(&words.join(" ")), "{argv}");
        }
    }

    #[test]
    fn log_levels_are_passed_by_their_dpdk_names() {
        // rte_log.h: emergency, alert, critical, error, warning, notice, info, debug.
        for (level, word) in [
            (LogLevel::Error, "error"),
            (LogLevel::Warning, "warning"),
            (LogLevel::Notice, "notice"),
            (LogLevel::Info, "info"),
            (LogLevel::Debug, "debug"),
        ] {
            let config = EalConfig { log_level: level, ..config(Memory::Ordinary { mib: 64 }) };
            assert!(argv(&config).contains(&format!(" --log-level={word} ")));
        }
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        let good = config(Memory::Ordinary { mib: 64 });
        let prefix = |prefix: &str| EalConfig { file_prefix: prefix.to_owned(), ..good.clone() };
        for (bad, expected) in [
            (prefix(""), "EAL file prefix \"\": use 1 to 64 letters, digits, `-`, `_` or `.`"),
            (
                prefix("a/b"),
                "EAL file prefix \"a/b\": use 1 to 64 letters, digits, `-`, `_` or `.`",
            ),
            (config(Memory::Ordinary { mib: 0 }), "EAL memory \"0 MiB\": give it at least 1 MiB"),
            (
                config(Memory::Hugepages { mib: 0, numa_node: None }),
                "EAL memory \"0 MiB\": give it at least 1 MiB",
            ),
            (
                EalConfig { extra: vec!["a\0b".to_owned()], ..good.clone() },
                "EAL extra option \"a\\0b\": remove the NUL byte",
            ),
        ] {
            assert_eq!(bad.argv(&[CpuId(0)]).unwrap_err().to_string(), expected);
        }
    }
}
