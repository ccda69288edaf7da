//! Sets of CPUs, in the kernel's two forms: lists `0-3,8` and masks `ff,00000000`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A Linux kernel has at most 8192 CPUs (`NR_CPUS`). Bounds what a list can expand to.
const LAST_CPU: u32 = 8191;

/// A set of CPUs. `Display`, `FromStr` and serde use the list form; the empty set is the empty text.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuSet(BTreeSet<u32>);

/// A text is no set of CPUs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {form} of CPUs up to {LAST_CPU}")]
pub struct CpuSetError {
    /// The text.
    pub text: String,
    /// `list as "0-3,8"` or `mask as "ff,00000000"`.
    pub form: &'static str,
}

impl CpuSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `cpu` is in it.
    #[must_use]
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// The smallest.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        self.0.first().copied()
    }

    /// All, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: &Self) {
        self.0.extend(other.iter());
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).copied().collect())
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// What is in this one only.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }

    /// Whether nothing is in both.
    #[must_use]
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.0.is_disjoint(&other.0)
    }

    /// Whether all of it is in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// Reads a mask: groups of 32 bits in hexadecimal, the last are CPUs 0 to 31.
    ///
    /// # Errors
    /// [`CpuSetError`] for anything else.
    pub fn from_mask(text: &str) -> Result<Self, CpuSetError> {
        let text = text.trim();
        let bad = || CpuSetError { text: text.to_owned(), form: "mask as \"ff,00000000\"" };
        let mut cpus = BTreeSet::new();
        let mut base = 0u32;
        for group in text.rsplit(',') {
            let hex =
                (1..=8).contains(&group.len()) && group.bytes().all(|b| b.is_ascii_hexdigit());
            let bits = u32::from_str_radix(group, 16).ok().filter(|_| hex).ok_or_else(bad)?;
            cpus.extend((0..32).filter(|bit| bits & (1 << bit) != 0).map(|bit| base + bit));
            base += 32;
            if base > LAST_CPU + 1 {
                return Err(bad());
            }
        }
        Ok(Self(cpus))
    }

    /// As a mask, as many groups as it takes.
    #[must_use]
    pub fn to_mask(&self) -> String {
        let groups = self.0.last().map_or(0, |last| last / 32) + 1;
        let mut text = String::new();
        for group in (0..groups).rev() {
            let bits = (0..32).filter(|bit| self.contains(group * 32 + bit));
            let bits = bits.fold(0u32, |all, bit| all | 1 << bit);
            if text.is_empty() {
                text = format!("{bits:x}");
            } else {
                text.push_str(&format!(",{bits:08x}"));
            }
        }
        text
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<T: IntoIterator<Item = u32>>(cpus: T) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl FromStr for CpuSet {
    type Err = CpuSetError;

    /// Blanks around the text are ignored, as sysfs files end with a newline.
    fn from_str(text: &str) -> Result<Self, CpuSetError> {
        let text = text.trim();
        let bad = || CpuSetError { text: text.to_owned(), form: "list as \"0-3,8\"" };
        let number = |word: &str| {
            let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
            word.parse().ok().filter(|cpu: &u32| digits && *cpu <= LAST_CPU).ok_or_else(bad)
        };
        let mut cpus = BTreeSet::new();
        // Kernels write "(null)" for no nohz_full CPU.
        if text.is_empty() || text == "(null)" {
            return Ok(Self(cpus));
        }
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(bad());
            }
            cpus.extend(first..=last);
        }
        Ok(Self(cpus))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if(|next| *next == last + 1) {
                last = next;
            }
            if first == last {
                write!(f, "{separator}{first}")?;
            } else {
                write!(f, "{separator}{first}-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

impl TryFrom<String> for CpuSet {
    type Error = CpuSetError;

    fn try_from(text: String) -> Result<Self, CpuSetError> {
        text.parse()
    }
}

impl From<CpuSet> for String {
    fn from(cpus: CpuSet) -> Self {
        cpus.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::CpuSet;

    #[test]
    fn lists_and_masks_of_the_kernel() {
        for (list, mask) in [
            ("", "0"),
            ("0", "1"),
            ("0-3,8", "10f"),
            ("31-32", "1,80000000"),
            ("64", "1,00000000,00000000"),
        ] {
            let cpus: CpuSet = list.parse().unwrap();
            assert_eq!((cpus.to_string().as_str(), cpus.to_mask().as_str()), (list, mask));
            assert_eq!(CpuSet::from_mask(&format!("00000000,{mask}\n")), Ok(cpus));
        }
        assert_eq!("(null)\n".parse(), Ok(CpuSet::new()));
        for bad in ["a", "1-", "3-1", "1,,2", "8192", "+1", "0x3"] {
            assert!(bad.parse::<CpuSet>().is_err(), "{bad:?}");
        }
        for bad in ["", "g", "+1", "1,,2", "123456789", "0x3"] {
            assert!(CpuSet::from_mask(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn any_set_comes_back_from_both_forms() {
        bolero::check!().with_type::<BTreeSet<u16>>().for_each(|cpus| {
            let set: CpuSet = cpus.iter().map(|cpu| u32::from(*cpu % 8192)).collect();
            assert_eq!(set.to_string().parse::<CpuSet>().as_ref(), Ok(&set));
            assert_eq!(CpuSet::from_mask(&set.to_mask()).as_ref(), Ok(&set));
        });
    }

    #[test]
    fn any_text_is_a_set_or_an_error() {
        bolero::check!().with_type::<String>().for_each(|text| {
            for set in [text.parse::<CpuSet>(), CpuSet::from_mask(text)].into_iter().flatten() {
                assert!(set.len() <= 8192);
            }
        });
    }
}
