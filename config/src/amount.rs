//! Amounts of memory as an operator writes them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes, written with `Ki`, `Mi`, `Gi` or `Ti`, or plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes(pub u64);

/// An amount of memory as hugepages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Amount {
    /// Of the node's memory, rounded down to whole pages: `50%`.
    Percent(u32),
    /// `4Gi`, rounded down to whole pages.
    Bytes(Bytes),
    /// `8 pages`.
    Pages(u64),
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")] {
            if self.0 > 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        self.0.fmt(f)
    }
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no amount of memory as \"2Mi\" or \"1Gi\"");
        let (digits, shift) = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40)]
            .into_iter()
            .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)))
            .unwrap_or((text, 0));
        let count = number(digits).ok_or_else(bad)?;
        count.checked_mul(1 << shift).map(Self).ok_or_else(bad)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Bytes(bytes) => bytes.fmt(f),
            Self::Pages(pages) => write!(f, "{pages} pages"),
        }
    }
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is none of \"50%\", \"4Gi\" and \"8 pages\"");
        if let Some(percent) = text.strip_suffix('%') {
            let percent = number(percent).and_then(|n| u32::try_from(n).ok());
            return percent.filter(|n| *n <= 100).map(Self::Percent).ok_or_else(bad);
        }
        if let Some(pages) = text.strip_suffix(" pages") {
            return number(pages).map(Self::Pages).ok_or_else(bad);
        }
        text.parse().map(Self::Bytes).map_err(|_| bad())
    }
}

/// `u64::from_str` would take a leading `+`.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Texts in and out through `FromStr` and `Display`.
macro_rules! as_text {
    ($($kind:ty),*) => {$(
        impl TryFrom<String> for $kind {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$kind> for String {
            fn from(value: $kind) -> Self {
                value.to_string()
            }
        }
    )*};
}
as_text!(Bytes, Amount);

/// Texts in schemas, too.
#[cfg(feature = "schema")]
macro_rules! text_schema {
    ($($kind:ident),*) => {$(
        impl schemars::JsonSchema for $kind {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($kind).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                String::json_schema(generator)
            }
        }
    )*};
}
#[cfg(feature = "schema")]
text_schema!(Bytes, Amount);
