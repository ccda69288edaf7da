//! Sets of CPUs and of NUMA nodes, in the kernel's list form `0-3,8`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Greatest id in a set: a Linux kernel has at most 8192 CPUs (`NR_CPUS`) and 1024 nodes. Bounds what a list can
/// expand to.
const LAST_ID: u32 = 8191;

/// A CPU as the kernel counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(pub u32);

/// A NUMA node as the kernel counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// A set of CPUs.
pub type CpuSet = IdSet<CpuId>;
/// A set of NUMA nodes.
pub type NodeSet = IdSet<NodeId>;

/// An ordered set of [`CpuId`] or [`NodeId`]. `Display` and `FromStr` use the kernel's list form; the empty set is the
/// empty text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdSet<I>(BTreeSet<I>);

/// A text is no list of CPUs or nodes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no list as \"0-3,8\" with numbers up to {LAST_ID}")]
pub struct ListError {
    /// The whole text.
    pub text: String,
}

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u32> for CpuId {
    fn from(id: u32) -> Self {
        Self(id)
    }
}

impl From<u32> for NodeId {
    fn from(id: u32) -> Self {
        Self(id)
    }
}

impl From<CpuId> for u32 {
    fn from(id: CpuId) -> Self {
        id.0
    }
}

impl From<NodeId> for u32 {
    fn from(id: NodeId) -> Self {
        id.0
    }
}

impl<I> Default for IdSet<I> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<I: Copy + Ord> IdSet<I> {
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

    /// Whether `id` is in it.
    #[must_use]
    pub fn contains(&self, id: I) -> bool {
        self.0.contains(&id)
    }

    /// The smallest.
    #[must_use]
    pub fn first(&self) -> Option<I> {
        self.0.first().copied()
    }

    /// All, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = I> + '_ {
        self.0.iter().copied()
    }

    /// Adds `id`.
    pub fn insert(&mut self, id: I) {
        self.0.insert(id);
    }

    /// Takes `id` out.
    pub fn remove(&mut self, id: I) {
        self.0.remove(&id);
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
}

impl<I: Ord> FromIterator<I> for IdSet<I> {
    fn from_iter<T: IntoIterator<Item = I>>(ids: T) -> Self {
        Self(ids.into_iter().collect())
    }
}

impl<I: Copy + Ord + From<u32>> FromStr for IdSet<I> {
    type Err = ListError;

    /// Reads the kernel's list form; blanks around the text are ignored, as sysfs files end with a newline.
    fn from_str(text: &str) -> Result<Self, ListError> {
        let bad = || ListError { text: text.trim().to_owned() };
        // `u32::from_str` would take a leading `+`.
        let number = |word: &str| {
            let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
            word.parse().ok().filter(|id| digits && *id <= LAST_ID).ok_or_else(bad)
        };
        let mut ids = BTreeSet::new();
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Ok(Self(ids));
        }
        for part in trimmed.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(bad());
            }
            ids.extend((first..=last).map(I::from));
        }
        Ok(Self(ids))
    }
}

impl<I: Copy + Into<u32>> fmt::Display for IdSet<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ids = self.0.iter().map(|id| (*id).into()).peekable();
        let mut separator = "";
        while let Some(first) = ids.next() {
            let mut last = first;
            while let Some(next) = ids.next_if(|next| *next == last + 1) {
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

impl<I: Copy + Into<u32>> fmt::Debug for IdSet<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{CpuId, CpuSet};

    #[test]
    fn kernel_lists() {
        for (text, count, printed) in [
            ("", 0, ""),
            ("\n", 0, ""),
            ("0\n", 1, "0"),
            ("0-3,8", 5, "0-3,8"),
            ("8,3,2-4,0,1", 6, "0-4,8"),
            ("0,1", 2, "0-1"),
            ("8191", 1, "8191"),
        ] {
            let set: CpuSet = text.parse().unwrap();
            assert_eq!((set.len(), set.to_string().as_str()), (count, printed), "{text:?}");
        }
        for bad in ["a", "1-", "-1", "3-1", "1,,2", ",", "8192", "0-4294967295", "+1", "1 2", "0x3"]
        {
            let error = bad.parse::<CpuSet>().unwrap_err();
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
        }
    }

    #[test]
    fn set_operations() {
        let set = |text: &str| text.parse::<CpuSet>().unwrap();
        let (a, b) = (set("0-3"), set("2-5"));
        assert_eq!(a.union(&b), set("0-5"));
        assert_eq!(a.intersection(&b), set("2-3"));
        assert_eq!(a.difference(&b), set("0-1"));
        assert!(!a.is_disjoint(&b) && a.is_disjoint(&set("4")));
        assert!(set("1-2").is_subset(&a) && !b.is_subset(&a));
        assert_eq!(a.first(), Some(CpuId(0)));
    }

    #[test]
    fn text_round_trip_for_any_set() {
        bolero::check!().with_type::<BTreeSet<u16>>().for_each(|ids| {
            let set: CpuSet = ids.iter().map(|id| CpuId(u32::from(*id % 8192))).collect();
            assert_eq!(set.to_string().parse::<CpuSet>().as_ref(), Ok(&set));
        });
    }

    #[test]
    fn any_text_is_a_bounded_set_or_an_error() {
        bolero::check!().with_type::<String>().for_each(|text| {
            if let Ok(set) = text.parse::<CpuSet>() {
                assert!(set.len() <= 8192);
                assert_eq!(set.to_string().parse::<CpuSet>().as_ref(), Ok(&set));
            }
        });
    }
}
