//! What can be turned: one value of the kernel, of a network card, or one configuration file.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cpuset::CpuSet;
use crate::node::chosen;

/// What can be turned. Its value is a text: normalised, so that equal settings are equal texts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Knob {
    /// A file of the kernel; it lasts until the next boot.
    Attribute {
        /// Relative to the root.
        path: String,
        /// How its value is written.
        form: Form,
    },
    /// A configuration file as a whole; its value is its text, or nothing while it is not there.
    Config {
        /// Relative to the root.
        path: String,
    },
    /// Size of the rings of an interface, descriptors.
    Ring {
        /// Interface.
        nic: String,
        /// Which rings.
        kind: RingKind,
    },
    /// Number of queues of an interface.
    Queues {
        /// Interface.
        nic: String,
        /// Which queues.
        kind: QueueKind,
    },
    /// An offload of an interface: `on`, `off`.
    Offload {
        /// Interface.
        nic: String,
        /// The kernel's name.
        name: String,
    },
}

/// How a file of the kernel writes its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Words and numbers; how many blanks are between them does not matter.
    Words,
    /// One of several words, in brackets when it is read: `always [madvise] never`.
    Choice,
    /// A list of CPUs.
    List,
    /// A mask of CPUs. The normalised value is a list.
    Mask,
}

/// Rings of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RingKind {
    /// Of received frames.
    Rx,
    /// Of frames to be sent.
    Tx,
}

/// Queues of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueueKind {
    /// Pairs.
    Combined,
    /// Receive queues alone.
    Rx,
    /// Send queues alone.
    Tx,
}

impl Form {
    /// Text of a file as a normalised value.
    #[must_use]
    pub fn normalise(self, text: &str) -> String {
        let text = text.trim();
        match self {
            Self::Words => text.split_whitespace().collect::<Vec<_>>().join(" "),
            Self::Choice => chosen(text).to_owned(),
            // What is no set is compared as it is.
            Self::List => text.parse::<CpuSet>().map_or(text.to_owned(), |cpus| cpus.to_string()),
            Self::Mask => CpuSet::from_mask(text).map_or(text.to_owned(), |cpus| cpus.to_string()),
        }
    }

    /// A normalised value as it is written to the file.
    #[must_use]
    pub fn written(self, value: &str) -> String {
        match self {
            Self::Mask => value.parse::<CpuSet>().map_or(value.to_owned(), |cpus| cpus.to_mask()),
            _ => value.to_owned(),
        }
    }
}

impl Knob {
    pub(crate) fn attribute(path: impl Into<String>, form: Form) -> Self {
        Self::Attribute { path: path.into(), form }
    }

    /// Whether its value is gone after the next boot.
    #[must_use]
    pub fn is_volatile(&self) -> bool {
        !matches!(self, Self::Config { .. })
    }

    /// Whether the kernel may say no to this one although it says yes to others of the kind: interrupts that it manages
    /// itself, and those of timers.
    #[must_use]
    pub fn may_be_refused(&self) -> bool {
        matches!(self, Self::Attribute { path, .. }
            if path.starts_with("proc/irq/") && path.ends_with("/smp_affinity_list"))
    }
}

impl fmt::Display for Knob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attribute { path, .. } | Self::Config { path } => write!(f, "/{path}"),
            Self::Ring { nic, kind } => write!(f, "{nic} {kind} ring"),
            Self::Queues { nic, kind } => write!(f, "{nic} {kind} queues"),
            Self::Offload { nic, name } => write!(f, "{nic} {name}"),
        }
    }
}

impl fmt::Display for RingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rx => "rx",
            Self::Tx => "tx",
        })
    }
}

impl fmt::Display for QueueKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Combined => "combined",
            Self::Rx => "rx",
            Self::Tx => "tx",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Form;

    #[test]
    fn values_are_compared_in_one_form() {
        for (form, text, value, written) in [
            (Form::Words, "4096\t87380  6291456\n", "4096 87380 6291456", "4096 87380 6291456"),
            (Form::Choice, "always [madvise] never\n", "madvise", "madvise"),
            (Form::Choice, "never", "never", "never"),
            (Form::List, "0,1,2\n", "0-2", "0-2"),
            (Form::Mask, "00000000,00000003\n", "0-1", "3"),
            (Form::Mask, "0\n", "", "0"),
            (Form::Mask, "?", "?", "?"),
        ] {
            let normal = form.normalise(text);
            assert_eq!((normal.as_str(), form.written(&normal).as_str()), (value, written));
            assert_eq!(form.normalise(&form.written(&normal)), normal);
        }
    }
}
