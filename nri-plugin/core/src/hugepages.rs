//! Sizes and limits of hugepages.

use std::fmt;
use std::str::FromStr;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The size of one hugepage. `Display` and `FromStr` use the form of OCI, CRI and cgroup files: `2MB`, `1GB`, `64KB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize(u64);

/// How much of one page size a container may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HugepageLimit {
    /// Which pages.
    pub size: PageSize,
    /// Bytes.
    pub limit: u64,
}

/// A text is no size of a page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no hugepage size as \"2MB\" or \"1GB\"")]
pub struct PageSizeError(pub String);

impl PageSize {
    /// 2 MiB.
    pub const MIB_2: Self = Self(2 * MIB);
    /// 1 GiB.
    pub const GIB_1: Self = Self(GIB);

    /// A size in KiB, as sysfs names them (`hugepages-2048kB`). `None` unless it is a power of two below 1 TiB.
    #[must_use]
    pub fn from_kib(kib: u64) -> Option<Self> {
        (kib.is_power_of_two() && kib < GIB).then(|| Self(kib * KIB))
    }

    /// Bytes of one page.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes >= GIB => write!(f, "{}GB", bytes / GIB),
            bytes if bytes >= MIB => write!(f, "{}MB", bytes / MIB),
            bytes => write!(f, "{}KB", bytes / KIB),
        }
    }
}

impl FromStr for PageSize {
    type Err = PageSizeError;

    fn from_str(text: &str) -> Result<Self, PageSizeError> {
        let parse = || {
            let (number, unit) = text.split_at_checked(text.len().checked_sub(2)?)?;
            let kib_per_unit = match unit {
                "KB" => 1,
                "MB" => KIB,
                "GB" => MIB,
                _ => return None,
            };
            let plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            let count: u64 = number.parse().ok().filter(|_| plain)?;
            Self::from_kib(count.checked_mul(kib_per_unit)?)
        };
        parse().ok_or_else(|| PageSizeError(text.to_owned()))
    }
}

/// Reads a quantity: bytes, or a number with `Ki`, `Mi`, `Gi`. `None` for anything else.
pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
    let (number, factor) = [("Ki", KIB), ("Mi", MIB), ("Gi", GIB)]
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))
        .unwrap_or((text, 1));
    let plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse::<u64>().ok().filter(|_| plain)?.checked_mul(factor)
}

/// Bytes for people: the greatest unit that divides them.
pub(crate) fn show_bytes(bytes: u64) -> String {
    [(GIB, "Gi"), (MIB, "Mi"), (KIB, "Ki")]
        .iter()
        .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .map_or_else(|| bytes.to_string(), |(unit, name)| format!("{}{name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::{PageSize, parse_bytes, show_bytes};

    #[test]
    fn page_sizes_in_the_form_of_cgroup_files() {
        for (text, bytes) in [
            ("64KB", 64 << 10),
            ("2MB", 2 << 20),
            ("32MB", 32 << 20),
            ("512MB", 512 << 20),
            ("1GB", 1 << 30),
            ("16GB", 16 << 30),
        ] {
            let size: PageSize = text.parse().unwrap();
            assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, text));
        }
        for bad in [
            "",
            "2",
            "MB",
            "2Mi",
            "3MB",
            "0MB",
            "-2MB",
            "+2MB",
            "2mb",
            "99999999999999999999GB",
            "é",
        ] {
            assert!(bad.parse::<PageSize>().is_err(), "{bad}");
        }
        assert_eq!(PageSize::from_kib(2048), Some(PageSize::MIB_2));
        assert_eq!(PageSize::from_kib(1_048_576), Some(PageSize::GIB_1));
    }

    #[test]
    fn quantities() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("512Mi", Some(512 << 20)),
            ("2Gi", Some(2 << 30)),
            ("2048Ki", Some(2 << 20)),
            ("1073741824", Some(1 << 30)),
            ("", None),
            ("Mi", None),
            ("1.5Gi", None),
            ("-1Gi", None),
            ("+1", None),
            ("512M", None),
            ("17179869184Gi", None),
        ] {
            assert_eq!(parse_bytes(text), bytes, "{text}");
        }
        assert_eq!(show_bytes(512 << 20), "512Mi");
        assert_eq!(show_bytes(3 << 30), "3Gi");
        assert_eq!(show_bytes(1000), "1000");
        assert_eq!(show_bytes(0), "0");
    }
}
