//! How a call fails.

use std::fmt;

/// A gRPC status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub i32);

impl Code {
    /// The call succeeded.
    pub const OK: Self = Self(0);
    /// An error of the plugin's own.
    pub const UNKNOWN: Self = Self(2);
    /// The message cannot be understood, or no such service.
    pub const INVALID_ARGUMENT: Self = Self(3);
    /// The plugin was too slow.
    pub const DEADLINE_EXCEEDED: Self = Self(4);
    /// A message above the limit, or too many calls at once.
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    /// No such method. A runtime then falls back to `StateChange`.
    pub const UNIMPLEMENTED: Self = Self(12);
    /// A bug on this side.
    pub const INTERNAL: Self = Self(13);
}

/// A call's failure. The runtime shows the text to the user of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What kind.
    pub code: Code,
    /// One line.
    pub message: String,
}

impl Status {
    /// A failure with this code; the text is brought onto one line.
    pub fn new(code: Code, message: impl fmt::Display) -> Self {
        let message = message.to_string();
        Self { code, message: message.split_whitespace().collect::<Vec<_>>().join(" ") }
    }

    /// The plugin refuses: `message` is what the user shall read.
    pub fn refused(message: impl fmt::Display) -> Self {
        Self::new(Code::UNKNOWN, message)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.message, self.code.0)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_one_line() {
        assert_eq!(Status::refused("a\n  b\tc ").message, "a b c");
    }
}
