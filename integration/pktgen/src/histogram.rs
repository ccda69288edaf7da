//! Latencies, counted in classes no wider than 1/32 of their value.

/// Bits of a value that its class keeps below the highest one.
const BITS: u32 = 5;

/// Counts of values by class: each power of two is cut in 2^[`BITS`] classes of equal width.
#[derive(Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    samples: u64,
    min: u64,
    max: u64,
}

impl Histogram {
    /// Without samples.
    pub fn new() -> Self {
        let classes = class(u64::MAX) + 1;
        Self { counts: vec![0; classes], samples: 0, min: u64::MAX, max: 0 }
    }

    /// Counts one value.
    #[inline]
    pub fn record(&mut self, value: u64) {
        if let Some(count) = self.counts.get_mut(class(value)) {
            *count += 1;
        }
        self.samples += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        (self.samples, self.min, self.max) = (0, u64::MAX, 0);
    }

    /// Values counted.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Smallest; `None` without samples.
    pub fn min(&self) -> Option<u64> {
        (self.samples > 0).then_some(self.min)
    }

    /// Largest; `None` without samples.
    pub fn max(&self) -> Option<u64> {
        (self.samples > 0).then_some(self.max)
    }

    /// The value that `share` thousandths of the samples do not exceed, rounded up to the end of its class but
    /// never beyond the largest.
    pub fn quantile(&self, share: u64) -> Option<u64> {
        let max = self.max()?;
        let rank = u128::from(self.samples) * u128::from(share.min(1000));
        let rank = u64::try_from(rank.div_ceil(1000)).unwrap_or(u64::MAX).max(1);
        let mut below = 0;
        for (class, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= rank {
                return Some(last_of(class).clamp(self.min, max));
            }
        }
        Some(max)
    }
}

/// The class of `value`.
fn class(value: u64) -> usize {
    let high = value.checked_ilog2().unwrap_or(0);
    let octave = high.saturating_sub(BITS);
    // Below 2^BITS values are their own class; above, `octave` drops low bits and counts the powers of two.
    let class = (u64::from(octave) << BITS) + (value >> octave);
    usize::try_from(class).unwrap_or(usize::MAX)
}

/// The largest value of `class`.
fn last_of(class: usize) -> u64 {
    let class = u64::try_from(class).unwrap_or(u64::MAX);
    let octave = (class >> BITS).saturating_sub(1);
    let first = (class - (octave << BITS)) << octave;
    first + ((1 << octave) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_consecutive_and_narrow() {
        let mut first = 0;
        for at in 0..=class(u64::MAX) {
            let last = last_of(at);
            assert_eq!((class(first), class(last)), (at, at));
            assert!(last - first <= first / 32, "class {at}: {first} to {last}");
            first = last.wrapping_add(1);
        }
        assert_eq!(first, 0, "the last class ends with the last value");
    }

    #[test]
    fn quantiles_are_right_to_the_class() {
        let mut histogram = Histogram::new();
        assert_eq!((histogram.min(), histogram.quantile(500), histogram.max()), (None, None, None));
        for value in 1..=10_000 {
            histogram.record(value);
        }
        assert_eq!(
            (histogram.samples(), histogram.min(), histogram.max()),
            (10_000, Some(1), Some(10_000))
        );
        for (share, exact) in
            [(0, 1), (500, 5_000), (900, 9_000), (990, 9_900), (999, 9_990), (1000, 10_000)]
        {
            let found = histogram.quantile(share).unwrap();
            assert!((exact..=exact + exact / 32).contains(&found), "{share}: {found}, not {exact}");
        }
        histogram.clear();
        histogram.record(7);
        assert_eq!(histogram.quantile(1), Some(7));
    }
}
